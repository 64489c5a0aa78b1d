"""The planner: cuts a canonical graph into steps, each one kernel or one native operation.

It is an ordered list of rules; each takes a node that must be materialised and matches fully or declines.
The last rule always matches: call PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

import torch
import torch.fx as torch_fx

from tilewright.graph.expand import expand_composites
from tilewright.graph.graph import Graph, is_tensor_node
from tilewright.graph.nodes import argument, source_of
from tilewright.graph.parameters import is_of_parameters, note_parameters
from tilewright.graph.rewrite import Editor, copy_graph
from tilewright.kernels.code.text import Names
from tilewright.kernels.collapse.plan import CollapsePlan, collapsed_of, plan_collapse
from tilewright.kernels.conv.channel_rows import ChannelRows, find_channel_rows
from tilewright.kernels.conv.plan import (
    ConvPlan,
    ConvTiles,
    channel_reduction,
    convolution_shape,
    group_channels,
    innermost_channel_reduction,
    spatial_reduction,
    tiles_suit,
    whole_block,
)
from tilewright.kernels.depthwise.plan import DepthwisePlan, find_depthwise, plan_depthwise
from tilewright.kernels.fused.plan import plan_fused
from tilewright.kernels.gemm.plan import GemmPlan, plan_gemms
from tilewright.kernels.native import CONVOLUTIONS, makes_values, operation_name
from tilewright.kernels.ops.pointwise import is_pointwise
from tilewright.kernels.plan import FusedPlan
from tilewright.kernels.pool.plan import PoolPlan, plan_pooling
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.phases import ConvolutionShape
from tilewright.kernels.regions.region import (
    REDUCTIONS,
    Region,
    grow_region,
    is_elementwise_part,
    is_fusible,
    is_relabelling,
)
from tilewright.kernels.regions.rows import RowRegion
from tilewright.kernels.regions.triangles import is_triangle
from tilewright.kernels.rows.plan import RowPlan
from tilewright.kernels.rows.rules import ends_of_chains, find_row_regions, plan_row_region
from tilewright.kernels.steps import (
    CollapseStep,
    ConvStep,
    FusedStep,
    GemmStep,
    KernelPlan,
    ModulePlan,
    NativeStep,
    PlanOptions,
    Step,
)

aten = torch.ops.aten

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)

#: Stands for a number of parts that only the emitted wrapper knows.
_SEVERAL = 16


@dataclass
class _Planning:
    graph: Graph
    options: PlanOptions
    formats: dict[torch_fx.Node, MemoryFormat]
    names: Names = field(default_factory=Names)
    stops: set[torch_fx.Node] = field(default_factory=set)
    in_gemms: frozenset[torch_fx.Node] = frozenset()
    wanted: set[torch_fx.Node] = field(default_factory=set)  # what planned steps read
    partial: dict[torch_fx.Node, ConvPlan] = field(default_factory=dict)
    row_regions: dict[torch_fx.Node, RowRegion] = field(default_factory=dict)
    channel_rows: dict[torch_fx.Node, ChannelRows] = field(default_factory=dict)
    chain_ends: set[torch_fx.Node] = field(default_factory=set)


Found = Region | RowPlan | PoolPlan | DepthwisePlan | ConvPlan | CollapsePlan
PlanRule = Callable[[_Planning, torch_fx.Node], Found | None]


def plan_module(graph: Graph, options: PlanOptions) -> ModulePlan:
    """Plan a canonical graph. Every graph can be planned; in the worst case all of it stays native.

    Notes at its nodes what depends on parameters alone (`graph/parameters.py`).
    """
    note_parameters(graph, _is_element_by_element)
    if options.rows is not None:
        graph = _with_composites_written_out(graph, options)
    # partial results become nodes of their own: in a copy
    first = _plan(copy_graph(graph) if options.convolution_anchors else graph, options, {})
    formats = _convolution_formats(first, options)
    if not formats:
        return first
    copied = copy_graph(graph)
    by_name = {node.name: node for node in copied.fx.nodes}
    copied_formats = {by_name[node.name]: form for node, form in formats.items()}
    stencils = [by_name[kernel.convolution.node.name] for kernel in first.fused if isinstance(kernel, DepthwisePlan)]
    _copy_row_major(copied, stencils, copied_formats)
    return _plan(copied, options, _convert_inputs(copied, copied_formats))


def _with_composites_written_out(graph: Graph, options: PlanOptions) -> Graph:
    """Composites that no anchor takes, as reductions and pointwise operations; the others stay as they are."""
    gemms = _plan_gemms(_Planning(graph, options, {}))
    return expand_composites(graph, keep={node.name for plan in gemms for node in plan.nodes}).graph


def _plan(graph: Graph, options: PlanOptions, formats: dict[torch_fx.Node, MemoryFormat]) -> ModulePlan:
    note_parameters(graph, _is_element_by_element)
    planning = _Planning(graph, options, formats)
    planning.stops |= {node for node in graph.fx.nodes if collapsed_of(node) is not None}
    gemms = _plan_gemms(planning)
    planning.in_gemms = frozenset(node for plan in gemms for node in (*plan.nodes, *_turned(plan)))
    inside = set(planning.in_gemms)
    planning.wanted |= {operand.node for plan in gemms for operand in plan.region.operands}
    _find_rows(planning, inside)
    found = _matches(planning, inside)
    steps: list[Step] = []
    first_results = {plan.outputs[0]: plan for plan in gemms}
    for node in graph.fx.nodes:
        if node in first_results:
            steps.append(GemmStep(first_results[node]))
            continue
        match = found.get(node)
        if match is not None:
            steps.append(_step(planning, match))
        elif not _is_left_out(planning, inside, node):
            steps.append(NativeStep(node))
    computing = [step.node for step in steps if isinstance(step, NativeStep) and makes_values(step.node)]
    native = tuple(dict.fromkeys(operation_name(node) for node in computing))
    return ModulePlan(graph, _in_order(steps) if gemms else tuple(steps), planning.formats, native, options.approximate)


def _is_element_by_element(node: torch_fx.Node) -> bool:
    return is_pointwise(node) or is_relabelling(node)


def _matches(planning: _Planning, inside: set[torch_fx.Node]) -> dict[torch_fx.Node, Found]:
    """The kernels that rules find, by the node that each ends in; adds what they compute to `inside`."""
    found: dict[torch_fx.Node, Found] = {}
    for node in reversed(list(planning.graph.fx.nodes)):
        if node.op == "output":
            planning.wanted |= set(node.all_input_nodes)
        if _is_left_out(planning, inside, node):
            continue
        match = next((match for rule in PLAN_RULES if (match := rule(planning, node)) is not None), None)
        if match is not None:
            found[node] = match
            inside |= _nodes_inside(match)
        planning.wanted |= set(node.all_input_nodes if match is None else _operands_of(match))
        for result, plan in planning.partial.items():
            found[result] = plan
            inside |= {*plan.region.nodes, plan.anchor} - {plan.region.root}
            planning.wanted |= set(_operands_of(plan))
        planning.partial.clear()
    return found


def _is_left_out(planning: _Planning, inside: Set[torch_fx.Node], node: torch_fx.Node) -> bool:
    """No step ends in the node: a kernel computes it on the way, or nothing reads it.

    Arithmetic on parameters that one kernel computes on the way is still a step where another one reads it.
    """
    if node.op != "call_function" or not node.users:
        return True
    if is_of_parameters(node):
        return node in planning.in_gemms or node not in planning.wanted
    return node in inside


def _step(planning: _Planning, match: Found) -> FusedStep | ConvStep | CollapseStep:
    if isinstance(match, ConvPlan):
        return ConvStep(match)
    if isinstance(match, CollapsePlan):
        return CollapseStep(match)
    return FusedStep(_fused_plan(planning, match) if isinstance(match, Region) else match)


def _nodes_inside(match: Found) -> set[torch_fx.Node]:
    """The nodes that a match computes."""
    if isinstance(match, Region | PoolPlan | DepthwisePlan):
        return set(match.nodes)
    if isinstance(match, RowPlan):
        return set(match.region.nodes)
    if isinstance(match, CollapsePlan):
        return {*match.region.nodes, *match.inside}
    return {*match.region.nodes, match.anchor}


def _plan_gemms(planning: _Planning) -> tuple[GemmPlan, ...]:
    """All products that have a schedule; their results stay operands of every other kernel."""
    plans = []
    for product, tiles, schedule, whole_rows in plan_gemms(planning.graph, planning.options.gemms):
        operations = [operation_name(node).strip("_") for node in tiles.nodes if not is_relabelling(node)]
        chain = "_".join(dict.fromkeys([operation_name(product.node), *(operations[-4:] or ["product"])]))
        plans.append(GemmPlan(planning.names.unique(chain), product, tiles, schedule, whole_rows))
        planning.stops |= {*tiles.outputs, product.left, product.right}
    return tuple(plans)


def _turned(plan: GemmPlan) -> Iterator[torch_fx.Node]:
    """The transposes of the right operand that the kernel reads without, and that nothing else reads."""
    reader, node = plan.product.node, plan.product.node.args[1]
    while isinstance(node, torch_fx.Node) and node is not plan.product.right and list(node.users) == [reader]:
        yield node
        reader, node = node, node.args[0]


def _in_order(steps: list[Step]) -> tuple[Step, ...]:
    """The steps, each after what it reads: a kernel with several results may have to wait for a later operand."""
    made = {
        node: position
        for position, step in enumerate(steps)
        for node in (step.plan.outputs if isinstance(step, GemmStep) else (step.node,))
    }
    ordered: dict[int, Step] = {}

    def visit(position: int) -> None:
        for node in _reads(steps[position]):
            if node in made and made[node] != position and made[node] not in ordered:
                visit(made[node])
        ordered[position] = steps[position]

    for position in range(len(steps)):
        if position not in ordered:
            visit(position)
    return tuple(ordered.values())


def _reads(step: Step) -> Iterable[torch_fx.Node]:
    return step.node.all_input_nodes if isinstance(step, NativeStep) else _operands_of(step.plan)


def _operands_of(match: Found | KernelPlan) -> Iterable[torch_fx.Node]:
    """The tensors that a kernel reads."""
    own: tuple[torch_fx.Node, ...] = ()
    if isinstance(match, ConvPlan):
        own = tuple(match.anchor.all_input_nodes)
    elif isinstance(match, CollapsePlan):
        own = (match.x, match.weight)
    region = match if isinstance(match, Region) else match.region
    return (*own, *(operand.node for operand in region.operands))


def _copy_row_major(
    graph: Graph, stencils: Iterable[torch_fx.Node], formats: Mapping[torch_fx.Node, MemoryFormat]
) -> None:
    """Give every stencil that reads another memory format a row-major copy."""
    for node in stencils:
        source = source_of(node)
        if formats.get(source, MemoryFormat.CONTIGUOUS) is not MemoryFormat.CONTIGUOUS:
            node.replace_input_with(source, Editor(graph.fx, node).call(aten._to_copy.default, source))


def _convert_inputs(graph: Graph, formats: dict[torch_fx.Node, MemoryFormat]) -> dict[torch_fx.Node, MemoryFormat]:
    """Give every channels-last convolution an input that a fused kernel writes in that format.

    A pointwise result that only the convolution uses is written so at once; anything else is copied.
    """
    for node, form in list(formats.items()):
        source = source_of(node)
        if form is not MemoryFormat.CHANNELS_LAST or source in formats:
            continue
        if not (is_pointwise(source) and list(source.users) == [node]):
            converted = Editor(graph.fx, node).call(aten._to_copy.default, source)
            node.replace_input_with(source, converted)
            source = converted
        formats[source] = form
    return formats


def _convolution_formats(plan: ModulePlan, options: PlanOptions) -> dict[torch_fx.Node, MemoryFormat]:
    """The memory format of the results of convolutions that stay native."""
    return {
        step.node: options.convolution_format
        for step in plan.steps
        if isinstance(step, NativeStep) and step.node.target in CONVOLUTIONS and step.node.meta["val"].dim() >= 4
    }


# -- rules: match fully, or decline ------------------------------------------------------------------------


def plan_convolution(planning: _Planning, node: torch_fx.Node) -> Found | None:
    """A convolution whose result only the region uses, with that region as its epilogue.

    A region that goes on after a reduction over the channels is cut there: what it stores is smaller by the
    number of channels, and the rest is a kernel of its own. One with another reduction is cut before that.
    """
    if node in planning.channel_rows:
        return _plan_channel_rows(planning, planning.channel_rows[node])
    if not planning.options.convolution_anchors or not is_fusible(node) or not _is_device_tensor(node):
        return None
    region = grow_region(node, frozenset(planning.stops))
    if region is None:
        return None
    for operand in region.operands:
        anchor = operand.node
        shape = convolution_shape(anchor)
        alone = all(user in region.maps for user in anchor.users)
        if shape is None or not alone or not _is_plain(anchor, planning) or _is_stencil(planning, anchor):
            continue
        reduces = channel_reduction(region, anchor)
        if reduces is not None:
            name = planning.names.unique(f"{operation_name(anchor)}_{_chain_name(region)}")
            tiles = _convolution_tiles(planning, anchor, shape, reduces)
            return ConvPlan(name, anchor, shape, region, reduces, tiles)
        if _plan_partial_results(planning, region, anchor, shape):
            return grow_region(node, frozenset(planning.stops))
        cut = innermost_channel_reduction(region, anchor) or _pointwise_end(planning, region, anchor)
        if cut is not None:
            planning.stops.add(cut)
            return grow_region(node, frozenset(planning.stops))
    return None


def plan_stencil(planning: _Planning, node: torch_fx.Node) -> DepthwisePlan | None:
    """A depthwise convolution that ends in `node`, and the pointwise operations after it."""
    tiles = planning.options.depthwise_tiles
    if tiles is None or not _is_device_tensor(node):
        return None
    state = planning.graph.state_names()
    weights = {known for known in planning.graph.fx.nodes if known.name in state or is_of_parameters(known)}
    stops = planning.stops | planning.chain_ends
    return plan_depthwise(node, stops, planning.formats, weights, planning.names, tiles)


def _is_stencil(planning: _Planning, anchor: torch_fx.Node) -> bool:
    """A depthwise convolution, which is no product: it waits for the rule of its own."""
    return planning.options.depthwise_tiles is not None and find_depthwise(anchor) is not None


def _plan_channel_rows(planning: _Planning, rows: ChannelRows) -> ConvPlan:
    """A convolution whose tiles hold all channels, with rows over them as its epilogue."""
    anchor, shape = rows.anchor, convolution_shape(rows.anchor)
    assert shape is not None
    tiles = _convolution_tiles(planning, anchor, shape, reduces_channels=True)
    tiles = replace(tiles, block_c=whole_block(group_channels(anchor, shape)[1]))
    name = planning.names.unique(f"{operation_name(anchor)}_{_chain_name(rows.region)}")
    return ConvPlan(name, anchor, shape, rows.region, False, tiles, whole_channels=True)


def _pointwise_end(planning: _Planning, region: Region, anchor: torch_fx.Node) -> torch_fx.Node | None:
    """The end of the pointwise operations on an anchor before the first reduction that it cannot take."""
    for node in region.nodes:
        if node.target not in REDUCTIONS or not is_fusible(source_of(node)):
            continue
        inner = grow_region(source_of(node), frozenset(planning.stops))
        if inner is not None and channel_reduction(inner, anchor) is not None:
            return inner.root
    return None


def _convolution_tiles(
    planning: _Planning, anchor: torch_fx.Node, shape: ConvolutionShape, reduces_channels: bool
) -> ConvTiles:
    """The tiles asked for; the usual ones where a convolution cannot be cut so."""
    tiles = planning.options.convolution_tiles
    return tiles if tiles_suit(tiles, anchor, shape, reduces_channels) else ConvTiles()


def _plan_partial_results(planning: _Planning, region: Region, anchor: torch_fx.Node, shape: ConvolutionShape) -> bool:
    """Cut at a reduction over space: the convolution leaves one result for each strip, and the rest goes on there."""
    for level in range(1, region.depth + 1):
        for root in region.reductions(level):
            inner = grow_region(root, frozenset(planning.stops))
            space = None if inner is None else spatial_reduction(inner, anchor)
            if inner is None or space is None:
                continue
            tiles = _convolution_tiles(planning, anchor, shape, inner.depth == 2)
            if not tiles.rows and len(space) < shape.rank:
                continue
            name = planning.names.unique(f"{operation_name(anchor)}_{_chain_name(inner)}")
            result = _insert_partial_results(root, space, shape.rank)
            planning.partial[result] = ConvPlan(name, anchor, shape, inner, inner.depth == 2, tiles, space, result)
            return True
    return False


def partial_results(value: torch.Tensor) -> torch.Tensor:
    """Stands in the graph for what a kernel leaves of a reduction that another one finishes."""
    raise NotImplementedError("partial results exist in emitted code only")


def _insert_partial_results(root: torch_fx.Node, space: tuple[int, ...], rank: int) -> torch_fx.Node:
    """Put a node between a reduction and its input: the reduced dims hold the parts, in the first of them."""
    source = source_of(root)
    value = source.meta["val"]
    sizes = list(value.shape)
    for position, dim in enumerate(space):
        sizes[value.dim() - rank + dim] = _SEVERAL if position == 0 else 1
    with root.graph.inserting_before(root):
        result = root.graph.call_function(partial_results, (source,))
    result.meta["val"] = value.new_empty(sizes, dtype=torch.float32)
    root.replace_input_with(source, result)
    return result


def _is_plain(anchor: torch_fx.Node, planning: _Planning) -> bool:
    """Batched operands of one of the types, weights that are parameters, or computed of them."""
    source, weight = anchor.args[0], anchor.args[1]
    return (
        isinstance(source, torch_fx.Node)
        and isinstance(weight, torch_fx.Node)
        and (weight.op == "placeholder" or is_of_parameters(weight))
        and source.meta["val"].dtype in planning.options.convolution_dtypes
        and source.meta["val"].dtype is weight.meta["val"].dtype
        and source.meta["val"].dim() == weight.meta["val"].dim()
        and not isinstance(argument(anchor, 4), str)
    )


def _find_rows(planning: _Planning, taken: Set[torch_fx.Node]) -> None:
    """Row regions are found before the rules run, so that no other kernel grows into them."""
    if planning.options.rows is None:
        return
    nodes = [node for node in planning.graph.fx.nodes if node.op == "call_function"]
    anchored = planning.options.convolution_anchors
    shaped = [node for node in nodes if anchored and convolution_shape(node) is not None]
    convolutions = [node for node in shaped if _is_plain(node, planning)]
    planning.channel_rows = find_channel_rows(planning.graph, convolutions, taken, planning.stops)
    planning.stops |= set(planning.channel_rows)
    taken = taken | {node for rows in planning.channel_rows.values() for node in rows.region.nodes}
    planning.chain_ends = ends_of_chains(convolutions)
    planning.row_regions = find_row_regions(
        planning.graph, taken, planning.stops | planning.chain_ends, plain=planning.options.rows.plain
    )
    planning.stops |= set(planning.row_regions)


def plan_rows_of(planning: _Planning, node: torch_fx.Node) -> RowPlan | None:
    """Rows that are reduced, or scanned, and used element by element again."""
    region, options = planning.row_regions.get(node), planning.options
    if region is None or options.rows is None:
        return None
    return plan_row_region(region, planning.formats, planning.names, options.rows)


def plan_pool(planning: _Planning, node: torch_fx.Node) -> PoolPlan | None:
    """A pooling that ends in `node`, and the pointwise operations around it."""
    if not _is_device_tensor(node):
        return None
    stops = planning.stops | planning.chain_ends
    return plan_pooling(node, stops, planning.formats, planning.names, planning.options.pool_tiles)


def _chain_name(region: Region) -> str:
    operations = [operation_name(node).strip("_") for node in region.nodes if not is_relabelling(node)]
    return "_".join(dict.fromkeys(operations[-5:]))


def plan_collapsed_convolution(planning: _Planning, node: torch_fx.Node) -> Found | None:
    """What a collapse left of a convolution, with what follows it."""
    if collapsed_of(node) is not None:
        name = f"{'mean' if collapsed_of(node).mean else 'sum'}_of_convolution"  # type: ignore[union-attr]
        tiles = planning.options.collapse_tiles
        return plan_collapse(node, None, planning.names.unique(name), tiles)
    if not is_fusible(node) or not _is_device_tensor(node):
        return None
    region = grow_region(node, frozenset(planning.stops))
    for operand in region.operands if region is not None else ():
        anchor, collapsed = operand.node, collapsed_of(operand.node)
        if collapsed is None or region is None or any(user not in region.maps for user in anchor.users):
            continue
        what = "mean" if collapsed.mean else "sum"
        name = planning.names.unique(f"{what}_of_convolution_{_chain_name(region)}")
        return plan_collapse(anchor, region, name, planning.options.collapse_tiles)
    return None


def plan_fused_region(planning: _Planning, node: torch_fx.Node) -> Region | None:
    """A chain of pointwise operations and nested reductions that ends in `node`."""
    stops = frozenset(planning.stops)
    takes = is_fusible(node) or is_triangle(node)
    region = grow_region(node, stops, triangles=True) if takes and _is_device_tensor(node) else None
    reduces = region is not None and region.depth > 0
    if not reduces and (is_elementwise_part(node) or is_triangle(node)) and _is_stored_type(node):
        region = grow_region(node, stops, integers=True, triangles=True)
    return region


def _is_device_tensor(node: torch_fx.Node) -> bool:
    return is_tensor_node(node) and node.meta["val"].dtype in _FLOATS


def _is_stored_type(node: torch_fx.Node) -> bool:
    return is_tensor_node(node) and node.meta["val"].dtype in (*_FLOATS, torch.int32, torch.int64, torch.bool)


PLAN_RULES: tuple[PlanRule, ...] = (
    plan_collapsed_convolution,
    plan_stencil,
    plan_convolution,
    plan_rows_of,
    plan_pool,
    plan_fused_region,
)


def _fused_plan(planning: _Planning, region: Region) -> FusedPlan:
    name = planning.names.unique(f"fused_{_chain_name(region)}")
    return plan_fused(name, region, planning.graph, planning.formats, planning.options.limits)
