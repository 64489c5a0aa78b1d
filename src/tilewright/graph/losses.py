"""Losses written out: what each pair of elements costs, and the mean or the sum of it.

torch keeps a loss as one operation, with a number for its reduction. Written out, what comes before and after it lies
in the same kernel, and so does the reduction. Numbers of a call may stand for attributes of the module: rules hand them
on, and compute nothing from them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import argument, target_of
from tilewright.graph.rewrite import Editor, Rule

aten = torch.ops.aten

#: The numbers that stand for a loss's reduction in the graph (`torch.nn._reduction`).
_NONE, _MEAN, _SUM = 0, 1, 2

#: Least logarithm that a binary cross entropy counts (torch.nn.BCELoss, "clamps its log function outputs").
_LEAST_LOGARITHM = -100.0
#: What cosine_embedding_loss adds to squared norms (aten/src/ATen/native/Loss.cpp).
_COSINE_EPSILON = 1e-12

Arguments = dict[str, Any]
Cost = Callable[[Editor, Arguments], torch_fx.Node | None]


def _arguments_of(node: torch_fx.Node) -> Arguments:
    """The call's arguments by their schema names; tensors that were only broadcast as they were before."""
    bound: Arguments = {}
    for position, declared in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        value = argument(node, position, node.kwargs.get(declared.name, declared.default_value))
        bound[declared.name] = _before_broadcast(value)
    return bound


def _before_broadcast(value: Any) -> Any:
    """What `broadcast_tensors` was given: pointwise operations broadcast by themselves."""
    if not isinstance(value, torch_fx.Node) or value.target is not operator.getitem:
        return value
    together = value.args[0]
    if not isinstance(together, torch_fx.Node) or target_of(together) is not aten.broadcast_tensors.default:
        return value
    tensors = together.args[0]
    assert isinstance(tensors, list | tuple)
    return tensors[value.args[1]]  # type: ignore[index]


def _loss(cost: Cost) -> Callable[[Editor, torch_fx.Node, Graph], torch_fx.Node | None]:
    """A rule's function: the cost of each element, reduced as the call says."""

    def apply(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
        given = _arguments_of(node)
        tensors = [value for value in given.values() if isinstance(value, torch_fx.Node)]
        first = tensors[0].meta["val"].dtype
        if not first.is_floating_point or any(tensor.meta["val"].dtype is not first for tensor in tensors):
            return None
        each = cost(editor, given)
        return None if each is None else _reduced(editor, each, given["reduction"], node)

    return apply


def _reduced(editor: Editor, each: torch_fx.Node, reduction: int, node: torch_fx.Node) -> torch_fx.Node | None:
    value, wanted = each.meta["val"], node.meta["val"]
    if reduction == _NONE:
        return each if str(value.shape) == str(wanted.shape) else None
    if value.dim() == 0:
        return each
    return editor.call(aten.mean.dim if reduction == _MEAN else aten.sum.dim_IntList, each, [], False)


# -- differences -------------------------------------------------------------------------------------------


def _difference(editor: Editor, given: Arguments) -> torch_fx.Node:
    return editor.call(aten.sub.Tensor, given["self"], given["target"])


def _squared(editor: Editor, given: Arguments) -> torch_fx.Node:
    difference = _difference(editor, given)
    return editor.call(aten.mul.Tensor, difference, difference)


def _absolute(editor: Editor, given: Arguments) -> torch_fx.Node:
    return editor.call(aten.abs.default, _difference(editor, given))


def _smooth(editor: Editor, given: Arguments) -> torch_fx.Node:
    """A parabola near 0, whose slope is 1 at `beta`."""
    distance, beta = _absolute(editor, given), given["beta"]
    halved = editor.call(aten.mul.Tensor, editor.call(aten.mul.Tensor, distance, 0.5), distance)
    parabola = editor.call(aten.div.Tensor, halved, beta)
    line = editor.call(aten.sub.Tensor, distance, beta, alpha=0.5)
    return editor.call(aten.where.self, editor.call(aten.lt.Scalar, distance, beta), parabola, line)


def _huber(editor: Editor, given: Arguments) -> torch_fx.Node:
    """A parabola near 0, whose slope is `delta` there."""
    distance, delta = _absolute(editor, given), given["delta"]
    parabola = editor.call(aten.mul.Tensor, editor.call(aten.mul.Tensor, distance, 0.5), distance)
    line = editor.call(aten.mul.Tensor, editor.call(aten.sub.Tensor, distance, delta, alpha=0.5), delta)
    return editor.call(aten.where.self, editor.call(aten.le.Scalar, distance, delta), parabola, line)


# -- likelihoods -------------------------------------------------------------------------------------------


def _weighted(editor: Editor, each: torch_fx.Node, given: Arguments) -> torch_fx.Node:
    return each if given["weight"] is None else editor.call(aten.mul.Tensor, each, given["weight"])


def _cross_entropy(editor: Editor, given: Arguments) -> torch_fx.Node:
    """What lies outside [0, 1], where torch raises, costs NaN."""
    x, target = given["self"], given["target"]
    yes = editor.call(aten.clamp.default, editor.call(aten.log.default, x), _LEAST_LOGARITHM)
    no = editor.call(aten.log1p.default, editor.call(aten.neg.default, x))
    no = editor.call(aten.clamp.default, no, _LEAST_LOGARITHM)
    without = editor.call(aten.mul.Tensor, editor.call(aten.sub.Tensor, target, 1), no)
    each = editor.call(aten.sub.Tensor, without, editor.call(aten.mul.Tensor, target, yes))
    return _weighted(editor, each, given)


def _cross_entropy_of_logits(editor: Editor, given: Arguments) -> torch_fx.Node:
    x, target = given["self"], given["target"]
    logarithm = editor.call(aten.log_sigmoid.default, x)
    if given["pos_weight"] is not None:
        more = editor.call(aten.mul.Tensor, editor.call(aten.sub.Tensor, given["pos_weight"], 1), target)
        logarithm = editor.call(aten.mul.Tensor, logarithm, editor.call(aten.add.Tensor, more, 1))
    against = editor.call(aten.mul.Tensor, editor.call(aten.rsub.Scalar, target, 1), x)
    return _weighted(editor, editor.call(aten.sub.Tensor, against, logarithm), given)


def _divergence(editor: Editor, given: Arguments) -> torch_fx.Node:
    """t * (log(t) - x); 0 * log(0) is 0."""
    x, target = given["self"], given["target"]
    if given["log_target"]:
        difference = editor.call(aten.sub.Tensor, target, x)
        return editor.call(aten.mul.Tensor, editor.call(aten.exp.default, target), difference)
    entropy = editor.call(aten.mul.Tensor, target, editor.call(aten.log.default, target))
    entropy = editor.call(aten.masked_fill.Scalar, entropy, editor.call(aten.eq.Scalar, target, 0), 0.0)
    return editor.call(aten.sub.Tensor, entropy, editor.call(aten.mul.Tensor, target, x))


def _poisson(editor: Editor, given: Arguments) -> torch_fx.Node:
    x, target = given["input"], given["target"]
    if given["log_input"]:
        each = editor.call(aten.sub.Tensor, editor.call(aten.exp.default, x), editor.call(aten.mul.Tensor, target, x))
    else:
        logarithm = editor.call(aten.log.default, editor.call(aten.add.Tensor, x, given["eps"]))
        each = editor.call(aten.sub.Tensor, x, editor.call(aten.mul.Tensor, target, logarithm))
    return editor.call(aten.add.Tensor, each, _stirling(editor, target)) if given["full"] else each


def _stirling(editor: Editor, target: torch_fx.Node) -> torch_fx.Node:
    """log(t!) by Stirling's formula, and 0 where t is at most 1."""
    powers = editor.call(aten.mul.Tensor, target, editor.call(aten.log.default, target))
    root = editor.call(aten.log.default, editor.call(aten.mul.Tensor, target, 2 * math.pi))
    root = editor.call(aten.mul.Tensor, root, 0.5)
    term = editor.call(aten.add.Tensor, editor.call(aten.sub.Tensor, powers, target), root)
    return editor.call(aten.masked_fill.Scalar, term, editor.call(aten.le.Scalar, target, 1), 0.0)


# -- margins -----------------------------------------------------------------------------------------------


def _at_least_zero(editor: Editor, x: torch_fx.Node) -> torch_fx.Node:
    return editor.call(aten.relu.default, x)


def _where_target(editor: Editor, target: torch_fx.Node, operation: Any, label: int, x: torch_fx.Node) -> torch_fx.Node:
    """x where the comparison of the target with a label holds, and 0 elsewhere."""
    zeros = editor.call(aten.zeros_like.default, x)
    return editor.call(aten.where.self, editor.call(operation, target, label), x, zeros)


def _hinge_of_embedding(editor: Editor, given: Arguments) -> torch_fx.Node:
    x, target = given["self"], given["target"]
    beyond = _at_least_zero(editor, editor.call(aten.rsub.Scalar, x, given["margin"]))
    apart = _where_target(editor, target, aten.ne.Scalar, 1, beyond)
    return editor.call(aten.add.Tensor, apart, _where_target(editor, target, aten.ne.Scalar, -1, x))


def _soft_margin(editor: Editor, given: Arguments) -> torch_fx.Node:
    against = editor.call(aten.mul.Tensor, editor.call(aten.neg.default, given["self"]), given["target"])
    return editor.call(aten.log1p.default, editor.call(aten.exp.default, against))


def _ranking(editor: Editor, given: Arguments) -> torch_fx.Node:
    difference = editor.call(aten.sub.Tensor, given["input1"], given["input2"])
    against = editor.call(aten.mul.Tensor, editor.call(aten.neg.default, given["target"]), difference)
    return _at_least_zero(editor, editor.call(aten.add.Tensor, against, given["margin"]))


def _cosine_of_embeddings(editor: Editor, given: Arguments) -> torch_fx.Node | None:
    first, second, target = given["input1"], given["input2"], given["target"]
    dim = target.meta["val"].dim()
    if dim > 1 or {first.meta["val"].dim(), second.meta["val"].dim()} != {dim + 1}:
        return None

    def product(a: torch_fx.Node, b: torch_fx.Node) -> torch_fx.Node:
        return editor.call(aten.sum.dim_IntList, editor.call(aten.mul.Tensor, a, b), [dim], False)

    squares = [editor.call(aten.add.Tensor, product(x, x), _COSINE_EPSILON) for x in (first, second)]
    cosine = editor.call(
        aten.div.Tensor, product(first, second), editor.call(aten.sqrt.default, editor.call(aten.mul.Tensor, *squares))
    )
    alike = _where_target(editor, target, aten.eq.Scalar, 1, editor.call(aten.rsub.Scalar, cosine, 1))
    beyond = _at_least_zero(editor, editor.call(aten.sub.Tensor, cosine, given["margin"]))
    return editor.call(aten.add.Tensor, alike, _where_target(editor, target, aten.eq.Scalar, -1, beyond))


def _triplet(editor: Editor, given: Arguments) -> torch_fx.Node | None:
    if given["swap"]:
        return None  # the nearer of two distances, a third one to compute
    norm = (given["p"], given["eps"])
    near = editor.call(aten.pairwise_distance.default, given["anchor"], given["positive"], *norm)
    far = editor.call(aten.pairwise_distance.default, given["anchor"], given["negative"], *norm)
    difference = editor.call(aten.sub.Tensor, editor.call(aten.add.Tensor, near, given["margin"]), far)
    return _at_least_zero(editor, difference)


def _distance(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    given = _arguments_of(node)
    x, y = given["x1"], given["x2"]
    if x.meta["val"].dim() == 0 or x.meta["val"].dim() != y.meta["val"].dim() or given["p"] in graph.linked:
        return None
    difference = editor.call(aten.add.Tensor, editor.call(aten.sub.Tensor, x, y), given["eps"])
    return editor.call(aten.linalg_vector_norm.default, difference, given["p"], [-1], given["keepdim"])


LOSS_RULES: tuple[Rule, ...] = (
    # differences
    Rule("squared error", "mse_loss(x, t) -> mean((x - t)**2)", (aten.mse_loss.default,), _loss(_squared)),
    Rule("absolute error", "l1_loss(x, t) -> mean(|x - t|)", (aten.l1_loss.default,), _loss(_absolute)),
    Rule(
        "smooth absolute error",
        "smooth_l1_loss(x, t) -> mean(d**2 / 2b where d < b, d - b / 2 elsewhere), d = |x - t|",
        (aten.smooth_l1_loss.default,),
        _loss(_smooth),
    ),
    Rule(
        "Huber",
        "huber_loss(x, t) -> mean(d**2 / 2 where d <= b, b * (d - b / 2) elsewhere), d = |x - t|",
        (aten.huber_loss.default,),
        _loss(_huber),
    ),
    # likelihoods
    Rule(
        "binary cross entropy",
        "binary_cross_entropy(x, t) -> mean(w * ((t - 1) * log(1 - x) - t * log(x))), logarithms from -100 on",
        (aten.binary_cross_entropy.default,),
        _loss(_cross_entropy),
    ),
    Rule(
        "binary cross entropy of logits",
        "with logits -> mean(w * ((1 - t) * x - ((p - 1) * t + 1) * log_sigmoid(x)))",
        (aten.binary_cross_entropy_with_logits.default,),
        _loss(_cross_entropy_of_logits),
    ),
    Rule(
        "divergence",
        "kl_div(x, t) -> mean(t * log(t) - t * x), or mean(exp(t) * (t - x))",
        (aten.kl_div.default,),
        _loss(_divergence),
    ),
    Rule(
        "Poisson likelihood",
        "poisson_nll_loss(x, t) -> mean(exp(x) - t * x), or mean(x - t * log(x + eps)), with log(t!)",
        (aten.poisson_nll_loss.default,),
        _loss(_poisson),
    ),
    # margins
    Rule(
        "hinge of embeddings",
        "hinge_embedding_loss(x, t) -> mean(x where t = 1, max(margin - x, 0) where t = -1)",
        (aten.hinge_embedding_loss.default,),
        _loss(_hinge_of_embedding),
    ),
    Rule(
        "soft margin",
        "soft_margin_loss(x, t) -> mean(log(1 + exp(-t * x)))",
        (aten.soft_margin_loss.default,),
        _loss(_soft_margin),
    ),
    Rule(
        "margin of a ranking",
        "margin_ranking_loss(x, y, t) -> mean(max(margin - t * (x - y), 0))",
        (aten.margin_ranking_loss.default,),
        _loss(_ranking),
    ),
    Rule(
        "cosine of embeddings",
        "cosine_embedding_loss(x, y, t) -> mean(1 - c where t = 1, max(c - margin, 0) where t = -1), c = cosine(x, y)",
        (aten.cosine_embedding_loss.default,),
        _loss(_cosine_of_embeddings),
    ),
    Rule(
        "margin of triplets",
        "triplet_margin_loss(a, p, n) -> mean(max(distance(a, p) + margin - distance(a, n), 0))",
        (aten.triplet_margin_loss.default,),
        _loss(_triplet),
    ),
    Rule(
        "pairwise distance",
        "pairwise_distance(x, y) -> norm(x - y + eps)",
        (aten.pairwise_distance.default,),
        _distance,
    ),
)
