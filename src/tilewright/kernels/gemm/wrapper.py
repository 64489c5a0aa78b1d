"""The wrapper of a GEMM anchor: sizes, packed operands, allocations and launches."""

from __future__ import annotations

from collections.abc import Sequence

import torch.fx as torch_fx

from tilewright.graph.graph import size_hint
from tilewright.kernels.code.text import Lines, shape_text
from tilewright.kernels.gemm.epilogue import Epilogue
from tilewright.kernels.gemm.loops import GemmLoops
from tilewright.kernels.gemm.plan import GemmPlan, group_size, readable_right
from tilewright.kernels.gemm.results import Results
from tilewright.kernels.operands import Operands

#: Programs of the wide kernel at least: several share the columns of a row block where those are few.
_WIDE_PROGRAMS = 256

_WIDE_COLUMNS = 64


class GemmWrapper:
    """Emits the function that launches one plan's kernels."""

    def __init__(self, plan: GemmPlan, epilogue: Epilogue, results: Results) -> None:
        self.plan = plan
        self.product = plan.product
        self.schedule = plan.schedule
        self.epilogue = epilogue
        self.results = results
        self.loops = GemmLoops(plan)
        self.half = plan.schedule.operands is Operands.HALF
        self.rank = plan.product.rank
        self.batch = plan.product.batch
        self.left, self.right = epilogue.left, epilogue.right

    # -- what must hold ------------------------------------------------------------------------------------

    def conditions(self) -> tuple[str, ...]:
        """Expressions in the graph's tensors ({name}) without which the module keeps the reference."""
        found: list[str] = []
        readable = readable_right(self.product)
        if readable is None:
            return ()  # then nothing was planned that depends on it
        dims = (-2, -1) if self.product.right_is_transposed else (-1, -2)
        columns, inner = (f"{{{readable.name}}}.shape[{dim}]" for dim in dims)
        if self.plan.whole_rows:
            found.append(f"{columns} <= {self.schedule.finish_columns}")
        if self.schedule.descriptors:
            stored = min((node.meta["val"].dtype.itemsize for node in self.results.by_descriptor), default=0)
            if stored:
                found.append(f"{columns} % {16 // stored} == 0")
            if not self.half:
                step = 16 // self.product.dtype.itemsize
                rows = [inner] if self.product.right_is_transposed else [inner, columns]
                found += [f"{size} % {step} == 0" for size in rows]
        return tuple(dict.fromkeys(found))

    # -- the function --------------------------------------------------------------------------------------

    def source(self) -> str:
        """The wrapper."""
        lines = Lines()
        parameters = [self.left, self.right, *self.epilogue.pointers.values(), *self.epilogue.scalars]
        lines.add("@replayed")
        lines.open(f"def {self.plan.name}({', '.join(parameters)}):")
        lines.add(f'"""Launches {self.plan.name}_kernel, and what it needs before and after."""')
        self._sizes(lines)
        if self.half:
            self._to_half(lines)
        self._outputs(lines)
        if self.schedule.split > 1:
            self._split(lines)
        else:
            self._main(lines)
        if self.plan.partial_rows:
            self._rows(lines)
        lines.add(f"return {', '.join(self.results.names.values())}")
        return str(lines)

    def _sizes(self, lines: Lines) -> None:
        left, right = self.left, self.right
        if self.batch:
            ranks = [
                (name, node.meta["val"].dim())
                for name, node in ((left, self.product.left), (right, self.product.right))
            ]
            for dim in range(self.batch):
                sizes = [f"{name}.shape[{dim - self.rank}]" for name, rank in ranks if rank >= self.rank - dim]
                lines.add(f"D{dim} = {f'max({sizes[0]}, {sizes[1]})' if len(sizes) == 2 else sizes[0]}")
            lines.add(f"BATCH = {' * '.join(f'D{dim}' for dim in range(self.batch))}")
            lines.add(f"M, K = {left}.shape[-2:]")
        elif self.rank == 2:
            lines.add(f"M, K = {left}.shape")
        else:
            names = [f"D{dim}" for dim in range(self.rank - 1)]
            lines.add(f"{', '.join(names)}, K = {left}.shape")
            lines.add(f"M = {' * '.join(names)}")
            lines.add(f"{left} = {left}.reshape(M, K)")
        lines.add(f"N = {right}.shape[{-2 if self.product.right_is_transposed else -1}]")

    def _to_half(self, lines: Lines) -> None:
        block = self.schedule.block_k
        right = self.right if self.product.right_is_transposed else f"{self.right}.mT"
        lines.add(f"right_half, right_scale, known = to_half_rows({right}, {block})")
        lines.add(f"left_half, left_scale, unfit = to_half_rows({self.left}, {block}, known)")

    def _shape(self, node: torch_fx.Node) -> str:
        names = []
        for axis in self.results.tiles.maps[node]:
            if axis is None:
                names.append("1")
            elif axis == self.rank - 1:
                names.append("N")
            else:
                names.append("M" if axis == self.rank - 2 and (self.batch or self.rank == 2) else f"D{axis}")
        return shape_text(names) if names else "()"

    def _outputs(self, lines: Lines) -> None:
        for node, name in self.results.names.items():
            dtype = node.meta["val"].dtype
            text = f"{self.left}.dtype" if dtype is self.product.dtype else str(dtype)
            lines.add(f"{name} = note(torch.empty({self._shape(node)}, device={self.left}.device, dtype={text}))")

    # -- launches ------------------------------------------------------------------------------------------

    def _matrices(self, lines: Lines) -> tuple[str, str]:
        """Names of the operands that the main kernel reads, expanded to the batch; their strides become `strides`."""
        left, right = ("left_half", "right_half") if self.half else (self.left, self.right)
        if self.schedule.descriptors:
            return left, right
        if self.batch:
            sizes = ", ".join(f"D{dim}" for dim in range(self.batch))
            lines.add(f"left = {left}.expand({sizes}, -1, -1)")
            lines.add(f"right = {right}.expand({sizes}, -1, -1)")
            left, right = "left", "right"
        return left, right

    def _stride_values(self, left: str, right: str) -> dict[str, str]:
        by_columns = self.loops.right_by_columns
        values = {f"LEFT_{dim}": f"{left}.stride({dim})" for dim in range(self.batch)}
        values |= {f"RIGHT_{dim}": f"{right}.stride({dim})" for dim in range(self.batch)}
        values |= {"LEFT_M": f"{left}.stride(-2)", "LEFT_K": f"{left}.stride(-1)"}
        columns, inner = ("-2", "-1") if by_columns else ("-1", "-2")
        return values | {"RIGHT_N": f"{right}.stride({columns})", "RIGHT_K": f"{right}.stride({inner})"}

    def _launch(
        self,
        lines: Lines,
        kernel: str,
        grid: str,
        tensors: Sequence[str],
        values: dict[str, str],
        options: str,
        *,
        scalars: bool = True,
    ) -> None:
        """A launch: tensors and scalars by position, sizes and constants by name."""
        given = [*tensors, *(self.epilogue.scalars if scalars else [])]
        lines.open(f"{kernel}[({grid})](")
        lines.add(f"{', '.join(given)},")
        named = [f"{name}={value}" for name, value in values.items()]
        for start in range(0, len(named), 6):
            lines.add(f"{', '.join(named[start : start + 6])},")
        lines.add(options)
        lines.close()
        lines.add(")")

    def _named_sizes(self, names: Sequence[str], extra: dict[str, str]) -> dict[str, str]:
        return {name: extra.get(name, name) for name in names}

    def _extra_sizes(self, known: Sequence[str]) -> list[str]:
        return [size for size in self.epilogue.sizes if size not in known]

    def _operands(self) -> list[str]:
        return list(self.epilogue.pointers.values())

    def _stored(self) -> list[str]:
        return [pointer.removesuffix("_ptr") for pointer in self.results.pointers()]

    def _partial(self, lines: Lines, width: str) -> None:
        if not self.results.partials:
            return
        lines.add(f"ROWS = {'BATCH * M' if self.batch else 'M'}")
        lines.add(f"COLUMN_BLOCKS = {width}")
        shape = f"({len(self.results.partials)}, COLUMN_BLOCKS, ROWS)"
        lines.add(f"partial = note(torch.empty({shape}, device={self.left}.device, dtype=torch.float32))")

    def _main(self, lines: Lines) -> None:
        s = self.schedule
        left, right = self._matrices(lines)
        lines.add(f"BLOCK_M, BLOCK_N, BLOCK_K = {s.block_m}, {s.block_n}, {s.block_k}")
        lines.add("n_blocks = triton.cdiv(N, BLOCK_N)")
        self._partial(lines, f"n_blocks * {s.parts}" if s.parts > 1 else "n_blocks")
        matrices = "BATCH * " if self.batch else ""
        lines.add(f"tiles = {matrices}triton.cdiv(M, BLOCK_M) * n_blocks")
        grid = "programs," if s.descriptors else "tiles,"
        if s.descriptors:
            lines.add(
                f"programs = triton.cdiv(tiles, triton.cdiv(tiles, {s.programs}))  # no more than all rounds need"
            )
            lines.add("renew(triton.set_allocator, scratch_memory)")
        scales = ["left_scale", "right_scale"] if self.half else []
        values = self._main_values(left, right)
        extra = self._extra_sizes(self.loops.sizes())
        self._launch(
            lines,
            f"{self.plan.name}_kernel",
            grid,
            [left, right, *scales, *self._operands(), *self._stored()],
            values | {size: size for size in extra} | self._blocks(),
            f"num_warps={s.num_warps}, num_stages={s.num_stages},",
        )
        if self.half:
            self._wide(lines)

    def _main_values(self, left: str, right: str) -> dict[str, str]:
        inner = {"K": f"{left}.shape[-1]"} if self.half else {}
        return self._named_sizes(self.loops.sizes(), self._stride_values(left, right) | inner)

    def _blocks(self) -> dict[str, str]:
        s = self.schedule
        blocks = {"BLOCK_M": "BLOCK_M", "BLOCK_N": "BLOCK_N", "BLOCK_K": "BLOCK_K"}
        blocks |= {"GROUP_M": str(s.group_m), "STAGES": str(s.num_stages)}
        if "EVEN_K" in self.loops.blocks():
            blocks["EVEN_K"] = "K % BLOCK_K == 0"
        return blocks | ({"SPLIT": str(s.split)} if s.split > 1 else {})

    def _wide_columns(self) -> int:
        """Columns of a tile of the wide kernel: as in the main kernel where tiles leave partial results."""
        piece = self.schedule.block_n // self.schedule.parts
        if self.schedule.split > 1:
            piece = 0
        if self.results.partials or self.plan.whole_rows:
            return piece or self._finish_columns()
        return max(min(piece or _WIDE_COLUMNS, _WIDE_COLUMNS), group_size(self.product))

    def _wide(self, lines: Lines) -> None:
        rows = min(max(self.schedule.block_m, 16), 64) if not self.plan.whole_rows else 16
        columns = self._wide_columns()
        left, right = self.left, self.right
        if self.batch:
            sizes = ", ".join(f"D{dim}" for dim in range(self.batch))
            lines.add(f"left, right = {left}.expand({sizes}, -1, -1), {right}.expand({sizes}, -1, -1)")
            lines.add(f"unfit = unfit.expand({sizes}, -1)")
            left, right = "left", "right"
        by_columns = self.product.right_is_transposed
        values = self._stride_values(left, right)
        pair = ("-2", "-1") if by_columns else ("-1", "-2")
        values |= {"RIGHT_N": f"{right}.stride({pair[0]})", "RIGHT_K": f"{right}.stride({pair[1]})"}
        values |= {f"UNFIT_{dim}": f"unfit.stride({dim})" for dim in range(self.batch)}
        known = self.loops.wide_sizes()
        named = self._named_sizes(known, values) | {size: size for size in self._extra_sizes(known)}
        blocks = f"{'BATCH * ' if self.batch else ''}triton.cdiv(M, {rows})"
        self._launch(
            lines,
            f"{self.plan.name}_wide_kernel",
            f"{blocks}, max(1, {_WIDE_PROGRAMS} // ({blocks}))",
            [left, right, "unfit", *self._operands(), *self._stored()],
            named | {"BLOCK_M": str(rows), "BLOCK_N": str(columns), "BLOCK_K": "32"},
            "num_warps=4, num_stages=2,",
        )

    def _finish_columns(self) -> int:
        """Columns of a tile of the finish of split products."""
        columns = size_hint(self.plan.anchor.meta["val"].shape[-1])
        return 1 << max(4, (columns - 1).bit_length()) if self.plan.whole_rows else 128

    def _split(self, lines: Lines) -> None:
        s = self.schedule
        left, right = self._matrices(lines)
        lines.add(f"BLOCK_M, BLOCK_N, BLOCK_K = {s.block_m}, {s.block_n}, {s.block_k}")
        rows = "BATCH * M" if self.batch else "M"
        lines.add(
            f"products = note(torch.empty(({s.split}, {rows}, N), device={self.left}.device, dtype=torch.float32))"
        )
        matrices = "BATCH * " if self.batch else ""
        lines.add(f"tiles = {matrices}triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)")
        self._launch(
            lines,
            f"{self.plan.name}_kernel",
            f"tiles * {s.split},",
            [left, right, "products"],
            self._main_values(left, right) | self._blocks(),
            f"num_warps={s.num_warps}, num_stages={s.num_stages},",
            scalars=False,
        )
        columns = max(self._finish_columns(), group_size(self.product))
        block_rows = max(1, 1024 // columns)
        names = ["M", "N", *(["BATCH"] if self.batch else []), *(self.loops.scale_strides() if self.half else [])]
        values = self._stride_values(left, right) | ({"K": f"{left}.shape[-1]"} if self.half else {})
        scales = ["left_scale", "right_scale"] if self.half else []
        named = self._named_sizes(names, values) | {size: size for size in self._extra_sizes(names)}
        self._launch(
            lines,
            f"{self.plan.name}_finish_kernel",
            f"{matrices}triton.cdiv(M, {block_rows}) * triton.cdiv(N, {columns}),",
            ["products", *scales, *self._operands(), *self._stored()],
            named | {"SPLIT": str(s.split), "BLOCK_M": str(block_rows), "BLOCK_N": str(columns)},
            "num_warps=4,",
        )
        if self.half:
            self._wide(lines)

    def _rows(self, lines: Lines) -> None:
        outs = [self.results.names[node] for node in self.results.in_finish]
        self._launch(
            lines,
            f"{self.plan.name}_rows_kernel",
            "triton.cdiv(ROWS, 32),",
            ["partial", *self._operands(), *outs],
            {size: size for size in self.epilogue.sizes} | {"BLOCK": "32"},
            "num_warps=1,",
        )
