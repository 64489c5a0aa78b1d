"""`python -m benchmarks.soak draws`: the drawn properties of emitted kernels, with many times a test run's examples."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.soak_record import Record

ROOT = Path(__file__).resolve().parent.parent
#: Scripts of `tests/kernels` that print a row for each property, and files of tests for the interpreter.
PROPERTIES = ("conv_interpreted.py", "gemm_interpreted.py", "changed_weights_interpreted.py", "collapse_interpreted.py")
TESTS = ("rows_in_interpreter.py", "channel_rows_in_interpreter.py", "depthwise_in_interpreter.py")
_TAIL = 600


def run(times: int, jobs: int) -> Record:
    """All of them with `times` the examples of a test run, `jobs` processes at a time."""
    started = time.monotonic()
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        details = list(pool.map(lambda name: _one(name, times), (*PROPERTIES, *TESTS)))
    failed = tuple(f"{row['script']}: {row['said']}" for row in details if not row["held"])
    return Record(
        kind="draws",
        counts={"scripts": len(details), "times the examples of a test run": times, "failed": len(failed)},
        failures=failed,
        details=tuple(details),
        seconds=time.monotonic() - started,
        goal_met=not failed,
    )


def _one(name: str, times: int) -> dict[str, object]:
    path = f"tests/kernels/{name}"
    command = [sys.executable, path] if name in PROPERTIES else [sys.executable, "-m", "pytest", "-q", path]
    environment = {**os.environ, "TILEWRIGHT_DRAWS": str(times), "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    broken = done.returncode != 0 or (name in PROPERTIES and '"problem": "' in done.stdout.replace('"problem": ""', ""))
    return {
        "script": name,
        "held": not broken,
        "seconds": round(time.monotonic() - started, 1),
        "said": (done.stdout + done.stderr)[-_TAIL:] if broken else "",
    }
