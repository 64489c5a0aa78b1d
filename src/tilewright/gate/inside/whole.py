"""In a sandboxed process: what of each tensor the launches at the task's own sizes can reach, without data.

All programs of a launch are run where the time allows; else a sample, spread over the grid. Of a sample is known how
many elements a program touches at most: all programs together touch no more than that many times their number, which
tells a grid that is too small, a loop that turns too seldom, a second stage that reads some of the partial results.
What depends on loaded values (gathers, counters) is left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tilewright.gate.inside.accesses import AccessKind, Memory, Region, Touch
from tilewright.gate.inside.pretend import really
from tilewright.gate.reference.subject import DispatchMode, leaves
from tilewright.toolchain.memory import EndProgramError, source_line
from tilewright.toolchain.taint import Loaded

Program = tuple[int, int, int]

#: Elements of a piece of memory up to which each has its flags.
_FLAGGED = 1 << 26
#: Programs of a launch that are sampled, and elements that one of them may touch.
_FIRST, _SAMPLED = 8, 48
_MOST_TOUCHED = 1 << 22
#: Part of the time that is left which one launch may take.
_SHARE = 0.5
_MOST_EVENTS = 16
#: Operations whose result is one value everywhere.
_FILLS = frozenset(
    {
        "zeros",
        "ones",
        "full",
        "new_zeros",
        "new_ones",
        "new_full",
        "zeros_like",
        "ones_like",
        "full_like",
        "zero",
        "fill",
    }
)


@dataclass
class Piece:
    """What is known of one piece of memory.

    Attributes:
        storage: kept alive, so that its identity stays its own.
        size: elements.
        read, written: flags by element, of launches of which all programs ran; None where it is too large.
        reads, writes: elements that the other launches touch at most.
        unsure_read, unsure_written: somebody reads (writes) it in a way that is not known.
        filled: PyTorch filled it with one value; nothing is lost where nobody reads that.
        names: kernel and argument of its first reader and writer.
    """

    storage: Any
    size: int
    read: npt.NDArray[np.bool_] | None
    written: npt.NDArray[np.bool_] | None
    reads: int = 0
    writes: int = 0
    unsure_read: bool = False
    unsure_written: bool = False
    filled: bool = False
    names: dict[str, str] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)

    def most(self, what: str) -> int:
        """Elements that are read or written (`read`, `written`) at most."""
        flags = getattr(self, what)
        exact = 0 if flags is None else int(np.count_nonzero(flags))
        return min(self.size, exact + (self.reads if what == "read" else self.writes))

    def exact(self, what: str) -> npt.NDArray[np.bool_] | None:
        """The flags, where they say all."""
        return getattr(self, what) if not (self.reads if what == "read" else self.writes) else None


@dataclass
class _Open:
    """The launch that runs."""

    kernel: str
    programs: int
    regions: Sequence[Region]
    allowance: float
    run: int = 0
    all: bool = False
    steered: bool = False
    touched: dict[tuple[int, str], list[npt.NDArray[np.int64]]] = field(default_factory=dict)
    kept: int = 0
    most: dict[tuple[int, str], int] = field(default_factory=dict)
    marks: dict[tuple[int, str], list[npt.NDArray[np.int64]]] = field(default_factory=dict)


@dataclass
class Whole:
    """The sink: one forward pass.

    Attributes:
        loaded: tells what depends on loaded values.
        budget_s: processor seconds for all launches.
    """

    loaded: Loaded
    budget_s: float
    pieces: dict[int, Piece] = field(default_factory=dict)
    outside: dict[tuple[str, str, int], dict[str, Any]] = field(default_factory=dict)
    _open: _Open | None = None
    _started: float = 0.0

    # As a sink.

    def launch(self, kernel: str, grid: Program, regions: Sequence[Region]) -> None:
        """See `Sink`."""
        self._open = _Open(kernel, math.prod(grid), regions, self.budget_s * _SHARE)

    def named(self) -> frozenset[int] | None:
        """See `Sink`: `chosen` names them."""
        return None

    def chosen(self, grid: Program) -> Iterator[Program]:
        """The programs to run: a few; then all others, where the time allows, or else some."""
        one = self._open
        assert one is not None
        self._started = time.process_time()
        total = one.programs
        first = _spread(total, _FIRST)
        for number in first:
            if self._spent() > one.allowance and one.run > 2:
                break
            yield _program(number, grid)
        self._close_program()
        each = self._spent() / max(one.run, 1)
        one.all = one.run == total or each * total <= one.allowance
        others: Iterable[int] = range(total) if one.all else _spread(total, _SAMPLED)
        done = set(first)
        for number in others:
            if number in done:
                continue
            if self._spent() > one.allowance:
                one.all = False
                break
            yield _program(number, grid)
        self._close_program()

    def program(self, program: Program, number: int) -> bool:
        """See `Sink`."""
        self._close_program()
        assert self._open is not None
        self._open.run += 1
        # A branch that a loaded value has chosen, before an access or instead of one.
        self._open.steered = self._open.steered or self.loaded.steered
        self.loaded.steered = False
        return True

    def touch(self, touch: Touch) -> None:
        """See `Sink`."""
        one, region = self._open, touch.region
        assert one is not None
        one.steered = one.steered or self.loaded.steered
        if one.steered or one.kept > _MOST_TOUCHED or self._spent() > 2 * one.allowance:
            one.steered = True  # nothing is known of the rest
            raise EndProgramError
        if region is None:
            return
        piece = self._piece(region)
        kinds = {AccessKind.LOAD: ("read",), AccessKind.STORE: ("written",)}.get(touch.kind, ("read", "written"))
        for kind in kinds:
            piece.names.setdefault(kind, f"{region.tensor.argument} of {one.kernel}")
            if self.loaded.guessed:
                setattr(piece, f"unsure_{kind}", True)
        if self.loaded.guessed:
            return
        mask = touch.mask
        if touch.outside is not None:
            self._leaves(one.kernel, touch)
            mask = mask & ~touch.outside
        size = region.tensor.element_bytes
        elements = ((touch.addresses[mask] - np.uint64(region.zero)) // np.uint64(size)).view(np.int64)
        one.kept += int(elements.size)
        for kind in kinds:
            one.touched.setdefault((region.storage_id, kind), []).append(elements)

    def end_launch(self) -> None:
        """The launch is over."""
        one, self._open = self._open, None
        if one is None:
            return
        one.steered = one.steered or self.loaded.steered
        self.loaded.steered = False
        self.budget_s = max(self.budget_s - self._spent(), 0.0)
        if one.steered or self.loaded.steered or not one.run:
            for region in one.regions:
                piece = self._piece(region)
                piece.unsure_read = piece.unsure_written = True
            return
        for (identity, kind), most in one.most.items():
            piece = self.pieces[identity]
            piece.how[kind] = f"{one.programs:,} programs of {one.kernel} with at most {most:,} elements each"
            flags = getattr(piece, kind)
            if one.all and flags is not None:  # those that ran before this was decided
                for elements in one.marks.get((identity, kind), ()):
                    flags[elements] = True
            elif kind == "read":
                piece.reads += one.programs * most
            else:
                piece.writes += one.programs * most

    # What the dispatcher sees.

    def natively(self, tensor: torch.Tensor, *, read: bool, written: bool) -> None:
        """A native operation reads or writes a tensor: nobody asks which of it."""
        piece = self._of(tensor)
        piece.unsure_read |= read
        piece.unsure_written |= written

    def filled(self, tensor: torch.Tensor) -> None:
        """A native operation makes all elements of a tensor the same."""
        self._of(tensor).filled = True

    # The rest.

    def _of(self, tensor: torch.Tensor) -> Piece:
        storage = tensor.untyped_storage()
        return self._known(int(storage._cdata), storage, int(storage.nbytes()) // tensor.element_size())

    def _piece(self, region: Region) -> Piece:
        found = self.pieces.get(region.storage_id)
        return found if found is not None else self._known(region.storage_id, None, _elements(region))

    def _known(self, identity: int, storage: Any, size: int) -> Piece:
        if identity not in self.pieces:
            flags = (np.zeros(size, bool), np.zeros(size, bool)) if size <= _FLAGGED else (None, None)
            self.pieces[identity] = Piece(storage, size, *flags)
        return self.pieces[identity]

    def _close_program(self) -> None:
        """What the program that ended has touched: flagged where all programs run, else counted."""
        one = self._open
        assert one is not None
        for key, parts in one.touched.items():
            flags = getattr(self.pieces[key[0]], key[1])
            if one.all and flags is not None:
                for elements in parts:
                    flags[elements] = True
                continue
            distinct = np.unique(np.concatenate(parts))
            one.most[key] = max(one.most.get(key, 0), int(distinct.size))
            if one.run <= _FIRST + 2:
                one.marks.setdefault(key, []).append(distinct)
        one.touched, one.kept = {}, 0

    def _leaves(self, kernel: str, touch: Touch) -> None:
        assert touch.region is not None
        assert touch.outside is not None
        key = kernel, touch.region.tensor.argument, source_line()
        start = np.uint64(touch.region.start)
        places = (touch.addresses[touch.outside] - start).view(np.int64) // touch.element_bytes
        low, high = int(places.min()), int(places.max())
        if key not in self.outside:
            if len(self.outside) >= _MOST_EVENTS:
                return
            self.outside[key] = {
                "kind": "outside", "kernel": kernel, "argument": key[1], "access": touch.kind.value, "line": key[2],
                "count": 0, "low": low, "high": high,
            }  # fmt: skip
        event = self.outside[key]
        event["count"] += int(places.size)
        event["low"], event["high"] = min(event["low"], low), max(event["high"], high)

    def _spent(self) -> float:
        return time.process_time() - self._started


class Followed(Memory):
    """Memory whose one sink names the programs that are run, and is told when a launch is over."""

    def programs(self, grid: Program) -> Iterable[Program]:
        """See `Observer`."""
        sink = self.sinks[0]
        assert isinstance(sink, Whole)
        return sink.chosen(grid)

    def end_launch(self) -> None:
        """See `Observer`."""
        sink = self.sinks[0]
        assert isinstance(sink, Whole)
        sink.end_launch()


class NativeUse(DispatchMode):
    """Tells a `Whole` which tensors PyTorch's own operations use."""

    def __init__(self, whole: Whole) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._whole = whole

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        result = func(*args, **options)
        with really():
            self._note(func, args, options, result)
        return result

    def _note(self, func: Any, args: Any, options: Mapping[str, Any], result: Any) -> None:
        name = func._schema.name
        views = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        if views or "empty" in name or name.startswith("prim"):
            return
        for position, argument in enumerate(func._schema.arguments):
            value = options.get(argument.name, args[position] if position < len(args) else None)
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in leaves(value if isinstance(value, list | tuple | torch.Tensor) else None):
                if name.removeprefix("aten::").rstrip("_") in _FILLS:
                    continue
                self._whole.natively(tensor, read=True, written=writes)
        fills = name.removeprefix("aten::").rstrip("_") in _FILLS
        for tensor in leaves(result):
            if fills:
                self._whole.filled(tensor)
                continue
            self._whole.natively(tensor, read=False, written=True)


def _elements(region: Region) -> int:
    return (region.high - region.low) // region.tensor.element_bytes


def _program(number: int, grid: Program) -> Program:
    """Programs start along axis 0 first."""
    return number % grid[0], number // grid[0] % grid[1], number // (grid[0] * grid[1])


def _spread(total: int, count: int) -> list[int]:
    """Numbers of so many programs, the first and the last among them, at no fixed distance."""
    if total <= count:
        return list(range(total))
    # Steps that all have a factor in common with the grid would only ever meet its columns' first programs.
    gap = total // count
    moved = [place * total // count + place * 7919 % gap for place in range(count)]
    return list(dict.fromkeys([0, total - 1, *moved]))
