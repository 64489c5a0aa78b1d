"""One batch of candidates of a stage: compiled on all cores, timed, and the fastest put through the gate.

Where the target is installed the clock comes before the gate: times are cheap once kernels are compiled, verdicts are
dear. A time that was taken of an unverified kernel decides only who goes through the gate next; it is not reported.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from tilewright.measure.timer import PLANS
from tilewright.search.ahead import Ahead
from tilewright.search.budget import Budget
from tilewright.search.effort import Effort
from tilewright.search.evaluate import Evaluator, Judged
from tilewright.search.ledger import Ledger
from tilewright.search.meter import Meter
from tilewright.search.progress import Pace
from tilewright.search.reasons import rejection
from tilewright.search.strategies import Ask, Option, choose, far_behind_ms, find_strategy
from tilewright.task.stage import StageRules
from tilewright.values.candidate import Candidate
from tilewright.values.study import Outcome

#: So many candidates are compiled where nothing was kept so far, whatever the time.
_FEW = 4


class Batches:
    """Tries batches; what comes of them goes into the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        evaluator: Evaluator,
        effort: Effort,
        pace: Pace,
        notes: list[str],
        meter: Meter,
        budget: Budget,
        settle: Callable[[], None],
        gate_begins: Callable[[Candidate], None],
    ) -> None:
        """Where to look, and whom to tell.

        Args:
            ledger, evaluator, effort, pace, notes, meter, budget: of the run.
            settle: called before anything is compared: what there was before the search has its time then.
            gate_begins: told of each candidate that goes through the gate.
        """
        self._ledger = ledger
        self._evaluator = evaluator
        self._effort = effort
        self._pace = pace
        self._notes = notes
        self._meter = meter
        self._budget = budget
        self._settle = settle
        self._gate_begins = gate_begins
        self._seen: set[str] = set()

    def mark(self, candidate: Candidate) -> None:
        """This source is known; a proposal of it is none."""
        self._seen.add(candidate.digest)

    def try_all(self, rules: StageRules, proposals: Sequence[Candidate]) -> int:
        """Try what is new among the proposals; returns how many that was."""
        fresh = []
        for candidate in proposals:
            if candidate.digest not in self._seen:
                self.mark(candidate)
                fresh.append(candidate)
        if not fresh:
            return 0
        if self._ledger.best is not None and not self._budget.suffices_for("compile"):
            self._notes.append(f"stage {rules.stage}: {len(fresh)} candidates were not tried, time was up")
            return 0
        most = self._effort.predicted
        if len(fresh) > most:
            self._notes.append(
                f"stage {rules.stage}: {len(fresh)} candidates were proposed, the first {most} tried "
                f"(effort {self._effort.name})"
            )
        with self._meter.on("compile"):
            ranked = self._predict(rules, fresh[:most])
        self._settle()
        if self._ledger.measures:
            self._measure(rules, ranked)
        else:
            self._model(rules, ranked)
        return min(len(fresh), most)

    def _predict(self, rules: StageRules, candidates: Sequence[Candidate]) -> list[Judged]:
        """Those that compile, by modelled time; the others are trials that ended here."""
        ranked: list[Judged] = []
        count = len(candidates)
        bounds = self._effort.bounds
        ahead = Ahead(
            self._evaluator, bounds.scout, bounds.at_once, active=self._ledger.measures and self._measures_all(count)
        )
        with ahead, contextlib.closing(self._evaluator.predict_all(candidates)) as compiled:
            for index, candidate in enumerate(candidates):
                if self._budget.is_up and self._has_enough(ranked):
                    self._notes.append(f"stage {rules.stage}: {count - index} candidates were not tried, time was up")
                    break
                start = time.monotonic()
                self._pace.at(index, 2 * count, f"compiling {candidate.description}")
                judged = next(compiled)
                if judged.rejected:
                    reason = rejection(judged.known.verdict)
                    self._ledger.record(rules, judged, Outcome.REJECTED, reason, since=start)
                else:
                    ranked.append(judged)
                    if not _is_timed(judged, PLANS[bounds.scout].min_samples):
                        ahead.offer(judged.candidate)
            times = ahead.times()
        ranked = [
            self._evaluator.timed(one, times[one.candidate.digest]) if one.candidate.digest in times else one
            for one in ranked
        ]
        # Where the host binds all candidates, the GPU's time tells them apart.
        return sorted(ranked, key=lambda judged: (judged.predicted_ms, judged.predicted_gpu_ms))

    def _measures_all(self, count: int) -> bool:
        """A batch of so many is measured whole, whatever the model says: it need not be compiled whole before."""
        return not self._effort.far_behind and count <= min(self._effort.small, self._effort.bounds.measurements)

    def _has_enough(self, ranked: Sequence[Judged]) -> bool:
        """Something was kept before, or there is something to choose from: a run that is short of time ends here."""
        return self._ledger.best is not None or len(ranked) >= _FEW or not self._ledger.measures

    # Without the target: the model's order, the gate for those that would gain.

    def _model(self, rules: StageRules, ranked: Sequence[Judged]) -> None:
        verified = 0
        for index, judged in enumerate(ranked):
            start = time.monotonic()
            shortfall = self._ledger.shortfall(judged.candidate, judged.known.prediction, rules)
            if shortfall:
                reason = f"{shortfall}; not put through the gate"
                self._ledger.record(rules, judged, Outcome.REVERTED, reason, since=start)
            elif why := self._no_gate(verified):
                self._ledger.record(rules, judged, Outcome.REVERTED, why, since=start)
            else:
                verified += 1
                self._pace.at(len(ranked) + index, 2 * len(ranked), f"the gate on {judged.candidate.description}")
                self._gate(rules, judged, since=start)

    def _no_gate(self, verified: int) -> str:
        """Why no more candidates of a batch go through the gate after so many; empty where one more does."""
        if verified == self._effort.verified:
            return f"effort {self._effort.name} puts {verified} candidates of a batch through the gate"
        found_nothing = self._ledger.best is None and not self._budget.is_over
        if found_nothing or self._budget.suffices_for("gate"):
            return ""
        return f"no time was left for the gate ({self._budget.left_s:.0f} s of {self._budget.seconds:.0f} s)"

    def _gate(self, rules: StageRules, judged: Judged, *, since: float) -> None:
        self._gate_begins(judged.candidate)
        passed = self._evaluator.gate(judged, self._pace.say)
        if passed.rejected:
            self._ledger.record(rules, passed, Outcome.REJECTED, rejection(passed.known.verdict), since=since)
            return
        timing = passed.known.measured if self._ledger.measures else passed.known.prediction
        self._ledger.keep(rules, passed, timing, since=since)

    # With the target: the clock for all that may be fast, then the gate for the fastest, until one passes.

    def _measure(self, rules: StageRules, ranked: Sequence[Judged]) -> None:
        start = time.monotonic()
        near = self._near(rules, ranked)
        judged = self._timed(near)
        verified = 0
        enough = PLANS[self._effort.bounds.final].min_samples
        # Those that were sampled often, first: a few samples may flatter.
        for one in sorted(judged, key=lambda one: (not _is_timed(one, enough), one.measured_ms)):
            shortfall = self._ledger.shortfall(one.candidate, one.known.measured, rules, tell=one.accepted)
            if shortfall:
                reason = shortfall if one.accepted else f"{shortfall}; not put through the gate"
                self._ledger.record(rules, one, Outcome.REVERTED, reason, since=start)
            elif why := self._no_gate(verified):
                self._ledger.record(rules, one, Outcome.REVERTED, why, since=start)
            else:
                verified += 1
                self._pace.at(2 * len(judged) - 1, 2 * len(judged), f"the gate on {one.candidate.description}")
                self._gate(rules, one, since=start)

    def _near(self, rules: StageRules, ranked: Sequence[Judged]) -> list[Judged]:
        """Without those that the model puts far behind the best of the batch.

        PyTorch's own operations are modelled from their work alone: of the candidates that leave the same ones to it,
        the first stays in, so that fused kernels are always measured beside what is there already.
        """
        limit = far_behind_ms([judged.predicted_ms for judged in ranked], self._effort.far_behind)
        first: dict[tuple[str, ...], Judged] = {}
        for judged in ranked:
            first.setdefault(judged.candidate.native, judged)
        start = time.monotonic()
        near = []
        for judged in ranked:
            if judged.predicted_ms <= limit or first[judged.candidate.native] is judged:
                near.append(judged)
                continue
            reason = f"modelled at {judged.predicted_ms:.4g} ms, far behind the best of its batch; not measured"
            self._ledger.record(rules, judged, Outcome.REVERTED, reason, since=start)
        return near

    def _timed(self, judged: Sequence[Judged]) -> list[Judged]:
        """The batch with its times, as far as the strategy asks for them. What an earlier run timed is not asked again.

        The best so far, the given code and the reference are measured anew beside the finalists.
        """
        by_key = {one.candidate.digest: one for one in judged}
        options = [Option(one.candidate.digest, one.predicted_ms, parameters_of(one.candidate)) for one in judged]
        strategy = find_strategy(choose(len(options), self._effort.small, self._effort.strategy))
        steps = strategy(options, self._effort.bounds)
        with contextlib.suppress(StopIteration), contextlib.closing(steps):
            ask = next(steps)
            while not self._budget.is_up or (self._ledger.best is None and not self._budget.is_over):
                ask = steps.send(self._answer(ask, by_key))
        return list(by_key.values())

    def _answer(self, ask: Ask, by_key: dict[str, Judged]) -> Mapping[str, float]:
        enough = PLANS[ask.plan].min_samples
        missing = [key for key in ask.keys if not _is_timed(by_key[key], enough)]
        if missing:
            self._clock(missing, ask.plan, by_key)
        return {key: by_key[key].measured_ms for key in ask.keys if by_key[key].known.measured is not None}

    def _clock(self, keys: Sequence[str], plan: str, by_key: dict[str, Judged]) -> None:
        self._pace.say(f"measuring {len(keys)} candidate{'s' if len(keys) > 1 else ''}")
        is_final = plan == self._effort.bounds.final
        incumbent = self._ledger.code_to_tune
        beside = [incumbent.candidate] if incumbent is not None and is_final else []
        times = self._evaluator.measure([*beside, *(by_key[key].candidate for key in keys)], plan)
        if is_final:
            self._ledger.retime(times)
        for key in keys:
            if key in times:
                by_key[key] = self._evaluator.timed(by_key[key], times[key])


def _is_timed(judged: Judged, samples: int) -> bool:
    return judged.known.measured is not None and judged.known.measured.samples >= samples


def parameters_of(candidate: Candidate) -> Mapping[str, int]:
    """The schedule's parameters by name, kernels numbered in order."""
    found: dict[str, int] = {}
    for number, schedule in enumerate(candidate.schedules):
        values = [*schedule.tile, ("num_warps", schedule.num_warps), ("num_stages", schedule.num_stages)]
        found |= {f"{number}.{name}": value for name, value in (*values, ("split", schedule.split))}
    return found
