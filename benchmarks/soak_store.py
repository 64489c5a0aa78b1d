"""`python -m benchmarks.soak store`: writers on one study, killed at random, and what is lost (nothing may be)."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.soak_record import Record
from tests.search.fire import under_fire

WRITERS = 8


def run(count: int, seed: int, seconds: float = 1800.0) -> Record:
    """`count` SIGKILLs among 8 processes that write at once; each killed writer is followed by another.

    Args:
        count: kills.
        seed: of the choice of victims and moments.
        seconds: wall seconds at most.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tilewright-fire-") as folder:
        left = under_fire(Path(folder), writers=WRITERS, kills=count, seed=seed, most_s=seconds)
    failures = [f"lost although it was finished: {key}" for key in left.lost[:20]]
    if left.whole != "ok":
        failures.append(f"the file is damaged: {left.whole}")
    if left.kills < count:
        failures.append(f"only {left.kills} of {count} kills in the time allowed")
    counts = {"writers": WRITERS, "kills": left.kills, "finished trials": left.finished, "lost": len(left.lost)}
    return Record(
        kind="store",
        counts=counts,
        failures=tuple(failures),
        details=({**asdict(left), "lost": list(left.lost[:20])},),
        seconds=time.monotonic() - started,
        goal_met=not failures,
    )
