"""The loop: proposers, gate, clock or model, and what was kept. One run is one study."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tilewright.diagnosis.diagnose import in_short
from tilewright.measure.host import host_ms_of_compiled
from tilewright.proposers.llm.turn import Conversation, ExchangeLog, Turn
from tilewright.search.batch import Batches
from tilewright.search.budget import Budget
from tilewright.search.effort import Effort, find_effort
from tilewright.search.ending import Ending
from tilewright.search.evaluate import Evaluator
from tilewright.search.exchanges import open_log
from tilewright.search.ledger import Ledger
from tilewright.search.looks import Looks
from tilewright.search.meter import Meter
from tilewright.search.opening import Memory, open_memory
from tilewright.search.peers import Peers
from tilewright.search.progress import Pace, Progress
from tilewright.search.reasons import gate_said
from tilewright.search.recall import recalled_run, remember_run, tuned_elsewhere
from tilewright.search.sight import ceilings_of
from tilewright.search.tools import Tools
from tilewright.search.understand import Understanding
from tilewright.search.versions import versions
from tilewright.task.load import require_reference
from tilewright.task.precision import strictest_class
from tilewright.task.stage import StageRules
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.measurement import Timing, bound_by
from tilewright.values.sight import Sight
from tilewright.values.study import Outcome, StageResult, Study, Trial


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
    again: bool = False,
    graphs: bool = False,
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
        again: search also where the study holds a finished run for this task, these versions and this effort;
            otherwise its result is returned as it is.
        graphs: calls will be captured in CUDA graphs: the GPU's time alone decides.

    Raises:
        TilewrightError: the input is at fault; nothing was written.
    """
    level = find_effort(effort)
    require_reference(task)
    tools = tools or Tools()
    timing = _timing(task, tools)
    meter = Meter()
    measures = timing == "measured"
    seconds, gpu_s = (level.gpu_budget_s, level.gpu_time_s) if measures else (level.budget_s, math.inf)
    budget = Budget(seconds, meter, gpu_s=gpu_s)
    pace = Pace(progress, parts=2 + len(task.rules), left=lambda: budget.left_s)
    pace.enter(0, "reading the task")
    with open_memory(study, out) as memory, open_log(memory.store if conversation else None, replay) as log:
        memory.notes += notes
        if conversation is None and not again:
            recalled = recalled_run(memory, task, level, timing, graphs=graphs)
            if recalled is not None:
                return recalled
        with meter.on("understand"):
            understanding = tools.understand(task)
        run = _Run(task, tools, level, timing, graphs, understanding, memory, pace, meter, budget)
        search = _Search(run, conversation, log)
        return search.run(command)


def _timing(task: Task, tools: Tools) -> str:
    """Times are measured where the target itself is installed, and modelled elsewhere; never both."""
    installed = tools.installed()
    return "measured" if installed is not None and installed.key == task.gpu.key else "modelled"


@dataclass(frozen=True)
class _Run:
    """What a search is given: what is asked, what it calls, and what it may spend; `timing` as `_timing` says it."""

    task: Task
    tools: Tools
    effort: Effort
    timing: str
    graphs: bool
    understanding: Understanding
    memory: Memory
    pace: Pace
    meter: Meter
    budget: Budget

    def evaluator(self, task: Task | None = None, effort: Effort | None = None) -> Evaluator:
        """What evaluates candidates for the task, or for another one, with another effort."""
        return Evaluator(
            task or self.task, self.tools, effort or self.effort, self.timing, versions(), self.memory, self.meter,
            graphs=self.graphs,
        )  # fmt: skip


class _Search:
    """One run: its trials so far, the best of them, and the way on."""

    def __init__(self, run: _Run, conversation: Conversation | None = None, log: ExchangeLog | None = None) -> None:
        self.its = run
        self.task, self.tools, self.effort, self.understanding = run.task, run.tools, run.effort, run.understanding
        self.pace, self.memory, self.meter, self.budget = run.pace, run.memory, run.meter, run.budget
        self.notes = run.memory.notes
        self.conversation = conversation
        self.log = log
        self.started = datetime.now(UTC)
        self.ledger = Ledger(self.task, run.timing == "measured")
        if not self.ledger.measures:
            self._say_that_times_are_modelled()
        self.evaluator = run.evaluator()
        self.peers = Peers(self.task, self.understanding, self.effort, self.evaluator, self.ledger)
        self.batches = Batches(
            self.ledger, self.evaluator, self.effort, self.pace, self.notes, self.meter, self.budget,
            self._settle_what_is_there, self._gate_begins,
        )  # fmt: skip
        shapes = self.understanding.input_shapes
        self.ending = Ending(
            self.task, self.effort, self.ledger, self.evaluator, self.peers, self.pace, self.notes, run.evaluator,
            math.prod(shapes[0]) if shapes else 0,
        )  # fmt: skip
        self.judging: Future[Trial | None] | None = None
        self.stage_results: list[StageResult] = []
        self.looks = Looks(self.task, self.tools, self.understanding, self.notes)
        self.synthesized = False

    def run(self, command: str) -> Study:
        """The whole search."""
        self.pace.enter(1, "what is there")
        with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as stack:
            if self.ledger.measures:
                stack.callback(self.evaluator.close_clock)
                self.evaluator.start_clock()
                self.peers.begin(pool, self.budget, self.meter)
            self._look_at_what_is_there(pool)
            self._run_stages()
            self._settle_what_is_there()
            self.ending.settle()
        self.ending.compare_with_limited_code()
        sights = self._look_at_all()
        self.looks.close()
        study = self._study(command, sights)
        said = len(self.notes)
        remember_run(self.memory, self.task, study, self.its.timing)
        self.memory.settle()
        return replace(study, notes=(*study.notes, *self.notes[said:]))

    def _run_stages(self) -> None:
        idle = 0
        for part, rules in enumerate(self.task.rules, start=2):
            if reason := self._reason_to_stop(idle):
                self.notes.append(f"ended before stage {rules.stage}: {reason}")
                return
            self.pace.enter(part, f"stage {rules.stage}")
            result = self._run_stage(rules)
            self.stage_results.append(result)
            idle = 0 if result.kept is not None else idle + int(result.tried > 0)

    # What is there before the search.

    def _say_that_times_are_modelled(self) -> None:
        installed = self.tools.installed()
        here = f"this machine has a {installed.name}" if installed is not None else "there is no GPU here"
        self.notes.append(f"times are modelled for the {self.task.gpu.name}, not measured: {here}")
        if self.understanding.graph is not None:
            host_ms = host_ms_of_compiled(self.understanding.graph)
            self.notes.append(
                f"torch.compile is not compared without the GPU; a call of it takes the host about {host_ms:.2g} ms "
                "(modelled)"
            )

    def _look_at_what_is_there(self, pool: ThreadPoolExecutor) -> None:
        """Begin to judge the given code; candidates are written and compiled meanwhile."""
        if self.task.given_code_is_specification:
            self.notes.append(
                "the given code is the specification: its outputs are taken to be right, and only changes that "
                "keep its meaning were tried"
            )
        if not self.ledger.measures:
            predicted = self.tools.predict_reference(self.task, self.understanding)
            self.ledger.reference = predicted.by_gpu_alone() if predicted and self.its.graphs else predicted
        self.notes += strictest_class(self.task.precision, self.understanding.operations)
        candidate = self._given_candidate()
        if candidate is not None:
            self.batches.mark(candidate)
            self.pace.say("the gate on the given code, beside what follows")
            self.judging = pool.submit(self._judge_given, candidate)

    def _given_candidate(self) -> Candidate | None:
        if self.task.given_code is None:
            return None
        origin = Origin.DOCUMENT if self.task.document is not None else Origin.FILE
        return Candidate(self.task.given_code, origin, "the given code")

    def _judge_given(self, candidate: Candidate) -> Trial:
        start = time.monotonic()
        evaluator = self.evaluator
        if self.ledger.measures and not self.task.given_code_is_specification:
            evaluator = self.its.evaluator(effort=replace(self.effort, gate=self.effort.given_gate))
        judged = evaluator.gate_anyway(evaluator.predict(candidate), lambda message: None)
        return Trial(
            number=0,
            stage="",
            candidate=candidate,
            outcome=Outcome.REJECTED if judged.rejected else Outcome.GIVEN,
            reason=gate_said(judged.known.verdict),
            verdict=judged.known.verdict,
            timing=None if self.ledger.measures else judged.known.prediction,
            prediction=judged.known.prediction,
            seconds=time.monotonic() - start,
            resumed=judged.resumed,
        )

    def _settle_what_is_there(self) -> None:
        """Wait for the given code's verdict, and time it beside the reference; once."""
        if self.judging is not None:
            if not self.judging.done():
                self.pace.say("waiting for the gate on the given code")
            self.ledger.given = self.judging.result()
            self.judging = None
        elif self.ledger.reference is not None or not self.ledger.measures:
            return
        if self.ledger.measures:
            given = self.ledger.given
            self.peers.settle()
            self.ledger.retime(self.evaluator.measure([given.candidate] if given else [], self.effort.bounds.final))

    def _gate_begins(self, candidate: Candidate) -> None:
        """Beside a GPU the gate leaves processors idle; where times are modelled it needs them all."""
        if self.ledger.measures and self.effort.name != "none":
            self.looks.begin(candidate, "ours")

    # The stages.

    def _reason_to_stop(self, idle: int) -> str:
        """Why the run ends here; empty where it goes on."""
        if self.budget.is_up:
            return f"the time of effort {self.effort.name} is spent ({self.budget.elapsed_s:.0f} s)"
        # Variants of one code alone: what one stage forbids (tile sizes, say) may be all that the next one gains by.
        if idle >= self.effort.idle_stages and not self.task.given_code_is_specification:
            return f"{idle} stage{'s' if idle > 1 else ''} in a row gained nothing"
        if self._is_bound_by_host():
            return "the host binds the result: schedules change the GPU's time alone"
        fraction = self._fraction_of_speed_of_light()
        if fraction is not None and fraction >= self.effort.near_speed_of_light:
            return f"the best is at {100 * fraction:.0f} % of the speed of light"
        return ""

    def _is_bound_by_host(self) -> bool:
        """No schedule would be seen; a proposer that talks may have other ideas."""
        timing = self.ledger.best.timing if self.ledger.best is not None else None
        return self.conversation is None and timing is not None and bound_by(timing) == "host"

    def _fraction_of_speed_of_light(self) -> float | None:
        floor, best = self.understanding.floors.get(self.task.precision), self.ledger.best
        if floor is None or best is None or best.timing is None:
            return None
        return floor.time_ms / best.timing.time_ms

    def _run_stage(self, rules: StageRules) -> StageResult:
        """One stage: what it started from, what it tried, and what was kept of it."""
        before = self.ledger.best
        tried = self.batches.try_all(rules, self._written(rules))
        self._settle_what_is_there()
        code = self.ledger.code_to_tune
        if self.effort.retune and code is not None and not self.budget.is_up and not self._is_bound_by_host():
            self.pace.say("writing variants of the best code so far")
            with self.meter.on("retune"):
                proposals = self._retuned(rules, code)
            tried += self.batches.try_all(rules, proposals)
        if self.conversation is not None:
            tried += self._converse(self.conversation, rules)
        return self._result_of_stage(rules, tried, before)

    def _written(self, rules: StageRules) -> list[Candidate]:
        """What was found for this task under other versions, in the first stage; and what the reference gives."""
        written: list[Candidate] = []
        if rules is self.task.rules[0]:
            written += tuned_elsewhere(self.memory, self.task, self.its.timing, graphs=self.its.graphs)
        if self._may_synthesize(rules):
            self.synthesized = True
            self.pace.say("writing candidates from the reference")
            with self.meter.on("synthesize"):
                written += self.tools.synthesize(self.task, self.pace.say)
        return written

    def _result_of_stage(self, rules: StageRules, tried: int, before: Trial | None) -> StageResult:
        """The stage's result is kept, or everything of it is reverted; either is said."""
        best = self.ledger.best
        start = before.timing if before is not None else self._baseline()
        if best is None or best is before:
            said = (
                f"nothing of {tried} candidates gained {rules.min_gain_percent:g} %: reverted" if tried else "no ideas"
            )
            return StageResult(str(rules.stage), tried, None, start, None, said)
        gain = ""
        if start is not None and best.timing is not None:
            gain = f", {start.time_ms:.4g} -> {best.timing.time_ms:.4g} ms {best.timing.label}"
        said = f"trial {best.number} of {tried} candidates is kept{gain}"
        return StageResult(str(rules.stage), tried, best.number, start, best.timing, said)

    def _baseline(self) -> Timing | None:
        given = self.ledger.given
        right = [given.timing] if given is not None and given.is_right and given.timing is not None else []
        times = [*right, *([self.ledger.reference] if self.ledger.reference is not None else [])]
        return min(times, key=lambda timing: timing.time_ms, default=None)

    def _converse(self, conversation: Conversation, rules: StageRules) -> int:
        """Ask a proposer that talks, judge what it proposes, and ask again, until it has nothing more to say.

        Its time is its own: while it has the word its budget counts, and the search's stands still.
        """
        tried = 0
        with self.budget.of_its_own() as allow:
            while True:
                candidates = conversation.propose(self._turn(rules), self.log, self.pace.say)
                if not candidates:
                    return tried
                allow(self.effort.budget_s)
                tried += self.batches.try_all(rules, candidates)

    def _turn(self, rules: StageRules) -> Turn:
        floor = self.understanding.floors.get(self.task.precision)
        given = [self.ledger.given] if self.ledger.given is not None else []
        current = self.ledger.code_to_tune
        return Turn(
            task=self.task,
            rules=rules,
            current=current,
            trials=(*given, *self.ledger.trials),
            reference=self.ledger.reference,
            floor_ms=floor.time_ms if floor is not None else None,
            diagnosis=self._diagnosis(current),
        )

    def _diagnosis(self, current: Trial | None) -> str:
        """What holds the current code back, in a few lines."""
        sight = self.looks.at(current.candidate, "current code", thorough=True) if current is not None else None
        return in_short(sight.report) if sight is not None else ""

    def _may_synthesize(self, rules: StageRules) -> bool:
        """Once in a run, in the first stage that allows a new grid, or where there is nothing right to start from."""
        if self.synthesized or self.task.given_code_is_specification:
            return False
        if rules.may_change_grid:
            return True
        self._settle_what_is_there()
        return self.ledger.code_to_tune is None

    def _retuned(self, rules: StageRules, start: Trial) -> list[Candidate]:
        """Variants of a trial's code; what they inherit from it is said of them too."""
        resources = start.verdict.resources if start.verdict is not None else ()
        original = start.candidate
        sight = self.looks.at(original, "current code", thorough=False)
        causes = tuple(one.rule for one in sight.report.diagnoses) if sight is not None else ()
        return [
            replace(
                candidate,
                parent=candidate.parent or original.digest,
                native=candidate.native or original.native,
                scratch=candidate.scratch or original.scratch,
                spares=candidate.spares or original.spares,
                products=candidate.products or original.products,
                collapses=candidate.collapses or original.collapses,
                needs_reference=original.needs_reference,
            )
            for candidate in self.tools.retune(self.task, original.source, rules, resources, causes)
        ]

    # The end.

    def _look_at_all(self) -> tuple[Sight, ...]:
        """Profile and diagnosis of the reference, the given code and the result."""
        self.pace.say("what holds it back")
        wanted: list[tuple[Candidate | None, str]] = []
        if self.understanding.graph is not None:
            wanted.append((None, "reference"))
        if self.ledger.given is not None:
            wanted.append((self.ledger.given.candidate, "given code"))
        ours = self.ledger.best or self.ledger.trial(self.ending.runner_up)
        if ours is not None:
            wanted.append((ours.candidate, "ours"))
        if not wanted:
            return ()
        thorough = self.effort.name != "none" and not self.budget.is_over
        with self.meter.on("look"), ThreadPoolExecutor(len(wanted)) as pool:
            found = list(pool.map(lambda one: self.looks.at(*one, thorough=thorough), wanted))
        return tuple(sight for sight in found if sight is not None)

    def _study(self, command: str, sights: tuple[Sight, ...]) -> Study:
        floor = self.understanding.floors.get(self.task.precision)
        return Study(
            task=self.task.name,
            gpu=self.task.gpu.name,
            gpu_key=self.task.gpu.key,
            precision=str(self.task.precision),
            stages=tuple(str(stage) for stage in self.task.stages),
            effort=self.effort.name,
            oracle="given code" if self.task.given_code_is_specification else "reference",
            versions=dict(versions()),
            command=command,
            started=self.started.isoformat(timespec="seconds"),
            seconds=self.budget.elapsed_s,
            timing_kind="measured" if self.ledger.measures else "modelled",
            reference=self.ledger.reference,
            given=self.ledger.given,
            trials=tuple(self.ledger.trials),
            best_number=self.ledger.best.number if self.ledger.best is not None else None,
            work=self.understanding.work,
            speed_of_light=floor,
            notes=(*self.notes, *self._stage_notes(), *self.evaluator.notes, *self._said_by_conversation()),
            exchanges=self.conversation.exchanges if self.conversation is not None else (),
            stage_results=tuple(self.stage_results),
            spent=self.meter.seconds,
            sights=sights,
            peers=self.ledger.peers,
            peer_failures=self.peers.failures,
            runner_up=self.ending.runner_up,
            graphs=self.its.graphs,
            budget_s=self.budget.seconds,
            ceilings=ceilings_of(self.task),
        )

    def _stage_notes(self) -> list[str]:
        return [f"stage {result.stage}: {result.said}" for result in self.stage_results]

    def _said_by_conversation(self) -> tuple[str, ...]:
        spoken = self.conversation.notes if self.conversation is not None else ()
        return (*spoken, *(self.log.notes if self.log is not None and self.conversation is not None else ()))
