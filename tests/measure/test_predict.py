"""The modelled profile of a small module, whole: what can be told exactly must be exact."""

import json

import pytest

from tilewright.api import profile
from tilewright.errors import MissingReferenceError
from tilewright.measure.predict import PredictionError
from tilewright.report.profile import FORWARD, KERNELS, profile_report, profile_view
from tilewright.values import profile as names

MODULE = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x):
        return torch.relu(self.linear(x))


@triton.jit
def relu_kernel(x_ptr, out_ptr, numel, STEP: tl.constexpr, BLOCK: tl.constexpr):
    offsets = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * STEP
    mask = offsets < numel
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0)
    tl.store(out_ptr + offsets, tl.maximum(x, 0.0), mask=mask)


class ModelNew(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.packed = None

    def forward(self, x):
        if self.packed is None:
            self.packed = self.linear.weight.t().contiguous()
        x = x @ self.packed + self.linear.bias
        out = torch.empty_like(x)
        relu_kernel[(triton.cdiv(x.numel(), 1024 * $STEP),)](x, out, x.numel(), STEP=$STEP, BLOCK=1024, num_warps=4)
        return out


def get_init_inputs():
    return [256]


def get_inputs():
    return [torch.rand(131072, 256)]
"""


def predicted(tmp_path, step=1, gpu="4090"):
    path = tmp_path / "module.py"
    path.write_text(MODULE.replace("$STEP", str(step)), encoding="utf-8")
    return profile(path, gpu=gpu, model=True)


@pytest.fixture(scope="module")
def contiguous(tmp_path_factory):
    return predicted(tmp_path_factory.mktemp("module"))


def test_a_stream_runs_at_the_memorys_pace(contiguous):
    [kernel] = contiguous.kernels
    moved = 131072 * 256 * 4
    assert kernel.metrics[names.GRID_SIZE] == 32768
    assert kernel.dram_read_bytes == moved
    assert kernel.limit == "dram"
    assert kernel.load_bytes_per_sector == kernel.store_bytes_per_sector == 32
    assert kernel.metrics[names.LOAD_SECTORS_PER_REQUEST] == 16
    assert kernel.metrics[names.L2_HIT_RATE] == pytest.approx(50, abs=1)
    assert 80 < kernel.metrics[names.DRAM_THROUGHPUT] < 95
    assert kernel.metrics[names.THEORETICAL_OCCUPANCY] == 100
    assert 70 < kernel.metrics[names.WARPS_ACTIVE] < 95
    assert kernel.spill_bytes == 0
    assert sum(kernel.instruction_mix.values()) == pytest.approx(1)
    assert kernel.modelled


def test_the_whole_forward_pass_without_what_only_the_first_call_does(contiguous):
    assert [call.operation for call in contiguous.native] == ["aten.mm.default", "aten.add.Tensor"]
    assert contiguous.total_ms == pytest.approx(
        sum(kernel.total_ms for kernel in contiguous.kernels) + sum(call.total_ms for call in contiguous.native)
    )


def test_the_documents_form_with_the_rest_beside_it(contiguous):
    report = json.loads(json.dumps(profile_report(contiguous)))
    assert list(report["relu_kernel"])[:5] == list(names.DOCUMENT_METRICS)
    assert all(isinstance(value, int | float) for value in report["relu_kernel"].values())
    assert report[KERNELS][0]["kernel"] == "relu_kernel"
    assert report[KERNELS][0]["limits"]["dram"] > 0
    assert report[FORWARD]["modelled"] is True
    assert profile_view(contiguous) is not None


def test_half_used_sectors_are_seen(tmp_path, contiguous):
    [kernel] = predicted(tmp_path, step=8).kernels
    assert kernel.load_bytes_per_sector == 4
    assert kernel.metrics[names.LOAD_SECTORS_PER_REQUEST] == 32
    assert kernel.metrics[names.GRID_SIZE] == 4096
    # An eighth of the elements for as many bytes.
    assert kernel.dram_read_bytes == contiguous.kernels[0].dram_read_bytes


def test_a_module_without_kernels_is_eager_pytorch(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(MODULE[: MODULE.index("@triton.jit")] + MODULE[MODULE.index("def get_init") :], encoding="utf-8")
    found = profile(path, gpu="h200", model=True)
    assert not found.kernels
    assert found.total_ms > 0


def test_code_that_does_not_compile_is_refused_in_words(tmp_path):
    path = tmp_path / "module.py"
    broken = MODULE.replace("$STEP", "1").replace("tl.maximum(x, 0.0)", "tl.maximum(x, tl.arange(0, STEP + 2))")
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(PredictionError, match="relu_kernel"):
        profile(path, gpu="4090", model=True)


@pytest.mark.documents
def test_a_document_alone_says_what_is_missing(documents_dir):
    with pytest.raises(MissingReferenceError, match="how to call"):
        profile(sorted(documents_dir.glob("*.txt"))[0], model=True)
