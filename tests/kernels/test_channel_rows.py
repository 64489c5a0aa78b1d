"""Rows over the channels of a convolution: where they are its epilogue, a golden file, compiled for three targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.kernels.compiled import compile_for
from tests.kernels.emission_cases import Function
from tests.kernels.golden_files import check_golden
from tests.kernels.properties import check_tests
from tilewright.gpu import Gpu
from tilewright.gpu.table import find_gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.graph.graph import Graph
from tilewright.kernels.code.text import LETTERS
from tilewright.kernels.conv.plan import ConvPlan, ConvTiles
from tilewright.kernels.conv.product import ConvProduct
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import ModulePlan, PlanOptions
from tilewright.proposers.synthesize import plan_variants, with_channel_rows
from tilewright.values import PrecisionClass

ROOT = Path(__file__).parents[2]
ANCHOR = PlanOptions(convolution_anchors=True, convolution_tiles=ConvTiles(64, 64, 4, 2))
ROWS = PlanOptions(convolution_anchors=True, convolution_tiles=ConvTiles(64, 64, 4, 1, rows=8))

Make = Callable[[], nn.Module]


def follows(function: Callable[[Any, torch.Tensor], Any], convolution: Make | None = None) -> Make:
    """A module: a convolution, and a function of its result."""
    make = convolution or (lambda: nn.Conv2d(8, 24, 3))
    return lambda: Function(lambda m, x: function(m, m.children_list[0](x)), make(), nn.GroupNorm(4, 24)).eval()


def graph_of(module: nn.Module, *shape: int) -> Graph:
    """The canonical graph of a module of one input."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return simplify(capture(module, [torch.randn(shape or (2, 8, 12, 14))])).graph


def anchors(plan: ModulePlan) -> list[ConvPlan]:
    """Its convolutions whose tiles hold all channels."""
    return [kernel for kernel in plan.fused if isinstance(kernel, ConvPlan) and kernel.whole_channels]


def test_drawn_modules_are_right_in_the_interpreter() -> None:
    check_tests("channel_rows_in_interpreter.py")


# -- where the rule fires -----------------------------------------------------------------------------------

FIRES: dict[str, Make] = {
    "softmax": follows(lambda m, y: torch.sigmoid(torch.softmax(y, 1) + 0.5)),
    "log softmax": follows(lambda m, y: F.log_softmax(torch.relu(y), 1)),
    "logsumexp": follows(lambda m, y: torch.logsumexp(y * 0.7, 1)),
    "layer norm": follows(lambda m, y: F.layer_norm(y.permute(0, 2, 3, 1), (24,))),
    "unit length": follows(lambda m, y: F.normalize(y, dim=1)),
    "transposed": follows(lambda m, y: torch.softmax(y, 1), lambda: nn.ConvTranspose2d(8, 24, 5, 3, 1)),
}


@pytest.mark.parametrize("options", [ANCHOR, ROWS], ids=["tiles", "rows"])
@pytest.mark.parametrize("name", FIRES)
def test_rows_are_the_epilogue(name: str, options: PlanOptions) -> None:
    plan = plan_module(graph_of(FIRES[name]()), options)
    assert len(plan.fused) == len(anchors(plan)) == 1
    assert plan.fused[0].tiles.block_c == 32


def test_what_follows_the_rows_is_another_kernel() -> None:
    """Sums over space are cut off, whatever comes before."""
    module = follows(lambda m, y: torch.softmax(y, 1).sum((2, 3)))()
    plan = plan_module(graph_of(module), ANCHOR)
    assert len(anchors(plan)) == 1
    assert len(plan.fused) == 2


DECLINES: dict[str, Make] = {
    "over space": follows(lambda m, y: torch.softmax(y, 3)),
    "groups of channels": follows(lambda m, y: m.children_list[1](y)),
    "grouped convolution": follows(lambda m, y: torch.softmax(y, 1), lambda: nn.Conv2d(8, 24, 3, groups=2)),
    "too many channels": follows(lambda m, y: torch.softmax(y, 1), lambda: nn.Conv2d(8, 130, 3)),
    "one channel": follows(lambda m, y: torch.softmax(y, 1) + y, lambda: nn.Conv2d(8, 1, 3)),
    "used elsewhere": follows(lambda m, y: (torch.softmax(y, 1), F.max_pool2d(y, 2))),
    "used in two ways": follows(lambda m, y: torch.softmax(y, 1) + y.mean(3, keepdim=True)),
    "spatial dims together": follows(lambda m, y: torch.softmax(y.flatten(2), 1) * 2.0),
    "another type": follows(lambda m, y: torch.softmax(y, 1).half()),
    "scan": follows(lambda m, y: torch.cumsum(y, 1)),
    "one reduction": follows(lambda m, y: y.amax(1, keepdim=True)),
    "pointwise": follows(lambda m, y: torch.tanh(y) * 2.0),
}


@pytest.mark.parametrize("options", [ANCHOR, ROWS], ids=["tiles", "rows"])
@pytest.mark.parametrize("name", DECLINES)
def test_anything_else_is_planned_as_before(name: str, options: PlanOptions) -> None:
    plan = plan_module(graph_of(DECLINES[name]()), options)
    found = anchors(plan)
    if name == "another type":  # the cast alone stays behind
        assert [anchor.region.root.meta["val"].dtype for anchor in found] == [torch.float32]
    else:
        assert not found


# -- what is proposed ---------------------------------------------------------------------------------------


def test_fused_plans_come_first_with_tiles_of_their_own() -> None:
    variants = plan_variants(132, PrecisionClass.TF32)
    graph = graph_of(FIRES["logsumexp"]())
    found = with_channel_rows(variants, graph)
    assert len(set(found)) == len(found) == len(variants)
    places = [options.convolution_anchors for options in variants]
    assert [options.convolution_anchors for options in found] == places, "native plans stay where they are"
    assert [options for options in found if not options.convolution_anchors] == [
        options for options in variants if not options.convolution_anchors
    ]
    assert all(options.convolution_tiles.block_c == 128 for options in found if options.convolution_anchors)
    assert len(anchors(plan_module(graph, found[0]))) == 1


def test_other_modules_keep_their_tiles() -> None:
    variants = plan_variants(132, PrecisionClass.TF32)
    assert with_channel_rows(variants, graph_of(DECLINES["pointwise"]())) == list(variants)


# -- compiled for each target -------------------------------------------------------------------------------

COMPILED: dict[str, tuple[Make, tuple[int, ...]]] = {
    "logsumexp of 96": (
        follows(lambda m, y: torch.logsumexp(y * 0.7, 1, keepdim=True), lambda: nn.Conv2d(32, 96, 3)),
        (16, 32, 128, 128),
    ),
    "softmax of 64, transposed": (
        follows(lambda m, y: torch.sigmoid(torch.softmax(y, 1)), lambda: nn.ConvTranspose2d(32, 64, 4, 2, 1)),
        (32, 32, 64, 64),
    ),
    "layer norm of 80": (
        follows(lambda m, y: F.layer_norm(y.permute(0, 2, 3, 1), (80,)), lambda: nn.Conv2d(48, 80, 3)),
        (16, 48, 64, 64),
    ),
}


def first_that_fits(graph: Graph, gpu: Gpu, *, rows: bool) -> PlanOptions:
    """The plan that is proposed first for the target, of those with strips of rows or without."""
    for options in with_channel_rows(plan_variants(gpu.sm_count, PrecisionClass.TF32), graph):
        for anchor in anchors(plan_module(graph, options)):
            needed = ConvProduct(anchor, LETTERS[anchor.shape.rank]).shared_bytes()
            if bool(anchor.tiles.rows) == rows and needed <= gpu.shared_bytes_per_block:
                return options
    raise AssertionError("no plan fits")


@pytest.mark.parametrize("target", ["a100", "rtx-4090", "h200"])
@pytest.mark.parametrize("name", COMPILED)
def test_first_schedule_compiles_for_the_target_without_spills(name: str, target: str) -> None:
    make, shape = COMPILED[name]
    gpu = find_gpu(target)
    options = first_that_fits(graph_of(make(), *shape), gpu, rows=False)
    for kernel, usage in compile_for(make(), [torch.randn(shape)], options, gpu).items():
        assert usage.shared_bytes <= gpu.shared_bytes_per_block, kernel
        assert usage.spill_bytes == 0, f"{kernel} spills {usage.spill_bytes} bytes under {options.describe()}"


@pytest.mark.parametrize("target", ["a100", "rtx-4090", "h200"])
def test_strips_of_rows_compile_for_the_target_without_spills(target: str) -> None:
    make, shape = COMPILED["logsumexp of 96"]
    gpu = find_gpu(target)
    options = first_that_fits(graph_of(make(), *shape), gpu, rows=True)
    for kernel, usage in compile_for(make(), [torch.randn(shape)], options, gpu).items():
        assert usage.shared_bytes <= gpu.shared_bytes_per_block, kernel
        assert usage.spill_bytes == 0, f"{kernel} spills {usage.spill_bytes} bytes under {options.describe()}"


# -- golden file --------------------------------------------------------------------------------------------


def test_emitted_file_is_the_golden_one() -> None:
    plan = plan_module(graph_of(FIRES["softmax"]()), ANCHOR)
    source = write_live_file(write_forward(plan), description="conv_softmax.")
    check_golden("conv_softmax", source)
