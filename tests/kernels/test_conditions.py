"""What must hold for the emitted kernels to run; anything else is left to PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.kernels.emission_cases import ANCHOR, ROWS
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions


class Pointwise(nn.Module):
    def __init__(self, transposed: bool, groups: int) -> None:
        super().__init__()
        made = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.conv = made(8, 16, 3, padding=1, groups=groups)

    def forward(self, x):
        return torch.relu(self.conv(x))


class LowestChannel(Pointwise):
    def forward(self, x):
        return torch.amin(self.conv(x), dim=1)


def conditions(module: nn.Module, options: PlanOptions) -> tuple[str, ...]:
    graph = simplify(capture(module.eval(), [torch.randn(2, 8, 9, 9)])).graph
    return write_forward(plan_module(graph, options)).conditions


@pytest.mark.parametrize(
    ("transposed", "groups", "dim", "most"), [(False, 1, 1, 128), (True, 1, 0, 128), (True, 2, 0, 256)]
)
def test_strips_of_rows_keep_the_weights_of_few_channels(transposed: bool, groups: int, dim: int, most: int) -> None:
    assert f"conv_weight.shape[{dim}] <= {most}" in conditions(Pointwise(transposed, groups), ROWS)


def test_channels_that_are_reduced_are_all_kept_at_once() -> None:
    found = conditions(LowestChannel(True, 1), ROWS)
    assert {"conv_weight.shape[0] <= 128", "conv_weight.shape[1] <= 128"} <= set(found)


def test_the_taps_of_a_row_are_joined_of_few_channels() -> None:
    assert "conv_weight.shape[1] <= 8" in conditions(Pointwise(False, 1), ANCHOR)
    assert "conv_weight.shape[0] <= 8" in conditions(Pointwise(True, 1), ANCHOR)


def test_other_tiles_take_any_number_of_channels() -> None:
    assert not any("<=" in text for text in conditions(Pointwise(True, 2), ANCHOR))
