"""Axes and tiles of a region without an anchor: which axes a tile holds, which are walked, what is split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.kernels.plan import FusedPlan, TileLimits
from tilewright.kernels.regions.layout import AxisPlan, MemoryFormat, plan_axes, power_of_two
from tilewright.kernels.regions.region import Region, narrowed_dim

#: Elements of an output row below which a pointwise tile takes several rows.
_SMALL_ROW = 256

#: Elements behind one output from which a second launch pays.
_WORTH_SPLITTING = 512

#: Elements of a contiguous piece at most, where several share a tile.
_SHORT_PIECE = 64

#: Elements of a tile that walks what is reduced, and steps of the walk, at most: many programs hide their latency.
_WALKED_TILE = 512
_MOST_WALKED = 256


def _narrowed_operands(region: Region) -> tuple[int | None, ...]:
    """For each operand that is a slice of a tensor, the dim that is sliced."""
    return tuple(narrowed_dim(operand.node) for operand in region.operands)


def plan_fused(
    name: str,
    region: Region,
    graph: Graph,
    planned_formats: Mapping[torch_fx.Node, MemoryFormat],
    limits: TileLimits,
) -> FusedPlan:
    """Axes and tiles of a region.

    Args:
        name: of kernel and wrapper, without suffix.
        region: what it computes.
        graph: where it is.
        planned_formats: memory formats of what does not lie row-major.
        limits: of the tiles.
    """
    sizes = [graph.shape_of(region.operands[index].node)[dim] for index, dim in region.axis_sources]
    formats = tuple(planned_formats.get(operand.node, MemoryFormat.CONTIGUOUS) for operand in region.operands)
    output_format = planned_formats.get(region.root, MemoryFormat.CONTIGUOUS)
    narrowed = _narrowed_operands(region)
    axes = plan_axes(region, sizes, formats, output_format, narrowed)
    orders = sorted(axes.operand_orders, key=len, reverse=True)
    main = orders[0] if orders else ()
    if region.depth == 0:
        first, second = _pointwise_vectors(axes.output_order, main, [axis.size_hint for axis in axes.axes])
        limits = limits if second is None else replace(limits, row=64)
        return FusedPlan(name, region, axes, formats, first, second, limits, False, output_format, narrowed)
    kept, inner = axes.of_level(0), axes.of_level(region.depth)
    kept_vector = _last_in(main, kept) if kept else None
    reduced_vector = _last_in(main, inner)
    limits = _reduction_limits(limits, main, kept_vector)
    programs = _programs(axes, kept_vector, reduced_vector, limits, main)
    reduced = math.prod(axis.size_hint for index, axis in enumerate(axes.axes) if index not in kept)
    split = 2 * programs < limits.target_programs and reduced >= _WORTH_SPLITTING
    walked = None if split else _walked_vectors(axes, main, reduced, limits.target_programs)
    if walked is not None:
        kept_vector, reduced_vector = walked
        limits = replace(limits, tile=min(limits.tile, _WALKED_TILE))
    return FusedPlan(name, region, axes, formats, kept_vector, reduced_vector, limits, split, output_format, narrowed)


def _walked_vectors(axes: AxisPlan, main: tuple[int, ...], reduced: int, enough: int) -> tuple[int, int | None] | None:
    """The tile of a reduction over elements that lie apart: axes of the output, while what is reduced is walked.

    Nothing is exchanged between threads then. Short contiguous pieces lie side by side in a tile; a long one fills it.
    None where there is little to walk over, or too much, or the programs would be few.
    """
    kept = [axis for axis in main if axis in axes.of_level(0)]
    one_level = max(axis.level for axis in axes.axes) == 1
    if not kept or main[-1] != kept[-1] or not one_level or reduced > _MOST_WALKED:
        return None
    outputs = math.prod(axes.axes[axis].size_hint for axis in axes.of_level(0))
    if 2 * outputs < enough * _WALKED_TILE:
        return None
    short = len(kept) > 1 and axes.axes[kept[-1]].size_hint <= _SHORT_PIECE
    return (kept[-2], kept[-1]) if short else (kept[-1], None)


def _programs(
    axes: AxisPlan, kept_vector: int | None, reduced_vector: int | None, limits: TileLimits, main: tuple[int, ...]
) -> int:
    """Programs of an unsplit reduction at the example sizes, as the emitted wrapper will count them."""
    hint = [axis.size_hint for axis in axes.axes]
    if kept_vector is None:
        return math.prod(hint[index] for index in axes.of_level(0))
    contiguous_kept = bool(main) and main[-1] == kept_vector
    row = min(power_of_two(hint[kept_vector if contiguous_kept else reduced_vector or 0]), limits.row)
    block = row if contiguous_kept else min(power_of_two(hint[kept_vector]), max(1, limits.tile // row))
    blocks = -(-hint[kept_vector] // block)
    return blocks * math.prod(hint[index] for index in axes.of_level(0) if index != kept_vector)


def _last_in(order: tuple[int, ...], wanted: tuple[int, ...]) -> int | None:
    """The axis among `wanted` that is innermost in `order`; failing that, the last of them."""
    found = [index for index in order if index in wanted]
    if found:
        return found[-1]
    return wanted[-1] if wanted else None


def _pointwise_vectors(
    output: tuple[int, ...], main: tuple[int, ...], sizes: list[int]
) -> tuple[int | None, int | None]:
    """The output's innermost axis, and a second one where an operand lies transposed or rows are short."""
    if not output:
        return None, None
    inner = output[-1]
    transposed = [index for index in main[-1:] if index != inner]
    if transposed:
        return transposed[0], inner
    if len(output) > 1 and sizes[inner] < _SMALL_ROW:
        return output[-2], inner
    return inner, None


def _reduction_limits(limits: TileLimits, main: tuple[int, ...], kept_vector: int | None) -> TileLimits:
    """Rows that are reduced lie contiguous: long rows; else a stripe of the kept axis, a sector or more wide."""
    contiguous_kept = bool(main) and main[-1] == kept_vector
    return replace(limits, row=64 if contiguous_kept else min(limits.row, limits.tile))
