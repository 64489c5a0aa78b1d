"""Runs GEMM anchors in Triton's interpreter on drawn products, epilogues, schedules and scales, beside float64.

A script of its own, since the interpreter is chosen by an environment variable before triton is imported; prints
one JSON object for each property, with what failed.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kernels.interpreted import emit, load, relative_error  # noqa: E402
from tests.kernels.properties import drawing, run_properties  # noqa: E402
from tilewright.kernels.gemm.plan import GemmSchedule  # noqa: E402
from tilewright.kernels.operands import Operands  # noqa: E402
from tilewright.kernels.steps import PlanOptions  # noqa: E402

EPILOGUES: dict[str, Any] = {
    "nothing": lambda m, y: y,
    "bias, gelu, relu": lambda m, y: torch.relu(F.gelu(y + m.bias)),
    "affine, silu": lambda m, y: F.silu(y * m.scale + m.bias),
    "row of a residual": lambda m, y: y + y.new_ones(()) * m.bias * 0.5,
    "softmax": lambda m, y: torch.softmax(y + m.bias, -1),
    "log softmax": lambda m, y: torch.log_softmax(y * 0.5, -1),
    "logsumexp": lambda m, y: F.mish(torch.logsumexp(y + m.bias, -1, keepdim=True)),
    "max less mean": lambda m, y: F.gelu(y.amax(-1, keepdim=True) - (y * m.scale).mean(-1, keepdim=True)),
    "min": lambda m, y: (y + m.bias).amin(-1) * 2.0,
    "layer norm": lambda m, y: F.layer_norm(y, y.shape[-1:], m.scale, m.bias),
    "rms norm": lambda m, y: F.rms_norm(y, y.shape[-1:], m.scale),
    "two results": lambda m, y: (torch.tanh(y), (y * m.scale).sum(-1)),
    "three results": lambda m, y: (y, torch.relu(y + m.bias), y.amax(-1, keepdim=True) + 1.0),
}


class Product(nn.Module):
    """One product and what follows it; the right operand is a parameter or an input."""

    def __init__(self, kind: str, n: int, k: int, epilogue: str) -> None:
        super().__init__()
        self.kind = kind
        self.epilogue = EPILOGUES[epilogue]
        self.weight = nn.Parameter(torch.randn(n, k) * k**-0.5)
        self.bias, self.scale = nn.Parameter(torch.randn(n)), nn.Parameter(torch.rand(n) + 0.5)
        self.norm = nn.BatchNorm1d(n)

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> Any:
        """The product by its kind, then the epilogue."""
        if self.kind == "linear":
            return self.epilogue(self, F.linear(x, self.weight, self.bias))
        if self.kind == "addmm":
            return self.epilogue(self, torch.addmm(self.bias, x, self.weight.t(), beta=0.5, alpha=2.0))
        if self.kind == "matmul parameter":
            return self.epilogue(self, x @ self.weight.t())
        if self.kind == "transposed":
            return self.epilogue(self, x.transpose(-1, -2) @ others[0])
        return self.epilogue(self, torch.matmul(x, others[0].transpose(-1, -2)))


KINDS = ("linear", "linear of rank 3", "addmm", "matmul parameter", "transposed", "bmm", "broadcast batch", "rank 4")


def inputs_of(kind: str, m: int, n: int, k: int) -> tuple[str, list[torch.Tensor]]:
    """What `Product` calls the kind, and its inputs."""
    if kind in ("linear", "addmm", "matmul parameter"):
        return kind, [torch.randn(m, k)]
    if kind == "linear of rank 3":
        return "linear", [torch.randn(2, m, k)]
    if kind == "transposed":
        return kind, [torch.randn(k, m), torch.randn(k, n)]
    if kind == "bmm":
        return kind, [torch.randn(3, m, k), torch.randn(3, n, k)]
    if kind == "broadcast batch":
        return kind, [torch.randn(2, 3, m, k), torch.randn(3, n, k)]
    return kind, [torch.randn(2, 2, m, k), torch.randn(2, 2, n, k)]


@st.composite
def schedules(draw: st.DrawFn, operands: Operands) -> GemmSchedule:
    """Small tiles, loaded and cut in each way."""
    split = draw(st.sampled_from((1, 1, 1, 2)))
    descriptors = split == 1 and operands is not Operands.IEEE and draw(st.booleans())
    return GemmSchedule(
        operands,
        draw(st.sampled_from((16, 32))),
        draw(st.sampled_from((16, 32, 64))),
        draw(st.sampled_from((16, 32))),
        descriptors=descriptors,
        parts=draw(st.sampled_from((1, 2))) if descriptors else 1,
        split=split,
        group_m=draw(st.sampled_from((1, 3))),
        programs=3,
    )


_ALLOWED = {Operands.HALF: 3e-3, Operands.TF32: 4e-3, Operands.IEEE: 1e-5, Operands.GIVEN: 3e-2}
_SETTINGS = drawing(9)


@_SETTINGS
@given(data=st.data())
def any_product(data: st.DataObject) -> None:
    """Every kind of product with every epilogue, in every kind of operands, at sizes that fit no tile."""
    operands = data.draw(st.sampled_from(list(Operands)))
    kind, m, n, k = (
        data.draw(st.sampled_from(KINDS)),
        data.draw(st.integers(1, 37)),
        data.draw(st.integers(2, 49)),
        data.draw(st.integers(2, 41)),
    )
    if operands is Operands.GIVEN and data.draw(st.booleans()):
        n, k = -(-n // 8) * 8, -(-k // 8) * 8
    epilogue = data.draw(st.sampled_from(list(EPILOGUES)))
    schedule = data.draw(schedules(operands))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    name, inputs = inputs_of(kind, m, n, k)
    module = Product(name, n, k, epilogue).eval()
    if operands is Operands.GIVEN:
        module, inputs = module.half(), [x.half() for x in inputs]
    source, _ = emit(module, inputs, PlanOptions(gemms=(schedule,)))
    assert "tl.dot" in source, "no anchor was planned"
    drop_in = load(source, f"gemm{abs(hash((kind, m, n, k, epilogue, schedule)))}")(module)
    if operands is Operands.GIVEN:
        found = half_error(module, drop_in, inputs)
    else:
        found = relative_error(module, drop_in, inputs)
    case = f"{kind} {m} x {n} x {k}, {epilogue}, {schedule}"
    assert found < _ALLOWED[operands], f"{case}: error {found}\n{source}"


def half_error(module: nn.Module, drop_in: nn.Module, inputs: list[torch.Tensor]) -> float:
    """The same for modules in other types than float32, which `relative_error` would widen."""
    with torch.no_grad():
        got = on_device(drop_in, inputs)
        expected = module.double()(*[x.double() for x in inputs])
        module.to(inputs[0].dtype)
    return max(
        float((e - g.double()).abs().max() / e.abs().max().clamp(min=1e-3))
        for e, g in zip(leaves(expected), leaves(got), strict=True)
    )


def leaves(value: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of a result."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def on_device(drop_in: nn.Module, inputs: list[torch.Tensor]) -> Any:
    """The drop-in's result on its kernel path."""
    truth = torch.Tensor.is_cuda
    torch.Tensor.is_cuda = property(lambda self: True)
    try:
        with torch.no_grad():
            return drop_in(*inputs)
    finally:
        torch.Tensor.is_cuda = truth


@_SETTINGS
@given(data=st.data())
def float16_keeps_tf32_accuracy(data: st.DataObject) -> None:
    """Whatever the scales of operands, rows and elements: each result within twice TF32's bound, or as it is in TF32.

    TF32 rounds both operands to 11 bits, so |error| <= 2**-10 * sum |a| |b| and a little; cancellation cannot hide.
    """
    m, n, k = data.draw(st.integers(1, 20)), data.draw(st.integers(2, 20)), data.draw(st.integers(2, 40))
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    x, w = torch.randn(m, k), torch.randn(n, k) * k**-0.5
    for tensor in (x, w):
        tensor *= 10.0 ** data.draw(st.sampled_from((-30, -20, -12, -6, -3, 0, 0, 0, 3, 6, 12, 17)))
        if data.draw(st.booleans()):
            tensor *= 10.0 ** torch.empty(tensor.shape[0], 1).uniform_(-8, 8)
        if data.draw(st.booleans()):
            tensor *= 10.0 ** torch.empty(tensor.shape).uniform_(-9, 9)
        if data.draw(st.booleans()):
            tensor *= torch.rand(tensor.shape) < 0.6
        if data.draw(st.integers(0, 3)) == 0:
            tensor.view(-1)[data.draw(st.integers(0, tensor.numel() - 1))] = data.draw(
                st.sampled_from((float("inf"), float("-inf"), float("nan"), 3e38, 1e-38))
            )
    prepared = data.draw(st.booleans())
    schedule = data.draw(schedules(Operands.HALF))
    if prepared:
        module = nn.Linear(k, n, bias=False).eval()
        with torch.no_grad():
            module.weight.copy_(w)
        inputs = [x]
    else:
        module, inputs = Function(), [x, w]
    source, _ = emit(module, inputs, PlanOptions(gemms=(schedule,)))
    got = on_device(load(source, "scaled")(module), inputs).double()
    exact, bound = x.double() @ w.double().t(), x.double().abs() @ w.double().abs().t()
    comparable = torch.isfinite(bound) & (bound < 1e37)
    error = (got - exact).abs()[comparable]
    flushed = 2.0**-126 * (k + x.double().abs().sum(1)[:, None] + w.double().abs().sum(1)[None, :])  # subnormals
    limit = (2.0**-9 * bound + flushed)[comparable]
    assert bool((error <= limit).all()), f"{schedule}: {(error / limit).max()} of what is allowed"
    assert not bool(torch.isfinite(got[~torch.isfinite(exact)]).any()), "an infinity or NaN was lost"


class Function(nn.Module):
    """x @ w.T of two inputs."""

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The product."""
        return x @ w.t()


PROPERTIES = {"any product": any_product, "float16 keeps TF32's accuracy": float16_keeps_tf32_accuracy}


if __name__ == "__main__":
    run_properties(PROPERTIES, sys.argv[1:])
