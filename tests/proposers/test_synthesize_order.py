"""The order of plans: what a small search tries must hold every kind of plan."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.graph.graph import Graph
from tilewright.kernels.planner import plan_module
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.rows.plan import RowForm, RowPlan
from tilewright.proposers.synthesize import plan_variants, synthesize, with_depthwise, with_rows
from tilewright.search.effort import find_effort
from tilewright.task.load import load_task
from tilewright.values import PrecisionClass

#: Other tiles of rows and pooling may come before the plans of `plan_variants`.
OTHERS = 3


def test_native_convolutions_in_both_formats_are_among_the_first() -> None:
    first = plan_variants(132, PrecisionClass.TF32)[: find_effort("quick").predicted - OTHERS]
    native = {options.convolution_format for options in first if not options.convolution_anchors}
    assert native == {MemoryFormat.CHANNELS_LAST, MemoryFormat.CONTIGUOUS}
    assert first[0].convolution_anchors


def test_no_plan_is_there_twice() -> None:
    variants = plan_variants(132, PrecisionClass.TF32)
    assert len(set(variants)) == len(variants)


def _graph(groups: int) -> Graph:
    """[2, 8, 9, 9] through a convolution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return simplify(capture(nn.Conv2d(8, 8, 3, groups=groups).eval(), [torch.randn(2, 8, 9, 9)])).graph


@pytest.mark.parametrize("precision", [PrecisionClass.TF32, PrecisionClass.IEEE])
def test_stencils_come_first_and_native_convolutions_in_both_formats_soon_after(precision: PrecisionClass) -> None:
    variants = with_depthwise(plan_variants(132, precision), _graph(8))
    assert len(set(variants)) == len(variants)
    first = variants[: find_effort("quick").predicted - OTHERS]
    assert first[0].depthwise_tiles is not None
    assert "depthwise convolutions as stencils" in first[0].describe()
    native = {options.convolution_format for options in first if options.depthwise_tiles is None}
    assert native == {MemoryFormat.CHANNELS_LAST, MemoryFormat.CONTIGUOUS}
    assert not any(options.convolution_anchors for options in variants if options.depthwise_tiles is None)


def test_without_depthwise_convolutions_nothing_changes() -> None:
    variants = plan_variants(132, PrecisionClass.TF32)
    assert with_depthwise(variants, _graph(4)) == list(variants)


@pytest.mark.parametrize(
    ("module", "shapes", "splits"),
    [
        (nn.LayerNorm([8, 64, 64]), [(4, 8, 64, 64)], True),
        (nn.LayerNorm([8, 64, 64]), [(264, 8, 64, 64)], False),
        (nn.LayerNorm([4, 32, 64]), [(4, 4, 32, 64)], False),
        (nn.MSELoss(), [(64, 4096), (64, 4096)], True),
    ],
)
def test_few_long_rows_are_split_first(module: nn.Module, shapes: list[tuple[int, ...]], splits: bool) -> None:
    """Fewer than two programs for each multiprocessor, and more than 8192 elements; slices of three lengths."""
    inputs = [torch.empty(shape, device="meta") for shape in shapes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = simplify(capture(module.eval().to("meta"), inputs)).graph
    variants = with_rows(plan_variants(132, PrecisionClass.IEEE), graph, 132)
    kernels = [plan_module(graph, options).fused[0] for options in variants[:3]]
    assert [isinstance(kernel, RowPlan) and kernel.form is RowForm.SPLIT for kernel in kernels] == [splits] * 3
    if splits:
        slices = {options.rows.tiles.target_programs for options in variants if options.rows is not None}
        assert {4 * 132, 8 * 132, 16 * 132} <= slices


@pytest.mark.parametrize(
    ("layer", "shape", "operations"),
    [
        ("nn.Linear(32, 48)", "(16, 32)", 2 * 16 * 32 * 48),
        ("nn.Conv2d(4, 8, 3)", "(2, 4, 10, 12)", 2 * (2 * 8 * 8 * 10) * (4 * 9)),
        ("nn.ConvTranspose2d(4, 8, 2, 2)", "(2, 4, 5, 6)", 2 * (2 * 8 * 10 * 12) * 4),
    ],
)
def test_candidates_say_what_their_anchors_multiply(tmp_path: Path, layer: str, shape: str, operations: int) -> None:
    path = tmp_path / "layer.py"
    path.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Model(nn.Module):\n    def __init__(self):\n"
        f"        super().__init__()\n        self.layer = {layer}\n\n    def forward(self, x):\n"
        "        return torch.tanh(self.layer(x)).amax(1)\n\n\ndef get_init_inputs():\n    return []\n\n\n"
        f"def get_inputs():\n    return [torch.randn{shape}]\n"
    )
    found = synthesize(load_task(path, precision="tf32", gpu="rtx-4090"))
    said = {operation for candidate in found for _, operation in candidate.products}
    assert said == {operations}
    for candidate in found:
        assert all(f"def {kernel}(" in candidate.source for kernel, _ in candidate.products)
        assert bool(candidate.products) == ("anchors" in candidate.description)
