"""The target GPU as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.values.precision import PrecisionClass


@dataclass(frozen=True)
class Gpu:
    """One GPU model: the figures that planning, the gate and the model use.

    Attributes:
        key: short lower-case name, the table's key (`rtx-4090`).
        name: for people (`RTX 4090`).
        architecture: `Ada Lovelace`.
        capability: compute capability, 89 for 8.9.
        sm_count: streaming multiprocessors.
        bandwidth_gb_s: device memory bandwidth, GB/s (10**9 bytes).
        l2_bytes: L2 cache, bytes.
        fp32_tflops: float32 outside the tensor cores, 10**12 operations a second (an FMA is two).
        tensor_tflops: precision class -> dense tensor-core rate, fp32 accumulation, 10**12 operations a second.
        boost_clock_mhz: boost clock.
        max_registers_per_thread, registers_per_sm: 32-bit registers.
        max_threads_per_block, max_threads_per_sm, max_warps_per_sm, max_blocks_per_sm, warp_size: scheduler limits.
        shared_bytes_per_sm, shared_bytes_per_block: shared memory, bytes; the latter is the opt-in maximum.
        memory_gb: device memory, GB.
        sources: figure name -> where it comes from.
        aliases: other names, lower case (`4090`).
        file: the TOML file that describes it; None for a GPU of the table or one that was detected.
    """

    key: str
    name: str
    architecture: str
    capability: int
    sm_count: int
    bandwidth_gb_s: float
    l2_bytes: int
    fp32_tflops: float
    tensor_tflops: Mapping[PrecisionClass, float]
    boost_clock_mhz: float
    max_registers_per_thread: int
    registers_per_sm: int
    max_threads_per_block: int
    max_threads_per_sm: int
    max_warps_per_sm: int
    max_blocks_per_sm: int
    warp_size: int
    shared_bytes_per_sm: int
    shared_bytes_per_block: int
    memory_gb: float
    sources: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    file: str | None = None
