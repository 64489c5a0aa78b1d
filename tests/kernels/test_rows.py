"""Rows, pooling and scans: in the interpreter with drawn hyperparameters, as golden files, and compiled for targets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.kernels.captured_cases import Of
from tests.kernels.golden_files import check_golden
from tests.kernels.properties import check_tests
from tilewright.gpu.table import find_gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.graph.expand import EXPANSION_RULES, expand_composites
from tilewright.graph.losses import LOSS_RULES
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.regions.rows import grow_row_region
from tilewright.kernels.rows.rules import RowOptions
from tilewright.kernels.steps import PlanOptions

ROOT = Path(__file__).parents[2]

#: Name -> module and the shapes of its inputs.
GOLDEN_MODULES: dict[str, tuple[nn.Module, Sequence[tuple[int, ...]]]] = {
    "group_norm": (nn.GroupNorm(8, 64), [(4, 64, 24, 24)]),
    "softmax_over_channels": (nn.Softmax(1), [(4, 96, 24, 24)]),
    "layer_norm_of_few_long_rows": (nn.LayerNorm([8, 64, 64]), [(3, 8, 64, 64)]),
    "smooth_l1_loss": (nn.SmoothL1Loss(beta=0.5), [(64, 600), (64, 600)]),
    "max_pool": (nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.ReLU()), [(4, 8, 24, 24)]),
}


def test_drawn_modules_are_right_in_the_interpreter() -> None:
    check_tests("rows_in_interpreter.py")


def test_kernels_compile_for_three_targets_within_their_limits() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compiled_rows"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({(row["case"], row["gpu"]) for row in rows}) == 33
    for row in rows:
        limit = find_gpu(row["gpu"]).shared_bytes_per_block
        assert row["shared_bytes"] <= limit, row
        assert row["spill_bytes"] == 0, row


@pytest.mark.parametrize("name", GOLDEN_MODULES)
def test_emitted_rows_are_the_golden_ones(name: str) -> None:
    module, shapes = GOLDEN_MODULES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = simplify(capture(module.eval(), [torch.randn(shape) for shape in shapes])).graph
    plan = plan_module(graph, PlanOptions(sm_count=128, rows=RowOptions(plain=True)))
    assert not plan.native
    source = write_live_file(write_forward(plan), description=f"{name}.")
    check_golden(name, source)


def _planned(forward: Callable[[torch.Tensor], torch.Tensor]) -> tuple[list[str], int]:
    """What is left to PyTorch of a function of [5, 6], and the number of kernels."""
    graph = simplify(capture(Of(lambda m, x: forward(x)), [torch.randn(5, 6)])).graph
    plan = plan_module(graph, PlanOptions())
    return list(plan.native), len(plan.fused)


def test_a_scan_between_two_flips_is_one_kernel() -> None:
    assert _planned(lambda x: x.flip(1).cumsum(1).flip(1)) == ([], 1)
    assert _planned(lambda x: (x * 2).flip([-1]).cumprod(-1).flip(1).exp()) == ([], 1)


def test_other_flips_are_no_part_of_a_scan() -> None:
    assert _planned(lambda x: x.flip(0).cumsum(1).flip(0))[0] == ["flip"]
    assert _planned(lambda x: x.flip(0, 1).cumsum(1).flip(0, 1))[0] == ["flip"]
    assert _planned(lambda x: (lambda y: y.flip(1) + y)(x.flip(1).cumsum(1)))[0] == ["flip"]


def test_the_place_of_an_extremum_is_a_kernel() -> None:
    assert _planned(lambda x: torch.exp(x).argmax(1)) == ([], 1)
    assert _planned(lambda x: x.min(0)[1]) == ([], 1)
    assert _planned(lambda x: x.max(1, keepdim=True)) == ([], 2)


def test_other_places_stay() -> None:
    assert _planned(lambda x: x.argmax())[0] == ["argmax"]  # of all
    assert _planned(lambda x: (x * 9).int().argmax(1))[0] == ["argmax"]
    assert _planned(lambda x: (x * 9).int().max(1)[1])[0] == ["max"]


COMPOSITES = {
    "softmax": (lambda x: torch.softmax(x, 1), lambda x: torch.softmax(x[:, :1], 1)),
    "log softmax": (lambda x: torch.log_softmax(x, 1), lambda x: torch.log_softmax(x[:, :1], 1)),
    "logsumexp": (lambda x: torch.logsumexp(x, 1), lambda x: torch.logsumexp(x[:, :1], 1)),
    "layer norm": (lambda x: nn.functional.layer_norm(x, (6,)), lambda x: nn.functional.layer_norm(x[..., :1], (1,))),
    "rms norm": (lambda x: nn.functional.rms_norm(x, (6,)), lambda x: nn.functional.rms_norm(x[..., :1], (1,))),
    "group norm": (lambda x: nn.functional.group_norm(x, 2), lambda x: torch.relu(x)),
    "instance norm": (lambda x: nn.functional.instance_norm(x), lambda x: torch.relu(x)),
    "variance and mean": (lambda x: torch.var_mean(x, 1)[0], lambda x: torch.relu(x)),
    "standard deviation": (lambda x: torch.std(x, 1), lambda x: torch.relu(x)),
    "degrees of freedom": (lambda x: torch.var(x, 1), lambda x: torch.var(x, dim=1, correction=0)),
    "vector norm": (lambda x: torch.linalg.vector_norm(x, 3, 1), lambda x: torch.linalg.vector_norm(x, 0, 1)),
    "norm": (lambda x: torch.ops.aten.norm.Scalar(x, 2), lambda x: torch.ops.aten.norm.Scalar(x, 0)),
    "Frobenius norm": (lambda x: torch.linalg.matrix_norm(x), lambda x: torch.linalg.matrix_norm(x, "nuc")),
    "dot product": (
        lambda x: torch.dot(x[:, 0, 0].contiguous(), x[:, 1, 0].contiguous()),
        lambda x: torch.linalg.vector_norm(x[:, 0, 0]),
    ),
    "cosine similarity": (lambda x: torch.cosine_similarity(x, x * x, 1), lambda x: torch.relu(x)),
    "whole maximum": (
        lambda x: nn.functional.adaptive_max_pool1d(x, 1),
        lambda x: nn.functional.adaptive_max_pool1d(x, 2),
    ),
    "batch statistics": (
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
        lambda x: torch.relu(x),
    ),
}


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The function's value."""
        return self.function(x)  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.filterwarnings("ignore")
def test_composites_are_written_out_exactly(name: str) -> None:
    """Each law in float64 where it fires, and a case in which it does not."""
    assert name in {rule.name for rule in EXPANSION_RULES}
    fires, stays = COMPOSITES[name]
    x = torch.randn(5, 4, 6, dtype=torch.float64)
    graph = simplify(capture(Applied(fires), [x], dynamic=False)).graph
    rewritten = expand_composites(graph)
    assert name in rewritten.fired
    run = torch.fx.GraphModule(nn.Module(), rewritten.graph.fx)
    torch.testing.assert_close(run(x)[0], fires(x), rtol=1e-12, atol=1e-12)
    assert name not in expand_composites(simplify(capture(Applied(stays), [x], dynamic=False)).graph).fired


@pytest.mark.filterwarnings("ignore")
def test_every_composite_has_a_case() -> None:
    losses = {rule.name for rule in LOSS_RULES}  # tests/graph/test_losses.py
    assert {rule.name for rule in EXPANSION_RULES} == set(COMPOSITES) | losses


@pytest.mark.filterwarnings("ignore")
def test_rows_decline_what_is_no_row() -> None:
    """Two reductions over different dims never share a region; a plain reduction is none of its own."""

    def both(x: torch.Tensor) -> torch.Tensor:
        return x / x.sum(1, keepdim=True) / x.sum(2, keepdim=True)

    graph = simplify(capture(Applied(both), [torch.randn(5, 4, 6)])).graph
    root = graph.node(graph.outputs[0])
    region = grow_row_region(root)
    assert region is not None
    assert len(region.reductions) == 1
    plain = simplify(capture(Applied(lambda x: x.sum(1)), [torch.randn(5, 4, 6)])).graph
    assert grow_row_region(plain.node(plain.outputs[0])) is None
