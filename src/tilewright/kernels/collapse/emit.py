"""Emission of a collapsed convolution: one launch that reads the input once.

A program sums the cells of one plane of the input (or of a few planes, or of a part of one), multiplies the sums
that each tap reads by the tap's weights, and leaves one partial result for each output channel. The last program
of an image adds the partial results in a fixed order, and goes on with what follows.
"""

from __future__ import annotations

import math
from itertools import product

import torch

from tilewright.graph.graph import Graph
from tilewright.kernels.code.text import LETTERS, Lines, shape_text
from tilewright.kernels.collapse.plan import CollapsePlan
from tilewright.kernels.ops.pointwise import helpers_in
from tilewright.kernels.plan import EmittedKernel
from tilewright.kernels.regions.layout import MemoryFormat, memory_order
from tilewright.kernels.regions.region import is_relabelling
from tilewright.kernels.regions.values import ValueEmitter, short_name

#: Weights of so many taps are fetched before the sums are known.
_EARLY_TAPS = 16

#: Registers of a thread for sums that are held beside each other.
_LANE_REGISTERS = 96

#: Elements of a tile of partial results.
_FINISH_TILE = 8192

COUNTERS = '''
_COUNTERS = {}


def counters(x, count):
    """At least `count` zeros, which kernels leave as zeros; a tensor for each stream."""
    device = x.get_device()
    key = (device, triton.runtime.driver.active.get_current_stream(device) if device >= 0 else 0)
    held = _COUNTERS.get(key)
    if held is None or held.numel() < count:
        held = _COUNTERS[key] = torch.zeros(max(count, 1024), device=x.device, dtype=torch.int32)
    return held
'''.strip("\n")


def emit_collapse(plan: CollapsePlan, graph: Graph) -> EmittedKernel:
    """Source of the kernel and its wrapper."""
    return _CollapseEmitter(plan, graph).emit()


def box_source(letters: tuple[str, ...]) -> str:
    """A device function: the lanes of a box of a plane."""
    lower = [letter.lower() for letter in letters]
    ends = ", ".join(f"{name}_first: tl.constexpr, {name}_length: tl.constexpr" for name in lower)
    count = " * ".join(f"{name}_length" for name in lower)
    lines = Lines()
    lines.add("@triton.jit")
    sizes = "".join(f"{letter}: tl.constexpr, " for letter in letters[1:])
    lines.open(f"def box_lanes(plane, {ends}, {sizes}lo, hi, BLOCK: tl.constexpr):")
    lines.add('"""Lanes that sum up to a box of a plane, as far as its positions lie in [lo, hi)."""')
    lines.add("lanes = tl.zeros([BLOCK], tl.float32)")
    lines.open(f"for start in range(0, {count}, BLOCK):")
    lines.add("e = start + tl.arange(0, BLOCK)")
    position, rest = "", "e"
    for index, (letter, name) in enumerate(zip(letters, lower, strict=True)):
        inner = " * ".join(f"{other}_length" for other in lower[index + 1 :])
        step = f"{rest} // ({inner})" if inner else rest
        place = f"{name}_first + {step}" + (f" % {name}_length" if index else "")
        position = f"({position}) * {letter} + {place}" if position else place
    lines.add(f"p = {position}")
    lines.add(f"inside = (e < {count}) & (p >= lo) & (p < hi)")
    lines.add("lanes += tl.load(plane + p, mask=inside, other=0.0).to(tl.float32)")
    lines.close()
    lines.add("return lanes")
    return str(lines)


class _CollapseEmitter(ValueEmitter):
    def __init__(self, plan: CollapsePlan, graph: Graph) -> None:
        self.plan = plan
        self.convolution = plan.convolution
        self.letters = LETTERS[plan.convolution.rank]
        self.segments = plan.segments if plan.x.name in graph.inputs else None
        taken = {
            "x",
            "w",
            "row",
            "member",
            "c",
            "n",
            "o",
            "i",
            "p",
            "lane",
            "plane",
            "lanes",
            "total",
            "value",
            "first",
        }
        taken |= {"step", "tap", "taps", "sums", "inside", "partial", "arrived", "weights", "lo", "hi", "members"}
        taken |= {letter.lower() for letter in self.letters}
        super().__init__(plan.region, graph, taken, skip=(plan.anchor,))

    # -- texts ---------------------------------------------------------------------------------------------

    def _output_size(self, position: int) -> str:
        """Output size of one dim, from the input's."""
        dim, letter = self.convolution.dims[position], self.letters[position]
        if self.convolution.transposed:
            constant = dim.transposed_constant - dim.stride
            scaled = f"{letter} * {dim.stride}" if dim.stride > 1 else letter
            return f"({_plus(scaled, constant)})"
        shifted = _plus(letter, 2 * dim.padding - dim.reach - 1)
        return f"(({shifted}) // {dim.stride} + 1)" if dim.stride > 1 else f"({_plus(shifted, 1)})"

    def _positions(self) -> str:
        return " * ".join(self._output_size(position) for position in range(self.convolution.rank))

    def _plane(self) -> str:
        return " * ".join(self.letters)

    # -- sums of the input ---------------------------------------------------------------------------------

    def _coordinates(self, lines: Lines) -> None:
        for position, letter in enumerate(self.letters):
            inner = " * ".join(self.letters[position + 1 :])
            text = f"p // ({inner})" if inner else "p"
            lines.add(f"{letter.lower()} = {text}" + (f" % {letter}" if position else ""))

    def _open_tiles(self, lines: Lines) -> None:
        """Loops over the plane's part; `value` is what one load brings."""
        lines.open("for first in range(0, STEPS, UNROLL):")
        lines.open("for step in tl.static_range(UNROLL):")
        lines.add("p = lo + (first + step) * BLOCK + lane")
        lines.add('value = tl.load(plane + p, mask=p < hi, other=0.0, eviction_policy="evict_first").to(tl.float32)')

    def _close_tiles(self, lines: Lines) -> None:
        lines.close()
        lines.close()

    def _cells(self) -> list[tuple[int, ...]]:
        """All cells, the interior first."""
        assert self.segments is not None
        cells = list(product(*(range(dim.count) for dim in self.segments)))
        interior = tuple(dim.interior for dim in self.segments)
        return [interior, *(cell for cell in cells if cell != interior)]

    def _cell_name(self, cell: tuple[int, ...]) -> str:
        return "cell_" + "_".join(map(str, cell))

    def _cell_sums(self, lines: Lines) -> None:
        if self._in_lanes():
            self._cells_in_lanes(lines)
        else:
            self._cells_by_boxes(lines)

    def _in_lanes(self) -> bool:
        """All cells are summed side by side, each under its mask; where there are many, borders are read again."""
        return self.segments is not None and len(self._cells()) <= max(1, self.plan.tiles.lane_cells)

    def _cells_in_lanes(self, lines: Lines) -> None:
        assert self.segments is not None
        cells = self._cells()
        for cell in cells:
            lines.add(f"{self._cell_name(cell)} = tl.zeros([BLOCK], tl.float32)")
        self._open_tiles(lines)
        if len(cells) == 1:
            lines.add(f"{self._cell_name(cells[0])} += value")
        else:
            self._coordinates(lines)
            for dim, letter in zip(self.segments, self.letters, strict=True):
                for index in range(dim.count) if dim.count > 1 else ():
                    check = dim.inside(index, letter)
                    check = check if "&" in check else check[1:-1]
                    lines.add(f"{letter.lower()}_{index} = {check}")
            for cell in cells:
                parts = zip(self.letters, cell, self.segments, strict=True)
                mask = " & ".join(f"{letter.lower()}_{i}" for letter, i, dim in parts if dim.count > 1)
                lines.add(f"{self._cell_name(cell)} += tl.where({mask}, value, 0.0)")
        self._close_tiles(lines)
        for cell in cells:
            lines.add(f"{self._cell_name(cell)} = tl.sum({self._cell_name(cell)})")

    def _cells_by_boxes(self, lines: Lines) -> None:
        """Loads of the border cells go out first, then the interior; all are summed after that."""
        assert self.segments is not None
        interior, *others = self._cells()
        for cell in others:
            places = list(zip(self.segments, cell, self.letters, strict=True))
            ends = [(dim.start(i, size), dim.length(i, size)) for dim, i, size in places]
            lengths = [length for _, length in ends]
            block = "EDGE"
            if all(length.isdigit() for length in lengths):
                block = str(1 << max(0, math.prod(map(int, lengths)) - 1).bit_length())
            sizes = "".join(f"{letter}, " for letter in self.letters[1:])
            box = ", ".join(f"{start}, {length}" for start, length in ends)
            lines.add(f"{self._cell_name(cell)} = box_lanes(plane, {box}, {sizes}lo, hi, {block})")
        lines.add("lanes = tl.zeros([BLOCK], tl.float32)")
        self._open_tiles(lines)
        self._coordinates(lines)
        checks = [
            dim.inside(dim.interior, letter)
            for dim, letter in zip(self.segments, self.letters, strict=True)
            if dim.count > 1
        ]
        lines.add(f"lanes += tl.where({' & '.join(checks)}, value, 0.0)")
        self._close_tiles(lines)
        for cell in others:
            lines.add(f"{self._cell_name(cell)} = tl.sum({self._cell_name(cell)})")
        lines.add(f"{self._cell_name(interior)} = tl.sum(lanes)")

    def _tap_indices(self) -> list[tuple[int, ...]]:
        return list(product(*(range(dim.size) for dim in self.convolution.dims)))

    def _product_of_cells(self, lines: Lines) -> None:
        """Each tap's sum, times its weights; taps that read the same cells share their sum."""
        assert self.segments is not None
        early = self.plan.taps <= _EARLY_TAPS
        if early:
            for number in range(self.plan.taps):
                lines.add(f"weights_{number} = {self._weights(str(number))}")
        self._cell_sums(lines)
        names: dict[tuple[tuple[int, ...], ...], str] = {}
        for number, taps in enumerate(self._tap_indices()):
            covered = tuple(dim.covered(tap) for dim, tap in zip(self.segments, taps, strict=True))
            if covered not in names:
                names[covered] = f"read_{len(names)}"
                cells = " + ".join(self._cell_name(cell) for cell in product(*covered))
                lines.add(f"{names[covered]} = {cells or '0.0'}")
            weights = f"weights_{number}" if early else self._weights(str(number))
            lines.add(f"total += {names[covered]} * {weights}")

    def _weights(self, tap: str) -> str:
        """A tap's weights, read as torch has them: those of a channel's taps lie together."""
        stride = self.plan.taps if self.convolution.transposed else f"(C * {self.plan.taps})"
        cast = "" if self.plan.weight.meta["val"].dtype is torch.float32 else ".to(tl.float32)"
        place = f"o * {stride}" if tap == "0" else f"o * {stride} + {tap}"
        return f"tl.load(weights + {place}, mask=(o < CO) & (c < C), other=0.0){cast}"

    def _product_under_masks(self, lines: Lines) -> None:
        """Where strides make taps skip positions: every tap has lanes of its own."""
        taps = self._tap_indices()
        for number in range(len(taps)):
            lines.add(f"tap_{number} = tl.zeros([BLOCK], tl.float32)")
        self._open_tiles(lines)
        self._coordinates(lines)
        for position, (dim, letter) in enumerate(zip(self.convolution.dims, self.letters, strict=True)):
            for tap in range(dim.size):
                lines.add(f"{letter.lower()}_{tap} = {self._reads(position, tap)}")
        for number, indices in enumerate(taps):
            mask = " & ".join(f"{letter.lower()}_{tap}" for letter, tap in zip(self.letters, indices, strict=True))
            lines.add(f"tap_{number} += tl.where({mask}, value, 0.0)")
        self._close_tiles(lines)
        for number in range(len(taps)):
            lines.add(f"total += tl.sum(tap_{number}) * {self._weights(str(number))}")

    def _reads(self, position: int, tap: int) -> str:
        """Whether a tap reads an input position for a valid output."""
        dim, name = self.convolution.dims[position], self.letters[position].lower()
        outputs = self._output_size(position)
        if self.convolution.transposed:
            place = _plus(f"{name} * {dim.stride}" if dim.stride > 1 else name, tap * dim.dilation - dim.padding)
            return f"({place} >= 0) & ({place} < {outputs})"
        place = _plus(name, dim.padding - tap * dim.dilation)
        if dim.stride == 1:
            return f"({place} >= 0) & ({place} < {outputs})"
        return f"({place} >= 0) & ({place} < {outputs} * {dim.stride}) & (({place}) % {dim.stride} == 0)"

    # -- the kernel ----------------------------------------------------------------------------------------

    def _programs(self, lines: Lines) -> None:
        lines.add("pid = tl.program_id(0)")
        lines.add("row = pid // MEMBERS  # an image" + (", and a group" if self.convolution.groups > 1 else ""))
        lines.add("member = pid % MEMBERS")
        lines.add("lo = member % PARTS * (STEPS * BLOCK)")
        lines.add(f"hi = tl.minimum(lo + STEPS * BLOCK, {self._plane()})")
        lines.add("lane = tl.arange(0, BLOCK)")
        lines.add("o = tl.arange(0, BLOCK_CO)")
        lines.add("total = tl.zeros([BLOCK_CO], tl.float32)")

    def _kernel(self, name: str) -> str:
        body = Lines(1)
        self._programs(body)
        body.open("for i in range(CHANNELS):")
        body.add("c = member // PARTS * CHANNELS + i")
        body.add(f"plane = x_ptr + (row * C + c).to(tl.int64) * ({self._plane()})")
        body.add("hi = tl.where(c < C, hi, 0)")
        body.add(f"weights = w_ptr + {self._first_weight()}")
        if self.segments is not None:
            self._product_of_cells(body)
        else:
            self._product_under_masks(body)
        body.close()
        self._gather(body)
        body.open("if is_last:")
        self._finish(body)
        body.close()
        tensors = ["x_ptr", "w_ptr", "partial_ptr", "arrived_ptr", *(f"{p}_ptr" for p in self.pointers.values())]
        head = self.signature(name, [*tensors, "out_ptr"], [], self._constants())
        return f'{head}\n    """{self._docstring()}"""\n{body}'

    def _first_weight(self) -> str:
        """Where the weights of channel `c` begin, in [C, CO, taps] or [CO, C, taps]."""
        groups, taps = self.convolution.groups, self.plan.taps
        if self.convolution.transposed:
            return f"{f'(row % {groups} * C + c)' if groups > 1 else 'c'} * (CO * {taps})"
        return f"({f'row % {groups} * (CO * C) + c' if groups > 1 else 'c'}) * {taps}"

    def _gather(self, lines: Lines) -> None:
        """The last program of an image adds the partial results of all; where there is one program, it has them."""
        lines.add("is_last = MEMBERS == 1")
        lines.open("if MEMBERS > 1:")
        lines.add("tl.store(partial_ptr + pid * CO + o, total, mask=o < CO)")
        lines.add("tl.debug_barrier()  # every thread has stored before the program counts as arrived")
        lines.add('is_last = tl.atomic_add(arrived_ptr + row, 1, sem="acq_rel") == MEMBERS - 1')
        lines.open("if is_last:")
        lines.add("tl.store(arrived_ptr + row, 0)")
        lines.add("members = tl.arange(0, BLOCK_MEMBERS)[:, None]")
        lines.add("total = tl.zeros([BLOCK_CO], tl.float32)")
        lines.open("for first in range(0, MEMBERS, BLOCK_MEMBERS):")
        lines.add("inside = (first + members < MEMBERS) & (o < CO)[None, :]")
        lines.add("address = partial_ptr + (row * MEMBERS + first + members) * CO + o[None, :]")
        lines.add('total += tl.sum(tl.load(address, mask=inside, other=0.0, cache_modifier=".cg"), 0)')
        for _ in range(3):
            lines.close()

    def _constants(self) -> list[str]:
        edge = ["EDGE"] if self.segments is not None and not self._in_lanes() else []
        sizes = ["C", "CO", *self.letters, "CHANNELS", "PARTS", "MEMBERS", "STEPS", "UNROLL"]
        return [*sizes, "BLOCK", *edge, "BLOCK_CO", "BLOCK_MEMBERS"]

    def _docstring(self) -> str:
        kind = "transposed convolution" if self.convolution.transposed else "convolution"
        what = "mean" if self.plan.mean else "sum"
        follows = [short_name(node) for node in self.region.nodes if not is_relabelling(node)]
        return " -> ".join([f"{what} of a {kind} over its positions, from sums of x and the weights by tap", *follows])

    def _finish(self, lines: Lines) -> None:
        """What follows, on `value`, the row's output channels."""
        self.values, self.loads = {}, {}
        lines.add(f"value = total / ({self._positions()})" if self.plan.mean else "value = total")
        own = next(index for index, operand in enumerate(self.region.operands) if operand.node is self.plan.anchor)
        for index in range(len(self.region.operands)):
            if index != own:
                self._load(lines, index)
        self.loads[own] = "value"
        self.values[self.plan.anchor] = "value"
        self.emit_nodes(lines, 0)
        lines.add(f"tl.store(out_ptr + row * CO + o, {self.values[self.region.root]}, mask=o < CO)")

    def _load(self, lines: Lines, index: int) -> None:
        operand = self.region.operands[index]
        own = next(operand for operand in self.region.operands if operand.node is self.plan.anchor)
        groups = self.convolution.groups
        with_channels = own.map[1] is not None and own.map[1] in operand.map
        terms = []
        for axis in memory_order(operand.map, MemoryFormat.CONTIGUOUS):
            if own.map.index(axis) == 0:
                image = f"row // {groups}" if groups > 1 else "row"
                terms.append(f"{image} * ({groups} * CO)" if with_channels else image)
            else:
                terms.append(f"row % {groups} * CO + o" if groups > 1 else "o")
        pointer = self.pointers[operand.node]
        name = self.names.unique(f"{pointer}_value")
        mask = ", mask=o < CO, other=0.0" if with_channels else ""
        address = " + ".join([f"{pointer}_ptr", *terms])
        lines.add(f"{name} = tl.load({address}{mask}).to(tl.float32)")
        self.loads[index] = name

    # -- the wrapper ---------------------------------------------------------------------------------------

    def emit(self) -> EmittedKernel:
        name = f"{self.plan.name}_kernel"
        kernel = self._kernel(name)
        boxes = (box_source(tuple(self.letters)),) if "box_lanes(" in kernel else ()
        return EmittedKernel(
            kernel,
            f"{self._sizes()}\n\n\n{self._wrapper(name)}",
            self.plan.name,
            tuple(node.name for node in (self.plan.x, self.plan.weight, *self.pointers)),
            dict(self.scalars),
            frozenset(helpers_in(kernel)),
            ("partial: partial results of each program, float32 [N * programs of an image, CO]",),
            shared_kernels=boxes,
            shared_wrappers=(COUNTERS,),
            conditions=tuple(self._conditions()),
        )

    def _conditions(self) -> list[str]:
        """Sizes at which there is an output, and at which the borders do not overlap."""
        if self.plan.x.name not in self.graph.inputs:
            return []
        conditions = []
        for position, dim in enumerate(self.convolution.dims):
            least = 1
            if self.convolution.transposed:
                least = max(1, -(-(1 - dim.transposed_constant) // dim.stride) + 1)
            else:
                least = max(1, dim.reach + 1 - 2 * dim.padding)
            if self.segments is not None:
                segments = self.segments[position]
                least = max(least, segments.lows[-1] + segments.highs[-1])
            if least > 1:
                conditions.append(f"{{0}}.shape[{2 + position}] >= {least}")
        return conditions

    def _sizes(self) -> str:
        """The function that cuts the work, done once for each shape of the input."""
        tiles, groups = self.plan.tiles, self.convolution.groups
        lines = Lines()
        lines.open(f"def sizes_of_{self.plan.name}({', '.join(['N', 'C', *self.letters])}, CO):")
        lines.add('"""Rows of the result, programs of each, and the constants of the kernel."""')
        rows = "N"
        if groups > 1:
            lines.add(f"C = C // {groups}")
            lines.add(f"rows = N * {groups}")
            rows = "rows"
        lines.add(f"plane = {self._plane()}")
        lines.add(f"BLOCK = min(triton.next_power_of_2(plane), {self._block()})")
        lines.add(f"CHANNELS = min(C, max(1, {tiles.elements} // plane))  # planes of a program")
        lines.add(f"CHANNELS = min(CHANNELS, triton.cdiv({rows} * C, {tiles.target_programs}))")
        lines.add("channel_blocks = triton.cdiv(C, CHANNELS)")
        lines.add("steps = triton.cdiv(plane, BLOCK)")
        lines.add(f"PARTS = min(steps, max(1, {tiles.target_programs} // ({rows} * channel_blocks)))")
        lines.add(f"UNROLL = min(triton.cdiv(steps, PARTS), {tiles.unroll})")
        lines.add("STEPS = triton.cdiv(triton.cdiv(steps, PARTS), UNROLL) * UNROLL")
        lines.add("PARTS = triton.cdiv(steps, STEPS)")
        lines.add("MEMBERS = channel_blocks * PARTS  # programs of a row of the result")
        lines.add("BLOCK_CO = triton.next_power_of_2(CO)")
        lines.add(f"BLOCK_MEMBERS = min(triton.next_power_of_2(MEMBERS), max(1, {_FINISH_TILE} // BLOCK_CO))")
        if "EDGE" in self._constants():
            lines.add(f"EDGE = min(triton.next_power_of_2(max({', '.join(self.letters)})), 512)")
        lines.add("constants = dict(")
        named = [f"{name}={name}" for name in self._constants()]
        for start in range(0, len(named), 7):
            lines.add(f"    {', '.join(named[start : start + 7])},")
        lines.add(f"    num_warps={tiles.num_warps},")
        lines.add(")")
        lines.add(f"return {rows}, {rows} * MEMBERS, constants")
        return str(lines)

    def _block(self) -> int:
        """Elements of a tile: less where many lanes are held beside each other."""
        tiles = self.plan.tiles
        lanes = self.plan.taps if self.segments is None else len(self._cells()) if self._in_lanes() else 1
        room = _LANE_REGISTERS * 32 * tiles.num_warps // lanes
        return max(32 * tiles.num_warps, min(tiles.block, 1 << max(0, room.bit_length() - 1)))

    def _wrapper(self, kernel: str) -> str:
        groups = self.convolution.groups
        lines = Lines()
        lines.add("@replayed")
        lines.open(f"def {self.plan.name}({', '.join(['x', 'w', *self.pointers.values(), *self.scalars])}):")
        lines.add(f'"""Launches {kernel}."""')
        several = not self.convolution.transposed and groups > 1
        size = f"w.shape[{1 if self.convolution.transposed else 0}]{f' // {groups}' if several else ''}"
        lines.add(f"CO = {size}" + (f"  # of each of {groups} groups" if groups > 1 else ""))
        lines.add(f"rows, programs, constants = sizes_of_{self.plan.name}(*x.shape, CO)")
        lines.add(f"out = note(x.new_empty({self._output_shape()}{self._out_dtype()}))")
        lines.add("partial = note(x.new_empty(programs * CO, dtype=torch.float32))")
        arguments = ["x", "w", "partial", "renew(counters, x, rows)", *self.pointers.values(), "out", *self.scalars]
        lines.add(f"{kernel}[(programs,)]({', '.join(arguments)}, **constants)")
        lines.add("return out")
        return str(lines)

    def _out_dtype(self) -> str:
        wanted = self.region.root.meta["val"].dtype
        return "" if self.plan.x.meta["val"].dtype is wanted else f", dtype={wanted}"

    def _output_shape(self) -> str:
        own = next(operand for operand in self.region.operands if operand.node is self.plan.anchor)
        channels = f"CO * {self.convolution.groups}" if self.convolution.groups > 1 else "CO"
        names = dict(zip(own.map, ("x.shape[0]", channels), strict=True))
        return shape_text("1" if axis is None else names[axis] for axis in self.region.maps[self.region.root])


def _plus(text: str, number: int) -> str:
    if number == 0:
        return text
    return f"{text} + {number}" if number > 0 else f"{text} - {-number}"
