"""Activations written out by hand, as the one operation that they are."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import argument, source_of, target_of
from tilewright.graph.rewrite import Editor, Rule

aten = torch.ops.aten

#: Numbers that were rounded to float32 on their way are as good.
_CLOSE = 1e-6


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_close(value: Any, wanted: float) -> bool:
    return _is_number(value) and math.isclose(value, wanted, rel_tol=_CLOSE)


def _factors(node: torch_fx.Node, graph: Graph) -> tuple[float, list[torch_fx.Node]] | None:
    """A product as the number and the values in it; None where a factor may change or an intermediate is used."""
    number, values = 1.0, []
    waiting: list[Any] = [node]
    while waiting:
        item = waiting.pop()
        if _is_number(item):
            if item in graph.linked:
                return None
            number *= item
            continue
        if not isinstance(item, torch_fx.Node):
            return None
        inside = item is node or len(item.users) == 1
        if inside and target_of(item) is aten.mul.Tensor and not item.kwargs:
            waiting += item.args
        elif inside and target_of(item) is aten.div.Tensor and not item.kwargs and _is_number(item.args[1]):
            divisor: Any = item.args[1]
            if divisor == 0 or divisor in graph.linked:
                return None
            number /= float(divisor)
            waiting.append(item.args[0])
        else:
            values.append(item)
    return number, values


def _one_plus(node: torch_fx.Node, target: Any) -> torch_fx.Node | None:
    """The argument of 1 + target(..); None for anything else."""
    if target_of(node) is not aten.add.Tensor or node.kwargs or len(node.users) != 1:
        return None
    first, second = node.args[:2]
    if isinstance(first, torch_fx.Node) and _is_number(second) and second == 1 and target_of(first) is target:
        return source_of(first) if len(first.users) == 1 else None
    return None


def _same_kind(node: torch_fx.Node, x: torch_fx.Node) -> bool:
    """The whole has the shape and the type of its input, which is a float."""
    a, b = node.meta["val"], x.meta["val"]
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False  # a number that forward computes of sizes
    return bool(a.is_floating_point() and a.dtype is b.dtype and list(map(str, a.shape)) == list(map(str, b.shape)))


def _gelu(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    found = _factors(node, graph)
    if found is None or len(found[1]) != 2 or not _is_close(found[0], 0.5):
        return None
    for x, gate in (found[1], found[1][::-1]):
        if not _same_kind(node, x):
            continue
        inner = _one_plus(gate, aten.erf.default)
        if inner is not None and _is_scaled(inner, x, math.sqrt(0.5), graph):
            return editor.call(aten.gelu.default, x)
        inner = _one_plus(gate, aten.tanh.default)
        if inner is not None and _is_cubic(inner, x, graph):
            return editor.call(aten.gelu.default, x, approximate="tanh")
    return None


def _is_scaled(node: torch_fx.Node, x: torch_fx.Node, factor: float, graph: Graph) -> bool:
    found = _factors(node, graph) if len(node.users) == 1 else None
    return found is not None and found[1] == [x] and _is_close(found[0], factor)


def _is_cubic(node: torch_fx.Node, x: torch_fx.Node, graph: Graph) -> bool:
    """sqrt(2 / pi) * (x + 0.044715 * x ** 3), also as a product with x."""
    found = _factors(node, graph) if len(node.users) == 1 else None
    if found is None or not _is_close(found[0], math.sqrt(2.0 / math.pi)):
        return False
    values = found[1]
    if len(values) == 1:
        return _is_sum(values[0], x, [x, x, x], graph)
    rest = [value for value in values if value is not x]
    return len(values) == 2 and len(rest) == 1 and _is_sum(rest[0], None, [x, x], graph)


def _is_sum(node: torch_fx.Node, first: torch_fx.Node | None, powers: list[torch_fx.Node], graph: Graph) -> bool:
    """first + 0.044715 * x ** n; 1 in the place of `first` where that is None."""
    if target_of(node) is not aten.add.Tensor or node.kwargs or len(node.args) != 2:
        return False
    for one, other in (node.args, node.args[::-1]):
        fits = one is first if first is not None else one == 1
        if not fits or not isinstance(other, torch_fx.Node):
            continue
        found = _factors(other, graph)
        if found is not None and _is_close(found[0], 0.044715) and _powers(found[1]) == powers:
            return True
    return False


def _powers(values: list[torch_fx.Node]) -> list[torch_fx.Node]:
    """The values, a power as so many of its base."""
    found: list[torch_fx.Node] = []
    for value in values:
        exponent = argument(value, 1)
        if target_of(value) is aten.pow.Tensor_Scalar and exponent in (2, 3):
            found += [source_of(value)] * int(exponent)
        elif target_of(value) is aten.square.default:
            found += [source_of(value)] * 2
        else:
            found.append(value)
    return found


def _softplus_of(node: Any) -> torch_fx.Node | None:
    """x, for softplus(x) in either form."""
    if not isinstance(node, torch_fx.Node) or len(node.users) != 1 or node.kwargs:
        return None
    if target_of(node) is aten.softplus.default:
        usual = argument(node, 1, 1) == 1 and argument(node, 2, 20) == 20
        return source_of(node) if usual else None
    if target_of(node) is aten.log1p.default:
        exp = source_of(node)
        return source_of(exp) if target_of(exp) is aten.exp.default and len(exp.users) == 1 else None
    return None


def _gated(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    """x * tanh(softplus(x)), x * sigmoid(x), x * hardsigmoid(x)"""
    if node.kwargs or not all(isinstance(item, torch_fx.Node) for item in node.args):
        return None
    for x, gate in (node.args, node.args[::-1]):
        assert isinstance(x, torch_fx.Node)
        assert isinstance(gate, torch_fx.Node)
        if len(gate.users) != 1 or not _same_kind(node, x) or gate.op != "call_function":
            continue
        if target_of(gate) is aten.tanh.default and _softplus_of(gate.args[0]) is x:
            return editor.call(aten.mish.default, x)
        if target_of(gate) is aten.sigmoid.default and gate.args[0] is x:
            return editor.call(aten.silu.default, x)
        if target_of(gate) is aten.hardsigmoid.default and gate.args[0] is x:
            return editor.call(aten.hardswish.default, x)
    return None


ACTIVATION_FORMS: tuple[Rule, ...] = (
    Rule(
        "gelu",
        "x * 0.5 * (1 + erf(x / sqrt(2))) -> gelu(x); with tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)) in its tanh form",
        (aten.mul.Tensor, aten.div.Tensor),
        _gelu,
    ),
    Rule(
        "gated by itself",
        "x * tanh(softplus(x)) -> mish(x), x * sigmoid(x) -> silu(x), x * hardsigmoid(x) -> hardswish(x)",
        (aten.mul.Tensor,),
        _gated,
    ),
)
