"""Collapses in float64, for every hyperparameter, borders exact; and where they must not fire."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.graph.test_canonical import Of, run
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.graph.graph import fixed_size

MEAN = "mean of a convolution"


def fired(module: nn.Module, x: torch.Tensor, *others: torch.Tensor) -> Mapping[str, int]:
    """The rules that fired on `x`; the rewritten graph is held to the module there and on other sizes."""
    module = module.double().eval()
    simplified = simplify(capture(module, [x.double()]))
    sizes = simplified.graph.node(simplified.graph.inputs[0]).meta["val"].shape[2:]
    static = any(fixed_size(size) is not None for size in sizes)
    with torch.no_grad():
        for value in (x, *(() if static else others)):
            expected = module(value.double())
            torch.testing.assert_close(run(simplified.graph, module, [value.double()]), expected, rtol=1e-9, atol=1e-10)
    return simplified.fired


def mean_of(convolution: nn.Module, keepdim: bool = True) -> nn.Module:
    dims = list(range(2, convolution.weight.dim()))
    return Of(lambda m, x: (m[0](x) * 0.7).mean(dims, keepdim=keepdim) * 2.0, convolution)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mean_of_a_transposed_convolution(data: st.DataObject) -> None:
    size, stride, dilation = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    padding = data.draw(st.integers(0, 2))
    extra = data.draw(st.integers(0, max(stride, dilation) - 1))
    length = data.draw(st.integers(2, 7))
    assume((length - 1) * stride - 2 * padding + dilation * (size - 1) + extra + 1 >= 1)
    convolution = nn.ConvTranspose1d(2, 3, size, stride, padding, extra, dilation=dilation)
    fired(mean_of(convolution, data.draw(st.booleans())), torch.randn(2, 2, length), torch.randn(3, 2, length + 4))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_mean_of_a_convolution(data: st.DataObject) -> None:
    size, stride, dilation = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    padding = data.draw(st.integers(0, 3))
    convolution = nn.Conv1d(2, 3, size, stride, padding, dilation)
    fired(mean_of(convolution), torch.randn(2, 2, 9), torch.randn(3, 2, 16))


def test_it_fires_in_two_dims_and_down_to_one_row() -> None:
    convolution = nn.ConvTranspose2d(2, 3, 3, 2, 1, 1)
    assert fired(mean_of(convolution), torch.randn(2, 2, 4, 5), torch.randn(1, 2, 1, 7))[MEAN] == 1


@pytest.mark.parametrize(
    "module",
    [
        Of(lambda m, x: torch.relu(m[0](x)).mean([2]), nn.Conv1d(2, 3, 3)),
        Of(lambda m, x: m[0](x).mean([1]), nn.Conv1d(2, 3, 3)),
        Of(lambda m, x: m[0](x).mean([2]), nn.Conv1d(2, 4, 3, groups=2)),
        Of(lambda m, x: m[0](x).mean([2]), nn.Conv1d(2, 3, 3, stride=2)),
    ],
    ids=["not linear", "over channels", "groups", "stride"],
)
def test_it_declines(module: nn.Module) -> None:
    assert MEAN not in fired(module, torch.randn(2, 2, 9))
