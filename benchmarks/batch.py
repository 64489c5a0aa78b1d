"""Many jobs of the model in one process: the benchmarks' own kernels need no sandbox, and start-up is most of a job.

python -m benchmarks.batch JOBS OUT        (TRITON_INTERPRET=1 for jobs that interpret)
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tilewright.gate.inside.runtime import FILE
from tilewright.sandbox.job import JobResult, Outcome, Part


def run_batch(jobs: Sequence[tuple[Mapping[str, Any], str]], *, interpret: bool) -> list[JobResult]:
    """Run (job, candidate's source) pairs one after the other in another process."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "jobs", Path(folder) / "out"
        given.write_bytes(pickle.dumps(list(jobs)))
        environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if interpret else {})}
        environment["TRITON_CACHE_DIR"] = str(Path(folder) / "cache")
        command = [sys.executable, "-m", "benchmarks.batch", str(given), str(out)]
        subprocess.run(command, check=True, env=environment, cwd=Path(__file__).resolve().parent.parent)
        results: list[JobResult] = pickle.loads(out.read_bytes())
    return results


def _run(job: Mapping[str, Any], source: str, folder: Path) -> JobResult:
    import torch

    parts: list[Part] = []

    def emit(name: str, data: Any, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        parts.append(Part(name, data, dict(tensors or {})))

    (folder / FILE).write_text(source, encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    module, function = str(job["entry"]).split(":")
    try:
        getattr(import_module(module), function)(job, {}, emit)
        return _result(Outcome.OK, "", parts)
    except Exception as error:
        return _result(Outcome.CRASH, f"{type(error).__name__}: {error}", parts)
    finally:
        os.chdir(before)


def _result(outcome: Outcome, message: str, parts: Sequence[Part]) -> JobResult:
    return JobResult(outcome, message, tuple(parts), 0, "", "", 0.0, ())


def main() -> None:
    """The process."""
    jobs = pickle.loads(Path(sys.argv[1]).read_bytes())
    results = []
    for job, source in jobs:
        with tempfile.TemporaryDirectory() as folder:
            results.append(_run(job, source, Path(folder)))
    Path(sys.argv[2]).write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
