"""More than one shape: which schedule serves which, and one file that holds them all in a small table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tilewright.proposers.shape_table import merge_by_size
from tilewright.search.evaluate import Evaluator, Judged
from tilewright.search.tools import Say
from tilewright.task.task import InputSpec, ModuleSource, Task
from tilewright.values.candidate import Candidate

#: Schedules that are tried at each further shape.
_MOST_TRIED = 8
#: A schedule that is not so many times as fast as the first shape's is not worth a row.
_WORTH = 1.02


@dataclass(frozen=True)
class Shaped:
    """A task at one of its shapes.

    Attributes:
        task: the same task with these inputs.
        elements: of the first tensor among the inputs.
        name: for people.
    """

    task: Task
    elements: int
    name: str


def shapes_of(task: Task) -> tuple[Shaped, ...]:
    """The further shapes that a task asks for."""
    if task.reference is None:
        return ()
    return tuple(_shaped(task, task.reference, inputs) for inputs in task.also_inputs)


def _shaped(task: Task, reference: ModuleSource, inputs: tuple[InputSpec, ...]) -> Shaped:
    first = next((spec for spec in inputs if spec.filler != "literal"), inputs[0])
    name = "x".join(str(size) for size in first.shape)
    at = replace(task, reference=replace(reference, inputs=inputs), also_inputs=(), given_code=None, document=None)
    return Shaped(at, math.prod(first.shape), name)


def family_of(best: Candidate, others: Sequence[Candidate]) -> list[Candidate]:
    """The best, and what differs from it in schedule constants that a table can hold."""
    found = [best]
    for other in others:
        if other.digest == best.digest or len(found) == _MOST_TRIED:
            continue
        if merge_by_size([(1, best.source), (None, other.source)]) is not None:
            found.append(other)
    return found


def fastest_at(evaluator: Evaluator, family: Sequence[Candidate], *, measures: bool) -> Candidate | None:
    """The member of a family that is fastest at an evaluator's shape; the first one where none is clearly faster.

    None where the first one has no time there.
    """
    judged = [one for one in evaluator.predict_all(family) if not one.rejected]
    times = _times(evaluator, judged, measures)
    if family[0].digest not in times:
        return None
    best = min(judged, key=lambda one: times.get(one.candidate.digest, math.inf)).candidate
    return best if times[family[0].digest] >= _WORTH * times[best.digest] else family[0]


def _times(evaluator: Evaluator, judged: Sequence[Judged], measures: bool) -> Mapping[str, float]:
    if not measures:
        return {one.candidate.digest: one.predicted_ms for one in judged}
    try:
        found = evaluator.measure([one.candidate for one in judged], "quick")
    finally:
        evaluator.close_clock()
    return {label: time.time_ms for label, time in found.items()}


def merged(best: Candidate, own_elements: int, chosen: Sequence[tuple[int, Candidate]]) -> Candidate | None:
    """One candidate for all shapes; None where one schedule serves them all, or the files cannot be one.

    Args:
        best: the candidate for the task's own shape.
        own_elements: elements of that shape's first input.
        chosen: (elements of the first input, candidate) for the others.
    """
    rows = sorted([(own_elements, best), *chosen], key=lambda row: row[0])
    ranges: list[_Range] = []
    for elements, candidate in rows:
        if ranges and ranges[-1].candidate.digest == candidate.digest:
            ranges[-1] = replace(ranges[-1], last=elements)
        else:
            ranges.append(_Range(elements, elements, candidate))
    if len(ranges) == 1:
        return None
    limits = [_between(one.last, after.first) for one, after in itertools.pairwise(ranges)]
    sources = [one.candidate.source for one in ranges]
    text = merge_by_size(list(zip([*limits, None], sources, strict=True)))
    if text is None:
        return None
    return replace(
        best,
        source=text,
        description=f"{best.description}; {len(ranges)} schedules by the size of the input",
        parent=best.digest,
    )


@dataclass(frozen=True)
class _Range:
    """Neighbouring shapes that one candidate serves: elements of the smallest and of the largest."""

    first: int
    last: int
    candidate: Candidate


def _between(low: int, high: int) -> int:
    """A round number between two sizes, near their geometric mean."""
    middle = math.sqrt(low * high)
    power = 1 << round(math.log2(middle))
    return power if low <= power < high else int(middle)


def passes_everywhere(evaluators: Sequence[Evaluator], candidate: Candidate, say: Say) -> str:
    """What the gate has against a candidate at further shapes; empty where it passes at all of them."""
    for evaluator in evaluators:
        judged = evaluator.gate(evaluator.predict(candidate), say)
        if judged.rejected and judged.known.verdict is not None:
            return judged.known.verdict.reasons[0].message
    return ""


def serve_shapes(
    task: Task,
    best: Candidate,
    others: Sequence[Candidate],
    own_elements: int,
    evaluator_for: Callable[[Task], Evaluator],
    *,
    measures: bool,
    say: Say,
) -> tuple[Candidate | None, str]:
    """One candidate for all shapes that a task asks for, accepted at each of the further ones; and what to note.

    Args:
        task: with its further shapes.
        best: the candidate for its own shape.
        others: what else was tried and compiles.
        own_elements: elements of its own first input.
        evaluator_for: a task -> what evaluates candidates for it.
        measures: times are measured.
        say: told what is being done.
    """
    family = family_of(best, others)
    shapes = shapes_of(task)
    evaluators = [evaluator_for(shape.task) for shape in shapes]
    chosen: list[tuple[int, Candidate]] = []
    for shape, evaluator in zip(shapes, evaluators, strict=True):
        say(f"{len(family)} schedules at {shape.name}")
        fastest = fastest_at(evaluator, family, measures=measures)
        if fastest is None:
            return None, f"the result has no time at {shape.name}: nothing was chosen by shape"
        chosen.append((shape.elements, fastest))
    one = merged(best, own_elements, chosen)
    if one is None:
        return None, f"one schedule serves all {1 + len(shapes)} shapes"
    say("the gate at every shape")
    against = passes_everywhere(evaluators, one, say)
    if against:
        return None, f"no table of schedules by shape: {against}"
    return one, f"schedules are chosen by shape, at {', '.join(shape.name for shape in shapes)} too"
