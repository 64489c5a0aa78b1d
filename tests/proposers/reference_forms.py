"""The workloads of the documents, each written in the ways that people write it. The first is the canonical one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Of(nn.Module):
    """A module whose forward pass is a function of itself and x."""

    def __init__(self, function: Callable[..., torch.Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def _up(channels: int = 128, size: int = 3, **rest: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(64, channels, size, stride=2, **rest)


def _odd(channels: int = 128) -> nn.ConvTranspose2d:
    return _up(channels, padding=1, output_padding=1)


def _functional(m: Any, x: torch.Tensor) -> torch.Tensor:
    return F.conv_transpose2d(x, m.weight, m.bias, stride=2)


def _by_erf(y: torch.Tensor) -> torch.Tensor:
    return 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))


# -- 000: add, min with zero, GELU, multiply ---------------------------------------------------------------
_LOW = {"add": 0.5, "mul": 2.0}
ADD_MIN_GELU: dict[str, Callable[[], nn.Module]] = {
    name: lambda lowest=lowest, last=last: Of(  # type: ignore[misc]
        lambda m, x: last(lowest(m.up(x) + m.add)) * m.mul, up=_up(size=4), **_LOW
    )
    for name, lowest, last in (
        ("clamp", lambda y: torch.clamp(y, max=0.0), F.gelu),
        ("clamp to a whole number", lambda y: y.clamp(max=0), F.gelu),
        ("clamp_max", lambda y: torch.clamp_max(y, 0.0), F.gelu),
        ("clip", lambda y: torch.clip(y, max=0.0), F.gelu),
        ("min with a tensor", lambda y: torch.min(y, torch.tensor(0.0, device=y.device)), F.gelu),
        ("minimum", lambda y: torch.minimum(y, torch.tensor(0.0, device=y.device)), F.gelu),
        ("minimum, the other way", lambda y: torch.minimum(torch.tensor(0.0, device=y.device), y), F.gelu),
        ("minimum with zeros", lambda y: torch.minimum(y, torch.zeros_like(y)), F.gelu),
        ("min with one zero", lambda y: torch.min(y, torch.zeros(1, device=y.device)), F.gelu),
        ("min with new zeros", lambda y: torch.min(y, y.new_zeros(())), F.gelu),
        ("min with full", lambda y: torch.min(y, torch.full((1, 1, 1, 1), 0.0, device=y.device)), F.gelu),
        ("negated relu", lambda y: -F.relu(-y), F.gelu),
        ("in place", lambda y: y.clamp_(max=0.0), F.gelu),
        ("gelu by erf", lambda y: torch.clamp(y, max=0.0), _by_erf),
        ("gelu layer", lambda y: torch.clamp(y, max=0.0), nn.GELU()),
        ("gelu by name", lambda y: torch.clamp(y, max=0.0), lambda y: F.gelu(y, approximate="none")),
        ("gelu by a tensor's root", lambda y: torch.clamp(y, max=0.0), lambda y: _by_root(y)),
    )
}


def _by_root(y: torch.Tensor) -> torch.Tensor:
    return y * 0.5 * (1.0 + torch.erf(y / torch.sqrt(torch.tensor(2.0, device=y.device))))


# -- 001: min over channels, sum over rows, GELU, bias -----------------------------------------------------
_BIAS = (1, 1, 1)
MIN_SUM_GELU: dict[str, Callable[[], nn.Module]] = {
    name: lambda lowest=lowest, total=total, last=last: Of(  # type: ignore[misc]
        lambda m, x: last(total(lowest(m.up(x)))) + m.bias, up=_odd(), bias=nn.Parameter(torch.randn(_BIAS))
    )
    for name, lowest, total, last in (
        ("values", lambda y: torch.min(y, dim=1, keepdim=True).values, lambda y: y.sum(2, keepdim=True), F.gelu),
        ("first", lambda y: torch.min(y, dim=1, keepdim=True)[0], lambda y: y.sum(dim=2, keepdim=True), F.gelu),
        ("amin", lambda y: torch.amin(y, dim=1, keepdim=True), lambda y: torch.sum(y, dim=2, keepdim=True), F.gelu),
        ("amin of a list", lambda y: y.amin((1,), keepdim=True), lambda y: y.sum((2,), True), nn.GELU()),
        ("from the end", lambda y: y.amin(-3, keepdim=True), lambda y: y.sum(-2, keepdim=True), _by_erf),
    )
}

# -- 002: mish, add, hardtanh, scale -----------------------------------------------------------------------
MISH_HARDTANH: dict[str, Callable[[], nn.Module]] = {
    name: lambda gate=gate, limit=limit: Of(  # type: ignore[misc]
        lambda m, x: limit(gate(m.up(x)) + m.add) * m.scale, up=_odd(64), add=0.5, scale=2
    )
    for name, gate, limit in (
        ("mish", F.mish, lambda y: F.hardtanh(y, min_val=-1.0, max_val=1.0)),
        ("mish layer", nn.Mish(), nn.Hardtanh()),
        ("softplus", lambda y: y * torch.tanh(F.softplus(y)), F.hardtanh),
        ("softplus first", lambda y: torch.tanh(F.softplus(y)) * y, lambda y: torch.clamp(y, -1.0, 1.0)),
        ("softplus layer", lambda y: y * nn.Tanh()(nn.Softplus()(y)), lambda y: torch.clamp(y, min=-1, max=1)),
        ("logarithm", lambda y: y * torch.tanh(torch.log1p(torch.exp(y))), lambda y: torch.clip(y, -1.0, 1.0)),
        ("multiply", lambda y: torch.multiply(y, F.softplus(y).tanh()), lambda y: y.clamp_(-1, 1)),
    )
}


# -- 003: linear, batch norm, GELU, ReLU -------------------------------------------------------------------
def _linear(forward: Callable[..., torch.Tensor], last: Callable[..., Any] = F.gelu) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        function = lambda m, x: torch.relu(last(m.norm(forward(m, x))))  # noqa: E731
        weight, bias = nn.Parameter(torch.randn(256, 192)), nn.Parameter(torch.randn(256))
        return Of(function, norm=nn.BatchNorm1d(256), weight=weight, bias=bias)

    return make


class _Statistics(nn.Module):
    """Batch norm by hand: the functional form on parameters and buffers."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False)


def _with_statistics() -> nn.Module:
    module = _linear(lambda m, x: F.linear(x, m.weight, m.bias))()
    module.norm = _Statistics(256)
    return module


LINEAR_NORM_GELU: dict[str, Callable[[], nn.Module]] = {
    "F.linear": _linear(lambda m, x: F.linear(x, m.weight, m.bias)),
    "t": _linear(lambda m, x: x @ m.weight.t() + m.bias),
    "T": _linear(lambda m, x: torch.matmul(x, m.weight.T) + m.bias),
    "transpose": _linear(lambda m, x: torch.mm(x, m.weight.transpose(0, 1)) + m.bias),
    "mT": _linear(lambda m, x: torch.add(x @ m.weight.mT, m.bias)),
    "addmm": _linear(lambda m, x: torch.addmm(m.bias, x, m.weight.t())),
    "einsum": _linear(lambda m, x: torch.einsum("bi,oi->bo", x, m.weight) + m.bias),
    "gelu by erf": _linear(lambda m, x: F.linear(x, m.weight, m.bias), _by_erf),
    "functional batch norm": _with_statistics,
}

# -- 004: multiply, mean over the plane twice --------------------------------------------------------------
SCALED_MEAN: dict[str, Callable[[], nn.Module]] = {
    name: lambda mean=mean, times=times: Of(  # type: ignore[misc]
        lambda m, x: mean(times(m.up(x), m.scale)), up=_odd(), scale=0.5
    )
    for name, mean, times in (
        ("mean", lambda y: y.mean(dim=(2, 3), keepdim=True).mean(dim=(2, 3), keepdim=True), torch.mul),
        ("mean once", lambda y: y.mean((2, 3), keepdim=True), torch.multiply),
        ("adaptive", lambda y: F.adaptive_avg_pool2d(y, 1), torch.mul),
        ("adaptive layer", lambda y: nn.AdaptiveAvgPool2d((1, 1))(y).mean([2, 3], keepdim=True), torch.mul),
        ("both", lambda y: F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(y, (1, 1)), 1), torch.mul),
        ("pooling", lambda y: F.avg_pool2d(y, y.shape[2:]), torch.mul),
        ("pooling layer", lambda y: nn.AvgPool2d(256)(y), torch.mul),
        ("row by row", lambda y: y.mean(3, keepdim=True).mean(2, keepdim=True), torch.mul),
        ("sum", lambda y: y.sum((2, 3), keepdim=True) / (y.shape[2] * y.shape[3]), torch.mul),
    )
}

WORKLOADS: dict[str, tuple[dict[str, Callable[[], nn.Module]], tuple[int, ...]]] = {
    "000": (ADD_MIN_GELU, (128, 64, 64, 64)),
    "001": (MIN_SUM_GELU, (16, 64, 128, 128)),
    "002": (MISH_HARDTANH, (128, 64, 128, 128)),
    "003": (LINEAR_NORM_GELU, (512, 192)),
    "004": (SCALED_MEAN, (16, 64, 128, 128)),
}
