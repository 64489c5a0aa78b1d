"""The clock: measured times of the reference and of candidates, interleaved in one sandboxed process.

The child times the device's work with CUDA events, and calls made back to back (`tilewright.measure.timer`); the
parent holds its figures against its own clock over n and 2n calls, and a time that the parent does not confirm is no
time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from tilewright.errors import MissingReferenceError, TilewrightError
from tilewright.measure.lock import alone_on_gpu
from tilewright.measure.metronome import Metronome
from tilewright.measure.statistics import CrossCheck, Interval, cross_check, summarise
from tilewright.measure.subjects import candidate_as_json, source_as_json
from tilewright.measure.timer import PLANS
from tilewright.sandbox.job import JobResult, Limits, Outcome, run_job
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.measurement import Measured

#: Labels of what is measured beside the candidates, whose labels are their digests.
REFERENCE = "reference"
GIVEN = "given"

#: Wall seconds of one measurement: a fixed part, and for each subject (it compiles, and may autotune).
_BASE_DEADLINE_S = 120.0
_DEADLINE_EACH_S = 60.0


class NoGpuError(TilewrightError):
    """A time was to be measured, and there is no GPU."""


class ClockError(TilewrightError):
    """The measuring process ended without a time for anything."""


@dataclass(frozen=True)
class ClockReport:
    """What one measurement gave.

    Attributes:
        measured: label -> time, of those that ran and whose time the parent confirmed.
        failures: label -> why there is no time for it.
        checks: label -> the parent's figure beside the child's.
        notes: what a reader must know (protections that are missing, a GPU that was not alone).
    """

    measured: Mapping[str, Measured]
    failures: Mapping[str, str] = field(default_factory=dict)
    checks: Mapping[str, CrossCheck] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def measure(
    task: Task,
    candidates: Sequence[Candidate],
    *,
    include_reference: bool = True,
    include_given: bool = True,
    effort: str = "quick",
) -> Mapping[str, Measured]:
    """Times of the reference (`reference`), the given code (`given`) and the candidates (by their digests).

    A subject without a time (it failed, or the parent's clock contradicts it) is missing;
    `measure_with_report` says why.

    Args:
        task: says how modules and inputs are made, and the precision class that float32 products run in.
        candidates: what to time; they must have passed the gate.
        include_reference: time the reference too.
        include_given: time the given code too, where the task has some.
        effort: `none`, `quick` or `full`: how many samples.

    Raises:
        NoGpuError: there is no GPU.
        MissingReferenceError: the task does not say how to build and call its module.
        ClockError: nothing was timed.
    """
    report = measure_with_report(
        task, candidates, include_reference=include_reference, include_given=include_given, effort=effort
    )
    if not report.measured and report.failures:
        label, reason = next(iter(report.failures.items()))
        raise ClockError(f"nothing could be timed; {label}: {reason}")
    return report.measured


def measure_with_report(
    task: Task,
    candidates: Sequence[Candidate],
    *,
    include_reference: bool = True,
    include_given: bool = True,
    effort: str = "quick",
) -> ClockReport:
    """As `measure`, with what failed and the cross-checks."""
    require_gpu()
    if task.reference is None:
        raise MissingReferenceError("the task does not say how to build and call its module")
    subjects = {candidate.digest: candidate for candidate in candidates}
    if include_given and task.given_code is not None:
        subjects = {GIVEN: Candidate(task.given_code, Origin.DOCUMENT, "the given code"), **subjects}
    job = {
        "entry": "tilewright.measure.child:clock",
        "reference": source_as_json(task.reference),
        "candidates": {label: candidate_as_json(candidate) for label, candidate in subjects.items()},
        "include_reference": include_reference,
        "precision": task.precision.value,
        "plan": asdict(PLANS[effort if effort in PLANS else "quick"]),
    }
    labels = [*([REFERENCE] if include_reference else []), *subjects]
    with alone_on_gpu(device_name()) as alone, Metronome() as metronome:
        result = run_job(
            {**job, "beat": metronome.path},
            deadline_s=_BASE_DEADLINE_S + _DEADLINE_EACH_S * len(labels),
            limits=Limits(memory_bytes=64 << 30, cuda=True, cpu_s=3600),
        )
        intervals = tuple(metronome.intervals)
    notes = result.notes if alone else (*result.notes, "another process may have used the GPU at the same time")
    return read_report(labels, result, intervals, notes)


def require_gpu() -> None:
    """Raise `NoGpuError` unless a time can be measured here."""
    if not torch.cuda.is_available():
        raise NoGpuError(
            "there is no NVIDIA GPU that torch can use, so no time can be measured",
            hint="without one, times are modelled (tilewright.measure.model) and labelled so",
        )


def read_report(
    labels: Sequence[str], result: JobResult, intervals: Sequence[Interval], notes: Sequence[str] = ()
) -> ClockReport:
    """Judge what came back: samples must be numbers, and the parent's clock must confirm them."""
    device = result.part("device")
    gpu = str(device.data.get("gpu", "")) if device is not None and isinstance(device.data, dict) else ""
    timings = [part.data for part in result.parts if part.name == "timing" and isinstance(part.data, dict)]
    parts = {data["label"]: data for data in timings if isinstance(data.get("label"), str)}
    report = read_timings(labels, parts, gpu, intervals, result.message)
    if result.outcome is not Outcome.OK and not report.failures:
        notes = (*notes, f"the measuring process did not end well: {result.message}")
    return replace(report, notes=tuple(notes))


def read_timings(
    labels: Sequence[str],
    parts: Mapping[str, Mapping[str, Any]],
    gpu: str,
    intervals: Sequence[Interval],
    message: str,
) -> ClockReport:
    """Judge samples: label -> what the measuring process said of it; `message` is why something may be missing."""
    measured: dict[str, Measured] = {}
    failures: dict[str, str] = {}
    checks: dict[str, CrossCheck] = {}
    for label in labels:
        data = parts.get(label)
        if data is None:
            failures[label] = message or "the measuring process said nothing of it"
            continue
        if data.get("failure"):
            failures[label] = str(data["failure"])[:500]
            continue
        timing = _timing(data, gpu)
        if timing is None:
            failures[label] = "its samples are no positive, finite numbers"
            continue
        own = [interval for interval in intervals if interval.label == label]
        check = cross_check(timing.gpu_ms, own, timing.call_ms)
        if check is None:
            failures[label] = "the parent's clock has no figure for it"
            continue
        checks[label] = check
        if check.passed:
            measured[label] = timing
        else:
            failures[label] = (
                f"its process says {check.claimed_ms:.4g} ms a call, the parent's clock {check.observed_ms:.4g} ms"
            )
    return ClockReport(measured, failures, checks)


def _timing(data: Mapping[str, Any], gpu: str) -> Measured | None:
    try:
        summary = summarise([float(sample) for sample in data["samples_ms"]])
        call_ms = summarise([float(sample) for sample in data["calls_ms"]]).median_ms
    except (KeyError, TypeError, ValueError):
        return None
    method = str(data.get("method", ""))[:100]
    return Measured(summary.median_ms, summary.low_ms, summary.high_ms, summary.samples, gpu, method, call_ms)


def device_name() -> str:
    """The GPU that the child will see first; asking torch for it would take memory on it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
