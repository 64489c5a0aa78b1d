"""Counts against brute force, against torch's own counter, and against sums by hand."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tilewright.graph.capture import capture
from tilewright.graph.contractions import valid_taps
from tilewright.graph.work import count_nodes, count_work


def taps_by_enumeration(strided, dense, taps, stride, padding, dilation):
    pairs = itertools.product(range(strided), range(taps))
    return sum(0 <= position * stride - padding + tap * dilation < dense for position, tap in pairs)


@given(
    strided=st.integers(1, 12),
    dense=st.integers(1, 24),
    taps=st.integers(1, 6),
    stride=st.integers(1, 4),
    padding=st.integers(0, 7),
    dilation=st.integers(1, 3),
)
def test_taps_that_meet_data_are_counted_as_by_enumeration(strided, dense, taps, stride, padding, dilation):
    sizes = (strided, dense, taps, stride, padding, dilation)
    assert valid_taps(*sizes) == taps_by_enumeration(*sizes)


def products_by_ones(module, x):
    """Products of a convolution that meet data: with ones everywhere, each contributes one to the output."""
    module = module.double().requires_grad_(False)
    for parameter in module.parameters():
        parameter.fill_(1.0)
    return int(module(torch.ones_like(x, dtype=torch.float64)).sum().item())


@settings(max_examples=20, deadline=None)
@given(
    transposed=st.booleans(),
    dims=st.integers(1, 3),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    size=st.integers(3, 6),
)
def test_convolutions_are_counted_exactly(transposed, dims, kernel, stride, padding, dilation, groups, size):
    span = dilation * (kernel - 1) + 1
    out = (size - 1) * stride - 2 * padding + span if transposed else (size + 2 * padding - span) // stride + 1
    assume(out > 0 and size + 2 * padding >= span)
    kinds = {
        False: [nn.Conv1d, nn.Conv2d, nn.Conv3d],
        True: [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d],
    }
    module = kinds[transposed][dims - 1](
        4, 6, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False
    )
    x = torch.rand(2, 4, *[size] * dims)
    work = count_work(capture(module, (x,), dynamic=False))
    assert work.matrix_operations == 2 * products_by_ones(module, x)
    assert work.scalar_operations == 0


class Chain(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


ROWS = torch.rand(6, 8)
BATCH = torch.rand(3, 6, 8)
QUERY = torch.rand(2, 3, 5, 8)

PRODUCTS = [
    pytest.param(lambda a: a @ a.t(), (ROWS,), id="matmul"),
    pytest.param(lambda a: torch.mm(a, a.t()), (ROWS,), id="mm"),
    pytest.param(lambda a: torch.bmm(a, a.transpose(1, 2)), (BATCH,), id="bmm"),
    pytest.param(lambda a, b: a @ b.t(), (BATCH, ROWS), id="matmul broadcast"),
    pytest.param(lambda a, w: F.linear(a, w), (BATCH, ROWS), id="linear"),
    pytest.param(lambda a, b: torch.baddbmm(b, a, a.transpose(1, 2)), (BATCH, torch.rand(3, 6, 6)), id="baddbmm"),
    pytest.param(lambda a, b: torch.addmm(b, a, a.t()), (ROWS, torch.rand(6)), id="addmm"),
    pytest.param(lambda q: F.scaled_dot_product_attention(q, q, q), (QUERY,), id="attention"),
    pytest.param(lambda a: torch.einsum("bij,bkj->bik", a, a), (BATCH,), id="einsum"),
    pytest.param(lambda a: torch.einsum("...ij,kj->...ik", a, a[0]), (BATCH,), id="einsum with ellipsis"),
    pytest.param(lambda x, w: F.conv2d(x, w), (torch.rand(2, 4, 9, 9), torch.rand(6, 4, 3, 3)), id="conv2d"),
]


@pytest.mark.parametrize(("function", "inputs"), PRODUCTS)
def test_contractions_agree_with_torch_where_no_product_is_zero(function, inputs):
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        function(*inputs)
    work = count_work(capture(Chain(function), inputs, dynamic=False))
    assert work.matrix_operations == counter.get_total_flops()


def test_causal_attention_counts_the_lower_triangle():
    causal = Chain(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True))
    work = count_work(capture(causal, (QUERY,), dynamic=False))
    assert work.matrix_operations == 2 * (2 * 3) * (5 * 6 // 2) * (8 + 8)


def test_bytes_are_inputs_parameters_and_outputs_once():
    module = nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.BatchNorm1d(4))
    work = count_work(capture(module, (torch.rand(5, 8),)))
    parameters = 8 * 4 + 4 + 4 + 4  # weight, bias, gamma, beta
    statistics = 4 + 4  # running mean and variance; the number of batches is not read in eval mode
    assert work.read_bytes == 4 * (5 * 8 + parameters + statistics)
    assert work.written_bytes == 4 * 5 * 4
    assert work.total_bytes == work.read_bytes + work.written_bytes


def test_what_is_not_read_does_not_count():
    module = Chain(lambda x, y, z: x * y.shape[0])
    work = count_work(capture(module, (torch.rand(4, 4), torch.rand(100, 100), torch.rand(50)), dynamic=False))
    assert work.read_bytes == 4 * 16


def test_of_an_embedding_only_the_rows_looked_up_move():
    work = count_work(capture(nn.Embedding(1000, 8), (torch.randint(0, 1000, (3,)),)))
    assert work.read_bytes == 3 * 8 * 4 + 3 * 8  # rows in float32, indices in int64


def test_half_precision_moves_half_the_bytes():
    full = count_work(capture(nn.ReLU(), (torch.rand(64),)))
    half = count_work(capture(nn.ReLU(), (torch.rand(64).half(),)))
    assert 2 * half.total_bytes == full.total_bytes


def test_scalar_operations_weigh_transcendental_functions():
    plain = count_work(capture(nn.ReLU(), (ROWS,))).scalar_operations
    dear = count_work(capture(nn.Mish(), (ROWS,))).scalar_operations
    assert plain == ROWS.numel()
    assert dear > 10 * plain


def test_reductions_count_what_they_read():
    work = count_work(capture(Chain(lambda x: x.sum(1)), (BATCH,)))
    assert work.scalar_operations == BATCH.numel()


def test_shapes_can_be_given_where_capture_widened_a_batch_of_one():
    x = torch.rand(1, 4, 9, 7)
    graph = capture(nn.Conv2d(4, 6, 3), (x,))
    work = count_work(graph, (x,))
    assert work.matrix_operations == 2 * 7 * 5 * 9 * 4 * 6
    assert work.written_bytes == 4 * 6 * 7 * 5
    other = count_work(graph, (torch.rand(5, 4, 9, 7),))
    assert other.matrix_operations == 5 * work.matrix_operations


def test_each_node_is_a_kernel_and_views_are_free():
    module = Chain(lambda x: torch.relu(x.transpose(0, 1).reshape(8, 6)).mean(dim=0, keepdim=True))
    nodes = {work.operation: work for work in count_nodes(capture(module, (ROWS,), dynamic=False))}
    assert nodes["transpose"].moves_nothing
    assert nodes["relu"].read_bytes == nodes["relu"].written_bytes == 4 * 48
    assert (nodes["mean"].read_bytes, nodes["mean"].written_bytes) == (4 * 48, 4 * 6)


def test_an_expanded_operand_is_read_once():
    module = Chain(lambda x, y: x + y.expand(6, 8))
    nodes = {work.operation: work for work in count_nodes(capture(module, (ROWS, torch.rand(1, 8)), dynamic=False))}
    assert nodes["add"].read_bytes == 4 * (48 + 8)


def test_convolutions_are_told_apart():
    module = nn.Sequential(nn.Conv1d(2, 2, 3), nn.ConvTranspose1d(2, 2, 3, bias=False))
    first, second = count_nodes(capture(module, (torch.rand(1, 2, 9),), dynamic=False))
    assert (first.convolution, first.transposed_convolution, first.has_bias) == (True, False, True)
    assert (second.convolution, second.transposed_convolution, second.has_bias) == (True, True, False)
