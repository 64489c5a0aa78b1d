"""How windows are walked along the dim in which memory is contiguous: in strided taps, or in vectors.

Neighbouring windows are a stride apart, so that a tap of each is a strided access: of every sector only a part is
used, and the same sectors are asked for once for each tap. Where the stride is 2 or 4, the taps fall into blocks of
that many columns which all windows together cover without gaps: block `b` of window `o` begins at `(o + b) * stride`.
A tile of such blocks is contiguous, and loaded in vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.kernels.pool.plan import WindowDim

#: Strides at which a block of columns is a vector or a part of one.
_STRIDES = (2, 4, 8)

#: Blocks a window may have: each is an accumulator as large as the input's tile.
_MOST_VECTORS = 2


@dataclass(frozen=True)
class WindowStep:
    """One load for every window of a tile.

    Attributes:
        first: column of the first tap that is wanted, from the first column of the window's block 0.
        taps: number of taps.
        width: columns of a block: the stride.
    """

    first: int
    taps: int
    width: int

    @property
    def is_vector(self) -> bool:
        """Several taps, loaded as a block; else one tap, loaded with a stride."""
        return self.taps > 1

    @property
    def block(self) -> int:
        """First column of the block, from the first column of block 0."""
        return self.first // self.width * self.width

    @property
    def low(self) -> int:
        """The block's first column that belongs to the window."""
        return self.first - self.block

    @property
    def high(self) -> int:
        """The end of those columns."""
        return self.low + self.taps

    @property
    def is_whole(self) -> bool:
        """Every column of the block belongs to the window."""
        return self.taps == self.width

    @property
    def name(self) -> str:
        """The accumulator's name in the kernel."""
        number = self.block // self.width
        return f"lanes_{'before' if number < 0 else 'after'}_{abs(number)}" if number else "lanes"


def steps_of(dim: WindowDim) -> tuple[WindowStep, ...]:
    """The steps along a dim; none where windows are adaptive, dilated, or of a stride that makes no vectors."""
    if dim.output is not None or dim.dilation != 1 or dim.stride not in _STRIDES:
        return ()
    steps = []
    column, end = -dim.padding, dim.size - dim.padding
    while column < end:
        block_end = (column // dim.stride + 1) * dim.stride
        taps = min(end, block_end) - column
        steps.append(WindowStep(column, taps, dim.stride))
        column += taps
    vectors = sum(step.is_vector for step in steps)
    return tuple(steps) if 1 <= vectors <= _MOST_VECTORS else ()
