"""Values inside a kernel: names of pointers and scalars, and the text of a region's nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch.fx as torch_fx

from tilewright.graph.fold import NAME
from tilewright.graph.graph import Graph
from tilewright.graph.nodes import is_one
from tilewright.kernels.code.text import Lines, Names
from tilewright.kernels.ops.helpers import HELPERS
from tilewright.kernels.ops.integers import elementwise_text, is_elementwise
from tilewright.kernels.ops.pointwise import literal
from tilewright.kernels.regions.region import Region, is_relabelling
from tilewright.kernels.regions.triangles import is_triangle, triangle_text

_RESERVED = {"tl", "triton", "torch", "pid", "out", "out_ptr", "part", "e", "lo", "hi", *HELPERS}


def short_name(node: torch_fx.Node) -> str:
    """A node's name for people: its operation."""
    return str(node.target).split(".")[1] if node.op == "call_function" and "." in str(node.target) else node.name


def value_name(node: torch_fx.Node) -> str:
    """The name of a node's value in a kernel: the one that it was given, or its operation's."""
    return str(node.meta.get(NAME, short_name(node)))


class KernelNames:
    """Names in a kernel and its wrapper, whatever the kernel's shape.

    Attributes:
        root: the node that is stored.
        pointers: operand node -> name of its tensor in the wrapper; the kernel's pointer is `<name>_ptr`.
        scalars: linked floats: parameter name -> value in the graph.
    """

    def __init__(
        self, root: torch_fx.Node, operands: Iterable[torch_fx.Node], graph: Graph, taken: Iterable[str]
    ) -> None:
        self.root = root
        self.graph = graph
        self.names = Names({*taken, *_RESERVED})
        self.scalars: dict[str, float] = {}
        self.scalar_names: dict[float, str] = {}
        self.pointers = self._pointer_names(operands)

    def _pointer_names(self, operands: Iterable[torch_fx.Node]) -> dict[torch_fx.Node, str]:
        state = self.graph.state_names()
        result: dict[torch_fx.Node, str] = {}
        for node in operands:
            if node not in result:
                path = state.get(node.name)
                result[node] = self.names.unique(path.replace(".", "_") if path else node.meta.get(NAME, node.name))
        return result

    def _scalar_text(self, value: float | int | bool) -> str:
        link = self.graph.linked.get(value) if type(value) is float else None
        if link is None:
            return literal(value)
        if value not in self.scalar_names:
            name = self.names.unique(link.path.replace(".", "_"))
            self.scalar_names[value] = name
            self.scalars[name] = value
        return self.scalar_names[value]

    def dtype_text(self) -> str:
        """The output's dtype, as an expression in the wrapper."""
        wanted = self.root.meta["val"].dtype
        for node, name in self.pointers.items():
            if node.meta["val"].dtype is wanted:
                return f"{name}.dtype"
        return str(wanted)

    def signature(
        self, name: str, tensors: Sequence[str], sizes: Sequence[str], blocks: Sequence[str], *, launched: bool = True
    ) -> str:
        """The head of a kernel, or of a device function where it is not `launched`, up to the colon."""
        parameters = [*tensors, *self.scalars, *sizes, *(f"{block}: tl.constexpr" for block in blocks)]
        lines, line = [], "    "
        for parameter in parameters:
            piece = f"{parameter}, "
            if len(line) + len(piece) > 110:
                lines.append(line.rstrip())
                line = "    "
            line += piece
        lines.append(line.rstrip().rstrip(",") + ",")
        noted = "@noted\n" if launched else ""
        return f"{noted}@triton.jit\ndef {name}(\n" + "\n".join(lines) + "\n):"


class ValueEmitter(KernelNames):
    """What emitters of regions share.

    Attributes:
        region: what is computed.
        values: node -> name of its value in the kernel.
        loads: operand index -> name of what was loaded.
    """

    def __init__(self, region: Region, graph: Graph, taken: Iterable[str], skip: Iterable[torch_fx.Node] = ()) -> None:
        left_out = frozenset(skip)
        nodes = [operand.node for operand in region.operands if operand.node not in left_out]
        super().__init__(region.root, nodes, graph, taken)
        self.region = region
        self.values: dict[torch_fx.Node, str] = {}
        self.loads: dict[int, str] = {}

    def _text_of(self, item: Any) -> str:
        return self.values[item] if isinstance(item, torch_fx.Node) else self._scalar_text(item)

    # -- values --------------------------------------------------------------------------------------------

    def emit_nodes(self, lines: Lines, level: int) -> None:
        """The nodes of one level, in order; reductions into this level have their values already."""
        for node in self.region.nodes:
            if self.region.levels[node] != level or node in self.values:
                continue
            self.bind_operands(node)
            if is_relabelling(node):
                self.values[node] = self._text_of(node.args[0])
            elif is_triangle(node):
                row, column = (self.index_of(axis) for axis in self.region.maps[node][-2:])
                self._name(lines, node, triangle_text(node, self._text_of(node.args[0]), row, column))
            elif is_elementwise(node):
                text = elementwise_text(node, self._text_of)
                if text in self.values.values():
                    self.values[node] = text
                    continue
                self._name(lines, node, text)
            elif (reduced := self._reduction(lines, node)) is not None:
                self._name(lines, node, reduced)

    def index_of(self, axis: int | None) -> str:
        """The index of an element along an axis of the region; only kinds that have one take triangles."""
        raise NotImplementedError("this kind of kernel has no index of its elements")

    def _name(self, lines: Lines, node: torch_fx.Node, text: str) -> None:
        name = self.names.unique(value_name(node))
        lines.add(f"{name} = {text}")
        self.values[node] = name

    def _reduction(self, lines: Lines, node: torch_fx.Node) -> str | None:
        """A reduction whose value belongs to the level of its input; None where there is none."""
        return None

    def bind_operands(self, node: torch_fx.Node) -> None:
        """Make the loaded operands of a node its values."""
        for index, operand in enumerate(self.region.operands):
            if operand.level == self.region.levels[node] and operand.node in node.all_input_nodes:
                self._bind_one(node, index)

    def _bind_one(self, node: torch_fx.Node, index: int) -> None:
        """An operand may be loaded under several maps; a node takes the one that fits its own axes."""
        operand = self.region.operands[index]
        same = [i for i, o in enumerate(self.region.operands) if o.node is operand.node and o.level == operand.level]
        if len(same) == 1 or operand.map == self._expected_map(node, operand.node):
            self.values[operand.node] = self.loads[index]

    def _expected_map(self, node: torch_fx.Node, source: torch_fx.Node) -> tuple[int | None, ...]:
        map_ = self.region.maps[node]
        sizes = source.meta["val"].shape
        aligned = map_[len(map_) - len(sizes) :] if len(sizes) else ()
        return tuple(None if is_one(size) else axis for size, axis in zip(sizes, aligned, strict=True))
