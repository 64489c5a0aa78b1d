"""Collapses: rules that remove most of the work of a module, each reported by name.

The mean of a convolution over its positions needs no convolution: every tap meets the sum of the inputs that it
reads. What is left is one pass over the input and a small product. No two taps' weights are added together, so
that infinities and NaN come out as the reference has them: an infinite input meets each weight with its own sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.convolutions import Convolution, is_convolution, read_convolution
from tilewright.graph.graph import Graph, is_parameter_only
from tilewright.graph.nodes import argument, is_one, listed_dims, source_of, target_of
from tilewright.graph.rewrite import Editor, Rule
from tilewright.graph.tap_sums import COLLAPSED, CollapsedConvolution, TapSums, tap_reads

aten = torch.ops.aten

#: Positions of a plane from which sums beat the convolution for any number of channels.
_LARGE_PLANE = 160

#: Passes over the input that reducing a convolution over some of its dims may take.
_MAX_PASSES = 4

#: Taps of a strided convolution that are summed one by one.
_MAX_STRIDED_TAPS = 32


def _is_plain_reduction(node: torch_fx.Node) -> bool:
    return not node.kwargs and node.target in (aten.mean.dim, aten.sum.dim_IntList)


def _anchor_of(node: torch_fx.Node) -> tuple[torch_fx.Node, Convolution] | None:
    """The convolution below a reduction: batched, without bias, used by nothing else."""
    source = source_of(node)
    found = read_convolution(source)
    if found is None or not _is_plain_reduction(node) or len(source.users) != 1 or argument(source, 2) is not None:
        return None
    x = source.args[0]
    same_rank = isinstance(x, torch_fx.Node) and x.meta["val"].dim() == found.rank + 2
    return (source, found) if same_rank else None


def _reduced_convolution(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    found = _anchor_of(node)
    dims = listed_dims(node)
    if found is None or not dims or dims[0] < 2:
        return None
    source, convolution = found
    reduced = [dim - 2 for dim in dims]
    if not _pays(graph, source, convolution, reduced):
        return None
    work = TapSums(editor, source, convolution, reduced)
    total = work.full() if len(reduced) == convolution.rank else work.partial()
    mean = node.target is aten.mean.dim
    if mean:
        total = editor.call(aten.div.Tensor, total, work.positions())
    if len(reduced) == convolution.rank:
        total.meta[COLLAPSED] = CollapsedConvolution(convolution, mean)
    total = work.in_type_of(node, total)
    if not argument(node, 2):
        return total
    for dim in dims:
        total = editor.call(aten.unsqueeze.default, total, dim)
    return total


def _pays(graph: Graph, node: torch_fx.Node, convolution: Convolution, reduced: Sequence[int]) -> bool:
    """The sums and their product cost less than the convolution, at the example sizes.

    For each plane of the input, the weights of its channel are read anew: from about 160 positions on, that is less
    than a convolution's work whatever the number of channels (400 TFLOP/s beside 5 TB/s from the L2 cache). Taps
    that a stride keeps from reading neighbours are summed one by one; reducing some of the dims only takes a pass
    over the input for each set of positions that a tap reads.
    """
    sizes = [convolution.dims[dim] for dim in reduced]
    taps = math.prod(dim.size for dim in sizes)
    if len(reduced) < convolution.rank:
        reads = [{tap_reads(dim, tap, convolution.transposed) for tap in range(dim.size)} for dim in sizes]
        return math.prod(map(len, reads)) <= _MAX_PASSES
    if any(dim.stride > 1 for dim in sizes) and not convolution.transposed and taps > _MAX_STRIDED_TAPS:
        return False
    plane = math.prod(graph.shape_of(source_of(node))[2:])
    weights = math.prod(dim.size for dim in convolution.dims) * int(node.meta["val"].shape[1]) // convolution.groups
    return plane >= _LARGE_PLANE or weights <= _LARGE_PLANE // 5 * plane


# -- over the batch, and over output features ---------------------------------------------------------------


def _batch_apart(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Space first, then what else is reduced: the convolution goes with its positions."""
    found = _anchor_of(node)
    dims = listed_dims(node)
    space = [dim for dim in dims if dim >= 2]
    if found is None or not space or len(space) == len(dims):
        return None
    inner = editor.call(node.target, source_of(node), space, True)
    return editor.call(node.target, inner, list(dims), argument(node, 2, False))


def _batch_first(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """reduce(op(x, w), batch) -> op(reduce(x, batch), w), for what is linear in x."""
    source = source_of(node)
    if listed_dims(node) != (0,) or not _is_plain_reduction(node) or len(source.users) != 1:
        return None
    linear = target_of(source) is aten.linear.default and source.meta["val"].dim() > 1
    if not (linear or _anchor_of(node) is not None) or argument(source, 2) is not None:
        return None
    x = source_of(source)
    if is_one(x.meta["val"].shape[0]):
        return None
    reduced = editor.call(node.target, x, [0], True)
    result = editor.call(source.target, reduced, *source.args[1:])
    return result if argument(node, 2) else editor.call(aten.squeeze.dims, result, [0])


#: Sums of weights of other types would round more than the reference does.
_EXACT = (torch.float32, torch.float64)


def signed_sums(editor: Editor, weight: torch_fx.Node, dim: int) -> tuple[torch_fx.Node, torch_fx.Node]:
    """Two tensors whose sum is the sum of `weight` over `dim`, kept apart where its signs differ.

    An infinite input times weights of both signs sums to NaN; times their sum it would not. Where all weights
    have one sign, both are half of the sum.
    """
    positive = editor.call(aten.sum.dim_IntList, editor.call(aten.clamp_min.default, weight, 0.0), [dim], True)
    negative = editor.call(aten.sum.dim_IntList, editor.call(aten.clamp_max.default, weight, 0.0), [dim], True)
    smallest = editor.call(aten.amin.default, weight, [dim], True)
    largest = editor.call(aten.amax.default, weight, [dim], True)
    same = editor.call(
        aten.gt.Scalar,
        editor.call(aten.mul.Tensor, editor.call(aten.sign.default, smallest), editor.call(aten.sign.default, largest)),
        0,
    )
    half = editor.call(aten.mul.Tensor, editor.call(aten.add.Tensor, positive, negative), 0.5)
    return tuple(editor.call(aten.where.self, same, half, part) for part in (positive, negative))  # type: ignore[return-value]


def _outweighs_sums(graph: Graph, product: torch_fx.Node, dim: int) -> bool:
    """A product has so many rows that summing its weights, in each call, costs less: as in `_pays`."""
    sizes = graph.shape_of(product)
    return math.prod(sizes) // sizes[dim] >= _LARGE_PLANE


def _features_of_linear(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """The reduction over output features of a linear layer: one pass over x."""
    source = source_of(node)
    if target_of(source) is not aten.linear.default or not _is_plain_reduction(node) or len(source.users) != 1:
        return None
    last = source.meta["val"].dim() - 1
    weight = source.args[1]
    if last not in listed_dims(node) or argument(source, 2) is not None or not isinstance(weight, torch_fx.Node):
        return None
    features = int(weight.meta["val"].shape[0])
    x = source_of(source)
    if features < 4 or x.meta["val"].dtype not in _EXACT or not _outweighs_sums(graph, source, last):
        return None
    rows = [editor.call(aten.squeeze.dims, part, [0]) for part in signed_sums(editor, weight, 0)]
    products = [editor.call(aten.mul.Tensor, x, row) for row in rows]
    total = editor.call(aten.sum.dim_IntList, editor.call(aten.add.Tensor, *products), [last], True)
    if node.target is aten.mean.dim:
        total = editor.call(aten.mul.Tensor, total, 1.0 / features)
    rest = [dim for dim in listed_dims(node) if dim != last]
    if rest:
        total = editor.call(node.target, total, rest, True)
    return total if argument(node, 2) else editor.call(aten.squeeze.dims, total, list(listed_dims(node)))


def _channels_of_convolution(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """The reduction over output channels: a convolution with two of them."""
    found = _anchor_of(node)
    if found is None or listed_dims(node) != (1,) or found[1].groups != 1:
        return None
    source, convolution = found
    weight = source.args[1]
    assert isinstance(weight, torch_fx.Node)
    channels = int(source.meta["val"].shape[1])
    if channels < 8 or weight.meta["val"].dtype not in _EXACT or not _outweighs_sums(graph, source, 1):
        return None
    dim = 1 if convolution.transposed else 0
    parts = signed_sums(editor, weight, dim)
    both = editor.call(aten.cat.default, list(parts), dim)
    result = editor.call(source.target, source.args[0], both, *source.args[2:])
    total = editor.call(aten.sum.dim_IntList, result, [1], argument(node, 2, False))
    return editor.call(aten.mul.Tensor, total, 1.0 / channels) if node.target is aten.mean.dim else total


# -- what may lie between -----------------------------------------------------------------------------------

_AFFINE = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)


def _leads_to_linear_map(node: torch_fx.Node) -> bool:
    while target_of(node) in _AFFINE:
        if len(node.users) != 1 or not isinstance(node.args[0], torch_fx.Node):
            return False
        node = node.args[0]
    known = is_convolution(node) or target_of(node) is aten.linear.default
    return known and len(node.users) == 1


def _reduced_affine(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """The reduction moves inside a factor that is constant along it, and to both sides of a sum."""
    affine = source_of(node)
    if target_of(affine) not in _AFFINE or not _is_plain_reduction(node) or affine.kwargs:
        return None
    value, other = affine.args
    rank = affine.meta["val"].dim()
    if not _leads_to_linear_map(affine) or value.meta["val"].dim() != rank:  # type: ignore[union-attr]
        return None
    dims = listed_dims(node)
    if affine.target in (aten.add.Tensor, aten.sub.Tensor):
        other = _reduced_addend(editor, node, other, rank, graph)
    elif not _is_safe(other, graph) or not _constant_along(other, dims, rank):
        other = None
    if other is None:
        return None
    inner = editor.call(node.target, value, list(dims), True)
    result = editor.call(affine.target, inner, other)
    return result if argument(node, 2) else editor.call(aten.squeeze.dims, result, list(dims))


def _reduced_addend(editor: Editor, node: torch_fx.Node, other: Any, rank: int, graph: Graph) -> Any:
    """What is added, reduced; None where it varies along the reduction and does not belong to the module."""
    dims = listed_dims(node)
    is_sum = node.target is aten.sum.dim_IntList
    varying: list[int] = []
    if isinstance(other, torch_fx.Node):
        shift = rank - other.meta["val"].dim()
        varying = [dim for dim in dims if dim >= shift and not is_one(other.meta["val"].shape[dim - shift])]
        if varying:
            if not is_parameter_only(other, graph):
                return None
            other = editor.call(node.target, other, [dim - shift for dim in varying], True)
    for dim in dims if is_sum else ():
        if dim not in varying:
            size = source_of(node).meta["val"].shape[dim]
            count = size if isinstance(size, int) else editor.call(aten.sym_size.int, source_of(source_of(node)), dim)
            if not isinstance(other, torch_fx.Node):
                return None
            other = editor.call(aten.mul.Tensor, other, count)
    return other


def _is_safe(other: Any, graph: Graph) -> bool:
    """A factor that may be infinite, or a divisor that may be 0, does not commute with a sum of mixed signs."""
    if isinstance(other, torch_fx.Node):
        return other.name not in graph.inputs and is_parameter_only(other, graph)
    return bool(other != 0) and abs(other) != float("inf")


def _constant_along(other: Any, dims: Sequence[int], rank: int) -> bool:
    if not isinstance(other, torch_fx.Node):
        return True
    shape = other.meta["val"].shape
    return all(dim - (rank - len(shape)) < 0 or is_one(shape[dim - (rank - len(shape))]) for dim in dims)


_REDUCTIONS = (aten.mean.dim, aten.sum.dim_IntList)

COLLAPSE_RULES: tuple[Rule, ...] = (
    Rule(
        "mean of an affine map",
        "mean(L(x) * a + b) -> mean(L(x)) * a + mean(b), for a convolution or linear layer L and a constant a",
        _REDUCTIONS,
        _reduced_affine,
    ),
    Rule(
        "space first", "mean(conv(x), batch and space) -> mean(mean(conv(x), space), batch)", _REDUCTIONS, _batch_apart
    ),
    Rule(
        "mean of a convolution",
        "mean(conv(x, w), positions) -> sum over taps of (sum of the x that the tap reads) @ w[tap] / positions",
        _REDUCTIONS,
        _reduced_convolution,
        collapse=True,
    ),
    Rule(
        "mean over the batch",
        "mean(L(x), batch) -> L(mean(x, batch)), for a convolution or linear layer L",
        _REDUCTIONS,
        _batch_first,
        collapse=True,
    ),
    Rule(
        "sum over output features",
        "sum(x @ w.T, features) -> sum(x * (w summed over features), inputs)",
        _REDUCTIONS,
        _features_of_linear,
        collapse=True,
    ),
    Rule(
        "sum over output channels",
        "sum(conv(x, w), channels) -> conv(x, w summed over channels)",
        _REDUCTIONS,
        _channels_of_convolution,
        collapse=True,
    ),
)
