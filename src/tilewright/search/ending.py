"""The end of a run: one file for all shapes, one last measurement, and whether the result beats what the user had."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tilewright.search.effort import Effort
from tilewright.search.evaluate import Evaluator
from tilewright.search.ledger import Ledger
from tilewright.search.peers import Peers
from tilewright.search.progress import Pace
from tilewright.search.reasons import rejection
from tilewright.search.shapes import serve_shapes
from tilewright.task.task import Task
from tilewright.values.study import Outcome, Trial


@dataclass
class Ending:
    """What becomes of the best.

    Attributes:
        task, effort, ledger, evaluator, peers, pace, notes: of the run.
        evaluator_for: a task -> what evaluates candidates for it.
        own_elements: elements of the task's own first input.
        runner_up: number of the trial that is the fastest of ours where a peer is faster.
    """

    task: Task
    effort: Effort
    ledger: Ledger
    evaluator: Evaluator
    peers: Peers
    pace: Pace
    notes: list[str]
    evaluator_for: Callable[[Task], Evaluator]
    own_elements: int
    runner_up: int | None = None

    def settle(self) -> None:
        """Whatever is the best when this returns is the result."""
        if self.task.also_inputs and self.ledger.best is not None:
            self._serve_all_shapes(self.ledger.best)
        self.peers.settle()
        if self.ledger.measures and self.ledger.best is not None:
            self._measure_once_more()
        if self.ledger.best is not None:
            self._hold_against_peers(self.ledger.best)

    def _serve_all_shapes(self, best: Trial) -> None:
        """Schedules by shape in one file, where more shapes than one are asked for and it pays."""
        start = time.monotonic()
        others = [trial.candidate for trial in self.ledger.trials if trial.outcome is not Outcome.REJECTED]
        one, note = serve_shapes(
            self.task,
            best.candidate,
            others,
            self.own_elements,
            self.evaluator_for,
            measures=self.ledger.measures,
            say=self.pace.say,
        )
        self.notes.append(note)
        if one is None:
            return
        rules = self.task.rules[-1]
        judged = self.evaluator.gate(self.evaluator.predict(one), self.pace.say)
        if judged.rejected:
            self.ledger.record(rules, judged, Outcome.REJECTED, rejection(judged.known.verdict), since=start)
            return
        if self.ledger.measures:
            times = self.evaluator.measure([one, best.candidate], self.effort.bounds.final)
            if one.digest not in times:
                return
            judged = self.evaluator.timed(judged, times[one.digest])
        self.ledger.best = self.ledger.record(rules, judged, Outcome.KEPT, note, since=start)

    def _measure_once_more(self) -> None:
        """All rows of the final table in one interleaved run; a gain that does not show again is not one."""
        best, given = self.ledger.best, self.ledger.given
        assert best is not None
        self.pace.say("measuring the result once more, beside what was there")
        beside = [given.candidate] if given is not None else []
        times = self.evaluator.measure(
            [best.candidate, *beside], self.effort.gate, self.peers.timed, self.peers.limit_s
        )
        self.ledger.retime(times)
        best, self.ledger.best = self.ledger.best, None
        assert best is not None
        shortfall = self.ledger.shortfall(best.candidate, best.timing, self.task.rules[-1])
        self.ledger.best = best
        if shortfall:
            self.ledger.withdraw_best(f"measured once more at the end: {shortfall}")

    def _hold_against_peers(self, best: Trial) -> None:
        """What a peer does as fast is no result, but the fastest of ours all the same."""
        faster = self.ledger.faster_peer(best, self.task.rules[-1])
        if faster:
            self.runner_up = best.number
            self.ledger.withdraw_best(faster)

    def compare_with_limited_code(self) -> None:
        """Say so where the given code is faster than the result and right only within limits."""
        given, best = self.ledger.given, self.ledger.best
        if given is None or given.verdict is None or not given.verdict.limits or given.timing is None:
            return
        if best is not None and best.timing is not None and given.timing.time_ms < best.timing.time_ms:
            self.notes.append(
                f"the given code is {given.timing.label} at {given.timing.time_ms:.4g} ms, faster than the result, but "
                f"right only within limits: {given.verdict.limits[0].message}"
            )
