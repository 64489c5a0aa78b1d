"""Whether a candidate takes the reference's state: its names, as `load_state_dict` wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tilewright.gate.contract.rules import finding
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.verdict import Finding, Severity


def asked(task: Task, candidate: Candidate) -> bool:
    """Whether the names bind: a document's code keeps its own."""
    return task.document is None and candidate.origin is Origin.FILE


def findings_of(reports: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """What the runs say of the candidate's names: an error for parameters, a limit for buffers."""
    found: dict[str, dict[str, None]] = {"unknown": {}, "new": {}, "shape": {}, "buffers": {}}
    for report in reports:
        for kind, names in found.items():
            names |= dict.fromkeys(str(name) for name in report.get(kind, ()))
    said = {
        "unknown": "it has none by the name of",
        "new": "the reference has none by the name of its",
        "shape": "of another shape are",
    }
    told = [f"{text} {', '.join(found[kind])}" for kind, text in said.items() if found[kind]]
    if told:
        text = f"load_state_dict of the reference's parameters fails: {'; '.join(told)}"
        yield finding("correctness.parameters", text[:600])
    if found["buffers"]:
        text = f"buffers of one of the two alone: {', '.join(found['buffers'])}; load_state_dict needs strict=False"
        yield replace(finding("correctness.parameters", text[:600]), severity=Severity.LIMIT)
