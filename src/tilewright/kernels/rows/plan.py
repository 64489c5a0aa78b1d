"""Plans of row kernels: which axes a tile holds, how the others are walked, and where sizes are read.

Three forms. Resident: a program holds whole rows in registers, and reads and writes each element once. Looped: a
program walks its row once for each round of reductions, and once more to write. Split: so few long rows that one
program each would leave the GPU idle; several programs share a row, with partial results between their kernels. How
many do is decided at run time, by the sizes of the call; the looped form stands beside it for many rows or short ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tilewright.graph.graph import fixed_size, size_hint
from tilewright.kernels.regions.layout import (
    LoopAxis,
    MemoryFormat,
    dim_letters,
    group_order,
    merged_groups,
    power_of_two,
)
from tilewright.kernels.regions.rows import DimAxes, RowRegion


class RowForm(StrEnum):
    """How a program meets its row."""

    RESIDENT = "resident"
    LOOPED = "looped"
    SPLIT = "split"


@dataclass(frozen=True)
class RowTiles:
    """Limits from which the wrapper derives tiles for the shapes that it meets.

    Attributes:
        tile: elements of a tile of several short rows, and half of those of a step along a long one; a power of two.
        stripe: elements along the contiguous axis where rows are strided; a power of two.
        warp: elements that a warp holds of whole rows, four times those of a step; a power of two.
        resident: elements of a tile of whole rows at most; a power of two.
        target_programs: split rows are cut until there are about so many programs.
        few: rows are split where one program for each tile of them makes fewer than this.
        long: and where a row has more elements than this.
    """

    tile: int = 2048
    stripe: int = 64
    warp: int = 1024
    resident: int = 16384
    target_programs: int = 1024
    few: int = 264
    long: int = 8192


@dataclass(frozen=True)
class SizeSource:
    """Where the wrapper finds the size of an axis.

    Attributes:
        name: of the size.
        operand: index of the operand whose shape shows it; None for a literal.
        dim: of that operand.
        others: names of the sizes that the dim holds beside it.
        literal: the size itself, where the reference fixes it.
    """

    name: str
    operand: int | None = None
    dim: int = 0
    others: tuple[str, ...] = ()
    literal: int = 0


@dataclass(frozen=True)
class RowAxes:
    """The merged axes of a row region, and the order in which each tensor walks them, outer to inner.

    Attributes:
        axes: merged axes; level 0 is kept, level 1 the row.
        part_names: size name of each axis of the region before merging.
        sources: where the sizes of these are found, in an order in which they can be computed.
        output_order: indexes into `axes`.
        operand_orders: for each operand of the region, indexes into `axes`.
    """

    axes: tuple[LoopAxis, ...]
    part_names: tuple[str, ...]
    sources: tuple[SizeSource, ...]
    output_order: tuple[int, ...]
    operand_orders: tuple[tuple[int, ...], ...]

    def of_level(self, level: int) -> tuple[int, ...]:
        """Indexes of the kept axes (0) or the row's (1)."""
        return tuple(index for index, axis in enumerate(self.axes) if axis.level == level)


@dataclass(frozen=True)
class RowPlan:
    """A kernel over rows.

    Attributes:
        name: of kernel and wrapper, without suffix.
        region: what it computes.
        axes: its iteration space.
        form: how a program meets its row.
        outer: index into `axes.axes` of the tile's outer axis; None for one-dimensional tiles.
        inner: of the tile's inner axis, along which memory is contiguous.
        always_fits: the row's size is fixed, so that the resident form needs no other beside it.
        tiles: limits of tiles.
        output_format: memory format of the output.
    """

    name: str
    region: RowRegion
    axes: RowAxes
    form: RowForm
    outer: int | None
    inner: int
    always_fits: bool = False
    tiles: RowTiles = field(default_factory=RowTiles)
    output_format: MemoryFormat = MemoryFormat.CONTIGUOUS

    @property
    def tile_axes(self) -> tuple[int, ...]:
        """Axes of the tile, outer to inner."""
        return (self.inner,) if self.outer is None else (self.outer, self.inner)

    @property
    def row_axes(self) -> tuple[int, ...]:
        """All axes of the row, in the order of the loops: single steps outside, the tile's inside."""
        row = self.axes.of_level(1)
        tiled = [index for index in self.tile_axes if index in row]
        tiled.sort(key=lambda index: -self.axes.axes[index].size_hint)
        return (*(index for index in row if index not in self.tile_axes), *tiled)

    @property
    def kept_axes(self) -> tuple[int, ...]:
        """All kept axes."""
        return self.axes.of_level(0)

    @property
    def walked(self) -> RowPlan:
        """The looped form of a split plan, whose tiles may hold several rows."""
        return replace(self, form=RowForm.LOOPED, outer=_tile(self.axes)[0])

    @property
    def schedule_sizes(self) -> tuple[tuple[str, int], ...]:
        """Blocks that the wrapper derives at the example sizes, outer to inner, for reports."""
        blocks = self._whole_blocks() if self.form is RowForm.RESIDENT else self.step_blocks()
        return tuple((f"BLOCK_{self.axes.axes[axis].size}", blocks[axis]) for axis in self.tile_axes)

    @property
    def schedule_warps(self) -> int:
        """Warps of a program at the example sizes."""
        elements = self.tiles.warp if self.form is RowForm.RESIDENT else max(1, self.tiles.warp // 4)
        return min(max(math.prod(size for _, size in self.schedule_sizes) // elements, 1), 16)

    def _padded(self, axis: int) -> int:
        return power_of_two(self.axes.axes[axis].size_hint)

    def _whole_blocks(self) -> dict[int, int]:
        row = {axis: self._padded(axis) for axis in self.tile_axes if self.axes.axes[axis].level == 1}
        room = self.tiles.tile // math.prod(row.values())
        kept = [axis for axis in self.tile_axes if axis not in row]
        return row | {axis: min(self._padded(axis), max(32 if axis == self.inner else 1, room)) for axis in kept}

    def step_blocks(self) -> dict[int, int]:
        """Axis of the tile -> its block in a step along the row, at the example sizes."""
        step = 2 * self.tiles.tile
        inner_is_row = self.axes.axes[self.inner].level == 1
        blocks = {self.inner: min(self._padded(self.inner), step if inner_is_row else self.tiles.stripe)}
        if self.outer is not None:
            blocks[self.outer] = min(self._padded(self.outer), max(1, step // blocks[self.inner]))
        return blocks


def plan_rows(
    name: str,
    region: RowRegion,
    formats: Sequence[MemoryFormat],
    tiles: RowTiles,
    *,
    form: RowForm | None = None,
    output_format: MemoryFormat = MemoryFormat.CONTIGUOUS,
) -> RowPlan | None:
    """Plan a row region; None where a size cannot be read or a scan or a pick would have to walk several axes.

    Args:
        name: for kernel and wrapper.
        region: what to compute.
        formats: memory format of each operand.
        tiles: limits of tiles.
        form: use this one where it is possible, and where the example's rows can gain by it.
        output_format: memory format of the output.
    """
    axes = merge_row_axes(region, formats, output_format)
    if axes is None or not axes.of_level(1):
        return None
    outer, inner = _tile(axes)
    row = axes.of_level(1)
    in_order = bool(region.scans) or region.picks  # the place of an element in its row counts
    if in_order and len(row) != 1:
        return None
    plan = RowPlan(name, region, axes, RowForm.LOOPED, outer, inner, False, tiles, output_format)
    wanted = form or _best_form(plan)
    if wanted is RowForm.SPLIT and (in_order or not _gains_by_split(plan)):
        wanted = RowForm.LOOPED
    if wanted is RowForm.RESIDENT and not _can_be_resident(plan):
        wanted = RowForm.LOOPED
    fixed = wanted is RowForm.RESIDENT and _is_fixed(plan)
    if wanted is RowForm.SPLIT and outer not in row:
        outer = None  # a slice fills a tile, and what is reduced is a number: no layout to change
    return RowPlan(name, region, axes, wanted, outer, inner, fixed, tiles, output_format)


def _tile(axes: RowAxes) -> tuple[int | None, int]:
    """The axis along which the largest operand is contiguous, and one beside it.

    Contiguous rows: a kept axis beside, or the row's other axis. Strided rows: the row's innermost axis beside.
    """
    main = max(axes.operand_orders, key=lambda order: (len(order), sum(axes.axes[i].size_hint for i in order)))
    row, kept = set(axes.of_level(1)), set(axes.of_level(0))
    inner = main[-1]
    if inner in kept:
        return [index for index in main if index in row][-1], inner
    rest = [index for index in main[:-1] if index in row]
    if rest:
        return rest[-1], inner
    beside = [index for index in main if index in kept]
    return (beside[-1] if beside else None), inner


def _padded_row(plan: RowPlan) -> int:
    return math.prod(power_of_two(plan.axes.axes[index].size_hint) for index in plan.axes.of_level(1))


def _narrowest(plan: RowPlan) -> int:
    """Elements of the smallest tile that holds whole rows without wasting memory transactions."""
    inner = plan.axes.axes[plan.inner]
    return _padded_row(plan) * (min(power_of_two(inner.size_hint), 16) if inner.level == 0 else 1)


def _can_be_resident(plan: RowPlan) -> bool:
    return set(plan.axes.of_level(1)) <= set(plan.tile_axes)


def _is_fixed(plan: RowPlan) -> bool:
    """The row is of a size that the reference fixes, and fits."""
    sizes = [fixed_size(plan.region.sizes[part]) for i in plan.axes.of_level(1) for part in plan.axes.axes[i].parts]
    inner_is_row = plan.axes.axes[plan.inner].level == 1
    return None not in sizes and inner_is_row and _padded_row(plan) <= plan.tiles.resident


def _best_form(plan: RowPlan) -> RowForm:
    if _can_be_resident(plan) and _narrowest(plan) <= plan.tiles.resident:
        return RowForm.RESIDENT
    return RowForm.SPLIT if _gains_by_split(plan) else RowForm.LOOPED


def _gains_by_split(plan: RowPlan) -> bool:
    """The example has few rows, and they are long: what the wrapper asks of the sizes of a call."""
    hint = [axis.size_hint for axis in plan.axes.axes]
    blocks = plan.step_blocks()
    programs = math.prod(-(-hint[axis] // blocks.get(axis, 1)) for axis in plan.kept_axes)
    length = math.prod(hint[axis] for axis in plan.axes.of_level(1))
    return programs < plan.tiles.few and length > plan.tiles.long


# -- axes --------------------------------------------------------------------------------------------------


def _memory_order(dims: DimAxes, form: MemoryFormat) -> tuple[int, ...]:
    if form is MemoryFormat.CHANNELS_LAST and len(dims) >= 4:
        dims = (dims[0], *dims[2:], dims[1])
    return tuple(axis for axes in dims for axis in axes)


def merge_row_axes(
    region: RowRegion, formats: Sequence[MemoryFormat], output_format: MemoryFormat = MemoryFormat.CONTIGUOUS
) -> RowAxes | None:
    """Merge the region's axes; None where the size of one cannot be read from the operands."""
    output = _memory_order(region.dims[region.root], output_format)
    orders = [_memory_order(operand.dims, form) for operand, form in zip(region.operands, formats, strict=True)]
    names = _axis_names(region)
    sources = _size_sources(region, names)
    if sources is None:
        return None
    levels = [int(axis in region.row_axes) for axis in range(len(region.sizes))]
    groups = merged_groups(levels, [output, *orders])
    first_use = [axis for order in [output, *orders] for axis in order]
    groups.sort(key=lambda group: (levels[group[0]], first_use.index(group[0])))
    axes = tuple(
        LoopAxis(
            "".join(names[part].lower() for part in group),
            group,
            levels[group[0]],
            math.prod(size_hint(region.sizes[part]) for part in group),
        )
        for group in groups
    )
    return RowAxes(
        axes,
        tuple(names),
        sources,
        group_order(output, groups),
        tuple(group_order(order, groups) for order in orders),
    )


def _axis_names(region: RowRegion) -> list[str]:
    """Names by the dims of the operand of the highest rank; the parts of a divided dim are groups (G) of it."""
    names: list[str | None] = [None] * len(region.sizes)
    maps = sorted([operand.dims for operand in region.operands] + [region.dims[region.root]], key=len, reverse=True)
    for dims in maps:
        for letter, axes in zip(dim_letters(len(dims)), dims, strict=True):
            for position, axis in enumerate(axes):
                if names[axis] is not None:
                    continue
                name = letter if position == len(axes) - 1 else "g"
                while name in names:
                    name += "x"
                names[axis] = name
    return [name.upper() if name else f"R{axis}" for axis, name in enumerate(names)]


def _size_sources(region: RowRegion, names: Sequence[str]) -> tuple[SizeSource, ...] | None:
    found: dict[int, SizeSource] = {}
    for index, operand in enumerate(region.operands):
        for dim, axes in enumerate(operand.dims):
            if len(axes) == 1 and axes[0] not in found:
                found[axes[0]] = SizeSource(names[axes[0]], index, dim)
    for index, operand in enumerate(region.operands):
        for dim, axes in enumerate(operand.dims):
            missing = [axis for axis in axes if axis not in found]
            for axis in missing[:-1]:
                size = fixed_size(region.sizes[axis])
                if size is None:
                    return None
                found[axis] = SizeSource(names[axis], literal=size)
            if missing:
                others = tuple(names[axis] for axis in axes if axis != missing[-1])
                found[missing[-1]] = SizeSource(names[missing[-1]], index, dim, others)
    return tuple(found.values()) if len(found) == len(region.sizes) else None
