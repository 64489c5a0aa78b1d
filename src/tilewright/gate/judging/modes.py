"""Training mode and eval mode: which of them a candidate is asked for, and what the other one shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tilewright.gate.contract.rules import finding
from tilewright.gate.judging.judge import Expected, Outcome
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.verdict import Finding, Severity


def wanted(task: Task, candidate: Candidate) -> str:
    """`built` where a candidate should be judged as it is built, `eval`, or `eval only` where nothing else is asked."""
    if task.document is not None or task.given_code_is_specification or candidate.needs_reference:
        return "eval only"
    if candidate.origin is not Origin.FILE:
        return "eval"
    # Code that asks for the mode does something else in each: its kernels are those of eval mode, as a rule.
    names = {node.attr for node in ast.walk(ast.parse(candidate.source)) if isinstance(node, ast.Attribute)}
    return "eval" if "training" in names else "built"


def plan_findings(plan: Mapping[str, Any]) -> Iterator[Finding]:
    """Says where training mode could not be compared."""
    if plan["random_mode"]:
        text = "as it is built, in training mode, the reference draws random numbers: it is judged in eval mode alone"
        yield replace(finding("correctness.mode", text), severity=Severity.NOTE)


def run_findings(expected: Sequence[Expected | None], outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    """Buffers that the reference changes and the candidate does not, on runs that are right."""
    lost: set[str] = set()
    for outcome in outcomes:
        answer = expected[outcome.index]
        if answer is not None and not outcome.problem:
            lost |= set(answer.updated) - set(outcome.updated)
    if lost:
        text = f"right in training mode, but it leaves buffers as they are that the reference updates: {_names(lost)}"
        yield finding("correctness.mode", text)


def _names(names: set[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
