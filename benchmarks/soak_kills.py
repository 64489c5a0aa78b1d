"""`python -m benchmarks.soak kills`: SIGKILL at random points of runs, and what they leave behind."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.soak_record import Record
from tests.fuzz.kills import commands, half_written, kill_after


def run(count: int, seed: int) -> Record:
    """Kill `count` runs; three of four are `optimize`. Each folder of results is used again by the next run."""
    started = time.monotonic()
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tilewright-kills-") as folder:
        out = Path(folder) / "out"
        lasts = {name: _seconds(command) for name, command in commands(Path(folder) / "whole").items()}
        found = []
        for number in range(count):
            name = "verify" if number % 4 == 3 else "optimize"
            result = kill_after(commands(out)[name], generator.uniform(0.0, lasts[name]), out)
            found.append((name, result))
            print(f"{number + 1}: {name} killed after {result.after_s} s, clean: {result.clean}", flush=True)
        # What was left must be good enough to go on from.
        resumed = subprocess.run(commands(out)["optimize"], capture_output=True, check=False).returncode
        halves = half_written(out)
    failures = [
        f"{name} killed after {one.after_s} s: {(*one.orphans, *one.halves)}" for name, one in found if not one.clean
    ]
    if resumed not in {0, 1} or halves:
        failures.append(f"the run after the last kill ended with code {resumed}: {halves}")
    return Record(
        kind="kills",
        counts={
            "kills": count,
            "clean": sum(one.clean for _, one in found),
            "over before the kill": sum(one.ended_itself for _, one in found),
            "with children": sum(one.children > 0 for _, one in found),
        },
        failures=tuple(failures),
        details=tuple({"command": name, **asdict(one)} for name, one in found),
        seconds=time.monotonic() - started,
        goal_met=not failures,
    )


def _seconds(command: Sequence[str]) -> float:
    """How long a run takes that nobody kills."""
    started = time.monotonic()
    subprocess.run(command, capture_output=True, check=False)
    return time.monotonic() - started
