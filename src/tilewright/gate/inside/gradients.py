"""Gradients of outputs by inputs and parameters: taken on either side, compared here.

A Triton kernel carries none of its own: then backward() raises, and everybody knows. Silent is an output that says that
it has gradients, while some of them are missing or wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tilewright.gate.reference.subject import leaves, map_leaves


@dataclass(frozen=True)
class Taken:
    """Gradients of one pass.

    Attributes:
        carries: numbers of the outputs that require gradients.
        pretends: one of them requires them, and nothing computed it.
        values: gradients by output and name (`0 by input 0`, or a parameter's name); what is missing is left out.
    """

    carries: tuple[int, ...]
    pretends: bool
    values: Mapping[str, torch.Tensor]


def take(call: Callable[[Any], Any], inputs: Any, parameters: Mapping[str, nn.Parameter]) -> Taken:
    """Gradients of each output's sum with fixed weights. Parameters require gradients afterwards.

    Args:
        call: the forward pass.
        inputs: its inputs, in memory of their own.
        parameters: by the names that count.
    """
    values: dict[str, torch.Tensor] = {}
    with torch.enable_grad():
        wanted: dict[str, torch.Tensor] = {
            name: value.requires_grad_(True) for name, value in parameters.items() if value.is_floating_point()
        }
        given = map_leaves(inputs, lambda t: t.detach().requires_grad_(t.is_floating_point()))
        wanted |= {f"input {i}": t for i, t in enumerate(leaves(given)) if t.requires_grad}
        outputs = {i: leaf for i, leaf in enumerate(leaves(call(given))) if leaf.requires_grad}
        made = {i: leaf for i, leaf in outputs.items() if leaf.grad_fn is not None and leaf.is_floating_point()}
        for i, leaf in made.items():
            total = (leaf.double() * _weights(leaf)).sum()
            found = torch.autograd.grad(total, list(wanted.values()), retain_graph=True, allow_unused=True)
            pairs = zip(wanted, found, strict=True)
            values |= {f"{i} by {name}": value.detach() for name, value in pairs if value is not None}
    return Taken(tuple(outputs), len(made) < len(outputs), values)


def _weights(output: torch.Tensor) -> torch.Tensor:
    return torch.cos(torch.arange(output.numel(), dtype=torch.float64, device=output.device)).reshape(output.shape)
