"""The gate from end to end, on a small module: what it accepts, and what it says of what is wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from tilewright.errors import MissingReferenceError
from tilewright.gate.stages.record import record
from tilewright.gate.verify import verify
from tilewright.gpu.table import find_gpu
from tilewright.task.load import load_task, task_from_module
from tilewright.task.stage import Stage
from tilewright.task.stage_rules import rules_for
from tilewright.task.task import InputSpec, ModuleSource, Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.precision import PrecisionClass
from tilewright.values.verdict import Severity, Verdict

REFERENCE = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        return torch.relu(x + self.shift) * 2.0
"""

RIGHT = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.autotune(
    configs=[
        triton.Config({"BLOCK": 32}, num_warps=4, num_stages=2),
        triton.Config({"BLOCK": 128}, num_warps=4, num_stages=2),
    ],
    key=["n"],
)
@triton.jit
def shift_relu_kernel(x_ptr, shift_ptr, out_ptr, n, channels, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0)
    shift = tl.load(shift_ptr + offsets % channels, mask=mask, other=0.0)
    y = x + shift
    y = tl.where(y > 0, y, tl.where(y != y, y, 0.0))
    tl.store(out_ptr + offsets, y * 2.0, mask=mask)


def shift_relu(x, shift):
    assert x.is_cuda, "this needs a CUDA tensor"
    x = x.contiguous()
    out = torch.empty_like(x)
    n = x.numel()
    shift_relu_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, shift, out, n, x.shape[-1])
    return out


class ModelNew(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(1, channels))

    def forward(self, x):
        return shift_relu(x, self.shift)
"""


@cache
def task() -> Task:
    return Task(
        name="shift_relu",
        reference=ModuleSource(REFERENCE, "Model", init_args=(24,), inputs=(InputSpec("rand", (40, 24)),)),
        gpu=find_gpu("4090"),
        stages=(Stage.MEMORY_ACCESS,),
        rules=(rules_for(Stage.MEMORY_ACCESS, None),),
        precision=PrecisionClass.IEEE,
    )


def judge(source: str, origin: Origin = Origin.SYNTHESIZE, of: Task | None = None) -> Verdict:
    return verify(of or task(), Candidate(source, origin, "a test"), effort="none")


def said(verdict: Verdict, check: str) -> str:
    return " | ".join(finding.message for finding in verdict.findings if finding.check == check)


def test_what_is_right_is_accepted_with_its_evidence() -> None:
    verdict = judge(RIGHT)
    assert verdict.accepted, verdict.reasons
    assert verdict.oracle == "float64 reference"
    assert verdict.errors
    assert all(row.passed and row.candidate_error <= row.allowed_error for row in verdict.errors)
    if verdict.how == "interpreter":
        assert verdict.launches["shift_relu_kernel"] >= 2 * len(verdict.errors)
    assert [resources.schedule.split(",")[0] for resources in verdict.resources] == ["BLOCK=32", "BLOCK=128"]
    assert all(resources.registers > 0 and resources.capability == 89 for resources in verdict.resources)


def test_a_wrong_configuration_of_a_list_is_found() -> None:
    verdict = judge(RIGHT.replace("mask = offsets < n", "mask = (offsets < n) & (tl.arange(0, BLOCK) < 96)"))
    assert not verdict.accepted
    # What the second configuration leaves unwritten holds NaN, not what happened to lie in memory.
    assert "not finite" in said(verdict, "correctness.not_finite")
    seen = [finding for finding in verdict.reasons if finding.check.startswith(("correctness", "coverage"))]
    assert {finding.evidence["configuration"] for finding in seen} == {1}
    assert said(verdict, "coverage.unwritten")


def test_an_error_of_one_part_in_ten_thousand_is_found_in_numbers() -> None:
    verdict = judge(RIGHT.replace("y * 2.0", "y * 2.0002"))
    assert not verdict.accepted
    assert "relative error 0.0001" in said(verdict, "correctness.value")


def test_a_shape_that_is_built_in_is_a_limit_of_others_and_an_error_of_ours() -> None:
    source = RIGHT.replace("offsets % channels", "offsets % 24").replace("randn(1, channels)", "randn(channels)")
    others = judge(source, Origin.FILE)
    assert others.accepted
    limits = [finding for finding in others.findings if finding.severity is Severity.LIMIT]
    assert any("channels" in finding.message for finding in limits)
    ours = verify(task(), Candidate(source, Origin.SYNTHESIZE, "a test"), effort="none")
    assert not ours.accepted


def test_without_a_kernel_nothing_is_proved() -> None:
    source = RIGHT.replace("return shift_relu(x, self.shift)", "return torch.relu(x + self.shift[0]) * 2.0")
    verdict = judge(source)
    assert not verdict.accepted
    assert "nothing is proved" in said(verdict, "correctness.no_kernel")


ALIGNED = "        return shift_relu(x, self.shift)\n"
LEFT_TO_PYTORCH = "        if 1 < x.shape[0] < 32:\n            return torch.relu(x + self.shift) * 2.0\n"


def test_kernels_that_leave_the_experiments_sizes_to_pytorch_are_judged_where_they_are_launched() -> None:
    verdict = judge(RIGHT.replace(ALIGNED, LEFT_TO_PYTORCH + ALIGNED))
    assert verdict.accepted, verdict.findings
    (note,) = [one for one in verdict.findings if one.check == "honesty.decoy"]
    assert note.severity is Severity.NOTE
    assert "own sizes" in note.message


def test_a_decoy_at_those_sizes_alone_is_found() -> None:
    decoy = "        shift_relu(x, self.shift)\n        return torch.relu(x + self.shift) * 2.0\n"
    verdict = judge(RIGHT.replace(ALIGNED, LEFT_TO_PYTORCH + decoy))
    errors = [one.message for one in verdict.findings if one.severity is Severity.ERROR]
    assert any("computes nothing that is used" in message for message in errors), errors


def test_what_does_not_compile_for_the_target_is_rejected_with_its_line() -> None:
    source = RIGHT.replace("    y = x + shift\n", "    y = x + shift\n    y = y + tl.zeros((BLOCK, 2), tl.float32)\n")
    verdict = judge(source)
    assert not verdict.accepted
    assert "sm_89" in said(verdict, "compile.error")
    assert any(finding.where == "line 22" for finding in verdict.reasons if finding.check == "compile.error")


def test_a_live_module_and_a_candidate_that_takes_it() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU()).eval()
    of = task_from_module(module, [torch.rand(4, 6)], gpu="4090", precision="ieee")
    source = RIGHT.replace(
        "    def __init__(self, channels):\n        super().__init__()\n"
        "        self.shift = nn.Parameter(torch.randn(1, channels))\n",
        "    def __init__(self, reference):\n        super().__init__()\n        self.linear = reference[0]\n",
    ).replace(
        "return shift_relu(x, self.shift)",
        "return shift_relu(torch.nn.functional.linear(x, self.linear.weight), self.linear.bias)",
    )
    source = source.replace("y * 2.0", "y")
    candidate = Candidate(source, Origin.SYNTHESIZE, "a test", native=("linear",), needs_reference=True)
    verdict = verify(of, candidate, effort="none")
    assert verdict.accepted, verdict.reasons


def test_the_given_code_can_be_the_specification() -> None:
    assert task().reference is not None
    of = replace(
        task(),
        reference=replace(task().reference, source=RIGHT, class_name="ModelNew"),
        given_code_is_specification=True,
    )
    verdict = judge(RIGHT.replace("y * 2.0", "y + y"), of=of)
    assert verdict.accepted, verdict.reasons
    assert verdict.oracle == "given code"
    assert not judge(RIGHT.replace("y * 2.0", "y * 2.001"), of=of).accepted


def test_the_given_codes_sums_may_be_made_in_another_order() -> None:
    path = Path(__file__).parents[1] / "proposers" / "retune_kernels" / "row_sum.py"
    of, given = load_task(path, init="[]", inputs="randn(64, 1024)", gpu="4090"), path.read_text()
    reordered = given.replace("(columns), 128)", "(columns), 512)")
    for source, accepted in ((reordered, True), (reordered.replace("tl.sum(values", "tl.sum(1.001 * values"), False)):
        verdict = verify(of, Candidate(source, Origin.RETUNE, "a test"), effort="quick")
        assert verdict.accepted == accepted, verdict.reasons


def test_given_code_that_ignores_strides_is_right_on_packed_inputs() -> None:
    path = Path(__file__).parents[1] / "proposers" / "retune_kernels" / "transpose.py"
    of, given = load_task(path, init="[]", inputs="randn(70, 90)", gpu="4090"), path.read_text()
    for source, accepted in (
        (given.replace("BLOCK = 8", "BLOCK = 16"), True),
        (given.replace("* M +", "* N +"), False),
    ):
        verdict = verify(of, Candidate(source, Origin.RETUNE, "a test"), effort="quick")
        assert verdict.accepted == accepted, verdict.reasons


def test_a_source_that_does_not_parse_needs_no_process() -> None:
    verdict = judge("class ModelNew(")
    assert [finding.check for finding in verdict.findings] == ["contract.parse"]


def test_a_task_without_a_reference_cannot_be_judged() -> None:
    with pytest.raises(MissingReferenceError):
        verify(replace(task(), reference=None), Candidate(RIGHT, Origin.FILE, ""))


def test_a_recording_says_what_would_run() -> None:
    recording, resources, findings = record(task(), Candidate(RIGHT, Origin.SYNTHESIZE, "a test"), task().gpu)
    assert findings == ()
    (launch,) = recording.launches
    assert launch.grid == (30, 1, 1)
    assert [other.grid for other in launch.alternatives] == [(8, 1, 1)]
    arguments = {argument.name: argument for argument in launch.arguments}
    assert arguments["x_ptr"].shape == (40, 24)
    assert arguments["x_ptr"].type == "*fp32"
    assert arguments["n"].value == 960
    assert arguments["BLOCK"].type == "constexpr"
    assert arguments["x_ptr"].storage != arguments["out_ptr"].storage
    assert len(resources) == 2


@pytest.mark.documents
@pytest.mark.parametrize(
    ("number", "reference", "effort", "accepted", "reasons"),
    [
        ("000", "add_min_gelu_mul.py", "none", False, ["prove little", "relative error 1"]),
        (
            "001",
            "min_sum_gelu_bias.py",
            "quick",
            False,
            [
                "prove little",
                "rows 32 to 255 of dim 2 of x_ptr of fused_min_sum_gelu_bias_kernel (1, 128, 256, 256) are never read",
                "dim 2 of convolution's output > 32",
                "dim 1 of convolution's output > 128",
                "relative error 0.0004",
            ],
        ),
        ("002", "mish_add_hardtanh_scale.py", "none", True, ["-2, right is 2"]),
        (
            "003",
            "linear_batchnorm_gelu_relu.py",
            "none",
            True,
            ["inputs times 1e6", "every call does again what depends on parameters alone", "rsqrt"],
        ),
        (
            "004",
            "multiply_global_mean.py",
            "none",
            True,
            ["is known only at run time, so this cannot compile", "inner size of convolution's output <= "],
        ),
    ],
)
def test_what_the_documents_code_has_wrong_comes_out_by_itself(
    documents_dir: Path, number: str, reference: str, effort: str, accepted: bool, reasons: list[str]
) -> None:
    path = next(documents_dir.glob(f"{number}_*.txt"))
    examples = Path(__file__).parents[2] / "examples"
    of = load_task(path, reference=examples / reference)
    assert of.given_code is not None
    verdict = verify(of, Candidate(of.given_code, Origin.DOCUMENT, "given"), effort=effort)
    assert verdict.accepted is accepted, verdict.reasons
    text = " | ".join(finding.message for finding in verdict.findings)
    for reason in reasons:
        assert reason in text
