"""What a candidate's second forward pass does, without a GPU: its steps, machine code, and sampled accesses."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import torch

from tilewright.gate.inside.accesses import AccessKind, TracedTensor
from tilewright.gate.inside.runtime import FILE, gpu_figures
from tilewright.gate.stages.compiled import cache_environment
from tilewright.gate.stages.record import Recorded, read_recording
from tilewright.gpu.gpu import Gpu
from tilewright.measure.layouts import GlobalAccess, read_accesses
from tilewright.measure.sass import Instruction, disassemble, parse_sass
from tilewright.sandbox.job import JobResult, Limits, run_job
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Launch, Recording
from tilewright.values.verdict import Finding, KernelResources

KINDS = tuple(AccessKind)

#: Wall seconds for building, recording and compiling; for sampling accesses.
_CODE_DEADLINE_S = 240.0
_TRACE_DEADLINE_S = 60.0
#: Processor seconds for one launch's followed program, and again for the beginnings of others.
_BUDGET_S = 3.0
#: Beginnings of programs that are looked at, at most.
_MOST_BEGINNINGS = 640


@dataclass(frozen=True)
class KernelCode:
    """One compiled launch.

    Attributes:
        instructions: its machine code.
        accesses: its accesses of global memory in Triton's GPU dialect, with their layouts.
    """

    instructions: tuple[Instruction, ...]
    accesses: tuple[GlobalAccess, ...]


@dataclass(frozen=True, eq=False)
class SeenAccess:
    """One access of the followed program.

    Attributes:
        kind: load, store or atomic.
        argument: position of the tensor among the launch's tensors; -1 where unknown.
        line: of the source.
        low, high: least and greatest byte offset of an active lane from the tensor's first element.
        active: lanes that are carried out.
        element_bytes: of a lane.
        shape: of the block.
        offsets, mask: of each lane, bytes; None where only the extent was kept.
    """

    kind: AccessKind
    argument: int
    line: int
    low: int
    high: int
    active: int
    element_bytes: int
    shape: tuple[int, ...]
    offsets: npt.NDArray[np.int64] | None
    mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class SeenLaunch:
    """What was sampled of one launch.

    Attributes:
        kernel: its name.
        grid: programs along each axis.
        tensors: the tensor arguments.
        accesses: of the followed program, in order.
        begun: int64 [n, 8]: program number, kind, argument, line, low, high, active, element bytes, of the
            first accesses of neighbouring programs.
        complete: the followed program ran to its end.
    """

    kernel: str
    grid: tuple[int, int, int]
    tensors: tuple[TracedTensor, ...]
    accesses: tuple[SeenAccess, ...]
    begun: npt.NDArray[np.int64]
    complete: bool


@dataclass(frozen=True)
class SeenKernel:
    """One launch with its code, in one configuration.

    Attributes:
        launch: as recorded.
        position: among the steps of the forward pass.
        resources: what the compiler says; None where it does not compile.
        code: machine code; None where it does not compile.
        configurations: the same launch under each configuration of its autotune list (this one too); empty
            where there is none.
    """

    launch: Launch
    position: int
    resources: KernelResources | None
    code: KernelCode | None
    configurations: tuple[SeenKernel, ...] = ()


@dataclass(frozen=True)
class Seen:
    """Everything that is known of a forward pass without running it, but for its accesses.

    Attributes:
        recording: its steps, in order.
        kernels: its launches, in order.
        findings: what went wrong.
        from_parameters: positions of native steps that read nothing but parameters.
        recorded: the same recording with the memory that each step reads and writes.
    """

    recording: Recording
    kernels: tuple[SeenKernel, ...]
    findings: tuple[Finding, ...]
    from_parameters: frozenset[int] = frozenset()
    recorded: Recorded | None = None


def look(task: Task, candidate: Candidate, gpu: Gpu) -> Seen:
    """Record, compile and disassemble the candidate's second forward pass (the first one packs weights).

    Never raises for what the candidate does; what went wrong is among the findings.
    """
    assert task.reference is not None
    result = run_job(
        code_job(task, candidate, gpu),
        deadline_s=_CODE_DEADLINE_S,
        limits=Limits(cpu_s=480),
        environment=cache_environment(candidate),
        files={FILE: candidate.source},
    )
    return read_code(result, gpu)


def code_job(task: Task, candidate: Candidate, gpu: Gpu) -> dict[str, Any]:
    """The job of `look`."""
    return _job("tilewright.measure.static_run:run", task, candidate, gpu)


def read_code(result: JobResult, gpu: Gpu) -> Seen:
    """What the job of `look` sent back."""
    recorded = read_recording(result, gpu)
    code = _codes(result)
    resources = {item.kernel + item.schedule: item for item in recorded.resources}
    kernels = []
    for position, (step, raw) in enumerate(zip(recorded.recording.steps, recorded.steps, strict=True)):
        if isinstance(step, Launch):
            kernels.append(_kernel(step, raw, position, resources, code))
    parameters = frozenset(recorded.given[recorded.input_count :])
    fixed = _from_parameters(recorded.steps, parameters)
    return Seen(recorded.recording, tuple(kernels), recorded.findings, fixed, recorded)


def _job(entry: str, task: Task, candidate: Candidate, gpu: Gpu) -> dict[str, Any]:
    return {
        "entry": entry,
        "source": base64.b64encode(cloudpickle.dumps(task.reference)).decode(),
        "gpu": gpu_figures(gpu),
        "needs_reference": candidate.needs_reference,
    }


def _codes(result: JobResult) -> dict[str, KernelCode]:
    """Key of a distinct launch -> its machine code."""
    found: dict[str, KernelCode] = {}
    for part in result.parts:
        if part.name.startswith("kernel ") and "cubin" in part.tensors:
            instructions = parse_sass(disassemble(part.tensors["cubin"].numpy().tobytes()), FILE)
            found[str(part.data["key"])] = KernelCode(instructions, read_accesses(str(part.data["dialect"]), FILE))
    return found


def _kernel(
    launch: Launch,
    raw: Mapping[str, Any],
    position: int,
    resources: Mapping[str, KernelResources],
    code: Mapping[str, KernelCode],
) -> SeenKernel:
    def one(form: Launch, data: Mapping[str, Any]) -> SeenKernel:
        return SeenKernel(form, position, resources.get(form.kernel + schedule_of(form)), code.get(str(data["key"])))

    plain = one(launch, raw)
    others = tuple(map(one, launch.alternatives, raw.get("alternatives", ())))
    return replace(plain, configurations=(plain, *others) if others else ())


def schedule_of(launch: Launch) -> str:
    """A launch's constants and options, as the resources of a recording name them."""
    constants = [f"{item.name}={item.value}" for item in launch.arguments if item.type == "constexpr"]
    return ", ".join([*constants, f"num_warps={launch.num_warps}", f"num_stages={launch.num_stages}"])


def _from_parameters(steps: Sequence[Mapping[str, Any]], parameters: frozenset[int]) -> frozenset[int]:
    """Native steps whose result is the same on every call: they read parameters, or what was made of them."""
    derived, found = set(parameters), set()
    for position, step in enumerate(steps):
        if "operation" not in step:
            continue
        reads = set(step["reads"])
        if reads and reads <= derived:
            derived |= set(step["writes"])
            found.add(position)
    return frozenset(found)


# ---------------------------------------------------------------------------------------------------------
# Accesses


def sample_accesses(
    task: Task, candidate: Candidate, gpu: Gpu, resident: Mapping[str, int], configuration: int = 0
) -> tuple[tuple[SeenLaunch, ...], str]:
    """What sampled programs of each launch ask of memory, from the interpreter.

    Args:
        task, candidate, gpu: as for `look`.
        resident: kernel -> programs that the GPU holds at once.
        configuration: of autotune lists.

    Returns:
        the launches as far as the interpreter came, and why it came no further (empty where it ended well).
    """
    result = run_job(
        trace_job(task, candidate, gpu, resident, configuration),
        deadline_s=_TRACE_DEADLINE_S,
        limits=Limits(cpu_s=120),
        environment={"TRITON_INTERPRET": "1"},
        files={FILE: candidate.source},
    )
    return read_trace(result)


def trace_job(
    task: Task, candidate: Candidate, gpu: Gpu, resident: Mapping[str, int], configuration: int
) -> dict[str, Any]:
    """The job of `sample_accesses`."""
    return _job("tilewright.measure.tracing_run:run", task, candidate, gpu) | {
        "resident": {name: min(count, _MOST_BEGINNINGS) for name, count in resident.items()},
        "budget_s": _BUDGET_S,
        "configuration": configuration,
    }


def read_trace(result: JobResult) -> tuple[tuple[SeenLaunch, ...], str]:
    """What the job of `sample_accesses` sent back."""
    problem = result.message
    launches: list[SeenLaunch] = []
    try:
        for part in result.parts:
            if part.name == "end" and part.data.get("error"):
                problem = str(part.data["error"]["text"])
            elif part.name.startswith("launch "):
                launches.append(_launch(part.data, part.tensors))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        problem = f"what the interpreter's process sent back cannot be read: {type(error).__name__}: {error}"
    return tuple(launches), problem


def _launch(data: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> SeenLaunch:
    described = tuple(
        TracedTensor(**{**one, "shape": tuple(one["shape"]), "stride": tuple(one["stride"])}) for one in data["tensors"]
    )
    shapes = [tuple(int(size) for size in shape) for shape in data["shapes"]]
    offsets, masks = tensors["offsets"].numpy(), tensors["masks"].numpy()
    accesses, at = [], 0
    for kind, argument, line, low, high, active, size, kept, shape in tensors["rows"].tolist():
        lanes = slice(at, at + int(np.prod(shapes[shape], dtype=np.int64)))
        at = lanes.stop if kept else at
        accesses.append(
            SeenAccess(
                KINDS[kind], argument, line, low, high, active, size, shapes[shape],
                offsets[lanes] if kept else None, masks[lanes] if kept else None,
            )
        )  # fmt: skip
    grid = tuple(int(size) for size in data["grid"])
    return SeenLaunch(
        str(data["kernel"]), (grid[0], grid[1], grid[2]), described, tuple(accesses),
        tensors["begun"].numpy(), bool(data["complete"]),
    )  # fmt: skip
