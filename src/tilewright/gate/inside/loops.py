"""What a plain float32 loop would do to sums: the error that is as good as anyone needs.

PyTorch's CPU kernels add in pairs, in vectors and in blocks, and so are more exact than a kernel that walks along a
row. Such a loop rounds at each step: the errors of n steps are independent, of half a unit of the partial sum at
most. Their root mean square is known from the terms alone (Higham, Accuracy and Stability, 2nd edition, 4.2 and 4.3):
with terms of mean m and mean square q, partial sums s_k have squares of k q + k^2 m^2 on average, and the error has
(u^2 / 3) times their sum. It is added to what the reference's sums and products say, up or down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tilewright.gate.reference.subject import DispatchMode

#: Loops are as long as this at most: whoever adds more splits the sum among programs.
LONGEST = 4096


class PlainLoops(DispatchMode):
    """Perturbs the results of sums and matrix products as a loop of float32 additions would.

    Args:
        seed: of the signs.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        spread_of = _SPREADS.get(func._schema.name.removeprefix("aten::"))
        if spread_of is None:
            return result
        first = result[0] if isinstance(result, tuple) else result
        if not isinstance(first, torch.Tensor) or first.dtype not in (torch.float32, torch.float64):
            return result
        spread = spread_of(args, first)
        if spread is None:
            return result
        changed = first + spread * self._signs(first) * (torch.finfo(first.dtype).eps / 2)
        return (changed, *result[1:]) if isinstance(result, tuple) else changed

    def _signs(self, like: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(like.shape, generator=self._generator) < 0.5
        return torch.where(drawn, 1.0, -1.0).to(like.dtype).to(like.device)


def spread(count: int, square: Any, total: Any) -> Any:
    """Root mean square error of a loop, in units of rounding.

    Args:
        count: of the terms.
        square: their mean square.
        total: their sum.
    """
    steps = min(count, LONGEST)
    return ((steps * count * square / 2 + steps * total * total / 3) / 3) ** 0.5


def _count(source: torch.Tensor, result: torch.Tensor) -> int:
    return max(source.numel() // max(result.numel(), 1), 1)


def _sum(args: Any, result: torch.Tensor) -> Any:
    source = args[0]
    count = _count(source, result)
    return spread(count, float(source.square().mean()), result) if count > 1 else None


def _mean(args: Any, result: torch.Tensor) -> Any:
    count = _count(args[0], result)
    return spread(count, float(args[0].square().mean()), result * count) / count if count > 1 else None


def _root(args: Any, result: torch.Tensor) -> Any:
    """Of a norm: half of the sum's relative error."""
    count = _count(args[0], result)
    return result.abs() * spread(count, 0.0, 1.0) / 2 if count > 1 else None


def _relative(args: Any, result: torch.Tensor) -> Any:
    """Of a variance or a sum of positive terms under another name."""
    count = _count(args[0], result)
    return result.abs() * spread(count, 0.0, 1.0) if count > 1 else None


def _product(left: int, right: int, inner: Callable[[torch.Tensor], int]) -> Callable[[Any, torch.Tensor], Any]:
    def found(args: Any, result: torch.Tensor) -> Any:
        a, b = args[left], args[right]
        return spread(inner(b), float(a.square().mean() * b.square().mean()), result)

    return found


def _convolved(args: Any, result: torch.Tensor) -> Any:
    """Of a convolution: (input, weight, bias, stride, padding, dilation, transposed, ...)."""
    weight = args[1]
    outputs = weight.shape[1] if len(args) > 6 and args[6] else weight.shape[0]
    square = float(args[0].square().mean() * weight.square().mean())
    return spread(weight.numel() // max(outputs, 1), square, result)


def _normalised(args: Any, result: torch.Tensor) -> Any:
    """Of a normalisation over its last dimensions: the error of a mean shifts, that of a variance scales."""
    return _shifted(args[0].reshape(*args[0].shape[: args[0].dim() - len(args[1])], -1), result)


def _grouped(args: Any, result: torch.Tensor) -> Any:
    return _shifted(args[0].reshape(int(args[3]) * int(args[6]), -1), result)


def _shifted(rows: torch.Tensor, result: torch.Tensor) -> Any:
    count = rows.shape[-1]
    if count < 2:
        return None
    # Means are small beside deviations, or the other way round: the worst row says.
    means = (rows.mean(dim=-1).abs() / rows.std(dim=-1).clamp_min(1e-30)).nan_to_num(0.0, 0.0, 0.0)
    relative = spread(count, 0.0, 1.0)
    return result.abs() * relative / 2 + 0.5 + float(means.max().clamp_max(1e6)) * relative


def _shares(args: Any, result: torch.Tensor) -> Any:
    """Of a softmax: the relative error of the sum that divides."""
    count = args[0].shape[args[1]] if args[0].dim() else 1
    return result.abs() * spread(count, 0.0, 1.0) if count > 1 else None


#: Name of an operation -> error of its result in units of rounding, from its arguments and that.
_SPREADS: Mapping[str, Callable[[Any, torch.Tensor], Any]] = {
    "sum": _sum,
    "mean": _mean,
    "linalg_vector_norm": _root,
    "norm": _root,
    "var": _relative,
    "mm": _product(0, 1, lambda b: b.shape[0]),
    "bmm": _product(0, 1, lambda b: b.shape[1]),
    "addmm": _product(1, 2, lambda b: b.shape[0]),
    "baddbmm": _product(1, 2, lambda b: b.shape[1]),
    "mv": _product(0, 1, lambda b: b.shape[0]),
    "dot": _product(0, 1, lambda b: b.shape[0]),
    "convolution": _convolved,
    "native_layer_norm": _normalised,
    "native_group_norm": _grouped,
    "_softmax": _shares,
}
