"""One form of many: operations that people write in several ways, in the way that the other rules know.

Each rule keeps the values, with NaN and infinities, beyond rounding. What differs for NaN stays as it is:
`where(y < 0, y, 0)` is 0 there, and `minimum(y, 0)` is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.activation_forms import ACTIVATION_FORMS
from tilewright.graph.graph import Graph, fixed_size, is_parameter_only, size_hint
from tilewright.graph.nodes import argument, is_one, listed_dims, source_of, target_of
from tilewright.graph.product_forms import PRODUCT_FORMS
from tilewright.graph.rewrite import Editor, Rule
from tilewright.graph.words import WORD_RULES

aten = torch.ops.aten

# -- limits ------------------------------------------------------------------------------------------------


def _is_float(node: torch_fx.Node) -> bool:
    return bool(node.meta["val"].is_floating_point())


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _one_sided_clamp(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Of what depends on the inputs: prepared values are PyTorch's, which has a form for each side."""
    bound = argument(node, 1)
    if isinstance(bound, torch_fx.Node) or is_parameter_only(node, graph) or node.kwargs:
        return None
    bounds = (bound,) if node.target is aten.clamp_min.default else (None, bound)
    return editor.call(aten.clamp.default, node.args[0], *bounds)


def _clamp(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """clamp(x, 0) -> relu(x), clamp(x, a, b) -> hardtanh(x, a, b); a whole number as a bound of floats is a float."""
    source = source_of(node)
    low = argument(node, 1, node.kwargs.get("min"))
    high = argument(node, 2, node.kwargs.get("max"))
    same = _is_float(source) and node.meta["val"].dtype is source.meta["val"].dtype
    if not same or isinstance(low, torch_fx.Node) or isinstance(high, torch_fx.Node):
        return None
    low, high = _as_float(low), _as_float(high)
    if low is not None and high is not None:
        return editor.call(aten.hardtanh.default, source, low, high)
    if low is not None and high is None and low == 0.0 and not is_parameter_only(node, graph):
        return editor.call(aten.relu.default, source)
    args = (source, low) if high is None else (source, low, high)
    return None if args == tuple(node.args) and _types(args) == _types(node.args) else editor.call(node.target, *args)


def _types(values: Any) -> list[type]:
    return [type(value) for value in values]


#: Operations that tell 0 from -0.
_SIGN_OF_ZERO = (
    aten.div.Tensor,
    aten.reciprocal.default,
    aten.rsqrt.default,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.atan2.default,
    aten.copysign.Tensor,
    aten.signbit.default,
)


def _negated_relu(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """The zeros have another sign: not before what would tell them apart."""
    relu = source_of(node)
    if target_of(relu) is not aten.relu.default or len(relu.users) != 1 or any(_tells_zeros_apart(node)):
        return None
    negated = source_of(relu)
    if target_of(negated) is not aten.neg.default or not _is_float(node):
        return None
    return editor.call(aten.clamp.default, source_of(negated), None, 0.0)


def _tells_zeros_apart(node: torch_fx.Node) -> Iterator[bool]:
    waiting, seen = list(node.users), {node}
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        by_node = user.target is not aten.div.Tensor or isinstance(argument(user, 1), torch_fx.Node)
        yield user.target in _SIGN_OF_ZERO and by_node
        waiting += list(user.users)


# -- reductions over a plane -------------------------------------------------------------------------------


def _whole_average(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    sizes = argument(node, 1)
    listed = [sizes] if isinstance(sizes, int) else list(sizes)
    if any(size != 1 for size in listed):
        return None
    x = source_of(node)
    rank = x.meta["val"].dim()
    dims = list(range(rank - len(listed), rank))
    if all(is_one(x.meta["val"].shape[dim]) for dim in dims):
        return x
    return editor.call(aten.mean.dim, x, dims, True)


_AVERAGES = {aten.avg_pool1d.default: 1, aten.avg_pool2d.default: 2, aten.avg_pool3d.default: 3}

#: Windows of more positions are reductions, and no pooling.
_LARGEST_WINDOW = 256


def _average_of_plane(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """A window that is the whole plane: of sizes that are fixed, or one so large that it may as well be."""
    x, rank = source_of(node), _AVERAGES[target_of(node)]
    given = argument(node, 1)
    window = [given] * rank if isinstance(given, int) else list(given) * (rank if len(given) == 1 else 1)
    padding = argument(node, 3, 0)
    padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    if padded or any(argument(node, position) for position in (4, 6)) or any(type(size) is not int for size in window):
        return None
    sizes = list(x.meta["val"].shape[-rank:])
    if [size_hint(size) for size in sizes] != window or x.meta["val"].dim() != rank + 2:
        return None
    if any(fixed_size(size) is None for size in sizes):
        if math.prod(window) <= _LARGEST_WINDOW:
            return None
        if not all(bool(size == fixed) for size, fixed in zip(sizes, window, strict=True)):  # noted as a guard
            return None
    return editor.call(aten.mean.dim, x, list(range(2, rank + 2)), True)


_REDUCTIONS = (aten.sum.dim_IntList, aten.mean.dim, aten.amin.default, aten.amax.default)


def _texts(sizes: Any) -> list[str]:
    return [str(size) for size in sizes]


def _of_flattened(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """reduce(x as [N, C, H * W], last) -> reduce(x, last two)"""
    view = source_of(node)
    if target_of(view) not in (aten.view.default, aten.reshape.default, aten.flatten.using_ints) or node.kwargs:
        return None
    x = source_of(view)
    flat, sizes = view.meta["val"].shape, x.meta["val"].shape
    last = len(flat) - 1
    if listed_dims(node) != (last,) or len(sizes) <= len(flat) or last == 0:
        return None
    if _texts(flat[:last]) != _texts(sizes[:last]) or x.meta["val"].dtype is not view.meta["val"].dtype:
        return None
    reduced = editor.call(node.target, x, list(range(last, len(sizes))), False)
    return editor.call(aten.unsqueeze.default, reduced, last) if argument(node, 2) else reduced


def _sum_over_count(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    total, count = source_of(node), argument(node, 1)
    if target_of(total) is not aten.sum.dim_IntList or total.kwargs or node.kwargs or not _is_float(total):
        return None
    x = source_of(total)
    elements: Any = 1
    for dim in listed_dims(total):
        elements = elements * x.meta["val"].shape[dim]
    value = count.meta["val"] if isinstance(count, torch_fx.Node) else count
    if not isinstance(value, int | torch.SymInt) or isinstance(value, bool) or str(value) != str(elements):
        return None
    if node.meta["val"].dtype is not x.meta["val"].dtype or x.meta["val"].dim() == 0:
        return None
    return editor.call(aten.mean.dim, x, list(listed_dims(total)), bool(argument(total, 2)))


def _plane_in_steps(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """mean(mean(x, width), height) -> mean(x, both), of planes; each of the two alone would be another collapse."""
    inner = source_of(node)
    if target_of(inner) is not node.target or node.kwargs or inner.kwargs or len(inner.users) != 1:
        return None
    x = source_of(inner)
    rank = x.meta["val"].dim()
    same = x.meta["val"].dtype is inner.meta["val"].dtype is node.meta["val"].dtype
    if rank < 4 or inner.meta["val"].dim() == 0 or not same:
        return None
    first = listed_dims(inner)
    kept = [dim for dim in range(rank) if argument(inner, 2) or dim not in first]
    second = [kept[dim] for dim in listed_dims(node)]
    if min((*first, *second)) < 2 or set(first) & set(second):
        return None
    dims = sorted({*first, *second})
    merged = editor.call(node.target, x, dims, True)
    gone = set() if argument(inner, 2) else set(first)
    gone |= set() if argument(node, 2) else set(second)
    return editor.call(aten.squeeze.dims, merged, sorted(gone)) if gone else merged


FORM_RULES: tuple[Rule, ...] = (
    *WORD_RULES,
    Rule(
        "one-sided clamp",
        "clamp_min(x, a) -> clamp(x, a), clamp_max(x, b) -> clamp(x, max=b)",
        (aten.clamp_min.default, aten.clamp_max.default),
        _one_sided_clamp,
    ),
    Rule("clamp", "clamp(x, 0) -> relu(x), clamp(x, a, b) -> hardtanh(x, a, b)", (aten.clamp.default,), _clamp),
    Rule("negated relu", "-relu(-x) -> clamp(x, max=0)", (aten.neg.default,), _negated_relu),
    *ACTIVATION_FORMS,
    *PRODUCT_FORMS,
    Rule(
        "whole average",
        "adaptive_avg_pool(x, 1) -> mean(x, space)",
        (aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default),
        _whole_average,
    ),
    Rule("average of a plane", "avg_pool(x, size of x) -> mean(x, space)", tuple(_AVERAGES), _average_of_plane),
    Rule("of flattened", "mean(x as [N, C, H * W], 2) -> mean(x, [2, 3])", _REDUCTIONS, _of_flattened),
    Rule("sum over count", "sum(x, dims) / number of elements -> mean(x, dims)", (aten.div.Tensor,), _sum_over_count),
    Rule("plane in steps", "mean(mean(x, 3), 2) -> mean(x, [2, 3])", _REDUCTIONS, _plane_in_steps),
)
