"""What a GEMM anchor stores: outputs, and where rows span tiles, partial results that a second kernel finishes."""

from __future__ import annotations

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import size_hint
from tilewright.graph.nodes import source_of, target_of
from tilewright.kernels.code.text import Lines
from tilewright.kernels.gemm.epilogue import Epilogue
from tilewright.kernels.gemm.plan import GemmPlan
from tilewright.kernels.regions.region import REDUCTIONS

aten = torch.ops.aten

_IDENTITY = {"sum": "0.0", "mean": "0.0", "min": 'float("inf")', "max": 'float("-inf")', "top": 'float("-inf")'}


class Results:
    """Emits the tile function of a plan, its stores, and the finish of its row reductions."""

    def __init__(self, plan: GemmPlan, epilogue: Epilogue) -> None:
        self.plan = plan
        self.tiles = plan.tiles
        self.epilogue = epilogue
        several = len(plan.outputs) > 1
        self.names = {node: f"out{i}" if several else "out" for i, node in enumerate(plan.outputs)}
        self.in_tile = [node for node in plan.outputs if not plan.partial_rows or not self.tiles.of_rows(node)]
        self.in_finish = [node for node in plan.outputs if node not in self.in_tile]
        #: (reduction, what is kept of it) for each value that a tile leaves of a row.
        self.partials = [
            (node, kind) for node in self.tiles.reductions if plan.partial_rows for kind in _kept_kinds(node)
        ]

    @property
    def by_descriptor(self) -> dict[torch_fx.Node, str]:
        """Outputs that lie as the tiles do, and are stored through descriptors: node -> name."""
        if not self.plan.schedule.descriptors:
            return {}
        plain = tuple(axis for axis in self.tiles.maps[self.plan.anchor] if axis is not None)
        columns = size_hint(self.plan.anchor.meta["val"].shape[-1])
        return {
            node: name
            for node, name in self.names.items()
            if node in self.in_tile
            and tuple(axis for axis in self.tiles.maps[node] if axis is not None) == plain
            and columns * node.meta["val"].dtype.itemsize % 16 == 0
        }

    def pointers(self) -> list[str]:
        """Pointers that the kernels with tiles store through."""
        return [*(f"{self.names[node]}_ptr" for node in self.in_tile), *(["partial_ptr"] if self.partials else [])]

    # -- the tile function ---------------------------------------------------------------------------------

    def tile_function(self) -> str:
        """Source of the function from a tile of the product to what is stored; empty where nothing follows."""
        e = self.epilogue
        e.lines, e.values, e.loaded, e.decomposed = Lines(1), {self.plan.anchor: "value"}, {}, set()
        nodes = [node for node in self.tiles.nodes if not (self.plan.partial_rows and self.tiles.of_rows(node))]
        e.compute(nodes)
        returned = [e.values[node] for node in self.in_tile]
        for node, kind in self.partials:
            returned.append(self._partial(node, kind, returned))
        self.returns = len(returned)
        if returned == ["value"]:
            self.call = "value"
            return ""
        e.lines.add(f"return {', '.join(returned)}")
        batch = ["batch"] if self.plan.product.batch else []
        own = ["value", *batch, "m", "n"]
        pointers = [f"{name}_ptr" for name in e.pointers.values()]
        sizes = list(e.sizes)
        name = f"{self.plan.name}_tile"
        head = e.signature(name, [*own, *pointers], sizes, [], launched=False)
        self.arguments = [*batch, "m", "n", *pointers, *e.scalars, *sizes]
        self.call = f"{name}({{value}}, {', '.join(self.arguments)})"
        doc = '"""What follows the product, on a tile of it; m and n are its rows and columns."""'
        return f"{head}\n    {doc}\n{e.lines}"

    def _partial(self, node: torch_fx.Node, kind: str, known: list[str]) -> str:
        e = self.epilogue
        value = e.values[source_of(node)]
        if kind == "top":
            return e._named("top", e.reduced("max", value))
        if kind == "raised":
            top = known[-1]
            shift = e._named("shift", f'tl.where(tl.abs({top}) == float("inf"), 0.0, {top})')
            return e._named("raised", e.reduced("sum", f"tl.exp({value} - {shift})"))
        return e._named(f"partial_{kind}", e.reduced(kind, value))

    # -- stores --------------------------------------------------------------------------------------------

    def store(self, lines: Lines, value: str, block: str, first: str, *, descriptors: bool = True) -> None:
        """Call the tile function and store what it returns.

        Args:
            lines: of a kernel, where `m_block`, `m` and `n` are known.
            value: the tile of the product.
            block: number of the tile among those of its rows.
            first: its first column.
        """
        e = self.epilogue
        e.lines, e.decomposed = lines, set()
        if self.call == "value":
            results = [value]
        else:
            results = [f"result{i}" for i in range(self.returns)] if self.returns > 1 else ["result"]
            lines.add(f"{', '.join(results)} = {self.call.format(value=value)}")
        by_descriptor = self.by_descriptor if descriptors else {}
        for node, result in zip(self.in_tile, results, strict=False):
            name = self.names[node]
            if node in by_descriptor:
                lines.add(f"{name}.store([m_block * BLOCK_M, {first}], {result}.to({name}_ptr.dtype.element_ty))")
                continue
            map_ = self.tiles.maps[node]
            mask = e.mask(map_, of_block=True)
            lines.add(f"tl.store({name}_ptr + {e.offset(map_, of_block=True)}, {result}, mask={mask})")
        self._store_partials(lines, results[len(self.in_tile) :], block)

    def _store_partials(self, lines: Lines, results: list[str], block: str) -> None:
        if not results:
            return
        row = "batch * M + m" if self.plan.product.batch else "m"
        for number, result in enumerate(results):
            place = f"({number} * COLUMN_BLOCKS + {block})" if number else f"({block})"
            lines.add(f"partial = partial_ptr + {place}.to(tl.int64) * ROWS + {row}")
            lines.add(f"tl.store(partial, {result}, mask=m < M)")
        self.epilogue.sizes.update({"ROWS": None, "COLUMN_BLOCKS": None, "M": None})

    # -- the finish ----------------------------------------------------------------------------------------

    def row_finish_kernel(self) -> str:
        """Combines what the tiles know of each row, in order, and computes what follows."""
        e = self.epilogue
        lines = Lines(1)
        batched = bool(self.plan.product.batch)
        lines.add("row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]")
        lines.add("inside = row < ROWS")
        lines.add("m = tl.minimum(row, ROWS - 1)")
        if batched:
            lines.add("batch = m // M")
            lines.add("m = m % M")
        names = self._combined(lines)
        e.lines, e.loaded, e.decomposed = lines, {}, set()
        e.values = dict.fromkeys((n for n in self.tiles.nodes if not self.tiles.of_rows(n)), "")
        position = 0
        for node in self.tiles.reductions:
            kinds = _kept_kinds(node)
            e.values[node] = e._named("reduced", _finished(kinds, names[position : position + len(kinds)]))
            position += len(kinds)
        e.compute([node for node in self.tiles.nodes if self.tiles.of_rows(node)])
        for node in self.in_finish:
            offset = e.offset(self.tiles.maps[node], of_block=True)
            lines.add(f"tl.store({self.names[node]}_ptr + {offset}, {e.values[node]}, mask=inside)")
        pointers = [f"{name}_ptr" for name in e.pointers.values()]
        outs = [f"{self.names[node]}_ptr" for node in self.in_finish]
        e.sizes.update({"M": None, "N": None, "ROWS": None, "COLUMN_BLOCKS": None})
        head = e.signature(f"{self.plan.name}_rows_kernel", ["partial_ptr", *pointers, *outs], list(e.sizes), ["BLOCK"])
        return f'{head}\n    """Combines what the tiles know of each row, in order: deterministic."""\n{lines}'

    def _combined(self, lines: Lines) -> list[str]:
        names = [f"total{i}" for i in range(len(self.partials))]
        for name, (_, kind) in zip(names, self.partials, strict=True):
            lines.add(f"{name} = tl.full([BLOCK, 1], {_IDENTITY.get(kind, '0.0')}, tl.float32)")
        lines.open("for block in range(0, COLUMN_BLOCKS):")
        for number, (name, (_, kind)) in enumerate(zip(names, self.partials, strict=True)):
            offset = f"({number} * COLUMN_BLOCKS + block).to(tl.int64) * ROWS + row"
            lines.add(f"part{number} = tl.load(partial_ptr + {offset}, mask=inside, other=0.0)")
            if kind == "raised":
                self._add_raised(lines, number)
            elif kind != "top":
                lines.add(f"{name} = {_combine(kind, name, f'part{number}')}")
        lines.close()
        return names

    def _add_raised(self, lines: Lines, number: int) -> None:
        """(top, sum of exp(x - top)) of two parts as one; an infinite top counts as 0 in the exponent."""
        top, total, new, value = f"total{number - 1}", f"total{number}", f"part{number - 1}", f"part{number}"
        lines.add(f"top = maximum({top}, {new})")
        lines.add('shift = tl.where(tl.abs(top) == float("inf"), 0.0, top)')
        lines.add(f'old_shift = tl.where(tl.abs({top}) == float("inf"), shift, {top})')
        lines.add(f'new_shift = tl.where(tl.abs({new}) == float("inf"), shift, {new})')
        lines.add(f"{total} = {total} * tl.exp(old_shift - shift) + {value} * tl.exp(new_shift - shift)")
        lines.add(f"{top} = top")


def _kept_kinds(node: torch_fx.Node) -> tuple[str, ...]:
    if target_of(node) is aten.logsumexp.default:
        return ("top", "raised")
    return (REDUCTIONS[node.target],)


def _combine(kind: str, total: str, value: str) -> str:
    if kind in ("sum", "mean"):
        return f"{total} + {value}"
    return f"{kind}imum({total}, {value})"


def _finished(kinds: tuple[str, ...], names: list[str]) -> str:
    if kinds == ("top", "raised"):
        return f'tl.log({names[1]}) + tl.where(tl.abs({names[0]}) == float("inf"), 0.0, {names[0]})'
    return f"{names[0]} / N" if kinds == ("mean",) else names[0]
