"""Emission of row kernels: the body of a program, in each of the three forms.

Values are emitted on demand: what a round of reductions needs is computed in its walk over the row, what has one
value a row is computed between the walks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import source_of
from tilewright.kernels.code.text import Lines
from tilewright.kernels.ops.pointwise import pointwise_text
from tilewright.kernels.regions.row_stages import IDENTITY, Accumulator, RegisterRows, along, find_accumulators, join
from tilewright.kernels.regions.rows import ROW_REDUCTIONS, DimAxes, moves_nothing
from tilewright.kernels.regions.scans import Scan, scan_of
from tilewright.kernels.regions.values import KernelNames, short_name
from tilewright.kernels.rows.plan import RowPlan


class RowBody(KernelNames):
    """Writes the statements of row kernels.

    Attributes:
        plan: what to emit.
        values: node inside the region -> name of its value, as far as it is there.
        loads: (operand, its axes) -> name of what was loaded.
        last_read: what is loaded now is not read again.
    """

    def __init__(self, plan: RowPlan, graph: Graph) -> None:
        self.plan = plan
        self.region = plan.region
        self.axes = plan.axes.axes
        sizes = {axis.size for axis in self.axes} | set(plan.axes.part_names)
        steps = {f"{axis.name}{suffix}" for axis in self.axes for suffix in ("", "_in", "_start", "_index", "_block")}
        state = graph.state_names()
        nodes = sorted((operand.node for operand in plan.region.operands), key=lambda node: node.name in state)
        super().__init__(plan.region.root, nodes, graph, {*sizes, *steps, "parts"})
        self.values: dict[torch_fx.Node, str] = {}
        self.loads: dict[tuple[torch_fx.Node, DimAxes], str] = {}
        self.last_read = False
        self.accumulators = find_accumulators(plan.region)
        self.states = {
            accumulator.nodes[0]: [
                self.names.unique("_".join(filter(None, (short_name(accumulator.nodes[0]), state.suffix or "acc"))))
                for state in accumulator.states
            ]
            for accumulator in self.accumulators
        }
        self._free = self.names.copy()

    def restart(self) -> None:
        """Another kernel: no values yet, and their names are free again."""
        self.values, self.loads = {}, {}
        self.last_read = False
        self.names = self._free.copy()
        for name in self.scalars:
            self.names.unique(name)

    # -- axes and addresses --------------------------------------------------------------------------------

    def block(self, axis: int) -> str:
        """Name of the tile's size along an axis."""
        return f"BLOCK_{self.axes[axis].size}"

    def is_row(self, axis: int | None) -> bool:
        """The axis belongs to the row."""
        return axis is not None and self.axes[axis].level == 1

    def _view(self, axis: int) -> str:
        if self.plan.outer is None:
            return ""
        return "[:, None]" if axis == self.plan.outer else "[None, :]"

    def _vector(self, lines: Lines, axis: int, start: str, bound: str, *, stepped: bool = False) -> None:
        index = self.axes[axis]
        wide = ".to(tl.int64)" if self.is_row(axis) and axis != self.plan.inner else ""
        numbers = f"tl.arange(0, {self.block(axis)})"
        numbers = (
            f"({start} + {numbers})"
            if start and (self._view(axis) or wide)
            else f"{start} + {numbers}"
            if start
            else numbers
        )
        lines.add(f"{index.name} = {numbers}{self._view(axis)}{wide}")
        inside = f"{index.name} < {bound}"
        lines.add(f"{index.name}_in = " + (f"({inside}) | WHOLE" if stepped else inside))

    def offset(self, order: Sequence[int]) -> str:
        """Offset of an element in a tensor that walks these axes."""
        terms = []
        for position, axis in enumerate(order):
            stride = " * ".join(self.axes[inner].size for inner in order[position + 1 :])
            stride = f"({stride})" if " " in stride else stride
            terms.append(f"{self.axes[axis].name} * {stride}" if stride else self.axes[axis].name)
        return " + ".join(terms)

    def mask(self, order: Sequence[int]) -> str:
        """Which elements of the tile exist, as far as these axes are concerned."""
        return " & ".join(f"{self.axes[axis].name}_in" for axis in order if axis in self.plan.tile_axes)

    def row_mask(self) -> str:
        """Which elements of the tile belong to a row."""
        return self.mask([axis for axis in self.plan.tile_axes if self.is_row(axis)])

    def tile_shape(self) -> str:
        """Shape of a tile."""
        return f"[{', '.join(self.block(axis) for axis in self.plan.tile_axes)}]"

    def row_count(self) -> str:
        """Number of a row's elements."""
        sizes = [self.axes[axis].size for axis in self.plan.axes.of_level(1)]
        return sizes[0] if len(sizes) == 1 else f"(1.0 * {' * '.join(sizes)})"

    def reduce(self, kind: str, text: str) -> str:
        """A tile reduced along the row: one value, or one for each of the tile's rows."""
        tiled = [position for position, axis in enumerate(self.plan.tile_axes) if self.is_row(axis)]
        if len(tiled) == 2 or self.plan.outer is None:
            for position in reversed(tiled):
                text = along(kind, text, position, keep=False)
            return text
        return along(kind, text, tiled[0], keep=True)

    # -- programs ------------------------------------------------------------------------------------------

    def program_indices(self, lines: Lines, split: bool, *, backwards: bool = False) -> None:
        """Decompose the program id: blocks of a kept tile axis innermost, then single indices, then the part."""
        tiled = [axis for axis in self.plan.tile_axes if not self.is_row(axis)]
        single = [axis for axis in self.plan.kept_axes if axis not in tiled]
        factors = [
            (f"{self.axes[axis].name}_block", f"tl.cdiv({self.axes[axis].size}, {self.block(axis)})") for axis in tiled
        ]
        factors += [(self.axes[axis].name, self.axes[axis].size) for axis in reversed(single)]
        factors += [("part", "")] if split else []
        if factors and backwards:
            lines.add("# Backwards: what the kernel before read last is still in the cache.")
            lines.add("pid = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)")
        elif factors:
            lines.add("pid = tl.program_id(0).to(tl.int64)")
        for position, (name, size) in enumerate(factors):
            last = position == len(factors) - 1
            lines.add(f"{name} = pid" if last else f"{name} = pid % {size}")
            if not last:
                lines.add(f"pid = pid // {size}")
        for axis in tiled:
            self._vector(lines, axis, f"{self.axes[axis].name}_block * {self.block(axis)}", self.axes[axis].size)

    def row_indices(self, lines: Lines) -> None:
        """The whole row in one tile."""
        for axis in self.plan.tile_axes:
            if self.is_row(axis):
                self._vector(lines, axis, "", self.axes[axis].size)

    def open_row(self, lines: Lines, *, split: bool, backwards: str = "") -> int:
        """Loops along the row, or along this program's part of it; returns how many.

        `backwards` is the reason to take the steps from the last to the first.
        """
        for position, axis in enumerate(self.plan.row_axes):
            size, name = self.axes[axis].size, self.axes[axis].name
            low, high = ("lo", "hi") if split and position == 0 else ("0", size)
            if axis not in self.plan.tile_axes:
                lines.open(f"for {name}_index in range({low}, {high}):")
                lines.add(f"{name} = tl.full((), {name}_index, tl.int64)")
                continue
            block = self.block(axis)
            if backwards and position == 0 and not split:
                lines.add(f"# Backwards: {backwards}.")
                lines.open(f"for {name}_done in range({low}, {high}, {block}):")
                lines.add(f"{name}_start = (tl.cdiv({size}, {block}) - 1) * {block} - {name}_done")
            else:
                lines.open(f"for {name}_start in range({low}, {high}, {block}):")
            self._vector(lines, axis, f"{name}_start", high, stepped=True)
        return len(self.plan.row_axes)

    # -- values --------------------------------------------------------------------------------------------

    def missing(self, targets: Iterable[torch_fx.Node]) -> list[torch_fx.Node]:
        """Nodes inside that the targets need and that have no value yet, in execution order."""
        wanted: set[torch_fx.Node] = set()
        stack = list(targets)
        while stack:
            node = stack.pop()
            if node in wanted or node in self.values or node not in self.region.dims:
                continue
            wanted.add(node)
            stack += self.region.inputs_of(node)
        return [node for node in self.region.nodes if node in wanted]

    def evaluate(self, lines: Lines, nodes: Iterable[torch_fx.Node]) -> None:
        """Emit the nodes, which are in execution order, and load what they need."""
        for node in nodes:
            if node in self.values:
                continue
            if moves_nothing(node):
                self.values[node] = self.use(lines, node, source_of(node))
            elif node.target in ROW_REDUCTIONS:
                self._name(lines, node, self._reduction(lines, node))
            elif (scan := scan_of(node)) is not None:
                self._name(lines, node, self._scan(lines, node, scan))
            else:
                self._name(lines, node, pointwise_text(node, lambda item, user=node: self._text(lines, user, item)))  # type: ignore[misc]

    def _name(self, lines: Lines, node: torch_fx.Node, text: str) -> None:
        if text.isidentifier():
            self.values[node] = text
            return
        name = self.names.unique(short_name(node).strip("_"))
        lines.add(f"{name} = {text}")
        self.values[node] = name

    def _text(self, lines: Lines, user: torch_fx.Node, item: Any) -> str:
        return self.use(lines, user, item) if isinstance(item, torch_fx.Node) else self._scalar_text(item)

    def use(self, lines: Lines, user: torch_fx.Node, source: torch_fx.Node) -> str:
        """Name of a value as its user sees it; an operand is loaded first."""
        if source in self.values:
            return self.values[source]
        key = (source, self.region.uses[user, source])
        if key not in self.loads:
            self.loads[key] = self._load(lines, *key)
        return self.loads[key]

    def _load(self, lines: Lines, node: torch_fx.Node, dims: DimAxes) -> str:
        index = next(
            i for i, operand in enumerate(self.region.operands) if (operand.node, operand.dims) == (node, dims)
        )
        order = self.plan.axes.operand_orders[index]
        name, mask, offset = self.names.unique(f"{self.pointers[node]}_value"), self.mask(order), self.offset(order)
        address = f"{self.pointers[node]}_ptr" + (f" + {offset}" if offset else "")
        cast = "" if node.meta["val"].dtype is torch.bool else ".to(tl.float32)"
        masked = f", mask={mask}, other=0.0" if mask else ""
        hint = ', eviction_policy="evict_first"' if self._dies_here(node, order) else ""
        lines.add(f"{name} = tl.load({address}{masked}{hint}){cast}")
        return name

    def _dies_here(self, node: torch_fx.Node, order: Sequence[int]) -> bool:
        """Nothing reads these elements again: the cache is better used for what is stored, or not read yet."""
        mine = all(user in self.region.dims for user in node.users)
        return self.last_read and mine and len(order) == len(self.axes)

    def _rows(self) -> RegisterRows:
        return RegisterRows(self.row_mask(), self.row_count(), self.reduce, self._place())

    def _place(self) -> str:
        """Index of an element in its row; of a row that walks several axes there is none."""
        row = self.plan.axes.of_level(1)
        return self.axes[row[0]].name if len(row) == 1 else ""

    def _reduction(self, lines: Lines, node: torch_fx.Node) -> str:
        """A reduction of whole rows in registers."""
        return self._rows().text(lines, self.names, node, self.use(lines, node, source_of(node)), self.values)

    def carry(self, node: torch_fx.Node) -> str:
        """Name of what a scan brings from step to step."""
        return f"{_scan_name(node)}_before" + ("" if node is self.region.scans[0] else f"_{node.name}")

    def _scan(self, lines: Lines, node: torch_fx.Node, scan: Scan) -> str:
        kind, value = scan.kind, self.use(lines, node, scan.source)
        position = next(i for i, axis in enumerate(self.plan.tile_axes) if self.is_row(axis))
        if scan.reverse:  # it begins behind the row's end
            value = self._rows().masked(value, kind)
        scanned = f"tl.cum{kind}({value}, {position}{', reverse=True' if scan.reverse else ''})"
        if node not in self.carried:
            return scanned
        carry, name = self.carry(node), self.names.unique(_scan_name(node))
        lines.add(f"{name} = {join(kind, carry, scanned)}")
        lines.add(f"{carry} = {join(kind, carry, self.reduce(kind, self._rows().masked(value, kind)))}")
        return name

    carried: frozenset[torch_fx.Node] = frozenset()

    # -- walks ---------------------------------------------------------------------------------------------

    def walk(self, lines: Lines, targets: Sequence[torch_fx.Node], *, split: bool, backwards: bool = False) -> int:
        """Open the loops along the row, with the targets' values in them; `end_walk` closes them."""
        needed = self.missing(targets)
        self.evaluate(lines, [node for node in needed if not self.region.is_full(node)])
        for user in needed:
            for source in self.region.inputs_of(user):
                if source not in self.region.dims and not self.region.spans_row(self.region.uses[user, source]):
                    self.use(lines, user, source)
        scans = {node: scan for node in needed if (scan := scan_of(node)) is not None}
        for node, scan in scans.items():
            kind = scan.kind
            empty = f"tl.full({self.tile_shape()}, {IDENTITY[kind]}, tl.float32)"
            lines.add(f"{self.carry(node)} = {self.reduce(kind, empty)}")
        self._outside = dict(self.values), dict(self.loads)
        self.carried = frozenset(scans)
        reason = "what was read last is still in the cache" if backwards and not scans else ""
        if scans and self.region.scans_backwards:
            reason = "the scan begins at the end"
        opened = self.open_row(lines, split=split, backwards=reason)
        self.evaluate(lines, needed)
        return opened

    def end_walk(self, lines: Lines, opened: int) -> None:
        """Close the loops; values for each element end with them."""
        for _ in range(opened):
            lines.close()
        self.values, self.loads = self._outside
        self.carried = frozenset()

    def accumulate(self, lines: Lines, round_: int, *, split: bool) -> list[Accumulator]:
        """One walk that reduces everything of a round, down to one state a row."""
        accumulators = [accumulator for accumulator in self.accumulators if accumulator.round == round_]
        shape = self.tile_shape()
        for accumulator in accumulators:
            for name, state in zip(self.states[accumulator.nodes[0]], accumulator.states, strict=True):
                empty = f"tl.full({shape}, {state.start}, {state.type})"
                lines.add(f"{name} = " + (f"{state.start} if WHOLE else {empty}" if state.counts else empty))
        opened = self.walk(lines, [accumulator.source for accumulator in accumulators], split=split)
        for accumulator in accumulators:
            value = self.use(lines, accumulator.nodes[0], accumulator.source)
            accumulator.update(lines, self.states[accumulator.nodes[0]], value, self.row_mask(), self._place())
        self.end_walk(lines, opened)
        for accumulator in accumulators:
            names = self.states[accumulator.nodes[0]]
            for name, state in zip(names, accumulator.states, strict=True):
                if state.counts:
                    lines.add(f"{name} += tl.full({shape}, 0.0, tl.float32)")
            accumulator.combine(lines, names, self.reduce)
        return accumulators

    def finish(self, lines: Lines, accumulator: Accumulator) -> None:
        """Values of an accumulator's reductions from its states."""
        names = self.states[accumulator.nodes[0]]
        for node, text in accumulator.results(lines, names, self.row_count()).items():
            self._name(lines, node, text)

    def store(self, lines: Lines) -> None:
        """Store the root's tile."""
        order = self.plan.axes.output_order
        mask, offset = self.mask(order), self.offset(order)
        address = "out_ptr" + (f" + {offset}" if offset else "")
        value = self.values.get(self.region.root)
        assert value is not None
        lines.add(f"tl.store({address}, {value}{f', mask={mask}' if mask else ''})")


def _scan_name(node: torch_fx.Node) -> str:
    scan = scan_of(node)
    return f"cum{scan.kind}" if scan is not None else short_name(node)
