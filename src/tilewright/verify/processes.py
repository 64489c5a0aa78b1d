"""Process trees seen from outside: what they use, what they print, and how to end them, all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO

#: Environment variable that marks every process of a job, also one that left its session.
MARK = "TILEWRIGHT_JOB"

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


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


def tree_usage(pid: int) -> tuple[int, int]:
    """Processes below and with `pid`, and their resident bytes together. (0, 0) where /proc is absent."""
    count, resident = 0, 0
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        try:
            resident += int(Path(f"/proc/{current}/statm").read_text().split()[1]) * _PAGE_BYTES
            children = Path(f"/proc/{current}/task/{current}/children").read_text().split()
        except (OSError, IndexError, ValueError):
            continue
        count += 1
        waiting.extend(int(child) for child in children)
    return count, resident


def kill_marked(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a job's process group and every process that carries its mark, and reap the child."""
    # In a process namespace the first kill ends all; without one, a bomb needs the rounds below.
    _signal_group(process.pid)
    for attempt in range(50):
        left = _marked(mark)
        if not left:
            break
        for pid in left:
            _signal(pid)
        time.sleep(0.002 * attempt)
    try:
        process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:  # pragma: no cover - a process stuck in the kernel
        return


def _signal_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _marked(mark: str) -> list[int]:
    """Living processes whose environment carries `mark`."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0") and _alive(entry):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _alive(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
