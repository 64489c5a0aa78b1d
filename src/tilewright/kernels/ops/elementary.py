"""Elementary functions that Triton's language lacks: their helpers, and the rows of the operations that use them.

Each is right to a few units in the last place over the whole range of float32, with torch's infinities, NaN and signs.
The polynomials are least-squares fits on Chebyshev points; the comment beside each says in which interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten

Arguments = Mapping[str, Any]
Row = Callable[[Arguments], str]

ELEMENTARY_HELPERS: dict[str, str] = {
    "is_negative": '''
@triton.jit
def is_negative(x):
    """The sign bit of a float32; -0 has one."""
    return x.to(tl.int32, bitcast=True) < 0
''',
    "copysign": '''
@triton.jit
def copysign(x, sign):
    """|x| with the sign of `sign`, which may be a zero."""
    return tl.where(is_negative(sign), -tl.abs(x), tl.abs(x))
''',
    "trunc": '''
@triton.jit
def trunc(x):
    """x without its fraction; -0 stays."""
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))
''',
    "rint": '''
@triton.jit
def rint(x):
    """The nearest whole number, of two the even one: beside 2**23 there is no room for a fraction."""
    a = tl.abs(x)
    near = (a + 8388608.0) - 8388608.0
    return tl.where((a < 8388608.0) & (a > 0.0), tl.where(x < 0.0, -near, near), x)
''',
    "float_mod": '''
@triton.jit
def float_mod(x, y):
    """x - trunc(x / y) * y without rounding, with the sign of x."""
    if COMPILED:
        return tl.extra.cuda.libdevice.fmod(x, y)
    else:
        return x % y
''',
    "float_remainder": '''
@triton.jit
def float_remainder(x, y):
    """x - floor(x / y) * y, with the sign of y."""
    rest = float_mod(x, y)
    return tl.where((rest != 0.0) & ((rest < 0.0) != (y < 0.0)), rest + y, rest)
''',
    "float_floor_divide": '''
@triton.jit
def float_floor_divide(x, y):
    """floor(x / y): the quotient of what a remainder leaves is whole but for its rounding."""
    rest = float_mod(x, y)
    whole = tl.div_rn(x - rest, y)
    whole = tl.where((rest != 0.0) & ((rest < 0.0) != (y < 0.0)), whole - 1.0, whole)
    down = tl.floor(whole)
    return tl.where(y == 0.0, tl.div_rn(x, y), tl.where(whole - down > 0.5, down + 1.0, down))
''',
    "hypot": '''
@triton.jit
def hypot(x, y):
    """sqrt(x * x + y * y) without overflow on the way; infinite where either is."""
    large, small = tl.maximum(tl.abs(x), tl.abs(y)), tl.minimum(tl.abs(x), tl.abs(y))
    ratio = small / tl.where(large == 0.0, 1.0, large)
    length = large * tl.sqrt_rn(1.0 + ratio * ratio)
    infinite = (tl.abs(x) == float("inf")) | (tl.abs(y) == float("inf"))
    return tl.where(infinite, float("inf"), tl.where((x != x) | (y != y), float("nan"), length))
''',
    "logaddexp": '''
@triton.jit
def logaddexp(x, y):
    """log(exp(x) + exp(y)), the larger one taken out."""
    large = maximum(x, y)
    far = log1p(exp(-tl.abs(x - y)))
    return tl.where((x == y) & (tl.abs(x) == float("inf")), x, large + far)
''',
    "logaddexp2": '''
@triton.jit
def logaddexp2(x, y):
    """log2(2**x + 2**y), the larger one taken out."""
    large = maximum(x, y)
    far = log1p(tl.exp2(-tl.abs(x - y))) * 1.4426950408889634
    return tl.where((x == y) & (tl.abs(x) == float("inf")), x, large + far)
''',
    "times_log": '''
@triton.jit
def times_log(x, y, logarithm):
    """x * logarithm, that of y or of 1 + y; 0 where x is, whatever y but NaN."""
    return tl.where((x == 0.0) & (y == y), 0.0, x * logarithm)
''',
    "logit": '''
@triton.jit
def logit(x):
    """log(x / (1 - x))."""
    return tl.log(x / (1.0 - x))
''',
    "sinc": '''
@triton.jit
def sinc(x):
    """sin(pi x) / (pi x), 1 at 0."""
    turn = x * 3.141592653589793
    return tl.where(x == 0.0, 1.0, tl.sin(turn) / tl.where(x == 0.0, 1.0, turn))
''',
    "sinh": '''
@triton.jit
def sinh(x):
    """(e + e / (e + 1)) / 2 with e = exp(|x|) - 1; above 20 half of exp(|x|), in two factors that do not overflow."""
    a = tl.abs(x)
    e, root = expm1(minimum(a, 20.0)), exp(0.5 * a)
    size = tl.where(a > 20.0, (0.5 * root) * root, 0.5 * (e + e / (e + 1.0)))
    return tl.where(x == 0.0, x, tl.where(x < 0.0, -size, size))
''',
    "cosh": '''
@triton.jit
def cosh(x):
    """(e + 1 / e) / 2 with e = exp(|x|); above 20 half of exp(|x|), in two factors that do not overflow."""
    a = tl.abs(x)
    e, root = exp(tl.minimum(a, 20.0)), exp(0.5 * a)
    return tl.where(a > 20.0, (0.5 * root) * root, tl.where(a != a, a, 0.5 * (e + 1.0 / e)))
''',
    "asinh": '''
@triton.jit
def asinh(x):
    """log(a + sqrt(a * a + 1)) for a = |x|, in the form that is exact near zero; log(2 a) where squares overflow."""
    a = tl.abs(x)
    b = tl.minimum(a, 1e8)
    near = log1p(b + b * b / (1.0 + tl.sqrt_rn(b * b + 1.0)))
    size = tl.where(a > 1e8, tl.log(a) + 0.6931471805599453, near)
    return tl.where(x == 0.0, x, tl.where(a != a, a, tl.where(x < 0.0, -size, size)))
''',
    "acosh": '''
@triton.jit
def acosh(x):
    """log(x + sqrt(x * x - 1)), in the form that is exact near one; log(2 x) where squares overflow, NaN below one."""
    t = tl.minimum(x, 1e8) - 1.0
    near = log1p(t + tl.sqrt_rn(t * (t + 2.0)))
    return tl.where(x >= 1.0, tl.where(x > 1e8, tl.log(x) + 0.6931471805599453, near), float("nan"))
''',
    "atanh": '''
@triton.jit
def atanh(x):
    """log((1 + a) / (1 - a)) / 2 for a = |x|, in the form that is exact near zero."""
    a = tl.abs(x)
    size = 0.5 * log1p(2.0 * a / (1.0 - a))
    size = tl.where(a == 1.0, float("inf"), tl.where(a > 1.0, float("nan"), size))
    return tl.where(x == 0.0, x, tl.where(x < 0.0, -size, size))
''',
    "atan": '''
@triton.jit
def atan(x):
    """The angle whose tangent is x: |x| is brought below tan(pi / 8) by 1 / x and (x - 1) / (x + 1)."""
    a = tl.abs(x)
    inner = tl.where(a > 1.0, 1.0 / a, a)
    turned = inner > 0.41421356
    r = tl.where(turned, (inner - 1.0) / (inner + 1.0), inner)
    s = r * r  # the polynomial is for s in [0, 0.1716]
    p = s * -0.0645904778 + 0.107461999
    p = p * s - 0.142642235
    p = p * s + 0.199995498
    p = p * s - 0.333333318
    angle = r + r * (s * p)
    angle = tl.where(turned, 0.7853981633974483 + angle, angle)
    angle = tl.where(a > 1.0, 1.5707963267948966 - angle, angle)
    return tl.where(x == 0.0, x, tl.where(x < 0.0, -angle, angle))
''',
    "atan2": '''
@triton.jit
def atan2(y, x):
    """The angle of the point (x, y), by quadrant; signs of zeros count."""
    large, small = tl.maximum(tl.abs(x), tl.abs(y)), tl.minimum(tl.abs(x), tl.abs(y))
    both = (large == small) & (large == float("inf"))
    ratio = tl.where(both, 1.0, small / tl.where(large == 0.0, 1.0, large))
    angle = atan(ratio)
    angle = tl.where(tl.abs(y) > tl.abs(x), 1.5707963267948966 - angle, angle)
    angle = tl.where(is_negative(x), 3.141592653589793 - angle, angle)
    angle = tl.where(is_negative(y), -angle, angle)
    return tl.where((x != x) | (y != y), float("nan"), angle)
''',
    "asin": '''
@triton.jit
def asin(x):
    """The angle whose sine is x; above 1/2 by that of sqrt((1 - |x|) / 2). NaN outside of [-1, 1]."""
    a = tl.abs(x)
    angle = asin_of_half(tl.where(a > 0.5, tl.sqrt_rn((1.0 - a) * 0.5), a))
    angle = tl.where(a > 0.5, 1.5707963267948966 - 2.0 * angle, angle)
    return tl.where(x == 0.0, x, tl.where(x < 0.0, -angle, angle))
''',
    "acos": '''
@triton.jit
def acos(x):
    """The angle whose cosine is x; near 1 and -1 by the sine of its half. NaN outside of [-1, 1]."""
    a = tl.abs(x)
    angle = asin_of_half(tl.where(a > 0.5, tl.sqrt_rn((1.0 - a) * 0.5), a))
    near = tl.where(x < 0.0, 3.141592653589793 - 2.0 * angle, 2.0 * angle)
    middle = tl.where(x < 0.0, 1.5707963267948966 + angle, 1.5707963267948966 - angle)
    return tl.where(a > 0.5, near, middle)
''',
    "asin_of_half": '''
@triton.jit
def asin_of_half(x):
    """asin(x) for x in [0, 1/2]."""
    s = x * x  # the polynomial is for s in [0, 1/4]
    p = s * 0.0338057229 + 0.0170778768
    p = p * s + 0.0311161521
    p = p * s + 0.0445980327
    p = p * s + 0.0750009876
    p = p * s + 0.166666663
    return x + x * (s * p)
''',
    "erfc": '''
@triton.jit
def erfc(x):
    """1 - erf(x), and above 1/2, where that cancels, exp(-x * x) times a polynomial in t = 1 / (x + 1.5)."""
    a = tl.minimum(tl.maximum(x, 0.5), 10.5)
    t = 1.0 / (a + 1.5)  # the polynomial is for x in [0.45, 10.2], where the result vanishes
    p = t * 2.3764786 - 10.2012919
    p = p * t + 16.0084201
    p = p * t - 10.8411547
    p = p * t + 1.89647459
    p = p * t + 0.22951052
    p = p * t + 1.02783174
    p = p * t + 0.844065451
    p = p * t + 0.564240569
    # The square in two parts, since the error of exp(-x * x) grows with it: the first is exact.
    head = (a.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
    tail = exp(-head * head) * exp((head - a) * (head + a)) * (p * t)
    return tl.where(x > 0.5, tail, 1.0 - tl.math.erf(x))
''',
}


def _unary(template: str) -> Row:
    return lambda a: template.format(a["self"])


def _binary(template: str) -> Row:
    return lambda a: template.format(a["self"], a["other"])


def _lerp(a: Arguments) -> str:
    """From the nearer end, as torch does it, so that both ends are met."""
    start, end, weight = a["self"], a["end"], a["weight"]
    span = f"({end} - {start})"
    return f"tl.where(tl.abs({weight}) < 0.5, {start} + {weight} * {span}, {end} - {span} * (1.0 - {weight}))"


def _logit(a: Arguments) -> str:
    eps = a.get("eps")
    if eps is None:
        return f"logit({a['self']})"
    return f"logit(minimum(maximum({a['self']}, {eps}), 1.0 - {eps}))"


def _rounded(a: Arguments) -> str:
    """To so many places after the point, or before it."""
    places = int(a["decimals"])
    scale = f"{10.0 ** abs(places)!r}"
    if places < 0:
        return f"rint(tl.div_rn({a['self']}, {scale})) * {scale}"
    return f"tl.div_rn(rint({a['self']} * {scale}), {scale})" if places else f"rint({a['self']})"


def _isclose(a: Arguments) -> str:
    x, y = a["self"], a["other"]
    near = f'(tl.abs({x} - {y}) <= {a["atol"]} + tl.abs({a["rtol"]} * {y})) & (tl.abs({x} - {y}) < float("inf"))'
    both = f" | (({x} != {x}) & ({y} != {y}))" if a["equal_nan"] in (True, "True") else ""
    return f"({x} == {y}) | ({near}){both}"


def divide(a: Arguments) -> str:
    """A quotient, rounded down or towards zero where that is asked for: then of the exact quotient."""
    mode, quotient = a.get("rounding_mode"), f"{a['self']} / {a['other']}"
    if mode == "floor":
        return f"float_floor_divide({a['self']}, {a['other']})"
    return f"trunc(tl.div_rn({a['self']}, {a['other']}))" if mode == "trunc" else quotient


_LIMITS = ("nan", "posinf", "neginf")
_LIMITED = (
    'tl.where({0} != {0}, {nan}, tl.where({0} == float("inf"), {posinf}, '
    'tl.where({0} == float("-inf"), {neginf}, {0})))'
)

ELEMENTARY: dict[Any, Row] = {
    # whole numbers and rests
    aten.trunc.default: _unary("trunc({0})"),
    aten.frac.default: _unary("{0} - trunc({0})"),
    aten.round.default: _unary("rint({0})"),
    aten.round.decimals: _rounded,
    **dict.fromkeys((aten.fmod.Tensor, aten.fmod.Scalar), _binary("float_mod({0}, {1})")),
    **dict.fromkeys(
        (aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor),
        _binary("float_remainder({0}, {1})"),
    ),
    **dict.fromkeys((aten.floor_divide.default, aten.floor_divide.Scalar), _binary("float_floor_divide({0}, {1})")),
    # logarithms and exponentials
    aten.log10.default: _unary("tl.log({0}) * 0.4342944819032518"),
    aten.logaddexp.default: _binary("logaddexp({0}, {1})"),
    aten.logaddexp2.default: _binary("logaddexp2({0}, {1})"),
    **dict.fromkeys(
        (aten.xlogy.Tensor, aten.xlogy.Scalar_Self, aten.xlogy.Scalar_Other),
        _binary("times_log({0}, {1}, tl.log({1}))"),
    ),
    **dict.fromkeys(
        (aten.special_xlog1py.default, aten.special_xlog1py.self_scalar, aten.special_xlog1py.other_scalar),
        _binary("times_log({0}, {1}, log1p({1}))"),
    ),
    aten.special_entr.default: _unary('tl.where({0} < 0.0, float("-inf"), -times_log({0}, {0}, tl.log({0})))'),
    aten.logit.default: _logit,
    # angles
    aten.deg2rad.default: _unary("{0} * 0.017453292519943295"),
    aten.rad2deg.default: _unary("{0} * 57.29577951308232"),
    aten.tan.default: _unary("tl.sin({0}) / tl.cos({0})"),
    aten.asin.default: _unary("asin({0})"),
    aten.acos.default: _unary("acos({0})"),
    aten.atan.default: _unary("atan({0})"),
    aten.atan2.default: lambda a: f"atan2({a['self']}, {a['other']})",
    aten.angle.default: _unary("tl.where({0} != {0}, {0}, tl.where({0} < 0.0, 3.141592653589793, 0.0))"),
    aten.sinc.default: _unary("sinc({0})"),
    aten.hypot.default: _binary("hypot({0}, {1})"),
    # hyperbolic functions
    aten.sinh.default: _unary("sinh({0})"),
    aten.cosh.default: _unary("cosh({0})"),
    aten.asinh.default: _unary("asinh({0})"),
    aten.acosh.default: _unary("acosh({0})"),
    aten.atanh.default: _unary("atanh({0})"),
    # errors
    aten.erfc.default: _unary("erfc({0})"),
    aten.special_ndtr.default: _unary("0.5 * (1.0 + tl.math.erf({0} * 0.7071067811865476))"),
    # signs, limits, and what is between
    aten.copysign.Tensor: _binary("copysign({0}, {1})"),
    aten.copysign.Scalar: _binary("copysign({0}, tl.full((), {1}, tl.float32))"),
    aten.signbit.default: _unary("is_negative({0})"),
    aten.heaviside.default: lambda a: (
        f"tl.where({a['self']} == 0.0, {a['values']}, tl.where({a['self']} > 0.0, 1.0, 0.0))"
    ),
    aten.nan_to_num.default: lambda a: _LIMITED.format(a["self"], **{name: a[name] for name in _LIMITS}),
    aten.lerp.Scalar: _lerp,
    aten.lerp.Tensor: _lerp,
    aten.ldexp.Tensor: _binary("{0} * tl.exp2({1})"),
    # comparisons
    aten.isfinite.default: _unary('tl.abs({0}) < float("inf")'),
    aten.isposinf.default: _unary('{0} == float("inf")'),
    aten.isneginf.default: _unary('{0} == float("-inf")'),
    aten.isclose.default: _isclose,
    aten.logical_xor.default: _binary("({0} != 0) ^ ({1} != 0)"),
}

#: Rows for bools alone: of integers they would be another operation.
BITWISE: dict[Any, Row] = {
    **dict.fromkeys((aten.__and__.Tensor, aten.bitwise_and.Tensor), _binary("{0} & {1}")),
    **dict.fromkeys((aten.__or__.Tensor, aten.bitwise_or.Tensor), _binary("{0} | {1}")),
    **dict.fromkeys((aten.__xor__.Tensor, aten.bitwise_xor.Tensor), _binary("{0} ^ {1}")),
    aten.bitwise_not.default: _unary("{0} == 0"),
}
