"""What follows an anchor, tile by tile: grown from the anchor towards the outputs.

Values follow the anchor's dims. Pointwise operations keep a tile; a reduction over the columns leaves one value a
row; what needs such a value for every column needs the whole row in one tile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.fx as torch_fx

from tilewright.graph.nodes import argument, is_one, listed_dims, source_of, target_of
from tilewright.graph.parameters import is_parameter_arithmetic
from tilewright.kernels.ops.pointwise import is_pointwise
from tilewright.kernels.regions.region import (
    AxisMap,
    broadcast_map,
    is_reduction,
    is_relabelling,
    keeps_dims,
    relabelled_map,
)

aten = torch.ops.aten

_PERMUTATIONS = (aten.permute.default, aten.transpose.int, aten.t.default, aten.expand.default)

#: Operations along a row that keep its length.
ROW_OPERATIONS = frozenset(
    {aten.softmax.int, aten.log_softmax.int, aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default}
)


@dataclass(frozen=True)
class TileOperand:
    """A tensor that the epilogue loads, and the anchor's dims that its own follow."""

    node: torch_fx.Node
    map: AxisMap


@dataclass(frozen=True)
class TileRegion:
    """What one kernel computes on tiles of an anchor.

    Attributes:
        anchor: the node whose value the tiles hold.
        nodes: what follows, in execution order; the anchor is not among them.
        maps: node -> the anchor's dims that its dims follow; None for dims of size 1.
        operands: tensors that are loaded.
        computed: arithmetic on parameters alone, computed where it is read instead of loaded.
        outputs: the nodes whose values are stored, the anchor among them where others read it.
        columns: the anchor's dim that holds the columns.
        whole_rows: some value of a tile depends on whole rows.
    """

    anchor: torch_fx.Node
    nodes: tuple[torch_fx.Node, ...]
    maps: dict[torch_fx.Node, AxisMap]
    operands: tuple[TileOperand, ...]
    outputs: tuple[torch_fx.Node, ...]
    columns: int
    whole_rows: bool
    computed: frozenset[torch_fx.Node] = frozenset()

    @property
    def reductions(self) -> tuple[torch_fx.Node, ...]:
        """Nodes that leave one value a row."""
        return tuple(node for node in self.nodes if is_row_reduction(node) and self.columns not in self.maps[node])

    def of_rows(self, node: torch_fx.Node) -> bool:
        """True for a value that has no column."""
        return self.columns not in self.maps[node]


def is_row_reduction(node: torch_fx.Node) -> bool:
    """True for what may reduce rows of a tile."""
    return is_reduction(node) or target_of(node) is aten.logsumexp.default


@dataclass
class _Growth:
    anchor: torch_fx.Node
    columns: int
    group: int
    whole_rows_allowed: bool
    row_results: bool
    maps: dict[torch_fx.Node, AxisMap] = field(default_factory=dict)
    on_rows: set[torch_fx.Node] = field(default_factory=set)  # values that depend on a whole row
    beyond: set[torch_fx.Node] = field(default_factory=set)  # not inside, but after something that is

    def take(self, node: torch_fx.Node) -> bool:
        """Take the node in where it can be computed on tiles."""
        if any(source in self.beyond for source in node.all_input_nodes) or not _is_float(node):
            return False
        map_ = self._map(node)
        if map_ is None or (not is_relabelling(node) and not _is_contiguous(node)):
            return False
        whole = any(source in self.on_rows for source in node.all_input_nodes)
        if target_of(node) in ROW_OPERATIONS or is_row_reduction(node):
            whole = True
        by_group = target_of(node) is aten.group_norm.default
        if is_row_reduction(node) and not self.row_results:
            return False
        if whole and self.columns in map_ and not self.whole_rows_allowed and not by_group:
            return False
        if by_group and not self._group_fits(node):
            return False
        self.maps[node] = map_
        if whole and not by_group:
            self.on_rows.add(node)
        return True

    def _group_fits(self, node: torch_fx.Node) -> bool:
        """A group's columns lie in one tile, and their number is a power of two."""
        channels, groups = node.meta["val"].shape[1], argument(node, 1)
        if not isinstance(channels, int) or channels % groups:
            return False
        size = channels // groups
        return bool(size & (size - 1) == 0 and size <= self.group)

    def _map(self, node: torch_fx.Node) -> AxisMap | None:
        if is_relabelling(node):
            return self._relabelled(node)
        if is_pointwise(node):
            return self._pointwise(node)
        if is_row_reduction(node):
            return self._reduced(node)
        if target_of(node) in ROW_OPERATIONS:
            return self._row_operation(node)
        return None

    def _pointwise(self, node: torch_fx.Node) -> AxisMap | None:
        sizes = node.meta["val"].shape
        result: list[int | None] = [None] * len(sizes)
        for source in node.all_input_nodes:
            if source not in self.maps:
                continue
            map_ = self.maps[source]
            for offset, axis in enumerate(reversed(map_), start=1):
                if axis is not None and result[-offset] not in (None, axis):
                    return None
                result[-offset] = axis if axis is not None else result[-offset]
        named = [axis for axis in result if axis is not None]
        if len(set(named)) != len(named):
            return None
        return (
            tuple(result) if all((axis is None) == is_one(s) for axis, s in zip(result, sizes, strict=True)) else None
        )

    def _relabelled(self, node: torch_fx.Node) -> AxisMap | None:
        source = source_of(node)
        if target_of(node) in _PERMUTATIONS or (
            len(node.all_input_nodes) > 1 and target_of(node) is aten.expand.default
        ):
            return None
        axes = [axis for axis in self.maps[source] if axis is not None]
        sizes = node.meta["val"].shape
        if sum(not is_one(size) for size in sizes) != len(axes):
            return None
        rest = iter(axes)
        return tuple(None if is_one(size) else next(rest) for size in sizes)

    def _reduced(self, node: torch_fx.Node) -> AxisMap | None:
        source = source_of(node)
        map_ = self.maps[source]
        dims = listed_dims(node)
        if [map_[dim] for dim in dims if map_[dim] is not None] != [self.columns]:
            return None
        if keeps_dims(node):
            return tuple(None if dim in dims else axis for dim, axis in enumerate(map_))
        return tuple(axis for dim, axis in enumerate(map_) if dim not in dims)

    def _row_operation(self, node: torch_fx.Node) -> AxisMap | None:
        source = source_of(node)
        if source not in self.maps:
            return None
        map_ = self.maps[source]
        rank = len(map_)
        if target_of(node) in (aten.softmax.int, aten.log_softmax.int):
            fits = len(node.args) == 2 and not node.kwargs and map_[int(node.args[1]) % rank] == self.columns  # type: ignore[arg-type]
            return map_ if fits else None
        if target_of(node) is aten.group_norm.default:
            return map_ if rank == 2 and map_[1] == self.columns else None
        dims = node.args[1]
        return map_ if isinstance(dims, list | tuple) and len(dims) == 1 and map_[-1] == self.columns else None


def _is_float(node: torch_fx.Node) -> bool:
    value = node.meta.get("val")
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.bool)
    return isinstance(value, torch.Tensor) and value.dtype in kinds


def _is_contiguous(node: torch_fx.Node) -> bool:
    """What is stored lies row-major, as torch would leave it."""
    return bool(node.meta["val"].is_contiguous())


def grow_tiles(
    anchor: torch_fx.Node,
    *,
    whole_rows: bool,
    row_results: bool,
    group: int,
    taken: frozenset[torch_fx.Node] = frozenset(),
) -> TileRegion:
    """What can be computed on tiles of the anchor's value.

    Args:
        anchor: a node of at least two dims; its last one holds the columns.
        whole_rows: a tile holds whole rows.
        row_results: reductions of rows are taken in.
        group: columns of a tile that surely lie together (a group norm's group must fit).
        taken: nodes that other kernels compute.
    """
    columns = anchor.meta["val"].dim() - 1
    growth = _Growth(anchor, columns, group, whole_rows, row_results)
    growth.maps[anchor] = tuple(None if is_one(s) else dim for dim, s in enumerate(anchor.meta["val"].shape))
    node = anchor.next
    while node.op != "root":
        if node.op == "call_function" and any(s in growth.maps or s in growth.beyond for s in node.all_input_nodes):
            fusible = is_pointwise(node) or is_relabelling(node) or is_row_reduction(node)
            fusible = fusible or target_of(node) in ROW_OPERATIONS
            if node in taken or not fusible or not growth.take(node):
                growth.beyond.add(node)
        node = node.next
    return _finish(growth)


def _finish(growth: _Growth) -> TileRegion:
    """Trailing views go: they cost nothing outside, and other kernels may want their input as it is."""
    inside = [node for node in growth.anchor.graph.nodes if node in growth.maps and node is not growth.anchor]
    while inside and (last := next((n for n in reversed(inside) if _is_trailing_view(n, growth.maps)), None)):
        inside.remove(last)
        del growth.maps[last]
    outputs = tuple(node for node in (growth.anchor, *inside) if any(user not in growth.maps for user in node.users))
    operands: dict[TileOperand, None] = {}
    computed: set[torch_fx.Node] = set()
    for node in inside:
        for source in node.all_input_nodes:
            if source not in growth.maps:
                map_ = operand_map(node, source, growth.maps[node], growth.columns)
                operands |= dict.fromkeys(_loaded(TileOperand(source, map_), computed))
    whole = any(node in growth.on_rows and growth.columns in growth.maps[node] for node in inside)
    return TileRegion(
        growth.anchor,
        tuple(inside),
        dict(growth.maps),
        tuple(operands),
        outputs,
        growth.columns,
        whole,
        frozenset(computed),
    )


def _loaded(operand: TileOperand, computed: set[torch_fx.Node]) -> list[TileOperand]:
    """What is loaded for an operand: itself, or what arithmetic on parameters makes it of; adds that to `computed`."""
    sources = sources_of(operand)
    if sources is None:
        return [operand]
    computed.add(operand.node)
    return [leaf for source in sources for leaf in _loaded(source, computed)]


def sources_of(operand: TileOperand) -> list[TileOperand] | None:
    """What an operand is computed of where it is read; None where it is loaded."""
    node = operand.node
    if not is_parameter_arithmetic(node) or not _is_float(node):
        return None
    if not is_relabelling(node):
        return [TileOperand(source, broadcast_map(source, operand.map)) for source in node.all_input_nodes]
    map_ = relabelled_map(node, source_of(node), operand.map)
    return None if map_ is None else [TileOperand(source_of(node), map_)]


def _is_trailing_view(node: torch_fx.Node, maps: dict[torch_fx.Node, AxisMap]) -> bool:
    return is_relabelling(node) and not any(user in maps for user in node.users)


def operand_map(node: torch_fx.Node, source: torch_fx.Node, map_: AxisMap, columns: int) -> AxisMap:
    """The map of an operand of `node`: aligned from the right; of a norm's weights, the columns."""
    sizes = source.meta["val"].shape
    if target_of(node) in ROW_OPERATIONS:
        return (columns,)
    aligned = map_[len(map_) - len(sizes) :] if len(sizes) else ()
    return tuple(None if is_one(size) else axis for size, axis in zip(sizes, aligned, strict=True))
