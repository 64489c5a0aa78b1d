"""From what came back to findings: the verdict is computed here, on the side that the candidate does not own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from tilewright.gate.compare.errors import Allowed, Errors
from tilewright.gate.compare.exactness import Right, compared, worst_of
from tilewright.gate.judging.excuses import Excuses, excuses_of
from tilewright.gate.probes.planning import Family, Probe
from tilewright.gate.reference.subject import Form, leaves
from tilewright.sandbox import wire
from tilewright.sandbox.job import JobResult
from tilewright.values.serialise import JsonValue
from tilewright.values.verdict import ErrorRow, Finding, Severity


@dataclass(frozen=True)
class Expected:
    """What the oracle says of one probe.

    Attributes:
        probe: the probe.
        weights_key: name of its weights.
        inputs: as a packed tree.
        exact: outputs in float64 (float32 where they are very large).
        native: outputs in the reference's own precision; empty where they are very large and all finite.
        types: of the reference's outputs.
        errors: the reference's own errors by precision class, of each output.
        form: how its outputs are nested, and where and how they lie.
        shared: pairs of names whose memory the reference's outputs share, see `aliases.shared`.
        updated: names of the buffers that the reference's pass changes.
        gradients: the reference's own, by name (see `gradients`); empty where they were not asked for.
        responds: its outputs answer to its inputs there; where they do not, passing shows nothing of its sizes.
        ranges: of each output that is whole numbers, lowest and highest right values where rounding decides.
        after: inputs that the reference changes in place, by their number, as it leaves them.
        aliases: an output of the reference lies in an input's memory.
    """

    probe: Probe
    weights_key: str
    inputs: Any
    exact: tuple[torch.Tensor, ...]
    native: tuple[torch.Tensor, ...]
    types: tuple[torch.dtype, ...]
    errors: Mapping[str, Sequence[Errors]]
    form: Form
    responds: bool = True
    ranges: tuple[tuple[torch.Tensor, torch.Tensor] | None, ...] = ()
    after: Mapping[int, torch.Tensor] = field(default_factory=dict)
    aliases: bool = False
    shared: tuple[tuple[str, str], ...] = ()
    updated: tuple[str, ...] = ()
    gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        """Elements of all outputs."""
        return sum(output.numel() for output in self.exact)


@dataclass(frozen=True)
class Outcome:
    """How a candidate did on one probe under one configuration.

    Attributes:
        index: of the probe.
        choice: of the configuration.
        problem: check that failed, or empty; `skipped` where it was not run.
        message: for people.
        errors, allowed, reference: where outputs could be compared: the candidate's, what is allowed, the
            reference's own in the class that was judged.
        launches: kernel -> launches.
        unknown: what of a kernel cannot be interpreted here, of a run that was skipped for that.
        parameters: names without a counterpart.
        updated: names of the buffers that its pass changed.
    """

    index: int
    choice: int
    problem: str = ""
    message: str = ""
    where: str = ""
    errors: Errors | None = None
    allowed: Allowed | None = None
    reference: Errors | None = None
    launches: Mapping[str, int] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    unknown: str = ""
    updated: tuple[str, ...] = ()


def read_expected(result: JobResult, probes: Sequence[Probe]) -> list[Expected | None]:
    """The oracle's answers, in the order of the probes; None where there is none."""
    found: list[Expected | None] = []
    for index, probe in enumerate(probes):
        part = result.part(f"probe {index}")
        if part is None or "skipped" in part.data or "refused" in part.data:
            found.append(None)
            continue
        exact, native = (tuple(leaves(wire.unpack(part.data[name], part.tensors))) for name in ("oracle", "native"))
        types = tuple(getattr(torch, str(name)) for name in part.data["types"])
        errors = {name: [Errors.of_data(one) for one in data] for name, data in part.data["errors"].items()}
        form = Form.of_data(part.data["form"])
        weights, inputs, responds = part.data["weights"], part.data["inputs"], bool(part.data["responds"])
        ranges = tuple(wire.unpack(part.data["ranges"], part.tensors))
        after = {int(index): value for index, value in wire.unpack(part.data["after"], part.tensors)}
        gradient = wire.unpack(part.data["gradients"], part.tensors)
        updated = tuple(str(name) for name in part.data["updated"])
        shared = tuple((str(one), str(other)) for one, other in part.data["shared"])
        found.append(
            Expected(
                probe, weights, inputs, exact, native, types, errors, form, responds, ranges, after,
                bool(part.data["aliases"]), shared, updated, gradient,
            )
        )  # fmt: skip
    return found


def apart(expected: Sequence[Expected | None]) -> frozenset[int]:
    """Probes at sizes that the task cannot have: equal ones in it are not equal there."""
    return frozenset(index for index, answer in enumerate(expected) if answer is not None and answer.probe.apart)


def pooled(expected: Sequence[Expected | None], precision: str) -> list[Errors]:
    """The median of the reference's errors over all ordinary probes, of each output."""
    ordinary = [e.errors[precision] for e in expected if e is not None and e.probe.family is not Family.EXTREME]
    outputs = range(max((len(errors) for errors in ordinary), default=0))
    return [_median([errors[number] for errors in ordinary if number < len(errors)]) for number in outputs]


def _median(errors: Sequence[Errors]) -> Errors:
    norm, worst, bias = (median(getattr(one, name) for one in errors) for name in ("norm", "worst", "bias"))
    return Errors(norm, worst, bias=bias)


def multiplies_reduced(data: Mapping[str, Any]) -> bool:
    """True where a run's report says that operands of products were narrowed, or multiplied in a reduced class."""
    dots = data.get("dots")
    return bool(data.get("narrowed")) or (isinstance(dots, Mapping) and any(kind != "ieee" for kind in dots))


def judge_run(
    name: str, data: Any, tensors: Mapping[str, torch.Tensor], expected: Expected, pool: Mapping[str, Sequence[Errors]],
    precision: str, reduced: bool,
) -> Outcome:  # fmt: skip
    """One run's outcome. `data` is what the candidate's process sent: nothing in it is trusted.

    Args:
        name: `run I C`.
        data, tensors: the part.
        expected: the oracle's answer.
        pool: median errors by precision class, of each output.
        precision: the task's class.
        reduced: the candidate is known to multiply in reduced precision.
    """
    _, index, choice = name.split(" ")
    blank = Outcome(int(index), int(choice))
    try:
        launches = {str(k): int(v) for k, v in dict(data.get("launches", {})).items()}
        blank = replace(blank, launches=launches)
        if "skipped" in data:
            unknown = str(data.get("unknown", ""))[:300]
            return replace(blank, problem="skipped", message=str(data["skipped"])[:300], unknown=unknown)
        if "error" in data:
            line = data["error"].get("line")
            where = f"line {int(line)}" if line else ""
            check = "sandbox.memory" if data["error"].get("memory") else "correctness.raises"
            return replace(blank, problem=check, message=str(data["error"]["text"]), where=where)
        lost = tuple(str(n) for n in (*data.get("missing", ()), *data.get("unset", ())))
        updated = tuple(str(name) for name in data.get("updated", ()))
        blank = replace(blank, parameters=lost, updated=updated)
        got = leaves(wire.unpack(data["outputs"], tensors))
        form = Form.of_data(data["form"])
        if not len(form.layouts) == len(form.devices) == len(got):
            raise ValueError("its outputs and what is said of them differ in number")
        reduced = reduced or multiplies_reduced(data)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        return replace(blank, problem="sandbox.garbage", message=f"its report cannot be read: {error!r}")
    try:
        return _compare(blank, got, form, expected, pool, precision if reduced else "ieee")
    except (RuntimeError, TypeError, NotImplementedError) as error:
        types = ", ".join(str(one).removeprefix("torch.") for one in expected.types)
        text = f"outputs of the types {types} cannot be compared here: {str(error).splitlines()[0][:200]}"
        return replace(blank, problem="correctness.unjudged", message=text)


def _compare(
    blank: Outcome, got: list[torch.Tensor], form: Form, expected: Expected, pool: Mapping[str, Sequence[Errors]],
    precision: str,
) -> Outcome:  # fmt: skip
    if form.structure != expected.form.structure:
        text = f"outputs are nested as {form.structure}, right is {expected.form.structure}"
        return replace(blank, problem="correctness.shape", message=text[:600])
    if len(got) != len(expected.exact):
        text = f"{len(got)} outputs, right is {len(expected.exact)}"
        return replace(blank, problem="correctness.shape", message=text)
    shapes = [tuple(output.shape) for output in got], [tuple(output.shape) for output in expected.exact]
    if shapes[0] != shapes[1]:
        return replace(blank, problem="correctness.shape", message=f"output shapes {shapes[0]}, right is {shapes[1]}")
    types = [output.dtype for output in got], list(expected.types)
    if types[0] != types[1]:
        return replace(blank, problem="correctness.shape", message=f"output types {types[0]}, right is {types[1]}")
    if form.devices != expected.form.devices:
        text = f"outputs lie on {', '.join(form.devices)}, right is {', '.join(expected.form.devices)}"
        return replace(blank, problem="correctness.device", message=text)
    if not got:
        return blank
    found = [compared(right, output) for right, output in zip(_rights(expected, pool, precision), got, strict=True)]
    number, worst = worst_of(found)
    blank = replace(blank, errors=worst.errors, allowed=worst.allowed, reference=worst.reference)
    if not worst.problem:
        return _laid_out(blank, form, expected)
    which = f"output {number}: " if len(got) > 1 else ""
    return replace(blank, problem=worst.problem, message=which + worst.message)


def _rights(expected: Expected, pool: Mapping[str, Sequence[Errors]], precision: str) -> list[Right]:
    """What is right for each output, in the class in which the candidate is judged."""
    class_ = precision if precision in expected.errors else "ieee"
    few = pool.get(class_, ())
    return [
        Right(
            exact,
            expected.native[number] if expected.native else None,
            expected.types[number],
            expected.ranges[number] if expected.ranges else None,
            expected.errors[class_][number],
            few[number] if number < len(few) else Errors(0.0, 0.0),
        )
        for number, exact in enumerate(expected.exact)
    ]


def _laid_out(right: Outcome, form: Form, expected: Expected) -> Outcome:
    """Strides of the reference's kind, or packed ones, which serve every consumer; asked of packed inputs only."""
    if expected.probe.layout != "packed":
        return right
    for number, (kind, wanted) in enumerate(zip(form.layouts, expected.form.layouts, strict=True)):
        if kind not in {wanted, "contiguous"}:
            text = f"output {number} is {kind} in memory, right is {wanted}"
            return replace(right, problem="correctness.stride", message=text)
    return right


# --- findings ------------------------------------------------------------------------------------------------


def error_rows(expected: Sequence[Expected | None], outcomes: Sequence[Outcome]) -> list[ErrorRow]:
    """One row for each probe that was compared: its worst configuration."""
    rows = []
    for index, answer in enumerate(expected):
        compared = [o for o in outcomes if o.index == index and o.errors is not None and o.allowed is not None]
        if answer is None or not compared:
            continue
        worst = max(compared, key=lambda o: (bool(o.problem), o.errors.norm if o.errors else 0.0))
        assert worst.errors is not None
        assert worst.allowed is not None
        assert worst.reference is not None
        reference = worst.reference
        rows.append(
            ErrorRow(
                answer.probe.name, answer.probe.seed, tuple(tuple(o.shape) for o in answer.exact),
                reference.norm, worst.errors.norm, worst.allowed.norm,
                reference.worst, worst.errors.worst, worst.allowed.worst,
                not any(o.problem for o in outcomes if o.index == index and o.problem != "skipped"),
            )
        )  # fmt: skip
    return rows


def findings_of(
    expected: Sequence[Expected | None],
    outcomes: Sequence[Outcome],
    own_code: bool,
    constants: Sequence[int],
    sensitive: bool,
    own_sizes: Mapping[str, int],
) -> list[Finding]:
    """What the outcomes say, grouped by what the probes were about.

    Args:
        expected: the oracle's answers.
        outcomes: all runs.
        own_code: the candidate was emitted by this tool: every limit rejects.
        constants: integer constants of the candidate, at which its behaviour may change.
        sensitive: the output answers to the task's own inputs and weights; else passing on them shows nothing.
        own_sizes: inner sizes of the reference's pass at the task's own sizes, whether or not that was run.
    """
    answered = {index: answer.probe for index, answer in enumerate(expected) if answer is not None}
    failed = [o for o in outcomes if o.problem and o.problem != "skipped" and o.index in answered]
    own = [o for o in outcomes if o.index in answered and answered[o.index].family is Family.OWN]
    own_ran = [o for o in own if o.problem != "skipped"]
    own_right = bool(own_ran) and all(not o.problem for o in own_ran)
    excuses = excuses_of(expected, outcomes)
    excused = [o for o in failed if o.index in excuses.indices]
    failed = [o for o in failed if o.index not in excuses.indices]
    level = _general_level([o for o in failed if answered[o.index].family is Family.VALUE])
    said = {_same_fault(o) for o in failed if _family(o, answered) in {Family.OWN, Family.VALUE}}
    by_family: dict[Family, list[Outcome]] = {family: [] for family in Family}
    for outcome in failed:
        family = _family(outcome, answered)
        if family in {Family.OWN, Family.VALUE} or not (_explained(outcome, level) or _same_fault(outcome) in said):
            by_family[family].append(outcome)
    bad = {o.index for group in by_family.values() for o in group}
    good = {o.index for o in outcomes if o.index in answered and o.problem != "skipped"} - bad - excuses.indices
    silent = {index for index, answer in enumerate(expected) if answer is not None and not answer.responds}
    telling = [answered[i] for i in good - silent if _tells(answered[i], sensitive)]
    ranged = by_family.pop(Family.SIZE) + by_family.pop(Family.CONSTRUCTOR)
    ranges, left = cover({o.index: answered[o.index] for o in ranged}, telling, constants)
    by_family[Family.SIZE] = [o for o in ranged if o.index in left and answered[o.index].family is Family.SIZE]
    by_family[Family.CONSTRUCTOR] = [o for o in ranged if o.index in left and o not in by_family[Family.SIZE]]

    def severity(group: Sequence[Outcome], *, in_range: bool = False) -> Severity:
        families = {_family(o, answered) for o in group}
        # A range says itself whether the task's own sizes lie in it, also where those were not run.
        unsure = not own_right and not (in_range and not own_ran)
        must = bool(families & {Family.OWN, Family.VALUE}) or (Family.SIZE in families and unsure) or own_code
        must = must or (not in_range and any(answered[o.index].own_size for o in group))
        must = must or any(answered[o.index].mode == "built" for o in group)
        return Severity.ERROR if must else Severity.LIMIT

    found: list[Finding] = []
    for family in (Family.OWN, Family.VALUE):
        found += _plain_findings(by_family[family], answered, severity(by_family.pop(family)))
    for one, indices in ranges:
        group = [o for o in ranged if o.index in indices]
        weight = severity(group, in_range=True)
        if one.holds(own_sizes) and not _ran_inside(own, answered, one):
            weight = Severity.ERROR  # the task's own size lies in it
        found.append(_range_finding(str(one), group, answered, weight))
    for group in by_family.values():
        found += _plain_findings(group, answered, severity(group))
    found += _excused_findings(excuses, excused, answered, Severity.ERROR if own_code else Severity.LIMIT)
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


def _excused_findings(
    excuses: Excuses, excused: Sequence[Outcome], answered: Mapping[int, Probe], severity: Severity
) -> list[Finding]:
    """Limits of a candidate that is right for the task, and not beside it."""
    found = []
    for one, indices in excuses.ranges:
        found.append(_range_finding(str(one), [o for o in excused if o.index in indices], answered, severity))
    elsewhere = [o for o in excused if o.index in excuses.constructors]
    for group in _plain_findings(elsewhere, answered, severity):
        found.append(replace(group, message=f"with other constructor arguments, {group.message}"))
    return found


def _family(outcome: Outcome, answered: Mapping[int, Probe]) -> Family:
    """What an outcome's probe was about; to refuse strided inputs aloud is not to be wrong on them."""
    probe = answered[outcome.index]
    if outcome.problem == "correctness.raises" and probe.layout != "packed":
        return Family.EXTREME
    if probe.family is Family.ARGUMENT and outcome.problem in {"correctness.value", "correctness.not_finite"}:
        return Family.VALUE  # an argument that is passed over; to refuse it aloud is a limit
    return probe.family


def _ran_inside(own: Sequence[Outcome], answered: Mapping[int, Probe], one: Range) -> bool:
    """Whether the task's own sizes were run, as far as this range is concerned."""
    return any(o.problem != "skipped" and one.holds(dict(answered[o.index].quantities)) for o in own)


def _tells(probe: Probe, sensitive: bool) -> bool:
    """Whether passing this probe shows that its sizes are handled rightly."""
    return probe.family is not Family.EXTREME and (sensitive or probe.weights != "own")


#: A probe whose error is no more than so many times what small ordinary probes show says nothing new.
_NEW = 4.0


def _general_level(wrong: Sequence[Outcome]) -> float:
    """The error that a wrong formula makes everywhere: the largest of the ordinary small probes', 0 for none."""
    return max((o.errors.norm for o in wrong if o.errors is not None and not o.errors.not_finite), default=0.0)


def _explained(outcome: Outcome, level: float) -> bool:
    errors = outcome.errors
    return outcome.problem == "correctness.value" and errors is not None and errors.norm <= _NEW * level


def _same_fault(outcome: Outcome) -> tuple[str, str]:
    """What two outcomes share if one of them says it all: the form of an output, or what was raised."""
    if outcome.problem in {"correctness.stride", "correctness.shape", "correctness.device"}:
        return outcome.problem, ""
    return outcome.problem, f"{outcome.index} {outcome.message}" if outcome.errors is not None else outcome.message


def _plain_findings(group: Sequence[Outcome], answered: Mapping[int, Probe], severity: Severity) -> list[Finding]:
    """One finding for each problem of a family: its worst probe in full, the others by name."""
    found = []
    for problem in dict.fromkeys(outcome.problem for outcome in group):
        same = [outcome for outcome in group if outcome.problem == problem]
        first = max(same, key=_size_of_error)
        names = list(dict.fromkeys(answered[o.index].name for o in same))
        name = answered[first.index].name
        others = [other for other in names if other != name]
        also = f"; also: {', '.join(others)}" if others else ""
        message = f"{name}: {first.message}{also}"
        found.append(Finding(problem, severity, message, first.where or name, _evidence(first, names)))
    return found


def _range_finding(text: str, group: Sequence[Outcome], answered: Mapping[int, Probe], severity: Severity) -> Finding:
    """One finding for a range of sizes in which the candidate is wrong."""
    first = max(group, key=_size_of_error)
    names = list(dict.fromkeys(answered[o.index].name for o in group))
    message = f"wrong where {text} ({len(names)} probes, such as {answered[first.index].name}): {first.message}"
    return Finding(first.problem, severity, message, first.where or text, {**_evidence(first, names), "range": text})


def _size_of_error(outcome: Outcome) -> float:
    return outcome.errors.norm if outcome.errors is not None else 0.0


def _evidence(outcome: Outcome, names: Sequence[str]) -> dict[str, JsonValue]:
    evidence: dict[str, JsonValue] = {"probes": list(names), "configuration": outcome.choice}
    if outcome.errors is not None and outcome.allowed is not None:
        evidence |= {
            "error": outcome.errors.norm,
            "allowed": outcome.allowed.norm,
            "worst": outcome.errors.worst,
            "allowed_worst": outcome.allowed.worst,
            "not_finite": outcome.errors.not_finite,
        }
    return evidence


#: Kinds of inner sizes, the most telling first.
_KINDS = ("dim", "inner", "rows", "elements")


@dataclass(frozen=True)
class Range:
    """Sizes of one inner dimension on one side of a constant."""

    what: str
    constant: int
    above: bool

    def __str__(self) -> str:
        return f"{self.what} {'>' if self.above else '<='} {self.constant}"

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether these sizes lie in it; sizes that lack the dimension do not."""
        return self.what in sizes and (sizes[self.what] > self.constant) == self.above

    @property
    def rank(self) -> int:
        """How little it tells people: dimensions first, counts of elements last."""
        return next((i for i, kind in enumerate(_KINDS) if self.what.startswith(kind)), len(_KINDS))


def cover(
    bad: Mapping[int, Probe], good: Sequence[Probe], constants: Sequence[int]
) -> tuple[list[tuple[Range, set[int]]], set[int]]:
    """Ranges of inner sizes that hold wrong probes and no right one: `dim 2 of convolution's output > 32`.

    A greedy cover: each time the range that explains most of the wrong probes that are left.

    Returns:
        (range, the probes in it) for each, and the probes that no range explains.
    """
    left = set(bad)
    ranges: list[tuple[Range, set[int]]] = []
    sizes = {index: dict(probe.quantities) for index, probe in bad.items()}
    right = [dict(probe.quantities) for probe in good]
    options = [
        (option, {index for index, table in sizes.items() if option.holds(table)})
        for option in _options(sizes, right, constants)
    ]
    while left:
        best = max(options, key=lambda option: (len(option[1] & left), -option[0].rank), default=None)
        if best is None or not best[1] & left:
            break
        ranges.append((best[0], best[1] & left))
        left -= best[1]
    return ranges, left


def _options(
    sizes: Mapping[int, Mapping[str, int]], right: Sequence[Mapping[str, int]], constants: Sequence[int]
) -> list[Range]:
    """Ranges bounded by a constant of the candidate with no right probe inside and some outside."""
    found = []
    for what in dict.fromkeys(name for table in sizes.values() for name in table):
        values = [table[what] for table in right if what in table]
        for constant in constants if values else ():
            if max(values) <= constant:
                found.append(Range(what, constant, above=True))
            if min(values) > constant:
                found.append(Range(what, constant, above=False))
    return found
