"""`python -m benchmarks.soak kills`: SIGKILL at random points of runs, and what they leave behind."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.soak_record import Journal, Record
from tests.fuzz.kills import commands, half_written, kill_after


def run(count: int, seed: int, jobs: int = 1, journal: Path | None = None, seconds: float = 0.0) -> Record:
    """Kill `count` runs; three of four are `optimize`. Each folder of results is used again by the next run in it.

    Args:
        count: of kills.
        seed: of their points.
        jobs: runs at a time, each with a folder of its own.
        journal: a file in which finished kills are kept, so that several calls add up.
        seconds: after so many nothing new is begun (0: never).
    """
    started = time.monotonic()
    stop = started + seconds if seconds else float("inf")
    generator = random.Random(seed)
    points = [generator.random() for _ in range(count)]
    book = Journal(journal)

    def lane(number: int) -> list[dict[str, Any] | None]:
        with tempfile.TemporaryDirectory(prefix="tilewright-kills-") as folder:
            return _lane(Path(folder), range(number, count, jobs), points, seed, book, stop)

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


def _lane(
    folder: Path, numbers: Sequence[int], points: Sequence[float], seed: int, book: Journal, stop: float
) -> list[dict[str, Any] | None]:
    """Kills one after the other, over the same folder of results."""
    out = folder / "out"
    lasts: Mapping[str, float] = {}
    rows: list[dict[str, Any] | None] = []
    for number in numbers:
        key = f"{seed}:{number}"
        if (row := book.find(key)) is not None or time.monotonic() > stop:
            rows.append(row)
            continue
        lasts = lasts or {name: _seconds(command) for name, command in commands(folder / "whole").items()}
        name = "verify" if number % 4 == 3 else "optimize"
        result = kill_after(commands(out)[name], points[number] * lasts[name], out)
        problem = "; ".join((*result.orphans, *result.halves))
        row = {"key": key, "command": name, **asdict(result), "problem": problem}
        book.add(row)
        rows.append(row)
        print(f"{number}: {name} killed after {result.after_s} s, {problem or 'clean'}", flush=True)
    if lasts and time.monotonic() < stop:
        # What was left must be good enough to go on from.
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
