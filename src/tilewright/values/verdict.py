"""What the gate says of a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tilewright.values.serialise import JsonValue


class Severity(StrEnum):
    """How much a finding weighs."""

    ERROR = "error"  #: rejects
    LIMIT = "limit"  #: accepts, with a named range of validity
    NOTE = "note"  #: informs


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        check: stable name of the check, as `tilewright explain` takes it (`contract.order`, `correctness.value`).
        severity: what it does to the verdict.
        message: for people: what is wrong, in numbers.
        where: `line 34`, a kernel's name, or a probe's name.
        evidence: the numbers behind the message, for programs.
    """

    check: str
    severity: Severity
    message: str
    where: str = ""
    evidence: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class ErrorRow:
    """The error of one probe: norm-wise relative error against float64, and the largest element-wise one.

    Attributes:
        probe: the probe's name (`task inputs`, `spatial size 33`, ...).
        seed: the seed to repeat it.
        shapes: the shapes of the inputs.
        reference_error: of the reference in its precision class, norm-wise.
        candidate_error: of the candidate, norm-wise.
        allowed_error: what the gate allows, norm-wise.
        reference_worst: largest element-wise error of the reference, relative to the output's scale.
        candidate_worst: the candidate's.
        allowed_worst: what the gate allows.
        passed: the probe's outcome.
    """

    probe: str
    seed: int
    shapes: tuple[tuple[int, ...], ...]
    reference_error: float
    candidate_error: float
    allowed_error: float
    reference_worst: float
    candidate_worst: float
    allowed_worst: float
    passed: bool


@dataclass(frozen=True)
class KernelResources:
    """What the compiler says of one kernel for one target.

    Attributes:
        capability: compute capability, 89 for sm_89.
        registers: of a thread.
        spill_bytes: local memory of a thread that holds spilled registers, bytes.
        shared_bytes: shared memory of a program, bytes.
        warps: of a program.
        schedule: constexpr values of the launch, for people.
    """

    kernel: str
    capability: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    schedule: str = ""


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on one candidate.

    Attributes:
        findings: in the order of the checks.
        errors: the error table, one row a probe.
        resources: of each kernel (and each configuration of an autotune list) for the target.
        launches: kernel name -> launches counted while the candidate ran.
        how: `interpreter` or `gpu` (where the kernels ran).
        oracle: what the outputs were compared with (`float64 reference`, `given code`).
        seconds: wall time of the gate.
    """

    findings: tuple[Finding, ...]
    errors: tuple[ErrorRow, ...] = ()
    resources: tuple[KernelResources, ...] = ()
    launches: Mapping[str, int] = field(default_factory=dict)
    how: str = ""
    oracle: str = ""
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        """True where no finding is an error."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    @property
    def reasons(self) -> tuple[Finding, ...]:
        """The findings that reject."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def limits(self) -> tuple[Finding, ...]:
        """The findings that accept within a named range only."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.LIMIT)
