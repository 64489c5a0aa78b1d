"""Composite operations written out: losses, normalisations, the softmax family, as pointwise operations and reductions.

The planner works on this form, so that what comes before and after a normalisation lies in the same kernel.
Reductions that remain are `sum`, `mean`, `amin`, `amax`, `prod` and `var` over listed dims.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph, fixed_size
from tilewright.graph.losses import LOSS_RULES
from tilewright.graph.nodes import argument, is_one, listed_dims, source_of, target_of
from tilewright.graph.rewrite import Editor, Rewritten, Rule, rewrite

aten = torch.ops.aten


def expand_composites(graph: Graph, keep: Collection[str] = ()) -> Rewritten:
    """The graph with every composite of the table written out, and the rules that fired.

    Args:
        graph: it is left alone.
        keep: names of nodes that stay as they are.
    """

    def unless_kept(rule: Rule) -> Rule:
        return replace(
            rule, apply=lambda editor, node, given: None if node.name in keep else rule.apply(editor, node, given)
        )

    return rewrite(graph, [unless_kept(rule) for rule in EXPANSION_RULES])


def _keyword(node: torch_fx.Node, position: int, name: str, default: Any = None) -> Any:
    return argument(node, position, node.kwargs.get(name, default))


def _rank(node: torch_fx.Node) -> int:
    rank: int = node.meta["val"].dim()
    return rank


def _single(x: torch_fx.Node, dims: Iterable[int]) -> bool:
    """The dims hold one element: nothing is reduced."""
    return all(is_one(x.meta["val"].shape[dim]) for dim in dims)


# -- softmax family ----------------------------------------------------------------------------------------


def _softmax_input(editor: Editor, node: torch_fx.Node) -> torch_fx.Node | None:
    """The input in the type that is asked for; None where there is no dim to go over, or no float."""
    source = source_of(node)
    dtype = _keyword(node, 2, "dtype")
    if _rank(source) == 0 or not source.meta["val"].dtype.is_floating_point or _single(source, [argument(node, 1)]):
        return None
    if dtype is None or dtype == source.meta["val"].dtype:
        return source
    return editor.call(aten._to_copy.default, source, dtype=dtype) if dtype.is_floating_point else None


def _expand_softmax(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    x = _softmax_input(editor, node)
    if x is None:
        return None
    dims = [argument(node, 1)]
    shifted = editor.call(aten.sub.Tensor, x, editor.call(aten.amax.default, x, dims, True))
    weights = editor.call(aten.exp.default, shifted)
    total = editor.call(aten.sum.dim_IntList, weights, dims, True)
    return editor.call(aten.div.Tensor, weights, total)


def _expand_log_softmax(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    x = _softmax_input(editor, node)
    if x is None:
        return None
    dims = [argument(node, 1)]
    shifted = editor.call(aten.sub.Tensor, x, editor.call(aten.amax.default, x, dims, True))
    total = editor.call(aten.sum.dim_IntList, editor.call(aten.exp.default, shifted), dims, True)
    return editor.call(aten.sub.Tensor, shifted, editor.call(aten.log.default, total))


def _expand_logsumexp(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """The largest element is taken out unless it is infinite, as torch does."""
    x = source_of(node)
    if _rank(x) == 0 or not x.meta["val"].dtype.is_floating_point:
        return None
    dims = list(listed_dims(node))
    if _single(x, dims):
        return None
    largest = editor.call(aten.amax.default, x, dims, True)
    infinite = editor.call(aten.isinf.default, largest)
    shift = editor.call(aten.masked_fill.Scalar, largest, infinite, 0.0)
    weights = editor.call(aten.exp.default, editor.call(aten.sub.Tensor, x, shift))
    logarithm = editor.call(aten.log.default, editor.call(aten.sum.dim_IntList, weights, dims, True))
    result = editor.call(aten.add.Tensor, logarithm, shift)
    return result if argument(node, 2, False) else editor.call(aten.squeeze.dims, result, dims)


# -- normalisations ----------------------------------------------------------------------------------------


def _normalised(editor: Editor, x: torch_fx.Node, dims: Sequence[int], eps: Any) -> torch_fx.Node:
    """(x - mean) / sqrt(variance + eps) over `dims`."""
    mean = editor.call(aten.mean.dim, x, list(dims), True)
    variance = editor.call(aten.var.correction, x, list(dims), correction=0, keepdim=True)
    scale = editor.call(aten.rsqrt.default, editor.call(aten.add.Tensor, variance, eps))
    return editor.call(aten.mul.Tensor, editor.call(aten.sub.Tensor, x, mean), scale)


def _affine(editor: Editor, x: torch_fx.Node, weight: Any, bias: Any, spatial: int = 0) -> torch_fx.Node:
    """x * weight + bias, each along the dim that has `spatial` dims after it; None leaves one out."""
    for target, value in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
        if isinstance(value, torch_fx.Node):
            shaped = editor.call(aten.view.default, value, [-1] + [1] * spatial) if spatial else value
            x = editor.call(target, x, shaped)
    return x


def _expand_layer_norm(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    x, over = source_of(node), len(argument(node, 1))
    dims = range(_rank(x) - over, _rank(x))
    if _single(x, dims):
        return None
    normalised = _normalised(editor, x, dims, argument(node, 4, 1e-5))
    return _affine(editor, normalised, argument(node, 2), argument(node, 3))


def _expand_group_norm(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """A group's channels and positions are normalised together."""
    x, groups = source_of(node), argument(node, 1)
    channels = fixed_size(x.meta["val"].shape[1])
    if channels is None or channels % groups:
        return None
    if channels == groups and _single(x, range(2, _rank(x))):
        return None
    apart = editor.call(aten.unflatten.int, x, 1, [groups, channels // groups])
    normalised = _normalised(editor, apart, range(2, _rank(apart)), argument(node, 4, 1e-5))
    together = editor.call(aten.flatten.using_ints, normalised, 1, 2)
    return _affine(editor, together, argument(node, 2), argument(node, 3), _rank(x) - 2)


def _expand_instance_norm(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Each channel of each image alone; with running statistics, as batch norm in eval mode."""
    x, weight, bias, mean, variance, use_input_stats, _momentum, eps = node.args[:8]
    assert isinstance(x, torch_fx.Node)
    spatial = _rank(x) - 2
    if use_input_stats:
        if mean is not None or _single(x, range(2, _rank(x))):
            return None  # running statistics are updated
        normalised = _normalised(editor, x, range(2, _rank(x)), eps)
    else:
        centred = editor.call(aten.sub.Tensor, x, editor.call(aten.view.default, mean, [-1] + [1] * spatial))
        shaped = editor.call(aten.view.default, variance, [-1] + [1] * spatial)
        scale = editor.call(aten.rsqrt.default, editor.call(aten.add.Tensor, shaped, eps))
        normalised = editor.call(aten.mul.Tensor, centred, scale)
    return _affine(editor, normalised, weight, bias, spatial)


def _expand_batch_statistics(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Batch norm without running statistics: each channel over the batch and all positions."""
    source = source_of(node)
    if target_of(source) is not aten._native_batch_norm_legit.no_stats or argument(node, 1) != 0:
        return None
    x, weight, bias, _training, _momentum, eps = source.args[:6]
    assert isinstance(x, torch_fx.Node)
    normalised = _normalised(editor, x, [0, *range(2, _rank(x))], eps)
    return _affine(editor, normalised, weight, bias, _rank(x) - 2)


def _expand_rms_norm(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """x / sqrt(mean(x**2) + eps); by default eps is the resolution of the type that torch computes in."""
    x, over = source_of(node), len(argument(node, 1))
    dims = list(range(_rank(x) - over, _rank(x)))
    if _single(x, dims):
        return None
    eps = _keyword(node, 3, "eps")
    if eps is None:
        wide = x.meta["val"].dtype is torch.float64
        eps = torch.finfo(torch.float64 if wide else torch.float32).eps
    squares = editor.call(aten.mean.dim, editor.call(aten.mul.Tensor, x, x), dims, True)
    scale = editor.call(aten.rsqrt.default, editor.call(aten.add.Tensor, squares, eps))
    return _affine(editor, editor.call(aten.mul.Tensor, x, scale), _keyword(node, 2, "weight"), None)


# -- spreads and norms -------------------------------------------------------------------------------------


def _expand_std(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    variance = editor.call(aten.var.correction, *node.args, **node.kwargs)
    return editor.call(aten.sqrt.default, variance)


def _by_correction(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Variances that say `unbiased` in the form that says how many degrees of freedom are lost."""
    over_all = target_of(node) in (aten.var.default, aten.std.default)
    dims = None if over_all else list(argument(node, 1) or []) or None
    unbiased = bool(_keyword(node, 1 if over_all else 2, "unbiased", True))
    keepdim = False if over_all else bool(_keyword(node, 3, "keepdim", False))
    spread = target_of(node) in (aten.std.default, aten.std.dim)
    target = aten.std.correction if spread else aten.var.correction
    return editor.call(target, node.args[0], dims, correction=int(unbiased), keepdim=keepdim)


def _split_var_mean(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    parts = {
        aten.var_mean.correction: aten.var.correction,
        aten.std_mean.correction: aten.std.correction,
        aten.var_mean.dim: aten.var.dim,
        aten.std_mean.dim: aten.std.dim,
    }
    if target_of(source) not in parts:
        return None
    if argument(node, 1) == 0:
        return editor.call(parts[target_of(source)], *source.args, **source.kwargs)
    keepdim = bool(_keyword(source, 3, "keepdim", False))
    return editor.call(aten.mean.dim, source_of(source), list(listed_dims(source)), keepdim)


def _expand_vector_norm(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    order = _keyword(node, 1, "ord", 2)
    order = 2 if order is None else order
    dims = _keyword(node, 2, "dim")
    matrix = target_of(node) is aten.linalg_norm.default and not (dims is not None and len(dims) == 1)
    if _keyword(node, 4, "dtype") is not None or isinstance(order, str) or (matrix and order != 2):
        return None
    if order in graph.linked:
        return None  # an attribute of the module, which may change: a root of that order is no number to write down
    return _norm(editor, source_of(node), order, dims, bool(_keyword(node, 3, "keepdim", False)))


def _expand_frobenius(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Of matrices, by name: the last two dims unless others are listed; of all of a tensor, where none are."""
    of_matrices = target_of(node) is aten.linalg_matrix_norm.str_ord
    dims = list(_keyword(node, 2, "dim") or ([-2, -1] if of_matrices else []))
    if _keyword(node, 1, "ord", "fro") != "fro" or _keyword(node, 4, "dtype") is not None:
        return None
    return _norm(editor, source_of(node), 2, dims, bool(_keyword(node, 3, "keepdim", False)))


def _expand_dot(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    if not node.meta["val"].dtype.is_floating_point:
        return None
    return editor.call(aten.sum.dim_IntList, editor.call(aten.mul.Tensor, *node.args), [0], False)


def _expand_norm(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """torch.norm in its older forms."""
    order = argument(node, 1, 2)
    dims, keepdim = argument(node, 2), bool(argument(node, 3, False))
    return _norm(editor, source_of(node), 2 if order is None else order, dims, keepdim)


def _norm(editor: Editor, x: torch_fx.Node, order: float, dims: Any, keepdim: bool) -> torch_fx.Node | None:
    if _rank(x) == 0 or not x.meta["val"].dtype.is_floating_point or order == 0:
        return None
    dims = [dims] if isinstance(dims, int) else list(dims or range(_rank(x)))
    size = editor.call(aten.abs.default, x)
    if math.isinf(order):
        return editor.call(aten.amax.default if order > 0 else aten.amin.default, size, dims, keepdim)
    if order == 1:
        return editor.call(aten.sum.dim_IntList, size, dims, keepdim)
    if order == 2:
        squares = editor.call(aten.sum.dim_IntList, editor.call(aten.mul.Tensor, x, x), dims, keepdim)
        return editor.call(aten.sqrt.default, squares)
    powers = editor.call(aten.pow.Tensor_Scalar, size, float(order))
    total = editor.call(aten.sum.dim_IntList, powers, dims, keepdim)
    return editor.call(aten.pow.Tensor_Scalar, total, 1.0 / order)


def _expand_cosine(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Each operand over its norm, which is at least eps; then the sum of the products."""
    a, b = node.args[0], node.args[1]
    assert isinstance(a, torch_fx.Node)
    assert isinstance(b, torch_fx.Node)
    dim, eps = argument(node, 2, 1), argument(node, 3, 1e-8)
    if _rank(a) != _rank(b):
        return None
    parts = []
    for x in (a, b):
        norm = _norm(editor, x, 2, [dim], True)
        if norm is None:
            return None
        parts.append(editor.call(aten.div.Tensor, x, editor.call(aten.clamp_min.default, norm, eps)))
    return editor.call(aten.sum.dim_IntList, editor.call(aten.mul.Tensor, *parts), [dim])


# -- pooling over everything -------------------------------------------------------------------------------


def _whole_maximum(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    if target_of(source) not in _ADAPTIVE_MAX or argument(node, 1) != 0:
        return None
    sizes = argument(source, 1)
    listed = [sizes] if isinstance(sizes, int) else list(sizes)
    if any(size != 1 for size in listed):
        return None
    x = source_of(source)
    dims = list(range(_rank(x) - len(listed), _rank(x)))
    return x if _single(x, dims) else editor.call(aten.amax.default, x, dims, True)


_ADAPTIVE_MAX = (
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
)

EXPANSION_RULES: tuple[Rule, ...] = (
    # losses: before norms, which some of them are made of
    *LOSS_RULES,
    # softmax family
    Rule("softmax", "softmax(x) -> e / sum(e), e = exp(x - max(x))", (aten.softmax.int,), _expand_softmax),
    Rule(
        "log softmax",
        "log_softmax(x) -> s - log(sum(exp(s))), s = x - max(x)",
        (aten.log_softmax.int,),
        _expand_log_softmax,
    ),
    Rule(
        "logsumexp",
        "logsumexp(x) -> log(sum(exp(x - m))) + m, m = max(x), or 0 where that is infinite",
        (aten.logsumexp.default,),
        _expand_logsumexp,
    ),
    # normalisations: n(x) = (x - mean(x)) / sqrt(var(x) + eps)
    Rule("layer norm", "layer_norm(x) -> n(x) * w + b", (aten.layer_norm.default,), _expand_layer_norm),
    Rule("group norm", "group_norm(x) -> n(x by group) * w[c] + b[c]", (aten.group_norm.default,), _expand_group_norm),
    Rule(
        "instance norm",
        "instance_norm(x) -> n(x by channel) * w[c] + b[c]",
        (aten.instance_norm.default,),
        _expand_instance_norm,
    ),
    Rule(
        "batch statistics",
        "batch_norm(x) by its own statistics -> n(x by channel, over the batch) * w[c] + b[c]",
        (operator.getitem,),
        _expand_batch_statistics,
    ),
    Rule("rms norm", "rms_norm(x) -> x / sqrt(mean(x * x) + eps) * w", (aten.rms_norm.default,), _expand_rms_norm),
    # spreads and norms
    Rule("variance and mean", "var_mean(x) -> var(x), mean(x)", (operator.getitem,), _split_var_mean),
    Rule(
        "degrees of freedom",
        "var(x, unbiased) -> var(x, correction=1 or 0)",
        (aten.var.default, aten.var.dim, aten.std.default, aten.std.dim),
        _by_correction,
    ),
    Rule("standard deviation", "std(x) -> sqrt(var(x))", (aten.std.correction,), _expand_std),
    Rule(
        "vector norm",
        "norm(x, p) -> sum(|x|**p)**(1/p), max(|x|) for p = inf",
        (aten.linalg_vector_norm.default, aten.linalg_norm.default),
        _expand_vector_norm,
    ),
    Rule(
        "norm",
        "norm(x, p) -> sum(|x|**p)**(1/p)",
        (aten.norm.Scalar, aten.norm.ScalarOpt_dim),
        _expand_norm,
    ),
    Rule(
        "Frobenius norm",
        "norm(x, 'fro') -> sqrt(sum(x * x))",
        (aten.linalg_matrix_norm.str_ord, aten.linalg_norm.ord_str),
        _expand_frobenius,
    ),
    Rule("dot product", "dot(x, y) -> sum(x * y)", (aten.dot.default, aten.vdot.default), _expand_dot),
    Rule(
        "cosine similarity",
        "cosine(a, b) -> sum(a / max(norm(a), eps) * b / max(norm(b), eps))",
        (aten.cosine_similarity.default,),
        _expand_cosine,
    ),
    # pooling over everything
    Rule("whole maximum", "adaptive_max_pool(x, 1) -> amax(x, space)", (operator.getitem,), _whole_maximum),
)
