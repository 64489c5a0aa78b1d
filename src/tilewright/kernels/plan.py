"""Kernel plans: what one emitted kernel does, and how its work is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.kernels.regions.layout import AxisPlan, MemoryFormat
from tilewright.kernels.regions.region import Region


@dataclass(frozen=True)
class TileLimits:
    """Limits from which an emitted wrapper derives tile sizes for the shapes that it meets.

    Attributes:
        tile: elements of a tile at most; a power of two.
        row: elements along the contiguous axis at most; a power of two.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline.
        target_programs: a reduction with fewer programs is split until it has about so many.
    """

    tile: int = 2048
    row: int = 1024
    num_warps: int = 4
    num_stages: int = 2
    target_programs: int = 512


@dataclass(frozen=True)
class FusedPlan:
    """A kernel without an anchor: a region, its axes, and its tiles.

    Attributes:
        name: of the kernel and of the wrapper, without suffix.
        region: what it computes.
        axes: its iteration space.
        formats: memory format of each operand.
        kept_vector: index into `axes.axes` of the output axis that a tile holds; None for none.
        second_vector: a second axis of the tile: of the output for pointwise kernels, of the innermost
            reduction otherwise, or of the output too where that is walked; None for one-dimensional tiles.
        limits: tile limits.
        output_format: memory format of the output.
        narrowed: for each operand that is part of a row-major tensor, the dim in which it is narrower, else None.
        split: the outermost reduction is cut into parts that are finished by a second kernel.
    """

    name: str
    region: Region
    axes: AxisPlan
    formats: tuple[MemoryFormat, ...]
    kept_vector: int | None
    second_vector: int | None
    limits: TileLimits
    split: bool = False
    output_format: MemoryFormat = MemoryFormat.CONTIGUOUS
    narrowed: tuple[int | None, ...] = ()

    @property
    def reduced_vector(self) -> int | None:
        """The second axis of the tile, where it is one that the innermost reduction removes."""
        second = self.second_vector
        return second if second is not None and self.axes.axes[second].level > 0 else None


@dataclass(frozen=True)
class EmittedKernel:
    """Source text of one fused step.

    Attributes:
        kernels: source of the @triton.jit functions, without helpers.
        wrapper: source of the function that computes the grid and launches.
        wrapper_name: its name.
        operands: node names of the tensors that it takes, in order.
        scalars: linked floats that it takes after them: parameter name -> value in the graph.
        helpers: helpers that the kernels call.
        scratch: declared scratch tensors, for the report.
        shared_kernels, shared_wrappers: sources that several steps may use; each is emitted once.
        spares: kernels that return at once unless a guard fails.
        strided: positions of operands that may lie in any way.
        conditions: what must hold of operands that are inputs for the kernels to run, as such text; `{name}` is the
            tensor of that name in the graph.
    """

    kernels: str
    wrapper: str
    wrapper_name: str
    operands: tuple[str, ...]
    scalars: Mapping[str, float]
    helpers: frozenset[str]
    scratch: tuple[str, ...] = field(default=())
    shared_kernels: tuple[str, ...] = ()
    shared_wrappers: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()
    strided: frozenset[int] = frozenset()
    conditions: tuple[str, ...] = ()
