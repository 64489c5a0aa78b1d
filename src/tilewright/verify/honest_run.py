"""In a sandboxed process: whether a candidate computes what it returns, on every call, from what it is given.

Entry `run`. Each experiment is a part of its own name: what the candidate returned under some change of its
circumstances. What that means is decided by `tilewright.verify.honesty`, on the other side.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.kernels import triton_compat
from tilewright.kernels.interpreting.unsupported import NotInterpretableError
from tilewright.verify import patches, pretend, runtime, wire, workbench
from tilewright.verify.execute import describe
from tilewright.verify.pretend import really
from tilewright.verify.streams import Streams
from tilewright.verify.subject import Form, as_tensors, leaves, product_precision

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]
Report = dict[str, Any]

#: Seconds that threads of a candidate are waited for after its forward pass.
_THREADS_S = 5.0
#: Launches of a pass that are looked at one by one.
_MOST_LAUNCHES = 8
#: What takes the place of what kernels store: a decoy's caller does not care which.
CONSTANTS = (0.0, 0.375)
#: Poison of unwritten memory in the second run; the first has NaN, which a maximum or a comparison may drop.
_OTHER_POISON = 12345.0


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module. Job fields beside those of `execute`: `first`, `second`, `weights` (probes)."""
    with runtime.kernel_environment(job) as watch:
        tamper = _Tamper()
        if job["device"] == "cpu":
            triton_compat.change_stores(tamper.change)
        stage = _Stage(job, tensors, watch, tamper)
        before = patches.watched()
        watch.on_launch = stage.launched
        stage.module = runtime.load_candidate(Path.cwd())
        found = patches.replaced(before, after_kernels=False)
        stop = time.process_time() + float(job["budget_s"])
        late: list[str] = []
        for name in job["experiments"]:
            if time.process_time() > stop:
                late.append(name)
                continue
            report, packed = _tried(EXPERIMENTS[name], stage, job)
            with really():
                emit(name, report, packed)
            if name == "first" and ("error" in report or "unknown" in report):
                break  # its error is told by the gate's own runs
        found += patches.replaced(before, after_kernels=True)
        with really():
            emit("end", {"replaced": sorted(set(found)), "left out": late}, None)


def _tried(experiment: Callable[[_Stage], Report], stage: _Stage, job: Mapping[str, Any]) -> tuple[Report, Any]:
    stage.packed = {}
    # A run that takes longer than its share is given up by the watch, and named.
    stage.watch.reset(0, 0.0 if job["device"] == "cuda" else time.process_time() + float(job["share_s"]))
    try:
        report = experiment(stage)
    except runtime.TooDearError as error:
        return {"skipped": str(error)}, None
    except NotInterpretableError as error:
        return {"skipped": error.what, "unknown": error.what}, None
    except Exception as error:
        return {"error": describe(error)}, None
    finally:
        stage.settle()
    return report, stage.packed


@dataclass
class _Tamper:
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
class _Call:
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
class _Stage:
    """The candidate on which the experiments are made, one after the other."""

    job: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    watch: runtime.Watch
    tamper: _Tamper
    module: Any = None
    packed: dict[str, torch.Tensor] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)
    dots: list[int] = field(default_factory=list)
    failing: int = 0
    model: Any = None
    holder: Any = None
    inputs: Any = None
    first: _Call | None = None
    kept: list[torch.Tensor] = field(default_factory=list)
    streams: Streams | None = None
    source: Any = None
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

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Another instance with the first weights."""
        if self.source is None:
            self.source = workbench.source_of(self.job)
        model, holder = workbench.build(self.job, self.module, self.source, int(self.job["first"]["constructor"]))
        runtime.load_state(holder, workbench.state_of(self.job["first"], self.tensors))
        return model, holder

    def fresh(self, probe: str = "first") -> Any:
        """The inputs of a probe in new memory."""
        with really():
            return workbench.inputs_of(self.job, self.job[probe], self.tensors)

    def call(self, model: nn.Module, inputs: Any) -> _Call:
        """One forward pass, watched."""
        self.kernels, self.dots, self.tamper.stored = [], [], {}
        before = set(sys._current_frames())
        self.streams = None if self.on_gpu else Streams()
        within = self.streams.pretended() if self.streams is not None else _Ordinary()
        with torch.no_grad(), product_precision(str(self.job["first"]["precision"])), within:
            runtime.seed_generators()
            returned = as_tensors(model(*inputs))
            results = leaves(returned)
        with really():
            form = Form.of(returned)
            kinds = {type(result).__name__ for result in results} - {"Tensor", "Parameter"}
            if self.on_gpu:
                torch.cuda.current_stream().synchronize()
            at_once = [result.detach().clone() for result in results]
            threads = _new_threads(before)
            _wait(threads)
            if self.on_gpu:
                torch.cuda.synchronize()
            late = [result.detach().clone() for result in results]
        differs = not _same(at_once, late)
        streams = self.streams
        side, unwaited = (streams.side(), streams.unwaited()) if streams is not None else (0, 0)
        plain = [result.detach() for result in results]
        return _Call(form, sorted(kinds), plain, at_once, late if differs else None, len(threads), side, unwaited)

    def report(self, call: _Call, outputs: list[torch.Tensor] | None = None) -> Report:
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


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
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


def _changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> list[str]:
    with really():
        return [name for name in before if name not in after or not _same_bits(before[name], after[name])]


def _held(holder: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(holder.named_parameters()), **dict(holder.named_buffers())}


def _copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with really():
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}


# --- the experiments ------------------------------------------------------------------------------------------


def _first(stage: _Stage) -> Report:
    """An ordinary call; do inputs, parameters and buffers stay as they were?"""
    stage.model, stage.holder = stage.build()
    stage.inputs = stage.fresh()
    given = {f"input {i}": leaf for i, leaf in enumerate(leaves(stage.inputs))}
    before, held = _copies(given), _copies(_held(stage.holder))
    stage.first = stage.call(stage.model, stage.inputs)
    stage.kept = stage.first.at_once
    report = stage.report(stage.first)
    report["inputs changed"] = _changed(before, given)
    stage.changed = list(report["inputs changed"])
    with really():
        after = [[name, given[name].detach().cpu().contiguous()] for name in stage.changed]
        report["inputs after"] = wire.pack(after, stage.packed, "after")
    report["parameters changed"] = _changed(held, _held(stage.holder))
    stage.is_input = _shares(stage.first.results, leaves(stage.inputs))
    return report


def _shares(results: list[torch.Tensor], inputs: list[torch.Tensor]) -> bool:
    with really():
        mine = {leaf.untyped_storage().data_ptr() for leaf in inputs if leaf.numel()}
        return any(result.untyped_storage().data_ptr() in mine for result in results if result.numel())


def _again(stage: _Stage) -> Report:
    """The same call on the same tensors: the same bits?"""
    assert stage.first is not None
    if stage.changed:  # a module that works in place has other values there by now
        with really():
            for mine, own in zip(leaves(stage.inputs), leaves(stage.fresh()), strict=True):
                mine.copy_(own)
    call = stage.call(stage.model, stage.inputs)
    return stage.report(call) | {"same bits": _same(stage.first.at_once, call.at_once)}


def _in_place(stage: _Stage) -> Report:
    """Other values in the same tensors; and is the first call's result still what it was?"""
    assert stage.first is not None
    with really():
        for mine, other in zip(leaves(stage.inputs), leaves(stage.fresh("second")), strict=True):
            mine.copy_(other)
    call = stage.call(stage.model, stage.inputs)
    # What lies in an input's memory by the reference's own rule changes with it.
    same = stage.is_input and bool(stage.job.get("aliases"))
    return stage.report(call) | {"kept": same or _same(stage.first.results, stage.kept)}


def _new_tensors(stage: _Stage) -> Report:
    """The first values again, in new tensors."""
    return stage.report(stage.call(stage.model, stage.fresh()))


def _update(stage: _Stage) -> Report:
    """Other weights, written in place as an optimiser does."""
    runtime.load_state(stage.holder, workbench.state_of(stage.job["weights"], stage.tensors))
    return stage.report(stage.call(stage.model, stage.fresh()))


def _storage(stage: _Stage) -> Report:
    """The first weights again, as new memory behind the same parameters."""
    old = [value.data for value in _held(stage.holder).values()]
    with torch.no_grad(), really():
        for value in stage.holder.parameters():
            value.data = value.data.clone()
    runtime.load_state(stage.holder, workbench.state_of(stage.job["first"], stage.tensors))
    report = stage.report(stage.call(stage.model, stage.fresh()))
    del old  # until here no new memory could lie where the old was
    return report


def _data(stage: _Stage) -> Report:
    """Other weights, written through `.data`, which torch does not count."""
    model, holder = stage.build()
    stage.call(model, stage.fresh())
    other, its = stage.build()
    del other
    runtime.load_state(its, workbench.state_of(stage.job["weights"], stage.tensors))
    with torch.no_grad(), really():
        for mine, value in zip(_held(holder).values(), _held(its).values(), strict=True):
            mine.data.copy_(value)
    return stage.report(stage.call(model, stage.fresh()))


def _instances(stage: _Stage) -> Report:
    """Two instances with different weights, called in turn: the first one's second answer."""
    one, _ = stage.build()
    other, holder = stage.build()
    runtime.load_state(holder, workbench.state_of(stage.job["weights"], stage.tensors))
    stage.call(one, stage.fresh())
    second = stage.call(other, stage.fresh())
    report = stage.report(stage.call(one, stage.fresh()))
    with really():
        report["other"] = wire.pack([output.cpu() for output in second.at_once], stage.packed, "other")
    return report


def _poison(stage: _Stage) -> Report:
    """Another value in memory that nobody has written."""
    assert stage.first is not None
    pretend.set_poison(_OTHER_POISON)
    model, _ = stage.build()
    call = stage.call(model, stage.fresh())
    return stage.report(call) | {"same bits": _same(stage.first.at_once, call.at_once)}


def _constants(stage: _Stage) -> Report:
    """Everything that kernels store is replaced by a constant; and then what each single launch stores."""
    assert stage.first is not None
    report: Report = {"controls": []}
    for constant in CONSTANTS:
        call, _ = _controlled(stage, constant, 0)
        report["controls"].append(stage.report(call))
    kernels, stored, dots = list(stage.kernels), dict(stage.tamper.stored), _dots_of(stage)
    unused = []
    for number in range(1, min(len(kernels), _MOST_LAUNCHES) + 1):
        # A kernel that stores nothing here is a path that was not taken, and no decoy.
        if len(kernels) > 1 and stored.get(number) and all(_without(stage, number)):
            unused.append({"kernel": kernels[number - 1], "launch": number, "dots": dots[number - 1]})
    return report | {"kernels": kernels, "stores": sum(stored.values()), "unused": unused}


def _without(stage: _Stage, number: int) -> list[bool]:
    """Whether the output stays the same, bit by bit, while one launch stores a constant: for each constant."""
    assert stage.first is not None
    same = []
    for constant in reversed(CONSTANTS):
        call, _ = _controlled(stage, constant, number)
        same.append(_same(stage.first.at_once, call.at_once))
        if not same[-1]:
            break
    return same


def _controlled(stage: _Stage, constant: float, only: int) -> tuple[_Call, nn.Module]:
    model, _ = stage.build()  # what it prepares and keeps is made under the control, too
    stage.tamper.constant, stage.tamper.only = constant, only
    try:
        return stage.call(model, stage.fresh()), model
    finally:
        stage.tamper.constant, stage.tamper.only = None, 0


def _dots_of(stage: _Stage) -> list[int]:
    """Products of each launch of the last call; of none where nothing was launched."""
    ends = [*stage.dots[1:], sum(stage.watch.seen.dots.values())][: len(stage.dots)]
    return [end - start for start, end in zip(stage.dots, ends, strict=True)]


def _failure(stage: _Stage) -> Report:
    """Each launch fails in its turn: does the candidate say so?"""
    assert stage.first is not None
    swallowed = []
    count = len(stage.kernels)
    for number in range(1, min(count, _MOST_LAUNCHES) + 1):
        model, _ = stage.build()
        stage.failing = number
        try:
            call = stage.call(model, stage.fresh())
        except runtime.TooDearError:
            raise
        except Exception:
            continue
        finally:
            stage.failing = 0
        if len(stage.kernels) < number:
            continue  # it did not come to that launch
        right = _same(stage.first.at_once, call.at_once)
        swallowed.append(
            {"kernel": stage.kernels[number - 1], "later": len(stage.kernels) - number, "same bits": right}
        )
    return {"swallowed": swallowed}


#: Name -> experiment. `first` comes before all others.
EXPERIMENTS: Mapping[str, Callable[[_Stage], Report]] = {
    "first": _first,
    "again": _again,
    "in place": _in_place,
    "new tensors": _new_tensors,
    "constants": _constants,
    "update": _update,
    "storage": _storage,
    "poison": _poison,
    "instances": _instances,
    "failure": _failure,
    "data": _data,
}
