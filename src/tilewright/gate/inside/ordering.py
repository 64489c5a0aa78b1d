"""Races between the programs of one launch: accesses of one element whose order nothing fixes.

The interpreter runs programs one after the other; a GPU runs them in any order. Two programs that touch the same
element, one of them writing, race, unless both are atomic, or the later one learnt by an atomic on one word (a
counter, a lock) that the earlier one was done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tilewright.gate.inside.accesses import AccessKind

_Numbers = npt.NDArray[np.int32]
_Elements = npt.NDArray[np.int64]

#: Larger pieces of memory are not followed: what races races at small sizes too.
_MOST_ELEMENTS = 1 << 22
_NOBODY, _SEVERAL = -1, -2


class Flagged(Protocol):
    """What is needed of a piece of memory."""

    storage: Any
    granule: int

    @property
    def written(self) -> npt.NDArray[np.bool_]:
        """One flag for each element."""


@dataclass
class _History:
    """Who touched each element of a piece of memory in the running launch, and when, from its first store on."""

    writer: _Numbers
    wrote_at: _Numbers
    reader: _Numbers
    read_at: _Numbers
    lane: _Numbers
    atomic: npt.NDArray[np.bool_]
    memory: npt.NDArray[Any]

    @classmethod
    def of(cls, shadow: Flagged) -> _History:
        count = shadow.written.size
        writer, wrote_at, reader, read_at, lane = (np.full(count, _NOBODY, dtype=np.int32) for _ in range(5))
        # Not through torch, whose operations are watched while kernels run.
        place = (ctypes.c_uint8 * (count * shadow.granule)).from_address(shadow.storage.data_ptr())
        memory = np.ctypeslib.as_array(place).view(f"V{shadow.granule}")
        return cls(writer, wrote_at, reader, read_at, lane, np.zeros(count, dtype=bool), memory)


@dataclass
class Ordering:
    """Follows one launch at a time."""

    _histories: dict[int, _History] = field(default_factory=dict)
    _released: dict[tuple[int, int], _Numbers] = field(default_factory=dict)
    _known: _Numbers | None = None
    _programs: int = 1
    _program: int = 0
    _clock: int = 0
    _several: bool = True
    _unmet: int | None = None  # clock of the first store of a block since the program's threads met

    def launch(self, programs: int, warps: int = 4) -> None:
        """A launch starts, of programs of so many warps: what came before it is done."""
        self._histories, self._released, self._known, self._programs = {}, {}, None, programs
        self._several, self._unmet = warps > 1, None

    def program(self, number: int) -> None:
        """A program starts."""
        self._program, self._known, self._unmet = number, None, None

    def meet(self) -> None:
        """The threads of the program meet at a barrier."""
        self._unmet = None

    def check(
        self, kind: AccessKind, identity: int, shadow: Flagged, elements: _Elements, values: Any
    ) -> Iterator[tuple[str, _Elements]]:
        """Note an access, and yield the elements over which it races (`race`), or is one of several stores (`twice`).

        Args:
            kind: what it does.
            identity, shadow: of the memory.
            elements: that it touches, by number in the memory.
            values: what is stored there; None where that is not known.
        """
        self._clock += 1
        history = self._histories.get(identity)
        if history is None:
            if kind is AccessKind.LOAD or elements.size == 0 or shadow.written.size > _MOST_ELEMENTS:
                return
            history = self._histories[identity] = _History.of(shadow)
        if kind is AccessKind.ATOMIC and elements.size == 1:
            self._synchronise(identity, int(elements[0]))
        if kind is AccessKind.LOAD:
            yield from self._load(history, elements)
        else:
            yield from self._store(history, elements, values, atomic=kind is AccessKind.ATOMIC)

    def _load(self, history: _History, elements: _Elements) -> Iterator[tuple[str, _Elements]]:
        racing = self._strangers(history.writer[elements], history.wrote_at[elements])
        if racing.any():
            yield "race", elements[racing]
        before = history.reader[elements]
        mine = (before == _NOBODY) | (before == self._program)
        history.reader[elements] = np.where(mine, self._program, _SEVERAL)
        history.read_at[elements] = self._clock

    def _store(
        self, history: _History, elements: _Elements, values: Any, *, atomic: bool
    ) -> Iterator[tuple[str, _Elements]]:
        if values is not None and elements.size > 1:
            lanes = np.arange(elements.size, dtype=np.int32)
            history.lane[elements] = lanes
            last = history.lane[elements]
            again = last != lanes
            if again.any():
                raw = _raw(values, history)
                yield from _split(elements[again], raw[again] != raw[last[again]])
        strangers = self._strangers(history.writer[elements], history.wrote_at[elements])
        readers = self._strangers(history.reader[elements], history.read_at[elements])
        if atomic:
            strangers &= ~history.atomic[elements]
            readers &= False  # a load beside atomics was judged when it was made, or is the counter's own business
        racing = strangers | readers
        if racing.any():
            differs = np.ones(elements.size, dtype=bool)
            if values is not None:
                differs = history.memory[elements] != _raw(values, history)
            yield from _split(elements[racing], differs[racing])
        if self._several and not atomic and elements.size > 1 and self._unmet is None:
            self._unmet = self._clock
        history.writer[elements], history.wrote_at[elements] = self._program, self._clock
        history.atomic[elements] = atomic

    def _strangers(self, programs: _Numbers, times: _Numbers) -> npt.NDArray[np.bool_]:
        """Which of these accesses were another program's, not known to be done."""
        others: npt.NDArray[np.bool_] = (programs != _NOBODY) & (programs != self._program)
        if self._known is None or not others.any():
            return others
        known: npt.NDArray[np.bool_] = self._known[np.maximum(programs, 0)] >= times
        return others & ~(known & (programs >= 0))

    def _synchronise(self, identity: int, element: int) -> None:
        """An atomic on one word: this program learns what those before it there had done and learnt."""
        if self._known is None:
            self._known = np.full(self._programs, -1, dtype=np.int32)
        before = self._released.get((identity, element))
        if before is not None:
            np.maximum(self._known, before, out=self._known)
        self._known[self._program] = self._clock if self._unmet is None else self._unmet - 1
        self._released[identity, element] = self._known.copy()


def _raw(values: Any, history: _History) -> npt.NDArray[Any]:
    """Values as the bits that memory holds."""
    return np.ascontiguousarray(values).view(history.memory.dtype)


def _split(elements: _Elements, differs: npt.NDArray[np.bool_]) -> Iterator[tuple[str, _Elements]]:
    """Stores of other values race; stores of the same value are only one too many."""
    if differs.any():
        yield "race", elements[differs]
    if not differs.all():
        yield "twice", elements[~differs]
