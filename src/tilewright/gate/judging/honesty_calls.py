"""What the experiments of `honest_calls` and `honest_library` mean: findings, decided on this side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tilewright.gate.contract.rules import finding
from tilewright.values.verdict import Finding

if TYPE_CHECKING:
    from tilewright.gate.judging.honesty import Judged
    from tilewright.gate.judging.judge import Outcome


def findings_of(judged: Judged) -> Iterator[Finding]:
    """Findings about outputs, what is kept between calls, and who computes."""
    yield from _shared(judged)
    again = judged.outcome("again", judged.scene.first)
    if again is None or not again.problem:  # else it is told that calls differ, whatever lies between them
        yield from _written(judged)
        yield from _kept(judged)
    yield from _passed_on(judged.reports.get("passed on", {}))


def _shared(judged: Judged) -> Iterator[Finding]:
    """Outputs in each other's memory, or in that of inputs and parameters, where the reference's are apart."""
    right = {_pair(pair) for pair in judged.shared}
    for pair in judged.reports["first"].get("shared", ()):
        if _pair(pair) not in right:
            one, other = (str(name) for name in pair)
            text = f"{one} lies in the memory of {other}: who writes into one changes the other; the reference's do not"
            yield finding("honesty.outputs", text)


def _pair(pair: Any) -> tuple[str, str]:
    one, other = pair
    return str(one), str(other)


def _written(judged: Judged) -> Iterator[Finding]:
    report = judged.reports.get("written", {})
    if report.get("moved"):
        names = ", ".join(str(name) for name in report["moved"])
        yield finding("honesty.outputs", f"who writes into its output changes {names}")
    outcome = judged.outcome("written", judged.scene.first)
    if outcome is not None and outcome.problem:
        text = "after its caller wrote into the output of one call, the next call on the same tensors is wrong"
        yield finding("honesty.outputs", f"{text}: {_said(outcome)}")


#: What was done before each of the judged calls of `samples`.
_SAMPLES = (
    "after other values in the same input tensors, written as torch does not count it (`x.data`, NumPy): shape, "
    "address, version, corners and extremes were the same",
    "after inputs and weights of which two elements had changed places: shape, corners, extremes and sum were the same",
    "after other tensors of the same shape, corners, extremes and sum",
)


def _kept(judged: Judged) -> Iterator[Finding]:
    for done, outcome in zip(_SAMPLES, judged.outcomes("samples", judged.scene.first), strict=False):
        if outcome.problem:
            yield finding("honesty.cache", f"{done}, its answer is wrong: {_said(outcome)}")
            break
    report: Mapping[str, Any] = judged.reports.get("many", {})
    bad = [(number, o) for number, o in enumerate(judged.outcomes("many", judged.scene.first)) if o.problem]
    if bad:
        number, outcome = bad[0]
        calls, odd = int(report["calls"]), report.get("odd")
        if number == 0:
            text = f"after {calls} calls it is wrong"
        elif number <= 3 and int(report["counters"]):
            text = "with what counts its calls set forward, as after many calls, it is wrong"
        else:
            text = f"its call number {int(odd or 0) + 2} launches fewer kernels than the others, and is wrong"
        found = finding("honesty.cache", f"{text}: {_said(outcome)}")
        yield replace(found, evidence={"calls": calls})


def _passed_on(report: Mapping[str, Any]) -> Iterator[Finding]:
    names = [str(name) for name in report.get("passed on", ())]
    if names:
        kernels = ", ".join(str(name) for name in report.get("kernels", ())) or "its kernels"
        operations = ", ".join(f"aten.{name}" for name in names)
        text = f"PyTorch computes its output ({operations}); {kernels} only pass it on, on all inputs that were tried"
        yield replace(finding("honesty.passed", text), evidence={"operations": list(names)})


def _said(outcome: Outcome) -> str:
    return f"{outcome.problem}: {outcome.message}"[:300]
