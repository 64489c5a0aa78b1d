"""Plain twins of CUDA's device library, by the name of its symbols without `__nv_`.

They are computed in float64 and rounded to the type of the result, so that they are at least as good as the
library; the `fast_` ones are no worse than theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tilewright.toolchain.interpreting.numbers import high_product, saturated
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError

Values = Any


def evaluate(symbol: str, arguments: list[Values], kind: Any) -> Values:
    """What the function `symbol` gives, as an array of the type `kind`.

    Raises:
        NotInterpretableError: there is no twin of it.
    """
    name = symbol.removeprefix("__nv_")
    function = _find(name)
    if function is None:
        raise NotInterpretableError(f"the library function {symbol}")
    with np.errstate(all="ignore"):
        return np.asarray(function(*arguments)).astype(kind)


def _find(name: str) -> Callable[..., Values] | None:
    if name in _EXACT:
        return _EXACT[name]
    base = name.removeprefix("fast_")
    if base != name and base.removesuffix("f") in COARSE:
        return _in_double(COARSE[base.removesuffix("f")])
    for shown in (base, base.removesuffix("f")):
        if shown in _REAL:
            return _in_double(_REAL[shown])
    return _rounded(base)


def _in_double(function: Callable[..., Any]) -> Callable[..., Values]:
    def evaluated(*arguments: Values) -> Values:
        return np.asarray(function(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in arguments)))

    return evaluated


def _rounded(name: str) -> Callable[..., Values] | None:
    """`fadd_rn`, `float2int_rz`, ...: an operation, and where its result is rounded to."""
    base, _, mode = name.rpartition("_")
    if mode not in _ROUNDINGS:
        return None
    if "2" in base:
        return _conversion(base, mode)
    operation = _ARITHMETIC.get(base[1:]) if base[:1] in {"f", "d"} else None
    if operation is None:
        return None
    return lambda *arguments: _round_to(operation(*(a.astype(np.longdouble) for a in arguments)), arguments[0], mode)


_ROUNDINGS: Mapping[str, Callable[[Values], Values]] = {
    "rn": np.rint, "rz": np.trunc, "rd": np.floor, "ru": np.ceil,
}  # fmt: skip
_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "rcp": lambda x: 1 / x, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "ma": lambda x, y, z: x * y + z, "maf": lambda x, y, z: x * y + z,
}  # fmt: skip
_WHOLE = {"int": np.int32, "uint": np.uint32, "ll": np.int64, "ull": np.uint64}


def _round_to(exact: Values, like: Values, mode: str) -> Values:
    """An exact result in the type of `like`, in a direction."""
    kind = like.dtype
    nearest = exact.astype(kind)
    if mode == "rn":
        return nearest
    wide = nearest.astype(np.longdouble)
    down = (wide > exact) & ((mode == "rd") | ((mode == "rz") & (exact > 0)))
    up = (wide < exact) & ((mode == "ru") | ((mode == "rz") & (exact < 0)))
    lower, upper = np.nextafter(nearest, kind.type(-np.inf)), np.nextafter(nearest, kind.type(np.inf))
    return np.where(down, lower, np.where(up, upper, nearest)).astype(kind)


def _conversion(base: str, mode: str) -> Callable[..., Values] | None:
    _, _, target = base.partition("2")
    if target in _WHOLE:
        return lambda x: saturated(_ROUNDINGS[mode](x.astype(np.float64)), np.dtype(_WHOLE[target]))
    if target in {"float", "double"}:
        kind = np.dtype(np.float32 if target == "float" else np.float64)
        return lambda x: _round_to(x.astype(np.longdouble), np.empty(0, dtype=kind), mode)
    return None


# --- functions of PyTorch, which NumPy lacks -----------------------------------------------------------------


def _special(name: str) -> Callable[..., Any]:
    def evaluated(*arguments: Any) -> Any:
        import torch
        from torch.utils._python_dispatch import _disable_current_modes

        # Nobody who watches PyTorch's operations should see these.
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            function = getattr(torch.special, name)
            result = function(*(torch.from_numpy(np.ascontiguousarray(argument)) for argument in arguments))
            return result.numpy()

    return evaluated


def _each(function: Callable[..., float]) -> Callable[..., Any]:
    def guarded(*arguments: Any) -> float:
        try:
            return function(*arguments)
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan

    return np.vectorize(guarded, otypes=[np.float64])


def _normal_cdf(x: Values) -> Values:
    return 0.5 * np.asarray(_special("erfc")(-x / math.sqrt(2.0)))


def _saturate(x: Values) -> Values:
    return np.where(np.isnan(x), 0.0, np.clip(x, 0.0, 1.0))


#: Functions of real numbers; `f` behind the name is the same in float32.
_REAL: Mapping[str, Callable[..., Any]] = {
    "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan,
    "atanh": np.arctanh, "atan2": np.arctan2, "cbrt": np.cbrt, "ceil": np.ceil, "copysign": np.copysign,
    "cos": np.cos, "cosh": np.cosh, "cospi": lambda x: np.cos(np.pi * np.fmod(x, 2.0)),
    "exp": np.exp, "exp2": np.exp2, "exp10": lambda x: np.power(10.0, x), "expm1": np.expm1, "fabs": np.abs,
    "fdim": lambda x, y: np.where(np.isnan(x) | np.isnan(y), np.nan, np.maximum(x - y, 0)),
    "dividef": np.divide, "fdividef": np.divide, "fdivide": np.divide,
    "floor": np.floor, "fma": lambda x, y, z: np.longdouble(1) * x * y + z, "fmod": np.fmod,
    "fmax": np.fmax, "fmin": np.fmin, "max": np.fmax, "min": np.fmin,
    "hypot": np.hypot, "log": np.log, "log10": np.log10, "log1p": np.log1p, "log2": np.log2,
    "logb": lambda x: np.where(x == 0, -np.inf, np.where(np.isinf(x), np.inf, np.frexp(x)[1] - 1.0)),
    "norm3d": lambda x, y, z: np.sqrt(x * x + y * y + z * z),
    "norm4d": lambda x, y, z, w: np.sqrt(x * x + y * y + z * z + w * w),
    "rnorm3d": lambda x, y, z: 1 / np.sqrt(x * x + y * y + z * z),
    "rnorm4d": lambda x, y, z, w: 1 / np.sqrt(x * x + y * y + z * z + w * w),
    "nearbyint": np.rint, "pow": np.power, "powi": lambda x, n: np.power(x, n.astype(np.float64)),
    "rcbrt": lambda x: 1 / np.cbrt(x), "remainder": _each(math.remainder), "rhypot": lambda x, y: 1 / np.hypot(x, y),
    "rint": np.rint, "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "rsqrt": lambda x: 1 / np.sqrt(x), "saturate": _saturate, "sin": np.sin, "sinh": np.sinh,
    "sinpi": lambda x: np.sin(np.pi * np.fmod(x, 2.0)), "sqrt": np.sqrt, "tan": np.tan, "tanh": np.tanh,
    "tgamma": _each(math.gamma), "lgamma": _special("gammaln"), "trunc": np.trunc,
    "erf": _special("erf"), "erfc": _special("erfc"), "erfcx": _special("erfcx"), "erfinv": _special("erfinv"),
    "erfcinv": lambda x: -_special("ndtri")(x / 2) / math.sqrt(2.0), "normcdf": _normal_cdf,
    "normcdfinv": _special("ndtri"), "j0": _special("bessel_j0"), "j1": _special("bessel_j1"),
    "y0": _special("bessel_y0"), "y1": _special("bessel_y1"), "cyl_bessel_i0": _special("i0"),
    "cyl_bessel_i1": _special("i1"),
    "ldexp": lambda x, n: np.ldexp(x, n), "scalbn": lambda x, n: np.ldexp(x, n),
}  # fmt: skip


def eleven_bits(x: Values) -> Values:
    """A hyperbolic tangent as good as the hardware's: 11 bits."""
    fraction, exponent = np.frexp(np.tanh(x))
    return np.ldexp(np.rint(np.ldexp(fraction, 11)), exponent - 11)


def as_fine_as_hardware(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A sine or cosine to 2^-21, however small the result is."""
    return lambda x: np.rint(function(x) * 2.0**21) / 2.0**21


#: Functions of the hardware that are far from exact. Source: the PTX ISA and the CUDA programming guide.
COARSE: Mapping[str, Callable[..., Any]] = {
    "tanh": eleven_bits, "sin": as_fine_as_hardware(np.sin), "cos": as_fine_as_hardware(np.cos),
    "tan": lambda x: as_fine_as_hardware(np.sin)(x) / as_fine_as_hardware(np.cos)(x),
}  # fmt: skip


def _bits(values: Values) -> Values:
    return np.ascontiguousarray(values).view(np.dtype(f"u{values.dtype.itemsize}"))


def bits_set(values: Values) -> Values:
    """How many bits of each integer are set."""
    return np.vectorize(lambda x: int(x).bit_count(), otypes=[np.int32])(_bits(values))


def _leading_zeros(values: Values) -> Values:
    width = 8 * values.dtype.itemsize
    return np.vectorize(lambda x: width - int(x).bit_length(), otypes=[np.int32])(_bits(values))


def _first_set(values: Values) -> Values:
    return np.vectorize(lambda x: (int(x) & -int(x)).bit_length(), otypes=[np.int32])(_bits(values))


def _reversed_bits(values: Values) -> Values:
    width = 8 * values.dtype.itemsize
    turned = np.vectorize(lambda x: int(f"{int(x):0{width}b}"[::-1], 2), otypes=[f"u{width // 8}"])(_bits(values))
    return turned.view(values.dtype)


def _signed_high(lhs: Values, rhs: Values) -> Values:
    high = high_product(lhs, rhs)
    return high - np.where(lhs < 0, rhs, 0) - np.where(rhs < 0, lhs, 0)


def _low24(values: Values) -> Values:
    signed = values.dtype.kind == "i"
    return ((values << 8) >> 8) if signed else values & values.dtype.type(0xFFFFFF)


def permuted_bytes(a: Values, b: Values, selector: Values) -> Values:
    """Four bytes of the eight of `b:a`, as `prmt` picks them."""
    eight = a.astype(np.uint64) & np.uint64(0xFFFFFFFF) | (b.astype(np.uint64) & np.uint64(0xFFFFFFFF)) << np.uint64(32)
    chosen = selector.astype(np.uint64)
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, selector.shape), dtype=np.uint64)
    for place in range(4):
        code = chosen >> np.uint64(4 * place)
        byte = (eight >> (np.uint64(8) * (code & np.uint64(7)))) & np.uint64(0xFF)
        spread = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        byte = np.where(code & np.uint64(8), spread, byte)
        result |= byte << np.uint64(8 * place)
    return result.astype(np.uint32)


def _viewed(kind: str) -> Callable[[Values], Values]:
    return lambda values: np.ascontiguousarray(values).view(np.dtype(kind))


#: Functions of integers and of bits, which are exact in their own types.
_EXACT: Mapping[str, Callable[..., Any]] = {
    "abs": np.abs, "llabs": np.abs, "popc": bits_set, "popcll": bits_set, "clz": _leading_zeros,
    "clzll": _leading_zeros, "ffs": _first_set, "ffsll": _first_set, "brev": _reversed_bits,
    "brevll": _reversed_bits, "byte_perm": permuted_bytes, "mulhi": _signed_high, "mul64hi": _signed_high,
    "umulhi": high_product, "umul64hi": high_product,
    "mul24": lambda x, y: _low24(x) * _low24(y), "umul24": lambda x, y: _low24(x) * _low24(y),
    "sad": lambda x, y, z: np.abs(x.astype(np.int64) - y) + z,
    "usad": lambda x, y, z: np.abs(x.astype(np.int64) - y.astype(np.int64)) + z.astype(np.int64),
    "hadd": lambda x, y: (x.astype(np.int64) + y) >> 1, "uhadd": lambda x, y: (x.astype(np.uint64) + y) >> 1,
    "rhadd": lambda x, y: (x.astype(np.int64) + y + 1) >> 1, "urhadd": lambda x, y: (x.astype(np.uint64) + y + 1) >> 1,
    "float_as_int": _viewed("i4"), "float_as_uint": _viewed("u4"), "int_as_float": _viewed("f4"),
    "uint_as_float": _viewed("f4"), "double_as_longlong": _viewed("i8"), "longlong_as_double": _viewed("f8"),
    "double2hiint": lambda x: _viewed("i8")(x) >> 32, "double2loint": lambda x: _viewed("u8")(x).astype(np.uint32),
    "hiloint2double": lambda h, low: _viewed("f8")((h.astype(np.int64) << 32) | (low.astype(np.int64) & 0xFFFFFFFF)),
    "finitef": np.isfinite, "isfinited": np.isfinite, "isinff": np.isinf, "isinfd": np.isinf, "isnanf": np.isnan,
    "isnand": np.isnan, "signbitf": np.signbit, "signbitd": np.signbit, "nextafterf": np.nextafter,
    "nextafter": np.nextafter,
    "ilogb": lambda x: np.frexp(x)[1] - 1, "ilogbf": lambda x: np.frexp(x)[1] - 1,
    "llrint": lambda x: saturated(np.rint(x), np.dtype(np.int64)),
    "llrintf": lambda x: saturated(np.rint(x), np.dtype(np.int64)),
    "llround": lambda x: saturated(_REAL["round"](x), np.dtype(np.int64)),
    "llroundf": lambda x: saturated(_REAL["round"](x.astype(np.float64)), np.dtype(np.int64)),
}  # fmt: skip
