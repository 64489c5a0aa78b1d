"""`python -m benchmarks.soak kills`: SIGKILL at random points of runs, and what they leave behind."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.soak_record import Journal, Record
from tests.fuzz.kills import commands, half_written, kill_after

#: Which run each kill in turn is of.
_TURNS = ("optimize", "optimize", "verify", "optimize", "optimize", "optimize quick", "optimize", "verify")
#: A run that is over before its kill is no kill: another point is drawn, so often at most.
_TRIES = 6


def run(count: int, seed: int, jobs: int = 1, journal: Path | None = None, seconds: float = 0.0) -> Record:
    """Kill `count` runs, each while it runs. A folder of results is used again until a run in it is over.

    Args:
        count: of kills.
        seed: of their points.
        jobs: runs at a time, each with a folder of its own.
        journal: a file in which finished kills are kept, so that several calls add up.
        seconds: after so many nothing new is begun (0: never).
    """
    started = time.monotonic()
    stop = started + seconds if seconds else float("inf")
    book = Journal(journal)

    def lane(number: int) -> list[dict[str, Any] | None]:
        with tempfile.TemporaryDirectory(prefix="tilewright-kills-") as folder:
            return _lane(Path(folder), range(number, count, jobs), seed, book, stop)

    with ThreadPoolExecutor(jobs) as pool:
        found = [row for rows in pool.map(lane, range(jobs)) for row in rows]
    rows = [row for row in found if row is not None]
    failures = [f"{row['command']} killed after {row['after_s']} s: {row['problem']}" for row in rows if row["problem"]]
    return Record(
        kind="kills",
        counts={
            "kills": len(rows),
            "not done": len(found) - len(rows),
            "clean": sum(not row["problem"] for row in rows),
            "over before the kill": sum(row["ended_itself"] for row in rows),
            "with children": sum(row["children"] > 0 for row in rows),
        },
        failures=tuple(failures),
        details=tuple(rows),
        seconds=time.monotonic() - started,
        goal_met=not failures and len(rows) == len(found),
    )


def _lane(folder: Path, numbers: Sequence[int], seed: int, book: Journal, stop: float) -> list[dict[str, Any] | None]:
    """Kills one after the other; what each leaves must be good enough for the next run to go on from."""
    lasts: dict[str, float] = {}
    rows: list[dict[str, Any] | None] = []
    out, used = folder / "out", 0
    for number in numbers:
        key, name = f"{seed}:{number}", _TURNS[number % len(_TURNS)]
        if (row := book.find(key)) is not None or time.monotonic() > stop:
            rows.append(row)
            continue
        if name not in lasts:
            lasts[name] = _seconds(commands(folder / "whole")[name])
        generator = random.Random(key)
        for _ in range(_TRIES):
            result = kill_after(commands(out)[name], generator.random() * lasts[name], out)
            if not result.ended_itself:
                break
            # All is done there: the next run would only look it up.
            used += 1
            out = folder / f"out{used}"
        problem = "; ".join((*result.orphans, *result.halves))
        row = {"key": key, "command": name, **asdict(result), "problem": problem}
        book.add(row)
        rows.append(row)
        print(f"{number}: {name} killed after {result.after_s} s, {problem or 'clean'}", flush=True)
    if lasts and time.monotonic() < stop:
        code = subprocess.run(commands(out)["optimize"], capture_output=True, check=False).returncode
        last = next((row for row in reversed(rows) if row is not None), None)
        if last is not None and (code not in {0, 1} or half_written(out)):
            last["problem"] += f"; the run after the last kill ended with code {code}: {half_written(out)}"
    return rows


def _seconds(command: Sequence[str]) -> float:
    """How long a run takes that nobody kills."""
    started = time.monotonic()
    subprocess.run(command, capture_output=True, check=False)
    return time.monotonic() - started
