"""Errors of the approximate activations in Triton's interpreter, against float64.

A script of its own, since the interpreter is chosen by an environment variable before triton is imported. What the
special-function unit adds is not seen here: there, its plain twins run.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.kernels.gemm_interpreted import on_device  # first: it chooses the interpreter
from tests.kernels.interpreted import load
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions

Function = Callable[[torch.Tensor], torch.Tensor]

#: By the helper that must be called: the function, and what its error is relative to.
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "gelu_erf": (F.gelu, torch.abs),
    "gelu_erf_of_positive": (lambda x: torch.relu(F.gelu(x[:, None] @ x.new_ones(1, 1))), lambda x: x.abs()[:, None]),
    "gelu_erf_of_negative": (lambda x: F.gelu(torch.clamp(x, max=0.0)), torch.abs),
    "tanh": (torch.tanh, lambda x: torch.tanh(x).abs()),
    "sigmoid": (torch.sigmoid, torch.sigmoid),
    "silu": (F.silu, lambda x: F.silu(x).abs()),
    "mish": (F.mish, lambda x: F.mish(x).abs()),
    "exp": (torch.exp, torch.exp),
}


class Applied(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def points() -> torch.Tensor:
    """float32 in [-30, 30], evenly spaced and down to 1e-30 on both sides of zero."""
    near = torch.logspace(-30, 0, 4000, dtype=torch.float64)
    return torch.cat([torch.linspace(-30, 30, 60001, dtype=torch.float64), near, -near]).float()


def emitted(module: nn.Module, x: torch.Tensor) -> str:
    """The drop-in's source, with what is known of the ranges of values."""
    plan = plan_module(simplify(capture(module, [x])).graph, PlanOptions(approximate=True))
    return write_live_file(write_forward(plan), description="test")


def main() -> None:
    x = points()
    for name, (function, scale) in FUNCTIONS.items():
        module = Applied(function)
        source = emitted(module, x)
        drop_in = load(source, name)(module).eval()
        got = on_device(drop_in, [x]).double()
        exact = x.double()
        error = ((got - function(exact)).abs() / scale(exact).clamp(min=1e-300)).nan_to_num(0.0)
        called = f"{name}(" in source.split("_kernel(")[1]
        print(json.dumps({"name": name, "error": error.max().item(), "called": called}))


if __name__ == "__main__":
    main()
