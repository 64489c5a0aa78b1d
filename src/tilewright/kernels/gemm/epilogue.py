"""The epilogue of a GEMM anchor as functions on a tile: what follows the product, in registers.

A tile function takes the product's values [rows, columns] and their indices, and returns what is stored: outputs,
and where rows span several tiles, what each row reduction knows of the tile. The finish combines that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.graph.nodes import argument, source_of, target_of
from tilewright.kernels.code.text import Lines
from tilewright.kernels.gemm.plan import GemmPlan
from tilewright.kernels.ops.pointwise import bind_arguments, is_pointwise, pointwise_text
from tilewright.kernels.regions.region import REDUCTIONS, is_relabelling
from tilewright.kernels.regions.tiles import ROW_OPERATIONS, TileOperand, operand_map, sources_of
from tilewright.kernels.regions.values import KernelNames, short_name, value_name

aten = torch.ops.aten

_IDENTITY = {"sum": "0.0", "mean": "0.0", "min": 'float("inf")', "max": 'float("-inf")'}
_TAKEN = """
value m n k batch left right accumulator tile unfit half known packed x w rows columns left_ptr right_ptr out outputs
step inside M N K D sizes strides partial split part
""".split()  # noqa: SIM905


class Epilogue(KernelNames):
    """Emits the functions of one plan's epilogue; names of tensors and scalars are shared by all its kernels."""

    def __init__(self, plan: GemmPlan, graph: Graph) -> None:
        self.plan = plan
        self.tiles = plan.tiles
        own = (plan.product.left, plan.product.right)
        operands = [operand.node for operand in plan.tiles.operands]
        super().__init__(plan.outputs[0], operands, graph, _TAKEN)
        self.left, self.right = (self._own_name(node) for node in own)
        self.values: dict[torch_fx.Node, str] = {}
        self.loaded: dict[tuple[torch_fx.Node, tuple[int | None, ...]], str] = {}
        self.sizes: dict[str, None] = {}
        anchor = plan.tiles.maps[plan.anchor]
        self.batch_axes = [dim for dim in range(plan.product.batch) if anchor[dim] is not None]
        self.row_axes = [dim for dim in range(plan.product.batch, plan.tiles.columns) if anchor[dim] is not None]
        self.lines = Lines(1)
        self.decomposed: set[str] = set()

    def _own_name(self, node: torch_fx.Node) -> str:
        path = self.graph.state_names().get(node.name)
        return self.names.unique(path.replace(".", "_") if path else node.name)

    # -- addresses -----------------------------------------------------------------------------------------

    def offset(self, map_: Sequence[int | None], *, of_block: bool = False) -> str:
        """Offset of an element of a contiguous tensor whose dims follow these axes.

        With `of_block`, it has a dim for rows even where the product has a single row.
        """
        groups = self._groups([axis for axis in map_ if axis is not None])
        if of_block and not self.row_axes:
            groups.insert(len(groups) - (self.tiles.columns in map_), ("m", "M"))
        terms = []
        for position, (index, _) in enumerate(groups):
            stride = " * ".join(size for _, size in groups[position + 1 :])
            index = "n.to(tl.int64)" if index == "n" and stride else index
            terms.append(f"{index} * ({stride})" if " " in stride else f"{index} * {stride}" if stride else index)
        return " + ".join(terms)

    def _groups(self, order: list[int]) -> list[tuple[str, str]]:
        """(index, size) of each axis, adjacent ones merged where a flat index is at hand."""
        merged: list[tuple[str, str]] = []
        position = 0
        while position < len(order):
            for axes, index, size in ((self.batch_axes, "batch", "BATCH"), (self.row_axes, "m", "M")):
                if axes and order[position : position + len(axes)] == axes:
                    merged.append((index, size))
                    self._size(size)
                    position += len(axes)
                    break
            else:
                merged.append(self._single(order[position]))
                position += 1
        return merged

    def _single(self, axis: int) -> tuple[str, str]:
        if axis == self.tiles.columns:
            self._size("N")
            return "n", "N"
        axes, flat = (self.batch_axes, "batch") if axis in self.batch_axes else (self.row_axes, "m")
        name, size = f"{flat}{axis}", f"D{axis}"
        self._size(size)
        if name not in self.decomposed:
            self.decomposed.add(name)
            inner = axes[axes.index(axis) + 1 :]
            for other in inner:
                self._size(f"D{other}")
            divisor = " * ".join(f"D{other}" for other in inner)
            text = f"{flat} // ({divisor})" if inner else flat
            self.lines.add(f"{name} = {text}" + (f" % {size}" if axes.index(axis) else ""))
        return name, size

    def _size(self, size: str) -> None:
        self.sizes[size] = None

    def mask(self, map_: Sequence[int | None], *, of_block: bool = False) -> str:
        """What must hold for an element to exist; `of_block` as for `offset`."""
        parts = []
        if of_block or any(axis in self.row_axes for axis in map_):
            parts.append("(m < M)")
            self._size("M")
        if self.tiles.columns in map_:
            parts.append("(n < N)")
            self._size("N")
        return " & ".join(parts) if len(parts) > 1 else parts[0][1:-1] if parts else ""

    def _load(self, node: torch_fx.Node, map_: tuple[int | None, ...]) -> str:
        key = (node, map_)
        if key not in self.loaded and node in self.tiles.computed:
            self.loaded[key] = self._computed(TileOperand(node, map_))
        if key not in self.loaded:
            pointer = self.pointers[node]
            mask, offset = self.mask(map_), self.offset(map_)
            address = f"{pointer}_ptr + {offset}" if offset else f"{pointer}_ptr"
            cast = "" if node.meta["val"].dtype is torch.bool else ".to(tl.float32)"
            name = self.names.unique(f"{pointer}_value")
            self.lines.add(f"{name} = tl.load({address}{f', mask={mask}, other=0.0' if mask else ''}){cast}")
            self.loaded[key] = name
        return self.loaded[key]

    def _computed(self, operand: TileOperand) -> str:
        """The name of arithmetic on parameters, at its own shape."""
        sources = sources_of(operand)
        assert sources is not None
        values = {source.node: self._load(source.node, source.map) for source in sources}
        if is_relabelling(operand.node):
            return values[source_of(operand.node)]

        def text_of(item: Any) -> str:
            return values[item] if isinstance(item, torch_fx.Node) else self._scalar_text(item)

        return self._named(value_name(operand.node), pointwise_text(operand.node, text_of))

    # -- values --------------------------------------------------------------------------------------------

    def compute(self, nodes: Sequence[torch_fx.Node]) -> None:
        """Emit the nodes in order; values that are known already stay."""
        for node in nodes:
            if node in self.values:
                continue
            if is_relabelling(node):
                self.values[node] = self.values[source_of(node)]
                continue
            text = self._text(node)
            name = self.names.unique(short_name(node))
            self.lines.add(f"{name} = {text}")
            self.values[node] = name

    def _text(self, node: torch_fx.Node) -> str:
        if is_pointwise(node):
            return pointwise_text(node, self._text_for(node))
        if target_of(node) in ROW_OPERATIONS:
            return _ROW_TEXTS[target_of(node)](self, node)
        value = self.values[source_of(node)]
        if target_of(node) is aten.logsumexp.default:
            top = self._row_top(value)
            shift = self._named("shift", f'tl.where(tl.abs({top}) == float("inf"), 0.0, {top})')
            return f"tl.log({self._row_sum(f'tl.exp({value} - {shift})')}) + {shift}"
        return self.reduced(REDUCTIONS[node.target], value)

    def _text_for(self, node: torch_fx.Node) -> Callable[[Any], str]:
        def text_of(item: Any) -> str:
            return self.operand(node, item) if isinstance(item, torch_fx.Node) else self._scalar_text(item)

        return text_of

    def operand(self, node: torch_fx.Node, source: torch_fx.Node) -> str:
        """The value of an input of a node, loaded where it is not computed here."""
        if source in self.values:
            return self.values[source]
        return self._load(source, operand_map(node, source, self.tiles.maps[node], self.tiles.columns))

    def _named(self, wish: str, text: str) -> str:
        name = self.names.unique(wish)
        self.lines.add(f"{name} = {text}")
        return name

    def reduced(self, kind: str, value: str) -> str:
        """A reduction over the tile's columns, [rows, 1]; columns that are none are left out."""
        self._size("N")
        masked = f"tl.where(n < N, {value}, {_IDENTITY[kind]})"
        if kind in ("sum", "mean"):
            total = f"tl.sum({masked}, 1, keep_dims=True)"
            return f"{total} / N" if kind == "mean" and self.plan.whole_rows else total
        return f"{kind}_along({masked}, 1, True)"

    def _row_top(self, value: str) -> str:
        return self._named("top", self.reduced("max", value))

    def _row_sum(self, value: str) -> str:
        return self.reduced("sum", value)

    # -- operations along rows -----------------------------------------------------------------------------

    def _softmax(self, node: torch_fx.Node) -> str:
        value = self.values[source_of(node)]
        top = self._row_top(value)
        if target_of(node) is aten.log_softmax.int:
            return f"{value} - {top} - tl.log({self._row_sum(f'tl.exp({value} - {top})')})"
        raised = self._named("raised", f"tl.exp({value} - {top})")
        return f"{raised} / {self._row_sum(raised)}"

    def _layer_norm(self, node: torch_fx.Node) -> str:
        given = bind_arguments(node)
        value = self.values[source_of(node)]
        self._size("N")
        centred = value
        if target_of(node) is aten.layer_norm.default:
            mean = self._named("mean", f"{self._row_sum(value)} / N")
            centred = self._named("centred", f"{value} - {mean}")
        variance = self._named("variance", f"{self._row_sum(f'{centred} * {centred}')} / N")
        eps = given.get("eps")
        eps = torch.finfo(node.meta["val"].dtype).eps if eps is None else eps
        return self._scaled(node, f"{centred} * (1.0 / tl.sqrt_rn({variance} + {self._scalar_text(eps)}))")

    def _scaled(self, node: torch_fx.Node, text: str) -> str:
        given = bind_arguments(node)
        for name, sign in (("weight", "*"), ("bias", "+")):
            if isinstance(given.get(name), torch_fx.Node):
                text = f"{text} {sign} {self.operand(node, given[name])}"
        return text

    def _group_norm(self, node: torch_fx.Node) -> str:
        value = self.values[source_of(node)]
        given = bind_arguments(node)
        size = int(node.meta["val"].shape[1]) // int(argument(node, 1))
        shape = f"[{value}.shape[0], {value}.shape[1] // {size}, {size}]"
        grouped = self._named("grouped", f"tl.reshape({value}, {shape})")
        centred = self._named("centred", f"{grouped} - tl.sum({grouped}, 2, keep_dims=True) / {size}")
        variance = self._named("variance", f"tl.sum({centred} * {centred}, 2, keep_dims=True) / {size}")
        text = f"{centred} * (1.0 / tl.sqrt_rn({variance} + {self._scalar_text(given['eps'])}))"
        return self._scaled(node, f"tl.reshape({text}, [{value}.shape[0], {value}.shape[1]])")


_ROW_TEXTS: dict[Any, Callable[[Epilogue, torch_fx.Node], str]] = {
    aten.softmax.int: Epilogue._softmax,
    aten.log_softmax.int: Epilogue._softmax,
    aten.layer_norm.default: Epilogue._layer_norm,
    aten.rms_norm.default: Epilogue._layer_norm,
    aten.group_norm.default: Epilogue._group_norm,
}
