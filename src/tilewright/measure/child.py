"""The measuring process's entry: builds, warms up, samples in turns, and lets the parent time n and 2n calls."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tilewright.gate.reference.subject import product_precision
from tilewright.gate.stages.compiled import VARIABLE as CACHE_VARIABLE
from tilewright.measure.compiled import PeerBench
from tilewright.measure.metronome import Beat
from tilewright.measure.peers import Peer
from tilewright.measure.statistics import summarise
from tilewright.measure.subjects import build_candidate, input_sets, source_from_json
from tilewright.measure.timer import (
    MOST_CALLS,
    Call,
    CudaTimer,
    SamplingPlan,
    Subject,
    Timer,
    sample_interleaved,
    time_calls,
)
from tilewright.task.module_source import build_module

Emit = Callable[..., None]

REFERENCE = "reference"

#: The parent's intervals are repeated this often; the least of each counts.
_REPEATS = 3

#: Exit code of a process whose CUDA context a candidate has broken.
CONTEXT_LOST = 71


def clock(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """Entry of the job: one part `timing` for each subject (both times in ms, or its failure), one `device`.

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
        time_calls(subjects, timer, plan)
        for subject in subjects:
            _cross_check(subject, beat, plan)
            emit("timing", _as_said(subject, timer))


def session(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """Entry of a session: the reference stays warm, orders come over the parent's socket until there is none.

    Job fields: `reference`, `include_reference`, `precision`, `beat`. An order is a file: `candidates` (label ->
    source and the folder of its compiled kernels), `peers` (mode and layout of each), `peers_s` (seconds that
    compiling all of them may take) and `plan`.
    """
    beat = Beat(job["beat"])
    with product_precision(job["precision"]), torch.no_grad():
        bench = _Bench(job, beat)
        while order := beat.tell({"ready": True, "gpu": torch.cuda.get_device_name()}):
            bench.measure(json.loads(Path(order["order"]).read_text()))


class _Bench:
    """What stays between the orders of a session."""

    def __init__(self, job: Mapping[str, Any], beat: Beat) -> None:
        self._beat = beat
        self._source = source_from_json(job["reference"])
        self._reference = build_module(self._source, device="cuda").requires_grad_(False)
        self._sets = input_sets(self._source, "cuda", torch.cuda.mem_get_info()[0])
        self._include_reference = bool(job["include_reference"])
        self._timer = CudaTimer()
        self._peers = PeerBench(self._source, self._reference, self._sets)

    def measure(self, order: Mapping[str, Any]) -> None:
        """Build and warm up one by one (the parent learns whose turn it is), then sample in turns."""
        plan = SamplingPlan(**order["plan"])
        subjects = [Subject(REFERENCE, _calls(self._reference, self._sets))] if self._include_reference else []
        # Peers before candidates: in a fresh process no candidate has touched the torch that compiles and checks them.
        subjects += [self._peer(Peer(**data), float(order["peers_s"])) for data in order["peers"]]
        self._peers.forget_outputs()
        subjects += [self._subject(label, data) for label, data in order["candidates"].items()]
        self._beat.tell({"begin": ""})
        sample_interleaved(subjects, self._timer, plan)
        time_calls(subjects, self._timer, plan)
        if any(_has_lost_context(subject.failure) for subject in subjects):
            os._exit(CONTEXT_LOST)
        for subject in subjects:
            _cross_check(subject, self._beat, plan)
            self._beat.tell(_as_said(subject, self._timer))
        del subjects
        gc.collect()
        torch.cuda.empty_cache()  # others use the device between orders

    def _peer(self, peer: Peer, limit_s: float) -> Subject:
        self._beat.tell({"begin": peer.name})
        subject = self._peers.subject(peer, limit_s)
        if _has_lost_context(subject.failure):
            os._exit(CONTEXT_LOST)
        return subject

    def _subject(self, label: str, data: Mapping[str, Any]) -> Subject:
        self._beat.tell({"begin": label})
        os.environ[CACHE_VARIABLE] = data["cache"]
        try:
            module = build_candidate(data, self._reference, self._source, "cuda")
            calls = _calls(module, self._sets)
            calls[0]()
            torch.cuda.synchronize()
        except Exception as error:
            if _has_lost_context(str(error)):
                os._exit(CONTEXT_LOST)
            return Subject(label, [], failure=f"{type(error).__name__}: {error}"[:500])
        return Subject(label, calls)


def _has_lost_context(text: str) -> bool:
    """After such an error nothing works in this process any more."""
    return "cuda error" in text.lower()


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


def _as_said(subject: Subject, timer: Timer) -> dict[str, Any]:
    """What the parent is told of a subject."""
    return {
        "label": subject.label,
        "samples_ms": [round(sample, 7) for sample in subject.samples_ms],
        "calls_ms": [round(sample, 7) for sample in subject.calls_ms],
        "failure": subject.failure,
        "method": timer.method(subject.label),
    }


def _cross_check(subject: Subject, beat: Beat, plan: SamplingPlan) -> None:
    if subject.failure:
        return
    each_ms = max(summarise(subject.samples_ms).median_ms, summarise(subject.calls_ms).median_ms)
    calls = max(1, min(MOST_CALLS, int(plan.cross_check_ms / each_ms)))
    for _ in range(_REPEATS):
        for count in (calls, 2 * calls):
            torch.cuda.synchronize()
            beat.timed(subject.label, count, lambda count=count: _run(subject, count))  # type: ignore[misc]


def _run(subject: Subject, count: int) -> None:
    """So many calls, and the wait for them: the last result's values come to the host."""
    subject.call_often(count - 1)
    result: Any = subject.next_call()()
    while isinstance(result, list | tuple) and result:
        result = result[0]
    if isinstance(result, torch.Tensor) and result.numel():
        result.flatten()[-1].item()
    torch.cuda.synchronize()
