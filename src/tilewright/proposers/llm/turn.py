"""What passes between the search and a proposer that talks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tilewright.task.stage import StageRules
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.exchange import Exchange, Position
from tilewright.values.measurement import Timing
from tilewright.values.study import Trial

Say = Callable[[str], None]


@dataclass(frozen=True)
class Turn:
    """How things stand when a proposer that talks is asked.

    Attributes:
        task: what is asked.
        rules: of the stage that is running.
        current: the best right code so far, the given code where nothing is better; None where there is neither.
        trials: all so far in order, the given code's first.
        reference: time of the reference; None where there is none.
        floor_ms: the task's speed of light, milliseconds; None where it is not known.
        diagnosis: what holds the current code back, in short; empty where nobody has looked.
        metrics: of the current code: kernel -> metric -> value; empty where there are none.
        metrics_from: where they are from, in words (`measured by Nsight Compute`, `modelled`).
    """

    task: Task
    rules: StageRules
    current: Trial | None
    trials: tuple[Trial, ...] = ()
    reference: Timing | None = None
    floor_ms: float | None = None
    diagnosis: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    metrics_from: str = ""


class ExchangeLog(Protocol):
    """Where exchanges are kept."""

    def find(self, key: str) -> Exchange | None:
        """The exchange of that key, if a run has had it."""

    def at(self, position: Position) -> Exchange | None:
        """The latest exchange at that place of a conversation, whatever the code that it was about."""

    def put(self, exchange: Exchange) -> None:
        """Keep an exchange; it is on disk when this returns. Does not raise: a log that fails says so in `notes`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the log."""


class Conversation(Protocol):
    """A proposer that is asked again after its candidates were judged, until it proposes nothing more."""

    def propose(self, turn: Turn, log: ExchangeLog | None, say: Say) -> Sequence[Candidate]:
        """The next candidates of this stage; none ends the stage's conversations.

        The outcome of those before is in `turn.trials`, found by their digests.
        """

    @property
    def seconds_left(self) -> float:
        """Of the conversation's own time budget."""

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All exchanges of this run, in order."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know: faults by name, budgets that ran out."""

    def close(self) -> None:
        """Let go of the server."""
