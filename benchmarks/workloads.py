"""The benchmark: our modules against torch.compile's modes, and against the documents' own code.

    python -m benchmarks.workloads [--cases workloads shapes modules] [--only NAME ...] [--out DIR]

Each case runs in a process of its own: outputs are checked at full size against float64 first, on the task's own
inputs and on inputs to which the output responds; then all subjects are timed in turns, L2 cold, medians. What
fails is recorded, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cases import CASE_LISTS, Case, find_cases
from benchmarks.ours import Ours, child_environment, optimise_all, read_candidates
from benchmarks.peers import PEERS
from benchmarks.results import CaseResult, Run, case_from_json, run_as_json, table
from benchmarks.worker import Job, write_job

RESULTS = Path(__file__).resolve().parent / "results"

#: Seconds that preparing one case may take (compilation of all its subjects), and timing it.
PREPARE_S = 240.0
MEASURE_S = 60.0


def arguments() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workloads", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASE_LISTS), default=["workloads"], help="lists of cases")
    add("--only", nargs="+", metavar="NAME", default=[], help="cases whose name starts so, or document numbers")
    add("--list", action="store_true", help="list the cases and end")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the record (default: benchmarks/results)")
    add("--documents", type=Path, metavar="DIR", help="folder of the documents, to time their own code too")
    add("--candidates", type=Path, metavar="DIR", help="take ours from DIR/<case>/model_new.py, optimise nothing")
    add("--skip-ours", action="store_true", help="time peers only")
    add("--skip-peers", action="store_true", help="compile no peers")
    add("--peers", nargs="+", metavar="NAME", help=f"which peers (default: all): {', '.join(p.name for p in PEERS)}")
    add("--autocast", action="store_true", help="time torch.compile under float16 autocast too, for information")
    add("--optimise-effort", default="quick", metavar="LEVEL", help="effort of tilewright optimize")
    add("--effort", choices=["none", "quick", "full"], default="full", help="how many samples")
    add("--jobs", type=int, default=max(1, (os.cpu_count() or 4) // 4), help="optimisations at a time")
    add("--batch", type=int, default=1, help="cases that are compiled at a time; they are timed one after another")
    add("--budget-s", type=float, default=480.0, help="wall seconds; cases that do not fit are recorded as not run")
    add("--work", type=Path, metavar="DIR", help="keep jobs, logs and our modules here (default: a temporary folder)")
    add("--json", action="store_true", help="print the record as JSON in the place of the table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 where it ran, 2 for bad arguments or without a GPU."""
    options = arguments().parse_args(argv)
    if (cases := cases_asked_for(options, on_a_gpu=not options.list)) is None:
        return 2
    if options.list:
        print("\n".join(f"{case.name}: {case.description} [{case.precision}]" for case in cases))
        return 0
    command = shlex.join(["python", "-m", "benchmarks.workloads", *(argv if argv is not None else sys.argv[1:])])
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
        run = run_benchmark(cases, options, options.work.resolve(), command)
    else:
        with tempfile.TemporaryDirectory(prefix="tilewright-benchmark-") as folder:
            run = run_benchmark(cases, options, Path(folder), command)
    record = run_as_json(run)
    path = record_path(options.out, run, options.cases)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record) if options.json else f"{table(run)}\nrecorded in {path}")
    return 0


def cases_asked_for(options: argparse.Namespace, *, on_a_gpu: bool = True) -> tuple[Case, ...] | None:
    """What `--cases` and `--only` name; None, with the reason on stderr, where a name fits none or no GPU is there."""
    try:
        cases = find_cases(options.cases, options.only)
    except LookupError as error:
        print(f"error: {error}", file=sys.stderr)
        return None
    if on_a_gpu and (problem := no_gpu()) is not None:
        print(f"error: {problem}", file=sys.stderr)
        return None
    return cases


def no_gpu() -> str | None:
    """Why nothing can be measured here; None where it can."""
    import torch

    if torch.cuda.is_available():
        return None
    return "there is no NVIDIA GPU that torch can use; this benchmark measures, and has nothing to measure on"


def record_path(folder: Path, run: Run, lists: Sequence[str]) -> Path:
    """`<date>-<gpu>-<lists>.json`."""
    gpu = "-".join("".join(c if c.isalnum() else " " for c in run.gpu.lower().removeprefix("nvidia")).split())
    return folder / f"{run.date[:10]}-{gpu or 'gpu'}-{'-'.join(lists)}.json"


def run_benchmark(cases: Sequence[Case], options: argparse.Namespace, work: Path, command: str) -> Run:
    """Optimise, then run every case; what the machine is goes into the record."""
    started = time.monotonic()
    ends = started + options.budget_s
    date = datetime.now(UTC).isoformat(timespec="seconds")
    ours, notes = _make_ours(cases, options, work, ends)
    documents = documents_code(cases, options.documents)
    peers = () if options.skip_peers else tuple(options.peers or (peer.name for peer in PEERS))
    jobs = [
        (
            case.name,
            Job(
                name=case.name,
                description=case.description,
                precision=case.precision,
                source=case.source,
                peers=peers,
                autocast=options.autocast and not options.skip_peers,
                document=documents.get(case.name, ""),
                ours=ours[case.name].source,
                ours_failure=ours[case.name].failure,
                effort=options.effort,
                prepare_s=PREPARE_S / 2,
                wait=True,
            ),
        )
        for case in cases
    ]
    results: list[CaseResult] = []
    for first in range(0, len(jobs), max(1, options.batch)):
        batch = jobs[first : first + max(1, options.batch)]
        results += run_batch([job for _, job in batch], work, ends)
        for result in results[-len(batch) :]:
            say(f"{result.name}: {result.failure or f'ratio {result.ratio}'} ({result.seconds:.0f} s)")
    gpu, driver = device()
    return Run(
        date=date,
        command=command,
        gpu=gpu,
        driver=driver,
        versions=versions(),
        cases=tuple(results),
        seconds=time.monotonic() - started,
        budget_s=options.budget_s,
        notes=tuple(notes),
    )


def _make_ours(
    cases: Sequence[Case], options: argparse.Namespace, work: Path, ends: float
) -> tuple[Mapping[str, Ours], list[str]]:
    if options.skip_ours:
        return {case.name: Ours() for case in cases}, ["ours was skipped"]
    if options.candidates is not None:
        return read_candidates(cases, options.candidates), [f"ours was read from {options.candidates}"]
    # Half of the time that is left: the other half is for measuring what comes of it.
    deadline_s = (ends - time.monotonic()) / 2
    made = optimise_all(cases, work / "ours", jobs=options.jobs, effort=options.optimise_effort, deadline_s=deadline_s)
    for name, ours in made.items():
        say(f"{name}: optimised in {ours.seconds:.0f} s {ours.failure}")
    times = ", ".join(f"{name} {ours.seconds:.0f} s" for name, ours in made.items())
    how = f"tilewright optimize --effort {options.optimise_effort}, {options.jobs} at a time"
    return made, [f"ours was made by {how}: {times}"]


def documents_code(cases: Sequence[Case], folder: Path | None) -> dict[str, str]:
    """Case -> the document's own code, for the cases that have a document in the folder."""
    if folder is None:
        return {}
    from tilewright.task.document import read_document

    found = {}
    for case in cases:
        paths = [*folder.glob(f"{case.document}*.txt")] if case.document else []
        paths += [path for path in (folder / f"{case.name}.txt",) if path.is_file()]
        if paths:
            found[case.name] = read_document(paths[0].read_text(encoding="utf-8"), paths[0]).code
    return found


@dataclass
class _Running:
    """A worker that was started."""

    job: Job
    folder: Path
    process: subprocess.Popen[bytes]
    started: float


def run_batch(
    jobs: Sequence[Job],
    work: Path,
    ends: float,
    *,
    start: Callable[[Path], subprocess.Popen[bytes]] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> list[CaseResult]:
    """Compile the cases side by side, then let each take its times alone.

    Args:
        jobs: one for each case.
        work: a folder for each case is made in it.
        ends: when the run must be over, on `now`'s clock.
        start: starts a worker on its folder.
        now: a clock, seconds.
    """
    start = start or start_worker
    running: list[_Running] = []
    for job in jobs:
        if now() >= ends:
            break
        folder = work / "cases" / job.name
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in ("ready", "go", "result.json"):
            (folder / left_over).unlink(missing_ok=True)
        write_job(folder, job)
        running.append(_Running(job, folder, start(folder), now()))
    prepared_by = min(ends, now() + PREPARE_S * max(1, len(running)) ** 0.5)
    while any(_preparing(worker) for worker in running) and now() < prepared_by:
        time.sleep(0.05)
    return [
        *(_finish(worker, ends, now) for worker in running),
        *(CaseResult(j.name, j.description, j.precision, failure="not run: out of time") for j in jobs[len(running) :]),
    ]


def start_worker(folder: Path) -> subprocess.Popen[bytes]:
    """A worker on its folder; what it prints goes to `worker.log` there."""
    with open(folder / "worker.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", str(folder)],
            stdout=log,
            stderr=log,
            cwd=Path(__file__).resolve().parent.parent,
            env=child_environment(),
        )


def _preparing(worker: _Running) -> bool:
    return worker.process.poll() is None and not (worker.folder / "ready").exists()


def _finish(worker: _Running, ends: float, now: Callable[[], float]) -> CaseResult:
    """Let a worker take its times, wait for its end, and read what it wrote."""
    failure = ""
    try:
        if _preparing(worker):
            failure = "out of time while it was compiled"
        else:
            (worker.folder / "go").touch()
            worker.process.wait(timeout=max(1.0, min(MEASURE_S, ends - now() + 10.0)))
    except subprocess.TimeoutExpired:
        failure = "out of time while it was measured"
    finally:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()
    return read_result(worker.job, worker.folder, failure or _ending(worker))


def _ending(worker: _Running) -> str:
    code = worker.process.returncode
    if code == 0:
        return ""
    return f"its process ended with exit code {code}; see {worker.folder / 'worker.log'}"


def read_result(job: Job, folder: Path, failure: str) -> CaseResult:
    """What a worker wrote, with the reason where it did not end well."""
    try:
        result = case_from_json(json.loads((folder / "result.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = failure or f"its result cannot be read: {error}"
        return CaseResult(job.name, job.description, job.precision, failure=why)
    return replace(result, failure=result.failure or failure)


def device() -> tuple[str, str]:
    """Name of the GPU and version of its driver."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        name, _, driver = said.splitlines()[0].partition(", ")
        return name.strip(), driver.strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        import torch

        return (torch.cuda.get_device_name(), "") if torch.cuda.is_available() else ("", "")


def versions() -> dict[str, str]:
    """Versions of what the times depend on."""
    import platform

    import torch
    import triton

    import tilewright

    backend: Any = torch.backends.cudnn
    cudnn = backend.version() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(cudnn),
        "tilewright": tilewright.__version__,
    }


def say(line: str) -> None:
    """A line of progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
