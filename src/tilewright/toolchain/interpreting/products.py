"""Matrix products of the interpreter: operands as the tensor cores see them, and scaled small formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilewright.toolchain.interpreting.narrow import NARROW, widened

#: Values of the 16 patterns of a 4-bit float (e2m1). Source: the OCP microscaling formats.
_FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
#: Elements that share one scale.
_GROUP = 32


def install(interpreter: Any, saw: Callable[[str], None]) -> None:
    """Change the builder; `saw` is told the kind of operands of each product."""
    import triton.language as tl

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, *rest: Any) -> Any:
        kind = str(a.dtype.scalar)
        left, right = (_operand(operand) for operand in (a, b))
        if a.dtype.scalar == tl.float32:
            kind = str(input_precision).rpartition(".")[2].lower()
            if kind == "tf32":
                left, right = without_low_bits(left), without_low_bits(right)
        saw(kind)
        return handle(_product(left, right, d.data), d.dtype.scalar)

    def create_dot_scaled(
        self: Any, lhs: Any, lhs_scale: Any, lhs_format: Any, rhs: Any, rhs_scale: Any, rhs_format: Any,
        fast_math: bool, lhs_packed_in_k: bool, rhs_packed_in_k: bool, acc: Any,
    ) -> Any:  # fmt: skip
        left = _scaled(lhs, lhs_scale, _format(lhs_format), -1, -1 if lhs_packed_in_k else -2)
        right = _scaled(rhs, rhs_scale, _format(rhs_format), -2, -2 if rhs_packed_in_k else -1)
        saw(_format(lhs_format))
        return handle(_product(left, right, acc.data), acc.dtype.scalar)

    builder.create_dot, builder.create_dot_scaled = create_dot, create_dot_scaled


def _operand(operand: Any) -> Any:
    name = operand.dtype.scalar.name
    return widened(name, operand.data) if name in NARROW else operand.data


def _product(left: Any, right: Any, added: Any) -> Any:
    kind = added.dtype
    if kind == np.float16:  # it is added up in float32 here, as the hardware keeps more bits between its steps
        return (np.matmul(left, right, dtype=np.float32) + added).astype(kind)
    return np.matmul(left, right, dtype=kind) + added


def without_low_bits(values: Any) -> Any:
    """float32 values cut to 10 mantissa bits (toward zero), as the tensor cores cut operands."""
    return (np.ascontiguousarray(values).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def _format(kind: Any) -> str:
    """`e4m3` of the enumeration's member of that name, or of the name."""
    return str(kind).rpartition(".")[2].lower()


def _scaled(operand: Any, scale: Any, form: str, inner: int, packed: int) -> Any:
    """The numbers of a scaled operand; `inner` is the axis of the sum, along which groups share a scale."""
    data = operand.data
    if form == "e2m1":
        codes = np.stack([data & 0xF, (np.asarray(data).astype(np.uint8) >> 4) & 0xF], axis=-1)
        axis = packed % data.ndim
        moved = np.moveaxis(codes, -1, axis + 1)
        shape = [size * 2 if number == axis else size for number, size in enumerate(data.shape)]
        values = _FLOAT4[moved.reshape(shape)]
    else:
        name = {"e4m3": "fp8e4nv", "e5m2": "fp8e5", "bf16": "bf16"}.get(form, "")
        values = widened(name, data) if name else data.astype(np.float32)
    if scale is None:
        return values
    # One row of scales for each row of the left operand, for each column of the right one.
    if scale.dtype.scalar.name in NARROW:
        factors = widened(scale.dtype.scalar.name, scale.data)
    else:
        factors = np.exp2(scale.data.astype(np.float32) - 127.0)
        factors = np.where(scale.data == 0xFF, np.nan, factors)
    width = values.shape[inner] // factors.shape[-1]
    wide = np.repeat(factors, max(width, 1), axis=-1)
    return values * (wide if inner == -1 else np.swapaxes(wide, -1, -2))
