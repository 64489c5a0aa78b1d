"""Occupancy: how many programs fit on one SM, and what stops the next one.

Source of the rules: the CUDA Occupancy Calculator (allocation granularities of compute capability 8.0 and
newer): registers are given to a warp in units of 256 and are split evenly over the four sub-partitions of
an SM; shared memory is given to a block in units of 128 bytes, 1 KiB of it taken by the system.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.gpu.gpu import Gpu

REGISTER_UNIT = 256  #: registers; the allocation unit of one warp
SUB_PARTITIONS = 4  #: of an SM; a warp's registers lie in one of them
SHARED_UNIT = 128  #: bytes; the allocation unit of one block
SHARED_RESERVED = 1024  #: bytes of each block that the system takes


@dataclass(frozen=True)
class Occupancy:
    """Resident programs of one kernel on one SM.

    Attributes:
        active_blocks: resident programs of an SM.
        active_warps: resident warps of an SM.
        fraction: of the warps that an SM can hold, 0 to 1.
        limit: what stops the next program: `registers`, `shared memory`, `warps`, or `blocks`.
        limits: programs that each resource alone would allow.
    """

    active_blocks: int
    active_warps: int
    fraction: float
    limit: str
    limits: tuple[tuple[str, int], ...] = ()


def occupancy(gpu: Gpu, *, registers: int, shared_bytes: int, warps: int) -> Occupancy:
    """Occupancy of a kernel.

    Args:
        gpu: the target.
        registers: 32-bit registers of a thread.
        shared_bytes: shared memory of a program as the kernel asks for it, bytes.
        warps: warps of a program.

    Raises:
        ValueError: a negative amount, or no warp.
    """
    if registers < 0 or shared_bytes < 0 or warps < 1:
        raise ValueError(f"not a kernel: {registers} registers, {shared_bytes} bytes of shared memory, {warps} warps")
    limits = (
        ("warps", _blocks_by_warps(gpu, warps)),
        ("registers", _blocks_by_registers(gpu, registers, warps)),
        ("shared memory", _blocks_by_shared(gpu, shared_bytes)),
        ("blocks", gpu.max_blocks_per_sm),
    )
    limit, blocks = min(limits, key=lambda item: item[1])
    active_warps = blocks * warps
    return Occupancy(blocks, active_warps, active_warps / gpu.max_warps_per_sm, limit, limits)


def _blocks_by_warps(gpu: Gpu, warps: int) -> int:
    if warps * gpu.warp_size > gpu.max_threads_per_block:
        return 0
    return gpu.max_warps_per_sm // warps


def _blocks_by_registers(gpu: Gpu, registers: int, warps: int) -> int:
    if registers == 0:
        return gpu.max_blocks_per_sm
    if registers > gpu.max_registers_per_thread:
        return 0
    registers_per_warp = _round_up(registers * gpu.warp_size, REGISTER_UNIT)
    warps_per_partition = gpu.registers_per_sm // SUB_PARTITIONS // registers_per_warp
    return warps_per_partition * SUB_PARTITIONS // warps


def _blocks_by_shared(gpu: Gpu, shared_bytes: int) -> int:
    if shared_bytes > gpu.shared_bytes_per_block:
        return 0
    return gpu.shared_bytes_per_sm // _round_up(shared_bytes + SHARED_RESERVED, SHARED_UNIT)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
