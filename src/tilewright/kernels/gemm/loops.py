"""The loops of a GEMM anchor: which tile a program computes, and the sum over the inner dim."""

from __future__ import annotations

from collections.abc import Mapping

import torch.fx as torch_fx

from tilewright.kernels.code.text import Lines
from tilewright.kernels.gemm.plan import GemmPlan
from tilewright.kernels.operands import Operands

GROUPED_TILE = '''
@triton.jit
def grouped_tile(pid, m_blocks, n_blocks, GROUP_M: tl.constexpr):
    """Row and column block of a program; GROUP_M row blocks are walked together, so that operands stay in the cache."""
    group = pid // (GROUP_M * n_blocks)
    inside = pid % (GROUP_M * n_blocks)
    rows = tl.minimum(m_blocks - group * GROUP_M, GROUP_M)
    return group * GROUP_M + inside % rows, inside // rows
'''.strip("\n")


class GemmLoops:
    """Emits indices and loops of one plan's kernels. Operands: `left_ptr`, `right_ptr`; result: `accumulator`."""

    def __init__(self, plan: GemmPlan) -> None:
        self.plan = plan
        self.schedule = plan.schedule
        self.half = plan.schedule.operands is Operands.HALF
        self.batch = plan.product.batch
        #: In memory, the right operand's columns follow each other along K.
        self.right_by_columns = self.half or plan.product.right_is_transposed

    # -- parameters ----------------------------------------------------------------------------------------

    def sizes(self) -> list[str]:
        """Sizes and strides that the main kernel takes, in elements."""
        if self.schedule.descriptors:
            return ["M", "N", "K"]
        batch = ["BATCH", *self._batch_sizes()] if self.batch else []
        return ["M", "N", "K", *batch, *self._strides("LEFT_M", "LEFT_K", "RIGHT_N", "RIGHT_K")]

    def wide_sizes(self) -> list[str]:
        """The same for the wide kernel."""
        batch = ["BATCH", *self._batch_sizes()] if self.batch else []
        unfit = [f"UNFIT_{i}" for i in range(self.batch)]
        return ["M", "N", "K", *batch, *self._strides("LEFT_M", "LEFT_K", "RIGHT_N", "RIGHT_K"), *unfit]

    def scale_strides(self) -> list[str]:
        """Sizes from which the rows of scales are found, where there are several matrices."""
        if not self.batch:
            return []
        return [*self._batch_sizes(), *self._strides(), "K"]

    def _batch_sizes(self) -> list[str]:
        return [f"D{i}" for i in range(1, self.batch)]

    def _strides(self, *inner: str) -> list[str]:
        left = [f"LEFT_{i}" for i in range(self.batch)]
        right = [f"RIGHT_{i}" for i in range(self.batch)]
        return [*left, *right, *inner]

    def blocks(self) -> list[str]:
        """Compile-time constants of the main kernel."""
        own = ["BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", "STAGES"]
        own += ["EVEN_K"] if self._masks_k() else []
        return [*own, *(["SPLIT"] if self.schedule.split > 1 else [])]

    def _masks_k(self) -> bool:
        """K need not be a multiple of its block."""
        return not self.half and not self.schedule.descriptors

    # -- tiles ---------------------------------------------------------------------------------------------

    def program_indices(self, lines: Lines) -> None:
        """One program, one tile (of one part of K)."""
        lines.add("m_blocks = tl.cdiv(M, BLOCK_M)")
        lines.add("n_blocks = tl.cdiv(N, BLOCK_N)")
        lines.add("pid = tl.program_id(0)")
        if self.schedule.split > 1:
            lines.add("part = pid % SPLIT")
            lines.add("pid = pid // SPLIT")
        if self.batch:
            lines.add("batch = (pid // (m_blocks * n_blocks)).to(tl.int64)")
            lines.add("pid = pid % (m_blocks * n_blocks)")
        self.tile_indices(lines, "pid")

    def tile_indices(self, lines: Lines, tile: str) -> None:
        """`m_block` and `n_block` of a tile's number."""
        lines.add(f"m_block, n_block = grouped_tile({tile}, m_blocks, n_blocks, GROUP_M)")

    def pieces(self, lines: Lines) -> list[str]:
        """Names of the accumulator's pieces, side by side; cut in halves, again and again."""
        names = ["accumulator"]
        width = 1
        while len(names) < self.schedule.parts:
            halves = []
            for position, name in enumerate(names):
                left, right = f"piece{len(names) * 2}_{2 * position}", f"piece{len(names) * 2}_{2 * position + 1}"
                shape = f"[BLOCK_M, 2, BLOCK_N // {2 * width}]"
                lines.add(f"{left}, {right} = tl.split(tl.permute(tl.reshape({name}, {shape}), (0, 2, 1)))")
                halves += [left, right]
            names, width = halves, width * 2
        return names

    def _matrix(self, lines: Lines, name: str) -> str:
        """Base of an operand's matrix; `left_row` and `right_row` are its first row among all, where scaled."""
        if not self.batch:
            return f"{name}_ptr"
        lines.add(f"{name}_matrix = {self._batch_offset(name.upper())}")
        return f"{name}_ptr + {name}_matrix"

    def _batch_offset(self, name: str) -> str:
        terms = []
        for dim in range(self.batch):
            inner = " * ".join(f"D{other}" for other in range(dim + 1, self.batch))
            index = f"batch // ({inner})" if inner else "batch"
            terms.append(f"({index})" + (f" % D{dim}" if dim else "") + f" * {name}_{dim}")
        return " + ".join(terms)

    def scale_rows(self, lines: Lines) -> None:
        """Rows of the scales that belong to a matrix: the packed operands' rows have K elements each."""
        for name in ("left", "right"):
            lines.add(f"{name}_row = ({self._batch_offset(name.upper())}) // K")

    # -- loops ---------------------------------------------------------------------------------------------

    def pointer_loop(self, lines: Lines) -> None:
        """Loads through pointers; rows and columns past the end wrap around and are not stored."""
        lines.add("rows = (m_block * BLOCK_M + tl.arange(0, BLOCK_M)) % M")
        lines.add("columns = (n_block * BLOCK_N + tl.arange(0, BLOCK_N)) % N")
        lines.add("k = tl.arange(0, BLOCK_K)")
        left, right = self._matrix(lines, "left"), self._matrix(lines, "right")
        lines.add(f"left = {left} + rows.to(tl.int64)[:, None] * LEFT_M + k[None, :] * LEFT_K")
        lines.add(f"right = {right} + columns.to(tl.int64)[None, :] * RIGHT_N + k[:, None] * RIGHT_K")
        if self.half and self.batch and self.schedule.split == 1:
            lines.add("left_row = left_matrix // K")
            lines.add("right_row = right_matrix // K")
        low, high = "0", "tl.cdiv(K, BLOCK_K)"
        if self.schedule.split > 1:
            lines.add("steps = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT)")
            lines.add("left += part.to(tl.int64) * steps * BLOCK_K * LEFT_K")
            lines.add("right += part.to(tl.int64) * steps * BLOCK_K * RIGHT_K")
            low, high = "part * steps", "tl.minimum((part + 1) * steps, tl.cdiv(K, BLOCK_K))"
        lines.add("accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)")
        lines.open(f"for step in tl.range({low}, {high}, num_stages=STAGES):")
        if self._masks_k():
            lines.open("if EVEN_K:")
            lines.add("x, w = tl.load(left), tl.load(right)")
            lines.close()
            lines.open("else:")
            lines.add("inside = k < K - step * BLOCK_K")
            lines.add("x = tl.load(left, mask=inside[None, :], other=0.0)")
            lines.add("w = tl.load(right, mask=inside[:, None], other=0.0)")
            lines.close()
        else:
            lines.add("x, w = tl.load(left), tl.load(right)")
        self._round(lines)
        lines.add(f"accumulator = {self._dot('x', 'w')}")
        lines.add("left += BLOCK_K * LEFT_K")
        lines.add("right += BLOCK_K * RIGHT_K")
        lines.close()

    def _round(self, lines: Lines) -> None:
        """Operands to TF32, to nearest: tensor cores would cut the other bits off."""
        if self.schedule.operands is Operands.TF32:
            lines.add("x, w = round_to_tf32(x), round_to_tf32(w)")

    def _dot(self, left: str, right: str) -> str:
        precision = {Operands.TF32: "tf32", Operands.IEEE: "ieee"}.get(self.schedule.operands)
        given = f', input_precision="{precision}"' if precision else ""
        return f"tl.dot({left}, {right}, accumulator{given})"

    def descriptors(self, lines: Lines, outputs: Mapping[torch_fx.Node, str]) -> None:
        """Tensor descriptors of operands and plain outputs, and the numbers of blocks."""
        lines.add("left = tl.make_tensor_descriptor(left_ptr, [M, K], [K, 1], [BLOCK_M, BLOCK_K])")
        if self.right_by_columns:
            lines.add("right = tl.make_tensor_descriptor(right_ptr, [N, K], [K, 1], [BLOCK_N, BLOCK_K])")
        else:
            lines.add("right = tl.make_tensor_descriptor(right_ptr, [K, N], [N, 1], [BLOCK_K, BLOCK_N])")
        width = f"BLOCK_N // {self.schedule.parts}" if self.schedule.parts > 1 else "BLOCK_N"
        for name in outputs.values():
            lines.add(f"{name} = tl.make_tensor_descriptor({name}_ptr, [M, N], [N, 1], [BLOCK_M, {width}])")
        lines.add("m_blocks = tl.cdiv(M, BLOCK_M)")
        lines.add("n_blocks = tl.cdiv(N, BLOCK_N)")

    def descriptor_loop(self, lines: Lines) -> None:
        """Loads through descriptors: what lies past the end is 0."""
        lines.add("accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)")
        lines.open("for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):")
        lines.add("x = left.load([m_block * BLOCK_M, k])")
        place = "[n_block * BLOCK_N, k]" if self.right_by_columns else "[k, n_block * BLOCK_N]"
        lines.add(f"w = right.load({place})")
        self._round(lines)
        lines.add(f"accumulator = {self._dot('x', 'w.T' if self.right_by_columns else 'w')}")
        lines.close()

    # -- TF32, for what float16 cannot hold ----------------------------------------------------------------

    def wide_indices(self, lines: Lines) -> None:
        """A row block, the share of its column blocks, and whether one of its rows is marked."""
        lines.add("m_block = tl.program_id(0)")
        lines.add("share = tl.program_id(1)")
        if self.batch:
            lines.add("m_blocks = tl.cdiv(M, BLOCK_M)")
            lines.add("batch = (m_block // m_blocks).to(tl.int64)")
            lines.add("m_block = m_block % m_blocks")
        lines.add("rows = m_block * BLOCK_M + tl.arange(0, BLOCK_M)")
        marks = f"{self._batch_offset('UNFIT')} + rows" if self.batch else "rows"
        lines.add(f"unfit = tl.max(tl.load(unfit_ptr + {marks}, mask=rows < M, other=0))")
        lines.add("n_blocks = tl.cdiv(N, BLOCK_N)")

    def wide_loop(self, lines: Lines) -> None:
        """The sum in TF32 from the operands as given, every load masked: slow, and rarely taken."""
        lines.add("columns = n_block * BLOCK_N + tl.arange(0, BLOCK_N)")
        left, right = self._matrix(lines, "left"), self._matrix(lines, "right")
        lines.add("accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)")
        lines.open("for k_start in range(0, K, BLOCK_K):")
        lines.add("k = k_start + tl.arange(0, BLOCK_K)")
        lines.add(f"address = {left} + rows.to(tl.int64)[:, None] * LEFT_M + k.to(tl.int64)[None, :] * LEFT_K")
        lines.add("x = tl.load(address, mask=(rows < M)[:, None] & (k < K)[None, :], other=0.0)")
        lines.add(f"address = {right} + columns.to(tl.int64)[None, :] * RIGHT_N + k.to(tl.int64)[:, None] * RIGHT_K")
        lines.add("w = tl.load(address, mask=(k < K)[:, None] & (columns < N)[None, :], other=0.0)")
        lines.add("x, w = round_to_tf32(x), round_to_tf32(w)")
        lines.add('accumulator = tl.dot(x, w, accumulator, input_precision="tf32")')
        lines.close()
