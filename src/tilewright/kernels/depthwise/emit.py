"""Emission of depthwise convolutions: each lane has a few neighbouring columns of a plane, and walks down the rows.

Along a row, the input is loaded in whole vectors of as many columns, and taps are put together from their elements in
registers. Down the rows, sums of all outputs that a row belongs to are in flight (`depthwise_walk`), so that a row is
loaded once for all of them. Where weights and sums would not fit in registers, lanes stay at their outputs, and walk
the taps of the outer dims instead. Everything is float32, whatever the tensors' type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from tilewright.graph.convolutions import ConvolutionDim
from tilewright.graph.graph import Graph
from tilewright.kernels.code.text import Lines, shape_text, signed
from tilewright.kernels.depthwise.plan import DepthwisePlan
from tilewright.kernels.depthwise.walk import InputRow, Sum, Use, Walk, padded_dims
from tilewright.kernels.ops.pointwise import helpers_in
from tilewright.kernels.plan import EmittedKernel
from tilewright.kernels.regions.phases import DimPhases
from tilewright.kernels.regions.plane_values import PlaneEmitter, plane_sizes
from tilewright.kernels.regions.region import is_relabelling
from tilewright.kernels.regions.values import short_name

#: Vectors of a lane that are on their way to shared memory at once.
_MOST_COPIES = 12


def emit_depthwise(plan: DepthwisePlan, graph: Graph) -> EmittedKernel:
    """Source of the kernel and the wrapper of one plan."""
    return _DepthwiseEmitter(plan, graph).emit()


class _DepthwiseEmitter(PlaneEmitter):
    def __init__(self, plan: DepthwisePlan, graph: Graph) -> None:
        self.plan = plan
        self.convolution = plan.convolution
        self.shape = plan.convolution.shape
        self.tiles = plan.tiles
        self.outer, self.rows, self.columns = padded_dims(self.shape)
        lead, letters = plane_sizes(self.convolution.node, self.shape.rank)
        sizes = ["N", "C", *letters, *(f"{letter}O" for letter in letters), *(f"{letter}Q" for letter in letters)]
        sizes += ["ROWS", "STRIPS", "LANES", "TOTAL", "WIDE", "ALIGNED", "ALIGNED_OUT", "BLOCK"]
        taken = [*sizes, *(name.lower() for name in sizes), "index", "lane", "strip", "rest", "plane", "first", "row"]
        taken += ["inside", "stored", "fits", "source", "weights", "tap", "sum", "step"]
        taken += [f"weight_{tap}" for tap in range(self.shape.tap_count)]
        taken += [_sided("shifted", shift) for shift in self._shifts()]
        blocks = self._blocks(self._shifts())
        taken += [_sided(name, block) for name in ("w", "holds", "taps") for block in blocks]
        operands = [operand.node for operand in (*plan.loaded, *plan.added)]
        super().__init__(plan.root, operands, graph, taken, lead, letters)

    # -- where the lanes are -------------------------------------------------------------------------------

    def _indices(self, lines: Lines) -> None:
        columns = self.tiles.columns
        lines.add("pid = tl.program_id(0)")
        lines.open("if WIDE:")
        lines.add("pid = pid.to(tl.int64)  # lanes beyond 32 bits; their division is dear")
        lines.close()
        for flag, size in self._alignments():
            lines.open(f"if {flag}:")
            lines.add(f"{size} = {size} // {columns} * {columns}  # as it is: says that rows begin at whole vectors")
            lines.close()
        lines.add(f"index = (pid * ({self._lanes()}) + tl.arange(0, {self._lanes()}))[:, None]")
        lines.add("inside = index < TOTAL")
        lines.add("index = tl.minimum(index, TOTAL - 1)")
        lines.add("lane = index % LANES")
        lines.add("strip = index // LANES")
        rest = "strip"
        if self.shape.rank > 1:
            lines.add("first = strip % STRIPS * ROWS" if self.plan.walk else "ho = strip % HO")
            rest = "strip // STRIPS" if self.plan.walk else "strip // HO"
        if self.shape.rank > 2:
            lines.add(f"rest = {rest}")
            count = self._count("D")
            lines.add(f"{self._position('D')} = rest % {count}")
            rest = f"rest // {count}"
        lines.add(f"plane = {rest}")
        lines.add("c = plane % C" if len(self.lead) == 2 else "c = plane")
        if self._reads_batch():
            lines.add("n = plane // C")

    def _reads_batch(self) -> bool:
        """Something that is added depends on the batch, and not on all that lies between."""
        axes = self.plan.after.maps[self.plan.root] if self.plan.after and len(self.lead) == 2 else (None,)
        return axes[0] is not None and any(axes[0] in operand.map for operand in self.plan.added)

    def _alignments(self) -> list[tuple[str, str]]:
        """Flags that say that rows are whole vectors, and the sizes that they speak of."""
        if self.tiles.columns == 1:
            return []
        return [("ALIGNED", "W"), *([("ALIGNED_OUT", "WO")] if self.columns.output_step == 1 else [])]

    def _count(self, letter: str) -> str:
        """Number of positions of a dim that lanes and strips count."""
        return f"{letter}O" if self._dim(letter).output_step == 1 else f"{letter}Q"

    def _position(self, letter: str) -> str:
        """The variable of a dim's position."""
        return f"{letter.lower()}{self._count(letter)[-1].lower()}"

    def _dim(self, letter: str) -> DimPhases:
        return self.shape.dims[self.letters.index(letter)]

    def _bases(self, lines: Lines) -> None:
        """Where the channel's plane and its weights begin, and the columns that are loaded."""
        convolution, names = self.convolution, self.pointers
        plane = f"plane // {convolution.multiplier}" if convolution.multiplier > 1 else "plane"
        plane = f"({plane})" if " " in plane else plane
        size = " * ".join(self.letters)
        size = f"({size})" if " " in size else size
        lines.add(f"source = {names[convolution.source]}_ptr + {plane}.to(tl.int64) * {size}")
        lines.add(f"weights = {names[convolution.weight]}_ptr + c * {self.shape.tap_count}")
        columns = self.tiles.columns
        position, step = self._position("W"), self.columns.input_step
        lines.add(f"{position} = lane * {columns} + tl.arange(0, {columns})[None, :]")
        for block in self._blocks(self._shifts()):
            start = f"lane * {columns * step} + tl.arange(0, {columns})[None, :]" if step > 1 else position
            name = _sided("w", block)
            lines.add(f"{name} = {start}{signed(block * columns)}")
            low = f" & ({name} >= 0)" if block < 0 else ""
            lines.add(f"{_sided('holds', block)} = inside{low} & ({name} < W)")

    def _shifts(self) -> list[int]:
        """Shifts of all taps along a row."""
        return sorted({tap.delta for taps in self.columns.phases for tap in taps})

    def _elements(self, shift: int) -> list[int]:
        """The input columns that a lane's outputs read with a shift, from the lane's first one."""
        return [shift + number * self.columns.input_step for number in range(self.tiles.columns)]

    def _blocks(self, shifts: Iterable[int]) -> list[int]:
        """The vectors that hold them."""
        return sorted({element // self.tiles.columns for shift in shifts for element in self._elements(shift)})

    # -- one row of the input ------------------------------------------------------------------------------

    def _load_row(self, lines: Lines, position: str, fits: str, shifts: Sequence[int]) -> None:
        """The vectors of a row."""
        for block in self._blocks(shifts):
            mask = f"{fits} & {_sided('holds', block)}" if fits else _sided("holds", block)
            offset = f"{position} * W + {_sided('w', block)}" if position else _sided("w", block)
            lines.add(f"{_sided('taps', block)} = tl.load(source + {offset}, mask={mask}, other=0.0).to(tl.float32)")
        mixed = [shift for shift in shifts if self._whole_block(shift) is None]
        for block in self._blocks(mixed):
            name = _sided("taps", block)
            elements = ", ".join(f"{name}_{number}" for number in range(self.tiles.columns))
            split = "columns_of_four" if self.tiles.columns == 4 else "tl.split"
            lines.add(f"{elements} = {split}({name})")

    def _whole_block(self, shift: int) -> int | None:
        """The vector that is what a shift reads; None where it is put together from elements."""
        block, first = divmod(shift, self.tiles.columns)
        contiguous = self.columns.input_step == 1 or self.tiles.columns == 1
        return block if contiguous and first == 0 else None

    def _shifted(self, lines: Lines, shift: int) -> str:
        """What a lane's outputs read with a shift, [lanes, columns]."""
        block = self._whole_block(shift)
        if block is not None:
            return _sided("taps", block)
        columns, name = self.tiles.columns, _sided("shifted", shift)
        parts = [f"{_sided('taps', at // columns)}_{at % columns}" for at in self._elements(shift)]
        join = "four_columns" if columns == 4 else "tl.join"
        lines.add(f"{name} = {join}({', '.join(parts)})")
        return name

    def _lanes(self) -> str:
        """Lanes of a program."""
        return f"BLOCK // {self.tiles.columns}" if self.tiles.columns > 1 else "BLOCK"

    def _zeros(self) -> str:
        return f"tl.zeros([{self._lanes()}, {self.tiles.columns}], tl.float32)"

    # -- walking down the rows -----------------------------------------------------------------------------

    def _walk(self, lines: Lines, walk: Walk) -> None:
        for tap in sorted({use.weight for use in walk.uses}):
            lines.add(f"weight_{tap} = tl.load(weights{signed(tap)}).to(tl.float32)")
        for total in walk.sums:
            lines.add(f"{self._sum(total)} = {self._zeros()}")
        if self.shape.rank > 1:
            reach = walk.last - walk.first
            lines.open(f"for step in tl.range(0, ROWS{signed(reach)}, num_stages={self._stages(walk)}):")
        by_row = sorted(walk.uses, key=lambda use: (use.row, use.shift))
        for row, uses in groupby(by_row, key=lambda use: use.row):
            self._take_row(lines, walk, row, list(uses))
        for phases in walk.phases:
            self._finish(lines, walk, phases)
        if self.shape.rank > 1:
            for phases in walk.phases:
                self._grow_older(lines, walk, phases)
            lines.close()

    def _stages(self, walk: Walk) -> int:
        """Fewer than asked for where a step has so many vectors that their copies would fill the shared memory."""
        rows = {use.row: {other.shift for other in walk.uses if other.row == use.row} for use in walk.uses}
        vectors = sum(len(self._blocks(shifts)) for shifts in rows.values())
        return min(self.tiles.num_stages, 1 + _MOST_COPIES // max(1, vectors))

    def _take_row(self, lines: Lines, walk: Walk, row: InputRow, uses: Sequence[Use]) -> None:
        """Load a row, and take it into every sum that it belongs to."""
        position, fits = "", []
        if self.shape.rank > 2:
            step = self.outer.input_step
            lines.add(f"d = {self._position('D')}{f' * {step}' if step > 1 else ''}{signed(row.shift)}")
            fits.append("(d >= 0) & (d < D)")
        if self.shape.rank > 1:
            block = f"first + step{signed(walk.first)}" if self.rows.input_step > 1 else "first + step"
            step = self.rows.input_step
            shift = row.rest if step > 1 else walk.first
            lines.add(f"h = ({block}) * {step}{signed(shift)}" if step > 1 else f"h = {block}{signed(shift)}")
            fits.append("(h >= 0) & (h < H)")
            position = "(d * H + h)" if self.shape.rank > 2 else "h"
            lines.add(f"fits = {' & '.join(fits)}")
        shifts = sorted({use.shift for use in uses})
        self._load_row(lines, position, "fits" if fits else "", shifts)
        for shift, of_shift in groupby(uses, key=lambda use: use.shift):
            value = self._shifted(lines, shift)
            for use in of_shift:
                lines.add(f"{self._sum(use.sum)} += weight_{use.weight} * {value}")

    def _sum(self, total: Sum) -> str:
        """A sum's name: the phases where there are several, and its age among those of its phase."""
        assert self.plan.walk is not None
        several = len(self.plan.walk.phases) > 1
        low, high = self.plan.walk.ages[total.phases[1]]
        numbers = [
            *(total.phases[3 - self.shape.rank :] if several else ()),
            *([total.age - low] if high > low else []),
        ]
        return "_".join(["sum", *map(str, numbers)])

    def _finish(self, lines: Lines, walk: Walk, phases: tuple[int, ...]) -> None:
        """Store the outputs of a phase that are complete."""
        high = walk.ages[phases[1]][1]
        checks = ["inside"]
        if self.shape.rank > 1:
            several = self.rows.output_step > 1
            name = "hq" if several else "ho"
            lines.add(f"{name} = first + step{signed(walk.first - high)}")
            if walk.last > walk.first:
                checks.append(f"({name} >= first)")
            if high < walk.last:
                checks.append(f"({name} < first + ROWS)")
            if several:
                lines.add(f"ho = hq * {self.rows.output_step}{signed(phases[1])}")
            checks.append("(ho < HO)")
        if self.shape.rank > 2 and self.outer.output_step > 1:
            lines.add(f"do = dq * {self.outer.output_step}{signed(phases[0])}")
            checks.append("(do < DO)")
        if self.columns.output_step > 1:
            lines.add(f"wo = wq * {self.columns.output_step}{signed(phases[2])}")
        self._store(lines, self._sum(Sum(phases, high)), [*checks, "(wo < WO)"])

    def _grow_older(self, lines: Lines, walk: Walk, phases: tuple[int, ...]) -> None:
        """Each sum is one block of rows further behind; a new one begins."""
        low, high = walk.ages[phases[1]]
        for age in range(high, low, -1):
            lines.add(f"{self._sum(Sum(phases, age))} = {self._sum(Sum(phases, age - 1))}")
        lines.add(f"{self._sum(Sum(phases, low))} = {self._zeros()}")

    # -- staying at the outputs ----------------------------------------------------------------------------

    def _stay(self, lines: Lines) -> None:
        """Walk the taps of the outer dims in a loop, with all taps along the row in each step."""
        lines.add(f"sum = {self._zeros()}")
        position, rank, inner = "", self.shape.rank, self.columns.size
        if rank > 1:
            lines.open(f"for tap in range(0, {self.outer.size * self.rows.size}):")
            given = self.convolution.given.dims
            fits = "(h >= 0) & (h < H)"
            if rank > 2:
                lines.add(f"d = {_read('do', given[0], f'tap // {self.rows.size}')}")
                lines.add(f"h = {_read('ho', given[1], f'tap % {self.rows.size}')}")
                fits, position = f"(d >= 0) & (d < D) & {fits}", "(d * H + h)"
            else:
                lines.add(f"h = {_read('ho', given[0], 'tap')}")
                position = "h"
            lines.add(f"fits = {fits}")
        shifts = self._shifts()
        self._load_row(lines, position, "fits" if rank > 1 else "", shifts)
        start = f"weights + tap * {inner}" if rank > 1 else "weights"
        for number, shift in enumerate(shifts):
            value = self._shifted(lines, shift)
            lines.add(f"sum += tl.load({start}{signed(number)}).to(tl.float32) * {value}")
        if rank > 1:
            lines.close()
        self._store(lines, "sum", ["inside", "(wo < WO)"])

    # -- what follows --------------------------------------------------------------------------------------

    def _keep_operands(self, lines: Lines) -> None:
        """Load what does not change along the plane, such as a bias, before the walk."""
        after = self.plan.after
        if after is None:
            return
        axes = after.maps[self.plan.root]
        lead = {axis for axis in axes[: len(self.lead)] if axis is not None}
        for number, operand in enumerate(after.operands):
            if operand.node is self.convolution.node or not {a for a in operand.map if a is not None} <= lead:
                continue
            self.kept[number] = self.load(lines, operand, axes, "", True, "0.0")

    def _store(self, lines: Lines, value: str, checks: Sequence[str]) -> None:
        lines.add(f"stored = {' & '.join(checks)}")
        row = {1: "plane", 2: "plane * HO + ho", 3: "(plane * DO + do) * HO + ho"}[self.shape.rank]
        lines.add(f"row = {row}")
        self.values = {self.convolution.node: value}
        if self.plan.after is not None:
            value = self.evaluate(lines, self.plan.after, self.plan.after.maps[self.plan.root], "stored", True)
        lines.add(f"tl.store(out_ptr + row.to(tl.int64) * WO + wo, {value}, mask=stored)")

    # -- kernel and wrapper --------------------------------------------------------------------------------

    def emit(self) -> EmittedKernel:
        """The kernel and its wrapper."""
        body = Lines(1)
        self._indices(body)
        self._bases(body)
        self._keep_operands(body)
        if self.plan.walk is not None:
            self._walk(body, self.plan.walk)
        else:
            self._stay(body)
        name = f"{self.plan.name}_kernel"
        tensors = [f"{pointer}_ptr" for pointer in self.pointers.values()]
        flags = ["WIDE", *(flag for flag, _ in self._alignments()), "BLOCK"]
        head = self.signature(name, [*tensors, "out_ptr"], self._sizes(body), flags)
        kernel = f'{head}\n    """{self._docstring()}"""\n{body}'
        return EmittedKernel(
            kernel,
            self._wrapper(name, self._sizes(body)),
            self.plan.name,
            tuple(node.name for node in self.pointers),
            dict(self.scalars),
            frozenset(helpers_in(kernel)),
            conditions=tuple(self._conditions()),
        )

    def _conditions(self) -> Iterator[str]:
        """An input that is added must be as large as the result, where that depends on another input alone."""
        after, source = self.plan.after, self.convolution.source
        positions = {node: position for position, node in enumerate(self.pointers)}
        if after is None or source.name not in self.graph.inputs:
            return
        axes, lead = after.maps[self.plan.root], len(self.lead)
        for operand in self.plan.added:
            sized = [(dim, axes.index(axis)) for dim, axis in enumerate(operand.map) if axis is not None]
            for dim, place in sized if operand.node.name in self.graph.inputs else ():
                size = f"{{{positions[source]}}}.shape[{place}]"
                if place >= lead:
                    size = _output_size(size, self.convolution.given.dims[place - lead], self.shape.transposed)
                elif self.lead[place] == "C":
                    continue  # known beforehand
                if operand.node is not source or dim != place:
                    yield f"{{{positions[operand.node]}}}.shape[{dim}] == {size}"

    def _sizes(self, body: Lines) -> list[str]:
        sizes = [*self.lead, *self.letters, *(f"{letter}O" for letter in self.letters), "DQ"]
        sizes += ["ROWS", "STRIPS", "LANES", "TOTAL"]
        return [size for size in sizes if re.search(rf"\b{size}\b", str(body))]

    def _docstring(self) -> str:
        nodes = [node for node in self.plan.nodes if not is_relabelling(node)]
        steps = " -> ".join(dict.fromkeys(short_name(node).strip("_") for node in nodes))
        return f"depthwise {steps}; output [{', '.join([*self.lead, *(f'{letter}O' for letter in self.letters)])}]."

    def _wrapper(self, kernel: str, sizes: Sequence[str]) -> str:
        lines = Lines()
        lines.add("@replayed")
        lines.open(f"def {self.plan.name}({', '.join([*self.pointers.values(), *self.scalars])}):")
        lines.add(f'"""{self._docstring()}"""')
        source, multiplier = self.pointers[self.convolution.source], self.convolution.multiplier
        for dim, name in enumerate([*self.lead, *self.letters]):
            more = f" * {multiplier}" if name == "C" and multiplier > 1 else ""
            lines.add(f"{name} = {source}.shape[{dim}]{more}")
        for letter, given in zip(self.letters, self.convolution.given.dims, strict=True):
            lines.add(f"{letter}O = {_output_size(letter, given, self.shape.transposed)}")
            if self._count(letter) == f"{letter}Q":
                lines.add(f"{letter}Q = triton.cdiv({letter}O, {self._dim(letter).output_step})")
        outputs = [*self.lead, *(f"{letter}O" for letter in self.letters)]
        lines.add(f"out = note(torch.empty({shape_text(outputs)}, device={source}.device, dtype={self.dtype_text()}))")
        lines.add(f"LANES = triton.cdiv({self._count('W')}, {self.tiles.columns})")
        counted = [*self.lead, *([self._count("D")] if self.shape.rank > 2 else [])]
        if self.shape.rank > 1 and self.plan.walk is not None:
            lines.add(f"STRIPS = triton.cdiv({self._count('H')}, {self.tiles.rows})")
            lines.add(f"ROWS = triton.cdiv({self._count('H')}, STRIPS)")
            counted.append("STRIPS")
        elif self.shape.rank > 1:
            counted.append("HO")
        lines.add(f"TOTAL = {' * '.join([*counted, 'LANES'])}")
        lanes = 32 * self.tiles.num_warps
        lines.open(f"{kernel}[(triton.cdiv(TOTAL, {lanes}),)](")
        lines.add(f"{', '.join([*self.pointers.values(), 'out', *self.scalars, *sizes])},")
        flags = [f"{flag}={size} % {self.tiles.columns} == 0" for flag, size in self._alignments()]
        wide = f"WIDE={' * '.join(outputs)} >= 2**31"
        lines.add(
            f"{', '.join([wide, *flags, f'BLOCK={lanes * self.tiles.columns}', f'num_warps={self.tiles.num_warps}'])},"
        )
        lines.close()
        lines.add(")")
        lines.add("return out")
        return str(lines)


def _sided(name: str, side: int) -> str:
    """A name for what lies so far before or after."""
    return f"{name}_{'before' if side < 0 else 'after'}_{abs(side)}" if side else name


def _read(output: str, dim: ConvolutionDim, tap: str) -> str:
    """The input position that a tap of an output reads."""
    text = f"{output} * {dim.stride}" if dim.stride > 1 else output
    return f"{text}{signed(-dim.padding)} + {tap}{f' * {dim.dilation}' if dim.dilation > 1 else ''}"


def _output_size(letter: str, dim: ConvolutionDim, transposed: bool) -> str:
    """Output size of one dim from the input's, as torch defines it."""
    if transposed:
        stride = f"({letter} - 1) * {dim.stride}" if dim.stride > 1 else f"{letter} - 1"
        return f"{stride}{signed(dim.transposed_constant)}"
    room = 2 * dim.padding - dim.reach
    return f"({letter}{signed(room - 1)}) // {dim.stride} + 1" if dim.stride > 1 else f"{letter}{signed(room)}"
