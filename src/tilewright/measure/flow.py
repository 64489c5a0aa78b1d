"""The path that a warp takes through a kernel: its loops, how often each runs, and what it executes in all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tilewright.measure.sass import Instruction


@dataclass(frozen=True)
class Loop:
    """A loop of the hot path.

    Attributes:
        body: instructions and inner loops, in order.
        trips: how often it runs, of one warp.
        known: the trips follow from accesses that the interpreter saw; else they are 1.
    """

    body: tuple[Instruction | Loop, ...]
    trips: float
    known: bool = True


Step = Instruction | Loop


@dataclass(frozen=True)
class Path:
    """What one warp executes.

    Attributes:
        steps: instructions and loops.
        notes: what could not be told.
    """

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def executed(self) -> Iterator[tuple[Instruction, float]]:
        """Each instruction with how often one warp executes it."""
        yield from _executed(self.steps, 1.0)


def _executed(steps: Sequence[Step], times: float) -> Iterator[tuple[Instruction, float]]:
    for step in steps:
        if isinstance(step, Loop):
            yield from _executed(step.body, times * step.trips)
        else:
            yield step, times


@dataclass
class _Region:
    """A loop as it is found: the first and last index of its instructions."""

    start: int
    end: int
    inner: list[_Region] = field(default_factory=list)


def hot_path(code: Sequence[Instruction], wanted: Mapping[tuple[int, bool], float]) -> Path:
    """The path through `code`, loops with the trips that explain how often each source line accesses memory.

    Cold code (after the last unconditional exit, and around calls of slow paths) is left out.

    Args:
        code: of one kernel.
        wanted: (source line, it stores) -> bytes of global memory that one lane asks for there.
    """
    hot = _hot_indices(code)
    regions = _loops(code, hot)
    steps, _ = _steps(code, hot, regions, 0, len(code))
    weights = _weights(steps)
    notes: list[str] = []
    solved = _with_trips(steps, wanted, weights, 1.0, notes)
    return Path(tuple(solved), tuple(dict.fromkeys(notes)))


def _hot_indices(code: Sequence[Instruction]) -> list[bool]:
    """Which instructions lie on the main path: branches fall through unless that leads to a call alone."""
    place = {instruction.address: index for index, instruction in enumerate(code)}
    hot = [False] * len(code)
    index = 0
    while index < len(code):
        instruction = code[index]
        hot[index] = True
        if instruction.base == "EXIT" and not instruction.guarded:
            break
        target = place.get(instruction.target, -1) if instruction.target is not None else -1
        if target > index and (not instruction.guarded or _leads_past_little(code, place, index + 1, target)):
            index = target
            continue
        index += 1
    for position, instruction in enumerate(code):
        if instruction.base == "NOP" or (instruction.target == instruction.address):
            hot[position] = False
    return hot


def _leads_past_little(code: Sequence[Instruction], place: Mapping[int, int], start: int, end: int) -> bool:
    """A guarded branch is taken: it skips the rare case of a division or root, or the lesser arm of two.

    The arm that is skipped ends with a jump over the other one; the arm with a loop, or else the longer, counts.
    """
    between = code[start:end]
    if any(item.base in ("CALL", "RET") for item in between) and len(between) < 40:
        return True
    last = between[-1] if between else None
    if last is None or last.guarded or last.target is None or last.base != "BRA":
        return False
    after = place.get(last.target, 0)
    if after <= end:
        return False
    return _weight(code[end:after]) > _weight(between)


def _weight(code: Sequence[Instruction]) -> tuple[int, int]:
    return sum(item.target is not None and item.target <= item.address for item in code), len(code)


def _loops(code: Sequence[Instruction], hot: Sequence[bool]) -> list[_Region]:
    """Loops, outermost first, each with those inside it."""
    place = {instruction.address: index for index, instruction in enumerate(code)}
    spans: dict[int, int] = {}
    for index, instruction in enumerate(code):
        if instruction.target is None or not hot[index] or instruction.target == instruction.address:
            continue
        start = place.get(instruction.target, len(code))
        if start <= index:
            spans[start] = max(index, spans.get(start, 0))
    outer: list[_Region] = []
    for start, end in sorted(spans.items(), key=lambda span: (span[0], -span[1])):
        region, level = _Region(start, end), outer
        while level and level[-1].end >= end:
            level = level[-1].inner
        level.append(region)
    return outer


def _steps(
    code: Sequence[Instruction], hot: Sequence[bool], regions: Sequence[_Region], start: int, end: int
) -> tuple[list[Step], int]:
    found: list[Step] = []
    waiting = list(regions)
    index = start
    while index < end:
        if waiting and waiting[0].start == index:
            region = waiting.pop(0)
            body, _ = _steps(code, hot, region.inner, region.start, region.end + 1)
            found.append(Loop(tuple(body), 1.0))
            index = region.end + 1
            continue
        if hot[index]:
            found.append(code[index])
        index += 1
    return found, index


def access_key(instruction: Instruction) -> tuple[int, bool] | None:
    """(line, stores) of an access of global memory; None for other instructions."""
    from tilewright.measure.sass import Space

    if instruction.space is not Space.GLOBAL:
        return None
    return instruction.line, instruction.is_store


def _weights(steps: Sequence[Step]) -> dict[tuple[int, bool], float]:
    """Bytes that a lane asks for at each source line when every loop runs once."""
    found: dict[tuple[int, bool], float] = {}
    for instruction, times in _executed(steps, 1.0):
        key = access_key(instruction)
        if key is not None:
            found[key] = found.get(key, 0.0) + times * instruction.bytes_per_lane
    return found


def _with_trips(
    steps: Sequence[Step],
    wanted: Mapping[tuple[int, bool], float],
    whole: Mapping[tuple[int, bool], float],
    times: float,
    notes: list[str],
) -> list[Step]:
    """Give each loop the trips that its accesses need: (wanted - outside) / inside.

    Of several loops over the same line (an unrolled one and its remainder), the one with most bytes takes all.
    """
    loops = [step for step in steps if isinstance(step, Loop)]
    inside = [_weights([loop]) for loop in loops]
    found: list[Step] = []
    for step in steps:
        if not isinstance(step, Loop):
            found.append(step)
            continue
        own = inside[[loop is step for loop in loops].index(True)]
        trips, known = _trips(own, inside, wanted, whole, times)
        if not known and any(instruction.pipe != "control" for instruction, _ in _executed(step.body, 1.0)):
            notes.append("a loop that accesses no global memory is counted once")
        remaining = _with_trips(step.body, wanted, own, times * trips, notes)
        found.append(Loop(tuple(remaining), trips, known))
    return found


def _trips(
    own: Mapping[tuple[int, bool], float],
    siblings: Sequence[Mapping[tuple[int, bool], float]],
    wanted: Mapping[tuple[int, bool], float],
    whole: Mapping[tuple[int, bool], float],
    times: float,
) -> tuple[float, bool]:
    best: tuple[float, float] | None = None
    for key, weight in own.items():
        need = wanted.get(key)
        if need is None or weight <= 0:
            continue
        if any(other is not own and other.get(key, 0.0) > weight for other in siblings):
            best = max(best or (0.0, 0.0), (0.0, 0.0))
            continue
        outside = whole.get(key, weight) - weight
        trips = max(0.0, (need / times - outside) / weight)
        best = max(best or (0.0, 0.0), (weight * trips, trips))
    if best is None:
        return 1.0, False
    return best[1], True
