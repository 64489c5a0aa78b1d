"""The planner: cuts a canonical graph into steps, each one kernel or one native operation.

It is an ordered list of rules; each takes a node that must be materialised and matches fully or declines.
The last rule always matches: call PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph, is_tensor_node
from tilewright.graph.nodes import argument, source_of
from tilewright.graph.rewrite import Editor, copy_graph
from tilewright.kernels.conv_plan import (
    ConvPlan,
    ConvTiles,
    channel_reduction,
    convolution_shape,
    innermost_channel_reduction,
    keeps_weights,
    spatial_reduction,
)
from tilewright.kernels.layout import AxisPlan, MemoryFormat, plan_axes
from tilewright.kernels.native import CONVOLUTIONS, operation_name
from tilewright.kernels.phases import ConvolutionShape
from tilewright.kernels.plan import FusedPlan, TileLimits
from tilewright.kernels.pointwise import is_pointwise
from tilewright.kernels.region import Region, grow_region, is_fusible, is_relabelling
from tilewright.kernels.text import Names

aten = torch.ops.aten

_SMALL_ROW = 256

#: Elements behind one output from which a second launch pays.
_WORTH_SPLITTING = 512

#: Stands for a number of parts that only the emitted wrapper knows.
_SEVERAL = 16


@dataclass(frozen=True)
class PlanOptions:
    """What distinguishes one plan of a module from another.

    Attributes:
        convolution_format: memory format in which native convolutions run.
        limits: tile limits of fused kernels.
        sm_count: of the target; reductions with fewer programs than fill it are split.
        approximate: activations may use the special-function unit's approximations (the tf32 class).
        convolution_anchors: convolutions become kernels of ours, with what follows them, in float16 operands and
            float32 accumulators (the tf32 class).
        convolution_tiles: their tiles.
    """

    convolution_format: MemoryFormat = MemoryFormat.CHANNELS_LAST
    limits: TileLimits = field(default_factory=TileLimits)
    sm_count: int = 128
    approximate: bool = False
    convolution_anchors: bool = False
    convolution_tiles: ConvTiles = field(default_factory=ConvTiles)

    def describe(self) -> str:
        """One line for people."""
        if self.convolution_anchors:
            tiles = self.convolution_tiles
            kept = f"weights kept over {tiles.rows} rows, " if tiles.rows else ""
            return (
                f"convolutions as anchors, {kept}tiles of {tiles.block_p} positions by {tiles.block_c} channels, "
                f"{tiles.num_warps} warps"
            )
        return (
            f"native convolutions {self.convolution_format.value}, tiles of {self.limits.tile}, "
            f"{self.limits.num_warps} warps"
        )


@dataclass(frozen=True)
class NativeStep:
    """One operation that stays with PyTorch."""

    node: torch_fx.Node


@dataclass(frozen=True)
class FusedStep:
    """One fused kernel; its result stands for the region's root."""

    plan: FusedPlan

    @property
    def node(self) -> torch_fx.Node:
        """The node whose value it computes."""
        return self.plan.region.root


@dataclass(frozen=True)
class ConvStep:
    """A convolution and what follows it, in one kernel."""

    plan: ConvPlan

    @property
    def node(self) -> torch_fx.Node:
        """The node whose value it computes."""
        return self.plan.result or self.plan.region.root


Step = NativeStep | FusedStep | ConvStep


@dataclass(frozen=True)
class ModulePlan:
    """All steps of a forward pass, in order.

    Attributes:
        graph: the canonical graph.
        steps: in execution order.
        formats: memory format of the results of native convolutions.
        native: names for people of the operations that compute and stay native.
        approximate: activations may be approximate.
    """

    graph: Graph
    steps: tuple[Step, ...]
    formats: Mapping[torch_fx.Node, MemoryFormat]
    native: tuple[str, ...]
    approximate: bool = False

    @property
    def fused(self) -> tuple[FusedPlan | ConvPlan, ...]:
        """The plans of all steps that are kernels of ours."""
        return tuple(step.plan for step in self.steps if not isinstance(step, NativeStep))


@dataclass
class _Planning:
    graph: Graph
    options: PlanOptions
    formats: dict[torch_fx.Node, MemoryFormat]
    names: Names = field(default_factory=Names)
    stops: set[torch_fx.Node] = field(default_factory=set)
    partial: dict[torch_fx.Node, ConvPlan] = field(default_factory=dict)


Found = Region | ConvPlan
PlanRule = Callable[[_Planning, torch_fx.Node], Found | None]


def plan_module(graph: Graph, options: PlanOptions) -> ModulePlan:
    """Plan a canonical graph. Every graph can be planned; in the worst case all of it stays native."""
    if options.convolution_anchors and options.convolution_tiles.rows:
        graph = copy_graph(graph)  # partial results become nodes of their own
    first = _plan(graph, options, {})
    formats = _convolution_formats(first, options)
    if not formats:
        return first
    copied = copy_graph(graph)
    by_name = {node.name: node for node in copied.fx.nodes}
    return _plan(copied, options, _convert_inputs(copied, {by_name[node.name]: form for node, form in formats.items()}))


def _plan(graph: Graph, options: PlanOptions, formats: dict[torch_fx.Node, MemoryFormat]) -> ModulePlan:
    planning = _Planning(graph, options, formats)
    found: dict[torch_fx.Node, Found] = {}
    inside: set[torch_fx.Node] = set()
    for node in reversed(list(graph.fx.nodes)):
        if node.op != "call_function" or node in inside or not node.users:
            continue
        match = next((match for rule in PLAN_RULES if (match := rule(planning, node)) is not None), None)
        if match is not None:
            found[node] = match
            inside |= set(match.nodes if isinstance(match, Region) else (*match.region.nodes, match.anchor))
        for result, plan in planning.partial.items():
            found[result] = plan
            inside |= {*plan.region.nodes, plan.anchor} - {plan.region.root}
        planning.partial.clear()
    steps: list[Step] = []
    for node in graph.fx.nodes:
        match = found.get(node)
        if isinstance(match, ConvPlan):
            steps.append(ConvStep(match))
        elif match is not None:
            steps.append(FusedStep(_fused_plan(planning, match)))
        elif node.op == "call_function" and node not in inside and node.users:
            steps.append(NativeStep(node))
    computing = [step.node for step in steps if isinstance(step, NativeStep) and _computes(step.node)]
    native = tuple(dict.fromkeys(operation_name(node) for node in computing))
    return ModulePlan(graph, tuple(steps), planning.formats, native, options.approximate)


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


def _computes(node: torch_fx.Node) -> bool:
    return is_tensor_node(node) and not is_relabelling(node) and "aten.view" not in str(node.target)


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
    number of channels, and the rest is a kernel of its own.
    """
    if not planning.options.convolution_anchors or not is_fusible(node) or not _is_device_tensor(node):
        return None
    region = grow_region(node, frozenset(planning.stops))
    if region is None:
        return None
    for operand in region.operands:
        anchor = operand.node
        shape = convolution_shape(anchor)
        if shape is None or any(user not in region.maps for user in anchor.users) or not _is_plain(anchor):
            continue
        reduces = channel_reduction(region, anchor)
        if reduces is not None:
            name = planning.names.unique(f"{operation_name(anchor)}_{_chain_name(region)}")
            tiles = _convolution_tiles(planning, anchor, shape, reduces)
            return ConvPlan(name, anchor, shape, region, reduces, tiles)
        if _plan_partial_results(planning, region, anchor, shape):
            return grow_region(node, frozenset(planning.stops))
        cut = innermost_channel_reduction(region, anchor)
        if cut is not None:
            planning.stops.add(cut)
            return grow_region(node, frozenset(planning.stops))
    return None


def _convolution_tiles(
    planning: _Planning, anchor: torch_fx.Node, shape: ConvolutionShape, reduces_channels: bool
) -> ConvTiles:
    """The tiles asked for; strips of rows only where a convolution's weights can be kept."""
    tiles = planning.options.convolution_tiles
    return tiles if not tiles.rows or keeps_weights(anchor, shape, reduces_channels) else ConvTiles()


def _plan_partial_results(planning: _Planning, region: Region, anchor: torch_fx.Node, shape: ConvolutionShape) -> bool:
    """Cut at a reduction over space: the convolution leaves one result for each strip, and the rest goes on there."""
    for level in range(1, region.depth + 1):
        for root in region.reductions(level):
            inner = grow_region(root, frozenset(planning.stops))
            space = None if inner is None else spatial_reduction(inner, anchor)
            if inner is None or space is None:
                continue
            tiles = _convolution_tiles(planning, anchor, shape, inner.depth == 2)
            if not tiles.rows:
                continue
            name = planning.names.unique(f"{operation_name(anchor)}_{_chain_name(inner)}")
            result = _insert_partial_results(root, space)
            planning.partial[result] = ConvPlan(name, anchor, shape, inner, inner.depth == 2, tiles, space, result)
            return True
    return False


def partial_results(value: torch.Tensor) -> torch.Tensor:
    """Stands in the graph for what a kernel leaves of a reduction that another one finishes."""
    raise NotImplementedError("partial results exist in emitted code only")


def _insert_partial_results(root: torch_fx.Node, space: tuple[int, ...]) -> torch_fx.Node:
    """Put a node between a reduction and its input: the reduced dims hold the parts, in the first of them."""
    source = source_of(root)
    value = source.meta["val"]
    sizes = list(value.shape)
    for position, dim in enumerate(space):
        sizes[value.dim() - 2 + dim] = _SEVERAL if position == 0 else 1
    with root.graph.inserting_before(root):
        result = root.graph.call_function(partial_results, (source,))
    result.meta["val"] = value.new_empty(sizes)
    root.replace_input_with(source, result)
    return result


def _is_plain(anchor: torch_fx.Node) -> bool:
    """Batched float32 operands, weights that are parameters."""
    source, weight = anchor.args[0], anchor.args[1]
    return (
        isinstance(source, torch_fx.Node)
        and isinstance(weight, torch_fx.Node)
        and weight.op == "placeholder"
        and source.meta["val"].dtype is torch.float32
        and weight.meta["val"].dtype is torch.float32
        and source.meta["val"].dim() == weight.meta["val"].dim()
        and not isinstance(argument(anchor, 4), str)
    )


def _chain_name(region: Region) -> str:
    operations = [operation_name(node).strip("_") for node in region.nodes if not is_relabelling(node)]
    return "_".join(dict.fromkeys(operations[-5:]))


def plan_fused_region(planning: _Planning, node: torch_fx.Node) -> Region | None:
    """A chain of pointwise operations and nested reductions that ends in `node`."""
    if not is_fusible(node) or not _is_device_tensor(node):
        return None
    region = grow_region(node, frozenset(planning.stops))
    if region is None or not _has_data(planning.graph, region):
        return None
    return region


def _is_device_tensor(node: torch_fx.Node) -> bool:
    return is_tensor_node(node) and node.meta["val"].dtype in (torch.float32, torch.float16, torch.bfloat16)


def _has_data(graph: Graph, region: Region) -> bool:
    """Something in it depends on the inputs; what depends on parameters alone is small, and PyTorch's."""
    state = {*graph.parameters, *graph.buffers, *graph.constants}
    return any(operand.node.name not in state for operand in region.operands)


PLAN_RULES: tuple[PlanRule, ...] = (plan_convolution, plan_fused_region)


# -- tiles -------------------------------------------------------------------------------------------------


def _fused_plan(planning: _Planning, region: Region) -> FusedPlan:
    graph = planning.graph
    sizes = [graph.shape_of(region.operands[index].node)[dim] for index, dim in region.axis_sources]
    formats = tuple(planning.formats.get(operand.node, MemoryFormat.CONTIGUOUS) for operand in region.operands)
    output_format = planning.formats.get(region.root, MemoryFormat.CONTIGUOUS)
    axes = plan_axes(region, sizes, formats, output_format)
    name = planning.names.unique(f"fused_{_chain_name(region)}")
    orders = sorted(axes.operand_orders, key=len, reverse=True)
    main = orders[0] if orders else ()
    limits = planning.options.limits
    if region.depth == 0:
        first, second = _pointwise_vectors(axes.output_order, main, [axis.size_hint for axis in axes.axes])
        limits = limits if second is None else replace(limits, row=64)
        return FusedPlan(name, region, axes, formats, first, second, limits, False, output_format)
    kept, inner = axes.of_level(0), axes.of_level(region.depth)
    kept_vector = _last_in(main, kept) if kept else None
    reduced_vector = _last_in(main, inner)
    limits = _reduction_limits(limits, main, kept_vector)
    programs = _programs(axes, kept_vector, reduced_vector, limits, main)
    reduced = _product(axis.size_hint for index, axis in enumerate(axes.axes) if index not in kept)
    split = programs < limits.target_programs and reduced >= _WORTH_SPLITTING
    return FusedPlan(name, region, axes, formats, kept_vector, reduced_vector, limits, split, output_format)


def _programs(
    axes: AxisPlan, kept_vector: int | None, reduced_vector: int | None, limits: TileLimits, main: tuple[int, ...]
) -> int:
    """Programs of an unsplit reduction at the example sizes, as the emitted wrapper will count them."""
    hint = [axis.size_hint for axis in axes.axes]
    if kept_vector is None:
        return _product(hint[index] for index in axes.of_level(0))
    contiguous_kept = bool(main) and main[-1] == kept_vector
    row = min(_power_of_two(hint[kept_vector if contiguous_kept else reduced_vector or 0]), limits.row)
    block = row if contiguous_kept else min(_power_of_two(hint[kept_vector]), max(1, limits.tile // row))
    blocks = -(-hint[kept_vector] // block)
    return blocks * _product(hint[index] for index in axes.of_level(0) if index != kept_vector)


def _product(values: Iterable[int]) -> int:
    return math.prod(values)


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def _last_in(order: tuple[int, ...], wanted: tuple[int, ...]) -> int | None:
    """The axis among `wanted` that is innermost in `order`; failing that, the last of them."""
    found = [index for index in order if index in wanted]
    if found:
        return found[-1]
    return wanted[-1] if wanted else None


def _pointwise_vectors(
    output: tuple[int, ...], main: tuple[int, ...], sizes: list[int]
) -> tuple[int | None, int | None]:
    """The output's innermost axis, and a second one where an operand lies transposed or rows are short."""
    if not output:
        return None, None
    inner = output[-1]
    transposed = [index for index in main[-1:] if index != inner]
    if transposed:
        return transposed[0], inner
    if len(output) > 1 and sizes[inner] < _SMALL_ROW:
        return output[-2], inner
    return inner, None


def _reduction_limits(limits: TileLimits, main: tuple[int, ...], kept_vector: int | None) -> TileLimits:
    """Rows that are reduced lie contiguous: long rows; else a stripe of the kept axis, a sector or more wide."""
    contiguous_kept = bool(main) and main[-1] == kept_vector
    return replace(limits, row=64 if contiguous_kept else min(limits.row, limits.tile))
