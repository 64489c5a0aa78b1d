"""Many ways to write an operation, one form: each rule keeps the values in float64, and declines where it must."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.graph.running import run
from tilewright.graph.canonical import canonicalize
from tilewright.graph.capture import capture

EDGES = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, -1e300, 20.5, -40.0)


class Of(nn.Module):
    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def canonical(module: nn.Module, x: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    """Names of the operations in canonical form, and what they compute."""
    graph = canonicalize(capture(module, [x])).graph
    names = [str(n.target).split(".")[1] for n in graph.fx.nodes if n.op == "call_function" and "aten" in str(n.target)]
    with torch.no_grad():
        return [name for name in names if name != "sym_size"], run(graph, module, [x])


def _erf(x: torch.Tensor) -> torch.Tensor:
    return 1 + torch.erf(x / math.sqrt(2))


BECOMES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "multiply": (lambda m, x: torch.multiply(x, 3.0), ["mul"]),
    "subtract": (lambda m, x: torch.subtract(x, 3.0), ["sub"]),
    "min": (lambda m, x: torch.min(x, torch.tensor(0.5)), ["clamp"]),
    "max": (lambda m, x: torch.max(torch.tensor(0.5), x), ["clamp"]),
    "min of two": (lambda m, x: torch.min(x, x.exp()), ["exp", "minimum"]),
    "minimum, ones": (lambda m, x: torch.minimum(x, torch.ones_like(x)), ["clamp"]),
    "relu": (lambda m, x: x.clamp(min=0), ["relu"]),
    "hardtanh": (lambda m, x: torch.clip(x, -1, 2), ["hardtanh"]),
    "negated relu": (lambda m, x: -F.relu(-x), ["clamp"]),
    "gelu": (lambda m, x: 0.5 * x * _erf(x), ["gelu"]),
    "gelu, halved last": (lambda m, x: x * _erf(x) / 2, ["gelu"]),
    "gelu, by a root": (lambda m, x: x * 0.5 * (1 + torch.erf(x * 0.5**0.5)), ["gelu"]),
    "gelu by tanh": (
        lambda m, x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ["gelu"],
    ),
    "gelu by tanh, a product": (
        lambda m, x: 0.5 * x * (1 + torch.tanh(0.7978845608028654 * x * (1 + 0.044715 * x * x))),
        ["gelu"],
    ),
    "mish": (lambda m, x: torch.tanh(F.softplus(x)) * x, ["mish"]),
    "mish by logarithm": (lambda m, x: x * torch.log1p(x.exp()).tanh(), ["mish"]),
    "silu": (lambda m, x: x * x.sigmoid(), ["silu"]),
    "hardswish": (lambda m, x: F.hardsigmoid(x) * x, ["hardswish"]),
    "sum over count": (lambda m, x: x.sum((0, 1)) / (x.shape[0] * x.shape[1]), ["mean"]),
    "number first": (lambda m, x: torch.tensor(3.0) - x, ["rsub"]),
    "where": (lambda m, x: torch.where(x > 0, x, torch.tensor(2.0)), ["gt", "where"]),
}


@pytest.mark.parametrize("name", BECOMES)
def test_becomes(name: str) -> None:
    function, wanted = BECOMES[name]
    module = Of(function).double().eval()
    torch.manual_seed(1)
    x = torch.cat([torch.randn(3, 9, dtype=torch.float64) * 4, torch.tensor([EDGES], dtype=torch.float64)])
    names, result = canonical(module, x)
    assert names == wanted
    torch.testing.assert_close(result, module(x), rtol=1e-6, atol=1e-9, equal_nan=True)


STAYS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "a choice that loses NaN": (lambda m, x: torch.where(x < 0, x, 0.0), ["lt", "where"]),
    "a sign of zero that is seen": (lambda m, x: 1 / -F.relu(-x), ["neg", "relu", "neg", "reciprocal"]),
    "a gate that is used twice": (lambda m, x: (lambda g: x * g + g)(x.sigmoid()), ["sigmoid", "mul", "add"]),
    "another gate": (lambda m, x: x * (2 * x).sigmoid(), ["mul", "sigmoid", "mul"]),
    "a softplus of its own": (lambda m, x: x * F.softplus(x, 2.0).tanh(), ["softplus", "tanh", "mul"]),
    "another constant": (lambda m, x: 0.5 * x * (1 + torch.erf(x / 1.5)), ["mul", "div", "erf", "add", "mul"]),
    "a broadcast": (lambda m, x: torch.minimum(x[:1], torch.ones_like(x)), ["slice", "ones_like", "minimum"]),
    "a count of others": (lambda m, x: x.sum(0) / x.shape[1], ["sum", "div"]),
    "a number that may change": (lambda m, x: m.half * x * _erf(x), ["mul", "div", "erf", "add", "mul"]),
}


@pytest.mark.parametrize("name", STAYS)
def test_stays(name: str) -> None:
    function, wanted = STAYS[name]
    module = Of(function, half=0.5).double().eval()
    x = torch.randn(4, 9, dtype=torch.float64)
    names, result = canonical(module, x)
    assert names == wanted
    torch.testing.assert_close(result, module(x), rtol=1e-9, atol=1e-9)


POOLS: dict[str, tuple[Callable[..., Any], bool]] = {
    "adaptive": (lambda m, x: F.adaptive_avg_pool2d(x, 1), True),
    "adaptive to two": (lambda m, x: F.adaptive_avg_pool2d(x, (1, 2)), False),
    "window of the plane": (lambda m, x: F.avg_pool2d(x, x.shape[2:]), True),
    "small window": (lambda m, x: F.avg_pool2d(x, 2), False),
    "padded window": (lambda m, x: F.avg_pool2d(x, x.shape[2:], padding=1), False),
    "rows of means": (lambda m, x: x.mean(3).mean(2), True),
    "flattened": (lambda m, x: x.flatten(2).mean(-1), True),
    "flattened, kept": (lambda m, x: x.view(x.shape[0], x.shape[1], -1).mean(-1, keepdim=True), True),
    "sum": (lambda m, x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]), True),
}


@pytest.mark.parametrize("name", POOLS)
def test_planes(name: str) -> None:
    function, merged = POOLS[name]
    module = Of(function).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    names, result = canonical(module, x)
    assert (names[0] == "mean" and set(names) <= {"mean", "squeeze", "unsqueeze"}) == merged
    torch.testing.assert_close(result, module(x), rtol=1e-9, atol=1e-9)


PRODUCTS: dict[str, str] = {
    "bi,oi->bo": "linear",
    "bi,io->bo": "matmul",
    "bti,oi->bto": "linear",
    "bhid,bhjd->bhij": "matmul",
    "bij,bjk->bik": "matmul",
    "bi,oi->ob": "einsum",
    "bi,oi->o": "einsum",
}


@pytest.mark.parametrize("equation", PRODUCTS)
def test_einsum(equation: str) -> None:
    sizes = {label: size for size, label in enumerate("bhtoijkd", start=2)}
    left, right = equation.split("->")[0].split(",")
    weight = nn.Parameter(torch.randn([sizes[label] for label in right], dtype=torch.float64))
    module = Of(lambda m, x: torch.einsum(equation, x, m.weight), weight=weight)
    x = torch.randn([sizes[label] for label in left], dtype=torch.float64)
    names, result = canonical(module, x)
    assert names[-1] == PRODUCTS[equation]
    torch.testing.assert_close(result, module(x).detach(), rtol=1e-9, atol=1e-9)


@given(st.sampled_from(["t", "T", "mT", "transpose"]), st.booleans(), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=16, deadline=None)
def test_a_weight_from_the_right(how: str, has_batch: bool, rows: int, columns: int) -> None:
    weight = nn.Parameter(torch.randn(columns, rows, dtype=torch.float64))
    turned = {"t": lambda w: w.t(), "T": lambda w: w.T, "mT": lambda w: w.mT, "transpose": lambda w: w.transpose(-1, 0)}
    module = Of(lambda m, x: x @ turned[how](m.weight), weight=weight)
    x = torch.randn((3, 2, rows) if has_batch else (3, rows), dtype=torch.float64)
    names, result = canonical(module, x)
    assert names[-1] == "linear"
    torch.testing.assert_close(result, module(x).detach(), rtol=1e-9, atol=1e-9)


def test_a_product_of_inputs_is_no_layer() -> None:
    names, _ = canonical(Of(lambda m, x: x @ x.t()), torch.randn(3, 4, dtype=torch.float64))
    assert names[-1] == "matmul"


# -- constants ---------------------------------------------------------------------------------------------

_BINARY = (torch.add, torch.sub, torch.mul, torch.div, torch.minimum, torch.maximum, torch.pow, torch.lt, torch.ge)


@given(
    st.sampled_from(_BINARY),
    st.booleans(),
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
    st.sampled_from([torch.float16, torch.float32, torch.float64, torch.int64]),
    st.sampled_from([(), (1,), (1, 1)]),
    st.floats(-3.0, 3.0, width=16),
)
@settings(max_examples=60, deadline=None)
def test_constants(
    operation: Any, first: bool, given_type: torch.dtype, own_type: torch.dtype, shape: tuple[int, ...], value: float
) -> None:
    """A constant as a number gives the result, and the type, that the tensor gives."""
    constant = torch.full(shape, value).to(own_type).tolist()

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        c = torch.tensor(constant, dtype=own_type, device=x.device)
        return operation(c, x) if first else operation(x, c)

    x = (torch.randn(4, 5) * 2).to(given_type)
    _, result = canonical(Of(forward), x)
    expected = Of(forward)(x)
    assert result.dtype is expected.dtype
    torch.testing.assert_close(result, expected, equal_nan=True)


def test_an_attribute_is_no_constant() -> None:
    module = Of(lambda m, x: torch.minimum(x, m.limit), limit=torch.tensor(0.5, dtype=torch.float64))
    names, _ = canonical(module, torch.randn(3, 4, dtype=torch.float64))
    assert names == ["minimum"]
