"""The table of GPUs: figures, names, and GPUs that a user describes."""

from __future__ import annotations

import contextlib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.errors import ExitCode, UnknownGpuError
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.table import all_gpus, find_gpu, read_gpu_file
from tilewright.values.precision import PrecisionClass

WANTED = {
    "rtx-3090", "rtx-4090", "rtx-5090", "a100-sxm-40gb", "a100-sxm-80gb", "l4", "l40s", "a10",
    "h100-sxm", "h100-pcie", "h200", "b200",
}  # fmt: skip

DESCRIBED = """\
name = "Workstation X"
architecture = "Ada Lovelace"
capability = 8.9
sm_count = 60
bandwidth_gb_s = 640.5
l2_mib = 48
fp32_tflops = 40.0
tensor_tflops = { tf32 = 40, fp16 = 80, bf16 = 80 }
boost_clock_mhz = 2500
memory_gb = 20
"""


def test_the_4090_has_the_documents_figures() -> None:
    gpu = find_gpu("4090")
    assert (gpu.name, gpu.architecture, gpu.capability) == ("RTX 4090", "Ada Lovelace", 89)
    assert (gpu.sm_count, gpu.bandwidth_gb_s) == (128, 1008)
    assert gpu.tensor_tflops[PrecisionClass.TF32] == 82.6
    assert gpu.tensor_tflops[PrecisionClass.BF16] == gpu.tensor_tflops[PrecisionClass.FP16] == 165.2
    assert (gpu.max_registers_per_thread, gpu.max_threads_per_block, gpu.max_threads_per_sm) == (255, 1024, 1536)
    assert (gpu.warp_size, gpu.max_warps_per_sm) == (32, 48)
    assert (gpu.shared_bytes_per_sm, gpu.shared_bytes_per_block) == (100 * 1024, 99 * 1024)
    assert gpu.l2_bytes == 72 * 1024 * 1024


def test_all_wanted_gpus_are_there() -> None:
    assert {gpu.key for gpu in all_gpus()} >= WANTED


@pytest.mark.parametrize("gpu", all_gpus(), ids=lambda gpu: gpu.key)
def test_each_figure_has_a_source_and_the_figures_fit_together(gpu: Gpu) -> None:
    described = {item.name for item in fields(gpu)} - {
        "key", "name", "architecture", "capability", "sources", "aliases", "file",
    }  # fmt: skip
    assert set(gpu.sources) == described
    assert all(source.strip() for source in gpu.sources.values())
    assert gpu.max_threads_per_sm == gpu.max_warps_per_sm * gpu.warp_size
    assert gpu.shared_bytes_per_sm - gpu.shared_bytes_per_block == 1024
    # The vendor's float32 rate is lanes x clock x 2, within the rounding of the data sheets.
    lanes = 64 if gpu.capability == 80 else 128
    assert gpu.fp32_tflops == pytest.approx(2 * lanes * gpu.sm_count * gpu.boost_clock_mhz * 1e6 / 1e12, rel=0.02)
    assert gpu.tensor_tflops[PrecisionClass.FP16] == pytest.approx(2 * gpu.tensor_tflops[PrecisionClass.TF32], rel=0.02)


@pytest.mark.parametrize("gpu", all_gpus(), ids=lambda gpu: gpu.key)
def test_each_name_and_alias_finds_its_gpu(gpu: Gpu) -> None:
    for name in (gpu.key, gpu.name, *gpu.aliases, gpu.name.upper(), gpu.key.replace("-", " ")):
        assert find_gpu(name) == gpu


def test_no_name_belongs_to_two_gpus() -> None:
    names = [name.replace("-", "").replace(" ", "").lower() for gpu in all_gpus() for name in {gpu.key, *gpu.aliases}]
    owners = {}
    for gpu in all_gpus():
        for name in (gpu.key, gpu.name, *gpu.aliases):
            owners.setdefault(name.replace("-", "").replace(" ", "").lower(), set()).add(gpu.key)
    assert names
    assert all(len(keys) == 1 for keys in owners.values())


@pytest.mark.parametrize(("name", "offered"), [("4900", "rtx-4090"), ("H1000", "h100"), ("rtx 409", "rtx-4090")])
def test_an_unknown_name_is_answered_with_the_nearest(name: str, offered: str) -> None:
    with pytest.raises(UnknownGpuError) as caught:
        find_gpu(name)
    assert name in caught.value.what
    assert offered in (caught.value.hint or "")
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_a_name_that_is_near_to_none_is_answered_with_all() -> None:
    with pytest.raises(UnknownGpuError, match="rtx-4090"):
        find_gpu("???")


@given(st.text() | st.text().map(lambda text: text + ".toml"))
def test_any_name_finds_a_gpu_or_says_that_there_is_none(name: str) -> None:
    with contextlib.suppress(UnknownGpuError):
        assert find_gpu(name) in all_gpus()


def test_a_toml_file_describes_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(DESCRIBED)
    gpu = find_gpu(str(path))
    assert (gpu.key, gpu.name, gpu.capability, gpu.sm_count) == ("x", "Workstation X", 89, 60)
    assert gpu.max_warps_per_sm == 48
    assert gpu.file == str(path)
    assert gpu.sources["sm_count"] == str(path)
    assert "Programming Guide" in gpu.sources["max_warps_per_sm"]


def test_a_toml_file_may_start_from_another_gpu(tmp_path: Path) -> None:
    path = tmp_path / "slower.toml"
    path.write_text('like = "4090"\nname = "RTX 4090 at 300 W"\nfp32_tflops = 70\n')
    gpu = read_gpu_file(path)
    assert (gpu.fp32_tflops, gpu.sm_count, gpu.name) == (70, 128, "RTX 4090 at 300 W")


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("sm_count = 60\n", ""), None, "`sm_count` is missing"),
        (("sm_count = 60", 'sm_count = "60"'), 4, "`sm_count` must be an integer"),
        (("sm_count = 60", "sm_count = 60.5"), 4, "`sm_count` must be an integer"),
        (("sm_count = 60", "sm_count = true"), 4, "`sm_count` must be an integer"),
        (("bandwidth_gb_s = 640.5", "bandwidth_gb_s = -1"), 5, "must be positive"),
        (("bandwidth_gb_s = 640.5", "bandwidth_gb_s = nan"), 5, "must be positive"),
        (("bf16 = 80", "fp8 = 80"), None, "`bf16` is missing"),
        (("l2_mib = 48", "l2_size = 48"), 6, "unknown figure `l2_size`"),
        (("capability = 8.9", "capability = 8.95"), 3, "like 8.9 or 89"),
        (("capability = 8.9", "capability = 33"), None, "`max_registers_per_thread` is missing"),
        (("sm_count = 60", "sm_count = "), 4, "not TOML"),
        (('name = "Workstation X"', "name = 3"), 1, "one line of text"),
        (("tensor_tflops = {", "tensor_tflops = 3 #"), 8, "must be a table"),
    ],
)
def test_a_bad_gpu_file_is_answered_with_line_and_key(
    tmp_path: Path, change: tuple[str, str], line: int | None, said: str
) -> None:
    path = tmp_path / "bad.toml"
    text = DESCRIBED.replace(*change)
    assert text != DESCRIBED
    path.write_text(text)
    with pytest.raises(UnknownGpuError) as caught:
        find_gpu(str(path))
    assert said in caught.value.what
    assert caught.value.where is not None
    assert caught.value.where.file == str(path)
    assert caught.value.where.line == line


def test_a_gpu_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UnknownGpuError, match="cannot be read"):
        find_gpu(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UnknownGpuError, match="UTF-8"):
        find_gpu(str(tmp_path / "bytes.toml"))
