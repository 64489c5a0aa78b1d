"""Positions of a convolution anchor's tiles: which outputs a program computes, and which input pixels those read.

A tile holds positions q of one row phase, of a row (`BY_ROWS`) or one after another: then those of all images follow
each other, so that no image ends in a tile of its own; except where partial results belong to one image.
"""

from __future__ import annotations

from tilewright.kernels.code.text import LETTERS, Lines, row_major
from tilewright.kernels.conv.plan import ConvPlan


class ConvPositions:
    """Emits the indices of one tile: of the kernel behind the prepass, or (`wide`) of its TF32 twin."""

    def __init__(self, plan: ConvPlan, wide: bool = False) -> None:
        self.plan = plan
        self.shape = plan.shape
        self.letters = LETTERS[plan.shape.rank]
        self.wide = wide
        self.columns = plan.shape.columns.output_step
        #: Places of the column phases in a joined tile.
        self.places = self.columns + 1 if plan.pads_columns else self.columns
        #: Positions are output positions, in the same order: a tile is a piece of the output's planes.
        self.in_order = all(dim.output_step == 1 for dim in plan.shape.dims)
        self.in_order = self.in_order and plan.tiles.rows == 0 and not plan.reduces_channels

    @property
    def q_sizes(self) -> list[str]:
        """Positions of one phase along each dim."""
        return [f"{letter}_Q" for letter in self.letters]

    @property
    def _joins(self) -> bool:
        """The positions of an output tile are those of several column phases, interleaved."""
        return self.columns > 1 and (self.plan.joins_columns or self.plan.pads_columns)

    @property
    def _counts_columns(self) -> bool:
        """Joined positions are counted by output columns: those of a row are then seen to be contiguous."""
        return self._joins and self.places == self.columns

    @property
    def counted(self) -> str:
        """Positions of a row phase in an image, as a tile counts them."""
        return _times(self.columns if self._counts_columns else 1, " * ".join(self.q_sizes))

    @property
    def image(self) -> str:
        """The images of an output tile's positions, a vector."""
        return f"(n + n_{'p' if self._joins else 'q'})"

    # -- programs ------------------------------------------------------------------------------------------

    def programs(self, lines: Lines) -> None:
        """From `pid`: the block of channels, the row phase, the positions `{letter}_q`, and the (first) image `n`."""
        if not self.plan.sees_all_channels:
            lines.add("c_block = pid % C_BLOCKS")
            lines.add("pid = pid // C_BLOCKS")
        if self.shape.row_phases > 1:
            lines.add(f"phase = pid % {self.shape.row_phases}")
            lines.add(f"pid = pid // {self.shape.row_phases}")
        lines.open("if BY_ROWS:")
        self._row(lines)
        lines.close()
        lines.open("else:")
        if self.plan.spans_images:
            self._piece_of_all(lines)
        else:
            self._piece_of_image(lines)
        lines.close()
        if not self.plan.spans_images:
            lines.add("n = pid.to(tl.int64)")

    def _row(self, lines: Lines) -> None:
        """A piece of one row."""
        lines.add("w_start = (pid % tl.cdiv(W_Q, BLOCK_P)) * BLOCK_P")
        lines.add("pid = pid // tl.cdiv(W_Q, BLOCK_P)")
        for size, letter in reversed(list(zip(self.q_sizes[:-1], self.letters, strict=False))):
            lines.add(f"{letter.lower()}_row = pid % {size}")
            lines.add(f"{letter.lower()}_q = tl.full([BLOCK_P], 0, tl.int32) + {letter.lower()}_row")
            lines.add(f"pid = pid // {size}")
        lines.add("w_q = w_start + tl.arange(0, BLOCK_P)")
        if self.plan.spans_images:
            lines.add("n = pid.to(tl.int64)")
            lines.add("n_q = tl.full([BLOCK_P], 0, tl.int32)")
            lines.add("q_in = w_q < W_Q")
            self._guard(lines, "n", "")

    def _piece_of_image(self, lines: Lines) -> None:
        """Positions of one image, one after another."""
        total = " * ".join(self.q_sizes)
        lines.add(f"w_start = (pid % tl.cdiv({total}, BLOCK_P)) * BLOCK_P")
        lines.add(f"pid = pid // tl.cdiv({total}, BLOCK_P)")
        lines.add("q = w_start + tl.arange(0, BLOCK_P)")
        lines.add("w_q = q % W_Q" if self.shape.rank > 1 else "w_q = q")
        self._outer(lines, "q", "q", keeps_last=True)

    def _piece_of_all(self, lines: Lines) -> None:
        """Positions of all images, one after another; a tile may begin in one image and end in another."""
        total = " * ".join(self.q_sizes)
        lines.add("w_start = pid * BLOCK_P")
        lines.add("q = w_start + tl.arange(0, BLOCK_P)")
        lines.add(f"n = (w_start // ({total})).to(tl.int64)")
        self._images(lines, "q", "q", 1)
        lines.add(f"q_in = q < N * ({total})")
        lines.add("w_q = q % W_Q")
        self._outer(lines, "q", "q", keeps_last=False)
        if not self._joins:
            self._guard(lines, self.image, "" if self.plan.reduces_channels else "[None, :]")

    def _images(self, lines: Lines, position: str, suffix: str, columns: int) -> None:
        """How many images behind the first each position lies, of which there are `columns` to each q."""
        total = " * ".join(self.q_sizes)
        image = f"{position} // ({_times(columns, total)})"
        lines.add(f"n_{suffix} = tl.minimum({image}, N - 1) - w_start // ({total})")

    def _outer(self, lines: Lines, position: str, suffix: str, keeps_last: bool, columns: int = 1) -> None:
        """Indices of the outer dims from a position, of which there are `columns` to each q.

        The outermost is within its size already if `keeps_last`.
        """
        row = f"({_times(columns, 'W_Q')})" if columns > 1 else "W_Q"
        rest = f"{position} // {row}"
        for size, letter in reversed(list(zip(self.q_sizes[:-1], self.letters, strict=False))):
            last = keeps_last and letter == self.letters[0]
            lines.add(f"{letter.lower()}_{suffix} = {rest if last else f'({rest}) % {size}'}")
            rest = f"{rest} // {size}"

    def _guard(self, lines: Lines, image: str, shape: str) -> None:
        """Which of the images are the twin's."""
        if self.wide:
            test = f"tl.load(unfit_ptr + 1 + {image}) >= least"
            lines.add(f"unfit = {f'({test}){shape}' if shape else test}")

    @property
    def any_unfit(self) -> str:
        """Whether the twin has something to do in a tile."""
        marks = "tl.max(tl.load(unfit_ptr + 1 + n + n_q))" if self.plan.spans_images else "tl.load(unfit_ptr + 1 + n)"
        return f"{marks} >= least"

    def pixel(self, lines: Lines) -> None:
        """Input pixel of each q, clamped so that tiles at the edge read what is there."""
        spans = self.plan.spans_images
        indices = ["n_q"] if spans else []
        for dim, letter in zip(self.shape.dims, self.letters, strict=True):
            step = f" * {dim.input_step}" if dim.input_step > 1 else ""
            position = f"{letter.lower()}_q"
            if letter == "W" or not spans:
                position = f"tl.minimum({position}, {letter}_Q - 1)"
            indices.append(f"{position}{step} + {letter}_BORDER")
        padded = [f"{letter}_PADDED" for letter in self.letters]
        lines.add(f"pixel = {row_major(indices, ['N', *padded] if spans else padded)}")
        lines.add(f"image = x_ptr + n * ({' * '.join(padded)}) * C_ALL")

    # -- outputs -------------------------------------------------------------------------------------------

    def outer_outputs(self, lines: Lines, suffix: str = "_q") -> None:
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

    def column(self, lines: Lines, column: int) -> None:
        """Output positions of the innermost dim, of one of its phases."""
        lines.add(f"w = w_q * {self.columns} + {column}" if self.columns > 1 else "w = w_q")

    def joined(self, lines: Lines) -> None:
        """Output positions of a tile whose column phases are interleaved."""
        step, places = self.columns, self.places
        lines.add(f"p = tl.arange(0, {places} * BLOCK_P)")
        lines.open("if BY_ROWS:")
        for letter in self.letters[:-1]:
            lower = letter.lower()
            lines.add(f"{lower}_p = tl.full([{places} * BLOCK_P], 0, tl.int32) + {lower}_row")
        if self.plan.spans_images:
            lines.add(f"n_p = tl.full([{places} * BLOCK_P], 0, tl.int32)")
        padded = f"{step} * (w_start + p // {places}) + p % {places}"
        lines.add(f"w = {padded if places > step else f'{step} * w_start + p'}")
        if self.plan.spans_images:
            lines.add("p_in = w < WO")
        lines.close()
        lines.open("else:")
        self._joined_pieces(lines)
        lines.close()
        self.outer_outputs(lines, "_p")

    def _joined_pieces(self, lines: Lines) -> None:
        """The same of positions one after another."""
        step, places = self.columns, self.places
        columns = step if self._counts_columns else 1
        position, row = ("o", _times(step, "W_Q")) if self._counts_columns else ("q_p", "W_Q")
        lines.add(f"o = {step} * w_start + p" if self._counts_columns else f"q_p = w_start + p // {places}")
        if self.plan.spans_images:
            self._images(lines, position, "p", columns)
            self._guard(lines, "n + n_p", "" if self.plan.reduces_channels else "[None, :]")
        whole = self.shape.rank > 1 or self.plan.spans_images
        column = f"{position} % ({row})" if whole else position
        lines.add(f"w = {column if self._counts_columns else f'({column}) * {step} + p % {places}'}")
        if self.plan.spans_images:
            lines.add(f"p_in = (w < WO) & ({position} < N * ({self.counted}))")
        self._outer(lines, position, "p", keeps_last=not self.plan.spans_images, columns=columns)

    def piece_of_plane(self, lines: Lines) -> None:
        """Where a tile's positions lie in a plane of the output, in a form in which they are seen to be contiguous."""
        sizes = [f"{letter}O" for letter in self.letters]
        place = row_major([f"{letter.lower()}_row" if letter != "W" else "w_q" for letter in self.letters], sizes)
        plane = " * ".join(sizes)
        lines.open("if BY_ROWS:")
        lines.add(f"at = {place}")
        lines.add(f"inside = (w_q < {sizes[-1]})[None, :]")
        lines.close()
        lines.open("else:")
        lines.add(f"at = q % ({plane})" if self.plan.spans_images else "at = q")
        lines.add("inside = q_in[None, :]" if self.plan.spans_images else f"inside = (q < {plane})[None, :]")
        lines.close()

    def inside(self, lines: Lines) -> None:
        """Which positions exist, from their indices."""
        checks = [f"({letter.lower()} < {letter}O)" for letter in self.letters]
        if self.plan.spans_images:
            # Of a row, one comparison of what is contiguous: with another beside it, masks would bound the vectors.
            checks = [*checks[:-1], "p_in"] if self._joins else [*checks, "q_in"]
        checks += [f"(p % {self.places} < {self.columns})"] if self.places > self.columns else []
        lines.add(f"inside = ({' & '.join(checks)})[None, :]")


def _times(columns: int, sizes: str) -> str:
    """A product of sizes, `columns` times."""
    return f"{columns} * {sizes}" if columns > 1 else sizes
