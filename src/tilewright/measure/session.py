"""Many measurements in one sandboxed process that keeps the reference, its inputs and the CUDA context warm.

The parent sends orders (candidates as source), the child builds, warms up and samples them beside the reference, and
sends samples back, line by line. A candidate that ends the process costs itself alone: it is set aside, a fresh process
is started and the rest of the order goes on.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from tilewright.errors import MissingReferenceError
from tilewright.gate.stages.compiled import compiled_folder, compiled_root
from tilewright.measure.clock import REFERENCE, ClockReport, device_name, read_timings, require_gpu
from tilewright.measure.lock import alone_on_gpu
from tilewright.measure.metronome import Metronome
from tilewright.measure.peers import Peer
from tilewright.measure.subjects import candidate_as_json, source_as_json
from tilewright.measure.timer import PLANS
from tilewright.sandbox.job import JobResult, Limits, run_job
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate

#: Wall seconds: until the child has built the reference, and for each candidate of an order (it compiles what was
#: not compiled ahead, and may autotune).
_START_S = 180.0
_EACH_S = 60.0
#: Beyond the limit of all peers: after it the process itself should have given up.
_PEER_GRACE_S = 10.0
#: What a process is given to leave by itself.
_LEAVE_S = 3.0
#: The whole session.
_LIFE_S = 4 * 3600.0


class ClockSession:
    """A measuring process that is started when the first order comes, and again when a candidate has ended it."""

    def __init__(self, task: Task, *, include_reference: bool = True) -> None:
        """`include_reference` measures the reference with every order, under the label `reference`.

        Raises:
            NoGpuError: there is no GPU.
            MissingReferenceError: the task does not say how to build and call its module.
        """
        require_gpu()
        if task.reference is None:
            raise MissingReferenceError("the task does not say how to build and call its module")
        self._task = task
        self._include_reference = include_reference
        self._child: _Child | None = None
        self._lost_peers: dict[str, str] = {}
        self._closed = False

    def __enter__(self) -> ClockSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def measure(
        self, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer] = (), peers_s: float = 0.0
    ) -> ClockReport:
        """Times of the candidates (by their digests), of the peers (by their names) and the reference, taken in turns.

        Args:
            candidates: what to time; they need not have passed the gate, so their times are no results yet.
            plan: a name of `tilewright.measure.timer.PLANS`.
            peers: what is compiled and timed beside them; each is compiled once in a process.
            peers_s: seconds that compiling all peers may take; those that it does not suffice for are failures.
        """
        waiting = list({candidate.digest: candidate for candidate in candidates}.values())
        done = ClockReport({}, {})
        alone_each = False
        with alone_on_gpu(device_name()) as alone:
            while True:
                part = waiting[:1] if alone_each else waiting
                beside = [peer for peer in peers if peer.name not in self._lost_peers]
                order = self._order(part, plan, beside, peers_s)
                if order.died and order.culprit is None and not order.hopeless and len(part) > 1:
                    alone_each = True  # it died while all were sampled in turns: who did it shows when each is alone
                    continue
                done = _merged(done, order.report)
                if self._closed:
                    break
                if order.culprit in {peer.name for peer in beside}:
                    self._lost_peers[str(order.culprit)] = order.report.failures.get(str(order.culprit), "")
                    continue
                over = {order.culprit} if order.culprit is not None else {item.digest for item in part}
                waiting = [item for item in waiting if item.digest not in over]
                if not waiting:
                    break
        lost = {peer.name: self._lost_peers[peer.name] for peer in peers if peer.name in self._lost_peers}
        done = _merged(done, ClockReport({}, lost))
        note = () if alone else ("another process may have used the GPU at the same time",)
        return ClockReport(done.measured, done.failures, done.checks, tuple(dict.fromkeys((*done.notes, *note))))

    def start(self) -> None:
        """Start the process, so that it is warm when the first order comes."""
        if self._child is None:
            self._child = _Child(self._task, self._include_reference)

    def close(self) -> None:
        """End the process, and a measurement that is under way in another thread."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _order(self, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer], peers_s: float) -> _Answer:
        self.start()
        assert self._child is not None
        answer = self._child.order(_Order(tuple(candidates), plan, tuple(peers), peers_s, self._include_reference))
        if answer.died:
            self._drop()
        return answer


@dataclass(frozen=True)
class _Order:
    """What one order asks for; the fields are the arguments of `ClockSession.measure`."""

    candidates: tuple[Candidate, ...]
    plan: str
    peers: tuple[Peer, ...]
    peers_s: float
    include_reference: bool

    @property
    def labels(self) -> list[str]:
        """Of all that is measured."""
        reference = [REFERENCE] if self.include_reference else []
        return [*reference, *(peer.name for peer in self.peers), *(item.digest for item in self.candidates)]

    def as_json(self) -> str:
        """As the measuring process reads it."""
        candidates = {
            item.digest: {**candidate_as_json(item), "cache": str(compiled_folder(item))} for item in self.candidates
        }
        peers = [asdict(peer) for peer in self.peers]
        plan = asdict(PLANS[self.plan])
        return json.dumps({"candidates": candidates, "peers": peers, "peers_s": self.peers_s, "plan": plan})

    def patience_s(self, begun: str | None) -> float:
        """Seconds without a word, after `begun`, that mean that the process hangs."""
        if begun in {peer.name for peer in self.peers}:
            return self.peers_s + _PEER_GRACE_S
        return _EACH_S * (1 + len(self.labels))


@dataclass(frozen=True)
class _Answer:
    """What an order gave.

    Attributes:
        died: the process is gone.
        culprit: who was being built or warmed up when it died, where that is known.
        hopeless: it died before it took the order: another one will, too.
    """

    report: ClockReport
    died: bool = False
    culprit: str | None = None
    hopeless: bool = False


def _merged(first: ClockReport, second: ClockReport) -> ClockReport:
    measured = {**first.measured, **second.measured}
    failures = {**first.failures, **second.failures}
    return ClockReport(
        measured,
        {label: why for label, why in failures.items() if label not in measured},
        {**first.checks, **second.checks},
        (*first.notes, *second.notes),
    )


@dataclass
class _Child:
    """One measuring process, its sandbox run in a thread, and the conversation with it."""

    task: Task
    include_reference: bool
    _orders: queue.Queue[dict[str, Any] | None] = field(default_factory=queue.Queue)
    _said: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    _count: int = 0

    def __post_init__(self) -> None:
        self._metronome = Metronome(listener=self._listen)
        self._metronome.__enter__()
        self._result: JobResult | None = None
        self._ready = False
        self._closed_at: float | None = None
        self._gpu = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self.task.reference is not None
        job = {
            "entry": "tilewright.measure.child:session",
            "reference": source_as_json(self.task.reference),
            "include_reference": self.include_reference,
            "precision": self.task.precision.value,
            "beat": self._metronome.path,
        }
        limits = Limits(memory_bytes=64 << 30, cuda=True, cpu_s=int(_LIFE_S))
        self._result = run_job(
            job, deadline_s=_LIFE_S, limits=limits, stop=self._is_unwanted, writable=[compiled_root()]
        )
        self._said.put({"ended": True})

    def _is_unwanted(self) -> bool:
        """It was closed and has had the time to end by itself."""
        return self._closed_at is not None and time.monotonic() > self._closed_at + _LEAVE_S

    def _listen(self, message: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """In the metronome's thread: `ready` waits for the next order, everything else is passed on."""
        if message.get("ready"):
            self._said.put({"ready": True, "gpu": str(message.get("gpu", ""))[:100]})
            return self._orders.get()
        self._said.put(dict(message))
        return {}

    def order(self, order: _Order) -> _Answer:
        """Have all of an order measured; returns when it is, or when the process is gone."""
        if not self._ready and not self._wait_ready():
            return self._lost(order.labels, {}, None, started=False)
        self._count += 1
        self._metronome.intervals.clear()
        path = self._metronome.folder / f"order-{self._count}.json"
        path.write_text(order.as_json())
        self._ready = False
        self._orders.put({"order": str(path)})
        return self._collect(order)

    def _collect(self, order: _Order) -> _Answer:
        labels = order.labels
        timings: dict[str, dict[str, Any]] = {}
        begun: str | None = None
        while True:
            message = self._next(order.patience_s(begun))
            if message is None or message.get("ended"):
                return self._lost(labels, timings, begun)
            if message.get("ready"):
                self._ready = True
                return _Answer(read_timings(labels, timings, self._gpu, self._metronome.intervals, ""))
            if "begin" in message:
                begun = message["begin"] if message["begin"] in labels else None
            elif isinstance(message.get("label"), str):
                timings[message["label"]] = message

    def _wait_ready(self) -> bool:
        message = self._next(_START_S)
        self._ready = message is not None and bool(message.get("ready"))
        self._gpu = str(message.get("gpu", "")) if message is not None else ""
        return self._ready

    def _next(self, patience_s: float) -> dict[str, Any] | None:
        try:
            return self._said.get(timeout=patience_s)
        except queue.Empty:
            return None

    def _lost(
        self, labels: Sequence[str], timings: Mapping[str, Any], begun: str | None, *, started: bool = True
    ) -> _Answer:
        """The process is gone, or does not answer: `begun` is charged with it, or everybody who has no time."""
        self.close()
        result = self._result
        why = (
            result.message if result is not None and result.message else "its measuring process did not answer in time"
        )
        known = read_timings(labels, timings, self._gpu, self._metronome.intervals, why)
        charged = [begun] if begun is not None else [label for label in labels if label not in known.measured]
        failures = {label: f"it ended its measuring process: {why}" for label in charged if label != REFERENCE}
        report = ClockReport(known.measured, failures, known.checks, known.notes)
        return _Answer(report, died=True, culprit=begun, hopeless=not started)

    def close(self) -> None:
        """End the process, however it is."""
        if self._closed_at is not None:
            return
        self._closed_at = time.monotonic()
        self._orders.put(None)
        self._metronome.__exit__(None, None, None)
        self._thread.join(timeout=_LEAVE_S + 10)
