"""`python -m benchmarks.soak replies`: fuzzed replies of a language model, through everything that reads them.

Each goes from the server's side through the conversation, the study's log and the gate's reading of the source.
Nothing may raise, take long, or run: their code writes a file when it is run, and an audit hook counts what
the interpreter is asked to execute meanwhile. One in twenty is a damaged response, sent over HTTP to the real SDK.
"""

from __future__ import annotations

import ast
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.soak_record import Record
from tests.proposers.llm_server import raw, serving
from tests.proposers.reply_fuzz import fuzzed, fuzzed_body, seeds
from tests.search.fakes import task
from tilewright.proposers.llm.language_model import LanguageModel
from tilewright.proposers.llm.secrets import Redactor
from tilewright.proposers.llm.server import Reply, Server
from tilewright.proposers.llm.settings import Budget, Settings
from tilewright.proposers.llm.turn import Turn
from tilewright.search.exchanges import ExchangeTable
from tilewright.values.exchange import Message

#: A reply that takes longer to read is a hang, seconds; most take a thousandth of it.
LIMIT_S = 20.0

#: One response in so many goes over HTTP.
_WIRE_EVERY = 20

#: Audit events by which code could run or leave; imports and what they execute happen before the count.
_RUNS = frozenset({"exec", "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect"})


class _Says:
    """A server that says one thing."""

    address = "fuzz"
    redactor = Redactor({})

    def __init__(self, text: str) -> None:
        self._text = text

    def ask(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        reply_tokens: int,
        deadline_s: float,
        temperature: float | None = None,
    ) -> Reply:
        """The one reply."""
        return Reply(self._text)

    def close(self) -> None:
        """Nothing to let go."""


class Watch:
    """Counts what the interpreter was asked to run while it watches."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._on = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._on and event in _RUNS:
            self.seen[f"{event} {arguments}"[:120]] += 1

    def __enter__(self) -> Watch:
        self._on = True
        return self

    def __exit__(self, *error: object) -> None:
        self._on = False


def read_reply(text: str, table: ExchangeTable, name: str = "fuzz") -> str:
    """Take one reply the whole way, of a model of its own name; how it ended: `candidate` or its fault's name."""
    from tilewright.gate.contract.rules import check_contract

    settings = Settings("fuzz", samples=1, repairs=0, attempts=1, budget=Budget(tokens=10**9))
    model = LanguageModel(settings, name, _Says(text))
    asked = task(given="class ModelNew: ...\n")
    proposed = model.propose(Turn(asked, asked.rules[0], None), table, lambda message: None)
    (exchange,) = model.exchanges
    if not proposed:
        assert exchange.fault is not None
        assert exchange.detail
        return str(exchange.fault)
    (candidate,) = proposed
    assert candidate.digest == exchange.candidate
    ast.parse(candidate.source)
    check_contract(candidate.source, asked.output_rules, asked.rules)
    return "candidate"


def read_body(number: int, starts: Sequence[str]) -> str:
    """Send one damaged response to the SDK; how it ended."""
    with pytest.MonkeyPatch.context() as patch, serving(patch, raw(fuzzed_body(number, starts))):
        server = Server()
        reply = server.ask("fuzz", [Message("user", "go")], reply_tokens=100_000, deadline_s=LIMIT_S)
        server.close()
    return f"wire: {reply.fault or 'reply'}"


def run(count: int, seed: int) -> Record:
    """Feed `count` replies."""
    started = time.monotonic()
    ended: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="tilewright-soak-") as folder:
        canary = Path(folder) / "canary"
        starts = seeds(canary)
        table = ExchangeTable(Path(folder) / "study.sqlite")
        read_reply(starts[0], table)  # what is imported lazily is imported now
        watch = Watch()
        for index in range(count):
            number = seed * 1_000_003 + index
            before = time.monotonic()
            try:
                if index % _WIRE_EVERY == _WIRE_EVERY - 1:
                    ended[read_body(number, starts)] += 1
                else:
                    with watch:
                        ended[read_reply(fuzzed(number, starts), table, f"fuzz {number}")] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failures.append(f"reply {number}: {type(error).__name__}: {error}"[:300])
            took = time.monotonic() - before
            slowest = max(slowest, took)
            if took > LIMIT_S:
                failures.append(f"reply {number} took {took:.1f} s")
            if canary.exists():
                failures.append(f"reply {number} was run")
                canary.unlink()
        kept = len(table.everything())
        table.close()
    failures += [f"{count} times while replies were read: {event}" for event, count in watch.seen.items()]
    return Record(
        kind="replies",
        counts={"replies": count, **dict(sorted(ended.items())), "distinct kept": kept, "failures": len(failures)},
        failures=tuple(failures[:50]),
        details=({"slowest_s": round(slowest, 3)},),
        seconds=time.monotonic() - started,
        goal_met=not failures,
    )
