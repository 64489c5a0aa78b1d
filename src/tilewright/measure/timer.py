"""Time of calls on a GPU: CUDA events around each, cold L2, subjects taken in turns; and calls as a user makes them.

Two times are taken of each subject. The first is the device's work, from the first kernel's start to the last one's
end. The L2 cache is overwritten before each sample, and while that runs the host enqueues the call, so that its own
time (Python, dispatch, launches) is hidden as it is in a model whose device is busy. Calls under about 20 us are too
short for a pair of events (whose own cost is 1 to 2 us): they are captured into a CUDA graph, several of them with a
flush before each, and the time of a graph of flushes alone is taken off. Where a call cannot be captured, the events'
figure stands. The second is the time of a call when calls are made back to back, warm: the wall time of many and the
wait for the last, over their number, so whatever takes longer, the host or the device.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Call = Callable[[], Any]

#: Calls shorter than this are timed in a CUDA graph, milliseconds.
GRAPH_BELOW_MS = 0.020
#: Flushes before a call keep the device busy for so many times the host's least time for it, and at least so many
#: milliseconds. Between other subjects' turns, and on a host that others use too, the host takes a multiple of its
#: least time (three times were seen to be too few), and what it takes must not be taken for the device's.
HOST_MARGIN = 10.0
MIN_COVER_MS = 1.0
#: Calls in such a graph.
GRAPH_CALLS = 10
#: The flushed buffer is this many times the L2 cache, and at least so many bytes.
FLUSH_FACTOR = 2
MIN_FLUSH_BYTES = 128 << 20
#: Calls of a series at least and at most. The first call's way to the device and the wait for the last are shared
#: among them: a few for calls that take long, hundreds for short ones.
LEAST_CALLS = 5
MOST_CALLS = 2000


@dataclass(frozen=True)
class SamplingPlan:
    """How much is measured.

    Attributes:
        warm_up: calls before the first sample, after the first one (which compiles and autotunes).
        samples: of each subject at most.
        min_samples: of each subject at least, whatever the budget.
        budget_s: no new round is started after this many seconds of sampling.
        cross_check_ms: the parent's n calls last about so long.
        calls_ms: calls made back to back last about so long ...
        call_series: ... and so many series of them are timed.
    """

    warm_up: int
    samples: int
    min_samples: int
    budget_s: float
    cross_check_ms: float
    calls_ms: float = 30.0
    call_series: int = 3


PLANS: Mapping[str, SamplingPlan] = {
    "scout": SamplingPlan(warm_up=1, samples=5, min_samples=3, budget_s=1.0, cross_check_ms=4.0, calls_ms=5.0),
    "none": SamplingPlan(warm_up=2, samples=11, min_samples=5, budget_s=2.0, cross_check_ms=15.0, calls_ms=15.0),
    "quick": SamplingPlan(warm_up=3, samples=30, min_samples=9, budget_s=4.0, cross_check_ms=30.0, call_series=5),
    "full": SamplingPlan(
        warm_up=5, samples=100, min_samples=15, budget_s=15.0, cross_check_ms=100.0, calls_ms=60.0, call_series=7
    ),
}


class Timer(Protocol):
    """What takes one sample; tests put a fake in its place."""

    def prepare(self, label: str, call: Call) -> None:
        """Warm a subject up and find out how its samples are taken."""

    def sample(self, label: str, call: Call) -> float:
        """Milliseconds of one call, L2 cold."""

    def wall(self, run: Callable[[], None]) -> float:
        """Milliseconds from an idle device until all that `run` enqueues is done."""

    def method(self, label: str) -> str:
        """How this subject's samples are taken, for people."""


@dataclass
class Subject:
    """One thing to time: a call for each set of inputs, used in turns.

    Attributes:
        label: what it is.
        calls: on each set of inputs.
        samples_ms: of the device's work in a call.
        calls_ms: of a call, calls made back to back: one figure for each series.
        failure: why there are none.
    """

    label: str
    calls: Sequence[Call]
    samples_ms: list[float] = field(default_factory=list)
    calls_ms: list[float] = field(default_factory=list)
    failure: str = ""
    _turns: Iterator[Call] | None = None

    def next_call(self) -> Call:
        """The call on the next set of inputs."""
        if self._turns is None:
            self._turns = itertools.cycle(self.calls)
        return next(self._turns)

    def call_often(self, count: int) -> None:
        """So many calls, one after the other."""
        for _ in range(count):
            self.next_call()()


def sample_interleaved(
    subjects: Sequence[Subject],
    timer: Timer,
    plan: SamplingPlan,
    *,
    now: Callable[[], float] = time.monotonic,
    rested: Callable[[], None] | None = None,
) -> None:
    """Warm every subject up, then take samples in rounds, one of each subject a round.

    A subject that raises is set aside with its failure, and the rest goes on. Every other round goes through
    the subjects backwards, so that none always follows the same one.

    Args:
        subjects: their `samples_ms` and `failure` are filled.
        timer: takes one sample.
        plan: how many.
        now: the budget's clock, seconds.
        rested: called between rounds (releases memory, and the like).
    """
    for subject in subjects:
        _guarded(subject, lambda subject=subject: _warm_up(subject, timer, plan))  # type: ignore[misc]
    started = now()
    for turn in range(plan.samples):
        if turn >= plan.min_samples and now() - started > plan.budget_s:
            break
        for subject in _in_turn(subjects, turn):
            _guarded(subject, lambda subject=subject: _take(subject, timer))  # type: ignore[misc]
        if rested is not None:
            rested()


def time_calls(subjects: Sequence[Subject], timer: Timer, plan: SamplingPlan) -> None:
    """Time series of calls made back to back, one series of each subject a round; they were sampled before, so warm.

    Args:
        subjects: their `calls_ms` and `failure` are filled.
        timer: takes the wall time of a series.
        plan: how long a series is, and how many there are.
    """
    counts: dict[str, int] = {}
    for subject in subjects:
        _guarded(subject, lambda subject=subject: counts.update(_series(subject, timer, plan)))  # type: ignore[misc]
    for turn in range(plan.call_series):
        for subject in _in_turn(subjects, turn):
            _guarded(subject, lambda subject=subject: _take_series(subject, timer, counts[subject.label]))  # type: ignore[misc]


def _in_turn(subjects: Sequence[Subject], turn: int) -> Sequence[Subject]:
    """Every other round goes through them backwards."""
    return subjects if turn % 2 == 0 else list(reversed(subjects))


def _series(subject: Subject, timer: Timer, plan: SamplingPlan) -> dict[str, int]:
    """How many calls of the subject a series has."""
    each_ms = timer.wall(lambda: subject.call_often(LEAST_CALLS)) / LEAST_CALLS
    return {subject.label: max(LEAST_CALLS, min(MOST_CALLS, int(plan.calls_ms / max(each_ms, 1e-6))))}


def _take_series(subject: Subject, timer: Timer, count: int) -> None:
    subject.calls_ms.append(timer.wall(lambda: subject.call_often(count)) / count)


def _warm_up(subject: Subject, timer: Timer, plan: SamplingPlan) -> None:
    for _ in range(1 + plan.warm_up):
        subject.next_call()()
    timer.prepare(subject.label, subject.calls[0])


def _take(subject: Subject, timer: Timer) -> None:
    subject.samples_ms.append(timer.sample(subject.label, subject.next_call()))


def _guarded(subject: Subject, action: Callable[[], None]) -> None:
    if subject.failure:
        return
    try:
        action()
    except Exception as error:
        first_line = next((line for line in str(error).splitlines() if line.strip()), "")
        subject.failure = f"{type(error).__name__}: {first_line}"[:500]
        subject.samples_ms.clear()
        subject.calls_ms.clear()


@dataclass
class _Way:
    """How one subject is timed: flushes before a call, or a graph."""

    flushes: int
    graph: torch.cuda.CUDAGraph | None = None
    flush_only_ms: float = 0.0


class CudaTimer:
    """Takes samples on the current CUDA device."""

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        size = max(MIN_FLUSH_BYTES, FLUSH_FACTOR * int(getattr(properties, "L2_cache_size", 0)))
        self._flushed = torch.empty(size // 4, dtype=torch.int32, device="cuda")
        self._ways: dict[str, _Way] = {}
        self._flush_ms = min(self._elapsed(self._flush) for _ in range(5))

    def prepare(self, label: str, call: Call) -> None:
        """Find out how long the host needs for a call, and whether it is short enough for a graph."""
        cover_ms = max(HOST_MARGIN * self._host_ms(call), MIN_COVER_MS)
        way = _Way(flushes=1 + int(cover_ms / self._flush_ms))
        self._ways[label] = way
        if sorted(self.sample(label, call) for _ in range(5))[2] >= GRAPH_BELOW_MS:
            return
        graph = self._captured([self._flush, call] * GRAPH_CALLS)
        alone = self._captured([self._flush] * GRAPH_CALLS)
        if graph is not None and alone is not None:
            way.graph = graph
            way.flush_only_ms = sorted(self._elapsed(alone.replay) for _ in range(9))[4]

    def sample(self, label: str, call: Call) -> float:
        """Milliseconds of one call, L2 cold."""
        way = self._ways[label]
        if way.graph is not None:
            spent = self._elapsed(way.graph.replay) - way.flush_only_ms
            return max(spent / GRAPH_CALLS, 1e-4)
        for _ in range(way.flushes):
            self._flush()
        return self._elapsed(call)

    def wall(self, run: Callable[[], None]) -> float:
        """Milliseconds from an idle device until all that `run` enqueues is done."""
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) * 1e3

    def method(self, label: str) -> str:
        """How this subject's samples are taken."""
        if label in self._ways and self._ways[label].graph is not None:
            return f"CUDA graph of {GRAPH_CALLS} calls, cold L2"
        return "CUDA events, cold L2"

    def _flush(self) -> None:
        self._flushed.zero_()

    def _elapsed(self, call: Call) -> float:
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def _host_ms(self, call: Call) -> float:
        """Milliseconds that the host needs to enqueue a call: the least of a few, each on an idle device."""
        spent = []
        for _ in range(5):
            torch.cuda.synchronize()
            started = time.perf_counter()
            call()
            spent.append((time.perf_counter() - started) * 1e3)
        torch.cuda.synchronize()
        # A call that waits for the device itself gains nothing from more flushes.
        return min(min(spent), 20 * self._flush_ms)

    def _captured(self, calls: Sequence[Call]) -> torch.cuda.CUDAGraph | None:
        """The calls as one CUDA graph, or None where one of them cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                for call in calls:
                    call()
            torch.cuda.synchronize()
            graph.replay()
            torch.cuda.synchronize()
        except Exception:
            torch.cuda.synchronize()
            return None
        return graph
