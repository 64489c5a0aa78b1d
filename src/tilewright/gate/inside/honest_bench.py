"""In a sandboxed process: a candidate on the bench of the experiments, one watched forward pass at a time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.gate.inside import pretend, runtime, workbench, world
from tilewright.gate.inside.pretend import really
from tilewright.gate.inside.streams import Streams
from tilewright.gate.reference.subject import Form, as_tensors, leaves, product_precision
from tilewright.sandbox import disguise, wire
from tilewright.toolchain import triton_compat
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError

Report = dict[str, Any]

#: Seconds that threads of a candidate are waited for after its forward pass.
_THREADS_S = 5.0


@dataclass
class Tamper:
    """Replaces values that kernels store, in all launches or in one; integers where no floats are stored at all."""

    constant: float | None = None
    only: int = 0
    launch: int = 0
    stored: dict[int, int] = field(default_factory=dict)
    floats: bool = False

    def change(self, values: Any, lanes: Any, constant_of: Callable[[float], Any], whole: bool) -> Any:
        """The values that are stored instead; `constant_of` makes a block of one value."""
        self.floats = self.floats or not whole
        if whole and self.floats:  # indices and flags that lead to floats
            return values
        if lanes.any():
            self.stored[self.launch] = self.stored.get(self.launch, 0) + 1
        if self.constant is None or (self.only and self.only != self.launch):
            return values
        return constant_of(self.constant)


@dataclass
class Call:
    """What a forward pass returned: at once, and once its threads (or other streams) were done."""

    form: Form
    subclasses: list[str]
    results: list[torch.Tensor]
    at_once: list[torch.Tensor]
    late: list[torch.Tensor] | None
    threads: int
    side_streams: int
    unwaited: int


@dataclass
class Bench:
    """The candidate on which the experiments are made, one after the other."""

    job: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    watch: runtime.Watch
    tamper: Tamper
    module: Any = None
    packed: dict[str, torch.Tensor] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)
    dots: list[int] = field(default_factory=list)
    failing: int = 0
    model: Any = None
    holder: Any = None
    inputs: Any = None
    first: Call | None = None
    kept: list[torch.Tensor] = field(default_factory=list)
    streams: Streams | None = None
    source: Any = None
    world: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    is_input: bool = False

    @property
    def on_gpu(self) -> bool:
        """Kernels are compiled and run."""
        return bool(self.job["device"] == "cuda")

    def launched(self, kernel: str) -> None:
        """Told of each launch before it happens."""
        self.kernels.append(kernel)
        self.dots.append(sum(self.watch.seen.dots.values()))
        self.tamper.launch = len(self.kernels)
        if self.streams is not None:
            self.streams.work()
        if self.failing == len(self.kernels):
            raise triton_compat.out_of_resources()

    def settle(self) -> None:
        """Back to ordinary circumstances."""
        self.failing, self.tamper.constant, self.tamper.only = 0, None, 0
        pretend.set_poison(None)

    def renewed(self) -> bool:
        """Import the candidate again after an experiment that was given up half-way; whether that could be done.

        What it keeps (counters of a launch that did not end, other weights) is not what it left there itself.
        """
        self.watch.reset(0, 0.0 if self.on_gpu else time.process_time() + float(self.job["share_s"]))
        try:
            self.module = runtime.load_candidate(Path.cwd())
            self.model, self.holder = self.build()
            self.inputs = self.fresh()
            self.call(self.model, self.inputs)
        except (runtime.TooDearError, NotInterpretableError, Exception):  # the first two are no `Exception`
            return False
        return True

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Within it, launches are counted, and their kernels do nothing."""
        self.watch.idle = True
        try:
            yield
        finally:
            self.watch.idle = False

    def build(self, mode: str = "") -> tuple[nn.Module, nn.Module]:
        """Another instance with the first weights."""
        if self.source is None:
            self.source = workbench.source_of(self.job)
        job = {**self.job, "mode": mode} if mode else self.job
        model, holder = workbench.build(job, self.module, self.source, int(self.job["first"]["constructor"]))
        runtime.load_state(holder, workbench.state_of(self.job["first"], self.tensors))
        return model, holder

    def fresh(self, probe: str = "first") -> Any:
        """The inputs of a probe in new memory."""
        with really():
            return workbench.inputs_of(self.job, self.job[probe], self.tensors)

    def call(self, model: nn.Module, inputs: Any, beside: contextlib.AbstractContextManager[Any] | None = None) -> Call:
        """One forward pass, watched; `beside` is entered for it alone."""
        self.kernels, self.dots, self.tamper.stored = [], [], {}
        before = set(sys._current_frames())
        self.streams = None if self.on_gpu else Streams()
        within = self.streams.pretended() if self.streams is not None else _Ordinary()
        with torch.no_grad(), product_precision(str(self.job["first"]["precision"])), within:
            with beside or contextlib.nullcontext(), disguise.hidden():
                runtime.seed_generators()
                before_world = world.state()
                returned = model(*inputs)
                self.world += world.changed(before_world, world.state())
            returned = as_tensors(returned)
            results = leaves(returned)
        with really():
            form = Form.of(returned)
            # By the type itself: a subclass may be called `Tensor`, too.
            plain_types = (torch.Tensor, nn.Parameter)
            kinds = {f"{type(r).__module__}.{type(r).__qualname__}" for r in results if type(r) not in plain_types}
            if self.on_gpu:
                torch.cuda.current_stream().synchronize()
            at_once = [result.detach().clone() for result in results]
            threads = _new_threads(before)
            _wait(threads)
            if self.on_gpu:
                torch.cuda.synchronize()
            late = [result.detach().clone() for result in results]
        differs = not same(at_once, late)
        streams = self.streams
        side, unwaited = (streams.side(), streams.unwaited()) if streams is not None else (0, 0)
        plain = [result.detach() for result in results]
        return Call(form, sorted(kinds), plain, at_once, late if differs else None, len(threads), side, unwaited)

    def report(self, call: Call, outputs: list[torch.Tensor] | None = None) -> Report:
        """A call as data, its outputs packed."""
        with really():
            plain = [output.cpu().contiguous() for output in (call.at_once if outputs is None else outputs)]
            return {
                "outputs": wire.pack(plain, self.packed, "out"),
                "form": call.form.as_data(),
                "launches": dict(self.watch.launches),
                "kernels": list(self.kernels),
                "dots": dict(self.watch.seen.dots),
                "narrowed": dict(self.watch.seen.narrowed),
                "threads": call.threads,
                "side_streams": call.side_streams,
                "unwaited": call.unwaited,
                "late": call.late is not None,
                "subclasses": call.subclasses,
            }


class _Ordinary:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        return None


def _new_threads(before: set[int]) -> list[int]:
    return [number for number in sys._current_frames() if number not in before]


def _wait(threads: list[int]) -> None:
    stop = time.monotonic() + _THREADS_S
    while threads and time.monotonic() < stop:
        known = {thread.ident: thread for thread in threading.enumerate()}
        for number in threads:
            if number in known:
                known[number].join(max(stop - time.monotonic(), 0.0))
        living = sys._current_frames()
        threads = [number for number in threads if number in living]
        time.sleep(0.01 if threads else 0.0)


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether two lists of tensors hold the same bits."""
    with really():
        return len(first) == len(second) and all(_same_bits(a, b) for a, b in zip(first, second, strict=True))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.numel() == 0:
        return True
    return bytes(_raw(a)) == bytes(_raw(b))


def _raw(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that do not hold the bits that they held before."""
    with really():
        return [name for name in before if name not in after or not _same_bits(before[name], after[name])]


def held(holder: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    return {**dict(holder.named_parameters()), **dict(holder.named_buffers())}


def copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor's values in memory of their own."""
    with really():
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}
