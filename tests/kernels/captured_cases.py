"""Modules whose forward passes are written in other ways than a chain of operations on floats.

Constants, positions and masks made in forward, integers, containers, several outputs, sizes that the data decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Of(nn.Module):
    """A module whose forward pass is a function of itself and its inputs."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def _floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def _integers(low: int, high: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    found = torch.randint(low, high, (6, 9), dtype=dtype)
    return torch.where(found == 0, torch.ones_like(found), found)


def _writes_into_its_own(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x.exp()
    y[:, 0] = 0.5
    return y.mul_(2).clamp_(max=3).add_(x)


def _causal(x: torch.Tensor) -> torch.Tensor:
    length = x.shape[-1]
    mask = torch.triu(torch.ones(length, length, dtype=torch.bool, device=x.device), 1)
    return torch.softmax(x.masked_fill(mask, float("-inf")), -1)


def _arithmetic(m: Any, a: torch.Tensor, b: torch.Tensor) -> Any:
    return (
        (a // b * 3 + a % b, torch.div(a, b, rounding_mode="trunc") - torch.fmod(a, b)),
        ((a >> 1) ^ (b << 2), a & b | 5, ~a, -a.abs() + 7),
        (a // 3, a % -4, a // -3, 7 - a, torch.clamp(a, -2, 5), torch.minimum(a, b), torch.where(a > b, a, b)),
    )


Case = tuple[Callable[[], nn.Module], Callable[[], list[Any]]]

#: Name -> the module and its inputs.
CASES: dict[str, Case] = {
    "constant vector": (
        lambda: Of(lambda m, x: (x * torch.tensor([0.3, 0.6, 0.1], device=x.device).view(3, 1, 1)).sum(1)),
        lambda: [_floats(2, 3, 4, 5)],
    ),
    "constant attribute": (lambda: Of(lambda m, x: x.exp() * m.mask, mask=torch.arange(9.0)), lambda: [_floats(6, 9)]),
    "constants of halves": (
        lambda: Of(lambda m, x: x * torch.tensor(0.1) + torch.minimum(x, torch.tensor(0.3))),
        lambda: [_floats(6, 9).half()],
    ),
    "constant returned": (
        lambda: Of(lambda m, x: (x.exp(), torch.tensor([1.0, float("inf")], device=x.device))),
        lambda: [_floats(6, 9)],
    ),
    "positions": (
        lambda: Of(lambda m, x: x.tanh() * torch.arange(x.shape[1], device=x.device) + torch.arange(0.0, 0.9, 0.1)),
        lambda: [_floats(6, 9)],
    ),
    "causal mask": (lambda: Of(lambda m, x: _causal(x)), lambda: [_floats(3, 8, 8)]),
    "rows that are masked whole": (
        lambda: Of(lambda m, x, keep: F.log_softmax(x.masked_fill(~keep, float("-inf")), -1)),
        lambda: [_floats(6, 9), torch.rand(6, 9) > 0.9],
    ),
    "integers": (lambda: Of(_arithmetic), lambda: [_integers(-99, 99), _integers(-9, 9)]),
    "short integers": (
        lambda: Of(_arithmetic),
        lambda: [_integers(-99, 99, torch.int32), _integers(-9, 9, torch.int32)],
    ),
    "pixels": (
        lambda: Of(lambda m, x: (x.float() / 255 - m.mean) / m.std, mean=0.4, std=0.3),
        lambda: [torch.randint(0, 256, (6, 9), dtype=torch.uint8)],
    ),
    "integers and floats": (
        lambda: Of(
            lambda m, x, i: (
                x * i + i / 3 + (i > 2) * x,
                (torch.where(x.abs() < 9, x, 0.0) * 50).long() % 7,
                (x > 0.3).int() * 2,
            )
        ),
        lambda: [_floats(6, 9), _integers(-9, 9)],
    ),
    "containers": (
        lambda: Of(lambda m, xs, d: {"y": xs[0] + xs[1] * d["k"], "none": None, "k": 3, "rows": [xs[0].shape[0]]}),
        lambda: [[_floats(6, 9), _floats(6, 9)], {"k": _floats(9)}],
    ),
    "copies": (lambda: Of(lambda m, x: (x.clone(), x * 1, x, (x * 2).t())), lambda: [_floats(6, 9)]),
    "a copy of a parameter": (
        lambda: Of(lambda m, x: (m.w * 1, x.relu() * m.w), w=nn.Parameter(torch.randn(9))),
        lambda: [_floats(6, 9)],
    ),
    "local writes": (lambda: Of(_writes_into_its_own), lambda: [_floats(6, 9)]),
    "sizes by data": (
        lambda: Of(lambda m, x: torch.softmax(F.gelu(m.fc(x[x[:, 0] > 0])), -1), fc=nn.Linear(9, 7)),
        lambda: [_floats(6, 9)],
    ),
    "a sum by data": (lambda: Of(lambda m, x: torch.exp(x[x > 0]).sum() + x.sum()), lambda: [_floats(6, 9)]),
    "index and values": (
        lambda: Of(lambda m, x: (torch.argmax(x.tanh(), 1), x.tanh().max(1))),
        lambda: [_floats(6, 9)],
    ),
    "largest and smallest of two": (
        lambda: Of(lambda m, x, y: (torch.fmin(x, y) + 1, torch.max(x, y) + torch.min(x.exp(), y))),
        lambda: [_floats(6, 9), _floats(6, 9)],
    ),
    "activations": (
        lambda: Of(lambda m, x: F.softsign(x) + F.tanhshrink(x) + F.softshrink(x) + F.hardshrink(x)),
        lambda: [_floats(6, 9) * 3],
    ),
    "recurrent": (lambda: Of(lambda m, x: m.rnn(x)[0].tanh() * 2, rnn=nn.LSTM(9, 4)), lambda: [_floats(6, 2, 9)]),
    "attention": (
        lambda: Of(
            lambda m, x: m.layer(x, src_mask=torch.triu(torch.full((5, 5), float("-inf"), device=x.device), 1)),
            layer=nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        ),
        lambda: [_floats(2, 5, 16)],
    ),
    "an example in another layout": (
        lambda: Of(
            lambda m, x: F.relu6(m.norm(F.max_pool2d(x, 3, 2))).permute(0, 2, 3, 1) * 2,
            norm=nn.BatchNorm2d(3),
        ),
        lambda: [_floats(2, 3, 9, 11).to(memory_format=torch.channels_last)],
    ),
    "a strided example": (
        lambda: Of(lambda m, x, y: torch.softmax(x * 2, -1) + y.unsqueeze(0).sum(-1, keepdim=True)),
        lambda: [_floats(9, 6).t(), _floats(6, 18)[:, ::2]],
    ),
}
