"""The planner's rule for rows, and what it needs before the rules run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.kernels.code.text import Names
from tilewright.kernels.native import operation_name
from tilewright.kernels.ops.pointwise import is_pointwise
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.rows import RowRegion, grow_row_region, is_pick, moves_nothing
from tilewright.kernels.rows.plan import RowForm, RowPlan, RowTiles, plan_rows

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class RowOptions:
    """What distinguishes one plan of a module's rows from another.

    Attributes:
        tiles: limits of tiles.
        form: the form where it is possible; None for the one that the sizes suggest.
        plain: plain reductions are kernels of this kind too, each of its own.
    """

    tiles: RowTiles = field(default_factory=RowTiles)
    form: RowForm | None = None
    plain: bool = False

    def describe(self) -> str:
        """For people."""
        form = f"{self.form.value} rows, " if self.form else "rows "
        form += "plain reductions among them, " if self.plain else ""
        tiles = self.tiles
        return (
            f"{form}in tiles of {tiles.tile}, stripes of {tiles.stripe}, {tiles.warp} elements a warp, "
            f"{tiles.target_programs} programs where rows are split"
        )


def find_row_regions(
    graph: Graph, taken: Collection[torch_fx.Node], stops: Collection[torch_fx.Node], *, plain: bool = False
) -> dict[torch_fx.Node, RowRegion]:
    """The row regions of a graph by their roots, none inside another.

    Args:
        graph: composites are written out.
        taken: nodes that other kernels compute.
        stops: nodes that must stay operands.
        plain: take plain reductions too.
    """
    found: dict[torch_fx.Node, RowRegion] = {}
    inside: set[torch_fx.Node] = set(taken)
    for node in reversed(list(graph.fx.nodes)):
        if node in inside or not node.users or not _may_end_rows(node):
            continue
        region = grow_row_region(node, frozenset(stops), plain=plain)
        if region is None:
            continue
        found[node] = region
        inside |= set(region.nodes)
    return found


def ends_of_chains(anchors: Collection[torch_fx.Node]) -> set[torch_fx.Node]:
    """The last of the pointwise operations that follow each anchor alone: they belong to the anchor's kernel."""
    ends: set[torch_fx.Node] = set()
    for anchor in anchors:
        end = anchor
        while len(end.users) == 1 and is_pointwise(user := next(iter(end.users))):
            end = user
        if end is not anchor:
            ends.add(end)
    return ends


def _may_end_rows(node: torch_fx.Node) -> bool:
    value = node.meta.get("val")
    floats = isinstance(value, torch.Tensor) and value.dtype in _FLOATS
    return node.op == "call_function" and (floats or is_pick(node))


def plan_row_region(
    region: RowRegion,
    formats: Mapping[torch_fx.Node, MemoryFormat],
    names: Names,
    options: RowOptions,
) -> RowPlan | None:
    """The plan of a row region; None where it declines."""
    operations = [operation_name(node).strip("_") for node in region.nodes if not moves_nothing(node)]
    plain = MemoryFormat.CONTIGUOUS
    plan = plan_rows(
        "rows",
        region,
        [formats.get(operand.node, plain) for operand in region.operands],
        options.tiles,
        form=options.form,
        output_format=formats.get(region.root, plain),
    )
    if plan is None:
        return None
    name = names.unique(f"rows_{'_'.join(dict.fromkeys(operations[-5:]))}")
    return RowPlan(**{**vars(plan), "name": name})
