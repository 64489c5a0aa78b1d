"""Emission of a region: one kernel for pointwise chains and nested reductions, and a finish where it is split.

The kernel's loops follow the reductions: the one nearest to the output is the outermost loop, and inside the
innermost one lies a tile. Tiles have one or two vector axes; other axes are scalars, from the program id or
from a loop.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import listed_dims, source_of
from tilewright.kernels.code.text import Lines, shape_text
from tilewright.kernels.native import memory_format_text
from tilewright.kernels.ops.integers import load_cast
from tilewright.kernels.ops.pointwise import helpers_in
from tilewright.kernels.plan import EmittedKernel, FusedPlan
from tilewright.kernels.regions.layout import LoopAxis, MemoryFormat
from tilewright.kernels.regions.region import REDUCTIONS, is_relabelling
from tilewright.kernels.regions.values import ValueEmitter, short_name

_IDENTITY = {"sum": "0.0", "mean": "0.0", "min": 'float("inf")', "max": 'float("-inf")'}


def emit_region(plan: FusedPlan, graph: Graph) -> EmittedKernel:
    """Source of the kernel(s) and the wrapper of one plan."""
    return _RegionEmitter(plan, graph).emit()


@dataclass(frozen=True)
class _Accumulator:
    node: torch_fx.Node
    name: str
    kind: str


class _RegionEmitter(ValueEmitter):
    def __init__(self, plan: FusedPlan, graph: Graph) -> None:
        self.plan = plan
        self.axes = plan.axes.axes
        sizes = {axis.size for axis in self.axes} | set(plan.axes.part_names)
        super().__init__(plan.region, graph, {axis.name for axis in self.axes} | sizes)
        self.vectors = tuple(v for v in (plan.kept_vector, plan.second_vector) if v is not None)
        self.strides = self._own_strides()

    # -- addresses -----------------------------------------------------------------------------------------

    def _index(self, axis: int) -> str:
        return self.axes[axis].name

    def index_of(self, axis: int | None) -> str:
        """The index along an axis that no other one was merged with; 0 where a dim has size 1."""
        return "0" if axis is None else next(merged.name for merged in self.axes if merged.parts == (axis,))

    def _offset(self, order: Sequence[int]) -> str:
        terms = []
        for position, axis in enumerate(order):
            stride = " * ".join(self.axes[inner].size for inner in order[position + 1 :])
            stride = f"({stride})" if " " in stride else stride
            terms.append(f"{self._index(axis)} * {stride}" if stride else self._index(axis))
        return " + ".join(terms)

    def _mask(self, order: Sequence[int]) -> str:
        return " & ".join(f"{self.axes[axis].name}_in" for axis in order if axis in self.vectors)

    def _address(self, pointer: str, order: Sequence[int]) -> str:
        offset = self._offset(order)
        return f"{pointer} + {offset}" if offset else pointer

    def _operand_address(self, index: int) -> str:
        """Address in an operand; one that is part of a wider tensor has strides of its own."""
        order = self.plan.axes.operand_orders[index]
        pointer = self.pointers[self.region.operands[index].node]
        strides = self.strides.get(index, {})
        inner = [axis for axis in order if axis not in strides]
        terms = [f"{self._index(axis)} * {strides[axis]}" for axis in order if axis in strides]
        terms += [self._offset(inner)] if inner else []
        return " + ".join([f"{pointer}_ptr", *terms])

    def _own_strides(self) -> dict[int, dict[int, str]]:
        """For each narrowed operand, the name of the stride of each axis outside of the narrower dim."""
        found: dict[int, dict[int, str]] = {}
        for index, dim in enumerate(self.plan.narrowed):
            if dim is None:
                continue
            operand = self.region.operands[index]
            outside = {axis for axis in operand.map[:dim] if axis is not None}
            found[index] = {
                axis: self.names.unique(f"{self.pointers[operand.node]}_{self.axes[axis].name}_stride")
                for axis in self.plan.axes.operand_orders[index]
                if set(self.axes[axis].parts) & outside
            }
        return found

    def _stride_lines(self, lines: Lines) -> None:
        for index, names in self.strides.items():
            operand = self.region.operands[index]
            for axis, name in names.items():
                dim = operand.map.index(self.axes[axis].parts[-1])
                lines.add(f"{name} = {self.pointers[operand.node]}.stride({dim})")

    def _sizes(self) -> list[str]:
        """What every kernel is passed after pointers and scalars."""
        return [axis.size for axis in self.axes] + [name for names in self.strides.values() for name in names.values()]

    def _load(self, lines: Lines, index: int) -> None:
        operand = self.region.operands[index]
        order = self.plan.axes.operand_orders[index]
        pointer = self.pointers[operand.node]
        mask = self._mask(order)
        arguments = self._operand_address(index) + (f", mask={mask}, other=0.0" if mask else "")
        cast = load_cast(operand.node.meta["val"].dtype)
        name = self.names.unique(f"{pointer}_value")
        lines.add(f"{name} = tl.load({arguments}){cast}")
        self.loads[index] = name

    def _depth_of_load(self, index: int) -> int:
        """The outermost loop in which all axes of the operand are known."""
        return max((self.axes[axis].level for axis in self.plan.axes.operand_orders[index]), default=0)

    # -- loops ---------------------------------------------------------------------------------------------

    def _body(self, lines: Lines, level: int, stop_at_partials: bool = False) -> list[_Accumulator]:
        """Everything inside the loop of `level`: hoisted loads, deeper loops, then this level's own nodes."""
        depth = self.region.depth
        for index, operand in enumerate(self.region.operands):
            if index not in self.loads and self._depth_of_load(index) == level:
                if level == 0 and operand.level == 0 and depth > 0:
                    continue  # needed after the loops only
                self._load(lines, index)
        accumulators: list[_Accumulator] = []
        if level < depth:
            accumulators = self._reduction_loop(lines, level + 1)
            if stop_at_partials and level == 0:
                return accumulators
        for index, operand in enumerate(self.region.operands):
            if index not in self.loads and operand.level == level and self._depth_of_load(index) <= level:
                self._load(lines, index)
        self.emit_nodes(lines, level)
        return accumulators

    def _reduction_loop(self, lines: Lines, level: int) -> list[_Accumulator]:
        innermost = level == self.region.depth
        accumulators = [
            _Accumulator(node, self.names.unique(f"{short_name(node)}_acc"), REDUCTIONS[node.target])
            for node in self.region.reductions(level)
        ]
        shape = self._accumulator_shape(innermost)
        for accumulator in accumulators:
            lines.add(f"{accumulator.name} = tl.full({shape}, {_IDENTITY[accumulator.kind]}, tl.float32)")
        opened = self._open_loops(lines, level)
        self._body(lines, level)
        for accumulator in accumulators:
            self._accumulate(lines, accumulator, level, innermost)
        for _ in range(opened):
            lines.close()
        for accumulator in accumulators:
            self._reduce_tile(lines, accumulator, innermost)
            if not (self.plan.split and level == 1):
                self._finish(lines, accumulator, level)
        return accumulators

    def _accumulator_shape(self, innermost: bool) -> str:
        blocks = [f"BLOCK_{self.axes[v].size}" for v in self.vectors]
        if not innermost and self.plan.reduced_vector is not None:
            if len(blocks) == 1:
                return "()"  # what the innermost reduction leaves is a number, and so is what is stored
            blocks = [*blocks[:-1], "1"]
        return f"[{', '.join(blocks)}]" if blocks else "[1]"

    def _open_loops(self, lines: Lines, level: int) -> int:
        """Loops over the axes of a level: scalars one by one, the vector axis by blocks; returns how many."""
        order = self._loop_order(level)
        for position, index in enumerate(order):
            axis = self.axes[index]
            low, high = ("0", axis.size) if not (self.plan.split and level == 1 and position == 0) else ("lo", "hi")
            if index == self.plan.second_vector:
                block = f"BLOCK_{axis.size}"
                lines.open(f"for {axis.name}_start in range({low}, {high}, {block}):")
                self._vector_index(lines, index, f"{axis.name}_start", high)
            else:
                lines.open(f"for {axis.name} in range({low}, {high}):")
        return len(order)

    def _loop_order(self, level: int) -> list[int]:
        """Scalar axes outside, the vector axis innermost."""
        axes = list(self.plan.axes.of_level(level))
        return sorted(axes, key=lambda index: index == self.plan.second_vector)

    def _vector_index(self, lines: Lines, index: int, start: str, bound: str) -> None:
        axis = self.axes[index]
        view = ""
        if len(self.vectors) == 2:
            view = "[:, None]" if index == self.vectors[0] else "[None, :]"
        lines.add(f"{axis.name} = {start} + tl.arange(0, BLOCK_{axis.size}){view}")
        lines.add(f"{axis.name}_in = {axis.name} < {bound}")

    def _accumulate(self, lines: Lines, accumulator: _Accumulator, level: int, innermost: bool) -> None:
        source = source_of(accumulator.node)
        if source not in self.values:
            self._bind_source(accumulator.node, source, level)
        value = self.values[source]
        if innermost and self.plan.reduced_vector is not None:
            mask = f"{self.axes[self.plan.reduced_vector].name}_in"
            value = f"tl.where({mask}, {value}, {_IDENTITY[accumulator.kind]})"
        lines.add(f"{accumulator.name} = {_combine(accumulator.kind, accumulator.name, value)}")

    def _bind_source(self, node: torch_fx.Node, source: torch_fx.Node, level: int) -> None:
        for index, operand in enumerate(self.region.operands):
            if operand.node is source and operand.level == level:
                self.values[source] = self.loads[index]

    def _reduce_tile(self, lines: Lines, accumulator: _Accumulator, innermost: bool) -> None:
        if not innermost or self.plan.reduced_vector is None:
            return
        axis = len(self.vectors) - 1
        keep = "True" if len(self.vectors) == 2 else "False"
        name, kind = accumulator.name, accumulator.kind
        if kind in ("sum", "mean"):
            lines.add(f"{name} = tl.sum({name}, {axis}, keep_dims={keep})")
        else:
            lines.add(f"{name} = {kind}_along({name}, {axis}, {keep})")

    def _finish(self, lines: Lines, accumulator: _Accumulator, level: int) -> None:
        self.values[accumulator.node] = accumulator.name
        if accumulator.kind == "mean":
            name = self.names.unique(short_name(accumulator.node))
            lines.add(f"{name} = {accumulator.name} / {self._count(accumulator.node)}")
            self.values[accumulator.node] = name

    def _count(self, node: torch_fx.Node) -> str:
        """Elements that a reduction combines, as text."""
        source = source_of(node)
        map_ = next(
            (self.region.maps[n] for n in (source,) if n in self.region.maps),
            next((o.map for o in self.region.operands if o.node is source), ()),
        )
        wanted = {map_[dim] for dim in listed_dims(node)} - {None}
        sizes = [axis.size for axis in self.axes if set(axis.parts) & wanted]
        return " / ".join(sizes) if sizes else "1.0"

    # -- programs ------------------------------------------------------------------------------------------

    def _scalar_axes(self) -> list[int]:
        return [index for index in self.plan.axes.of_level(0) if index not in self.vectors]

    def _kept_vectors(self) -> list[int]:
        return [index for index in self.plan.axes.of_level(0) if index in self.vectors]

    def _program_indices(self, lines: Lines, split: bool) -> None:
        """Decompose the program id: blocks of the vector axes innermost, then scalars, then the part."""
        vectors, scalars = self._kept_vectors(), self._scalar_axes()
        factors: list[tuple[str, str]] = [
            (f"{self.axes[index].name}_block", f"tl.cdiv({self.axes[index].size}, BLOCK_{self.axes[index].size})")
            for index in reversed(vectors)
        ]
        factors += [(self.axes[index].name, self.axes[index].size) for index in reversed(scalars)]
        if split:
            factors.append(("part", ""))
        if factors:
            lines.add("pid = tl.program_id(0).to(tl.int64)")
        for position, (name, size) in enumerate(factors):
            if position == len(factors) - 1:
                lines.add(f"{name} = pid")
            else:
                lines.add(f"{name} = pid % {size}")
                lines.add(f"pid = pid // {size}")
        for index in vectors:
            axis = self.axes[index]
            self._vector_index(lines, index, f"{axis.name}_block * BLOCK_{axis.size}", axis.size)

    # -- the whole -----------------------------------------------------------------------------------------

    def emit(self) -> EmittedKernel:
        if self.plan.split:
            return self._emit_split()
        body = Lines(1)
        self._program_indices(body, split=False)
        self._body(body, 0)
        self._store(body)
        blocks = [f"BLOCK_{self.axes[v].size}" for v in self.vectors]
        name = f"{self.plan.name}_kernel"
        head = self.signature(name, [*self._pointers(), "out_ptr"], self._sizes(), blocks)
        kernel = f'{head}\n    """{self._docstring()}"""\n{body}'
        return self._finished(kernel, self._wrapper(name, blocks), ())

    def _pointers(self) -> list[str]:
        return [f"{name}_ptr" for name in self.pointers.values()]

    def _store(self, lines: Lines) -> None:
        order = self.plan.axes.output_order
        mask = self._mask(order)
        value = self.values[self.region.root]
        if self.vectors and not self._kept_vectors() and len(self.vectors) == 2:
            raise AssertionError("a tile without an output axis has one vector axis")
        suffix = f", mask={mask}" if mask else ""
        lines.add(f"tl.store({self._address('out_ptr', order)}, {value}{suffix})")

    def _docstring(self) -> str:
        steps = " -> ".join(short_name(node) for node in self.region.nodes if not is_relabelling(node))
        dims = ", ".join(axis.size for axis in self.axes if axis.level == 0) or "1"
        return f"{steps}; output [{dims}]."

    def _finished(self, kernels: str, wrapper: str, scratch: tuple[str, ...]) -> EmittedKernel:
        return EmittedKernel(
            kernels,
            wrapper,
            self.plan.name,
            tuple(node.name for node in self.pointers),
            dict(self.scalars),
            frozenset(helpers_in(kernels)),
            scratch,
            strided=frozenset(list(self.pointers).index(self.region.operands[index].node) for index in self.strides),
        )

    # -- wrapper -------------------------------------------------------------------------------------------

    def _wrapper_head(self, lines: Lines) -> None:
        parameters = ", ".join([*self.pointers.values(), *self.scalars])
        lines.add("@replayed")
        lines.open(f"def {self.plan.name}({parameters}):")
        shape = ", ".join(self.plan.axes.part_names[axis] for axis in self._output_parts()) or "1"
        lines.add(f'"""Launches {self.plan.name}_kernel; output [{shape}]."""')
        names = list(self.pointers.values())
        nodes = list(self.pointers)
        for axis, (operand, dim) in enumerate(self.region.axis_sources):
            tensor = names[nodes.index(self.region.operands[operand].node)]
            lines.add(f"{self.plan.axes.part_names[axis]} = {tensor}.shape[{dim}]")
        for merged in self.axes:
            if len(merged.parts) > 1:
                lines.add(f"{merged.size} = {' * '.join(self.plan.axes.part_names[part] for part in merged.parts)}")
        self._stride_lines(lines)

    def _output_parts(self) -> list[int]:
        return [axis for axis in self.region.maps[self.region.root] if axis is not None]

    def _output_shape(self) -> str:
        names = self.plan.axes.part_names
        return shape_text("1" if axis is None else names[axis] for axis in self.region.maps[self.region.root])

    def _allocate(self, lines: Lines) -> None:
        device = next(iter(self.pointers.values()))
        form = ""
        if self.plan.output_format is MemoryFormat.CHANNELS_LAST:
            form = f", memory_format={memory_format_text(self.region.root.meta['val'].dim())}"
        lines.add(
            f"out = note(torch.empty({self._output_shape()}, device={device}.device, dtype={self.dtype_text()}{form}))"
        )

    def _tile_lines(self, lines: Lines) -> None:
        """Tile sizes for the shapes at hand, within the plan's limits."""
        limits = self.plan.limits
        if not self.vectors:
            return
        inner = self._contiguous_vector()
        outer = [vector for vector in self.vectors if vector != inner]
        axis = self.axes[inner]
        row = limits.row if outer else limits.tile
        lines.add(f"BLOCK_{axis.size} = min(triton.next_power_of_2({axis.size}), {row})")
        for vector in outer:
            other = self.axes[vector]
            lines.add(
                f"BLOCK_{other.size} = min(triton.next_power_of_2({other.size}), "
                f"max(1, {limits.tile} // BLOCK_{axis.size}))"
            )
        if len(outer) == 1 and len(self._kept_vectors()) == 2:  # few of the one leave room for more of the other
            wider = f"max(BLOCK_{axis.size}, {limits.tile} // BLOCK_{self.axes[outer[0]].size})"
            lines.add(f"BLOCK_{axis.size} = min(triton.next_power_of_2({axis.size}), {wider})")

    def _contiguous_vector(self) -> int:
        """The vector axis along which the largest operand lies contiguous."""
        orders = sorted(self.plan.axes.operand_orders, key=len, reverse=True)
        for order in (*orders, self.plan.axes.output_order):
            if order and order[-1] in self.vectors:
                return order[-1]
        return self.vectors[-1]

    def _programs_text(self) -> str:
        factors = [self.axes[index].size for index in self._scalar_axes()]
        factors += [
            f"triton.cdiv({self.axes[index].size}, BLOCK_{self.axes[index].size})" for index in self._kept_vectors()
        ]
        return " * ".join(factors) or "1"

    def _launch(self, lines: Lines, name: str, arguments: Sequence[str], blocks: Sequence[str], grid: str) -> None:
        limits = self.plan.limits
        lines.open(f"{name}[({grid},)](")
        lines.add(f"{', '.join(arguments)},")
        lines.add(
            "".join(f"{block}={block}, " for block in blocks)
            + f"num_warps={limits.num_warps}, num_stages={limits.num_stages},"
        )
        lines.close()
        lines.add(")")

    def _wrapper(self, kernel: str, blocks: Sequence[str]) -> str:
        lines = Lines()
        self._wrapper_head(lines)
        self._allocate(lines)
        self._tile_lines(lines)
        lines.add(f"grid = {self._programs_text()}")
        arguments = [*self.pointers.values(), "out", *self.scalars, *self._sizes()]
        self._launch(lines, kernel, arguments, blocks, "grid")
        lines.add("return out")
        return str(lines)

    # -- split reductions ----------------------------------------------------------------------------------

    def _split_axis(self) -> LoopAxis:
        return self.axes[self._loop_order(1)[0]]

    def _split_step(self) -> str:
        """What a part is a multiple of: one step of the loop that is split."""
        index = self._loop_order(1)[0]
        return f"BLOCK_{self.axes[index].size}" if index == self.plan.second_vector else "1"

    def _emit_split(self) -> EmittedKernel:
        body = Lines(1)
        self._program_indices(body, split=True)
        axis = self._split_axis()
        body.add("lo = part * PART")
        body.add(f"hi = tl.minimum(lo + PART, {axis.size})")
        accumulators = self._body(body, 0, stop_at_partials=True)
        order = self.plan.axes.output_order
        kept = " * ".join(self.axes[i].size for i in order) or "1"
        offset = self._offset(order)
        for accumulator in accumulators:
            address = f"{accumulator.name}_ptr + part * ({kept})" + (f" + {offset}" if offset else "")
            mask = self._mask(order)
            body.add(f"tl.store({address}, {accumulator.name}{f', mask={mask}' if mask else ''})")
        partials = [accumulator.name for accumulator in accumulators]
        blocks = [f"BLOCK_{self.axes[v].size}" for v in self.vectors]
        needed = [node for node, name in self.pointers.items() if _mentions(body, f"{name}_ptr")]
        tensors = [f"{self.pointers[node]}_ptr" for node in needed]
        name = f"{self.plan.name}_part_kernel"
        sizes = self._sizes()
        finish, finish_name, finish_blocks, finish_pointers = self._finish_kernel(accumulators)
        head = self.signature(name, [*tensors, *(f"{p}_ptr" for p in partials)], [*sizes, "PART"], blocks)
        doc = f"Partial results of {self._docstring()[:-1]}, for the slices [part * PART, (part + 1) * PART)."
        first = f'{head}\n    """{doc}"""\n{body}'
        wrapper = self._split_wrapper(
            name,
            blocks,
            [self.pointers[n] for n in needed],
            partials,
            finish_name,
            finish_blocks,
            finish_pointers,
        )
        scratch = tuple(f"{p}: partial results, float32 [PARTS, {kept}]" for p in partials)
        return self._finished(f"{first}\n\n\n{finish}", wrapper, scratch)

    def _finish_kernel(self, accumulators: Sequence[_Accumulator]) -> tuple[str, str, list[str], list[str]]:
        """Combine the parts in order, then everything that follows the last reduction."""
        body = Lines(1)
        order = self.plan.axes.output_order
        kept = " * ".join(self.axes[i].size for i in order) or "1"
        body.add("e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)")
        body.add(f"inside = e < {kept}")
        self.vectors = ()
        self._decompose_flat(body, order)
        for accumulator in accumulators:
            body.add(f"{accumulator.name} = tl.full([BLOCK], {_IDENTITY[accumulator.kind]}, tl.float32)")
        body.open("for part in range(0, PARTS):")
        for accumulator in accumulators:
            load = f"tl.load({accumulator.name}_ptr + part * ({kept}) + e, mask=inside, other=0.0)"
            body.add(f"{accumulator.name} = {_combine(accumulator.kind, accumulator.name, load)}")
        body.close()
        for accumulator in accumulators:
            self._finish(body, accumulator, 1)
        self.loads = {}
        for index, operand in enumerate(self.region.operands):
            if operand.level == 0:
                self._load_flat(body, index)
        self.emit_nodes(body, 0)
        body.add(f"tl.store(out_ptr + e, {self.values[self.region.root]}, mask=inside)")
        pointers = [name for name in self.pointers.values() if _mentions(body, f"{name}_ptr")]
        sizes = self._sizes()
        name = f"{self.plan.name}_finish_kernel"
        tensors = [*(f"{a.name}_ptr" for a in accumulators), *(f"{p}_ptr" for p in pointers), "out_ptr"]
        head = self.signature(name, tensors, [*sizes, "PARTS"], ["BLOCK"])
        return (
            f'{head}\n    """Combines the parts in order and finishes: deterministic."""\n{body}',
            name,
            ["BLOCK"],
            pointers,
        )

    def _decompose_flat(self, lines: Lines, order: Sequence[int]) -> None:
        """Indices of the output's axes from the flat index `e`."""
        for position, index in enumerate(order):
            inner = " * ".join(self.axes[i].size for i in order[position + 1 :])
            text = f"e // ({inner})" if inner else "e"
            lines.add(f"{self.axes[index].name} = {text}" + (f" % {self.axes[index].size}" if position else ""))

    def _load_flat(self, lines: Lines, index: int) -> None:
        operand = self.region.operands[index]
        pointer = self.pointers[operand.node]
        order = self.plan.axes.operand_orders[index]
        address = self._operand_address(index)
        cast = load_cast(operand.node.meta["val"].dtype)
        name = self.names.unique(f"{pointer}_value")
        mask = ", mask=inside, other=0.0" if order else ""
        lines.add(f"{name} = tl.load({address}{mask}){cast}")
        self.loads[index] = name
        self.values[operand.node] = name

    def _split_wrapper(
        self,
        first: str,
        blocks: Sequence[str],
        tensors: Sequence[str],
        partials: Sequence[str],
        finish: str,
        finish_blocks: Sequence[str],
        finish_tensors: Sequence[str],
    ) -> str:
        lines = Lines()
        self._wrapper_head(lines)
        axis = self._split_axis()
        self._allocate(lines)
        self.vectors = tuple(v for v in (self.plan.kept_vector, self.plan.second_vector) if v is not None)
        self._tile_lines(lines)
        step = self._split_step()
        lines.add(f"programs = {self._programs_text()}")
        lines.add(f"steps = triton.cdiv({axis.size}, {step})")
        lines.add(f"parts = min(steps, max(1, {self.plan.limits.target_programs} // programs))")
        lines.add(f"PART = triton.cdiv(steps, parts) * {step}")
        lines.add(f"PARTS = triton.cdiv({axis.size}, PART)")
        for partial in partials:
            lines.add(f"{partial} = note(torch.empty((PARTS, out.numel()), device=out.device, dtype=torch.float32))")
        sizes = self._sizes()
        self._launch(lines, first, [*tensors, *partials, *self.scalars, *sizes, "PART"], blocks, "programs * PARTS")
        arguments = [*partials, *finish_tensors, "out", *self.scalars, *sizes, "PARTS"]
        lines.open(f"{finish}[(triton.cdiv(out.numel(), 128),)](")
        lines.add(f"{', '.join(arguments)},")
        lines.add("BLOCK=128, num_warps=4,")
        lines.close()
        lines.add(")")
        lines.add("return out")
        return str(lines)


def _combine(kind: str, accumulator: str, value: str) -> str:
    if kind in ("sum", "mean"):
        return f"{accumulator} + {value}"
    return f"{kind}imum({accumulator}, {value})"


def _mentions(body: Lines, name: str) -> bool:
    return re.search(rf"\b{name}\b", str(body)) is not None
