"""Regions: the parts of a graph that become one kernel without an anchor.

A region has one root (its output) and grows towards its inputs through pointwise operations, operations that
only relabel axes, and reductions, one nested in another. Every value in it is described by the iteration axes
that its dims follow. What is not inside is an operand, loaded.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import has_data_dependent_size
from tilewright.graph.nodes import argument, is_one, listed_dims, source_of
from tilewright.graph.parameters import is_parameter_arithmetic
from tilewright.kernels.ops.integers import is_integer_operation
from tilewright.kernels.ops.pointwise import is_pointwise
from tilewright.kernels.regions.triangles import is_triangle

aten = torch.ops.aten

#: For each dim of a value, the axis that it follows; None for a dim of size 1.
AxisMap = tuple[int | None, ...]

#: Reduction -> how partial results combine. A mean is a sum, divided when it is finished.
REDUCTIONS: dict[object, str] = {
    aten.sum.dim_IntList: "sum",
    aten.mean.dim: "mean",
    aten.amin.default: "min",
    aten.amax.default: "max",
}

_MAX_LEVELS = 3


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel loads: the node that holds it, where its dims lie, and at which level it is needed."""

    node: torch_fx.Node
    map: AxisMap
    level: int


@dataclass(frozen=True)
class Region:
    """One kernel's worth of the graph.

    Attributes:
        root: the node whose value is stored.
        nodes: the nodes inside, in execution order; the root is last.
        operands: tensors that are loaded.
        maps: node -> axes of its dims, for nodes inside.
        levels: node -> how many reductions lie between it and the root.
        axis_levels: axis -> 0 for axes of the output, k for axes that the reduction of level k removes.
        axis_sources: axis -> (operand index, dim) where its size can be read.
    """

    root: torch_fx.Node
    nodes: tuple[torch_fx.Node, ...]
    operands: tuple[Operand, ...]
    maps: dict[torch_fx.Node, AxisMap]
    levels: dict[torch_fx.Node, int]
    axis_levels: tuple[int, ...]
    axis_sources: tuple[tuple[int, int], ...]

    @property
    def depth(self) -> int:
        """Nested reductions."""
        return max(self.axis_levels, default=0)

    def axes_of_level(self, level: int) -> tuple[int, ...]:
        """The axes that the reduction of that level removes; level 0: the output's axes."""
        return tuple(axis for axis, of in enumerate(self.axis_levels) if of == level)

    @property
    def triangles(self) -> tuple[torch_fx.Node, ...]:
        """Nodes that need the indexes of their last two dims."""
        return tuple(node for node in self.nodes if is_triangle(node))

    def reductions(self, level: int) -> tuple[torch_fx.Node, ...]:
        """Reductions that take values of `level` to `level - 1`."""
        return tuple(node for node in self.nodes if node.target in REDUCTIONS and self.levels[node] == level - 1)


def is_relabelling(node: torch_fx.Node) -> bool:
    """True for operations that only insert, remove, broadcast or permute dims: no data moves in a register."""
    if node.op != "call_function" or has_data_dependent_size(node):
        return False
    if node.target in (aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default):
        return True
    if node.target in (aten.permute.default, aten.transpose.int, aten.t.default, aten.expand.default):
        return True
    if node.target in (aten.view.default, aten.reshape.default):
        source = source_of(node)
        return _without_ones(node) == _without_ones(source)
    return False


def is_reduction(node: torch_fx.Node) -> bool:
    """True for a reduction over dims that the kernels know, of float values, to no type that it names.

    Partial results may be wider than what is made of them.
    """
    if node.op != "call_function" or node.target not in REDUCTIONS or node.kwargs or has_data_dependent_size(node):
        return False
    floats = (torch.float32, torch.float16, torch.bfloat16)
    value = source_of(node).meta["val"]
    return value.dtype in floats and node.meta["val"].dtype in floats and value.dim() > 0


def is_fusible(node: torch_fx.Node) -> bool:
    """True for what may lie inside a region."""
    return is_pointwise(node) or is_relabelling(node) or is_reduction(node)


def is_elementwise_part(node: torch_fx.Node) -> bool:
    """True for what may lie inside a region without reductions, of any type."""
    return is_pointwise(node) or is_integer_operation(node) or is_relabelling(node)


def _without_ones(node: torch_fx.Node) -> list[str]:
    return [str(size) for size in node.meta["val"].shape if not is_one(size)]


def keeps_dims(node: torch_fx.Node) -> bool:
    """True for `keepdim=True`."""
    return bool(argument(node, 2))


@dataclass
class _Growth:
    """A region while it grows. `requests` are the (map, level) pairs under which users want a node."""

    root: torch_fx.Node
    maps: dict[torch_fx.Node, AxisMap] = field(default_factory=dict)
    levels: dict[torch_fx.Node, int] = field(default_factory=dict)
    axis_levels: list[int] = field(default_factory=list)
    reduction_keys: dict[int, tuple[tuple[object, ...], tuple[int, ...]]] = field(default_factory=dict)
    requests: dict[torch_fx.Node, set[tuple[AxisMap, int]]] = field(default_factory=dict)

    def new_axis(self, level: int) -> int:
        self.axis_levels.append(level)
        return len(self.axis_levels) - 1

    def include(self, node: torch_fx.Node, map_: AxisMap, level: int) -> bool:
        """Take the node in, and ask for its inputs. False where its axes do not fit what is there."""
        wanted = self._input_maps(node, map_, level)
        if wanted is None:
            return False
        self.maps[node], self.levels[node] = map_, level
        for source, source_map, source_level in wanted:
            self.requests.setdefault(source, set()).add((source_map, source_level))
        return True

    def _input_maps(
        self, node: torch_fx.Node, map_: AxisMap, level: int
    ) -> list[tuple[torch_fx.Node, AxisMap, int]] | None:
        if is_reduction(node):
            return self._reduction_input(node, map_, level)
        if is_relabelling(node):
            source = source_of(node)
            source_map = relabelled_map(node, source, map_)
            return None if source_map is None else [(source, source_map, level)]
        return [(source, broadcast_map(source, map_), level) for source in node.all_input_nodes]

    def _reduction_input(
        self, node: torch_fx.Node, map_: AxisMap, level: int
    ) -> list[tuple[torch_fx.Node, AxisMap, int]] | None:
        if level + 1 > _MAX_LEVELS:
            return None
        outer = {axis for axis, of in enumerate(self.axis_levels) if of <= level}
        if {axis for axis in map_ if axis is not None} != outer:
            return None  # its value would be computed again for every element that it is broadcast to
        source = source_of(node)
        sizes = source.meta["val"].shape
        dims = listed_dims(node)
        kept = iter(map_ if not keeps_dims(node) else [axis for dim, axis in enumerate(map_) if dim not in dims])
        skeleton: list[object] = ["reduced" if dim in dims else next(kept) for dim in range(len(sizes))]
        key = tuple((place, str(size)) for place, size in zip(skeleton, sizes, strict=True))
        if level + 1 not in self.reduction_keys:
            fresh = tuple(self.new_axis(level + 1) for dim in dims if not is_one(sizes[dim]))
            self.reduction_keys[level + 1] = (key, fresh)
        known, axes = self.reduction_keys[level + 1]
        if known != key:
            return None
        reduced = iter(axes)
        source_map: list[int | None] = []
        for place, size in zip(skeleton, sizes, strict=True):
            if place == "reduced":
                source_map.append(None if is_one(size) else next(reduced))
            else:
                assert place is None or isinstance(place, int)
                source_map.append(place)
        return [(source, tuple(source_map), level + 1)]


def broadcast_map(source: torch_fx.Node, map_: AxisMap) -> AxisMap:
    """The map of a pointwise operand, aligned from the right; dims of size 1 follow no axis."""
    sizes = source.meta["val"].shape
    aligned = map_[len(map_) - len(sizes) :] if len(sizes) else ()
    return tuple(None if is_one(size) else axis for size, axis in zip(sizes, aligned, strict=True))


def relabelled_map(node: torch_fx.Node, source: torch_fx.Node, map_: AxisMap) -> AxisMap | None:
    """The map of the input of an operation that only relabels dims."""
    sizes = source.meta["val"].shape
    rank = len(sizes)
    if node.target in (aten.permute.default, aten.transpose.int, aten.t.default):
        order = permutation(node, rank)
        result: list[int | None] = [None] * rank
        for position, dim in enumerate(order):
            result[dim] = map_[position]
        return tuple(result)
    if node.target is aten.expand.default:
        return broadcast_map(source, map_)
    axes = iter(axis for axis, size in zip(map_, node.meta["val"].shape, strict=True) if not is_one(size))
    return tuple(None if is_one(size) else next(axes) for size in sizes)


def narrowed_dim(node: torch_fx.Node) -> int | None:
    """The dim in which a node is a part of its source, stored within it; None for anything else."""
    if node.op != "call_function":
        return None
    if node.target is operator.getitem:
        source = source_of(node)
        if source.target not in (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default):
            return None
        return int(argument(source, 2, 0)) % len(node.meta["val"].shape)
    if node.target is aten.slice.Tensor and argument(node, 4, 1) == 1:
        return int(argument(node, 1, 0)) % len(node.meta["val"].shape)
    if node.target is aten.narrow.default:
        return int(argument(node, 1)) % len(node.meta["val"].shape)
    return None


def permutation(node: torch_fx.Node, rank: int) -> list[int]:
    """For each dim of a permuted value, the dim of its input."""
    if node.target is aten.permute.default:
        return [dim % rank for dim in argument(node, 1)]
    order = list(range(rank))
    pair = (argument(node, 1) % rank, argument(node, 2) % rank) if node.target is aten.transpose.int else (0, rank - 1)
    order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
    return order


def grow_region(
    root: torch_fx.Node,
    stops: frozenset[torch_fx.Node] = frozenset(),
    *,
    integers: bool = False,
    triangles: bool = False,
) -> Region | None:
    """The largest region whose output is `root`; None where nothing in it computes.

    Args:
        root: a fusible node.
        stops: nodes that must stay operands.
        integers: operations on integers may lie inside; reductions may not then.
        triangles: triangles of matrices may lie inside, before the last reduction.
    """

    def fits(node: torch_fx.Node) -> bool:
        if triangles and is_triangle(node):
            return True
        return is_elementwise_part(node) if integers else is_fusible(node)

    growth = _Growth(root)
    sizes = root.meta["val"].shape
    first_map = tuple(None if is_one(size) else growth.new_axis(0) for size in sizes)
    if not growth.include(root, first_map, 0):
        return None
    for node in _reversed_before(root):
        requests = growth.requests.get(node)
        if requests is None or node in stops or not fits(node) or len(requests) != 1:
            continue
        if not is_parameter_arithmetic(node) and any(user not in growth.maps for user in node.users):
            continue
        map_, level = next(iter(requests))
        growth.include(node, map_, level)
    region = _finish(growth)
    late = {source_of(node) for node in region.triangles if region.levels[node] == 0} if region is not None else set()
    if region is None or region.depth == 0 or not late:
        return region
    return grow_region(root, stops | late, integers=integers, triangles=triangles)


def _reversed_before(root: torch_fx.Node) -> Iterator[torch_fx.Node]:
    node = root.prev
    while node.op != "root":
        yield node
        node = node.prev


def _finish(growth: _Growth) -> Region | None:
    inside = [node for node in growth.root.graph.nodes if node in growth.maps]
    if all(is_relabelling(node) for node in inside):
        return None
    operands = tuple(
        Operand(node, map_, level)
        for node in growth.root.graph.nodes
        if node in growth.requests and node not in growth.maps
        for map_, level in sorted(growth.requests[node], key=str)
    )
    sources: list[tuple[int, int] | None] = [None] * len(growth.axis_levels)
    for index, operand in enumerate(operands):
        for dim, axis in enumerate(operand.map):
            if axis is not None and sources[axis] is None:
                sources[axis] = (index, dim)
    known = tuple(source for source in sources if source is not None)
    if len(known) != len(sources):
        return None
    return Region(
        growth.root,
        tuple(inside),
        operands,
        growth.maps,
        growth.levels,
        tuple(growth.axis_levels),
        known,
    )
