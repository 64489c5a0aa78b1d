"""One look at a module: its forward pass as the model (or Nsight Compute) has it, and what holds it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tilewright.diagnosis.diagnose import diagnose
from tilewright.diagnosis.facts import Facts, Unread
from tilewright.diagnosis.gather import Sources, gather, gather_reference
from tilewright.diagnosis.unread import find_unread
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.occupancy import occupancy
from tilewright.graph.work import count_work
from tilewright.profile.imported import document_profile, import_profile
from tilewright.profile.launches import tensor_bytes
from tilewright.profile.model import StepTime, predict_step
from tilewright.profile.predict import PredictionError, profile_of
from tilewright.profile.seen import look, schedule_of
from tilewright.search.understand import Understanding, kernel_names, least_work, understand
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Launch, Origin
from tilewright.values.measurement import Work
from tilewright.values.precision import PrecisionClass
from tilewright.values.profile import DRAM_THROUGHPUT, GRID_SIZE, ForwardProfile, KernelProfile
from tilewright.values.sight import Ceilings, RooflinePoint, Sight
from tilewright.values.verdict import KernelResources
from tilewright.verify.record import Recorded, record_fully

Say = Callable[[str], None]


def look_at(
    task: Task,
    candidate: Candidate | None,
    understanding: Understanding,
    *,
    subject: str = "given code",
    measured: ForwardProfile | None = None,
    look_for_unread: bool = True,
    thorough: bool = True,
) -> Sight:
    """Profile and diagnose a candidate, or the reference in eager PyTorch where there is none.

    Args:
        task: what is asked; without a reference the code's metrics are all that is known.
        candidate: the code; it runs in a sandbox.
        understanding: of the task.
        subject: what it is called in the report.
        measured: a profile that a GPU gave; the task's own metrics where it is None.
        look_for_unread: run a few of its programs to see whether they read all of their operands; code that the
            gate accepts need not be asked.
        thorough: model it from its machine code and sampled addresses; else from bytes and occupancy, in no time.
    """
    graph = understanding.graph
    if candidate is None:
        assert graph is not None
        facts = gather_reference(task, graph)
        return Sight(subject, diagnose(facts), points=roofline_points(facts, count_work(graph)))
    measured = measured or _of_document(task, candidate)
    seen = _Modelled(None, None)
    unread: Mapping[str, Sequence[Unread]] = {}
    if task.reference is not None:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(find_unread, task, candidate, graph) if look_for_unread else None
            seen = _from_code(task, candidate) if thorough else _from_bytes(task, candidate)
            unread = asked.result() if asked is not None else {}
    sources = Sources(
        recorded=seen.recorded,
        modelled=seen.profile,
        measured=measured,
        graph=graph,
        unread=unread,
        source=candidate.source,
        collapses=candidate.collapses,
    )
    facts = gather(task, sources)
    facts = replace(facts, notes=(*facts.notes, *seen.notes))
    work = None
    if graph is not None:
        work = least_work(graph) if candidate.collapses else count_work(graph)
    return Sight(subject, diagnose(facts), seen.profile, measured, roofline_points(facts, work))


@dataclass(frozen=True)
class _Modelled:
    """What the model says of a candidate, and the recording that it looked at."""

    recorded: Recorded | None
    profile: ForwardProfile | None
    notes: tuple[str, ...] = ()


def _from_code(task: Task, candidate: Candidate) -> _Modelled:
    """The full model; where it fails, the short one, and why."""
    seen = look(task, candidate, task.gpu)
    try:
        return _Modelled(seen.recorded, profile_of(task, candidate, seen, task.gpu))
    except PredictionError as error:
        short = _from_bytes(task, candidate)
        return replace(short, notes=(*short.notes, f"modelled from bytes and occupancy alone: {error.what}"))


def _from_bytes(task: Task, candidate: Candidate) -> _Modelled:
    """Bytes and occupancy: what the search predicts candidates by."""
    recorded = record_fully(task, candidate, task.gpu)
    kernels, total = [], 0.0
    for position, step in enumerate(recorded.recording.steps):
        time = predict_step(step, recorded.resources, task.gpu, task.precision)
        total += time.time_ms
        known = next((item for item in recorded.resources if item.kernel == getattr(step, "kernel", None)), None)
        if isinstance(step, Launch) and known is not None:
            kernels.append(_short_profile(step, position, known, time, task.gpu))
    return _Modelled(recorded, ForwardProfile(tuple(kernels), total_ms=total, gpu=task.gpu.name, modelled=True))


def _short_profile(launch: Launch, position: int, known: KernelResources, time: StepTime, gpu: Gpu) -> KernelProfile:
    held = occupancy(gpu, registers=known.registers, shared_bytes=known.shared_bytes, warps=known.warps)
    moved = float(tensor_bytes(launch))
    used = 100.0 * moved / (gpu.bandwidth_gb_s * 1e6 * time.time_ms) if time.time_ms > 0 else 0.0
    return KernelProfile(
        launch.kernel, gpu.name, True, "model of bytes and occupancy", launch.grid,
        metrics={GRID_SIZE: launch.programs, DRAM_THROUGHPUT: min(100.0, used)},
        duration_ms=time.time_ms, position=position, warps=known.warps, registers=known.registers,
        spill_bytes=known.spill_bytes, shared_bytes=known.shared_bytes, active_blocks=held.active_blocks,
        occupancy_limits=dict(held.limits), limits=time.limits, limit=time.limit, schedule=schedule_of(launch),
        waves=launch.programs / max(1, gpu.sm_count * held.active_blocks),
    )  # fmt: skip


def roofline_points(facts: Facts, work: Work | None) -> tuple[RooflinePoint, ...]:
    """Each step that takes time under the roofline.

    Operations of a native contraction are its own; what is left of the task's work is that of the kernels: matrix
    operations of the slowest one that multiplies (or of the slowest), the others by the bytes that they move.
    """
    native = [step for step in facts.native if step.time_ms is not None and step.traffic.total]
    points = [
        RooflinePoint(
            step.words, True, float(step.traffic.total),
            float(step.call.matrix_operations or step.traffic.total // 8), step.time_ms.value, step.time_ms.label,
        )
        for step in native
        if step.time_ms is not None and step.time_ms.value > 0
    ]  # fmt: skip
    kernels = [kernel for kernel in facts.kernels if kernel.time_ms is not None and kernel.traffic.total]
    if work is None or not kernels:
        return tuple(points)
    matrix = max(0, work.matrix_operations - sum(step.call.matrix_operations for step in facts.native))
    moved = sum(kernel.traffic.total for kernel in kernels)
    heaviest = max(kernels, key=lambda kernel: (bool(kernel.mix.get("tensor")), kernel.time_ms.value))  # type: ignore[union-attr]
    for kernel in kernels:
        assert kernel.time_ms is not None
        own = work.scalar_operations * kernel.traffic.total / moved + (matrix if kernel is heaviest else 0)
        bytes_ = (kernel.field("dram_read_bytes"), kernel.field("dram_written_bytes"))
        seen = sum(figure.value for figure in bytes_ if figure is not None) * kernel.launches
        if own > 0 and kernel.time_ms.value > 0:
            points.append(
                RooflinePoint(
                    kernel.name, False, seen or float(kernel.traffic.total), own, kernel.time_ms.value,
                    kernel.time_ms.label,
                )
            )  # fmt: skip
    return tuple(points)


def ceilings_of(task: Task) -> Ceilings:
    """The target's rates in the task's class."""
    matrix = task.gpu.fp32_tflops
    if task.precision is not PrecisionClass.IEEE:
        matrix = task.gpu.tensor_tflops[task.precision]
    operand = "FP32" if task.precision is PrecisionClass.IEEE else str(task.precision).upper()
    return Ceilings(task.gpu.bandwidth_gb_s, task.gpu.fp32_tflops, matrix, operand)


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
        own = frozenset(kernel_names(task.given_code or ""))
        measured = import_profile(ncu, gpu=task.gpu.name, own=own)
    say("reading the reference")
    understanding = understand(task)
    if task.given_code is None:
        return look_at(task, None, understanding, subject="reference", measured=measured)
    origin = Origin.DOCUMENT if task.document is not None else Origin.FILE
    say("recording and compiling the code")
    return look_at(task, Candidate(task.given_code, origin, "the given code"), understanding, measured=measured)


def _of_document(task: Task, candidate: Candidate) -> ForwardProfile | None:
    """The metrics that a document brings, for the code that it brings."""
    if not task.metrics or candidate.source != task.given_code:
        return None
    return document_profile(task.metrics, task.gpu.name)
