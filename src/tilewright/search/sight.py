"""One look at a module: its forward pass as the model (or Nsight Compute) has it, and what holds it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tilewright.diagnosis.diagnose import diagnose
from tilewright.diagnosis.facts import Facts
from tilewright.diagnosis.gather import Sources, gather, gather_reference
from tilewright.gpu.occupancy import occupancy
from tilewright.profile.model import predict_step
from tilewright.search.understand import Understanding, understand
from tilewright.task.metrics import read_metrics
from tilewright.task.task import Task
from tilewright.task.text_file import read_text
from tilewright.values.candidate import Candidate, Launch, Origin
from tilewright.values.diagnosis import DiagnosisReport
from tilewright.values.profile import ForwardProfile, KernelProfile
from tilewright.verify.record import Recorded, record_fully

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sight:
    """What is seen of one module.

    Attributes:
        facts: what the rules looked at.
        profile: measured where it was, else modelled; None where there is neither.
        report: the diagnoses.
    """

    facts: Facts
    profile: ForwardProfile | None
    report: DiagnosisReport


def look_at(
    task: Task,
    candidate: Candidate | None,
    understanding: Understanding,
    *,
    measured: ForwardProfile | None = None,
) -> Sight:
    """Profile and diagnose a candidate, or the reference in eager PyTorch where there is none.

    Args:
        task: what is asked; without a reference the code's metrics are all that is known.
        candidate: the code; it runs in a sandbox.
        understanding: of the task.
        measured: a profile that a GPU gave; the task's own metrics where it is None.
    """
    if candidate is None:
        assert understanding.graph is not None
        facts = gather_reference(task, understanding.graph)
        return Sight(facts, None, diagnose(facts))
    measured = measured or _of_document(task, candidate)
    recorded, modelled = None, None
    if task.reference is not None:
        recorded = record_fully(task, candidate, task.gpu)
        modelled = _modelled(recorded, task)
    sources = Sources(
        recorded=recorded,
        modelled=modelled,
        measured=measured,
        graph=understanding.graph,
        source=candidate.source,
        collapses=candidate.collapses,
    )
    facts = gather(task, sources)
    return Sight(facts, measured or modelled, diagnose(facts))


def look_at_task(task: Task, ncu: Path | None = None, say: Say | None = None) -> Sight:
    """Profile and diagnose the code that a task came with, or its reference where it came with none.

    Args:
        task: what is asked.
        ncu: a profile from Nsight Compute, of that code.
        say: told what is being looked at.

    Raises:
        TilewrightError: the reference or the profile is at fault.
    """
    say = say or (lambda message: None)
    measured = None
    if ncu is not None:
        measured = _profile_of(read_metrics(read_text(ncu), path=str(ncu), first_line=1), task.gpu.name)
    say("reading the reference")
    understanding = understand(task)
    if task.given_code is None:
        return look_at(task, None, understanding, measured=measured)
    origin = Origin.DOCUMENT if task.document is not None else Origin.FILE
    say("recording and compiling the code")
    return look_at(task, Candidate(task.given_code, origin, "the given code"), understanding, measured=measured)


def _of_document(task: Task, candidate: Candidate) -> ForwardProfile | None:
    """The metrics that a document brings, for the code that it brings."""
    if not task.metrics or candidate.source != task.given_code:
        return None
    return _profile_of(task.metrics, task.gpu.name)


def _profile_of(metrics: Mapping[str, Mapping[str, float]], gpu: str) -> ForwardProfile:
    kernels = (KernelProfile(name, gpu, False, "document", metrics=dict(own)) for name, own in metrics.items())
    return ForwardProfile(tuple(kernels), gpu=gpu)


def _modelled(recorded: Recorded, task: Task) -> ForwardProfile:
    kernels, total = [], 0.0
    for position, step in enumerate(recorded.recording.steps):
        time = predict_step(step, recorded.resources, task.gpu, task.precision)
        total += time.time_ms
        if not isinstance(step, Launch):
            continue
        known = next((item for item in recorded.resources if item.kernel == step.kernel), None)
        if known is None:
            continue
        held = occupancy(task.gpu, registers=known.registers, shared_bytes=known.shared_bytes, warps=known.warps)
        kernels.append(
            KernelProfile(
                step.kernel, task.gpu.name, True, "model", step.grid, duration_ms=time.time_ms, position=position,
                warps=known.warps, registers=known.registers, spill_bytes=known.spill_bytes,
                shared_bytes=known.shared_bytes, active_blocks=held.active_blocks,
                occupancy_limits=dict(held.limits), limits=time.limits, limit=time.limit,
                waves=step.programs / max(1, task.gpu.sm_count * held.active_blocks),
            )
        )  # fmt: skip
    return ForwardProfile(tuple(kernels), total_ms=total, gpu=task.gpu.name, modelled=True)
