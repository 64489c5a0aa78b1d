"""Training mode and eval mode: in which of them a candidate is judged, and what the other one shows.

A module that nobody switches to eval means what it says: batch statistics. So a candidate that somebody wrote is judged
as it is built, where that makes a difference and no random numbers. A document asks for inference kernels, and so does
our own emitted code, which takes the reference's path in training mode: both are judged in eval mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tilewright.gate.reference.subject import DispatchMode, Subject, leaves
from tilewright.task.task import ModuleSource

if TYPE_CHECKING:
    pass

_EVAL, _BUILT = "eval", "built"


@dataclass(frozen=True)
class Modes:
    """What the two modes of a reference are.

    Attributes:
        mode: in which all is judged.
        other: the mode whose probes go with it; empty where it is the same, or where nothing can be compared in it.
        same: both modes are known to be the same.
        random: as it is built the reference draws random numbers.
    """

    mode: str = _EVAL
    other: str = ""
    random: bool = False
    same: bool = False


def choose(source: ModuleSource, asked: str) -> Modes:
    """How the reference is judged, from the operations that it makes in either mode on tensors without data."""
    if asked == "eval only":
        return Modes()
    try:
        either = [_operations(Subject.of(source, mode)) for mode in (_EVAL, _BUILT)]
    except Exception:  # its operations depend on data: nothing is known of its modes
        return Modes()
    if either[0].made == either[1].made:
        return Modes(same=True)
    if either[1].random:
        return Modes(random=True)
    return Modes(_BUILT, _EVAL) if asked == _BUILT else Modes(_EVAL, _BUILT)


class _Operations(DispatchMode):
    """Notes names, shapes and plain arguments of operations, and whether one of them draws random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[str] = []
        self.random = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        plain = [arg for arg in (*args, *(kwargs or {}).values()) if isinstance(arg, bool | int | float | str)]
        self.made.append(f"{func} {plain} {[tuple(leaf.shape) for leaf in leaves(result)]}")
        self.random = self.random or torch.Tag.nondeterministic_seeded in func.tags
        return result


def _operations(subject: Subject) -> _Operations:
    module = subject.build(subject.own_arguments, "meta")
    inputs, found = subject.inputs(0, "meta"), _Operations()
    with torch.no_grad(), found:
        module(*inputs)
    return found


def updated(state: Mapping[str, torch.Tensor], module: torch.nn.Module) -> list[str]:
    """Names of the buffers that no longer hold what `state` says, such as running statistics after a pass."""
    return [
        name
        for name, value in module.named_buffers()
        if name in state and value.shape == state[name].shape and not torch.equal(value.cpu(), state[name].cpu())
    ]
