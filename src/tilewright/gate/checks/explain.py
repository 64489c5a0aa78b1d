"""`tilewright explain CHECK`: what a check does, and why it exists."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tilewright.errors import TilewrightError
from tilewright.gate.checks.sources import SOURCES
from tilewright.gate.checks.table import BY_NAME, CHECKS, Check


class UnknownCheckError(TilewrightError):
    """No check has that name."""


def all_checks() -> tuple[Check, ...]:
    """All checks, in the order in which the gate runs them."""
    return CHECKS


def explain(check: str, others: Sequence[str] = ()) -> str:
    """What a check does and why, as text.

    Args:
        check: its name.
        others: names that are no checks and may have been meant.

    Raises:
        UnknownCheckError: no check has that name; the nearest names are offered.
    """
    found = BY_NAME.get(check)
    if found is None:
        known = [*BY_NAME, *others]
        near = difflib.get_close_matches(check, known, n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise UnknownCheckError(f"no check is named {check!r}", hint=hint)
    weight = {"error": "rejects", "limit": "accepts, with a named limit", "note": "informs"}[found.severity.value]
    return f"{found.name} ({weight})\n\n{found.what}\n\nWhy: {found.why}\n\nSource: {source_of(found)}"


def source_of(check: Check) -> str:
    """Where the check's reason is known from."""
    return check.source or SOURCES[check.name]
