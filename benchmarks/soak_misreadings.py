"""`python -m benchmarks.soak misreadings`: our own engine emits misread references; the gate holds the true one."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.misreadings import Misreading, misreadings
from benchmarks.soak_record import Record
from tilewright.gate.verify import verify
from tilewright.proposers.synthesize import synthesize
from tilewright.task.load import load_task
from tilewright.values.candidate import Candidate, Origin


def run(count: int, jobs: int, only: str = "") -> Record:
    """The first `count` of them (0 for all) whose names contain `only`, `jobs` gates at a time."""
    warnings.simplefilter("ignore")
    started = time.monotonic()
    chosen = [one for one in misreadings() if only in one.name]
    chosen = chosen[:: max(len(chosen) // count, 1)][:count] if count else chosen
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max(jobs, 1)) as pool:
        emitted = [_emitted(one, Path(folder) / f"{number}.py") for number, one in enumerate(chosen)]
        paths = [Path(folder) / f"true_{number}.py" for number in range(len(chosen))]
        details = list(pool.map(_judged, chosen, emitted, paths))
    accepted = tuple(str(row["name"]) for row in details if row["outcome"] == "accepted")
    by = {what: sum(row["outcome"] == what for row in details) for what in ("rejected", "accepted", "no kernels")}
    return Record("misreadings", {"tried": len(details), **by}, accepted, tuple(details), time.monotonic() - started,
                  not accepted)  # fmt: skip


def _emitted(one: Misreading, path: Path) -> str | None:
    """The engine's file for the misread reference; None where it leaves all to PyTorch."""
    path.write_text(one.misread)
    found = synthesize(load_task(path, gpu="4090", precision="ieee"))
    return found[0].source if found else None


def _judged(one: Misreading, source: str | None, path: Path) -> Mapping[str, Any]:
    if source is None:
        return {"name": one.name, "outcome": "no kernels"}
    path.write_text(one.true)
    started = time.monotonic()
    task = load_task(path, gpu="4090", precision="ieee")
    verdict = verify(task, Candidate(source, Origin.FILE, one.name))
    checks = sorted({finding.check for finding in verdict.findings if finding.severity.value == "error"})
    outcome = "accepted" if verdict.accepted else "rejected"
    return {"name": one.name, "outcome": outcome, "checks": checks, "seconds": round(time.monotonic() - started, 1)}
