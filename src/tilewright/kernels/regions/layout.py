"""Iteration axes in memory: which may be merged, and how a tensor's elements are addressed.

Tensors are row-major, or channels-last where the planner asked a native convolution for that. Adjacent axes
that every tensor of a kernel walks in the same way are merged into one, so that a pointwise kernel over NCHW
tensors becomes one flat loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tilewright.kernels.regions.region import AxisMap, Region


class MemoryFormat(StrEnum):
    """How a tensor lies in memory."""

    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels_last"


_DIM_NAMES = {
    1: ("i",),
    2: ("m", "n"),
    3: ("n", "c", "l"),
    4: ("n", "c", "h", "w"),
    5: ("n", "c", "d", "h", "w"),
}


def dim_letters(rank: int) -> tuple[str, ...]:
    """Letters for the dims of a tensor of that rank."""
    return _DIM_NAMES.get(rank, tuple(f"d{dim}_" for dim in range(rank)))


@dataclass(frozen=True)
class LoopAxis:
    """One axis of a kernel's iteration space, after merging.

    Attributes:
        name: index variable in the kernel (`hw`); its size is the upper-case name.
        parts: the region's axes that it merges, outer to inner.
        level: 0 for the output's axes, k for what the reduction of level k removes.
        size_hint: elements at the example inputs.
    """

    name: str
    parts: tuple[int, ...]
    level: int
    size_hint: int

    @property
    def size(self) -> str:
        """The size's name in the emitted code."""
        return self.name.upper()


@dataclass(frozen=True)
class AxisPlan:
    """The merged axes of a region, and the order in which each tensor walks them, outer to inner.

    Attributes:
        axes: merged axes, output's axes first in the output's order.
        part_names: size name of each axis of the region before merging.
        output_order: indexes into `axes`.
        operand_orders: for each operand of the region, indexes into `axes`.
    """

    axes: tuple[LoopAxis, ...]
    part_names: tuple[str, ...]
    output_order: tuple[int, ...]
    operand_orders: tuple[tuple[int, ...], ...]

    def of_level(self, level: int) -> tuple[int, ...]:
        """Indexes of the merged axes of a level."""
        return tuple(index for index, axis in enumerate(self.axes) if axis.level == level)


def memory_order(map_: AxisMap, form: MemoryFormat) -> tuple[int, ...]:
    """The axes that a tensor's dims follow, outer to inner in memory."""
    if form is MemoryFormat.CHANNELS_LAST and len(map_) >= 4:
        map_ = (map_[0], *map_[2:], map_[1])
    return tuple(axis for axis in map_ if axis is not None)


def plan_axes(
    region: Region,
    sizes: Sequence[int],
    formats: Sequence[MemoryFormat],
    output_format: MemoryFormat = MemoryFormat.CONTIGUOUS,
    narrowed: Sequence[int | None] = (),
) -> AxisPlan:
    """Merge the region's axes.

    Args:
        region: the region.
        sizes: size of each of its axes at the example inputs.
        formats: memory format of each operand.
        output_format: memory format of the output.
        narrowed: for each operand that is part of a row-major tensor, the dim in which it is narrower.
    """
    output = memory_order(region.maps[region.root], output_format)
    orders = [memory_order(operand.map, form) for operand, form in zip(region.operands, formats, strict=True)]
    walls = [
        order if dim is None else (*_axes(operand.map[:dim]), _WALL, *_axes(operand.map[dim:]))
        for order, dim, operand in zip(orders, narrowed or [None] * len(orders), region.operands, strict=True)
    ]
    walls += [_apart(region.maps[node]) for node in region.triangles]
    groups = merged_groups(region.axis_levels, [output, *walls])
    names = _part_names(region)
    first_use = [axis for order in [output, *orders] for axis in order]
    groups.sort(key=lambda group: (region.axis_levels[group[0]], first_use.index(group[0])))
    axes = tuple(
        LoopAxis(
            "".join(names[part].lower() for part in group),
            group,
            region.axis_levels[group[0]],
            math.prod(sizes[part] for part in group),
        )
        for group in groups
    )
    return AxisPlan(
        axes,
        tuple(names),
        group_order(output, groups),
        tuple(group_order(order, groups) for order in orders),
    )


#: Stands between axes that do not lie one after the other in memory.
_WALL = -1


def _apart(map_: AxisMap) -> tuple[int, ...]:
    """The axes of a matrix's rows and columns, each for itself."""
    return (*_axes(map_[:-2]), _WALL, *_axes(map_[-2:-1]), _WALL, *_axes(map_[-1:]))


def _axes(map_: AxisMap) -> tuple[int, ...]:
    return tuple(axis for axis in map_ if axis is not None)


def merged_groups(levels: Sequence[int], orders: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Axes of one level that all tensors walk one after the other, together: outer to inner in each group.

    Args:
        levels: level of each axis.
        orders: axes of each tensor, outer to inner in memory.
    """
    groups: list[tuple[int, ...]] = [(axis,) for axis in range(len(levels))]
    while (pair := _mergeable(groups, levels, orders)) is not None:
        first, second = pair
        groups = [group for group in groups if group not in (first, second)] + [first + second]
    return groups


def power_of_two(size: int) -> int:
    """The side of a tile that holds so many elements: the smallest power of two from `size` on."""
    return 1 << max(0, size - 1).bit_length()


def _mergeable(
    groups: Sequence[tuple[int, ...]], levels: Sequence[int], orders: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    for first in groups:
        for second in groups:
            if first != second and levels[first[0]] == levels[second[0]]:
                joined = first + second
                if all(_walks_together(order, first, second, joined) for order in orders):
                    return first, second
    return None


def _walks_together(
    order: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...], joined: tuple[int, ...]
) -> bool:
    has_first, has_second = first[0] in order, second[0] in order
    if not has_first and not has_second:
        return True
    if not (has_first and has_second):
        return False
    start = order.index(first[0])
    return order[start : start + len(joined)] == joined


def group_order(order: tuple[int, ...], groups: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Indexes of the groups that a tensor walks."""
    by_first = {group[0]: index for index, group in enumerate(groups)}
    return tuple(by_first[axis] for axis in order if axis in by_first)


def _part_names(region: Region) -> list[str]:
    """Names of the axes, by the dims of the operand of the highest rank that shows them."""
    names: list[str | None] = [None] * len(region.axis_levels)
    maps = [operand.map for operand in region.operands] + [region.maps[region.root]]
    for map_ in sorted(maps, key=len, reverse=True):
        for letter, axis in zip(dim_letters(len(map_)), map_, strict=True):
            if axis is not None and names[axis] is None:
                taken = {name for name in names if name}
                name = letter
                while name in taken:
                    name += "x"
                names[axis] = name
    return [name.upper() if name else f"R{axis}" for axis, name in enumerate(names)]
