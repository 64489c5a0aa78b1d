"""One candidate through model, clock and gate, with the store asked first and told afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from tilewright.gate.inside.recorders import group
from tilewright.measure.peers import Peer
from tilewright.sandbox.processes import available_cores
from tilewright.search.effort import Effort
from tilewright.search.keys import task_key, trial_key
from tilewright.search.meter import Meter
from tilewright.search.opening import Memory
from tilewright.search.records import Evaluation
from tilewright.search.store import StoreError
from tilewright.search.tools import Clock, Prediction, Say, Tools
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Measured
from tilewright.values.verdict import Verdict

#: Compilations at once, at most: each is a process with torch in it.
_MOST_AT_ONCE = 24
#: Candidates of one proposer that share a process: imports are paid once, and it forks for each.
_MANY_CORES, _GROUP, _SMALL_GROUP = 8, 16, 4


@dataclass(frozen=True)
class Judged:
    """A candidate with what is known of it.

    Attributes:
        candidate: what was judged.
        known: its prediction, verdict and time, as far as they were asked for.
        resumed: nothing of it was run in this run so far.
    """

    candidate: Candidate
    known: Evaluation
    resumed: bool

    @property
    def rejected(self) -> bool:
        """The compiler or the gate said no."""
        return self.known.verdict is not None and not self.known.verdict.accepted

    @property
    def accepted(self) -> bool:
        """The gate said yes: only then is a measured time the time of a right kernel."""
        return self.known.verdict is not None and self.known.verdict.accepted

    @property
    def predicted_ms(self) -> float:
        """The modelled time, milliseconds; infinite where there is none."""
        return self.known.prediction.time_ms if self.known.prediction is not None else float("inf")

    @property
    def predicted_gpu_ms(self) -> float:
        """The modelled time on the GPU alone, milliseconds; infinite where there is none."""
        return self.known.prediction.gpu_ms if self.known.prediction is not None else float("inf")

    @property
    def measured_ms(self) -> float:
        """The measured time, milliseconds, of a kernel that may be wrong; infinite where there is none."""
        return self.known.measured.time_ms if self.known.measured is not None else float("inf")


class Evaluator:
    """Asks model, clock and gate, each once for a candidate, in this run or an earlier one."""

    def __init__(
        self,
        task: Task,
        tools: Tools,
        effort: Effort,
        timing: str,
        versions: Mapping[str, str],
        memory: Memory,
        meter: Meter,
        *,
        graphs: bool = False,
    ) -> None:
        """`timing` says how times are obtained, as `trial_key` takes it; with `graphs` the GPU's time alone decides."""
        self._task = task
        self._tools = tools
        self._effort = effort
        self._timing = timing
        self._versions = versions
        self._memory = memory
        self._of_task = task_key(task, timing, graphs=graphs)
        self._meter = meter
        self._graphs = graphs
        self._clock: Clock | None = None
        self._on_gpu = threading.Lock()
        self.notes: list[str] = []
        self.peer_failures: dict[str, str] = {}

    def predict(self, candidate: Candidate) -> Judged:
        """Compile one candidate and ask the model; one that cannot be compiled is rejected here."""
        [judged] = self.predict_all([candidate])
        return judged

    def predict_all(self, candidates: Sequence[Candidate]) -> Generator[Judged, None, None]:
        """Compile candidates on all cores, ahead of whoever reads the results; these come in order.

        What is not read any more is not begun: a reader that stops early closes the iterator.
        """
        found = {candidate.digest: self._find(candidate) for candidate in candidates}
        known = {digest: item for digest, item in found.items() if item is not None and _is_compiled(item)}
        fresh = [candidate for candidate in candidates if candidate.digest not in known]
        with ThreadPoolExecutor(max_workers=_cores()) as pool:
            size = 1 if self._tools.compile_together is None else _GROUP if _cores() >= _MANY_CORES else _SMALL_GROUP
            groups = [(pool.submit(self._predict_group, together), together) for together in group(fresh, size)]
            asked = {
                candidate.digest: (judged, number)
                for judged, together in groups
                for number, candidate in enumerate(together)
            }
            try:
                for candidate in candidates:
                    if candidate.digest in known:
                        yield Judged(candidate, known[candidate.digest], resumed=True)
                    else:
                        judged, number = asked[candidate.digest]
                        yield judged.result()[number]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _predict_group(self, candidates: Sequence[Candidate]) -> list[Judged]:
        """Each is stored as soon as it is known."""
        if self._tools.compile_together is not None and len(candidates) > 1:
            self._tools.compile_together(self._task, candidates)
        return [self._compiled(one, self._tools.predict(self._task, one)) for one in candidates]

    def _compiled(self, candidate: Candidate, prediction: Prediction) -> Judged:
        verdict = None
        if prediction.modelled is None:
            verdict = Verdict(prediction.findings, resources=prediction.resources, how="compile", oracle="")
        return self._learn(candidate, self._decided(Evaluation(prediction.modelled, verdict)))

    def gate(self, judged: Judged, say: Say) -> Judged:
        """The candidate's verdict, from the store or from the gate."""
        if judged.known.verdict is not None:
            return judged
        with self._meter.on("gate"):
            verdict = self._tools.gate(self._task, judged.candidate, self._effort.gate, say)
        return self._learn(judged.candidate, replace(judged.known, verdict=verdict))

    def gate_anyway(self, judged: Judged, say: Say) -> Judged:
        """The gate's verdict also where compiling already rejected: all that is wrong, for the report."""
        if judged.rejected and not judged.resumed:
            judged = replace(judged, known=replace(judged.known, verdict=None))
        return self.gate(judged, say)

    # The clock.

    def start_clock(self) -> None:
        """Let the measuring process warm up while other things are done."""
        if self._clock is None:
            self._clock = self._tools.open_clock(self._task)
            self._clock.start()

    def close_clock(self) -> None:
        """End the measuring process."""
        if self._clock is not None:
            self._clock.close()
            self._clock = None

    def measure(
        self,
        candidates: Sequence[Candidate],
        plan: str,
        peers: Sequence[Peer] = (),
        peers_s: float = 0.0,
        *,
        activity: str = "measure",
    ) -> Mapping[str, Measured]:
        """One interleaved measurement, `reference` among it: label -> time, of those that could be timed.

        Args:
            candidates, plan, peers, peers_s: as a `Clock` takes them.
            activity: what its time is charged to; empty where the caller does that.
        """
        with self._on_gpu, self._meter.on(activity) if activity else contextlib.nullcontext():
            self.start_clock()
            assert self._clock is not None
            report = self._clock.measure(candidates, plan, peers, peers_s)
        names = {peer.name for peer in peers}
        self.peer_failures |= {label: why for label, why in report.failures.items() if label in names}
        described = {item.digest: item.description for item in candidates}
        said = [
            *report.notes,
            *(
                f"{described.get(label, label)} could not be timed: {why}"
                for label, why in report.failures.items()
                if label not in names
            ),
        ]
        self.notes.extend(note for note in said if note not in self.notes)
        return {label: time.by_gpu_alone() if self._graphs else time for label, time in report.measured.items()}

    def timed(self, judged: Judged, measured: Measured) -> Judged:
        """The candidate with its time from the clock."""
        return self._learn(judged.candidate, replace(judged.known, measured=measured))

    # The store.

    def _key(self, candidate: Candidate) -> str:
        return trial_key(
            self._task,
            candidate,
            timing=self._timing,
            gate_effort=self._effort.gate,
            versions=self._versions,
        )

    def _find(self, candidate: Candidate) -> Evaluation | None:
        try:
            found = self._memory.find(self._key(candidate))
        except StoreError as error:
            self._note(error)
            return None
        return self._decided(found) if found is not None else None

    def _decided(self, known: Evaluation) -> Evaluation:
        """With its times as this run compares them; an earlier run may have asked otherwise."""
        prediction, measured = known.prediction, known.measured
        if prediction is not None and prediction.call_ms is not None:
            prediction = prediction.by_gpu_alone() if self._graphs else prediction.by_call()
        if measured is not None:
            measured = replace(measured, graphs=self._graphs)
        return replace(known, prediction=prediction, measured=measured)

    def _learn(self, candidate: Candidate, known: Evaluation) -> Judged:
        if self._memory.store is not None:
            key = self._key(candidate)
            try:
                self._memory.store.put(key, self._task, candidate, known, self._versions, of_task=self._of_task)
            except StoreError as error:
                self._note(error)
        return Judged(candidate, known, resumed=False)

    def _note(self, error: StoreError) -> None:
        """A store that fails costs nothing: what it could not take waits, and is written with what comes later."""
        note = f"the run went on without its store: {error.what}"
        if note not in self.notes:
            self.notes.append(note)


def _is_compiled(known: Evaluation) -> bool:
    return known.prediction is not None or known.verdict is not None


def _cores() -> int:
    """Compilations that this machine runs at once."""
    return min(_MOST_AT_ONCE, available_cores())
