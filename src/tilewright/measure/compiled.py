"""In the measuring process: peers compiled, warmed up and checked, each within what is left of a time limit."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.gate.compare.errors import combine, compare_one
from tilewright.gate.compare.exactness import FEW, Right, compared
from tilewright.gate.reference.subject import as_tensors, leaves, map_leaves, to_double
from tilewright.measure.peers import Peer
from tilewright.measure.subjects import copy_state
from tilewright.measure.timer import Call, Subject
from tilewright.task.module_source import build_module
from tilewright.task.task import ModuleSource

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}

#: Less than this is not enough for any compilation, seconds.
_LEAST_S = 1.0


class PeerError(Exception):
    """There is no time of a peer; the message says why."""


def prepare_torch() -> None:
    """Peers share the module's code: a limit on compilations of one function must not send one back to eager."""
    config: Any = importlib.import_module("torch._dynamo").config
    for name in ("recompile_limit", "cache_size_limit"):
        if hasattr(config, name):
            setattr(config, name, 64)
    config.automatic_dynamic_shapes = False
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "inductor"))
    inductor: Any = importlib.import_module("torch._inductor.config")
    inductor.compile_threads = 1  # the measuring process may start no others
    # An import that a time limit interrupts would stay half done.
    for name in ("torch._dynamo.convert_frame", "torch._inductor.compile_fx"):
        importlib.import_module(name)


def compile_as(peer: Peer, module: nn.Module) -> Callable[..., Any]:
    """`module` compiled; for channels_last its parameters are brought into that layout in place."""
    if peer.channels_last:
        for parameter in module.parameters():
            parameter.data = in_layout(parameter.data)
    mode = None if peer.mode == "default" else peer.mode
    compiled: Callable[..., Any] = torch.compile(module, mode=mode)
    return compiled


def in_layout(value: Any) -> Any:
    """A tensor of 4 or 5 dims in channels_last; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.dim() in _FORMATS:
        return value.contiguous(memory_format=_FORMATS[value.dim()])
    return value


@dataclass
class PeerBench:
    """The peers of one reference; each is compiled once, when it is first asked for.

    Attributes:
        source: of the reference.
        reference: the built one, on the device.
        sets: of inputs.
        device: where all is.
    """

    source: ModuleSource
    reference: nn.Module
    sets: Sequence[Sequence[Any]]
    device: str = "cuda"
    _calls: dict[str, list[Call]] = field(default_factory=dict)
    _failures: dict[str, str] = field(default_factory=dict)
    _spent_s: float = 0.0
    _right: list[Right] = field(default_factory=list)

    def subject(self, peer: Peer, limit_s: float) -> Subject:
        """The peer, ready to be timed, or with the reason why it is not.

        Args:
            peer: which.
            limit_s: seconds that compiling all peers together may take; one that began has what the others left. None
                comes after one that was interrupted: it had all that was left.
        """
        if peer.name not in self._calls and peer.name not in self._failures:
            started = time.monotonic()
            try:
                prepare_torch()
                with within(limit_s - self._spent_s - (time.monotonic() - started)):
                    self._calls[peer.name] = self._prepared(peer)
            except Exception as error:
                self._failures[peer.name] = _said(error)
            self._spent_s += time.monotonic() - started
        return Subject(peer.name, self._calls.get(peer.name, []), failure=self._failures.get(peer.name, ""))

    def forget_outputs(self) -> None:
        """Give back the memory of the right outputs; they are made again where a peer needs them."""
        self._right = []

    def _prepared(self, peer: Peer) -> list[Call]:
        compiled = compile_as(peer, self._own_module())
        sets = [[in_layout(item) if peer.channels_last else item for item in inputs] for inputs in self.sets]
        problem = self._problem(compiled(*sets[0]))
        if problem:
            raise PeerError(f"its outputs are not right: {problem}")
        return [lambda inputs=inputs: compiled(*inputs) for inputs in sets]  # type: ignore[misc]

    def _own_module(self) -> nn.Module:
        """A module of its own, so that no peer changes the layout of another's parameters."""
        module = build_module(self.source, device=self.device).requires_grad_(False)
        copy_state(self.reference, module)
        return module

    def _problem(self, result: Any) -> str:
        """What is wrong with a peer's outputs on the first set of inputs; empty where they are right."""
        if not self._right:
            self._right = _right_outputs(self.reference, self._own_module().double(), self.sets)
        got = leaves(as_tensors(result))
        forms = [(tensor.shape, tensor.dtype) for tensor in got]
        if forms != [(right.exact.shape, right.dtype) for right in self._right]:
            return "their shapes or types are others"
        return next((found.message for found in map(compared, self._right, got) if found.problem), "")


def _right_outputs(reference: nn.Module, exact: nn.Module, sets: Sequence[Sequence[Any]]) -> list[Right]:
    """The right outputs on the first set of inputs, as the gate takes them: float64, and the reference's own errors.

    Errors of few elements are luck: where an output has few, the reference's largest on any set of inputs counts.
    """
    found = _right_on(reference, exact, sets[0])
    if all(right.exact.numel() >= FEW for right in found):
        return found
    others = [[right.errors for right in _right_on(reference, exact, inputs)] for inputs in sets[1:]]
    return [
        replace(right, pool=combine([right.errors, *(errors[place] for errors in others)]))
        for place, right in enumerate(found)
    ]


def _right_on(reference: nn.Module, exact: nn.Module, inputs: Sequence[Any]) -> list[Right]:
    own = leaves(as_tensors(reference(*_copied(inputs))))
    oracle = leaves(as_tensors(exact(*to_double(_copied(inputs)))))
    found = []
    for native, right in zip(own, oracle, strict=True):
        errors = compare_one(right, native)
        found.append(Right(right, native, native.dtype, None, errors, errors))
    return found


def _copied(inputs: Sequence[Any]) -> list[Any]:
    copies: list[Any] = map_leaves(list(inputs), lambda tensor: tensor.clone())
    return copies


def _said(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else "no message"
    _, ours, message = first.partition(
        f"{PeerError.__name__}: "
    )  # what rang inside a compiler comes wrapped in its own
    if isinstance(error, PeerError) or ours:
        return (message or first)[:500]
    return f"{type(error).__name__}: {first}"[:500]


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `PeerError` in this thread after so many seconds; at once where they are too few.

    Signals reach the main thread alone: elsewhere nothing ends what takes too long, but it is told afterwards.

    Raises:
        PeerError: time was up.
    """
    if seconds < _LEAST_S:
        raise PeerError("no time was left to compile it")
    message = f"it took more than the {seconds:.3g} s that were left to compile it"
    ends = time.monotonic() + seconds

    def ring(signum: int, frame: Any) -> None:
        raise PeerError(message)

    if threading.current_thread() is not threading.main_thread():
        yield
    else:
        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # rings again where somebody swallows the first
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if time.monotonic() > ends:
        raise PeerError(message)
