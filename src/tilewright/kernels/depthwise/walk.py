"""How a depthwise convolution walks down the rows: each input row is loaded once, for all sums that it belongs to.

With positions q of the row dim (`phases`), a tap with shift `delta` makes output q of the input's row
`q * input_step + delta`. With `delta = age * input_step + rest`, that is the row `rest` of the block of input rows
`q + age`: a lane that walks from block to block takes each block's rows into the sums of those outputs that are `age`
blocks behind it, and an output is complete when its last tap's age is reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tilewright.kernels.regions.phases import ConvolutionShape, DimPhases, Tap, convolution_dim

#: Stands for the row dim of a convolution in one dim.
_ONE_ROW = convolution_dim(1, 1, 0, 1)


@dataclass(frozen=True, order=True)
class Sum:
    """A sum in flight: the phases of its output, outer to inner, and how many blocks of rows it is behind."""

    phases: tuple[int, ...]
    age: int


@dataclass(frozen=True, order=True)
class InputRow:
    """A row of the input within a block of rows: the shift in the dim before, and the row of the block."""

    shift: int
    rest: int


@dataclass(frozen=True)
class Use:
    """One accumulation: the row's columns from `shift` on, times a weight, into a sum."""

    row: InputRow
    shift: int
    weight: int
    sum: Sum


@dataclass(frozen=True)
class Walk:
    """A walk down the rows.

    Attributes:
        uses: accumulations of one step.
        ages: phases of the outer dims, the row's last -> ages at which its outputs begin and are complete.
    """

    uses: tuple[Use, ...]
    ages: dict[int, tuple[int, int]]
    phases: tuple[tuple[int, ...], ...]

    @property
    def first(self) -> int:
        """Blocks from the first output to the first block of input rows that is needed."""
        return min(low for low, _ in self.ages.values())

    @property
    def last(self) -> int:
        """Blocks from the last output to the last block."""
        return max(high for _, high in self.ages.values())

    @property
    def sums(self) -> tuple[Sum, ...]:
        """All sums in flight."""
        return tuple(
            Sum(phases, age)
            for phases in self.phases
            for age in range(self.ages[phases[-2]][0], self.ages[phases[-2]][1] + 1)
        )


def walk_of(shape: ConvolutionShape) -> Walk:
    """The walk of a convolution in phase form, of rank 1 to 3."""
    outer, rows, columns = padded_dims(shape)
    phases = tuple(product(*(range(dim.output_step) for dim in (outer, rows, columns))))
    ages = {phase: _ages(taps, rows.input_step) for phase, taps in enumerate(rows.phases)}
    return Walk(tuple(use for phase in phases for use in _uses(shape, phase)), ages, phases)


def padded_dims(shape: ConvolutionShape) -> tuple[DimPhases, DimPhases, DimPhases]:
    """The spatial dims as three: planes, rows and columns."""
    dims = (*(_ONE_ROW,) * (3 - shape.rank), *shape.dims)
    return dims[0], dims[1], dims[2]


def _ages(taps: tuple[Tap, ...], step: int) -> tuple[int, int]:
    ages = [tap.delta // step for tap in taps] or [0]
    return min(ages), max(ages)


def _uses(shape: ConvolutionShape, phase: tuple[int, ...]) -> Iterator[Use]:
    """What one phase of the output takes from each block of rows."""
    dims = padded_dims(shape)
    for taps in product(*(dim.phases[number] for dim, number in zip(dims, phase, strict=True))):
        outer, row, column = taps
        age, rest = divmod(row.delta, dims[1].input_step)
        yield Use(InputRow(outer.delta, rest), column.delta, shape.tap_number(taps[3 - shape.rank :]), Sum(phase, age))
