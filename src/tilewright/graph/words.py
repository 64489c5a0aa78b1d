"""Operations that are other operations: second names, and words of ATen that a few simpler ones say.

Each rule keeps the values, with NaN and infinities, and declines where a number in it may change between calls.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import argument, source_of, target_of
from tilewright.graph.rewrite import Editor, Rule

aten = torch.ops.aten

#: Other names of operations.
_SAME: dict[Any, Any] = {
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.multiply.Scalar: aten.mul.Scalar,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.subtract.Scalar: aten.sub.Scalar,
    aten.divide.Tensor: aten.div.Tensor,
    aten.divide.Scalar: aten.div.Scalar,
    aten.divide.Tensor_mode: aten.div.Tensor_mode,
    aten.divide.Scalar_mode: aten.div.Scalar_mode,
    aten.true_divide.Tensor: aten.div.Tensor,
    aten.true_divide.Scalar: aten.div.Scalar,
    aten.negative.default: aten.neg.default,
    aten.absolute.default: aten.abs.default,
    aten.min.other: aten.minimum.default,
    aten.max.other: aten.maximum.default,
    aten.clip.default: aten.clamp.default,
    aten.clip.Tensor: aten.clamp.Tensor,
    aten.fix.default: aten.trunc.default,
    aten.sgn.default: aten.sign.default,
    aten.arccos.default: aten.acos.default,
    aten.arccosh.default: aten.acosh.default,
    aten.arcsin.default: aten.asin.default,
    aten.arcsinh.default: aten.asinh.default,
    aten.arctan.default: aten.atan.default,
    aten.arctan2.default: aten.atan2.default,
    aten.arctanh.default: aten.atanh.default,
    aten.special_expit.default: aten.sigmoid.default,
    aten.special_erf.default: aten.erf.default,
    aten.special_erfc.default: aten.erfc.default,
    aten.special_exp2.default: aten.exp2.default,
    aten.special_expm1.default: aten.expm1.default,
    aten.special_log1p.default: aten.log1p.default,
    aten.special_logit.default: aten.logit.default,
    aten.special_sinc.default: aten.sinc.default,
    aten.special_round.default: aten.round.default,
    aten.special_xlogy.default: aten.xlogy.Tensor,
    aten.special_xlogy.self_scalar: aten.xlogy.Scalar_Self,
    aten.special_xlogy.other_scalar: aten.xlogy.Scalar_Other,
    aten.special_logsumexp.default: aten.logsumexp.default,
    aten.special_softmax.default: aten.softmax.int,
    aten.special_log_softmax.default: aten.log_softmax.int,
    aten._unsafe_view.default: aten.view.default,
}
_COMPARISONS = {"greater": "gt", "less": "lt", "greater_equal": "ge", "less_equal": "le", "not_equal": "ne"}
_SAME |= {
    getattr(getattr(aten, long), form): getattr(getattr(aten, short), form)
    for long, short in _COMPARISONS.items()
    for form in ("Tensor", "Scalar")
}


def _usual_name(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Also where a place of one is a keyword of the other (`special_round(x, decimals=0)`)."""
    target = _SAME[target_of(node)]
    known = {one.name for one in target._schema.arguments}
    given = {name: value for name, value in node.kwargs.items() if name in known}
    if any(node.kwargs[name] for name in node.kwargs.keys() - given.keys()):
        return None
    return editor.call(target, *node.args, **given)


def _may_change(value: Any, graph: Graph) -> bool:
    """A float that is an attribute of the module or an argument of the call."""
    return type(value) is float and value in graph.linked


def _is_float(node: torch_fx.Node) -> bool:
    return bool(node.meta["val"].is_floating_point())


# -- activations -------------------------------------------------------------------------------------------


def _prelu(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """The slopes lie along the second dim; a scalar and a single slope are for all elements."""
    x, weight = node.args
    assert isinstance(x, torch_fx.Node)
    assert isinstance(weight, torch_fx.Node)
    rank = x.meta["val"].dim()
    if weight.meta["val"].dim() == 1 and rank > 2:
        weight = editor.call(aten.view.default, weight, [-1] + [1] * (rank - 2))
    elif weight.meta["val"].dim() == 1 and rank < 2:
        weight = editor.call(aten.view.default, weight, [])
    positive = editor.call(aten.gt.Scalar, x, 0)
    return editor.call(aten.where.self, positive, x, editor.call(aten.mul.Tensor, x, weight))


def _rrelu(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    lower, upper = argument(node, 1, 1.0 / 8), argument(node, 2, 1.0 / 3)
    if argument(node, 3, False) or node.kwargs or _may_change(lower, graph) or _may_change(upper, graph):
        return None
    return editor.call(aten.leaky_relu.default, source_of(node), (lower + upper) / 2)


def _glu(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    halves = editor.call(aten.chunk.default, source_of(node), 2, argument(node, 1, -1))
    left, right = (editor.call(operator.getitem, halves, half) for half in (0, 1))
    return editor.call(aten.mul.Tensor, left, editor.call(aten.sigmoid.default, right))


# -- numbers and types -------------------------------------------------------------------------------------


def _number_limits(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """With every number in its place: the limits of the type where none are given."""
    x = source_of(node)
    if not _is_float(x) or node.kwargs:
        return None
    limits = torch.finfo(x.meta["val"].dtype)
    usual = (0.0, limits.max, limits.min)
    given = [argument(node, place + 1) for place in range(3)]
    if None not in given:
        return None
    filled = [value if number is None else number for number, value in zip(given, usual, strict=True)]
    return editor.call(aten.nan_to_num.default, x, *filled)


def _filled_with(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    x, mask, value = node.args
    assert isinstance(x, torch_fx.Node)
    assert isinstance(value, torch_fx.Node)
    if value.meta["val"].dtype is not x.meta["val"].dtype or not _is_float(x):
        return None
    return editor.call(aten.where.self, mask, value, x)


def _in_the_type_of(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    return editor.call(aten._to_copy.default, source_of(node), dtype=node.meta["val"].dtype)


def _broadcast_one(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """Where the tensor has the common shape already."""
    source = source_of(node)
    if target_of(source) is not aten.broadcast_tensors.default:
        return None
    one = argument(source, 0)[argument(node, 1)]
    same = list(map(str, one.meta["val"].shape)) == list(map(str, node.meta["val"].shape))
    return one if same else None


WORD_RULES: tuple[Rule, ...] = (
    Rule("other name", "multiply(x, y) -> mul(x, y), and so for others", tuple(_SAME), _usual_name),
    Rule("prelu", "prelu(x, w) -> where(x > 0, x, x * w[c])", (aten.prelu.default,), _prelu),
    Rule("rrelu", "rrelu(x, a, b) in eval -> leaky_relu(x, (a + b) / 2)", (aten.rrelu.default,), _rrelu),
    Rule("glu", "glu(x) -> a * sigmoid(b), the halves of x", (aten.glu.default,), _glu),
    Rule(
        "numbers of the type",
        "nan_to_num(x) -> nan_to_num(x, 0, largest, smallest)",
        (aten.nan_to_num.default,),
        _number_limits,
    ),
    Rule("filled with a value", "masked_fill(x, m, v) -> where(m, v, x)", (aten.masked_fill.Tensor,), _filled_with),
    Rule("type of another", "type_as(x, y) -> to(x, type of y)", (aten.type_as.default,), _in_the_type_of),
    Rule("broadcast alike", "broadcast_tensors(x, y)[0] -> x, of like shape", (operator.getitem,), _broadcast_one),
)
