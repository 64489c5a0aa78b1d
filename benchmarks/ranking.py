"""Does the model order kernels and schedules as a GPU does?

    python -m benchmarks.ranking measure --out FILE    on a GPU: times of all items, once, as JSON
    python -m benchmarks.ranking                       anywhere: the model's order against the recorded one

Kendall's tau is computed within each kind, over pairs whose measured times differ by more than 2 % (what we call
a change at all); the five that the model likes best of each problem must hold one within 10 % of the best.
"""

from __future__ import annotations

import argparse
import concurrent.futures as futures
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.batch import run_batch
from benchmarks.ranking_templates import Item
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.occupancy import occupancy
from tilewright.gpu.table import find_gpu
from tilewright.measure.predict import assemble, model_launches
from tilewright.measure.seen import code_job, read_code, read_trace, trace_job
from tilewright.sandbox.job import JobResult
from tilewright.task.task import ModuleSource, Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.precision import PrecisionClass

RECORDED = Path(__file__).resolve().parent / "results" / "2026-11-21-h200-ranking.json"

#: Measured times nearer than this are one time.
SAME = 0.02


@dataclass(frozen=True)
class Timed:
    """An item and its measured time.

    Attributes:
        item: the kernel and schedule.
        ms: median; low and high are the 20th and 80th percentile, milliseconds.
    """

    item: Item
    ms: float
    low_ms: float
    high_ms: float


# ---------------------------------------------------------------------------------------------------------
# On a GPU


def _warm(item: Item) -> str:
    """Compile an item, in a process of its own; returns why it failed."""
    try:
        _built(item)()
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


def _built(item: Item) -> Any:
    import torch

    from tilewright.measure.subjects import build_candidate
    from tilewright.task.module_source import build_module, make_inputs
    from tilewright.task.task import ModuleSource

    source = ModuleSource(item.reference, "Model")
    reference = build_module(source, device="cuda").requires_grad_(False)
    module = build_candidate({"source": item.candidate, "needs_reference": False}, reference, source, "cuda")
    inputs = make_inputs(source, device="cuda")

    def call() -> Any:
        with torch.no_grad():
            return module(*inputs)

    call()
    torch.cuda.synchronize()
    return call


def measure(items: Sequence[Item], jobs: int) -> tuple[list[Timed], dict[str, str]]:
    """Times of all items, and what failed: name -> why. Compiled in parallel, timed one after the other, L2 cold."""
    import torch

    from tilewright.measure.statistics import summarise
    from tilewright.measure.timer import CudaTimer, SamplingPlan, Subject, sample_interleaved

    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        failures = {item.name: why for item, why in zip(items, pool.map(_warm, items), strict=True) if why}
    timer, plan, found = CudaTimer(), SamplingPlan(2, 15, 7, 0.25, 0.0), []
    for item in items:
        if item.name in failures:
            continue
        subject = Subject(item.name, [_built(item)])
        sample_interleaved([subject], timer, plan)
        torch.cuda.empty_cache()
        if subject.failure:
            failures[item.name] = subject.failure
            continue
        summary = summarise(subject.samples_ms)
        found.append(Timed(item, summary.median_ms, summary.low_ms, summary.high_ms))
    return found, failures


def _measured_record(jobs: int) -> dict[str, Any]:
    import torch
    import triton

    from benchmarks.ranking_kernels import all_items

    properties = torch.cuda.get_device_properties(0)
    unique = {(item.reference, item.candidate): item for item in all_items(properties.multi_processor_count)}
    items = list(unique.values())
    found, failures = measure(items, jobs)
    return {
        "gpu": properties.name,
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "items": [
            asdict(timed.item) | {"ms": timed.ms, "low_ms": timed.low_ms, "high_ms": timed.high_ms} for timed in found
        ],
        "failures": failures,
    }


# ---------------------------------------------------------------------------------------------------------
# Anywhere


def read(path: Path = RECORDED) -> tuple[list[Timed], str]:
    """The recorded items with their times, and the GPU's name."""
    data = json.loads(path.read_text(encoding="utf-8"))
    names = ("kind", "problem", "schedule", "reference", "candidate")
    found = [
        Timed(Item(**{name: entry[name] for name in names}), entry["ms"], entry["low_ms"], entry["high_ms"])
        for entry in data["items"]
    ]
    return found, str(data["gpu"])


def kendall_tau(pairs: Iterable[tuple[float, float]], same: float = SAME) -> float:
    """Kendall's tau of (measured, predicted) times; pairs of nearly equal measured times are left out.

    Returns:
        (agreeing - disagreeing) / counted, from -1 to 1; a pair that the model holds equal agrees by nothing.
    """
    signs = list(_signs(list(pairs), same))
    return sum(signs) / len(signs) if signs else 1.0


def counted_pairs(pairs: Iterable[tuple[float, float]], same: float = SAME) -> int:
    """Pairs that `kendall_tau` counts."""
    return sum(1 for _ in _signs(list(pairs), same))


def _signs(times: Sequence[tuple[float, float]], same: float) -> Iterator[int]:
    """Of each counted pair: 1 where the model agrees, -1 where it does not, 0 where it says nothing."""
    for index, (measured, predicted) in enumerate(times):
        for other_measured, other_predicted in times[:index]:
            if abs(measured - other_measured) > same * min(measured, other_measured):
                product = (measured - other_measured) * (predicted - other_predicted)
                yield (product > 0) - (product < 0)


def top_holds(times: Sequence[tuple[float, float]], top: int = 5, within: float = 0.10) -> float:
    """The best measured time among the `top` that the model likes most, over the best of all (1.0 is ideal)."""
    chosen = sorted(times, key=lambda pair: pair[1])[:top]
    return min(measured for measured, _ in chosen) / min(measured for measured, _ in times)


def by_problem(times: Mapping[str, float], timed: Sequence[Timed]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(kind, problem) -> (measured, predicted) of its items that were predicted."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in timed:
        if one.item.name in times:
            found.setdefault((one.item.kind, one.item.problem), []).append((one.ms, times[one.item.name]))
    return found


def predictions(timed: Sequence[Timed], gpu: Gpu) -> dict[str, float]:
    """Name of an item -> milliseconds that the model says its forward pass takes."""
    tasks = [(_task(one.item, gpu), Candidate(one.item.candidate, Origin.FILE, one.item.name)) for one in timed]
    compiled = run_batch([(code_job(task, own, gpu), own.source) for task, own in tasks], interpret=False)
    jobs = []
    for (task, own), result in zip(tasks, compiled, strict=True):
        jobs.append((trace_job(task, own, gpu, _resident(result, gpu), 0), own.source))
    traced = run_batch(jobs, interpret=True)
    return {
        one.item.name: predicted_ms(code, trace, gpu) for one, code, trace in zip(timed, compiled, traced, strict=True)
    }


def predicted_ms(compiled: JobResult, traced: JobResult, gpu: Gpu) -> float:
    """The model's time of a forward pass, from what its two jobs sent back."""
    seen = read_code(compiled, gpu)
    launches, _ = read_trace(traced)
    models, notes = model_launches(seen.kernels, launches, gpu)
    return assemble(seen, models, gpu, PrecisionClass.TF32, notes).total_ms or 0.0


def _task(item: Item, gpu: Gpu) -> Task:
    return Task(item.problem, ModuleSource(item.reference, "Model"), gpu, (), (), PrecisionClass.TF32)


def _resident(result: JobResult, gpu: Gpu) -> dict[str, int]:
    """Kernel -> programs that the GPU holds at once, from what the compiler says."""
    found = {}
    for said in (part.data for part in result.parts if "registers" in part.data):
        held = occupancy(
            gpu, registers=said["registers"], shared_bytes=said["shared_bytes"], warps=said["warps"]
        )  # fmt: skip
        found[str(said["kernel"])] = gpu.sm_count * max(1, held.active_blocks)
    return found


def kind_taus(times: Mapping[str, float], timed: Sequence[Timed]) -> dict[str, tuple[float, int]]:
    """Kind -> Kendall's tau over the pairs of its problems, and how many pairs count."""
    found: dict[str, list[tuple[float, int]]] = {}
    for (kind, _), pairs in by_problem(times, timed).items():
        found.setdefault(kind, []).append((kendall_tau(pairs), counted_pairs(pairs)))
    taus = {}
    for kind, each in found.items():
        whole = sum(counted for _, counted in each)
        taus[kind] = (sum(tau * counted for tau, counted in each) / whole if whole else 1.0), whole
    return taus


def report(times: Mapping[str, float], timed: Sequence[Timed]) -> str:
    """Kendall's tau and the best of the top five: of each problem, and of each kind over the pairs of its problems."""
    lines = []
    for (kind, problem), pairs in by_problem(times, timed).items():
        lines.append(
            f"  {kind}: {problem}: {len(pairs)} schedules, tau {kendall_tau(pairs):+.2f}, "
            f"best of the top 5 {top_holds(pairs):.3f} of best"
        )
    for kind, (tau, whole) in kind_taus(times, timed).items():
        lines.append(f"{kind:32} tau {tau:+.2f} over {whole} pairs {'' if tau >= 0.7 else 'MISS'}")
    return "\n".join(lines)


def _compare(out: Path | None) -> int:
    timed, name = read()
    gpu = find_gpu(name)
    times = predictions(timed, gpu)
    print(report(times, timed))
    if out is not None:
        data = {"gpu": name, "versions": {"triton": version("triton")}, "predicted_ms": times}
        out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("measure", "compare"), default="compare")
    parser.add_argument("--out", type=Path, help="where `measure` writes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that compile")
    options = parser.parse_args(arguments)
    if options.action == "compare":
        return _compare(options.out)
    if options.out is None:
        parser.error("--out is needed")
    record = _measured_record(options.jobs)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(record['items'])} items measured on {record['gpu']}, {len(record['failures'])} failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
