"""Convolutions of either kind, their arguments read once and typed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.fx as torch_fx

from tilewright.graph.nodes import argument, target_of

aten = torch.ops.aten

FORWARD = {aten.conv1d.default: 1, aten.conv2d.default: 2, aten.conv3d.default: 3}
TRANSPOSED = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2, aten.conv_transpose3d.input: 3}

#: Rank -> the operation of each kind.
FORWARD_OF_RANK = {rank: target for target, rank in FORWARD.items()}
TRANSPOSED_OF_RANK = {rank: target for target, rank in TRANSPOSED.items()}


@dataclass(frozen=True)
class ConvolutionDim:
    """One spatial dim of a convolution: kernel size in taps, and its hyperparameters in positions.

    Tap t at output o reads input `i = o * stride - padding + t * dilation`; of a transposed convolution, tap t at
    input i writes output `o = i * stride - padding + t * dilation`.
    """

    size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    output_padding: int = 0

    @property
    def reach(self) -> int:
        """From the first tap to the last, positions."""
        return self.dilation * (self.size - 1)

    @property
    def transposed_constant(self) -> int:
        """What a transposed convolution adds to `(input size - 1) * stride` for its output size."""
        return self.reach + 1 + self.output_padding - 2 * self.padding


@dataclass(frozen=True)
class Convolution:
    """A convolution of either kind.

    Attributes:
        dims: the spatial dims, outer to inner.
        groups: of channels.
        transposed: which kind.
    """

    dims: tuple[ConvolutionDim, ...]
    groups: int
    transposed: bool

    @property
    def rank(self) -> int:
        """Spatial dims."""
        return len(self.dims)


def is_convolution(node: torch_fx.Node) -> bool:
    """True for a convolution of either kind."""
    return node.op == "call_function" and (target_of(node) in FORWARD or target_of(node) in TRANSPOSED)


def each_dim(value: object, rank: int) -> tuple[int, ...]:
    """A hyperparameter for each dim: one value holds for all."""
    listed = [value] if isinstance(value, int) else list(value)  # type: ignore[call-overload]
    return tuple(listed * rank if len(listed) == 1 else listed)


def read_convolution(node: torch_fx.Node) -> Convolution | None:
    """A node's convolution; None for any other operation, and where the padding is a word."""
    if not is_convolution(node):
        return None
    transposed = target_of(node) in TRANSPOSED
    rank = (TRANSPOSED if transposed else FORWARD)[target_of(node)]
    weight, padding = node.args[1], argument(node, 4, 0)
    if isinstance(padding, str) or not isinstance(weight, torch_fx.Node):
        return None
    sizes = [int(size) for size in weight.meta["val"].shape[2:]]
    stride, pads = each_dim(argument(node, 3, 1), rank), each_dim(padding, rank)
    extra = each_dim(argument(node, 5, 0), rank) if transposed else (0,) * rank
    dilation = each_dim(argument(node, 7 if transposed else 5, 1), rank)
    dims = tuple(ConvolutionDim(*values) for values in zip(sizes, stride, pads, dilation, extra, strict=True))
    return Convolution(dims, int(argument(node, 6, 1)), transposed)
