"""Row kernels and their wrapper, as source."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.kernels.code.text import Lines, shape_text
from tilewright.kernels.native import memory_format_text
from tilewright.kernels.ops.pointwise import helpers_in
from tilewright.kernels.plan import EmittedKernel
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.regions.row_stages import Accumulator
from tilewright.kernels.regions.rows import ROW_REDUCTIONS, moves_nothing
from tilewright.kernels.regions.values import short_name
from tilewright.kernels.rows.emit import RowBody
from tilewright.kernels.rows.plan import RowForm, RowPlan

#: Parts of a split row at most, and how many of each kept column may be combined in one tile in any case.
_MOST_PARTS, _ANY_PARTS = 1024, 64
#: Elements of the tile in which the parts of several rows are combined.
_COMBINED = 4096


def emit_rows(plan: RowPlan, graph: Graph) -> EmittedKernel:
    """Source of the kernel(s) and the wrapper of one plan."""
    return _SplitRows(plan, graph).emit() if plan.form is RowForm.SPLIT else _WholeRows(plan, graph).emit()


class _RowEmitter(RowBody):
    def docstring(self) -> str:
        steps = " -> ".join(dict.fromkeys(short_name(n).strip("_") for n in self.region.nodes if not moves_nothing(n)))
        kept = ", ".join(self.axes[axis].size for axis in self.plan.kept_axes) or "1"
        row = ", ".join(self.axes[axis].size for axis in self.plan.axes.of_level(1))
        return f"{steps}; rows [{kept}] of [{row}] elements."

    def head(self, name: str, body: Lines, extra: tuple[str, ...] = (), sizes: tuple[str, ...] = ()) -> str:
        """Signature of a kernel: the pointers that its body names, scalars, sizes, blocks."""
        tensors = [f"{pointer}_ptr" for pointer in self.pointers.values() if _mentions(body, f"{pointer}_ptr")]
        all_sizes = [*(axis.size for axis in self.axes), *sizes]
        return self.signature(name, [*tensors, *extra], all_sizes, [*self.blocks(), *_flags(body)])

    def whole_kernel(self, name: str, body: Lines, docstring: str) -> str:
        """A kernel of which each program takes whole rows."""
        return f'{self.head(name, body, ("out_ptr",))}\n    """{docstring}"""\n{body}'

    def long_name(self) -> str:
        """Name of the looped kernel."""
        return f"{self.plan.name}_long_kernel"

    def long_docstring(self) -> str:
        """Of the looped kernel."""
        return f"{self.docstring()[:-1]}, walked step by step."

    def blocks(self) -> list[str]:
        return [self.block(axis) for axis in self.plan.tile_axes]

    # -- wrapper -------------------------------------------------------------------------------------------

    def wrapper_head(self, lines: Lines) -> None:
        tensors = list(self.pointers.values())
        lines.add("@replayed")
        lines.open(f"def {self.plan.name}({', '.join([*tensors, *self.scalars])}):")
        lines.add(f'"""{self.docstring()}"""')
        for source in self.plan.axes.sources:
            if source.operand is None:
                lines.add(f"{source.name} = {source.literal}")
                continue
            text = f"{self.pointers[self.region.operands[source.operand].node]}.shape[{source.dim}]"
            divisor = " * ".join(source.others)
            divisor = f"({divisor})" if len(source.others) > 1 else divisor
            lines.add(f"{source.name} = {text}" + (f" // {divisor}" if divisor else ""))
        for axis in self.axes:
            if len(axis.parts) > 1:
                lines.add(f"{axis.size} = {' * '.join(self.plan.axes.part_names[part] for part in axis.parts)}")
        form = ""
        if self.plan.output_format is MemoryFormat.CHANNELS_LAST:
            form = f", memory_format={memory_format_text(self.root.meta['val'].dim())}"
        names = self.plan.axes.part_names
        sizes = [" * ".join(names[axis] for axis in axes) or "1" for axes in self.region.dims[self.root]]
        shape = shape_text(sizes) if sizes else "()"
        lines.add(f"out = note(torch.empty({shape}, device={tensors[0]}.device, dtype={self.dtype_text()}{form}))")

    def whole_row_tile(self, lines: Lines) -> None:
        """Blocks that hold whole rows."""
        tiles = self.plan.tiles
        row = [axis for axis in self.plan.tile_axes if self.is_row(axis)]
        for axis in row:
            lines.add(f"{self.block(axis)} = triton.next_power_of_2({self.axes[axis].size})")
        held = " * ".join(self.block(axis) for axis in row)
        for axis in self.plan.tile_axes:
            if not self.is_row(axis):
                least = 32 if axis == self.plan.inner else 1
                most = f"max({least}, {tiles.tile} // {f'({held})' if len(row) > 1 else held})"
                lines.add(f"{self.block(axis)} = min(triton.next_power_of_2({self.axes[axis].size}), {most})")

    def step_tile(self, lines: Lines) -> None:
        """Blocks of a step along the row."""
        inner, step = self.plan.inner, 2 * self.plan.tiles.tile
        most = step if self.is_row(inner) else self.plan.tiles.stripe
        lines.add(f"{self.block(inner)} = min(triton.next_power_of_2({self.axes[inner].size}), {most})")
        outer = self.plan.outer
        if outer is not None:
            rest = f"max(1, {step} // {self.block(inner)})"
            lines.add(f"{self.block(outer)} = min(triton.next_power_of_2({self.axes[outer].size}), {rest})")
        row = [axis for axis in self.plan.tile_axes if self.is_row(axis)]
        whole = " and ".join(f"{self.axes[axis].size} % {self.block(axis)} == 0" for axis in row)
        lines.add(f"WHOLE = {whole}  # no step reaches beyond the row")

    def programs(self) -> str:
        factors = [self.axes[axis].size for axis in self.plan.kept_axes if axis not in self.plan.tile_axes]
        factors += [
            f"triton.cdiv({self.axes[axis].size}, {self.block(axis)})"
            for axis in self.plan.tile_axes
            if not self.is_row(axis)
        ]
        return " * ".join(factors) or "1"

    def warps(self, *, whole: bool) -> str:
        """A step's states take several registers for each element, a whole row's elements hardly more than one."""
        elements = self.plan.tiles.warp if whole else max(1, self.plan.tiles.warp // 4)
        return f"min(max({' * '.join(self.blocks())} // {elements}, 1), 16)"

    def launch(
        self, lines: Lines, kernel: str, grid: str, body: Lines, extra: tuple[str, ...], sizes: tuple[str, ...]
    ) -> None:
        tensors = [pointer for pointer in self.pointers.values() if _mentions(body, f"{pointer}_ptr")]
        arguments = [*tensors, *extra, *self.scalars, *(axis.size for axis in self.axes), *sizes]
        blocks = "".join(f"{block}={block}, " for block in self.blocks())
        more = "".join(f"{name}={name}, " for name in (*_flags(body), *self._parts_blocks(body)))
        lines.open(f"{kernel}[({grid},)](")
        lines.add(f"{', '.join(arguments)},")
        lines.add(f"{blocks}{more}num_warps=warps,")
        lines.close()
        lines.add(")")

    def launch_one(self, lines: Lines, kernel: str, body: Lines, *, whole: bool) -> None:
        """Launch the one kernel of a form, and nothing beside it."""
        lines.add(f"grid = {self.programs()}")
        lines.add(f"warps = {self.warps(whole=whole)}")
        self.launch(lines, kernel, "grid", body, ("out",), ())

    def looped_body(self) -> Lines:
        """One program walks its row step by step."""
        self.restart()
        body = Lines(1)
        self.program_indices(body, split=False)
        rounds = max((accumulator.round for accumulator in self.accumulators), default=0)
        for round_ in range(1, rounds + 1):
            for accumulator in self.accumulate(body, round_, split=False):
                self.finish(body, accumulator)
        if not self.region.is_full(self.root):
            self.evaluate(body, self.missing([self.root]))
            self.store(body)
            return body
        self.last_read = True
        opened = self.walk(body, [self.root], split=False, backwards=rounds > 0)
        self.store(body)
        self.end_walk(body, opened)
        return body

    def _parts_blocks(self, body: Lines) -> list[str]:
        return ["BLOCK_PARTS"] if _mentions(body, "BLOCK_PARTS") else []

    def result(self, kernels: list[str], wrapper: Lines, scratch: tuple[str, ...]) -> EmittedKernel:
        source = "\n\n\n".join(kernels)
        return EmittedKernel(
            source,
            str(wrapper),
            self.plan.name,
            tuple(node.name for node in self.pointers),
            dict(self.scalars),
            frozenset(helpers_in(source)),
            scratch,
        )


class _WholeRows(_RowEmitter):
    """Resident rows, and the looped form beside them for rows that do not fit."""

    def emit(self) -> EmittedKernel:
        resident = self._resident_body() if self.plan.form is RowForm.RESIDENT else None
        looped = None if self.plan.always_fits else self.looped_body()
        names = (f"{self.plan.name}_kernel", self.long_name())
        kernels = [
            self.whole_kernel(name, body, doc)
            for name, body, doc in (
                (names[0], resident, self.docstring()),
                (names[1], looped, self.long_docstring()),
            )
            if body is not None
        ]
        lines = Lines()
        self.wrapper_head(lines)
        if resident is not None:
            self.whole_row_tile(lines)
        if resident is not None and looped is not None:
            lines.open(f"if {' * '.join(self.blocks())} <= {self.plan.tiles.resident}:")
        if resident is not None:
            self.launch_one(lines, names[0], resident, whole=True)
        if resident is not None and looped is not None:
            lines.close()
            lines.open("else:")
        if looped is not None:
            self.step_tile(lines)
            self.launch_one(lines, names[1], looped, whole=False)
        if resident is not None and looped is not None:
            lines.close()
        lines.add("return out")
        return self.result(kernels, lines, ())

    def _resident_body(self) -> Lines:
        self.restart()
        body = Lines(1)
        self.program_indices(body, split=False)
        self.row_indices(body)
        self.last_read = True
        self.evaluate(body, self.missing([self.root]))
        self.store(body)
        return body


class _SplitRows(_RowEmitter):
    """Several programs share a row: a kernel for each round of reductions, and one that finishes.

    Beside them stands the looped form, for calls with many rows or short ones.
    """

    def emit(self) -> EmittedKernel:
        rounds = max(accumulator.round for accumulator in self.accumulators)
        bodies = [(self._round_name(round_), self._round_body(round_)) for round_ in range(1, rounds + 1)]
        bodies.append((self._last_name(), self._last_body()))
        walked = _WholeRows(self.plan.walked, self.graph)
        looped = walked.looped_body()
        kernels = [walked.whole_kernel(walked.long_name(), looped, walked.long_docstring())]
        kernels += [self._kernel(name, body) for name, body in bodies]
        scratch = tuple(
            f"{state}: partial results, float32 [{self._kept_count()}, PARTS]" for state in self._all_states()
        )
        return self.result(kernels, self._wrapper(walked, looped, bodies), scratch)

    def _last_name(self) -> str:
        return f"{self.plan.name}_finish_kernel"

    def _kernel(self, name: str, body: Lines) -> str:
        last = name == self._last_name()
        extra = tuple(f"{state}_ptr" for state in self._named_states(body)) + (("out_ptr",) if last else ())
        head = self.head(name, body, extra, self._part_sizes(body))
        if self._parts_blocks(body):
            head = head.replace(": tl.constexpr,\n):", ": tl.constexpr, BLOCK_PARTS: tl.constexpr,\n):")
        return f'{head}\n    """{self._part_docstring(last)}"""\n{body}'

    def _wrapper(self, walked: _WholeRows, looped: Lines, bodies: Sequence[tuple[str, Lines]]) -> Lines:
        lines = Lines()
        self.wrapper_head(lines)
        self.step_tile(lines)
        lines.add(f"warps = {self.warps(whole=False)}")
        lines.add(f"programs = {self.programs()}")
        tiles = self.plan.tiles
        many = f"programs >= {tiles.few} or " if self.plan.kept_axes else ""
        lines.open(f"if {many}{self._length()} <= {tiles.long}:  # a program walks whole rows")
        if walked.plan.tile_axes != self.plan.tile_axes:
            walked.step_tile(lines)
        walked.launch_one(lines, walked.long_name(), looped, whole=False)
        lines.add("return out")
        lines.close()
        self._split_lines(lines)
        for name, body in bodies:
            last = name == self._last_name()
            extra = tuple(self._named_states(body)) + (("out",) if last else ())
            shared = not last or self.region.is_full(self.root)
            self.launch(lines, name, "programs * PARTS" if shared else "programs", body, extra, self._part_sizes(body))
        lines.add("return out")
        return lines

    def _round_name(self, round_: int) -> str:
        kinds = [ROW_REDUCTIONS[n.target] for a in self.accumulators if a.round == round_ for n in a.nodes]
        return f"{self.plan.name}_{'_'.join(dict.fromkeys(kinds))}{round_}_kernel"

    def _part_docstring(self, last: bool) -> str:
        if last:
            return f"Combines the parts and finishes {self.docstring()}"
        return f"Partial results of the slices [part * PART, (part + 1) * PART) of {self.docstring()}"

    def _all_states(self) -> list[str]:
        return [state for accumulator in self.accumulators for state in self.states[accumulator.nodes[0]]]

    def _named_states(self, body: Lines) -> list[str]:
        return [state for state in self._all_states() if _mentions(body, f"{state}_ptr")]

    def _part_sizes(self, body: Lines) -> tuple[str, ...]:
        return tuple(name for name in ("PART", "PARTS") if _mentions(body, name))

    # -- bodies --------------------------------------------------------------------------------------------

    def _range(self, body: Lines) -> None:
        size = self.axes[self.plan.row_axes[0]].size
        body.add("lo = part * PART")
        body.add(f"hi = tl.minimum(lo + PART, {size})")

    def _state_address(self, state: str, part: str) -> str:
        """Of a part's partial results for this program's rows: the parts of a row lie together, as they are read."""
        row = self.offset(self.plan.kept_axes)
        if not row:
            return f"{state}_ptr + {part}"
        return f"{state}_ptr + {f'({row})' if ' ' in row else row} * PARTS + {part}"

    def _kept_count(self) -> str:
        return " * ".join(self.axes[axis].size for axis in self.plan.kept_axes) or "1"

    def _round_body(self, round_: int) -> Lines:
        self.restart()
        body = Lines(1)
        self.program_indices(body, split=True, backwards=round_ % 2 == 0)
        self._range(body)
        sources = [accumulator.source for accumulator in self.accumulators if accumulator.round == round_]
        self._combine_earlier(body, sources, round_)
        mask = self.mask(self.plan.kept_axes)
        for accumulator in self.accumulate(body, round_, split=True):
            for state in self.states[accumulator.nodes[0]]:
                body.add(f"tl.store({self._state_address(state, 'part')}, {state}{f', mask={mask}' if mask else ''})")
        return body

    def _last_body(self) -> Lines:
        self.restart()
        body = Lines(1)
        full = self.region.is_full(self.root)
        rounds = max(accumulator.round for accumulator in self.accumulators)
        self.program_indices(body, split=full, backwards=full and rounds % 2 == 1)
        if full:
            self._range(body)
        self._combine_earlier(body, [self.root], 1 << 30)
        if not full:
            self.evaluate(body, self.missing([self.root]))
            self.store(body)
            return body
        self.last_read = True
        opened = self.walk(body, [self.root], split=True)
        self.store(body)
        self.end_walk(body, opened)
        return body

    def _combine_earlier(self, body: Lines, targets: Sequence[torch_fx.Node], before: int) -> None:
        """Values of the reductions that the targets need, from the parts' states."""
        needed = self._needed_reductions(targets)
        found = [a for a in self.accumulators if a.round < before and any(node in needed for node in a.nodes)]
        if not found:
            return
        row = next(axis for axis in self.plan.tile_axes if self.is_row(axis))
        view = self._view(row) if len([axis for axis in self.plan.tile_axes if self.is_row(axis)]) == 1 else ""
        body.add(f"parts = tl.arange(0, BLOCK_PARTS){view}")
        for accumulator in found:
            self._combine_one(body, accumulator)

    def _combine_one(self, body: Lines, accumulator: Accumulator) -> None:
        kept = self.mask(self.plan.kept_axes)
        mask = "parts < PARTS" + (f") & {kept}" if kept else "")
        mask = f"({mask}" if kept else mask
        names = self.states[accumulator.nodes[0]]
        for name, state in zip(names, accumulator.states, strict=True):
            address = self._state_address(name, "parts")
            body.add(f"{name} = tl.load({address}, mask={mask}, other={state.start})")
        accumulator.combine(body, names, self._reduce_parts)
        self.finish(body, accumulator)

    def _reduce_parts(self, kind: str, text: str) -> str:
        both = all(self.is_row(axis) for axis in self.plan.tile_axes)
        if not both or self.plan.outer is None:
            return self.reduce(kind, text)
        return f"tl.sum({text}, 0)" if kind in ("sum", "mean") else f"{kind}_along({text}, 0, False)"

    def _needed_reductions(self, targets: Sequence[torch_fx.Node]) -> set[torch_fx.Node]:
        """Reductions on which the targets depend, not looking through any of them."""
        found: set[torch_fx.Node] = set()
        seen: set[torch_fx.Node] = set()
        stack = list(targets)
        while stack:
            node = stack.pop()
            if node in seen or node not in self.region.dims:
                continue
            seen.add(node)
            if node.target in ROW_REDUCTIONS:
                found.add(node)
            else:
                stack += self.region.inputs_of(node)
        return found

    def _length(self) -> str:
        """Number of a row's elements, as the wrapper says it."""
        return " * ".join(self.axes[axis].size for axis in self.plan.axes.of_level(1))

    def _most_parts(self) -> str:
        """The parts' states are combined in one tile, beside those of other rows where a tile holds several."""
        kept = [self.block(axis) for axis in self.plan.tile_axes if not self.is_row(axis)]
        return f"min({_MOST_PARTS}, max({_ANY_PARTS}, {_COMBINED} // {kept[0]}))" if kept else str(_MOST_PARTS)

    def _split_lines(self, lines: Lines) -> None:
        axis = self.plan.row_axes[0]
        step = self.block(axis) if axis in self.plan.tile_axes else "1"
        size = self.axes[axis].size
        lines.add(f"steps = triton.cdiv({size}, {step})" if step != "1" else f"steps = {size}")
        lines.add(f"parts = min(steps, max(1, {self.plan.tiles.target_programs} // programs), {self._most_parts()})")
        lines.add("PART = triton.cdiv(steps, parts)" + (f" * {step}" if step != "1" else ""))
        lines.add(f"PARTS = triton.cdiv({size}, PART)")
        lines.add("BLOCK_PARTS = triton.next_power_of_2(PARTS)")
        device = f"{next(iter(self.pointers.values()))}.device"
        for state in self._all_states():
            shape = f"({self._kept_count()}, PARTS)"
            lines.add(f"{state} = note(torch.empty({shape}, device={device}, dtype=torch.float32))")


def _flags(body: Lines) -> list[str]:
    return ["WHOLE"] if _mentions(body, "WHOLE") else []


def _mentions(body: Lines, name: str) -> bool:
    return re.search(rf"\b{name}\b", str(body)) is not None
