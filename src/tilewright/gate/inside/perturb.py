"""In a sandboxed process: does the reference's output depend on elements that a candidate never read?

Entry `run`. Parts: `answer I` for each question. The elements in question are changed, in several ways and in
float64, in an input, in a parameter, or in the result of the reference's own operation that holds the same values
as the candidate's tensor.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch

from tilewright.gate.reference.subject import DispatchMode, Subject, leaves, map_leaves, to_double
from tilewright.sandbox import wire

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]

#: A change of the output by less than this, of its root mean square, is rounding.
_CHANGED = 1e-9
#: A candidate's tensor holds the values of the reference's, if they differ by less than this, of the root mean square.
_SAME = 2e-2


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module."""
    subject = Subject.of(cloudpickle.loads(base64.b64decode(job["source"])), str(job.get("mode", "eval")))
    for number, question in enumerate(job["questions"]):
        arguments = cloudpickle.loads(base64.b64decode(job["constructors"][int(question["constructor"])]))
        prefix = f"{question['weights_key']}|"
        state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        inputs = wire.unpack(question["inputs"], tensors)
        try:
            asked = _Question(subject, arguments, state, inputs)
            changed, what = asked.ask(question["role"], tensors[question["flags"]], tensors.get(question["values"]))
        except Exception as error:
            changed, what = 0.0, f"the reference could not be asked: {type(error).__name__}: {error}"
        emit(f"answer {number}", {"changed": changed, "what": what[:300]}, None)


@dataclass
class _Question:
    subject: Subject
    arguments: tuple[Any, ...] | None
    state: Mapping[str, torch.Tensor]
    inputs: Sequence[Any]

    def ask(self, role: str, flags: torch.Tensor, values: torch.Tensor | None) -> tuple[float, str]:
        """How much of the output's root mean square the flagged elements move, and where they are in the reference."""
        kind, _, name = role.partition(" ")
        before = self._output(self.state, self.inputs)
        if kind == "input":
            return self._largest(before, lambda way: self._with_input(int(name), flags, way)), f"input {name}"
        if kind == "parameter":
            if name not in self.state:
                return 0.0, "not a parameter of the reference"
            return self._largest(before, lambda way: self._with_parameter(name, flags, way)), f"parameter {name}"
        if values is None:
            return 0.0, "no values came along"
        finder = _Steps(like=values)
        self._output(self.state, self.inputs, finder)
        if finder.found is None:
            return 0.0, "the reference makes no such tensor"
        step, operation = finder.found

        def inside(way: int) -> list[torch.Tensor]:
            return self._output(self.state, self.inputs, _Steps(change=step, flags=flags, way=way))

        return self._largest(before, inside), f"{operation}'s output"

    def _largest(self, before: list[torch.Tensor], again: Callable[[int], list[torch.Tensor]]) -> float:
        largest = 0.0
        for way in range(len(_WAYS)):
            largest = max(largest, *(_difference(a, b) for a, b in zip(before, again(way), strict=True)))
            if largest > _CHANGED:
                break
        return largest if largest > _CHANGED else 0.0

    def _with_input(self, number: int, flags: torch.Tensor, way: int) -> list[torch.Tensor]:
        count = iter(range(1 << 30))
        changed = map_leaves(
            list(self.inputs), lambda tensor: perturbed(tensor, flags, way) if next(count) == number else tensor
        )
        return self._output(self.state, changed)

    def _with_parameter(self, name: str, flags: torch.Tensor, way: int) -> list[torch.Tensor]:
        shaped = flags.reshape(self.state[name].shape)
        return self._output({**self.state, name: perturbed(self.state[name], shaped, way)}, self.inputs)

    def _output(
        self, state: Mapping[str, torch.Tensor], inputs: Sequence[Any], mode: DispatchMode | None = None
    ) -> list[torch.Tensor]:
        module = self.subject.build(self.arguments)
        module.load_state_dict(dict(state))
        module = module.double()
        try:
            with torch.no_grad(), mode or _Steps():
                return [leaf.detach().clone() for leaf in leaves(to_double(module(*to_double(list(inputs)))))]
        finally:
            module.float()


#: Ways to change values: (factor of the values in another order, shift in root mean squares).
_WAYS = ((1.0, 1.0), (-1.0, 0.0), (0.0, 1e3), (0.0, -1e3))


def perturbed(tensor: torch.Tensor, flags: torch.Tensor, way: int) -> torch.Tensor:
    """The tensor with the flagged elements changed in one of several ways; integers stay among their own values."""
    factor, shift = _WAYS[way]
    shuffled = tensor.reshape(-1).flip(0).roll(1 + way).reshape(tensor.shape)
    if not tensor.is_floating_point():
        return torch.where(flags, shuffled, tensor)
    finite = torch.where(torch.isfinite(tensor), tensor, 0).double()
    size = max(float(finite.square().mean().sqrt()), 1e-3)
    return torch.where(flags, (factor * shuffled + shift * size).to(tensor.dtype), tensor)


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    if not a.is_floating_point():
        return float((a != b).any())
    same = (a == b) | (torch.isnan(a) & torch.isnan(b))
    if bool(same.all()):
        return 0.0
    difference = torch.where(same, 0.0, (a - b).abs())
    size = max(float(torch.where(torch.isfinite(a), a, 0).square().mean().sqrt()), 1e-30)
    largest = float(torch.nan_to_num(difference, nan=1e30, posinf=1e30).max())
    return min(largest / size, 1e30)


class _Steps(DispatchMode):
    """Finds the operation whose result holds given values, or changes the result of one."""

    def __init__(
        self,
        like: torch.Tensor | None = None,
        change: int = -1,
        flags: torch.Tensor | None = None,
        way: int = 0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: tuple[int, str] | None = None
        self._like, self._change, self._flags, self._way = like, change, flags, way
        self._step = -1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._step += 1
        if not isinstance(result, torch.Tensor):
            return result
        if self._like is not None and self.found is None and _alike(result, self._like):
            self.found = self._step, str(func._schema.name).removeprefix("aten::")
        if self._step == self._change and self._flags is not None:
            return perturbed(result, self._flags.reshape(result.shape), self._way)
        return result


def _alike(result: torch.Tensor, like: torch.Tensor) -> bool:
    if result.shape != like.shape or not result.is_floating_point():
        return False
    size = float(result.square().mean().sqrt())
    return bool(((result - like.to(result.dtype)).abs() <= _SAME * size).all()) and size > 0
