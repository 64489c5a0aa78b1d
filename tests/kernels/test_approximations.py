"""Activations behind products that are rounded to 11 bits: as good as their bounds say, and used there alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.once import once
from tilewright.graph.capture import capture
from tilewright.proposers.synthesize import rounds_products
from tilewright.values import PrecisionClass

#: Relative to the input for GELU, whose two halves cancel where it is negative; to the result for the others.
BOUNDS = {
    "gelu_erf": 5e-7,
    "gelu_erf_of_positive": 5e-7,
    "gelu_erf_of_negative": 5e-7,
    "tanh": 2.0**-18,
    "sigmoid": 2.0**-18,
    "silu": 2.0**-18,
    "mish": 2.0**-18,
    "exp": 2.0**-18,
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Of each function, over a grid, from a process in which Triton's interpreter runs."""
    found: dict[str, dict[str, float]] = once(tmp_path_factory, "approximations", _errors)
    return found


def _errors() -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "tests.kernels.approximations_interpreted"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["name"] for row in rows} == BOUNDS.keys(), done.stderr[-2000:]
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("name", BOUNDS)
def test_error_is_within_the_bound(name: str, errors: dict[str, dict[str, float]]) -> None:
    assert errors[name]["called"]
    assert errors[name]["error"] <= BOUNDS[name]


class Activated(nn.Module):
    """A GELU behind a linear layer, or alone."""

    def __init__(self, *, multiplies: bool) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8) if multiplies else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.first(x))


@pytest.mark.parametrize(
    ("multiplies", "dtype", "precision", "expected"),
    [
        (True, torch.float32, PrecisionClass.TF32, True),
        (True, torch.float32, PrecisionClass.IEEE, False),
        (False, torch.float32, PrecisionClass.TF32, False),
        (False, torch.bfloat16, PrecisionClass.BF16, True),
    ],
)
def test_what_is_computed_on_exact_values_is_exact(
    multiplies: bool, dtype: torch.dtype, precision: PrecisionClass, expected: bool
) -> None:
    graph = capture(Activated(multiplies=multiplies).to(dtype).eval(), [torch.randn(4, 8, dtype=dtype)])
    assert rounds_products(graph, precision) is expected
