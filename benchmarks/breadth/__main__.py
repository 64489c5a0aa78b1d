"""`python -m benchmarks.breadth DIR`: every module of a folder, ours beside eager PyTorch and torch.compile.

Files define `Model`, `get_inputs` and `get_init_inputs`. Each is compiled and checked against float64 beside others,
and timed alone on its GPU. One JSON line for each is written as it ends, so a run that is begun again goes on; a table
by folder closes it. A ratio is the best torch.compile over ours, by the longer of the times of the GPU and of a call.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.ours import child_environment

MODULES = Path(__file__).parent / "modules"


def decisive(times: Mapping[str, float]) -> float:
    """The longer of the GPU's time and the time of a call, in milliseconds."""
    return max(times["gpu_ms"], times["call_ms"])


def best_of(times: Mapping[str, Mapping[str, float]], start: str) -> tuple[str, float]:
    """The fastest of those whose name begins so; infinite where there is none."""
    found = {name: decisive(one) for name, one in times.items() if name.startswith(start)}
    return min(found.items(), key=lambda item: item[1], default=("", float("inf")))


class Runner:
    """Runs modules: `jobs` are made ready at a time, and each GPU times one.

    Args:
        options: of the command.
        gpus: names of the GPUs, as CUDA_VISIBLE_DEVICES takes them.
    """

    def __init__(self, options: argparse.Namespace, gpus: Sequence[str]) -> None:
        self.options, self.gpus = options, gpus
        self.ends = time.monotonic() + options.seconds if options.seconds else float("inf")

    def run(self, paths: Sequence[Path], work: str) -> Iterator[dict[str, Any]]:
        """A row for each module, in groups that are made ready together."""
        for first in range(0, len(paths), self.options.jobs):
            group = paths[first : first + self.options.jobs]
            started = [self._start(path, self.gpus[i % len(self.gpus)], work) for i, path in enumerate(group)]
            with ThreadPoolExecutor(len(group)) as pool:
                ready = list(pool.map(self._ready, started))
            lanes = [range(lane, len(group), len(self.gpus)) for lane in range(len(self.gpus))]
            rows: dict[int, dict[str, Any]] = {}

            def time_lane(lane: range) -> None:
                for index in lane:
                    rows[index] = self._timed(group[index], started[index], ready[index])  # noqa: B023

            with ThreadPoolExecutor(len(lanes)) as pool:
                list(pool.map(time_lane, lanes))
            yield from (rows[index] for index in range(len(group)))

    def _start(self, path: Path, gpu: str, work: str) -> subprocess.Popen[str]:
        options = self.options
        command = [sys.executable, "-m", "benchmarks.breadth.worker", str(path), "--work", work]
        command += ["--precision", options.precision, "--peers", options.peers, "--choose", str(options.choose)]
        command += ["--candidates", str(options.candidates)] if options.candidates is not None else []
        environment = child_environment({"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "2"})
        log = open(Path(work) / f"{path.stem}.log", "w")  # noqa: SIM115 (the process keeps it)
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )

    def _ready(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What a process says of its preparation; it is ended where that takes too long."""
        timer = threading.Timer(min(self.options.limit, max(1.0, self.ends - time.monotonic())), process.kill)
        timer.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        timer.cancel()
        return json.loads(line) if line else {"ready": False, "problem": "it took too long to make ready, or died"}

    def _timed(self, path: Path, process: subprocess.Popen[str], ready: Mapping[str, Any]) -> dict[str, Any]:
        row = {"family": path.parent.name, "module": path.stem, "prepare_s": ready.get("seconds")}
        if not ready["ready"]:
            process.wait()
            return {**row, "problem": ready["problem"]}
        try:
            out, _ = process.communicate("time\n", timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            return {**row, "problem": "timing took more than 120 s"}
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if not lines:
            return {**row, "problem": f"its process ended with {process.returncode} while it was timed"}
        return {**row, **_summary(json.loads(lines[-1]))}


def _summary(found: Mapping[str, Any]) -> dict[str, Any]:
    times = found["times"]
    peer, theirs = best_of(times, "compile")
    mine, ours = best_of(times, "ours")
    eager = decisive(times["eager"]) if "eager" in times else float("inf")
    return {
        **found,
        "best_peer": peer,
        "best_ours": mine,
        "ratio": round(theirs / ours, 3) if mine and peer else None,
        "over_eager": round(eager / ours, 3) if mine else None,
    }


def _print(row: Mapping[str, Any]) -> None:
    if "problem" in row:
        print(f"{row['family']}/{row['module']}: {row['problem']}", flush=True)
        return
    times = row["times"]
    shown = [
        f"{name} {times[name]['gpu_ms']:.4f}/{times[name]['call_ms']:.4f}"
        for name in ("eager", row["best_peer"], row["best_ours"])
        if name in times
    ]
    print(f"{row['family']}/{row['module']}: ratio {row['ratio']}, GPU/call ms: {', '.join(shown)}", flush=True)
    for name, problem in row["failures"].items():
        print(f"    {name}: {problem[:160]}", flush=True)


def _families(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family]
        ratios = [row["ratio"] for row in own if row.get("ratio")]
        mean = statistics.geometric_mean(ratios) if ratios else float("nan")
        least = min(ratios, default=0.0)
        yield f"{family}: {len(ratios)} of {len(own)} have a module; geometric mean {mean:.2f}, least {least:.2f}"


def _gpus() -> list[str]:
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 where every module has a row, 2 without a GPU or modules."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breadth", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=MODULES, help="of modules, with sub-folders")
    parser.add_argument("--only", default="", help="modules whose path contains this")
    parser.add_argument("--precision", default="tf32", choices=("ieee", "tf32"))
    parser.add_argument("--peers", default="quick", choices=("quick", "all"), help="quick leaves max-autotune out")
    parser.add_argument("--choose", type=int, default=6, help="time so many of the planner's candidates")
    parser.add_argument("--candidates", type=Path, help="FOLDER/family/module/*.py in the place of the planner's")
    parser.add_argument("--jobs", type=int, default=8, help="modules made ready at a time")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds in which a module must be ready")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no more after so many")
    parser.add_argument("--out", type=Path, default=Path("breadth.jsonl"), help="one JSON line for each module")
    options = parser.parse_args(arguments)
    gpus = _gpus()
    paths = [path for path in sorted(options.folder.rglob("*.py")) if options.only in str(path)]
    if not gpus or not paths:
        print("no GPU is visible" if not gpus else f"no modules in {options.folder}", file=sys.stderr)
        return 2
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if not rows:
        _append(options.out, {"head": _head(arguments)})
    done = {(row.get("family"), row.get("module")) for row in rows}
    left = [path for path in paths if (path.parent.name, path.stem) not in done]
    with tempfile.TemporaryDirectory() as work:
        for row in Runner(options, gpus).run(left, work):
            rows.append(row)
            _append(options.out, row)
            _print(row)
    rows = [row for row in rows if "family" in row]
    print("\n".join(_families(rows)))
    return 0 if len(rows) >= len(paths) else 1


def _append(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{json.dumps(row)}\n")


def _head(arguments: Sequence[str] | None) -> dict[str, Any]:
    from benchmarks.workloads import device, versions

    gpu, driver = device()
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "benchmarks.breadth", *given])
    return {"date": time.strftime("%Y-%m-%d"), "gpu": gpu, "driver": driver, "versions": versions(), "command": command}


if __name__ == "__main__":
    sys.exit(main())
