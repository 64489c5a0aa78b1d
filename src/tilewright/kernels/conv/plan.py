"""Plans of convolution anchors: a convolution of either kind, and what follows it, in one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.fx as torch_fx

from tilewright.graph.convolutions import read_convolution
from tilewright.graph.nodes import listed_dims, source_of
from tilewright.kernels.operands import Operands
from tilewright.kernels.regions.phases import ConvolutionShape, phase_form
from tilewright.kernels.regions.region import REDUCTIONS, Region

aten = torch.ops.aten

#: Phases of the innermost dim that are stored together, so that their columns lie contiguous.
_JOINABLE = (1, 2, 4)

#: Input channels up to which the taps of a row are joined, and elements of such a step at most.
FEW_CHANNELS = 8
_LONGEST_STEP = 128

#: Column phases that are joined with one of zeros.
_PADDED = 3

_MAX_PHASES = 16
_MAX_TAPS = 128

#: Of a strip of rows that keeps its weights, which lie in registers and shared memory: with many more of them the
#: compiler takes minutes. Of a tile that holds all output channels, too: its accumulators are registers.
MAX_KEPT_CHANNELS = 128
_MAX_KEPT_TAPS = 25
_MAX_SHIFTS = 9


@dataclass(frozen=True)
class ConvTiles:
    """Tile sizes of a convolution anchor.

    Attributes:
        block_p: q positions (of one phase) in a tile.
        block_c: output channels in a tile.
        num_warps, num_stages: of the launch.
        block_k: input channels in one step of a product at most; behind a prepass.
        max_registers: of a thread, so that more programs fit on a multiprocessor; 0 for no limit.
        rows: rows that one program walks down with its weights kept; 0 for a tile in one place, behind a prepass.
        by_tap: a step multiplies one tap, not all taps of a kernel row, so that more steps are in flight; behind a
            prepass, and where the innermost dim has one phase.
    """

    block_p: int = 64
    block_c: int = 64
    num_warps: int = 4
    num_stages: int = 2
    rows: int = 0
    block_k: int = 64
    max_registers: int = 0
    by_tap: bool = False

    def describe(self) -> str:
        """A few words for people."""
        kept = f"weights kept over {self.rows} rows, " if self.rows else ""
        steps = f", {self.num_stages} stages of {'one tap' if self.by_tap else f'{self.block_k} channels at most'}"
        limit = f", {self.max_registers} registers at most" if self.max_registers else ""
        tile = f"tiles of {self.block_p} positions by {self.block_c} channels, {self.num_warps} warps"
        return f"{kept}{tile}{'' if self.rows else steps}{limit}"


@dataclass(frozen=True)
class ConvPlan:
    """A convolution and its epilogue, in one kernel: with rows over the channels, or at most one reduction over them.

    Attributes:
        name: of kernel and wrapper, without suffix.
        anchor: the convolution's node.
        shape: its hyperparameters in phase form.
        region: what follows; the anchor is one of its operands.
        reduces_channels: the region's innermost reduction is over the channels.
        tiles: tile sizes.
        reduces_space: spatial dims that the region's root reduces, 0 for the first; what is stored then are
            partial results, which `result` stands for.
        result: the node whose value the step computes; None for the region's root.
        whole_channels: a tile holds all channels; the region reduces them wherever it likes, and uses the results
            on them again.
    """

    name: str
    anchor: torch_fx.Node
    shape: ConvolutionShape
    region: Region
    reduces_channels: bool
    tiles: ConvTiles
    reduces_space: tuple[int, ...] = ()
    result: torch_fx.Node | None = None
    whole_channels: bool = False

    @property
    def sees_all_channels(self) -> bool:
        """No other program computes channels of the same positions."""
        return self.reduces_channels or self.whole_channels

    @property
    def channel_root(self) -> torch_fx.Node:
        """The reduction over channels."""
        return self.region.reductions(self.region.depth)[0]

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels of one group."""
        return group_channels(self.anchor, self.shape)

    @property
    def operands(self) -> Operands:
        """What the tensor cores multiply: float32 as float16, behind a guard; anything else as it is given."""
        return Operands.HALF if source_of(self.anchor).meta["val"].dtype is torch.float32 else Operands.GIVEN

    @property
    def spans_images(self) -> bool:
        """A tile may hold positions of several images: no partial results belong to one, and no strip of rows."""
        return self.tiles.rows == 0 and not self.reduces_space

    @property
    def joins_columns(self) -> bool:
        """Phases of the innermost dim are interleaved in registers and stored together.

        Where the channels are reduced first, only if another operand is read along that dim: an operand's columns read
        by phase are loaded as often as there are phases, in pieces of sectors.
        """
        reduces_apart = self.reduces_channels and not (self.tiles.rows == 0 and self._reads_columns)
        return not reduces_apart and self.shape.columns.output_step in _JOINABLE

    @property
    def _reads_columns(self) -> bool:
        """An operand beside the convolution lies along the innermost dim, which has several phases."""
        last = next(operand.map for operand in self.region.operands if operand.node is self.anchor)[-1]
        others = (operand.map for operand in self.region.operands if operand.node is not self.anchor)
        return self.shape.columns.output_step > 1 and any(last in map_ for map_ in others)

    @property
    def pads_columns(self) -> bool:
        """Three phases of the innermost dim are joined with a fourth of zeros, which is not stored.

        Stored apart they would leave three times as many sectors incomplete; measured on an H100, a kernel of 3 x 3
        phases took 689 us then, and 99 us joined.
        """
        plain = self.tiles.rows == 0 and not (self.reduces_channels or self.reduces_space or self.whole_channels)
        return plain and self.shape.columns.output_step == _PADDED

    @property
    def joins_taps(self) -> bool:
        """Few channels: the taps of a row of the kernel, side by side in memory, are multiplied in one step.

        Padded to a step of their own they would be mostly zeros: 3 channels of 16.
        """
        taps = self.shape.columns.phases[0]
        adjacent = all(after.delta - tap.delta == 1 for tap, after in pairwise(taps))
        plain = self.tiles.rows == 0 and self.shape.groups == 1 and self.shape.columns.output_step == 1
        channels = self.channels[0]
        fits = channels <= FEW_CHANNELS and len(taps) * few_channels_block(channels) <= _LONGEST_STEP
        return plain and adjacent and len(taps) > 1 and fits

    @property
    def stages(self) -> int:
        """Of the pipelined loop: steps of joined taps are short, and many programs hide what they wait for.

        Measured on an H100, 3 channels in 3 dims: 52 us with one stage, 75 us with two.
        """
        return 1 if self.joins_taps else self.tiles.num_stages

    @property
    def packs_columns(self) -> bool:
        """All phases of the innermost dim read the same shifts: one product computes them all."""
        phases = self.shape.columns.phases
        same = len({tuple(tap.delta for tap in taps) for taps in phases}) == 1 and len(phases[0]) > 0
        return self.tiles.rows == 0 and self.joins_columns and self.shape.columns.output_step > 1 and same


def few_channels_block(channels: int) -> int:
    """Channels that a pixel takes where the taps of a row are joined: its elements are copied together."""
    return 1 << max(1, (channels - 1).bit_length())


def convolution_shape(node: torch_fx.Node) -> ConvolutionShape | None:
    """The hyperparameters of a convolution in phase form; None for anything else, or beyond what is emitted."""
    found = read_convolution(node)
    if found is None:
        return None
    shape = phase_form(found)
    phases = shape.row_phases * shape.columns.output_step
    return shape if phases <= _MAX_PHASES and shape.tap_count <= _MAX_TAPS else None


def channel_reduction(region: Region, anchor: torch_fx.Node) -> bool | None:
    """What a convolution anchor can do with a region that follows it.

    Returns:
        False for a pointwise epilogue, True for one that ends in a reduction over the channels alone, None for
        anything else.
    """
    operands = [operand for operand in region.operands if operand.node is anchor]
    if len(operands) != 1 or any(size is None for size in operands[0].map):
        return None
    if region.depth == 0:
        return False if region.maps[region.root] == operands[0].map else None
    root = region.root
    if region.depth == 1 and root.target in REDUCTIONS and region.axes_of_level(1) == (operands[0].map[1],):
        return True if listed_dims(root) == (1,) and operands[0].level == 1 else None
    return None


def innermost_channel_reduction(region: Region, anchor: torch_fx.Node) -> torch_fx.Node | None:
    """The reduction over the anchor's channels at which a deeper region is cut; None where there is none."""
    operands = [operand for operand in region.operands if operand.node is anchor]
    if len(operands) != 1 or any(axis is None for axis in operands[0].map) or operands[0].level != region.depth:
        return None
    reductions = region.reductions(region.depth)
    if region.axes_of_level(region.depth) != (operands[0].map[1],) or len(reductions) != 1:
        return None
    return reductions[0] if reductions[0] is not region.root else None


def spatial_reduction(region: Region, anchor: torch_fx.Node) -> tuple[int, ...] | None:
    """Spatial dims over which a region's root reduces what follows a convolution.

    Returns:
        (0,) where the root reduces the first spatial dim of a convolution in 2 dims, all of them where it reduces
        all: of the convolution's own values or of their reduction over the channels, where nothing but the values
        of the convolution is needed after the channels are gone. None for anything else.
    """
    operands = [operand for operand in region.operands if operand.node is anchor]
    if len(operands) != 1 or any(axis is None for axis in operands[0].map):
        return None
    axes = operands[0].map
    depth = region.depth
    if region.root.target not in REDUCTIONS or depth not in (1, 2) or operands[0].level != depth:
        return None
    if any(len(region.reductions(level)) != 1 for level in range(1, depth + 1)):
        return None
    if depth == 2 and (region.axes_of_level(2) != (axes[1],) or any(o.level < 2 for o in region.operands)):
        return None
    reduced = set(region.axes_of_level(1))
    kept = [axes[0], *(axes[1:2] if depth == 1 else ()), *(a for a in axes[2:] if a not in reduced)]
    source = source_of(region.root)
    followed = axes if source is anchor else region.maps[source]
    if [axis for axis in followed if axis not in reduced and axis is not None] != kept:
        return None
    if reduced == set(axes[2:]):
        return tuple(range(len(axes) - 2))
    return (0,) if len(axes) == 4 and reduced == {axes[2]} else None


def keeps_weights(anchor: torch_fx.Node, shape: ConvolutionShape, reduces_channels: bool) -> bool:
    """A strip of rows can keep all its taps: 2 dims, few channels, few shifts of the input in flight.

    Channels that are reduced must all be there at once.
    """
    channels, outputs = group_channels(anchor, shape)
    if shape.rank != 2 or (reduces_channels and (shape.groups > 1 or outputs > MAX_KEPT_CHANNELS)):
        return False
    shifts = 1
    for dim in shape.dims:
        shifts *= len({tap.delta for phase in dim.phases for tap in phase})
    return channels <= MAX_KEPT_CHANNELS and shape.tap_count <= _MAX_KEPT_TAPS and shifts <= _MAX_SHIFTS


def whole_block(channels: int) -> int:
    """Channels of a tile that holds all of them."""
    return 1 << max(4, (channels - 1).bit_length())


def tiles_suit(tiles: ConvTiles, anchor: torch_fx.Node, shape: ConvolutionShape, reduces_channels: bool) -> bool:
    """A convolution can be cut so: strips of rows keep its weights, and the taps of one phase are walked one by one."""
    if tiles.rows:
        return keeps_weights(anchor, shape, reduces_channels)
    return not tiles.by_tap or shape.columns.output_step == 1


def group_channels(anchor: torch_fx.Node, shape: ConvolutionShape) -> tuple[int, int]:
    """Input and output channels of one group of a convolution."""
    weight = anchor.args[1]
    assert isinstance(weight, torch_fx.Node)
    first, second = (int(size) for size in weight.meta["val"].shape[:2])
    return (first // shape.groups, second) if shape.transposed else (second, first // shape.groups)
