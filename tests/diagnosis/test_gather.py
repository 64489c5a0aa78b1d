"""Facts out of recordings and profiles: whose memory it is, and whose time."""

from __future__ import annotations

import pytest

from tilewright.diagnosis.facts import Facts
from tilewright.diagnosis.gather import Sources, gather, native_modules
from tilewright.gate.stages.record import Recorded, record_fully
from tilewright.task.load import load_task
from tilewright.task.task import Task
from tilewright.values import profile as m
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.profile import ForwardProfile, KernelProfile

REFERENCE = """
import torch, torch.nn as nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64, bias=False)
    def forward(self, x):
        return self.linear(x) * 2.0
def get_inputs(): return [torch.rand(256, 64)]
def get_init_inputs(): return []
"""
CODE = """
import torch
import torch.nn as nn
import triton
import triton.language as tl

@triton.jit
def double_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + o, tl.load(x_ptr + o, mask=o < n, other=0.0) * 2.0, mask=o < n)

class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64, bias=False)

    def forward(self, x):
        w = self.linear.weight.t().contiguous()
        h = torch.mm(x, w)
        y = torch.empty_like(h)
        double_kernel[(triton.cdiv(h.numel(), 256),)](h, y, h.numel(), BLOCK=256)
        return y
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    reference = tmp_path_factory.mktemp("reference") / "reference.py"
    reference.write_text(REFERENCE)
    return load_task(reference, gpu="4090")


@pytest.fixture(scope="module")
def recorded(task: Task) -> Recorded:
    return record_fully(task, Candidate(CODE, Origin.FILE, "doubled"), task.gpu)


def facts(task: Task, recorded: Recorded, measured: ForwardProfile | None = None) -> Facts:
    return gather(task, Sources(recorded=recorded, measured=measured, source=CODE))


def test_memory_is_told_apart_by_what_it_holds(task: Task, recorded: Recorded) -> None:
    found = facts(task, recorded)
    copy, product = found.native
    [kernel] = found.kernels
    between = 256 * 64 * 4
    assert (copy.name, copy.from_parameters) == ("clone", True)
    assert (product.name, product.from_parameters) == ("mm", False)
    assert product.traffic.written_between == between
    assert (kernel.traffic.read_between, kernel.traffic.maker) == (between, "mm")
    assert (kernel.traffic.needed, kernel.traffic.written) == (between, between)  # the output


def measured(*kernels: KernelProfile, whole: bool) -> ForwardProfile:
    return ForwardProfile(kernels, total_ms=0.5, host_ms=0.1 if whole else None, gpu="RTX 4090")


def test_library_kernels_of_a_whole_profile_time_the_native_steps(task: Task, recorded: Recorded) -> None:
    library = KernelProfile("ampere_sgemm", "RTX 4090", False, "ncu", duration_ms=0.4, native=True)
    own = KernelProfile("double_kernel", "RTX 4090", False, "ncu", duration_ms=0.1, metrics={m.DRAM_THROUGHPUT: 85.0})
    found = facts(task, recorded, measured(library, own, whole=True))
    times = [step.time_ms for step in found.native]
    assert sum(time.value for time in times if time is not None) == pytest.approx(0.4)
    assert found.total_ms is not None
    assert (found.total_ms.value, found.total_ms.label) == (0.5, "measured")
    assert found.kernels[0].time_ms is not None
    assert found.kernels[0].time_ms.label == "measured"
    part = facts(task, recorded, measured(library, own, whole=False))
    assert {step.time_ms.label for step in part.native if step.time_ms is not None} == {"modelled"}
    assert part.total_ms is not None
    assert part.total_ms.label == "modelled"


def test_native_modules_are_named_without_running_them() -> None:
    assert native_modules(CODE) == ("Linear",)
    assert native_modules("def broken(:") == ()
