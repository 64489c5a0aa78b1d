"""Runs convolution anchors in Triton's interpreter on drawn convolutions, epilogues, tiles and types, beside float64.

A script of its own, since the interpreter is chosen by an environment variable before triton is imported; prints
one JSON object for each property, with what failed.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kernels.gemm_interpreted import half_error, on_device  # noqa: E402
from tests.kernels.interpreted import emit, load  # noqa: E402
from tests.kernels.properties import drawing, run_properties  # noqa: E402
from tilewright.kernels.conv.plan import ConvTiles  # noqa: E402
from tilewright.kernels.plan import TileLimits  # noqa: E402
from tilewright.kernels.steps import PlanOptions  # noqa: E402

EPILOGUES: dict[str, Any] = {
    "nothing but the bias": lambda m, y: y,
    "leaky relu, scale of channels": lambda m, y: F.leaky_relu(y, 0.2) * m.scale,
    "gelu in float32": lambda m, y: F.gelu(y.to(torch.float32) + m.scale),
    "residual": lambda m, y: torch.tanh(y) + torch.sigmoid(y) * m.scale,
    "min over channels": lambda m, y: torch.tanh(y.amin(1, keepdim=True)),
    "mean over channels": lambda m, y: (y * 0.5).mean(1) + 1.0,
    "mean over space": lambda m, y: torch.sigmoid(F.leaky_relu(y, 0.2).mean(list(range(2, y.dim())))),
    "max over space": lambda m, y: torch.relu(y).amax(list(range(2, y.dim())), keepdim=True) * 2.0,
    "min over channels, sum over space": lambda m, y: y.amin(1).sum(list(range(1, y.dim() - 1)), keepdim=True) * 0.01,
    "sum over rows": lambda m, y: torch.tanh(y * m.scale).sum(2, keepdim=True) * 0.1,
    "softmax over channels": lambda m, y: torch.softmax(y * m.scale, 1),
}

KINDS = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}

#: Of each type, relative to the largest output: what is stored is rounded once, and operands of float32 to 11 bits.
ALLOWED = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 3e-3}


class Convolved(nn.Module):
    """A convolution and what follows it."""

    def __init__(self, convolution: nn.Module, channels: int, epilogue: str) -> None:
        super().__init__()
        self.convolution = convolution
        rank = convolution.weight.dim() - 2
        self.scale = nn.Parameter(torch.rand(channels, *[1] * rank) + 0.5)
        self.epilogue = EPILOGUES[epilogue]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution, with a bias, then the epilogue."""
        return self.epilogue(self, self.convolution(x))  # type: ignore[no-any-return]


class Placed(nn.Module):
    """A convolution, and an operand that lies along some of its output's dims."""

    def __init__(self, convolution: nn.Module, shape: Sequence[int], reduces: bool) -> None:
        super().__init__()
        self.convolution = convolution
        self.place = nn.Parameter(torch.randn(*shape))
        self.reduces = reduces

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Added behind the convolution, after something that keeps it from being folded into the bias."""
        y = F.leaky_relu(self.convolution(x), 0.2) + self.place
        return y.amax(1, keepdim=True) if self.reduces else y

    def scale(self, factor: float) -> None:
        """What comes out is `factor` times as large, where the input is too."""
        with torch.no_grad():
            self.place *= factor
            self.convolution.bias *= factor  # type: ignore[operator]


@dataclass(frozen=True)
class Drawn:
    """Hyperparameters of a convolution, by the names that torch gives them."""

    rank: int
    transposed: bool
    channels: tuple[int, int]
    kernel_size: tuple[int, ...]
    arguments: dict[str, Any]

    def module(self) -> nn.Module:
        """The layer."""
        return KINDS[self.rank, self.transposed](*self.channels, self.kernel_size, **self.arguments)

    def size(self, dim: int) -> int:
        """An input with two outputs at least: a dim of 1 would be captured as such."""
        reach = self.arguments["dilation"][dim] * (self.kernel_size[dim] - 1) + 1
        if self.transposed:
            return 3 + 2 * self.arguments["padding"][dim]
        return max(3, reach + self.arguments["stride"][dim] - 2 * self.arguments["padding"][dim])


@st.composite
def convolutions(draw: st.DrawFn) -> Drawn:
    """Any of either kind, small."""
    rank, transposed = draw(st.sampled_from((1, 2, 2, 2, 3))), draw(st.booleans())
    most = 2 if rank == 3 else 3
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    channels = (groups * draw(st.sampled_from((1, 3, 17))), groups * draw(st.sampled_from((2, 5, 18, 66))))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation = each(1, most + 1), each(1, most), each(1, 2)
    padding = tuple(draw(st.integers(0, min(2, d * (k - 1)))) for d, k in zip(dilation, kernel, strict=True))
    arguments: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        most_extra = (max(s, d) - 1 for s, d in zip(stride, dilation, strict=True))
        arguments["output_padding"] = tuple(draw(st.integers(0, extra)) for extra in most_extra)
    return Drawn(rank, transposed, channels, kernel, arguments)


TILES = (
    ConvTiles(16, 32, 4, 2),
    ConvTiles(16, 64, 4, 2, block_k=16),
    ConvTiles(32, 32, 4, 3, by_tap=True),
    ConvTiles(16, 16, 4, 1, rows=3),
)

_EXAMPLES = 10
_SETTINGS = drawing(_EXAMPLES)


@_SETTINGS
@given(data=st.data())
def any_convolution(data: st.DataObject) -> None:
    """Every kind of convolution with every epilogue, in every type, at the sizes of the example and at others."""
    drawn = data.draw(convolutions())
    types = [torch.float16, torch.bfloat16] * 2 + [torch.float32] * (drawn.arguments["groups"] != 3)
    dtype = data.draw(st.sampled_from(types))
    epilogue, tiles = data.draw(st.sampled_from(list(EPILOGUES))), data.draw(st.sampled_from(TILES))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    module = Convolved(drawn.module(), drawn.channels[1], epilogue).eval().to(dtype)
    sizes = [drawn.size(dim) for dim in range(drawn.rank)]
    shapes = [(2, drawn.channels[0], *sizes), (1, drawn.channels[0], *(size + 3 for size in sizes))]
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    options = PlanOptions(
        limits=TileLimits(256, 64, 4, 2, 16), sm_count=4, convolution_anchors=True, convolution_tiles=tiles
    )
    source, _ = emit(module, inputs[:1], options)
    case = f"{drawn}, {epilogue}, {tiles}, {dtype}"
    assert "tl.dot" in source, f"no anchor was planned: {case}"
    assert ("unfit" in source) == (dtype is torch.float32), "only what is converted is guarded"
    drop_in = load(source, f"conv{abs(hash(case))}")(module)
    for x in inputs:
        found = half_error(module, drop_in, [x])
        assert found < ALLOWED[dtype], f"{case}, {tuple(x.shape)}: error {found}\n{source}"


@_SETTINGS
@given(data=st.data())
def operands_along_some_dims(data: st.DataObject) -> None:
    """What follows may lie along any of the output's dims, and the channels be reduced behind it; at any scale."""
    drawn, tiles = data.draw(convolutions()), data.draw(st.sampled_from(TILES))
    dtype = data.draw(st.sampled_from((torch.float16, torch.float32)))
    convolution = drawn.module()
    x = torch.randn(2, drawn.channels[0], *(drawn.size(dim) for dim in range(drawn.rank)))
    with torch.no_grad():
        sizes = convolution(x).shape[1:]
    shape, reduces = [size if data.draw(st.booleans()) else 1 for size in sizes], data.draw(st.booleans())
    module = Placed(convolution, shape, reduces).eval().to(dtype)
    options = PlanOptions(sm_count=4, convolution_anchors=True, convolution_tiles=tiles)
    source, _ = emit(module, [x.to(dtype)], options)
    case = f"{drawn}, {tuple(module.place.shape)}, {reduces}, {tiles}, {dtype}"
    drop_in = load(source, f"placed{abs(hash(case))}")(module)
    for factor in (1.0, 1e30) if dtype is torch.float32 else (1.0,):
        module.scale(factor)
        found = half_error(module, drop_in, [x.to(dtype) * factor])
        assert found < ALLOWED[dtype], f"{case}: error {found} at {factor}\n{source}"


@_SETTINGS
@given(data=st.data())
def infinities_and_nan_go_through(data: st.DataObject) -> None:
    """No guard looks at what is given: what is not finite reaches just the outputs that it reaches in PyTorch."""
    dtype, tiles = data.draw(st.sampled_from((torch.float16, torch.bfloat16))), data.draw(st.sampled_from(TILES))
    make = data.draw(st.sampled_from((nn.Conv2d, nn.ConvTranspose2d)))
    epilogue = data.draw(st.sampled_from(("leaky relu, scale of channels", "min over channels", "max over space")))
    module = Convolved(make(3, 5, 3, 2, 1), 5, epilogue).eval().to(dtype)
    x = torch.randn(3, 3, 5, 7).to(dtype)
    x[0, 1, 2, 3] = data.draw(st.sampled_from((float("inf"), float("-inf"), float("nan"))))
    options = PlanOptions(sm_count=4, convolution_anchors=True, convolution_tiles=tiles)
    drop_in = load(emit(module, [x], options)[0], f"special{abs(hash((dtype, tiles, make, epilogue)))}")(module)
    with torch.no_grad():
        expected = module(x)
    got = on_device(drop_in, [x])
    assert torch.equal(torch.isnan(got), torch.isnan(expected)), f"{make.__name__}, {epilogue}, {tiles}, {dtype}"
    assert got.dtype == expected.dtype


class Homogeneous(nn.Module):
    """What scales with its input: no bias, then leaky ReLU or the minimum over channels."""

    def __init__(self, convolution: nn.Module, reduces: bool) -> None:
        super().__init__()
        self.convolution = convolution
        self.reduces = reduces

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, ...] -> [N, CO, ...], or [N, ...]."""
        y = self.convolution(x)
        return y.amin(1) if self.reduces else F.leaky_relu(y, 0.2)


@drawing(_EXAMPLES // 2)  # several images each, twice
@given(data=st.data())
def images_that_float16_cannot_hold(data: st.DataObject) -> None:
    """Each image is as right as TF32 makes it, whatever its scale, those beside it in a tile, and the call before."""
    drawn = data.draw(convolutions())
    drawn = replace(drawn, arguments={**drawn.arguments, "bias": False})
    scales = data.draw(st.lists(st.sampled_from((1.0, 1.0, 1e-30, 1e30, 1e-6, 3e5)), min_size=1, max_size=5))
    tiles, reduces = data.draw(st.sampled_from(TILES)), data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 99)))
    module = Homogeneous(drawn.module(), reduces).eval()
    factors = torch.tensor(scales).reshape(-1, *[1] * (1 + drawn.rank))
    x = torch.randn(len(scales), drawn.channels[0], *(drawn.size(dim) for dim in range(drawn.rank))) * factors
    options = PlanOptions(sm_count=4, convolution_anchors=True, convolution_tiles=tiles)
    source, _ = emit(module, [x], options)
    case = f"{drawn}, {scales}, {tiles}, {reduces}"
    assert "unfit" in source, f"no guarded anchor was planned: {case}"
    drop_in = load(source, f"scaled{abs(hash(case))}")(module)
    with torch.no_grad():
        on_device(drop_in, [x.flip(0)])
        got, expected = on_device(drop_in, [x]).double(), module.double()(x.double())
    module.float()
    for scale, ours, theirs in zip(scales, got, expected, strict=True):
        found = float((ours - theirs).abs().max() / theirs.abs().max())
        assert found < ALLOWED[torch.float32], f"{case}: error {found} at {scale}\n{source}"


PROPERTIES = {
    "any convolution": any_convolution,
    "operands along some dims": operands_along_some_dims,
    "infinities and NaN go through": infinities_and_nan_go_through,
    "images that float16 cannot hold": images_that_float16_cannot_hold,
}


if __name__ == "__main__":
    run_properties(PROPERTIES, sys.argv[1:])
