"""Profiles and diagnoses of a run's candidates, each made once, some of them while the gate is at work."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from tilewright.search.tools import Tools
from tilewright.search.understand import Understanding
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.sight import Sight

_Key = tuple[str, bool]


class Looks:
    """Looks at candidates; what one costs where it fails is a section of the report, not the run."""

    def __init__(self, task: Task, tools: Tools, understanding: Understanding, notes: list[str]) -> None:
        """`notes` is told of looks that failed."""
        self._task = task
        self._tools = tools
        self._understanding = understanding
        self._notes = notes
        self._seen: dict[_Key, Sight | None] = {}
        self._begun: dict[_Key, Future[Sight | None]] = {}
        self._pool = ThreadPoolExecutor(1)

    def begin(self, candidate: Candidate, subject: str) -> None:
        """Look thoroughly at a candidate that the report may need, on processors that would be idle."""
        key = candidate.digest, True
        if key not in self._seen and key not in self._begun:
            self._begun[key] = self._pool.submit(self._made, candidate, subject, thorough=True)

    def at(self, candidate: Candidate | None, subject: str, *, thorough: bool) -> Sight | None:
        """One look, at the reference where there is no candidate; None where it failed.

        Args:
            candidate: what is looked at.
            subject: what it is called in the report.
            thorough: model it from its machine code and sampled addresses; else from bytes and occupancy, in no time.
        """
        key = (candidate.digest if candidate is not None else "", thorough)
        if key not in self._seen:
            begun = self._begun.get(key)
            found = begun.result() if begun is not None else self._made(candidate, subject, thorough=thorough)
            self._seen[key] = found
        sight = self._seen[key]
        return None if sight is None else replace(sight, subject=subject)

    def close(self) -> None:
        """Nothing more is begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _made(self, candidate: Candidate | None, subject: str, *, thorough: bool) -> Sight | None:
        try:
            return self._tools.look(self._task, candidate, self._understanding, subject, thorough)
        except Exception as error:
            first_line = next(iter(str(error).splitlines()), "")
            self._notes.append(f"{subject}: no diagnosis, {type(error).__name__}: {first_line}")
            return None
