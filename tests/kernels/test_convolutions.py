"""Convolution anchors: drawn ones in the interpreter, their types, cut regions, three targets, a golden file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.kernels.compiled import compile_for
from tests.kernels.golden_files import check_golden
from tests.kernels.properties import check_property
from tilewright.gpu.table import find_gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.code.text import LETTERS
from tilewright.kernels.conv.plan import ConvPlan, ConvTiles
from tilewright.kernels.conv.product import ConvProduct
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.steps import ConvStep, ModulePlan, PlanOptions
from tilewright.proposers.synthesize import convolved_type, plan_variants
from tilewright.values import PrecisionClass

pytestmark = pytest.mark.filterwarnings("ignore")

HERE = Path(__file__).parent

#: sm_80, sm_89, sm_90
TARGETS = ("a100", "rtx-4090", "h200")

ANCHORS = PlanOptions(convolution_anchors=True)


class Function(nn.Module):
    """A function of a convolution's result."""

    def __init__(self, convolution: nn.Module, function: Any) -> None:
        super().__init__()
        self.convolution = convolution
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        """The convolution, then the function."""
        return self.function(self.convolution(x))


def planned(module: nn.Module, x: torch.Tensor, options: PlanOptions = ANCHORS) -> ModulePlan:
    return plan_module(simplify(capture(module.eval(), [x])).graph, options)


def anchors(plan: ModulePlan) -> list[ConvPlan]:
    return [step.plan for step in plan.steps if isinstance(step, ConvStep)]


@pytest.mark.parametrize(
    "name",
    [
        "any convolution",
        "operands along some dims",
        "infinities and NaN go through",
        "images that float16 cannot hold",
    ],
)
def test_anchors_are_right_in_the_interpreter(name: str) -> None:
    check_property("conv_interpreted.py", name, {"OMP_NUM_THREADS": "1"})


# -- what becomes an anchor ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_only_the_types_that_were_asked_for_become_anchors(dtype: torch.dtype) -> None:
    module, x = Function(nn.Conv2d(3, 5, 3), torch.relu).to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype)
    half = PlanOptions(convolution_anchors=True, convolution_dtypes=(torch.float16, torch.bfloat16))
    assert len(anchors(planned(module, x))) == 1
    assert len(anchors(planned(module, x, half))) == (0 if dtype is torch.float32 else 1)


class Autocast(nn.Module):
    """The weights are float32, and converted on the way; `mixed` casts the input by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """In bfloat16."""
        return torch.relu(F.conv2d(x, self.weight.to(torch.bfloat16)))


def test_weights_may_be_converted_first() -> None:
    (plan,) = anchors(planned(Autocast(), torch.randn(2, 3, 8, 8).bfloat16()))
    assert plan.anchor.meta["val"].dtype is torch.bfloat16


class Promoted(nn.Module):
    """A convolution in bfloat16, scaled in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3).bfloat16()
        self.scale = nn.Parameter(torch.randn(5, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """In float32."""
        return torch.relu(self.convolution(x)) * self.scale


def test_the_output_has_the_type_of_the_root() -> None:
    plan = planned(Promoted(), torch.randn(2, 3, 8, 8).bfloat16())
    (anchor,) = anchors(plan)
    assert operations(anchor)[-1] == "mul"
    assert "out = note(torch.empty((N, CO, HO, WO), device=x.device, dtype=torch.float32))" in written(plan)


def written(plan: ModulePlan, description: str = "") -> str:
    forward = write_forward(plan)
    return write_live_file(forward, description=description)


# -- regions that an anchor cannot take whole ---------------------------------------------------------------


def operations(plan: ConvPlan) -> list[str]:
    return [str(node.target).split(".")[1] for node in plan.region.nodes]


def test_a_region_is_cut_before_a_reduction_that_the_anchor_cannot_take() -> None:
    """conv3d, minimum over depth, softmax over channels: the convolution and its bias are an anchor."""
    module = Function(nn.Conv3d(3, 5, 3), lambda y: torch.softmax(torch.relu(y).amin(2), 1))
    plan = planned(module, torch.randn(2, 3, 6, 7, 8))
    (anchor,) = anchors(plan)
    assert operations(anchor)[-2:] == ["add", "relu"]
    assert plan.native == ()


def test_a_convolution_with_nothing_before_such_a_reduction_stays_native() -> None:
    module = Function(nn.Conv3d(3, 5, 3, bias=False), lambda y: y.amin(2))
    plan = planned(module, torch.randn(2, 3, 6, 7, 8))
    assert anchors(plan) == []
    assert plan.native == ("conv3d",)


# -- what lies side by side ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "joined"),
    [
        (nn.Conv2d(3, 8, 7, 2, 3), True),
        (nn.Conv2d(8, 8, 3), True),
        (nn.ConvTranspose2d(3, 8, 3, 1, 1), True),
        (nn.ConvTranspose2d(3, 8, 3, (2, 1), 1), True),
        (nn.Conv2d(9, 8, 3), False),  # a step of its own for each tap is mostly data
        (nn.Conv2d(3, 8, 3, dilation=2), False),  # what lies between two taps is not to be read
        (nn.Conv2d(3, 8, (3, 1)), False),
        (nn.Conv2d(6, 8, 3, groups=2), False),
        (nn.ConvTranspose2d(3, 8, 3, 2, 1), False),
    ],
)
def test_the_taps_of_a_row_are_joined_where_there_are_few_channels(layer: nn.Module, joined: bool) -> None:
    x = torch.empty(2, layer.in_channels, 16, 16)
    module_plan = planned(Function(layer, torch.tanh), x)
    (plan,) = anchors(module_plan)
    assert plan.joins_taps == joined
    assert ("window" in written(module_plan)) == joined


def test_a_step_of_joined_taps_reads_nothing_behind_them() -> None:
    source = written(planned(Function(nn.Conv2d(3, 8, 5), torch.tanh), torch.empty(2, 3, 16, 16)))
    assert "window = k < 5 * C" in source
    assert "mask=window[None, :], other=0.0" in source, "zero weights do not keep out infinities"


@pytest.mark.parametrize(("stride", "padded"), [(1, False), (2, False), (3, True), (4, False), (5, False)])
def test_three_column_phases_are_stored_together(stride: int, padded: bool) -> None:
    layer = Function(nn.ConvTranspose2d(16, 8, 5, (1, stride)), torch.tanh)
    module_plan = planned(layer, torch.empty(2, 16, 6, 6))
    (plan,) = anchors(module_plan)
    assert plan.pads_columns == padded
    stores = written(module_plan).count("tl.store(out_ptr + ")
    assert stores == 2 * (stride if stride > 4 else 1), "of the main kernel and of its twin"


def test_weights_of_native_convolutions_are_left_as_they_are() -> None:
    """PyTorch lays them out itself, where the convolution wants it; nothing of them is kept."""
    module = Function(nn.Conv2d(16, 8, 3), F.gelu)
    options = PlanOptions(MemoryFormat.CHANNELS_LAST)
    source = written(planned(module, torch.empty(2, 16, 9, 9), options))
    assert source.count("contiguous(memory_format=torch.channels_last)") == 2, "input and result"
    assert ", convolution_weight)" in source


def test_what_lies_apart_is_walked_with_tiles_of_the_output() -> None:
    """Short pieces lie side by side in a tile; a long one fills it; nothing is exchanged between threads."""
    module = Function(nn.Conv3d(16, 24, 3), lambda y: y.amin(2))
    for form in MemoryFormat:
        source = written(planned(module, torch.empty(64, 16, 10, 34, 34), PlanOptions(form, sm_count=4)))
        assert "for d in range(0, D):" in source
        assert "min_along(" not in source
        few = written(planned(module, torch.empty(1, 16, 10, 6, 6), PlanOptions(form, sm_count=4)))
        assert "min_along(" in few, "few programs share the work by threads"


# -- what is proposed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [PrecisionClass.FP16, PrecisionClass.BF16, PrecisionClass.TF32])
def test_large_tiles_with_several_steps_in_flight_are_proposed_first(precision: PrecisionClass) -> None:
    module = Function(nn.Conv2d(128, 128, 3, padding=1), F.gelu).half()
    x = torch.empty(4, 128, 16, 16, dtype=torch.float16)
    graph = simplify(capture(module.eval(), [x])).graph
    variants = plan_variants(132, precision, convolved_type(graph))
    assert len(set(variants)) == len(variants)
    assert variants[0].convolution_anchors
    tiles = [options.convolution_tiles for options in variants if options.convolution_anchors]
    assert {(t.num_warps, t.num_stages) for t in tiles if (t.block_p, t.block_c, t.block_k) == (128, 128, 64)} >= {
        (4, 3),
        (8, 3),
        (8, 4),
    }
    (plan,) = anchors(plan_module(graph, variants[0]))
    assert plan.tiles.by_tap
    assert ConvProduct(plan, LETTERS[2]).shared_bytes() <= find_gpu("rtx-4090").shared_bytes_per_block


def test_tiles_of_one_tap_in_a_step_are_for_one_phase() -> None:
    """Elsewhere the usual tiles take their place, which fit: what is varied after the first plan depends on it."""
    options = PlanOptions(convolution_anchors=True, convolution_tiles=ConvTiles(128, 128, 8, 3, by_tap=True))
    x = torch.empty(2, 64, 8, 8, dtype=torch.float16)
    (two,) = anchors(planned(Function(nn.ConvTranspose2d(64, 64, 4, 2, 1), torch.tanh).half(), x, options))
    assert two.tiles == ConvTiles()
    (one,) = anchors(planned(Function(nn.ConvTranspose2d(64, 64, 3, 1, 1), torch.tanh).half(), x, options))
    assert one.tiles == options.convolution_tiles


def test_float32_convolutions_have_anchors_in_the_tf32_class_alone() -> None:
    assert not any(options.convolution_anchors for options in plan_variants(132, PrecisionClass.FP16))
    assert not any(options.convolution_anchors for options in plan_variants(132, PrecisionClass.IEEE))


# -- compiled for each target -------------------------------------------------------------------------------

#: name -> layer, function, shape, type, tiles.
COMPILED: dict[str, tuple[Any, Any, tuple[int, ...], torch.dtype, ConvTiles]] = {
    "conv2d gelu, one tap in a step": (
        lambda: nn.Conv2d(128, 128, 3, padding=1),
        F.gelu,
        (16, 128, 56, 56),
        torch.bfloat16,
        ConvTiles(128, 128, 8, 3, by_tap=True),
    ),
    "conv2d of images, the taps of a row joined": (
        lambda: nn.Conv2d(3, 64, 7, stride=2, padding=3),
        torch.relu,
        (8, 3, 224, 224),
        torch.bfloat16,
        ConvTiles(64, 64, 4, 2),
    ),
    "conv_transpose2d, three column phases joined": (
        lambda: nn.ConvTranspose2d(64, 64, 5, 3, 2),
        torch.tanh,
        (8, 64, 64, 64),
        torch.float16,
        ConvTiles(64, 32, 4, 1),
    ),
    "conv_transpose2d tanh": (
        lambda: nn.ConvTranspose2d(64, 64, 4, 2, 1),
        torch.tanh,
        (32, 64, 64, 64),
        torch.float16,
        ConvTiles(64, 64, 4, 1),
    ),
    "strip of rows": (
        lambda: nn.ConvTranspose2d(32, 32, 3, 2, 1, 1),
        lambda y: torch.tanh(y).mean((2, 3)),
        (16, 32, 64, 64),
        torch.float16,
        ConvTiles(64, 32, 4, 1, rows=8),
    ),
    "conv3d over channels": (
        lambda: nn.Conv3d(32, 64, 3, padding=1),
        lambda y: torch.relu(y).amax(1),
        (2, 32, 16, 32, 32),
        torch.bfloat16,
        ConvTiles(64, 64, 4, 3, by_tap=True),
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", COMPILED)
def test_anchors_compile_for_the_target_within_its_limits(name: str, target: str) -> None:
    make, function, shape, dtype, tiles = COMPILED[name]
    gpu = find_gpu(target)
    module, x = Function(make(), function).to(dtype).eval(), torch.empty(shape, dtype=dtype)
    options = PlanOptions(sm_count=gpu.sm_count, convolution_anchors=True, convolution_tiles=tiles)
    (plan,) = anchors(planned(module, x, options))
    compiled = compile_for(module, [x], options, gpu)
    assert f"{plan.name}_kernel" in compiled
    assert not any("wide" in kernel for kernel in compiled)
    for kernel, usage in compiled.items():
        assert usage.shared_bytes <= gpu.shared_bytes_per_block, kernel
        assert usage.spill_bytes == 0, f"{kernel} spills {usage.spill_bytes} bytes"


#: name -> layer, channels of its input: every way in which weights are packed.
PACKED: dict[str, tuple[Any, int]] = {
    "a matrix for each tap": (lambda: nn.Conv2d(512, 512, 3, padding=1), 512),
    "of a transposed convolution": (lambda: nn.ConvTranspose2d(64, 96, 3, 2, 1, 1), 64),
    "one tap": (lambda: nn.Conv2d(256, 320, 1), 256),
    "joined taps": (lambda: nn.Conv2d(3, 64, 7, 2, 3), 3),
    "joined taps in reversed order": (lambda: nn.ConvTranspose2d(4, 64, 3, 1, 1), 4),
    "columns side by side": (lambda: nn.ConvTranspose2d(64, 48, 4, 2), 64),
    "groups": (lambda: nn.Conv2d(64, 64, 3, groups=2), 64),
    "many taps": (lambda: nn.Conv3d(32, 64, 3), 32),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PACKED)
def test_packing_compiles_for_the_target_without_spills(name: str, target: str) -> None:
    gpu, (make, channels) = find_gpu(target), PACKED[name]
    layer = make()
    module, x = Function(layer, torch.relu).eval(), torch.empty(2, channels, *[16] * (layer.weight.dim() - 2))
    options = PlanOptions(sm_count=gpu.sm_count, convolution_anchors=True, convolution_tiles=ConvTiles(64, 64, 4, 2))
    (plan,) = anchors(planned(module, x, options))
    (usage,) = compile_for(module, [x], options, gpu, f"pack_{plan.name}_kernel").values()
    assert usage.spill_bytes == 0, f"spills {usage.spill_bytes} bytes"


class Residual(nn.Module):
    """The largest channel of a transposed convolution and what is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(32, 32, 3, 2, 1, 1)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return (self.convolution(x) + residual).amax(1, keepdim=True)


@pytest.mark.parametrize("target", TARGETS)
def test_an_operand_before_a_reduction_is_read_by_whole_rows(target: str) -> None:
    """Both column phases at once, in the kernel and in its TF32 twin."""
    gpu = find_gpu(target)
    inputs = [torch.empty(16, 32, 64, 64), torch.empty(16, 32, 128, 128)]
    options = PlanOptions(sm_count=gpu.sm_count, convolution_anchors=True, convolution_tiles=ConvTiles(64, 32, 4, 2))
    module = Residual().eval()
    plan = plan_module(simplify(capture(module, inputs)).graph, options)
    (anchor,) = anchors(plan)
    assert anchor.joins_columns
    compiled = compile_for(module, inputs, options, gpu)
    assert {f"{anchor.name}_kernel", f"{anchor.name}_wide_kernel"} <= compiled.keys()


# -- golden file --------------------------------------------------------------------------------------------


def test_emitted_file_is_the_golden_one() -> None:
    module = Function(nn.Conv2d(96, 128, 3, padding=1), F.gelu).bfloat16()
    options = PlanOptions(convolution_anchors=True, convolution_tiles=ConvTiles(128, 128, 8, 3, by_tap=True))
    source = written(planned(module, torch.empty(4, 96, 24, 24, dtype=torch.bfloat16), options), "conv2d_gelu")
    check_golden("conv2d_gelu_bfloat16", source)
