"""Types of PTX: how the bits of a register are read as numbers, and numbers written as bits."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.toolchain.interpreting.narrow import narrowed, widened

Bits = npt.NDArray[np.uint64]

#: Type -> NumPy's type of the same bits, for those that NumPy has.
PLAIN = {
    "f16": "f2", "f32": "f4", "tf32": "f4", "f64": "f8", "s8": "i1", "s16": "i2", "s32": "i4", "s64": "i8",
    "u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8", "b8": "u1", "b16": "u2", "b32": "u4", "b64": "u8",
    "pred": "u1",
}  # fmt: skip
#: Two halves in one register.
PAIRS = {"f16x2": "f16", "bf16x2": "bf16", "e4m3x2": "e4m3", "e5m2x2": "e5m2"}
_NARROW = {"bf16": ("bf16", 16), "e4m3": ("fp8e4nv", 8), "e5m2": ("fp8e5", 8)}


def is_float(kind: str) -> bool:
    """Whether numbers of a type are floats."""
    return kind in _NARROW or PLAIN.get(kind, "u")[0] == "f"


def bits_of(kind: str) -> int:
    """Bits of a number of that type."""
    return _NARROW[kind][1] if kind in _NARROW else 8 * np.dtype(PLAIN[kind]).itemsize


def read(kind: str, bits: Bits) -> npt.NDArray[Any]:
    """The numbers in registers; `bf16` and 8-bit floats as float32."""
    if kind in _NARROW:
        name, width = _NARROW[kind]
        return np.asarray(widened(name, bits.astype(np.uint16 if width == 16 else np.uint8)))
    dtype = np.dtype(PLAIN[kind])
    return bits.astype(np.dtype(f"u{dtype.itemsize}")).view(dtype)


def write(kind: str, values: npt.NDArray[Any]) -> Bits:
    """Numbers as the bits of registers."""
    if kind in _NARROW:
        return np.asarray(narrowed(_NARROW[kind][0], np.asarray(values, dtype=np.float32)), dtype=np.uint64)
    return to_bits(np.asarray(values).astype(np.dtype(PLAIN[kind])))


def halves(kind: str, bits: Bits) -> tuple[Bits, Bits]:
    """The lower and the upper part of a register that holds two."""
    width = np.uint64(bits_of(PAIRS[kind]))
    limit = (np.uint64(1) << width) - np.uint64(1)
    return bits & limit, (bits >> width) & limit


def joined(kind: str, low: Bits, high: Bits) -> Bits:
    """The inverse of `halves`."""
    return low | (high << np.uint64(bits_of(PAIRS[kind])))


def to_bits(values: npt.NDArray[Any]) -> Bits:
    """The bits of each element."""
    flat = np.ascontiguousarray(values)
    if flat.dtype.kind == "b":
        return flat.astype(np.uint64)
    return flat.view(np.dtype(f"u{flat.dtype.itemsize}")).astype(np.uint64)


def from_bits(bits: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """Elements of a NumPy type from their bits."""
    if np.dtype(dtype).kind == "b":
        return np.asarray(bits != 0)
    return np.asarray(bits.astype(np.dtype(f"u{dtype.itemsize}")).view(dtype))


def immediate(text: str, opcode: Sequence[str]) -> Bits | None:
    """The bits of a number that stands in the text, in the type of its instruction; None where it is none."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text) or re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        pattern, is_double = int(text[2:], 16), text[1] in "dD"
        kinds = [word for word in opcode if word in PLAIN and is_float(word)]
        if kinds and (kinds[-1] == "f64") != is_double:  # a constant of the other width is converted
            value = struct.unpack("<d" if is_double else "<f", pattern.to_bytes(8 if is_double else 4, "little"))[0]
            return write(kinds[-1], np.array([value]))
        return np.array([pattern], dtype=np.uint64)
    if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)[uU]?", text):
        return np.array([_whole(text) & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?", text):
        kinds = [word for word in opcode if word in PLAIN or word in _NARROW]
        return write(kinds[-1] if kinds and is_float(kinds[-1]) else "f32", np.array([float(text)]))
    return None


def _whole(text: str) -> int:
    plain = text.rstrip("uU")
    digits = plain.lstrip("+-")
    octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
    return int(plain, 8 if octal else 0)
