"""In a sandboxed process: what of each tensor a candidate reads and writes, and where its programs get into each
other's way. Kernels are seen through the addresses that the interpreter uses, PyTorch's operations through the
dispatcher; what both leave out was never read, or never written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tilewright.gate.inside.accesses import AccessKind, Memory, Region, Touch, TracedTensor
from tilewright.gate.inside.barriers import Barriers, Block
from tilewright.gate.inside.ordering import Ordering
from tilewright.gate.inside.pretend import poison, poisoning, really
from tilewright.gate.reference.subject import DispatchMode, leaves
from tilewright.toolchain.memory import Lanes, source_line

#: Bytes of poison before and behind an input, a multiple of every alignment that is asked for.
GUARD_BYTES = 4096
#: Intermediates with more elements are not sent along to be asked about.
_MOST_VALUES = 1 << 24
#: Kinds of findings are listed once for each place in the source, and this many places at most.
_MOST_EVENTS = 64


def guarded(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the same layout, in the middle of memory that holds poison."""
    if tensor.numel() == 0 or tensor.is_meta or not _dense(tensor):
        return tensor
    room = GUARD_BYTES // tensor.element_size()
    extent = extent_of(tensor)
    memory = poison(torch.empty(extent + 2 * room, dtype=tensor.dtype, device=tensor.device))
    return memory.as_strided(tensor.shape, tensor.stride(), room).copy_(tensor)


def extent_of(tensor: torch.Tensor) -> int:
    """Elements from the first to the last of a tensor, both included."""
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _dense(tensor: torch.Tensor) -> bool:
    """No two indices share an element, so that it can be written."""
    return all(step > 0 or size == 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


@dataclass
class Shadow:
    """What is known of one piece of memory.

    Attributes:
        storage: kept alive, so that its address stays its own.
        granule: bytes of an element.
        read, written: of each element.
        described: the largest view of it that a kernel was given, and that kernel.
        role: `input 0`, `parameter bias`; empty for the candidate's own memory.
    """

    storage: Any
    granule: int
    read: Lanes
    written: Lanes
    described: TracedTensor | None = None
    kernel: str = ""
    role: str = ""
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0

    def view(self, flags: Lanes, shape: Sequence[int], stride: Sequence[int], offset: int) -> Lanes:
        """Flags of the elements of a view."""
        if math.prod(shape) == 0:
            return np.zeros(tuple(shape), dtype=bool)
        steps = [step * flags.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flags[offset:], tuple(shape), steps, writeable=True)


@dataclass
class Event:
    """Something wrong with accesses from one line of a kernel.

    Attributes:
        kind: `outside`, `race`, `twice` or `barrier`.
        count: elements.
        low, high: the first and the last element of the tensor that is concerned, in elements from its first.
    """

    kind: str
    kernel: str
    argument: str
    access: str
    line: int
    count: int = 0
    low: int = 0
    high: int = 0

    def add(self, elements: npt.NDArray[np.int64]) -> None:
        """Count some more."""
        low, high = int(elements.min()), int(elements.max())
        self.low, self.high = (low, high) if not self.count else (min(low, self.low), max(high, self.high))
        self.count += int(elements.size)


@dataclass
class Coverage:
    """A sink of `Memory`, and what the dispatcher adds to it: one forward pass."""

    memory: Memory = field(default_factory=lambda: Memory([]))
    shadows: dict[int, Shadow] = field(default_factory=dict)
    events: dict[tuple[str, str, str, int], Event] = field(default_factory=dict)
    ordering: Ordering = field(default_factory=Ordering)
    barriers: Barriers = field(default_factory=Barriers)
    kernel: str = ""
    redone: list[str] = field(default_factory=list)
    _derived: set[int] = field(default_factory=set)
    _regions: dict[int, Shadow] = field(default_factory=dict)
    _parameters: dict[int, Shadow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory.sinks, self.memory.on_meeting = [self], self._meet

    def start(self, inputs: Sequence[torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
        """A forward pass begins on these inputs and parameters; what earlier passes made is taken as written."""
        self.events, self.shadows, self.redone = {}, {}, []
        self.memory.forget()
        self._derived = {int(tensor.untyped_storage()._cdata) for tensor in state.values()}
        with really():
            for name, tensor in state.items():
                identity = int(tensor.untyped_storage()._cdata)
                # A module may read its parameters once and keep what it made of them: what was read stays read.
                if identity in self._parameters:
                    self.shadows[identity] = self._parameters[identity]
                self._parameters[identity] = self._given(tensor, f"parameter {name}")
            for number, tensor in enumerate(inputs):
                self._given(tensor, f"input {number}")
                first = tensor.storage_offset() * tensor.element_size()
                last = first + extent_of(tensor) * tensor.element_size() if tensor.numel() else first
                self.memory.bounds[tensor.untyped_storage()._cdata] = int(first), int(last)

    def _given(self, tensor: torch.Tensor, role: str) -> Shadow:
        shadow = self.shadow_of(tensor, written=True)
        if not shadow.role:
            shadow.role, shadow.shape, shadow.stride = role, tuple(tensor.shape), tuple(tensor.stride())
            shadow.offset = int(tensor.storage_offset())
        return shadow

    def shadow_of(self, tensor: torch.Tensor, *, written: bool) -> Shadow:
        """The shadow of a tensor's memory."""
        storage = tensor.untyped_storage()
        identity = int(storage._cdata)
        found = self.shadows.get(identity)
        if found is None:
            count = int(storage.nbytes()) // tensor.element_size()
            flags = np.zeros(count, dtype=bool), np.full(count, written, dtype=bool)
            found = self.shadows[identity] = Shadow(storage, tensor.element_size(), *flags)
        return found

    # What the dispatcher sees.

    def natively(self, tensor: torch.Tensor, *, read: bool, written: bool) -> None:
        """A native operation read or wrote all of a tensor."""
        if tensor.is_meta or tensor.layout is not torch.strided:
            return
        shadow = self.shadow_of(tensor, written=True)
        if shadow.granule != tensor.element_size():  # read as another type: all or nothing
            shadow.read |= read
            shadow.written |= written
            return
        where = tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())
        if read:
            shadow.view(shadow.read, *where)[...] = True
        if written:
            shadow.view(shadow.written, *where)[...] = True

    def fresh(self, tensor: torch.Tensor) -> None:
        """A native operation made memory that nobody has written yet."""
        identity = int(tensor.untyped_storage()._cdata)
        self.shadows.pop(identity, None)
        self.shadow_of(tensor, written=False)

    def made(self, operation: str, given: set[int], results: Sequence[torch.Tensor]) -> None:
        """A native operation made tensors; where all that it took depends on parameters alone, so do they."""
        if given and given <= self._derived and results:
            self._derived |= {int(tensor.untyped_storage()._cdata) for tensor in results}
            self.redone.append(operation)

    # What the interpreter sees.

    def launch(self, kernel: str, grid: tuple[int, int, int], regions: Sequence[Region]) -> None:
        """See `Sink`."""
        self.kernel, self._regions = kernel, {}
        self.ordering.launch(math.prod(grid), self.memory.warps)
        self.barriers.launch(self.memory.warps)

    def named(self) -> frozenset[int] | None:
        """See `Sink`: all."""
        return None

    def program(self, program: tuple[int, int, int], number: int) -> bool:
        """See `Sink`."""
        self.ordering.program(number)
        self.barriers.program()
        return True

    def _meet(self, barrier: bool) -> None:
        if barrier:
            self.ordering.meet()
            self.barriers.meet()
        else:
            self.barriers.exchange()

    def touch(self, touch: Touch) -> None:
        """See `Sink`."""
        region = touch.region
        if region is None:
            self._by_address(touch)
            return
        if not region.backed:
            return
        mask = touch.mask
        if touch.outside is not None:
            outside = (touch.addresses[touch.outside] - np.uint64(region.start)).view(np.int64) // touch.element_bytes
            self._event("outside", touch, outside)
            mask = mask & ~touch.outside
        shadow = self._shadow(region)
        addresses = touch.addresses.reshape(-1) if mask.all() else touch.addresses[mask]
        elements = ((addresses - np.uint64(region.zero)) // np.uint64(shadow.granule)).view(np.int64)
        if touch.element_bytes > shadow.granule:
            parts = np.arange(touch.element_bytes // shadow.granule)
            elements = (elements[:, None] + parts).reshape(-1)
        self._mark(touch, shadow, elements, mask, region)

    def _by_address(self, touch: Touch) -> None:
        """An address that a kernel took from memory: what it reads or writes of the tensors that are known."""
        addresses = touch.addresses[touch.mask].astype(np.int64)
        for shadow in self.shadows.values() if addresses.size else ():
            offsets = addresses - int(shadow.storage.data_ptr())
            inside = (offsets >= 0) & (offsets < shadow.written.size * shadow.granule)
            for start in range(0, touch.element_bytes, shadow.granule) if inside.any() else ():
                elements = np.minimum((offsets[inside] + start) // shadow.granule, shadow.written.size - 1)
                shadow.read[elements] |= touch.kind is not AccessKind.STORE
                shadow.written[elements] |= touch.kind is not AccessKind.LOAD

    def _mark(self, touch: Touch, shadow: Shadow, elements: npt.NDArray[np.int64], mask: Lanes, region: Region) -> None:
        if touch.kind is not AccessKind.STORE:
            shadow.read[elements] = True
        if touch.kind is not AccessKind.LOAD:
            shadow.written[elements] = True
        values = None
        if touch.kind is AccessKind.STORE and touch.element_bytes == shadow.granule:
            values = np.broadcast_to(np.asarray(touch.values), mask.shape)[mask]
        for kind, wrong in self.ordering.check(touch.kind, region.storage_id, shadow, elements, values):
            self._event(kind, touch, wrong - region.tensor.storage_offset)
        lanes = np.flatnonzero(mask)
        if lanes.size != elements.size:  # of several granules each
            lanes = np.repeat(lanes, elements.size // max(lanes.size, 1))
        block = Block(elements, lanes, mask.shape)
        for wrong in self.barriers.check(touch.kind, region.storage_id, block, given=bool(shadow.role)):
            self._event("barrier", touch, wrong - region.tensor.storage_offset)

    def _shadow(self, region: Region) -> Shadow:
        found = self._regions.get(region.start)
        if found is None:
            tensor = region.tensor
            found = self.shadows.get(region.storage_id)
            if found is None:  # memory from before the pass: a kept workspace, say
                storage = self.memory.storage(region.storage_id)
                count = int(storage.nbytes()) // tensor.element_bytes
                flags = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
                found = self.shadows[region.storage_id] = Shadow(storage, tensor.element_bytes, *flags)
            if found.described is None or math.prod(tensor.shape) > math.prod(found.described.shape):
                found.described, found.kernel = tensor, self.kernel
            self._regions[region.start] = found
        return found

    def _event(self, kind: str, touch: Touch, elements: npt.NDArray[np.int64]) -> None:
        assert touch.region is not None
        key = kind, self.kernel, touch.region.tensor.argument, source_line()
        if key not in self.events:
            if len(self.events) >= _MOST_EVENTS:
                return
            self.events[key] = Event(kind, key[1], key[2], touch.kind.value, key[3])
        self.events[key].add(elements)


class NativeAccesses(DispatchMode):
    """Tells a `Coverage` what PyTorch's own operations read and write."""

    def __init__(self, coverage: Coverage) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._coverage = coverage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        result = func(*args, **options)
        if poisoning():
            return result
        with really():
            self._note(func, args, options, result)
        return result

    def _note(self, func: Any, args: Any, options: Mapping[str, Any], result: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        returns = [value.alias_info for value in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in returns):
            return  # a view
        if name in {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted"}:
            for tensor in leaves(result):
                self._coverage.fresh(tensor)
            return
        given = set()
        for position, argument in enumerate(func._schema.arguments):
            value = options.get(argument.name, args[position] if position < len(args) else None)
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in leaves(value if isinstance(value, list | tuple | torch.Tensor) else None):
                given.add(int(tensor.untyped_storage()._cdata))
                overwrites = writes and name in {"copy_", "fill_", "zero_", "normal_", "uniform_", "random_"}
                self._coverage.natively(tensor, read=not overwrites, written=writes)
        made = [tensor for tensor in leaves(result) if int(tensor.untyped_storage()._cdata) not in given]
        for tensor in made:
            self._coverage.shadows.pop(int(tensor.untyped_storage()._cdata), None)
            self._coverage.natively(tensor, read=False, written=True)
        self._coverage.made(name, given, made)


# --- what is sent back ---------------------------------------------------------------------------------------


def report(coverage: Coverage, outputs: Sequence[torch.Tensor], packed: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a pass left out and what went wrong, as JSON; flags of elements are added to `packed`.

    Call it within `really`. A tensor is listed with its unread elements where it was given, or written by
    somebody and then read in part; an output with those that nobody wrote.
    """
    returned = {int(output.untyped_storage()._cdata) for output in outputs}
    unwritten: list[dict[str, Any]] = []
    for number, output in enumerate(outputs):
        shadow = coverage.shadows.get(int(output.untyped_storage()._cdata))
        if shadow is None or shadow.granule != output.element_size():
            continue
        flags = shadow.view(shadow.written, output.shape, output.stride(), int(output.storage_offset()))
        if not flags.all():
            unwritten.append({"output": number, "flags": _packed(~flags, f"unwritten {number}", packed)})
    unread: list[dict[str, Any]] = []
    for identity, shadow in coverage.shadows.items():
        if identity in returned or shadow.read.all():
            continue
        one = _unread(shadow, len(unread), packed)
        if one is not None:
            unread.append(one)
    return {"events": [vars(event) for event in coverage.events.values()], "unwritten": unwritten, "unread": unread}


def _unread(shadow: Shadow, number: int, packed: dict[str, torch.Tensor]) -> dict[str, Any] | None:
    if shadow.role:
        place = shadow.shape, shadow.stride, shadow.offset
    elif shadow.described is not None and shadow.described.element_bytes == shadow.granule:
        place = shadow.described.shape, shadow.described.stride, shadow.described.storage_offset
    else:
        return None
    flags = shadow.view(shadow.read, *place)
    written = shadow.view(shadow.written, *place)
    if flags.all() or (not shadow.role and not (flags.any() and written.all() and flags.size <= _MOST_VALUES)):
        return None
    one: dict[str, Any] = {
        "role": shadow.role,
        "kernel": shadow.kernel,
        "argument": shadow.described.argument if shadow.described is not None else "",
        "flags": _packed(~flags, f"unread {number}", packed),
    }
    if not shadow.role:
        assert shadow.described is not None
        kind = getattr(torch, shadow.described.dtype)
        values = torch.empty(0, dtype=kind).set_(shadow.storage, place[2], place[0], place[1])
        one["values"] = f"values {number}"
        packed[one["values"]] = values.contiguous()
    return one


def _packed(flags: Lanes, name: str, packed: dict[str, torch.Tensor]) -> str:
    packed[name] = torch.from_numpy(np.ascontiguousarray(flags))
    return name
