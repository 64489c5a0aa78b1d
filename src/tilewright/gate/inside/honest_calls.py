"""Experiments on what a candidate keeps from one call to the next; they run on `honest_bench.Bench`."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn

from tilewright.gate.compare import aliases
from tilewright.gate.inside import runtime, workbench
from tilewright.gate.inside.honest_bench import Bench, Report, changed, copies, held
from tilewright.gate.inside.pretend import really
from tilewright.gate.reference.subject import leaves, map_leaves
from tilewright.sandbox import wire

#: What an output is filled with by its owner.
_FILL = 0.625
#: Share of the elements that change places among themselves, and tries until a sum keeps its bits.
_MOVED, _TRIES = 0.25, 64
#: Processor seconds that calls without kernels may take.
_MANY_S = 2.0
#: How far the counters of a candidate are set forward, in its own steps.
_FORWARD = (1_000, 20_000, 1_000_000)
#: Containers within containers that are searched for counters.
_DEPTH = 3


# --- outputs belong to the caller --------------------------------------------------------------------------------


def written(bench: Bench) -> Report:
    """The caller writes into what it was given: inputs and parameters stay, and the next answer is right."""
    given = {f"input {i}": leaf for i, leaf in enumerate(leaves(bench.inputs))} | held(bench.holder)
    before = copies(given)
    with bench.idle():
        first = bench.call(bench.model, bench.inputs)
    with really(), torch.no_grad():
        for result in first.results:
            if not any(aliases.overlap(result, other) for other in given.values()):
                result.fill_(_FILL if result.is_floating_point() or result.is_complex() else 1)
    moved = changed(before, given)
    with really():  # a module that works in place has other values there by now
        for mine, value in zip(leaves(bench.inputs), leaves(bench.fresh()), strict=True):
            if 0 not in mine.stride():
                mine.copy_(value)
    return bench.report(bench.call(bench.model, bench.inputs)) | {"moved": moved}


# --- what a cache could look at ----------------------------------------------------------------------------------


def samples(bench: Bench) -> Report:
    """Right inputs after ones that agree with them in all that a cache may look at: the first weights, three times.

    Some elements have changed places first: shape, corners, ends, extremes and sum are those of the right values.
    What was kept then is worthless, since kernels did nothing. The right values follow in the same tensors, written
    past torch's count of versions; then with weights of which the same is true; then in new tensors.
    """
    state = workbench.state_of(bench.job["first"], bench.tensors)
    judged = []
    for number in range(3):
        # An instance that has not seen the right inputs: what it kept of them would be right.
        model, holder = bench.build()
        bench.call(model, _others(bench))
        inputs = bench.fresh()
        with really():
            right = [leaf.clone() for leaf in leaves(inputs)]
            for leaf, value in zip(leaves(inputs), right, strict=True):
                if 0 not in leaf.stride():
                    leaf.copy_(alike(value, number))
        if number == 1:
            runtime.load_state(holder, {name: alike(value, number) for name, value in state.items()})
        with contextlib.suppress(Exception), bench.idle():
            bench.call(model, inputs)
        if number == 1:
            runtime.load_state(holder, state)
        with really():
            for leaf, value in zip(leaves(inputs), right, strict=True):
                if 0 not in leaf.stride():
                    leaf.data.copy_(value)
        judged.append(_judged(bench, inputs if number < 2 else bench.fresh(), f"{number}.", model))
    return {"judged": judged}


def _others(bench: Bench) -> Any:
    """Other inputs than the first, of the same shapes."""
    if "second" in bench.job:
        return bench.fresh("second")
    with really():
        return map_leaves(bench.fresh(), lambda tensor: -tensor if tensor.is_floating_point() else tensor)


def alike(values: torch.Tensor, seed: int) -> torch.Tensor:
    """Values of which some have changed places: those at corners and ends have not. Integers stay as they are.

    Seed 0 moves a quarter of the elements; others move one pair, where one is found that leaves the sum's bits.
    """
    count = values.numel()
    if not values.is_floating_point() or count < 8:
        return values
    flat = values.reshape(-1).clone()
    free = torch.nonzero(_inner(values.shape)).reshape(-1)
    if free.numel() < 2:
        free = torch.arange(1, count - 1)
    generator = torch.Generator().manual_seed(seed)
    if seed == 0:
        chosen = free[torch.randperm(free.numel(), generator=generator)[: max(int(free.numel() * _MOVED), 2)]]
        flat[chosen] = flat[chosen.roll(1)]
        return flat.reshape(values.shape)
    total = flat.sum()
    for _ in range(_TRIES):
        one, other = free[torch.randint(free.numel(), (2,), generator=generator)]
        if bool((flat[one] - flat[other]).abs() <= 0.1 * flat.abs().mean()):
            continue
        moved = flat.clone()
        moved[one], moved[other] = flat[other], flat[one]
        if bool(moved.sum() == total):
            return moved.reshape(values.shape)
    return alike(values, 0)


def _inner(shape: torch.Size) -> torch.Tensor:
    """Which elements lie at no corner, and neither among the first nor among the last ones."""
    corner = torch.ones(shape, dtype=torch.bool)
    for dim, size in enumerate(shape):
        line = torch.zeros(size, dtype=torch.bool)
        line[0] = line[-1] = True
        corner &= line.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    inner = ~corner.reshape(-1)
    ends = min(16, inner.numel() // 4)
    inner[:ends] = inner[inner.numel() - ends :] = False
    return inner


# --- many calls ----------------------------------------------------------------------------------------------------


def many(bench: Bench) -> Report:
    """After many calls, most of them without their kernels' work, and with its counters set far forward.

    Where one of the calls launched less than the first, another instance is brought to the same call. What a candidate
    kept before each call that counts is worthless, since the kernels of the call before it did nothing.
    """
    at_first = _numbers([vars(bench.module)])
    model = _called(bench)
    idle = _idle_calls(bench, model, int(bench.job["calls"]))
    judged = [_judged(bench, bench.fresh(), "0.", model)]
    counters = _counters(bench, model)
    for number, step in enumerate(_FORWARD if counters else ()):
        _idle_calls(bench, model, 1)
        for counter in counters:
            counter.add(step)
        judged.append(_judged(bench, bench.fresh(), f"{number + 1}.", model))
    odd = next((number for number, count in enumerate(idle) if count < idle[0]), None)
    if odd is not None:
        for holder, key, value in at_first.values():
            holder[key] = value
        model = _called(bench)
        _idle_calls(bench, model, odd)
        judged.append(_judged(bench, bench.fresh(), "odd.", model))
    return {"calls": len(idle), "odd": odd, "counters": len(counters), "judged": judged}


def _called(bench: Bench) -> nn.Module:
    """A new instance that has prepared what it prepares on its first call."""
    model, _ = bench.build()
    bench.call(model, bench.fresh())
    return model


def _judged(bench: Bench, inputs: Any, prefix: str, model: nn.Module | None = None) -> Report:
    """A call on inputs that hold the first values, as a report of its own."""
    call = bench.call(model or bench.model, inputs)
    with really():
        outputs = wire.pack([output.cpu() for output in call.at_once], bench.packed, prefix)
    return {"outputs": outputs, "form": call.form.as_data(), "subclasses": call.subclasses}


def _idle_calls(bench: Bench, model: nn.Module, count: int) -> list[int]:
    """Launches of each of so many calls whose kernels do nothing; fewer where the time is up."""
    found: list[int] = []
    inputs = _others(bench)
    stop = time.process_time() + _MANY_S
    with contextlib.suppress(runtime.TooDearError), _alarm(2 * _MANY_S), bench.idle(), torch.no_grad():
        while len(found) < count and time.process_time() < stop:
            bench.kernels = []
            model(*inputs)
            found.append(len(bench.kernels))
    return found


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Within it, Python code that uses so much processor time is given up: it may wait for what no kernel writes."""

    def give_up(number: int, frame: object) -> None:
        raise runtime.TooDearError("a call without its kernels' work", 0, seconds)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


@dataclass(frozen=True)
class Counter:
    """A whole number in a container that each call raises by `step`."""

    holder: Any
    key: Any
    step: int

    def add(self, calls: int) -> None:
        """As if so many calls had been made."""
        self.holder[self.key] += self.step * calls


def _counters(bench: Bench, model: nn.Module) -> list[Counter]:
    """What counts the calls: in the module, its children, the class, the candidate's file."""
    tables = [_numbers(_roots(bench, model))]
    for _ in range(2):
        with bench.idle(), contextlib.suppress(Exception), torch.no_grad():
            model(*bench.fresh())
        tables.append(_numbers(_roots(bench, model)))
    found = []
    for place, (holder, key, value) in tables[0].items():
        later = [table.get(place) for table in tables[1:]]
        if any(one is None for one in later):
            continue
        first, second = (one[2] for one in later if one is not None)
        if first - value == second - first != 0:
            found.append(Counter(holder, key, first - value))
    return found


def _roots(bench: Bench, model: nn.Module) -> list[Any]:
    functions = [value for value in vars(bench.module).values() if isinstance(value, FunctionType)]
    functions += [value for value in vars(type(model)).values() if isinstance(value, FunctionType)]
    kept = [function.__dict__ for function in functions] + [function.__defaults__ for function in functions]
    return [*(child.__dict__ for child in model.modules()), vars(bench.module), *kept]


def _numbers(roots: list[Any]) -> dict[tuple[int, Any], tuple[Any, Any, int]]:
    """(container, key) -> container, key, value: of all whole numbers near the roots that can be replaced."""
    found: dict[tuple[int, Any], tuple[Any, Any, int]] = {}

    def walk(holder: Any, depth: int) -> None:
        pairs = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
        for key, value in pairs[:1000]:
            if type(value) is int and isinstance(holder, dict | list):
                found[id(holder), repr(key)] = holder, key, value
            elif depth and isinstance(value, dict | list | tuple) and not str(key).startswith("__"):
                walk(value, depth - 1)

    for root in roots:
        if root:
            walk(root, _DEPTH)
    return found
