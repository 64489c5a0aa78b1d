"""Small Triton functions that emitted files carry, where Triton's language lacks the operation.

Each is right for large, small, negative and non-finite inputs, as torch is, and uses nothing that Triton's
interpreter lacks. A helper may use others; `with_dependencies` puts them in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tilewright.kernels.ops.elementary import ELEMENTARY_HELPERS

HELPERS: dict[str, str] = {
    "exp": '''
@triton.jit
def exp(x):
    """e**x: 2**k * e**r with x = k ln 2 + r, ln 2 in two parts, since the error of x * log2(e) grows with x."""
    k = tl.floor(x * 1.4426950408889634)
    r = (x - k * 0.693359375) + k * 2.12194440054690583e-4
    value = tl.exp2(k) * tl.exp2(r * 1.4426950408889634)
    return tl.where(x > 88.75, float("inf"), tl.where(x < -104.0, 0.0, value))
''',
    "log1p": '''
@triton.jit
def log1p(x):
    """log(1 + x), exact for small x: the rounding error of 1 + x cancels in x / ((1 + x) - 1)."""
    u = 1.0 + x
    exact = (u == 1.0) | (u == float("inf"))
    return tl.where(exact, x, tl.log(u) * (x / tl.where(exact, 1.0, u - 1.0)))
''',
    "expm1": '''
@triton.jit
def expm1(x):
    """exp(x) - 1: Taylor's polynomial near zero, where the difference would cancel."""
    p = 1.0 / 5040.0
    p = p * x + 1.0 / 720.0
    p = p * x + 1.0 / 120.0
    p = p * x + 1.0 / 24.0
    p = p * x + 1.0 / 6.0
    p = p * x + 0.5
    p = p * x + 1.0
    return tl.where(tl.abs(x) < 0.5, p * x, exp(x) - 1.0)
''',
    "tanh": '''
@triton.jit
def tanh(x):
    """(1 - e) / (1 + e) with e = exp(-2|x|), and a polynomial near zero, where 1 - e would cancel."""
    a = tl.abs(x)
    e = tl.exp(-2.0 * a)
    s = x * x
    p = -0.053968254
    p = p * s + 0.13333334
    p = p * s - 0.33333334
    near = x + x * s * p
    far = (1.0 - e) / (1.0 + e)
    return tl.where(a < 0.25, near, tl.where(x < 0.0, -far, far))
''',
    "sigmoid": '''
@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), written with exp(-|x|) so that nothing overflows."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)
''',
    "softplus": '''
@triton.jit
def softplus(x, beta, threshold):
    """log(1 + exp(beta x)) / beta, and x itself above the threshold, as torch defines it."""
    t = x * beta
    return tl.where(t > threshold, x, log1p(tl.exp(tl.where(t > threshold, threshold, t))) / beta)
''',
    "gelu_erf": '''
@triton.jit
def gelu_erf(x):
    """x * Phi(x), Phi by the error function."""
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
''',
    "gelu_erf_of_negative": '''
@triton.jit
def gelu_erf_of_negative(x):
    """x * Phi(x) for x <= 0."""
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
''',
    "gelu_erf_of_positive": '''
@triton.jit
def gelu_erf_of_positive(x):
    """x * Phi(x), for a ReLU behind it."""
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
''',
    "gelu_tanh": '''
@triton.jit
def gelu_tanh(x):
    """x * Phi(x), Phi by its tanh approximation."""
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
''',
    "silu": '''
@triton.jit
def silu(x):
    """x * sigmoid(x)."""
    return x * sigmoid(x)
''',
    "mish": '''
@triton.jit
def mish(x):
    """x * tanh(softplus(x)) = x * n / (n + 2) with n = e**x * (e**x + 2); it is x above 20 in float32."""
    e = tl.exp(tl.minimum(x, 20.0))
    n = e * (e + 2.0)
    return tl.where(x > 20.0, x, x * (n / (n + 2.0)))
''',
    "maximum": '''
@triton.jit
def maximum(a, b):
    """max(a, b); NaN where either is, as in torch."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
''',
    "minimum": '''
@triton.jit
def minimum(a, b):
    """min(a, b); NaN where either is, as in torch."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
''',
    "floor_divide": '''
@triton.jit
def floor_divide(a, b):
    """a // b of integers, towards minus infinity, as in torch; Triton's own goes towards zero."""
    rest = a % b
    return a // b - ((rest != 0) & ((rest < 0) != (b < 0))).to(tl.int32)
''',
    "remainder": '''
@triton.jit
def remainder(a, b):
    """a % b of integers, with the sign of b, as in torch; Triton's own has the sign of a."""
    rest = a % b
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)
''',
    "max_along": '''
@triton.jit
def max_along(x, axis: tl.constexpr, keep_dims: tl.constexpr):
    """Largest element along an axis; NaN where any is, as in torch."""
    if COMPILED:
        return tl.reduce(x, axis, maximum, keep_dims=keep_dims)
    else:
        is_nan = tl.max((x != x).to(tl.int32), axis, keep_dims=keep_dims)
        return tl.where(is_nan > 0, float("nan"), tl.max(tl.where(x != x, 0.0, x), axis, keep_dims=keep_dims))
''',
    "min_along": '''
@triton.jit
def min_along(x, axis: tl.constexpr, keep_dims: tl.constexpr):
    """Smallest element along an axis; NaN where any is, as in torch."""
    if COMPILED:
        return tl.reduce(x, axis, minimum, keep_dims=keep_dims)
    else:
        is_nan = tl.max((x != x).to(tl.int32), axis, keep_dims=keep_dims)
        return tl.where(is_nan > 0, float("nan"), tl.min(tl.where(x != x, 0.0, x), axis, keep_dims=keep_dims))
''',
    "prod_along": '''
@triton.jit
def multiply(a, b):
    """a * b, for reductions."""
    return a * b


@triton.jit
def prod_along(x, axis: tl.constexpr, keep_dims: tl.constexpr):
    """Product of the elements along an axis."""
    return tl.reduce(x, axis, multiply, keep_dims=keep_dims)
''',
    "rcp": '''
@triton.jit
def rcp(x):
    """1 / x."""
    if COMPILED:
        text: tl.constexpr = "rcp.approx.ftz.f32 $0, $1;"
        return tl.inline_asm_elementwise(text, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x
''',
    "power": '''
@triton.jit
def power(x, y):
    """x**y by exp2(y * log2|x|), with torch's signs: a negative base needs a whole exponent."""
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) * 2.0 != y)
    fraction = tl.where(x == float("-inf"), size, float("nan"))
    signed = tl.where(x < 0.0, tl.where(whole, tl.where(odd, -size, size), fraction), size)
    return tl.where((y == 0.0) | (x == 1.0), 1.0, signed)
''',
    "round_to_tf32": '''
@triton.jit
def round_to_tf32(x):
    """float32 x to 10 explicit mantissa bits, to nearest: tensor cores would cut the others off."""
    if COMPILED:
        text: tl.constexpr = "cvt.rna.tf32.f32 $0, $1;"
        bits = tl.inline_asm_elementwise(text, "=r,f", [x], dtype=tl.int32, is_pure=True, pack=1)
        return bits.to(tl.float32, bitcast=True)
    else:
        bits = (x.to(tl.int32, bitcast=True) + 4096) & -8192
        return tl.where(tl.abs(x) < float("inf"), bits.to(tl.float32, bitcast=True), x)
''',
    "columns_of_four": '''
@triton.jit
def columns_of_four(x):
    """The columns of [M, 4], each [M]; no data moves where a lane has all four."""
    even, odd = tl.split(tl.reshape(x, [x.shape[0], 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth
''',
    "four_columns": '''
@triton.jit
def four_columns(first, second, third, fourth):
    """Four times [M] as the columns of [M, 4]."""
    return tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), [first.shape[0], 4])
''',
    **ELEMENTARY_HELPERS,
}
#: The same functions by approximations (2**-18 relative or better each; see GELU's own), for classes
#: whose products are rounded to 11 bits anyway. Triton's interpreter has no inline assembly: there, plain twins.
APPROXIMATE_HELPERS: dict[str, str] = {
    "exp": '''
@triton.jit
def exp(x):
    """e**x; the error of x * log2(e) grows with x, to 2**-18 of the result at its largest and smallest."""
    return ex2(x * 1.4426950408889634)
''',
    "ex2": '''
@triton.jit
def ex2(x):
    """2**x; below the smallest normal float32 it is 0."""
    if COMPILED:
        text: tl.constexpr = "ex2.approx.ftz.f32 $0, $1;"
        return tl.inline_asm_elementwise(text, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)
''',
    "gelu_tail": '''
@triton.jit
def gelu_tail(x):
    """Phi(-|x|): a polynomial in s = |x| * sqrt(log2(e) / 2), times exp(-x * x / 2) = 2**(-s * s)."""
    s = tl.minimum(tl.abs(x) * 0.8493218, 34.0)  # where the tail is 0, and the polynomial finite
    p = s * -3.84390623e-05 + 0.000603251159
    p = p * s - 0.00420035748
    p = p * s + 0.0175692867
    p = p * s - 0.0511445068
    p = p * s + 0.115044869
    p = p * s - 0.215391278
    p = p * s + 0.346287817
    p = p * s - 0.469697922
    p = p * s + 0.499999672
    return p * ex2(-(s * s))
''',
    "gelu_erf": '''
@triton.jit
def gelu_erf(x):
    """x * Phi(x) = max(x, 0) - |x| * Phi(-|x|), to 4e-7 of |x|."""
    return maximum(x, 0.0) - tl.abs(tl.minimum(x, 40.0)) * gelu_tail(x)
''',
    "gelu_erf_of_positive": '''
@triton.jit
def gelu_erf_of_positive(x):
    """x * Phi(x) for x >= 0, as gelu_erf; at most 0 or NaN below, for a ReLU."""
    return x - tl.minimum(x, 40.0) * gelu_tail(x)
''',
    "gelu_erf_of_negative": '''
@triton.jit
def gelu_erf_of_negative(x):
    """x * Phi(x) for x <= 0, by the same polynomial as gelu_erf."""
    s = tl.maximum(x * 0.8493218, -34.0)
    p = s * 3.84390623e-05 + 0.000603251159
    p = p * s + 0.00420035748
    p = p * s + 0.0175692867
    p = p * s + 0.0511445068
    p = p * s + 0.115044869
    p = p * s + 0.215391278
    p = p * s + 0.346287817
    p = p * s + 0.469697922
    p = p * s + 0.499999672
    return x * (p * ex2(-(s * s)))
''',
    "tanh": '''
@triton.jit
def tanh(x):
    """1 - 2 / (1 + exp(2 * x)), and a polynomial near zero, where that would cancel."""
    far = 1.0 - 2.0 * rcp(1.0 + ex2(x * 2.885390081777927))
    s = x * x
    near = x * ((s * 0.13333334 - 0.33333334) * s + 1.0)
    return tl.where(tl.abs(x) < 0.125, near, far)
''',
    "sigmoid": '''
@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return rcp(1.0 + ex2(x * -1.4426950408889634))
''',
    "mish": '''
@triton.jit
def mish(x):
    """x * tanh(softplus(x)) = x * n / (n + 2) with n = e**x * (e**x + 2); the quotient is 1 from 20 on."""
    e = ex2(tl.minimum(x, 20.0) * 1.4426950408889634)
    n = e * (e + 2.0)
    return x * (n * rcp(n + 2.0))
''',
}

#: What helpers ask for where Triton's interpreter lacks something or is slow at it.
_COMPILED = "COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)"

_USED = re.compile(r"(?<![\w.])([a-z]\w*)\b")


def with_dependencies(names: Iterable[str], sources: Mapping[str, str] = HELPERS) -> list[str]:
    """The helpers in `names` and all that they use, each after what it uses, in a stable order."""
    needed: list[str] = []

    def visit(name: str) -> None:
        if name in needed:
            return
        for used in _USED.findall(sources[name].split('"""')[2]):
            if used in sources and used != name:
                visit(used)
        needed.append(name)

    for name in sources:
        if name in set(names):
            visit(name)
    return needed


def helper_source(names: Iterable[str], *, approximate: bool = False) -> str:
    """Source of the helpers, two blank lines between them; with `approximate`, the fast forms where there are any."""
    sources = {**HELPERS, **APPROXIMATE_HELPERS} if approximate else HELPERS
    texts = [sources[name].strip("\n") for name in with_dependencies(names, sources)]
    constants = [_COMPILED] if any("COMPILED" in text for text in texts) else []
    return "\n\n\n".join([*constants, *texts])
