"""What could not be judged, and why: it took too long to interpret, or uses what has no plain twin here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tilewright.gate.contract.rules import finding
from tilewright.gate.judging.judge import Expected, Outcome
from tilewright.gate.probes.planning import Family
from tilewright.values.verdict import Finding, Severity

#: So many of the runs that were given up are named.
_NAMED = 2


def judged_without(
    outcomes: Sequence[Outcome], ran: Sequence[Outcome], expected: Sequence[Expected | None], own_code: bool
) -> Iterator[Finding]:
    """What follows where the task's own sizes, or everything, were not run.

    Args:
        outcomes: all of them.
        ran: those that ended, right or wrong.
        expected: the oracle's answers.
        own_code: the candidate was emitted by this tool.
    """
    own = any((e := expected[o.index]) is not None and e.probe.family is Family.OWN for o in ran)
    unknown = list(dict.fromkeys(o.unknown for o in outcomes if o.unknown))
    if unknown:
        shown = "; ".join(unknown[:_NAMED])
        text = (
            f"it cannot be interpreted here: there is no plain twin of {shown}. That shows nothing, one way or the "
            "other: run `tilewright verify` where there is a GPU"
        )
        one = finding("correctness.not_interpretable", text)
        yield replace(one, severity=Severity.LIMIT) if own and not own_code else one
        return
    if not ran:
        text = "no probe could be interpreted in the time allowed: nothing is proved, one way or the other"
        yield finding("cost.interpreter", text + _tried(outcomes, expected))
    elif not own:
        text = "the task's own sizes are too large to be interpreted: it is verified at smaller sizes only"
        severity = Severity.NOTE if own_code else Severity.LIMIT
        yield replace(finding("cost.interpreter", text), severity=severity)


def _tried(outcomes: Sequence[Outcome], expected: Sequence[Expected | None]) -> str:
    """The runs that were given up: the probe, its types, and the kernel that took too long."""
    given_up = []
    for outcome in outcomes:
        answer = expected[outcome.index]
        if answer is not None and outcome.message:
            types = ", ".join(dict.fromkeys(str(kind).removeprefix("torch.") for kind in answer.types))
            given_up.append(f"{answer.probe.name} (outputs of {types}): {outcome.message}")
    if not given_up:
        return "; no probe was run" if any(answer is not None for answer in expected) else "; there was no probe"
    return f"; tried: {'; '.join(given_up[:_NAMED])}"
