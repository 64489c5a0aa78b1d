"""What the tools answer: the parts of the reports that an agent acts on, with their types."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from tilewright.values.serialise import JsonValue


class Found(BaseModel):
    """One finding of the gate."""

    check: str = Field(description="Stable name of the check.")
    severity: str = Field(description="error (rejects), limit (accepts, with a range of validity) or note.")
    message: str = Field(description="What is wrong, in numbers.")
    where: str = Field(description="A line, a kernel or a probe.")


class ProbeError(BaseModel):
    """The error of one probe against float64, norm-wise relative."""

    probe: str
    candidate_error: float | str
    allowed_error: float | str
    passed: bool


class Kernel(BaseModel):
    """What the compiler says of one kernel on the target."""

    kernel: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int


class VerifyResult(BaseModel):
    """The gate's verdict."""

    accepted: bool
    reasons: list[Found] = Field(description="Why it was rejected; empty where it was accepted.")
    other_findings: list[Found] = Field(description="Limits and notes.")
    errors: list[ProbeError]
    kernels: list[Kernel]
    how: str = Field(description="Where the kernels ran: interpreter or gpu.")


class InspectResult(BaseModel):
    """What was understood of a task."""

    name: str
    gpu: str = Field(description="Key of the target in the GPU table.")
    precision: str
    stages: list[str]
    kernels: list[str] = Field(description="Triton kernels of the given code.")
    operations: list[str] = Field(description="ATen operations of the reference, in order.")
    input_shapes: list[list[int]]
    output_shapes: list[list[int]]
    metrics: dict[str, dict[str, float]] = Field(description="The document's profile: kernel, metric, value.")
    speed_of_light_ms: float | None = Field(description="No implementation can be faster on the target, milliseconds.")
    speed_of_light_limit: str | None = Field(description="What sets it: memory, matrix or scalar operations.")
    can_run: bool = Field(description="False for a document alone: give reference, or init and inputs, to run it.")


class ProfileResult(BaseModel):
    """The profile of a forward pass."""

    gpu: str
    modelled: bool = Field(description="True where the model says it; False where it was measured.")
    total_ms: float | None = Field(description="Of the whole forward pass, milliseconds.")
    metrics: dict[str, dict[str, float]] = Field(description="Kernel, metric by Nsight Compute's name, value.")
    kernels: list[dict[str, Any]] = Field(
        description="Of each kernel: time, limits and which binds, stalls, resources."
    )
    native: list[dict[str, Any]] = Field(description="Operations that are left to PyTorch, with their times.")
    notes: list[str]


class PromptResult(BaseModel):
    """The document of a task for one stage."""

    stage: str
    document: str


class SummaryRow(BaseModel):
    """One row of the final table: the reference, modes of torch.compile, the given code, ours."""

    name: str
    time_ms: float | None = Field(description="What comparisons use: the longer of the two times below.")
    gpu_ms: float | None = Field(default=None, description="That the GPU works in a call.")
    call_ms: float | None = Field(default=None, description="Of a call as a user makes it, host and GPU.")
    bound_by: str | None = Field(default=None, description="host or GPU.")
    timing_kind: str | None = Field(description="measured (on a GPU) or modelled.")
    speed_of_light_fraction: float | None
    error: float | str | None
    remark: str


class TrialLine(BaseModel):
    """One candidate that was tried."""

    number: int
    stage: str
    what: str
    outcome: str = Field(description="kept, reverted (no gain) or rejected (wrong).")
    reason: str


class OptimizeResult(BaseModel):
    """How a run ended."""

    verified: bool = Field(description="True where a faster module passed the gate and was written.")
    verdict: str = Field(description="The result in one sentence.")
    speed_up: float | None = Field(
        description="Over the fastest right thing that the user had: PyTorch, accepted given code, or torch.compile."
    )
    faster_peer: str | None = Field(default=None, description="The mode of torch.compile that ours does not beat.")
    summary: list[SummaryRow]
    trials: list[TrialLine]
    notes: list[str]
    files: list[str] = Field(description="Written: model_new.py (if verified), report.json, report.html.")


class LookedUpResult(BaseModel):
    """The answer of a function of the library."""

    result: JsonValue


def verify_result(report: dict[str, Any]) -> VerifyResult:
    """From `report.data.verdict_report`."""
    verdict = report["verdict"]
    found = [Found.model_validate(finding) for finding in verdict["findings"]]
    return VerifyResult(
        accepted=report["accepted"],
        reasons=[finding for finding in found if finding.severity == "error"],
        other_findings=[finding for finding in found if finding.severity != "error"],
        errors=[ProbeError.model_validate(row) for row in verdict["errors"]],
        kernels=[Kernel.model_validate(row) for row in verdict["resources"]],
        how=verdict["how"],
    )


def profile_result(report: dict[str, Any]) -> ProfileResult:
    """From `report.profile.profile_report`."""
    forward = report["tilewright:forward"]
    return ProfileResult.model_validate(
        {
            "gpu": forward["gpu"],
            "modelled": forward["modelled"],
            "total_ms": forward["total_ms"],
            "metrics": {name: metrics for name, metrics in report.items() if not name.startswith("tilewright:")},
            "kernels": report["tilewright:kernels"],
            "native": forward["native"],
            "notes": forward["notes"],
        }
    )


def inspect_result(report: dict[str, Any]) -> InspectResult:
    """From `report.data.inspection_report`."""
    floor = report["speed_of_light"].get(report["precision"])
    return InspectResult.model_validate(
        {
            **report,
            "gpu": report["gpu"]["key"],
            "speed_of_light_ms": floor["time_ms"] if floor else None,
            "speed_of_light_limit": floor["limit"] if floor else None,
            "can_run": report["has_reference"],
        }
    )


def optimize_result(report: dict[str, Any]) -> OptimizeResult:
    """From `report.data.study_report`."""
    trials = [
        TrialLine(
            number=trial["number"],
            stage=trial["stage"],
            what=f"{trial['candidate']['origin']}: {trial['candidate']['description']}",
            outcome=trial["outcome"],
            reason=trial["reason"],
        )
        for trial in report["study"]["trials"]
    ]
    return OptimizeResult.model_validate({**report, "trials": trials, "notes": report["study"]["notes"]})
