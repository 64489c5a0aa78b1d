"""However a workload is written, the same kernels are planned for it."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch

from tests.proposers.reference_forms import WORKLOADS, Of
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.gemm.plan import GemmSchedule
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.operands import Operands
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions

OPTIONS = PlanOptions(convolution_anchors=True, gemms=(GemmSchedule(Operands.HALF, 128, 128, 64),))


@cache
def planned(workload: str, form: str) -> tuple[str, tuple[str, ...]]:
    """Text of the kernels, and what stays native."""
    forms, shape = WORKLOADS[workload]
    with torch.device("meta"):
        module, x = forms[form]().eval(), torch.empty(shape)
    plan = plan_module(simplify(capture(module, [x])).graph, OPTIONS)
    return write_forward(plan).kernels, plan.native


def plain_names(kernels: str) -> str:
    """The text without what a rule's node has in its name: `amin_default_ptr` -> `amin_ptr`."""
    return " ".join(re.sub(r"_(default|dim|tensor)(?=_|\b)", "", kernels).split())


#: Forms that write a number out which others read of the module: it is no argument of the kernels.
NUMBER_WRITTEN_OUT = ("functional batch norm",)


@pytest.mark.parametrize(
    ("workload", "form"), [(workload, form) for workload, (forms, _) in WORKLOADS.items() for form in forms]
)
def test_form(workload: str, form: str) -> None:
    first = next(iter(WORKLOADS[workload][0]))
    kernels, native = planned(workload, form)
    assert kernels
    assert native == planned(workload, first)[1] == ()
    expected = planned(workload, first)[0]
    if form in NUMBER_WRITTEN_OUT:
        assert re.findall(r"def (\w+)", kernels) == re.findall(r"def (\w+)", expected)
    else:
        assert plain_names(kernels) == plain_names(expected)


def test_another_choice_for_nan_is_no_minimum() -> None:
    """where(y < 0, y, 0) is 0 for NaN: one kernel too, but not the same."""
    with torch.device("meta"):
        module, x = Of(lambda m, x: torch.where(x < 0, x, 0.0) * 2), torch.empty(8, 64)
    plan = plan_module(simplify(capture(module, [x])).graph, OPTIONS)
    assert len(plan.fused) == 1
    assert not plan.native
    assert "minimum" not in write_forward(plan).kernels
