"""How long one warp needs when nobody else is in its way, and what it asks of each unit.

A warp issues one instruction a cycle at most and waits for operands. Loads bring theirs after a latency that the
caller gives; several that are issued before the first is used overlap, which is what bytes in flight (Little's
law) come from. L1 gives a warp its data in the order of its requests, so that a spilled register that is read back
waits for the loads issued before it (seen on an H200: a kernel with spills between its loads spends four fifths of
its time there).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tilewright.measure import constants as c
from tilewright.measure.flow import Loop, Path, Step
from tilewright.measure.sass import Instruction, Pipe, Space

#: Iterations of a loop that are followed step by step; the rest take what the last of them took.
_FOLLOWED = 3


@dataclass(frozen=True)
class Latencies:
    """Cycles until the result of a load is there, by where it comes from.

    Attributes:
        of_load: mean latency of a load from global memory, by its source line; `other` for lines without one.
        requests: cycles for which a warp's access of global memory occupies the path to L1, by line.
    """

    of_load: Mapping[int, float]
    requests: Mapping[int, float]
    other: float


@dataclass(frozen=True)
class Program:
    """What a warp shares the units of its multiprocessor with: the other warps of its program, which run in step.

    Attributes:
        warps: of the program; 1 for a warp on its own.
        banks: place in the code -> cycles for which an instruction of one warp occupies shared memory.
        fills: source line -> cycles for which what L1 misses of a request is written to it.
    """

    warps: int = 1
    banks: Mapping[int, float] = field(default_factory=dict)
    fills: Mapping[int, float] = field(default_factory=dict)

    @property
    def of_partition(self) -> float:
        """Warps that share a partition's issue slot and tensor core."""
        return max(1.0, self.warps / 4.0)


_ALONE = Program()


@dataclass
class _Clock:
    """The state of a warp: the time, and when each register is ready."""

    now: float = 0.0
    memory_free: float = 0.0
    ready: dict[str, float] = field(default_factory=dict)
    waits: dict[str, str] = field(default_factory=dict)
    groups: list[float] = field(default_factory=list)
    open_group: float = 0.0
    tensor: list[float] = field(default_factory=list)
    tensor_free: float = 0.0
    stalls: dict[str, float] = field(default_factory=dict)
    returned: float = 0.0
    program: Program = _ALONE

    def shift(self, cycles: float) -> None:
        """Move everything later."""
        self.now += cycles
        self.memory_free += cycles
        self.tensor_free += cycles
        self.open_group += cycles
        self.returned += cycles
        self.ready = {name: when + cycles for name, when in self.ready.items()}
        self.groups = [when + cycles for when in self.groups]
        self.tensor = [when + cycles for when in self.tensor]


@dataclass(frozen=True)
class Timeline:
    """One warp alone.

    Attributes:
        cycles: from its first instruction to its last.
        stalls: reason -> cycles that it waited, in Nsight Compute's words.
    """

    cycles: float
    stalls: Mapping[str, float]


def follow(
    path: Path, latencies: Latencies, tensor_cycles: Callable[[Instruction], float], program: Program = _ALONE
) -> Timeline:
    """Follow a warp along its path.

    Args:
        path: what it executes.
        latencies: of its loads.
        tensor_cycles: cycles for which an instruction occupies the tensor core of the warp's partition.
        program: the warps that do the same at the same time; the warp that is followed is served last.
    """
    clock = _Clock(program=program)
    _run(path.steps, clock, latencies, tensor_cycles)
    end = max([clock.now, *clock.ready.values()], default=clock.now) if not path.steps else clock.now
    return Timeline(end, dict(clock.stalls))


def _run(
    steps: Sequence[Step], clock: _Clock, latencies: Latencies, tensor_cycles: Callable[[Instruction], float]
) -> None:
    for step in steps:
        if isinstance(step, Loop):
            _run_loop(step, clock, latencies, tensor_cycles)
        else:
            _issue(step, clock, latencies, tensor_cycles)


def _run_loop(loop: Loop, clock: _Clock, latencies: Latencies, tensor_cycles: Callable[[Instruction], float]) -> None:
    whole = int(loop.trips)
    last, waited = 0.0, {}
    for _ in range(min(whole, _FOLLOWED)):
        before, stalls = clock.now, dict(clock.stalls)
        _run(loop.body, clock, latencies, tensor_cycles)
        last = clock.now - before
        waited = {name: value - stalls.get(name, 0.0) for name, value in clock.stalls.items()}
    rest = loop.trips - min(whole, _FOLLOWED)
    if rest > 0:
        if not whole:
            before = clock.now
            _run(loop.body, clock, latencies, tensor_cycles)
            last, rest = clock.now - before, rest - 1.0
            clock.shift(last * rest)
            return
        clock.shift(last * rest)
        for name, value in waited.items():
            clock.stalls[name] = clock.stalls.get(name, 0.0) + value * rest


def _issue(
    instruction: Instruction, clock: _Clock, latencies: Latencies, tensor_cycles: Callable[[Instruction], float]
) -> None:
    when, reason = clock.now + clock.program.of_partition, "selected"
    for name in (*instruction.reads, *instruction.writes):
        ready = clock.ready.get(name, 0.0)
        if ready > when:
            when, reason = ready, clock.waits.get(name, "wait")
    when, reason = _wait_for_groups(instruction, clock, when, reason)
    if instruction.pipe is Pipe.MEMORY and clock.memory_free > when and _occupies(instruction, clock, latencies) > 0:
        when, reason = clock.memory_free, "lg_throttle"
    if instruction.pipe is Pipe.TENSOR and clock.tensor_free > when:
        when, reason = clock.tensor_free, "math_pipe_throttle"
    if reason != "selected":
        clock.stalls[reason] = clock.stalls.get(reason, 0.0) + when - clock.now - 1.0
    clock.now = when
    _finish(instruction, clock, latencies, tensor_cycles)


def _wait_for_groups(instruction: Instruction, clock: _Clock, when: float, reason: str) -> tuple[float, str]:
    """Waits for copies to shared memory, and for asynchronous products."""
    if instruction.base == "DEPBAR" or instruction.opcode.startswith("WARPGROUP.DEPBAR"):
        left = int(instruction.text.rsplit(",", 1)[-1].strip(), 16) if "0x" in instruction.text else 0
        queue = clock.tensor if instruction.base == "WARPGROUP" else clock.groups
        due = queue[: len(queue) - left] if left else list(queue)
        del queue[: len(due)]
        if due and max(due) > when:
            return max(due), "long_scoreboard" if queue is clock.groups else "gmma"
    return when, reason


def _finish(
    instruction: Instruction, clock: _Clock, latencies: Latencies, tensor_cycles: Callable[[Instruction], float]
) -> None:
    """When the results are there."""
    latency, reason = _latency(instruction, latencies)
    occupied = _occupies(instruction, clock, latencies)
    if occupied > 0:
        clock.memory_free = max(clock.now, clock.memory_free) + occupied
        latency += clock.memory_free - clock.now
    if instruction.pipe is Pipe.TENSOR:
        busy = tensor_cycles(instruction) * clock.program.of_partition
        clock.tensor_free = max(clock.now, clock.tensor_free) + busy
        if instruction.base.endswith("GMMA"):
            clock.tensor.append(clock.tensor_free + c.ASYNC_PRODUCT_LATENCY_CYCLES)
            return
        latency = max(latency, clock.tensor_free - clock.now)
    if instruction.base == "LDGSTS":
        clock.open_group = max(clock.open_group, clock.now + latency)
    if instruction.base == "LDGDEPBAR":
        clock.groups.append(clock.open_group)
        clock.open_group = clock.now
    if instruction.base == "BAR":
        clock.now += c.BARRIER_CYCLES
        clock.stalls["barrier"] = clock.stalls.get("barrier", 0.0) + c.BARRIER_CYCLES
    ready = clock.now + latency
    if instruction.is_load and instruction.space in (Space.GLOBAL, Space.LOCAL) and instruction.writes:
        # L1 hands a warp its data in the order in which it asked: a hit waits for misses before it.
        ready = clock.returned = max(ready, clock.returned)
    for name in instruction.writes:
        clock.ready[name] = ready
        clock.waits[name] = reason


def _occupies(instruction: Instruction, clock: _Clock, latencies: Latencies) -> float:
    """Cycles for which a program's accesses at one place occupy the path of L1 and shared memory."""
    if instruction.pipe is not Pipe.MEMORY:
        return 0.0
    banks = clock.program.banks.get(instruction.address, 0.0)
    lookups = latencies.requests.get(instruction.line, 1.0) if instruction.space is Space.GLOBAL else 0.0
    # A copy through L1 is written there, read, and stored; one that goes past it is stored alone.
    if instruction.base == "LDGSTS" and instruction.past_l1:
        return max(lookups, banks) * clock.program.warps
    fills = clock.program.fills.get(instruction.line, 0.0) if instruction.is_load and lookups > 0 else 0.0
    return (lookups + fills + banks) * clock.program.warps


def _latency(instruction: Instruction, latencies: Latencies) -> tuple[float, str]:
    """Cycles until the result can be used, and what a warp that waits for it is said to wait for."""
    if instruction.space is Space.GLOBAL:
        return latencies.of_load.get(instruction.line, latencies.other), "long_scoreboard"
    if instruction.space is Space.LOCAL:
        return c.L1_LATENCY_CYCLES, "long_scoreboard"
    if instruction.space is Space.SHARED or instruction.base == "SHFL":
        return c.SHARED_LATENCY_CYCLES, "short_scoreboard"
    if instruction.pipe is Pipe.SPECIAL or instruction.base in ("S2R", "S2UR", "LDC"):
        return c.SPECIAL_LATENCY_CYCLES, "short_scoreboard"
    if instruction.pipe is Pipe.TENSOR:
        return c.PRODUCT_LATENCY_CYCLES, "math_pipe_throttle"
    return c.ARITHMETIC_LATENCY_CYCLES, "wait"
