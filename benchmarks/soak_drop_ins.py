"""`python -m benchmarks.soak drop_ins`: calls that differ and modules that were changed, drop-in beside module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.soak_record import Record

ROOT = Path(__file__).resolve().parent.parent
#: Draws of one process.
_PART = 100


def run(count: int, seed: int, jobs: int) -> Record:
    """Draw `count` of them in processes of their own, `jobs` at a time."""
    started = time.monotonic()
    firsts = range(seed, seed + count, _PART)
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        parts = list(pool.map(lambda first: draws(min(_PART, seed + count - first), first), firsts))
    wrong = tuple(row for rows, _ in parts for row in rows)
    by: Counter[str] = Counter()
    for _, summary in parts:
        by.update(summary.get("by", {}))
    done = sum(int(summary.get("draws", 0)) for _, summary in parts)
    on_kernels = sum(number for name, number in by.items() if name.endswith("kernels"))
    failures = tuple(f"seed {row.get('seed')}: {row.get('family')}, {row.get('difference')}" for row in wrong)
    return Record(
        kind="drop_ins",
        counts={"draws": done, "wrong": len(wrong), "with kernels launched": on_kernels},
        failures=failures if done == count else (*failures, f"{count - done} draws did not end"),
        details=(dict(sorted(by.items())),),
        seconds=time.monotonic() - started,
        goal_met=not wrong and done == count,
    )


def draws(count: int, first: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """So many draws from seed `first` on: those that went wrong, and the summary (empty where the process died)."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.drop_in", str(count), str(first)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not rows or "draws" not in rows[-1]:
        return rows, {}
    return rows[:-1], rows[-1]
