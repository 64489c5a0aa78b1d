"""Drawn properties in Triton's interpreter: it is chosen before triton is imported, so they run in other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

HERE = Path(__file__).parent
#: So many times the examples of a test run: `python -m benchmarks.soak draws` sets it.
DRAWS = int(os.environ.get("TILEWRIGHT_DRAWS", "1"))


def drawing(max_examples: int) -> settings:
    """So many examples in a test run, the same each time; the soak takes a multiple."""
    return settings(
        max_examples=max_examples * DRAWS,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=(Phase.explicit, Phase.generate),  # shrinking would interpret hundreds of modules
    )


def run_properties(properties: Mapping[str, Callable[[], None]], names: Sequence[str]) -> None:
    """In such a process: run the named ones, or all; one JSON object a line, with what failed."""
    for name in names or properties:
        try:
            properties[name]()
            print(json.dumps({"name": name}), flush=True)
        except Exception as error:
            print(json.dumps({"name": name, "problem": f"{error}", "trace": traceback.format_exc()}), flush=True)


def check_property(script: str, name: str, environment: Mapping[str, str]) -> None:
    """A property of a script of this folder that calls `run_properties` holds."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), name],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == [name], done.stderr[-2000:]
    assert "problem" not in rows[0], rows[0]["trace"][-6000:]


def check_tests(script: str) -> None:
    """The tests in a file of this folder, which pytest does not collect by itself, pass in the interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/kernels/{script}"],
        cwd=HERE.parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
