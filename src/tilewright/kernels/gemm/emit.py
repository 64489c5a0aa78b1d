"""Emission of a GEMM anchor: the main kernel, its finish where work is split, and its TF32 twin for rare inputs.

All kernels of a plan share one tile function, the epilogue. Where float32 operands are multiplied as float16, the
main kernel computes every tile, and the wide kernel then computes again, in TF32, the row blocks that the prepass
marked; without any it only looks at the marks.
"""

from __future__ import annotations

from tilewright.graph.graph import Graph
from tilewright.kernels.code.text import Lines
from tilewright.kernels.gemm.epilogue import Epilogue
from tilewright.kernels.gemm.loops import GROUPED_TILE, GemmLoops
from tilewright.kernels.gemm.pack import PREPASS_KERNEL, PREPASS_WRAPPER, SCRATCH_MEMORY
from tilewright.kernels.gemm.plan import GemmPlan
from tilewright.kernels.gemm.results import Results
from tilewright.kernels.gemm.wrapper import GemmWrapper
from tilewright.kernels.operands import Operands
from tilewright.kernels.ops.pointwise import helpers_in
from tilewright.kernels.plan import EmittedKernel
from tilewright.kernels.regions.region import is_relabelling
from tilewright.kernels.regions.values import short_name


def emit_gemm(plan: GemmPlan, graph: Graph) -> EmittedKernel:
    """Source of the kernels of one plan and of their wrapper."""
    return _GemmEmitter(plan, graph).emit()


class _GemmEmitter:
    def __init__(self, plan: GemmPlan, graph: Graph) -> None:
        self.plan = plan
        self.graph = graph
        self.schedule = plan.schedule
        self.epilogue = Epilogue(plan, graph)
        self.results = Results(plan, self.epilogue)
        self.loops = GemmLoops(plan)
        self.half = plan.schedule.operands is Operands.HALF

    def emit(self) -> EmittedKernel:
        tile_function = self.results.tile_function()
        sources = [tile_function] if tile_function else []
        sources.append(self._main_kernel())
        if self.schedule.split > 1:
            sources.append(self._split_finish_kernel())
        if self.plan.partial_rows:
            sources.append(self.results.row_finish_kernel())
        if self.half:
            sources.append(self._wide_kernel())
        kernels = "\n\n\n".join(sources)
        wrapper = GemmWrapper(self.plan, self.epilogue, self.results)
        text = wrapper.source()
        nodes = [self.plan.product.left, self.plan.product.right]
        strided = {0, 1} if not self.schedule.descriptors or self.half else set()
        if self.plan.product.batch == 0 and self.plan.product.left.meta["val"].dim() > 2:
            strided -= {0}
        return EmittedKernel(
            kernels,
            text,
            self.plan.name,
            tuple(node.name for node in (*nodes, *self.epilogue.pointers)),
            dict(self.epilogue.scalars),
            frozenset(helpers_in(kernels)),
            self._scratch(),
            shared_kernels=(GROUPED_TILE, *((PREPASS_KERNEL,) if self.half else ())),
            shared_wrappers=(
                *((SCRATCH_MEMORY,) if self.schedule.descriptors else ()),
                *((PREPASS_WRAPPER,) if self.half else ()),
            ),
            spares=(f"{self.plan.name}_wide_kernel",) if self.half else (),
            strided=frozenset(strided),
            conditions=wrapper.conditions(),
        )

    # -- kernels -------------------------------------------------------------------------------------------

    def _main_kernel(self) -> str:
        lines = Lines(1)
        if self.schedule.descriptors:
            self.loops.descriptors(lines, self.results.by_descriptor)
            flat = ", flatten=True" if self.schedule.flat else ""
            lines.open(f"for tile in tl.range(tl.program_id(0), m_blocks * n_blocks, tl.num_programs(0){flat}):")
            self.loops.tile_indices(lines, "tile")
            self.loops.descriptor_loop(lines)
        else:
            self.loops.program_indices(lines)
            self.loops.pointer_loop(lines)
        if self.schedule.split > 1:
            self._store_products(lines)
        else:
            self._finish_tile(lines)
        name = f"{self.plan.name}_kernel"
        tensors = ["left_ptr", "right_ptr", *(["left_scale_ptr", "right_scale_ptr"] if self._scales_here() else [])]
        if self.schedule.split > 1:
            head = self._bare_signature(name, [*tensors, "products_ptr"], self.loops.sizes(), self.loops.blocks())
        else:
            tensors += [*self._pointers(), *self.results.pointers()]
            head = self._signature(name, tensors, self.loops.sizes(), self.loops.blocks())
        return f'{head}\n    """{self._docstring()}"""\n{lines}'

    def _scales_here(self) -> bool:
        return self.half and self.schedule.split == 1

    def _pointers(self) -> list[str]:
        return [f"{name}_ptr" for name in self.epilogue.pointers.values()]

    def _signature(self, name: str, tensors: list[str], sizes: list[str], blocks: list[str]) -> str:
        extra = [size for size in self.epilogue.sizes if size not in sizes]
        return self.epilogue.signature(name, tensors, [*sizes, *extra], blocks)

    def _bare_signature(self, name: str, tensors: list[str], sizes: list[str], blocks: list[str]) -> str:
        scalars, self.epilogue.scalars = self.epilogue.scalars, {}
        head = self.epilogue.signature(name, tensors, sizes, blocks)
        self.epilogue.scalars = scalars
        return head

    def _store_products(self, lines: Lines) -> None:
        batch = "(part * BATCH + batch)" if self.plan.product.batch else "part"
        lines.add("m = m_block * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]")
        lines.add("n = n_block * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]")
        lines.add(f"row = {batch}.to(tl.int64) * M + m")
        lines.add("tl.store(products_ptr + row * N + n, accumulator, mask=(m < M) & (n < N))")

    def _finish_tile(self, lines: Lines) -> None:
        """Scale, epilogue and stores, piece by piece."""
        pieces = self.loops.pieces(lines)
        lines.add("m = (m_block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]")
        if self.half:
            row = "left_row + m" if self.plan.product.batch else "m"
            lines.add(f"row_scale = tl.load(left_scale_ptr + {row}, mask=m < M, other=0.0)")
        value, first, block = pieces[0], "", "n_block"
        width = "BLOCK_N"
        if len(pieces) > 1:
            width = f"(BLOCK_N // {len(pieces)})"
            lines.add(f"pieces = ({', '.join(pieces)})")
            lines.open(f"for piece in tl.static_range({len(pieces)}):")
            value, first, block = "pieces[piece]", f" + piece * {width}", f"n_block * {len(pieces)} + piece"
        lines.add(f"n = n_block * BLOCK_N{first} + tl.arange(0, {width.strip('()')})[None, :]")
        if self.half:
            column = "right_row + n" if self.plan.product.batch else "n"
            lines.add(f"column_scale = tl.load(right_scale_ptr + {column}, mask=n < N, other=0.0)")
            value = f"{value} * row_scale * column_scale"
        self.results.store(lines, value, block, f"n_block * BLOCK_N{first}")

    def _split_finish_kernel(self) -> str:
        """Adds the partial products in order, then everything that follows."""
        lines = Lines(1)
        batched = bool(self.plan.product.batch)
        lines.add("n_blocks = tl.cdiv(N, BLOCK_N)")
        lines.add("pid = tl.program_id(0)")
        lines.add("n_block = pid % n_blocks")
        lines.add("pid = pid // n_blocks")
        if batched:
            lines.add("m_blocks = tl.cdiv(M, BLOCK_M)")
            lines.add("batch = (pid // m_blocks).to(tl.int64)")
            lines.add("pid = pid % m_blocks")
        lines.add("m = (pid * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]")
        lines.add("n = n_block * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]")
        lines.add("inside = (m < M) & (n < N)")
        lines.add("value = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)")
        lines.open("for part in range(0, SPLIT):")
        row = "(part * BATCH + batch) * M + m" if batched else "part * M + m"
        lines.add(f"value += tl.load(products_ptr + ({row}) * N + n, mask=inside, other=0.0)")
        lines.close()
        if self.half:
            self._split_scales(lines)
        self.results.store(lines, "value", "n_block", "n_block * BLOCK_N")
        scales = ["left_scale_ptr", "right_scale_ptr"] if self.half else []
        tensors = ["products_ptr", *scales, *self._pointers(), *self.results.pointers()]
        batch_sizes = ["BATCH"] if batched else []
        strides = self.loops.scale_strides() if self.half else []
        head = self._signature(
            f"{self.plan.name}_finish_kernel",
            tensors,
            ["M", "N", *batch_sizes, *strides],
            ["SPLIT", "BLOCK_M", "BLOCK_N"],
        )
        return f'{head}\n    """Adds the partial products in order, and finishes: deterministic."""\n{lines}'

    def _split_scales(self, lines: Lines) -> None:
        left = right = ""
        if self.plan.product.batch:
            self.loops.scale_rows(lines)
            left, right = "left_row + ", "right_row + "
        lines.add(f"value = value * tl.load(left_scale_ptr + {left}m, mask=m < M, other=0.0)")
        lines.add(f"value = value * tl.load(right_scale_ptr + {right}n, mask=n < N, other=0.0)")

    def _wide_kernel(self) -> str:
        lines = Lines(1)
        self.loops.wide_indices(lines)
        lines.open("for n_block in range(share, n_blocks * unfit, tl.num_programs(1)):")
        self.loops.wide_loop(lines)
        lines.add("m = (m_block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]")
        lines.add("n = n_block * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]")
        self.results.store(lines, "accumulator", "n_block", "n_block * BLOCK_N", descriptors=False)
        tensors = ["left_ptr", "right_ptr", "unfit_ptr", *self._pointers(), *self.results.pointers()]
        head = self._signature(
            f"{self.plan.name}_wide_kernel", tensors, self.loops.wide_sizes(), ["BLOCK_M", "BLOCK_N", "BLOCK_K"]
        )
        doc = '"""The same in TF32, from operands as given, where float16 cannot hold a row of the block."""'
        return f"{head}\n    {doc}\n{lines}"

    # -- words ---------------------------------------------------------------------------------------------

    def _docstring(self) -> str:
        nodes = [self.plan.anchor, *(node for node in self.plan.tiles.nodes if not is_relabelling(node))]
        steps = " -> ".join(short_name(node) for node in nodes)
        kinds = {
            Operands.HALF: "operands are float16, rows of both scaled by powers of two",
            Operands.TF32: "operands are rounded to TF32",
            Operands.IEEE: "products in float32",
            Operands.GIVEN: "products accumulate in float32",
        }
        split = ", partial products of a part of K" if self.schedule.split > 1 else ""
        return f"{steps}{split}; {kinds[self.schedule.operands]}."

    def _scratch(self) -> tuple[str, ...]:
        found = []
        if self.half:
            for side, rows in (("left", "M"), ("right", "N")):
                found.append(f"{side}_half: {side} operand repacked as float16 in each call, 2 * {rows} * K bytes each")
                found.append(f"{side}_scale: a power of two for each of its rows, float32 [{rows}]")
            found.append("known: what is known of the operand that is repacked first, float32 [2]")
            found.append("unfit: rows of the other that float16 cannot hold, int32 [rows]")
        if self.schedule.split > 1:
            found.append(f"products: partial products, float32 [{self.schedule.split}, M, N]")
        if self.plan.partial_rows:
            found.append("partial: row reductions of tiles, float32 [values, column blocks, M]")
        return tuple(found)
