"""Floats of 16 and 8 bits that NumPy lacks: their values as float32, and the nearest of them to a float32.

Triton's interpreter keeps them as unsigned integers, and computes with these as if they were the numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = Any


@dataclass(frozen=True)
class Float8:
    """A format of 8 bits.

    Attributes:
        mantissa: its bits, without the leading one.
        bias: of the exponent.
        infinite: it has infinities, and several NaN; else one pattern of each sign is NaN (or none).
        unsigned_zero: `0x80` is NaN, and nothing else is.
        has_nan: the largest pattern is NaN, where there are no infinities.
    """

    mantissa: int
    bias: int
    infinite: bool = False
    unsigned_zero: bool = False
    has_nan: bool = True


#: Triton's name -> format. Source: the OCP specification of 8-bit floats, and Triton's `dtype`.
FLOAT8 = {
    "fp8e4nv": Float8(3, 7),
    "fp8e5": Float8(2, 15, infinite=True),
    "fp8e4b8": Float8(3, 8, unsigned_zero=True),
    "fp8e5b16": Float8(2, 16, unsigned_zero=True),
    "fp8e4b15": Float8(3, 15, has_nan=False),
}

#: Names of types whose values are kept as integers.
NARROW = frozenset({"bf16", *FLOAT8})


def widened(kind: str, bits: Values) -> Values:
    """The values of `bits` as float32."""
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return _table(kind)[bits]


def narrowed(kind: str, values: Values, *, toward_zero: bool = False) -> Values:
    """The bits of the nearest number of that type, ties to even (or of the next one toward zero)."""
    plain = np.ascontiguousarray(values, dtype=np.float32)
    if kind == "bf16":
        return _bfloat16(plain, toward_zero).reshape(values.shape)
    return _float8(kind, plain, toward_zero).reshape(values.shape)


def _bfloat16(values: Values, toward_zero: bool) -> Values:
    bits = values.view(np.uint32)
    half = np.uint32(0) if toward_zero else ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    upper = ((bits + half) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), upper)


@functools.cache
def _table(kind: str) -> Values:
    """The value of each of the 256 patterns."""
    form = FLOAT8[kind]
    codes = np.arange(256)
    exponents = (codes & 0x7F) >> form.mantissa
    fractions = (codes & ((1 << form.mantissa) - 1)) / float(1 << form.mantissa)
    magnitudes = np.where(
        exponents == 0, fractions * 2.0 ** (1 - form.bias), (1 + fractions) * 2.0 ** (exponents - form.bias)
    )
    values = np.where(codes & 0x80, -magnitudes, magnitudes).astype(np.float32)
    if form.infinite:
        top = exponents == (0x7F >> form.mantissa)
        values[top] = np.where(fractions[top] == 0, np.where(codes[top] & 0x80, -np.inf, np.inf), np.nan)
    elif form.unsigned_zero:
        values[0x80] = np.nan
    elif form.has_nan:
        values[[0x7F, 0xFF]] = np.nan
    return values


@functools.cache
def _positive(kind: str) -> tuple[Values, int]:
    """The finite values from 0 up, and the pattern of NaN."""
    table = _table(kind)
    finite = table[:128][np.isfinite(table[:128])]
    nan = int(np.flatnonzero(np.isnan(table))[0]) if np.isnan(table).any() else len(finite) - 1
    return finite, nan


def _float8(kind: str, values: Values, toward_zero: bool) -> Values:
    """As `cvt.rn.satfinite` rounds: what is too large becomes the largest number."""
    form = FLOAT8[kind]
    finite, nan = _positive(kind)
    sizes = np.minimum(np.abs(values).astype(np.float64), float(finite[-1]))
    sizes = np.where(np.isnan(values), 0.0, sizes)
    _, exponents = np.frexp(sizes)
    units = np.ldexp(1.0, np.maximum(exponents - 1, 1 - form.bias) - form.mantissa)
    rounded = (np.floor(sizes / units) if toward_zero else np.rint(sizes / units)) * units
    codes = np.minimum(np.searchsorted(finite, rounded), len(finite) - 1)
    negative = np.signbit(values) & ~((codes == 0) & form.unsigned_zero)
    return np.where(np.isnan(values), nan, codes | np.where(negative, 0x80, 0)).astype(np.uint8)


def computed(operation: Callable[..., Values], kind: str, operands: tuple[Values, ...]) -> tuple[Values, bool]:
    """An operation on narrow floats, made in float32 and rounded once; True where the result is narrow again."""
    result = operation(*(widened(kind, values) if values.dtype.kind == "u" else values for values in operands))
    if result.dtype.kind == "f":
        return narrowed(kind, result), True
    return result, False
