"""Our module for each case, chosen by the clock alone, many cases at a time: for `benchmarks.workloads --candidates`.

    python -m benchmarks.choose [--cases workloads shapes modules] [--only NAME ...] --out DIR [--jobs N]

The search is `tilewright optimize`'s own, without the gate: the benchmark that follows checks every output at full
size against float64 before it times anything, and what it takes for an exact comparison of many cases is minutes. Each
case runs in a process of its own, on the GPUs in turn; measurements are alone on their GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.cases import CASE_LISTS, Case
from benchmarks.ours import child_environment
from benchmarks.workloads import cases_asked_for, say


def main(argv: Sequence[str] | None = None) -> int:
    """Choose for every case; 0 where each has a module, 1 where one has none, 2 for bad arguments or no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choose", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASE_LISTS), default=["workloads"], help="lists of cases")
    add("--only", nargs="+", metavar="NAME", default=[], help="cases whose name starts so, or document numbers")
    add("--out", type=Path, required=True, metavar="DIR", help="DIR/<case>/model_new.py and trials.json are written")
    add("--jobs", type=int, default=max(1, (os.cpu_count() or 4) // 4), help="cases at a time")
    add("--effort", default="quick", metavar="LEVEL", help="effort of the search")
    add("--predicted", type=int, default=0, metavar="N", help="candidates of a batch that are compiled, at most")
    add("--budget-s", type=float, default=480.0, help="wall seconds for all; what has not ended then is killed")
    options = parser.parse_args(argv)
    if (cases := cases_asked_for(options)) is None:
        return 2
    ends = time.monotonic() + options.budget_s
    places = places_of(options.jobs)

    def one(case: Case) -> bool:
        place = places.get()
        try:
            return _start(case, place, options, ends)
        finally:
            places.put(place)

    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        return 0 if all(list(pool.map(one, cases))) else 1


@dataclass(frozen=True)
class Place:
    """Where one case is worked on at a time.

    Attributes:
        gpu: as CUDA_VISIBLE_DEVICES names it.
        cores: numbers of the processor's cores: each case compiles on its own.
    """

    gpu: str
    cores: tuple[int, ...]


def places_of(jobs: int) -> queue.SimpleQueue[Place]:
    """As many places as jobs: the GPUs in turn, the cores shared out."""
    import torch

    gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = gpus or [str(index) for index in range(torch.cuda.device_count())]
    cores = sorted(os.sched_getaffinity(0))
    places: queue.SimpleQueue[Place] = queue.SimpleQueue()
    for job in range(jobs):
        places.put(Place(gpus[job % len(gpus)], tuple(cores[job::jobs]) or tuple(cores)))
    return places


def _start(case: Case, place: Place, options: argparse.Namespace, ends: float) -> bool:
    """Choose in a process of its own; whether there is a module."""
    started = time.monotonic()
    if ends <= started:
        say(f"{case.name}: not begun, out of time")
        return False
    folder = options.out / case.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reference.py").write_text(case.source)
    body = "import os, sys; os.sched_setaffinity(0, {c}); from benchmarks.choose import choose; choose(*sys.argv[1:])"
    body = body.format(c=set(place.cores))
    command = [sys.executable, "-c", body, str(folder), case.precision, options.effort, str(options.predicted)]
    with open(folder / "choose.log", "w") as log:
        try:
            environment = child_environment({"CUDA_VISIBLE_DEVICES": place.gpu})
            subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=ends - started, check=False)
        except subprocess.TimeoutExpired:
            log.write("killed: out of time\n")
    found = (folder / "model_new.py").is_file()
    last = "" if found else (folder / "choose.log").read_text().strip().rpartition("\n")[2][:300]
    say(f"{case.name}: {time.monotonic() - started:.0f} s {last}")
    return found


def choose(folder: str, precision: str, effort: str, predicted: str) -> None:
    """Search for the module of FOLDER/reference.py, and write model_new.py and trials.json beside it."""
    from tilewright.gpu.detect import detect_gpu
    from tilewright.search import run
    from tilewright.search.effort import find_effort
    from tilewright.search.tools import Tools
    from tilewright.task.load import load_task
    from tilewright.values.verdict import Verdict

    place = Path(folder)
    installed = detect_gpu()
    task = load_task(place / "reference.py", precision=precision, gpu=installed.key if installed is not None else None)
    tools = Tools(gate=lambda *_: Verdict((), how="the benchmark checks"), look=lambda *_: None)
    # Without a reference's own code to edit, retune would only go over our own schedules again.
    level: Any = find_effort(effort)
    level = replace(level, retune=False, gpu_budget_s=60.0, peer_modes=(), predicted=int(predicted) or level.predicted)
    vars(run)["find_effort"] = lambda _: level
    study = run.optimize_task(task, effort=effort, out=place / "study", tools=tools)
    best = next((trial for trial in study.trials if trial.number == study.best_number), None)
    trials = [
        {
            "what": trial.candidate.description,
            "ms": trial.timing.time_ms if trial.timing is not None else None,
            "modelled_ms": trial.prediction.time_ms if trial.prediction is not None else None,
            "reason": trial.reason,
        }
        for trial in study.trials
    ]
    (place / "trials.json").write_text(json.dumps(trials, indent=1) + "\n")
    if best is not None:
        (place / "model_new.py").write_text(best.candidate.source)


if __name__ == "__main__":
    sys.exit(main())
