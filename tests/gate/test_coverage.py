"""Coverage: what is never read, never written, or touched outside of its tensor, and whether it matters."""

from __future__ import annotations

import base64
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

from tilewright.gate.inside import coverage, perturb
from tilewright.gate.inside.coverage import Coverage, NativeAccesses, guarded
from tilewright.gate.judging.coverage import Weighing, ranges
from tilewright.gate.probes.planning import Family, Probe
from tilewright.gate.verify import verify
from tilewright.gpu.table import find_gpu
from tilewright.sandbox import wire
from tilewright.task.stage import Stage
from tilewright.task.stage_rules import rules_for
from tilewright.task.task import InputSpec, ModuleSource, Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.precision import PrecisionClass
from tilewright.values.verdict import Finding, Severity, Verdict

REFERENCE = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        return (x * 2.0 + self.shift)[:, ::2].amax(dim=0)
"""

#: Columns that the reference throws away are not read; HEIGHT rows of the doubled input are.
CANDIDATE = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def largest_kernel(h_ptr, shift_ptr, out_ptr, height, width, half, HEIGHT: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < half
    shift = tl.load(shift_ptr + 2 * column, mask=inside, other=0.0)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    for row in range(0, HEIGHT):
        value = tl.load(h_ptr + row * width + 2 * column, mask=inside & (row < height), other=float("-inf")) + shift
        best = tl.where((value > best) | (value != value), value, best)
    tl.store(out_ptr + column, best, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        h = x * 2.0
        half = (x.shape[1] + 1) // 2
        out = torch.empty(half, device=x.device, dtype=x.dtype)
        shift = self.shift
        largest_kernel[(triton.cdiv(half, 16),)](
            h.contiguous(), shift, out, x.shape[0], x.shape[1], half, HEIGHT=x.shape[0], BLOCK=16
        )
        return out
"""


def judged(source: str) -> Verdict:
    task = Task(
        name="largest",
        reference=ModuleSource(REFERENCE, "Model", init_args=(24,), inputs=(InputSpec("rand", (40, 24)),)),
        gpu=find_gpu("4090"),
        stages=(Stage.MEMORY_ACCESS,),
        rules=(rules_for(Stage.MEMORY_ACCESS, None),),
        precision=PrecisionClass.IEEE,
    )
    return verify(task, Candidate(source, Origin.FILE, "a test"), effort="none")


def found(verdict: Verdict, check: str) -> Finding | None:
    return next((finding for finding in verdict.findings if finding.check == check), None)


def test_what_the_reference_throws_away_need_not_be_read() -> None:
    verdict = judged(CANDIDATE)
    assert verdict.accepted, verdict.reasons
    assert not [one for one in verdict.findings if one.check.startswith(("coverage", "cost"))]


def test_unread_rows_of_an_intermediate_tensor_are_named() -> None:
    verdict = judged(CANDIDATE.replace("HEIGHT=x.shape[0]", "HEIGHT=min(x.shape[0], 32)"))
    unread = found(verdict, "coverage.unread")
    assert unread is not None
    assert unread.severity is Severity.ERROR
    assert "dim 0 of input 0 = 40: rows 32 to 39 of dim 0" in unread.message
    assert "of h_ptr of largest_kernel" in unread.message
    assert unread.evidence["reference"] == "mul's output"


def test_an_unread_parameter_and_stores_beyond_the_end_are_named() -> None:
    source = CANDIDATE.replace("shift_ptr + 2 * column, mask=inside", "shift_ptr + 2 * column, mask=column < 0")
    source = source.replace("best, mask=inside)", "best, mask=column < half + 1)")
    verdict = judged(source)
    unread, outside = found(verdict, "coverage.unread"), found(verdict, "coverage.outside")
    assert unread is not None
    assert "all elements of parameter shift" in unread.message
    assert outside is not None
    assert outside.severity is Severity.ERROR
    assert "stores of out_ptr in largest_kernel leave the tensor" in outside.message
    line = int(outside.where.removeprefix("line "))
    assert "tl.store(out_ptr + column" in source.splitlines()[line - 1]


def test_work_on_parameters_alone_is_noted_where_every_call_repeats_it() -> None:
    verdict = judged(CANDIDATE.replace("shift = self.shift", "shift = (self.shift * 3.0 - self.shift) / 2.0"))
    note = found(verdict, "cost.redone")
    assert note is not None
    assert note.severity is Severity.NOTE
    assert "mul, sub, div" in note.message


# --- parts -----------------------------------------------------------------------------------------------------


def flags(shape: tuple[int, ...], *places: tuple[Any, ...]) -> torch.Tensor:
    made = torch.zeros(shape, dtype=torch.bool)
    for place in places:
        made[place] = True
    return made


@pytest.mark.parametrize(
    ("flagged", "words"),
    [
        (flags((2, 8), (slice(None), slice(3, 8))), "rows 3 to 7 of dim 1"),
        (flags((4, 8), (2,)), "row 2 of dim 0"),
        (flags((9,), (slice(0, 2),), (5,)), "rows 0 to 1, 5 of dim 0"),
        (flags((4, 4), (1, 2), (2, 3)), "12.5% of the elements (dim 0: 1 to 2, dim 1: 2 to 3)"),
        (flags((3, 3), (slice(None),)), "all elements"),
        (flags((9,), *[(slice(i, i + 1),) for i in range(0, 9, 2)]), "rows 0, 2, 4 and 2 more ranges of dim 0"),
    ],
)
def test_ranges_in_words(flagged: torch.Tensor, words: str) -> None:
    assert ranges(flagged) == words


def test_native_operations_are_seen_by_what_they_touch() -> None:
    seen, x, weight = Coverage(), torch.rand(4, 6), torch.rand(6)
    seen.start([x], {"weight": weight})
    with NativeAccesses(seen):
        part = x[:, :3]  # a view reads nothing
        out = torch.empty(4, 6)
        out[:, 1] = part.sum(dim=1)
        prepared = weight * 2.0
    report = coverage.report(seen, [out], packed := {})
    assert {one["role"] for one in report["unread"]} == {"input 0"}
    assert ranges(packed[report["unread"][0]["flags"]]) == "rows 3 to 5 of dim 1"
    assert ranges(packed[report["unwritten"][0]["flags"]]) == "rows 0, 2 to 5 of dim 1"
    assert seen.redone == ["mul"]
    assert prepared.shape == (6,)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(3, 5),
        torch.rand(3, 5).t(),
        torch.rand(3, 10)[:, ::2],
        torch.arange(6).reshape(2, 3),
        torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    ],
)
def test_guards_keep_values_and_strides_and_hold_poison(tensor: torch.Tensor) -> None:
    kept = guarded(tensor)
    assert torch.equal(kept, tensor)
    assert kept.stride() == tensor.stride()
    memory = torch.empty(0, dtype=tensor.dtype).set_(kept.untyped_storage())
    border = memory[: coverage.GUARD_BYTES // tensor.element_size()]
    assert bool((border != border).all()) if tensor.is_floating_point() else bool((border > 1 << 60).all())


def test_broadcast_inputs_keep_their_strides() -> None:
    assert guarded(torch.rand(1, 4).expand(3, 4)).stride() == (0, 1)


def asked(module: type[nn.Module], role: str, unread: torch.Tensor, values: torch.Tensor | None = None) -> float:
    """What the reference says of unread elements."""
    torch.manual_seed(0)
    x = torch.rand(4, 6)
    source = (
        "import torch\nfrom torch import nn\n\n\nclass Model(nn.Module):\n    def forward(self, x):\n        "
        + {
            First: "return (x * 3.0)[:, :2].relu()",
            Constant: "return torch.zeros(2) + 0.0 * x[0, 0]",
        }[module]
    )
    packed: dict[str, torch.Tensor] = {"flags": unread}
    if values is not None:
        packed["values"] = values
    question = {
        "constructor": 0, "weights_key": "w", "role": role, "flags": "flags", "values": "values",
        "inputs": wire.pack([x], packed, "x"),
    }  # fmt: skip
    task = ModuleSource(source, "Model", inputs=(InputSpec("rand", (4, 6)),))
    job = {
        "source": base64.b64encode(cloudpickle.dumps(task)).decode(),
        "constructors": [base64.b64encode(cloudpickle.dumps(())).decode()],
        "questions": [question],
    }
    said: list[float] = []
    perturb.run(job, packed, lambda name, data, tensors: said.append(data["changed"]))
    return said[0]


class First(nn.Module):
    """Stands for a module that uses the first two columns only."""


class Constant(nn.Module):
    """Stands for a module whose output does not depend on its input."""


def test_the_reference_says_which_unread_elements_matter() -> None:
    used, unused = flags((4, 6), (0, 1)), flags((4, 6), (slice(None), slice(2, 6)))
    assert asked(First, "input 0", used) > 0
    assert asked(First, "input 0", unused) == 0
    assert asked(Constant, "input 0", flags((4, 6), (slice(None),))) == 0


def test_the_reference_finds_a_candidates_tensor_by_its_values() -> None:
    torch.manual_seed(0)
    values = torch.rand(4, 6) * 3.0
    assert asked(First, "", flags((4, 6), (2, 0)), values) > 0
    assert asked(First, "", flags((4, 6), (2, 5)), values) == 0
    assert asked(First, "", flags((4, 6), (2, 0)), values + 1.0) == 0


@pytest.mark.parametrize(
    ("own_code", "own_right", "families", "severity"),
    [
        (False, True, {Family.SIZE}, Severity.LIMIT),
        (False, True, {Family.SIZE, Family.OWN}, Severity.ERROR),
        (False, False, {Family.SIZE}, Severity.ERROR),
        (True, True, {Family.CONSTRUCTOR}, Severity.ERROR),
        (False, True, {Family.VALUE}, Severity.ERROR),
    ],
)
def test_what_a_finding_weighs(own_code: bool, own_right: bool, families: set[Family], severity: Severity) -> None:
    probes = [Probe("p", family) for family in families]
    assert Weighing(own_code, own_right).severity(probes) is severity
    assert Weighing(own_code, own_right).severity([Probe("p", Family.SIZE, own_size=True)]) is Severity.ERROR
