"""The profile that Nsight Compute would show of a forward pass, without a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tilewright.errors import MissingReferenceError, TilewrightError
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.occupancy import occupancy
from tilewright.gpu.table import capability_limits
from tilewright.measure import constants as c
from tilewright.measure.kernel_model import KernelModel, model_kernel
from tilewright.measure.model import StepTime, predict_step, reference_steps
from tilewright.measure.sass import Pipe
from tilewright.measure.seen import Seen, SeenKernel, SeenLaunch, look, sample_accesses, schedule_of
from tilewright.measure.traffic import SECTOR
from tilewright.task.task import Task
from tilewright.values import profile as names
from tilewright.values.candidate import Candidate, NativeCall, Origin
from tilewright.values.precision import PrecisionClass
from tilewright.values.profile import ForwardProfile, KernelProfile, NativeProfile
from tilewright.values.verdict import Severity

#: Of an autotune list, the first configuration within this of the fastest counts as chosen.
_TIE = 0.02


class PredictionError(TilewrightError):
    """A forward pass cannot be modelled: it cannot be recorded, or a kernel does not compile for the target."""


def predict_profile(task: Task, candidate: Candidate | None = None, *, gpu: Gpu | None = None) -> ForwardProfile:
    """The modelled profile of one forward pass on the task's own inputs.

    It is that of a later call: what the first call packs or folds and keeps is not part of it.

    Args:
        task: says how the module is built and called; it must have a reference.
        candidate: what is profiled; the task's given code if None, or else the reference in eager PyTorch.
        gpu: the target; the task's own if None.

    Raises:
        MissingReferenceError: the task does not say how to call its code.
        PredictionError: the code fails, or does not compile for the target.
    """
    target = gpu or task.gpu
    if task.reference is None:
        raise MissingReferenceError(
            "a document alone does not say how to call its code",
            hint="give --reference FILE, or --init and --inputs",
        )
    candidate = candidate or given_candidate(task)
    if candidate is None:
        return _predict_reference(task, target)
    return profile_of(task, candidate, look(task, candidate, target), target)


def profile_of(task: Task, candidate: Candidate, seen: Seen, target: Gpu) -> ForwardProfile:
    """The modelled profile of a candidate whose forward pass was looked at.

    Raises:
        PredictionError: the code fails, or does not compile for the target.
    """
    _check(seen)
    if not seen.kernels:
        return assemble(seen, {}, target, task.precision, ())
    chosen = tuple(choose(kernel, target, task.precision) for kernel in seen.kernels)
    launches, problem = sample_accesses(
        task, candidate, target, resident_programs(chosen, target), _index(seen, chosen)
    )
    models, notes = model_launches(chosen, launches, target)
    if problem:
        notes = (*notes, f"the interpreter stopped: {problem}")
    return assemble(replace(seen, kernels=chosen), models, target, task.precision, notes)


def given_candidate(task: Task) -> Candidate | None:
    """The task's given code as a candidate, if there is one."""
    if task.given_code is None:
        return None
    origin = Origin.DOCUMENT if task.document is not None else Origin.FILE
    return Candidate(task.given_code, origin, "the given code")


def _check(seen: Seen) -> None:
    errors = [finding for finding in seen.findings if finding.severity is Severity.ERROR]
    failed = [finding for finding in seen.findings if finding.check == "record.shapes"]
    for finding in (*errors, *failed):
        raise PredictionError(f"it cannot be modelled: {finding.message}", hint=finding.where or None)


def choose(kernel: SeenKernel, gpu: Gpu, precision: PrecisionClass) -> SeenKernel:
    """Of an autotune list, the configuration that would win: the first within 2 % of the fastest."""
    usable = [item for item in kernel.configurations if item.resources is not None and item.code is not None]
    if not usable:
        return kernel
    times = [
        predict_step(item.launch, [item.resources] if item.resources else [], gpu, precision).time_ms for item in usable
    ]
    return next(item for item, time in zip(usable, times, strict=True) if time <= min(times) * (1 + _TIE))


def _index(seen: Seen, chosen: Sequence[SeenKernel]) -> int:
    """Which configuration the interpreter's autotuners are to take: that of the first list."""
    for kernel, taken in zip(seen.kernels, chosen, strict=True):
        if kernel.configurations:
            return [item.launch for item in kernel.configurations].index(taken.launch)
    return 0


def resident_programs(kernels: Sequence[SeenKernel], gpu: Gpu) -> dict[str, int]:
    """Kernel -> programs that the GPU holds at once."""
    found: dict[str, int] = {}
    for kernel in kernels:
        if kernel.resources is not None:
            said = kernel.resources
            held = occupancy(gpu, registers=said.registers, shared_bytes=said.shared_bytes, warps=said.warps)
            found[said.kernel] = gpu.sm_count * max(1, held.active_blocks)
    return found


def model_launches(
    kernels: Sequence[SeenKernel], launches: Sequence[SeenLaunch], gpu: Gpu
) -> tuple[dict[int, KernelModel], tuple[str, ...]]:
    """Position of a launch -> its model, for those that compiled and whose accesses were seen; and notes."""
    found: dict[int, KernelModel] = {}
    notes: list[str] = []
    for kernel, seen in zip(kernels, launches, strict=False):
        if kernel.launch.kernel != seen.kernel or kernel.code is None or kernel.resources is None:
            continue
        if not seen.complete:
            notes.append(f"{seen.kernel}: a program is too long for the interpreter; its beginning stands for it")
        if math.prod(seen.grid) > 0:
            found[kernel.position] = model_kernel(kernel, seen, gpu)
    return found, tuple(notes)


def assemble(
    seen: Seen, models: Mapping[int, KernelModel], gpu: Gpu, precision: PrecisionClass, notes: tuple[str, ...]
) -> ForwardProfile:
    """Kernels and native operations as one profile, launches of one kernel with one schedule together."""
    kernels: dict[tuple[str, str], list[KernelProfile]] = {}
    natives: dict[tuple[str, tuple[tuple[int, ...], ...]], list[NativeProfile]] = {}
    by_position = {kernel.position: kernel for kernel in seen.kernels}
    missing = []
    for position, step in enumerate(seen.recording.steps):
        if isinstance(step, NativeCall):
            found = predict_step(step, (), gpu, precision)
            if found.time_ms > 0:
                fixed = position in seen.from_parameters
                natives.setdefault((step.operation, step.input_shapes), []).append(
                    _native(step, found, position, fixed)
                )
            continue
        kernel = by_position[position]
        model = models.get(position)
        if model is None:
            missing.append(step.kernel)
        profile = _kernel_profile(kernel, model, gpu) if model else _plain_profile(kernel, gpu, precision)
        kernels.setdefault((step.kernel, profile.schedule), []).append(profile)
    merged = tuple(_merged(group) for group in kernels.values())
    native = tuple(replace(group[0], calls=len(group)) for group in natives.values())
    total = sum(kernel.total_ms for kernel in merged) + sum(call.total_ms for call in native)
    if missing:
        notes = (*notes, f"no accesses were seen of {', '.join(dict.fromkeys(missing))}: bytes are its tensors' once")
    return ForwardProfile(
        kernels=merged, native=native, gap_ms=0.0, host_ms=None, total_ms=total, gpu=gpu.name, modelled=True,
        versions=_versions(), notes=notes,
    )  # fmt: skip


def _native(call: NativeCall, found: StepTime, position: int, from_parameters: bool) -> NativeProfile:
    return NativeProfile(
        call.operation, 1, found.time_ms, position, call.read_bytes, call.written_bytes, call.matrix_operations,
        found.limit, from_parameters,
    )  # fmt: skip


def _merged(group: Sequence[KernelProfile]) -> KernelProfile:
    """Launches of one kernel as one profile: the first one's, with the mean duration."""
    first = group[0]
    if len(group) == 1:
        return first
    times = [item.duration_ms or 0.0 for item in group]
    mean = sum(times) / len(times)
    metrics = {**first.metrics, names.DURATION_NS: mean * 1e6}
    return replace(first, launches=len(group), duration_ms=mean, metrics=metrics)


def _plain_profile(kernel: SeenKernel, gpu: Gpu, precision: PrecisionClass) -> KernelProfile:
    """Without accesses: the time by the model of bytes and occupancy."""
    known = [kernel.resources] if kernel.resources is not None else []
    found = predict_step(kernel.launch, known, gpu, precision)
    launch = kernel.launch
    return KernelProfile(
        kernel=launch.kernel, gpu=gpu.name, modelled=True, source="model", grid=launch.grid,
        metrics={names.GRID_SIZE: launch.programs, names.DURATION_NS: found.time_ms * 1e6},
        duration_ms=found.time_ms, position=kernel.position, limits=dict(found.limits), limit=found.limit,
        registers=kernel.resources.registers if kernel.resources else None,
        spill_bytes=kernel.resources.spill_bytes if kernel.resources else None,
        shared_bytes=kernel.resources.shared_bytes if kernel.resources else None,
        warps=launch.num_warps, schedule=schedule_of(launch),
        evidence={"time": "bytes of the tensors once each, and occupancy"},
    )  # fmt: skip


def _kernel_profile(kernel: SeenKernel, model: KernelModel, gpu: Gpu) -> KernelProfile:
    resources = kernel.resources
    assert resources is not None
    total = sum(model.demand.mix.values()) or 1.0
    waited = sum(model.timeline.stalls.values()) or 1.0
    metrics = _metrics(kernel, model, gpu)
    return KernelProfile(
        kernel=kernel.launch.kernel,
        gpu=gpu.name,
        modelled=True,
        source="model",
        grid=kernel.launch.grid,
        metrics=metrics,
        duration_ms=model.time_ms,
        position=kernel.position,
        warps=resources.warps,
        registers=resources.registers,
        spill_bytes=resources.spill_bytes,
        shared_bytes=resources.shared_bytes,
        active_blocks=model.held.active_blocks,
        occupancy_limits=dict(model.held.limits),
        waves=model.waves,
        limits=dict(model.limits),
        limit=model.limit,
        instruction_mix={name: count / total for name, count in model.demand.mix.items()},
        stalls={name: cycles / waited for name, cycles in model.timeline.stalls.items()},
        tensor_percent=metrics[names.TENSOR_PIPE],
        dram_read_bytes=model.l2.dram_read_bytes,
        dram_written_bytes=model.l2.dram_written_bytes,
        load_bytes_per_sector=metrics.get(names.LOAD_BYTES_PER_SECTOR),
        store_bytes_per_sector=metrics.get(names.STORE_BYTES_PER_SECTOR),
        schedule=schedule_of(kernel.launch),
        evidence=_EVIDENCE,
    )


_EVIDENCE = {
    "registers": "compiled for the target; cuobjdump",
    "instruction_mix": "machine code (nvdisasm), loops counted by the accesses that the interpreter saw",
    "stalls": "one warp followed through the machine code, alone",
    "sectors": "addresses of one program in Triton's interpreter, lanes by the compiled kernel's layouts",
    "l2": "blocks that neighbouring programs share, and the bytes that pass between",
    "time": "the limits together; constants in tilewright.measure.constants",
}


def _metrics(kernel: SeenKernel, model: KernelModel, gpu: Gpu) -> dict[str, float]:
    """The metrics under Nsight Compute's names; percentages as it counts them."""
    resources, launch = kernel.resources, kernel.launch
    assert resources is not None
    busy_ms = max(model.time_ms - c.EMPTY_KERNEL_MS, 1e-9)
    limits = model.limits
    moved = model.l2.dram_read_bytes + model.l2.dram_written_bytes
    issue = 100.0 * _even(limits.get("issue", 0.0), model, gpu) / model.time_ms
    tensor = 100.0 * _even(_tensor_ms(model, gpu), model, gpu) / model.time_ms
    units = [issue, tensor, *(100.0 * _even(limits.get(name, 0.0), model, gpu) / model.time_ms for name in _UNITS)]
    blocks = dict(model.held.limits)
    found: dict[str, float] = {
        names.SM_THROUGHPUT: min(100.0, max(units)),
        names.GRID_SIZE: launch.programs,
        names.WARPS_ACTIVE: 100.0 * model.achieved,
        names.DRAM_THROUGHPUT: min(100.0, 100.0 * moved / (gpu.bandwidth_gb_s * 1e6 * model.time_ms)),
        names.L2_HIT_RATE: model.l2_hit_percent,
        names.DURATION_NS: model.time_ms * 1e6,
        names.DRAM_READ_BYTES: model.l2.dram_read_bytes,
        names.DRAM_WRITTEN_BYTES: model.l2.dram_written_bytes,
        names.L2_THROUGHPUT: min(100.0, 100.0 * limits.get("l2", 0.0) / model.time_ms),
        names.L1_HIT_RATE: model.l1_hit_percent,
        names.REGISTERS: resources.registers,
        names.SHARED_BYTES: resources.shared_bytes,
        names.BLOCK_SIZE: 32 * resources.warps,
        names.WAVES: model.waves,
        names.LIMIT_REGISTERS: blocks["registers"],
        names.LIMIT_SHARED: blocks["shared memory"],
        names.LIMIT_WARPS: blocks["warps"],
        names.LIMIT_BLOCKS: blocks["blocks"],
        names.THEORETICAL_OCCUPANCY: 100.0 * model.held.fraction,
        names.TENSOR_PIPE: min(100.0, tensor * model.time_ms / busy_ms),
        names.ISSUE_ACTIVE: min(100.0, issue * model.time_ms / busy_ms),
        names.SM_ACTIVE: 100.0 * min(1.0, launch.programs / gpu.sm_count),
    }
    for stores, sector, request in (
        (False, names.LOAD_BYTES_PER_SECTOR, names.LOAD_SECTORS_PER_REQUEST),
        (True, names.STORE_BYTES_PER_SECTOR, names.STORE_SECTORS_PER_REQUEST),
    ):
        sites = [site for site in model.traffic.sites if site.stores == stores and site.sectors]
        sectors, requests = sum(site.sectors for site in sites), sum(site.requests for site in sites)
        if sectors:
            found[sector] = min(float(SECTOR), sum(site.asked_bytes for site in sites) / sectors)
            found[request] = sectors / max(requests, 1.0)
    return found


#: Limits that count as units of a multiprocessor.
_UNITS = ("fp32", "integer", "special", "shared")


def _even(time_ms: float, model: KernelModel, gpu: Gpu) -> float:
    """A limit of the busiest multiprocessor as the mean over all of them."""
    busiest = math.ceil(model.programs / gpu.sm_count)
    return time_ms * model.programs / gpu.sm_count / busiest if busiest < 2 * model.held.active_blocks else time_ms


def _tensor_ms(model: KernelModel, gpu: Gpu) -> float:
    """Time of the products at the rate that Nsight Compute takes as the pipe's peak: of 16-bit accumulation."""
    limits = capability_limits(gpu.capability) or {}
    peak = float(limits.get("tensor_fp16_fma_per_clock_per_sm", 0.0))
    products = model.demand.products * model.programs
    if not peak or not model.demand.pipe_cycles.get(Pipe.TENSOR):
        return 0.0
    warps = model.held.active_warps / max(model.held.active_blocks, 1)
    return products * warps / (peak * gpu.sm_count * gpu.boost_clock_mhz * 1e3)


def _predict_reference(task: Task, gpu: Gpu) -> ForwardProfile:
    """The reference in eager PyTorch, each operation on its own."""
    from tilewright.graph.capture import capture
    from tilewright.task.module_source import build_module, make_inputs

    assert task.reference is not None
    graph = capture(build_module(task.reference, device="meta"), make_inputs(task.reference, device="meta"))
    native = tuple(
        NativeProfile(node.operation, 1, step.time_ms, position, node.read_bytes, node.written_bytes,
                      node.matrix_operations, step.limit)
        for position, (node, step) in enumerate(reference_steps(graph, gpu, task.precision))
        if step.time_ms > 0
    )  # fmt: skip
    total = sum(call.total_ms for call in native)
    return ForwardProfile((), native, 0.0, None, total, gpu.name, True, _versions(), ("eager PyTorch",))


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
