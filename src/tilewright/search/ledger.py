"""The trials of a run, what was kept, and what a newcomer has to beat."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tilewright.search.evaluate import Judged
from tilewright.task.stage import StageRules
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Measured, Timing
from tilewright.values.study import Outcome, Trial


@dataclass
class Ledger:
    """What was tried so far.

    Attributes:
        task: what is asked.
        measures: times are measured, not modelled.
        reference: time of the reference.
        given: the given code's trial.
        trials: in order.
        best: the trial that was kept last.
        peers: name -> time of each peer that could be timed.
    """

    task: Task
    measures: bool
    reference: Timing | None = None
    given: Trial | None = None
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    peers: Mapping[str, Timing] = field(default_factory=dict)

    @property
    def code_to_tune(self) -> Trial | None:
        """The best code so far; the given code where nothing was better and the gate accepts it, limits or not."""
        if self.best is not None:
            return self.best
        if self.given is None or not (self.given.outcome is Outcome.GIVEN or self.task.given_code_is_specification):
            return None
        return self.given

    def incumbent(self, candidate: Candidate) -> tuple[Timing, str] | None:
        """The time that a candidate has to beat, and whose it is.

        Given code that is right only within limits is no bar for a candidate that is right without them, only for
        its own variants.
        """
        if self.best is not None and self.best.timing is not None:
            return self.best.timing, f"trial {self.best.number}"
        rows: list[tuple[Timing, str]] = []
        if self.reference is not None:
            rows.append((self.reference, "the reference"))
        given = self.given
        if given is not None and given.timing is not None:
            is_variant = candidate.parent == given.candidate.digest
            if given.is_right or self.task.given_code_is_specification or is_variant:
                rows.append((given.timing, "the given code"))
        return min(rows, key=lambda row: row[0].time_ms, default=None)

    def shortfall(self, candidate: Candidate, timing: Timing | None, rules: StageRules, *, tell: bool = True) -> str:
        """Why this time is no gain; empty where it is one. `tell` says the time itself: only of code that is right."""
        if timing is None:
            return "it could not be timed"
        incumbent = self.incumbent(candidate)
        if incumbent is None:
            return ""
        to_beat, whose = incumbent
        needed = to_beat.time_ms * (1.0 - rules.min_gain_percent / 100.0)
        if timing.time_ms <= needed:
            return ""
        own = f"{timing.label} at {timing.time_ms:.4g} ms, which is" if tell else f"{timing.label}, it is"
        return f"{own} not {rules.min_gain_percent:g} % faster than {whose} at {to_beat.time_ms:.4g} ms"

    def faster_peer(self, best: Trial, rules: StageRules) -> str:
        """Which peer the best does not beat by more than the noise, with both times; empty where there is none."""
        if not self.peers or best.timing is None:
            return ""
        name, peer = min(self.peers.items(), key=lambda row: row[1].time_ms)
        own_ms = best.timing.time_ms
        if own_ms <= peer.time_ms * (1.0 - rules.min_gain_percent / 100.0):
            return ""
        is_slower = peer.time_ms <= own_ms * (1.0 - rules.min_gain_percent / 100.0)
        how = "faster" if is_slower else f"as fast within {rules.min_gain_percent:g} %"
        return f"{name} is {how}: {peer.time_ms:.4g} ms, ours {own_ms:.4g} ms"

    def keep(self, rules: StageRules, judged: Judged, timing: Timing | None, *, since: float) -> None:
        """A trial that is the best from now on."""
        incumbent = self.incumbent(judged.candidate)
        reason = f"{timing.label} at {timing.time_ms:.4g} ms" if timing is not None else "accepted"
        if timing is not None and incumbent is not None:
            reason += f", {incumbent[0].time_ms / timing.time_ms:.3g}x as fast as {incumbent[1]}"
        self.best = self.record(rules, judged, Outcome.KEPT, reason, since=since)

    def record(self, rules: StageRules, judged: Judged, outcome: Outcome, reason: str, *, since: float) -> Trial:
        """A trial, whatever came of it. A measured time is reported of code alone that passed the gate."""
        timing: Timing | None = judged.known.prediction
        if self.measures:
            timing = judged.known.measured if judged.accepted else None
        trial = Trial(
            number=len(self.trials) + 1,
            stage=str(rules.stage),
            candidate=judged.candidate,
            outcome=outcome,
            reason=reason,
            verdict=judged.known.verdict,
            timing=timing,
            prediction=judged.known.prediction,
            seconds=0.0 if judged.resumed else time.monotonic() - since,
            resumed=judged.resumed,
        )
        self.trials.append(trial)
        return trial

    def retime(self, times: Mapping[str, Measured]) -> None:
        """New times of the reference, the peers, the given code and the best, as far as they are among `times`."""
        self.reference = times.get("reference", self.reference)
        self.peers = {name: times.get(name, time) for name, time in self.peers.items()}
        if self.given is not None and self.given.candidate.digest in times:
            self.given = replace(self.given, timing=times[self.given.candidate.digest])
        if self.best is not None and self.best.candidate.digest in times:
            self._replace(self.best, replace(self.best, timing=times[self.best.candidate.digest]))

    def withdraw_best(self, reason: str) -> None:
        """The best is no gain after all."""
        assert self.best is not None
        self._replace(self.best, replace(self.best, outcome=Outcome.REVERTED, reason=reason))
        self.best = None

    def trial(self, number: int | None) -> Trial | None:
        """The trial of that number; None for none."""
        return next((trial for trial in self.trials if trial.number == number), None)

    def _replace(self, old: Trial, new: Trial) -> None:
        self.trials = [new if other is old else other for other in self.trials]
        if self.best is old:
            self.best = new
