"""What a candidate would launch at the task's own shapes, and what its kernels need on the target. No GPU is used."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cloudpickle

from tilewright.gate.inside.runtime import FILE, gpu_figures
from tilewright.gate.stages.compiled import cache_environment, compiled_folder
from tilewright.gpu.gpu import Gpu
from tilewright.sandbox.job import JobResult, Part, run_job
from tilewright.sandbox.limits import CHECK_OF, Limits, Outcome
from tilewright.sandbox.paths import own_folder
from tilewright.sandbox.processes import available_cores
from tilewright.task.task import ModuleSource, Task
from tilewright.values.candidate import Candidate, Launch, LaunchArgument, NativeCall, Recording
from tilewright.values.serialise import JsonValue
from tilewright.values.verdict import Finding, KernelResources, Severity

#: Wall seconds for building, recording and compiling.
DEADLINE_S = 240.0
#: It computes nothing; what takes time is the compiler, and each kernel is a part of its own.
LIMITS = Limits(cpu_s=480, file_bytes=1 << 30, disk_bytes=2 << 30, result_bytes=1 << 24, idle_s=20.0, quiet_cpu_s=90.0)


@dataclass(frozen=True)
class Recorded:
    """Everything that a recording run brought.

    Attributes:
        recording: the steps of a forward pass.
        resources: of each distinct launch that compiles.
        findings: what went wrong.
        ended: how its process ended.
        steps: the same steps as the sandbox sent them, with the numbers of the memory that each reads and writes.
        outputs, given: numbers of the memory behind the outputs; behind the inputs, then parameters and buffers.
        output_count: tensors that are returned.
        input_count: how many of `given` are inputs.
    """

    recording: Recording
    resources: tuple[KernelResources, ...]
    findings: tuple[Finding, ...]
    steps: tuple[Mapping[str, Any], ...] = ()
    outputs: tuple[int, ...] = ()
    given: tuple[int, ...] = ()
    output_count: int = 0
    input_count: int = 0
    ended: Outcome = Outcome.OK


def record(
    task: Task, candidate: Candidate, gpu: Gpu
) -> tuple[Recording, tuple[KernelResources, ...], tuple[Finding, ...]]:
    """Record a candidate's forward pass on meta tensors of the task's own shapes, and compile every launch.

    It is that of a later call: what the first call packs or folds and keeps is compiled, but is not among the steps.

    Args:
        task: says how the module is built and called; it must have a reference.
        candidate: what is recorded; it runs in a sandbox.
        gpu: the target that kernels are compiled for.

    Returns:
        the steps in order (launches evaluated, native calls with bytes and operations); registers, spills and
        shared memory of each kernel and configuration; findings (`record.*`, `compile.*`).
    """
    recorded = record_fully(task, candidate, gpu)
    return recorded.recording, recorded.resources, recorded.findings


def record_fully(task: Task, candidate: Candidate, gpu: Gpu) -> Recorded:
    """As `record`, with what the launch checks of the contract need. Repeated calls cost nothing."""
    assert task.reference is not None
    # The task's name and stages do not matter here: the same source on the same GPU is the same recording.
    source = _pickle(task.reference)
    return _TOGETHER.get((source, candidate, _Key(gpu))) or _recorded(source, candidate, _Key(gpu))


def record_together(task: Task, candidates: Sequence[Candidate], gpu: Gpu) -> None:
    """Record candidates of one proposer in one process, ahead of `record_fully`, which then costs nothing.

    What could not be recorded so is recorded by itself when it is asked for.
    """
    assert task.reference is not None
    source, key = _pickle(task.reference), _Key(gpu)
    fresh = [candidate for candidate in candidates if (source, candidate, key) not in _TOGETHER]
    if len(fresh) < 2:
        return
    job = {
        "entry": "tilewright.gate.inside.recorders:run",
        "source": base64.b64encode(source).decode(),
        "gpu": gpu_figures(gpu),
        "at_once": available_cores(),
        "candidates": [
            {
                "source": candidate.source,
                "needs_reference": candidate.needs_reference,
                "cache": str(compiled_folder(candidate)),
            }
            for candidate in fresh
        ],
    }
    result = run_job(
        job,
        deadline_s=DEADLINE_S + _EACH_S * len(fresh),
        limits=replace(
            LIMITS,
            processes=64 + 8 * len(fresh),
            memory_bytes=LIMITS.memory_bytes + min(len(fresh), available_cores()) * _EACH_BYTES,
            quiet_cpu_s=LIMITS.quiet_cpu_s * len(fresh),
        ),
        writable=[compiled_folder(candidate) for candidate in fresh],
        readable=own_folder(task.reference.path),
    )
    for part in result.parts:
        with contextlib.suppress(KeyError, TypeError, ValueError, IndexError):
            alone = tuple(Part(str(one["name"]), one["data"]) for one in part.data)
            recorded = read_recording(replace(result, outcome=Outcome.OK, message="", parts=alone), gpu)
            _TOGETHER[source, fresh[int(part.name)], key] = recorded
    while len(_TOGETHER) > _MOST_KEPT:
        del _TOGETHER[next(iter(_TOGETHER))]


@dataclass(frozen=True, eq=False)
class _Key:
    """A GPU as a key: its figures hold mappings, which have no hash."""

    gpu: Gpu

    def __hash__(self) -> int:
        return hash((self.gpu.key, self.gpu.capability))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.gpu == other.gpu


#: What was recorded together, and how much of it is kept.
_TOGETHER: dict[tuple[bytes, Candidate, _Key], Recorded] = {}
_MOST_KEPT = 256
#: Wall seconds more for each candidate of a group.
_EACH_S = 30.0
#: Resident bytes more for each fork; what they share counts for each of them.
_EACH_BYTES = 2 << 30


def _pickle(source: ModuleSource) -> bytes:
    data: bytes = cloudpickle.dumps(source)
    return data


@lru_cache(maxsize=128)
def _recorded(source: bytes, candidate: Candidate, key: _Key) -> Recorded:
    gpu = key.gpu
    job = {
        "entry": "tilewright.gate.inside.recorder:run",
        "source": base64.b64encode(source).decode(),
        "gpu": gpu_figures(gpu),
        "needs_reference": candidate.needs_reference,
    }
    result = run_job(
        job,
        deadline_s=DEADLINE_S,
        limits=LIMITS,
        environment=cache_environment(candidate),
        files={FILE: candidate.source},
        readable=own_folder(cloudpickle.loads(source).path),
    )
    return read_recording(result, gpu)


def read_recording(result: JobResult, gpu: Gpu) -> Recorded:
    """Turn what came back into typed values; anything that does not fit is a finding."""
    findings: list[Finding] = []
    if result.outcome is not Outcome.OK:
        message = f"its process, while it was recorded at the task's own shapes: {result.message}"
        findings.append(Finding(CHECK_OF[result.outcome], Severity.ERROR, message))
    part = result.part("recording")
    if part is None:
        return Recorded(Recording(()), (), tuple(findings), ended=result.outcome)
    try:
        error = part.data.get("error")
        if error is not None:
            findings.append(_record_failed(error))
        steps = tuple(_step(step) for step in part.data["steps"])
        resources: list[KernelResources] = []
        schedules = dict(_schedules(part.data["steps"]))
        for kernel in (one.data for one in result.parts if one.name.startswith("kernel ")):
            resources += _resources(kernel, schedules.get(kernel["key"], ""), gpu, findings)
        return Recorded(
            Recording(steps),
            tuple(resources),
            tuple(findings),
            tuple(part.data["steps"]),
            tuple(int(number) for number in part.data.get("outputs", ())),
            tuple(int(number) for number in part.data.get("given", ())),
            len(part.data.get("outputs", ())),
            int(part.data.get("inputs", 0)),
            ended=result.outcome,
        )
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as problem:
        message = f"what the recording sent back cannot be read: {type(problem).__name__}: {problem}"
        return Recorded(Recording(()), (), (*findings, Finding("sandbox.garbage", Severity.ERROR, message)))


def _record_failed(error: Mapping[str, Any]) -> Finding:
    where = f"line {error['line']}" if error.get("line") else ""
    message = f"its launches cannot be told without running it: {error['text']}"
    return Finding("record.shapes", Severity.NOTE, message, where)


def _step(data: Mapping[str, Any]) -> Launch | NativeCall:
    if "operation" in data:
        return NativeCall(
            str(data["operation"]),
            tuple(tuple(int(size) for size in shape) for shape in data["input_shapes"]),
            tuple(tuple(int(size) for size in shape) for shape in data["output_shapes"]),
            int(data["read_bytes"]),
            int(data["written_bytes"]),
            int(data["matrix_operations"]),
            str(data["layout"]),
        )
    grid = tuple(int(size) for size in data["grid"])
    padded = (*grid, 1, 1, 1)[:3]
    return Launch(
        str(data["kernel"]),
        (padded[0], padded[1], padded[2]),
        tuple(_argument(argument) for argument in data["arguments"]),
        int(data["num_warps"]),
        int(data["num_stages"]),
        tuple(other for other in map(_step, data.get("alternatives", ())) if isinstance(other, Launch)),
    )


def _argument(data: Mapping[str, Any]) -> LaunchArgument:
    value = data["value"]
    if not (value is None or isinstance(value, bool | int | float | str)):
        raise ValueError(f"argument {data['name']!r} has a {type(value).__name__} as its value")
    return LaunchArgument(
        str(data["name"]),
        str(data["type"]),
        value,
        tuple(int(size) for size in data.get("shape", ())),
        tuple(int(step) for step in data.get("stride", ())),
        bool(data["divisible_by_16"]),
        int(data.get("storage", 0)),
    )


def _schedules(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Key of a launch -> its constants and options, for people."""
    found: list[tuple[str, str]] = []
    for step in steps:
        if "kernel" not in step:
            continue
        constants = [f"{a['name']}={a['value']}" for a in step["arguments"] if a["type"] == "constexpr"]
        options = [f"num_warps={step['num_warps']}", f"num_stages={step['num_stages']}"]
        found.append((step["key"], ", ".join([*constants, *options])))
        found += _schedules(step.get("alternatives", ()))
    return found


def _resources(data: Mapping[str, Any], schedule: str, gpu: Gpu, findings: list[Finding]) -> list[KernelResources]:
    name = str(data["kernel"])
    evidence: dict[str, JsonValue] = {"kernel": name, "schedule": schedule}
    if "error" in data:
        where = f"line {data['line']}" if data.get("line") else name
        message = f"{name} does not compile for sm_{gpu.capability} ({schedule}): {data['error']}"
        findings.append(Finding("compile.error", Severity.ERROR, message, where, evidence))
        return []
    resources = KernelResources(
        name,
        gpu.capability,
        int(data["registers"]),
        int(data["spill_bytes"]),
        int(data["shared_bytes"]),
        int(data["warps"]),
        schedule,
    )
    if resources.shared_bytes > gpu.shared_bytes_per_block:
        message = (
            f"{name} needs {resources.shared_bytes} bytes of shared memory ({schedule}); "
            f"a block on the {gpu.name} has {gpu.shared_bytes_per_block}"
        )
        findings.append(Finding("compile.shared", Severity.ERROR, message, name, evidence))
    if resources.warps * gpu.warp_size > gpu.max_threads_per_block:
        message = f"{name} asks for {resources.warps * gpu.warp_size} threads; a block has {gpu.max_threads_per_block}"
        findings.append(Finding("compile.threads", Severity.ERROR, message, name, evidence))
    if data.get("bare") and int(data.get("scratch_bytes", 0)):
        message = (
            f"{name} needs {int(data['scratch_bytes'])} bytes of scratch memory for each program on "
            f"sm_{gpu.capability} ({schedule}), as descriptors made in a kernel do, and no allocator is set when it is "
            "launched: Triton's default one refuses; call triton.set_allocator before the launch"
        )
        findings.append(Finding("compile.scratch", Severity.ERROR, message, name, evidence))
    if resources.spill_bytes:
        message = f"{name} spills {resources.spill_bytes} bytes a thread to local memory ({schedule})"
        findings.append(Finding("compile.spill", Severity.NOTE, message, name, evidence))
    return [resources]
