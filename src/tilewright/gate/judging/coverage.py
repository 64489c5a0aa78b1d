"""From what was read, written and left out to findings, in ranges; unread elements only where they matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tilewright.gate.contract.rules import finding
from tilewright.gate.judging.judge import Expected
from tilewright.gate.probes.planning import Family, Probe
from tilewright.sandbox.job import JobResult, Part
from tilewright.values.serialise import JsonValue
from tilewright.values.verdict import Finding, Severity

#: So many tensors with unread elements are asked about at most.
_MOST_QUESTIONS = 12


@dataclass(frozen=True)
class AccessEvent:
    """Accesses from one line that leave their tensor, race, or store twice; `low` and `high` in elements of it."""

    kind: str
    kernel: str
    argument: str
    access: str
    line: int
    count: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Unread:
    """Elements of a tensor that nothing read; `values` of a tensor that the candidate made itself."""

    role: str
    kernel: str
    argument: str
    flags: torch.Tensor
    values: torch.Tensor | None = None

    @property
    def name(self) -> str:
        """For people: `input 0 (x_ptr of kernel)`."""
        inner = f"{self.argument} of {self.kernel}" if self.argument else ""
        return f"{self.role} ({inner})" if self.role and inner else self.role or inner


@dataclass(frozen=True, eq=False)
class Covered:
    """What one run of a candidate left out, and what was wrong with its accesses."""

    index: int
    choice: int
    events: tuple[AccessEvent, ...]
    unwritten: tuple[tuple[int, torch.Tensor], ...]
    unread: tuple[Unread, ...]
    redone: tuple[str, ...] = ()


def read_covered(part: Part, index: int, choice: int) -> list[Covered]:
    """The coverage in a run's report, which is data of the other side; nothing where there is none to be read."""
    try:
        found = _read(part, index, choice)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, IndexError):
        return []
    return [] if found is None else [found]


def _read(part: Part, index: int, choice: int) -> Covered | None:
    data = part.data.get("coverage") if isinstance(part.data, Mapping) else None
    if data is None:
        return None
    events = tuple(
        AccessEvent(
            str(one["kind"]), str(one["kernel"]), str(one["argument"]), str(one["access"]),
            int(one["line"]), int(one["count"]), int(one["low"]), int(one["high"]),
        )
        for one in data["events"]
    )  # fmt: skip
    unwritten = tuple((int(one["output"]), _flags(part, one["flags"])) for one in data["unwritten"])
    unread = tuple(
        Unread(
            str(one["role"]), str(one["kernel"]), str(one["argument"]), _flags(part, one["flags"]),
            part.tensors[one["values"]] if "values" in one else None,
        )
        for one in data["unread"]
    )  # fmt: skip
    return Covered(index, choice, events, unwritten, unread, tuple(str(name) for name in data.get("redone", ())))


def _flags(part: Part, name: str) -> torch.Tensor:
    flags = part.tensors[name]
    if flags.dtype is not torch.bool:
        raise ValueError("flags are not flags")
    return flags


def ranges(flags: torch.Tensor) -> str:
    """Flagged elements in words: `32 to 255 of dim 2`, or the share of them and the box that they lie in."""
    if flags.dim() == 0 or bool(flags.all()):
        return "all elements"
    parts = []
    for dim in range(flags.dim()):
        others = tuple(d for d in range(flags.dim()) if d != dim)
        whole = flags.all(dim=others) if others else flags
        if bool(whole.any()):
            parts.append(f"{_runs(whole)} of dim {dim}")
    if parts:
        return " and ".join(parts)
    box = []
    for dim in range(flags.dim()):
        others = tuple(d for d in range(flags.dim()) if d != dim)
        some = (flags.amax(dim=others) if others else flags).nonzero().flatten().tolist()
        if len(some) < flags.shape[dim]:
            box.append(f"dim {dim}: {some[0]} to {some[-1]}")
    share = int(flags.sum()) / flags.numel()
    return f"{share:.1%} of the elements" + (f" ({', '.join(box)})" if box else "")


def _runs(whole: torch.Tensor) -> str:
    indices = whole.nonzero().flatten().tolist()
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    shown = [str(a) if a == b else f"{a} to {b}" for a, b in runs[:3]]
    more = f" and {len(runs) - 3} more ranges" if len(runs) > 3 else ""
    word = "row" if len(indices) == 1 else "rows"
    return f"{word} {', '.join(shown)}{more}"


@dataclass(frozen=True)
class Weighing:
    """How much a finding weighs, from the probes that show it.

    Attributes:
        own_code: the candidate was emitted by this tool.
        own_right: the task's own sizes were run, and are right.
    """

    own_code: bool
    own_right: bool

    def severity(self, probes: Sequence[Probe]) -> Severity:
        """`error` where the task's own sizes or any module of ours is concerned; else a limit."""
        families = {probe.family for probe in probes}
        must = self.own_code or not self.own_right or bool(families & {Family.OWN, Family.VALUE, Family.EXTREME})
        return Severity.ERROR if must or any(probe.own_size for probe in probes) else Severity.LIMIT


def event_findings(
    covered: Sequence[Covered], expected: Sequence[Expected | None], weighing: Weighing
) -> list[Finding]:
    """One finding for each place in the source: what leaves its tensor, races, or is stored more than once."""
    places: dict[tuple[str, str, str, int], list[tuple[AccessEvent, Covered]]] = {}
    for run in covered:
        for event in run.events:
            places.setdefault((event.kind, event.kernel, event.argument, event.line), []).append((event, run))
    found = []
    for (kind, kernel, argument, line), seen in places.items():
        severity = weighing.severity(_probes([run for _, run in seen], expected))
        event, run = min(seen, key=lambda pair: _rank(pair[1], expected))
        probe = _probe_name(run, expected)
        text = _EVENT_TEXTS.get(kind, "{access}s of {argument} in {kernel} are wrong ({count})").format(
            **{**vars(event), "kernel": kernel, "argument": argument}
        )
        where = f"line {line}" if line else kernel
        names: list[JsonValue] = [*sorted({_probe_name(r, expected) for _, r in seen})]
        evidence: dict[str, JsonValue] = {"probes": names, "configuration": run.choice, "elements": event.count}
        one = finding(f"coverage.{kind}", f"{probe}: {text}", where=where)
        if one.severity is Severity.ERROR and not _harmful(event):
            one = replace(one, severity=severity)
        found.append(replace(one, evidence=evidence))
    return found


def _harmful(event: AccessEvent) -> bool:
    """A store outside of its tensor changes somebody else's memory: no range of validity makes up for that."""
    return event.kind == "outside" and event.access != "load"


_EVENT_TEXTS: Mapping[str, str] = {
    "outside": "{access}s of {argument} in {kernel} leave the tensor: {count} elements, at {low} to {high} counted "
    "from its first",
    "race": "programs of {kernel} race over {argument}: {count} elements ({low} to {high}) are touched by several, "
    "one of them writing another value, in no fixed order",
    "barrier": "in a program of {kernel}, {access}s of {argument} touch what other threads of the program touched in "
    "the same memory with no barrier in between: {count} elements ({low} to {high}); put tl.debug_barrier() between, "
    "or keep the value in registers",
    "twice": "programs of {kernel} store the same values to {argument} more than once: {count} elements "
    "({low} to {high})",
}


def unwritten_findings(
    covered: Sequence[Covered], expected: Sequence[Expected | None], weighing: Weighing
) -> list[Finding]:
    """Outputs with elements that nobody wrote, one finding for each."""
    found = []
    for output in sorted({number for run in covered for number, _ in run.unwritten}):
        runs = [(run, flags) for run in covered for number, flags in run.unwritten if number == output]
        run, flags = min(runs, key=lambda pair: _rank(pair[0], expected))
        probes = _probes([run for run, _ in runs], expected)
        name = _probe_name(run, expected)
        text = f"{name}: {ranges(flags)} of output {output} {tuple(flags.shape)} are never written"
        one = finding("coverage.unwritten", text, where=name)
        evidence: dict[str, JsonValue] = {"configuration": run.choice, "elements": int(flags.sum())}
        found.append(replace(one, severity=weighing.severity(probes), evidence=evidence))
    return found


def redone_findings(covered: Sequence[Covered]) -> list[Finding]:
    """A note on work on parameters alone that is done again on every call."""
    names = list(dict.fromkeys(name for run in covered for name in run.redone))
    if not names:
        return []
    text = f"every call does again what depends on parameters alone: {', '.join(names[:8])}"
    return [finding("cost.redone", text)]


#: Asks for the answers to questions: (JSON of the questions, tensors) -> what came back.
Ask = Callable[[list[dict[str, Any]], dict[str, torch.Tensor]], JobResult]


def unread_findings(
    covered: Sequence[Covered], expected: Sequence[Expected | None], weighing: Weighing, ask: Ask
) -> list[Finding]:
    """Unread elements that the reference's output depends on, one finding for each tensor.

    The reference is asked for the most telling runs of each tensor.
    """
    tensors: dict[tuple[str, str, str], list[tuple[Covered, Unread]]] = {}
    for run in covered:
        for one in run.unread:
            tensors.setdefault((one.role, one.kernel, one.argument), []).append((run, one))
    asked = _most_telling(list(tensors.values()), expected)
    if not asked:
        return []
    questions, sent = _questions(asked, expected)
    result = ask(questions, sent)
    found: dict[tuple[str, str, str], Finding] = {}
    for number, (run, one) in enumerate(asked):
        part = result.part(f"answer {number}")
        if part is None or not float(part.data["changed"]) > 0.0:
            continue
        key = one.role, one.kernel, one.argument
        severity = weighing.severity(_probes([run], expected))
        name = _probe_name(run, expected)
        text = (
            f"{name}: {ranges(one.flags)} of {one.name} {tuple(one.flags.shape)} are never read, and the reference's "
            f"output depends on them"
        )
        evidence: dict[str, JsonValue] = {
            "configuration": run.choice,
            "elements": int(one.flags.sum()),
            "changed": float(part.data["changed"]),
            "reference": str(part.data["what"]),
        }
        new = replace(finding("coverage.unread", text, where=name), severity=severity, evidence=evidence)
        if key not in found or (severity is Severity.ERROR and found[key].severity is not Severity.ERROR):
            found[key] = new
    return list(found.values())


def _most_telling(
    tensors: Sequence[Sequence[tuple[Covered, Unread]]], expected: Sequence[Expected | None]
) -> list[tuple[Covered, Unread]]:
    """The runs to ask about: of each tensor the first in rank, and those that leave the largest share unread."""

    def share(pair: tuple[Covered, Unread]) -> float:
        return float(pair[1].flags.float().mean())

    first = [min(seen, key=lambda pair: _rank(pair[0], expected)) for seen in tensors]
    among_own = [[pair for pair in seen if _rank(pair[0], expected)[0] <= 1] for seen in tensors]
    largest = [max(seen, key=share) for seen in (*among_own, *tensors) if seen]
    chosen = {(id(run), id(one)): (run, one) for run, one in (*first, *largest)}
    return list(chosen.values())[:_MOST_QUESTIONS]


def _questions(
    asked: Sequence[tuple[Covered, Unread]], expected: Sequence[Expected | None]
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    questions: list[dict[str, Any]] = []
    sent: dict[str, torch.Tensor] = {}
    for number, (run, one) in enumerate(asked):
        answer = expected[run.index]
        assert answer is not None
        flags, values = f"q{number}.flags", f"q{number}.values"
        sent[flags] = one.flags
        if one.values is not None:
            sent[values] = one.values
        questions.append(
            {
                "index": run.index,
                "constructor": answer.probe.constructor,
                "weights_key": answer.weights_key,
                "role": one.role,
                "flags": flags,
                "values": values,
            }
        )
    return questions, sent


_ORDER = (Family.OWN, Family.VALUE, Family.ARGUMENT, Family.SIZE, Family.CONSTRUCTOR, Family.EXTREME)


def _rank(run: Covered, expected: Sequence[Expected | None]) -> tuple[int, int, int]:
    """The most telling first: the task's own sizes, with weights to which the output answers."""
    answer = expected[run.index]
    if answer is None:
        return len(_ORDER), 1, run.index
    # A dimension at the task's own size tells as much as its own sizes do.
    order = 0 if answer.probe.own_size else _ORDER.index(answer.probe.family)
    return order, int(answer.probe.weights == "own"), run.index


def _probes(runs: Sequence[Covered], expected: Sequence[Expected | None]) -> list[Probe]:
    return [answer.probe for run in runs if (answer := expected[run.index]) is not None]


def _probe_name(run: Covered, expected: Sequence[Expected | None]) -> str:
    answer = expected[run.index]
    return answer.probe.name if answer is not None else f"probe {run.index}"
