"""References, and plausible misreadings of each: what people and models get wrong when they read a module.

A misreading replaces a piece of the reference's text. Each reference stands in three types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Types in which each reference is written; sizes are odd on purpose.
DTYPES = ("float32", "bfloat16", "float16")

_HEAD = """import torch
import torch.nn.functional as F
from torch import nn

D = torch.{dtype}


class Model(nn.Module):
    def __init__(self, n):
        super().__init__()
{init}

    def forward(self, {arguments}):
{forward}


def get_init_inputs():
    return [{n}]


def get_inputs():
    return [{inputs}]
"""

_VECTORS = """        self.weight = nn.Parameter((torch.rand(n) + 0.5).to(D))
        self.bias = nn.Parameter(torch.randn(n).to(D))"""


@dataclass(frozen=True)
class Family:
    """A reference with its misreadings.

    Attributes:
        name: of it.
        forward: lines of its forward pass.
        misreadings: what each is called, the text that it replaces and by what.
        init: lines of the constructor.
        n: the constructor's argument.
        arguments, inputs: of the forward pass.
    """

    name: str
    forward: str
    misreadings: tuple[tuple[str, str, str], ...]
    init: str = _VECTORS
    n: int = 24
    arguments: str = "x"
    inputs: str = "torch.randn(6, 10, 24).to(D)"

    def reference(self, dtype: str, misread: tuple[str, str] | None = None) -> str:
        """The file in one type; `misread` is a piece of text and what stands in its place."""
        text = self.forward
        if misread is not None:
            assert misread[0] in text, (self.name, misread)
            text = text.replace(*misread)
        forward = "\n".join(f"        {line}" for line in text.strip().splitlines())
        return _HEAD.format(
            dtype=dtype, init=self.init, forward=forward, n=self.n, arguments=self.arguments, inputs=self.inputs
        )


FAMILIES: tuple[Family, ...] = (
    Family(
        "layer_norm",
        "mean = x.mean(-1, keepdim=True)\nvar = x.var(-1, keepdim=True, unbiased=False)\n"
        "return (x - mean) / torch.sqrt(var + 1e-5) * self.weight + self.bias",
        (
            ("unbiased", "unbiased=False", "unbiased=True"),
            ("eps", "1e-5", "1e-3"),
            ("eps outside", "torch.sqrt(var + 1e-5)", "(torch.sqrt(var) + 1e-5)"),
            ("axis", "x.mean(-1, ", "x.mean(1, "),
            ("no scale", " * self.weight", ""),
            ("no shift", " + self.bias", ""),
            ("not centred", "(x - mean)", "x"),
        ),
    ),
    Family(
        "rms_norm",
        "y = x.float()\nreturn (y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-6)).to(D) * self.weight",
        (
            ("sum", ".mean(-1", ".sum(-1"),
            ("eps", "1e-6", "1e-2"),
            ("no root", "torch.rsqrt", "torch.reciprocal"),
            ("no scale", " * self.weight", ""),
            ("scale of all", "self.weight", "self.weight.mean()"),
        ),
    ),
    Family(
        "scores",
        "return torch.softmax(x * 0.2 + y, dim=-1)",
        (
            ("no scale", " * 0.2", ""),
            ("scale after", "x * 0.2 + y", "(x + y) * 0.2"),
            ("axis", "dim=-1", "dim=1"),
            ("log", "torch.softmax", "torch.log_softmax"),
        ),
        arguments="x, y",
        inputs="torch.randn(6, 10, 24).to(D), torch.randn(6, 10, 24).to(D)",
    ),
    Family(
        "clamped",
        "return (x * self.weight).clamp(-0.5, 1.0) * 3.0 + self.bias",
        (
            ("scale first", "(x * self.weight).clamp(-0.5, 1.0) * 3.0", "(x * self.weight * 3.0).clamp(-0.5, 1.0)"),
            ("lower bound", "-0.5", "0.0"),
            ("upper bound", ".clamp(-0.5, 1.0)", ".clamp(min=-0.5)"),
            ("shift first", " * 3.0 + self.bias", " * 3.0"),
        ),
    ),
    Family(
        "gelu",
        "return F.gelu(x * 2.0) + self.bias",
        (
            ("tanh", "F.gelu(x * 2.0)", "F.gelu(x * 2.0, approximate='tanh')"),
            ("sigmoid", "F.gelu(x * 2.0)", "x * 2.0 * torch.sigmoid(1.702 * x * 2.0)"),
            ("silu", "F.gelu", "F.silu"),
            ("no scale", "x * 2.0", "x"),
        ),
    ),
    Family(
        "leaky",
        "return F.leaky_relu(x + self.bias, 0.01) - F.elu(x, 0.5)",
        (
            ("slope", "0.01", "0.1"),
            ("relu", "F.leaky_relu(x + self.bias, 0.01)", "torch.relu(x + self.bias)"),
            ("alpha", "F.elu(x, 0.5)", "F.elu(x)"),
            ("order", "x + self.bias", "x"),
        ),
    ),
    Family(
        "statistics",
        "return x.float().var(1) + x.float().mean(1).abs().sqrt()",
        (
            ("biased", ".var(1)", ".var(1, unbiased=False)"),
            ("deviation", ".var(1)", ".std(1)"),
            ("axis", ".mean(1)", ".mean(0, keepdim=True).mean(1)"),
            ("no root", ".sqrt()", ""),
        ),
    ),
    Family(
        "pooled",
        "return torch.logsumexp(x * 0.5, dim=-1) + x.amax(-1)",
        (
            ("no log", "torch.logsumexp(x * 0.5, dim=-1)", "torch.exp(x * 0.5).sum(-1)"),
            ("scale outside", "torch.logsumexp(x * 0.5, dim=-1)", "torch.logsumexp(x, dim=-1) * 0.5"),
            ("smallest", "x.amax(-1)", "x.amin(-1)"),
            ("mean", "torch.logsumexp(x * 0.5, dim=-1)", "(torch.logsumexp(x * 0.5, dim=-1) - 3.1780538)"),
        ),
    ),
    Family(
        "groups",
        "return F.group_norm(x, 4, self.weight, self.bias, 1e-5) * torch.sigmoid(x)",
        (
            ("groups", "x, 4,", "x, 2,"),
            ("one group", "x, 4,", "x, 1,"),
            ("eps", "1e-5", "1e-2"),
            ("no gate", " * torch.sigmoid(x)", ""),
            (
                "silu of result",
                "F.group_norm(x, 4, self.weight, self.bias, 1e-5) * torch.sigmoid(x)",
                "F.silu(F.group_norm(x, 4, self.weight, self.bias, 1e-5))",
            ),
        ),
        inputs="torch.randn(3, 24, 7, 5).to(D)",
    ),
    Family(
        "loss",
        "d = (x - y).float()\nreturn (torch.where(d.abs() < 1.0, 0.5 * d * d, d.abs() - 0.5)).mean(-1)",
        (
            ("squared", "torch.where(d.abs() < 1.0, 0.5 * d * d, d.abs() - 0.5)", "0.5 * d * d"),
            ("threshold", "< 1.0", "< 0.5"),
            ("sum", ".mean(-1)", ".sum(-1)"),
            ("no half", "0.5 * d * d", "d * d"),
        ),
        arguments="x, y",
        inputs="torch.randn(6, 10, 24).to(D), torch.randn(6, 10, 24).to(D)",
    ),
    Family(
        "gated",
        "a, b = x.chunk(2, -1)\nreturn a * F.silu(b) + self.bias[:12]",
        (
            ("swapped", "a * F.silu(b)", "b * F.silu(a)"),
            ("sigmoid", "F.silu(b)", "torch.sigmoid(b)"),
            ("other half", "self.bias[:12]", "self.bias[12:]"),
        ),
    ),
    Family(
        "narrow_sum",
        "return (x.float() * x.float()).sum(-1)",
        (
            ("rounded squares", "(x.float() * x.float()).sum(-1)", "(x.half() * x.half()).sum(-1).float()"),
            ("mean", ".sum(-1)", ".mean(-1)"),
            ("norm", ".sum(-1)", ".sum(-1).sqrt()"),
        ),
        inputs="torch.randn(6, 10, 200).to(D)",
        n=200,
    ),
    Family(
        "biased_product",
        "return torch.tanh(F.linear(x, self.matrix, self.bias) * 0.5)",
        (
            ("no scale", " * 0.5", ""),
            ("no bias", ", self.bias)", ")"),
            ("transposed", "self.matrix,", "self.matrix.t(),"),
            (
                "scale outside",
                "torch.tanh(F.linear(x, self.matrix, self.bias) * 0.5)",
                "torch.tanh(F.linear(x, self.matrix, self.bias)) * 0.5",
            ),
        ),
        init=_VECTORS + "\n        self.matrix = nn.Parameter((torch.randn(n, n) / 5).to(D))",
    ),
    Family(
        "normalised_batch",
        "scale = self.weight / torch.sqrt(self.var + 1e-3)\n"
        "return torch.relu((x - self.mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None])",
        (
            ("eps", "1e-3", "1e-5"),
            ("no mean", "(x - self.mean[:, None, None])", "x"),
            ("no shift", " + self.bias[:, None, None]", ""),
            ("variance", "torch.sqrt(self.var + 1e-3)", "(self.var + 1e-3)"),
        ),
        init=_VECTORS + '\n        self.register_buffer("mean", torch.randn(n).to(D))'
        '\n        self.register_buffer("var", (torch.rand(n) * 0.02 + 0.01).to(D))',
        inputs="torch.randn(3, 24, 7, 5).to(D)",
    ),
    Family(
        "unit_vectors",
        "return x / x.float().norm(dim=-1, keepdim=True).clamp(min=1e-6).to(D) * self.weight",
        (
            ("squared", "x.float().norm(dim=-1, keepdim=True)", "x.float().square().sum(-1, keepdim=True)"),
            ("axis", "norm(dim=-1, ", "norm(dim=1, "),
            ("other norm", "norm(dim=-1, ", "norm(p=1, dim=-1, "),
            ("no scale", " * self.weight", ""),
        ),
    ),
    Family(
        "softplus",
        "return F.softplus(x, beta=2.0) * self.weight",
        (
            ("beta", ", beta=2.0", ""),
            ("relu", "F.softplus(x, beta=2.0)", "torch.relu(x)"),
            ("no division", "F.softplus(x, beta=2.0)", "torch.log1p(torch.exp(2.0 * x))"),
        ),
    ),
    Family(
        "running",
        "return torch.cumsum(x.float(), dim=-1) / torch.arange(1, 25, device=x.device)",
        (
            ("axis", "dim=-1", "dim=1"),
            ("from zero", "torch.arange(1, 25, ", "torch.arange(0, 24, "),
        ),
    ),
)


@dataclass(frozen=True)
class Misreading:
    """One misreading in one type: its name, the true reference's text, and the misread one."""

    name: str
    true: str
    misread: str


def misreadings() -> Iterator[Misreading]:
    """All of them."""
    for family in FAMILIES:
        for dtype in DTYPES:
            for name, old, new in family.misreadings:
                label = f"{family.name}, {name}, {dtype}"
                yield Misreading(label, family.reference(dtype), family.reference(dtype, (old, new)))
