"""The pretended device: code written for CUDA takes its kernel path on a machine without."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tilewright.gate.inside.pretend import poison, pretend, really
from tilewright.gate.inside.runtime import gpu_figures
from tilewright.gpu.table import find_gpu


@pytest.fixture
def pretending() -> Iterator[SimpleNamespace]:
    with pretend(gpu_figures(find_gpu("4090")), "cpu"):
        yield SimpleNamespace()


def test_tensors_say_that_they_are_on_cuda(pretending: SimpleNamespace) -> None:
    x = torch.ones(3)
    assert x.is_cuda
    assert not x.is_cpu
    assert x.device == torch.device("cuda", 0)
    assert x.get_device() == 0
    assert nn.Linear(2, 2).weight.is_cuda
    with really():
        assert not x.is_cuda
        assert x.device.type == "cpu"


def test_what_is_made_on_cuda_is_made_here(pretending: SimpleNamespace) -> None:
    x = torch.ones(2, 3)
    made = [
        torch.zeros(4, device="cuda"),
        torch.full((2,), 1.0, device=x.device),
        x.new_zeros(3, device=torch.device("cuda:0")),
        x.to("cuda"),
        x.to(0),
        x.to(device="cuda", dtype=torch.float16),
        x.cuda(),
        nn.Linear(3, 3).cuda().weight,
        nn.Linear(3, 3, device="cuda").weight,
    ]
    with really():
        assert {tensor.device.type for tensor in made} == {"cpu"}
    assert made[5].dtype is torch.float16


def test_unwritten_memory_is_poisoned(pretending: SimpleNamespace) -> None:
    x = torch.ones(2, 3)
    for fresh in (torch.empty(2), torch.empty_like(x), x.new_empty(4), torch.empty((2, 2), device=x.device)):
        assert bool(torch.isnan(fresh).all())
    assert int(torch.empty(1, dtype=torch.int32)) == 2**31 - 1
    assert torch.zeros(2).tolist() == [0.0, 0.0]


def test_queries_are_answered_for_the_target(pretending: SimpleNamespace) -> None:
    import triton

    assert torch.cuda.is_available()
    assert torch.cuda.get_device_properties(torch.ones(1).device).multi_processor_count == 128
    assert torch.cuda.get_device_capability() == (8, 9)
    assert triton.runtime.driver.active.get_current_target().arch == 89
    assert triton.runtime.driver.active.utils.get_device_properties(0)["multiprocessor_count"] == 128
    with torch.cuda.device(0), torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.synchronize()


def test_torch_itself_works_as_before(pretending: SimpleNamespace) -> None:
    x = torch.randn(1, 4, 6, 6)
    module = nn.Sequential(nn.ConvTranspose2d(4, 8, 3, 2, 1, 1), nn.BatchNorm2d(8), nn.GELU()).eval()
    with torch.no_grad():
        out = module(x.to(memory_format=torch.channels_last))
    assert tuple(out.shape) == (1, 8, 12, 12)
    assert bool(torch.isfinite(out).all())


def test_on_meta_only_shapes_are_made() -> None:
    with pretend(gpu_figures(find_gpu("h100")), "meta"):
        module = nn.ConvTranspose2d(64, 128, 4, 2, device="cuda")
        out = module(torch.empty(8, 64, 32, 32, device="cuda"))
        assert out.is_cuda
        assert tuple(out.shape) == (8, 128, 66, 66)
        with really():
            assert out.is_meta
    assert torch.ones(1).device.type == "cpu"


def test_nothing_is_left_when_it_ends() -> None:
    with pretend(gpu_figures(find_gpu("4090")), "cpu"):
        pass
    assert not torch.ones(1).is_cuda
    assert torch.isfinite(torch.empty(4).fill_(1)).all()
    assert not torch.cuda.is_initialized()


def test_poison_of_each_kind() -> None:
    assert bool(torch.isnan(poison(torch.zeros(2, dtype=torch.float16))).all())
    assert poison(torch.zeros(1, dtype=torch.int64)).item() == 2**63 - 1
    assert poison(torch.zeros(1, dtype=torch.bool)).item() is True
