"""A language model as a proposer: a few conversations a stage, each bounded, each judged by the same gate."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from tilewright.errors import TilewrightError
from tilewright.proposers.llm import prompt
from tilewright.proposers.llm.asking import Asked, Asker, Outcome, Question, candidate_of, faults_of
from tilewright.proposers.llm.ledger import Ledger
from tilewright.proposers.llm.settings import Settings
from tilewright.proposers.llm.turn import ExchangeLog, Say, Turn
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.exchange import Exchange, Fault, Message, Position
from tilewright.values.serialise import as_json

#: After so many conversations in a row that the transport ended, the server is left alone.
_PATIENCE = 3


@dataclass
class _Sample:
    """One conversation: what was said, and what it waits for.

    `pending` is the digest of the candidate that the gate is asked about, empty while the model is asked; `judged`
    holds those before it.
    """

    number: int
    messages: tuple[Message, ...]
    parent: str = ""
    round: int = 0
    pending: str = ""
    judged: set[str] = field(default_factory=set)
    done: bool = False


@dataclass
class _Stage:
    """The conversations of one stage, about one starting code."""

    name: str
    basis: Candidate | None
    samples: list[_Sample] = field(default_factory=list)


class LanguageModel:
    """The proposer. Whatever the model answers, the worst that follows is that nothing is proposed."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        server: Asked | None,
        *,
        notes: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`server` is None for a replay of the log that `propose` is given.

        Args:
            settings: how it is asked, and the budget.
            model: its name as the server knows it.
            server: who answers.
            notes: what was found on the way here.
            clock, sleep: of the waits; tests give their own.
        """
        self._settings = settings
        self._model = model
        self._server = server
        self._clock = clock
        self._ledger = Ledger(settings.budget, settings.price)
        self._asker = Asker(settings, model, server, self._ledger, clock=clock, sleep=sleep)
        self._exchanges: list[Exchange] = []
        self._notes = list(notes)
        self._stage: _Stage | None = None
        self._stopped = ""
        self._failures = 0

    def propose(self, turn: Turn, log: ExchangeLog | None, say: Say) -> tuple[Candidate, ...]:
        """The next candidates of the turn's stage; none ends its conversations."""
        started = self._clock()
        spent = self._ledger.seconds
        try:
            stage = self._enter(turn)
            self._take_verdicts(stage, turn)
            return tuple(self._ask_all(stage, turn, log, say))
        finally:
            self._ledger.seconds = spent + self._clock() - started

    @property
    def seconds_left(self) -> float:
        """Of the time budget."""
        return self._ledger.seconds_left

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All exchanges of this run, in the order of their questions."""
        return tuple(self._exchanges)

    @property
    def notes(self) -> tuple[str, ...]:
        """Faults by name, budgets that ran out, and what was spent."""
        faults = [f"language model: {line}" for line in faults_of(self._exchanges)]
        resumed = sum(exchange.resumed for exchange in self._exchanges)
        asked = len(self._exchanges) - resumed
        spent = (
            f"language model {self._model}: {asked} exchange{'s' if asked != 1 else ''} now, {resumed} from the study; "
            f"{self._ledger.spent()}"
        )
        return (*self._notes, *faults, *([f"language model: {self._stopped}"] if self._stopped else []), spent)

    def close(self) -> None:
        """Close the connections; requests under way fail."""
        if self._server is not None:
            self._server.close()

    # The stage's conversations.

    def _enter(self, turn: Turn) -> _Stage:
        """The stage that runs, begun with its document where it is new."""
        name = str(turn.rules.stage)
        if self._stage is None or self._stage.name != name:
            basis = turn.current.candidate if turn.current is not None else None
            self._stage = _Stage(name, basis)
            try:
                opening = Message("user", prompt.document_for(turn))
            except TilewrightError as error:
                self._notes.append(f"language model: not asked in stage {name}: {error.what}")
            else:
                self._stage.samples = [_Sample(number, (opening,)) for number in range(self._settings.samples)]
        return self._stage

    def _take_verdicts(self, stage: _Stage, turn: Turn) -> None:
        """What the gate said of the candidates: a rejected one is answered, any other ends its conversation."""
        trials = {trial.candidate.digest: trial for trial in turn.trials}
        answered: set[str] = set()
        for sample in stage.samples:
            if sample.done or not sample.pending:
                continue
            trial = trials.get(sample.pending)
            # Two samples with one candidate go on as one; a model that repeats rejected code has no better.
            repeats = sample.pending in answered or sample.pending in sample.judged
            if trial is None or not prompt.is_rejection(trial) or repeats:
                sample.done = True
            else:
                answered.add(sample.pending)
                self._send_back(sample, prompt.rejected_candidate(trial))
            sample.judged.add(sample.pending)
            sample.pending = ""

    def _send_back(self, sample: _Sample, words: str) -> None:
        if sample.round >= self._settings.repairs:
            sample.done = True
            return
        sample.round += 1
        sample.messages = (*sample.messages, Message("user", words))

    def _ask_all(self, stage: _Stage, turn: Turn, log: ExchangeLog | None, say: Say) -> Iterator[Candidate]:
        """Ask for all samples at once, again where a reply could not be read, until each has a candidate or ended."""
        task = task_identity(turn.task)
        end = self._clock() + self._ledger.seconds_left
        codes: dict[int, tuple[str, str]] = {}
        while waiting := [sample for sample in stage.samples if not sample.done and not sample.pending]:
            if self._stopped:
                for sample in waiting:
                    sample.done = True
                break
            questions = [self._question(task, stage, sample) for sample in waiting]
            outcomes = self._ask_at_once(questions, log, end, say)
            for sample, outcome in zip(waiting, outcomes, strict=True):
                self._take_reply(sample, outcome)
                if outcome.code and outcome.last is not None:
                    codes[sample.number] = (outcome.code, outcome.last.model)
        for number, (code, model) in sorted(codes.items()):
            sample = stage.samples[number]
            repaired = f", repair {sample.round}" if sample.round else ""
            description = f"{model}, sample {number + 1} of stage {stage.name}{repaired}"
            yield candidate_of(code, description, stage.basis)

    def _question(self, task: str, stage: _Stage, sample: _Sample) -> Question:
        position = Position(task, stage.name, sample.number, sample.round, 0)
        basis = stage.basis.digest if stage.basis is not None else ""
        return Question(position, basis, sample.parent, sample.messages)

    def _ask_at_once(
        self, questions: Sequence[Question], log: ExchangeLog | None, end: float, say: Say
    ) -> list[Outcome]:
        """The outcomes, in the order of the questions; an interrupt does not wait for the server."""
        say(f"asking {self._model} ({self._ledger.spent()})")
        pool = ThreadPoolExecutor(len(questions), thread_name_prefix="llm")
        try:
            futures: list[Future[Outcome]] = [pool.submit(self._asker.ask, one, log, end) for one in questions]
            pending: set[Future[Outcome]] = set(futures)
            while pending:
                _, pending = wait(pending, return_when=FIRST_COMPLETED)
                say(f"{len(futures) - len(pending)} of {len(futures)} replies ({self._ledger.spent()})")
            return [future.result() for future in futures]
        except BaseException:
            self.close()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _take_reply(self, sample: _Sample, outcome: Outcome) -> None:
        self._exchanges += outcome.exchanges
        self._stopped = self._stopped or outcome.stop
        last = outcome.last
        if last is None or outcome.stop:
            sample.done = True
            return
        sample.parent = last.key
        if last.reply:
            sample.messages = (*sample.messages, Message("assistant", prompt.echo(last.reply)))
        if outcome.code:
            self._failures = 0
            sample.pending = last.candidate
        elif last.fault is Fault.UNREADABLE:
            self._failures = 0
            self._send_back(sample, prompt.unreadable_reply(last.detail))
        elif last.fault is Fault.TRUNCATED:
            self._failures = 0
            self._send_back(sample, prompt.truncated_reply(self._settings.reply_tokens))
        else:
            sample.done = True
            self._count_failure(last)

    def _count_failure(self, last: Exchange) -> None:
        if last.fault in (Fault.REFUSAL, Fault.NOT_RECORDED):
            return
        self._failures += 1
        if self._failures >= _PATIENCE:
            self._stopped = f"left alone after {self._failures} conversations that failed, the last by {last.fault}"


def task_identity(task: Task) -> str:
    """What a task asks, 16 hex digits: code, reference, inputs, GPU, precision; a file that moved is the same."""
    reference = replace(task.reference, path=None, pickled=None) if task.reference is not None else None
    pickled = task.reference.pickled if task.reference is not None else None
    asked = {
        "reference": reference,
        "pickled": None if pickled is None else hashlib.sha256(pickled).hexdigest(),
        "given": task.given_code,
        "gpu": task.gpu,
        "precision": task.precision,
        "output_rules": task.output_rules,
    }
    return hashlib.sha256(json.dumps(as_json(asked), sort_keys=True).encode()).hexdigest()[:16]
