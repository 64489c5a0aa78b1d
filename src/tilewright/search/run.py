"""The loop: proposers, gate, clock or model, and what was kept. One run is one study."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tilewright.proposers.llm.turn import Conversation, ExchangeLog, Turn
from tilewright.search.effort import Effort, find_effort
from tilewright.search.evaluate import Evaluator, Judged
from tilewright.search.exchanges import open_log
from tilewright.search.progress import Pace, Progress
from tilewright.search.reasons import gate_said, rejection
from tilewright.search.store import StudyStore, open_store
from tilewright.search.tools import Tools
from tilewright.search.understand import Understanding
from tilewright.search.versions import versions
from tilewright.task.load import require_reference
from tilewright.task.stage import StageRules
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.measurement import Measured, Timing
from tilewright.values.study import Outcome, Study, Trial


def optimize_task(
    task: Task,
    *,
    effort: str = "quick",
    out: Path | None = None,
    progress: Progress | None = None,
    study: Path | None = None,
    command: str = "",
    tools: Tools | None = None,
    conversation: Conversation | None = None,
    replay: Path | None = None,
    notes: Sequence[str] = (),
) -> Study:
    """Search for a faster module for `task` and return everything that was tried.

    Args:
        task: what is asked.
        effort: name of an effort level (`tilewright.search.effort`).
        out: folder of the results; the study store lies in it unless `study` says otherwise.
        progress: told what is being tried.
        study: the study store's file.
        command: the command that repeats the run, for the report.
        tools: what to call instead of the real proposers, gate, model and clock.
        conversation: a proposer that talks, asked after the others in each stage.
        replay: the study whose exchanges it hears again, instead of asking anybody.
        notes: what a reader of the study must know of how the run was set up.

    Raises:
        TilewrightError: the input is at fault; nothing was written.
    """
    level = find_effort(effort)
    require_reference(task)
    tools = tools or Tools()
    pace = Pace(progress, parts=2 + len(task.rules))
    pace.enter(0, "reading the task")
    understanding = tools.understand(task)
    with open_store(study, out) as (store, said), open_log(store if conversation else None, replay) as log:
        said += notes
        return _Search(task, tools, level, understanding, store, pace, said, conversation, log).run(command)


class _Search:
    """One run: its trials so far, the best of them, and the way on."""

    def __init__(
        self,
        task: Task,
        tools: Tools,
        effort: Effort,
        understanding: Understanding,
        store: StudyStore | None,
        pace: Pace,
        notes: list[str],
        conversation: Conversation | None = None,
        log: ExchangeLog | None = None,
    ) -> None:
        self.task = task
        self.tools = tools
        self.effort = effort
        self.understanding = understanding
        self.pace = pace
        self.notes = notes
        self.conversation = conversation
        self.log = log
        self.started = datetime.now(UTC)
        self.clock_start = time.monotonic()
        self.deadline = self.clock_start + effort.budget_s
        self.measures = self._can_measure()
        self.versions = versions()
        timing = "measured" if self.measures else "modelled"
        self.evaluator = Evaluator(task, tools, effort, timing, self.versions, store)
        self.reference: Timing | None = None
        self.given: Trial | None = None
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.seen: set[str] = set()
        self.synthesized = False

    def run(self, command: str) -> Study:
        """The whole search."""
        self.pace.enter(1, "what is there")
        self._time_what_is_there()
        idle = 0
        for part, rules in enumerate(self.task.rules, start=2):
            if reason := self._reason_to_stop(idle):
                self.notes.append(f"ended before stage {rules.stage}: {reason}")
                break
            self.pace.enter(part, f"stage {rules.stage}")
            proposed, gained = self._run_stage(rules)
            idle = 0 if gained else idle + int(proposed)
        if self.measures and self.best is not None:
            self._measure_once_more()
        self._compare_with_limited_code()
        return self._study(command)

    # What is there before the search.

    def _can_measure(self) -> bool:
        """Times are measured where the target itself is installed, and modelled elsewhere; never both."""
        installed = self.tools.installed()
        if installed is not None and installed.key == self.task.gpu.key:
            return True
        here = f"this machine has a {installed.name}" if installed is not None else "there is no GPU here"
        self.notes.append(f"times are modelled for the {self.task.gpu.name}, not measured: {here}")
        return False

    def _time_what_is_there(self) -> None:
        if self.task.given_code_is_specification:
            self.notes.append(
                "the given code is the specification: its outputs are taken to be right, and only changes that "
                "keep its meaning were tried"
            )
        if not self.measures:
            self.reference = self.tools.predict_reference(self.task, self.understanding)
        given = self._judge_given()
        if self.measures:
            times = self._measure([given.candidate] if given else [])
            self.reference = times.get("reference")
            if given is not None and self.given is not None and given.candidate.digest in times:
                self.given = replace(self.given, timing=times[given.candidate.digest])

    def _judge_given(self) -> Judged | None:
        if self.task.given_code is None:
            return None
        start = time.monotonic()
        origin = Origin.DOCUMENT if self.task.document is not None else Origin.FILE
        candidate = Candidate(self.task.given_code, origin, "the given code")
        self.seen.add(candidate.digest)
        self.pace.at(0, 2, "compiling the given code")
        judged = self.evaluator.predict(candidate)
        self.pace.at(1, 2, "the gate on the given code")
        judged = self.evaluator.gate_anyway(judged, self.pace.say)
        self.given = Trial(
            number=0,
            stage="",
            candidate=candidate,
            outcome=Outcome.REJECTED if judged.rejected else Outcome.GIVEN,
            reason=gate_said(judged.known.verdict),
            verdict=judged.known.verdict,
            timing=None if self.measures else judged.known.prediction,
            prediction=judged.known.prediction,
            seconds=time.monotonic() - start,
            resumed=judged.resumed,
        )
        return judged

    # The stages.

    def _reason_to_stop(self, idle: int) -> str:
        """Why the run ends here; empty where it goes on."""
        if self._time_is_up():
            return f"the {self.effort.budget_s:.0f} s of effort {self.effort.name} are spent"
        if idle >= self.effort.idle_stages:
            return f"{idle} stage{'s' if idle > 1 else ''} in a row gained nothing"
        fraction = self._fraction_of_speed_of_light()
        if fraction is not None and fraction >= self.effort.near_speed_of_light:
            return f"the best is at {100 * fraction:.0f} % of the speed of light"
        return ""

    def _time_is_up(self) -> bool:
        return time.monotonic() > self.deadline

    def _fraction_of_speed_of_light(self) -> float | None:
        floor = self.understanding.floors.get(self.task.precision)
        if floor is None or self.best is None or self.best.timing is None:
            return None
        return floor.time_ms / self.best.timing.time_ms

    def _run_stage(self, rules: StageRules) -> tuple[bool, bool]:
        """One stage: (anything was proposed, something was kept)."""
        best_before = self.best
        trials_before = len(self.trials)
        if self._may_synthesize(rules):
            self.synthesized = True
            self.pace.say("writing candidates from the reference")
            self._try_batch(rules, self.tools.synthesize(self.task, self.pace.say))
        code = self._code_to_tune()
        if self.effort.retune and code is not None and not self._time_is_up():
            self.pace.say("writing variants of the best code so far")
            self._try_batch(rules, self._retuned(rules, code))
        if self.conversation is not None:
            self._converse(self.conversation, rules)
        return len(self.trials) > trials_before, self.best is not best_before

    def _converse(self, conversation: Conversation, rules: StageRules) -> None:
        """Ask a proposer that talks, judge what it proposes, and ask again, until it has nothing more to say.

        Its time is its own: while it has the word its budget counts, and the search's stands still.
        """
        before, began = self.deadline, time.monotonic()
        try:
            while True:
                candidates = conversation.propose(self._turn(rules), self.log, self.pace.say)
                if not candidates:
                    return
                self.deadline = time.monotonic() + self.effort.budget_s
                self._try_batch(rules, candidates)
        finally:
            self.deadline = before + time.monotonic() - began

    def _turn(self, rules: StageRules) -> Turn:
        floor = self.understanding.floors.get(self.task.precision)
        given = [self.given] if self.given is not None else []
        return Turn(
            task=self.task,
            rules=rules,
            current=self._code_to_tune(),
            trials=(*given, *self.trials),
            reference=self.reference,
            floor_ms=floor.time_ms if floor is not None else None,
        )

    def _may_synthesize(self, rules: StageRules) -> bool:
        """Once in a run, in the first stage that allows a new grid, or where there is nothing right to start from."""
        if self.synthesized or self.task.given_code_is_specification:
            return False
        return rules.may_change_grid or self._code_to_tune() is None

    def _code_to_tune(self) -> Trial | None:
        """The best code so far; the given code where nothing was better and the gate accepts it, limits or not."""
        if self.best is not None:
            return self.best
        if self.given is None or not (self.given.outcome is Outcome.GIVEN or self.task.given_code_is_specification):
            return None
        return self.given

    def _retuned(self, rules: StageRules, start: Trial) -> list[Candidate]:
        """Variants of a trial's code; what they inherit from it is said of them too."""
        resources = start.verdict.resources if start.verdict is not None else ()
        original = start.candidate
        return [
            replace(
                candidate,
                parent=candidate.parent or original.digest,
                native=candidate.native or original.native,
                scratch=candidate.scratch or original.scratch,
                collapses=candidate.collapses or original.collapses,
                needs_reference=original.needs_reference,
            )
            for candidate in self.tools.retune(self.task, original.source, rules, resources)
        ]

    def _try_batch(self, rules: StageRules, proposals: Sequence[Candidate]) -> None:
        fresh = []
        for candidate in proposals:
            if candidate.digest not in self.seen:
                self.seen.add(candidate.digest)
                fresh.append(candidate)
        if len(fresh) > self.effort.predicted:
            self.notes.append(
                f"stage {rules.stage}: {len(fresh)} candidates were proposed, the first {self.effort.predicted} tried "
                f"(effort {self.effort.name})"
            )
        ranked = self._predict_all(rules, fresh[: self.effort.predicted])
        if self.measures:
            self._measure_batch(rules, ranked)
        else:
            self._model_batch(rules, ranked)

    def _predict_all(self, rules: StageRules, candidates: Sequence[Candidate]) -> list[Judged]:
        """Those that compile, by modelled time; the others are trials that ended here."""
        ranked: list[Judged] = []
        count = len(candidates)
        with contextlib.closing(self.evaluator.predict_all(candidates)) as compiled:
            for index, candidate in enumerate(candidates):
                if self._time_is_up():
                    self.notes.append(f"stage {rules.stage}: {count - index} candidates were not tried, time was up")
                    break
                start = time.monotonic()
                self.pace.at(index, 2 * count, f"compiling {candidate.description}")
                judged = next(compiled)
                if judged.rejected:
                    self._record(rules, judged, Outcome.REJECTED, rejection(judged.known.verdict), since=start)
                else:
                    ranked.append(judged)
        return sorted(ranked, key=lambda judged: judged.predicted_ms)

    # Without the target: the model's order, the gate for those that would gain.

    def _model_batch(self, rules: StageRules, ranked: Sequence[Judged]) -> None:
        verified = 0
        for index, judged in enumerate(ranked):
            start = time.monotonic()
            shortfall = self._shortfall(judged.candidate, judged.known.prediction, rules)
            if shortfall:
                self._record(rules, judged, Outcome.REVERTED, f"{shortfall}; not put through the gate", since=start)
                continue
            if verified == self.effort.verified:
                reason = f"effort {self.effort.name} puts {verified} candidates of a batch through the gate"
                self._record(rules, judged, Outcome.REVERTED, reason, since=start)
                continue
            self.pace.at(len(ranked) + index, 2 * len(ranked), f"the gate on {judged.candidate.description}")
            verified += 1
            passed = self.evaluator.gate(judged, self.pace.say)
            if passed.rejected:
                self._record(rules, passed, Outcome.REJECTED, rejection(passed.known.verdict), since=start)
            else:
                self._keep(rules, passed, passed.known.prediction, since=start)

    # With the target: the gate for all that are near, then one interleaved measurement.

    def _measure_batch(self, rules: StageRules, ranked: Sequence[Judged]) -> None:
        accepted: list[Judged] = []
        start = time.monotonic()
        near = ranked[0].predicted_ms * self.effort.far_behind if ranked else 0.0
        for index, judged in enumerate(ranked):
            if judged.predicted_ms > near:
                reason = f"modelled at {judged.predicted_ms:.4g} ms, far behind the best of its batch; not measured"
                self._record(rules, judged, Outcome.REVERTED, reason, since=start)
                continue
            self.pace.at(len(ranked) + index, 2 * len(ranked), f"the gate on {judged.candidate.description}")
            passed = self.evaluator.gate(judged, self.pace.say)
            if passed.rejected:
                self._record(rules, passed, Outcome.REJECTED, rejection(passed.known.verdict), since=start)
            else:
                accepted.append(passed)
        timed = self._times_of(accepted)
        for judged in sorted(timed, key=_measured_ms):
            shortfall = self._shortfall(judged.candidate, judged.known.measured, rules)
            if shortfall:
                self._record(rules, judged, Outcome.REVERTED, shortfall, since=start)
            else:
                self._keep(rules, judged, judged.known.measured, since=start)

    def _times_of(self, accepted: Sequence[Judged]) -> list[Judged]:
        """The accepted candidates with measured times; those without one from an earlier run are timed now,
        in one run with the best so far, whose time is taken anew with theirs."""
        missing = [judged for judged in accepted if judged.known.measured is None]
        if not missing:
            return list(accepted)
        self.pace.say(f"measuring {len(missing)} candidate{'s' if len(missing) > 1 else ''}")
        incumbent = self._code_to_tune()
        beside = [incumbent.candidate] if incumbent is not None else []
        times = self._measure([*beside, *(judged.candidate for judged in missing)])
        self.reference = times.get("reference", self.reference)
        if incumbent is not None and incumbent.candidate.digest in times:
            self._retime(incumbent, times[incumbent.candidate.digest])
        return [
            self.evaluator.measured(judged, times[judged.candidate.digest])
            if judged.known.measured is None and judged.candidate.digest in times
            else judged
            for judged in accepted
        ]

    def _measure(self, candidates: Sequence[Candidate]) -> Mapping[str, Measured]:
        """One interleaved measurement: label -> time, of those that could be timed."""
        report = self.tools.measure(self.task, candidates, self.effort.gate)
        said = [*report.notes, *(f"{label} could not be timed: {why}" for label, why in report.failures.items())]
        self.notes.extend(note for note in said if note not in self.notes)
        return report.measured

    def _retime(self, trial: Trial, timing: Timing) -> None:
        retimed = replace(trial, timing=timing)
        if trial is self.given:
            self.given = retimed
            return
        self.trials = [retimed if other is trial else other for other in self.trials]
        if trial is self.best:
            self.best = retimed

    def _measure_once_more(self) -> None:
        """All rows of the final table in one interleaved run; a gain that does not show again is not one."""
        assert self.best is not None
        self.pace.say("measuring the result once more, beside what was there")
        beside = [self.given.candidate] if self.given is not None else []
        times = self._measure([self.best.candidate, *beside])
        self.reference = times.get("reference", self.reference)
        if self.given is not None and self.given.candidate.digest in times:
            self._retime(self.given, times[self.given.candidate.digest])
        if self.best.candidate.digest in times:
            self._retime(self.best, times[self.best.candidate.digest])
        best = self.best
        self.best = None
        if shortfall := self._shortfall(best.candidate, best.timing, self.task.rules[-1]):
            reverted = replace(best, outcome=Outcome.REVERTED, reason=f"measured once more at the end: {shortfall}")
            self.trials = [reverted if other is best else other for other in self.trials]
        else:
            self.best = best

    def _compare_with_limited_code(self) -> None:
        """Say so where the given code is faster than the result and right only within limits."""
        given, best = self.given, self.best
        if given is None or given.verdict is None or not given.verdict.limits or given.timing is None:
            return
        if best is not None and best.timing is not None and given.timing.time_ms < best.timing.time_ms:
            self.notes.append(
                f"the given code is {given.timing.label} at {given.timing.time_ms:.4g} ms, faster than the result, but "
                f"right only within limits: {given.verdict.limits[0].message}"
            )

    # What was kept.

    def _incumbent(self, candidate: Candidate) -> tuple[Timing, str] | None:
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

    def _shortfall(self, candidate: Candidate, timing: Timing | None, rules: StageRules) -> str:
        """Why this time is no gain; empty where it is one."""
        if timing is None:
            return "it could not be timed"
        incumbent = self._incumbent(candidate)
        if incumbent is None:
            return ""
        to_beat, whose = incumbent
        needed = to_beat.time_ms * (1.0 - rules.min_gain_percent / 100.0)
        if timing.time_ms <= needed:
            return ""
        return (
            f"{timing.label} at {timing.time_ms:.4g} ms, which is not {rules.min_gain_percent:g} % faster than "
            f"{whose} at {to_beat.time_ms:.4g} ms"
        )

    def _keep(self, rules: StageRules, judged: Judged, timing: Timing | None, *, since: float) -> None:
        incumbent = self._incumbent(judged.candidate)
        reason = f"{timing.label} at {timing.time_ms:.4g} ms" if timing is not None else "accepted"
        if timing is not None and incumbent is not None:
            reason += f", {incumbent[0].time_ms / timing.time_ms:.3g}x as fast as {incumbent[1]}"
        self.best = self._record(rules, judged, Outcome.KEPT, reason, since=since)

    def _record(self, rules: StageRules, judged: Judged, outcome: Outcome, reason: str, *, since: float) -> Trial:
        timing: Measured | Timing | None = judged.known.measured if self.measures else judged.known.prediction
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

    def _study(self, command: str) -> Study:
        floor = self.understanding.floors.get(self.task.precision)
        return Study(
            task=self.task.name,
            gpu=self.task.gpu.name,
            gpu_key=self.task.gpu.key,
            precision=str(self.task.precision),
            stages=tuple(str(stage) for stage in self.task.stages),
            effort=self.effort.name,
            oracle="given code" if self.task.given_code_is_specification else "reference",
            versions=dict(self.versions),
            command=command,
            started=self.started.isoformat(timespec="seconds"),
            seconds=time.monotonic() - self.clock_start,
            timing_kind="measured" if self.measures else "modelled",
            reference=self.reference,
            given=self.given,
            trials=tuple(self.trials),
            best_number=self.best.number if self.best is not None else None,
            work=self.understanding.work,
            speed_of_light=floor,
            notes=(*self.notes, *self.evaluator.notes, *self._said_by_conversation()),
            exchanges=self.conversation.exchanges if self.conversation is not None else (),
        )

    def _said_by_conversation(self) -> tuple[str, ...]:
        spoken = self.conversation.notes if self.conversation is not None else ()
        return (*spoken, *(self.log.notes if self.log is not None and self.conversation is not None else ()))


def _measured_ms(judged: Judged) -> float:
    return judged.known.measured.median_ms if judged.known.measured is not None else float("inf")
