"""Emission of a convolution anchor: an implicit GEMM over pixels, its epilogue in registers.

A prepass writes the input as float16, channels last, rows parted by a zero border that neighbours share, so that
the main kernel's loads need no masks. A tile holds positions q of one row phase by output channels; the phases of
the innermost dim are computed side by side and interleaved in registers, so that stores are contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import source_of
from tilewright.kernels.conv_plan import ConvPlan
from tilewright.kernels.layout import MemoryFormat, memory_order
from tilewright.kernels.phases import Tap
from tilewright.kernels.plan import EmittedKernel
from tilewright.kernels.pointwise import helpers_in
from tilewright.kernels.region import REDUCTIONS, is_relabelling
from tilewright.kernels.text import Lines, shape_text
from tilewright.kernels.values import ValueEmitter, short_name

_LETTERS = {1: ("W",), 2: ("H", "W"), 3: ("D", "H", "W")}
_IDENTITY = {"sum": "0.0", "mean": "0.0", "min": 'float("inf")', "max": 'float("-inf")'}

PREPASS = '''
@triton.jit
def to_half_with_border_kernel(
    x_ptr, out_ptr, N, C, {dims}, {padded}, {borders}, C_PADDED, ROWS,
    BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """x [N, C, {dims}] float32 -> float16 [N, {padded}, C_PADDED]; zeros around the data and past the last image."""
    pid = tl.program_id(0)
    w_blocks = tl.cdiv(W_PADDED, BLOCK_W)
    w_padded = (pid % w_blocks) * BLOCK_W + tl.arange(0, BLOCK_W)
    row = pid // w_blocks
    w = w_padded - W_BORDER
    rest = row
{decompose}
    inside = ({row_inside}) & (w >= 0) & (w < W)
    pixel = row.to(tl.int64) * W_PADDED + w_padded
    image = x_ptr + n.to(tl.int64) * C * ({plane}) + {row_offset}
    for c_start in range(0, C_PADDED, BLOCK_C):
        c = c_start + tl.arange(0, BLOCK_C)
        x = tl.load(image + c[:, None] * ({plane}) + w[None, :], mask=(c < C)[:, None] & inside[None, :], other=0.0)
        keep = (c < C_PADDED)[None, :] & (w_padded < W_PADDED)[:, None]
        tl.store(out_ptr + pixel[:, None] * C_PADDED + c[None, :], tl.trans(x).to(tl.float16), mask=keep)


def to_half_with_border(x, {border_arguments}, c_padded):
    """The input as float16, channels last, a zero border before every row and plane."""
    N, C, {dims} = x.shape
{padded_lines}
    ROWS = N * {row_product} + {tail_rows}
    out = torch.empty((ROWS * W_PADDED, c_padded), device=x.device, dtype=torch.float16)
    BLOCK_C = min(64, c_padded)
    BLOCK_W = 64
    to_half_with_border_kernel[(ROWS * triton.cdiv(W_PADDED, BLOCK_W),)](
        x, out, N, C, {dims}, {padded}, {border_names}, c_padded, ROWS,
        BLOCK_W=BLOCK_W, BLOCK_C=BLOCK_C, num_warps=4,
    )
    return out
'''


_CHANNEL_BLOCK = '''
def channel_block(channels):
    """Channels in one step of a product; inputs and weights are padded to a multiple of it."""
    return 64 if channels > 32 else 32 if channels > 16 else 16
'''.strip("\n")


def prepass_source(rank: int) -> tuple[str, str]:
    """The prepass for inputs of that many spatial dims: kernel, and wrapper."""
    letters = _LETTERS[rank]
    outer = letters[:-1]
    decompose = []
    for letter in reversed(outer):
        decompose.append(f"    {letter.lower()} = rest % {letter}_PADDED - {letter}_BORDER")
        decompose.append(f"    rest = rest // {letter}_PADDED")
    decompose.append("    n = rest")
    row_inside = " & ".join(
        ["(n < N)", *(f"({letter.lower()} >= 0) & ({letter.lower()} < {letter})" for letter in outer)]
    )
    offset = ["0"]
    for position, letter in enumerate(outer):
        offset.append(f"{letter.lower()} * {' * '.join(letters[position + 1 :])}")
    tail = ["1"]
    for position, letter in enumerate(outer):
        tail.append(" * ".join([f"{letter}_border", *(f"{inner}_PADDED" for inner in outer[position + 1 :])]))
    text = PREPASS.format(
        dims=", ".join(letters),
        padded=", ".join(f"{letter}_PADDED" for letter in letters),
        borders=", ".join(f"{letter}_BORDER" for letter in letters),
        decompose="\n".join(decompose),
        row_inside=row_inside,
        plane=" * ".join(letters),
        row_offset=" + ".join(offset[1:] or offset),
        border_arguments=", ".join(f"{letter.lower()}_border" for letter in letters),
        padded_lines="\n".join(f"    {letter}_PADDED = {letter} + {letter.lower()}_border" for letter in letters),
        row_product=" * ".join(f"{letter}_PADDED" for letter in outer) or "1",
        tail_rows=" + ".join(part.replace(f"{part[0]}_border", f"{part[0].lower()}_border") for part in tail),
        border_names=", ".join(f"{letter.lower()}_border" for letter in letters),
    ).strip("\n")
    kernel, wrapper = text.split("\n\n\n")
    return kernel, wrapper


def emit_conv(plan: ConvPlan, graph: Graph) -> EmittedKernel:
    """Source of the main kernel, its wrapper and the packing of its weights; the prepass is shared (`shared`)."""
    return _ConvEmitter(plan, graph).emit()


class _ConvEmitter(ValueEmitter):
    def __init__(self, plan: ConvPlan, graph: Graph) -> None:
        self.plan = plan
        self.shape = plan.shape
        self.letters = _LETTERS[plan.shape.rank]
        taken = {"q", "c", "n", "k", "k0", "x", "w_ptr", "x_ptr", "packed", "accumulator", "inside", "value", "phase"}
        taken |= {letter.lower() for letter in self.letters} | {f"{letter.lower()}_q" for letter in self.letters}
        super().__init__(plan.region, graph, taken, skip=(plan.anchor,))
        operand = next(operand for operand in plan.region.operands if operand.node is plan.anchor)
        self.anchor_map = operand.map

    # -- the product ---------------------------------------------------------------------------------------

    @property
    def _columns(self) -> int:
        return self.shape.columns.output_step

    def _shift(self, taps: Sequence[Tap]) -> str:
        """A tap's shift in pixels of the padded input."""
        terms = []
        for position, tap in enumerate(taps):
            if tap.delta:
                stride = " * ".join(f"{letter}_PADDED" for letter in self.letters[position + 1 :])
                terms.append(f"{tap.delta} * {stride}" if stride else str(tap.delta))
        return " + ".join(terms).replace("+ -", "- ") or "0"

    def _accumulators(self) -> list[str]:
        if self.plan.packs_columns:
            return ["accumulator"]
        return [f"accumulator_{column}" for column in range(self._columns)] if self._columns > 1 else ["accumulator"]

    def _width(self) -> str:
        """Columns of a weight tile."""
        return f"{self._columns} * BLOCK_C" if self.plan.packs_columns else "BLOCK_C"

    def _row_products(self, lines: Lines, row_phase: int) -> None:
        """All products of one row phase, each input tile loaded once for all column phases that read it."""
        columns = self.shape.columns
        if not self.shape.row_taps(row_phase):
            lines.add("pass  # no tap reaches this phase")
        for rows in self.shape.row_taps(row_phase):
            deltas = sorted({tap.delta for taps in columns.phases for tap in taps})
            for delta in deltas:
                shift = self._shift((*rows, Tap(0, delta)))
                lines.add(f"x = tl.load(pixels + ({shift}) * C_ALL)" if shift != "0" else "x = tl.load(pixels)")
                if self.plan.packs_columns:
                    number = self._packed_number(rows, delta)
                    lines.add(self._product("accumulator", number))
                    continue
                for name, taps in zip(self._accumulators(), columns.phases, strict=True):
                    for tap in taps:
                        if tap.delta == delta:
                            lines.add(self._product(name, self.shape.tap_number((*rows, tap))))

    def _product(self, accumulator: str, number: int) -> str:
        weight = f"weights + {number} * C * CO_PADDED" if number else "weights"
        if self.plan.packs_columns:
            weight = f"weights + {number} * C * CO_PADDED * {self._columns}" if number else "weights"
        return f"{accumulator} = tl.dot(x, tl.load({weight}), {accumulator})"

    def _packed_number(self, rows: tuple[Tap, ...], delta: int) -> int:
        """Row of a packed weight matrix: outer taps by their index, inner ones by their shift."""
        deltas = sorted({tap.delta for taps in self.shape.columns.phases for tap in taps})
        number = 0
        for dim, tap in zip(self.shape.dims[:-1], rows, strict=True):
            number = number * dim.size + tap.index
        return number * len(deltas) + deltas.index(delta)

    def _main_loop(self, lines: Lines) -> None:
        for name in self._accumulators():
            lines.add(f"{name} = tl.zeros([BLOCK_P, {self._width()}], tl.float32)")
        lines.open("for k0 in range(0, C, BLOCK_K):")
        lines.add("pixels = source + pixel[:, None] * C_ALL + (k0 + k)[None, :]")
        factor = f" * {self._columns}" if self.plan.packs_columns else ""
        lines.add(f"weights = w_ptr + (group + k0 + k)[:, None] * (CO_PADDED{factor}) + column[None, :]")
        phases = self.shape.row_phases
        for row_phase in range(phases):
            if phases > 1:
                lines.open(f"if phase == {row_phase}:" if row_phase == 0 else f"elif phase == {row_phase}:")
            self._row_products(lines, row_phase)
            if phases > 1:
                lines.close()
        lines.close()

    # -- programs ------------------------------------------------------------------------------------------

    def _q_sizes(self) -> list[str]:
        return [f"{letter}_Q" for letter in self.letters]

    def _program_indices(self, lines: Lines) -> None:
        lines.add("pid = tl.program_id(0)")
        if not self.plan.reduces_channels:
            lines.add("c_block = pid % C_BLOCKS")
            lines.add("pid = pid // C_BLOCKS")
        if self.shape.row_phases > 1:
            lines.add(f"phase = pid % {self.shape.row_phases}")
            lines.add(f"pid = pid // {self.shape.row_phases}")
        outer, inner = self._q_sizes()[:-1], self._q_sizes()[-1]
        lines.open("if BY_ROWS:")
        lines.add(f"w_start = (pid % tl.cdiv({inner}, BLOCK_P)) * BLOCK_P")
        lines.add(f"pid = pid // tl.cdiv({inner}, BLOCK_P)")
        for size, letter in reversed(list(zip(outer, self.letters, strict=False))):
            lines.add(f"{letter.lower()}_row = pid % {size}")
            lines.add(f"{letter.lower()}_q = tl.full([BLOCK_P], 0, tl.int32) + {letter.lower()}_row")
            lines.add(f"pid = pid // {size}")
        lines.add("w_q = w_start + tl.arange(0, BLOCK_P)")
        lines.close()
        lines.open("else:")
        total = " * ".join(self._q_sizes())
        lines.add(f"w_start = (pid % tl.cdiv({total}, BLOCK_P)) * BLOCK_P")
        lines.add(f"pid = pid // tl.cdiv({total}, BLOCK_P)")
        lines.add("q = w_start + tl.arange(0, BLOCK_P)")
        lines.add(f"w_q = q % {inner}" if outer else "w_q = q")
        rest = f"q // {inner}"
        for position, (size, letter) in enumerate(reversed(list(zip(outer, self.letters, strict=False)))):
            last = position == len(outer) - 1
            lines.add(f"{letter.lower()}_q = {rest}" if last else f"{letter.lower()}_q = ({rest}) % {size}")
            rest = f"{rest} // {size}"
        lines.close()
        lines.add("n = pid.to(tl.int64)")

    def _pixel(self, lines: Lines) -> None:
        """Input pixel of each q, clamped so that tiles at the edge read what is there."""
        text = ""
        for dim, letter in zip(self.shape.dims, self.letters, strict=True):
            step = f" * {dim.input_step}" if dim.input_step > 1 else ""
            index = f"tl.minimum({letter.lower()}_q, {letter}_Q - 1){step} + {letter}_BORDER"
            text = f"({text}) * {letter}_PADDED + {index}" if text else index
        lines.add(f"pixel = {text}")
        plane = " * ".join(f"{letter}_PADDED" for letter in self.letters)
        lines.add(f"image = x_ptr + n * ({plane}) * C_ALL")

    def _channels(self, lines: Lines, block: str) -> None:
        if self.shape.groups > 1:
            lines.add("c_group = c_block // GROUP_BLOCKS")
            lines.add("source = image + c_group * C")
            lines.add("first = (c_block % GROUP_BLOCKS) * BLOCK_C")
            lines.add(f"group = c_group * C * {self._weight_rows()}")
            lines.add("c_first = c_group * CO + first")
        else:
            lines.add("source = image")
            lines.add(f"first = {block} * BLOCK_C")
            lines.add("group = 0")
            lines.add("c_first = first")
        factor = f"{self._columns} * " if self.plan.packs_columns else ""
        lines.add(f"column = {factor}first + tl.arange(0, {self._width()})")

    def _weight_rows(self) -> int:
        """Row blocks of C rows each in the packed weights of a group."""
        if not self.plan.packs_columns:
            return self.shape.tap_count
        deltas = {tap.delta for taps in self.shape.columns.phases for tap in taps}
        outer = 1
        for dim in self.shape.dims[:-1]:
            outer *= dim.size
        return outer * len(deltas)

    # -- the epilogue --------------------------------------------------------------------------------------

    def _outer_positions(self, lines: Lines, suffix: str = "_q") -> None:
        """Output positions of the outer dims from q and the row phase."""
        index = "phase"
        for position in range(self.shape.rank - 2, -1, -1):
            dim, letter = self.shape.dims[position], self.letters[position].lower()
            if dim.output_step == 1:
                lines.add(f"{letter} = {letter}{suffix}")
                continue
            part = f"{index} % {dim.output_step}" if position else index
            lines.add(f"{letter} = {letter}{suffix} * {dim.output_step} + {part}")
            index = f"({index} // {dim.output_step})"

    def _joined(self, lines: Lines) -> None:
        """The accumulators as [channels, positions], the column phases interleaved."""
        step = self._columns
        if self.plan.packs_columns:
            lines.add(f"value = tl.reshape(accumulator, [BLOCK_P, BLOCK_C, {step}])")
            lines.add(f"value = tl.reshape(tl.permute(value, (1, 0, 2)), [BLOCK_C, BLOCK_P * {step}])")
        elif step == 1:
            lines.add("value = tl.trans(accumulator)")
        else:
            turned = [f"tl.trans({name})" for name in self._accumulators()]
            while len(turned) > 1:
                half = len(turned) // 2
                turned = [f"tl.interleave({turned[i]}, {turned[i + half]})" for i in range(half)]
            lines.add(f"value = {turned[0]}")
        if step == 1:
            self._outer_positions(lines)
            lines.add("w = w_q")
            return
        lines.add(f"p = tl.arange(0, {step} * BLOCK_P)")
        outer, inner = self._q_sizes()[:-1], self._q_sizes()[-1]
        lines.open("if BY_ROWS:")
        for letter in self.letters[:-1]:
            lower = letter.lower()
            lines.add(f"{lower}_p = tl.full([{step} * BLOCK_P], 0, tl.int32) + {lower}_row")
        lines.add(f"w = {step} * w_start + p")
        lines.close()
        lines.open("else:")
        lines.add(f"q = w_start + p // {step}")
        lines.add(f"w = (q % {inner}) * {step} + p % {step}" if outer else f"w = q * {step} + p % {step}")
        rest = f"q // {inner}"
        for position, (size, letter) in enumerate(reversed(list(zip(outer, self.letters, strict=False)))):
            last = position == len(outer) - 1
            lines.add(f"{letter.lower()}_p = {rest}" if last else f"{letter.lower()}_p = ({rest}) % {size}")
            rest = f"{rest} // {size}"
        lines.close()
        self._outer_positions(lines, "_p")

    def _inside(self, lines: Lines) -> None:
        checks = [f"({letter.lower()} < {letter}O)" for letter in self.letters]
        lines.add(f"inside = ({' & '.join(checks)})[None, :]")

    def _index_of(self, axis: int) -> str:
        position = self.anchor_map.index(axis)
        if position == 0:
            return "n"
        return "c" if position == 1 else f"{self.letters[position - 2].lower()}[None, :]"

    def _size_of(self, axis: int) -> str:
        position = self.anchor_map.index(axis)
        return ("N", "CO_ALL", *(f"{letter}O" for letter in self.letters))[position]

    def _offset(self, order: Sequence[int]) -> str:
        terms = []
        for position, axis in enumerate(order):
            stride = " * ".join(self._size_of(inner) for inner in order[position + 1 :])
            index = self._index_of(axis)
            terms.append(f"{index} * ({stride})" if stride else index)
        return " + ".join(terms)

    def _load_operands(self, lines: Lines) -> None:
        for index, operand in enumerate(self.region.operands):
            if operand.node is self.plan.anchor or index in self.loads:
                continue
            order = memory_order(operand.map, MemoryFormat.CONTIGUOUS)
            masks = {"c_in" for axis in order if self.anchor_map.index(axis) == 1}
            masks |= {"inside" for axis in order if self.anchor_map.index(axis) > 1}
            mask = f", mask={' & '.join(sorted(masks))}, other=0.0" if masks else ""
            pointer = self.pointers[operand.node]
            offset = self._offset(order)
            name = self.names.unique(f"{pointer}_value")
            address = f"{pointer}_ptr + {offset}" if offset else f"{pointer}_ptr"
            lines.add(f"{name} = tl.load({address}{mask}).to(tl.float32)")
            self.loads[index] = name

    def _anchor_index(self) -> int:
        return next(i for i, operand in enumerate(self.region.operands) if operand.node is self.plan.anchor)

    def _epilogue(self, lines: Lines, level: int) -> None:
        """All nodes of the tile's level on `value`."""
        self.values, self.loads = {}, {}
        self._load_operands(lines)
        self.loads[self._anchor_index()] = "value"
        self.values[self.plan.anchor] = "value"
        self.emit_nodes(lines, level)

    # -- the whole -----------------------------------------------------------------------------------------

    def emit(self) -> EmittedKernel:
        body = Lines(1)
        self._program_indices(body)
        self._pixel(body)
        body.add("k = tl.arange(0, BLOCK_K)")
        if self.plan.reduces_channels:
            self._reduced(body)
        else:
            self._stored(body)
        name = f"{self.plan.name}_kernel"
        tensors = ["x_ptr", "w_ptr", *(f"{p}_ptr" for p in self.pointers.values()), "out_ptr"]
        blocks = ["BY_ROWS", "BLOCK_P", "BLOCK_C", "BLOCK_K"]
        head = self.signature(name, tensors, self._kernel_sizes(), blocks)
        steps = " -> ".join(short_name(node) for node in self.region.nodes if not is_relabelling(node))
        doc = (
            f'    """{short_name(self.plan.anchor)} -> {steps}; x is float16 with a zero border, w is packed by tap."""'
        )
        kernel = f"{head}\n{doc}\n{body}"
        prepass_kernel, prepass_wrapper = prepass_source(self.shape.rank)
        return EmittedKernel(
            kernel,
            f"{self._pack_source()}\n\n\n{self._wrapper(name)}",
            self.plan.name,
            tuple(node.name for node in (source_of(self.plan.anchor), self._weight(), *self.pointers)),
            dict(self.scalars),
            frozenset(helpers_in(kernel)),
            self._scratch(),
            shared_kernels=(prepass_kernel,),
            shared_wrappers=(_CHANNEL_BLOCK, prepass_wrapper),
            packs=((self._weight().name, f"pack_{self.plan.name}"),),
            keywords=(f"CO={{1}}.shape[{1 if self.shape.transposed else 0}]{self._group_division()}",),
        )

    def _stored(self, lines: Lines) -> None:
        self._channels(lines, "c_block")
        self._main_loop(lines)
        lines.add("c = (c_first + tl.arange(0, BLOCK_C))[:, None]")
        lines.add("c_in = (first + tl.arange(0, BLOCK_C) < CO)[:, None]")
        if self.plan.joins_columns:
            self._joined(lines)
            self._finish_tile(lines)
            return
        for column, name in enumerate(self._accumulators()):
            lines.add(f"value = tl.trans({name})")
            self._outer_positions(lines)
            lines.add(f"w = w_q * {self._columns} + {column}")
            self._finish_tile(lines)

    def _finish_tile(self, lines: Lines) -> None:
        self._inside(lines)
        self._epilogue(lines, 0)
        order = memory_order(self.region.maps[self.region.root], MemoryFormat.CONTIGUOUS)
        lines.add(f"tl.store(out_ptr + {self._offset(order)}, {self.values[self.region.root]}, mask=c_in & inside)")

    def _reduced(self, lines: Lines) -> None:
        """Loop over blocks of channels; the reduction over them stays in registers."""
        root = self.region.root
        kind = REDUCTIONS[root.target]
        names = [f"reduced_{column}" for column in range(self._columns)]
        for name in names:
            lines.add(f"{name} = tl.full([BLOCK_P], {_IDENTITY[kind]}, tl.float32)")
        lines.open("for c_block in range(0, C_BLOCKS):")
        self._channels(lines, "c_block")
        self._main_loop(lines)
        lines.add("c = (c_first + tl.arange(0, BLOCK_C))[:, None]")
        lines.add("c_in = (first + tl.arange(0, BLOCK_C) < CO)[:, None]")
        for column, (name, accumulator) in enumerate(zip(names, self._accumulators(), strict=True)):
            lines.add(f"value = tl.trans({accumulator})")
            self._outer_positions(lines)
            lines.add(f"w = w_q * {self._columns} + {column}" if self._columns > 1 else "w = w_q")
            self._inside(lines)
            self._epilogue(lines, 1)
            value = f"tl.where(c_in, {self.values[source_of(root)]}, {_IDENTITY[kind]})"
            if kind in ("sum", "mean"):
                lines.add(f"{name} = {name} + tl.sum({value}, 0)")
            else:
                lines.add(f"{name} = {kind}imum({name}, {kind}_along({value}, 0, False))")
        lines.close()
        position = " + ".join(
            f"{letter.lower()} * ({' * '.join(f'{inner}O' for inner in self.letters[i + 1 :])})"
            for i, letter in enumerate(self.letters[:-1])
        )
        plane = " * ".join(f"{letter}O" for letter in self.letters)
        for column, name in enumerate(names):
            lines.add(f"w = w_q * {self._columns} + {column}" if self._columns > 1 else "w = w_q")
            self._inside(lines)
            value = f"{name} / CO_ALL" if kind == "mean" else name
            offset = f"{position} + w" if position else "w"
            lines.add(f"tl.store(out_ptr + n * ({plane}) + {offset}, {value}, mask=tl.reshape(inside, [BLOCK_P]))")

    def _kernel_sizes(self) -> list[str]:
        sizes = ["C", "C_ALL", "CO", "CO_ALL", "CO_PADDED", "C_BLOCKS", "GROUP_BLOCKS"]
        for letter in self.letters:
            sizes += [f"{letter}_Q", f"{letter}_PADDED", f"{letter}_BORDER", f"{letter}O"]
        return sizes

    def _weight(self) -> torch_fx.Node:
        weight = self.plan.anchor.args[1]
        assert isinstance(weight, torch_fx.Node)
        return weight

    def _group_division(self) -> str:
        return "" if self.shape.transposed or self.shape.groups == 1 else f" // {self.shape.groups}"

    def _scratch(self) -> tuple[str, ...]:
        pixels = " * ".join(
            f"({letter} + {dim.border})" for letter, dim in zip(self.letters, self.shape.dims, strict=True)
        )
        return (
            f"half: input repacked as float16 with a zero border, 2 * N * {pixels} * C bytes",
            "packed: weights repacked as float16 by tap, once for each change of the weights",
        )

    # -- wrapper -------------------------------------------------------------------------------------------

    def _pack_source(self) -> str:
        """Weights as float16 [groups * taps * C, CO_PADDED (* columns)], zeros in the padding."""
        lines = Lines()
        rank, groups = self.shape.rank, self.shape.groups
        lines.open(f"def pack_{self.plan.name}(weight):")
        lines.add('"""The weights as float16, one matrix [C, CO] for each tap, channels padded to the tiles."""')
        dims = ", ".join(str(axis) for axis in range(3, 3 + rank))
        taps = ", ".join(str(dim.size) for dim in self.shape.dims)
        if self.shape.transposed:
            lines.add(f"w = weight.reshape({groups}, weight.shape[0] // {groups}, weight.shape[1], {taps})")
            lines.add(f"w = w.permute(0, {dims}, 1, 2)  # [groups, taps, C, CO]")
        else:
            lines.add(f"w = weight.reshape({groups}, weight.shape[0] // {groups}, weight.shape[1], {taps})")
            lines.add(f"w = w.permute(0, {dims}, 2, 1)  # [groups, taps, C, CO]")
        lines.add("c, co = w.shape[-2:]")
        lines.add("w = F.pad(w, (0, -co % 64, 0, -c % channel_block(c)))")
        if self.plan.packs_columns:
            columns = self.shape.columns
            deltas = sorted({tap.delta for taps_ in columns.phases for tap in taps_})
            order = [
                next(t.index for t in columns.phases[column] if t.delta == delta)
                for delta in deltas
                for column in range(self._columns)
            ]
            lines.add(f"w = w[..., {order}, :, :].unflatten({rank}, ({len(deltas)}, {self._columns}))")
            lines.add(f"w = w.movedim({rank + 1}, -1)  # the phases of a column side by side")
        lines.add("return w.to(torch.float16).contiguous()")
        return str(lines)

    def _output_sizes(self, lines: Lines) -> None:
        for position, (dim, letter) in enumerate(zip(self.shape.dims, self.letters, strict=True)):
            lines.add(f"{letter}O = {self._output_size(position)}")
            lines.add(
                f"{letter}_Q = triton.cdiv({letter}O, {dim.output_step})"
                if dim.output_step > 1
                else f"{letter}_Q = {letter}O"
            )

    def _output_size(self, position: int) -> str:
        """Output size of one dim from the input's, as torch defines it."""
        letter = self.letters[position]
        dim = self.shape.dims[position]
        if self.shape.transposed:
            return f"({letter} - 1) * {dim.output_step} + {self._transposed_extra(position)}"
        reach = dim.phases[0][-1].delta - dim.phases[0][0].delta + 1
        padding = -dim.phases[0][0].delta
        return f"({letter} + {2 * padding - reach}) // {dim.input_step} + 1"

    def _transposed_extra(self, position: int) -> int:
        def each(value: object) -> int:
            return value if isinstance(value, int) else list(value)[position % len(list(value))]  # type: ignore[call-overload]

        arguments = self.plan.anchor.args
        padding = each(arguments[4]) if len(arguments) > 4 else 0
        extra = each(arguments[5]) if len(arguments) > 5 else 0
        dilation = each(arguments[7]) if len(arguments) > 7 else 1
        return dilation * (self.shape.dims[position].size - 1) + 1 + extra - 2 * padding

    def _wrapper(self, kernel: str) -> str:
        lines = Lines()
        operands = list(self.pointers.values())
        lines.open(f"def {self.plan.name}({', '.join(['x', 'packed', *operands, *self.scalars])}, *, CO):")
        lines.add(f'"""Repacks x and launches {kernel}; packed by pack_{self.plan.name}."""')
        lines.add(f"N, C_GIVEN, {', '.join(self.letters)} = x.shape")
        self._output_sizes(lines)
        groups = self.shape.groups
        lines.add(f"C = packed.shape[{1 + self.shape.rank}]")
        lines.add(f"CO_PADDED = packed.shape[{2 + self.shape.rank}]")
        for letter, dim in zip(self.letters, self.shape.dims, strict=True):
            lines.add(f"{letter}_PADDED = {letter} + {dim.border}")
        if groups > 1:
            zeros = "0, 0, " * self.shape.rank
            lines.add(f"x = F.pad(x.unflatten(1, ({groups}, -1)), ({zeros}0, C - C_GIVEN // {groups})).flatten(1, 2)")
        borders = ", ".join(str(dim.border) for dim in self.shape.dims)
        lines.add(f"half = to_half_with_border(x, {borders}, C{f' * {groups}' if groups > 1 else ''})")
        lines.add(f"out = torch.empty({self._shape_text()}, device=x.device, dtype=x.dtype)")
        tiles = self.plan.tiles
        lines.add(f"BLOCK_P, BLOCK_C, BLOCK_K = {tiles.block_p}, min({tiles.block_c}, CO_PADDED), channel_block(C)")
        lines.add("BY_ROWS = triton.cdiv(W_Q, BLOCK_P) * BLOCK_P * 10 <= W_Q * 11")
        lines.add("GROUP_BLOCKS = triton.cdiv(CO, BLOCK_C)")
        lines.add(f"C_BLOCKS = GROUP_BLOCKS{f' * {groups}' if groups > 1 else ''}")
        rows = " * ".join(self._q_sizes()[:-1]) or "1"
        total = " * ".join(self._q_sizes())
        lines.add(f"tiles = {rows} * triton.cdiv(W_Q, BLOCK_P) if BY_ROWS else triton.cdiv({total}, BLOCK_P)")
        factors = [] if self.plan.reduces_channels else ["C_BLOCKS"]
        factors += [str(self.shape.row_phases)] if self.shape.row_phases > 1 else []
        lines.add(f"grid = {' * '.join([*factors, 'tiles', 'N'])}")
        values = {
            "C_ALL": f"C * {groups}" if groups > 1 else "C",
            "CO_ALL": f"CO * {groups}" if groups > 1 else "CO",
            **{f"{letter}_BORDER": str(dim.border) for letter, dim in zip(self.letters, self.shape.dims, strict=True)},
        }
        sizes = [values.get(name, name) for name in self._kernel_sizes()]
        lines.open(f"{kernel}[(grid,)](")
        lines.add(f"{', '.join(['half', 'packed', *operands, 'out', *self.scalars, *sizes])},")
        lines.add(
            "BY_ROWS=BY_ROWS, BLOCK_P=BLOCK_P, BLOCK_C=BLOCK_C, BLOCK_K=BLOCK_K, "
            f"num_warps={tiles.num_warps}, num_stages={tiles.num_stages},"
        )
        lines.close()
        lines.add(")")
        lines.add("return out")
        return str(lines)

    def _shape_text(self) -> str:
        channels = f"CO * {self.shape.groups}" if self.shape.groups > 1 else "CO"
        sizes = dict(zip(self.anchor_map, ("N", channels, *(f"{letter}O" for letter in self.letters)), strict=True))
        return shape_text("1" if axis is None else sizes[axis] for axis in self.region.maps[self.region.root])
