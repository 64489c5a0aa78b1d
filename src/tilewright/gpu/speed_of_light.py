"""Speed of light: the time below which no implementation of a task can go on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.gpu.gpu import Gpu
from tilewright.values.measurement import Work
from tilewright.values.precision import PrecisionClass


@dataclass(frozen=True)
class SpeedOfLight:
    """The floor of a task's time, and what it is made of.

    Attributes:
        time_ms: the floor, milliseconds.
        memory_ms: every byte of the work once at the memory's bandwidth.
        matrix_ms: matrix operations at the rate of the operand type.
        scalar_ms: the other operations at the float32 rate.
        limit: what binds: `memory`, `matrix`, or `scalar`.
        operand: operand type whose rate `matrix_ms` uses: `FP32`, `TF32`, `FP16`, `BF16`.
        work: bytes and operations.
        bandwidth_gb_s: that was used, 10**9 bytes a second.
        matrix_tflops: that was used, 10**12 operations a second.
        scalar_tflops: that was used.
    """

    time_ms: float
    memory_ms: float
    matrix_ms: float
    scalar_ms: float
    limit: str
    operand: str
    work: Work
    bandwidth_gb_s: float
    matrix_tflops: float
    scalar_tflops: float


_OPERANDS = {
    PrecisionClass.IEEE: "FP32",
    PrecisionClass.TF32: "TF32",
    PrecisionClass.FP16: "FP16",
    PrecisionClass.BF16: "BF16",
}


def _fastest_operand(precision: PrecisionClass, gpu: Gpu) -> PrecisionClass:
    if precision is not PrecisionClass.TF32:
        return precision
    return max(PrecisionClass.TF32, PrecisionClass.FP16, key=lambda kind: gpu.tensor_tflops[kind])


def speed_of_light(
    work: Work, gpu: Gpu, precision: PrecisionClass, *, operand: PrecisionClass | None = None
) -> SpeedOfLight:
    """max(bytes / bandwidth, operations / rate of the unit that does them).

    In the ieee class the float32 pipes do the matrix products and the rest one after the other, so their
    times add; in the others the tensor cores work beside them.

    Args:
        work: what must move and be computed, after algebra.
        gpu: the target.
        precision: the task's class.
        operand: operand type of the products; the fastest that keeps the class's accuracy if None: the tf32 class
            allows guarded fp16 operands, which have as many bits of mantissa.
    """
    kind = operand or _fastest_operand(precision, gpu)
    ieee = kind is PrecisionClass.IEEE
    matrix_tflops = gpu.fp32_tflops if ieee else gpu.tensor_tflops[kind]
    memory_ms = work.total_bytes / (gpu.bandwidth_gb_s * 1e9) * 1e3
    matrix_ms = work.matrix_operations / (matrix_tflops * 1e12) * 1e3
    scalar_ms = work.scalar_operations / (gpu.fp32_tflops * 1e12) * 1e3
    compute_ms = matrix_ms + scalar_ms if ieee else max(matrix_ms, scalar_ms)
    compute_limit = "matrix" if matrix_ms >= scalar_ms else "scalar"
    return SpeedOfLight(
        time_ms=max(memory_ms, compute_ms),
        memory_ms=memory_ms,
        matrix_ms=matrix_ms,
        scalar_ms=scalar_ms,
        limit="memory" if memory_ms >= compute_ms else compute_limit,
        operand=_OPERANDS[kind],
        work=work,
        bandwidth_gb_s=gpu.bandwidth_gb_s,
        matrix_tflops=matrix_tflops,
        scalar_tflops=gpu.fp32_tflops,
    )
