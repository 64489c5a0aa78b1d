"""Operations of contractions, from an ATen call's arguments: convolutions, products, attention, recurrences.

Products that are known to be zero are not counted: taps of a convolution that fall into its padding, and the
zeros between the elements of a transposed convolution's input (what is left is the sum over its phases).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tilewright.graph.graph import size_hint

_PRODUCTS = frozenset(
    ["mm", "bmm", "mv", "dot", "vdot", "inner", "matmul", "linalg_matmul", "linear", "addmm", "baddbmm", "addmv"]
)
#: Name of a product's left operand in its schema, where it is not `self`.
_LEFT_OPERAND = {"linear": "input", "linalg_matmul": "input", "addmm": "mat1", "baddbmm": "batch1", "addmv": "mat"}


def is_contraction(operation: str) -> bool:
    """Whether an operation (ATen name without overload) makes products on tensor cores."""
    return operation in CONVOLUTIONS or operation in _PRODUCTS or operation in _OTHER_CONTRACTIONS


def matrix_operations(operation: str, arguments: Mapping[str, Any], result: Any) -> int | None:
    """Operations of a contraction, None for an operation that is none."""
    if operation in CONVOLUTIONS:
        return _convolution_operations(operation, arguments, result)
    if operation in _PRODUCTS:
        left = sizes_of(arguments[_LEFT_OPERAND.get(operation, "self")])
        return 2 * elements(result) * (left[-1] if left else 1)
    counter = _OTHER_CONTRACTIONS.get(operation)
    return counter(arguments, result) if counter is not None else None


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a node's value: itself, or those in a list or tuple."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def sizes_of(value: Any) -> tuple[int, ...]:
    """A tensor's sizes, symbolic ones at their hints."""
    return tuple(size_hint(size) for size in value.shape)


def elements(value: Any) -> int:
    """A tensor's number of elements."""
    return math.prod(sizes_of(value))


def per_dim(value: Any, dims: int) -> list[int]:
    """A size for each dim: a list of one holds for all."""
    sizes = [size_hint(size) for size in (value if isinstance(value, list | tuple) else [value])]
    return sizes * dims if len(sizes) == 1 else sizes


CONVOLUTIONS = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "convolution",
        "_convolution",
    ]
)


def is_transposed(operation: str, arguments: Mapping[str, Any]) -> bool:
    """True for a transposed convolution."""
    return operation.startswith("conv_transpose") or bool(arguments.get("transposed", False))


def _convolution_operations(operation: str, arguments: Mapping[str, Any], result: Any) -> int:
    """Twice the pairs (position, tap) that meet data, times batch, channels in of a group, channels out."""
    source, weight = sizes_of(arguments["input"]), sizes_of(arguments["weight"])
    target = sizes_of(result)
    dims = len(weight) - 2
    taps = weight[2:]
    stride, dilation = per_dim(arguments["stride"], dims), per_dim(arguments["dilation"], dims)
    padding = _padding(arguments["padding"], taps, dilation)
    transposed = is_transposed(operation, arguments)
    strided, dense = (source, target) if transposed else (target, source)  # who steps by the stride
    pairs = math.prod(
        valid_taps(strided[d - dims], dense[d - dims], taps[d], stride[d], padding[d], dilation[d]) for d in range(dims)
    )
    batch = source[0] if len(source) == dims + 2 else 1
    groups = size_hint(arguments["groups"])
    channels_in, channels_out = source[-dims - 1], target[-dims - 1]
    return 2 * batch * pairs * channels_in * channels_out // groups


def _padding(padding: Any, taps: Sequence[int], dilation: Sequence[int]) -> list[int]:
    if padding == "valid":
        return [0] * len(taps)
    if padding == "same":
        return [step * (tap - 1) // 2 for tap, step in zip(taps, dilation, strict=True)]
    return per_dim(padding, len(taps))


def valid_taps(strided: int, dense: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    """Pairs (position, tap) of one dim with `0 <= position * stride - padding + tap * dilation < dense`.

    Args:
        strided: positions on the side that steps by the stride: outputs of a convolution, inputs of a
            transposed one.
        dense: positions on the other side.
        taps, stride, padding, dilation: of the dim.
    """
    total = 0
    for tap in range(taps):
        shift = padding - tap * dilation
        first = max(0, -(-shift // stride))
        last = min(strided - 1, (dense - 1 + shift) // stride)
        total += max(0, last - first + 1)
    return total


# --- other contractions


def attention_pairs(arguments: Mapping[str, Any]) -> int:
    """Pairs (query, key) over batch and heads; half of them, about, under a causal mask."""
    query, key = sizes_of(arguments["query"]), sizes_of(arguments["key"])
    queries, keys = query[-2], key[-2]
    seen = (min(row + 1, keys) if arguments.get("is_causal") else keys for row in range(queries))
    return math.prod(query[:-2]) * sum(seen)


def _attention(arguments: Mapping[str, Any], result: Any) -> int:
    width = sizes_of(arguments["query"])[-1] + sizes_of(arguments["value"])[-1]
    return 2 * attention_pairs(arguments) * width


def _addbmm(arguments: Mapping[str, Any], result: Any) -> int:
    batch, _, inner = sizes_of(arguments["batch1"])
    return 2 * batch * inner * elements(result)


def _bilinear(arguments: Mapping[str, Any], result: Any) -> int:
    _, first, second = sizes_of(arguments["weight"])
    return 2 * elements(result) * second * (first + 1)


def _tensordot(arguments: Mapping[str, Any], result: Any) -> int:
    shape = sizes_of(arguments["self"])
    contracted: list[int] = [shape[dim] for dim in arguments["dims_self"]]
    return 2 * elements(result) * math.prod(contracted)


def _recurrent(arguments: Mapping[str, Any], result: Any) -> int:
    """Every weight matrix multiplies one vector for each step of each sequence."""
    source = sizes_of(arguments["input"])
    steps = math.prod(source[:-1])
    return sum(2 * steps * elements(weight) for weight in arguments["params"] if weight.dim() == 2)


def _einsum(arguments: Mapping[str, Any], result: Any) -> int:
    """Operands contracted from left to right; 0 operations where no label is summed (a pointwise product)."""
    operands = tensors_in(arguments["tensors"])
    terms, kept = _einsum_terms(arguments["equation"].replace(" ", ""), operands)
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        for label, size in zip(term, sizes_of(operand), strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    total, done = 0, set(terms[0])
    for position, term in enumerate(terms[1:], start=1):
        joined = done | set(term)
        needed = set(kept).union(*terms[position + 1 :])
        if joined - needed:
            total += 2 * math.prod(sizes[label] for label in joined)
        done = joined & needed
    return total


def _einsum_terms(equation: str, operands: Sequence[torch.Tensor]) -> tuple[list[str], str]:
    """Labels of each operand and of the result; dims under an ellipsis get labels that no equation can hold."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    widest = 0
    for term, operand in zip(terms, operands, strict=True):
        if "..." in term:
            widest = max(widest, operand.dim() - len(term.replace("...", "")))
    private = "".join(chr(0x100 + position) for position in range(widest))
    expanded = []
    for term, operand in zip(terms, operands, strict=True):
        hidden = operand.dim() - len(term.replace("...", ""))
        expanded.append(term.replace("...", private[widest - hidden :] if hidden else ""))
    if arrow:
        return expanded, right.replace("...", private)
    labels = "".join(expanded)
    return expanded, private + "".join(sorted(label for label in set(labels) if labels.count(label) == 1))


_OTHER_CONTRACTIONS: Mapping[str, Callable[[Mapping[str, Any], Any], int]] = {
    "scaled_dot_product_attention": _attention,
    "addbmm": _addbmm,
    "bilinear": _bilinear,
    "tensordot": _tensordot,
    "einsum": _einsum,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
}
