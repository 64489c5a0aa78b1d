"""Candidates scouted on the GPU while the next ones are being compiled."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from tilewright.search.evaluate import Evaluator
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Measured


class Ahead:
    """One measurement at a time, of whatever was compiled since the last one began."""

    def __init__(self, evaluator: Evaluator, plan: str, at_once: int, *, active: bool) -> None:
        """Nothing is measured yet.

        Args:
            evaluator: measures.
            plan: name of the sampling plan.
            at_once: candidates of one measurement at most.
            active: whether anything is measured at all: only where all that compiles would be measured anyway.
        """
        self._evaluator = evaluator
        self._plan = plan
        self._at_once = at_once
        self._active = active
        self._waiting: list[Candidate] = []
        self._running: Future[Mapping[str, Measured]] | None = None
        self._times: dict[str, Measured] = {}
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def offer(self, candidate: Candidate) -> None:
        """This one is compiled: it is measured now, or with others when the measurement under way is done."""
        if not self._active:
            return
        self._waiting.append(candidate)
        if self._running is None or self._running.done():
            self._collect()
            part, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
            self._running = self._pool.submit(self._evaluator.measure, part, self._plan)

    def times(self) -> Mapping[str, Measured]:
        """Digest -> time of all that was measured; waits for what is under way. The rest is whoever's next turn."""
        self._collect()
        return self._times

    def _collect(self) -> None:
        if self._running is not None:
            self._times |= self._running.result()
            self._running = None
