"""Synthesis: reference -> graph -> canonical form -> plan -> Triton source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.fx as torch_fx
from torch import nn

from tilewright.errors import TilewrightError
from tilewright.gpu import Gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.graph.collapse import COLLAPSE_RULES
from tilewright.graph.contractions import is_contraction
from tilewright.graph.graph import Graph, is_tensor_node
from tilewright.graph.work import count_nodes
from tilewright.kernels.code.text import LETTERS
from tilewright.kernels.collapse.plan import CollapsePlan, CollapseTiles
from tilewright.kernels.conv.plan import ConvPlan, ConvTiles, convolution_shape
from tilewright.kernels.conv.product import ConvProduct
from tilewright.kernels.depthwise.plan import DepthwisePlan, DepthwiseTiles
from tilewright.kernels.gemm.plan import GemmPlan
from tilewright.kernels.gemm.schedules import schedule_sets
from tilewright.kernels.module.classes import ReferenceClass, read_reference, write_file, write_live_file
from tilewright.kernels.module.planned import widened
from tilewright.kernels.module.text import ForwardText, write_forward
from tilewright.kernels.native import operation_name
from tilewright.kernels.plan import FusedPlan, TileLimits
from tilewright.kernels.planner import plan_module
from tilewright.kernels.pool.plan import PoolPlan, PoolTiles
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.rows.plan import RowForm, RowPlan, RowTiles
from tilewright.kernels.rows.rules import RowOptions
from tilewright.kernels.steps import KernelPlan, ModulePlan, PlanOptions
from tilewright.task.module_source import build_module, init_args, make_inputs
from tilewright.task.task import ModuleSource, Task
from tilewright.values import Candidate, Origin, PrecisionClass, Schedule

Progress = Callable[[str], None]

#: Warps on one SM that keep its memory pipes busy; what reductions are split for.
_WARPS_TO_FILL = 48


#: Choices of schedules for a module's matrix products.
_GEMM_SETS = 10

#: Programs that share an SM where rows are split, the most promising first: few make long slices.
_PROGRAMS_OF_AN_SM = (8, 4, 16)

#: Rows are split where an SM would have fewer programs than this.
_FEW_OF_AN_SM = 2

#: Row tiles that are tried after operations left to PyTorch, where the first plan is another.
_NATIVE_ROWS = 4

#: (elements of a tile, elements of a warp, form) of row kernels, the most promising first.
_ROW_TILES = (
    (2048, 1024, None),
    (1024, 1024, None),
    (2048, 512, None),
    (4096, 1024, None),
    (4096, 512, None),
    (2048, 2048, None),
    (2048, 256, None),
    (1024, 1024, RowForm.SPLIT),
    (2048, 1024, RowForm.SPLIT),
    (2048, 1024, RowForm.LOOPED),
)

#: Elements along the contiguous axis of a tile of theirs where rows are strided.
_STRIPE = 64

#: (elements of a tile, stripe, elements of a warp, form) of plain reductions, where rows may replace nested loops.
#: Whole strided rows in registers are reduced across warps, and nothing is loaded meanwhile: walking them is the other
#: way.
_PLAIN_TILES = (
    (2048, 64, 1024, None),
    (2048, 128, 2048, RowForm.LOOPED),
    (2048, 64, 2048, None),
    (4096, 128, 4096, RowForm.LOOPED),
    (4096, 256, 4096, RowForm.LOOPED),
    (1024, 64, 2048, RowForm.LOOPED),
    (4096, 64, 512, None),
    (2048, 64, 512, None),
)

#: Elements of a tile that comes first where rows are split: more programs share an SM, each with fewer registers.
_SPLIT_TILE = 1024

#: Of pooling, the most promising first.
_POOL_TILES = (
    PoolTiles(256, 256, 4),
    PoolTiles(512, 256, 8),
    PoolTiles(256, 256, 2),
    PoolTiles(512, 256, 4),
    PoolTiles(256, 256, 4, vectors=False),
    PoolTiles(128, 128, 4, vectors=False),
)

#: Of depthwise convolutions, the most promising first.
_DEPTHWISE_TILES = (
    DepthwiseTiles(4, 24, 4, 4),
    DepthwiseTiles(4, 48, 1, 4),
    DepthwiseTiles(4, 16, 4, 1),
    DepthwiseTiles(4, 32, 2, 4),
    DepthwiseTiles(4, 8, 4, 4),
    DepthwiseTiles(2, 32, 4, 4),
)

#: Of convolution anchors, the most promising first.
_CONV_TILES = (
    ConvTiles(64, 64, 4, 2),
    ConvTiles(64, 64, 4, 2, block_k=32),
    ConvTiles(64, 64, 4, 2, block_k=32, max_registers=96),
    ConvTiles(128, 128, 8, 1, rows=16),
    ConvTiles(128, 64, 8, 2),
    ConvTiles(128, 128, 4, 2, by_tap=True),
    ConvTiles(64, 64, 4, 1),
    ConvTiles(128, 64, 4, 2),
    ConvTiles(128, 128, 8, 3, by_tap=True),
    ConvTiles(128, 128, 8, 2),
    ConvTiles(64, 128, 8, 2),
    ConvTiles(128, 64, 8, 2, block_k=32),
    ConvTiles(128, 64, 8, 3, block_k=32),
    ConvTiles(128, 128, 8, 1, rows=8),
    ConvTiles(64, 64, 4, 1, rows=16),
    ConvTiles(64, 32, 4, 2),
    ConvTiles(32, 64, 4, 2),
)

#: Of convolution anchors whose tiles hold all channels, the most promising first: what is kept of a tile is many
#: registers, and the number of channels is not to be chosen.
_CHANNEL_TILES = (
    ConvTiles(64, 128, 4, 3),
    ConvTiles(64, 128, 4, 2),
    ConvTiles(64, 128, 8, 1, rows=16),
    ConvTiles(32, 128, 8, 1, rows=16),
    ConvTiles(128, 128, 8, 2),
    ConvTiles(32, 128, 4, 3),
    ConvTiles(64, 128, 8, 3),
    ConvTiles(32, 128, 8, 1, rows=8),
    ConvTiles(64, 128, 4, 2, block_k=32),
    ConvTiles(64, 128, 4, 3, block_k=32),
    ConvTiles(64, 128, 8, 1, rows=8),
    ConvTiles(64, 128, 8, 2),
    ConvTiles(64, 128, 4, 3, by_tap=True),
    ConvTiles(128, 128, 8, 3, by_tap=True),
    ConvTiles(32, 128, 4, 2, block_k=32),
    ConvTiles(64, 128, 4, 4, by_tap=True),
    ConvTiles(64, 128, 8, 2, block_k=32),
)

#: Of those that multiply operands as given, the most promising first. With one tap in a step, large tiles leave room
#: for several steps in flight.
_GIVEN_CONV_TILES = (
    ConvTiles(128, 128, 8, 3, by_tap=True),
    ConvTiles(64, 64, 4, 2),
    ConvTiles(64, 64, 4, 2, block_k=32),
    ConvTiles(128, 128, 8, 1, rows=16),
    ConvTiles(128, 128, 4, 2, by_tap=True),
    ConvTiles(128, 64, 4, 3, by_tap=True),
    ConvTiles(128, 128, 4, 3, by_tap=True),
    ConvTiles(128, 128, 8, 4, by_tap=True),
    ConvTiles(128, 64, 8, 2),
    ConvTiles(128, 64, 8, 2, block_k=32),
    ConvTiles(128, 64, 8, 3, block_k=32),
    ConvTiles(64, 128, 4, 3, by_tap=True),
    ConvTiles(64, 128, 4, 4, by_tap=True),
    ConvTiles(64, 64, 4, 4, by_tap=True),
    ConvTiles(128, 256, 8, 3, by_tap=True),
    ConvTiles(64, 64, 4, 1, rows=16),
    ConvTiles(128, 128, 8, 1, rows=8),
    ConvTiles(64, 64, 4, 3, block_k=32),
    ConvTiles(32, 64, 4, 2),
)

#: So many of them come before the first plans with native convolutions.
_ANCHORS_BEFORE_NATIVE = 3

#: Of collapsed convolutions, the most promising first.
_COLLAPSE_TILES = (
    CollapseTiles(1024, 4, 32768, 4),
    CollapseTiles(512, 8, 32768, 4),
    CollapseTiles(1024, 4, 16384, 4),
    CollapseTiles(2048, 4, 32768, 4),
    CollapseTiles(2048, 4, 32768, 8),
    CollapseTiles(1024, 4, 32768, 4, lane_cells=0),
    CollapseTiles(1024, 4, 16384, 4, lane_cells=0),
    CollapseTiles(1024, 4, 32768, 4, lane_cells=16),
)

#: Programs of an SM at least, where a collapsed convolution's planes are split.
_COLLAPSE_PROGRAMS = 4


def plan_variants(
    sm_count: int, precision: PrecisionClass, convolved: torch.dtype = torch.float32
) -> tuple[PlanOptions, ...]:
    """The plans that are tried for a module, the most promising first.

    Args:
        sm_count: of the target.
        precision: class of the module's products.
        convolved: type of its convolutions' operands.
    """
    last, plain = MemoryFormat.CHANNELS_LAST, MemoryFormat.CONTIGUOUS
    native = [
        PlanOptions(form, TileLimits(tile, row, warps, 2, sm_count * _WARPS_TO_FILL // warps), sm_count)
        for form in (last, plain)
        for tile, row, warps in ((2048, 1024, 4), (4096, 1024, 4), (1024, 512, 4), (4096, 2048, 8))
    ]
    converts = precision is PrecisionClass.TF32  # float32 operands to float16, behind a guard
    given = convolved is not torch.float32
    if not converts and not given:
        return tuple(native)
    anchor = replace(native[0], convolution_anchors=True)
    if not converts:
        anchor = replace(anchor, convolution_dtypes=(torch.float16, torch.bfloat16))
    anchors = [replace(anchor, convolution_tiles=tiles) for tiles in (_GIVEN_CONV_TILES if given else _CONV_TILES)]
    # A native convolution in either format is among the first: how fast those are, only the clock can tell.
    early = [next(options for options in native if options.convolution_format is form) for form in (last, plain)]
    rest = [options for options in native if options not in early]
    return (*anchors[:_ANCHORS_BEFORE_NATIVE], *early, *anchors[_ANCHORS_BEFORE_NATIVE:], *rest)


def with_channel_rows(variants: Sequence[PlanOptions], graph: Graph) -> list[PlanOptions]:
    """The variants, with other tiles where rows over the channels of a convolution are its epilogue."""
    first = next((options for options in variants if options.convolution_anchors), None)
    kernels = plan_module(graph, first).fused if first is not None else ()
    if not any(isinstance(kernel, ConvPlan) and kernel.whole_channels for kernel in kernels):
        return list(variants)
    anchors = [options for options in variants if options.convolution_anchors]
    replaced = {
        options: replace(options, convolution_tiles=tiles)
        for options, tiles in zip(anchors, _CHANNEL_TILES, strict=False)
    }
    return [
        replaced.get(options, options) for options in variants if options in replaced or not options.convolution_anchors
    ]


def rounds_products(graph: Graph, precision: PrecisionClass) -> bool:
    """Whether the module's values are rounded to 11 bits or fewer: by its products, or as 16-bit inputs.

    What is computed on them may be approximate then. Without, PyTorch's activations are good to 24 bits, whatever
    the class of products is.
    """
    if precision is PrecisionClass.IEEE:
        return False
    types = {node.meta["val"].dtype for node in graph.fx.nodes if is_tensor_node(node)}
    multiplies = any(is_contraction(operation_name(node)) for node in graph.fx.nodes if node.op == "call_function")
    return bool(types & {torch.float16, torch.bfloat16}) or multiplies


def convolved_type(graph: Graph) -> torch.dtype:
    """Type of the operands of a graph's convolutions: of the first, where they differ; float32 without any."""
    inputs = (node.args[0] for node in graph.fx.nodes if convolution_shape(node) is not None)
    return next((node.meta["val"].dtype for node in inputs if isinstance(node, torch_fx.Node)), torch.float32)


def with_gemms(variants: Sequence[PlanOptions], graph: Graph, gpu: Gpu, precision: PrecisionClass) -> list[PlanOptions]:
    """The variants again with matrix products as anchors before them; the plain ones stay, in case native is faster."""
    sets = schedule_sets(graph, gpu, precision, _GEMM_SETS)
    if not any(convolution_shape(node) is not None for node in graph.fx.nodes):
        variants = [options for options in variants if not options.convolution_anchors]
    anchors = [replace(variants[0], gemms=gemms) for gemms in sets]
    others = [replace(options, gemms=sets[0]) for options in variants[1:] if sets and options.convolution_anchors]
    return [*anchors, *others, *variants]


def with_rows(variants: Sequence[PlanOptions], graph: Graph, sm_count: int) -> list[PlanOptions]:
    """The variants, and some of them with other tiles for rows and pooling, where there are any.

    The first has them, and the first that leaves products and convolutions native: beside an anchor that takes the rows
    into its epilogue, the best of the other way must be there.
    """
    first = variants[0]
    own = _row_variants(first, variants[-1], graph, sm_count)
    native = next((options for options in variants if not (options.gemms or options.convolution_anchors)), first)
    if native is first:
        return [*own[:3], *variants, *own[3:]]
    natives = [native, *_row_variants(native, native, graph, sm_count)[:_NATIVE_ROWS]]
    return [*own[:2], first, *natives, *variants, *own[2:]]


def _row_variants(first: PlanOptions, plainest: PlanOptions, graph: Graph, sm_count: int) -> list[PlanOptions]:
    """`first` with other tiles for the rows and the pooling in its plan, and `plainest` without rows."""
    kernels = plan_module(graph, first).fused
    others: list[PlanOptions] = []
    if any(isinstance(kernel, RowPlan) for kernel in kernels):
        choices = [
            replace(first, rows=RowOptions(_row_tiles(sm_count, tile, 64, warp), form))
            for tile, warp, form in _ROW_TILES
        ]
        others += [*_split_first(choices, graph, sm_count), replace(plainest, rows=None)]
    if any(isinstance(kernel, FusedPlan) and kernel.region.depth > 0 for kernel in kernels):
        choices = [
            replace(first, rows=RowOptions(_row_tiles(sm_count, tile, stripe, warp), form, plain=True))
            for tile, stripe, warp, form in _PLAIN_TILES
        ]
        others += _split_first(choices, graph, sm_count)
    if any(isinstance(kernel, PoolPlan) for kernel in kernels):
        others += [replace(first, pool_tiles=tiles) for tiles in _POOL_TILES]
    return others


def _row_tiles(sm_count: int, tile: int, stripe: int, warp: int) -> RowTiles:
    programs = sm_count * _PROGRAMS_OF_AN_SM[0]
    return RowTiles(tile, stripe, warp, target_programs=programs, few=sm_count * _FEW_OF_AN_SM)


def _split_first(choices: list[PlanOptions], graph: Graph, sm_count: int) -> list[PlanOptions]:
    """The choices, after some more where the first of them splits rows: in smaller tiles, and in other slices."""
    rows = choices[0].rows
    split = [kernel for kernel in plan_module(graph, choices[0]).fused if isinstance(kernel, RowPlan)]
    if rows is None or not any(kernel.form is RowForm.SPLIT for kernel in split):
        return choices
    tiles = [
        replace(rows.tiles, tile=_SPLIT_TILE, target_programs=sm_count * programs) for programs in _PROGRAMS_OF_AN_SM
    ]
    own = [replace(choices[0], rows=replace(rows, tiles=one)) for one in tiles]
    return [own[0], choices[0], *own[1:], *choices[1:]]


def with_depthwise(variants: Sequence[PlanOptions], graph: Graph) -> list[PlanOptions]:
    """The variants with depthwise convolutions as stencils, where there are any.

    The first of them has other tiles for these too; those with native convolutions stay as they are beside.
    """
    first = replace(variants[0], depthwise_tiles=_DEPTHWISE_TILES[0])
    if not any(isinstance(kernel, DepthwisePlan) for kernel in plan_module(graph, first).fused):
        return list(variants)
    others = [replace(first, depthwise_tiles=tiles) for tiles in _DEPTHWISE_TILES[1:]]
    stencils = [replace(options, depthwise_tiles=_DEPTHWISE_TILES[0]) for options in variants[1:]]
    native = [options for options in variants if not options.convolution_anchors]
    early = [next((o for o in native if o.convolution_format is form), native[0]) for form in MemoryFormat]
    rest = [options for options in native if options not in early]
    return [first, *others[:1], *stencils[:1], *early, *others[1:], *stencils[1:], *rest]


def with_collapses(variants: Sequence[PlanOptions], graph: Graph, sm_count: int) -> list[PlanOptions]:
    """The variants, and the first of them with other tiles for collapsed convolutions, where there are any."""
    if not any(isinstance(kernel, CollapsePlan) for kernel in plan_module(graph, variants[0]).fused):
        return list(variants)
    tiles = [replace(tiles, target_programs=sm_count * _COLLAPSE_PROGRAMS) for tiles in _COLLAPSE_TILES]
    usual = [replace(options, collapse_tiles=tiles[0]) for options in variants]
    return [*usual[:1], *(replace(usual[0], collapse_tiles=other) for other in tiles[1:]), *usual[1:]]


def synthesize(task: Task, *, progress: Progress | None = None) -> tuple[Candidate, ...]:
    """Candidates for a task with a reference, the most promising first; none where the code itself is the task.

    Raises:
        CaptureError, InputMismatchError, SourceError: the reference is at fault.
    """
    source = task.reference
    if source is None or task.given_code_is_specification:
        return ()
    say = progress or (lambda message: None)
    say("capturing the reference")
    module, inputs = _module_and_inputs(source)
    captured = capture(module, inputs)
    rounds = rounds_products(captured, task.precision)
    simplified = simplify(captured)
    graph = simplified.graph
    collapses = tuple(rule.name for rule in COLLAPSE_RULES if rule.collapse and rule.name in simplified.fired)
    reference = (
        None if source.pickled is not None else read_reference(source.source, source.class_name, str(source.path))
    )
    candidates: dict[str, Candidate] = {}
    plain = plan_variants(task.gpu.sm_count, task.precision, convolved_type(graph))
    variants = with_gemms(with_channel_rows(plain, graph), graph, task.gpu, task.precision)
    variants = with_rows(variants, graph, task.gpu.sm_count)
    variants = with_depthwise(variants, graph)
    variants = with_collapses(variants, graph, task.gpu.sm_count)
    variants = [replace(options, approximate=rounds) for options in variants]
    may_differ = graph.reads if reference is None else widened_reads(source, graph, variants[0])
    for options in dict.fromkeys(variants):
        say(f"writing a plan: {options.describe()}")
        plan = plan_module(graph, options)
        if not plan.fused:
            continue
        if not _fits(plan, task):
            continue
        text, forward = _write(task, plan, reference, may_differ)
        candidate = _candidate(text, forward, plan, options, reference is None)
        candidates.setdefault(text, replace(candidate, collapses=collapses))
    return tuple(candidates.values())


def _module_and_inputs(source: ModuleSource) -> tuple[nn.Module, list[Any]]:
    """The reference and its inputs: on the meta device where they can be made there, since only shapes matter."""
    try:
        return build_module(source, device="meta"), make_inputs(source, device="meta")
    except TilewrightError:
        return build_module(source), make_inputs(source)


def _write(
    task: Task,
    plan: ModulePlan,
    reference: ReferenceClass | None,
    may_differ: Mapping[str, Mapping[str, Any]],
) -> tuple[str, ForwardText]:
    """The file, and the forward pass in it."""
    description = f"{task.name}: {_summary(plan)}."
    forward = write_forward(plan)
    if reference is None:
        return write_live_file(forward, description=description), forward
    return write_file(reference, forward, description=description, may_differ=may_differ), forward


def _summary(plan: ModulePlan) -> str:
    kernels = ", ".join(kernel.name for kernel in plan.fused)
    native = f"; native: {', '.join(plan.native)}" if plan.native else ""
    return f"fused in Triton: {kernels}{native}"


def _candidate(text: str, forward: ForwardText, plan: ModulePlan, options: PlanOptions, live: bool) -> Candidate:
    schedules = tuple(_schedule(kernel) for kernel in plan.fused)
    cut = {kernel.tiles for kernel in plan.fused if isinstance(kernel, ConvPlan)}
    if len(cut) == 1:  # a convolution that cannot be cut as was asked has other tiles
        options = replace(options, convolution_tiles=cut.pop())
    return Candidate(
        text,
        Origin.SYNTHESIZE,
        f"fused kernels after native operations ({options.describe()})",
        schedules=schedules,
        native=plan.native,
        scratch=forward.scratch,
        spares=forward.spares,
        products=_products(plan),
        needs_reference=live,
    )


def _products(plan: ModulePlan) -> tuple[tuple[str, int], ...]:
    """Kernels of anchors, and the operations of their products at the example inputs, none with padding."""
    operations = {node.name: node.matrix_operations for node in count_nodes(plan.graph)}
    anchors = [(kernel.name, _anchor_of(kernel)) for kernel in plan.fused]
    return tuple((f"{name}_kernel", operations[anchor]) for name, anchor in anchors if anchor in operations)


def _anchor_of(kernel: KernelPlan) -> str:
    """Name of the node whose product a kernel computes; empty for a kernel without an anchor."""
    if isinstance(kernel, GemmPlan):
        return kernel.product.node.name
    return kernel.anchor.name if isinstance(kernel, ConvPlan) else ""


def _fits(plan: ModulePlan, task: Task) -> bool:
    """The tiles of its convolution anchors fit the target's shared memory, as far as it can be told in advance."""
    anchors = [kernel for kernel in plan.fused if isinstance(kernel, ConvPlan)]
    limit = task.gpu.shared_bytes_per_block
    return all(ConvProduct(kernel, LETTERS[kernel.shape.rank]).shared_bytes() <= limit for kernel in anchors)


def _schedule(kernel: KernelPlan) -> Schedule:
    if isinstance(kernel, RowPlan):
        return Schedule(kernel.name, kernel.schedule_sizes, kernel.schedule_warps, 1)
    if isinstance(kernel, PoolPlan):
        pool = kernel.tiles
        pooled = (("TILE", pool.tile), ("ROW", pool.row), ("VECTORS", int(pool.vectors)))
        return Schedule(kernel.name, pooled, pool.num_warps, 1)
    if isinstance(kernel, DepthwisePlan):
        stencil = kernel.tiles
        return Schedule(kernel.name, (("COLUMNS", stencil.columns), ("ROWS", stencil.rows)), stencil.num_warps, 1)
    if isinstance(kernel, GemmPlan):
        gemm = kernel.schedule
        blocks = (("BLOCK_M", gemm.block_m), ("BLOCK_N", gemm.block_n), ("BLOCK_K", gemm.block_k))
        return Schedule(kernel.name, blocks, gemm.num_warps, gemm.num_stages, gemm.split)
    if isinstance(kernel, CollapsePlan):
        collapse = kernel.tiles
        block = ("BLOCK", collapse.block), ("UNROLL", collapse.unroll)
        cut = ("ELEMENTS", collapse.elements), ("LANE_CELLS", collapse.lane_cells)
        return Schedule(kernel.name, (*block, *cut), collapse.num_warps, 1)
    if isinstance(kernel, ConvPlan):
        tiles = kernel.tiles
        sizes = (("BLOCK_P", tiles.block_p), ("BLOCK_C", tiles.block_c))
        return Schedule(kernel.name, sizes, tiles.num_warps, tiles.num_stages)
    limits = kernel.limits
    return Schedule(kernel.name, (("TILE", limits.tile), ("ROW", limits.row)), limits.num_warps, limits.num_stages)


# -- generality: what other constructor arguments may change ------------------------------------------------


def widened_reads(source: ModuleSource, graph: Graph, options: PlanOptions) -> Mapping[str, Mapping[str, Any]]:
    """What was read of the module, with `...` for what may differ: the text holds for it as it is.

    Each constructor argument is changed, the module captured and written again. Where the text stays the same, what
    changed with the argument may differ.
    """
    arguments = init_args(source)
    text = write_forward(plan_module(graph, options))
    reads: dict[str, Any] = dict(graph.reads)
    for position in range(len(arguments)):
        found = _same_text_otherwise(source, arguments, position, text, options)
        if found is not None and [*found] == [*reads]:
            reads = {path: widened(reads[path], found[path]) for path in reads}
    return {path: names if names is not ... else graph.reads[path] for path, names in reads.items()}


def _same_text_otherwise(
    source: ModuleSource,
    arguments: tuple[Any, ...],
    position: int,
    text: ForwardText,
    options: PlanOptions,
) -> Mapping[str, Mapping[str, Any]] | None:
    """What is read of the module when one argument is another, if the text is the same then."""
    for changed, follow in _changes(arguments[position]):
        others = tuple(changed if index == position else value for index, value in enumerate(arguments))
        graph = _capture_changed(source, others, arguments[position], changed, follow)
        if graph is None:
            continue
        try:
            return graph.reads if write_forward(plan_module(graph, options)) == text else None
        except TilewrightError:
            return None
    return None


def _changes(value: Any) -> list[tuple[Any, bool]]:
    """Other values to try, and whether inputs' dims of the old size follow."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, int):
        return [(value + step, follow) for step in (value, 1) if step for follow in (True, False)]
    if isinstance(value, float):
        return [(value * 1.37 + 0.113, False)]
    return []


def _capture_changed(
    source: ModuleSource, arguments: tuple[Any, ...], old: Any, new: Any, follow: bool
) -> Graph | None:
    try:
        module = build_module(source, init_args=arguments, device="meta")
        inputs = [_resized(value, old, new) if follow else value for value in make_inputs(source, device="meta")]
        return simplify(capture(module, inputs)).graph
    except (TilewrightError, RuntimeError, ValueError, TypeError):
        return None


def _resized(value: Any, old: Any, new: Any) -> Any:
    """A tensor whose dim 1 follows a changed number of channels or features."""
    if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.shape[1] != old:
        return value
    shape = [new if dim == 1 else size for dim, size in enumerate(value.shape)]
    return torch.empty(shape, dtype=value.dtype, device="meta")
