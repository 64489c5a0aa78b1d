"""The experiment that asks whether kernels only pass on what PyTorch has computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tilewright.gate.inside import runtime, workbench
from tilewright.gate.inside.honest_bench import Bench, Call, Report, same
from tilewright.gate.inside.pretend import really
from tilewright.gate.reference.subject import DispatchMode, leaves, map_leaves

#: Operations that make no result of their own: memory, constants, copies.
_COPIES = frozenset(
    {
        "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "fill_",
        "zero_", "set_", "resize_", "copy_", "clone", "_to_copy", "contiguous", "arange", "detach", "scalar_tensor",
        "lift_fresh",
    }
)  # fmt: skip
#: Elements of the largest result that is kept, and of all of them.
_LARGEST, _MOST = 1 << 20, 1 << 24
#: A result that holds less of an output than this is no reason to call the output PyTorch's.
_PART = 0.5
#: Units in the last place by which the same function may differ between two libraries.
_UNITS = 16.0
#: Factors of the first inputs: what a kernel does at large and at negative values alone shows there.
_FACTORS = (-1.0, 64.0)


@dataclass(frozen=True)
class Made:
    """A result of one of PyTorch's operations, as it was before anybody could write into it.

    Attributes:
        operation: its name, and which result of that name it was.
        launched: launches before it.
        values: flat.
    """

    operation: tuple[str, int]
    launched: int
    values: torch.Tensor


class Results(DispatchMode):
    """Keeps what PyTorch's operations compute."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Made] = []
        self._bench = bench
        self._counts: dict[str, int] = {}
        self._kept = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func._schema.name).partition("::")[2]
        if name in _COPIES or "empty" in name or not func._schema.name.startswith("aten::"):
            return result
        with really():
            given = {tensor.untyped_storage()._cdata for tensor in leaves([args, list((kwargs or {}).values())])}
            for tensor in leaves(result):
                view = tensor.untyped_storage()._cdata in given and not func._schema.is_mutable
                if not view and self._worth(tensor):
                    self._keep(name, tensor)
        return result

    def _worth(self, tensor: torch.Tensor) -> bool:
        return tensor.is_floating_point() and 1 < tensor.numel() <= _LARGEST and self._kept < _MOST

    def _keep(self, name: str, tensor: torch.Tensor) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1
        self._kept += tensor.numel()
        values = tensor.detach().reshape(-1).clone()
        self.found.append(Made((name, self._counts[name]), len(self._bench.kernels), values))


def passed_on(bench: Bench) -> Report:
    """Results of PyTorch's that an output equals on all inputs, and that reach it through kernels alone.

    Nothing is said of what no kernel touches afterwards: that a product is left to the library is told elsewhere.
    """
    found = _equal(*_recorded(bench, bench.fresh()))
    if not found:
        return {"passed on": []}
    for inputs, weights in _others(bench):
        runtime.load_state(bench.holder, workbench.state_of(bench.job[weights], bench.tensors))
        with contextlib.suppress(Exception):  # what it does not take, it need not take
            other = _equal(*_recorded(bench, inputs()))
            found = {operation: launched for operation, launched in found.items() if operation in other}
    runtime.load_state(bench.holder, workbench.state_of(bench.job["first"], bench.tensors))
    names = [name for (name, _), launched in found.items() if _through_kernels(bench, launched)]
    kernels = list(dict.fromkeys(bench.kernels[min(found.values()) :])) if names else []
    return {"passed on": list(dict.fromkeys(names)), "kernels": kernels}


def _recorded(bench: Bench, inputs: Any) -> tuple[Call, Sequence[Made]]:
    results = Results(bench)
    return bench.call(bench.model, inputs, results), results.found


def _others(bench: Bench) -> Iterator[tuple[Callable[[], Any], str]]:
    """Other inputs, and the probe whose weights go with them."""
    for probe, weights in (("second", "second"), ("weights", "weights")):
        if probe in bench.job:
            yield lambda probe=probe: bench.fresh(probe), weights  # type: ignore[misc]
    for factor in _FACTORS:
        yield lambda factor=factor: _scaled(bench, factor), "first"  # type: ignore[misc]


def _scaled(bench: Bench, factor: float) -> Any:
    inputs = bench.fresh()
    with really():
        return map_leaves(inputs, lambda tensor: tensor * factor if tensor.is_floating_point() else tensor)


def _equal(call: Call, made: Sequence[Made]) -> Mapping[tuple[str, int], int]:
    """Operations whose result an output holds in the same order, or most of it from one end; launches before them."""
    found: dict[tuple[str, int], int] = {}
    with really():
        for output in call.at_once:
            flat = output.detach().reshape(-1)
            for one in made:
                count = one.values.numel()
                if not output.is_floating_point() or not _PART * flat.numel() <= count <= flat.numel():
                    continue
                ends = {0, flat.numel() - count}
                if any(_close(flat[start : start + count], one.values) for start in ends):
                    found[one.operation] = one.launched
    return found


def _close(values: torch.Tensor, others: torch.Tensor) -> bool:
    """Equal but for the last bits of the coarser type; elements that are not finite in both say nothing."""
    finite = torch.isfinite(values) & torch.isfinite(others)
    if not bool(finite.any()):
        return True
    eps = max(torch.finfo(values.dtype).eps, torch.finfo(others.dtype).eps)
    x, y = values[finite].double(), others[finite].double()
    slack = _UNITS * eps * (y.abs() + 0.05 * y.square().mean().sqrt())
    return bool(((x - y).abs() <= slack).all())


def _through_kernels(bench: Bench, launched: int) -> bool:
    """Whether the output changes with what the launches after the first `launched` store."""
    plain = bench.call(bench.model, bench.fresh())
    count = len(bench.kernels)
    for number in range(launched + 1, count + 1):
        bench.tamper.constant, bench.tamper.only = 0.375, number
        try:
            call = bench.call(bench.model, bench.fresh())
        finally:
            bench.tamper.constant, bench.tamper.only = None, 0
        if not same(plain.at_once, call.at_once):
            return True
    return False
