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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ranking_templates import Item

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

    from tilewright.profile.subjects import build_candidate
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

    from tilewright.profile.statistics import summarise
    from tilewright.profile.timer import CudaTimer, SamplingPlan, Subject, sample_interleaved

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
    items = list({item.candidate: item for item in all_items(properties.multi_processor_count)}.values())
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
    times = list(pairs)
    agreeing = counted = 0
    for index, (measured, predicted) in enumerate(times):
        for other_measured, other_predicted in times[:index]:
            if abs(measured - other_measured) <= same * min(measured, other_measured):
                continue
            counted += 1
            product = (measured - other_measured) * (predicted - other_predicted)
            agreeing += (product > 0) - (product < 0)
    return agreeing / counted if counted else 1.0


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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("measure", "compare"), default="compare")
    parser.add_argument("--out", type=Path, help="where `measure` writes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that compile")
    options = parser.parse_args(arguments)
    if options.out is None:
        parser.error("--out is needed")
    record = _measured_record(options.jobs)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(record['items'])} items measured on {record['gpu']}, {len(record['failures'])} failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
