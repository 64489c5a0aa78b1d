"""Runs the modules of `captured_cases` in Triton's interpreter, beside PyTorch: values, types, structure, memory.

A script of its own, since the interpreter is chosen by an environment variable before triton is imported.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kernels.captured_cases import CASES
from tests.kernels.interpreted import load
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.plan import TileLimits
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions

OPTIONS = PlanOptions(limits=TileLimits(64, 32, 4, 2, 16), sm_count=4)
EDGES = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, -0.0])


def with_edges(value: Any) -> Any:
    """Some elements of a float tensor replaced by NaN, infinities and zeros."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    chosen = EDGES.to(value.dtype)[torch.randint(0, len(EDGES), value.shape)]
    return torch.where(torch.rand(value.shape) < 0.1, chosen, value)


def differences(expected: Any, got: Any) -> list[str]:
    """What differs: structure, types, values beyond rounding."""
    leaves, structure = pytree.tree_flatten(expected)
    others, other = pytree.tree_flatten(got)
    if structure != other:
        return [f"{other} instead of {structure}"]
    found = []
    for position, (e, g) in enumerate(zip(leaves, others, strict=True)):
        if not isinstance(e, torch.Tensor):
            found += [] if e == g else [f"{position}: {g} instead of {e}"]
            continue
        rough = e.dtype is torch.float16
        try:
            torch.testing.assert_close(g, e, rtol=2e-3 if rough else 1e-5, atol=2e-3 if rough else 1e-5, equal_nan=True)
        except AssertionError as error:
            found.append(f"{position}: {error}")
    return found


def shared(inputs: Any, outputs: Any) -> set[tuple[int, int]]:
    """Pairs of tensors that lie in the same memory."""
    tensors = [leaf for leaf in pytree.tree_leaves((inputs, outputs)) if isinstance(leaf, torch.Tensor)]
    memory = [tensor.untyped_storage().data_ptr() for tensor in tensors]
    return {(i, j) for i in range(len(tensors)) for j in range(i) if memory[i] == memory[j]}


def on_kernels(drop_in: nn.Module, inputs: list[Any]) -> Any:
    """What the kernels return, on tensors that pretend to lie on a GPU."""
    truth = torch.Tensor.is_cuda
    torch.Tensor.is_cuda = property(lambda self: True)  # type: ignore[assignment,method-assign]
    try:
        return drop_in(*inputs)
    finally:
        torch.Tensor.is_cuda = truth  # type: ignore[method-assign]


def check(name: str) -> dict[str, Any]:
    """One case: emitted once, run on its inputs and on others with edges."""
    torch.manual_seed(0)
    make, inputs_of = CASES[name]
    module, inputs = make().eval(), inputs_of()
    plan = plan_module(simplify(capture(module, inputs)).graph, OPTIONS)
    source = write_live_file(write_forward(plan), description="test")
    drop_in = load(source, "captured")(module)
    problems = []
    for given in (inputs, pytree.tree_map(with_edges, inputs)):
        with torch.no_grad():
            expected, got = module(*given), on_kernels(drop_in, given)
        problems += differences(expected, got)
        problems += [f"{pair} share memory" for pair in shared(given, got) - shared(given, expected)]
    return {"problems": problems, "kernels": [kernel.name for kernel in plan.fused], "native": list(plan.native)}


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        try:
            result = check(name)
        except Exception:
            result = {"problems": [traceback.format_exc()]}
        print(json.dumps({"name": name, **result}), flush=True)
