"""What a check is, and whether it rejects."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.values.verdict import Severity


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: stable, `group.subject`.
        severity: of its findings, unless the finding's circumstances make it weigh less.
        what: what it does, one sentence.
        why: why it exists, with the rule or the experience behind it.
        source: where that is known from, for people: literature, an issue tracker, a manual.
        form: it is about the form of an answer to a document, not about what the code computes.
    """

    name: str
    severity: Severity
    what: str
    why: str
    source: str = ""
    form: bool = False
