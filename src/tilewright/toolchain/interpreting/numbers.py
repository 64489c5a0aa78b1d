"""Arithmetic of the interpreter: narrow floats as numbers, casts and integers as the hardware has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.toolchain.interpreting.narrow import FLOAT8, NARROW, computed, narrowed, widened


def install(interpreter: Any) -> None:
    """Change the builder of `triton.runtime.interpreter`."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    _operations(builder, handle)
    _constants(builder, handle)
    _casts(interpreter, builder, handle)
    _integers(builder, handle)


def _operations(builder: Any, handle: Any) -> None:
    """`bf16` and 8-bit floats are computed in float32; what a comparison gives is a truth value."""
    import triton.language as tl

    plain_binary, plain_unary, plain_ternary = builder.binary_op, builder.unary_op, builder.ternary_op

    def made(operation: Any, scalar: Any, *operands: Any) -> Any:
        values, narrow = computed(operation, scalar.name, tuple(operand.data for operand in operands))
        return handle(values, scalar if narrow or values.dtype != bool else tl.int1)

    def binary_op(self: Any, lhs: Any, rhs: Any, operation: Any) -> Any:
        scalar = lhs.dtype.scalar
        if scalar.name in NARROW and lhs.data.dtype != bool:
            return made(operation, scalar, lhs, rhs)
        result = plain_binary(self, lhs, rhs, operation)
        if result.data.dtype == bool and result.dtype is not tl.int1:
            result.dtype = tl.int1
        return result

    def unary_op(self: Any, arg: Any, operation: Any) -> Any:
        if arg.dtype.scalar.name in NARROW:
            return made(operation, arg.dtype.scalar, arg)
        return plain_unary(self, arg, operation)

    def ternary_op(self: Any, lhs: Any, rhs: Any, other: Any, operation: Any) -> Any:
        if operation is not np.where and other.dtype.scalar.name in NARROW:
            return made(operation, other.dtype.scalar, lhs, rhs, other)
        return plain_ternary(self, lhs, rhs, other, operation)

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if z.dtype.scalar.name in NARROW:
            return made(lambda a, b, c: _fused(a, b, c), z.dtype.scalar, x, y, z)
        return handle(_fused(x.data, y.data, z.data), z.dtype.scalar)

    def create_rsqrt(self: Any, arg: Any) -> Any:
        return self.unary_op(arg, lambda values: 1 / np.sqrt(values))

    builder.binary_op, builder.unary_op, builder.ternary_op = binary_op, unary_op, ternary_op
    builder.create_fma, builder.create_rsqrt = create_fma, create_rsqrt


def _fused(x: Any, y: Any, z: Any) -> Any:
    """`x * y + z`, rounded once where float64 holds the product."""
    if x.dtype == np.float64:
        return x * y + z
    return (x.astype(np.float64) * y + z).astype(z.dtype)


def _constants(builder: Any, handle: Any) -> None:
    import triton.language as tl

    def get_bf16(self: Any, value: float) -> Any:
        return handle(narrowed("bf16", np.array([value], dtype=np.float32)), tl.bfloat16)

    if not hasattr(builder, "get_bf16"):
        builder.get_bf16 = get_bf16
    builder.get_uint1 = builder.get_int1


def _casts(interpreter: Any, builder: Any, handle: Any) -> None:
    plain_cast = builder.cast_impl

    def cast_impl(self: Any, src: Any, target: Any) -> Any:
        source, wanted = src.dtype.scalar, target.scalar
        if source.name in NARROW and src.data.dtype.kind == "u":
            src = handle(widened(source.name, src.data), self.get_float_ty())
        if wanted.name in NARROW:
            return handle(narrowed(wanted.name, np.asarray(src.data, dtype=np.float32)), wanted)
        if src.data.dtype.kind == "f" and wanted.is_int() and not wanted.is_bool():
            kind = interpreter._get_np_dtype(wanted)
            return handle(saturated(src.data, kind), wanted)
        return plain_cast(self, src, target)

    def create_fp_to_fp(self: Any, src: Any, target: Any, rounding: Any) -> Any:
        import triton.language as tl

        toward_zero = str(rounding).rpartition(".")[2] == "RTZ"
        source, wanted = src.dtype.scalar.name, target.scalar
        values = widened(source, src.data) if source in NARROW else src.data
        if wanted.name in NARROW:
            return handle(narrowed(wanted.name, values, toward_zero=toward_zero), wanted)
        kind = interpreter._get_np_dtype(wanted)
        if toward_zero and wanted == tl.float16:
            return handle(_toward_zero(values, kind), wanted)
        return handle(values.astype(kind), wanted)

    def create_bitcast(self: Any, src: Any, target: Any) -> Any:
        return handle(np.ascontiguousarray(src.data).view(interpreter._get_np_dtype(target)), target.scalar)

    builder.cast_impl, builder.create_fp_to_fp, builder.create_bitcast = cast_impl, create_fp_to_fp, create_bitcast
    builder.create_int_to_ptr = builder.create_ptr_to_int = create_bitcast


def saturated(values: Any, kind: Any) -> Any:
    """Floats as integers, toward zero; what does not fit becomes the nearest that does, and NaN becomes zero.

    Source: the PTX ISA on `cvt`.
    """
    bounds = np.iinfo(kind)
    whole = np.nan_to_num(np.trunc(values.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
    low, high = whole <= float(bounds.min), whole >= float(bounds.max)
    inside = np.where(low | high, 0.0, whole).astype(kind)
    return np.where(low, kind.type(bounds.min), np.where(high, kind.type(bounds.max), inside)).astype(kind)


def _toward_zero(values: Any, kind: Any) -> Any:
    nearest = values.astype(kind)
    beyond = np.abs(nearest.astype(np.float64)) > np.abs(values.astype(np.float64))
    return np.where(beyond, np.nextafter(nearest, kind.type(0)), nearest).astype(kind)


def _integers(builder: Any, handle: Any) -> None:
    def create_ashr(self: Any, lhs: Any, rhs: Any) -> Any:
        signed = np.dtype(f"i{lhs.data.dtype.itemsize}")
        shifted = np.right_shift(np.asarray(lhs.data).astype(signed), np.asarray(rhs.data).astype(signed))
        return handle(shifted.astype(lhs.data.dtype), lhs.dtype.scalar)

    def create_lshr(self: Any, lhs: Any, rhs: Any) -> Any:
        unsigned = np.dtype(f"u{lhs.data.dtype.itemsize}")
        shifted = np.right_shift(np.asarray(lhs.data).astype(unsigned), np.asarray(rhs.data).astype(unsigned))
        return handle(shifted.astype(lhs.data.dtype), lhs.dtype.scalar)

    def create_umulhi(self: Any, lhs: Any, rhs: Any) -> Any:
        return handle(high_product(lhs.data, rhs.data), lhs.dtype.scalar)

    builder.create_ashr, builder.create_lshr, builder.create_umulhi = create_ashr, create_lshr, create_umulhi


def high_product(lhs: Any, rhs: Any) -> Any:
    """The upper half of the product of two integers without sign, in the type of the first."""
    bits = 8 * lhs.dtype.itemsize
    unsigned = np.dtype(f"u{lhs.dtype.itemsize}")
    left, right = np.asarray(lhs).astype(unsigned), np.asarray(rhs).astype(unsigned)
    if bits < 64:
        wide = np.dtype(f"u{2 * lhs.dtype.itemsize}")
        product = left.astype(wide) * right.astype(wide)
        return (product >> wide.type(bits)).astype(unsigned).view(lhs.dtype)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a, b, c, d = left >> half, left & low, right >> half, right & low
    middle = a * d + ((b * d) >> half)
    return (a * c + (middle >> half) + (((middle & low) + b * c) >> half)).view(lhs.dtype)


#: Names of 8-bit floats, for those who multiply them.
EIGHT_BITS = frozenset(FLOAT8)
