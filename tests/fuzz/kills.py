"""SIGKILL in the middle of a run: what is left of processes, and of results."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REFERENCES = Path(__file__).resolve().parents[1] / "verify" / "corpus" / "references"
CANDIDATES = REFERENCES.parent / "right"
#: Seconds that the operating system is given to end what has lost its parent.
PATIENCE_S = 8.0
#: Seconds within which a run starts its first process, on a busy machine.
FIRST_CHILD_S = 90.0


@dataclass(frozen=True)
class Killed:
    """What was found after a kill.

    Attributes:
        after_s: seconds from the start to the kill.
        ended_itself: the run was over before the kill came.
        orphans: command lines of processes that lived on.
        halves: result files that are neither whole nor absent.
        children: processes that the run had when it was killed.
    """

    after_s: float
    ended_itself: bool
    orphans: tuple[str, ...]
    halves: tuple[str, ...]
    children: int

    @property
    def clean(self) -> bool:
        """Nothing was left that should not be."""
        return not self.orphans and not self.halves


def commands(out: Path) -> Mapping[str, list[str]]:
    """The runs that are killed, by the command's name; results go to `out`."""
    reference = str(REFERENCES / "bias_gelu.py")
    start = [sys.executable, "-m", "tilewright"]
    optimize = [*start, "optimize", reference, "--gpu", "4090", "--out", str(out)]
    return {
        "optimize": [*optimize, "--effort", "none"],
        "optimize quick": optimize,
        "verify": [*start, "verify", reference, str(CANDIDATES / "autotuned.py"), "--gpu", "4090", "--json"],
    }


def kill_after(command: Sequence[str], seconds: float, out: Path, *, of_first_child: bool = False) -> Killed:
    """Start a run, SIGKILL it after `seconds` (of it, or of its first child process), and look at what is left."""
    started = time.monotonic()
    stop = started + (FIRST_CHILD_S if of_first_child else seconds)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    known: dict[int, str] = {}
    while time.monotonic() < stop and process.poll() is None:
        found = descendants(process.pid)
        if of_first_child and found and not known:
            stop = time.monotonic() + seconds
        known |= found
        time.sleep(0.02)
    known |= descendants(process.pid)
    ended_itself = process.poll() is not None
    process.kill()
    process.wait()
    after = time.monotonic() - started
    orphans = _wait_for_end(known)
    for pid in orphans:
        _kill(pid)
    return Killed(
        round(after, 2), ended_itself, tuple(orphans.values()), tuple(half_written(out)), len(known)
    )  # fmt: skip


def descendants(pid: int) -> dict[int, str]:
    """Living processes below `pid`, with their command lines; those of a namespace of their own too."""
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        try:
            tasks = list(Path(f"/proc/{current}/task").iterdir())
            children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:
            continue
        for child in children:
            found[child] = _identity(child)
            waiting.append(child)
    return {child: line for child, line in found.items() if line}


def _identity(pid: int) -> str:
    """Start time and command line: a number that was given again is another process. Empty for none or a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
    return "" if status[0] in {"Z", "X"} else f"{status[19]} {line[:200]}"


def _wait_for_end(known: Mapping[int, str]) -> dict[int, str]:
    """Those of `known` that still live when patience is over."""
    stop = time.monotonic() + PATIENCE_S
    while True:
        # The command line changes between fork and exec; the start time does not.
        left = {
            pid: now for pid, line in known.items() if (now := _identity(pid)) and now.split()[0] == line.split()[0]
        }
        if not left or time.monotonic() > stop:
            return left
        time.sleep(0.1)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def half_written(out: Path) -> list[str]:
    """Result files in `out` that are there and not whole, with what is wrong with them."""
    bad = []
    for path in sorted(out.rglob("*")) if out.is_dir() else []:
        problem = _problem(path) if path.is_file() else ""
        if problem:
            bad.append(f"{path.relative_to(out)}: {problem}")
    return bad


def _problem(path: Path) -> str:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".py":
            compile(path.read_text(encoding="utf-8"), str(path), "exec")
            if "class ModelNew" not in path.read_text(encoding="utf-8"):
                return "there is no ModelNew in it"
        elif path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
            return "it has no end"
        elif path.suffix == ".sqlite":
            with sqlite3.connect(path) as connection:
                answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
            return "" if answer == "ok" else str(answer)
    except (ValueError, SyntaxError, sqlite3.Error) as error:
        return f"{type(error).__name__}: {error}"
    return ""
