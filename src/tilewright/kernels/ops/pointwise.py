"""Pointwise ATen operations as Triton text: a table from operation to expression.

Values are float32 in registers whatever the tensors' dtype (bool for comparisons). Each row takes the
operation's arguments by their schema names, already as text, and returns the expression.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import has_data_dependent_size
from tilewright.graph.ranges import RANGE, Range
from tilewright.kernels.ops.elementary import BITWISE, ELEMENTARY, Arguments, Row, divide
from tilewright.kernels.ops.helpers import HELPERS

aten = torch.ops.aten

_LN2 = math.log(2.0)


def _scaled(value: str, factor: Any) -> str:
    return value if factor in (1, "1", 1.0, "1.0") else f"{value} * {factor}"


def _clamp(a: Arguments, low: Any, high: Any) -> str:
    text = a["self"]
    if low is not None:
        text = f"maximum({text}, {low})"
    if high is not None:
        text = f"minimum({text}, {high})"
    return str(text)


def _power(a: Arguments) -> str:
    base, exponent = a["self"], a["exponent"]
    small = {
        "2": "{0} * {0}",
        "3": "{0} * {0} * {0}",
        "0.5": "tl.sqrt_rn({0})",
        "1": "{0}",
        "4": "({0} * {0}) * ({0} * {0})",
    }
    key = exponent[:-2] if exponent.endswith(".0") else exponent
    if key in small:
        return small[key].format(base)
    return {"-1": f"1.0 / {base}", "-0.5": f"1.0 / tl.sqrt_rn({base})", "-2": f"1.0 / ({base} * {base})"}.get(
        key, f"power({base}, {exponent} * 1.0)"
    )


def _gelu(a: Arguments) -> str:
    return f"gelu_tanh({a['self']})" if a.get("approximate") == "tanh" else f"gelu_erf({a['self']})"


def _elu(a: Arguments) -> str:
    x = a["self"]
    negative = _scaled(f"expm1({_scaled(x, a['input_scale'])})", a["alpha"])
    return f"{_scaled(f'tl.where({x} > 0.0, {x}, {negative})', a['scale'])}"


def _unary(template: str) -> Row:
    return lambda a: template.format(a["self"])


def _binary(template: str) -> Row:
    return lambda a: template.format(a["self"], a["other"])


_HARD_GATE = "minimum(maximum({0} + 3.0, 0.0), 6.0)"

POINTWISE: dict[Any, Row] = {
    # arithmetic
    aten.add.Tensor: lambda a: f"{a['self']} + {_scaled(a['other'], a['alpha'])}",
    aten.add.Scalar: lambda a: f"{a['self']} + {_scaled(a['other'], a['alpha'])}",
    aten.sub.Tensor: lambda a: f"{a['self']} - {_scaled(a['other'], a['alpha'])}",
    aten.sub.Scalar: lambda a: f"{a['self']} - {_scaled(a['other'], a['alpha'])}",
    aten.rsub.Scalar: lambda a: f"{a['other']} - {_scaled(a['self'], a['alpha'])}",
    aten.rsub.Tensor: lambda a: f"{a['other']} - {_scaled(a['self'], a['alpha'])}",
    aten.mul.Tensor: _binary("{0} * {1}"),
    aten.mul.Scalar: _binary("{0} * {1}"),
    aten.div.Tensor: divide,
    aten.div.Scalar: divide,
    aten.div.Tensor_mode: divide,
    aten.div.Scalar_mode: divide,
    aten.neg.default: _unary("-{0}"),
    aten.abs.default: _unary("tl.abs({0})"),
    aten.reciprocal.default: _unary("1.0 / {0}"),
    aten.square.default: _unary("{0} * {0}"),
    aten.pow.Tensor_Scalar: _power,
    aten.pow.Tensor_Tensor: _power,
    aten.pow.Scalar: _power,
    aten.addcmul.default: lambda a: f"{a['self']} + {_scaled(a['tensor1'], a['value'])} * {a['tensor2']}",
    aten.addcdiv.default: lambda a: f"{a['self']} + {_scaled(a['tensor1'], a['value'])} / {a['tensor2']}",
    # exponentials and roots
    aten.exp.default: _unary("exp({0})"),
    aten.exp2.default: _unary("tl.exp2({0})"),
    aten.expm1.default: _unary("expm1({0})"),
    aten.log.default: _unary("tl.log({0})"),
    aten.log2.default: _unary("tl.log2({0})"),
    aten.log1p.default: _unary("log1p({0})"),
    aten.sqrt.default: _unary("tl.sqrt_rn({0})"),
    aten.rsqrt.default: _unary("1.0 / tl.sqrt_rn({0})"),
    aten.erf.default: _unary("tl.math.erf({0})"),
    aten.sin.default: _unary("tl.sin({0})"),
    aten.cos.default: _unary("tl.cos({0})"),
    aten.floor.default: _unary("tl.floor({0})"),
    aten.ceil.default: _unary("tl.ceil({0})"),
    # activations
    aten.relu.default: _unary("maximum({0}, 0.0)"),
    aten.relu6.default: _unary("minimum(maximum({0}, 0.0), 6.0)"),
    aten.leaky_relu.default: lambda a: f"tl.where({a['self']} > 0.0, {a['self']}, {a['self']} * {a['negative_slope']})",
    aten.prelu.default: lambda a: f"tl.where({a['self']} > 0.0, {a['self']}, {a['self']} * {a['weight']})",
    aten.gelu.default: _gelu,
    aten.silu.default: _unary("silu({0})"),
    aten.mish.default: _unary("mish({0})"),
    aten.tanh.default: _unary("tanh({0})"),
    aten.sigmoid.default: _unary("sigmoid({0})"),
    aten.log_sigmoid.default: _unary("-softplus(-{0}, 1.0, 20.0)"),
    aten.softplus.default: lambda a: f"softplus({a['self']}, {a['beta']} * 1.0, {a['threshold']} * 1.0)",
    aten.hardtanh.default: lambda a: _clamp(a, a["min_val"], a["max_val"]),
    aten.hardswish.default: _unary(f"{{0}} * ({_HARD_GATE} / 6.0)"),
    aten.hardsigmoid.default: _unary(f"{_HARD_GATE} / 6.0"),
    aten.elu.default: _elu,
    aten.celu.default: lambda a: (
        f"tl.where({a['self']} > 0.0, {a['self']}, {a['alpha']} * expm1({a['self']} / {a['alpha']}))"
    ),
    aten.selu.default: _unary("1.0507009873554805 * tl.where({0} > 0.0, {0}, 1.6732632423543772 * expm1({0}))"),
    aten.hardshrink.default: lambda a: f"tl.where(tl.abs({a['self']}) <= {a['lambd']}, 0.0, {a['self']})",
    aten.softshrink.default: lambda a: (
        f"tl.where({a['self']} > {a['lambd']}, {a['self']} - {a['lambd']}, "
        f"tl.where({a['self']} < -{a['lambd']}, {a['self']} + {a['lambd']}, {a['self']} * 0.0))"
    ),
    aten.threshold.default: lambda a: f"tl.where({a['self']} <= {a['threshold']}, {a['value']}, {a['self']})",
    # limits
    aten.clamp.default: lambda a: _clamp(a, a["min"], a["max"]),
    aten.clamp.Tensor: lambda a: _clamp(a, a["min"], a["max"]),
    aten.clamp_min.default: lambda a: _clamp(a, a["min"], None),
    aten.clamp_min.Tensor: lambda a: _clamp(a, a["min"], None),
    aten.clamp_max.default: lambda a: _clamp(a, None, a["max"]),
    aten.clamp_max.Tensor: lambda a: _clamp(a, None, a["max"]),
    aten.minimum.default: _binary("minimum({0}, {1})"),
    aten.maximum.default: _binary("maximum({0}, {1})"),
    aten.fmin.default: _binary("tl.where(({0} < {1}) | ({1} != {1}), {0}, {1})"),
    aten.fmax.default: _binary("tl.where(({0} > {1}) | ({1} != {1}), {0}, {1})"),
    # comparisons and choice
    aten.eq.Scalar: _binary("{0} == {1}"),
    aten.eq.Tensor: _binary("{0} == {1}"),
    aten.ne.Scalar: _binary("{0} != {1}"),
    aten.ne.Tensor: _binary("{0} != {1}"),
    aten.lt.Scalar: _binary("{0} < {1}"),
    aten.lt.Tensor: _binary("{0} < {1}"),
    aten.le.Scalar: _binary("{0} <= {1}"),
    aten.le.Tensor: _binary("{0} <= {1}"),
    aten.gt.Scalar: _binary("{0} > {1}"),
    aten.gt.Tensor: _binary("{0} > {1}"),
    aten.ge.Scalar: _binary("{0} >= {1}"),
    aten.ge.Tensor: _binary("{0} >= {1}"),
    aten.logical_not.default: _unary("{0} == 0"),
    aten.logical_and.default: _binary("({0} != 0) & ({1} != 0)"),
    aten.logical_or.default: _binary("({0} != 0) | ({1} != 0)"),
    aten.where.self: lambda a: f"tl.where({a['condition']}, {a['self']}, {a['other']})",
    aten.where.ScalarOther: lambda a: f"tl.where({a['condition']}, {a['self']}, {a['other']})",
    aten.where.ScalarSelf: lambda a: f"tl.where({a['condition']}, {a['self']}, {a['other']})",
    aten.where.Scalar: lambda a: f"tl.where({a['condition']}, {a['self']}, {a['other']})",
    aten.masked_fill.Scalar: lambda a: f"tl.where({a['mask']}, {a['value']}, {a['self']})",
    aten.zeros_like.default: lambda a: "0.0",
    aten.ones_like.default: lambda a: "1.0",
    aten.sign.default: _unary("tl.where({0} > 0.0, 1.0, tl.where({0} < 0.0, -1.0, 0.0))"),
    aten.isnan.default: _unary("{0} != {0}"),
    aten.isinf.default: _unary('tl.abs({0}) == float("inf")'),
    # types: values are float32 in registers, so only the store rounds
    aten._to_copy.default: _unary("{0}"),
    **ELEMENTARY,
    **BITWISE,
}


def _gelu_of(a: Arguments, known: Range) -> str | None:
    """The half of GELU that is needed."""
    exact = a.get("approximate") != "tanh"
    return f"gelu_erf_of_negative({a['self']})" if exact and known.high <= 0.0 else None


def _gelu_before_relu(node: torch_fx.Node, a: Arguments) -> str | None:
    """The other half, where ReLU takes what there is of the first."""
    follows = bool(node.users) and all(user.target is aten.relu.default for user in node.users)
    exact = node.target is aten.gelu.default and a.get("approximate") != "tanh"
    return f"gelu_erf_of_positive({a['self']})" if exact and follows else None


#: Operations with a cheaper form where the range of their input is known.
_KNOWN_RANGES: dict[Any, Callable[[Arguments, Range], str | None]] = {aten.gelu.default: _gelu_of}

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def is_pointwise(node: torch_fx.Node) -> bool:
    """True where the table has the operation, and its tensors are of types that the kernels compute in."""
    if node.op != "call_function" or node.target not in POINTWISE:
        return False
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype not in (*_FLOATS, torch.bool):
        return False
    if has_data_dependent_size(node):
        return False
    if node.target is aten._to_copy.default and value.dtype not in _FLOATS:
        return False
    if node.target is aten._to_copy.default and set(node.kwargs) - {"dtype"}:
        return False
    if node.target in BITWISE and value.dtype is not torch.bool:
        return False
    tensors = [argument.meta["val"] for argument in node.all_input_nodes]
    return all(isinstance(tensor, torch.Tensor) and tensor.dtype in (*_FLOATS, torch.bool) for tensor in tensors)


def bind_arguments(node: torch_fx.Node) -> dict[str, Any]:
    """The node's arguments by their schema names, defaults filled in."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if position < len(node.args):
            bound[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def literal(value: float | int | bool) -> str:
    """A number as Triton text."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def pointwise_text(node: torch_fx.Node, text_of: Callable[[Any], str]) -> str:
    """The operation as a Triton expression; `text_of` gives the text of a node or a number."""
    arguments = {
        name: text_of(value) if isinstance(value, torch_fx.Node) or type(value) in (int, float, bool) else value
        for name, value in bind_arguments(node).items()
    }
    known = node.meta.get(RANGE)
    cheaper = _KNOWN_RANGES.get(node.target) if isinstance(known, Range) else None
    text = cheaper(arguments, known) if cheaper is not None and known is not None else None
    text = text or _gelu_before_relu(node, arguments)
    return text if text is not None else POINTWISE[node.target](arguments)


def helpers_in(text: str) -> set[str]:
    """Names of the helpers that a Triton text calls."""
    return {name for name in re.findall(r"(?<![\w.])(\w+)\(", text) if name in HELPERS}
