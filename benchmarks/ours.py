"""Our module for a case: read from a folder of candidates, or made by `tilewright optimize` on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import Case


@dataclass(frozen=True)
class Ours:
    """What there is of ours for a case.

    Attributes:
        source: the module's source; empty where there is none.
        failure: why not.
        seconds: that optimising took; 0 where it was read.
    """

    source: str = ""
    failure: str = ""
    seconds: float = 0.0


def read_candidates(cases: Sequence[Case], folder: Path) -> dict[str, Ours]:
    """`FOLDER/<case>/model_new.py` for each case."""
    found = {}
    for case in cases:
        path = folder / case.name / "model_new.py"
        found[case.name] = Ours(path.read_text()) if path.is_file() else Ours(failure=f"there is no {path}")
    return found


def optimise_all(cases: Sequence[Case], folder: Path, *, jobs: int, effort: str, deadline_s: float) -> dict[str, Ours]:
    """Optimise each case with the command, so many at a time; those that do not end by the deadline are killed.

    Args:
        cases: what to optimise.
        folder: a folder for each case is made in it, with the reference, the log and the results.
        jobs: how many at a time.
        effort: as the command takes it.
        deadline_s: wall seconds for all of them.
    """
    ends = time.monotonic() + deadline_s
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        made = pool.map(lambda case: _optimise(case, folder / case.name, effort, ends), cases)
        return {case.name: ours for case, ours in zip(cases, made, strict=True)}


def _optimise(case: Case, folder: Path, effort: str, ends: float) -> Ours:
    started = time.monotonic()
    if ends <= started:
        return Ours(failure="out of time before it was optimised")
    folder.mkdir(parents=True, exist_ok=True)
    reference = folder / f"{case.name.replace('.', '_')}.py"
    reference.write_text(case.source)
    command = [sys.executable, "-m", "tilewright", "optimize", str(reference), "--out", str(folder)]
    command += ["--effort", effort, "--precision", case.precision, "--keep"]  # its ratio is told where it loses, too
    with open(folder / "optimize.log", "w") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=log, env=child_environment(), timeout=ends - started, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return Ours(failure="optimising it ran out of time", seconds=time.monotonic() - started)
    seconds = time.monotonic() - started
    made = folder / "model_new.py"
    if code == 0 and made.is_file():
        return Ours(made.read_text(), seconds=seconds)
    lines = [line.strip() for line in (folder / "optimize.log").read_text().splitlines() if line.strip()]
    return Ours(failure=f"tilewright optimize ended with {code}: {lines[-1] if lines else ''}"[:500], seconds=seconds)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with its import path."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(extra or {})}
