"""The model: a predicted time from bytes, operations and occupancy. No GPU is asked.

A forward pass is its steps one after another. Each step takes the longest of its limits (memory, L2, the port
of the multiprocessors in use, latency by Little's law, tensor cores, float32 pipes), plus a launch. A call takes the
longer of that and what the host needs to enqueue it (`tilewright.measure.host`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tilewright.gpu.gpu import Gpu
from tilewright.gpu.occupancy import Occupancy, occupancy
from tilewright.graph.graph import Graph
from tilewright.graph.work import NodeWork, count_nodes
from tilewright.measure import constants as c
from tilewright.measure.host import host_ms_of, host_ms_of_eager
from tilewright.measure.launches import matrix_product_shape, matrix_traffic, tensor_bytes, tile_elements
from tilewright.values.candidate import Launch, NativeCall, Recording
from tilewright.values.measurement import Modelled
from tilewright.values.precision import PrecisionClass
from tilewright.values.verdict import KernelResources

#: Registers of a thread that are assumed for a kernel whose resources are not known.
_UNKNOWN_REGISTERS = 64


@dataclass(frozen=True)
class StepTime:
    """One step's predicted time.

    Attributes:
        name: the kernel's or operation's name.
        time_ms: the longest of `limits`, plus the launch; 0 for a view.
        limits: limit -> milliseconds that it alone would take.
    """

    name: str
    time_ms: float
    limits: Mapping[str, float]

    @property
    def limit(self) -> str:
        """The limit that binds; `launch` where starting the kernel takes longer than running it."""
        return max(self.limits, key=lambda name: self.limits[name]) if self.limits else "launch"


def predict(
    recording: Recording,
    resources: Sequence[KernelResources],
    gpu: Gpu,
    precision: PrecisionClass,
    *,
    spares: Sequence[str] = (),
    products: Mapping[str, int] | None = None,
) -> Modelled:
    """Predicted time of a candidate's forward pass.

    Args:
        recording: its launches and native calls on the task's own inputs.
        resources: of its kernels, compiled for `gpu`; of several of one kernel (an autotune list), those
            with the launch's number of warps are taken.
        gpu: the target.
        precision: class of the native contractions.
        spares: kernels that return at once unless a guard fails: the guard is taken to hold.
        products: operations of the matrix product in a kernel, where a launch does not show them: no kernel is
            faster than its product, whatever it moves.
    """
    steps = (
        _step(step.kernel, {})
        if isinstance(step, Launch) and step.kernel in spares
        else predict_step(step, resources, gpu, precision, products)
        for step in recording.steps
    )
    return _sum_up(steps, gpu, host_ms_of(recording))


def predict_reference(graph: Graph, gpu: Gpu, precision: PrecisionClass) -> Modelled:
    """Predicted time of a graph in eager PyTorch: each operation a kernel of its own."""
    return _sum_up((step for _, step in reference_steps(graph, gpu, precision)), gpu, host_ms_of_eager(graph))


def reference_steps(graph: Graph, gpu: Gpu, precision: PrecisionClass) -> tuple[tuple[NodeWork, StepTime], ...]:
    """The operations of a graph that move anything, in order, each with its predicted time in eager PyTorch."""
    nodes = (node for node in count_nodes(graph) if not node.moves_nothing)
    return tuple((node, _node_time(node, gpu, precision)) for node in nodes)


def predict_step(
    step: Launch | NativeCall,
    resources: Sequence[KernelResources],
    gpu: Gpu,
    precision: PrecisionClass,
    products: Mapping[str, int] | None = None,
) -> StepTime:
    """Predicted time of one step of a forward pass; `products` as in `predict`."""
    if isinstance(step, NativeCall):
        return _native_time(step, gpu, precision)
    known = _resources_of(step, resources)
    return _launch_time(step, known, gpu, precision, (products or {}).get(step.kernel, 0))


def _sum_up(steps: Iterable[StepTime], gpu: Gpu, host_ms: float) -> Modelled:
    """One step after another on the GPU, beside the host that enqueues them: the longer of the two."""
    parts: dict[str, float] = {}
    by_limit: dict[str, float] = {}
    for position, step in enumerate(steps):
        if step.time_ms == 0:
            continue
        parts[f"{position}: {step.name}"] = step.time_ms
        by_limit[step.limit] = by_limit.get(step.limit, 0.0) + step.time_ms
    binding = max(by_limit, key=lambda name: by_limit[name]) if by_limit else "launch"
    gpu_ms = sum(parts.values())
    return Modelled(max(gpu_ms, host_ms), gpu.name, binding, parts, on_gpu_ms=gpu_ms, host_ms=host_ms)


def _step(name: str, limits: Mapping[str, float], extra_ms: float = 0.0) -> StepTime:
    """A step under its limits; `extra_ms` comes on top (kernels that the library runs around it)."""
    limits = {**limits, "launch": c.LAUNCH_MS}
    kernel = max((value for limit, value in limits.items() if limit != "launch"), default=0.0)
    return StepTime(name, kernel + extra_ms + c.LAUNCH_MS, limits)


# ---------------------------------------------------------------------------------------------------------
# What PyTorch runs


def dram_ms(moved_bytes: float, gpu: Gpu, efficiency: float = 1.0) -> float:
    """Milliseconds to move so many bytes at a copy's bandwidth times `efficiency`."""
    return moved_bytes / (gpu.bandwidth_gb_s * 1e9 * c.DRAM_EFFICIENCY * efficiency) * 1e3


def matrix_ms(operations: float, gpu: Gpu, precision: PrecisionClass, efficiency: float) -> float:
    """Milliseconds of a contraction at `efficiency` of the rate of the class's operands."""
    rate = gpu.fp32_tflops if precision is PrecisionClass.IEEE else gpu.tensor_tflops[precision]
    return operations / (rate * 1e12 * efficiency) * 1e3


def scalar_ms(operations: float, gpu: Gpu) -> float:
    """Milliseconds of float32 operations that fuse into no multiply-add (half the rate that counts two)."""
    return operations / (gpu.fp32_tflops * 1e12 / 2) * 1e3


def _native_time(call: NativeCall, gpu: Gpu, precision: PrecisionClass) -> StepTime:
    moved = call.read_bytes + call.written_bytes
    if moved == 0 and call.matrix_operations == 0:
        return StepTime(call.operation, 0.0, {})
    operation = call.operation.removeprefix("aten.").partition(".")[0]
    limits = {"dram": dram_ms(moved, gpu), **_row_limits(operation, _rows_of(call), call.read_bytes, gpu)}
    if not call.matrix_operations:
        return _step(call.operation, limits)
    name = call.operation.lower()
    if "conv" not in name:
        limits["tensor"] = matrix_ms(call.matrix_operations, gpu, precision, c.MATRIX_EFFICIENCY)
        return _step(call.operation, limits)
    limits["tensor"] = matrix_ms(call.matrix_operations, gpu, precision, c.CONVOLUTION_EFFICIENCY)
    has_bias = len(call.input_shapes) > 2 and len(call.input_shapes[2]) == 1
    extra = _around_convolution(
        read_bytes=call.read_bytes,
        written_bytes=call.written_bytes,
        transposed=_is_transposed(call),
        has_bias=has_bias,
        channels_last=call.layout == "channels_last",
        gpu=gpu,
    )
    return _step(call.operation, limits, extra)


@dataclass(frozen=True)
class _RowKernel:
    """PyTorch's kernel of a normalisation: a row is one block's, however few rows there are.

    Attributes:
        reads: how often the block reads its row: for its moments, and for its results.
        of_an_sm: blocks that a multiprocessor holds (2048 threads).
    """

    reads: int
    of_an_sm: int


_BY_LAYER, _BY_GROUP = _RowKernel(2, 16), _RowKernel(1, 4)
#: Operation, as captured and as dispatched -> its kernel.
_ROW_KERNELS: Mapping[str, _RowKernel] = {
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), _BY_LAYER),
    **dict.fromkeys(("group_norm", "native_group_norm"), _BY_GROUP),
}


def _rows_of(call: NativeCall) -> int:
    """Rows of a normalisation: it returns what it computed of each beside its result."""
    return math.prod(call.output_shapes[1]) if len(call.output_shapes) > 1 else 0


def _row_limits(operation: str, rows: int, read_bytes: int, gpu: Gpu) -> dict[str, float]:
    """Milliseconds that a normalisation takes for its latency alone.

    latency: ceil(rows / resident blocks) (bytes of a row) reads L / (bytes in flight of a block)
    """
    kernel = _ROW_KERNELS.get(operation)
    if kernel is None or rows == 0:
        return {}
    latency_ms = c.DRAM_LATENCY_CYCLES * c.LOADED_LATENCY_FACTOR / (gpu.boost_clock_mhz * 1e3)
    waves = math.ceil(rows / (gpu.sm_count * kernel.of_an_sm))
    return {"latency": waves * latency_ms * kernel.reads * read_bytes / rows / c.ROW_BYTES_IN_FLIGHT}


def _is_transposed(call: NativeCall) -> bool:
    """Told from shapes where the name does not say it: a transposed one's weight starts with the inputs."""
    if "transpose" in call.operation:
        return True
    if len(call.input_shapes) < 2 or not call.output_shapes:
        return False
    source, weight, result = call.input_shapes[0], call.input_shapes[1], call.output_shapes[0]
    dims = len(weight) - 2
    if len(source) < dims + 1 or len(result) < dims + 1:
        return False
    by_input, by_output = weight[0] == source[-dims - 1], weight[0] == result[-dims - 1]
    if by_input != by_output:
        return by_input
    return any(after > before for before, after in zip(source[-dims:], result[-dims:], strict=True))


def _around_convolution(
    *, read_bytes: int, written_bytes: int, transposed: bool, has_bias: bool, channels_last: bool, gpu: Gpu
) -> float:
    """Milliseconds of the kernels that PyTorch and cuDNN run around a convolution's own.

    cuDNN's tensor-core kernels work on channels-last data; contiguous (NCHW) data are converted before and
    the result after (NVIDIA, "Convolutional Layers User's Guide", tensor layouts). PyTorch adds the bias in a
    kernel of its own (`output.add_` after cudnn_convolution and cudnn_convolution_transpose in
    aten/src/ATen/native/cudnn and ConvShared.cpp). For a plain convolution cuDNN more often has a kernel
    for NCHW data itself, and only the input is charged.
    """
    extra = 0.0
    if not channels_last:
        converted = read_bytes + (written_bytes if transposed else 0)
        extra += dram_ms(2 * converted, gpu, c.LAYOUT_COPY_EFFICIENCY) + (2 if transposed else 1) * c.LAUNCH_MS
    if has_bias:
        extra += dram_ms(2 * written_bytes, gpu) + c.LAUNCH_MS
    return extra


#: Operation -> how often eager PyTorch reads its input (statistics first, then the normalised values).
_READ_PASSES: Mapping[str, int] = {"group_norm": 2, "instance_norm": 2, "native_group_norm": 2, "cosine_similarity": 2}


def _node_time(node: NodeWork, gpu: Gpu, precision: PrecisionClass) -> StepTime:
    moved = node.read_bytes * _READ_PASSES.get(node.operation, 1) + node.written_bytes
    shrinks = node.written_bytes * 8 < node.read_bytes and not node.matrix_operations
    limits = {
        "dram": dram_ms(moved, gpu, c.REDUCTION_EFFICIENCY if shrinks else 1.0),
        "issue": scalar_ms(node.scalar_operations, gpu),
        **_row_limits(node.operation, node.rows, node.read_bytes, gpu),
    }
    if not node.matrix_operations:
        return _step(node.name, limits)
    efficiency = c.CONVOLUTION_EFFICIENCY if node.convolution else c.MATRIX_EFFICIENCY
    limits["tensor"] = matrix_ms(node.matrix_operations, gpu, precision, efficiency)
    if not node.convolution:
        return _step(node.name, limits)
    extra = _around_convolution(
        read_bytes=node.read_bytes,
        written_bytes=node.written_bytes,
        transposed=node.transposed_convolution,
        has_bias=node.has_bias,
        channels_last=False,
        gpu=gpu,
    )
    return _step(node.name, limits, extra)


# ---------------------------------------------------------------------------------------------------------
# What a candidate launches


def _resources_of(launch: Launch, resources: Sequence[KernelResources]) -> KernelResources | None:
    """The kernel's resources, of the same number of warps where several were compiled."""
    own = [item for item in resources if item.kernel == launch.kernel]
    fitting = [item for item in own if item.warps == launch.num_warps]
    return next(iter(fitting or own), None)


def _launch_time(
    launch: Launch, known: KernelResources | None, gpu: Gpu, precision: PrecisionClass, operations: int
) -> StepTime:
    """Of a kernel that Triton compiled; `operations` of a product that its arguments do not show."""
    if launch.programs == 0:
        return StepTime(launch.kernel, 0.0, {})
    registers = known.registers if known else _UNKNOWN_REGISTERS
    held = occupancy(gpu, registers=registers, shared_bytes=known.shared_bytes if known else 0, warps=launch.num_warps)
    moved = float(tensor_bytes(launch))
    spilled = float(known.spill_bytes * launch.num_warps * gpu.warp_size * launch.programs) if known else 0.0
    limits = memory_limits(launch, moved, 2 * spilled, registers, held, gpu)
    product = matrix_product_shape(launch) if known is None or known.shared_bytes else None
    if product is not None:
        operations = 2 * math.prod(product.sizes)
    if operations:
        operand = _operand_class(launch, precision)
        used = min(1.0, launch.programs / gpu.sm_count)
        limits["tensor"] = matrix_ms(operations, gpu, operand, c.TRITON_MATRIX_EFFICIENCY) / used
    if product is not None:
        limits["l2"] = matrix_traffic(launch, product) / _l2_bytes_per_ms(gpu)
    limits["start"] = launch.programs * c.PROGRAM_START_NS * 1e-6
    return _step(launch.kernel, limits)


def memory_limits(
    launch: Launch, moved: float, spilled: float, registers: int, held: Occupancy, gpu: Gpu
) -> dict[str, float]:
    """Milliseconds that each limit on memory traffic alone would allow.

    With N programs of b bytes each, L latency, and f bytes in flight of one program:

        dram:    N b / bandwidth
        port:    ceil(N / SMs) b / (bytes a clock of one SM)       (too few programs leave SMs without work)
        latency: ceil(N / resident programs) b L / f               (Little's law, whole waves)

    Args:
        launch: the launch.
        moved: bytes of its tensors, once each.
        spilled: bytes of spilled registers that go out to L1 and back.
        registers: of a thread.
        held: its occupancy.
        gpu: the target.
    """
    cycles_per_ms = gpu.boost_clock_mhz * 1e3
    each = moved / launch.programs
    resident = gpu.sm_count * max(1, held.active_blocks)
    latency_ms = c.DRAM_LATENCY_CYCLES * c.LOADED_LATENCY_FACTOR / cycles_per_ms
    busiest = math.ceil(launch.programs / gpu.sm_count) * (moved + spilled) / launch.programs
    waves = math.ceil(launch.programs / resident)
    return {
        "dram": dram_ms(moved, gpu),
        "port": busiest / (c.SM_PORT_BYTES_PER_CLOCK * cycles_per_ms),
        "latency": waves * latency_ms * max(1.0, each / _bytes_in_flight(launch, registers, gpu)),
    }


def _bytes_in_flight(launch: Launch, registers: int, gpu: Gpu) -> float:
    """Bytes that one program can have asked for at once: its tile, as far as registers hold it."""
    threads = launch.num_warps * gpu.warp_size
    of_tile = tile_elements(launch) * 4.0 / threads
    of_registers = registers * 4.0 * c.REGISTERS_FOR_LOADS
    return threads * max(4.0, min(of_tile, of_registers))


def _l2_bytes_per_ms(gpu: Gpu) -> float:
    return c.L2_BYTES_PER_CLOCK_PER_SM * gpu.sm_count * gpu.boost_clock_mhz * 1e3


def _operand_class(launch: Launch, precision: PrecisionClass) -> PrecisionClass:
    """The operand type of a product in a Triton kernel, from the types behind its pointers."""
    types = {argument.type for argument in launch.arguments}
    for name, kind in (("*fp16", PrecisionClass.FP16), ("*bf16", PrecisionClass.BF16)):
        if name in types:
            return kind
    return precision
