"""What the gate said, in the one line that a trial has for it."""

from __future__ import annotations

from tilewright.values.verdict import Verdict


def gate_said(verdict: Verdict | None) -> str:
    """What the gate said of the given code, in one line."""
    if verdict is not None and not verdict.accepted:
        return rejection(verdict)
    limits = verdict.limits if verdict is not None else ()
    return f"accepted within limits: {limits[0].message}" if limits else "accepted by the gate"


def rejection(verdict: Verdict | None) -> str:
    """The first finding that rejects, and how many more there are."""
    if verdict is None or not verdict.reasons:
        return "rejected"
    first, *others = verdict.reasons
    more = f" (and {len(others)} more)" if others else ""
    return f"{first.check}: {first.message}{more}"
