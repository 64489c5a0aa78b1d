"""What the oracle says of one probe, and how that travels: right outputs, the reference's own errors, side effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tilewright.gate.compare.errors import Errors, combine, is_exact
from tilewright.gate.reference.subject import Form, Tree, to_double
from tilewright.sandbox import wire


@dataclass(frozen=True)
class Answer:
    """What is right for one probe, and how exact the reference is by class (`ieee` and the task's own), by output.

    Attributes:
        ranges: of integer outputs, lowest and highest right values where rounding decides; None where one is right.
        after: inputs that the reference changes in place, by their number, as it leaves them.
        aliases: an output of the reference lies in an input's memory.
        shared: pairs of outputs, inputs and parameters of the reference's pass that lie in one memory.
        updated: names of the buffers that its pass changed.
        gradients: of its inputs and parameters, by name, where they were asked for.
    """

    inputs: list[Any]
    exact: list[torch.Tensor]
    native: list[torch.Tensor]
    errors: Mapping[str, Sequence[Errors]]
    form: Form
    ranges: Sequence[tuple[torch.Tensor, torch.Tensor] | None] = ()
    after: Mapping[int, torch.Tensor] = field(default_factory=dict)
    aliases: bool = False
    shared: Sequence[Sequence[str]] = ()
    updated: Sequence[str] = ()
    gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)


#: Outputs with more elements travel as float32: half a unit of rounding against gigabytes.
LARGE = 1 << 26


def answer_data(answer: Answer, packed: dict[str, torch.Tensor]) -> dict[str, Any]:
    """An answer as JSON values; its tensors are added to `packed`."""
    exact, native = answer.exact, answer.native
    ranges = [pair if pair is None else list(pair) for pair in answer.ranges]
    types = [str(output.dtype).removeprefix("torch.") for output in native]
    if sum(output.numel() for output in exact) > LARGE:
        exact = [output.float() if output.dtype is torch.float64 else output for output in exact]
        if all(bool(torch.isfinite(output).all()) for output in native if not is_exact(output.dtype)):
            native = []
    return {
        "inputs": wire.pack(answer.inputs, packed, "inputs"),
        # Packed: where a view of an input lies is its form.
        "oracle": wire.pack([output.contiguous() for output in exact], packed, "oracle"),
        "native": wire.pack([output.contiguous() for output in native], packed, "native"),
        "ranges": wire.pack(ranges, packed, "ranges"),
        "after": wire.pack([[index, value] for index, value in answer.after.items()], packed, "after"),
        "aliases": answer.aliases,
        "shared": [list(pair) for pair in answer.shared],
        "updated": list(answer.updated),
        "gradients": wire.pack(answer.gradients, packed, "gradients"),
        "types": types,
        "errors": {name: [one.as_data() for one in errors] for name, errors in answer.errors.items()},
        "form": answer.form.as_data(),
    }


@dataclass(frozen=True)
class Pass:
    """One pass of the reference: its outputs, the inputs that it left changed, and whether it drew random numbers.

    Attributes:
        shared, updated: as those of `Answer`.
    """

    outputs: Tree
    after: Mapping[int, torch.Tensor]
    aliases: bool
    random: bool
    shared: Sequence[Sequence[str]] = ()
    updated: Sequence[str] = ()


class OtherShapesError(Exception):
    """Outputs whose shapes depend on rounding cannot be compared."""


def widened(value: torch.Tensor) -> torch.Tensor:
    """A tensor in float64, or complex128; integers as they are."""
    wide: torch.Tensor = to_double(value)
    return wide


def largest(runs: Sequence[Sequence[Errors]]) -> list[Errors]:
    """The largest errors of each output over several runs."""
    return [combine(errors) for errors in zip(*runs, strict=True)]
