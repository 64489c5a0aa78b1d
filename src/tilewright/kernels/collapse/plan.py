"""Plans of collapsed convolutions: sums over planes of the input, a small product and what follows, in one launch.

Along each dim, the positions that taps leave out cut the input into segments; a plane's cells are their products.
Each cell is summed once, and a tap's sum is the sum of the cells that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.fx as torch_fx

from tilewright.graph.convolutions import Convolution, ConvolutionDim
from tilewright.graph.nodes import is_one, target_of
from tilewright.graph.tap_sums import COLLAPSED, SLICE, WEIGHTS, CollapsedConvolution, tap_reads
from tilewright.kernels.regions.region import AxisMap, Operand, Region

aten = torch.ops.aten

#: More cells are not summed one by one: each tap's sum is taken under a mask.
_MAX_CELLS = 27

#: Output channels of a group that one program holds.
_MAX_CHANNELS = 4096

_TENSORS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class CollapseTiles:
    """Tile sizes of a collapsed convolution.

    Attributes:
        block: elements of one load.
        unroll: loads in flight.
        elements: of a program at least, where planes are smaller.
        num_warps: of a program.
        target_programs: fewer are split over parts of a plane.
        lane_cells: so many cells are summed beside each other; of more, the border cells are read again.
    """

    block: int = 1024
    unroll: int = 4
    elements: int = 32768
    num_warps: int = 4
    target_programs: int = 512
    lane_cells: int = 8


@dataclass(frozen=True)
class DimSegments:
    """One dim cut where taps begin or end to read.

    Attributes:
        lows: how many positions at the start some tap leaves out, rising, 0 first.
        highs: the same at the end.
        reads: for each tap, (positions left out at the start, at the end).
    """

    lows: tuple[int, ...]
    highs: tuple[int, ...]
    reads: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """Segments: before the interior, the interior, after it."""
        return len(self.lows) + len(self.highs) - 1

    @property
    def interior(self) -> int:
        """Index of the interior among the segments."""
        return len(self.lows) - 1

    def start(self, index: int, size: str) -> str:
        """First position of a segment, as text of the size's name."""
        if index <= self.interior:
            return str(self.lows[index])
        return f"{size} - {self.highs[self.interior - index]}"

    def length(self, index: int, size: str) -> str:
        """Positions of a segment, as text of the size's name."""
        if index < self.interior:
            return str(self.lows[index + 1] - self.lows[index])
        if index > self.interior:
            after = len(self.highs) - (index - self.interior)
            return str(self.highs[after] - self.highs[after - 1])
        left_out = self.lows[-1] + self.highs[-1]
        return f"{size} - {left_out}" if left_out else size

    def inside(self, index: int, size: str) -> str:
        """Whether a position, named like the size in small letters, lies in a segment."""
        name = size.lower()
        checks = [f"({name} >= {self.start(index, size)})"] if index else []
        checks += [f"({name} < {self.start(index + 1, size)})"] if index < self.count - 1 else []
        return " & ".join(checks)

    def covered(self, tap: int) -> tuple[int, ...]:
        """Segments that a tap reads."""
        low, high = self.reads[tap]
        first = self.lows.index(low)
        last = self.interior + (len(self.highs) - 1 - self.highs.index(high))
        return tuple(range(first, last + 1))


def dim_segments(dim: ConvolutionDim, transposed: bool) -> DimSegments | None:
    """The segments of one dim; None where a stride makes taps skip positions."""
    found = [tap_reads(dim, tap, transposed) for tap in range(dim.size)]
    reads = [(read.start, read.left_out) for read in found if read.left_out is not None]
    if len(reads) < len(found):
        return None
    lows = tuple(sorted({0, *(low for low, _ in reads)}))
    highs = tuple(sorted({0, *(high for _, high in reads)}))
    return DimSegments(lows, highs, tuple(reads))


@dataclass(frozen=True)
class CollapsePlan:
    """A collapsed convolution and what follows it.

    Attributes:
        name: of kernel and wrapper, without suffix.
        anchor: the node of the collapsed convolution's result, [N, CO].
        x: the input, [N, C, spatial...].
        weight: the convolution's weights, as torch has them.
        convolution: what was collapsed.
        mean: divided by the number of positions.
        region: the anchor's epilogue; without one, only the anchor.
        tiles: tile sizes.
    """

    name: str
    anchor: torch_fx.Node
    x: torch_fx.Node
    weight: torch_fx.Node
    convolution: Convolution
    mean: bool
    region: Region
    inside: frozenset[torch_fx.Node] = field(default_factory=frozenset)
    tiles: CollapseTiles = field(default_factory=CollapseTiles)

    @property
    def segments(self) -> tuple[DimSegments, ...] | None:
        """The dims' segments; None where sums are taken tap by tap, under masks."""
        dims = [dim_segments(dim, self.convolution.transposed) for dim in self.convolution.dims]
        known = tuple(dim for dim in dims if dim is not None)
        cells = 1
        for dim in known:
            cells *= dim.count
        return known if len(known) == len(dims) and cells <= _MAX_CELLS else None

    @property
    def taps(self) -> int:
        """Taps in all."""
        count = 1
        for dim in self.convolution.dims:
            count *= dim.size
        return count


def collapsed_of(node: torch_fx.Node) -> CollapsedConvolution | None:
    """What a node remembers of the convolution that it replaced."""
    found = node.meta.get(COLLAPSED)
    return found if isinstance(found, CollapsedConvolution) else None


def bare_region(anchor: torch_fx.Node) -> Region:
    """The region of an anchor that nothing follows."""
    sizes = anchor.meta["val"].shape
    map_: AxisMap = tuple(None if is_one(size) else index for index, size in enumerate(sizes))
    axes = tuple(axis for axis in map_ if axis is not None)
    renumbered = tuple(None if axis is None else axes.index(axis) for axis in map_)
    sources = tuple((0, dim) for dim, axis in enumerate(map_) if axis is not None)
    return Region(
        anchor, (), (Operand(anchor, renumbered, 0),), {anchor: renumbered}, {anchor: 0}, (0,) * len(axes), sources
    )


def collapsed_operands(anchor: torch_fx.Node) -> tuple[torch_fx.Node, torch_fx.Node, frozenset[torch_fx.Node]] | None:
    """(input, weights, nodes between) of a collapsed convolution, found again in the graph that the rule wrote."""
    inside = {anchor}
    node = anchor
    if target_of(node) is aten.div.Tensor:
        node = _first(node)
        inside.add(node)
    if target_of(node) is aten.reshape.default:
        node = _first(node)
        inside.add(node)
    if target_of(node) not in (aten.linear.default, aten.matmul.default):
        return None
    weight = node.args[1]
    assert isinstance(weight, torch_fx.Node)
    while weight.meta.get(COLLAPSED) == WEIGHTS:
        weight = _first(weight)
    x = _input_of(node, inside)
    if x is None or any(user not in inside for between in inside - {anchor} for user in between.users):
        return None
    return x, weight, frozenset(inside)


def _first(node: torch_fx.Node) -> torch_fx.Node:
    first = node.args[0]
    first = first[0] if isinstance(first, list | tuple) else first
    assert isinstance(first, torch_fx.Node)
    return first


def _input_of(product: torch_fx.Node, inside: set[torch_fx.Node]) -> torch_fx.Node | None:
    """Walk from the product to the tensor whose slices are summed."""
    ends: set[torch_fx.Node] = set()
    open_nodes = [product.args[0]]
    while open_nodes:
        node = open_nodes.pop()
        assert isinstance(node, torch_fx.Node)
        inside.add(node)
        if target_of(node) is aten.cat.default:
            open_nodes += list(node.args[0])  # type: ignore[arg-type]
        elif target_of(node) in (aten.unflatten.int, aten.unsqueeze.default):
            open_nodes.append(node.args[0])
        elif target_of(node) is aten.sum.dim_IntList:
            part = _first(node)
            while part.meta.get(COLLAPSED) == SLICE:
                inside.add(part)
                part = _first(part)
            ends.add(part)
        else:
            return None
    return next(iter(ends)) if len(ends) == 1 else None


def plan_collapse(anchor: torch_fx.Node, region: Region | None, name: str, tiles: CollapseTiles) -> CollapsePlan | None:
    """One launch for a collapsed convolution and its epilogue; None where it does not fit one.

    Args:
        anchor: a node that `collapsed_of` knows.
        region: what follows it; None for nothing.
        name: of kernel and wrapper.
        tiles: tile sizes.
    """
    collapsed, operands = collapsed_of(anchor), collapsed_operands(anchor)
    if collapsed is None or operands is None:
        return None
    x, weight, inside = operands
    if target_of(x) is aten._to_copy.default and _first(x).meta["val"].dtype in _TENSORS:
        inside |= {x} if all(user in inside for user in x.users) else set()
        x = _first(x)
    if x.meta["val"].dtype not in _TENSORS:
        return None
    if int(anchor.meta["val"].shape[1]) // collapsed.convolution.groups > _MAX_CHANNELS:
        return None
    region = region or bare_region(anchor)
    own = next((operand for operand in region.operands if operand.node is anchor), None)
    if own is None or region.depth or not _follows(region, own):
        return None
    return CollapsePlan(name, anchor, x, weight, collapsed.convolution, collapsed.mean, region, inside, tiles)


def _follows(region: Region, own: Operand) -> bool:
    """Every value of the region lies along the anchor's own axes, in their order."""
    axes = [axis for axis in own.map if axis is not None]
    root = [axis for axis in region.maps[region.root] if axis is not None]
    return root == axes and len(own.map) == 2 and set(range(len(region.axis_levels))) == set(axes)
