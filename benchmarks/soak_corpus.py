"""`python -m benchmarks.soak corpus`: every candidate of the tests' corpus through the gate."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from benchmarks.soak_record import Record
from tests.gate.corpus.cases import RIGHT, WRONG, Right, Wrong
from tests.gate.corpus.judged import complaint, judged


@dataclass(frozen=True)
class Judged:
    """How one case went.

    Attributes:
        name: of the case, `right/...` or `wrong/...`.
        complaint: what is wrong with the verdict; empty where it is as the table says.
        reasons: the checks that rejected, as `check: message`.
        seconds: of the gate.
    """

    name: str
    complaint: str
    reasons: tuple[str, ...]
    seconds: float


def run(pattern: str, jobs: int) -> Record:
    """Judge all cases whose name contains `pattern`; GPU-only ones where there is a GPU."""
    has_gpu = torch.cuda.is_available()
    cases = [
        case
        for case in (*WRONG, *RIGHT)
        if pattern in case.name and (has_gpu or not (isinstance(case, Wrong) and case.gpu))
    ]
    started = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(_judge, cases))
    bad = [result for result in results if result.complaint]
    return Record(
        kind="corpus",
        counts={
            "wrong": sum(isinstance(case, Wrong) for case in cases),
            "right": sum(isinstance(case, Right) for case in cases),
            "as the table says": len(results) - len(bad),
        },
        failures=tuple(result.complaint for result in bad),
        details=tuple({"name": r.name, "reasons": list(r.reasons), "seconds": r.seconds} for r in results),
        seconds=time.monotonic() - started,
        goal_met=not bad,
    )


def _judge(case: Right | Wrong) -> Judged:
    name = f"{'wrong' if isinstance(case, Wrong) else 'right'}/{case.name}"
    started = time.monotonic()
    verdict = judged(case)
    problem = complaint(case, verdict)
    seconds = round(time.monotonic() - started, 1)
    print(f"{'FAIL' if problem else 'ok':5}{name} ({seconds} s) {problem[:600]}", flush=True)
    return Judged(name, problem, tuple(f"{f.check}: {f.message}" for f in verdict.reasons), seconds)
