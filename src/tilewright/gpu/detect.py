"""The installed GPU: looked up in the table by the driver's name, or described from what the driver says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilewright.errors import UnknownGpuError
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.table import capability_limits, find_gpu
from tilewright.values.precision import PrecisionClass

_ARCHITECTURES = {80: "Ampere", 86: "Ampere", 87: "Ampere", 89: "Ada Lovelace", 90: "Hopper"}
_DRIVER = "the driver's device properties"
_DERIVED = "units an SM x clock, from the driver's device properties and the compute capability"


@dataclass(frozen=True)
class DeviceProperties:
    """What the driver says of one device.

    Attributes:
        name: `NVIDIA GeForce RTX 4090`.
        capability: 89 for 8.9.
        sm_count: streaming multiprocessors.
        l2_bytes: L2 cache, bytes.
        memory_bytes: device memory, bytes.
        sm_clock_khz: highest SM clock, kHz.
        memory_clock_khz: highest memory clock, kHz.
        memory_bus_bits: width of the memory's bus, bits.
        registers_per_sm: 32-bit registers.
        threads_per_sm: resident threads.
        shared_bytes_per_sm: shared memory, bytes.
        shared_bytes_per_block: the opt-in maximum, bytes.
    """

    name: str
    capability: int
    sm_count: int
    l2_bytes: int
    memory_bytes: int
    sm_clock_khz: int
    memory_clock_khz: int
    memory_bus_bits: int
    registers_per_sm: int
    threads_per_sm: int
    shared_bytes_per_sm: int
    shared_bytes_per_block: int


def detect_gpu() -> Gpu | None:
    """The first CUDA device, from the table where it is there; None where there is no device."""
    properties = read_properties()
    return None if properties is None else gpu_from_properties(properties)


def gpu_from_properties(properties: DeviceProperties) -> Gpu:
    """The table's entry of that name, or a `Gpu` described from the properties.

    A table entry of another capability or SM count (a laptop part, a slice of a device) is not used.
    """
    try:
        found = find_gpu(properties.name)
    except UnknownGpuError:
        return _described(properties)
    if (found.capability, found.sm_count) == (properties.capability, properties.sm_count):
        return found
    return _described(properties)


def read_properties() -> DeviceProperties | None:
    """What the driver says of the current device; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    device = torch.cuda.current_device()
    found: Any = torch.cuda.get_device_properties(device)  # its stub lacks some of its attributes
    clocks = _clocks(device)
    return DeviceProperties(
        name=found.name,
        capability=found.major * 10 + found.minor,
        sm_count=found.multi_processor_count,
        l2_bytes=int(found.L2_cache_size),
        memory_bytes=int(found.total_memory),
        sm_clock_khz=int(clocks["sm_clock_rate"]),
        memory_clock_khz=int(clocks["mem_clock_rate"]),
        memory_bus_bits=int(clocks["mem_bus_width"]),
        registers_per_sm=int(found.regs_per_multiprocessor),
        threads_per_sm=int(found.max_threads_per_multi_processor),
        shared_bytes_per_sm=int(found.shared_memory_per_multiprocessor),
        shared_bytes_per_block=int(found.shared_memory_per_block_optin),
    )


def _clocks(device: int) -> Mapping[str, Any]:
    """Clocks (kHz) and bus width (bits), as Triton's driver reads them."""
    import triton

    found: Mapping[str, Any] = triton.runtime.driver.active.utils.get_device_properties(device)
    return found


def _described(properties: DeviceProperties) -> Gpu:
    """A GPU that the table lacks: measured figures from the driver, rates from units and clock."""
    limits = capability_limits(properties.capability) or capability_limits(_nearest(properties.capability)) or {}
    clock_hz = properties.sm_clock_khz * 1e3
    # GeForce parts accumulate in float32 at half of the tensor cores' rate (Ada and GA102 whitepapers).
    halved = 0.5 if "GeForce" in properties.name else 1.0
    fp16 = 2 * limits["tensor_fp16_fma_per_clock_per_sm"] * halved * properties.sm_count * clock_hz / 1e12
    return Gpu(
        key="-".join(properties.name.lower().split()),
        name=properties.name,
        architecture=_ARCHITECTURES.get(properties.capability, "Blackwell"),
        capability=properties.capability,
        sm_count=properties.sm_count,
        # Two transfers a clock.
        bandwidth_gb_s=2 * properties.memory_clock_khz * 1e3 * properties.memory_bus_bits / 8 / 1e9,
        l2_bytes=properties.l2_bytes,
        fp32_tflops=2 * limits["fp32_lanes_per_sm"] * properties.sm_count * clock_hz / 1e12,
        tensor_tflops={
            PrecisionClass.TF32: fp16 / 2,
            PrecisionClass.FP16: fp16,
            PrecisionClass.BF16: fp16,
        },
        boost_clock_mhz=properties.sm_clock_khz / 1e3,
        max_registers_per_thread=limits["max_registers_per_thread"],
        registers_per_sm=properties.registers_per_sm,
        max_threads_per_block=limits["max_threads_per_block"],
        max_threads_per_sm=properties.threads_per_sm,
        max_warps_per_sm=properties.threads_per_sm // limits["warp_size"],
        max_blocks_per_sm=limits["max_blocks_per_sm"],
        warp_size=limits["warp_size"],
        shared_bytes_per_sm=properties.shared_bytes_per_sm,
        shared_bytes_per_block=properties.shared_bytes_per_block,
        memory_gb=properties.memory_bytes / 1e9,
        sources={
            "bandwidth_gb_s": "memory clock x bus width, from the driver's device properties",
            "fp32_tflops": _DERIVED,
            "tensor_tflops": _DERIVED,
            "sm_count": _DRIVER,
            "l2_bytes": _DRIVER,
            "memory_gb": _DRIVER,
        },
    )


def _nearest(capability: int) -> int:
    """The newest capability of the table that is not newer; the oldest where there is none."""
    known = [80, 86, 87, 89, 90, 100, 120]
    older = [item for item in known if item <= capability]
    return older[-1] if older else known[0]
