"""Affine maps around convolutions and linear layers: one factor and one addend, made of parameters alone.

Such arithmetic costs next to nothing where it is read, since it is done at the parameters' own small shape. So a factor
behind the layer stays there: in the weights, it would cost a pass over all of them in each call. A factor of the input
moves into them where they are much smaller. A shift of the *input* stays where it is, since operands are rounded
after it: an input with a large mean would lose what the reference keeps.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import torch
import torch.fx as torch_fx

from tilewright.graph.convolutions import TRANSPOSED, is_convolution
from tilewright.graph.graph import Graph, is_parameter_only
from tilewright.graph.nodes import argument, is_one, source_of, target_of
from tilewright.graph.rewrite import Editor, Rule

aten = torch.ops.aten

#: Products of weights in other types would be rounded once more than the reference's.
_EXACT = (torch.float32, torch.float64)


#: A factor of the input moves into weights that have so many times fewer elements: a pass over them is a kernel more.
_MUCH_SMALLER = 4


#: Key in a node's meta: the name that people would give its value.
NAME = "tilewright_name"


def _named(node: torch_fx.Node, name: str) -> torch_fx.Node:
    node.meta[NAME] = name
    return node


def _is_linear_map(node: torch_fx.Node) -> bool:
    known = is_convolution(node) or target_of(node) is aten.linear.default
    return known and len(node.users) == 1 and argument(node, 2) is None and node.meta["val"].dtype in _EXACT


def _ends_linear_map(node: Any) -> TypeGuard[torch_fx.Node]:
    """A convolution or linear layer, or one with factors and addends behind it, used once."""
    while isinstance(node, torch_fx.Node) and target_of(node) in (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor):
        if len(node.users) != 1 or node.kwargs:
            return False
        node = node.args[0]
    return isinstance(node, torch_fx.Node) and _is_linear_map(node)


def _parameter(value: Any, graph: Graph) -> torch_fx.Node | None:
    """A tensor that belongs to the module."""
    if not isinstance(value, torch_fx.Node) or not isinstance(value.meta.get("val"), torch.Tensor):
        return None
    return value if value.meta["val"].dtype in _EXACT and is_parameter_only(value, graph) else None


def _channel_vector(editor: Editor, value: torch_fx.Node, rank: int, channel: int, size: int) -> torch_fx.Node | None:
    """A tensor that varies along one dim of a value of that rank only, as [size]; None for any other."""
    shape = value.meta["val"].shape
    shift = rank - len(shape)
    if shift < 0 or any(not is_one(length) for dim, length in enumerate(shape) if dim + shift != channel):
        return None
    varies = channel >= shift and not is_one(shape[channel - shift])
    flat = editor.call(aten.view.default, value, [-1])
    return flat if varies or size == 1 else editor.call(aten.expand.default, flat, [size])


def _scaled_weight(
    editor: Editor, weight: torch_fx.Node, scale: torch_fx.Node, dim: int, groups: int = 1
) -> torch_fx.Node:
    """The weight times a vector along `dim`; with groups, that dim lies within each group of dim 0."""
    shape = [1] * weight.meta["val"].dim()
    shape[dim] = -1
    if groups == 1:
        return editor.call(aten.mul.Tensor, weight, editor.call(aten.view.default, scale, shape))
    split = editor.call(aten.unflatten.int, weight, 0, [groups, -1])
    factors = editor.call(aten.view.default, scale, [groups, *shape])
    return editor.call(aten.flatten.using_ints, editor.call(aten.mul.Tensor, split, factors), 0, 1)


def _scale_before(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    scaled = node.args[0]
    if not isinstance(scaled, torch_fx.Node) or target_of(scaled) is not aten.mul.Tensor or len(scaled.users) != 1:
        return None
    x, scale, weight = scaled.args[0], _parameter(scaled.args[1], graph), _parameter(node.args[1], graph)
    rank = node.meta["val"].dim()
    if scale is None or weight is None or not isinstance(x, torch_fx.Node) or x.meta["val"].dim() != rank:
        return None
    much_smaller = _MUCH_SMALLER * math.prod(graph.shape_of(weight)) <= math.prod(graph.shape_of(x))
    if x.name not in graph.inputs or not much_smaller:
        return None  # what makes x can scale it too
    channel = 1 if is_convolution(node) else rank - 1
    vector = _channel_vector(editor, scale, rank, channel, int(x.meta["val"].shape[channel]))
    groups = argument(node, 6, 1) if is_convolution(node) else 1
    if vector is None or node.meta["val"].dtype not in _EXACT or (groups > 1 and target_of(node) not in TRANSPOSED):
        return None
    folded = _scaled_weight(editor, weight, vector, 0 if target_of(node) in TRANSPOSED else 1)
    return editor.call(node.target, x, _named(folded, "scaled_weight"), *node.args[2:])


def _subtract(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    value, shift = node.args[0], _parameter(node.args[1], graph)
    if shift is None or node.kwargs or not _ends_linear_map(value):
        return None
    return editor.call(aten.add.Tensor, value, editor.call(aten.neg.default, shift))


def _distribute(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    total, scale = node.args[0], _parameter(node.args[1], graph)
    if scale is None or node.kwargs or not _ends_linear_map(total) or target_of(total) is not aten.add.Tensor:
        return None
    value, shift = total.args[0], _parameter(total.args[1], graph)
    if shift is None or node.meta["val"].dim() != total.meta["val"].dim():
        return None
    scaled = editor.call(aten.mul.Tensor, value, scale)
    return editor.call(aten.add.Tensor, scaled, _named(editor.call(aten.mul.Tensor, shift, scale), "shift"))


def _gather_addends(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    inner = node.args[0]
    if node.kwargs or not _ends_linear_map(inner) or target_of(inner) is not aten.add.Tensor:
        return None
    first, second = source_of(node).args[1], node.args[1]
    tensors = [value for value in (first, second) if isinstance(value, torch_fx.Node)]
    if not tensors or any(_parameter(value, graph) is None for value in tensors):
        return None
    if not isinstance(first, torch_fx.Node):
        first, second = second, first
    shift = _named(editor.call(aten.add.Tensor, first, second), "shift")
    return editor.call(aten.add.Tensor, source_of(node).args[0], shift)


_LINEAR_MAPS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
    aten.linear.default,
)

FOLD_RULES: tuple[Rule, ...] = (
    Rule("difference", "L(x) - b -> L(x) + (-b), for a parameter b", (aten.sub.Tensor,), _subtract),
    Rule(
        "factor of a sum", "(L(x) + b) * a -> L(x) * a + b * a, for parameters a and b", (aten.mul.Tensor,), _distribute
    ),
    Rule("addends", "(L(x) + a) + b -> L(x) + (a + b), for parameters a and b", (aten.add.Tensor,), _gather_addends),
    Rule("scale before", "conv(x * a[c], w) -> conv(x, w * a[c]), for an input x", _LINEAR_MAPS, _scale_before),
)
