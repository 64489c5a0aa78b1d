"""A run's time: what is left of it, and whether it suffices for one thing more."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from tilewright.search.meter import Meter

#: This part of the time is for the end: the last measurement, and what the report looks at.
RESERVE_PART = 0.1


class Budget:
    """Wall seconds of a run, counted from when this is made."""

    def __init__(
        self,
        seconds: float,
        meter: Meter,
        *,
        gpu_s: float = float("inf"),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count.

        Args:
            seconds: what the run may take.
            meter: knows how long each activity took so far.
            gpu_s: what the clock may hold the GPU for.
            now: seconds.
        """
        self.seconds = seconds
        self._meter = meter
        self._gpu_s = gpu_s
        self._now = now
        self._started = now()
        self._ends = self._started + seconds

    @property
    def elapsed_s(self) -> float:
        """Since the run began."""
        return self._now() - self._started

    @property
    def left_s(self) -> float:
        """What is left; 0 where there is nothing."""
        return max(0.0, self._ends - self._now())

    @property
    def is_up(self) -> bool:
        """Nothing new is begun: what is left is for the end."""
        return self._meter.gpu_s > self._gpu_s or self.left_s <= RESERVE_PART * self.seconds

    @property
    def is_over(self) -> bool:
        """Nothing is left, not even for a run that has found nothing yet."""
        return self.left_s <= 0.0

    def suffices_for(self, activity: str) -> bool:
        """Whether it can be done once more: as long as the longest of its kind took so far."""
        return not self.is_up and self._meter.longest_s(activity) <= self.left_s

    @contextlib.contextmanager
    def of_its_own(self) -> Iterator[Callable[[float], None]]:
        """While somebody else has the word this time stands still; the function that is given sets a time for them."""
        before, began = self._ends, self._now()

        def allow(seconds: float) -> None:
            self._ends = self._now() + seconds

        try:
            yield allow
        finally:
            self._ends = before + self._now() - began
