"""The product of a convolution anchor: loops over taps and channels.

Operands are multiplied as they were packed: as float16 or bfloat16 where they were given so; given as float32, as
float16 or, where that cannot hold them, in TF32.

Taps of the outer dims are walked by one loop, whatever the phase: along a dim, the taps of a phase are evenly
spaced in the kernel and in the input, so a start and a count for each phase say it all. The phases of the
innermost dim are unrolled side by side; where they all read the same shifts, one product computes them together,
and where there is one, its taps may be walked by the same loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.kernels.code.text import Lines
from tilewright.kernels.conv.plan import ConvPlan, few_channels_block, whole_block
from tilewright.kernels.regions.phases import DimPhases, Tap


def phase_table(values: Sequence[int], phase: str) -> str:
    """An expression for `values[phase]`; a plain number where all are equal."""
    if len(set(values)) == 1:
        return str(values[0])
    text = str(values[-1])
    for index in range(len(values) - 2, -1, -1):
        text = f"tl.where({phase} == {index}, {values[index]}, {text})"
    return text


def _spacing(dim: DimPhases) -> tuple[int, int]:
    """(shift, tap index) from one tap of a phase to the next."""
    for taps in dim.phases:
        if len(taps) > 1:
            return taps[1].delta - taps[0].delta, taps[1].index - taps[0].index
    return 0, 0


class ConvProduct:
    """Emits the accumulators of one tile: from packed operands, or (`wide`) in TF32 from what was given."""

    def __init__(self, plan: ConvPlan, letters: Sequence[str], wide: bool = False) -> None:
        self.plan = plan
        self.wide = wide
        self.shape = plan.shape
        self.letters = letters
        self.columns = plan.shape.columns.output_step
        self.joins_taps = plan.joins_taps and not wide
        self.by_tap = plan.tiles.by_tap and not wide and not self.joins_taps
        looped = plan.shape.rank if self.by_tap else plan.shape.rank - 1
        self.looped = list(zip(plan.shape.dims[:looped], letters[:looped], strict=True))

    @property
    def accumulators(self) -> list[str]:
        """One accumulator for each column phase, or one for all of them."""
        if self.plan.packs_columns or self.columns == 1:
            return ["accumulator"]
        return [f"accumulator_{column}" for column in range(self.columns)]

    @property
    def width(self) -> str:
        """Columns of a weight tile."""
        return f"{self.columns} * BLOCK_C" if self.plan.packs_columns else "BLOCK_C"

    @property
    def deltas(self) -> list[int]:
        """Shifts along the innermost dim."""
        return sorted({tap.delta for taps in self.shape.columns.phases for tap in taps})

    @property
    def weight_rows(self) -> int:
        """Matrices [C, CO] in the packed weights of a group."""
        inner = len(self.deltas) if self.plan.packs_columns else self.shape.columns.size
        for dim in self.shape.dims[:-1]:
            inner *= dim.size
        return inner

    def shared_bytes(self) -> int:
        """Shared memory of the pipelined loop, bytes, as Triton allocates it: every loaded tile once a stage.

        For a strip of rows, its weights and the input tiles in flight.
        """
        tiles = self.plan.tiles
        if tiles.rows:
            return self._kept_bytes()
        block_k = tiles.block_k
        if self.joins_taps:
            elements = len(self.deltas) * few_channels_block(self.plan.channels[0])
            return self.plan.stages * 2 * whole_block(elements) * (tiles.block_p + tiles.block_c)
        width = tiles.block_c * (self.columns if self.plan.packs_columns else 1)
        one = self.plan.packs_columns or self.by_tap
        products = 1 if one else sum(len(taps) for taps in self.shape.columns.phases)
        inputs = 1 if one else len(self.deltas)
        return tiles.num_stages * 2 * block_k * (inputs * tiles.block_p + products * width)

    def _kept_bytes(self) -> int:
        """Of a strip of rows: all taps of a block of channels, and its input tiles."""
        channels, outputs = self.plan.channels
        block_k = 64 * -(-channels // 64) if channels > 32 else 32 if channels > 16 else 16
        block_c = self.plan.tiles.block_c
        block_c = whole_block(outputs) if self.plan.sees_all_channels else min(block_c, 64 * -(-outputs // 64))
        shifts = 1
        for dim in self.shape.dims:
            shifts *= len({tap.delta for phase in dim.phases for tap in phase})
        return 2 * block_k * (self.shape.tap_count * block_c + shifts * self.plan.tiles.block_p)

    def emit(self, lines: Lines) -> None:
        """The accumulators, from the tile's indices and phase."""
        for name in self.accumulators:
            lines.add(f"{name} = tl.zeros([BLOCK_P, {self.width}], tl.float32)")
        count = self._phase_constants(lines)
        if self.wide:
            self._tf32_loop(lines, count)
        else:
            self._packed_loop(lines, count)

    # -- taps of the looped dims ---------------------------------------------------------------------------

    def _phase_constants(self, lines: Lines) -> str:
        """Start and count of each looped dim's taps in this phase; returns the count of their combinations."""
        index = "phase"
        counts = []
        for position in range(len(self.looped) - 1, -1, -1):
            dim, letter = self.looped[position]
            lower, steps = letter.lower(), dim.output_step
            phase = index if position == 0 else f"({index} % {steps})"
            index = f"({index} // {steps})" if steps > 1 else index
            taps = dim.phases
            lines.add(f"{lower}_count = {phase_table([len(t) for t in taps], phase)}")
            lines.add(f"{lower}_shift = {phase_table([t[0].delta if t else 0 for t in taps], phase)}")
            lines.add(f"{lower}_tap = {phase_table([t[0].index if t else 0 for t in taps], phase)}")
            counts.append(f"{lower}_count")
        return " * ".join(reversed(counts)) or "1"

    def _tap(self, lines: Lines, index: str) -> None:
        """From a combination's number: its shift in input pixels, and its row in the weights."""
        rest = index
        for position in range(len(self.looped) - 1, -1, -1):
            dim, letter = self.looped[position]
            lower = letter.lower()
            delta, step = _spacing(dim)
            number = rest if position == 0 else f"({rest}) % {lower}_count"
            lines.add(f"{lower}_delta = {lower}_shift + ({number}) * {delta}")
            lines.add(f"{lower}_index = {lower}_tap + ({number}) * {step}")
            rest = f"({rest}) // {lower}_count"
        shift, row = "0", "0"
        for dim, letter in self.looped:
            lower = letter.lower()
            shift = f"{lower}_delta" if shift == "0" else f"({shift}) * {letter}_PADDED + {lower}_delta"
            row = f"{lower}_index" if row == "0" else f"({row}) * {dim.size} + {lower}_index"
        if self.looped:
            if not self.wide:
                lines.add(f"shift = {shift}" if self.by_tap else f"shift = ({shift}) * W_PADDED")
            lines.add(f"row = {row}")

    # -- packed operands -----------------------------------------------------------------------------------

    def _packed_loop(self, lines: Lines, count: str) -> None:
        if self.joins_taps:
            self._joined_taps(lines, count)
            return
        inner = len(self.deltas) if self.plan.packs_columns else 1
        trips = " * ".join(
            part for part in (count, str(inner) if inner > 1 else "", "(C // BLOCK_K)") if part != "1" and part
        )
        lines.open(f"for step in tl.range(0, {trips}, num_stages=STAGES):")
        lines.add("k0 = step % (C // BLOCK_K) * BLOCK_K")
        lines.add("tap = step // (C // BLOCK_K)")
        if self.plan.packs_columns:
            self._joint_step(lines, inner)
        elif self.by_tap:
            self._tap(lines, "tap")
            self._one_product(lines, "shift", "row", "CO_PADDED")
        else:
            self._unrolled_step(lines)
        lines.close()

    def _joined_taps(self, lines: Lines, count: str) -> None:
        """All taps of a row in one step: pixels that follow each other, and nothing of those behind them."""
        first = self.deltas[0]
        lines.add(f"window = k < {len(self.deltas)} * C")
        lines.open(f"for tap in tl.range(0, {count}, num_stages=STAGES):")
        self._tap(lines, "tap")
        shift = f"shift + {first}" if self.looped else str(first)
        address = f"source + (pixel + {shift})[:, None] * C_ALL + k[None, :]"
        lines.add(f"x = tl.load({address}, mask=window[None, :], other=0.0)")
        lines.add(f"matrix = ({'row * BLOCK_K + k' if self.looped else 'k'})[:, None] * CO_PADDED")
        lines.add("accumulator = tl.dot(x, tl.load(w_ptr + matrix + column[None, :]), accumulator)")
        lines.close()

    def _joint_step(self, lines: Lines, inner: int) -> None:
        self._tap(lines, f"tap // {inner}")
        first, spacing = self.deltas[0], (self.deltas[1] - self.deltas[0]) if inner > 1 else 0
        column_shift = f"{first} + tap % {inner} * {spacing}" if inner > 1 else str(first)
        shift = f"shift + {column_shift}" if self.looped else column_shift
        row = f"(row * {inner} + tap % {inner})" if self.looped else f"(tap % {inner})"
        self._one_product(lines, shift, row, f"(CO_PADDED * {self.columns})")

    def _one_product(self, lines: Lines, shift: str, row: str, stride: str) -> None:
        lines.add(f"x = tl.load(source + (pixel + {shift})[:, None] * C_ALL + (k0 + k)[None, :])")
        lines.add(f"matrix = (group + {row} * C + k0 + k)[:, None] * {stride}")
        lines.add("accumulator = tl.dot(x, tl.load(w_ptr + matrix + column[None, :]), accumulator)")

    def _unrolled_step(self, lines: Lines) -> None:
        self._tap(lines, "tap")
        size = self.shape.columns.size
        base = f"row * {size}" if self.looped else "0"
        for delta in self.deltas:
            shift = f"shift + {delta}" if self.looped else str(delta)
            lines.add(f"x = tl.load(source + (pixel + {shift})[:, None] * C_ALL + (k0 + k)[None, :])")
            for name, tap in self._columns_reading(delta):
                lines.add(f"matrix = (group + ({base} + {tap.index}) * C + k0 + k)[:, None] * CO_PADDED")
                lines.add(f"{name} = tl.dot(x, tl.load(w_ptr + matrix + column[None, :]), {name})")

    def _columns_reading(self, delta: int) -> list[tuple[str, Tap]]:
        return [
            (name, tap)
            for name, taps in zip(self.accumulators, self.shape.columns.phases, strict=True)
            for tap in taps
            if tap.delta == delta
        ]

    # -- TF32 ----------------------------------------------------------------------------------------------

    def _tf32_loop(self, lines: Lines, count: str) -> None:
        """The same sum from the unpacked input and weights, every load masked: slow, and rarely taken."""
        lines.add("slow_k = tl.arange(0, 32)")
        lines.open(f"for step in range(0, {count} * tl.cdiv(C_GIVEN, 32)):")
        lines.add("channel = step % tl.cdiv(C_GIVEN, 32) * 32 + slow_k")
        lines.add("tap = step // tl.cdiv(C_GIVEN, 32)")
        self._tap(lines, "tap")
        for delta in self.deltas:
            self._tf32_input(lines, delta)
            if self.plan.packs_columns:
                self._tf32_packed_product(lines, delta)
                continue
            for name, tap in self._columns_reading(delta):
                self._tf32_product(lines, name, str(tap.index), "column", "slow_c < CO")
        lines.close()

    def _tf32_input(self, lines: Lines, delta: int) -> None:
        inside, offset = [], ""
        for dim, letter in zip(self.shape.dims, self.letters, strict=True):
            lower = letter.lower()
            shift = f"{lower}_delta" if letter != "W" else str(delta)
            lines.add(f"{lower}_in = {lower}_q * {dim.input_step} + {shift}")
            inside.append(f"({lower}_in >= 0) & ({lower}_in < {letter})")
            offset = f"({offset}) * {letter} + {lower}_in" if offset else f"{lower}_in"
        lines.add(f"inside = {' & '.join(inside)}")
        plane = " * ".join(self.letters)
        if self.plan.spans_images:
            first = "(n + n_q)[:, None] * C_GIVEN_ALL + (c_given + channel)[None, :]"
        else:
            first = "n * C_GIVEN_ALL + (c_given + channel)[None, :]"
        lines.add(f"address = given_ptr + ({first}) * ({plane})")
        lines.add(f"address += ({offset})[:, None]")
        lines.add("x = tl.load(address, mask=inside[:, None] & (channel < C_GIVEN)[None, :], other=0.0)")
        lines.add("x = round_to_tf32(x)")

    def _tf32_product(self, lines: Lines, name: str, tap: str, column: str, mask: str) -> None:
        lines.add(f"slow_c = {column}")
        row = f"(row * {self.shape.columns.size} + {tap})" if self.looped else tap
        taps = self.shape.tap_count
        if self.shape.transposed:
            matrix = f"((c_given + channel)[:, None] * CO + slow_c[None, :]) * {taps}"
        else:
            matrix = f"((c_out + slow_c)[None, :] * C_GIVEN + channel[:, None]) * {taps}"
        row = f"({row})[None, :]" if "[" in tap or "slow_t" in tap else row
        lines.add(f"w = tl.load(weight_ptr + {matrix} + {row},")
        lines.add(f"    mask=(channel < C_GIVEN)[:, None] & ({mask})[None, :], other=0.0)")
        lines.add(f'{name} = tl.dot(x, round_to_tf32(w), {name}, input_precision="tf32")')

    def _tf32_packed_product(self, lines: Lines, delta: int) -> None:
        """Columns are channel * phases + phase: the tap that a column's phase reads at this shift."""
        taps = [next(t.index for t in phase if t.delta == delta) for phase in self.shape.columns.phases]
        lines.add(f"slow_t = {phase_table(taps, f'(column % {self.columns})')} + column * 0")
        self._tf32_product(lines, "accumulator", "slow_t", f"column // {self.columns}", "slow_c < CO")
