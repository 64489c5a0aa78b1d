"""Every word of torch's pointwise vocabulary in Triton's interpreter, over numbers of all sizes, beside float64.

A script of its own, since the interpreter is chosen by an environment variable before triton is imported.
"""

from __future__ import annotations

import json
import sys
import traceback

import torch
from torch import nn

from tests.kernels.gemm_interpreted import on_device  # first: it chooses the interpreter
from tests.kernels.interpreted import load
from tests.kernels.words import EXACT, WORDS, Word
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions

EDGES = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 8388607.5]
EDGES += [2.0**23, 2.0**24 + 2, 1e30, -1e30, 1e-30, -1e-30, 88.9, -88.9, 10.3, 0.1, -0.1, 3.0, 0.3]

#: Units in the last place that a result may be off, of itself or of what it is a difference of.
ALLOWED = 12.0


class Applied(nn.Module):
    """Words of two tensors as a module."""

    def __init__(self, words: list[Word]) -> None:
        super().__init__()
        self.words = words

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        return [word(x, y) for word in self.words]


def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of float32: all pairs of edges, and random ones from 1e-8 to 1e5."""
    edges = torch.tensor(EDGES)
    first, second = torch.cartesian_prod(edges, edges).unbind(1)
    size = 10.0 ** torch.empty(2, 3000).uniform_(-8, 5)
    random = size * torch.randn(2, 3000).sign()
    near = torch.empty(2, 2000).uniform_(-2, 2)
    return torch.cat([first, random[0], near[0]]), torch.cat([second, random[1], near[1]])


def errors(name: str, got: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> str:
    """What is wrong with a word's result; nothing where it is right, or torch's own in float32."""
    single, exact = WORDS[name](x, y), WORDS[name](x.double(), y.double())
    if got.dtype is not single.dtype:
        return f"{got.dtype} instead of {single.dtype}"
    right = _same(got, single) | _same(got, exact.to(got.dtype))
    if name not in EXACT:
        unit = 2.0**-23 * torch.maximum(exact.abs(), _terms(name, x.double(), y.double(), exact)) + 1e-37
        loss = (single.double() - exact).abs()
        right |= (got.double() - exact).abs() <= ALLOWED * unit + 2.0 * loss
    if right.all():
        return ""
    worst = int((~right).nonzero()[0])
    at = f"{x[worst].item()!r}, {y[worst].item()!r}"
    return f"{int((~right).sum())} wrong, at ({at}): {got[worst].item()!r}, not {single[worst].item()!r}"


def _same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def _terms(name: str, x: torch.Tensor, y: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The size of what is rounded on the way, where it is larger than the result."""
    if name in ("logaddexp", "logaddexp2", "lerp", "lerp by a tensor", "addcdiv"):
        return torch.maximum(x.abs(), y.abs())
    if name in ("addcmul", "tanhshrink", "gelu", "gelu by tanh"):
        return x.abs()
    if name in ("sinc", "special sinc", "special ndtr"):
        return torch.ones_like(x)  # pi is rounded before the sine of its multiple is taken
    return exact * exact.log2().abs() if name == "power" else torch.zeros_like(x)


def main(names: list[str]) -> None:
    torch.manual_seed(0)
    names = names or list(WORDS)
    module, (x, y) = Applied([WORDS[name] for name in names]).eval(), points()
    graph = simplify(capture(module, [x, y])).graph
    source = write_live_file(write_forward(plan_module(graph, PlanOptions())), description="test")
    results = on_device(load(source, "words")(module).eval(), [x, y])
    for name, got in zip(names, results, strict=True):
        try:
            print(json.dumps({"name": name, "problem": errors(name, got, x, y)}), flush=True)
        except Exception:
            print(json.dumps({"name": name, "problem": traceback.format_exc()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
