"""Forward passes of all sorts as emitted modules, in Triton's interpreter beside PyTorch; none ends in a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kernels.captured_cases import CASES, Of
from tests.once import once
from tilewright.errors import CaptureError
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.gemm.plan import GemmSchedule
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.operands import Operands
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = once(tmp_path_factory, "captured", _results)
    return found


def _results() -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(HERE / "captured_interpreted.py")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == set(CASES), done.stderr[-2000:]
    return found


@pytest.mark.parametrize("name", CASES)
def test_captured(name: str, results: dict[str, dict[str, Any]]) -> None:
    assert not results[name]["problems"], "\n".join(results[name]["problems"])


#: What is left to PyTorch; nothing in every other case.
NATIVE = {
    "positions": ["arange"],
    "causal mask": ["ones"],
    "copies": ["clone"],
    "constant returned": ["clone"],
    "a copy of a parameter": ["clone"],
    "local writes": ["fill", "select_scatter", "slice_scatter"],
    "sizes by data": ["index", "linear", "gelu", "softmax"],
    "a sum by data": ["index", "exp", "sum"],
    "recurrent": ["zeros", "lstm"],
    "attention": ["full", "linear", "clone", "scaled_dot_product_attention"],
}


@pytest.mark.parametrize("name", CASES)
def test_what_stays_native(name: str, results: dict[str, dict[str, Any]]) -> None:
    assert results[name]["native"] == NATIVE.get(name, [])


def test_a_product_with_a_transposed_result() -> None:
    """The result that the product reads without the transpose is made, and the transpose is not."""
    module = Of(lambda m, a, b: a @ torch.exp(b).T)
    graph = simplify(capture(module, [torch.randn(128, 64), torch.randn(256, 64)])).graph
    plan = plan_module(graph, PlanOptions(gemms=(GemmSchedule(Operands.HALF, 128, 128, 64),)))
    assert not plan.native
    assert len(plan.fused) == 2
    body = write_forward(plan).body
    assert "exp" in body
    assert "permute" not in body


@pytest.mark.parametrize(
    ("forward", "native", "kernels"),
    [
        (lambda m, x: x.exp().tril(1) * 2, [], 1),
        (lambda m, x: (x > 0).triu(), [], 1),
        (lambda m, x: x.tril().exp().sum(2), [], 1),
        (lambda m, x: x.mean(2).tril() + 1, [], 2),  # of what a reduction leaves
        (lambda m, x: x.tril(x.shape[1] - 2) * 2, ["tril"], 1),  # a diagonal that depends on a size
        (lambda m, x: (x * 9).long().tril() * 2, ["tril"], 2),
    ],
)
def test_triangles(forward: Any, native: list[str], kernels: int) -> None:
    plan = plan_module(simplify(capture(Of(forward), [torch.randn(5, 6, 7)])).graph, PlanOptions())
    assert (list(plan.native), len(plan.fused)) == (native, kernels)


@pytest.mark.parametrize("shape", [(8, 16), (2, 3)])
def test_factories_are_made_where_the_input_lies(shape: tuple[int, int]) -> None:
    module = Of(lambda m, x: x.relu() + torch.arange(x.shape[1], device=x.device))
    graph = simplify(capture(module, [torch.randn(shape)])).graph
    body = write_forward(plan_module(graph, PlanOptions())).body
    assert "torch.arange(inputs[0].shape[1], device=inputs[0].device)" in body


def test_an_attribute_that_the_forward_pass_sets_is_named() -> None:
    def replaces_a_child(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        module.act = torch.nn.ReLU()
        return module.act(x) * 2

    with pytest.raises(CaptureError, match="its forward pass sets act"):
        capture(Of(replaces_a_child), [torch.randn(3, 4)])


@pytest.mark.parametrize(
    "forward",
    [lambda m, x: x.mul_(2), lambda m, x: (m.held.add_(1), x * m.held)[1]],
    ids=["an input", "a buffer"],
)
def test_writes_that_are_seen_outside_are_refused(forward: Any) -> None:
    module = Of(forward)
    module.register_buffer("held", torch.zeros(4))
    with pytest.raises(CaptureError, match="in place"):
        capture(module, [torch.randn(3, 4)])
