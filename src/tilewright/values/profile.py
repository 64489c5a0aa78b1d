"""Profiles: what Nsight Compute says of each kernel of a forward pass, or what the model predicts it would say.

`tilewright.measure.collect.collect_profile` measures one, `tilewright.measure.predict.predict_profile` models one,
`tilewright.measure.imported.import_profile` reads one from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Names of the metrics, as Nsight Compute has them, that the documents carry, in their order.
SM_THROUGHPUT = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
GRID_SIZE = "launch__grid_size"
WARPS_ACTIVE = "sm__warps_active.avg.pct_of_peak_sustained_active"
DRAM_THROUGHPUT = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
L2_HIT_RATE = "lts__t_sector_hit_rate.pct"
DOCUMENT_METRICS = (SM_THROUGHPUT, GRID_SIZE, WARPS_ACTIVE, DRAM_THROUGHPUT, L2_HIT_RATE)

# The rest, all in base units: nanoseconds, bytes, percent, counts.
DURATION_NS = "gpu__time_duration.sum"
DRAM_READ_BYTES = "dram__bytes_read.sum"
DRAM_WRITTEN_BYTES = "dram__bytes_write.sum"
L2_THROUGHPUT = "lts__t_sectors.avg.pct_of_peak_sustained_elapsed"
L1_HIT_RATE = "l1tex__t_sector_hit_rate.pct"
LOAD_BYTES_PER_SECTOR = "smsp__sass_average_data_bytes_per_sector_mem_global_op_ld.ratio"
STORE_BYTES_PER_SECTOR = "smsp__sass_average_data_bytes_per_sector_mem_global_op_st.ratio"
LOAD_SECTORS_PER_REQUEST = "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_ld.ratio"
STORE_SECTORS_PER_REQUEST = "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_st.ratio"
REGISTERS = "launch__registers_per_thread"
SHARED_BYTES = "launch__shared_mem_per_block"
BLOCK_SIZE = "launch__block_size"
WAVES = "launch__waves_per_multiprocessor"
LIMIT_REGISTERS = "launch__occupancy_limit_registers"
LIMIT_SHARED = "launch__occupancy_limit_shared_mem"
LIMIT_WARPS = "launch__occupancy_limit_warps"
LIMIT_BLOCKS = "launch__occupancy_limit_blocks"
THEORETICAL_OCCUPANCY = "sm__maximum_warps_per_active_cycle_pct"
TENSOR_PIPE = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
ISSUE_ACTIVE = "sm__inst_issued.avg.pct_of_peak_sustained_active"
SM_ACTIVE = "sm__cycles_active.avg.pct_of_peak_sustained_elapsed"

#: Nsight Compute's name of an occupancy limit -> the resource, as `tilewright.gpu.occupancy` names it.
OCCUPANCY_LIMITS: Mapping[str, str] = {
    LIMIT_WARPS: "warps",
    LIMIT_REGISTERS: "registers",
    LIMIT_SHARED: "shared memory",
    LIMIT_BLOCKS: "blocks",
}


@dataclass(frozen=True)
class KernelProfile:
    """One kernel of a forward pass; of several launches of it, the mean (times: of one launch).

    Attributes:
        kernel: its name; for a Triton kernel the name of its function.
        gpu: the GPU's name.
        modelled: True where the model says it, False where a GPU did.
        source: where the figures come from (`ncu 2025.3.1`, `model`, `document`, a file's name).
        grid: as launched, padded with 1; (0, 0, 0) where the source does not say.
        launches: in one forward pass.
        metrics: Nsight Compute's metric name -> number, in base units (percent, bytes, nanoseconds, counts).
        duration_ms: of one launch, milliseconds; None where the source does not say.
        native: True for a kernel of PyTorch or its libraries, False for one of the profiled code.
        position: index of its first launch among the steps of the forward pass.
        warps: of a program.
        registers: of a thread.
        spill_bytes: local memory of a thread, bytes.
        shared_bytes: shared memory of a program, bytes.
        active_blocks: programs that fit on an SM at once.
        occupancy_limits: `warps`, `registers`, `shared memory`, `blocks` -> programs that it alone would allow.
        waves: programs / (programs that the GPU holds at once).
        limits: limit -> milliseconds that it alone would take (`dram`, `l2`, `l1`, `latency`, `issue`,
            `fp32`, `special`, `tensor`, `launch`); of the model alone.
        limit: the one that binds, or `` where the source does not say.
        instruction_mix: class of instruction (`fp32`, `integer`, `special`, `tensor`, `load`, `store`,
            `shared`, `local`, `convert`, `control`, ...) -> its share of the executed ones, 0 to 1.
        stalls: reason (`long_scoreboard`, `math_pipe_throttle`, ...) -> its share of the stalled time, 0 to 1.
        tensor_percent: use of the tensor pipe, percent of its peak.
        dram_read_bytes, dram_written_bytes: of one launch.
        load_bytes_per_sector, store_bytes_per_sector: bytes asked for of each 32-byte sector that moves (32 is
            best; more where lanes share).
        schedule: constexpr values and options of the launch, for people.
        evidence: name of a field or metric -> how it was found.
    """

    kernel: str
    gpu: str
    modelled: bool
    source: str
    grid: tuple[int, int, int] = (0, 0, 0)
    launches: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)
    duration_ms: float | None = None
    native: bool = False
    position: int = 0
    warps: int | None = None
    registers: int | None = None
    spill_bytes: int | None = None
    shared_bytes: int | None = None
    active_blocks: int | None = None
    occupancy_limits: Mapping[str, int] = field(default_factory=dict)
    waves: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    instruction_mix: Mapping[str, float] = field(default_factory=dict)
    stalls: Mapping[str, float] = field(default_factory=dict)
    tensor_percent: float | None = None
    dram_read_bytes: float | None = None
    dram_written_bytes: float | None = None
    load_bytes_per_sector: float | None = None
    store_bytes_per_sector: float | None = None
    schedule: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)

    @property
    def programs(self) -> int:
        """Program instances of a launch; 0 where the source does not say."""
        return int(self.metrics.get(GRID_SIZE, 0)) or self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def total_ms(self) -> float:
        """Milliseconds of all its launches in one forward pass; 0 where the source does not say."""
        return (self.duration_ms or 0.0) * self.launches

    @property
    def document_metrics(self) -> dict[str, float]:
        """The metrics that the documents carry, in their order, as far as they are known."""
        return {name: self.metrics[name] for name in DOCUMENT_METRICS if name in self.metrics}

    @property
    def label(self) -> str:
        """`modelled` or `measured`."""
        return "modelled" if self.modelled else "measured"


@dataclass(frozen=True)
class NativeProfile:
    """One operation that is left to PyTorch, with all kernels that it runs.

    Attributes:
        operation: ATen name (`aten.convolution.default`), or a library kernel's where no more is known.
        calls: in one forward pass.
        time_ms: of one call, milliseconds.
        position: index of its first call among the steps of the forward pass.
        read_bytes, written_bytes: its tensors once each; 0 where unknown.
        matrix_operations: multiplications and additions of a contraction.
        limit: what binds (of the model alone).
        from_parameters: it reads nothing but parameters, so that it need not be redone on every call.
    """

    operation: str
    calls: int
    time_ms: float
    position: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    matrix_operations: int = 0
    limit: str = ""
    from_parameters: bool = False

    @property
    def total_ms(self) -> float:
        """Milliseconds of all its calls in one forward pass."""
        return self.time_ms * self.calls


@dataclass(frozen=True)
class ForwardProfile:
    """A whole forward pass: its kernels, what is left to PyTorch, and the time between.

    Attributes:
        kernels: of the profiled code (and, where they were measured, PyTorch's own, marked `native`), in the
            order of their first launches.
        native: operations that are left to PyTorch.
        gap_ms: time between kernels in which the GPU waits for a launch.
        host_ms: time that the host needs to enqueue one call; None where it was not measured.
        total_ms: of the forward pass; None where the source does not say (a document's metrics).
        gpu: the GPU's name.
        modelled: True where the model says it.
        versions: of the programs involved (`ncu`, `torch`, `triton`, `driver`).
        notes: what a reader must know (a counter that was not permitted, a kernel that could not be profiled).
    """

    kernels: tuple[KernelProfile, ...]
    native: tuple[NativeProfile, ...] = ()
    gap_ms: float = 0.0
    host_ms: float | None = None
    total_ms: float | None = None
    gpu: str = ""
    modelled: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def kernel(self, name: str) -> KernelProfile | None:
        """The profile of the kernel of that name, if there is one."""
        return next((kernel for kernel in self.kernels if kernel.kernel == name), None)

    def as_document(self) -> dict[str, dict[str, float]]:
        """The documents' form: kernel -> metric -> number, of the profiled code's own kernels."""
        own = [kernel for kernel in self.kernels if not kernel.native] or list(self.kernels)
        return {kernel.kernel: dict(kernel.document_metrics) for kernel in own}
