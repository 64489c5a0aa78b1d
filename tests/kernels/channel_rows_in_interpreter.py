"""Rows over the channels of a convolution against float64, hyperparameters drawn: run by `test_channel_rows`.

Not collected by itself: Triton's interpreter has to be chosen before triton is imported.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.kernels.emission_cases import Function
from tests.kernels.interpreted import emit, load, relative_error
from tests.kernels.properties import drawing
from tilewright.kernels.conv.plan import ConvTiles
from tilewright.kernels.steps import PlanOptions

warnings.filterwarnings("ignore")

#: Operands are rounded to 11 bits, and a softmax or normalisation may enlarge what that costs.
ALLOWED = 5e-3

drawn = drawing(7)


def _normalised(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt(x.var(1, correction=0, keepdim=True) + 0.1)


def _layer_norm(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Over channels, which stay last."""
    last = [0, *range(2, x.dim()), 1]
    return F.layer_norm(x.permute(last), (x.shape[1],), m.norm, None, 0.1)


#: What follows a convolution; `b` is one value a channel, `m.norm` the same as a vector.
EPILOGUES: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "softmax": lambda m, x, b: torch.sigmoid((torch.softmax(x, 1) + b) * 2.0),
    "log_softmax": lambda m, x, b: F.leaky_relu(F.log_softmax(torch.tanh(x + b), 1), 0.3),
    "logsumexp": lambda m, x, b: torch.logsumexp(x * 0.7, 1, keepdim=True),
    "logsumexp without its dim": lambda m, x, b: F.gelu(torch.logsumexp(x - b, 1)) * 2.0,
    "softmin": lambda m, x, b: F.softmin(x, 1) * b + x,
    "softmax twice": lambda m, x, b: torch.softmax(torch.softmax(x, 1) * 3.0, 1),
    "variance and mean": lambda m, x, b: F.silu(_normalised(x) * b),
    "unbiased variance": lambda m, x, b: torch.sqrt(x.var(1) + 1.0),
    "layer norm": lambda m, x, b: F.hardswish(_layer_norm(m, x)),
    "rms": lambda m, x, b: x * torch.rsqrt((x * x).mean(1, keepdim=True) + 0.1) * b,
    "range": lambda m, x, b: (x - x.amin(1, keepdim=True)) / (x.amax(1, keepdim=True) - x.amin(1, keepdim=True) + 1.0),
    "of the weights": lambda m, x, b: x * torch.softmax(x * b, 1) - (x * b).sum(1, keepdim=True),
}


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution of either kind with a few channels, and the shape of its input."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    transposed = draw(st.booleans())
    kernel = draw(st.integers(1, 4 if rank < 3 else 2))
    stride, padding = draw(st.integers(1, 4 if rank == 1 else 2)), draw(st.integers(0, 2))
    arguments: dict[str, int] = {"stride": stride, "padding": padding if kernel > 1 else 0}
    arguments["dilation"] = draw(st.integers(1, 2)) if kernel > 1 and rank < 3 else 1
    if transposed and stride > 1:
        arguments["output_padding"] = draw(st.integers(0, stride - 1))
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d) if transposed else (nn.Conv1d, nn.Conv2d)
    kinds = kinds if transposed else (*kinds, nn.Conv3d)
    channels = (draw(st.integers(1, 5)), draw(st.sampled_from([2, 3, 5, 12, 16, 17, 37])))
    module = kinds[rank - 1](*channels, kernel, bias=draw(st.booleans()), **arguments)
    space = [draw(st.integers(5, {1: 19, 2: 7, 3: 5}[rank])) for _ in range(rank)]
    return module, (draw(st.integers(2, 3)) if rank < 3 else 2, channels[0], *space)


@st.composite
def tiles(draw: st.DrawFn) -> ConvTiles:
    """Tiles behind a prepass, or strips of rows."""
    return ConvTiles(16, 16, 4, draw(st.integers(1, 2)), rows=draw(st.sampled_from([0, 0, 3])))


def module_of(name: str, convolution: nn.Module, factor: float) -> Function:
    """The convolution, brought back from the scale of its input, and what follows."""

    def forward(m: Any, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return EPILOGUES[name](m, m.children_list[0](x) * (3.0 / factor), b)

    module = Function(forward, convolution)
    channels = next(iter(convolution.parameters())).shape[0 if "Transpose" not in type(convolution).__name__ else 1]
    module.norm = nn.Parameter(torch.rand(channels) + 0.5)
    return module.eval()


@drawn
@given(
    name=st.sampled_from(sorted(EPILOGUES)),
    drawn_convolution=convolutions(),
    tile=tiles(),
    factor=st.sampled_from([1.0, 1.0, 1e6, 1e-6]),
    spice=st.lists(st.sampled_from([math.inf, -math.inf, math.nan]), max_size=1),
    approximate=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rows_over_channels(
    name: str,
    drawn_convolution: tuple[nn.Module, tuple[int, ...]],
    tile: ConvTiles,
    factor: float,
    spice: list[float],
    approximate: bool,
    seed: int,
) -> None:
    """In float16 and, for scales and values that it cannot hold, in the TF32 twin."""
    torch.manual_seed(seed)
    convolution, shape = drawn_convolution
    for parameter in convolution.parameters():
        nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        result = convolution(torch.zeros(shape)).shape if _fits(convolution, shape) else ()
    if not result or 1 in result:
        return  # a dim of one element is no axis
    module = module_of(name, convolution, factor)
    inputs = [torch.randn(shape) * factor, torch.randn(result[1], *[1] * (len(shape) - 2))]
    options = PlanOptions(sm_count=4, convolution_anchors=True, convolution_tiles=tile, approximate=approximate)
    source, native = emit(module, inputs, options)
    assert not set(native) - {"clone"}, native
    assert "rows_" not in source, "a kernel of its own for rows"
    drop_in = load(source, "channels")(module)
    if spice:
        inputs[0].view(-1)[seed % inputs[0].numel()] = spice[0]
    error = relative_error(module, drop_in, inputs)
    assert error < ALLOWED, f"{error}\n{source}"


def _fits(convolution: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        convolution(torch.zeros(shape))
    except RuntimeError:  # the window is larger than the input
        return False
    return True
