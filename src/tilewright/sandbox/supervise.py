"""Watches a job from outside until it ends, hangs, or uses more than it may."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilewright.sandbox import wire
from tilewright.sandbox.forking import ForkedProcess
from tilewright.sandbox.limits import Limits, Outcome
from tilewright.sandbox.processes import TreeUsage, tree_usage, unlinked_bytes

#: A tree that uses fewer processor seconds than this in `Limits.idle_s` does nothing.
_IDLE_CPU_S = 0.05
#: More processes than a kernel's compiler and its like start.
_MANY = 12
#: Seconds between two looks at the files of a job.
_FILES_EVERY_S = 0.5

End = tuple[Outcome, str]


@dataclass
class Supervisor:
    """One job that is running.

    Attributes:
        process: its first process.
        scratch: its directory.
        deadline: on the monotonic clock.
        limits: of the job.
        on_part: called with the name of each part as it is completed.
        stop: the job is killed when it says so.
    """

    process: ForkedProcess
    scratch: Path
    deadline: float
    limits: Limits
    on_part: Callable[[str], None] | None = None
    stop: Callable[[], bool] | None = None
    _parts: int = 0
    _files_at: float = 0.0
    _part_cpu_s: float = 0.0
    _busy_at: float = 0.0
    _busy_cpu_s: float = 0.0

    def wait(self) -> End:
        """Wait for the end, the deadline, a hang, or a limit on the whole tree."""
        self._busy_at = time.monotonic()
        while True:
            try:
                self.process.wait(timeout=0.1)
                return Outcome.OK, ""
            except subprocess.TimeoutExpired:
                pass
            if self.stop is not None and self.stop():
                return Outcome.TIMEOUT, "it was not wanted any more and was killed"
            if time.monotonic() > self.deadline:
                return Outcome.TIMEOUT, "it did not end by its deadline and was killed"
            usage = tree_usage(self.process.pid)
            self._look_for_parts(usage)
            for look in (self._too_much, self._hung, self._files):
                ended = look(usage)
                if ended is not None:
                    return ended

    def _look_for_parts(self, usage: TreeUsage) -> None:
        while (self.scratch / "out" / f"{self._parts}.json").exists():
            if self.on_part is not None:
                with contextlib.suppress(wire.GarbageError, KeyError, TypeError):
                    head = wire.load_json(self.scratch / "out" / f"{self._parts}.json")
                    self.on_part(str(head["name"])[:200])
            self._parts += 1
            self._part_cpu_s = usage.cpu_s

    def _too_much(self, usage: TreeUsage) -> End | None:
        limits = self.limits
        if usage.processes > limits.processes:
            return Outcome.PROCESSES, f"it ran {usage.processes} processes; {limits.processes} are allowed"
        if usage.threads > limits.threads:
            return Outcome.PROCESSES, f"it ran {usage.threads} threads; {limits.threads} are allowed"
        if usage.resident_bytes > limits.memory_bytes:
            used, allowed = usage.resident_bytes / 2**30, limits.memory_bytes / 2**30
            # Memory that forks share is counted for each of them: many processes are the cause, not their memory.
            kind = Outcome.PROCESSES if usage.processes > _MANY else Outcome.MEMORY
            where = f" in {usage.processes} processes" if usage.processes > _MANY else ""
            return kind, f"it used {used:.1f} GiB of memory{where}; {allowed:.1f} GiB are allowed"
        if self._parts > limits.parts:
            return Outcome.GARBAGE, f"it sent more than the {limits.parts} parts that are allowed"
        return None

    def _hung(self, usage: TreeUsage) -> End | None:
        now, limits = time.monotonic(), self.limits
        if abs(usage.cpu_s - self._busy_cpu_s) > _IDLE_CPU_S:
            self._busy_at, self._busy_cpu_s = now, usage.cpu_s
        if limits.idle_s and now - self._busy_at > limits.idle_s:
            return Outcome.TIMEOUT, f"it hung: nothing was done for {limits.idle_s:.0f} s"
        spent = usage.cpu_s - self._part_cpu_s
        if limits.quiet_cpu_s and spent > limits.quiet_cpu_s:
            return Outcome.TIMEOUT, f"it hung: {spent:.0f} s of processor time brought no result"
        return None

    def _files(self, usage: TreeUsage) -> End | None:
        now, limits = time.monotonic(), self.limits
        if now - self._files_at < _FILES_EVERY_S:
            return None
        self._files_at = now
        count, written = disk_usage(self.scratch, limits.files)
        if count > limits.files:
            return Outcome.FILES, f"it wrote more than the {limits.files} files that are allowed"
        written += unlinked_bytes(usage.pids)
        if written > limits.disk_bytes:
            used, allowed = written / 2**30, limits.disk_bytes / 2**30
            return Outcome.FILES, f"its files took {used:.1f} GiB; {allowed:.1f} GiB are allowed"
        return None


def disk_usage(folder: Path, most: int) -> tuple[int, int]:
    """Files below a folder and the bytes that they take on disk; links are not followed. Ends early above `most`."""
    count, written = 0, 0
    waiting = [str(folder)]
    while waiting and count <= most:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                count += 1
                with contextlib.suppress(OSError):
                    written += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                if count > most:
                    break
    return count, written
