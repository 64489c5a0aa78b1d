"""Ending a process and everything that it started, wherever that went."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tilewright.verify.processes import MARK

#: Rounds of looking for what is left; a tree that still forks after so many is hostile and frozen by then.
_ROUNDS = 40


def end_tree(root: int, *, spare_root: bool = False) -> None:
    """Kill `root` and all its descendants, and the jobs that it marked as its own.

    All are frozen first, parents before children, so that none can start another or be adopted away.
    """
    if not sys.platform.startswith("linux"):
        _signal_group(root)
        return
    frozen: dict[int, None] = {} if spare_root else {root: None}
    _signal(frozen, signal.SIGSTOP)
    for _ in range(_ROUNDS):
        fresh = [pid for pid in _family(root) if pid not in frozen and pid != root]
        if not fresh:
            break
        _signal(fresh, signal.SIGSTOP)
        frozen.update(dict.fromkeys(fresh))
    _signal(frozen, signal.SIGKILL)
    for round_ in range(_ROUNDS):
        left = [pid for pid in _family(root) if pid != root]
        if not left:
            return
        _signal(left, signal.SIGKILL)
        time.sleep(0.005 * round_)


def _family(root: int) -> list[int]:
    """Living descendants of `root`, and processes whose job mark names it, with their descendants."""
    parents: dict[int, int] = {}
    marked: list[int] = []
    mark = f"{MARK}={root}-".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] in "ZX":
                continue
            parents[int(entry.name)] = int(fields[1])
            if any(item.startswith(mark) for item in (entry / "environ").read_bytes().split(b"\0")):
                marked.append(int(entry.name))
    wanted = {root, *marked}
    while True:
        more = {pid for pid, parent in parents.items() if parent in wanted} - wanted
        if not more:
            return [pid for pid in parents if pid in wanted and pid != os.getpid()]
        wanted |= more


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _signal_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
