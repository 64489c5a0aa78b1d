"""What plans of kernels share whose anchor reads neighbours in the planes of row-major tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.fx as torch_fx

from tilewright.graph.nodes import is_one
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.region import Operand, Region, grow_region, is_fusible

Anchor = TypeVar("Anchor")


@dataclass(frozen=True)
class OperandSizes:
    """What the wrapper compares: the operands of both sides of an anchor, with a number for each size."""

    operands: tuple[Operand, ...]
    axis_levels: tuple[int, ...]
    root: torch_fx.Node

    @staticmethod
    def of(
        loaded: Sequence[Operand], added: Sequence[Operand], after: Region | None, root: torch_fx.Node
    ) -> OperandSizes:
        """Axes of what is added at the output are numbered after those of what the anchor loads."""
        shift = 1 + max((axis for operand in loaded for axis in operand.map if axis is not None), default=-1)
        shifted = tuple(
            Operand(operand.node, tuple(None if axis is None else axis + shift for axis in operand.map), 0)
            for operand in added
        )
        count = shift + (len(after.axis_levels) if after else 0)
        return OperandSizes((*loaded, *shifted), (0,) * count, root)


def whole_operand(node: torch_fx.Node) -> Operand:
    """A tensor that is loaded as it is, its dims its axes."""
    return Operand(node, tuple(None if is_one(size) else dim for dim, size in enumerate(node.meta["val"].shape)), 0)


def added_operands(after: Region | None, anchor: torch_fx.Node) -> tuple[Operand, ...]:
    """What the operations after an anchor load at the output's positions: all but its result."""
    operands = after.operands if after else ()
    return tuple(operand for operand in operands if operand.node is not anchor)


def are_row_major(
    operands: Iterable[Operand], root: torch_fx.Node, formats: Mapping[torch_fx.Node, MemoryFormat]
) -> bool:
    """No operand lies, and the result need not lie, in another memory format."""
    nodes = (*(operand.node for operand in operands), root)
    return all(formats.get(node, MemoryFormat.CONTIGUOUS) is MemoryFormat.CONTIGUOUS for node in nodes)


def region_after(
    root: torch_fx.Node, stops: Collection[torch_fx.Node], find: Callable[[torch_fx.Node], Anchor | None]
) -> tuple[Anchor, Region] | None:
    """An anchor whose result only a pointwise region that ends in `root` uses, element by element."""
    if not is_fusible(root):
        return None
    region = grow_region(root, frozenset(stops))
    if region is None or region.depth > 0:
        return None
    for operand in region.operands:
        anchor = find(operand.node)
        if anchor is None or operand.map != region.maps[root]:
            continue
        alone = sum(other.node is operand.node for other in region.operands) == 1
        if alone and all(user in region.maps for user in operand.node.users) and operand.node not in stops:
            return anchor, region
    return None
