"""Row, pooling and reduction kernels against float64, hyperparameters drawn: run by `test_rows` in the interpreter.

Not collected by itself: Triton's interpreter has to be chosen before triton is imported.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.kernels.emission_cases import Function
from tests.kernels.interpreted import emit, load, relative_error
from tests.kernels.properties import drawing
from tilewright.kernels.plan import TileLimits
from tilewright.kernels.pool.plan import PoolTiles
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.rows.plan import RowForm, RowTiles
from tilewright.kernels.rows.rules import RowOptions
from tilewright.kernels.steps import PlanOptions

warnings.filterwarnings("ignore")

ALLOWED = 2e-5
MINUS, PLUS, NAN = float("-inf"), float("inf"), float("nan")

drawn = drawing(4)


@st.composite
def plans(draw: st.DrawFn) -> PlanOptions:
    """Any form, with tiles so small that rows take several steps and several parts."""
    form = draw(st.sampled_from([None, RowForm.LOOPED, RowForm.SPLIT]))
    tile = draw(st.sampled_from([16, 32, 64]))
    target, long = draw(st.sampled_from([8, 64, 512])), draw(st.sampled_from([0, 40]))
    tiles = RowTiles(tile, draw(st.sampled_from([8, 16])), 32, 1024, target, few=256, long=long)
    return PlanOptions(
        limits=TileLimits(64, 16, 4, 2, 16),
        sm_count=4,
        rows=RowOptions(tiles, form),
        pool_tiles=PoolTiles(
            draw(st.sampled_from([8, 32])), draw(st.sampled_from([4, 8])), vectors=draw(st.booleans())
        ),
    )


#: Each program is interpreted by itself: a few hundred elements make dozens of programs.
shapes = (
    st.lists(st.sampled_from([1, 2, 3, 5, 9, 33]), min_size=1, max_size=4)
    .filter(lambda sizes: math.prod(sizes) <= 300)
    .map(tuple)
)


def check(
    function: Callable[..., Any],
    inputs: Sequence[torch.Tensor],
    options: PlanOptions,
    children: Sequence[nn.Module] = (),
    native: tuple[str, ...] = (),
    allowed: float = ALLOWED,
) -> None:
    """Emitted for these inputs, run on them, and again on others of another size and scale."""
    module = Function(function, *children).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    source, left = emit(module, list(inputs), options)
    assert set(left) <= set(native), f"left to PyTorch: {left}\n{source}"
    drop_in = load(source, "drawn")(module)
    for factor in (1.0, 37.0):
        error = relative_error(module, drop_in, [x * factor if x.is_floating_point() else x for x in inputs])
        assert error < allowed, f"{error}\n{source}"


def spiced(x: torch.Tensor, values: Sequence[float], seed: int) -> torch.Tensor:
    """`x` with some of its elements replaced."""
    generator = torch.Generator().manual_seed(seed)
    for value in values:
        index = int(torch.randint(x.numel(), (1,), generator=generator))
        x.view(-1)[index] = value
    return x


SOFTMAXES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "softmax": lambda x, dim: torch.softmax(x, dim) * 2.0,
    "log_softmax": lambda x, dim: F.log_softmax(torch.relu(x) - 1.0, dim),
    "logsumexp": lambda x, dim: torch.logsumexp(x * 0.7, dim, keepdim=True),
    "softmin": lambda x, dim: F.softmin(x, dim) + x,
    "twice": lambda x, dim: torch.softmax(torch.softmax(x, dim) * 3.0, dim),
}


@settings(drawn, max_examples=6)
@given(
    name=st.sampled_from(sorted(SOFTMAXES)),
    shape=shapes,
    dim=st.integers(0, 3),
    options=plans(),
    spice=st.lists(st.sampled_from([MINUS, PLUS, NAN, 80.0, -80.0, 1e4]), max_size=2),
    seed=st.integers(0, 99),
)
def test_softmax_family(
    name: str, shape: tuple[int, ...], dim: int, options: PlanOptions, spice: list[float], seed: int
) -> None:
    torch.manual_seed(seed)
    if shape[dim % len(shape)] == 1:
        return
    x = spiced(torch.randn(shape), spice, seed)
    check(lambda m, x: SOFTMAXES[name](x, dim % x.dim()), [x], options)


@drawn
@given(data=st.data(), options=plans(), affine=st.booleans(), channels=st.sampled_from([1, 2, 4, 6]))
def test_normalisations_of_images(data: st.DataObject, options: PlanOptions, affine: bool, channels: int) -> None:
    space = data.draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=3))
    shape = (data.draw(st.integers(1, 3)), channels, *space)
    groups = data.draw(st.sampled_from([g for g in (1, 2, 3, 6) if channels % g == 0]))
    kind = data.draw(st.sampled_from(["group", "instance", "batch"]))
    if math.prod(space) == 1 and (kind != "group" or groups == channels):
        return  # torch declines to normalise a single element, or there is nothing to do
    norm: nn.Module
    if kind == "group":
        norm = nn.GroupNorm(groups, channels, affine=affine)
    elif kind == "instance":
        norm = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[len(shape)](channels, affine=affine)
    else:
        kinds = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
        norm = kinds[len(shape)](channels, affine=affine, track_running_stats=False)
    residual = data.draw(st.booleans())
    inputs = [torch.randn(shape) * 3.0 + 1.0] + ([torch.randn(shape)] if residual else [])
    check(
        lambda m, x, *y: F.silu(m.children_list[0](x) + (y[0] if y else 0.0)),
        inputs,
        options,
        [norm],
        allowed=2e-4,  # groups of a few elements: the variance may be small
    )


@pytest.mark.parametrize("form", [RowForm.LOOPED, RowForm.SPLIT])
@pytest.mark.parametrize("space", [(8, 16), (8, 15), (128,)])
def test_steps_that_end_with_the_row_and_others(form: RowForm, space: tuple[int, ...]) -> None:
    """Counts are one number where every step is whole, and a lane's own where not."""
    options = PlanOptions(sm_count=4, rows=RowOptions(RowTiles(16, 8, 32, 1024, 8, long=16), form))
    shape = (2, 4, *space)
    inputs = [torch.randn(shape) * 3.0 + 1.0, torch.randn(shape)]
    check(lambda m, x, y: F.silu(m.children_list[0](x) + y), inputs, options, [nn.GroupNorm(2, 4)])


@drawn
@given(data=st.data(), options=plans(), affine=st.booleans())
def test_layer_and_rms_norm(data: st.DataObject, options: PlanOptions, affine: bool) -> None:
    shape = data.draw(shapes)
    over = shape[data.draw(st.integers(0, len(shape) - 1)) :]
    if all(size == 1 for size in over):
        return
    kind = data.draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))
    norm = kind(list(over), eps=1e-5, elementwise_affine=affine)
    check(lambda m, x: torch.tanh(m.children_list[0](x * 2.0)) + x, [torch.randn(shape)], options, [norm], (), 2e-4)


REDUCTIONS: dict[str, Callable[[torch.Tensor, list[int]], torch.Tensor]] = {
    "var": lambda x, dims: torch.var(x, dims, correction=0),
    "std": lambda x, dims: torch.std(x, dims, correction=0, keepdim=True) * x,
    "norm": lambda x, dims: x / torch.linalg.vector_norm(x, 2, dims, keepdim=True).clamp_min(1e-6),
    "norm1": lambda x, dims: torch.linalg.vector_norm(x, 1, dims),
    "norm3": lambda x, dims: torch.linalg.vector_norm(x, 3, dims),
    "norm inf": lambda x, dims: torch.linalg.vector_norm(x, PLUS, dims, keepdim=True) + x,
    "centred": lambda x, dims: x - x.mean(dims, keepdim=True),
    "range": lambda x, dims: (x - x.amin(dims, keepdim=True)) / (x.amax(dims, keepdim=True) + 100.0),
    "sum": lambda x, dims: torch.sin(x).sum(dims),
}


@settings(drawn, max_examples=7)
@given(name=st.sampled_from(sorted(REDUCTIONS)), data=st.data(), shape=shapes, options=plans(), seed=st.integers(0, 99))
def test_reductions_over_any_dims(
    name: str, data: st.DataObject, shape: tuple[int, ...], options: PlanOptions, seed: int
) -> None:
    torch.manual_seed(seed)
    dims = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    x = torch.randn(shape)
    if all(shape[dim] == 1 for dim in dims):
        return
    check(lambda m, x: REDUCTIONS[name](x, dims), [x], options, allowed=2e-4)


#: Of one or two tensors [rows, elements]; what one program computes of a row, and what several share.
SHARED: dict[str, tuple[int, Callable[..., torch.Tensor]]] = {
    "softmax": (1, lambda m, x: torch.softmax(x, 1)),
    "logsumexp": (1, lambda m, x: torch.logsumexp(x, 1)),
    "standard": (1, lambda m, x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-3)),
    "norm": (1, lambda m, x: x / x.norm()),
    "largest": (1, lambda m, x: x.amax(1) - x.amin(1)),
    "squared error": (2, lambda m, x, t: F.mse_loss(x, t)),
    "smooth error": (2, lambda m, x, t: F.smooth_l1_loss(x, t, beta=0.5, reduction="sum") * 0.5),
    "cross entropy": (2, lambda m, x, t: F.binary_cross_entropy_with_logits(x, t)),
    "divergence": (2, lambda m, x, t: F.kl_div(F.log_softmax(x, 1), t.abs(), reduction="sum")),
    "ratio": (2, lambda m, x, t: 1.0 - ((x - t) ** 2).sum() / ((t - t.mean()) ** 2).sum()),
}


@settings(drawn, max_examples=8)
@given(
    name=st.sampled_from(sorted(SHARED)),
    sizes=st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([1, 31, 32, 33, 63, 64, 65, 96, 129])), min_size=2, max_size=3
    ),
    target=st.sampled_from([4, 12, 512]),
    spice=st.lists(st.sampled_from([MINUS, PLUS, NAN, 80.0]), max_size=2),
    seed=st.integers(0, 99),
)
def test_one_file_shares_long_rows_and_walks_short_ones(
    name: str, sizes: list[tuple[int, int]], target: int, spice: list[float], seed: int
) -> None:
    """Emitted for two rows of four steps; called with rows on both sides of a step, of a slice, and of the limits."""
    count, function = SHARED[name]
    torch.manual_seed(seed)
    tiles = RowTiles(16, 8, 32, 16, target, few=4, long=64)
    options = PlanOptions(sm_count=4, rows=RowOptions(tiles, RowForm.SPLIT, plain=True))
    module = Function(function).eval()
    source, left = emit(module, [torch.randn(2, 128) for _ in range(count)], options)
    assert not left
    assert "_finish_kernel" in source
    drop_in = load(source, "shared")(module)
    for position, shape in enumerate(sizes):
        inputs = [torch.randn(shape) * 3.0 + 1.0 for _ in range(count)]
        if position == 0:
            spiced(inputs[0], spice, seed)
        error = relative_error(module, drop_in, inputs)
        assert error < 2e-4, f"{error} at {shape}\n{source}"


def test_moments_of_long_rows_do_not_cancel() -> None:
    """A mean a thousand times the spread, in slices of one row each."""
    options = PlanOptions(sm_count=4, rows=RowOptions(RowTiles(16, 8, 32, 16, 64, long=64), RowForm.SPLIT))
    check(lambda m, x: F.layer_norm(x, (500,)), [torch.randn(2, 500) + 1000.0], options, allowed=2e-3)


SCANS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "cumsum": lambda x, dim: torch.cumsum(x, dim),
    "exclusive": lambda x, dim: torch.cumsum(torch.where(x > 0.0, x, torch.zeros_like(x)), dim) - x,
    "cumprod": lambda x, dim: torch.cumprod(torch.tanh(x) * 1.3, dim),
    "of a softmax": lambda x, dim: torch.cumsum(torch.softmax(x, dim), dim),
    "reduced": lambda x, dim: x / (torch.cumsum(x * x, dim).amax(dim, keepdim=True) + 1.0),
}

PICKS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "largest": lambda x, dim: torch.argmax(torch.relu(x), dim),
    "smallest": lambda x, dim: torch.argmin(x * 2.0, dim, keepdim=True),
    "with its value": lambda x, dim: x.max(dim)[1],
}


@settings(drawn, max_examples=8)
@given(
    name=st.sampled_from(sorted(PICKS)),
    shape=shapes,
    dim=st.integers(0, 3),
    options=plans(),
    spice=st.lists(st.sampled_from([MINUS, PLUS, NAN, 7.0]), max_size=6),
    seed=st.integers(0, 99),
)
def test_picks(
    name: str, shape: tuple[int, ...], dim: int, options: PlanOptions, spice: list[float], seed: int
) -> None:
    """The first of equal values, the first NaN before all others: exactly, as torch does it."""
    torch.manual_seed(seed)
    if shape[dim % len(shape)] == 1:
        return
    x = spiced(torch.randn(shape).round(), spice, seed)
    for given_x in (x, torch.full_like(x, MINUS)):
        check(lambda m, x: PICKS[name](x, dim % x.dim()), [given_x], options, allowed=1e-30)


#: From the last element on.
BACKWARDS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "sum": lambda x, dim: (torch.tanh(x) - 1.0).flip(dim).cumsum(dim).flip([dim]) * 0.5,
    "product": lambda x, dim: torch.cumprod((torch.tanh(x) * 1.3).flip([dim]), dim).flip(dim),
    "of a softmax": lambda x, dim: torch.softmax(x, dim).flip(dim).cumsum(dim).flip(dim) - x,
    "both ways": lambda x, dim: torch.tanh(x).cumsum(dim) + torch.tanh(x).flip(dim).cumsum(dim).flip(dim),
}


@settings(drawn, max_examples=4)
@given(
    name=st.sampled_from(sorted(SCANS)), shape=shapes, dim=st.integers(0, 3), options=plans(), seed=st.integers(0, 99)
)
def test_scans(name: str, shape: tuple[int, ...], dim: int, options: PlanOptions, seed: int) -> None:
    torch.manual_seed(seed)
    if shape[dim % len(shape)] == 1:
        return
    check(lambda m, x: SCANS[name](x, dim % x.dim()), [torch.randn(shape)], options)


@pytest.mark.parametrize("name", BACKWARDS)
@settings(drawn, max_examples=2)
@given(shape=shapes, dim=st.integers(0, 3), options=plans(), seed=st.integers(0, 99))
def test_scans_backwards(name: str, shape: tuple[int, ...], dim: int, options: PlanOptions, seed: int) -> None:
    torch.manual_seed(seed)
    if shape[dim % len(shape)] == 1:
        return
    check(lambda m, x: BACKWARDS[name](x, dim % x.dim()), [torch.randn(shape)], options)


POOLS = {
    ("max", 1): F.max_pool1d,
    ("max", 2): F.max_pool2d,
    ("max", 3): F.max_pool3d,
    ("mean", 1): F.avg_pool1d,
    ("mean", 2): F.avg_pool2d,
    ("mean", 3): F.avg_pool3d,
}


@settings(drawn, max_examples=6)
@given(
    kind=st.sampled_from(["max", "mean"]),
    data=st.data(),
    options=plans(),
    spice=st.lists(st.sampled_from([MINUS, PLUS, NAN]), max_size=1),
)
def test_pooling(kind: str, data: st.DataObject, options: PlanOptions, spice: list[float]) -> None:
    rank = data.draw(st.integers(1, 3))
    size = tuple(data.draw(st.integers(1, 4)) for _ in range(rank))
    arguments: dict[str, Any] = {
        "stride": tuple(data.draw(st.integers(1, 3)) for _ in range(rank)),
        "padding": tuple(data.draw(st.integers(0, k // 2)) for k in size),
        "ceil_mode": data.draw(st.booleans()),
    }
    if kind == "max":
        arguments["dilation"] = tuple(data.draw(st.integers(1, 2)) for _ in range(rank))
    else:
        arguments["count_include_pad"] = data.draw(st.booleans())
        if rank > 1 and data.draw(st.booleans()):
            arguments["divisor_override"] = 3
    space = [data.draw(st.integers(2 * k, 9 if rank < 3 else 2 * k + 1)) for k in size]
    x = spiced(torch.randn(1, 3, *space), spice, 7)
    y = torch.randn(3, *[1] * rank)
    before = data.draw(st.booleans())

    def function(m: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pooled = POOLS[kind, rank](torch.relu(x) if before else x, size, **arguments)
        return pooled * 0.5 + y

    check(function, [x, y], options)


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize(
    ("size", "stride", "padding", "ceil"),
    [(2, 2, 0, False), (3, 2, 1, False), (4, 4, 0, False), (3, 4, 1, True), (5, 2, 2, True), (3, 8, 0, False)],
)
def test_windows_in_vectors(kind: str, size: int, stride: int, padding: int, ceil: bool) -> None:
    """Windows that overlap, touch, or leave gaps, at widths that end inside a vector; NaN in windows and in gaps."""
    x = torch.randn(1, 2, 9, 19)
    x[0, 1, 4, 3] = x[0, 0, 7, 18] = math.nan
    options = PlanOptions(pool_tiles=PoolTiles(16, 8))
    for before in (False, True):

        def function(m: nn.Module, x: torch.Tensor, before: bool = before) -> torch.Tensor:
            return POOLS[kind, 2](torch.relu(x) if before else x, size, stride, padding, ceil_mode=ceil)

        check(function, [x], options)


@pytest.mark.parametrize("form", list(MemoryFormat))
def test_pooling_after_a_native_convolution(form: MemoryFormat) -> None:
    """Row-major results go straight into the windows; others are brought into that order on the way."""
    options = PlanOptions(convolution_format=form, pool_tiles=PoolTiles(16, 8))
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    check(
        lambda m, x: F.max_pool2d(torch.relu(m.children_list[0](x)), 2),
        [torch.randn(2, 3, 10, 12)],
        options,
        [convolution],
        native=("conv2d",),
    )


@drawn
@given(data=st.data(), options=plans(), kind=st.sampled_from(["max", "avg"]))
def test_adaptive_pooling(data: st.DataObject, options: PlanOptions, kind: str) -> None:
    rank = data.draw(st.integers(1, 3))
    output = tuple(data.draw(st.integers(1, 4)) for _ in range(rank))
    space = [data.draw(st.integers(3, 9 if rank < 3 else 5)) for _ in range(rank)]
    pool = getattr(F, f"adaptive_{kind}_pool{rank}d")
    check(lambda m, x: pool(x, output), [torch.randn(1, 3, *space)], options, native=("view",))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("softmax", torch.float16),
        ("norm", torch.bfloat16),
        ("pool", torch.float16),
        ("cumsum", torch.bfloat16),
        ("bias", torch.float16),
    ],
)
def test_narrow_types_round_once(name: str, dtype: torch.dtype) -> None:
    """Against float64 of the same rounded inputs, the error is that of one rounding of the result."""
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "softmax": lambda m, x: torch.softmax(x * 3.0, 1),
        "norm": lambda m, x: F.layer_norm(x, (37,)),
        "pool": lambda m, x: F.avg_pool1d(x, 3),
        "cumsum": lambda m, x: torch.cumsum(x, 1),
        "bias": lambda m, x: torch.sigmoid(x * 2.0 + 1.0) * x,
    }
    torch.manual_seed(0)
    x = torch.randn(5, 37).to(dtype)
    module = Function(functions[name]).eval()
    source, native = emit(module, [x], PlanOptions(limits=TileLimits(64, 16, 4, 2, 16), sm_count=4))
    assert not native
    drop_in = load(source, "narrow")(module)
    truth = torch.Tensor.is_cuda
    torch.Tensor.is_cuda = property(lambda self: True)  # type: ignore[assignment,misc]
    try:
        found = drop_in(x)
    finally:
        torch.Tensor.is_cuda = truth
    assert found.dtype is dtype
    expected = module(x.double())
    # Triton's interpreter cuts to bfloat16 where the hardware rounds.
    units = 0.51 if dtype is torch.float16 else 1.02
    allowed = torch.finfo(dtype).eps * units * expected.abs() + 1e-6
    assert bool(((found.double() - expected).abs() <= allowed).all())
