"""Convolutions and transposed convolutions in one form: output phases, each a set of shifted taps.

Along one spatial dim, output position `o = q * output_step + r` (phase r) reads input positions
`i = q * input_step + delta` for the phase's taps. A convolution has one phase (`output_step` 1) and steps over
the input with its stride; a transposed convolution has `stride` phases, steps over the input one by one, and
its phases share no tap, so that no zero is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.graph.convolutions import Convolution


@dataclass(frozen=True)
class Tap:
    """One tap of a kernel: its index along the dim, and the input shift that it reads."""

    index: int
    delta: int


@dataclass(frozen=True)
class DimPhases:
    """One spatial dim of a convolution.

    Attributes:
        input_step, output_step: how far input and output advance for one q.
        phases: taps of each phase, by rising shift.
        before, after: how far taps reach beyond the input on either side, for every q of every phase; sizes
            of the zero border that an unmasked load needs. Negative reach counts as 0.
        size: kernel size, taps.
    """

    input_step: int
    output_step: int
    phases: tuple[tuple[Tap, ...], ...]
    before: int
    after: int
    size: int

    @property
    def border(self) -> int:
        """Zeros between two rows: the end of one row and the start of the next share them."""
        return max(self.before, self.after)


def convolution_dim(size: int, stride: int, padding: int, dilation: int) -> DimPhases:
    """A convolution's dim: `i = q * stride + t * dilation - padding`."""
    taps = tuple(Tap(t, t * dilation - padding) for t in range(size))
    return DimPhases(stride, 1, (taps,), max(0, padding), max(0, padding), size)


def transposed_dim(size: int, stride: int, padding: int, output_padding: int, dilation: int) -> DimPhases:
    """A transposed convolution's dim: taps with `(r + padding - t * dilation)` divisible by the stride."""
    phases = []
    for phase in range(stride):
        taps = [
            Tap(t, (phase + padding - t * dilation) // stride)
            for t in range(size)
            if (phase + padding - t * dilation) % stride == 0
        ]
        phases.append(tuple(sorted(taps, key=lambda tap: tap.delta)))
    deltas = [tap.delta for taps in phases for tap in taps] or [0]
    last = (dilation * (size - 1) + output_padding - 2 * padding) // stride  # of q beyond the input's last index
    return DimPhases(1, stride, tuple(phases), max(0, -min(deltas)), max(0, last + max(deltas)), size)


@dataclass(frozen=True)
class ConvolutionShape:
    """A convolution anchor's hyperparameters in phase form.

    Attributes:
        dims: the spatial dims, outer to inner.
        groups: of channels.
        transposed: weight is [Cin, Cout / groups, ...] rather than [Cout, Cin / groups, ...].
    """

    dims: tuple[DimPhases, ...]
    groups: int
    transposed: bool

    @property
    def rank(self) -> int:
        """Spatial dims."""
        return len(self.dims)

    @property
    def row_phases(self) -> int:
        """Phases of all dims but the innermost."""
        count = 1
        for dim in self.dims[:-1]:
            count *= dim.output_step
        return count

    @property
    def columns(self) -> DimPhases:
        """The innermost dim, along which outputs lie contiguous."""
        return self.dims[-1]

    def row_phase(self, index: int) -> tuple[int, ...]:
        """Phase of each outer dim."""
        result: list[int] = []
        for dim in reversed(self.dims[:-1]):
            result.append(index % dim.output_step)
            index //= dim.output_step
        return tuple(reversed(result))

    def row_taps(self, index: int) -> tuple[tuple[Tap, ...], ...]:
        """Combinations of taps of the outer dims that a row phase reads; one empty one without outer dims."""
        combinations: list[tuple[Tap, ...]] = [()]
        for dim, phase in zip(self.dims[:-1], self.row_phase(index), strict=True):
            combinations = [(*taken, tap) for taken in combinations for tap in dim.phases[phase]]
        return tuple(combinations)

    def tap_number(self, taps: tuple[Tap, ...]) -> int:
        """A tap's row in the packed weights: its index over all dims, row-major."""
        number = 0
        for dim, tap in zip(self.dims, taps, strict=True):
            number = number * dim.size + tap.index
        return number

    @property
    def tap_count(self) -> int:
        """Taps in all."""
        count = 1
        for dim in self.dims:
            count *= dim.size
        return count


def phase_form(found: Convolution) -> ConvolutionShape:
    """A convolution's hyperparameters in phase form."""
    dims = tuple(
        transposed_dim(dim.size, dim.stride, dim.padding, dim.output_padding, dim.dilation)
        if found.transposed
        else convolution_dim(dim.size, dim.stride, dim.padding, dim.dilation)
        for dim in found.dims
    )
    return ConvolutionShape(dims, found.groups, found.transposed)
