"""Emission of a convolution anchor: an implicit GEMM over pixels, its epilogue in registers.

A prepass writes the input channels last, rows parted by a zero border that neighbours share, so that the main
kernel's loads need no masks; float32 becomes float16, and a TF32 twin does the images that float16 cannot hold. A tile
holds positions q of one row phase by output channels; the phases of the innermost dim are computed side by side and
interleaved in registers, so that stores are contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.fx as torch_fx

from tilewright.graph.convolutions import read_convolution
from tilewright.graph.graph import Graph
from tilewright.graph.nodes import source_of
from tilewright.kernels.code.text import LETTERS, Lines, shape_text
from tilewright.kernels.conv.pack import CHANNEL_BLOCK, FEW_CHANNELS_BLOCK, MARKS_OF_CALL, prepass_name, prepass_source
from tilewright.kernels.conv.plan import ConvPlan
from tilewright.kernels.conv.positions import ConvPositions
from tilewright.kernels.conv.product import ConvProduct
from tilewright.kernels.conv.weights import WEIGHTS_UNFIT, pack_source
from tilewright.kernels.operands import Operands
from tilewright.kernels.ops.pointwise import helpers_in
from tilewright.kernels.plan import EmittedKernel
from tilewright.kernels.regions.layout import MemoryFormat, memory_order
from tilewright.kernels.regions.region import REDUCTIONS, AxisMap, Operand, is_relabelling
from tilewright.kernels.regions.row_stages import RegisterRows, along
from tilewright.kernels.regions.values import ValueEmitter, short_name

IDENTITY = {"sum": "0.0", "mean": "0.0", "min": 'float("inf")', "max": 'float("-inf")'}


def emit_conv(plan: ConvPlan, graph: Graph) -> EmittedKernel:
    """Source of the main kernel, its wrapper and the packing of its weights; the prepass is shared (`shared`)."""
    return ConvEmitter(plan, graph).emit()


class ConvEmitter(ValueEmitter):
    """Emits a convolution anchor behind a prepass, or (`wide`) its TF32 twin from what was given."""

    def __init__(self, plan: ConvPlan, graph: Graph, wide: bool = False) -> None:
        self.plan = plan
        self.wide = wide
        self.half = plan.operands is Operands.HALF
        self.shape = plan.shape
        self.letters = LETTERS[plan.shape.rank]
        self.product = ConvProduct(plan, self.letters, wide)
        self._columns = plan.shape.columns.output_step
        self.positions = ConvPositions(plan, wide)
        taken = {"q", "p", "at", "c", "n", "k", "k0", "x", "w", "packed", "accumulator", "inside", "value", "phase"}
        taken |= {"half", "least", "marks", "call", "channel_marks", "channel_marks_ptr", self._repacked}
        taken |= {"x_ptr", "w_ptr", "given_ptr", "weight_ptr", "unfit_ptr", "weight", "unfit", "row", "shift", "step"}
        taken |= {f"{letter.lower()}{suffix}" for letter in ("N", *self.letters) for suffix in ("", "_q", "_p", "_row")}
        taken |= {"q_p", "q_in", "p_in", "w_start", "image", "pixel"}
        super().__init__(plan.region, graph, taken, skip=(plan.anchor,))
        operand = next(operand for operand in plan.region.operands if operand.node is plan.anchor)
        self.anchor_map = operand.map
        self.kept_loads: dict[int, str] = {}

    def _channels(self, lines: Lines, block: str) -> None:
        if self.shape.groups > 1:
            lines.add(f"c_group = {block} // GROUP_BLOCKS")
            if not self.wide:
                self._group_source(lines)
            lines.add(f"first = ({block} % GROUP_BLOCKS) * BLOCK_C")
            lines.add(f"group = c_group * C * {self.product.weight_rows}")
            lines.add("c_given = c_group * C_GIVEN")
            lines.add("c_out = c_group * CO")
        else:
            if not self.wide:
                self._group_source(lines)
            lines.add(f"first = {block} * BLOCK_C" if block != "0" else "first = 0")
            lines.add("group = 0")
            lines.add("c_given = 0")
            lines.add("c_out = 0")
        lines.add("c_first = c_out + first")
        factor = f"{self._columns} * " if self.plan.packs_columns else ""
        lines.add(f"column = {factor}first + tl.arange(0, {self.product.width})")

    def _group_source(self, lines: Lines) -> None:
        """Where the channels of the group start."""
        lines.add("source = image + c_group * C" if self.shape.groups > 1 else "source = image")

    # -- the epilogue --------------------------------------------------------------------------------------

    def _joined(self, lines: Lines) -> None:
        """A tile's value as [channels, positions], and the positions."""
        self._interleaved(lines)
        if self.positions.in_order:
            self._piece_of_plane(lines)
        elif self._columns == 1:
            self.positions.outer_outputs(lines)
            self.positions.column(lines, 0)
        else:
            self.positions.joined(lines)

    def _interleaved(self, lines: Lines) -> None:
        """The accumulators as [channels, positions], the column phases interleaved."""
        step, places = self._columns, self.positions.places
        if self.plan.packs_columns:
            lines.add(f"value = tl.reshape(accumulator, [BLOCK_P, BLOCK_C, {step}])")
            lines.add(f"value = tl.reshape(tl.permute(value, (1, 0, 2)), [BLOCK_C, BLOCK_P * {step}])")
        elif step == 1:
            lines.add("value = tl.trans(accumulator)")
        else:
            turned = [f"tl.trans({name})" for name in self.product.accumulators]
            turned += ["tl.zeros([BLOCK_C, BLOCK_P], tl.float32)"] * (places - step)
            while len(turned) > 1:
                half = len(turned) // 2
                turned = [f"tl.interleave({turned[i]}, {turned[i + half]})" for i in range(half)]
            lines.add(f"value = {turned[0]}")

    def _piece_of_plane(self, lines: Lines) -> None:
        """Where the tile lies in a plane, and the indices that an operand along other dims needs beside."""
        self.positions.piece_of_plane(lines)
        maps = [operand.map for operand in self.region.operands]
        if not all(self._is_plane(map_) for map_ in (*maps, self.region.maps[self.region.root])):
            for letter in self.letters:
                lines.add(f"{letter.lower()} = {letter.lower()}_q")

    def _is_plane(self, map_: AxisMap) -> bool:
        """A tensor's last dims are the output's planes, or it has none of their dims."""
        axes = [axis for axis in map_ if axis is not None]
        walked = [axis for axis in axes if self.anchor_map.index(axis) > 1]
        return not walked or walked == list(self.anchor_map[2:]) == axes[-self.shape.rank :]

    def _inside(self, lines: Lines) -> None:
        if not self.positions.in_order:
            self.positions.inside(lines)

    def _index_of(self, axis: int) -> str:
        position = self.anchor_map.index(axis)
        if position == 0:
            return f"{self.positions.image}[None, :]" if self.plan.spans_images else "n"
        return "c" if position == 1 else f"{self.letters[position - 2].lower()}[None, :]"

    def _size_of(self, axis: int) -> str:
        position = self.anchor_map.index(axis)
        return ("N", "CO_ALL", *(f"{letter}O" for letter in self.letters))[position]

    def _offset(self, order: Sequence[int]) -> str:
        terms: list[str] = []
        plane = list(self.anchor_map[2:])
        whole = self.positions.in_order and list(order[-len(plane) :]) == plane
        for position, axis in enumerate(order):
            if whole and position == len(order) - len(plane):
                return self._along_plane(" + ".join([*terms, "at[None, :]"]))
            stride = " * ".join(self._size_of(inner) for inner in order[position + 1 :])
            index = self._index_of(axis)
            terms.append(f"{index} * ({stride})" if stride else index)
        return " + ".join(terms)

    def _along_plane(self, offset: str) -> str:
        """The offset, said to be contiguous along the plane.

        Between two images it is not; vectors do not reach over that, since the size of the plane bounds their
        alignment. Unsaid, Triton 3.6 stored across the channels: 95 us instead of 34 for planes of 7 x 7 (H100).
        """
        return f"tl.max_contiguous({offset}, [1, BLOCK_P])" if self.plan.spans_images else offset

    def _load_operands(self, lines: Lines) -> None:
        for index, operand in enumerate(self.region.operands):
            if operand.node is not self.plan.anchor and index not in self.loads:
                self.loads[index] = self._load_operand(lines, operand)

    def _load_operand(self, lines: Lines, operand: Operand) -> str:
        order = memory_order(operand.map, MemoryFormat.CONTIGUOUS)
        masks = {"c_in" for axis in order if self.anchor_map.index(axis) == 1}
        masks |= {"inside" for axis in order if self.anchor_map.index(axis) > 1}
        mask = f", mask={' & '.join(sorted(masks))}, other=0.0" if masks else ""
        pointer = self.pointers[operand.node]
        offset = self._offset(order)
        name = self.names.unique(f"{pointer}_value")
        address = f"{pointer}_ptr + {offset}" if offset else f"{pointer}_ptr"
        lines.add(f"{name} = tl.load({address}{mask}).to(tl.float32)")
        return name

    def _anchor_index(self) -> int:
        return next(i for i, operand in enumerate(self.region.operands) if operand.node is self.plan.anchor)

    def _epilogue(self, lines: Lines, level: int) -> None:
        """All nodes of the tile's level on `value`."""
        self.values, self.loads = {}, dict(self.kept_loads)
        self._load_operands(lines)
        self.loads[self._anchor_index()] = "value"
        self.values[self.plan.anchor] = "value"
        self.emit_nodes(lines, level)

    def _reduction(self, lines: Lines, node: torch_fx.Node) -> str | None:
        """A reduction over the channels, which all lie in the tile."""
        if not self.plan.whole_channels:
            return None
        rows = RegisterRows("c_in", "CO_ALL", lambda kind, text: along(kind, text, 0, keep=True))
        return rows.text(lines, self.names, node, self._text_of(node.args[0]), self.values)

    # -- the whole -----------------------------------------------------------------------------------------

    def kernel(self) -> tuple[str, str]:
        """Name and source of this emitter's kernel."""
        body = Lines(1)
        if self.wide:
            body.add("least = tl.where(weights_unfit(channel_marks_ptr, CALL, CO_ALL, CHANNELS) > 0, 0, CALL)")
            body.add("any_unfit = (tl.load(unfit_ptr) >= least).to(tl.int32)")
            body.open("for tile in range(tl.program_id(0), TILES * any_unfit, tl.num_programs(0)):")
        body.add("pid = tile" if self.wide else "pid = tl.program_id(0)")
        self._part(body)
        self.positions.programs(body)
        if self.wide:
            body.open(f"if {self.positions.any_unfit}:")
        else:
            self.positions.pixel(body)
            body.add("k = tl.arange(0, BLOCK_K)")
        if self.plan.reduces_channels:
            self._reduced(body)
        else:
            self._stored(body)
        own = ["given", "weight", "channel_marks", "unfit"] if self.wide else ["x", "w"]
        tensors = [f"{name}_ptr" for name in (*own, *self._arguments())]
        parts = ["PARTS"] if self.plan.reduces_space else []
        blocks = [*self._kernel_sizes(), *parts, "BY_ROWS", "BLOCK_P", "BLOCK_C"]
        name = f"{self.plan.name}_{'wide_' if self.wide else ''}kernel"
        head = self.signature(name, tensors, self._counts(), [*blocks, *self._own_blocks()])
        return name, f"{head}\n    {self._docstring()}\n{body}"

    def _arguments(self) -> list[str]:
        """Tensors that main kernel and twin both take, after what they multiply."""
        return [*self.pointers.values(), "out"]

    def _counts(self) -> list[str]:
        """Numbers that a kernel takes beside the sizes: of images; the twin's tiles, and the call whose marks count."""
        return ["N", "TILES", "CALL"] if self.wide else ["N"] if self.plan.spans_images else []

    def _own_blocks(self) -> list[str]:
        return ["CHANNELS"] if self.wide else ["BLOCK_K", "STAGES"]

    def _docstring(self) -> str:
        steps = " -> ".join(short_name(node) for node in self.region.nodes if not is_relabelling(node))
        if self.wide:
            return '"""The same for images that float16 cannot hold, from the input in TF32; others are skipped."""'
        return f'"""{short_name(self.plan.anchor)} -> {steps}; {self._operand_words()}, w lies by tap."""'

    def _operand_words(self) -> str:
        return f"x is {'float16' if self.half else 'channels last'} with a zero border"

    def emit(self) -> EmittedKernel:
        """The kernel and its twin, the packing of the weights, the wrapper, and the shared prepass."""
        found = [self.kernel()]
        if self.half:
            found.append(type(self)(self.plan, self.graph, wide=True).kernel())
        kernels = "\n\n\n".join(source for _, source in found)
        pack_kernel, pack_wrapper = pack_source(self.plan, self.product.deltas)
        prepass_kernels, prepass_wrappers = self._prepass()
        return EmittedKernel(
            f"{pack_kernel}\n\n\n{kernels}",
            f"{pack_wrapper}\n\n\n{self._wrapper(*(name for name, _ in found))}",
            self.plan.name,
            tuple(node.name for node in (source_of(self.plan.anchor), self._weight(), *self.pointers)),
            dict(self.scalars),
            frozenset(helpers_in(kernels)),
            self._scratch(),
            shared_kernels=(*prepass_kernels, *((WEIGHTS_UNFIT,) if self.half else ())),
            shared_wrappers=(
                FEW_CHANNELS_BLOCK if self.plan.joins_taps else CHANNEL_BLOCK,
                *((MARKS_OF_CALL,) if self.half else ()),
                *prepass_wrappers,
            ),
            spares=tuple(name for name, _ in found[1:]),
        )

    def _prepass(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Kernels and wrappers that prepare the input."""
        kernel, wrapper = prepass_source(self.shape.rank, self.plan.operands)
        return (kernel,), (wrapper,)

    def _stored(self, lines: Lines) -> None:
        self._channels(lines, "0" if self.plan.whole_channels else "c_block")
        self.product.emit(lines)
        lines.add("c = (c_first + tl.arange(0, BLOCK_C))[:, None]")
        lines.add("c_in = (first + tl.arange(0, BLOCK_C) < CO)[:, None]")
        self._start_total(lines, "[BLOCK_C]")
        if self.plan.joins_columns or self.plan.pads_columns:
            self._joined(lines)
            self._finish_tile(lines)
        else:
            for column, name in enumerate(self.product.accumulators):
                lines.add(f"value = tl.trans({name})")
                self.positions.outer_outputs(lines)
                self.positions.column(lines, column)
                self._finish_tile(lines)
        if self.plan.reduces_space:
            plane = "(n * CO_ALL + c_first + tl.arange(0, BLOCK_C))"
            mask = self._store_mask("(first + tl.arange(0, BLOCK_C) < CO)")
            lines.add(f"tl.store(out_ptr + {plane} * PARTS + part, {self._part_value('total')}, mask={mask})")

    def _store_mask(self, mask: str) -> str:
        """Of what the twin may store: images of its own. The main kernel stores all, and the twin what is its own."""
        return f"{mask} & unfit" if self.wide and self.plan.spans_images else mask

    def _root_mask(self) -> str:
        """Which elements of the region's root exist."""
        return "c_in & inside" if self.anchor_map[1] in self.region.maps[self.region.root] else "inside"

    def _finish_tile(self, lines: Lines) -> None:
        self._inside(lines)
        self._epilogue(lines, self.region.depth)
        if self.plan.reduces_space:
            self._add_to_total(lines, self.values[self._summed()], "inside", 1)
            return
        order = memory_order(self.region.maps[self.region.root], MemoryFormat.CONTIGUOUS)
        value, mask = self.values[self.region.root], self._store_mask(self._root_mask())
        # Other programs write the rest of the sectors at the ends of rows: 644 -> 623 us for rows of 130 (H200).
        hint = ', eviction_policy="evict_last"' if self._columns > 1 and not self.wide else ""
        lines.add(f"tl.store(out_ptr + {self._offset(order)}, {value}, mask={mask}{hint})")

    def _reduced(self, lines: Lines) -> None:
        """Loop over blocks of channels; the reduction over them stays in registers."""
        root = self.plan.channel_root
        kind = REDUCTIONS[root.target]
        joins = self.plan.joins_columns
        names = ["reduced"] if joins else [f"reduced_{column}" for column in range(self._columns)]
        for name in names:
            lines.add(f"{name} = tl.full([{self._reduced_width}], {IDENTITY[kind]}, tl.float32)")
        lines.open("for c_block in range(0, C_BLOCKS):")
        self._channels(lines, "c_block")
        self.product.emit(lines)
        lines.add("c = (c_first + tl.arange(0, BLOCK_C))[:, None]")
        lines.add("c_in = (first + tl.arange(0, BLOCK_C) < CO)[:, None]")
        for column, name in enumerate(names):
            if joins:
                self._interleaved(lines)
            else:
                lines.add(f"value = tl.trans({self.product.accumulators[column]})")
            self._reduced_positions(lines, column)
            self._epilogue(lines, self.region.depth)
            value = f"tl.where(c_in, {self.values[source_of(root)]}, {IDENTITY[kind]})"
            if kind in ("sum", "mean"):
                lines.add(f"{name} = {name} + tl.sum({value}, 0)")
            else:
                lines.add(f"{name} = {kind}imum({name}, {kind}_along({value}, 0, False))")
        lines.close()
        self._store_reduced(lines, root, names)

    @property
    def _reduced_width(self) -> str:
        """Positions of what is left of a tile without its channels."""
        return f"{self._columns} * BLOCK_P" if self.plan.joins_columns else "BLOCK_P"

    def _reduced_positions(self, lines: Lines, column: int) -> None:
        """Output positions of a tile, or of one of its column phases; the twin's product has used their names."""
        if self.plan.joins_columns:
            self.positions.joined(lines)
        else:
            self.positions.outer_outputs(lines)
            self.positions.column(lines, column)
        self._inside(lines)

    def _store_reduced(self, lines: Lines, root: torch_fx.Node, names: Sequence[str]) -> None:
        """What the channels left, stored, or reduced over the tile's positions too."""
        position = " + ".join(
            f"{letter.lower()} * ({' * '.join(f'{inner}O' for inner in self.letters[i + 1 :])})"
            for i, letter in enumerate(self.letters[:-1])
        )
        plane = " * ".join(f"{letter}O" for letter in self.letters)
        kept = f"tl.reshape(inside, [{self._reduced_width}])"
        self._start_total(lines, "[1]")
        for column, name in enumerate(names):
            self._reduced_positions(lines, column)
            value = f"{name} / CO_ALL" if REDUCTIONS[root.target] == "mean" else name
            if self.plan.reduces_space:
                lines.add(f"reduced = {value}")
                self.values = {root: "reduced"}
                self.emit_nodes(lines, 1)
                self._add_to_total(lines, self.values[self._summed()], kept, 0)
                continue
            offset = f"{position} + w" if position else "w"
            mask = self._store_mask(kept)
            image = self.positions.image if self.plan.spans_images else "n"
            lines.add(f"tl.store(out_ptr + {image} * ({plane}) + {offset}, {value}, mask={mask})")
        if self.plan.reduces_space:
            where = "n * PARTS + part + tl.arange(0, 1)"
            lines.add(f"tl.store(out_ptr + {where}, {self._part_value('total')})")

    # -- partial results of a reduction over space -----------------------------------------------------------

    def _summed(self) -> torch_fx.Node:
        """What is reduced over space: the node that the partial results stand after."""
        assert self.plan.result is not None
        return source_of(self.plan.result)

    def _part(self, lines: Lines) -> None:
        """The number of a program's tile in its image."""
        if self.plan.reduces_space:
            blocks = "" if self.plan.reduces_channels else " // C_BLOCKS"
            lines.add(f"part = pid{blocks} % PARTS")

    def _start_total(self, lines: Lines, shape: str) -> None:
        if self.plan.reduces_space:
            kind = REDUCTIONS[self.region.root.target]
            lines.add(f"total = tl.full({shape}, {IDENTITY[kind]}, tl.float32)")

    def _add_to_total(self, lines: Lines, value: str, inside: str, axis: int) -> None:
        kind = REDUCTIONS[self.region.root.target]
        kept = f"tl.where({inside}, {value}, {IDENTITY[kind]})"
        if kind in ("sum", "mean"):
            lines.add(f"total = total + tl.sum({kept}, {axis})")
        else:
            lines.add(f"total = {kind}imum(total, {kind}_along({kept}, {axis}, False))")

    def _part_value(self, name: str) -> str:
        """A part as it is stored: of a mean, so that the mean of the parts is right."""
        if REDUCTIONS[self.region.root.target] != "mean":
            return name
        return f"{name} * (PARTS / ({' * '.join(f'{letter}O' for letter in self.letters)}))"

    def _kernel_sizes(self) -> list[str]:
        sizes = ["C", "C_ALL", "C_GIVEN", "C_GIVEN_ALL", "CO", "CO_ALL", "CO_PADDED", "C_BLOCKS", "GROUP_BLOCKS"]
        for letter in self.letters:
            sizes += [letter, f"{letter}_Q", f"{letter}_PADDED", f"{letter}_BORDER", f"{letter}O"]
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
        parts = (f"{self.plan.name}: partial results, one for each tile",) if self.plan.reduces_space else ()
        return (
            *parts,
            f"{self._repacked}: input repacked{self._as_half} with a zero border, 2 * N * {pixels} * C bytes",
            *self._packed_scratch(),
        )

    @property
    def _as_half(self) -> str:
        return " as float16" if self.half else ""

    @property
    def _repacked(self) -> str:
        """Name of the input as the prepass leaves it."""
        return "half" if self.half else "bordered"

    def _packed_scratch(self) -> tuple[str, ...]:
        size = f"2 * {self.shape.tap_count} * C * CO bytes, both padded to tiles"
        packed = f"w: weights repacked{self._as_half} by tap in each call, {size}"
        marks = "marks: of output channels and images that float16 cannot hold, int32"
        return (packed, marks) if self.half else (packed,)

    # -- wrapper -------------------------------------------------------------------------------------------

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
            given = read_convolution(self.plan.anchor)
            assert given is not None
            return f"({letter} - 1) * {dim.output_step} + {given.dims[position].transposed_constant}"
        reach = dim.phases[0][-1].delta - dim.phases[0][0].delta + 1
        padding = -dim.phases[0][0].delta
        return f"({letter} + {2 * padding - reach}) // {dim.input_step} + 1"

    def _wrapper(self, kernel: str, wide_kernel: str = "") -> str:
        lines = Lines()
        self._head(lines, f"Repacks weights and x, and launches {kernel}")
        lines.add(f"N, C_GIVEN, {', '.join(self.letters)} = x.shape")
        self._output_sizes(lines)
        self._pack(lines, "N")
        if self.plan.joins_taps:
            lines.add("C, CO_PADDED = few_channels_block(C_GIVEN), w.shape[-1]")
        elif self.plan.packs_columns:
            lines.add(f"C, CO_PADDED = w.shape[-2], w.shape[-1] // {self._columns}")
        else:
            lines.add("C, CO_PADDED = w.shape[-2:]")
        self._repack(lines)
        self._grid(lines)
        lines.add(f"out = note(torch.empty({self._shape_text()}, device=x.device, dtype={self._out_dtype()}))")
        self._size_values(lines, [*self._kernel_sizes(), *(["PARTS"] if self.plan.reduces_space else [])])
        tiles = self.plan.tiles
        limit = f" maxnreg={tiles.max_registers}," if tiles.max_registers else ""
        tiles_text = "BY_ROWS=BY_ROWS, BLOCK_P=BLOCK_P, BLOCK_C=BLOCK_C,"
        blocks = f"BLOCK_K=BLOCK_K, STAGES={self.plan.stages}, {tiles_text} num_warps={tiles.num_warps},{limit}"
        counts = ["N"] if self.plan.spans_images else []
        self._launch(lines, kernel, "grid", [self._repacked, "w"], blocks, counts)
        if self.half:
            blocks = f"{tiles_text} {self._channels_block()}, num_warps={self._wide_warps()}, num_stages=1,"
            given = ["x", "weight", "channel_marks", "marks"]
            self._launch(lines, wide_kernel, "min(grid, 512)", given, blocks, ["N", "grid", "call"])
        lines.add("return out")
        return str(lines)

    def _head(self, lines: Lines, what: str) -> None:
        lines.add("@replayed")
        lines.open(f"def {self.plan.name}({', '.join(['x', 'weight', *self.pointers.values(), *self.scalars])}):")
        lines.add(f'"""{what}."""')

    def _pack(self, lines: Lines, images: str) -> None:
        """The weights as matrices, and marks of what they, and so many images, hold that float16 does not."""
        groups = self.shape.groups
        lines.add(f"CO = weight.shape[{1 if self.shape.transposed else 0}]{self._group_division()}")
        if self.half:
            channels = f"CO * {groups}" if groups > 1 else "CO"
            lines.add(f"marks, channel_marks, call = renew(marks_of_call, x, {images}, {channels})")
        lines.add(f"w = pack_{self.plan.name}(weight{', channel_marks, call' if self.half else ''})")

    def _channels_block(self) -> str:
        groups = self.shape.groups
        return f"CHANNELS=triton.next_power_of_2(CO{f' * {groups}' if groups > 1 else ''})"

    def _out_dtype(self) -> str:
        """Of what is stored, as an expression in the wrapper."""
        stored = (self.plan.result or self.root).meta["val"].dtype
        return "x.dtype" if stored is source_of(self.plan.anchor).meta["val"].dtype else str(stored)

    def _repack(self, lines: Lines) -> None:
        """The input, channels last with a border, padded by group where there are several."""
        groups = self.shape.groups
        for letter, dim in zip(self.letters, self.shape.dims, strict=True):
            lines.add(f"{letter}_PADDED = {letter} + {dim.border}")
        source = "x"
        if groups > 1:
            zeros = "0, 0, " * self.shape.rank
            lines.add(f"padding = ({zeros}0, C - C_GIVEN // {groups})")
            lines.add(f"by_group = F.pad(x.unflatten(1, ({groups}, -1)), padding).flatten(1, 2)")
            source = "by_group"
        arguments = [source, *(str(dim.border) for dim in self.shape.dims), f"C * {groups}" if groups > 1 else "C"]
        arguments += ["marks", "call"] if self.half else []
        lines.add(f"{self._repacked} = {prepass_name(self.plan.operands)}({', '.join(arguments)})")

    def _grid(self, lines: Lines) -> None:
        tiles, groups = self.plan.tiles, self.shape.groups
        block_k = "channel_block(C)" if tiles.block_k >= 64 else f"min({tiles.block_k}, channel_block(C))"
        block_k = "w.shape[-2]" if self.plan.joins_taps else block_k
        lines.add(f"BLOCK_P, BLOCK_C, BLOCK_K = {tiles.block_p}, {self._block_c()}, {block_k}")
        rows = " * ".join(self.positions.q_sizes[:-1]) or "1"
        total = " * ".join(self.positions.q_sizes)
        by_rows = "triton.cdiv(W_Q, BLOCK_P) * BLOCK_P * 10 <= W_Q * 11"
        spans = self.plan.spans_images
        counted = self.positions.counted
        lines.add(f"BY_ROWS = {by_rows}{f' or N * {counted} >= 2**31' if spans else ''}")
        lines.add("GROUP_BLOCKS = triton.cdiv(CO, BLOCK_C)")
        lines.add(f"C_BLOCKS = GROUP_BLOCKS{f' * {groups}' if groups > 1 else ''}")
        images = "N * " if spans else ""
        pieces = f"triton.cdiv({images}{total}, BLOCK_P)"
        lines.add(f"tiles = {images}{rows} * triton.cdiv(W_Q, BLOCK_P) if BY_ROWS else {pieces}")
        factors = [] if self.plan.sees_all_channels else ["C_BLOCKS"]
        factors += [str(self.shape.row_phases)] if self.shape.row_phases > 1 else []
        lines.add(f"grid = {' * '.join([*factors, 'tiles', *([] if spans else ['N'])])}")
        if self.plan.reduces_space:
            lines.add(f"PARTS = {self.shape.row_phases} * tiles" if self.shape.row_phases > 1 else "PARTS = tiles")

    def _size_values(self, lines: Lines, names: Sequence[str]) -> None:
        """`sizes`, what all kernels take by keyword."""
        groups = self.shape.groups
        values = {
            "C_ALL": f"C * {groups}" if groups > 1 else "C",
            "C_GIVEN": f"C_GIVEN // {groups}" if groups > 1 else "C_GIVEN",
            "C_GIVEN_ALL": "C_GIVEN",
            "CO_ALL": f"CO * {groups}" if groups > 1 else "CO",
            **{f"{letter}_BORDER": str(dim.border) for letter, dim in zip(self.letters, self.shape.dims, strict=True)},
        }
        sizes = [f"{name}={values.get(name, name)}" for name in names]
        lines.add("sizes = dict(")
        for start in range(0, len(sizes), 6):
            lines.add(f"    {', '.join(sizes[start : start + 6])},")
        lines.add(")")

    def _launch(
        self, lines: Lines, kernel: str, grid: str, multiplied: Sequence[str], blocks: str, counts: Sequence[str] = ()
    ) -> None:
        lines.open(f"{kernel}[({grid},)](")
        lines.add(f"{', '.join([*multiplied, *self._arguments(), *self.scalars, *counts])},")
        lines.add(f"**sizes, {blocks}")
        lines.close()
        lines.add(")")

    def _wide_warps(self) -> int:
        """float32 operands and all channels of a position take many registers."""
        warps = self.plan.tiles.num_warps
        return max(8, warps) if self.plan.whole_channels else warps

    def _block_c(self) -> str:
        whole = self.plan.whole_channels
        return "max(16, triton.next_power_of_2(CO))" if whole else f"min({self.plan.tiles.block_c}, CO_PADDED)"

    def _shape_text(self) -> str:
        channels = f"CO * {self.shape.groups}" if self.shape.groups > 1 else "CO"
        if self.plan.reduces_space:
            kept = ["N", "1" if self.plan.reduces_channels else channels]
            if len(self._summed().meta["val"].shape) == 1 + self.shape.rank:
                kept.pop()
            return shape_text([*kept, "PARTS", *["1"] * (self.shape.rank - 1)])
        sizes = dict(zip(self.anchor_map, ("N", channels, *(f"{letter}O" for letter in self.letters)), strict=True))
        return shape_text("1" if axis is None else sizes[axis] for axis in self.region.maps[self.region.root])
