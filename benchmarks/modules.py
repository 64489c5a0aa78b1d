# ruff: noqa: D101, D102
"""Small modules that cover each anchor, epilogue and normalisation, in float32, float16 and bfloat16.

Each is one class with a row of its own: constructor arguments and inputs, as Python text, since a case is a
Python file that is made of them (`benchmarks.cases.python_file`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Row:
    """One module of the list.

    Attributes:
        module: the class.
        covers: the anchor, and what comes with it.
        init: constructor arguments, the text of a list.
        inputs: of the forward pass, the text of a list.
        precision: precision class of its products.
    """

    module: type[nn.Module]
    covers: str
    init: str
    inputs: str
    precision: str = "tf32"


ROWS: list[Row] = []


def row(
    covers: str, *, inputs: str, init: str = "[]", precision: str = "tf32"
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Add the class below to the list."""

    def add(module: type[nn.Module]) -> type[nn.Module]:
        ROWS.append(Row(module, covers, init, inputs, precision))
        return module

    return add


# --- convolutions


@row("conv1d: residual, relu", init="[64, 128]", inputs="[torch.randn(32, 64, 4096), torch.randn(32, 128, 4096)]")
class Conv1dResidual(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, 5, padding=2)

    def forward(self, x, residual):
        return torch.relu(self.conv(x) + residual)


@row("conv2d: batch norm, silu", init="[64, 128]", inputs="[torch.randn(32, 64, 56, 56)]")
class Conv2dNormSilu(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        return F.silu(self.norm(self.conv(x)))


@row("conv2d: logsumexp over channels", init="[32, 96]", inputs="[torch.randn(16, 32, 128, 128)]")
class Conv2dLogSumExp(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3)

    def forward(self, x):
        return torch.logsumexp(self.conv(x) * 0.7, dim=1, keepdim=True)


@row("conv2d: max over channels, tanh twice", init="[16, 64]", inputs="[torch.randn(64, 16, 64, 64)]")
class Conv2dChannelMax(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3)

    def forward(self, x):
        return torch.tanh(torch.tanh(self.conv(x).amax(dim=1, keepdim=True)))


@row("conv2d: relu, max pooling", init="[32, 64]", inputs="[torch.randn(32, 32, 96, 96)]")
class Conv2dMaxPool(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x):
        return F.max_pool2d(torch.relu(self.conv(x)), 2)


@row("conv2d: average pooling, sigmoid, sum", init="[8, 64]", inputs="[torch.randn(64, 8, 96, 96)]")
class Conv2dAveragePoolSum(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3)

    def forward(self, x):
        y = torch.sigmoid(F.avg_pool2d(self.conv(x), 2))
        return y.sum(dim=(1, 2, 3))


@row("conv2d: groups of 4, mish, broadcast scale", init="[64, 128]", inputs="[torch.randn(16, 64, 64, 64)]")
class GroupedConv2dMish(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=2, dilation=2, groups=4)
        self.scale = nn.Parameter(torch.rand(channels_out, 1, 1) + 0.5)

    def forward(self, x):
        return F.mish(self.conv(x)) * self.scale


@row("conv2d: gelu, mean over the image", init="[8, 64]", inputs="[torch.randn(64, 8, 64, 64)]")
class Conv2dGeluMean(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3)

    def forward(self, x):
        return F.adaptive_avg_pool2d(F.gelu(self.conv(x)), 1).flatten(1)


@row(
    "conv2d in bfloat16: bias, gelu",
    init="[128, 128]",
    inputs="[torch.randn(16, 128, 56, 56).bfloat16()]",
    precision="bf16",
)
class Conv2dGeluBfloat16(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.bfloat16()

    def forward(self, x):
        return F.gelu(self.conv(x))


@row("conv2d of small planes: batch norm, residual, relu", init="[256]", inputs="[torch.randn(64, 256, 14, 14)]")
class Conv2dSmallPlanes(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + x)


@row("conv2d of 7 x 7 planes in float16: bias, silu", init="[256, 512]", precision="fp16",
     inputs="[torch.randn(128, 256, 7, 7).half()]")  # fmt: skip
class Conv2dSmallestPlanesFloat16(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.half()

    def forward(self, x):
        return F.silu(self.conv(x))


@row("conv2d of 1 x 1: batch norm, relu6", init="[128, 256]", inputs="[torch.randn(32, 128, 28, 28)]")
class PointwiseConv2dRelu6(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        return F.relu6(self.norm(self.conv(x)))


@row("depthwise conv2d: hardswish", init="[128]", inputs="[torch.randn(16, 128, 96, 96)]")
class DepthwiseHardswish(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)

    def forward(self, x):
        return F.hardswish(self.conv(x))


@row("depthwise then pointwise conv2d: norm, relu6", init="[64, 128]", inputs="[torch.randn(16, 64, 112, 112)]")
class SeparableConv2d(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        return F.relu6(self.norm(self.pointwise(self.depthwise(x))))


@row("conv3d: min over depth, softmax over channels", init="[3, 24]", inputs="[torch.randn(32, 3, 24, 32, 32)]")
class Conv3dMinSoftmax(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, 3)

    def forward(self, x):
        return torch.softmax(torch.min(self.conv(x), dim=2)[0], dim=1)


@row("conv3d: max pooling, leaky relu", init="[16, 32]", inputs="[torch.randn(8, 16, 32, 48, 48)]")
class Conv3dMaxPool(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, 3, padding=1)

    def forward(self, x):
        return F.max_pool3d(F.leaky_relu(self.conv(x), 0.1), 2)


# --- transposed convolutions


# --- convolutions of images: three channels


@row("conv2d of 7 x 7, stride 2: batch norm, relu", init="[3, 64]", inputs="[torch.randn(32, 3, 224, 224)]")
class ImageStem(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


@row("conv2d of images: instance norm, division", init="[3, 16]", inputs="[torch.randn(128, 3, 64, 64)]")
class ImageInstanceNorm(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3)
        self.norm = nn.InstanceNorm2d(channels_out)

    def forward(self, x):
        return self.norm(self.conv(x)) / 2.0


@row("conv2d of images in float16: min over channels, tanh", init="[3, 32]", precision="fp16",
     inputs="[torch.randn(128, 3, 96, 96).half()]")  # fmt: skip
class ImageMinTanhFloat16(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 5, padding=2)
        self.half()

    def forward(self, x):
        return torch.tanh(self.conv(x).amin(dim=1, keepdim=True))


@row("conv3d of volumes: relu, gelu, sigmoid, bias", init="[3, 16]", inputs="[torch.randn(16, 3, 24, 64, 64)]")
class VolumeActivations(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, 3)
        self.bias = nn.Parameter(torch.randn(channels_out, 1, 1, 1))

    def forward(self, x):
        return torch.sigmoid(F.gelu(F.leaky_relu(torch.relu(self.conv(x)), 0.01))) + self.bias


@row("conv_transpose2d of images: clamp, scale, clamp", init="[3, 32]", inputs="[torch.randn(64, 3, 96, 96)]")
class ImageUpsampled(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x):
        return torch.clamp(torch.clamp(self.conv(x), 0.0, 1.0) * 2.0, 0.0, 1.0) / 2.0


@row("conv_transpose3d of volumes: silu, group norm, hardswish", init="[3, 16, 4]",
     inputs="[torch.randn(16, 3, 12, 32, 32)]")  # fmt: skip
class VolumeUpsampledNorm(nn.Module):
    def __init__(self, channels_in, channels_out, groups):
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels_in, channels_out, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(groups, channels_out)

    def forward(self, x):
        return F.hardswish(self.norm(F.silu(self.conv(x))))


@row("conv_transpose1d: clamp, tanh", init="[64, 64]", inputs="[torch.randn(32, 64, 4096)]")
class ConvTranspose1dTanh(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels_in, channels_out, 4, stride=2, padding=1)

    def forward(self, x):
        return torch.tanh(torch.clamp(self.conv(x), -0.5, 0.5))


@row("conv_transpose2d: softmax over channels, bias, sigmoid", init="[32, 64]", inputs="[torch.randn(32, 32, 64, 64)]")
class ConvTranspose2dSoftmax(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
        self.bias = nn.Parameter(torch.randn(channels_out, 1, 1))

    def forward(self, x):
        return torch.sigmoid((torch.softmax(self.conv(x), dim=1) + self.bias) * 2.0)


@row("conv_transpose2d: residual input, max over channels", init="[32, 32]", inputs=(
    "[torch.randn(16, 32, 64, 64), torch.randn(16, 32, 128, 128)]"
))  # fmt: skip
class ConvTranspose2dResidualMax(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x, residual):
        return (self.conv(x) + residual).amax(dim=1, keepdim=True)


@row(
    "conv_transpose2d in float16: tanh, bias",
    init="[64, 64]",
    inputs="[torch.randn(32, 64, 64, 64).half()]",
    precision="fp16",
)
class ConvTranspose2dTanhFloat16(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
        self.bias = nn.Parameter(torch.randn(channels_out, 1, 1))
        self.half()

    def forward(self, x):
        return torch.tanh(self.conv(x) - self.bias)


@row("conv_transpose3d: mean over space, softmax", init="[16, 32]", inputs="[torch.randn(8, 16, 16, 32, 32)]")
class ConvTranspose3dMeanSoftmax(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels_in, channels_out, 3, stride=2, padding=1)

    def forward(self, x):
        return torch.softmax(self.conv(x).mean(dim=(2, 3, 4)), dim=1)


@row("conv_transpose3d: swish, sum over depth", init="[16, 16]", inputs="[torch.randn(8, 16, 16, 32, 32)]")
class ConvTranspose3dSwishSum(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x):
        y = self.conv(x)
        return (torch.sigmoid(y) * y).sum(dim=2)


# --- products


@row(
    "linear in float16: gelu, residual",
    init="[1024, 1024]",
    inputs="[torch.randn(8192, 1024).half(), torch.randn(8192, 1024).half()]",
    precision="fp16",
)
class LinearGeluResidualFloat16(nn.Module):
    def __init__(self, features_in, features_out):
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)
        self.half()

    def forward(self, x, residual):
        return F.gelu(self.linear(x)) + residual


@row("linear: row maximum, mean subtracted, gelu", init="[2048, 1024]", inputs="[torch.randn(4096, 2048)]")
class LinearRowMax(nn.Module):
    def __init__(self, features_in, features_out):
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)

    def forward(self, x):
        y = self.linear(x)
        return F.gelu(torch.max(y, dim=1, keepdim=True)[0] - y.mean(dim=1, keepdim=True))


@row("linear: scale, clamp, row logsumexp, mish", init="[1024, 2048]", inputs="[torch.randn(4096, 1024)]")
class LinearLogSumExp(nn.Module):
    def __init__(self, features_in, features_out):
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)

    def forward(self, x):
        y = torch.clamp(self.linear(x) * 2.0, -10.0, 10.0)
        y = torch.logsumexp(y + y, dim=1, keepdim=True)
        return y * F.mish(y)


@row("linear: group norm, hardtanh", init="[1024, 1024]", inputs="[torch.randn(8192, 1024)]")
class LinearGroupNorm(nn.Module):
    def __init__(self, features_in, features_out):
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)
        self.norm = nn.GroupNorm(16, features_out)

    def forward(self, x):
        return F.hardtanh(self.norm(self.linear(x)), -2.0, 2.0)


@row("linear: dropout, softmax over rows", init="[512, 1000]", inputs="[torch.randn(8192, 512)]")
class LinearSoftmax(nn.Module):
    def __init__(self, features_in, features_out):
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x):
        return torch.softmax(self.dropout(self.linear(x)), dim=1)


@row("linear: sum over output features", init="[4096, 4096]", inputs="[torch.randn(2048, 4096)]")
class LinearFeatureSum(nn.Module):
    def __init__(self, features_in, features_out):
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)

    def forward(self, x):
        return torch.sum(self.linear(x) / 2.0, dim=1, keepdim=True) * 1.5


@row("matmul: scale, residual, clamp", inputs=(
    "[torch.randn(2048, 2048), torch.randn(2048, 2048), torch.randn(2048, 2048)]"
))  # fmt: skip
class MatmulScaleResidual(nn.Module):
    def forward(self, a, b, residual):
        return torch.clamp((a @ b) * 0.05 + residual, -1.0, 1.0)


@row(
    "bmm in float16: scaled scores, mask, softmax",
    inputs="[torch.randn(64, 512, 64).half(), torch.randn(64, 512, 64).half(), torch.randn(512, 512).half()]",
    precision="fp16",
)
class BmmScoresSoftmax(nn.Module):
    def forward(self, query, key, mask):
        return torch.softmax(torch.bmm(query, key.transpose(1, 2)) * 0.125 + mask, dim=-1)


@row("bmm: sigmoid gate of a residual", inputs=(
    "[torch.randn(32, 512, 256), torch.randn(32, 256, 512), torch.randn(32, 512, 512)]"
))  # fmt: skip
class BmmGate(nn.Module):
    def forward(self, a, b, residual):
        return torch.sigmoid(torch.bmm(a, b)) * residual


@row(
    "addmm in bfloat16: leaky relu, row sum",
    init="[2048, 2048]",
    inputs="[torch.randn(4096, 2048).bfloat16()]",
    precision="bf16",
)
class AddmmLeakyReluSum(nn.Module):
    def __init__(self, features_in, features_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features_in, features_out) * features_in**-0.5)
        self.bias = nn.Parameter(torch.randn(features_out))
        self.bfloat16()

    def forward(self, x):
        return F.leaky_relu(torch.addmm(self.bias, x, self.weight), 0.1).sum(dim=1)


# --- without an anchor: normalisations


@row("softmax over rows", inputs="[torch.randn(8192, 4096)]")
class RowSoftmax(nn.Module):
    def forward(self, x):
        return torch.softmax(x, dim=-1)


@row("log softmax over channels", inputs="[torch.randn(32, 96, 96, 96)]")
class ChannelLogSoftmax(nn.Module):
    def forward(self, x):
        return F.log_softmax(x, dim=1)


@row("layer norm in bfloat16", init="[2048]", inputs="[torch.randn(16384, 2048).bfloat16()]", precision="bf16")
class LayerNormBfloat16(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.bfloat16()

    def forward(self, x):
        return self.norm(x)


@row("group norm, silu", init="[64]", inputs="[torch.randn(32, 64, 128, 128)]")
class GroupNormSilu(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, x):
        return F.silu(self.norm(x))


@row("instance norm, residual, relu", init="[64]", inputs=(
    "[torch.randn(16, 64, 128, 128), torch.randn(16, 64, 128, 128)]"
))  # fmt: skip
class InstanceNormResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x, residual):
        return torch.relu(self.norm(x) + residual)


@row("rms norm in float16, gated", init="[4096]", inputs=(
    "[torch.randn(8192, 4096).half(), torch.randn(8192, 4096).half()]"
), precision="fp16")  # fmt: skip
class RmsNormGate(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.norm = nn.RMSNorm(features, eps=1e-5)
        self.half()

    def forward(self, x, gate):
        return self.norm(x) * torch.sigmoid(gate)


@row("batch norm (eval), elu", init="[128]", inputs="[torch.randn(32, 128, 96, 96)]")
class BatchNormElu(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.elu(self.norm(x))


# --- without an anchor: reductions, pooling, cumulative, pointwise


@row("mean over the image, min over channels", inputs="[torch.randn(128, 128, 64, 64)]")
class MeanThenMin(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3)).amin(dim=1, keepdim=True)


@row("sum and maximum over a middle dim", inputs="[torch.randn(64, 512, 1024)]")
class MiddleReductions(nn.Module):
    def forward(self, x):
        return x.sum(dim=1) + x.amax(dim=1)


@row("max pooling, stride 2, padding 1", inputs="[torch.randn(32, 64, 128, 128)]")
class MaxPool(nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 3, stride=2, padding=1)


@row("average pooling in 1 dim, softplus", inputs="[torch.randn(64, 128, 4096)]")
class AveragePool(nn.Module):
    def forward(self, x):
        return F.softplus(F.avg_pool1d(x, 4))


@row("cumulative sum over rows", inputs="[torch.randn(4096, 4096)]")
class RowCumsum(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, dim=1)


@row("cumulative sum over rows, masked, exclusive", inputs="[torch.randn(2048, 4096), torch.rand(2048, 4096) < 0.5]")
class MaskedCumsum(nn.Module):
    def forward(self, x, mask):
        kept = torch.where(mask, x, torch.zeros_like(x))
        return torch.cumsum(kept, dim=1) - kept


@row("pointwise chain with broadcast operands and a residual", init="[64]", inputs=(
    "[torch.randn(32, 64, 128, 128), torch.randn(32, 64, 128, 128), torch.rand(32, 64, 1, 1)]"
))  # fmt: skip
class BroadcastChain(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x, residual, gate):
        return F.softplus(x * self.scale + self.shift) * gate + residual


@row("gated linear unit in float16", inputs="[torch.randn(8192, 8192).half()]", precision="fp16")
class SiluGate(nn.Module):
    def forward(self, x):
        first, second = x.chunk(2, dim=-1)
        return F.silu(first) * second
