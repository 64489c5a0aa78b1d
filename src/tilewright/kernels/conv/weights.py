"""The weights of a convolution anchor, packed in each call by one kernel: a matrix [C, CO] for each tap, with zeros
up to the tiles.

Nothing is kept between calls, so that a weight may change in any way. Operands of 16 bits keep their type. float32
becomes float16, and each output channel gets a mark that says whether that holds its weights to TF32's accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.kernels.code.text import Lines, shape_text
from tilewright.kernels.conv.pack import LARGEST_BITS, SMALLEST_BITS
from tilewright.kernels.conv.plan import ConvPlan
from tilewright.kernels.conv.product import phase_table
from tilewright.kernels.operands import Operands

#: Output channels of the largest tile: weights are padded so that no tile reaches beyond them.
_LARGEST_TILE = 256

#: Matrices that a program packs without a loop: all its loads are on their way at once.
_MOST_UNROLLED = 16

#: Input and output channels of a program's tile.
_ROWS, _COLUMNS = 32, 64

#: Device function of the kernels that act on the marks.
WEIGHTS_UNFIT = '''
@triton.jit
def weights_unfit(marks_ptr, CALL, CO: tl.constexpr, CHANNELS: tl.constexpr):
    """1 where some output channel has weights that float16 cannot hold: one too large, or all tiny and not all zero."""
    channel = tl.arange(0, CHANNELS)
    level = tl.load(marks_ptr + channel, mask=channel < CO, other=CALL) - CALL
    return tl.max(((level == 1) | (level == 3)).to(tl.int32))
'''.strip("\n")


def pack_source(plan: ConvPlan, deltas: Sequence[int]) -> tuple[str, str]:
    """The kernel, and its wrapper `pack_NAME(weight)`, or `pack_NAME(weight, marks, first, call)` for float16 copies.

    Args:
        plan: the anchor.
        deltas: shifts along the innermost dim, where its phases are packed side by side.
    """
    packing = _Packing(plan, deltas)
    return packing.kernel(), packing.wrapper()


class _Packing:
    """What the matrices hold.

    Plain: one for each tap. With joined taps: one for each row of taps, rows of the matrix are pixels of a few
    channels. With packed columns: one for each shift, columns of the matrix are output channels by phase.
    """

    def __init__(self, plan: ConvPlan, deltas: Sequence[int]) -> None:
        self.plan = plan
        self.shape = plan.shape
        self.half = plan.operands is Operands.HALF
        self.deltas = list(deltas)
        self.row_taps = plan.shape.columns.size
        self.outer = [dim.size for dim in plan.shape.dims[:-1]]
        self.step = plan.shape.columns.output_step if plan.packs_columns else 1

    @property
    def _leading(self) -> list[int]:
        """Dims of the packed tensor before the matrices."""
        inner = [] if self.plan.joins_taps else [len(self.deltas) if self.plan.packs_columns else self.row_taps]
        return [self.shape.groups, *self.outer, *inner]

    @property
    def _matrices(self) -> int:
        """Matrices of a group."""
        count = 1
        for size in self._leading[1:]:
            count *= size
        return count

    def _tap(self) -> str:
        """The tap that a matrix holds at a row, or a column."""
        if self.plan.joins_taps:
            order = [tap.index for tap in self.shape.columns.phases[0]]
            return f"matrix * {self.row_taps} + {_listed(order, 'pixel')}"
        if not self.plan.packs_columns:
            return "matrix"
        count = len(self.deltas)
        order = [
            next(tap.index for tap in self.shape.columns.phases[column] if tap.delta == delta)
            for delta in self.deltas
            for column in range(self.step)
        ]
        place = f"(matrix % {count} * {self.step} + phase)" if count > 1 else "phase"
        row = f"matrix // {count}" if count > 1 else "matrix"
        return f"{row} * {self.row_taps} + {_listed(order, place)}"

    # -- the kernel ----------------------------------------------------------------------------------------

    def kernel(self) -> str:
        """Source of the kernel."""
        lines = Lines()
        name = f"pack_{self.plan.name}_kernel"
        marks = "marks_ptr, CALL, " if self.half else ""
        few = "FEW: tl.constexpr, " if self.plan.joins_taps else ""
        lines.add("@noted")
        lines.add("@triton.jit")
        lines.add(f"def {name}(")
        lines.add(f"    weight_ptr, packed_ptr, {marks}C: tl.constexpr, CO: tl.constexpr, ROWS: tl.constexpr,")
        lines.add(f"    COLUMNS: tl.constexpr, {few}BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,")
        lines.open("):")
        self._docstring(lines)
        self._places(lines)
        self._loop(lines)
        if self.half:
            self._mark(lines)
        return str(lines)

    def _docstring(self, lines: Lines) -> None:
        given = "C, CO" if self.shape.transposed else "CO, C"
        kind = " float32 -> float16" if self.half else " ->"
        what = f"weight [{given}, taps]{kind} matrices [ROWS, COLUMNS], zeros beyond C and CO; a tile of each."
        if not self.half:
            lines.add(f'"""{what}"""')
            return
        lines.add(f'"""{what}')
        lines.add()
        lines.add(
            "Marks each output channel: CALL + 0 where its weights are zeros, 1 where all are tiny, 2 where they fit,"
        )
        lines.add("3 where one is too large. Bit patterns of absolute values are compared: NaN is the largest.")
        lines.add('"""')

    def _places(self, lines: Lines) -> None:
        """Indices of the tile's rows and columns, [BLOCK_K] and [BLOCK_C], turned as the weights lie in memory."""
        row, column = ("[:, None]", "[None, :]") if self.shape.transposed else ("[None, :]", "[:, None]")
        lines.add("pid = tl.program_id(0)")
        lines.add("column = pid % tl.cdiv(COLUMNS, BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C)")
        lines.add("pid = pid // tl.cdiv(COLUMNS, BLOCK_C)")
        several = self.shape.groups > 1
        lines.add(f"k = pid{' % tl.cdiv(ROWS, BLOCK_K)' if several else ''} * BLOCK_K + tl.arange(0, BLOCK_K)")
        lines.add("group = (pid // tl.cdiv(ROWS, BLOCK_K)).to(tl.int64)" if several else "group = 0")
        if self.plan.joins_taps:
            lines.add(f"c, pixel = (k % FEW){row}, (k // FEW){row}")
        else:
            lines.add(f"c = k{row}")
        if self.plan.packs_columns:
            lines.add(f"o, phase = (column // {self.step}){column}, (column % {self.step}){column}")
        else:
            lines.add(f"o = column{column}")
        first, size, second = ("c", "C", "o") if self.shape.transposed else ("o", "CO", "c")
        inner = "CO" if self.shape.transposed else "C"
        lines.add(
            f"source = weight_ptr + ((group * {size} + {first}.to(tl.int64)) * {inner} + {second}) * {self._taps}"
        )
        pixels = f" & (pixel < {self.row_taps})" if self.plan.joins_taps else ""
        lines.add(f"inside = (c < C) & (o < CO){pixels}")
        lines.add(f"target = packed_ptr + (group * {self._matrices} * ROWS + k.to(tl.int64)[:, None]) * COLUMNS")
        lines.add("keep = (k < ROWS)[:, None] & (column < COLUMNS)[None, :]")

    @property
    def _taps(self) -> int:
        return self.shape.tap_count

    def _loop(self, lines: Lines) -> None:
        tile = "[BLOCK_K, BLOCK_C]" if self.shape.transposed else "[BLOCK_C, BLOCK_K]"
        if self.half:
            lines.add(f"sizes = tl.zeros({tile}, tl.int32)")
        count = self._matrices
        lines.open(f"for matrix in {'tl.static_range' if count <= _MOST_UNROLLED else 'range'}({count}):")
        lines.add(f"w = tl.load(source + {self._tap()}, mask=inside, other=0.0)")
        if self.half:
            lines.add("sizes = tl.maximum(sizes, w.to(tl.int32, bitcast=True) & 0x7FFFFFFF)")
        value = "w" if self.shape.transposed else "tl.trans(w)"
        cast = ".to(tl.float16)" if self.half else ""
        lines.add(f"tl.store(target + matrix * ROWS * COLUMNS + column[None, :], {value}{cast}, mask=keep)")
        lines.close()

    def _mark(self, lines: Lines) -> None:
        lines.add(f"largest = tl.max(sizes, {0 if self.shape.transposed else 1})")
        lines.add(f"level = tl.where(largest >= {SMALLEST_BITS}, 2, (largest > 0).to(tl.int32))")
        lines.add(f"level = tl.where(largest >= {LARGEST_BITS}, 3, level)")
        channel = f"column // {self.step}" if self.step > 1 else "column"
        lines.add(f"tl.atomic_max(marks_ptr + group * CO + {channel}, CALL + level, mask={channel} < CO)")

    # -- the wrapper ---------------------------------------------------------------------------------------

    def wrapper(self) -> str:
        """Source of the function that allocates and launches."""
        lines = Lines()
        marks = ", marks, call" if self.half else ""
        as_type = "as float16, a matrix" if self.half else "as a matrix"
        marking = "; marks output channels" if self.half else ""
        lines.open(f"def pack_{self.plan.name}(weight{marks}):")
        lines.add(f'"""Weights {as_type} [C, CO] for each tap, padded to the tiles{marking}."""')
        groups = f" // {self.shape.groups}" if self.shape.groups > 1 else ""
        if self.shape.transposed:
            lines.add(f"C, CO = weight.shape[0]{groups}, weight.shape[1]")
        else:
            lines.add(f"CO, C = weight.shape[0]{groups}, weight.shape[1]")
        if self.plan.joins_taps:
            lines.add("FEW = few_channels_block(C)")
            lines.add(f"ROWS = max(16, triton.next_power_of_2({self.row_taps} * FEW))")
        else:
            lines.add("ROWS = triton.cdiv(C, channel_block(C)) * channel_block(C)")
        lines.add(f"tile = min({_LARGEST_TILE}, max(16, triton.next_power_of_2(CO)))")
        lines.add(f"COLUMNS = triton.cdiv(CO, tile) * tile{f' * {self.step}' if self.step > 1 else ''}")
        last = ["ROWS", "COLUMNS"]
        dtype = "torch.float16" if self.half else "weight.dtype"
        shape = shape_text([*map(str, self._leading), *last])
        lines.add(f"packed = note(torch.empty({shape}, device=weight.device, dtype={dtype}))")
        lines.add(f"BLOCK_K, BLOCK_C = min({_ROWS}, ROWS), min({_COLUMNS}, COLUMNS)")
        many = f"{self.shape.groups} * " if self.shape.groups > 1 else ""
        lines.add(f"programs = {many}triton.cdiv(ROWS, BLOCK_K) * triton.cdiv(COLUMNS, BLOCK_C)")
        lines.open(f"pack_{self.plan.name}_kernel[(programs,)](")
        few = "FEW=FEW, " if self.plan.joins_taps else ""
        lines.add(f"weight, packed{marks}, C=C, CO=CO, ROWS=ROWS, COLUMNS=COLUMNS,")
        lines.add(f"{few}BLOCK_K=BLOCK_K, BLOCK_C=BLOCK_C, num_warps=8,")
        lines.close()
        lines.add(")")
        lines.add("return packed")
        return str(lines)


def _listed(values: Sequence[int], index: str) -> str:
    """An expression for `values[index]`: arithmetic where they are evenly spaced."""
    if len(values) == 1:
        return str(values[0])
    step = values[1] - values[0]
    if list(values) != [values[0] + position * step for position in range(len(values))]:
        return phase_table(values, index)
    scaled = index if step == 1 else f"{index} * {step}"
    return scaled if values[0] == 0 else f"({values[0]} + {scaled})"
