"""Values of kernels whose tiles lie in the planes of row-major tensors: pooling, and stencils of one channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import is_one, source_of
from tilewright.kernels.code.text import LETTERS, Lines
from tilewright.kernels.ops.pointwise import pointwise_text
from tilewright.kernels.regions.region import AxisMap, Operand, Region, is_relabelling
from tilewright.kernels.regions.values import KernelNames, short_name


def plane_sizes(result: torch_fx.Node, rank: int) -> tuple[Sequence[str], Sequence[str]]:
    """Names of the sizes of a result with so many spatial dims: those before them, and of the input's spatial ones."""
    lead = ("N", "C")[2 - (result.meta["val"].dim() - rank) :]
    return lead, LETTERS[rank]


class PlaneEmitter(KernelNames):
    """Loads operands and computes pointwise regions at positions that stand in variables named after their sizes.

    `n` is below N, `c` below C, `ho` below HO and so on; `plane` counts over N and C, `row` over all dims but the last.

    Attributes:
        lead: sizes before the spatial ones: of the batch, where there is one, and of the channels.
        letters: sizes of the input's spatial dims, outer to inner; those of the output have an O behind them.
        column: the variable that holds the input's column.
        values: node -> name of its value.
        kept: index of an operand of the region after the anchor -> name of its value, where it was loaded before.
    """

    def __init__(
        self,
        root: torch_fx.Node,
        operands: Iterable[torch_fx.Node],
        graph: Graph,
        taken: Iterable[str],
        lead: Sequence[str],
        letters: Sequence[str],
    ) -> None:
        state = graph.state_names()
        super().__init__(root, sorted(operands, key=lambda node: node.name in state), graph, taken)
        self.lead = lead
        self.letters = letters
        self.column = letters[-1].lower()
        self.values: dict[torch_fx.Node, str] = {}
        self.kept: dict[int, str] = {}

    def offset(self, map_: AxisMap, axes: AxisMap, output: bool) -> str:
        """Offset of an operand's element; `axes` are the axes of the pooled tensor's dims."""
        dims = [axes.index(axis) if axis is not None else None for axis in map_]
        suffix = "O" if output else ""
        names = [*self.lead, *(f"{letter}{suffix}" for letter in self.letters)]
        known = [dim for dim in dims if dim is not None]
        lead = list(range(len(self.lead)))
        spatial = list(range(len(lead), len(names)))
        if output and known == [*lead, *spatial]:
            return f"row.to(tl.int64) * {names[-1]} + {names[-1].lower()}"
        terms = []
        merged = known[: len(lead)] == lead
        for position, dim in enumerate(known):
            if merged and dim in lead and dim != lead[-1]:
                continue
            index = "plane" if merged and lead and dim == lead[-1] else names[dim].lower()
            index = self.column if dim == spatial[-1] and not output else index
            index = f"{index}.to(tl.int64)" if dim in lead and position + 1 < len(known) else index
            stride = " * ".join(names[inner] for inner in known[position + 1 :])
            stride = f"({stride})" if " " in stride else stride
            terms.append(f"{index} * {stride}" if stride else index)
        return " + ".join(terms)

    def load(self, lines: Lines, operand: Operand, axes: AxisMap, mask: str, output: bool, other: str) -> str:
        """Load an operand where `mask` holds (everywhere without one); returns the value's name."""
        pointer = self.pointers[operand.node]
        offset = self.offset(operand.map, axes, output)
        name = self.names.unique(f"{pointer}_value")
        cast = "" if operand.node.meta["val"].dtype is torch.bool else ".to(tl.float32)"
        guard = f", mask={mask}, other={other}" if offset and mask else ""
        lines.add(f"{name} = tl.load({pointer}_ptr{f' + {offset}' if offset else ''}{guard}){cast}")
        return name

    def evaluate(self, lines: Lines, region: Region, axes: AxisMap, mask: str, output: bool) -> str:
        """A pointwise region's root, at the tile's elements; what `kept` holds is not loaded again."""
        loads = dict(self.kept)

        def use(user: torch_fx.Node, item: Any) -> str:
            if not isinstance(item, torch_fx.Node):
                return self._scalar_text(item)
            if item in self.values:
                return self.values[item]
            index = _operand_index(region, user, item)
            if index not in loads:
                loads[index] = self.load(lines, region.operands[index], axes, mask, output, "0.0")
            return loads[index]

        for node in region.nodes:
            if is_relabelling(node):
                self.values[node] = use(node, source_of(node))
                continue
            text = pointwise_text(node, lambda item, user=node: use(user, item))  # type: ignore[misc]
            if not text.isidentifier():
                name = self.names.unique(short_name(node).strip("_"))
                lines.add(f"{name} = {text}")
                text = name
            self.values[node] = text
        return self.values[region.root]


def _operand_index(region: Region, user: torch_fx.Node, source: torch_fx.Node) -> int:
    """The operand that a user sees: of several maps of one tensor, the one that fits its own axes."""
    same = [index for index, operand in enumerate(region.operands) if operand.node is source]
    if len(same) == 1:
        return same[0]
    sizes = source.meta["val"].shape
    map_ = region.maps[user]
    aligned = map_[len(map_) - len(sizes) :] if len(sizes) else ()
    wanted = tuple(None if is_one(size) else axis for size, axis in zip(sizes, aligned, strict=True))
    return next((index for index in same if region.operands[index].map == wanted), same[0])
