"""Plans of pooling: windows over space, with pointwise operations before and after, in one kernel."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.fx as torch_fx

from tilewright.graph.nodes import argument, source_of, target_of
from tilewright.kernels.code.text import Names
from tilewright.kernels.native import operation_name
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.planes import OperandSizes, added_operands, are_row_major, region_after, whole_operand
from tilewright.kernels.regions.region import Operand, Region, grow_region, is_fusible, is_relabelling

aten = torch.ops.aten

_MAXIMUM = {aten.max_pool1d.default: 1, aten.max_pool2d.default: 2, aten.max_pool3d.default: 3}
_AVERAGE = {aten.avg_pool1d.default: 1, aten.avg_pool2d.default: 2, aten.avg_pool3d.default: 3}
_ADAPTIVE_AVERAGE = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
}
_ADAPTIVE_MAXIMUM = {
    aten.adaptive_max_pool1d.default: 1,
    aten.adaptive_max_pool2d.default: 2,
    aten.adaptive_max_pool3d.default: 3,
}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class WindowDim:
    """The windows along one dim.

    Attributes:
        size, stride, padding, dilation: as torch defines them; unused for adaptive windows.
        ceil: the last window may reach beyond the padding.
        output: number of adaptive windows, from o * H // output to the ceiling of (o + 1) * H / output; None for
            windows of fixed size.
    """

    size: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil: bool = False
    output: int | None = None


@dataclass(frozen=True)
class Pooling:
    """A pooling operation.

    Attributes:
        node: whose value the windows' results are.
        source: the tensor that is pooled.
        kind: `max` or `mean`.
        dims: the windows along each spatial dim.
        counts_padding: a mean's divisor counts the padding.
        divisor: a mean's divisor, where it is given.
    """

    node: torch_fx.Node
    source: torch_fx.Node
    kind: str
    dims: tuple[WindowDim, ...]
    counts_padding: bool = True
    divisor: int | None = None

    @property
    def is_adaptive(self) -> bool:
        """Windows depend on the input's size."""
        return self.dims[0].output is not None


@dataclass(frozen=True)
class PoolTiles:
    """Tiles of a pooling kernel.

    Attributes:
        tile: outputs of a program at most; a power of two.
        row: outputs along a row at most; a power of two.
        num_warps: warps of a program.
        vectors: where the stride along a row allows it, taps are loaded together, as contiguous vectors.
    """

    tile: int = 256
    row: int = 256
    num_warps: int = 4
    vectors: bool = True


@dataclass(frozen=True)
class PoolPlan:
    """A pooling kernel.

    Attributes:
        name: of kernel and wrapper, without suffix.
        pooling: the operation.
        root: the node whose value is stored.
        before: pointwise operations on the input; None where it is loaded as it is.
        after: pointwise operations on the result; None where it is stored as it is.
        tiles: tiles.
        output_format: memory format of the output: row-major.
    """

    name: str
    pooling: Pooling
    root: torch_fx.Node
    before: Region | None
    after: Region | None
    tiles: PoolTiles = field(default_factory=PoolTiles)
    output_format: MemoryFormat = MemoryFormat.CONTIGUOUS

    @property
    def nodes(self) -> tuple[torch_fx.Node, ...]:
        """All nodes inside, in execution order."""
        before = self.before.nodes if self.before else ()
        after = self.after.nodes if self.after else ()
        pooled = (self.pooling.node,)
        return (*before, *((source_of(self.pooling.node),) if _is_pair(self.pooling.node) else ()), *pooled, *after)

    @property
    def loaded(self) -> tuple[Operand, ...]:
        """What is loaded at the input's positions."""
        if self.before is not None:
            return self.before.operands
        return (whole_operand(self.pooling.source),)

    @property
    def added(self) -> tuple[Operand, ...]:
        """What is loaded at the output's positions."""
        return added_operands(self.after, self.pooling.node)

    @property
    def region(self) -> OperandSizes:
        """Both sides' operands."""
        return OperandSizes.of(self.loaded, self.added, self.after, self.root)


def _is_pair(node: torch_fx.Node) -> bool:
    return node.target is operator.getitem


def _each(value: object, rank: int) -> tuple[int, ...]:
    listed = [value] if isinstance(value, int) else list(value)  # type: ignore[call-overload]
    return tuple(listed * rank if len(listed) == 1 else listed)


def find_pooling(node: torch_fx.Node) -> Pooling | None:
    """The pooling that a node is; None for anything else."""
    target = target_of(node)
    if node.op != "call_function":
        return None
    if _is_pair(node) and argument(node, 1) == 0 and isinstance(node.args[0], torch_fx.Node):
        pair = source_of(node)
        if target_of(pair) in _ADAPTIVE_MAXIMUM and len(pair.users) == 1:
            return _adaptive(node, pair, "max", _ADAPTIVE_MAXIMUM[target_of(pair)])
        return None
    if target in _ADAPTIVE_AVERAGE:
        return _adaptive(node, node, "mean", _ADAPTIVE_AVERAGE[target])
    if target in _MAXIMUM:
        rank = _MAXIMUM[target]
        dilation = _each(argument(node, 4, 1), rank)
        return _regular(node, rank, "max", dilation, bool(argument(node, 5, False)))
    if target in _AVERAGE:
        rank = _AVERAGE[target]
        return _regular(node, rank, "mean", (1,) * rank, bool(argument(node, 4, False)))
    return None


def _adaptive(node: torch_fx.Node, call: torch_fx.Node, kind: str, rank: int) -> Pooling | None:
    sizes = argument(call, 1)
    listed = _each(sizes, rank)
    if not all(isinstance(size, int) for size in listed):
        return None
    return Pooling(node, source_of(call), kind, tuple(WindowDim(output=size) for size in listed))


def _regular(node: torch_fx.Node, rank: int, kind: str, dilation: tuple[int, ...], ceil: bool) -> Pooling | None:
    size = _each(argument(node, 1), rank)
    stride = argument(node, 2)
    steps = _each(stride, rank) if stride not in (None, []) else size
    padding = _each(argument(node, 3, 0), rank)
    if not all(isinstance(value, int) for value in (*size, *steps, *padding)):
        return None
    dims = tuple(WindowDim(k, s, p, d, ceil) for k, s, p, d in zip(size, steps, padding, dilation, strict=True))
    if kind == "max":
        return Pooling(node, source_of(node), kind, dims)
    return Pooling(node, source_of(node), kind, dims, bool(argument(node, 5, True)), argument(node, 6))


def plan_pooling(
    root: torch_fx.Node,
    stops: Collection[torch_fx.Node],
    formats: Mapping[torch_fx.Node, MemoryFormat],
    names: Names,
    tiles: PoolTiles,
) -> PoolPlan | None:
    """A pooling that ends in `root`, with the pointwise operations around it; None where there is none.

    Args:
        root: the last node.
        stops: nodes that must stay operands.
        formats: memory formats of nodes that are not row-major; pooling declines those.
        names: for kernels and wrappers.
        tiles: tiles.
    """
    pooling, after = find_pooling(root), None
    if pooling is None:
        found = region_after(root, stops, find_pooling)
        if found is None:
            return None
        pooling, after = found
    if pooling.node.meta["val"].dtype not in _FLOATS or pooling.source.meta["val"].dtype not in _FLOATS:
        return None
    plan = PoolPlan("", pooling, root, _before(pooling, stops), after, tiles)
    if not are_row_major((*plan.loaded, *plan.added), plan.root, formats):
        # What comes before may be a kernel of its own, which writes in the order of pooling.
        plan = replace(plan, before=None)
    if not are_row_major((*plan.loaded, *plan.added), plan.root, formats):
        return None
    operations = [operation_name(node) for node in plan.nodes if not is_relabelling(node) and not _is_pair(node)]
    name = names.unique(f"pool_{'_'.join(dict.fromkeys(operations[-5:]))}")
    return PoolPlan(name, pooling, root, plan.before, after, tiles)


def _before(pooling: Pooling, stops: Collection[torch_fx.Node]) -> Region | None:
    """Pointwise operations on the input, where windows hardly overlap and nobody else reads their result."""
    source = pooling.source
    if source in stops or len(source.users) != 1 or not is_fusible(source) or _overlap(pooling) > 2.5:
        return None
    region = grow_region(source, frozenset(stops))
    if region is None or region.depth > 0:
        return None
    return region


def _overlap(pooling: Pooling) -> float:
    """How many windows an element belongs to, about."""
    factor = 1.0
    for dim in pooling.dims:
        factor *= dim.size / dim.stride
    return factor
