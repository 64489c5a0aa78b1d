"""The measuring process's entry: builds, warms up, samples in turns, and lets the parent time n and 2n calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tilewright.profile.metronome import Beat
from tilewright.profile.statistics import summarise
from tilewright.profile.subjects import build_candidate, input_sets, source_from_json
from tilewright.profile.timer import Call, CudaTimer, SamplingPlan, Subject, sample_interleaved
from tilewright.task.module_source import build_module
from tilewright.verify.subject import product_precision

Emit = Callable[..., None]

REFERENCE = "reference"

#: The parent's intervals are repeated this often; the least of each counts.
_REPEATS = 3
_MOST_CALLS = 2000


def clock(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """Entry of the job: one part `timing` for each subject (samples in ms, or its failure), one `device`.

    Job fields: `reference`, `candidates` (label -> source), `include_reference`, `precision`, `plan`, `beat`
    (the path of the parent's socket).
    """
    beat = Beat(job["beat"])
    plan = SamplingPlan(**job["plan"])
    emit("device", {"gpu": torch.cuda.get_device_name()})
    with product_precision(job["precision"]), torch.no_grad():
        subjects = _subjects(job)
        timer = CudaTimer()
        sample_interleaved(subjects, timer, plan)
        for subject in subjects:
            _cross_check(subject, beat, plan)
            emit(
                "timing",
                {
                    "label": subject.label,
                    "samples_ms": subject.samples_ms,
                    "failure": subject.failure,
                    "method": timer.method(subject.label),
                },
            )


def _subjects(job: Mapping[str, Any]) -> list[Subject]:
    source = source_from_json(job["reference"])
    reference = build_module(source, device="cuda").requires_grad_(False)
    sets = input_sets(source, "cuda", torch.cuda.mem_get_info()[0])
    subjects = [Subject(REFERENCE, _calls(reference, sets))] if job["include_reference"] else []
    for label, candidate in job["candidates"].items():
        try:
            module = build_candidate(candidate, reference, source, "cuda")
            subjects.append(Subject(label, _calls(module, sets)))
        except Exception as error:
            subjects.append(Subject(label, [], failure=f"it cannot be built: {error}"[:500]))
    return subjects


def _calls(module: torch.nn.Module, sets: Sequence[Sequence[Any]]) -> list[Call]:
    return [lambda inputs=inputs: module(*inputs) for inputs in sets]  # type: ignore[misc]


def _cross_check(subject: Subject, beat: Beat, plan: SamplingPlan) -> None:
    if subject.failure:
        return
    calls = max(1, min(_MOST_CALLS, int(plan.cross_check_ms / summarise(subject.samples_ms).median_ms)))
    for _ in range(_REPEATS):
        for count in (calls, 2 * calls):
            torch.cuda.synchronize()
            beat.timed(subject.label, count, lambda count=count: _run(subject, count))  # type: ignore[misc]


def _run(subject: Subject, count: int) -> None:
    """So many calls, and the wait for them: the last result's values come to the host."""
    result: Any = None
    for _ in range(count):
        result = subject.next_call()()
    while isinstance(result, list | tuple) and result:
        result = result[0]
    if isinstance(result, torch.Tensor) and result.numel():
        result.flatten()[-1].item()
    torch.cuda.synchronize()
