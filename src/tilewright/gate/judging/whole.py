"""What a trace of the launches at the task's own sizes means: findings `coverage.*`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tilewright.gate.contract.rules import finding
from tilewright.sandbox.job import Part
from tilewright.values.verdict import Finding

#: How each message begins.
_AT = "at the task's own sizes"


def whole_findings(part: Part | None) -> list[Finding]:
    """The findings of part `whole`, which is data of the other side; nothing where there is none to be read."""
    try:
        return list(_findings(part.data)) if part is not None else []
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _findings(data: Mapping[str, Any]) -> Iterator[Finding]:
    for claim in data["claims"]:
        kind = str(claim["kind"])
        if kind in {"unread", "unwritten"}:
            yield finding(f"coverage.{kind}", _text(claim, kind), where=_AT)
    for event in data["outside"]:
        text = (
            f"{_AT}: {event['access']}s of {event['argument']} in {event['kernel']} leave the tensor, to elements "
            f"{int(event['low']):,} to {int(event['high']):,} counted from its first; where small sizes are right, an "
            "offset of 32 bits has overflowed: make it tl.int64"
        )
        yield finding("coverage.outside", text, where=f"line {int(event['line'])}")


def _text(claim: Mapping[str, Any], kind: str) -> str:
    shape = tuple(int(size) for size in claim["shape"])
    count = 1
    for size in shape:
        count *= size
    missing, role, name = int(claim["missing"]), str(claim["role"]), str(claim["name"])
    what = f"{role} ({name})" if role and name else role or name
    verb = {"unread": "never read", "unwritten": "never written"}[kind]
    if claim["low"] is not None:
        return f"{_AT}: {missing:,} of {count:,} elements of {what} {shape} are {verb}, {_range(claim, missing)}"
    text = f"{_AT}: at least {missing:,} of {count:,} elements of {what} {shape} are {verb}"
    return f"{text}: they are for {claim['how']}" if claim["how"] else text


def _range(claim: Mapping[str, Any], missing: int) -> str:
    low, high = int(claim["low"]), int(claim["high"])
    return f"elements {low:,} to {high:,}" if high - low + 1 == missing else f"between {low:,} and {high:,}"
