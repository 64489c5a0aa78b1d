"""Row regions: parts of a graph that reduce rows and use the results on the rows' own elements again.

Softmax, normalisations, variances, scans and what surrounds them. A row is everything that a reduction removes:
one dim, several, or a dim and a half (a group of channels with its positions); there is one row for each index of
the kept axes. Every value in a region is either one for each element or one for each row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import has_data_dependent_size, size_hint
from tilewright.graph.nodes import argument, is_one, listed_dims, source_of
from tilewright.graph.parameters import is_parameter_arithmetic
from tilewright.kernels.ops.pointwise import is_pointwise
from tilewright.kernels.regions.region import permutation
from tilewright.kernels.regions.scans import scan_of

aten = torch.ops.aten

#: For each dim of a value, the axes that it walks, outer to inner; none for a dim of size 1.
DimAxes = tuple[tuple[int, ...], ...]

#: Reduction -> its kind.
ROW_REDUCTIONS: dict[object, str] = {
    aten.sum.dim_IntList: "sum",
    aten.mean.dim: "mean",
    aten.amin.default: "min",
    aten.amax.default: "max",
    aten.prod.dim_int: "prod",
    aten.var.correction: "var",
    aten.argmin.default: "argmin",
    aten.argmax.default: "argmax",
}

#: Kinds whose result is the place of an element in its row.
PICKS = ("argmin", "argmax")

_PERMUTATIONS = (aten.permute.default, aten.transpose.int, aten.t.default)
_REGROUPINGS = (
    aten.view.default,
    aten.reshape.default,
    aten.unflatten.int,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class RowOperand:
    """A tensor that the kernel loads, and the axes that its dims walk.

    Attributes:
        node: that holds it.
        dims: axes of its dims.
        map: for each dim a number that stands for these axes, so that equal sizes can be compared; None for a dim
            of size 1.
    """

    node: torch_fx.Node
    dims: DimAxes
    map: tuple[int | None, ...]


@dataclass(frozen=True)
class RowRegion:
    """One kernel's worth of the graph, over rows.

    Attributes:
        root: the node whose value is stored.
        nodes: the nodes inside, in execution order; the root is last.
        operands: tensors that are loaded.
        dims: node -> the axes that its dims walk, for nodes inside.
        sizes: of each axis: an int, or torch's symbolic one.
        row_axes: axes that the reductions remove; the others are kept.
        uses: (user, source) -> the axes that the source's dims walk there.
    """

    root: torch_fx.Node
    nodes: tuple[torch_fx.Node, ...]
    operands: tuple[RowOperand, ...]
    dims: dict[torch_fx.Node, DimAxes]
    sizes: tuple[Any, ...]
    row_axes: frozenset[int]
    uses: dict[tuple[torch_fx.Node, torch_fx.Node], DimAxes]

    def is_full(self, node: torch_fx.Node) -> bool:
        """The node has a value for each element, not one for each row."""
        dims = self.dims.get(node)
        if dims is None:
            return any(self.spans_row(operand.dims) for operand in self.operands if operand.node is node)
        return self.spans_row(dims)

    def inputs_of(self, node: torch_fx.Node) -> tuple[torch_fx.Node, ...]:
        """The tensors that a node inside reads; sizes are not among them."""
        scan = scan_of(node)
        sources = node.all_input_nodes if scan is None else [scan.source]
        return tuple(source for source in sources if (node, source) in self.uses)

    def spans_row(self, dims: DimAxes) -> bool:
        """True where one of the dims walks an axis of the row."""
        return any(axis in self.row_axes for axes in dims for axis in axes)

    @property
    def axis_levels(self) -> tuple[int, ...]:
        """One entry for each number in the operands' maps; a row region has no nested levels."""
        numbers = {number for operand in self.operands for number in operand.map if number is not None}
        return (0,) * len(numbers)

    @property
    def reductions(self) -> tuple[torch_fx.Node, ...]:
        """Reductions inside, in execution order."""
        return tuple(node for node in self.nodes if node.target in ROW_REDUCTIONS)

    @property
    def scans(self) -> tuple[torch_fx.Node, ...]:
        """Scans inside, in execution order; what is part of another one is not among them."""
        found = [(node, scan) for node in self.nodes if (scan := scan_of(node)) is not None]
        parts = {inner for _, scan in found for inner in scan.inner}
        return tuple(node for node, _ in found if node not in parts)

    @property
    def picks(self) -> bool:
        """The root is the place of an element in its row."""
        return is_pick(self.root)

    @property
    def scans_backwards(self) -> bool:
        """The scans inside go from the last element to the first."""
        return any(scan.reverse for node in self.scans if (scan := scan_of(node)) is not None)


def is_row_reduction(node: torch_fx.Node) -> bool:
    """True for a reduction of floats, to the same type, over dims that are listed or all; or a pick along one dim."""
    if node.op != "call_function" or node.target not in ROW_REDUCTIONS:
        return False
    if set(node.kwargs) - ({"correction", "keepdim"} if node.target is aten.var.correction else set()):
        return False
    value = source_of(node).meta["val"]
    if is_pick(node):
        return value.dtype in _FLOATS and type(argument(node, 1)) is int and value.dim() > 0
    return value.dtype in _FLOATS and node.meta["val"].dtype == value.dtype and value.dim() > 0


def is_pick(node: torch_fx.Node) -> bool:
    """True for argmin and argmax."""
    return ROW_REDUCTIONS.get(node.target) in PICKS


def moves_nothing(node: torch_fx.Node) -> bool:
    """True for operations that only regroup, permute or broadcast dims."""
    if node.op != "call_function":
        return False
    return node.target in (*_PERMUTATIONS, *_REGROUPINGS, aten.expand.default)


def is_row_fusible(node: torch_fx.Node) -> bool:
    """True for what may lie inside a row region."""
    if node.op != "call_function" or has_data_dependent_size(node):
        return False
    return is_pointwise(node) or moves_nothing(node) or is_row_reduction(node) or scan_of(node) is not None


def keeps_dims(node: torch_fx.Node) -> bool:
    """True for a reduction whose dims stay, with size 1."""
    if node.target is aten.var.correction:
        return bool(node.kwargs.get("keepdim", False))
    return bool(argument(node, 2, False))


def grow_row_region(
    root: torch_fx.Node, stops: frozenset[torch_fx.Node] = frozenset(), *, plain: bool = False
) -> RowRegion | None:
    """The largest row region whose output is `root`; None where there is none, or a plain reduction would do.

    Args:
        root: a fusible node.
        stops: nodes that must stay operands.
        plain: take plain reductions too.
    """
    if not is_row_fusible(root):
        return None
    growth = _Growth(root)
    sizes = root.meta["val"].shape
    growth.requests[root] = {tuple(() if is_one(size) else (growth.new_axis(size),) for size in sizes)}
    if not growth.include(root):
        return None
    for node in _reversed_before(root):
        if node not in growth.requests or node in stops or not is_row_fusible(node):
            continue
        if is_parameter_arithmetic(node) or all(user in growth.maps for user in node.users):
            growth.include(node)
    region = growth.finished()
    return region if region is not None and _is_worth_it(region, plain) else None


def _reversed_before(root: torch_fx.Node) -> Iterator[torch_fx.Node]:
    node = root.prev
    while node.op != "root":
        yield node
        node = node.prev


def _shape_key(node: torch_fx.Node) -> tuple[str, ...]:
    return tuple(str(size) for size in node.meta["val"].shape)


@dataclass
class _Growth:
    """A region while it grows. An axis may be split when a view takes it apart; maps are resolved when read."""

    root: torch_fx.Node
    sizes: list[Any] = field(default_factory=list)
    splits: dict[int, tuple[int, ...]] = field(default_factory=dict)
    maps: dict[torch_fx.Node, DimAxes] = field(default_factory=dict)
    requests: dict[torch_fx.Node, set[DimAxes]] = field(default_factory=dict)
    uses: dict[tuple[torch_fx.Node, torch_fx.Node], DimAxes] = field(default_factory=dict)
    row: tuple[int, ...] | None = None
    reverse: bool | None = None  # the direction of scans: a walk has one

    def new_axis(self, size: Any) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def _parts(self, axis: int) -> tuple[int, ...]:
        if axis not in self.splits:
            return (axis,)
        return tuple(part for inner in self.splits[axis] for part in self._parts(inner))

    def resolve(self, dims: DimAxes) -> DimAxes:
        """The map in axes that are not split any more."""
        return tuple(tuple(part for axis in axes for part in self._parts(axis)) for axes in dims)

    def wanted(self, node: torch_fx.Node) -> set[DimAxes]:
        """The maps under which users want a node."""
        return {self.resolve(dims) for dims in self.requests.get(node, set())}

    def row_now(self) -> frozenset[int] | None:
        """Axes of the row, as far as they are known."""
        return None if self.row is None else frozenset(self.resolve((self.row,))[0])

    def live_axes(self) -> frozenset[int]:
        """Axes that are not split."""
        return frozenset(axis for axis in range(len(self.sizes)) if axis not in self.splits)

    # -- growing -------------------------------------------------------------------------------------------

    def include(self, node: torch_fx.Node) -> bool:
        """Take the node in, and ask for its inputs. False where its axes do not fit what is there."""
        wanted = self.wanted(node)
        if len(wanted) != 1:
            return False
        dims = next(iter(wanted))
        inputs = self._inputs(node, dims)
        if inputs is None:
            return False
        self.maps[node] = self.resolve(dims)
        scan = scan_of(node)
        self.maps |= dict.fromkeys(scan.inner if scan is not None else (), self.maps[node])
        for source, source_dims in inputs:
            self.requests.setdefault(source, set()).add(source_dims)
            self.uses[node, source] = source_dims
        return True

    def _inputs(self, node: torch_fx.Node, dims: DimAxes) -> list[tuple[torch_fx.Node, DimAxes]] | None:
        if is_row_reduction(node):
            return self._reduced(node, dims)
        if scan_of(node) is not None:
            return self._scanned(node, dims)
        if moves_nothing(node):
            source = source_of(node)
            source_dims = self._moved(node, source, dims)
            return None if source_dims is None else [(source, source_dims)]
        return [(source, _broadcast(source, dims)) for source in node.all_input_nodes]

    def _scanned(self, node: torch_fx.Node, dims: DimAxes) -> list[tuple[torch_fx.Node, DimAxes]] | None:
        scan = scan_of(node)
        assert scan is not None
        along, row = dims[scan.dim], self.row_now()
        if not along or (row is not None and row != frozenset(along)) or self.reverse not in (None, scan.reverse):
            return None
        self.row, self.reverse = along, scan.reverse
        return [(scan.source, dims)]

    def _reduced(self, node: torch_fx.Node, dims: DimAxes) -> list[tuple[torch_fx.Node, DimAxes]] | None:
        source, over = source_of(node), listed_dims(node)
        kept = iter(dims if not keeps_dims(node) else [axes for dim, axes in enumerate(dims) if dim not in over])
        rank = len(source.meta["val"].shape)
        skeleton = [None if dim in over else next(kept) for dim in range(rank)]
        outside = {axis for axes in skeleton if axes is not None for axis in axes}
        found = self._row_dims(source, skeleton, outside)
        if found is None:
            return None
        row = frozenset(axis for dim in over for axis in found[dim])
        known = self.row_now()
        # Every row is reduced once: each axis is kept by all reductions, or removed by all.
        if not row or (known is not None and row != known) or row | outside != self.live_axes():
            return None
        self.row = tuple(sorted(row))
        return [(source, found)]

    def _row_dims(
        self, source: torch_fx.Node, skeleton: Sequence[tuple[int, ...] | None], outside: set[int]
    ) -> DimAxes | None:
        """The map of a reduction's input: as others want it, as a value of its shape has it, or with new axes."""
        for dims in sorted(self.wanted(source) | self._maps_of_shape(source)):
            agrees = all(want is None or want == axes for want, axes in zip(skeleton, dims, strict=True))
            row = {axis for want, axes in zip(skeleton, dims, strict=True) if want is None for axis in axes}
            if agrees and not row & outside:
                return dims
        if self.row is not None or outside != self.live_axes():
            return None
        sizes = source.meta["val"].shape
        return tuple(
            axes if axes is not None else (() if is_one(size) else (self.new_axis(size),))
            for axes, size in zip(skeleton, sizes, strict=True)
        )

    def _maps_of_shape(self, source: torch_fx.Node) -> set[DimAxes]:
        shape = _shape_key(source)
        known = {node for node in (*self.maps, *self.requests) if isinstance(node.meta.get("val"), torch.Tensor)}
        alike = [node for node in known if _shape_key(node) == shape]
        return {self.resolve(self.maps[node]) for node in alike if node in self.maps} | {
            dims for node in alike for dims in self.wanted(node)
        }

    # -- views ---------------------------------------------------------------------------------------------

    def _moved(self, node: torch_fx.Node, source: torch_fx.Node, dims: DimAxes) -> DimAxes | None:
        rank = len(source.meta["val"].shape)
        if node.target in _PERMUTATIONS:
            result: list[tuple[int, ...]] = [()] * rank
            for position, dim in enumerate(permutation(node, rank)):
                result[dim] = dims[position]
            return tuple(result)
        if node.target is aten.expand.default:
            return _broadcast(source, dims)
        return self._regrouped(source.meta["val"].shape, dims)

    def _regrouped(self, sizes: Sequence[Any], dims: DimAxes) -> DimAxes | None:
        """The map of a view's input of these sizes, from the axes that its output walks; splits axes on the way."""
        axes = [axis for group in dims for axis in group]
        result: list[tuple[int, ...]] = []
        for size in sizes:
            if is_one(size):
                result.append(())
                continue
            taken = self._take(axes, size)
            if taken is None:
                return None
            result.append(taken)
        return None if axes else tuple(result)

    def _take(self, axes: list[int], size: Any) -> tuple[int, ...] | None:
        """The leading axes whose product is `size`, removed from `axes`; the last of them is split to fit."""
        taken: list[int] = []
        product: Any = 1
        while axes and not _same(product, size):
            axis = axes.pop(0)
            together = product * self.sizes[axis]
            if not _same(together, size) and size_hint(together) > size_hint(size):
                parts = self._split(axis, product, size)
                if parts is None:
                    return None
                axes.insert(0, parts[1])
                axis, together = parts[0], size
            taken.append(axis)
            product = together
        return tuple(taken) if _same(product, size) else None

    def _split(self, axis: int, product: Any, size: Any) -> tuple[int, int] | None:
        """An axis in two, so that `product` times the outer one is `size`."""
        if not _divides(product, size):
            return None
        outer = size // product
        if not _divides(outer, self.sizes[axis]):
            return None
        parts = (self.new_axis(outer), self.new_axis(self.sizes[axis] // outer))
        self.splits[axis] = parts
        return parts

    # -- the end -------------------------------------------------------------------------------------------

    def finished(self) -> RowRegion | None:
        row = self.row_now()
        if row is None:
            return None
        inside = [node for node in self.root.graph.nodes if node in self.maps]
        live = sorted(self.live_axes())
        number = {axis: position for position, axis in enumerate(live)}

        def numbered(dims: DimAxes) -> DimAxes:
            return tuple(tuple(number[axis] for axis in axes) for axes in self.resolve(dims))

        walks: dict[tuple[int, ...], int] = {}
        operands = tuple(
            RowOperand(
                node,
                numbered(dims),
                tuple(walks.setdefault(axes, len(walks)) if axes else None for axes in numbered(dims)),
            )
            for node in self.root.graph.nodes
            if node in self.requests and node not in self.maps
            for dims in sorted(self.wanted(node))
        )
        return RowRegion(
            self.root,
            tuple(inside),
            operands,
            {node: numbered(self.maps[node]) for node in inside},
            tuple(self.sizes[axis] for axis in live),
            frozenset(number[axis] for axis in row),
            {pair: numbered(dims) for pair, dims in self.uses.items()},
        )


def _is_worth_it(region: RowRegion, plain: bool) -> bool:
    """A row is read again after it was reduced, or its reduction is none of the plain ones; data is loaded."""
    if not any(region.spans_row(operand.dims) for operand in region.operands):
        return False
    if region.scans or region.is_full(region.root):
        return bool(region.scans or region.reductions)
    special = any(ROW_REDUCTIONS[node.target] in ("prod", "var", *PICKS) for node in region.reductions)
    return special or dependent_reductions(region) > 1 or (plain and bool(region.reductions))


def dependent_reductions(region: RowRegion) -> int:
    """How many reductions follow one another on the longest path."""
    depth: dict[torch_fx.Node, int] = {}
    for node in region.nodes:
        before = max((depth.get(source, 0) for source in node.all_input_nodes), default=0)
        depth[node] = before + (node.target in ROW_REDUCTIONS)
    return max(depth.values(), default=0)


def _broadcast(source: torch_fx.Node, dims: DimAxes) -> DimAxes:
    """The map of a pointwise operand, aligned from the right; dims of size 1 follow no axis."""
    sizes = source.meta["val"].shape
    aligned = dims[len(dims) - len(sizes) :] if len(sizes) else ()
    return tuple(() if is_one(size) else axes for size, axes in zip(sizes, aligned, strict=True))


def _same(a: Any, b: Any) -> bool:
    return str(a) == str(b)


def _divides(part: Any, whole: Any) -> bool:
    """`part` divides `whole` whatever the symbols stand for."""
    if _same(part, 1):
        return True
    if isinstance(part, int) and isinstance(whole, int):
        return math.gcd(part, whole) == part
    quotient = whole // part
    return "//" not in str(quotient) and _same(quotient * part, whole)
