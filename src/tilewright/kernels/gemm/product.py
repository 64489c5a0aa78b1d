"""Matrix products in a graph: which nodes are one, and how their operands' dims follow rows, columns and batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph, has_data_dependent_size
from tilewright.graph.nodes import is_one, source_of, target_of
from tilewright.graph.tap_sums import COLLAPSED
from tilewright.kernels.regions.region import AxisMap, permutation

aten = torch.ops.aten

PERMUTATIONS = (aten.t.default, aten.transpose.int, aten.permute.default)

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_PRODUCTS = (aten.matmul.default, aten.mm.default, aten.bmm.default)


@dataclass(frozen=True)
class Product:
    """left [.., M, K] x right [.., K, N] -> [.., M, N].

    Attributes:
        node: the operation.
        left: the node of the left operand.
        right: the node of the right operand, without transposes of its matrices.
        right_is_transposed: `right` lies as [.., N, K].
        batch: leading dims of the output that choose a matrix; all other dims but the last are rows.
        rank: dims of the output.
    """

    node: torch_fx.Node
    left: torch_fx.Node
    right: torch_fx.Node
    right_is_transposed: bool
    batch: int
    rank: int

    @property
    def columns(self) -> int:
        """The output's dim that holds the columns."""
        return self.rank - 1

    @property
    def dtype(self) -> torch.dtype:
        """Of the operands."""
        dtype: torch.dtype = self.left.meta["val"].dtype
        return dtype

    @property
    def left_map(self) -> AxisMap:
        """Output dims that the left operand's dims follow; the inner dim of the product counts as one more."""
        return _aligned(self.left, (*range(self.rank - 1), self.rank))

    @property
    def right_map(self) -> AxisMap:
        """The same for the right operand."""
        inner = (self.rank - 1, self.rank) if self.right_is_transposed else (self.rank, self.rank - 1)
        return _aligned(self.right, (*range(self.batch), *inner))

    def sizes(self, graph: Graph) -> tuple[int, int, int, int]:
        """(batch, M, N, K) at the example inputs, elements."""
        output, left = graph.shape_of(self.node), graph.shape_of(self.left)
        batch, rows = 1, 1
        for dim, size in enumerate(output[:-1]):
            if dim < self.batch:
                batch *= size
            else:
                rows *= size
        return batch, rows, output[-1], left[-1]


def _aligned(node: torch_fx.Node, axes: tuple[int, ...]) -> AxisMap:
    sizes = node.meta["val"].shape
    aligned = axes[len(axes) - len(sizes) :]
    return tuple(None if is_one(size) else axis for size, axis in zip(sizes, aligned, strict=True))


def find_product(node: torch_fx.Node) -> Product | None:
    """The product that a node is; None for anything else, for products with vectors, and for what a collapse left."""
    if node.op != "call_function" or COLLAPSED in node.meta or has_data_dependent_size(node):
        return None
    transposed = target_of(node) is aten.linear.default
    if not (transposed or target_of(node) in _PRODUCTS):
        return None
    if transposed and (len(node.args) > 2 and node.args[2] is not None):
        return None
    left, right = node.args[:2]
    if not isinstance(left, torch_fx.Node) or not isinstance(right, torch_fx.Node) or not _are_floats(left, right):
        return None
    ranks = left.meta["val"].dim(), right.meta["val"].dim()
    if min(ranks) < 2 or is_one(node.meta["val"].shape[-1]) or is_one(left.meta["val"].shape[-1]):
        return None
    rank = node.meta["val"].dim()
    while (order := _order(right)) is not None and sorted(order) == list(range(ranks[1])):
        last = order[-2:]
        if order[:-2] != list(range(ranks[1] - 2)):
            break
        transposed = transposed != (last[0] > last[1])
        right = source_of(right)
    batch = 0 if ranks[1] == 2 else rank - 2
    return Product(node, left, right, transposed, batch, rank)


def _are_floats(left: torch_fx.Node, right: torch_fx.Node) -> bool:
    dtypes = {left.meta["val"].dtype, right.meta["val"].dtype}
    return len(dtypes) == 1 and dtypes <= set(_FLOATS)


def _order(node: torch_fx.Node) -> list[int] | None:
    """The dims of a permutation's input, in the order of its output; None for anything else."""
    if node.op != "call_function" or target_of(node) not in PERMUTATIONS:
        return None
    return permutation(node, source_of(node).meta["val"].dim())
