"""Barriers that a program lacks: one thread touches in global memory what another thread of the program does.

The interpreter runs a program as one thread; on a GPU its lanes belong to several warps, which run apart between
barriers. A lane is known by its place in its block: blocks of one shape lie on the threads alike, so that what lane 5
stored may be read again by lane 5, and by no other before a barrier.

Where a block was read before it is stored over, the value that is stored often depends on all of what was read, by a
reduction or another exchange between threads: nobody stores before all have read then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tilewright.gate.inside.accesses import AccessKind

_Elements = npt.NDArray[np.int64]

#: Elements of accesses of one program that are remembered at most, and accesses of one piece of memory.
_MOST_ELEMENTS = 1 << 22
_MOST_ACCESSES = 256


@dataclass(frozen=True)
class Block:
    """The lanes of one access that are carried out.

    Attributes:
        elements: that they touch, by number in the memory.
        lanes: their places in the block, in the same order.
        shape: of the block.
    """

    elements: _Elements
    lanes: _Elements
    shape: tuple[int, ...]

    @property
    def scalar(self) -> bool:
        """One lane: one thread stores it, and each thread loads it."""
        return int(np.prod(self.shape, dtype=np.int64)) == 1


@dataclass
class _Since:
    """Accesses of one piece of memory since the last barrier."""

    stores: list[Block] = field(default_factory=list)
    loads: list[Block] = field(default_factory=list)


@dataclass
class Barriers:
    """Follows one program at a time."""

    _since: dict[int, _Since] = field(default_factory=dict)
    _kept: int = 0
    _several: bool = True
    _wide: bool = False  # the program has blocks, over which a scalar may be spread

    def launch(self, warps: int) -> None:
        """A launch starts, of programs of so many warps; the threads of one warp keep step."""
        self._several = warps > 1
        self.program()

    def program(self) -> None:
        """A program starts."""
        self._wide = False
        self.meet()

    def meet(self) -> None:
        """The program's threads meet at a barrier."""
        self._since, self._kept = {}, 0

    def exchange(self) -> None:
        """Threads have handed each other values: what was loaded before has been loaded by all."""
        for since in self._since.values():
            since.loads = []

    def check(self, kind: AccessKind, identity: int, block: Block, *, given: bool) -> Iterator[_Elements]:
        """Note an access, and yield elements of it that another thread touched with no barrier in between.

        Args:
            kind: what it does.
            identity: of the memory.
            block: its lanes.
            given: the memory is an input's or a parameter's, which is not stored to.
        """
        if not self._several or block.elements.size == 0:
            return
        if kind is AccessKind.ATOMIC:
            if block.scalar:  # its result is handed to all threads, behind a barrier
                self.meet()
            return
        self._wide |= not block.scalar
        since = self._since.get(identity)
        if kind is AccessKind.LOAD:
            for stored in since.stores if since is not None else ():
                yield from _shared(stored, block, scalars=self._wide)
            if given:
                return
        elif since is not None:
            for earlier in since.loads:
                yield from _shared(earlier, block, scalars=False)
        self._keep(kind, identity, block)

    def _keep(self, kind: AccessKind, identity: int, block: Block) -> None:
        since = self._since.setdefault(identity, _Since())
        kept = since.loads if kind is AccessKind.LOAD else since.stores
        if len(kept) < _MOST_ACCESSES and self._kept < _MOST_ELEMENTS:
            kept.append(block)
            self._kept += int(block.elements.size)


def _shared(earlier: Block, later: Block, *, scalars: bool) -> Iterator[_Elements]:
    """Elements that both touch, by different threads.

    Args:
        earlier, later: the two accesses.
        scalars: a scalar that one thread stored and all load counts: they may spread it over a block. One that all
            loaded and one then stores does not.
    """
    if earlier.scalar and later.scalar and not scalars:
        return
    if earlier.elements.max() < later.elements.min() or later.elements.max() < earlier.elements.min():
        return
    alike = earlier.shape == later.shape and not earlier.scalar
    order = np.argsort(earlier.elements, kind="stable")
    known = earlier.elements[order]
    place = np.minimum(np.searchsorted(known, later.elements), known.size - 1)
    both = known[place] == later.elements
    if alike:
        both &= earlier.lanes[order][place] != later.lanes
    if both.any():
        yield later.elements[both]
