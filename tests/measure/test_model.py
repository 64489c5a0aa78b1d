"""Laws that the model must keep, whatever its constants, and what it says of layouts, fills and products."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tilewright.gpu.table import find_gpu
from tilewright.graph.capture import capture
from tilewright.measure.launches import matrix_product_shape, tensor_bytes, tile_elements
from tilewright.measure.model import predict, predict_reference, predict_step
from tilewright.values import (
    KernelResources,
    Launch,
    LaunchArgument,
    Measured,
    Modelled,
    NativeCall,
    PrecisionClass,
    Recording,
)

TF32 = PrecisionClass.TF32
ADA = find_gpu("4090")


def pointer(name, *shape, kind="*fp32"):
    stride = [1]
    for size in reversed(shape[1:]):
        stride.insert(0, stride[0] * size)
    return LaunchArgument(name, kind, None, tuple(shape), tuple(stride), True)


def tile(name, size):
    return LaunchArgument(name, "constexpr", size)


def pointwise(elements, programs, block=1024, warps=4, name="kernel"):
    arguments = (pointer("x", elements), pointer("out", elements), tile("BLOCK", block))
    return Launch(name, (programs, 1, 1), arguments, warps, 2)


def resources(name="kernel", registers=32, spill=0, shared=0, warps=4):
    return KernelResources(name, 89, registers, spill, shared, warps)


def time_of(step, known=(), gpu=ADA):
    return predict_step(step, known, gpu, TF32).time_ms


def fewer_sms(gpu, count):
    """The same GPU with some multiprocessors switched off: rates that they carry fall with them."""
    part = count / gpu.sm_count
    rates = {kind: rate * part for kind, rate in gpu.tensor_tflops.items()}
    return dataclasses.replace(gpu, sm_count=count, fp32_tflops=gpu.fp32_tflops * part, tensor_tflops=rates)


@given(
    elements=st.integers(1, 10**8),
    more=st.integers(0, 10**8),
    programs=st.integers(1, 10**5),
    block=st.sampled_from([8, 128, 1024, 65536]),
    registers=st.integers(16, 255),
)
def test_more_bytes_are_never_faster(elements, more, programs, block, registers):
    known = [resources(registers=registers)]
    few, many = (pointwise(size, programs, block) for size in (elements, elements + more))
    assert time_of(few, known) <= time_of(many, known)


@given(
    elements=st.integers(1, 10**8),
    programs=st.integers(1, 10**5),
    registers=st.integers(16, 255),
    sms=st.tuples(st.integers(1, ADA.sm_count), st.integers(1, ADA.sm_count)),
)
def test_fewer_multiprocessors_are_never_faster(elements, programs, registers, sms):
    launch, known = pointwise(elements, programs), [resources(registers=registers)]
    few, many = (time_of(launch, known, fewer_sms(ADA, count)) for count in sorted(sms))
    assert few >= many


@given(spill=st.integers(0, 4096), more=st.integers(0, 4096))
def test_more_spills_are_never_faster(spill, more):
    launch = pointwise(10**6, 1000)
    assert time_of(launch, [resources(spill=spill)]) <= time_of(launch, [resources(spill=spill + more)])


@given(registers=st.integers(16, 255), more=st.integers(0, 200))
def test_lower_occupancy_is_never_faster(registers, more):
    launch = pointwise(10**7, 10**4, block=128)
    shared = [resources(shared=1024), resources(shared=50_000)]
    assert time_of(launch, shared[:1]) <= time_of(launch, shared[1:])
    assert time_of(launch, [resources(registers=registers)]) > 0


@given(
    read=st.integers(0, 10**9),
    written=st.integers(1, 10**9),
    operations=st.integers(0, 10**13),
    more=st.integers(0, 10**9),
)
def test_a_native_call_with_more_to_do_is_never_faster(read, written, operations, more):
    call = NativeCall("aten.mm.default", ((2, 2), (2, 2)), ((2, 2),), read, written, operations)
    for change in ({"read_bytes": read + more}, {"matrix_operations": operations + more}):
        assert time_of(call) <= time_of(dataclasses.replace(call, **change))


def test_a_prediction_is_labelled_and_adds_up():
    recording = Recording((pointwise(10**6, 1000, name="first"), pointwise(10**7, 10**4, name="second")))
    modelled = predict(recording, [resources("first"), resources("second")], ADA, TF32)
    assert isinstance(modelled, Modelled)
    assert not isinstance(modelled, Measured)
    assert modelled.label == "modelled"
    assert modelled.gpu == ADA.name
    assert modelled.time_ms == pytest.approx(sum(modelled.parts.values()))
    assert [name.split(": ")[1] for name in modelled.parts] == ["first", "second"]


@given(operations=st.integers(1, 10**13), programs=st.integers(1, 10**4), more=st.integers(0, 10**12))
def test_no_kernel_is_faster_than_its_product(operations, programs, more):
    recording = Recording((pointwise(10**4, programs, name="anchor"), pointwise(10**4, 10)))
    known = [resources("anchor"), resources()]
    plain = predict(recording, known, ADA, TF32).time_ms
    times = [
        predict(recording, known, ADA, TF32, products={"anchor": n}).time_ms for n in (operations, operations + more)
    ]
    assert plain <= times[0] <= times[1]
    assert times[0] >= operations / (ADA.tensor_tflops[TF32] * 1e12) * 1e3


def test_a_long_copy_runs_near_the_bandwidth():
    elements = 10**8
    step = predict_step(pointwise(elements, elements // 1024), [resources()], ADA, TF32)
    floor = 8 * elements / (ADA.bandwidth_gb_s * 1e9) * 1e3
    assert step.limit == "dram"
    assert floor < step.time_ms < 1.2 * floor


def test_few_programs_leave_the_memory_idle():
    full, few = (predict_step(pointwise(10**8, n, 4096), [resources()], ADA, TF32) for n in (10**5, 8))
    assert few.time_ms > 5 * full.time_ms
    assert few.limit in ("port", "latency")


def test_an_empty_launch_still_costs_its_launch():
    step = predict_step(pointwise(1, 1), [resources()], ADA, TF32)
    assert step.limit == "launch"
    assert step.time_ms > 0


def test_a_kernel_that_returns_at_once_costs_its_launch():
    recording = Recording((pointwise(10**7, 10**4, name="first"), pointwise(10**7, 10**4, name="twin")))
    guarded = predict(recording, [resources()], ADA, TF32, spares=("twin",))
    empty = predict_step(pointwise(1, 1), [resources()], ADA, TF32).time_ms
    assert guarded.time_ms == pytest.approx(time_of(recording.steps[0]) + empty, rel=0.01)
    assert guarded.time_ms < 0.6 * predict(recording, [resources()], ADA, TF32).time_ms


def test_views_cost_nothing():
    assert time_of(NativeCall("aten.view.default", ((4, 4),), ((16,),), 0, 0, 0)) == 0


def transposed(layout):
    shapes = ((128, 64, 64, 64), (64, 128, 4, 4), (128,)), ((128, 128, 130, 130),)
    sizes = (4 * 128 * 64 * 64 * 64, 4 * 128 * 128 * 130 * 130)
    return NativeCall("aten.convolution.default", *shapes, *sizes, 2 * 128 * 64 * 64 * 64 * 128 * 16, layout)


def test_a_transposed_convolution_pays_for_its_layout():
    assert time_of(transposed("channels_last")) < time_of(transposed("contiguous"))


def test_the_resources_of_the_launched_configuration_are_taken():
    launch = pointwise(10**7, 10**4, block=8, warps=8)
    low, high = resources(warps=4, shared=99_000), resources(warps=8)
    assert time_of(launch, [low, high]) == time_of(launch, [high])


def product(m, n, k, tile_m, tile_n, programs=None, kind="*fp16"):
    arguments = (
        pointer("a", m, k, kind=kind),
        pointer("b", k, n, kind=kind),
        pointer("c", m, n),
        tile("BLOCK_M", tile_m),
        tile("BLOCK_N", tile_n),
        tile("BLOCK_K", 32),
    )
    programs = programs or -(-m // tile_m) * -(-n // tile_n)
    return Launch("product", (programs, 1, 1), arguments, 4, 3)


def test_a_matrix_product_is_recognised_by_its_shapes_and_programs():
    found = matrix_product_shape(product(1000, 500, 300, 64, 128))
    assert found is not None
    assert found.sizes == (1000, 500, 300)
    assert sorted(found.tile) == [64, 128]
    assert matrix_product_shape(product(1000, 500, 300, 64, 128, programs=17)) is None
    assert matrix_product_shape(pointwise(4096, 4)) is None


def test_small_tiles_of_a_product_ask_more_of_l2():
    known = [resources("product", registers=90, shared=20_000)]
    small, large = (time_of(product(8192, 8192, 4096, size, size), known) for size in (16, 128))
    assert small > large


def test_bytes_and_tiles_of_a_launch():
    expanded = LaunchArgument("bias", "*fp16", None, (128, 64), (0, 1))
    launch = Launch("kernel", (1, 1, 1), (expanded, pointer("x", 10), tile("BLOCK", 256), tile("FLAG", 1)), 4, 2)
    assert tensor_bytes(launch) == 2 * 64 + 4 * 10
    assert tile_elements(launch) == 256


def test_eager_pays_a_kernel_for_each_operation():
    one = capture(nn.ReLU(), (torch.empty(1 << 20, device="meta"),))
    three = capture(
        nn.Sequential(nn.ReLU(), nn.Flatten(0), nn.Tanh(), nn.ReLU()), (torch.empty(1 << 20, device="meta"),)
    )
    assert predict_reference(three, ADA, TF32).time_ms == pytest.approx(3 * predict_reference(one, ADA, TF32).time_ms)


def test_full_precision_products_are_slower():
    graph = capture(nn.Linear(2048, 2048), (torch.empty(4096, 2048),))
    tf32, ieee, fp16 = (
        predict_reference(graph, find_gpu("h100"), kind).time_ms
        for kind in (TF32, PrecisionClass.IEEE, PrecisionClass.FP16)
    )
    assert fp16 < tf32 < ieee


def test_few_rows_of_a_native_normalisation_wait_for_one_block_each():
    """As many bytes in fewer rows take longer, in the reference and where a candidate leaves it to PyTorch."""
    times = {}
    for rows in (16, 4096):
        x = torch.empty(rows, (1 << 26) // rows, device="meta")
        graph = capture(nn.LayerNorm(x.shape[1], elementwise_affine=False).to("meta"), [x])
        reference = predict_reference(graph, ADA, TF32).time_ms
        size = 4 * x.numel()
        shapes = (tuple(x.shape), (rows, 1), (rows, 1))
        call = NativeCall("aten.native_layer_norm.default", (tuple(x.shape),), shapes, size, size + 8 * rows, 0)
        assert time_of(call) == pytest.approx(reference, rel=0.01)
        times[rows] = reference
    assert times[16] > 10 * times[4096]
