"""torch's pointwise words, each as a function of two tensors; the second is left out where one is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Word = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _of_one(*names: str, source: Any = torch, prefix: str = "") -> dict[str, Word]:
    def word(function: Callable[..., torch.Tensor]) -> Word:
        return lambda x, y: function(x)

    return {prefix + name: word(getattr(source, name)) for name in names}


def _of_two(*names: str) -> dict[str, Word]:
    return {name: getattr(torch, name) for name in names}


def _with_number(*names: str) -> dict[str, Word]:
    def word(function: Callable[..., torch.Tensor]) -> Word:
        return lambda x, y: function(x, 2.5)

    return {f"{name} 2.5": word(getattr(torch, name)) for name in names}


def _activations(*names: str) -> dict[str, Word]:
    return _of_one(*names, source=F)


def _special(*names: str) -> dict[str, Word]:
    return _of_one(*names, source=torch.special, prefix="special ")


_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "not_equal", "less", "less_equal", "greater", "greater_equal")

#: Words whose results are as torch's in float32, to the last bit.
EXACT: dict[str, Word] = {
    **_of_one("abs", "absolute", "neg", "negative", "positive", "square", "ceil", "floor", "trunc", "fix", "frac"),
    **_of_one("sign", "sgn", "signbit", "round", "relu", "isfinite", "isinf", "isnan", "isposinf", "isneginf"),
    **_of_one("logical_not", "nan_to_num", "angle", "zeros_like", "ones_like", "clone"),
    **_of_two("add", "sub", "subtract", "mul", "multiply", "maximum", "minimum", "max", "min", "fmax", "fmin"),
    **_of_two("fmod", "remainder", "floor_divide", "copysign", "heaviside"),
    **_of_two("logical_and", "logical_or", "logical_xor", "isclose", *_COMPARISONS),
    **_with_number("add", "sub", "mul", "fmod", "remainder", "floor_divide", "copysign", *_COMPARISONS),
    **_activations("relu6", "hardtanh", "hardshrink"),
    "threshold": lambda x, y: F.threshold(x, 0.1, -3.0),
    "softshrink": lambda x, y: F.softshrink(x, 0.3),
    "rounded": lambda x, y: torch.round(x, decimals=2),
    "rounded to hundreds": lambda x, y: torch.round(x, decimals=-2),
    "nan to numbers": lambda x, y: torch.nan_to_num(x, 1.0, 2.0, -3.0),
    "clamp": lambda x, y: torch.clamp(x, y, y + 1.0),
    "clamp above": lambda x, y: torch.clamp(x, min=y),
    "clamp_min": torch.clamp_min,
    "clamp_max": lambda x, y: torch.clamp_max(x, 0.3),
    "clip": lambda x, y: torch.clip(x, -1.0, 1.0),
    "where": lambda x, y: torch.where(x > y, x, y),
    "where of numbers": lambda x, y: torch.where(x > 0, 1.0, 0.0),
    "where of one number": lambda x, y: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x, y: x.masked_fill(y > 0, 3.0),
    "rsub": lambda x, y: 3.0 - x,
    "remainder of a number": lambda x, y: torch.remainder(3.0, x),
    "divided down": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "divided to zero": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "and": lambda x, y: (x > 0) & (y > 0),
    "or": lambda x, y: (x > 0) | (y > 0),
    "xor": lambda x, y: (x > 0) ^ (y > 0),
    "not": lambda x, y: ~(x > 0),
    "chosen by both": lambda x, y: torch.where((x > 0) & ~(y > 0), x, y),
}

#: Words whose results are right to a few units in the last place.
CLOSE: dict[str, Word] = {
    **_of_one("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sigmoid"),
    **_of_one("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sinc"),
    **_of_one("arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "deg2rad", "rad2deg", "erf", "erfc"),
    **_of_one("logit", "selu", "celu"),
    **_special("entr", "expit", "exp2", "ndtr", "erf", "erfc", "expm1", "log1p", "logit", "sinc", "round"),
    **_of_two("div", "divide", "true_divide", "hypot", "atan2", "arctan2", "logaddexp", "logaddexp2", "xlogy"),
    **_with_number("div", "xlogy"),
    **_activations("elu", "leaky_relu", "silu", "mish", "hardswish", "hardsigmoid", "tanhshrink", "softsign"),
    **_activations("softplus", "logsigmoid", "gelu"),
    "gelu by tanh": lambda x, y: F.gelu(x, approximate="tanh"),
    "rrelu": lambda x, y: F.rrelu(x, 0.1, 0.3),
    "xlog1py": torch.special.xlog1py,
    "number xlogy": lambda x, y: torch.special.xlogy(2.0, x),
    "logit within": lambda x, y: torch.logit(x, 1e-6),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp by a tensor": lambda x, y: torch.lerp(x, y, torch.sigmoid(y)),
    "addcmul": lambda x, y: torch.addcmul(x, torch.tanh(y), torch.tanh(y), value=0.5),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, y, value=0.5),
    "quotient of a number": lambda x, y: 3.0 / x,
    "cube": lambda x, y: x**3,
    "power": lambda x, y: torch.pow(x.abs(), 1.7),
    "power of a number": lambda x, y: 2.0**x,
    "ldexp": lambda x, y: torch.ldexp(x, torch.round(torch.tanh(y) * 3.0)),
}

WORDS = {**EXACT, **CLOSE}
