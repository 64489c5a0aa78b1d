"""Which elements of which tensors a kernel loads and stores, by program: what Triton's interpreter sees.

`Memory` follows a process's launches and tells each access to its sinks; `Tracer` is the sink that keeps them, as
`TracedLaunch`. Tensors may lie on the CPU, or be meta tensors: then loads give zeros, stores go nowhere, and the
accesses at a task's full size cost no memory. `tilewright.gate.stages.trace` does this for a candidate in a sandbox.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from tilewright.gate.inside.pretend import really
from tilewright.toolchain.memory import ADDRESS_MASK, TAG_SHIFT, Grant, Lanes, Request, source_line

Elements = npt.NDArray[np.int64]


class AccessKind(StrEnum):
    """What an access does."""

    LOAD = "load"
    STORE = "store"
    ATOMIC = "atomic"  #: reads and writes


#: Kinds in the order in which they are numbered on the wire.
KINDS = tuple(AccessKind)
#: Dimensions of a block that the wire has columns for.
MAX_DIMS = 6


@dataclass(frozen=True)
class Sample:
    """Which programs of a launch are run: `groups` runs of `size` neighbours, spread evenly; size 0 means all.

    Programs are numbered as a GPU starts them: axis 0 first.
    """

    groups: int = 1
    size: int = 0

    def chosen(self, programs: int) -> frozenset[int] | None:
        """Numbers of the programs that are run; None for all."""
        if self.size <= 0 or self.groups * self.size >= programs:
            return None
        last = programs - self.size
        starts = [round(last * group / max(self.groups - 1, 1)) for group in range(self.groups)]
        return frozenset(start + offset for start in starts for offset in range(self.size))


@dataclass(frozen=True)
class TracedTensor:
    """A tensor argument of a launch.

    Attributes:
        argument: parameter of the kernel.
        storage: number of the memory behind it within the forward pass, from 1; views of one memory share it.
        storage_offset: of its first element in that memory, elements.
        shape, stride: in elements.
        element_bytes: size of an element.
        dtype: torch's name of its type (`float32`).
    """

    argument: str
    storage: int
    storage_offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    element_bytes: int
    dtype: str


@dataclass(frozen=True, eq=False)
class Access:
    """One load, store or atomic of one program.

    Attributes:
        program: program id (x, y, z).
        order: counts the accesses of the program, from 0.
        kind: what it does.
        argument: the kernel's parameter whose tensor the pointers were made from; empty where they were not.
        offsets: of each lane from the tensor's first element, elements of `element_bytes`; also where masked out.
        mask: lanes that are carried out; the same shape.
        element_bytes: size of what is loaded or stored.
        line: of the source; 0 where it is not known.
    """

    program: tuple[int, int, int]
    order: int
    kind: AccessKind
    argument: str
    offsets: Elements
    mask: Lanes
    element_bytes: int
    line: int


@dataclass(frozen=True, eq=False)
class TracedLaunch:
    """One launch and what the chosen programs of it accessed.

    Attributes:
        kernel: its name.
        index: counts the launches of the forward pass, from 0.
        grid: programs along each axis.
        tensors: the tensor arguments.
        programs: ids of the programs that were run.
        accesses: in the order in which the programs ran, then in that of each program.
        complete: every access of these programs is there; else the trace reached its limit.
    """

    kernel: str
    index: int
    grid: tuple[int, int, int]
    tensors: tuple[TracedTensor, ...]
    programs: tuple[tuple[int, int, int], ...]
    accesses: tuple[Access, ...]
    complete: bool = True

    def tensor(self, argument: str) -> TracedTensor | None:
        """The tensor argument of that name."""
        return next((tensor for tensor in self.tensors if tensor.argument == argument), None)


# --- following a process -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """The memory that an argument of the running launch may touch.

    Attributes:
        tensor: what it is, for people and traces.
        storage_id: identity of the memory.
        start: tagged address of the tensor's first element.
        low, high: tagged addresses of the first byte that belongs to it, and of the first beyond.
        zero: tagged address of the memory's first byte.
        backed: there is memory behind it; else it is a meta tensor.
    """

    tensor: TracedTensor
    storage_id: int
    start: int
    low: int
    high: int
    zero: int
    backed: bool


@dataclass(frozen=True)
class Touch:
    """Lanes of one access that were made from one argument.

    Attributes:
        kind: what it does.
        region: of the argument; None for pointers that came from elsewhere.
        addresses: tagged, of all lanes.
        mask: lanes that are asked for and belong to this argument.
        outside: lanes of `mask` that leave the argument's memory; None where none does.
        values: what is stored.
    """

    kind: AccessKind
    region: Region | None
    addresses: npt.NDArray[np.uint64]
    mask: Lanes
    outside: Lanes | None
    element_bytes: int
    values: Any


class Sink(Protocol):
    """What is told of each access."""

    def launch(self, kernel: str, grid: tuple[int, int, int], regions: Sequence[Region]) -> None:
        """A launch starts."""

    def named(self) -> frozenset[int] | None:
        """Numbers of the programs of the launch that may be run; None for all."""

    def program(self, program: tuple[int, int, int], number: int) -> bool:
        """Whether a program is to be run; it starts if every sink agrees."""

    def touch(self, touch: Touch) -> None:
        """An access is about to be carried out."""


@dataclass
class Memory:
    """Follows every launch of a process; an `Observer`.

    Attributes:
        sinks: told of each access.
        bounds: memory -> (first, beyond last byte, relative to it) that belongs to a tensor, where it is not all.
        warps: of a program of the running launch.
        on_meeting: told where the threads of a program meet: True at a barrier, False where they exchange values.
    """

    sinks: Sequence[Sink]
    warps: int = 4
    on_meeting: Callable[[bool], None] | None = None
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)
    _storages: dict[int, Any] = field(default_factory=dict)
    _fake: dict[int, int] = field(default_factory=dict)
    _next_fake: int = 1 << 45  # so far from 0 that no wrong offset leaves 48 bits
    _regions: list[Region] = field(default_factory=list)
    _kernel: str = ""
    _grid: tuple[int, int, int] = (1, 1, 1)
    _all_backed: bool = True

    def forget(self) -> None:
        """Start another forward pass: memory may have been reused."""
        self._numbers, self._storages, self._fake, self.bounds = {}, {}, {}, {}

    def number(self, tensor: torch.Tensor) -> int:
        """The number of the memory behind a tensor; it is kept alive, so that its identity stays its own."""
        storage = tensor.untyped_storage()
        identity = int(storage._cdata)
        if identity not in self._numbers:
            self._storages[identity] = storage
            self._numbers[identity] = len(self._numbers) + 1
        return self._numbers[identity]

    def storage(self, identity: int) -> Any:
        """The memory of that identity, which some kernel was given."""
        return self._storages[identity]

    # As an observer.

    def start_launch(self, kernel: str, warps: int) -> None:
        """See `Observer`."""
        self._kernel, self._regions, self._all_backed, self.warps = kernel, [], True, warps

    def meet(self, *, barrier: bool) -> None:
        """See `Observer`."""
        if self.on_meeting is not None:
            self.on_meeting(barrier)

    def address_of(self, argument: str, tensor: Any) -> int:
        """See `Observer`."""
        with really():
            base = getattr(tensor, "base", tensor)  # Triton's wrapper that reads a tensor as another type
            base = base if isinstance(base, torch.Tensor) else tensor
            number, storage = self.number(base), base.untyped_storage()
            identity, size, backed = int(storage._cdata), int(storage.nbytes()), not base.is_meta
            zero = int(storage.data_ptr()) if backed else self._place(identity, size)
            first = int(base.storage_offset())
        tag = (len(self._regions) + 1) << TAG_SHIFT
        low, high = self.bounds.get(identity, (0, size))
        described = TracedTensor(
            argument, number, first, tuple(base.shape), tuple(base.stride()), base.element_size(),
            str(base.dtype).removeprefix("torch."),
        )  # fmt: skip
        zero |= tag
        region = Region(described, identity, zero + first * base.element_size(), zero + low, zero + high, zero, backed)
        self._regions.append(region)
        self._all_backed = self._all_backed and backed
        return region.start

    def _place(self, identity: int, size: int) -> int:
        if identity not in self._fake:
            self._fake[identity] = self._next_fake
            self._next_fake += (size | 0xFFF) + 0x10001
        return self._fake[identity]

    def start_grid(self, grid: tuple[int, int, int]) -> None:
        """See `Observer`."""
        self._grid = grid
        for sink in self.sinks:
            sink.launch(self._kernel, grid, tuple(self._regions))

    def programs(self, grid: tuple[int, int, int]) -> Iterable[tuple[int, int, int]]:
        """The programs that are asked for, axis 2 fastest: those that a sink names, where one does, and else all.

        A grid of 16 million programs, of which six are run, takes a minute and a half to be walked.
        """
        named = [numbers for sink in self.sinks if (numbers := sink.named()) is not None]
        if not named:
            return itertools.product(range(grid[0]), range(grid[1]), range(grid[2]))
        wanted = frozenset.intersection(*named)
        return sorted((n % grid[0], n // grid[0] % grid[1], n // (grid[0] * grid[1])) for n in wanted)

    def wants(self, program: tuple[int, int, int]) -> bool:
        """See `Observer`."""
        x, y, z = program
        number = x + self._grid[0] * (y + self._grid[1] * z)
        answers = [sink.program(program, number) for sink in self.sinks]  # each is told
        return all(answers)

    def grant(self, request: Request) -> Grant:
        """See `Observer`."""
        touches = self._touches(request)
        mask, poisoned = request.mask, None
        for touch in touches:
            for sink in self.sinks:
                sink.touch(touch)
            if touch.outside is not None:
                mask = mask & ~touch.outside
                poisoned = touch.outside if poisoned is None else poisoned | touch.outside
            if not self._all_backed and (touch.region is None or not touch.region.backed):
                mask = mask & ~touch.mask
        return Grant(request.addresses & np.uint64(ADDRESS_MASK), mask, poisoned)

    def end_launch(self) -> None:
        """See `Observer`."""

    def _touches(self, request: Request) -> list[Touch]:
        """The lanes by argument: nearly always all of one."""
        addresses, mask = request.addresses, request.mask
        if addresses.size == 0:
            return []
        tag = int(addresses.flat[0]) >> TAG_SHIFT
        one = self._touch(request, tag, mask)
        if one.outside is None:
            return [one]
        tags = np.where(mask, addresses >> np.uint64(TAG_SHIFT), tag)
        return [self._touch(request, int(found), mask & (tags == found)) for found in np.unique(tags)]

    def _touch(self, request: Request, tag: int, mask: Lanes) -> Touch:
        kind = AccessKind(request.kind)
        if not 0 < tag <= len(self._regions):
            return Touch(kind, None, request.addresses, mask, None, request.element_bytes, request.values)
        region = self._regions[tag - 1]
        last = region.high - region.low - request.element_bytes
        if last < 0:
            wrong = mask
        else:
            wrong = (request.addresses - np.uint64(region.low)) > np.uint64(last)
            wrong = wrong & mask if wrong.any() else wrong
        outside = wrong if wrong.any() else None
        return Touch(kind, region, request.addresses, mask, outside, request.element_bytes, request.values)


#: Lanes that a trace keeps at most, over all launches: 9 bytes each.
MAX_LANES = 1 << 25


@dataclass
class Tracer:
    """The sink that keeps accesses.

    Attributes:
        sample: which programs of each launch are run.
        max_lanes: beyond so many lanes nothing more is kept.
    """

    sample: Sample
    max_lanes: int = MAX_LANES
    _launches: list[_OpenLaunch] = field(default_factory=list)
    _lanes: int = 0

    def launch(self, kernel: str, grid: tuple[int, int, int], regions: Sequence[Region]) -> None:
        """See `Sink`."""
        chosen = self.sample.chosen(math.prod(grid))
        self._launches.append(_OpenLaunch(kernel, grid, tuple(region.tensor for region in regions), chosen))

    def named(self) -> frozenset[int] | None:
        """See `Sink`."""
        return self._launches[-1].chosen

    def program(self, program: tuple[int, int, int], number: int) -> bool:
        """See `Sink`."""
        launch = self._launches[-1]
        if self._lanes > self.max_lanes:
            launch.complete = False
            return False
        if launch.chosen is not None and number not in launch.chosen:
            return False
        launch.programs.append(program)
        launch.order = 0
        return True

    def touch(self, touch: Touch) -> None:
        """See `Sink`."""
        launch = self._launches[-1]
        self._lanes += touch.mask.size
        start = touch.region.start if touch.region is not None else 0
        offsets = (touch.addresses - np.uint64(start)).view(np.int64) // touch.element_bytes
        name = touch.region.tensor.argument if touch.region is not None else ""
        launch.accesses.append(
            Access(
                launch.programs[-1], launch.order, touch.kind, name, offsets, touch.mask.copy(),
                touch.element_bytes, source_line(),
            )
        )  # fmt: skip
        launch.order += 1

    def launches(self) -> tuple[TracedLaunch, ...]:
        """What was kept until now."""
        return tuple(
            TracedLaunch(
                one.kernel, index, one.grid, one.tensors, tuple(one.programs), tuple(one.accesses), one.complete
            )
            for index, one in enumerate(self._launches)
        )


@dataclass
class _OpenLaunch:
    kernel: str
    grid: tuple[int, int, int]
    tensors: tuple[TracedTensor, ...]
    chosen: frozenset[int] | None
    programs: list[tuple[int, int, int]] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    complete: bool = True
    order: int = 0
