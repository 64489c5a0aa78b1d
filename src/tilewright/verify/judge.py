"""From what came back to findings: the verdict is computed here, on the side that the candidate does not own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from tilewright.values.serialise import JsonValue
from tilewright.values.verdict import ErrorRow, Finding, Severity
from tilewright.verify import wire
from tilewright.verify.compare import Allowed, Errors, compare, wrong_ranges
from tilewright.verify.planning import Crossing, Family, Probe
from tilewright.verify.sandbox import JobResult
from tilewright.verify.subject import leaves

#: Errors of outputs with fewer elements are luck as much as precision: the median of all probes counts too.
_FEW = 4096


@dataclass(frozen=True)
class Expected:
    """What the oracle says of one probe.

    Attributes:
        probe: the probe.
        weights_key: name of its weights.
        inputs: as a packed tree.
        exact, native: outputs in float64, and in the reference's own precision.
        errors: the reference's own errors by precision class.
    """

    probe: Probe
    weights_key: str
    inputs: Any
    exact: tuple[torch.Tensor, ...]
    native: tuple[torch.Tensor, ...]
    errors: Mapping[str, Errors]

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


def read_expected(result: JobResult, probes: Sequence[Probe]) -> list[Expected | None]:
    """The oracle's answers, in the order of the probes; None where there is none."""
    found: list[Expected | None] = []
    for index, probe in enumerate(probes):
        part = result.part(f"probe {index}")
        if part is None or "skipped" in part.data:
            found.append(None)
            continue
        exact, native = (
            tuple(leaves(wire.unpack(part.data[name], part.tensors))) for name in ("oracle", "native")
        )
        errors = {name: Errors.of_data(data) for name, data in part.data["errors"].items()}
        found.append(Expected(probe, part.data["weights"], part.data["inputs"], exact, native, errors))
    return found


def pooled(expected: Sequence[Expected | None], precision: str) -> Errors:
    """The median of the reference's errors over all ordinary probes."""
    ordinary = [e.errors[precision] for e in expected if e is not None and e.probe.family is not Family.EXTREME]
    if not ordinary:
        return Errors(0.0, 0.0)
    return Errors(median(errors.norm for errors in ordinary), median(errors.worst for errors in ordinary))


def judge_run(
    name: str, data: Any, tensors: Mapping[str, torch.Tensor], expected: Expected, pool: Mapping[str, Errors],
    precision: str, reduced: bool,
) -> Outcome:  # fmt: skip
    """One run's outcome. `data` is what the candidate's process sent: nothing in it is trusted.

    Args:
        name: `run I C`.
        data, tensors: the part.
        expected: the oracle's answer.
        pool: median errors by precision class.
        precision: the task's class.
        reduced: the candidate is known to multiply in reduced precision.
    """
    _, index, choice = name.split(" ")
    blank = Outcome(int(index), int(choice))
    try:
        launches = {str(k): int(v) for k, v in dict(data.get("launches", {})).items()}
        blank = replace(blank, launches=launches)
        if "skipped" in data:
            return replace(blank, problem="skipped", message=str(data["skipped"])[:300])
        if "error" in data:
            line = data["error"].get("line")
            where = f"line {int(line)}" if line else ""
            return replace(blank, problem="correctness.raises", message=str(data["error"]["text"]), where=where)
        lost = tuple(str(n) for n in (*data.get("missing", ()), *data.get("unset", ())))
        blank = replace(blank, parameters=lost)
        got = leaves(wire.unpack(data["outputs"], tensors))
        devices = [str(device) for device in data["devices"]]
        reduced = reduced or bool(data.get("narrowed")) or any(k != "ieee" for k in data.get("dots", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return replace(blank, problem="sandbox.garbage", message=f"its report cannot be read: {error!r}")
    return _compare(blank, got, devices, expected, pool, precision if reduced else "ieee")


def _compare(
    blank: Outcome, got: list[torch.Tensor], devices: list[str], expected: Expected, pool: Mapping[str, Errors],
    precision: str,
) -> Outcome:  # fmt: skip
    shapes = [tuple(output.shape) for output in got], [tuple(output.shape) for output in expected.native]
    if shapes[0] != shapes[1]:
        return replace(blank, problem="correctness.shape", message=f"output shapes {shapes[0]}, right is {shapes[1]}")
    types = [output.dtype for output in got], [output.dtype for output in expected.native]
    if types[0] != types[1]:
        return replace(blank, problem="correctness.shape", message=f"output types {types[0]}, right is {types[1]}")
    if len(set(devices)) > 1:
        return replace(blank, problem="correctness.device", message=f"outputs lie on {devices}")
    reference = expected.errors.get(precision, expected.errors["ieee"])
    if expected.elements < _FEW:
        few = pool.get(precision, Errors(0.0, 0.0))
        reference = replace(reference, norm=max(reference.norm, few.norm), worst=max(reference.worst, few.worst))
    allowed = Allowed.by(reference, expected.native[0].dtype)
    errors = compare(expected.exact, got, expected.native)
    blank = replace(blank, errors=errors, allowed=allowed, reference=reference)
    if errors.not_finite:
        text = f"{errors.not_finite} outputs are not finite where they should be, or the reverse; {errors.where}"
        return replace(blank, problem="correctness.not_finite", message=text)
    if allowed.pass_(errors):
        return blank
    size = float(expected.exact[0].norm()) / max(expected.exact[0].numel(), 1) ** 0.5
    wrong = wrong_ranges(expected.exact[0], got[0], allowed.worst * size)
    text = (
        f"relative error {errors.norm:.2g} where {allowed.norm:.2g} is allowed (the reference's own is "
        f"{reference.norm:.2g}); wrong: {wrong or 'spread over the output'}; {errors.where}"
    )
    return replace(blank, problem="correctness.value", message=text)


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
                answer.probe.name, answer.probe.seed, tuple(tuple(o.shape) for o in answer.native),
                reference.norm, worst.errors.norm, worst.allowed.norm,
                reference.worst, worst.errors.worst, worst.allowed.worst,
                not any(o.problem for o in outcomes if o.index == index and o.problem != "skipped"),
            )
        )  # fmt: skip
    return rows


def findings_of(expected: Sequence[Expected | None], outcomes: Sequence[Outcome], own_code: bool) -> list[Finding]:
    """What the outcomes say, grouped by what the probes were about.

    Args:
        expected: the oracle's answers.
        outcomes: all runs.
        own_code: the candidate was emitted by this tool: every limit rejects.
    """
    answered = {index: answer for index, answer in enumerate(expected) if answer is not None}
    failed = [o for o in outcomes if o.problem and o.problem != "skipped" and o.index in answered]
    own = [o for o in outcomes if o.index in answered and answered[o.index].probe.family is Family.OWN]
    own_right = bool(own) and all(not o.problem for o in own)
    found: list[Finding] = []
    by_family: dict[Family, list[Outcome]] = {}
    level = _general_level([o for o in failed if answered[o.index].probe.family is Family.VALUE])
    for outcome in failed:
        family = answered[outcome.index].probe.family
        if family in {Family.OWN, Family.VALUE} or not _explained(outcome, level):
            by_family.setdefault(family, []).append(outcome)
    for family, group in by_family.items():
        must = family in {Family.OWN, Family.VALUE} or (family is Family.SIZE and not own_right) or own_code
        severity = Severity.ERROR if must else Severity.LIMIT
        if family is Family.SIZE:
            found += _size_findings(group, outcomes, answered, severity)
        else:
            found += _plain_findings(group, answered, severity, family)
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


#: A probe whose error is no more than so many times what small ordinary probes show says nothing new.
_NEW = 4.0


def _general_level(wrong: Sequence[Outcome]) -> float:
    """The error that a wrong formula makes everywhere: the largest of the ordinary small probes', 0 for none."""
    return max((o.errors.norm for o in wrong if o.errors is not None and not o.errors.not_finite), default=0.0)


def _explained(outcome: Outcome, level: float) -> bool:
    errors = outcome.errors
    return outcome.problem == "correctness.value" and errors is not None and errors.norm <= _NEW * level


def _plain_findings(
    group: Sequence[Outcome], answered: Mapping[int, Expected], severity: Severity, family: Family
) -> list[Finding]:
    """One finding for each problem of a family: its first probe in full, the others by name."""
    found = []
    for problem in dict.fromkeys(outcome.problem for outcome in group):
        same = [outcome for outcome in group if outcome.problem == problem]
        # The probe with the largest error says most.
        first = max(same, key=lambda o: o.errors.norm if o.errors is not None else 0.0)
        names = list(dict.fromkeys(answered[o.index].probe.name for o in same))
        name = answered[first.index].probe.name
        others = [other for other in names if other != name]
        also = f"; also: {', '.join(others)}" if others else ""
        message = f"{name}: {first.message}{also}"
        found.append(Finding(problem, severity, message, first.where or name, _evidence(first, names)))
    return found


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


def _size_findings(
    group: Sequence[Outcome], outcomes: Sequence[Outcome], answered: Mapping[int, Expected], severity: Severity
) -> list[Finding]:
    """One finding for each dimension: in which range of sizes the candidate is wrong."""
    found = []
    for name in dict.fromkeys(answered[outcome.index].probe.group for outcome in group):
        bad = {o.index for o in group if answered[o.index].probe.group == name}
        ran = {o.index for o in outcomes if o.index in answered and o.problem != "skipped"}
        good = {i for i in ran - bad if answered[i].probe.group == name}
        worst = max(group, key=lambda o: o.errors.norm if answered[o.index].probe.group == name and o.errors else -1.0)
        sizes = sorted({answered[i].probe.size for i in bad})
        first = worst if answered[worst.index].probe.group == name else next(o for o in group if o.index in bad)
        span = boundary([answered[i].probe for i in bad], [answered[i].probe for i in good])
        message = f"wrong where {span or f'{name} is ' + ', '.join(map(str, sizes))}: {first.message}"
        evidence = {**_evidence(first, [answered[i].probe.name for i in sorted(bad)]), "sizes": list(sizes)}
        found.append(Finding(first.problem, severity, message, first.where or name, evidence))
    return found


def boundary(bad: Sequence[Probe], good: Sequence[Probe]) -> str:
    """The inner size and constant that part the wrong probes from the right ones: `dim 2 of x = ... > 32`, if any."""
    crossings: list[Crossing] = [crossing for probe in bad for crossing in probe.crossings]
    for crossing in crossings:
        above = [_value(probe, crossing.what) for probe in bad]
        below = [_value(probe, crossing.what) for probe in good]
        known_bad, known_good = [v for v in above if v is not None], [v for v in below if v is not None]
        if not known_good or len(known_bad) < len(bad):
            continue
        if min(known_bad) > crossing.constant >= max(known_good):
            return f"{crossing.what} > {crossing.constant}"
        if max(known_bad) <= crossing.constant < min(known_good):
            return f"{crossing.what} <= {crossing.constant}"
    return ""


def _value(probe: Probe, what: str) -> int | None:
    return next((crossing.value for crossing in probe.crossings if crossing.what == what), None)
