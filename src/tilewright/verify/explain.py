"""`tilewright explain CHECK`: what a check does, and why it exists."""

from __future__ import annotations

import difflib

from tilewright.errors import TilewrightError
from tilewright.verify.checks import BY_NAME, CHECKS, Check


class UnknownCheckError(TilewrightError):
    """No check has that name."""


def all_checks() -> tuple[Check, ...]:
    """All checks, in the order in which the gate runs them."""
    return CHECKS


def explain(check: str) -> str:
    """What a check does and why, as text.

    Raises:
        UnknownCheckError: no check has that name; the nearest names are offered.
    """
    found = BY_NAME.get(check)
    if found is None:
        near = difflib.get_close_matches(check, list(BY_NAME), n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(BY_NAME)}"
        raise UnknownCheckError(f"no check is named {check!r}", hint=hint)
    weight = {"error": "rejects", "limit": "accepts, with a named limit", "note": "informs"}[found.severity.value]
    source = f"\n\nSource: {found.source}" if found.source else ""
    return f"{found.name} ({weight})\n\n{found.what}\n\nWhy: {found.why}{source}"
