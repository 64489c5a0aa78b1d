"""Depthwise convolutions against float64, hyperparameters drawn: run by `test_depthwise` in the interpreter.

Not collected by itself: Triton's interpreter has to be chosen before triton is imported.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.kernels.emission_cases import Function
from tests.kernels.interpreted import emit, load
from tests.kernels.rows_in_interpreter import check, drawn
from tilewright.kernels.depthwise.plan import DepthwiseTiles
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.steps import PlanOptions

warnings.filterwarnings("ignore")

FORWARD = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def options(*tiles: int, **others: Any) -> PlanOptions:
    return PlanOptions(depthwise_tiles=DepthwiseTiles(*tiles), **others)


@st.composite
def plans(draw: st.DrawFn) -> PlanOptions:
    """Any number of columns, strips so short that planes take several."""
    return options(draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 4)), draw(st.sampled_from([1, 2])))


@st.composite
def convolutions(draw: st.DrawFn, rank: int) -> tuple[nn.Module, list[int]]:
    """A depthwise convolution of either size, and spatial sizes that it can read."""
    most = {1: 9, 2: 5, 3: 3}[rank]
    size = [draw(st.integers(1, most)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 3)) for _ in range(rank)]
    padding = [draw(st.integers(0, 4)) for _ in range(rank)]
    channels, multiplier = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    module = FORWARD[rank](
        channels, channels * multiplier, size, stride, padding, dilation, channels, bias=draw(st.booleans())
    )
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    least = [max(2, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    return module, [low + draw(st.integers(0, 9 if rank < 3 else 3)) for low in least]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions(rank: int) -> None:
    @drawn
    @given(data=st.data(), plan=plans(), batch=st.integers(2, 3))
    def run(data: st.DataObject, plan: PlanOptions, batch: int) -> None:
        module, space = data.draw(convolutions(rank))
        x = torch.randn(batch, module.in_channels, *space)
        check(lambda m, x: F.hardswish(m.children_list[0](x)), [x], plan, [module])

    run()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolutions(rank: int) -> None:
    """Output phases, some of which may read nothing."""

    @drawn
    @given(data=st.data(), plan=plans(), multiplier=st.integers(1, 2))
    def run(data: st.DataObject, plan: PlanOptions, multiplier: int) -> None:
        size = [data.draw(st.integers(1, 4 if rank < 3 else 3)) for _ in range(rank)]
        stride = [data.draw(st.integers(1, 2)) for _ in range(rank)]
        padding = [data.draw(st.integers(0, (k - 1) // 2)) for k in size]
        extra = [data.draw(st.integers(0, s - 1)) for s in stride]
        module = TRANSPOSED[rank](
            2, 2 * multiplier, size, stride, padding, extra, groups=2, bias=data.draw(st.booleans())
        )
        space = [data.draw(st.integers(2, 6 if rank < 3 else 4)) for _ in range(rank)]
        # what would need too many sums stays native
        check(
            lambda m, x: torch.relu(m.children_list[0](x)),
            [torch.randn(2, 2, *space)],
            plan,
            [module],
            native=(f"conv_transpose{rank}d",) if rank == 3 else (),
        )

    run()


@pytest.mark.parametrize(
    ("size", "dilation", "space"),
    [((9, 8), (1, 1), (11, 13)), ((3, 3), (13, 9), (27, 21)), ((4, 4, 4), (1, 1, 1), (2, 2, 5)), ((53,), (1,), (60,))],
)
def test_what_does_not_fit_in_registers_is_walked_tap_by_tap(
    size: tuple[int, ...], dilation: tuple[int, ...], space: tuple[int, ...]
) -> None:
    module = FORWARD[len(size)](2, 4, size, padding=3, dilation=dilation, groups=2)
    check(lambda m, x: F.silu(m.children_list[0](x)), [torch.randn(2, 2, *space)], options(4, 2, 1), [module])


@pytest.mark.parametrize("multiplier", [1, 2])
def test_what_follows_may_read_other_tensors(multiplier: int) -> None:
    """A residual, a scale of channels, one of images, and one of rows."""
    module = nn.Conv2d(3, 3 * multiplier, 3, padding=1, groups=3)
    channels = 3 * multiplier
    shapes = [(2, 3, 7, 9), (2, channels, 7, 9), (channels, 1, 1), (2, 1, 1, 1), (7, 1), (9,)]
    check(
        lambda m, x, y, s, i, r, c: torch.relu(m.children_list[0](x) * s + y) * i + r * c,
        [torch.randn(shape) for shape in shapes],
        options(4, 3, 1),
        [module],
    )


def test_the_input_itself_may_be_added() -> None:
    module = nn.Conv2d(3, 3, 3, padding=1, groups=3)
    check(lambda m, x: m.children_list[0](x) + x, [torch.randn(2, 3, 6, 10)], options(4, 4, 1), [module])


def test_without_a_batch() -> None:
    module = nn.Conv2d(3, 3, 3, padding=1, groups=3)
    check(lambda m, x: torch.tanh(m.children_list[0](x)), [torch.randn(3, 6, 10)], options(2, 4, 1), [module])


def test_infinities_and_nan_stay_in_their_windows() -> None:
    """What lies outside of the data is nought, also where memory there holds other values, and weights are nought."""
    module = nn.Conv2d(2, 2, 3, padding=2, groups=2)
    x = torch.randn(2, 2, 5, 7)
    x[0, 0, 0, 0] = math.inf
    x[0, 1, 4, 6] = math.nan
    x[1, 0, 4, 6] = -math.inf
    check(lambda m, x: m.children_list[0](x), [x], options(4, 2, 1), [module])


@pytest.mark.parametrize("form", list(MemoryFormat))
def test_between_native_convolutions(form: MemoryFormat) -> None:
    """Those may write and want another memory format."""
    children = [nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 2, 1)]
    check(
        lambda m, x: m.children_list[2](torch.relu(m.children_list[1](m.children_list[0](x)))),
        [torch.randn(2, 3, 8, 9)],
        options(4, 4, 1, convolution_format=form),
        children,
        native=("conv2d",),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, 4])
def test_narrow_types_round_once(dtype: torch.dtype, columns: int) -> None:
    """Sums are float32: against float64 of the same rounded tensors, the error is that of one rounding."""
    torch.manual_seed(0)
    module = Function(lambda m, x: torch.relu(m.children_list[0](x)), nn.Conv2d(3, 3, 5, padding=2, groups=3)).eval()
    module.to(dtype)
    x = torch.randn(2, 3, 7, 9).to(dtype)
    source, native = emit(module, [x], options(columns, 4, 1))
    assert not native
    drop_in = load(source, "narrow")(module)
    truth = torch.Tensor.is_cuda
    torch.Tensor.is_cuda = property(lambda self: True)  # type: ignore[assignment,misc]
    try:
        with torch.no_grad():
            found = drop_in(x)
    finally:
        torch.Tensor.is_cuda = truth
    assert found.dtype is dtype
    with torch.no_grad():
        expected = module.double()(x.double())
    # Triton's interpreter cuts to bfloat16 where the hardware rounds.
    units = 0.51 if dtype is torch.float16 else 1.02
    allowed = torch.finfo(dtype).eps * units * expected.abs() + 1e-5
    assert bool(((found.double() - expected).abs() <= allowed).all())
