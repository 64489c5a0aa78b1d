"""What a launch asks of each unit of a multiprocessor: issue slots, pipes, shared memory, tensor cores."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tilewright.gpu.gpu import Gpu
from tilewright.gpu.table import capability_limits
from tilewright.measure import constants as c
from tilewright.measure.banks import shared_cycles
from tilewright.measure.flow import Path
from tilewright.measure.sass import Instruction, Pipe, Space

_PARTITIONS = 4
_LANES = 32


@dataclass(frozen=True)
class Demand:
    """What one warp asks for.

    Attributes:
        instructions: it executes.
        pipe_cycles: pipe -> cycles for which it occupies its partition's one.
        shared_cycles: for which its accesses, and copies and products from shared memory, occupy its banks.
        local_sectors: of spilled registers, written and read.
        local_stores: of them, written.
        mix: class of instruction -> executed.
        products: multiply-adds on the tensor cores.
    """

    instructions: float
    pipe_cycles: Mapping[Pipe, float]
    shared_cycles: float
    local_sectors: float
    local_stores: float
    mix: Mapping[str, float]
    products: float


def warp_demand(path: Path, gpu: Gpu, banks: Mapping[int, float] | None = None) -> Demand:
    """What one warp of a kernel asks for along its path.

    Args:
        path: what it executes.
        gpu: the target.
        banks: place in the code -> cycles of shared memory, of `shared_cycles`; of the program's first warp if None.
    """
    banks = shared_cycles(path) if banks is None else banks
    cycles: dict[Pipe, float] = {}
    mix: dict[str, float] = {}
    instructions = shared = local = stores = products = 0.0
    busy, rates = tensor_cycles(gpu), pipe_rates(gpu)
    for instruction, times in path.executed():
        instructions += times
        pipe = instruction.pipe
        each = busy(instruction) if pipe is Pipe.TENSOR else rates.get(pipe, 1.0)
        cycles[pipe] = cycles.get(pipe, 0.0) + times * each
        kind = _class_of(instruction)
        mix[kind] = mix.get(kind, 0.0) + times
        shared += times * banks.get(instruction.address, 0.0)
        if instruction.space is Space.LOCAL:
            sectors = times * instruction.bytes_per_lane
            local += sectors
            stores += sectors if instruction.is_store else 0.0
        if pipe is Pipe.TENSOR:
            products += times * _products(instruction)
    return Demand(instructions, cycles, shared, local, stores, mix, products)


def pipe_rates(gpu: Gpu) -> dict[Pipe, float]:
    """Cycles for which a warp's instruction occupies its partition's pipe.

    Source: CUDA C++ Programming Guide, "Arithmetic Instructions" (results a clock and multiprocessor).
    """
    limits = capability_limits(gpu.capability) or {}
    lanes = float(limits.get("fp32_lanes_per_sm", 128))
    each = _LANES * _PARTITIONS
    return {
        Pipe.FMA: each / lanes,
        Pipe.HEAVY: each / 64.0,
        Pipe.ALU: each / 64.0,
        Pipe.SPECIAL: each / 16.0,
        Pipe.MEMORY: each / 32.0 / _PARTITIONS,
        Pipe.UNIFORM: 1.0,
        Pipe.CONTROL: 1.0,
    }


def tensor_cycles(gpu: Gpu) -> Callable[[Instruction], float]:
    """Cycles for which a product occupies the tensor core of its warp's partition, by instruction."""
    clock = gpu.boost_clock_mhz * 1e6
    rates = {
        name: rate * 1e12 / (2 * gpu.sm_count * _PARTITIONS * clock)
        for name, rate in ((kind.value, value) for kind, value in gpu.tensor_tflops.items())
    }

    def cycles(instruction: Instruction) -> float:
        kind = "tf32" if "TF32" in instruction.opcode else "bf16" if "BF16" in instruction.opcode else "fp16"
        rate = rates.get(kind) or rates.get("fp16") or 512.0
        if gpu.capability == 90 and not instruction.base.endswith("GMMA"):
            rate *= c.WARP_PRODUCT_PART_ON_HOPPER
        return _products(instruction) / rate

    return cycles


def _products(instruction: Instruction) -> float:
    """Multiply-adds of one warp's part of a product."""
    group = re.search(r"\.(\d+)x(\d+)x(\d+)", instruction.opcode)
    if group:
        m, n, k = (int(size) for size in group.groups())
        return m * n * k / 4.0
    packed = re.search(r"\.(16)(8)(\d+)\b", instruction.opcode)
    if packed:
        return float(int(packed.group(1)) * int(packed.group(2)) * int(packed.group(3)))
    return 2048.0


def _class_of(instruction: Instruction) -> str:
    """The class that an instruction mix names."""
    if instruction.space is Space.LOCAL:
        return "local"
    if instruction.space is Space.SHARED or instruction.base == "SHFL":
        return "shared"
    if instruction.space is Space.GLOBAL:
        return "store" if instruction.is_store else "load"
    if instruction.pipe in (Pipe.HEAVY, Pipe.ALU, Pipe.UNIFORM):
        return "fp32" if instruction.base in ("FMNMX", "FSETP", "FSEL") else "integer"
    return {Pipe.FMA: "fp32", Pipe.SPECIAL: "special", Pipe.TENSOR: "tensor"}.get(instruction.pipe, "control")
