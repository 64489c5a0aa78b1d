"""Depthwise convolutions as stencils: plans, walks, a golden file, in the interpreter, and compiled for targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.test_canonical import Of
from tests.kernels.compiled import compile_for
from tests.kernels.emission_cases import ANCHOR, Function
from tests.kernels.golden_files import check_golden
from tests.kernels.properties import check_tests
from tilewright.gpu.table import find_gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.conv.plan import ConvPlan
from tilewright.kernels.depthwise.plan import DepthwisePlan, DepthwiseTiles
from tilewright.kernels.depthwise.walk import InputRow, Sum, walk_of
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.phases import ConvolutionShape, convolution_dim, transposed_dim
from tilewright.kernels.steps import ModulePlan, PlanOptions

ROOT = Path(__file__).parents[2]
STENCILS = PlanOptions(depthwise_tiles=DepthwiseTiles())


def test_drawn_modules_are_right_in_the_interpreter() -> None:
    check_tests("depthwise_in_interpreter.py")


# -- plans -------------------------------------------------------------------------------------------------


def planned(
    function: Callable[..., torch.Tensor], children: Sequence[nn.Module], channels: int, options: PlanOptions
) -> ModulePlan:
    """The plan for images of 16 by 20."""
    module = Of(function, *children).to("meta").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = simplify(capture(module, [torch.empty(2, channels, 16, 20, device="meta")])).graph
    return plan_module(graph, options)


def after_one(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.hardswish(m[0](x))


@pytest.mark.parametrize("options", [STENCILS, replace(ANCHOR, depthwise_tiles=DepthwiseTiles())])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8),
        lambda: nn.Conv2d(8, 24, 3, 2, 1, groups=8),
        lambda: nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8),
        lambda: nn.Conv2d(8, 8, 15, groups=8),
    ],
)
def test_depthwise_convolutions_are_stencils(convolution: Callable[[], nn.Module], options: PlanOptions) -> None:
    plan = planned(after_one, [convolution()], 8, options)
    assert [type(kernel) for kernel in plan.fused] == [DepthwisePlan]
    assert not plan.native


@pytest.mark.parametrize(
    ("convolution", "options"),
    [
        (lambda: nn.Conv2d(8, 8, 3, groups=4), STENCILS),
        (lambda: nn.Conv2d(8, 8, 3), STENCILS),
        (lambda: nn.Conv2d(8, 8, 3, groups=8).to(torch.float64), STENCILS),
        (lambda: nn.Conv2d(8, 8, (3, 65), padding=30, groups=8), STENCILS),
        (lambda: nn.ConvTranspose2d(8, 8, 9, 2, groups=8), STENCILS),
        (lambda: nn.Conv2d(8, 8, 3, groups=8), PlanOptions()),
    ],
)
def test_others_are_not(convolution: Callable[[], nn.Module], options: PlanOptions) -> None:
    """Several channels in a group, other types, what is too large for the text or the registers, no tiles."""
    layer = convolution()
    dtype = next(layer.parameters()).dtype
    plan = planned(lambda m, x: after_one(m, x.to(dtype)), [layer], 8, options)
    assert not any(isinstance(kernel, DepthwisePlan) for kernel in plan.fused)
    assert any(name.startswith("conv") for name in plan.native)


def test_a_product_reads_what_a_stencil_wrote() -> None:
    """A separable convolution: the implicit matrix product takes the pointwise half alone."""
    layers = [nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv2d(8, 16, 1, bias=False)]
    options = replace(ANCHOR, depthwise_tiles=DepthwiseTiles())
    plan = planned(lambda m, x: F.relu6(m[1](m[0](x))), layers, 8, options)
    assert [type(kernel) for kernel in plan.fused] == [DepthwisePlan, ConvPlan]
    assert not plan.native


@pytest.mark.parametrize("form", list(MemoryFormat))
def test_it_is_row_major_between_native_convolutions(form: MemoryFormat) -> None:
    layers = [nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)]
    options = replace(STENCILS, convolution_format=form)
    plan = planned(lambda m, x: m[2](torch.relu(m[1](m[0](x)))), layers, 8, options)
    (stencil,) = (kernel for kernel in plan.fused if isinstance(kernel, DepthwisePlan))
    assert plan.formats.get(stencil.convolution.source, MemoryFormat.CONTIGUOUS) is MemoryFormat.CONTIGUOUS
    assert plan.formats.get(stencil.root, MemoryFormat.CONTIGUOUS) is MemoryFormat.CONTIGUOUS


def test_a_residual_must_be_as_large_as_the_result() -> None:
    module = Function(lambda m, x, y: torch.relu(m.children_list[0](x) + y), nn.Conv2d(4, 4, 3, 2, 1, groups=4)).eval()
    graph = simplify(capture(module, [torch.randn(2, 4, 9, 10), torch.randn(2, 4, 5, 5)])).graph
    found = set(write_forward(plan_module(graph, STENCILS)).conditions)
    rows = "1 + (((-1) + inputs[0].shape[2]) // 2) == inputs[1].shape[2]"
    assert {"inputs[1].shape[0] == inputs[0].shape[0]", rows} <= found


# -- walks -------------------------------------------------------------------------------------------------


def test_a_row_belongs_to_as_many_outputs_as_there_are_taps() -> None:
    walk = walk_of(ConvolutionShape((convolution_dim(3, 1, 1, 1), convolution_dim(1, 1, 0, 1)), 2, False))
    assert [(use.row, use.sum.age, use.weight) for use in walk.uses] == [
        (InputRow(0, 0), age, age + 1) for age in (-1, 0, 1)
    ]
    assert (walk.first, walk.last) == (-1, 1)
    assert walk.sums == tuple(Sum((0, 0, 0), age) for age in (-1, 0, 1))


def test_strided_rows_come_in_blocks() -> None:
    """Rows 2q - 1, 2q and 2q + 1: the first lies in the block before."""
    walk = walk_of(ConvolutionShape((convolution_dim(3, 2, 1, 1), convolution_dim(1, 1, 0, 1)), 2, False))
    assert [(use.row.rest, use.sum.age) for use in walk.uses] == [(1, -1), (0, 0), (1, 0)]


def test_phases_have_sums_of_their_own() -> None:
    """Even outputs of a transposed convolution read one row, odd ones two."""
    rows = transposed_dim(3, 2, 1, 1, 1)
    walk = walk_of(ConvolutionShape((rows, convolution_dim(1, 1, 0, 1)), 2, True))
    assert walk.sums == (Sum((0, 0, 0), 0), Sum((0, 1, 0), 0), Sum((0, 1, 0), 1))
    assert sorted(use.weight for use in walk.uses) == [0, 1, 2]


# -- text and targets --------------------------------------------------------------------------------------


def test_the_emitted_stencil_is_the_golden_one() -> None:
    plan = planned(after_one, [nn.Conv2d(8, 8, 3, padding=1, groups=8)], 8, STENCILS)
    source = write_live_file(write_forward(plan), description="depthwise.")
    check_golden("depthwise", source)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], torch.dtype]] = {
    "five by five": (lambda: nn.Conv2d(64, 64, 5, padding=2, groups=64), (8, 64, 96, 96), torch.float32),
    "seven by seven": (lambda: nn.Conv2d(64, 64, 7, padding=3, groups=64), (8, 64, 56, 56), torch.float16),
    "strided": (lambda: nn.Conv2d(64, 128, 3, 2, 1, groups=64), (8, 64, 113, 113), torch.bfloat16),
    "one dim": (lambda: nn.Conv1d(64, 64, 31, padding=15, groups=64), (8, 64, 4000), torch.float32),
    "three dims": (lambda: nn.Conv3d(32, 32, 3, padding=1, groups=32), (4, 32, 16, 32, 32), torch.float32),
    "many taps": (lambda: nn.Conv2d(64, 64, 31, padding=15, groups=64), (8, 64, 64, 64), torch.float32),
    "transposed": (lambda: nn.ConvTranspose2d(64, 64, 4, 2, 1, groups=64), (8, 64, 32, 32), torch.float32),
}


@pytest.mark.parametrize("target", ["a100", "rtx-4090", "h200"])
@pytest.mark.parametrize("layer", LAYERS)
def test_it_compiles_for(layer: str, target: str) -> None:
    """At full size, without spills, within the target's shared memory."""
    make, shape, dtype = LAYERS[layer]
    gpu = find_gpu(target)
    module = Of(after_one, make()).to("meta", dtype).eval()
    compiled = compile_for(module, [torch.empty(shape, dtype=dtype, device="meta")], STENCILS, gpu)
    assert len(compiled) == 1, "one launch"
    for kernel in compiled.values():
        assert kernel.spill_bytes == 0
        assert kernel.shared_bytes <= gpu.shared_bytes_per_block // 2
