"""What the runs with an autotuner's trials mean: they must be as right as the ones without."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.gate.contract.rules import finding
from tilewright.gate.judging.judge import Expected, Outcome
from tilewright.sandbox.job import Part
from tilewright.values.verdict import Finding

Judge = Callable[[str, Part, Expected], Outcome]


def trial_findings(
    parts: Sequence[Part], expected: Sequence[Expected | None], outcomes: Sequence[Outcome], judge: Judge
) -> list[Finding]:
    """At most one finding: results that only the autotuner's trials make wrong.

    Args:
        parts: what the candidate's process sent; those called `trials I C` count.
        expected: the oracle's answers.
        outcomes: of the runs without trials; where one of the same probe is wrong, that says it all.
        judge: tells how a part compares with an answer, given the name of a run.
    """
    wrong = {outcome.index for outcome in outcomes if outcome.problem and outcome.problem != "skipped"}
    for part in parts:
        words = part.name.split(" ")
        if len(words) != 3 or words[0] != "trials" or not (words[1].isdigit() and words[2].isdigit()):
            continue
        index = int(words[1])
        answer = expected[index] if index < len(expected) else None
        if answer is None or index in wrong:
            continue
        outcome = judge(f"run {words[1]} {words[2]}", part, answer)
        if outcome.problem and outcome.problem != "skipped":
            return [finding("correctness.autotune", _text(answer, outcome), where=outcome.where or answer.probe.name)]
    return []


def _text(answer: Expected, outcome: Outcome) -> str:
    return (
        f"{answer.probe.name}: right when a configuration is taken at once, wrong on a first call, on which the "
        f"autotuner tries all of them on the same tensors ({outcome.message}): name what the kernel adds to in "
        "reset_to_zero and what it changes in place in restore_value, or give it memory that it overwrites"
    )
