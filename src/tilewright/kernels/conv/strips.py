"""Emission of a convolution anchor that keeps its weights: a strip of rows in one program, no prepass.

All taps of a block of output channels stay in shared memory while the program walks down a strip of rows. Input
tiles are loaded as they were given and carried from one row to the next where the next row reads them again. float32
is cast to float16 in registers; what that cannot hold is noticed on the way, and left to a TF32 kernel that runs after.
"""

from __future__ import annotations

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import source_of
from tilewright.kernels.code.text import Lines
from tilewright.kernels.conv.emit import IDENTITY, ConvEmitter
from tilewright.kernels.conv.pack import LARGEST_BITS, SMALLEST_BITS
from tilewright.kernels.conv.plan import ConvPlan
from tilewright.kernels.plan import EmittedKernel
from tilewright.kernels.regions.layout import MemoryFormat, memory_order
from tilewright.kernels.regions.phases import Tap
from tilewright.kernels.regions.region import REDUCTIONS, is_relabelling

#: From finite operands, these make no NaN.
_NO_NEW_NAN = (
    torch.ops.aten.add.Tensor,
    torch.ops.aten.sub.Tensor,
    torch.ops.aten.mul.Tensor,
)

#: Programs of the twin at least, so many of them for an image: they share what the main kernel could not do.
_WIDE_PROGRAMS, _FEWEST_SHARES = 64, 4


def emit_conv_rows(plan: ConvPlan, graph: Graph) -> EmittedKernel:
    """Source of the packing of the weights, of the kernel, of its TF32 twin, and of their wrapper."""
    return _RowsEmitter(plan, graph).emit()


class _RowsEmitter(ConvEmitter):
    """Rows are walked in a loop: `h` is a scalar, and only `w` is a vector."""

    def __init__(self, plan: ConvPlan, graph: Graph, wide: bool = False) -> None:
        super().__init__(plan, graph, wide)
        self.rows, self.columns = plan.shape.dims
        self.row_deltas = sorted({tap.delta for phase in self.rows.phases for tap in phase})
        self.column_deltas = sorted({tap.delta for phase in self.columns.phases for tap in phase})
        self.fresh = [d for d in self.row_deltas if d + self.rows.input_step not in self.row_deltas]

    # -- the strip -----------------------------------------------------------------------------------------

    def kernel(self) -> tuple[str, str]:
        """Name and source of this emitter's kernel."""
        body = Lines(1)
        self._indices(body)
        if self.wide:
            self._wide_strip(body)
        else:
            self._strip(body)
        own = ["given", "weight", "channel_marks"] if self.wide else ["x", "w"]
        tensors = [f"{name}_ptr" for name in (*own, *self._arguments())]
        blocks = [*self._kernel_sizes(), "PROGRAMS", "ROWS", "BLOCK_P", "BLOCK_C"]
        blocks += ["SHARE", "FLAGS", "CHANNELS"] if self.wide else ["BLOCK_K"]
        name = f"{self.plan.name}_{'wide_' if self.wide else ''}kernel"
        head = self.signature(name, tensors, self._counts(), blocks)
        return name, f"{head}\n    {self._docstring()}\n{body}"

    def _counts(self) -> list[str]:
        return ["CALL"] if self.wide else []

    def _arguments(self) -> list[str]:
        return [*(["unfit"] if self.half else []), *super()._arguments()]

    def _operand_words(self) -> str:
        return "ROWS rows a program"

    def _indices(self, lines: Lines) -> None:
        if self.wide:
            lines.add("image = tl.program_id(0) // SHARE")
            lines.add("flag = tl.arange(0, FLAGS)")
            lines.add("marks = tl.load(unfit_ptr + image * PROGRAMS + flag, mask=flag < PROGRAMS, other=0)")
            lines.add("unfit = weights_unfit(channel_marks_ptr, CALL, CO_ALL, CHANNELS)")
            lines.add("marked = tl.minimum(tl.max(marks) + unfit, 1)")
            tiles = "PROGRAMS" if self.plan.sees_all_channels else "PROGRAMS * C_BLOCKS"
            lines.add(f"first_tile = image * ({tiles})")
            lines.add("share = tl.program_id(0) % SHARE")
            lines.open(f"for tile in range(first_tile + share, first_tile + marked * ({tiles}), SHARE):")
            lines.add("pid = tile")
        else:
            lines.add("pid = tl.program_id(0)")
        if not self.plan.sees_all_channels:
            lines.add("c_block = pid % C_BLOCKS")
            lines.add("pid = pid // C_BLOCKS")
        lines.add("w_block = pid % tl.cdiv(W_Q, BLOCK_P)")
        lines.add("strip = (pid // tl.cdiv(W_Q, BLOCK_P)) % tl.cdiv(H_Q, ROWS)")
        lines.add("n = (pid // PROGRAMS).to(tl.int64)")
        lines.add("w_start = w_block * BLOCK_P")
        lines.add("w_q = w_start + tl.arange(0, BLOCK_P)")

    def _strip(self, lines: Lines) -> None:
        lines.add("k = tl.arange(0, BLOCK_K)")
        self._blocks(lines)
        lines.add("taps = w_ptr + (group + k)[:, None] * CO_PADDED + column[None, :]")
        for number in self._numbers():
            lines.add(f"w_{number} = tl.load(taps + {number} * C * CO_PADDED)" if number else "w_0 = tl.load(taps)")
        if self.half:
            lines.add("sizes = tl.zeros([BLOCK_K, BLOCK_P // 4], tl.int32)  # largest bit patterns of what was read")
        for delta in self.row_deltas:
            self._load(lines, delta, "ROWS * strip", carried=delta not in self.fresh)
        self._start(lines)
        lines.open("for row in tl.range(0, ROWS, num_stages=1):")
        lines.add("h_q = ROWS * strip + row")
        for delta in self.fresh:
            self._take(lines, delta)
        for delta in self.fresh:
            self._load(lines, delta, "h_q + 1", carried=False, also=" & (row + 1 < ROWS)")
        for phase in range(self.rows.output_step):
            self._phase(lines, phase)
        for delta in self.row_deltas:
            if delta not in self.fresh:
                for j in range(len(self.column_deltas)):
                    lines.add(f"{self._tile(delta, j)} = {self._tile(delta + self.rows.input_step, j)}")
        lines.close()
        if self.half:
            self._mark(lines)
        self._finish(lines)

    def _mark(self, lines: Lines) -> None:
        """Whether float16 held all that was read, and what stays the same over the rows is finite."""
        lines.add("largest = tl.max(sizes)")
        lines.add(f"fits = (largest == 0) | ((largest >= {SMALLEST_BITS}) & (largest < {LARGEST_BITS}))")
        for name in self.kept_loads.values():
            lines.add(f"fits = fits & (tl.sum(tl.where(tl.abs({name}) < float('inf'), 0, 1)) == 0)")
        lines.add("tl.store(unfit_ptr + pid, (fits == 0).to(tl.int32))")

    def _blocks(self, lines: Lines) -> None:
        """The block of channels: of the output's own, or all of them where they are reduced."""
        self._channels(lines, "0" if self.plan.sees_all_channels else "c_block")
        lines.add("c = (c_first + tl.arange(0, BLOCK_C))[:, None]")
        lines.add("c_in = (first + tl.arange(0, BLOCK_C) < CO)[:, None]")

    def _group_source(self, lines: Lines) -> None:
        channel = "n * C_GIVEN_ALL + c_group * C_GIVEN" if self.shape.groups > 1 else "n * C_GIVEN_ALL"
        lines.add(f"source = x_ptr + ({channel} + k)[:, None] * (H * W)")

    def _numbers(self) -> list[int]:
        """Taps that some phase reads, as rows of the packed weights."""
        size = self.columns.size
        rows = {tap.index for phase in self.rows.phases for tap in phase}
        columns = {tap.index for phase in self.columns.phases for tap in phase}
        return sorted(row * size + column for row in rows for column in columns)

    # -- input tiles ---------------------------------------------------------------------------------------

    def _tile(self, row_delta: int, column: int) -> str:
        return f"x_{self.row_deltas.index(row_delta)}_{column}"

    def _load(self, lines: Lines, row_delta: int, h_q: str, carried: bool, also: str = "") -> None:
        """The tiles of one row: as they were given, to be taken later, or (`carried`) at once."""
        step, name = self.rows.input_step, f"h_{self.row_deltas.index(row_delta)}"
        lines.add(f"{name} = {_scaled(h_q, step)}{_signed(row_delta)}")
        lines.add(f"{name}_in = ({name} >= 0) & ({name} < H){also} & (k < C_GIVEN)[:, None]")
        for j, delta in enumerate(self.column_deltas):
            column = f"{_scaled('w_q', self.columns.input_step)}{_signed(delta)}"
            mask = f"{name}_in & (({column} >= 0) & ({column} < W))[None, :]"
            target = f"next_{self._tile(row_delta, j)}"
            lines.add(f"{target} = tl.load(source + ({name} * W + {column})[None, :], mask={mask}, other=0.0)")
        if carried:
            self._take(lines, row_delta)

    def _take(self, lines: Lines, row_delta: int) -> None:
        for j in range(len(self.column_deltas)):
            name = self._tile(row_delta, j)
            if self.half and j in self._checked():
                bits = f"next_{name}.to(tl.int32, bitcast=True) & 0x7FFFFFFF"
                folded = f"tl.max(tl.reshape({bits}, [BLOCK_K, BLOCK_P // 4, 4]), 2)"
                first = self.column_deltas[0]
                seen = j > 0 and self.columns.input_step == 1 and first <= 0
                if seen:
                    lines.open(f"if W_Q{_signed(first)} < W:  # else the first column shift has seen all")
                lines.add(f"sizes = tl.maximum(sizes, {folded})")
                if seen:
                    lines.close()
            # Turned here, not before each product: fewer registers spill (98 us for 105, H200).
            lines.add(f"{name} = tl.trans(next_{name}{'.to(tl.float16)' if self.half else ''})")

    def _checked(self) -> tuple[int, ...]:
        """Column shifts whose tiles together hold every element that a program reads."""
        last = len(self.column_deltas) - 1
        if self.columns.input_step > 1 or self.column_deltas[-1] - self.column_deltas[0] > 16:
            return tuple(range(last + 1))
        return (0, last) if last else (0,)

    # -- products ------------------------------------------------------------------------------------------

    def _phase(self, lines: Lines, phase: int) -> None:
        """All columns of one output row."""
        lines.add(f"h = {_scaled('h_q', self.rows.output_step)}{_signed(phase)}")
        for column, taps in enumerate(self.columns.phases):
            lines.add(f"{self._accumulator(column)} = {self._zeros()}")
            for row_tap in self.rows.phases[phase]:
                for tap in taps:
                    self._dot(lines, self._accumulator(column), row_tap, tap)
            if not self.plan.joins_columns:
                self._column_done(lines, column)
        if self.plan.joins_columns:
            self._row_done(lines)

    def _accumulator(self, column: int) -> str:
        return self.product.accumulators[column]

    def _zeros(self) -> str:
        return "tl.zeros([BLOCK_P, BLOCK_C], tl.float32)"

    def _dot(self, lines: Lines, name: str, row: Tap, column: Tap) -> None:
        tile = self._tile(row.delta, self.column_deltas.index(column.delta))
        weight = f"w_{row.index * self.columns.size + column.index}"
        lines.add(f"{name} = tl.dot({tile}, {weight}, {name})")

    def _wide_strip(self, lines: Lines) -> None:
        """The same strip, a tap at a time from what was given."""
        self._blocks(lines)
        self._start(lines)
        steps = self.rows.output_step
        lines.open(f"for line in range(0, ROWS{f' * {steps}' if steps > 1 else ''}):")
        lines.add(f"phase = line % {steps}" if steps > 1 else "phase = 0")
        lines.add(f"h_q = ROWS * strip + line // {steps}" if steps > 1 else "h_q = ROWS * strip + line")
        lines.add(f"h = {_scaled('h_q', steps)} + phase" if steps > 1 else "h = h_q")
        self.product.emit(lines)
        self._row_done(lines)
        lines.close()
        self._finish(lines)

    # -- what follows --------------------------------------------------------------------------------------

    def _index_of(self, axis: int) -> str:
        return "h" if self.anchor_map.index(axis) == 2 else super()._index_of(axis)

    def _start(self, lines: Lines) -> None:
        """What stays the same over the rows, and the accumulators of a reduction over them."""
        for index, operand in enumerate(self.region.operands):
            places = {self.anchor_map.index(axis) for axis in operand.map if axis is not None}
            if operand.node is not self.plan.anchor and places <= {0, 1}:
                self.kept_loads[index] = self._load_operand(lines, operand)
        if not self.plan.reduces_space:
            return
        kind = REDUCTIONS[self.region.root.target]
        for name, shape in self._sums():
            lines.add(f"{name} = tl.full({shape}, {IDENTITY[kind]}, tl.float32)")

    def _sums(self) -> list[tuple[str, str]]:
        """Name and shape of what is carried from row to row."""
        step = self._columns
        if len(self.plan.reduces_space) == 2:
            return [("total", "[1]" if self.plan.reduces_channels else "[BLOCK_C]")]
        if self.plan.reduces_channels:
            return [(f"total_{column}", "[BLOCK_P]") for column in range(step)]
        if self.plan.joins_columns:
            return [("total", f"[BLOCK_C, {step} * BLOCK_P]" if step > 1 else "[BLOCK_C, BLOCK_P]")]
        return [(f"total_{column}", "[BLOCK_C, BLOCK_P]") for column in range(step)]

    def _row_done(self, lines: Lines) -> None:
        """One output row is in the accumulators."""
        if self.plan.joins_columns:
            self._joined_row(lines)
            self._value_done(lines, None)
            return
        for column in range(self._columns):
            self._column_done(lines, column)

    def _column_done(self, lines: Lines, column: int) -> None:
        lines.add(f"value = tl.trans({self._accumulator(column)})")
        lines.add(f"w = {_scaled('w_q', self._columns)}{_signed(column)}")
        self._value_done(lines, column)

    def _joined_row(self, lines: Lines) -> None:
        step = self._columns
        turned = [f"tl.trans({name})" for name in self.product.accumulators]
        while len(turned) > 1:
            half = len(turned) // 2
            turned = [f"tl.interleave({turned[i]}, {turned[i + half]})" for i in range(half)]
        lines.add(f"value = {turned[0]}")
        lines.add(f"w = {step} * w_start + tl.arange(0, {step} * BLOCK_P)" if step > 1 else "w = w_q")

    def _value_done(self, lines: Lines, column: int | None) -> None:
        self._inside(lines)
        self._epilogue(lines, self.region.depth)
        if self.plan.reduces_channels:
            value = self._over_channels(lines)
        elif self.plan.reduces_space:
            value = self.values[self._summed()]
        else:
            value = self.values[self.region.root]
        if self.plan.reduces_space:
            self._add_row(lines, value, column)
        else:
            self._store_row(lines, value)

    def _over_channels(self, lines: Lines) -> str:
        """The reduction over channels, and the pointwise operations between it and the reduction over rows."""
        node = self.plan.channel_root
        kind = REDUCTIONS[node.target]
        source = f"tl.where(c_in, {self.values[source_of(node)]}, {IDENTITY[kind]})"
        if kind in ("sum", "mean"):
            total = f"tl.sum({source}, 0)"
            lines.add(f"reduced = {total} / CO_ALL" if kind == "mean" else f"reduced = {total}")
        elif self.half and not self.wide and self._stays_finite(source_of(node)):
            lines.add(f"reduced = tl.{kind}({source}, 0)")
        else:
            lines.add(f"reduced = {kind}_along({source}, 0, False)")
        if node is self.region.root:
            return "reduced"
        self.values = {node: "reduced"}
        self.emit_nodes(lines, 1)
        return self.values[self._summed()]

    def _stays_finite(self, node: torch_fx.Node) -> bool:
        """A NaN cannot come up between the products, which are finite where they are kept, and `node`."""
        if node is self.plan.anchor:
            return True
        if node.target not in _NO_NEW_NAN:
            return is_relabelling(node) and self._stays_finite(source_of(node))
        left, right = node.args[:2]
        if isinstance(right, float | int):
            return right != 0 and self._stays_finite(source_of(node))
        while isinstance(right, torch_fx.Node) and is_relabelling(right) and right in self.region.maps:
            right = source_of(right)
        kept = isinstance(right, torch_fx.Node) and self._is_kept(right)
        return kept and isinstance(left, torch_fx.Node) and self._stays_finite(left)

    def _is_kept(self, node: torch_fx.Node) -> bool:
        """Loaded once for all rows, and looked at for values that are not finite."""
        return any(self.region.operands[index].node is node for index in self.kept_loads)

    def _add_row(self, lines: Lines, value: str, column: int | None) -> None:
        kind = REDUCTIONS[self.region.root.target]
        flat = self.plan.reduces_channels
        inside = "tl.reshape(inside, [BLOCK_P])" if flat else "inside"
        kept = f"tl.where({inside}, {value}, {IDENTITY[kind]})"
        both = len(self.plan.reduces_space) == 2
        name = "total" if both or (self.plan.joins_columns and not flat) else f"total_{column}"
        if both:
            axis = 0 if flat else 1
            kept = f"tl.sum({kept}, {axis})" if kind in ("sum", "mean") else f"{kind}_along({kept}, {axis}, False)"
        joined = f"{name} + {kept}" if kind in ("sum", "mean") else f"{kind}imum({name}, {kept})"
        lines.add(f"{name} = {joined}")

    def _store_row(self, lines: Lines, value: str) -> None:
        order = memory_order(self.region.maps[self.region.root], MemoryFormat.CONTIGUOUS)
        if self.plan.reduces_channels:
            mask = "tl.reshape(inside, [BLOCK_P])"
            lines.add(f"tl.store(out_ptr + n * (HO * WO) + h * WO + w, {value}, mask={mask})")
            return
        lines.add(f"tl.store(out_ptr + {self._offset(order)}, {value}, mask={self._root_mask()})")

    def _finish(self, lines: Lines) -> None:
        """Partial results of a strip, [N, C or 1, PARTS, W or 1]."""
        if not self.plan.reduces_space:
            return
        flat, both = self.plan.reduces_channels, len(self.plan.reduces_space) == 2
        mean = REDUCTIONS[self.region.root.target] == "mean"
        parts = "PROGRAMS" if both else "tl.cdiv(H_Q, ROWS)"
        part = "pid % PROGRAMS" if both else "strip"
        count = "(HO * WO)" if both else "HO"
        plane = "n" if flat else "(n * CO_ALL + c_first + tl.arange(0, BLOCK_C))"
        for column, (name, _) in enumerate(self._sums()):
            value = f"{name} * ({parts} / {count})" if mean else name
            if both:
                mask = "" if flat else ", mask=first + tl.arange(0, BLOCK_C) < CO"
                spread = f" + {'tl.arange(0, 1)'}" if flat else ""
                lines.add(f"tl.store(out_ptr + {plane} * {parts} + {part}{spread}, {value}{mask})")
                continue
            joined = self.plan.joins_columns and not flat
            step = self._columns
            if joined:
                w = f"{step} * w_start + tl.arange(0, {step} * BLOCK_P)" if step > 1 else "w_q"
            else:
                w = f"{_scaled('w_q', step)}{_signed(column)}"
            lines.add(f"w = {w}")
            if flat:
                lines.add(f"tl.store(out_ptr + ({plane} * {parts} + {part}) * WO + w, {value}, mask=w < WO)")
            else:
                at = f"({plane} * {parts} + {part})[:, None] * WO + w[None, :]"
                lines.add(f"tl.store(out_ptr + {at}, {value}, mask=c_in & (w < WO)[None, :])")

    # -- the whole -----------------------------------------------------------------------------------------

    def _prepass(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (), ()

    def _scratch(self) -> tuple[str, ...]:
        found = [*self._packed_scratch()]
        if self.half:
            found.append("unfit: programs that met what float16 cannot hold, int32")
        if self.plan.reduces_space:
            found.append(f"{self.plan.name}: partial results, one for each strip of {self.plan.tiles.rows} rows")
        return tuple(found)

    def _kernel_sizes(self) -> list[str]:
        return [size for size in super()._kernel_sizes() if "PADDED" not in size or size == "CO_PADDED"]

    def _wrapper(self, kernel: str, wide_kernel: str = "") -> str:
        lines = Lines()
        tiles, groups = self.plan.tiles, self.shape.groups
        twin = ", and its TF32 twin for what it could not hold" if self.half else ""
        self._head(lines, f"Launches {kernel}{twin}")
        lines.add("N, C_GIVEN, H, W = x.shape")
        self._output_sizes(lines)
        self._pack(lines, "0")
        lines.add("C, CO_PADDED = w.shape[-2:]")
        lines.add(f"ROWS, BLOCK_P, BLOCK_C = {tiles.rows}, {tiles.block_p}, {self._block_c()}")
        lines.add("STRIPS = triton.cdiv(H_Q, ROWS)")
        lines.add("PROGRAMS = STRIPS * triton.cdiv(W_Q, BLOCK_P)  # of an image and a block of channels")
        lines.add("GROUP_BLOCKS = triton.cdiv(CO, BLOCK_C)")
        lines.add(f"C_BLOCKS = GROUP_BLOCKS{f' * {groups}' if groups > 1 else ''}")
        if self.half:
            lines.add("unfit = note(torch.empty(N * PROGRAMS, device=x.device, dtype=torch.int32))")
        lines.add(f"out = note(torch.empty({self._shape_text()}, device=x.device, dtype={self._out_dtype()}))")
        self._size_values(lines, [*self._kernel_sizes(), "PROGRAMS", "ROWS"])
        grid = "N * PROGRAMS" if self.plan.sees_all_channels else "N * PROGRAMS * C_BLOCKS"
        tiles_text = "BLOCK_P=BLOCK_P, BLOCK_C=BLOCK_C,"
        self._launch(lines, kernel, grid, ["x", "w"], f"BLOCK_K=C, {tiles_text} num_warps={tiles.num_warps},")
        if self.half:
            lines.add(f"SHARE = max({_FEWEST_SHARES}, triton.next_power_of_2({_WIDE_PROGRAMS} // N))")
            blocks = f"SHARE=SHARE, FLAGS=triton.next_power_of_2(PROGRAMS), {self._channels_block()}, {tiles_text}"
            blocks += f" num_warps={self._wide_warps()}, num_stages=1,"
            self._launch(lines, wide_kernel, "N * SHARE", ["x", "weight", "channel_marks"], blocks, ["call"])
        lines.add("return out")
        return str(lines)

    def _block_c(self) -> str:
        return "max(16, triton.next_power_of_2(CO))" if self.plan.reduces_channels else super()._block_c()

    def _shape_text(self) -> str:
        if not self.plan.reduces_space:
            return super()._shape_text()
        both = len(self.plan.reduces_space) == 2
        parts = "PROGRAMS" if both else "STRIPS"
        channels = "CO" if self.shape.groups == 1 else f"CO * {self.shape.groups}"
        sizes = ["N", "1" if self.plan.reduces_channels else channels, parts, "1" if both else "WO"]
        if len(self._summed().meta["val"].shape) == 3:
            sizes.pop(1)
        return f"({', '.join(sizes)})"


def _scaled(index: str, step: int) -> str:
    if step == 1:
        return index
    return f"{step} * {index}" if index.isidentifier() else f"{step} * ({index})"


def _signed(delta: int) -> str:
    return "" if delta == 0 else f" + {delta}" if delta > 0 else f" - {-delta}"
