"""One look at a module: its forward pass as the model (or Nsight Compute) has it, and what holds it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tilewright.diagnosis.diagnose import diagnose
from tilewright.diagnosis.facts import Facts, KernelFacts, Unread
from tilewright.diagnosis.gather import Sources, gather, gather_reference
from tilewright.diagnosis.unread import find_unread
from tilewright.gate.stages.record import Recorded, record_fully
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.occupancy import occupancy
from tilewright.graph.work import count_work
from tilewright.measure.imported import document_profile, import_profile
from tilewright.measure.launches import tensor_bytes
from tilewright.measure.model import StepTime, predict_step
from tilewright.measure.predict import PredictionError, profile_of
from tilewright.measure.seen import look, schedule_of
from tilewright.search.understand import Understanding, kernel_names, least_work, understand
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Launch, Origin
from tilewright.values.measurement import Work
from tilewright.values.precision import PrecisionClass
from tilewright.values.profile import DRAM_THROUGHPUT, GRID_SIZE, ForwardProfile, KernelProfile
from tilewright.values.sight import Ceilings, RooflinePoint, Sight
from tilewright.values.verdict import KernelResources

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
    kernels, total, products = [], 0.0, dict(candidate.products)
    for position, step in enumerate(recorded.recording.steps):
        time = predict_step(step, recorded.resources, task.gpu, task.precision, products)
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

    Operations of a native contraction are its own, those of another native operation one for each element that it
    moves. What is left of the task's work is that of the kernels: matrix operations by the time that the model gives
    their tensor instructions, the others by the bytes that they move.
    """
    points = [
        RooflinePoint(
            step.words, True, float(step.traffic.total),
            float(step.call.matrix_operations or step.traffic.total // 8), step.time_ms.value, step.time_ms.label,
        )
        for step in facts.native
        if step.time_ms is not None and step.time_ms.value > 0 and step.traffic.total
    ]  # fmt: skip
    if work is None:
        return tuple(points)
    matrix = max(0, work.matrix_operations - sum(step.call.matrix_operations for step in facts.native))
    tensor = sum(kernel.limits.get("tensor", 0.0) for kernel in facts.kernels)
    moved = sum(kernel.traffic.total for kernel in facts.kernels)
    if matrix > 0 and tensor <= 0:
        return tuple(points)  # which kernel multiplies is not known
    for kernel in facts.kernels:
        time, own_bytes = kernel.time_ms, kernel.traffic.total
        if time is None or time.value <= 0 or not own_bytes:
            continue
        operations = work.scalar_operations * own_bytes / moved
        operations += matrix * kernel.limits.get("tensor", 0.0) / tensor if tensor > 0 else 0.0
        if operations > 0:
            points.append(RooflinePoint(kernel.name, False, _dram_bytes(kernel), operations, time.value, time.label))
    return tuple(points)


def _dram_bytes(kernel: KernelFacts) -> float:
    """Bytes between memory and chip as far as they are known; else those of its tensors, once each."""
    figures = (kernel.field("dram_read_bytes"), kernel.field("dram_written_bytes"))
    seen = sum(figure.value for figure in figures if figure is not None) * kernel.launches
    return seen or float(kernel.traffic.total)


def ceilings_of(task: Task) -> Ceilings:
    """The target's rates in the task's class."""
    gpu, kind = task.gpu, task.precision
    if kind is PrecisionClass.IEEE:
        return Ceilings(gpu.bandwidth_gb_s, gpu.fp32_tflops, gpu.fp32_tflops, "FP32")
    half = gpu.tensor_tflops[PrecisionClass.FP16] if kind is PrecisionClass.TF32 else 0.0
    return Ceilings(gpu.bandwidth_gb_s, gpu.fp32_tflops, gpu.tensor_tflops[kind], str(kind).upper(), half)


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
