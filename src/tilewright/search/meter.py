"""Where a run's time goes: seconds by activity, and how long it has held the GPU for itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

#: Activities that hold the GPU for themselves; a gate uses it now and then, beside others.
_ON_GPU = frozenset({"measure"})


class Meter:
    """Adds up wall seconds by activity; activities of several threads may overlap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._longest: dict[str, float] = {}

    @contextlib.contextmanager
    def on(self, activity: str) -> Iterator[None]:
        """Charge what happens inside to an activity."""
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            with self._lock:
                self._seconds[activity] = self._seconds.get(activity, 0.0) + spent
                self._longest[activity] = max(self._longest.get(activity, 0.0), spent)

    @property
    def seconds(self) -> Mapping[str, float]:
        """Activity -> seconds so far."""
        with self._lock:
            return {name: round(seconds, 2) for name, seconds in self._seconds.items()}

    def longest_s(self, activity: str) -> float:
        """Seconds that the activity took when it took longest; 0 where it was not done yet."""
        with self._lock:
            return self._longest.get(activity, 0.0)

    @property
    def gpu_s(self) -> float:
        """Seconds of the activities that hold the GPU for themselves."""
        return sum(seconds for name, seconds in self.seconds.items() if name in _ON_GPU)
