"""Occupancy, speed of light and detection."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.gpu.detect import DeviceProperties, detect_gpu, gpu_from_properties
from tilewright.gpu.occupancy import occupancy
from tilewright.gpu.speed_of_light import speed_of_light
from tilewright.gpu.table import all_gpus, find_gpu
from tilewright.values.measurement import Work
from tilewright.values.precision import PrecisionClass


@pytest.mark.parametrize(
    ("gpu", "registers", "shared", "warps", "blocks", "limit"),
    [
        # By the occupancy calculator's rules, worked out by hand.
        ("4090", 32, 0, 4, 12, "warps"),
        ("4090", 255, 0, 4, 2, "registers"),  # 8192 registers a warp, two warps in each quarter of an SM
        ("4090", 93, 0, 4, 5, "registers"),  # 96 * 32 = 3072 a warp: 5 a quarter, 20 on an SM
        ("4090", 128, 0, 8, 2, "registers"),
        ("4090", 129, 0, 8, 1, "registers"),  # 4352 a warp: 3 a quarter, 12 on an SM
        ("4090", 32, 0, 1, 24, "blocks"),
        ("4090", 32, 99 * 1024, 4, 1, "shared memory"),
        ("4090", 32, 99 * 1024 + 1, 4, 0, "shared memory"),
        ("4090", 32, 32768, 4, 3, "shared memory"),  # 33 KiB with the system's share, 3 of them in 100
        ("4090", 32, 49 * 1024, 4, 2, "shared memory"),
        ("4090", 32, 49 * 1024 + 1, 4, 1, "shared memory"),
        ("a100", 32, 0, 4, 16, "warps"),
        ("a100", 64, 0, 8, 4, "registers"),
        ("a100", 32, 163 * 1024, 4, 1, "shared memory"),
        ("h200", 168, 0, 12, 1, "registers"),
        ("h200", 32, 227 * 1024, 4, 1, "shared memory"),
        ("3090", 32, 0, 1, 16, "blocks"),
        ("5090", 32, 0, 1, 24, "blocks"),
        ("b200", 32, 0, 1, 32, "blocks"),
    ],
)
def test_occupancy_is_what_the_calculator_says(
    gpu: str, registers: int, shared: int, warps: int, blocks: int, limit: str
) -> None:
    target = find_gpu(gpu)
    found = occupancy(target, registers=registers, shared_bytes=shared, warps=warps)
    assert (found.active_blocks, found.limit) == (blocks, limit)
    assert found.active_warps == blocks * warps
    assert found.fraction == found.active_warps / target.max_warps_per_sm


@given(
    st.sampled_from(all_gpus()), st.integers(0, 255), st.integers(0, 240 * 1024), st.integers(1, 32), st.integers(0, 64)
)
def test_more_resources_never_mean_more_programs(gpu, registers: int, shared: int, warps: int, more: int) -> None:
    base = occupancy(gpu, registers=registers, shared_bytes=shared, warps=warps)
    assert 0 <= base.fraction <= 1
    assert base.active_blocks <= gpu.max_blocks_per_sm
    heavier = occupancy(gpu, registers=registers, shared_bytes=shared + 512 * more, warps=warps)
    assert heavier.active_blocks <= base.active_blocks
    if registers:
        heavier = occupancy(gpu, registers=registers + more, shared_bytes=shared, warps=warps)
        assert heavier.active_blocks <= base.active_blocks


def test_occupancy_of_what_is_no_kernel() -> None:
    with pytest.raises(ValueError, match="not a kernel"):
        occupancy(find_gpu("4090"), registers=-1, shared_bytes=0, warps=4)


WORK = Work(read_bytes=10**9, written_bytes=8 * 10**6, matrix_operations=826 * 10**9, scalar_operations=826 * 10**6)


@pytest.mark.parametrize(
    ("precision", "time_ms", "matrix_ms", "limit", "operand"),
    [
        # 1.008e9 bytes at 1008 GB/s are 1 ms; 8.26e11 operations at 82.6e12 are 10 ms, at twice the rate 5 ms.
        # The tf32 class may use float16 operands, which are as exact, so nothing is slower than they are.
        (PrecisionClass.TF32, 5.0, 5.0, "matrix", "FP16"),
        (PrecisionClass.FP16, 5.0, 5.0, "matrix", "FP16"),
        (PrecisionClass.BF16, 5.0, 5.0, "matrix", "BF16"),
        (PrecisionClass.IEEE, 10.01, 10.0, "matrix", "FP32"),
    ],
)
def test_speed_of_light_uses_the_rate_of_the_class(
    precision: PrecisionClass, time_ms: float, matrix_ms: float, limit: str, operand: str
) -> None:
    found = speed_of_light(WORK, find_gpu("4090"), precision)
    assert found.memory_ms == pytest.approx(1.0)
    assert found.matrix_ms == pytest.approx(matrix_ms)
    assert found.scalar_ms == pytest.approx(0.01)
    assert found.time_ms == pytest.approx(time_ms)
    assert (found.limit, found.operand) == (limit, operand)


def test_speed_of_light_without_products_is_memory_or_scalar() -> None:
    gpu = find_gpu("4090")
    pointwise = replace(WORK, matrix_operations=0)
    assert speed_of_light(pointwise, gpu, PrecisionClass.TF32).limit == "memory"
    heavy = replace(pointwise, scalar_operations=10**13)
    assert speed_of_light(heavy, gpu, PrecisionClass.TF32).limit == "scalar"


def test_speed_of_light_with_other_operands() -> None:
    found = speed_of_light(WORK, find_gpu("4090"), PrecisionClass.TF32, operand=PrecisionClass.TF32)
    assert (found.operand, found.matrix_ms) == ("TF32", pytest.approx(10.0))


PROPERTIES = DeviceProperties(
    name="NVIDIA GeForce RTX 4090",
    capability=89,
    sm_count=128,
    l2_bytes=72 * 1024 * 1024,
    memory_bytes=24 * 10**9,
    sm_clock_khz=2520000,
    memory_clock_khz=10501000,
    memory_bus_bits=384,
    registers_per_sm=65536,
    threads_per_sm=1536,
    shared_bytes_per_sm=102400,
    shared_bytes_per_block=101376,
)


@pytest.mark.parametrize(
    ("name", "capability", "sms", "key"),
    [
        ("NVIDIA GeForce RTX 4090", 89, 128, "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", 80, 108, "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", 80, 108, "a100-sxm-40gb"),
        ("NVIDIA A100 80GB PCIe", 80, 108, "a100-pcie-80gb"),
        ("NVIDIA H100 80GB HBM3", 90, 132, "h100-sxm"),
        ("NVIDIA H100 PCIe", 90, 114, "h100-pcie"),
        ("NVIDIA H200", 90, 132, "h200"),
        ("NVIDIA L40S", 89, 142, "l40s"),
    ],
)
def test_a_drivers_name_finds_the_table(name: str, capability: int, sms: int, key: str) -> None:
    assert gpu_from_properties(replace(PROPERTIES, name=name, capability=capability, sm_count=sms)).key == key


def test_an_unknown_device_is_described_from_its_properties() -> None:
    """Described as if unknown, the 4090 comes out with the figures that the table has."""
    known = find_gpu("4090")
    found = gpu_from_properties(replace(PROPERTIES, name="NVIDIA GeForce RTX 4099"))
    assert found.key == "nvidia-geforce-rtx-4099"
    assert found.fp32_tflops == pytest.approx(known.fp32_tflops, rel=0.01)
    assert found.bandwidth_gb_s == pytest.approx(known.bandwidth_gb_s, rel=0.01)
    assert found.l2_bytes == known.l2_bytes
    for kind, rate in known.tensor_tflops.items():
        assert found.tensor_tflops[kind] == pytest.approx(rate, rel=0.01)


def test_a_slice_of_a_known_device_is_not_taken_for_the_whole() -> None:
    assert gpu_from_properties(replace(PROPERTIES, sm_count=64)).sm_count == 64


def test_a_device_of_an_unknown_capability_is_still_described() -> None:
    assert gpu_from_properties(replace(PROPERTIES, name="NVIDIA Next", capability=130)).capability == 130
    assert gpu_from_properties(replace(PROPERTIES, name="NVIDIA Old", capability=75)).capability == 75


@pytest.mark.gpu
def test_the_installed_gpu_is_detected() -> None:
    import torch

    found = detect_gpu()
    assert found is not None
    properties = torch.cuda.get_device_properties(0)
    assert found.sm_count == properties.multi_processor_count
    assert found.shared_bytes_per_block == properties.shared_memory_per_block_optin


def test_without_a_device_nothing_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert detect_gpu() is None
