"""Plans of depthwise convolutions: a stencil on each channel's plane, with the pointwise operations that follow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.fx as torch_fx

from tilewright.graph.convolutions import Convolution, read_convolution
from tilewright.graph.graph import fixed_size
from tilewright.graph.nodes import argument, source_of
from tilewright.kernels.code.text import Names
from tilewright.kernels.depthwise.walk import Walk, walk_of
from tilewright.kernels.native import operation_name
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.phases import ConvolutionShape, phase_form
from tilewright.kernels.regions.planes import OperandSizes, added_operands, are_row_major, region_after, whole_operand
from tilewright.kernels.regions.region import Operand, Region, is_relabelling

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)

#: Taps whose weights a program keeps in registers; each is an accumulation of its own in the text.
_MOST_KEPT_TAPS = 49

#: Sums of a lane that are in flight together, in registers.
_MOST_SUMS = 64

#: Taps along a row, each of which is an accumulation of its own in the text.
_MOST_ROW_TAPS = 64

#: Phases of the output, each of which is an epilogue of its own in the text.
_MOST_PHASES = 8


@dataclass(frozen=True)
class DepthwiseTiles:
    """Tiles of a depthwise convolution.

    Attributes:
        columns: outputs of a row that one lane computes (of one phase): 1, 2 or 4.
        rows: output rows that a lane walks down at most.
        num_warps: warps of a program.
        num_stages: rows on their way to a lane, less one: copies to shared memory, which need no registers.
    """

    columns: int = 4
    rows: int = 16
    num_warps: int = 4
    num_stages: int = 4

    def describe(self) -> str:
        """For people."""
        return f"{self.columns} columns by {self.rows} rows a lane, {self.num_warps} warps, {self.num_stages} stages"


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution.

    Attributes:
        node: the convolution.
        source: its input, [N, C, ...] or [C, ...].
        weight: [C * multiplier, 1, ...], transposed [C, multiplier, ...]: row-major either way, taps of an output
            channel after those of the one before.
        given: hyperparameters as torch has them.
        shape: in phase form.
        multiplier: output channels of an input channel.
    """

    node: torch_fx.Node
    source: torch_fx.Node
    weight: torch_fx.Node
    given: Convolution
    shape: ConvolutionShape
    multiplier: int


@dataclass(frozen=True)
class DepthwisePlan:
    """A kernel for a depthwise convolution.

    Attributes:
        name: of kernel and wrapper, without suffix.
        convolution: the operation.
        root: the node whose value is stored.
        after: pointwise operations on the result; None where it is stored as it is.
        tiles: tiles.
        walk: how lanes walk down the rows; None where they stay, and fetch what each tap of the outer dims needs.
        output_format: memory format of the output: row-major.
    """

    name: str
    convolution: Depthwise
    root: torch_fx.Node
    after: Region | None
    tiles: DepthwiseTiles
    walk: Walk | None
    output_format: MemoryFormat = field(default=MemoryFormat.CONTIGUOUS)

    @property
    def nodes(self) -> tuple[torch_fx.Node, ...]:
        """All nodes inside, in execution order."""
        return (self.convolution.node, *(self.after.nodes if self.after else ()))

    @property
    def loaded(self) -> tuple[Operand, ...]:
        """What the convolution reads: its input and its weight, whose sizes are its own."""
        source, weight = whole_operand(self.convolution.source), self.convolution.weight
        return (source, Operand(weight, (None,) * weight.meta["val"].dim(), 0))

    @property
    def added(self) -> tuple[Operand, ...]:
        """What is loaded at the output's positions."""
        return added_operands(self.after, self.convolution.node)

    @property
    def region(self) -> OperandSizes:
        """Both sides' operands."""
        return OperandSizes.of(self.loaded, self.added, self.after, self.root)


def find_depthwise(node: torch_fx.Node) -> Depthwise | None:
    """The depthwise convolution that a node is: one input channel in each group; None for anything else."""
    found = read_convolution(node)
    if found is None or found.groups == 1 or argument(node, 2) is not None:
        return None
    source, weight = source_of(node), node.args[1]
    assert isinstance(weight, torch_fx.Node)
    value, sizes = source.meta["val"], weight.meta["val"].shape
    channels = value.shape[value.dim() - found.rank - 1]
    types = {value.dtype, weight.meta["val"].dtype, node.meta["val"].dtype}
    if fixed_size(channels) != found.groups or len(types) > 1 or not types <= set(_FLOATS):
        return None
    multiplier = int(sizes[1] if found.transposed else sizes[0]) // (1 if found.transposed else found.groups)
    return Depthwise(node, source, weight, found, phase_form(found), multiplier)


def plan_depthwise(
    root: torch_fx.Node,
    stops: Collection[torch_fx.Node],
    formats: Mapping[torch_fx.Node, MemoryFormat],
    weights: Collection[torch_fx.Node],
    names: Names,
    tiles: DepthwiseTiles,
) -> DepthwisePlan | None:
    """A depthwise convolution that ends in `root`, with the pointwise operations after it; None where there is none.

    Args:
        root: the last node.
        stops: nodes that must stay operands.
        formats: memory formats of nodes that are not row-major; the plan declines those.
        weights: parameters, and what is computed of them before the forward pass.
        names: for kernels and wrappers.
        tiles: tiles.
    """
    convolution, after = find_depthwise(root), None
    if convolution is None:
        found = region_after(root, stops, find_depthwise)
        if found is None:
            return None
        convolution, after = found
    if convolution.weight not in weights:
        return None
    walk = _walk(convolution.shape, tiles)
    plan = DepthwisePlan("", convolution, root, after, tiles, walk)
    if walk is None and not _can_stay(convolution.shape):
        return None
    if not are_row_major((*plan.loaded, *plan.added), root, formats):
        return None
    operations = [operation_name(node) for node in plan.nodes if not is_relabelling(node)]
    name = names.unique(f"depthwise_{'_'.join(dict.fromkeys([operations[0], *operations[1:][-4:]]))}")
    return DepthwisePlan(name, convolution, root, after, tiles, walk)


def _walk(shape: ConvolutionShape, tiles: DepthwiseTiles) -> Walk | None:
    """How rows are walked; None where weights or sums would not fit in registers."""
    if shape.tap_count > _MOST_KEPT_TAPS or shape.row_phases * shape.columns.output_step > _MOST_PHASES:
        return None
    walk = walk_of(shape)
    return walk if len(walk.sums) * tiles.columns <= _MOST_SUMS else None


def _can_stay(shape: ConvolutionShape) -> bool:
    """Taps of the outer dims can be walked one by one: the output has one phase, and a row's taps are not too many."""
    phases = shape.row_phases * shape.columns.output_step
    return phases == 1 and shape.columns.size <= _MOST_ROW_TAPS and not shape.transposed
