"""What outcomes weigh, and what of outputs must agree beside their values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tilewright.gate.compare.errors import Errors
from tilewright.gate.judging import honesty
from tilewright.gate.judging.judge import Expected, Outcome, findings_of, judge_run, multiplies_reduced
from tilewright.gate.probes.planning import Family, Probe
from tilewright.gate.reference.subject import Form, as_tensors, layout_kind, to_double
from tilewright.sandbox import wire
from tilewright.sandbox.job import JobResult, Part
from tilewright.sandbox.job import Outcome as JobOutcome
from tilewright.values.verdict import Finding, Severity

EXACT = torch.arange(1.0, 25.0, dtype=torch.float64).reshape(4, 6)
POOL = {"ieee": [Errors(1e-7, 1e-7)] * 3}


def expected(probe: Probe, output: Any = None) -> Expected:
    tree = EXACT.float() if output is None else output
    leaves = (tree,) if isinstance(tree, torch.Tensor) else tuple(tree)
    exact = tuple(to_double(leaf) for leaf in leaves)
    types = tuple(leaf.dtype for leaf in leaves)
    return Expected(probe, "w", [], exact, leaves, types, {"ieee": [Errors(1e-7, 1e-7)] * len(leaves)}, Form.of(tree))


def judged(output: Any, probe: Probe | None = None, right: Any = None) -> Outcome:
    """The outcome of a candidate that returns `output`."""
    packed: dict[str, torch.Tensor] = {}
    outputs = as_tensors(output)
    data = {"outputs": wire.pack(outputs, packed, "out"), "form": Form.of(outputs).as_data(), "launches": {"k": 1}}
    answer = expected(probe or Probe("p", Family.OWN), right)
    return judge_run("run 0 0", data, packed, answer, POOL, "ieee", False)


@pytest.mark.parametrize(
    ("report", "reduced"),
    [
        ({}, False),
        ({"dots": {"ieee": 3}}, False),
        ({"dots": {"ieee": 3, "tf32": 1}}, True),
        ({"narrowed": 1}, True),
        ({"dots": 7}, False),
    ],
)
def test_a_report_says_whether_products_were_reduced(report: dict[str, Any], reduced: bool) -> None:
    assert multiplies_reduced(report) is reduced


def test_the_same_passes() -> None:
    assert judged(EXACT.float()).problem == ""


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (EXACT, "correctness.shape"),
        (EXACT.half(), "correctness.shape"),
        (EXACT.float().reshape(24), "correctness.shape"),
        ([EXACT.float()], "correctness.shape"),
        ((EXACT.float(), EXACT.float()), "correctness.shape"),
        (None, "correctness.shape"),
        (EXACT.float().t().contiguous().t(), "correctness.stride"),
        (EXACT.float()[:1].expand(4, 6), "correctness.value"),
        (EXACT.float() * 1.001, "correctness.value"),
        (torch.where(EXACT > 23, float("nan"), EXACT).float(), "correctness.not_finite"),
    ],
)
def test_what_differs_is_named(output: Any, problem: str) -> None:
    assert judged(output).problem == problem


def test_layouts_are_compared_for_packed_inputs_only() -> None:
    permuted = EXACT.float().t().contiguous().t()
    assert judged(permuted, Probe("p", Family.VALUE, layout="transposed")).problem == ""
    assert judged(EXACT.float(), right=permuted).problem == ""  # contiguous serves everybody
    assert judged(permuted, right=permuted).problem == ""


def test_a_result_on_another_device_is_named() -> None:
    packed: dict[str, torch.Tensor] = {}
    outputs = EXACT.float()
    form = Form.of(outputs).as_data() | {"devices": ["cuda"]}
    data = {"outputs": wire.pack(outputs, packed, "out"), "form": form, "launches": {}}
    outcome = judge_run("run 0 0", data, packed, expected(Probe("p", Family.OWN)), POOL, "ieee", False)
    assert outcome.problem == "correctness.device"


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.zeros(2, 3, 4), "contiguous"),
        (torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), "channels_last"),
        (torch.zeros(2, 8, 1, 1).contiguous(memory_format=torch.channels_last), "contiguous"),
        (torch.zeros(4, 6).t(), "permuted"),
        (torch.zeros(1, 6).t(), "contiguous"),
        (torch.zeros(4, 6)[:, ::2], "with gaps"),
        (torch.zeros(1, 6).expand(4, 6), "overlapping"),
    ],
)
def test_kinds_of_strides(tensor: torch.Tensor, kind: str) -> None:
    assert layout_kind(tensor) == kind


def test_numbers_among_outputs_are_compared_and_nesting_is_told() -> None:
    tree = as_tensors({"mean": 1.5, "parts": (torch.zeros(2), [3, None])})
    assert Form.of(tree).structure == "{mean: tensor, parts: (tensor, (tensor, None))}"
    assert judged((EXACT.float(), 2), right=[EXACT.float(), torch.tensor(2)]).problem == ""
    assert judged((EXACT.float(), 3), right=[EXACT.float(), torch.tensor(2)]).problem == "correctness.value"


# --- severity --------------------------------------------------------------------------------------------------

RIGHT_ERRORS = Errors(1e-8, 1e-8)
WRONG_ERRORS = Errors(0.5, 0.5)


def weighed(
    probes: list[tuple[Probe, bool | None]], own_sizes: dict[str, int], constants: tuple[int, ...], own: bool = False
) -> list[Finding]:
    """Findings for probes that are right (True), wrong (False), or were not run (None)."""
    answers = [expected(probe) for probe, _ in probes]
    outcomes = [
        Outcome(index, 0, "skipped" if right is None else "" if right else "correctness.value", errors=errors)
        for index, (_, right) in enumerate(probes)
        for errors in [RIGHT_ERRORS if right else WRONG_ERRORS]
    ]
    return findings_of(answers, outcomes, own, constants, True, own_sizes)


def sized(height: int, *, own_size: bool = False) -> Probe:
    name = f"height = {height}"
    return Probe(name, Family.SIZE, weights="responsive", quantities=(("dim 2", height),), own_size=own_size)


VALUE = Probe("values", Family.VALUE, weights="responsive", quantities=(("dim 2", 8),))


def test_a_wrong_range_beyond_the_tasks_size_is_a_limit_of_others_and_an_error_of_ours() -> None:
    own = Probe("own", Family.OWN, weights="redrawn", quantities=(("dim 2", 32),))
    probes = [(own, True), (VALUE, True), (sized(33), False), (sized(64), False)]
    (found,) = weighed(probes, {"dim 2": 32}, (32,))
    assert (found.severity, found.where) == (Severity.LIMIT, "dim 2 > 32")
    (found,) = weighed(probes, {"dim 2": 32}, (32,), own=True)
    assert found.severity is Severity.ERROR


def test_a_wrong_range_with_the_tasks_own_size_in_it_rejects_where_that_was_not_run() -> None:
    own = Probe("own", Family.OWN, weights="redrawn", quantities=(("dim 2", 256),))
    probes = [(own, None), (VALUE, True), (sized(33), False), (sized(64), False)]
    (found,) = weighed(probes, {"dim 2": 256}, (32,))
    assert (found.severity, found.where) == (Severity.ERROR, "dim 2 > 32")
    (found,) = weighed(probes[1:], {"dim 2": 256}, (32,))
    assert found.severity is Severity.ERROR
    assert weighed(probes[1:], {"dim 2": 20}, (32,))[0].severity is Severity.LIMIT
    cut = Probe("own, cut", Family.OWN, weights="redrawn", quantities=(("dim 2", 8),))
    (found,) = weighed([(cut, True), *probes[1:]], {"dim 2": 20}, (32,))
    assert found.severity is Severity.LIMIT


def test_a_dimension_at_the_tasks_own_size_weighs_as_its_own() -> None:
    cut = Probe("own, cut", Family.OWN, weights="redrawn", quantities=(("dim 2", 1),))
    probes = [(cut, True), (VALUE, True), (sized(40, own_size=True), False)]
    assert weighed(probes, {}, ())[0].severity is Severity.ERROR


def test_values_far_outside_are_a_limit_of_others() -> None:
    own = Probe("own", Family.OWN, weights="redrawn")
    huge = Probe("huge", Family.EXTREME, weights="responsive")
    assert weighed([(own, True), (huge, False)], {}, ())[0].severity is Severity.LIMIT
    assert weighed([(own, True), (huge, False)], {}, (), own=True)[0].severity is Severity.ERROR


def test_refusing_strided_inputs_aloud_is_a_limit_of_others() -> None:
    own = Probe("own", Family.OWN, weights="redrawn")
    strided = Probe("transposed", Family.VALUE, weights="responsive", layout="transposed")
    answers = [expected(own), expected(strided)]
    raised = Outcome(1, 0, "correctness.raises", "AssertionError: x must be contiguous")
    for own_code, severity in ((False, Severity.LIMIT), (True, Severity.ERROR)):
        (found,) = findings_of(answers, [Outcome(0, 0, errors=RIGHT_ERRORS), raised], own_code, (), True, {})
        assert found.severity is severity
    wrong = Outcome(1, 0, "correctness.value", errors=WRONG_ERRORS)
    (found,) = findings_of(answers, [Outcome(0, 0, errors=RIGHT_ERRORS), wrong], False, (), True, {})
    assert found.severity is Severity.ERROR


def test_an_argument_that_is_passed_over_rejects_and_to_refuse_it_is_a_limit() -> None:
    own, other = Probe("own", Family.OWN, weights="redrawn"), Probe("scale = 2", Family.ARGUMENT, weights="responsive")
    assert weighed([(own, True), (other, False)], {}, ())[0].severity is Severity.ERROR
    answers = [expected(own), expected(other)]
    raised = Outcome(1, 0, "correctness.raises", "NotImplementedError: scale must be 1")
    (found,) = findings_of(answers, [Outcome(0, 0, errors=RIGHT_ERRORS), raised], False, (), True, {})
    assert found.severity is Severity.LIMIT


def aligned(name: str, size: int, constructor: int = 0, draw: str = "own") -> Probe:
    return Probe(
        name, Family.VALUE, constructor, weights="responsive", draw=draw, quantities=(("dim 1 of input 0", size),)
    )  # fmt: skip


@pytest.mark.parametrize(("own_right", "severity"), [(True, Severity.LIMIT), (False, Severity.ERROR)])
def test_what_is_right_at_the_tasks_alignment_alone_is_a_limit(own_right: bool, severity: Severity) -> None:
    own = Probe("own", Family.OWN, weights="redrawn", quantities=(("dim 1 of input 0", 1024),))
    probes = [(own, own_right), (aligned("a", 13), False), (aligned("b", 2), False), (aligned("c", 64), True)]
    found = weighed(probes, {"dim 1 of input 0": 1024}, ())
    assert {one.severity for one in found} == {severity}
    assert any("dim 1 of input 0 is no multiple of 64" in one.message for one in found) is own_right


def test_what_is_wrong_at_the_tasks_alignment_too_rejects() -> None:
    own = Probe("own", Family.OWN, weights="redrawn", quantities=(("dim 1 of input 0", 1024),))
    probes = [(own, True), (aligned("a", 13), False), (aligned("c", 64), True), (aligned("d", 128), False)]
    assert {one.severity for one in weighed(probes, {}, ())} == {Severity.ERROR}


def test_a_small_module_that_the_task_does_not_have_is_a_limit_where_it_is_wrong_altogether() -> None:
    own = Probe("own", Family.OWN, weights="redrawn")
    both = [(aligned("small", 7, 1), False), (aligned("small, negative", 7, 1, "negative"), False)]
    assert {one.severity for one in weighed([(own, True), *both], {}, ())} == {Severity.LIMIT}
    values = [(aligned("small", 7, 1), True), (aligned("small, negative", 7, 1, "negative"), False)]
    assert {one.severity for one in weighed([(own, True), *values], {}, ())} == {Severity.ERROR}


def test_each_output_is_judged_by_its_own_type() -> None:
    right = [EXACT.bfloat16(), EXACT.float()]
    assert judged(right, right=right).problem == ""
    found = judged([EXACT.bfloat16(), EXACT.float() * 1.001], right=right)
    assert found.problem == "correctness.value"
    assert found.message.startswith("output 1: ")


def test_types_of_every_kind_are_judged() -> None:
    for dtype in (torch.bool, torch.int8, torch.int64, torch.float8_e4m3fn, torch.complex64, torch.float64):
        right = EXACT.to(dtype)
        wrong = torch.zeros_like(EXACT).to(dtype)
        assert judged(right, right=right).problem == "", dtype
        assert judged(wrong, right=right).problem == "correctness.value", dtype


@pytest.mark.parametrize("first_report", [{"dots": {"tf32": 1}}, {"dots": {"ieee": 1}}])
def test_an_experiment_without_a_report_of_products_has_the_class_of_the_others(first_report: dict[str, Any]) -> None:
    answer = expected(Probe("p", Family.OWN))
    answer = replace(answer, errors={**answer.errors, "tf32": [Errors(1e-3, 1e-3)]})
    parts = []
    for name, report in (("first", first_report), ("many", {})):
        packed: dict[str, torch.Tensor] = {}
        noise = torch.randn(EXACT.shape, generator=torch.Generator().manual_seed(0))
        output = as_tensors(EXACT.float() * (1 + 5e-4 * noise))
        data = {"outputs": wire.pack(output, packed, "out"), "form": Form.of(output).as_data(), "launches": {"k": 1}}
        parts.append(Part(name, {**data, **report}, packed))
    result = JobResult(JobOutcome.OK, "", tuple(parts), 0, "", "", 0.0, ())
    pool = {**POOL, "tf32": [Errors(1e-3, 1e-3)]}
    read = honesty.read(result, [answer], honesty.Scene(0, None, None), pool, "tf32", False)
    outcome = read.outcome("many", 0)
    assert outcome is not None
    assert (outcome.problem == "") is ("tf32" in first_report["dots"])
