"""Collapses: rules that remove most of the work of a module, each reported by name.

The mean of a convolution over all its positions needs no convolution: every weight meets the sum of the inputs
that its tap reads, which is the sum of all inputs less a few border rows. What is left is one pass over the input
and a small matrix product.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import argument, is_one, listed_dims, source_of, target_of
from tilewright.graph.rewrite import Editor, Rule

aten = torch.ops.aten

_FORWARD = {aten.conv1d.default: 1, aten.conv2d.default: 2, aten.conv3d.default: 3}
_TRANSPOSED = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2, aten.conv_transpose3d.input: 3}
_TO_THE_END = 2**63 - 1


@dataclass(frozen=True)
class Strip:
    """Input positions at one end of a dim that some taps never read for a valid output.

    Attributes:
        start, end: as a slice takes them.
        taps: first and last of the taps that leave these positions out.
    """

    start: int
    end: int
    taps: tuple[int, int]


def unread_strips(
    size: int, stride: int, padding: int, extra: int, dilation: int, transposed: bool
) -> list[Strip] | None:
    """The strips of one dim; None where they depend on the input's size.

    Tap t of a transposed convolution reads `i` for outputs `o = i * stride - padding + t * dilation` inside the
    output; of a convolution with stride 1, `i = o - padding + t * dilation` inside the input.
    """
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    for tap in range(size):
        reach = dilation * (size - 1 - tap)
        if transposed:
            low = max(0, -((tap * dilation - padding) // stride))
            high = max(0, -((reach + extra - padding) // stride))
        elif stride == 1:
            low, high = max(0, tap * dilation - padding), max(0, reach - padding)
        else:
            return None
        if low and high:
            return None  # in an input shorter than both, they would overlap
        if low:
            before.setdefault(low, []).append(tap)
        if high:
            after.setdefault(high, []).append(tap)
    strips = [Strip(0, low, (taps[0], taps[-1])) for low, taps in before.items()]
    return strips + [Strip(-high, _TO_THE_END, (taps[0], taps[-1])) for high, taps in after.items()]


def _each(value: object, rank: int) -> list[int]:
    listed = [value] if isinstance(value, int) else list(value)  # type: ignore[call-overload]
    return listed * rank if len(listed) == 1 else listed


def _strips_of(node: torch_fx.Node) -> list[list[Strip]] | None:
    transposed = target_of(node) in _TRANSPOSED
    rank = (_TRANSPOSED if transposed else _FORWARD)[target_of(node)]
    padding = argument(node, 4, 0)
    groups = argument(node, 6, 1)
    if isinstance(padding, str) or groups != 1 or argument(node, 2) is not None:
        return None
    stride, pads = _each(argument(node, 3, 1), rank), _each(padding, rank)
    extra = _each(argument(node, 5, 0), rank) if transposed else [0] * rank
    dilation = _each(argument(node, 7 if transposed else 5, 1), rank)
    weight = node.args[1]
    assert isinstance(weight, torch_fx.Node)
    found = []
    for dim in range(rank):
        size = int(weight.meta["val"].shape[2 + dim])
        strips = unread_strips(size, stride[dim], pads[dim], extra[dim], dilation[dim], transposed)
        if strips is None:
            return None
        found.append(strips)
    return found


def _mean_of_convolution(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    convolution = source_of(node)
    if target_of(convolution) not in {**_FORWARD, **_TRANSPOSED} or node.kwargs or len(convolution.users) != 1:
        return None
    rank = convolution.meta["val"].dim() - 2
    x, weight = convolution.args[:2]
    if (
        not isinstance(x, torch_fx.Node)
        or x.meta["val"].dim() != rank + 2
        or listed_dims(node) != tuple(range(2, rank + 2))
    ):
        return None
    strips = _strips_of(convolution)
    if strips is None:
        return None
    sums, weights = _pieces(editor, x, weight, strips, target_of(convolution) in _TRANSPOSED)
    total = editor.call(aten.linear.default, _concatenated(editor, sums), _concatenated(editor, weights))
    count = _positions(editor, convolution, rank)
    mean = editor.call(aten.div.Tensor, total, count)
    if not argument(node, 2):
        return mean
    return editor.call(aten.view.default, mean, [-1, _channels(convolution)] + [1] * rank)


def _channels(convolution: torch_fx.Node) -> int:
    return int(convolution.meta["val"].shape[1])


def _pieces(
    editor: Editor, x: torch_fx.Node, weight: Any, strips: Sequence[Sequence[Strip]], transposed: bool
) -> tuple[list[torch_fx.Node], list[torch_fx.Node]]:
    """Sums of the input over each combination of strips (None: the whole dim), and of the taps that leave it out."""
    dims = list(range(2, 2 + len(strips)))
    sums, weights = [], []
    for chosen in product(*([None, *of_dim] for of_dim in strips)):
        part, taps, sign = x, weight, 1
        for dim, strip in zip(dims, chosen, strict=True):
            if strip is not None:
                part = editor.call(aten.slice.Tensor, part, dim, strip.start, strip.end)
                taps = editor.call(aten.slice.Tensor, taps, dim, strip.taps[0], strip.taps[1] + 1)
                sign = -sign
        piece = editor.call(aten.sum.dim_IntList, part, dims)
        sums.append(piece if sign > 0 else editor.call(aten.neg.default, piece))
        matrix = editor.call(aten.sum.dim_IntList, taps, dims)
        weights.append(editor.call(aten.permute.default, matrix, [1, 0]) if transposed else matrix)
    return sums, weights


def _concatenated(editor: Editor, parts: list[torch_fx.Node]) -> torch_fx.Node:
    return parts[0] if len(parts) == 1 else editor.call(aten.cat.default, parts, 1)


def _positions(editor: Editor, convolution: torch_fx.Node, rank: int) -> Any:
    """How many output positions there are, from the sizes of the convolution's input."""
    transposed = target_of(convolution) in _TRANSPOSED
    x, weight = convolution.args[:2]
    assert isinstance(x, torch_fx.Node)
    assert isinstance(weight, torch_fx.Node)
    stride, padding = _each(argument(convolution, 3, 1), rank), _each(argument(convolution, 4, 0), rank)
    extra = _each(argument(convolution, 5, 0), rank) if transposed else [0] * rank
    dilation = _each(argument(convolution, 7 if transposed else 5, 1), rank)
    count: Any = None
    for dim in range(rank):
        reach = dilation[dim] * (int(weight.meta["val"].shape[2 + dim]) - 1)
        size = editor.call(aten.sym_size.int, x, 2 + dim)
        if transposed:
            size = editor.call(operator.mul, size, stride[dim])
            constant = reach + extra[dim] + 1 - 2 * padding[dim] - stride[dim]
        else:
            constant = 2 * padding[dim] - reach
        size = editor.call(operator.add, size, constant)
        count = size if count is None else editor.call(operator.mul, count, size)
    return count


def _leads_to_convolution(node: torch_fx.Node) -> bool:
    while target_of(node) in (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor):
        if len(node.users) != 1 or not isinstance(node.args[0], torch_fx.Node):
            return False
        node = node.args[0]
    return target_of(node) in {**_FORWARD, **_TRANSPOSED} and len(node.users) == 1


def _mean_of_affine(editor: Editor, node: torch_fx.Node, graph: Graph) -> torch_fx.Node | None:
    affine = source_of(node)
    if target_of(affine) not in (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor):
        return None
    if node.kwargs or affine.kwargs or not _leads_to_convolution(affine):
        return None
    value, other = affine.args
    dims = listed_dims(node)
    if isinstance(other, torch_fx.Node) and not _constant_along(other, dims, affine.meta["val"].dim()):
        return None
    mean = editor.call(aten.mean.dim, value, list(dims), True)
    result = editor.call(affine.target, mean, other)
    return result if argument(node, 2) else editor.call(aten.squeeze.dims, result, list(dims))


def _constant_along(other: torch_fx.Node, dims: Sequence[int], rank: int) -> bool:
    shape = other.meta["val"].shape
    return all(dim - (rank - len(shape)) < 0 or is_one(shape[dim - (rank - len(shape))]) for dim in dims)


COLLAPSE_RULES: tuple[Rule, ...] = (
    Rule(
        "mean of an affine map of a convolution",
        "mean(conv(x) * a + b) -> mean(conv(x)) * a + b, for a and b constant along the mean",
        (aten.mean.dim,),
        _mean_of_affine,
    ),
    Rule(
        "mean of a convolution",
        "mean(conv(x, w), all positions) -> sum over strips of x @ sum over taps of w / positions",
        (aten.mean.dim,),
        _mean_of_convolution,
        collapse=True,
    ),
)
