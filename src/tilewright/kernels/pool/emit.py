"""Emission of pooling: a program has a tile of output rows by columns, and walks the window with all of it.

Where the stride allows it, taps along a row are loaded together (`pool_steps`): `lanes` are contiguous columns of the
input, taken in element by element, and joined to one value of each window at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tilewright.graph.graph import Graph
from tilewright.kernels.code.text import Lines, shape_text, signed
from tilewright.kernels.ops.pointwise import helpers_in
from tilewright.kernels.plan import EmittedKernel
from tilewright.kernels.pool.plan import PoolPlan, WindowDim
from tilewright.kernels.pool.steps import WindowStep, steps_of
from tilewright.kernels.regions.plane_values import PlaneEmitter, plane_sizes
from tilewright.kernels.regions.region import AxisMap, is_relabelling
from tilewright.kernels.regions.values import short_name

_IDENTITY = {"max": 'float("-inf")', "mean": "0.0"}

#: Windows of more elements are walked in a loop; smaller ones are unrolled.
_UNROLLED = 32


def emit_pool(plan: PoolPlan, graph: Graph) -> EmittedKernel:
    """Source of the kernel and the wrapper of one plan."""
    return _PoolEmitter(plan, graph).emit()


class _PoolEmitter(PlaneEmitter):
    def __init__(self, plan: PoolPlan, graph: Graph) -> None:
        self.plan = plan
        self.pooling = plan.pooling
        lead, letters = plane_sizes(plan.pooling.node, len(plan.pooling.dims))
        sizes = [*lead, *letters, *(f"{letter}O" for letter in letters), "ROWS", "BLOCKS"]
        taken = [*sizes, *(name.lower() for name in sizes), "plane", "rest", "inside", "pooled", "row"]
        operands = [operand.node for operand in (*plan.loaded, *plan.added)]
        super().__init__(plan.root, operands, graph, taken, lead, letters)
        self.steps = steps_of(plan.pooling.dims[-1]) if plan.tiles.vectors else ()

    # -- the kernel ----------------------------------------------------------------------------------------

    def _indices(self, lines: Lines) -> None:
        columns = f"{self.letters[-1]}O"
        lines.add("pid = tl.program_id(0)")
        lines.open("if WIDE:")
        lines.add("pid = pid.to(tl.int64)  # rows beyond 32 bits; their division is dear")
        lines.close()
        lines.add("row = (pid // BLOCKS * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]")
        lines.add(f"{columns.lower()} = (pid % BLOCKS * BLOCK_W + tl.arange(0, BLOCK_W))[None, :]")
        lines.add(f"inside = (row < ROWS) & ({columns.lower()} < {columns})")
        rest = "row"
        for position, letter in enumerate(reversed(self.letters[:-1])):
            name = f"{letter}O"
            lines.add(f"{name.lower()} = {rest} % {name}")
            last = position == len(self.letters) - 2
            lines.add(f"{'plane' if last else 'rest'} = {rest} // {name}")
            rest = "rest"
        if len(self.letters) == 1:
            lines.add("plane = row")
        if len(self.lead) == 2:
            lines.add("c = plane % C")
            lines.add("n = plane // C")
        elif self.lead:
            lines.add(f"{self.lead[0].lower()} = plane")

    def _window(self, lines: Lines) -> None:
        """Everything in the window, added to or compared with what is there."""
        kind = self.pooling.kind
        lines.add(f"pooled = tl.full([BLOCK_R, BLOCK_W], {_IDENTITY[kind]}, tl.float32)")
        for step in self._vector_steps():
            lines.add(f"{step.name} = tl.full([BLOCK_R, BLOCK_W * {step.width}], {_IDENTITY[kind]}, tl.float32)")
        for letter, dim in zip(self.letters, self.pooling.dims, strict=True):
            low = letter.lower()
            if dim.output is not None:
                lines.add(f"{low}_first = {low}o * {letter} // {letter}O")
                lines.add(f"{low}_end = (({low}o + 1) * {letter} + {letter}O - 1) // {letter}O")
        outer = list(zip(self.letters, self.pooling.dims, strict=True))
        outer = outer[:-1] if self.steps else outer
        checks: list[str] = []
        for letter, dim in outer:
            checks += self._open_taps(lines, letter, dim)
        if self.steps:
            for step in self.steps:
                self._step(lines, step, checks)
        else:
            self._add(lines, "pooled", " & ".join(["inside", *checks]), bool(checks))
        for _, dim in outer:
            if dim.output is not None or dim.size > 1:
                lines.close()
        for step in self._vector_steps():
            self._join_lanes(lines, step)

    def _vector_steps(self) -> list[WindowStep]:
        return [step for step in self.steps if step.is_vector]

    def _open_taps(self, lines: Lines, letter: str, dim: WindowDim) -> list[str]:
        """Open the loop over a dim's taps, with the position in it; returns what must hold of that."""
        low = letter.lower()
        if dim.output is not None:
            lines.open(f"for {low}_step in range(0, {letter}_WINDOW):")
            lines.add(f"{low} = {low}_first + {low}_step")
            return [f"({low} < {low}_end)"]
        unrolled = not self.pooling.is_adaptive and math.prod(dim.size for dim in self.pooling.dims) <= _UNROLLED
        if dim.size > 1:
            lines.open(f"for {low}_step in {'tl.static_range' if unrolled else 'range'}(0, {dim.size}):")
        lines.add(f"{low} = {_position(low, dim)}")
        return _bounds(letter, dim)

    def _step(self, lines: Lines, step: WindowStep, checks: Sequence[str]) -> None:
        """One step along the innermost dim: a strided tap, or a vector that holds several taps of every window."""
        letter, dim = self.letters[-1], self.pooling.dims[-1]
        low = letter.lower()
        if not step.is_vector:
            lines.add(f"{low} = {low}o * {dim.stride}{signed(step.first)}")
            own = _bounds(letter, dim)
            self._add(lines, "pooled", " & ".join(["inside", *checks, *own]), bool(checks or own))
            return
        self.column = f"{low}_vector"
        start = f"pid % BLOCKS * (BLOCK_W * {step.width}){signed(step.block)}"
        lines.add(f"{self.column} = ({start} + tl.arange(0, BLOCK_W * {step.width}))[None, :]")
        own = [f"({self.column} >= 0)"] if step.block < 0 else []
        self._add(lines, step.name, " & ".join(["(row < ROWS)", *checks, *own, f"({self.column} < {letter})"]), True)
        self.column = low

    def _add(self, lines: Lines, total: str, mask: str, masked: bool) -> None:
        """Load a tile at the present position, and take it into a total."""
        kind = self.pooling.kind
        before = dict(self.values)
        value = self._source(lines, mask, kind, masked)
        self.values = before
        lines.add(f"{total} = maximum({total}, {value})" if kind == "max" else f"{total} += {value}")

    def _join_lanes(self, lines: Lines, step: WindowStep) -> None:
        """A vector's taps as one value of each window."""
        kind, taps = self.pooling.kind, f"tl.reshape({step.name}, [BLOCK_R, BLOCK_W, {step.width}])"
        if not step.is_whole:
            lane = f"tl.arange(0, {step.width})[None, None, :]"
            wanted = [f"({lane} >= {step.low})"] if step.low else []
            wanted += [f"({lane} < {step.high})"] if step.high < step.width else []
            taps = f"tl.where({' & '.join(wanted)}, {taps}, {_IDENTITY[kind]})"
        joined = f"max_along({taps}, 2, False)" if kind == "max" else f"tl.sum({taps}, 2)"
        lines.add(f"pooled = maximum(pooled, {joined})" if kind == "max" else f"pooled += {joined}")

    def _source(self, lines: Lines, mask: str, kind: str, masked: bool) -> str:
        axes = self._input_axes()
        if self.plan.before is None:
            return self.load(lines, self.plan.loaded[0], axes, mask, False, _IDENTITY[kind])
        value = self.evaluate(lines, self.plan.before, axes, mask, False)
        return f"tl.where({mask}, {value}, {_IDENTITY[kind]})" if masked else value

    def _input_axes(self) -> AxisMap:
        if self.plan.before is not None:
            return self.plan.before.maps[self.plan.before.root]
        return self.plan.loaded[0].map

    def _divide(self, lines: Lines) -> None:
        if self.pooling.kind != "mean":
            return
        if self.pooling.divisor is not None:
            lines.add(f"pooled = pooled / {self.pooling.divisor}")
            return
        counts = [self._count(letter, dim) for letter, dim in zip(self.letters, self.pooling.dims, strict=True)]
        numbers = [count for count in counts if isinstance(count, int)]
        texts = [f"({count})" for count in counts if isinstance(count, str)]
        factor = math.prod(numbers)
        divisor = " * ".join([*([str(float(factor))] if factor != 1 or not texts else []), *texts])
        if divisor != "1.0":
            lines.add(f"pooled = pooled / ({divisor})" if " " in divisor else f"pooled = pooled / {divisor}")

    def _count(self, letter: str, dim: WindowDim) -> int | str:
        """Elements of a window along one dim."""
        low = letter.lower()
        if dim.output is not None:
            return f"{low}_end - {low}_first"
        first = f"{low}o * {dim.stride}" + (f" - {dim.padding}" if dim.padding else "")
        if self.pooling.counts_padding:
            if not dim.ceil:
                return dim.size
            end = f"{letter} + {dim.padding}" if dim.padding else letter
            return f"tl.minimum({first} + {dim.size}, {end}) - ({first})"
        if not dim.padding and not dim.ceil:
            return dim.size
        return f"tl.minimum({first} + {dim.size}, {letter}) - tl.maximum({first}, 0)"

    def emit(self) -> EmittedKernel:
        body = Lines(1)
        self._indices(body)
        self._window(body)
        self._divide(body)
        value = "pooled"
        if self.plan.after is not None:
            self.values = {self.pooling.node: "pooled"}
            axes = self.plan.after.maps[self.plan.root]
            value = self.evaluate(body, self.plan.after, axes, "inside", True)
        columns = f"{self.letters[-1]}O"
        body.add(f"tl.store(out_ptr + row.to(tl.int64) * {columns} + {columns.lower()}, {value}, mask=inside)")
        name = f"{self.plan.name}_kernel"
        tensors = [f"{pointer}_ptr" for pointer in self.pointers.values()]
        head = self.signature(name, [*tensors, "out_ptr"], self._sizes(body), ["WIDE", "BLOCK_R", "BLOCK_W"])
        kernel = f'{head}\n    """{self._docstring()}"""\n{body}'
        return EmittedKernel(
            kernel,
            self._wrapper(name, self._sizes(body)),
            self.plan.name,
            tuple(node.name for node in self.pointers),
            dict(self.scalars),
            frozenset(helpers_in(kernel)),
        )

    def _sizes(self, body: Lines) -> list[str]:
        sizes = [*self.lead, *self.letters, *(f"{letter}O" for letter in self.letters), "ROWS", "BLOCKS"]
        sizes += [f"{letter}_WINDOW" for letter in self.letters]
        return [size for size in sizes if re.search(rf"\b{size}\b", str(body))]

    def _docstring(self) -> str:
        nodes = [node for node in self.plan.nodes if not is_relabelling(node) and "getitem" not in str(node.target)]
        steps = " -> ".join(dict.fromkeys(short_name(node).strip("_") for node in nodes))
        return f"{steps}; output [{', '.join([*self.lead, *(f'{letter}O' for letter in self.letters)])}]."

    # -- the wrapper ---------------------------------------------------------------------------------------

    def _wrapper(self, kernel: str, sizes: Sequence[str]) -> str:
        lines = Lines()
        lines.add("@replayed")
        lines.open(f"def {self.plan.name}({', '.join([*self.pointers.values(), *self.scalars])}):")
        lines.add(f'"""{self._docstring()}"""')
        for dim, name in enumerate([*self.lead, *self.letters]):
            lines.add(f"{name} = {self._read(dim)}")
        for letter, window in zip(self.letters, self.pooling.dims, strict=True):
            self._output_size(lines, letter, window)
        outputs = [*self.lead, *(f"{letter}O" for letter in self.letters)]
        device = next(iter(self.pointers.values()))
        shape = shape_text(outputs)
        lines.add(f"out = note(torch.empty({shape}, device={device}.device, dtype={self.dtype_text()}))")
        lines.add(f"ROWS = {' * '.join(outputs[:-1]) or '1'}")
        tiles = self.plan.tiles
        lines.add(f"BLOCK_W = min(triton.next_power_of_2({outputs[-1]}), {tiles.row})")
        lines.add(f"BLOCK_R = min(triton.next_power_of_2(ROWS), max(1, {tiles.tile} // BLOCK_W))")
        lines.add(f"BLOCKS = triton.cdiv({outputs[-1]}, BLOCK_W)")
        lines.add("grid = triton.cdiv(ROWS, BLOCK_R) * BLOCKS")
        lines.open(f"{kernel}[(grid,)](")
        lines.add(f"{', '.join([*self.pointers.values(), 'out', *self.scalars, *sizes])},")
        lines.add(f"WIDE=ROWS >= 2**31, BLOCK_R=BLOCK_R, BLOCK_W=BLOCK_W, num_warps={tiles.num_warps},")
        lines.close()
        lines.add(")")
        lines.add("return out")
        return str(lines)

    def _read(self, dim: int) -> str:
        """Where the size of a dim of the pooled tensor stands."""
        axis = self._input_axes()[dim]
        for operand in self.plan.loaded:
            if axis is not None and axis in operand.map:
                return f"{self.pointers[operand.node]}.shape[{operand.map.index(axis)}]"
        return "1"

    def _output_size(self, lines: Lines, letter: str, dim: WindowDim) -> None:
        if dim.output is not None:
            lines.add(f"{letter}O = {dim.output}")
            lines.add(f"{letter}_WINDOW = triton.cdiv({letter}, {letter}O) + ({letter} % {letter}O != 0)")
            return
        reach = dim.dilation * (dim.size - 1) + 1
        spare = 2 * dim.padding - reach
        room = f"{letter} + {spare}" if spare >= 0 else f"{letter} - {-spare}"
        if not dim.ceil:
            lines.add(f"{letter}O = ({room}) // {dim.stride} + 1" if dim.stride > 1 else f"{letter}O = {room} + 1")
            return
        lines.add(f"{letter}O = triton.cdiv({room}, {dim.stride}) + 1")
        lines.add("# The last window starts inside the data or the padding before it.")
        lines.add(f"{letter}O -= ({letter}O - 1) * {dim.stride} >= {letter} + {dim.padding}")


def _bounds(letter: str, dim: WindowDim) -> list[str]:
    """What must hold of a tap's position, so that it lies in the input."""
    low = letter.lower()
    checks = [f"({low} >= 0)"] if dim.padding else []
    return [*checks, *([f"({low} < {letter})"] if dim.padding or dim.ceil else [])]


def _position(low: str, dim: WindowDim) -> str:
    text = f"{low}o * {dim.stride}" if dim.stride > 1 else f"{low}o"
    text += f" - {dim.padding}" if dim.padding else ""
    if dim.size == 1:
        return text
    return f"{text} + {low}_step" + (f" * {dim.dilation}" if dim.dilation > 1 else "")
