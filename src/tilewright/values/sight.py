"""What is seen of one module: its profile, its diagnoses, and where it stands under the GPU's ceilings."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.values.diagnosis import DiagnosisReport
from tilewright.values.profile import ForwardProfile


@dataclass(frozen=True)
class RooflinePoint:
    """One step of a forward pass under the roofline.

    Attributes:
        name: the kernel or the ATen operation.
        native: left to PyTorch.
        moved_bytes: between device memory and the chip, in one forward pass.
        operations: multiplications, additions and the rest, in one forward pass.
        time_ms: milliseconds, in one forward pass.
        label: `measured` or `modelled`, of the time.
    """

    name: str
    native: bool
    moved_bytes: float
    operations: float
    time_ms: float
    label: str

    @property
    def intensity(self) -> float:
        """Operations for each byte that moves."""
        return self.operations / self.moved_bytes

    @property
    def tflops(self) -> float:
        """10**12 operations a second."""
        return self.operations / self.time_ms * 1e-9


@dataclass(frozen=True)
class Ceilings:
    """The GPU's rates, the lines of the roofline.

    Attributes:
        bandwidth_gb_s: of device memory, 10**9 bytes a second.
        fp32_tflops: of the float32 pipes, 10**12 operations a second.
        matrix_tflops: of the unit that does the task's matrix products.
        operand: whose rate that is (`TF32`).
        half_tflops: of products of 16-bit operands, which a kernel may use in the tf32 class too (the same
            mantissa); 0 where it may not.
    """

    bandwidth_gb_s: float
    fp32_tflops: float
    matrix_tflops: float
    operand: str
    half_tflops: float = 0.0

    @property
    def top_tflops(self) -> float:
        """The highest of the rates."""
        return max(self.fp32_tflops, self.matrix_tflops, self.half_tflops)


@dataclass(frozen=True)
class Sight:
    """What is seen of one module.

    Attributes:
        subject: `reference`, `given code` or `ours`.
        report: what holds it back, and where its time goes.
        modelled: its profile as the model has it; None where it could not be modelled.
        measured: as a GPU has it; None where none was asked.
        points: its steps under the roofline.
    """

    subject: str
    report: DiagnosisReport
    modelled: ForwardProfile | None = None
    measured: ForwardProfile | None = None
    points: tuple[RooflinePoint, ...] = ()
