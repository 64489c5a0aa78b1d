"""Runs a case of the corpus through the gate."""

from __future__ import annotations

import os
from unittest import mock

from tests.gate.corpus.cases import Right, Wrong, reference_path
from tilewright.gate.verify import verify
from tilewright.task.load import load_task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.verdict import Severity, Verdict


def judged(case: Right | Wrong) -> Verdict:
    """The gate's verdict on a case, for the documents' GPU or the one that the case names."""
    strict = isinstance(case, Wrong) and case.strict
    task = load_task(reference_path(case.reference), gpu=case.target)
    candidate = Candidate(case.source, Origin.SYNTHESIZE if strict else Origin.FILE, case.name)
    with mock.patch.dict(os.environ, case.environment if isinstance(case, Wrong) else {}):
        return verify(task, candidate, effort="quick")


def complaint(case: Right | Wrong, verdict: Verdict) -> str:
    """What is wrong with a verdict, for people; empty where it is as the table says."""
    rejecting = [f"{found.check}: {found.message} ({found.where})" for found in verdict.reasons]
    if isinstance(case, Wrong):
        if verdict.accepted:
            return f"{case.name} was accepted; {' or '.join(case.checks)} should reject it"
        if not {found.check for found in verdict.reasons} & set(case.checks):
            return f"{case.name} was rejected by {rejecting}, not by {' or '.join(case.checks)}"
        return ""
    limits = [f"{found.check}: {found.message}" for found in verdict.findings if found.severity is Severity.LIMIT]
    limits = [text for text in limits if not text.startswith(case.limits)] if case.limits else limits
    if rejecting or limits:
        return f"{case.name} is right, and was not accepted without limits: {[*rejecting, *limits]}"
    return ""
