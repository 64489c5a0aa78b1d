"""A convolution reduced over spatial dims, as sums of its input for each tap.

Tap t of a transposed convolution meets the inputs whose outputs `i * stride - padding + t * dilation` lie inside
the output; of a convolution, the inputs `o * stride - padding + t * dilation` inside the input. The sum of the
results is the sum over taps of (the sum of the inputs that the tap reads) times its weights.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.convolutions import FORWARD_OF_RANK, TRANSPOSED_OF_RANK, Convolution, ConvolutionDim
from tilewright.graph.nodes import source_of
from tilewright.graph.rewrite import Editor

aten = torch.ops.aten

_TO_THE_END = 2**63 - 1

#: Key in a node's meta: the `CollapsedConvolution` that the node stands for.
COLLAPSED = "collapsed_convolution"

#: Under that key, of the slices of its input that are summed.
SLICE = "slice"

#: Under that key, of the small product that is left.
PRODUCT = "product"

#: Under that key, of the steps from the convolution's weights to that product's matrix.
WEIGHTS = "weights"


@dataclass(frozen=True)
class TapReads:
    """Input positions along one dim that a tap reads for valid outputs.

    Attributes:
        start: the first.
        left_out: positions left out at the end; None where that depends on the input's size (stride above 1).
        step: from one to the next.
        last_offset: with stride above 1, the last position read is `(outputs - 1) * step + last_offset`.
    """

    start: int
    left_out: int | None
    step: int = 1
    last_offset: int = 0

    @property
    def is_everything(self) -> bool:
        """Every position is read."""
        return self.start == 0 and self.left_out == 0 and self.step == 1


def tap_reads(dim: ConvolutionDim, tap: int, transposed: bool) -> TapReads:
    """What a tap reads; positions past the input's end count as left out by whoever slices."""
    offset = tap * dim.dilation - dim.padding
    behind = dim.reach - tap * dim.dilation - dim.padding
    if transposed:
        low, high = -(offset // dim.stride), -((behind + dim.output_padding) // dim.stride)
        return TapReads(max(0, low), max(0, high))
    if dim.stride == 1:
        return TapReads(max(0, offset), max(0, behind))
    return TapReads(offset if offset >= 0 else offset % dim.stride, None, dim.stride, offset)


@dataclass(frozen=True)
class CollapsedConvolution:
    """A convolution reduced over all its positions, as the node that replaces it remembers it.

    Attributes:
        convolution: what it was.
        mean: divided by the number of positions.
    """

    convolution: Convolution
    mean: bool


class TapSums:
    """Builds what replaces a convolution reduced over the spatial dims `reduced` (counted from 0)."""

    def __init__(self, editor: Editor, node: torch_fx.Node, convolution: Convolution, reduced: Sequence[int]) -> None:
        self.editor = editor
        self.node = node
        self.convolution = convolution
        self.reduced = list(reduced)
        self.x = self._wide(source_of(node))
        weight = node.args[1]
        assert isinstance(weight, torch_fx.Node)
        self.weight = self._wide(weight)
        if self.weight is not weight:
            self.weight.meta[COLLAPSED] = WEIGHTS
        self.given = source_of(node)

    def _wide(self, value: torch_fx.Node) -> torch_fx.Node:
        """float16 sums would overflow: sums are taken in float32."""
        if value.meta["val"].dtype in (torch.float16, torch.bfloat16):
            return self.editor.call(aten._to_copy.default, value, dtype=torch.float32)
        return value

    def in_type_of(self, node: torch_fx.Node, value: torch_fx.Node) -> torch_fx.Node:
        """`value` in the type of what it replaces."""
        dtype = node.meta["val"].dtype
        if value.meta["val"].dtype == dtype:
            return value
        return self.editor.call(aten._to_copy.default, value, dtype=dtype)

    def full(self) -> torch_fx.Node:
        """[N, CO]: sums of the input for each tap, times that tap's weights."""
        groups = self.convolution.groups
        sums = self._sums()
        if groups == 1:
            matrix = self._weights(aten.permute.default, self._taps_first(), [2, 0, 1])
            matrix = self._weights(aten.reshape.default, matrix, [self._channels(), -1])
            return self._product(aten.linear.default, self._concatenated(sums, 1), matrix)
        sums = [self.editor.call(aten.unflatten.int, part, 1, [groups, -1]) for part in sums]
        rows = self.editor.call(aten.unsqueeze.default, self._concatenated(sums, 2), 2)
        grouped = self._grouped_taps()
        matrix = self._weights(aten.reshape.default, grouped, [groups, -1, self._channels() // groups])
        result = self._product(aten.matmul.default, rows, matrix)
        return self.editor.call(aten.reshape.default, result, [-1, self._channels()])

    def _product(self, target: Any, rows: torch_fx.Node, matrix: torch_fx.Node) -> torch_fx.Node:
        result = self.editor.call(target, rows, matrix)
        result.meta[COLLAPSED] = PRODUCT
        return result

    def partial(self) -> torch_fx.Node:
        """A convolution over the dims that stay, whose channels are the taps of those that went."""
        groups = self.convolution.groups
        sums = self._sums()
        if groups > 1:
            sums = [self.editor.call(aten.unflatten.int, part, 1, [groups, -1]) for part in sums]
            x = self.editor.call(aten.flatten.using_ints, self._concatenated(sums, 2), 1, 2)
        else:
            x = self._concatenated(sums, 1)
        kept = [dim for dim in range(self.convolution.rank) if dim not in self.reduced]
        dims = [self.convolution.dims[dim] for dim in kept]
        hyper = [[d.stride for d in dims], [d.padding for d in dims]]
        dilation = [d.dilation for d in dims]
        if self.convolution.transposed:
            extra = [d.output_padding for d in dims]
            return self.editor.call(
                TRANSPOSED_OF_RANK[len(kept)], x, self._kept_weight(kept), None, *hyper, extra, groups, dilation
            )
        return self.editor.call(FORWARD_OF_RANK[len(kept)], x, self._kept_weight(kept), None, *hyper, dilation, groups)

    # -- the input -----------------------------------------------------------------------------------------

    def _taps(self) -> list[tuple[int, ...]]:
        return list(product(*(range(self.convolution.dims[dim].size) for dim in self.reduced)))

    def _sums(self) -> list[torch_fx.Node]:
        """For each tap of the reduced dims, the sum of what it reads; taps that read the same share one."""
        known: dict[tuple[TapReads, ...], torch_fx.Node] = {}
        result = []
        for taps in self._taps():
            reads = tuple(
                tap_reads(self.convolution.dims[dim], tap, self.convolution.transposed)
                for dim, tap in zip(self.reduced, taps, strict=True)
            )
            if reads not in known:
                part = self.x
                for dim, read in zip(self.reduced, reads, strict=True):
                    part = self._sliced(part, dim, read)
                known[reads] = self.editor.call(aten.sum.dim_IntList, part, [2 + dim for dim in self.reduced])
            result.append(known[reads])
        return result

    def _sliced(self, part: torch_fx.Node, dim: int, read: TapReads) -> torch_fx.Node:
        if read.is_everything:
            return part
        if read.left_out is not None:
            end: Any = -read.left_out or _TO_THE_END
            return self._slice(part, 2 + dim, read.start, end)
        last = self.editor.call(operator.mul, self._outputs(dim), read.step)
        end = self.editor.call(operator.add, last, read.last_offset - read.step + 1)
        end = self.editor.call(torch.sym_max, end, 0)
        return self._slice(part, 2 + dim, read.start, end, read.step)

    def _slice(self, part: torch_fx.Node, *arguments: Any) -> torch_fx.Node:
        node = self.editor.call(aten.slice.Tensor, part, *arguments)
        node.meta[COLLAPSED] = SLICE
        return node

    def _concatenated(self, parts: list[torch_fx.Node], dim: int) -> torch_fx.Node:
        return parts[0] if len(parts) == 1 else self.editor.call(aten.cat.default, parts, dim)

    # -- the weights ---------------------------------------------------------------------------------------

    def _weights(self, target: Any, *arguments: Any) -> torch_fx.Node:
        node = self.editor.call(target, *arguments)
        node.meta[COLLAPSED] = WEIGHTS
        return node

    def _channels(self) -> int:
        return int(self.node.meta["val"].shape[1])

    def _taps_first(self) -> torch_fx.Node:
        """[taps, C, CO], without groups."""
        spatial = [2 + dim for dim in range(self.convolution.rank)]
        channels = [0, 1] if self.convolution.transposed else [1, 0]
        turned = self._weights(aten.permute.default, self.weight, [*spatial, *channels])
        return self._weights(aten.flatten.using_ints, turned, 0, self.convolution.rank - 1)

    def _grouped_taps(self) -> torch_fx.Node:
        """[groups, taps ..., C of a group, CO of a group]."""
        split = self._weights(aten.unflatten.int, self.weight, 0, [self.convolution.groups, -1])
        spatial = [3 + dim for dim in range(self.convolution.rank)]
        channels = [1, 2] if self.convolution.transposed else [2, 1]
        return self._weights(aten.permute.default, split, [0, *spatial, *channels])

    def _kept_weight(self, kept: Sequence[int]) -> torch_fx.Node:
        """The weight with the reduced dims' taps among its input channels."""
        reduced, last = [2 + dim for dim in self.reduced], [2 + dim for dim in kept]
        if not self.convolution.transposed:
            turned = self.editor.call(aten.permute.default, self.weight, [0, *reduced, 1, *last])
            return self.editor.call(aten.flatten.using_ints, turned, 1, 1 + len(reduced))
        split = self.editor.call(aten.unflatten.int, self.weight, 0, [self.convolution.groups, -1])
        order = [0, *(dim + 1 for dim in reduced), 1, 2, *(dim + 1 for dim in last)]
        turned = self.editor.call(aten.permute.default, split, order)
        return self.editor.call(aten.flatten.using_ints, turned, 0, 1 + len(reduced))

    # -- sizes ---------------------------------------------------------------------------------------------

    def positions(self) -> Any:
        """How many output positions were reduced, from the sizes of the convolution's input."""
        count: Any = None
        for dim in self.reduced:
            size = self._outputs(dim)
            count = size if count is None else self.editor.call(operator.mul, count, size)
        return count

    def _outputs(self, dim: int) -> Any:
        of = self.convolution.dims[dim]
        size = self.editor.call(aten.sym_size.int, self.given, 2 + dim)
        if self.convolution.transposed:
            size = self.editor.call(operator.mul, size, of.stride)
            return self.editor.call(operator.add, size, of.transposed_constant - of.stride)
        size = self.editor.call(operator.add, size, 2 * of.padding - of.reach - 1)
        if of.stride > 1:
            size = self.editor.call(operator.floordiv, size, of.stride)
        return self.editor.call(operator.add, size, 1)
