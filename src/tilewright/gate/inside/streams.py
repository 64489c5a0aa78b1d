"""CUDA streams that are only told apart: which work has the caller's stream waited for when a forward pass returns.

On a machine without a GPU everything runs in order, so a missing wait changes nothing. Here each stream keeps what it
has waited for (a vector clock), and the work of a stream that the caller's has not waited for can be named.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

_Clock = dict[int, int]


class Streams:
    """The streams of one pretended device."""

    def __init__(self) -> None:
        self.main = Stream(self, 0)
        self.current = self.main
        self.known = [self.main]
        self._numbers = itertools.count(1)

    def make(self) -> Stream:
        """A new stream."""
        self.known.append(Stream(self, next(self._numbers)))
        return self.known[-1]

    def work(self) -> None:
        """Something is enqueued on the current stream."""
        self.current.clock[self.current.number] = self.current.clock.get(self.current.number, 0) + 1

    def unwaited(self) -> int:
        """How many streams hold work that the caller's stream does not wait for."""
        waited = self.main.clock
        return sum(
            stream.clock.get(stream.number, 0) > waited.get(stream.number, 0)
            for stream in self.known
            if stream is not self.main
        )

    def side(self) -> int:
        """How many streams beside the caller's were given work."""
        return sum(stream.clock.get(stream.number, 0) > 0 for stream in self.known if stream is not self.main)

    def synchronize(self, *device: Any) -> None:
        """The host waits for everything, so whatever comes later does too."""
        for stream in self.known:
            _merge(self.main.clock, stream.clock)

    @contextlib.contextmanager
    def pretended(self) -> Iterator[None]:
        """Within it, these are torch's streams and events."""
        patches: dict[str, Callable[..., Any]] = {
            "Stream": lambda *args, **kwargs: self.make(),
            "ExternalStream": lambda *args, **kwargs: self.make(),
            "Event": lambda *args, **kwargs: Event(self),
            "stream": lambda stream: _Within(self, stream),
            "set_stream": self._set,
            "current_stream": lambda device=None: self.current,
            "default_stream": lambda device=None: self.main,
            "synchronize": self.synchronize,
            "_sleep": lambda cycles: self.work(),
        }
        with contextlib.ExitStack() as stack:
            for name, function in patches.items():
                if hasattr(torch.cuda, name):
                    stack.enter_context(mock.patch.object(torch.cuda, name, function))
            yield

    def _set(self, stream: Any) -> None:
        if isinstance(stream, Stream):
            self.current = stream


class Stream:
    """One stream, with what it has waited for: stream -> how much of its work."""

    def __init__(self, streams: Streams, number: int) -> None:
        self._streams = streams
        self.number = number
        self.clock: _Clock = {}
        self.cuda_stream = number
        self.stream_id = number
        self.device = torch.device("cuda", 0)
        self._before: list[Stream] = []

    def wait_stream(self, other: Any) -> None:
        """What comes later here waits for what is on `other` now."""
        if isinstance(other, Stream):
            _merge(self.clock, other.clock)

    def wait_event(self, event: Any) -> None:
        """What comes later here waits for what was before the event."""
        if isinstance(event, Event):
            _merge(self.clock, event.clock)

    def record_event(self, event: Any = None) -> Event:
        """An event after what is here now."""
        found = event if isinstance(event, Event) else Event(self._streams)
        found.record(self)
        return found

    def synchronize(self) -> None:
        """The host waits for this stream."""
        _merge(self._streams.main.clock, self.clock)

    def query(self) -> bool:
        """Whether all is done: asking again and again is waiting."""
        self.synchronize()
        return True

    def __enter__(self) -> Stream:
        self._before.append(self._streams.current)
        self._streams.current = self
        self._streams.work()
        return self

    def __exit__(self, *exception: object) -> None:
        self._streams.current = self._before.pop()


class Event:
    """A point on a stream."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.clock: _Clock = {}

    def record(self, stream: Any = None) -> None:
        """After what is on the stream now."""
        where = stream if isinstance(stream, Stream) else self._streams.current
        self.clock = dict(where.clock)

    def wait(self, stream: Any = None) -> None:
        """What comes later on the stream waits for this."""
        (stream if isinstance(stream, Stream) else self._streams.current).wait_event(self)

    def synchronize(self) -> None:
        """The host waits for this."""
        _merge(self._streams.main.clock, self.clock)

    def query(self) -> bool:
        """Whether it is reached: asking again and again is waiting."""
        self.synchronize()
        return True

    def elapsed_time(self, other: Any) -> float:
        """Milliseconds; there is no clock here."""
        return 1.0


class _Within:
    """`with torch.cuda.stream(stream)`; None is allowed, as torch allows it."""

    def __init__(self, streams: Streams, stream: Any) -> None:
        self._stream = stream if isinstance(stream, Stream) else None

    def __enter__(self) -> Any:
        return self._stream.__enter__() if self._stream is not None else None

    def __exit__(self, *exception: object) -> None:
        if self._stream is not None:
            self._stream.__exit__()


def _merge(into: _Clock, other: _Clock) -> None:
    for number, reached in other.items():
        into[number] = max(into.get(number, 0), reached)
