"""What a run says while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One thing that the run has begun to do.

    Attributes:
        message: for people: what is being tried.
        fraction: of the whole run that is behind it, 0 to 1; never falls from one step to the next.
        left_s: seconds that are left of the run's budget; None where it has none.
    """

    message: str
    fraction: float
    left_s: float | None = None

    def __str__(self) -> str:
        return self.message


Progress = Callable[[Step], None]


class Pace:
    """Turns the place in a run (which part, which item of it) into steps for a listener."""

    def __init__(self, listener: Progress | None, parts: int, left: Callable[[], float] | None = None) -> None:
        """A pace at its start.

        Args:
            listener: told of each step.
            parts: how many parts the run has, each taken to last equally long.
            left: seconds that are left of the run's budget.
        """
        self._listener = listener
        self._parts = parts
        self._left = left
        self._part = 0
        self._fraction = 0.0
        self._title = ""

    def enter(self, part: int, title: str) -> None:
        """The run enters part number `part`, counting from 0."""
        self._part = part
        self._title = title
        self.at(0, 1, "")

    def at(self, item: int, items: int, message: str) -> None:
        """The part is at `item` of `items`, doing what `message` says."""
        within = item / items if items else 0.0
        self._fraction = max(self._fraction, min(1.0, (self._part + within) / self._parts))
        self.say(message)

    def say(self, message: str) -> None:
        """Something to tell, without moving on."""
        if self._listener is not None:
            text = f"{self._title}: {message}" if message else self._title
            self._listener(Step(text, self._fraction, self._left() if self._left is not None else None))
