"""Process trees seen from outside: what they use, what they print, and how to end them, all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

#: Seconds in which killed processes must be gone, on a busy machine too.
_END_S = 10.0

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def available_cores() -> int:
    """Cores that this process may run on: fewer than the machine's under `taskset` or a container's cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Tail:
    """Reads a stream to its end in a thread and keeps the last bytes, so that a flood neither blocks nor fills."""

    def __init__(self, stream: IO[bytes] | None, limit_bytes: int) -> None:
        self._stream = stream
        self._limit = limit_bytes
        self._kept = b""
        self._total = 0
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        if self._stream is None:
            return
        while chunk := os.read(self._stream.fileno(), 1 << 16):
            self._total += len(chunk)
            self._kept = (self._kept + chunk)[-self._limit :]

    def text(self) -> str:
        """What was kept; invalid bytes are replaced. Says how much was dropped."""
        self._thread.join(timeout=1.0)
        text = self._kept.decode("utf-8", "replace")
        dropped = self._total - len(self._kept)
        return f"[{dropped} bytes dropped]\n{text}" if dropped > 0 else text


@dataclass(frozen=True)
class TreeUsage:
    """What a process and all below it use; all zero where /proc is absent.

    Attributes:
        processes, threads: how many there are.
        resident_bytes: of all of them together.
        cpu_s: processor seconds, with those of children that have ended.
        pids: of the processes.
    """

    processes: int = 0
    threads: int = 0
    resident_bytes: int = 0
    cpu_s: float = 0.0
    pids: tuple[int, ...] = ()


def tree_usage(pid: int) -> TreeUsage:
    """What the tree below and with `pid` uses."""
    threads, pages, ticks = 0, 0, 0
    pids: list[int] = []
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        try:
            # Fields of proc(5)'s stat after the command's name: 11 to 14 are times, 17 the threads, 21 the pages.
            fields = Path(f"/proc/{current}/stat").read_text().rpartition(")")[2].split()
            threads += int(fields[17])
            pages += int(fields[21])
            ticks += sum(int(field) for field in fields[11:15])
            waiting.extend(_children(current))
        except (OSError, IndexError, ValueError):
            continue
        pids.append(current)
    return TreeUsage(len(pids), threads, pages * _PAGE_BYTES, ticks / _TICKS_A_SECOND, tuple(pids))


def _children(pid: int) -> list[int]:
    """Of all threads: a thread may fork, too."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def unlinked_bytes(pids: Sequence[int]) -> int:
    """Bytes of regular files that these processes hold open and that have no name any more."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for handle in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(handle.path)
                    if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                        found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def end_tree(root: int, *, spare_root: bool = False) -> None:
    """Kill `root` and all its descendants. Where there is no /proc, its process group is killed."""
    if not sys.platform.startswith("linux"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(root, signal.SIGKILL)
        return
    if not spare_root:
        _signal({root}, signal.SIGSTOP)
    end_below(root)
    if not spare_root:
        _signal({root}, signal.SIGKILL)


def end_below(root: int, spare: frozenset[int] = frozenset()) -> None:
    """Kill all descendants of `root` but those in `spare` and theirs.

    All are frozen first, parents before children, so that none can start another. Those of a process that has ended
    are `root`'s own by then where `root` adopts orphans.
    """
    until = time.monotonic() + _END_S
    while time.monotonic() < until:
        frozen: set[int] = set()
        while fresh := descendants(root, spare) - frozen:
            _signal(fresh, signal.SIGSTOP)
            frozen |= fresh
        if not frozen:
            return
        _signal(frozen, signal.SIGKILL)
        time.sleep(0.002)


def descendants(root: int, spare: frozenset[int] = frozenset()) -> set[int]:
    """Process ids of what lives below `root`, without those in `spare` and theirs, and without this process."""
    found: set[int] = set()
    waiting = [root]
    while waiting:
        with contextlib.suppress(OSError):
            for pid in _children(waiting.pop()):
                if pid not in spare and pid != os.getpid():
                    waiting.append(pid)
                    if is_alive(pid):
                        found.add(pid)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
