"""Outputs held against float64, on the task's inputs and on inputs to which the output responds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.results import Check
from tilewright.gate.reference.subject import ReducedProducts

#: The allowed error is this multiple of the reference's own, in its precision class, on the same inputs (or of what
#: TF32 operands cost, where that class was asked for: cuDNN takes float32 by itself where channels are few) ...
ERROR_FACTOR = 4.0
#: ... and a few units in the last place of the output's type, so that a reference without error allows some.
ULPS = 8.0

#: Factors that all parameters are tried at, until the output responds best. Powers of two: undone exactly.
PARAMETER_SCALES = (1.0, 4.0, 2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-10)


@dataclass(frozen=True)
class Probe:
    """Inputs, a scale of the parameters, what is right there, and how much error is allowed.

    Attributes:
        name: `task inputs` or `responsive`.
        inputs: of the forward pass.
        scale: factor of all parameters.
        expected: leaves of the oracle's output, float64 (float32 where that did not fit).
        allowed: norm-wise relative error.
        sensitivity: of the reference's output to another draw of the inputs, 0 to 1.
        oracle: what `expected` comes from.
    """

    name: str
    inputs: Sequence[Any]
    scale: float
    expected: tuple[torch.Tensor, ...]
    allowed: float
    sensitivity: float
    oracle: str


def leaves(value: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of an output, in order."""
    if isinstance(value, torch.Tensor):
        return (value,)
    if isinstance(value, Mapping):
        return tuple(leaf for item in value.values() for leaf in leaves(item))
    if isinstance(value, list | tuple):
        return tuple(leaf for item in value for leaf in leaves(item))
    return ()


def relative_error(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """||found - expected|| / ||expected||, the largest over the outputs; infinite where non-finite values differ."""
    worst = 0.0
    for got, right in zip(found, expected, strict=True):
        # In place on a copy: the outputs of the workloads are gigabytes.
        difference = got.to(right.dtype, copy=True)
        if not torch.equal(torch.isfinite(difference), torch.isfinite(right)):
            return math.inf
        difference.sub_(right).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        finite = torch.nan_to_num(right, nan=0.0, posinf=0.0, neginf=0.0)
        size = float(finite.norm())
        error = float(difference.norm())
        worst = max(worst, error / size if size > 0 else (0.0 if error == 0 else math.inf))
    return worst


@contextmanager
def scaled(module: nn.Module, scale: float) -> Iterator[None]:
    """All floating-point parameters times `scale`, in place, and back."""
    _scale(module, scale)
    try:
        yield
    finally:
        _scale(module, 1.0 / scale)


def _scale(module: nn.Module, factor: float) -> None:
    if factor == 1.0:
        return
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.mul_(factor)


def redrawn(inputs: Sequence[Any], seed: int) -> list[Any]:
    """Normal values in the place of floating-point inputs; the rest as it is."""

    def draw(item: Any) -> Any:
        if not isinstance(item, torch.Tensor) or not item.is_floating_point():
            return item
        generator = torch.Generator(device=item.device).manual_seed(seed)
        values = torch.empty(item.shape, dtype=torch.float32, device=item.device).normal_(generator=generator)
        return torch.empty_like(item).copy_(values)

    return [draw(item) for item in inputs]


def sensitivity(module: nn.Module, inputs: Sequence[Any], others: Sequence[Any]) -> float:
    """||f(a) - f(b)|| / (||f(a)|| + ||f(b)||), 0 to 1: how much the output depends on the inputs."""
    first, second = leaves(module(*inputs)), leaves(module(*others))
    change = size = 0.0
    for a, b in zip(first, second, strict=True):
        change += float((a.float() - b.float()).norm())
        size += float(a.float().norm()) + float(b.float().norm())
    return change / size if size > 0 and math.isfinite(change) and math.isfinite(size) else 0.0


def most_responsive_scale(module: nn.Module, inputs: Sequence[Any], others: Sequence[Any]) -> tuple[float, float]:
    """The factor of the parameters at which the output depends most on the inputs, and how much it does."""
    best = (1.0, -1.0)
    for scale in PARAMETER_SCALES:
        with scaled(module, scale):
            found = sensitivity(module, inputs, others)
        # Ties go to the scale that is tried first, so that a module that responds stays as it is.
        if found > best[1] * 1.25 + 1e-12:
            best = (scale, found)
    return best


def make_probes(module: nn.Module, inputs: Sequence[Any], precision: str) -> tuple[Probe, ...]:
    """The task's own inputs, and normal ones with parameters scaled so that the output responds.

    Args:
        module: the reference.
        inputs: the task's.
        precision: class of the products, `tf32` for one: what it costs by itself is allowed.
    """
    others = redrawn(inputs, seed=1)
    responsive = redrawn(inputs, seed=2)
    scale, responds = most_responsive_scale(module, responsive, others)
    own = sensitivity(module, inputs, _shuffled(inputs))
    return (
        _probe("task inputs", module, inputs, precision, 1.0, own),
        _probe("responsive", module, responsive, precision, scale, responds),
    )


def _shuffled(inputs: Sequence[Any]) -> list[Any]:
    def roll(item: Any) -> Any:
        return item.flatten().roll(7919).reshape(item.shape) if isinstance(item, torch.Tensor) else item

    return [roll(item) for item in inputs]


def _probe(name: str, module: nn.Module, inputs: Sequence[Any], precision: str, scale: float, responds: float) -> Probe:
    with scaled(module, scale):
        expected, oracle = _oracle(module, inputs)
        found = leaves(module(*inputs))
        own_error = relative_error(found, expected)
        if precision == "tf32":
            own_error = max(own_error, _error_of_tf32(module, inputs, expected))
    epsilon = max((torch.finfo(leaf.dtype).eps for leaf in found if leaf.is_floating_point()), default=0.0)
    return Probe(name, inputs, scale, expected, ERROR_FACTOR * own_error + ULPS * epsilon, responds, oracle)


def _error_of_tf32(module: nn.Module, inputs: Sequence[Any], expected: Sequence[torch.Tensor]) -> float:
    """The reference's error where the operands of every product are rounded to TF32 and all else is float32."""
    with ieee_products(), ReducedProducts(10, nearest=True):
        return relative_error(leaves(module(*inputs)), expected)


def _oracle(module: nn.Module, inputs: Sequence[Any]) -> tuple[tuple[torch.Tensor, ...], str]:
    """float64; where an operation has none, or the memory does not suffice, float32 without TF32."""
    attempts: tuple[tuple[str, torch.dtype], ...] = (("float64", torch.float64), ("float32 (ieee)", torch.float32))
    problem: Exception | None = None
    for name, dtype in attempts:
        try:
            with ieee_products():
                return _in_precision(module, inputs, dtype), name
        except (RuntimeError, NotImplementedError, torch.OutOfMemoryError) as error:
            problem = error
        if inputs and torch.cuda.is_available():
            torch.cuda.empty_cache()
    assert problem is not None
    raise problem


def _in_precision(module: nn.Module, inputs: Sequence[Any], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    wide = copy.deepcopy(module).to(dtype)
    converted = [
        item.to(dtype) if isinstance(item, torch.Tensor) and item.is_floating_point() else item for item in inputs
    ]
    return tuple(leaf.detach() for leaf in leaves(wide(*converted)))


@contextmanager
def ieee_products() -> Iterator[None]:
    """float32 products without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def check(
    probe: Probe, module: nn.Module, call: Callable[[Sequence[Any]], Any], expected_like: Sequence[torch.dtype]
) -> Check:
    """Run a subject on a probe and compare.

    Args:
        probe: what to run, and what is right.
        module: whose parameters are scaled for the probe.
        call: the subject, on the probe's inputs.
        expected_like: dtypes that the outputs must have.
    """
    with scaled(module, probe.scale):
        found = leaves(call(probe.inputs))
        if [tuple(leaf.shape) for leaf in found] != [tuple(leaf.shape) for leaf in probe.expected]:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in found)
            return Check(probe.name, math.inf, probe.allowed, False, f"its outputs have the shapes {shapes}")
        if [leaf.dtype for leaf in found] != list(expected_like):
            dtypes = ", ".join(str(leaf.dtype) for leaf in found)
            return Check(probe.name, math.inf, probe.allowed, False, f"its outputs have the dtypes {dtypes}")
        error = relative_error(found, probe.expected)
    return Check(probe.name, error, probe.allowed, error <= probe.allowed)
