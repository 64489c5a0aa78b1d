"""GEMM anchors: properties in the interpreter, regions, schedules for three targets, golden files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.kernels.golden_files import check_golden
from tests.kernels.properties import check_property
from tilewright.gpu.table import find_gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.gemm.plan import GemmSchedule, find_products, grow
from tilewright.kernels.gemm.schedules import GemmShape, estimate_us, gemm_schedules, operand_kinds, schedule_sets
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.operands import Operands
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import GemmStep, NativeStep, PlanOptions
from tilewright.values.precision import PrecisionClass

HERE = Path(__file__).parent
TARGETS = ("a100", "rtx-4090", "h200")


class Function(nn.Module):
    """A function of the module and its inputs, as a module."""

    def __init__(self, function: Any, *children: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(children)
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self.parts, *inputs)


def planned(module: nn.Module, inputs: list[torch.Tensor], *schedules: GemmSchedule) -> Any:
    graph = simplify(capture(module.eval(), inputs)).graph
    return plan_module(graph, PlanOptions(gemms=schedules))


HALF = GemmSchedule(Operands.HALF, 128, 128, 64)


# -- properties, in a process of their own ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["any product", "float16 keeps TF32's accuracy"])
def test_property_in_the_interpreter(name: str) -> None:
    check_property("gemm_interpreted.py", name, {"OMP_NUM_THREADS": "1"})


# -- what an anchor takes in --------------------------------------------------------------------------------


def region_of(function: Any, shape: tuple[int, ...], linear: nn.Linear, block_n: int, *more: nn.Module) -> Any:
    graph = simplify(capture(Function(function, linear, *more).eval(), [torch.randn(shape)])).graph
    (product,) = find_products(graph)
    return grow(product, GemmSchedule(Operands.HALF, 64, block_n, 64))


def names(region: Any) -> list[str]:
    return [str(node.target).split(".")[1] for node in region.nodes]


def test_softmax_is_taken_in_where_a_tile_holds_whole_rows_and_left_where_not() -> None:
    def softmax(m: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(m[0](x) * 2.0, 1)

    assert names(region_of(softmax, (5, 8), nn.Linear(8, 60), 64)) == ["add", "mul", "softmax"]
    narrow = region_of(softmax, (5, 8), nn.Linear(8, 65), 64)
    assert names(narrow) == ["add", "mul"]
    assert [node.name for node in narrow.outputs] == [narrow.nodes[-1].name]


def test_row_reductions_leave_partial_results_where_rows_span_tiles() -> None:
    region = region_of(lambda m, x: m[0](x).amax(1) + 1.0, (5, 8), nn.Linear(8, 200), 64)
    assert names(region) == ["add", "amax", "add"]
    assert len(region.reductions) == 1
    assert all(region.of_rows(node) for node in region.nodes[1:])


def test_a_reduction_over_the_rows_stays_outside() -> None:
    region = region_of(lambda m, x: torch.relu(m[0](x)).sum(0), (5, 8), nn.Linear(8, 60), 64)
    assert names(region) == ["add", "relu"]


def test_group_norm_needs_groups_that_fit_a_tile() -> None:
    def norm(m: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        return m[1](m[0](x))

    assert "group_norm" in names(region_of(norm, (5, 8), nn.Linear(8, 256), 64, nn.GroupNorm(8, 256)))
    assert "group_norm" not in names(region_of(norm, (5, 8), nn.Linear(8, 256), 64, nn.GroupNorm(2, 256)))
    assert "group_norm" not in names(region_of(norm, (5, 8), nn.Linear(8, 240), 64, nn.GroupNorm(10, 240)))


def test_values_that_others_read_are_stored_too() -> None:
    def both(m: nn.ModuleList, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = m[0](x)
        return y, torch.cumsum(torch.relu(y), 0)

    region = region_of(both, (5, 8), nn.Linear(8, 60), 64)
    assert names(region) == ["add", "relu"]
    assert region.outputs == region.nodes


def test_an_operand_that_comes_later_moves_the_kernel_behind_it() -> None:
    """silu(l0(x)) * l1(x): the first product's kernel reads what the second one stores."""
    module = Function(lambda m, x: F.silu(m[0](x)) * m[1](x), nn.Linear(8, 60), nn.Linear(8, 60))
    plan = planned(module, [torch.randn(5, 8)], HALF)
    steps = [step for step in plan.steps if isinstance(step, GemmStep)]
    assert len(steps) == 2
    assert len(steps[1].plan.tiles.operands) > len(steps[0].plan.tiles.operands)


def test_without_schedules_products_stay_native() -> None:
    plan = planned(Function(lambda m, x: torch.relu(m[0](x)), nn.Linear(8, 60)), [torch.randn(5, 8)])
    assert any(isinstance(step, NativeStep) and "linear" in step.node.name for step in plan.steps)
    assert plan.native == ("linear",)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda m, a, b: a @ b, [(3, 4), (4,)]),
        (lambda m, a, b: torch.dot(a, b), [(4,), (4,)]),
        (lambda m, a, b: a.long() @ b.long(), [(3, 4), (4, 5)]),
    ],
)
def test_vectors_and_integers_are_no_products(function: Any, shapes: list[tuple[int, ...]]) -> None:
    graph = simplify(capture(Function(function).eval(), [torch.randn(s) for s in shapes])).graph
    assert find_products(graph) == ()


def test_addend_of_a_product_is_separated() -> None:
    graph = simplify(capture(Function(lambda m, c, a, b: torch.addmm(c, a, b, beta=0.5)), [torch.randn(3, 3)] * 3))
    assert graph.fired["product and addend"] == 1
    kept = simplify(capture(Function(lambda m, c, a, b: torch.addmm(c, a, b, beta=0)), [torch.randn(3, 3)] * 3))
    assert "product and addend" not in kept.fired


# -- schedules ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_schedules_fit_the_target_and_the_class(data: st.DataObject) -> None:
    gpu = find_gpu(data.draw(st.sampled_from(TARGETS)))
    dtype = data.draw(st.sampled_from((torch.float32, torch.float16, torch.bfloat16)))
    precision = data.draw(st.sampled_from((PrecisionClass.TF32, PrecisionClass.IEEE)))
    sizes = [data.draw(st.integers(1, 20000)) for _ in range(3)]
    batch = data.draw(st.sampled_from((1, 1, 7, 64)))
    shape = GemmShape(batch, sizes[0], max(2, sizes[1]), max(2, sizes[2]), dtype)
    kinds = operand_kinds(shape, precision)
    found = gemm_schedules(shape, gpu, kinds)
    assert found
    for schedule in found:
        assert schedule.operands in kinds
        assert schedule.shared_bytes(dtype.itemsize) <= gpu.shared_bytes_per_block
        assert gpu.capability >= 90 or not schedule.descriptors
        assert batch == 1 or not schedule.descriptors
        if schedule.operands is Operands.TF32:
            assert not schedule.descriptors, "wrong on an H200: see gemm_schedules"
        assert estimate_us(schedule, shape, gpu) > 0
    if precision is PrecisionClass.IEEE and dtype is torch.float32:
        assert {schedule.operands for schedule in found} == {Operands.IEEE}


def test_a_few_rows_are_multiplied_with_weights_as_given() -> None:
    """Packing would read all weights and write half of them, in each call: 1.6 GB beside the 1.07 GB of the product."""
    gpu = find_gpu("h200")
    for rows in (1, 16, 128):
        shape = GemmShape(1, rows, 16384, 16384, torch.float32)
        first = gemm_schedules(shape, gpu, operand_kinds(shape, PrecisionClass.TF32))[0]
        assert first.operands is not Operands.HALF, rows
    many = GemmShape(1, 16384, 4096, 4096, torch.float32)
    assert gemm_schedules(many, gpu, operand_kinds(many, PrecisionClass.TF32))[0].operands is Operands.HALF


def test_tiles_for_a_few_rows_are_low_and_large_products_get_large_tiles() -> None:
    gpu = find_gpu("h200")
    few = gemm_schedules(GemmShape(1, 1, 4096, 4096, torch.float32), gpu, (Operands.HALF,))
    assert few[0].block_m == 16
    large = gemm_schedules(GemmShape(1, 16384, 4096, 4096, torch.float32), gpu, (Operands.HALF,))
    assert large[0].block_m * large[0].block_n >= 128 * 256
    assert large[0].descriptors
    assert {schedule.flat for schedule in large[:4]} == {True, False}, "the clock says which loop is the faster"
    assert all(schedule.descriptors for schedule in large if schedule.flat)


# -- compiled for each target -------------------------------------------------------------------------------

#: name -> module, shapes of inputs, precision class; compiled in the schedule that is planned first.
COMPILED: dict[str, tuple[Any, list[tuple[int, ...]], PrecisionClass]] = {
    "linear bn gelu relu": (
        lambda: Function(lambda m, x: torch.relu(F.gelu(m[1](m[0](x)))), nn.Linear(512, 512), nn.BatchNorm1d(512)),
        [(1024, 512)],
        PrecisionClass.TF32,
    ),
    "softmax in a tile": (
        lambda: Function(lambda m, x: torch.softmax(m[0](x), 1), nn.Linear(256, 200)),
        [(512, 256)],
        PrecisionClass.TF32,
    ),
    "rows over tiles": (
        lambda: Function(lambda m, x: torch.logsumexp(m[0](x), 1), nn.Linear(256, 1000)),
        [(512, 256)],
        PrecisionClass.TF32,
    ),
    "bmm in float16": (
        lambda: Function(lambda m, a, b: torch.sigmoid(torch.bmm(a, b))).half(),
        [(8, 256, 64), (8, 64, 256)],
        PrecisionClass.FP16,
    ),
    "ieee": (
        lambda: Function(lambda m, x: torch.tanh(m[0](x)), nn.Linear(256, 256)),
        [(256, 256)],
        PrecisionClass.IEEE,
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", COMPILED)
def test_first_schedule_compiles_for_the_target_without_spills(name: str, target: str) -> None:
    from tests.kernels.compiled import compile_for

    make, shapes, precision = COMPILED[name]
    module = make().eval()
    dtype = torch.float16 if precision is PrecisionClass.FP16 else torch.float32
    inputs = [torch.randn(shape, dtype=dtype) for shape in shapes]
    gpu = find_gpu(target)
    graph = simplify(capture(module, inputs)).graph
    (first, *_) = schedule_sets(graph, gpu, precision, 1)
    options = PlanOptions(gemms=first, sm_count=gpu.sm_count, approximate=precision is PrecisionClass.TF32)
    compiled = compile_for(module, inputs, options, gpu)
    assert compiled, "nothing was launched"
    for kernel, usage in compiled.items():
        assert usage.shared_bytes <= gpu.shared_bytes_per_block, kernel
        assert usage.spill_bytes == 0, f"{kernel} spills {usage.spill_bytes} bytes under {first}"


# -- golden files -------------------------------------------------------------------------------------------

GOLDENS: dict[str, tuple[Any, list[torch.Tensor], GemmSchedule]] = {
    "gemm_descriptors": (
        lambda: Function(lambda m, x: F.gelu(m[0](x)), nn.Linear(96, 256)),
        [torch.empty(40, 96)],
        GemmSchedule(Operands.HALF, 128, 128, 64, 8, 3, descriptors=True, parts=2, flat=True),
    ),
    "gemm_rows_over_tiles": (
        lambda: Function(lambda m, x: torch.logsumexp(m[0](x), 1, keepdim=True) * 0.5, nn.Linear(96, 256)),
        [torch.empty(40, 96)],
        GemmSchedule(Operands.TF32, 64, 64, 32, 4, 3),
    ),
    "gemm_split_batch": (
        lambda: Function(lambda m, a, b: torch.softmax(a @ b.transpose(-1, -2), -1)),
        [torch.empty(3, 20, 96), torch.empty(3, 30, 96)],
        GemmSchedule(Operands.HALF, 16, 32, 32, 4, 2, split=2),
    ),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_emitted_file_is_the_golden_one(name: str) -> None:
    make, inputs, schedule = GOLDENS[name]
    plan = planned(make(), inputs, schedule)
    forward = write_forward(plan)
    source = write_live_file(forward, description=name)
    check_golden(name, source)
