"""The canonical form: identities removed, composite operations written as pointwise ones.

These rules change no result beyond rounding; they make the graph simple enough to be planned.
"""

from __future__ import annotations

import math
import operator
from collections import Counter

import torch
import torch.fx as torch_fx

from tilewright.graph.aliases import separate_outputs
from tilewright.graph.collapse import COLLAPSE_RULES
from tilewright.graph.constants import fold_constants
from tilewright.graph.convolutions import FORWARD_OF_RANK, is_convolution
from tilewright.graph.fold import FOLD_RULES
from tilewright.graph.forms import FORM_RULES
from tilewright.graph.graph import Graph
from tilewright.graph.nodes import argument, is_one, listed_dims, source_of, target_of
from tilewright.graph.ranges import RANGE_RULES, note_ranges
from tilewright.graph.rewrite import Editor, Rewritten, Rule, rewrite

aten = torch.ops.aten


def canonicalize(graph: Graph) -> Rewritten:
    """The graph in canonical form, and the rules that fired."""
    step = rewrite(fold_constants(graph), CANONICAL_RULES)
    return Rewritten(separate_outputs(graph, step.graph), step.fired)


def simplify(graph: Graph) -> Rewritten:
    """The canonical form with every collapse taken, affine maps gathered, and the rules that fired."""
    fired: Counter[str] = Counter()
    captured, graph = graph, fold_constants(graph)
    for rules in (
        CANONICAL_RULES,  # few forms for the others to know
        (*COLLAPSE_RULES, *CANONICAL_RULES, *MERGE_RULES),  # work that is not done at all
        (*RANGE_RULES, *CANONICAL_RULES),  # operations that change nothing, now that their input is known
        FOLD_RULES,  # one factor and one addend, of parameters alone
    ):
        step = rewrite(graph, rules)
        graph, fired = step.graph, fired + Counter(step.fired)
    graph = separate_outputs(captured, graph)
    note_ranges(graph)
    return Rewritten(graph, dict(fired))


def _drop_identity(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    return source if node.meta["val"].dtype == source.meta["val"].dtype else None


def _drop_contiguous(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    same_form = node.meta["val"].stride() == source.meta["val"].stride()
    return source if same_form and node.meta["val"].dtype == source.meta["val"].dtype else None


def _drop_dropout(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    return source_of(node) if argument(node, 2) is False else None


def _drop_full_slice(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    same = tuple(map(str, node.meta["val"].shape)) == tuple(map(str, source.meta["val"].shape))
    return source if same else None


def _expand_batch_norm(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """One value for each channel, then one multiply-add an element."""
    source = source_of(node)
    if target_of(source) is not aten._native_batch_norm_legit_no_training.default or argument(node, 1) != 0:
        return None
    x = source_of(source)
    weight, bias, mean, variance, _momentum, eps = source.args[1:]
    shape = [1, -1] + [1] * (x.meta["val"].dim() - 2)

    def channelwise(value: object) -> torch_fx.Node:
        return editor.call(aten.view.default, value, shape)

    scale = editor.call(aten.rsqrt.default, editor.call(aten.add.Tensor, channelwise(variance), eps))
    if isinstance(weight, torch_fx.Node):
        scale = editor.call(aten.mul.Tensor, scale, channelwise(weight))
    centred = editor.call(aten.sub.Tensor, x, channelwise(mean))
    result = editor.call(aten.mul.Tensor, centred, scale)
    return editor.call(aten.add.Tensor, result, channelwise(bias)) if isinstance(bias, torch_fx.Node) else result


def _separate_bias(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """A native convolution adds its bias in a pass of its own; what follows it can do so for nothing."""
    bias, weight = argument(node, 2), node.args[1]
    if not isinstance(bias, torch_fx.Node) or not isinstance(weight, torch_fx.Node):
        return None
    without = editor.call(node.target, *node.args[:2], None, *node.args[3:], **node.kwargs)
    spatial = weight.meta["val"].dim() - 2  # the input may be without a batch
    shaped = editor.call(aten.view.default, bias, [-1] + [1] * spatial)
    return editor.call(aten.add.Tensor, without, shaped)


def _separate_linear_bias(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    bias = argument(node, 2)
    if not isinstance(bias, torch_fx.Node):
        return None
    return editor.call(aten.add.Tensor, editor.call(aten.linear.default, *node.args[:2]), bias)


def _separate_addend(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """A product and what is added to it, so that the addition lies with what follows."""
    addend, left, right = node.args[:3]
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    if beta == 0 or set(node.kwargs) - {"beta", "alpha"}:
        return None  # then the addend is not read, NaN or not
    product = editor.call(aten.mm.default if target_of(node) is aten.addmm.default else aten.bmm.default, left, right)
    if alpha != 1:
        product = editor.call(aten.mul.Tensor, product, alpha)
    if beta != 1:
        addend = editor.call(aten.mul.Tensor, addend, beta)
    return editor.call(aten.add.Tensor, product, addend)


def _extremum_alone(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    replacements = {
        aten.min.dim: (aten.amin.default, aten.argmin.default),
        aten.max.dim: (aten.amax.default, aten.argmax.default),
    }.get(target_of(source))
    if replacements is None:
        return None
    keepdim = argument(source, 2, source.kwargs.get("keepdim", False))
    if argument(node, 1) == 0:
        return editor.call(replacements[0], source_of(source), [argument(source, 1)], keepdim)
    x = source_of(source)
    if not x.meta["val"].is_floating_point() or x.meta["val"].dim() == 0:
        return None
    return editor.call(replacements[1], x, argument(source, 1), keepdim)


def _whole_extremum(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    target = aten.amin.default if node.target is aten.min.default else aten.amax.default
    return editor.call(target, node.args[0], [], False)


def _whole_reduction(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    target = aten.sum.dim_IntList if node.target is aten.sum.default else aten.mean.dim
    return None if node.kwargs else editor.call(target, node.args[0], [], False)


def _single_element(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    shape = source.meta["val"].shape
    dims = listed_dims(node) if len(shape) else ()
    if not dims or node.kwargs or not all(is_one(shape[dim]) for dim in dims):
        return None
    if node.meta["val"].dtype is not source.meta["val"].dtype:
        return None  # the sum of bools is a number
    return source if argument(node, 2) else editor.call(aten.squeeze.dims, source, list(dims))


def _single_scan(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    shape = source.meta["val"].shape
    same = node.meta["val"].dtype is source.meta["val"].dtype
    return source if same and len(shape) and is_one(shape[argument(node, 1)]) else None


def _single_share(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Its logarithm is 0, but for infinities and NaN, which give NaN."""
    source = source_of(node)
    shape = source.meta["val"].shape
    same = node.meta["val"].dtype is source.meta["val"].dtype
    if not same or not len(shape) or not is_one(shape[argument(node, 1)]):
        return None
    nothing = editor.call(aten.sub.Tensor, source, source)
    return editor.call(aten.exp.default, nothing) if target_of(node) is aten.softmax.int else nothing


def _unit_scale(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    first, second = node.args[0], node.args[1]
    unit = isinstance(second, int | float) and not isinstance(second, bool) and second == 1
    if not unit or node.kwargs or not isinstance(first, torch_fx.Node):
        return None
    return first if first.meta["val"].dtype == node.meta["val"].dtype else None


def _minus_nothing(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """x - 0, but not x + 0, which makes 0 of -0."""
    first, second = node.args[0], node.args[1]
    nothing = type(second) in (int, float) and second == 0 and math.copysign(1.0, float(second)) > 0  # type: ignore[arg-type]
    if not nothing or node.kwargs or not isinstance(first, torch_fx.Node):
        return None
    return first if first.meta["val"].dtype == node.meta["val"].dtype else None


def _double_negation(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    source = source_of(node)
    return source_of(source) if target_of(source) is aten.neg.default else None


def _named_padding(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Padding as numbers, where it is the same on both sides."""
    padding, weight = argument(node, 4, "valid"), node.args[1]
    if not isinstance(weight, torch_fx.Node):
        return None
    sizes = [int(size) for size in weight.meta["val"].shape[2:]]
    dilation = list(argument(node, 5, [1])) * (1 if len(argument(node, 5, [1])) > 1 else len(sizes))
    reach = [step * (size - 1) for size, step in zip(sizes, dilation, strict=True)]
    if padding == "same" and any(extent % 2 for extent in reach):
        return None
    numbers = [extent // 2 for extent in reach] if padding == "same" else [0] * len(sizes)
    stride, groups = argument(node, 3, [1] * len(sizes)), argument(node, 6, 1)
    bias = argument(node, 2)
    return editor.call(FORWARD_OF_RANK[len(sizes)], node.args[0], weight, bias, stride, numbers, dilation, groups)


def _merged_reduction(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """One reduction in the place of two of a kind, unless a collapse waits for the inner one."""
    inner = source_of(node)
    if target_of(inner) is not node.target or node.kwargs or inner.kwargs or len(inner.users) != 1:
        return None
    source = source_of(inner)
    same = source.meta["val"].dtype == inner.meta["val"].dtype == node.meta["val"].dtype
    if is_convolution(source) or not same or source.meta["val"].dim() == 0 or inner.meta["val"].dim() == 0:
        return None
    first = listed_dims(inner)
    kept = [dim for dim in range(source.meta["val"].dim()) if argument(inner, 2) or dim not in first]
    dims = sorted({*first, *(kept[dim] for dim in listed_dims(node))})
    merged = editor.call(node.target, source, dims, True)
    gone = set(dims) if not argument(node, 2) else set() if argument(inner, 2) else set(first)
    return editor.call(aten.squeeze.dims, merged, sorted(gone)) if gone else merged


MERGE_RULES: tuple[Rule, ...] = (
    Rule(
        "merged reductions",
        "sum(sum(x, a), b) -> sum(x, a and b); so for mean, min and max",
        (aten.sum.dim_IntList, aten.mean.dim, aten.amin.default, aten.amax.default),
        _merged_reduction,
    ),
)

CANONICAL_RULES: tuple[Rule, ...] = (
    # identities
    Rule(
        "alias",
        "alias(x) -> x",
        (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default),
        _drop_identity,
    ),
    Rule("clone", "clone(x) -> x, where nothing writes in place", (aten.clone.default,), _drop_contiguous),
    Rule("contiguous", "contiguous(x) -> x, for contiguous x", (aten.contiguous.default,), _drop_contiguous),
    Rule("same type", "to(x, dtype of x) -> x", (aten._to_copy.default, aten.to.dtype), _drop_contiguous),
    Rule("eval dropout", "dropout(x, training=False) -> x", (aten.dropout.default,), _drop_dropout),
    Rule("full slice", "x[0:size] -> x", (aten.slice.Tensor,), _drop_full_slice),
    Rule(
        "single element",
        "mean(x, dims of size 1) -> x; so for sum, prod, min, max and logsumexp",
        (
            aten.sum.dim_IntList,
            aten.mean.dim,
            aten.amin.default,
            aten.amax.default,
            aten.prod.dim_int,
            aten.logsumexp.default,
        ),
        _single_element,
    ),
    Rule("scan of one", "cumsum(x, dim of size 1) -> x", (aten.cumsum.default, aten.cumprod.default), _single_scan),
    Rule(
        "share of one",
        "softmax(x, dim of size 1) -> exp(x - x), log_softmax(x) -> x - x",
        (aten.softmax.int, aten.log_softmax.int),
        _single_share,
    ),
    Rule(
        "scale by one",
        "x * 1, x / 1, x ** 1 -> x",
        (aten.mul.Tensor, aten.div.Tensor, aten.pow.Tensor_Scalar),
        _unit_scale,
    ),
    Rule("minus nothing", "x - 0 -> x", (aten.sub.Tensor,), _minus_nothing),
    Rule("double negation", "-(-x) -> x", (aten.neg.default,), _double_negation),
    *FORM_RULES,
    # composites
    Rule(
        "padding by name",
        "conv(x, w, padding='same') -> conv(x, w, padding=n)",
        (aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
        _named_padding,
    ),
    Rule(
        "eval batch norm",
        "batch_norm(x) -> (x - mean[c]) * (rsqrt(var[c] + eps) * weight[c]) + bias[c]",
        (operator.getitem,),
        _expand_batch_norm,
    ),
    Rule(
        "convolution bias",
        "conv(x, w, b) -> conv(x, w) + b[c]",
        (
            aten.conv1d.default,
            aten.conv2d.default,
            aten.conv3d.default,
            aten.conv_transpose1d.default,
            aten.conv_transpose2d.input,
            aten.conv_transpose3d.input,
        ),
        _separate_bias,
    ),
    Rule("linear bias", "linear(x, w, b) -> linear(x, w) + b", (aten.linear.default,), _separate_linear_bias),
    Rule(
        "product and addend",
        "addmm(c, a, b) -> a @ b * alpha + c * beta",
        (aten.addmm.default, aten.baddbmm.default),
        _separate_addend,
    ),
    Rule(
        "extremum without index",
        "min(x, dim)[0] -> amin(x, dim), min(x, dim)[1] -> argmin(x, dim)",
        (operator.getitem,),
        _extremum_alone,
    ),
    Rule("extremum of all", "min(x) -> amin(x, all dims)", (aten.min.default, aten.max.default), _whole_extremum),
    Rule("reduction of all", "sum(x) -> sum(x, all dims)", (aten.sum.default, aten.mean.default), _whole_reduction),
)
