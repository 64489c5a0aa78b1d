"""Output phases against the definition of a convolution, one dim at a time, and golden files of emitted modules."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.golden_files import check_golden
from tilewright.gpu.table import find_gpu
from tilewright.kernels.regions.phases import DimPhases, convolution_dim, transposed_dim
from tilewright.proposers.synthesize import synthesize
from tilewright.task.load import load_task

EXAMPLES = Path(__file__).parents[2] / "examples"


def by_phases(dim: DimPhases, x: torch.Tensor, w: torch.Tensor, out_size: int) -> torch.Tensor:
    """The convolution as the kernels compute it: every read inside the bordered input, or the test fails."""
    padded = torch.zeros(dim.border + len(x) + dim.border, dtype=x.dtype)
    padded[dim.border : dim.border + len(x)] = x
    out = torch.zeros(out_size, dtype=x.dtype)
    for phase, taps in enumerate(dim.phases):
        for q in range(-(-out_size // dim.output_step)):
            value = sum((padded[dim.border + q * dim.input_step + t.delta] * w[t.index] for t in taps), x.new_zeros(()))
            if (o := q * dim.output_step + phase) < out_size:
                out[o] = value
    return out


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_transposed_phases_are_the_transposed_convolution(data: st.DataObject) -> None:
    size, stride, dilation = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, 3))
    extra = data.draw(st.integers(0, max(stride, dilation) - 1))
    length = data.draw(st.integers(1, 7))
    x, w = torch.randn(length, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
    if (length - 1) * stride - 2 * padding + dilation * (size - 1) + extra + 1 < 1:
        return
    expected = torch.nn.functional.conv_transpose1d(
        x[None, None], w[None, None], stride=stride, padding=padding, output_padding=extra, dilation=dilation
    )[0, 0]
    dim = transposed_dim(size, stride, padding, extra, dilation)
    assert sum(len(taps) for taps in dim.phases) == size, "every tap belongs to one phase: no zero is multiplied"
    torch.testing.assert_close(by_phases(dim, x, w, len(expected)), expected)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_forward_phases_are_the_convolution(data: st.DataObject) -> None:
    size, stride, dilation = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, 4))
    length = data.draw(st.integers(max(1, dilation * (size - 1) + 1 - 2 * padding), 16))
    x, w = torch.randn(length, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(
        x[None, None], w[None, None], stride=stride, padding=padding, dilation=dilation
    )[0, 0]
    torch.testing.assert_close(
        by_phases(convolution_dim(size, stride, padding, dilation), x, w, len(expected)), expected
    )


@pytest.mark.parametrize("name", ["min_sum_gelu_bias", "linear_batchnorm_gelu_relu", "multiply_global_mean"])
def test_emitted_file_is_the_golden_one(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = load_task(EXAMPLES / f"{name}.py", gpu="4090", precision="tf32")
        source = synthesize(task)[0].source
    assert task.gpu == find_gpu("rtx-4090")
    check_golden(name, source)
