"""In a sandboxed process: whether a candidate computes what it returns, on every call, from what it is given.

Entry `run`. Each experiment is a part of its own name: what the candidate returned under some change of its
circumstances. What that means is decided by `tilewright.gate.judging.honesty`, on the other side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.gate.compare import aliases
from tilewright.gate.inside import (
    gradients,
    honest_calls,
    honest_library,
    patches,
    pretend,
    runtime,
    workbench,
    world,
)
from tilewright.gate.inside.execute import describe
from tilewright.gate.inside.honest_bench import Bench, Call, Report, Tamper, changed, copies, held, same
from tilewright.gate.inside.pretend import really
from tilewright.gate.reference.subject import leaves
from tilewright.sandbox import wire
from tilewright.toolchain import triton_compat
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]

#: Launches of a pass that are looked at one by one.
_MOST_LAUNCHES = 8
#: What takes the place of what kernels store: a decoy's caller does not care which.
CONSTANTS = (0.0, 0.375)
#: Poison of unwritten memory in the second run; the first has NaN, which a maximum or a comparison may drop.
_OTHER_POISON = 12345.0


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module. Job fields beside those of `execute`: `first`, `second`, `weights` (probes)."""
    with runtime.kernel_environment(job) as watch:
        tamper = Tamper()
        if job["device"] == "cpu":
            triton_compat.change_stores(tamper.change)
        stage = Bench(job, tensors, watch, tamper)
        operators = world.Operators((f"/{runtime.FILE}", f"/{runtime.OTHER_FILE}"))
        operators.watch()
        before, at_first = patches.watched(), world.state()
        watch.on_launch = stage.launched
        stage.module = runtime.load_candidate(Path.cwd())
        found = patches.replaced(before, after_kernels=False)
        imported = world.changed(at_first, world.state())
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
            if "skipped" in report and not stage.renewed():
                late += job["experiments"][job["experiments"].index(name) + 1 :]
                break
        found += patches.replaced(before, after_kernels=True)
        with really():
            end = {"replaced": sorted(set(found)), "left out": late, "operators": operators.replaced}
            emit("end", end | {"imported": imported, "called": list(dict.fromkeys(stage.world))}, None)


def _tried(experiment: Callable[[Bench], Report], stage: Bench, job: Mapping[str, Any]) -> tuple[Report, Any]:
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


# --- the experiments ------------------------------------------------------------------------------------------


def _first(stage: Bench) -> Report:
    """An ordinary call; do inputs, parameters and buffers stay as they were?"""
    stage.model, stage.holder = stage.build()
    stage.inputs = stage.fresh()
    given = {f"input {i}": leaf for i, leaf in enumerate(leaves(stage.inputs))}
    before, kept = copies(given), copies(held(stage.holder))
    stage.first = stage.call(stage.model, stage.inputs)
    stage.kept = stage.first.at_once
    report = stage.report(stage.first)
    report["inputs changed"] = changed(before, given)
    stage.changed = list(report["inputs changed"])
    with really():
        after = [[name, given[name].detach().cpu().contiguous()] for name in stage.changed]
        report["inputs after"] = wire.pack(after, stage.packed, "after")
        report["shared"] = aliases.shared(stage.first.results, leaves(stage.inputs), held(stage.holder))
    report["parameters changed"] = changed(kept, held(stage.holder))
    with really():
        memory = {tensor.untyped_storage()._cdata for tensor in leaves(stage.inputs)}
        stage.is_input = any(result.untyped_storage()._cdata in memory for result in stage.first.results)
    return report


def _again(stage: Bench) -> Report:
    """The same call on the same tensors: the same bits?"""
    assert stage.first is not None
    if stage.changed:  # a module that works in place has other values there by now
        with really():
            for mine, own in zip(leaves(stage.inputs), leaves(stage.fresh()), strict=True):
                mine.copy_(own)
    call = stage.call(stage.model, stage.inputs)
    return stage.report(call) | {"same bits": same(stage.first.at_once, call.at_once)}


def _in_place(stage: Bench) -> Report:
    """Other values in the same tensors; and is the first call's result still what it was?"""
    assert stage.first is not None
    with really():
        for mine, other in zip(leaves(stage.inputs), leaves(stage.fresh("second")), strict=True):
            mine.copy_(other)
    call = stage.call(stage.model, stage.inputs)
    # What lies in an input's memory by the reference's own rule changes with it.
    is_alias = stage.is_input and bool(stage.job.get("aliases"))
    return stage.report(call) | {"kept": is_alias or same(stage.first.results, stage.kept)}


def _new_tensors(stage: Bench) -> Report:
    """The first values again, in new tensors."""
    return stage.report(stage.call(stage.model, stage.fresh()))


def _update(stage: Bench) -> Report:
    """Other weights, written in place as an optimiser does."""
    runtime.load_state(stage.holder, workbench.state_of(stage.job["weights"], stage.tensors))
    return stage.report(stage.call(stage.model, stage.fresh()))


def _storage(stage: Bench) -> Report:
    """The first weights again, as new memory behind the same parameters."""
    old = [value.data for value in held(stage.holder).values()]
    with torch.no_grad(), really():
        for value in stage.holder.parameters():
            value.data = value.data.clone()
    runtime.load_state(stage.holder, workbench.state_of(stage.job["first"], stage.tensors))
    report = stage.report(stage.call(stage.model, stage.fresh()))
    del old  # until here no new memory could lie where the old was
    return report


def _data(stage: Bench) -> Report:
    """Other weights, written through `.data`, which torch does not count."""
    model, holder = stage.build()
    stage.call(model, stage.fresh())
    other, its = stage.build()
    del other
    runtime.load_state(its, workbench.state_of(stage.job["weights"], stage.tensors))
    with torch.no_grad(), really():
        for mine, value in zip(held(holder).values(), held(its).values(), strict=True):
            mine.data.copy_(value)
    return stage.report(stage.call(model, stage.fresh()))


def _instances(stage: Bench) -> Report:
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


def _poison(stage: Bench) -> Report:
    """Another value in memory that nobody has written."""
    assert stage.first is not None
    pretend.set_poison(_OTHER_POISON)
    model, _ = stage.build()
    call = stage.call(model, stage.fresh())
    return stage.report(call) | {"same bits": same(stage.first.at_once, call.at_once)}


def _constants(stage: Bench) -> Report:
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


def _without(stage: Bench, number: int) -> list[bool]:
    """Whether the output stays the same, bit by bit, while one launch stores a constant: for each constant."""
    assert stage.first is not None
    alike = []
    for constant in reversed(CONSTANTS):
        call, _ = _controlled(stage, constant, number)
        alike.append(same(stage.first.at_once, call.at_once))
        if not alike[-1]:
            break
    return alike


def _controlled(stage: Bench, constant: float, only: int) -> tuple[Call, nn.Module]:
    model, _ = stage.build()  # what it prepares and keeps is made under the control, too
    stage.tamper.constant, stage.tamper.only = constant, only
    try:
        return stage.call(model, stage.fresh()), model
    finally:
        stage.tamper.constant, stage.tamper.only = None, 0


def _dots_of(stage: Bench) -> list[int]:
    """Products of each launch of the last call; of none where nothing was launched."""
    ends = [*stage.dots[1:], sum(stage.watch.seen.dots.values())][: len(stage.dots)]
    return [end - start for start, end in zip(stage.dots, ends, strict=True)]


def _failure(stage: Bench) -> Report:
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
        right = same(stage.first.at_once, call.at_once)
        swallowed.append(
            {"kernel": stage.kernels[number - 1], "later": len(stage.kernels) - number, "same bits": right}
        )
    return {"swallowed": swallowed}


def _as_built(stage: Bench) -> Report:
    """An instance that nobody has switched to eval mode."""
    model, _ = stage.build(mode="built")
    return stage.report(stage.call(model, stage.fresh()))


def _gradients(stage: Bench) -> Report:
    """Gradients of the first inputs and weights."""
    model, holder = stage.build()
    parameters = dict(holder.named_parameters())
    try:
        taken = gradients.take(lambda given: model(*given), stage.fresh(), parameters)
    except Exception as error:  # it says aloud that it has none
        return {"raises": describe(error)}
    with really():
        names = list(taken.values)
        stage.packed |= {f"gradient {number}": taken.values[name].cpu() for number, name in enumerate(names)}
    keys = {name: f"gradient {number}" for number, name in enumerate(names)}
    return {"carries": list(taken.carries), "pretends": taken.pretends, "gradients": keys}


#: Name -> experiment. `first` comes before all others.
EXPERIMENTS: Mapping[str, Callable[[Bench], Report]] = {
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
    "as built": _as_built,
    "gradients": _gradients,
    "written": honest_calls.written,
    "samples": honest_calls.samples,
    "many": honest_calls.many,
    "passed on": honest_library.passed_on,
}
