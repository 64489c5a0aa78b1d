"""The parent's clock: the child asks to start, the parent says `go`, and stops the time at the child's `done`.

A local socket, one line of JSON each way. The child owns none of the figures that come out of it. A line that asks
for no time is a message, and is answered by whoever listens.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tilewright.measure.statistics import Interval

_LONGEST_LINE = 1 << 16
_MOST_INTERVALS = 10_000

#: Answers a child's message; None ends the conversation.
Listener = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


class Metronome:
    """The parent's side: listens while it is entered, and keeps the intervals."""

    def __init__(self, now: Callable[[], float] = time.perf_counter, listener: Listener | None = None) -> None:
        """`listener` is called in another thread."""
        self._now = now
        self._listener = listener
        self._folder = tempfile.TemporaryDirectory(prefix="tw-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.path = str(self.folder / "s")
        self.intervals: list[Interval] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._connection: socket.socket | None = None

    def __enter__(self) -> Metronome:
        self._server.bind(self.path)
        self._server.listen(1)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for open_socket in (self._connection, self._server):
            if open_socket is not None:
                _shut(open_socket)
        self._thread.join(timeout=5)
        self._folder.cleanup()

    def _serve(self) -> None:
        try:
            self._connection, _ = self._server.accept()
            with self._connection.makefile("rwb", buffering=0) as channel:
                while len(self.intervals) < _MOST_INTERVALS and (line := channel.readline(_LONGEST_LINE)):
                    asked = json.loads(line)
                    if "calls" not in asked:
                        answer = self._listener(asked) if self._listener is not None else None
                        if answer is None:
                            return
                        channel.write(json.dumps(answer).encode() + b"\n")
                        continue
                    label, calls = str(asked["label"]), int(asked["calls"])
                    started = self._now()
                    channel.write(b"go\n")
                    if channel.readline(_LONGEST_LINE) != b"done\n":
                        return
                    self.intervals.append(Interval(label, calls, self._now() - started))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # the child is gone, or does not keep to the protocol: intervals are missing, which is seen


def _shut(open_socket: socket.socket) -> None:
    with contextlib.suppress(OSError):
        open_socket.shutdown(socket.SHUT_RDWR)
    open_socket.close()


class Beat:
    """The child's side."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._channel = self._socket.makefile("rwb", buffering=0)

    def timed(self, label: str, calls: int, run: Callable[[], None]) -> None:
        """Have the parent time `run`, which makes so many calls and waits for them.

        Raises:
            ConnectionError: the parent does not answer.
        """
        self._channel.write(json.dumps({"label": label, "calls": calls}).encode() + b"\n")
        if self._channel.readline() != b"go\n":
            raise ConnectionError("the parent's clock does not answer")
        run()
        self._channel.write(b"done\n")

    def tell(self, message: Mapping[str, Any]) -> Any:
        """Send a message and return the parent's answer.

        Raises:
            ConnectionError: the parent does not answer.
        """
        self._channel.write(json.dumps(message).encode() + b"\n")
        answer = self._channel.readline()
        if not answer:
            raise ConnectionError("the parent's clock does not answer")
        return json.loads(answer)
