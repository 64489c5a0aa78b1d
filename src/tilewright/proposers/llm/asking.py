"""One reply: looked up in the study, else asked for, attempt by attempt, each kept before anything follows from it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tilewright.proposers.llm import prompt
from tilewright.proposers.llm.answer import Answer, read_answer
from tilewright.proposers.llm.ledger import Allowance, BudgetSpent, Ledger, estimate_tokens
from tilewright.proposers.llm.secrets import Redactor
from tilewright.proposers.llm.server import Reply
from tilewright.proposers.llm.settings import Settings
from tilewright.proposers.llm.turn import ExchangeLog
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.exchange import Exchange, Fault, Message, Position

#: Faults of the way, not of the answer: the same question is asked again.
_ANOTHER_ATTEMPT = frozenset(
    {
        Fault.TIMEOUT,
        Fault.RATE_LIMIT,
        Fault.SERVER_ERROR,
        Fault.CONNECTION,
        Fault.STREAM_CUT,
        Fault.INVALID_TEXT,
        Fault.EMPTY,
    }
)

#: Pause before the second attempt where the server names none, seconds; doubled before each further one.
_FIRST_PAUSE_S = 1.0


class Asked(Protocol):
    """Who answers: a server."""

    address: str
    redactor: Redactor

    def ask(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        reply_tokens: int,
        deadline_s: float,
        temperature: float | None = None,
    ) -> Reply:
        """One request; faults come back as data."""

    def close(self) -> None:
        """Let go."""


@dataclass(frozen=True)
class Question:
    """One question of one conversation.

    Attributes:
        position: its place; `attempt` is 0.
        basis: digest of the code that the stage's conversations started from.
        parent: key of the exchange whose reply it answers; empty for the first.
        messages: the conversation up to and with it.
    """

    position: Position
    basis: str
    parent: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Outcome:
    """What asking gave.

    Attributes:
        exchanges: the attempts, in order; none where the budget did not allow one.
        code: the candidate's source; empty where there is none.
        stop: why no other question may follow in this run; empty where one may.
    """

    exchanges: tuple[Exchange, ...]
    code: str = ""
    stop: str = ""

    @property
    def last(self) -> Exchange | None:
        """The attempt that decided."""
        return self.exchanges[-1] if self.exchanges else None


class Asker:
    """Asks one question at a time in each thread that calls it."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        server: Asked | None,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`server` is None for a replay: what is not in the log is then not answered."""
        self._settings = settings
        self._model = model
        self._server = server
        self._ledger = ledger
        self._clock = clock
        self._sleep = sleep
        self._redactor = server.redactor if server is not None else Redactor()

    def ask(self, question: Question, log: ExchangeLog | None, end: float) -> Outcome:
        """Ask until there is an answer, an end of the attempts, or of the budget, or the clock reads `end`."""
        had: list[Exchange] = []
        for attempt in range(self._settings.attempts):
            position = replace(question.position, attempt=attempt)
            try:
                exchange, reply = self._exchange(question, position, log, end)
            except BudgetSpent as spent:
                return Outcome(tuple(had), stop=str(spent))
            had.append(exchange)
            if exchange.fault not in _ANOTHER_ATTEMPT:
                code = read_answer(exchange.reply).code if exchange.fault is None else ""
                return Outcome(tuple(had), code, self._final(exchange))
            if reply is not None and (reply.final or not self._wait(reply, attempt, end)):
                break
        last = had[-1]
        is_final = reply is not None and reply.final
        return Outcome(tuple(had), stop=f"{last.fault}: {last.detail}" if is_final else "")

    def _final(self, exchange: Exchange) -> str:
        return f"{exchange.fault}: {exchange.detail}" if exchange.fault is Fault.REFUSED_REQUEST else ""

    def _wait(self, reply: Reply, attempt: int, end: float) -> bool:
        """Pause before another attempt; False where there is to be none."""
        if attempt + 1 >= self._settings.attempts:
            return False
        pause = _FIRST_PAUSE_S * 2**attempt if reply.retry_after_s is None else reply.retry_after_s
        if pause > self._settings.wait_s or self._clock() + pause >= end:
            return False
        self._sleep(pause)
        return True

    def _exchange(
        self, question: Question, position: Position, log: ExchangeLog | None, end: float
    ) -> tuple[Exchange, Reply | None]:
        """One attempt, from the log where it was paid before; the reply only where it was asked for now."""
        address = self._server.address if self._server is not None else ""
        blank = Exchange(position, self._key(question, position), self._model, address, self._clean(question.messages))
        found = self._found(question, position, log)
        if found is not None:
            self._ledger.charge(found.input_tokens + found.output_tokens, found.cost_usd)
            if log is not None and self._server is None:
                log.put(found)
            return replace(found, resumed=True), None
        if self._server is None:
            return replace(blank, fault=Fault.NOT_RECORDED, detail="the replayed study has no such exchange"), None
        if self._clock() >= end:
            raise BudgetSpent(f"the budget of {self._settings.budget.seconds:g} s is spent")
        prompt_tokens = sum(estimate_tokens(message.content) + 8 for message in question.messages)
        allowance = self._ledger.allow(prompt_tokens, self._settings.reply_tokens)
        return self._send(self._server, question, blank, log, allowance, end)

    def _send(
        self,
        server: Asked,
        question: Question,
        blank: Exchange,
        log: ExchangeLog | None,
        allowance: Allowance,
        end: float,
    ) -> tuple[Exchange, Reply]:
        started = self._clock()
        reply = server.ask(
            self._model,
            question.messages,
            reply_tokens=allowance.reply_tokens,
            deadline_s=max(0.0, min(self._settings.request_s, end - started)),
            temperature=self._settings.temperature,
        )
        exchange = self._judged(blank, reply, self._clock() - started)
        self._ledger.settle(allowance, exchange.input_tokens + exchange.output_tokens, exchange.cost_usd)
        if log is not None:
            log.put(exchange)
        return exchange, reply

    def _found(self, question: Question, position: Position, log: ExchangeLog | None) -> Exchange | None:
        """What an earlier run had here. A fault that nobody was paid for is met again, except in a replay, and
        except on the way to a later attempt that was paid."""
        if log is None:
            return None
        if self._server is None:
            return log.at(position)
        found = log.find(self._key(question, position))
        if found is None or found.paid:
            return found
        later = (replace(position, attempt=n) for n in range(position.attempt + 1, self._settings.attempts))
        had = (log.find(self._key(question, one)) for one in later)
        return found if any(one is not None and one.paid for one in had) else None

    def _judged(self, blank: Exchange, reply: Reply, seconds: float) -> Exchange:
        """The exchange with its reply, read as data, and its cost."""
        text = self._redactor.clean(reply.text)
        answer = read_answer(text) if reply.fault in (None, Fault.TRUNCATED) else Answer("", reply.fault, reply.detail)
        if answer.fault is not None and reply.fault is Fault.TRUNCATED:
            answer = Answer(fault=Fault.TRUNCATED, detail=reply.detail)
        counted = reply.input_tokens is not None and reply.output_tokens is not None
        # A request that failed before anything came back is taken not to be billed, where nothing else is said.
        asked = sum(estimate_tokens(message.content) for message in blank.messages) if text else 0
        tokens_in = reply.input_tokens if reply.input_tokens is not None else asked
        tokens_out = reply.output_tokens if reply.output_tokens is not None else estimate_tokens(text)
        price = self._settings.price
        return replace(
            blank,
            reply=text.encode("utf-8", "replace").decode(),
            fault=answer.fault,
            detail=self._redactor.clean(answer.detail),
            candidate=candidate_of(answer.code, "").digest if answer.code else "",
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            estimated=not counted and bool(text),
            cost_usd=price.cost(tokens_in, tokens_out) if price is not None else None,
            seconds=seconds,
        )

    def _clean(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(replace(message, content=self._redactor.clean(message.content)) for message in messages)

    def _key(self, question: Question, position: Position) -> str:
        """What the reply depends on, but for times and for the words of findings, which a resumed run may have anew."""
        settings = self._settings
        depends_on = {
            "edition": prompt.EDITION,
            "position": [position.task, position.stage, position.sample, position.round, position.attempt],
            "basis": question.basis,
            "parent": question.parent,
            "model": self._model,
            "server": self._server.address if self._server is not None else "",
            "reply_tokens": settings.reply_tokens,
            "temperature": settings.temperature,
        }
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def candidate_of(code: str, description: str, parent: Candidate | None = None) -> Candidate:
    """A reply's code as a candidate; what its constructor takes is as with the code that it was made from."""
    return Candidate(
        code,
        Origin.LLM,
        description,
        parent=parent.digest if parent is not None else None,
        needs_reference=parent.needs_reference if parent is not None else False,
    )


def faults_of(exchanges: Sequence[Exchange]) -> Iterator[str]:
    """Each exchange that gave no candidate, named: where it stands and what was wrong."""
    for exchange in exchanges:
        if exchange.fault is not None:
            place = exchange.position
            again = f", attempt {place.attempt + 1}" if place.attempt else ""
            turn = "first question" if place.round == 0 else f"repair {place.round}"
            yield f"stage {place.stage}, sample {place.sample + 1}, {turn}{again}: {exchange.fault}: {exchange.detail}"
