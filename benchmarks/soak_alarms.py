"""`python -m benchmarks.soak alarms`: our own emitted kernels of the five workloads on random inputs, on a GPU.

One process for each workload emits its kernel once and runs it on many draws: own and redrawn weights, several
kinds of values, several batch sizes, at the task's own sizes otherwise. The gate's own judgement decides; whatever it
turns away is a false alarm (or a wrong kernel).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import EXAMPLES, WORKLOADS
from benchmarks.soak_record import Record

#: Kinds of inputs, the task's own most often.
_DRAWS = ("own", "own", "own", "normal", "heavy-tailed", "negative", "times 100", "zeros")
_BATCHES = (1, 2, 3)
#: Seconds after which a workload's process is ended.
_LIMIT_S = 240.0


def run(count: int, seed: int, pattern: str) -> Record:
    """Judge `count` draws in all, shared among the workloads whose name contains `pattern`."""
    started = time.monotonic()
    names = [name for _, name in WORKLOADS if pattern in name]
    share = -(-count // max(len(names), 1))
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak_alarms", name, str(seed + 1000 * index), str(share)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for index, name in enumerate(names)
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for name, process in zip(names, processes, strict=True):
        try:
            out, err = process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            failures.append(f"{name}: its process did not end within {_LIMIT_S:.0f} s")
        mine = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        if process.returncode or len(mine) < share:
            failures.append(f"{name}: {len(mine)} of {share} draws judged: {err.strip()[-400:]}")
        rows += mine
    alarms = [row for row in rows if row["problem"]]
    failures += [f"{row['workload']}, {row['draw']}: {row['problem']}: {row['message']}" for row in alarms]
    return Record(
        kind="alarms",
        counts={"draws": len(rows), "false alarms": len(alarms), "workloads": len(names)},
        failures=tuple(failures),
        details=tuple(rows),
        seconds=time.monotonic() - started,
        goal_met=not failures,
    )


def judged(name: str, first: int, count: int) -> Iterator[dict[str, Any]]:
    """Judge one workload on the draws of seeds `first` and after; one row for each."""
    from tilewright.gate.inside import runtime
    from tilewright.gate.inside.oracle import Oracle
    from tilewright.gate.judging import judge
    from tilewright.gate.probes.planning import Plan
    from tilewright.gate.reference.subject import Form, Subject, leaves, map_leaves, product_precision
    from tilewright.proposers.synthesize import synthesize
    from tilewright.sandbox import wire
    from tilewright.task.load import load_task

    device = "cuda" if torch.cuda.is_available() else "cpu"
    task = load_task(EXAMPLES / f"{name}.py", gpu="h200", precision="tf32")
    assert task.reference is not None
    source = synthesize(task)[0].source
    oracle = Oracle(Subject.of(task.reference), task.precision.value, device)
    plan = Plan([oracle.subject.own_arguments], ["the task's own"])
    job = {"device": device, "gpu": runtime.gpu_figures(task.gpu)}
    expected, parts = [], []
    with tempfile.TemporaryDirectory() as folder, runtime.kernel_environment(job) as watch:
        (Path(folder) / runtime.FILE).write_text(source)
        candidate = runtime.build_candidate(runtime.load_candidate(Path(folder)), plan.constructors[0], None).to(device)
        for seed in range(first, first + count):
            probe = _probe(seed, oracle)
            answer = oracle.answer(plan, probe)
            runtime.load_state(candidate, oracle.weights(plan, probe))
            inputs = map_leaves(answer.inputs, lambda tensor: tensor.to(device, copy=True))
            watch.reset(0, 0.0)
            with torch.no_grad(), product_precision("tf32"):
                returned = candidate(*inputs)
                outputs = [leaf.cpu() for leaf in leaves(returned)]
            packed: dict[str, torch.Tensor] = {}
            data = {
                "outputs": wire.pack(outputs, packed, "out"),
                "form": Form.of(returned).as_data(),
                "launches": dict(watch.launches),
            }
            types = tuple(output.dtype for output in answer.native)
            exact, native = tuple(answer.exact), tuple(answer.native)
            expected.append(judge.Expected(probe, "", None, exact, native, types, answer.errors, answer.form))
            parts.append((data, packed))
    pool = {kind: judge.pooled(expected, kind) for kind in {"ieee", task.precision.value}}
    for number, (answer, (data, packed)) in enumerate(zip(expected, parts, strict=True)):
        outcome = judge.judge_run(f"run {number} 0", data, packed, answer, pool, task.precision.value, True)
        errors, allowed = outcome.errors, outcome.allowed
        yield {
            "workload": name,
            "seed": answer.probe.seed,
            "draw": answer.probe.name,
            "problem": outcome.problem,
            "message": outcome.message,
            "error": errors.norm if errors else None,
            "allowed": allowed.norm if allowed else None,
            "kernels": sum(outcome.launches.values()),
        }


def _probe(seed: int, oracle: Any) -> Any:
    from tilewright.gate.probes.planning import Family, Probe

    generator = random.Random(seed)
    draw, batch = generator.choice(_DRAWS), generator.choice(_BATCHES)
    weights = generator.choice(("own", "responsive at full size"))
    leaf = oracle.template[0]
    size = batch if leaf.dim() > 2 else 17 * batch
    name = f"seed {seed}: {draw} inputs, {weights} weights, batch {size}"
    return Probe(name, Family.OWN, sizes=(((0, 0), size),), weights=weights, draw=draw, seed=seed)


def main() -> int:
    """One workload's process: prints a JSON line for each draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    for row in judged(options.name, options.first, options.count):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
