"""Collapses in float64, for every hyperparameter, borders exact, infinities where they belong; and where none fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.graph.test_canonical import Of, run
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.graph.collapse import COLLAPSE_RULES
from tilewright.graph.convolutions import ConvolutionDim
from tilewright.graph.graph import fixed_size
from tilewright.graph.tap_sums import TapReads, tap_reads

MEAN = "mean of a convolution"
FORWARD = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def fired(module: nn.Module, x: torch.Tensor, *others: torch.Tensor) -> Mapping[str, int]:
    """The rules that fired on `x`; the rewritten graph is held to the module there and on other sizes."""
    module = module.double().eval()
    simplified = simplify(capture(module, [x.double()]))
    sizes = simplified.graph.node(simplified.graph.inputs[0]).meta["val"].shape[2:]
    static = any(fixed_size(size) is not None for size in sizes)
    with torch.no_grad():
        for value in (x, *(() if static else others)):
            expected = module(value.double())
            got = run(simplified.graph, module, [value.double()])
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10, equal_nan=True)
    return simplified.fired


def reduced(layer: nn.Module, dims: Sequence[int], keepdim: bool = True, how: str = "mean") -> nn.Module:
    return Of(lambda m, x: getattr(m[0](x) * 0.7, how)(list(dims), keepdim=keepdim) * 2.0, layer)


@st.composite
def convolutions(draw: st.DrawFn, padded: bool = True) -> tuple[nn.Module, torch.Tensor, int]:
    """A convolution of either kind, an input that it makes two positions or more of, and its spatial dims."""
    rank, transposed, groups = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.sampled_from([1, 1, 2]))
    dims, lengths = [], []
    for _ in range(rank):
        size, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        padding = draw(st.integers(0, 2)) if padded else 0
        extra = draw(st.integers(0, max(stride, dilation) - 1))
        span = dilation * (size - 1) + 1
        least = -((span + extra - 2 - 2 * padding) // stride) + 1 if transposed else span + stride - 2 * padding
        dims.append((size, stride, padding, dilation, extra))
        lengths.append(max(2, least) + draw(st.integers(0, 3)))
    size, stride, padding, dilation, extra = (list(values) for values in zip(*dims, strict=True))
    if transposed:
        layer = TRANSPOSED[rank](4, 6, size, stride, padding, extra, groups=groups, dilation=dilation)
    else:
        layer = FORWARD[rank](4, 6, size, stride, padding, dilation, groups=groups)
    return layer, torch.randn(2, 4, *lengths), rank


@settings(max_examples=12, deadline=None)
@given(drawn=convolutions(), data=st.data())
def test_reductions_of_convolutions(drawn: tuple[nn.Module, torch.Tensor, int], data: st.DataObject) -> None:
    layer, x, rank = drawn
    dims = data.draw(st.sets(st.sampled_from(range(2, 2 + rank)), min_size=1).map(sorted))
    dims += [0] if data.draw(st.booleans()) else []
    other = torch.randn(3, 4, *(size + 3 for size in x.shape[2:]))
    fired(reduced(layer, dims, data.draw(st.booleans()), data.draw(st.sampled_from(["mean", "sum"]))), x, other)


@settings(max_examples=10, deadline=None)
@given(drawn=convolutions(padded=False), data=st.data())
def test_infinities_and_nan_come_out_where_they_belong(
    drawn: tuple[nn.Module, torch.Tensor, int], data: st.DataObject
) -> None:
    """No weights are added together: an infinity meets each of them with its own sign."""
    layer, x, rank = drawn
    values = st.sampled_from([float("inf"), float("-inf"), float("nan")])
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, x.numel() - 1))
        x.view(-1)[place] = data.draw(values)
    fired(reduced(layer, range(2, 2 + rank)), x)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 9),
    size=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    extra=st.integers(0, 2),
    transposed=st.booleans(),
)
def test_taps_read_what_they_read_by_enumeration(
    length: int, size: int, stride: int, padding: int, dilation: int, extra: int, transposed: bool
) -> None:
    dim = ConvolutionDim(size, stride, padding, dilation, extra if transposed else 0)
    if transposed:
        outputs = (length - 1) * stride + dim.transposed_constant
    else:
        outputs = (length + 2 * padding - dim.reach - 1) // stride + 1
    assume(outputs >= 1)
    for tap in range(size):
        if transposed:
            expected = {i for i in range(length) if 0 <= i * stride - padding + tap * dilation < outputs}
        else:
            expected = {o * stride - padding + tap * dilation for o in range(outputs)} & set(range(length))
        read: TapReads = tap_reads(dim, tap, transposed)
        end = length - read.left_out if read.left_out is not None else (outputs - 1) * stride + read.last_offset + 1
        assert set(range(read.start, max(0, min(end, length)), read.step)) == expected


FIRES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    MEAN: (reduced(nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), [2, 3]), (2, 2, 4, 5)),
    "mean of an affine map": (reduced(nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), [2, 3]), (2, 2, 4, 5)),
    "space first": (reduced(nn.Conv2d(2, 3, 3), [0, 2, 3]), (2, 2, 4, 5)),
    "mean over the batch": (reduced(nn.Conv2d(2, 3, 3), [0]), (2, 2, 4, 5)),
    "sum over output features": (reduced(nn.Linear(5, 8), [1], how="sum"), (170, 5)),
    "sum over output channels": (reduced(nn.Conv2d(2, 16, 3), [1], how="sum"), (2, 2, 12, 12)),
}

STAYS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    MEAN: (Of(lambda m, x: torch.relu(m[0](x)).mean([2]), nn.Conv1d(2, 3, 3)), (2, 2, 9)),
    "mean of an affine map": (
        Of(lambda m, x: (m[0](x) * x.mean(1, keepdim=True)).mean([2]), nn.Conv1d(2, 3, 1)),
        (2, 2, 9),
    ),
    "space first": (reduced(nn.Conv2d(2, 3, 3), [0]), (2, 2, 4, 5)),
    "mean over the batch": (Of(lambda m, x: torch.relu(m[0](x)).mean([0]), nn.Conv1d(2, 3, 3)), (2, 2, 9)),
    "sum over output features": (Of(lambda m, x: torch.relu(m[0](x)).sum(1), nn.Linear(5, 8)), (170, 5)),
    "sum over output channels": (reduced(nn.Conv2d(2, 16, 3, groups=2), [1]), (2, 2, 12, 12)),
}


def test_every_rule_has_its_cases() -> None:
    names = {rule.name for rule in COLLAPSE_RULES}
    assert names == set(FIRES) == set(STAYS)


@pytest.mark.parametrize("rule", FIRES)
def test_it_fires(rule: str) -> None:
    module, shape = FIRES[rule]
    assert fired(module, torch.randn(shape))[rule] >= 1


@pytest.mark.parametrize("rule", STAYS)
def test_it_declines(rule: str) -> None:
    module, shape = STAYS[rule]
    assert rule not in fired(module, torch.randn(shape))


@settings(max_examples=8, deadline=None)
@given(
    features=st.tuples(st.integers(1, 5), st.integers(4, 9)),
    how=st.sampled_from(["sum", "mean"]),
    keep=st.booleans(),
    special=st.sampled_from([0.0, float("inf"), float("-inf"), float("nan")]),
    sign=st.sampled_from(["mixed", "positive", "negative", "with zero"]),
)
def test_sums_over_features(features: tuple[int, int], how: str, keep: bool, special: float, sign: str) -> None:
    layer = nn.Linear(*features)
    with torch.no_grad():
        if sign in ("positive", "with zero"):
            layer.weight.abs_().add_(0.1)
        if sign == "negative":
            layer.weight.abs_().add_(0.1).neg_()
        if sign == "with zero":
            layer.weight[0, 0] = 0.0
    x = torch.randn(170, features[0])
    x[1, 0] = special
    assert fired(reduced(layer, [1], keep, how), x)["sum over output features"] == 1


def test_it_does_not_fire_where_it_costs_more() -> None:
    """A small plane with many channels: its weights outweigh it."""
    assert MEAN not in fired(reduced(nn.Conv2d(2, 200, 3, padding=1), [2, 3]), torch.randn(1, 2, 3, 3))
    assert MEAN not in fired(reduced(nn.Conv2d(2, 3, 8, 8), [2, 3]), torch.randn(1, 2, 16, 16))
    # few rows: in each call, the sums of the weights would cost more than the product
    assert "sum over output features" not in fired(reduced(nn.Linear(5, 8), [1]), torch.randn(3, 5))
    assert "sum over output channels" not in fired(reduced(nn.Conv2d(2, 16, 3), [1]), torch.randn(1, 2, 4, 4))
