"""Instructions of PTX, each a function of its modifiers and the bits of its operands to the bits of its results.

Approximate ones have the error that the PTX ISA allows where it is more than a few units: `tanh.approx` keeps 11 bits,
and the sine and cosine are as fine as 2^-21. The others are rounded from float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.toolchain.interpreting.libdevice import COARSE, bits_set, permuted_bytes
from tilewright.toolchain.interpreting.narrow import FLOAT8
from tilewright.toolchain.interpreting.numbers import high_product, saturated
from tilewright.toolchain.interpreting.ptx_types import (
    PAIRS,
    PLAIN,
    Bits,
    bits_of,
    halves,
    is_float,
    joined,
    read,
    write,
)

Vectors = Sequence[tuple[Bits, ...]]
Instruction = Callable[[Sequence[str], Vectors, int], Sequence[Bits]]

#: What orders or waits, and changes no register.
NOTHING = frozenset({"griddepcontrol", "membar", "fence", "bar", "barrier", "nanosleep", "pragma", "prefetch"})

_KINDS = (*PLAIN, *PAIRS, "bf16", "e4m3", "e5m2")
_MAX8 = {"e4m3x2": "fp8e4nv", "e5m2x2": "fp8e5"}


def kinds_of(modifiers: Sequence[str]) -> list[str]:
    """The types that an instruction names, in order."""
    return [word for word in modifiers if word in _KINDS]


def _numeric(operation: Callable[..., Any], *, wide: bool = True) -> Instruction:
    """An operation on numbers of one type; floats are computed in float64 (where `wide`) and rounded once."""

    def instruction(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
        kind = kinds_of(modifiers)[-1]
        operands = [vector[0] for vector in vectors]
        if kind in PAIRS:
            parts = [halves(kind, bits) for bits in operands]
            low, high = (_one(operation, PAIRS[kind], modifiers, [p[i] for p in parts], wide) for i in (0, 1))
            return [joined(kind, low, high)]
        return [_one(operation, kind, modifiers, operands, wide)]

    return instruction


def _one(
    operation: Callable[..., Any], kind: str, modifiers: Sequence[str], operands: Sequence[Bits], wide: bool
) -> Bits:
    values = [read(kind, bits) for bits in operands]
    if not is_float(kind):
        return write(kind, operation(*values))
    if "ftz" in modifiers:
        values = [_flushed(value) for value in values]
    exact = operation(*(value.astype(np.float64) if wide else value for value in values))
    if "sat" in modifiers:
        exact = np.clip(np.nan_to_num(exact, nan=0.0), 0.0, 1.0)
    if kind == "f32":
        exact = _directed(exact, modifiers)
        exact = _flushed(exact) if "ftz" in modifiers else exact
    return write(kind, exact)


def _flushed(values: Any) -> Any:
    """Subnormal float32 numbers become zeros of their sign."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(0.0, values), values).astype(values.dtype)


def _directed(exact: Any, modifiers: Sequence[str]) -> Any:
    """float64 as float32, in the direction that is asked for."""
    nearest = np.asarray(exact).astype(np.float32)
    over = nearest.astype(np.float64) > exact
    under = nearest.astype(np.float64) < exact
    down, up = np.nextafter(nearest, np.float32(-np.inf)), np.nextafter(nearest, np.float32(np.inf))
    if "rz" in modifiers:
        return np.where(over & (exact > 0), down, np.where(under & (exact < 0), up, nearest))
    if "rm" in modifiers:
        return np.where(over, down, nearest)
    if "rp" in modifiers:
        return np.where(under, up, nearest)
    return nearest


# --- arithmetic ----------------------------------------------------------------------------------------------


def _bounded(keeps: Callable[..., Any], drops: Callable[..., Any]) -> Instruction:
    keeping, dropping = _numeric(keeps), _numeric(drops)
    return lambda modifiers, vectors, results: (keeping if "NaN" in modifiers else dropping)(
        modifiers, vectors, results
    )


def _multiplied(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    kind = kinds_of(modifiers)[-1]
    if kind in PAIRS or is_float(kind):
        return _numeric(np.multiply)(modifiers, vectors, results)
    a, b = (read(kind, vector[0]) for vector in vectors[:2])
    if "wide" in modifiers:
        wide = f"{kind[0]}{2 * bits_of(kind)}"
        return [write(wide, a.astype(PLAIN[wide]) * b.astype(PLAIN[wide]))]
    if "hi" in modifiers:
        high = high_product(a, b)
        if kind[0] == "s":
            high = high - np.where(a < 0, b, 0).astype(high.dtype) - np.where(b < 0, a, 0).astype(high.dtype)
        return [write(kind, high)]
    return [write(kind, a * b)]


def _multiplied_and_added(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    kind = kinds_of(modifiers)[-1]
    if kind in PAIRS or is_float(kind):
        relu = "relu" in modifiers
        return _numeric(lambda a, b, c: np.maximum(a * b + c, 0) if relu else a * b + c)(modifiers, vectors, results)
    product = _multiplied(modifiers, vectors[:2], 1)[0]
    wide = f"{kind[0]}{2 * bits_of(kind)}" if "wide" in modifiers else kind
    return [write(wide, read(wide, product) + read(wide, vectors[2][0]))]


def _divided(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    kind = kinds_of(modifiers)[-1]
    if is_float(kind):
        return _numeric(np.divide)(modifiers, vectors, results)
    a, b = (read(kind, vector[0]) for vector in vectors)
    b = np.where(b == 0, np.ones_like(b), b)
    return [write(kind, (a - np.fmod(a, b)) // b)]


# --- moves, bits, comparisons --------------------------------------------------------------------------------


def _moved(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    """`mov`, also from a vector into one register and back."""
    width = bits_of(kinds_of(modifiers)[-1])
    (source,) = vectors
    if len(source) > 1 and results == 1:
        part = width // len(source)
        limit = np.uint64((1 << part) - 1)
        total = np.zeros_like(source[0])
        for place, bits in enumerate(source):
            total = total | ((bits & limit) << np.uint64(part * place))
        return [total]
    if results > 1:
        part = width // results
        limit = np.uint64((1 << part) - 1)
        return [(source[0] >> np.uint64(part * place)) & limit for place in range(results)]
    return [source[0] & np.uint64((1 << width) - 1)]


def _bitwise(operation: Callable[..., Any]) -> Instruction:
    def instruction(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
        kind = kinds_of(modifiers)[-1]
        limit = np.uint64(1 if kind == "pred" else (1 << bits_of(kind)) - 1)
        return [operation(*(vector[0] for vector in vectors)) & limit]

    return instruction


def _shifted_left(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    width = bits_of(kinds_of(modifiers)[-1])
    value, by = vectors[0][0], vectors[1][0] & np.uint64(0xFFFFFFFF)
    shifted = value << np.minimum(by, np.uint64(63))
    return [np.where(by >= width, np.uint64(0), shifted) & np.uint64((1 << width) - 1)]


def _shifted_right(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    kind = kinds_of(modifiers)[-1]
    width = bits_of(kind)
    by = np.minimum(vectors[1][0] & np.uint64(0xFFFFFFFF), np.uint64(width))
    value = read(kind, vectors[0][0])
    if kind[0] == "s":
        return [write(kind, value >> np.minimum(by, np.uint64(width - 1)).astype(value.dtype))]
    limit = np.uint64((1 << width) - 1)
    shifted = (vectors[0][0] & limit) >> np.minimum(by, np.uint64(63))
    return [np.where(by >= width, np.uint64(0), shifted)]


def _looked_up(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    """`lop3`: any function of three bits, by its table."""
    a, b, c, table = (vector[0] for vector in vectors[:4])
    total = np.zeros_like(a | b | c)
    for case in range(8):
        parts = [value if case >> (2 - place) & 1 else ~value for place, value in enumerate((a, b, c))]
        chosen = np.where((table >> np.uint64(case)) & np.uint64(1), ~np.uint64(0), np.uint64(0))
        total = total | (parts[0] & parts[1] & parts[2] & chosen)
    return [total & np.uint64(0xFFFFFFFF)]


def _permuted(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    if len(modifiers) > 1:
        raise ValueError("a mode of prmt")
    return [permuted_bytes(*(vector[0] for vector in vectors)).astype(np.uint64)]


def _extracted(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    """`bfe`: a field of bits."""
    kind = kinds_of(modifiers)[-1]
    value, start, length = (vector[0] for vector in vectors)
    field = (value >> start) & ((np.uint64(1) << length) - np.uint64(1))
    if kind[0] == "s":
        sign = np.uint64(1) << np.maximum(length, np.uint64(1)) - np.uint64(1)
        field = (field ^ sign) - sign
    return [field & np.uint64((1 << bits_of(kind)) - 1)]


_COMPARED: Mapping[str, Callable[..., Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


def _compared(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    """`setp`: a predicate (and its complement)."""
    word, kind = modifiers[0], kinds_of(modifiers)[-1]
    a, b = (read(kind, vector[0]) for vector in vectors[:2])
    unordered = np.isnan(a) | np.isnan(b) if is_float(kind) else np.zeros(a.shape, dtype=bool)
    if word in {"num", "nan"}:
        truth = unordered if word == "nan" else ~unordered
    elif is_float(kind) and word.endswith("u") and word[:-1] in _COMPARED:
        truth = _COMPARED[word[:-1]](a, b) | unordered
    else:
        truth = _COMPARED[word](a, b) & ~(unordered if word == "ne" else False)
    if len(vectors) > 2:
        other = vectors[2][0] != 0
        truth = {"and": truth & other, "or": truth | other, "xor": truth ^ other}[modifiers[1]]
    return [truth.astype(np.uint64), (~truth).astype(np.uint64)]


def _selected(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    a, b, chosen = (vector[0] for vector in vectors)
    return [np.where(chosen != 0, a, b)]


# --- conversions ---------------------------------------------------------------------------------------------

_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _converted(modifiers: Sequence[str], vectors: Vectors, results: int) -> Sequence[Bits]:
    target, source = kinds_of(modifiers)
    if target in PAIRS:
        if source in PAIRS:
            parts = [read(PAIRS[source], half) for half in halves(source, vectors[0][0])]
        else:  # the first operand becomes the upper half
            parts = [read(source, vector[0]) for vector in reversed(vectors)]
        low, high = (_rounded_to(PAIRS[target], target, part, modifiers) for part in parts)
        return [joined(target, low, high)]
    return [_rounded_to(target, target, read(source, vectors[0][0]), modifiers)]


def _rounded_to(kind: str, named: str, values: Any, modifiers: Sequence[str]) -> Bits:
    if values.dtype.kind == "f":
        values = _flushed(values) if "ftz" in modifiers else values
        for word, rounding in _INTEGRAL.items():
            values = rounding(values) if word in modifiers else values
    if "relu" in modifiers:
        values = np.maximum(values, 0)
    if "sat" in modifiers and is_float(kind):
        values = np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0)
    if kind == "tf32":
        return _to_tf32(values, modifiers)
    if is_float(kind):
        if named in _MAX8 and not FLOAT8[_MAX8[named]].infinite:
            values = values.astype(np.float32)
        return write(kind, _directed(values, modifiers) if kind == "f32" else values)
    if values.dtype.kind == "f":
        return write(kind, saturated(values, np.dtype(PLAIN[kind])))
    if "sat" in modifiers:
        bounds = np.iinfo(PLAIN[kind])
        values = np.clip(values.astype(object), bounds.min, bounds.max).astype(PLAIN[kind])
    return write(kind, values.astype(PLAIN[kind]))


def _to_tf32(values: Any, modifiers: Sequence[str]) -> Bits:
    """10 bits of mantissa: nearest, ties away from zero (`rna`) or to even (`rn`), or toward zero (`rz`)."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    if "rna" in modifiers:
        bits = bits + np.uint32(0x1000)
    elif "rn" in modifiers:
        bits = bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    return (bits & np.uint32(0xFFFFE000)).astype(np.uint64)


#: First word of an opcode -> instruction.
INSTRUCTIONS: Mapping[str, Instruction] = {
    "add": _numeric(np.add), "sub": _numeric(np.subtract), "mul": _multiplied, "fma": _multiplied_and_added,
    "mad": _multiplied_and_added, "div": _divided, "rem": _numeric(np.fmod), "neg": _numeric(np.negative),
    "abs": _numeric(np.abs), "min": _bounded(np.minimum, np.fmin), "max": _bounded(np.maximum, np.fmax),
    "sqrt": _numeric(np.sqrt), "rsqrt": _numeric(lambda x: 1 / np.sqrt(x)), "rcp": _numeric(lambda x: 1 / x),
    "ex2": _numeric(np.exp2), "lg2": _numeric(np.log2), "sin": _numeric(COARSE["sin"]), "cos": _numeric(COARSE["cos"]),
    "tanh": _numeric(COARSE["tanh"]), "copysign": _numeric(lambda a, b: np.copysign(b, a)),
    "mov": _moved, "cvt": _converted, "selp": _selected, "setp": _compared,
    "and": _bitwise(np.bitwise_and), "or": _bitwise(np.bitwise_or), "xor": _bitwise(np.bitwise_xor),
    "not": _bitwise(np.invert), "shl": _shifted_left, "shr": _shifted_right, "lop3": _looked_up, "prmt": _permuted,
    "bfe": _extracted,
    "popc": lambda modifiers, vectors, results: [
        bits_set(vectors[0][0] & np.uint64((1 << bits_of(kinds_of(modifiers)[-1])) - 1)).astype(np.uint64)
    ],
}  # fmt: skip
