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
from tilewright.graph.nodes import source_of
from tilewright.graph.rewrite import Editor, copy_graph
from tilewright.kernels.layout import AxisPlan, MemoryFormat, plan_axes
from tilewright.kernels.native import CONVOLUTIONS, operation_name
from tilewright.kernels.plan import FusedPlan, TileLimits
from tilewright.kernels.pointwise import is_pointwise
from tilewright.kernels.region import Region, grow_region, is_fusible, is_relabelling
from tilewright.kernels.text import Names

aten = torch.ops.aten

_SMALL_ROW = 256


@dataclass(frozen=True)
class PlanOptions:
    """What distinguishes one plan of a module from another.

    Attributes:
        convolution_format: memory format in which native convolutions run.
        limits: tile limits of fused kernels.
        sm_count: of the target; reductions with fewer programs than fill it are split.
    """

    convolution_format: MemoryFormat = MemoryFormat.CHANNELS_LAST
    limits: TileLimits = field(default_factory=TileLimits)
    sm_count: int = 128

    def describe(self) -> str:
        """One line for people."""
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


Step = NativeStep | FusedStep


@dataclass(frozen=True)
class ModulePlan:
    """All steps of a forward pass, in order.

    Attributes:
        graph: the canonical graph.
        steps: in execution order.
        formats: memory format of the results of native convolutions.
        native: names for people of the operations that compute and stay native.
    """

    graph: Graph
    steps: tuple[Step, ...]
    formats: Mapping[torch_fx.Node, MemoryFormat]
    native: tuple[str, ...]

    @property
    def fused(self) -> tuple[FusedPlan, ...]:
        """The fused kernels' plans."""
        return tuple(step.plan for step in self.steps if isinstance(step, FusedStep))


PlanRule = Callable[["_Planning", torch_fx.Node], Region | None]


@dataclass
class _Planning:
    graph: Graph
    options: PlanOptions
    formats: dict[torch_fx.Node, MemoryFormat]
    names: Names


def plan_module(graph: Graph, options: PlanOptions) -> ModulePlan:
    """Plan a canonical graph. Every graph can be planned; in the worst case all of it stays native."""
    formats = _convolution_formats(graph, options)
    if formats:
        graph = copy_graph(graph)
        formats = _convert_inputs(graph, options)
    planning = _Planning(graph, options, formats, Names())
    regions: dict[torch_fx.Node, Region] = {}
    inside: set[torch_fx.Node] = set()
    for node in reversed(list(graph.fx.nodes)):
        if node.op != "call_function" or node in inside or not node.users:
            continue
        region = next((found for rule in PLAN_RULES if (found := rule(planning, node)) is not None), None)
        if region is not None:
            regions[node] = region
            inside |= set(region.nodes)
    steps: list[Step] = []
    for node in graph.fx.nodes:
        if node in regions:
            steps.append(FusedStep(_fused_plan(planning, regions[node])))
        elif node.op == "call_function" and node not in inside and node.users:
            steps.append(NativeStep(node))
    native = tuple(
        dict.fromkeys(
            operation_name(step.node) for step in steps if isinstance(step, NativeStep) and _computes(step.node)
        )
    )
    return ModulePlan(graph, tuple(steps), planning.formats, native)


def _convert_inputs(graph: Graph, options: PlanOptions) -> dict[torch_fx.Node, MemoryFormat]:
    """Give every channels-last convolution an input that a fused kernel writes in that format.

    A pointwise result that only the convolution uses is written so at once; anything else is copied.
    """
    formats = _convolution_formats(graph, options)
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


def _convolution_formats(graph: Graph, options: PlanOptions) -> dict[torch_fx.Node, MemoryFormat]:
    return {
        node: options.convolution_format
        for node in graph.fx.nodes
        if node.op == "call_function" and node.target in CONVOLUTIONS and node.meta["val"].dim() >= 4
    }


# -- rules: match fully, or decline ------------------------------------------------------------------------


def plan_fused_region(planning: _Planning, node: torch_fx.Node) -> Region | None:
    """A chain of pointwise operations and nested reductions that ends in `node`."""
    if not is_fusible(node) or not _is_device_tensor(node):
        return None
    region = grow_region(node)
    if region is None or not _has_data(planning.graph, region):
        return None
    return region


def _is_device_tensor(node: torch_fx.Node) -> bool:
    return is_tensor_node(node) and node.meta["val"].dtype in (torch.float32, torch.float16, torch.bfloat16)


def _has_data(graph: Graph, region: Region) -> bool:
    """Something in it depends on the inputs; what depends on parameters alone is small, and PyTorch's."""
    state = {*graph.parameters, *graph.buffers, *graph.constants}
    return any(operand.node.name not in state for operand in region.operands)


PLAN_RULES: tuple[PlanRule, ...] = (plan_fused_region,)


# -- tiles -------------------------------------------------------------------------------------------------


def _fused_plan(planning: _Planning, region: Region) -> FusedPlan:
    graph = planning.graph
    sizes = [graph.shape_of(region.operands[index].node)[dim] for index, dim in region.axis_sources]
    formats = tuple(planning.formats.get(operand.node, MemoryFormat.CONTIGUOUS) for operand in region.operands)
    output_format = planning.formats.get(region.root, MemoryFormat.CONTIGUOUS)
    axes = plan_axes(region, sizes, formats, output_format)
    operations = [operation_name(node).strip("_") for node in region.nodes if not is_relabelling(node)]
    name = planning.names.unique("fused_" + "_".join(dict.fromkeys(operations[-5:])))
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
    split = programs < limits.target_programs
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
