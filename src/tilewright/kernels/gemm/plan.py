"""Plans of GEMM anchors: a matrix product and what follows it, in one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph, size_hint
from tilewright.graph.nodes import argument, target_of
from tilewright.kernels.gemm.product import Product, find_product
from tilewright.kernels.operands import Operands
from tilewright.kernels.regions.tiles import TileOperand, TileRegion, grow_tiles

aten = torch.ops.aten


#: Columns that the finish of split products can hold in a tile.
_SPLIT_COLUMNS = 4096


@dataclass(frozen=True)
class GemmSchedule:
    """How a GEMM anchor is cut.

    Attributes:
        operands: what is multiplied.
        block_m, block_n, block_k: a tile's rows and columns, and the step along the inner dim; powers of two.
        num_warps, num_stages: of the launch.
        descriptors: operands are read, and plain outputs written, through tensor descriptors, by programs that
            stay and walk over the tiles; for targets with a tensor memory accelerator. Not planned for TF32 (see
            `gemm_schedules`).
        parts: a tile is finished and stored in so many pieces, one after the other.
        flat: with descriptors, tiles and steps are one pipelined loop: the next tile is loaded while this is finished.
        split: programs that share a tile's inner dim; more than 1 means partial products and a finish.
        group_m: row blocks that are walked together, so that their operands stay in the cache.
        programs: of a kernel whose programs stay, at most.
    """

    operands: Operands
    block_m: int = 128
    block_n: int = 128
    block_k: int = 64
    num_warps: int = 8
    num_stages: int = 3
    descriptors: bool = False
    parts: int = 1
    split: int = 1
    group_m: int = 8
    programs: int = 132
    flat: bool = False

    @property
    def finish_columns(self) -> int:
        """Columns at most that lie together when what follows the product is computed."""
        return self.block_n if self.split == 1 else _SPLIT_COLUMNS

    def describe(self) -> str:
        """One line for people."""
        ways = [f"{self.operands.value} operands", f"tiles of {self.block_m} x {self.block_n} x {self.block_k}"]
        ways += [f"{self.num_warps} warps", f"{self.num_stages} stages"]
        ways += ["tensor descriptors"] if self.descriptors else []
        ways += ["one loop over tiles and steps"] if self.flat else []
        ways += [f"stored in {self.parts} pieces"] if self.parts > 1 else []
        ways += [f"inner dim in {self.split} parts"] if self.split > 1 else []
        return ", ".join(ways)

    def shared_bytes(self, itemsize: int) -> int:
        """Shared memory of the pipelined loop and of the staged store, bytes."""
        size = 2 if self.operands is Operands.HALF else itemsize
        loop = self.num_stages * self.block_k * (self.block_m + self.block_n) * size
        stored = self.block_m * self.block_n // self.parts * 4 if self.descriptors else 0
        return loop + stored


@dataclass(frozen=True)
class OperandPlaces:
    """Which dims of which tensors follow one axis: what a wrapper relies on without looking.

    Attributes:
        operands: tensors, with their maps.
        axis_levels: one entry for each axis.
    """

    operands: tuple[TileOperand, ...]
    axis_levels: tuple[int, ...]


@dataclass(frozen=True)
class GemmPlan:
    """A product, its epilogue and its row reductions, in one kernel (and a finish where rows span tiles).

    Attributes:
        name: of kernel and wrapper, without suffix.
        product: the anchor.
        tiles: what follows.
        schedule: how it is cut.
        whole_rows: a tile's columns are all columns, which the wrapper checks.
    """

    name: str
    product: Product
    tiles: TileRegion
    schedule: GemmSchedule
    whole_rows: bool

    @property
    def anchor(self) -> torch_fx.Node:
        """The product's node."""
        return self.product.node

    @property
    def nodes(self) -> tuple[torch_fx.Node, ...]:
        """All nodes that it computes."""
        return (self.product.node, *self.tiles.nodes)

    @property
    def outputs(self) -> tuple[torch_fx.Node, ...]:
        """The nodes whose values it stores."""
        return self.tiles.outputs

    @property
    def region(self) -> OperandPlaces:
        """What its wrapper relies on."""
        own = (
            TileOperand(self.product.left, self.product.left_map),
            TileOperand(self.product.right, self.product.right_map),
        )
        return OperandPlaces((*own, *self.tiles.operands), (0,) * (self.product.rank + 1))

    @property
    def partial_rows(self) -> bool:
        """Row reductions are finished by a second kernel."""
        return bool(self.tiles.reductions) and not self.whole_rows


def find_products(graph: Graph) -> tuple[Product, ...]:
    """All products of a graph that an anchor can compute, in execution order."""
    found = (find_product(node) for node in graph.fx.nodes)
    return tuple(product for product in found if product is not None)


def grow(product: Product, schedule: GemmSchedule, taken: frozenset[torch_fx.Node] = frozenset()) -> TileRegion:
    """What the schedule's tiles can compute after the product."""
    width = schedule.finish_columns
    whole = size_hint(product.node.meta["val"].shape[-1]) <= width and readable_right(product) is not None
    return grow_tiles(
        product.node,
        whole_rows=whole,
        row_results=whole or schedule.split == 1,
        group=width // schedule.parts,
        taken=taken,
    )


def readable_right(product: Product) -> torch_fx.Node | None:
    """A tensor that the module is given, of the right operand's shape: the operand itself, or what it is made of."""
    shape = tuple(map(str, product.right.meta["val"].shape))
    waiting, seen = [product.right], {product.right}
    while waiting:
        node = waiting.pop(0)
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor) and tuple(map(str, value.shape)) == shape:
            return node
        waiting += [source for source in node.all_input_nodes if source not in seen]
        seen |= set(node.all_input_nodes)
    return None


def wants_whole_rows(product: Product) -> bool:
    """Tiles that hold whole rows would take in more of the graph than others."""
    whole = grow_tiles(product.node, whole_rows=True, row_results=True, group=1 << 30)
    return whole.whole_rows or bool(whole.reductions)


def group_size(product: Product) -> int:
    """Columns of the largest group of a group norm that follows at once; 0 for none."""
    tiles = grow_tiles(product.node, whole_rows=False, row_results=False, group=1 << 30)
    norms = [node for node in tiles.nodes if target_of(node) is aten.group_norm.default]
    return max((int(n.meta["val"].shape[1]) // int(argument(n, 1)) for n in norms), default=0)


def plan_gemms(
    graph: Graph, schedules: Sequence[GemmSchedule]
) -> tuple[tuple[Product, TileRegion, GemmSchedule, bool], ...]:
    """A region for each product, none overlapping: (product, region, schedule, whole rows).

    Args:
        graph: the canonical graph.
        schedules: for the products in execution order; the last one holds for all that are left.
    """
    products = find_products(graph)
    taken = {product.node for product in products}
    found = []
    for position, product in enumerate(products if schedules else ()):
        schedule = schedules[min(position, len(schedules) - 1)]
        if (product.dtype is torch.float32) == (schedule.operands is Operands.GIVEN):
            continue
        if schedule.descriptors and not _can_describe(product, schedule):
            schedule = replace(schedule, descriptors=False, parts=1)
        tiles = grow(product, schedule, frozenset(taken))
        taken |= set(tiles.nodes)
        columns = size_hint(product.node.meta["val"].shape[-1])
        whole = (tiles.whole_rows or bool(tiles.reductions)) and columns <= schedule.finish_columns
        whole = whole and readable_right(product) is not None
        found.append((product, tiles, schedule, whole))
    return tuple(found)


def _can_describe(product: Product, schedule: GemmSchedule) -> bool:
    """Tensor descriptors can describe the operands."""
    if product.batch or readable_right(product) is None:
        return False
    return schedule.operands is Operands.HALF or rows_are_aligned(product)


def rows_are_aligned(product: Product) -> bool:
    """Rows of both operands begin at multiples of 16 bytes, as descriptors need, and follow each other."""
    itemsize = product.dtype.itemsize
    if readable_right(product) is None:
        return False
    inner = size_hint(product.left.meta["val"].shape[-1])
    columns = size_hint(product.node.meta["val"].shape[-1])
    last = inner if product.right_is_transposed else columns
    return inner * itemsize % 16 == 0 and last * itemsize % 16 == 0
