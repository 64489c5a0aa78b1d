"""Row regions over the channels of a convolution: softmax, normalisations and what surrounds them, as its epilogue."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.kernels.conv.plan import MAX_KEPT_CHANNELS, convolution_shape, group_channels
from tilewright.kernels.regions.region import AxisMap, Operand, Region, is_relabelling
from tilewright.kernels.regions.rows import DimAxes, RowOperand, RowRegion, grow_row_region, moves_nothing


@dataclass(frozen=True)
class ChannelRows:
    """What a tile of a convolution that holds all channels can compute.

    Attributes:
        anchor: the convolution.
        region: what follows, in the anchor's axes, all at one level; its reductions are over the channels.
    """

    anchor: torch_fx.Node
    region: Region


def find_channel_rows(
    graph: Graph,
    anchors: Collection[torch_fx.Node],
    taken: Collection[torch_fx.Node],
    stops: Collection[torch_fx.Node],
) -> dict[torch_fx.Node, ChannelRows]:
    """The row regions that follow convolutions in their tiles, by their roots.

    Args:
        graph: composites are written out.
        anchors: convolutions that may be anchors.
        taken: nodes that other kernels compute.
        stops: nodes that must stay operands.
    """
    able = [anchor for anchor in anchors if _holds_channels(anchor)]
    found: dict[torch_fx.Node, ChannelRows] = {}
    inside = set(taken)
    for node in reversed(list(graph.fx.nodes)) if able else ():
        region = grow_row_region(node, frozenset(stops)) if node not in inside and node.users else None
        match = None if region is None else _channel_rows(region, able)
        if match is not None:
            found[node] = match
            inside |= set(match.region.nodes)
    return found


def _holds_channels(anchor: torch_fx.Node) -> bool:
    """A tile can hold all output channels."""
    shape = convolution_shape(anchor)
    return shape is not None and shape.groups == 1 and group_channels(anchor, shape)[1] <= MAX_KEPT_CHANNELS


def _channel_rows(region: RowRegion, anchors: Collection[torch_fx.Node]) -> ChannelRows | None:
    """The region as what follows one of the anchors; None where it is not made of its values and their channels."""
    for operand in region.operands:
        anchor = operand.node
        alone = [other.node for other in region.operands].count(anchor) == 1
        if anchor not in anchors or not alone or any(user not in region.dims for user in anchor.users):
            continue
        if _fits(region, operand):
            return ChannelRows(anchor, _one_level(region, operand))
    return None


def _fits(region: RowRegion, of_anchor: RowOperand) -> bool:
    axes = [axis for dim in of_anchor.dims for axis in dim]
    dims = (*region.dims.values(), *(operand.dims for operand in region.operands))
    if any(len(dim) > 1 for each in dims for dim in each) or any(len(dim) != 1 for dim in of_anchor.dims):
        return False
    if sorted(axes) != list(range(len(region.sizes))) or region.row_axes != {axes[1]} or region.scans:
        return False
    stored = {axis for dim in region.dims[region.root] for axis in dim}
    if not stored >= {*axes} - {axes[1]}:
        return False
    same_type = region.root.meta["val"].dtype == of_anchor.node.meta["val"].dtype
    return same_type and all(is_relabelling(node) for node in region.nodes if moves_nothing(node))


def _one_level(region: RowRegion, of_anchor: RowOperand) -> Region:
    """The region in the terms of an epilogue."""
    position = region.operands.index(of_anchor)
    dims = [dim[0] for dim in of_anchor.dims]
    axes = range(len(dims))
    return Region(
        region.root,
        region.nodes,
        tuple(Operand(operand.node, _axis_map(operand.dims), 0) for operand in region.operands),
        {node: _axis_map(walked) for node, walked in region.dims.items()},
        dict.fromkeys(region.nodes, 0),
        (0,) * len(dims),
        tuple((position, dims.index(axis)) for axis in axes),
    )


def _axis_map(dims: DimAxes) -> AxisMap:
    return tuple(dim[0] if dim else None for dim in dims)
