"""What a benchmark run records, as frozen values, and what is computed of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a subject is to the comparison."""

    REFERENCE = "reference"  #: the module in eager PyTorch
    DOCUMENT = "document"  #: the document's own code
    PEER = "peer"  #: a mode of torch.compile; the best of them is what ours is held against
    INFORMATION = "information"  #: timed for information: another precision class
    OURS = "ours"


@dataclass(frozen=True)
class Check:
    """One probe's outcome for one subject.

    Attributes:
        probe: `task inputs` or `responsive`.
        error: norm-wise relative error against the oracle.
        allowed: what may be reached.
        passed: error is at most what is allowed, and shapes and dtypes agree.
        note: why not, where it is not the error.
    """

    probe: str
    error: float
    allowed: float
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class SubjectResult:
    """One subject of one case.

    Attributes:
        name: `reference`, `document`, `compile`, `compile max-autotune`, ..., `ours`.
        kind: what it is to the comparison.
        median_ms, low_ms, high_ms: median, 20th and 80th percentile; None where there is no time.
        samples: how many.
        method: how they were taken.
        prepare_s: seconds to build it and make its first calls (compilation, autotuning).
        checks: one for each probe.
        failure: why there is no time; empty where there is one.
    """

    name: str
    kind: Kind
    median_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    samples: int = 0
    method: str = ""
    prepare_s: float = 0.0
    checks: tuple[Check, ...] = ()
    failure: str = ""

    @property
    def right(self) -> bool:
        """It ran and passed every check."""
        return not self.failure and bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class CaseResult:
    """One case.

    Attributes:
        name, description, precision: of the case.
        subjects: in the order in which they were prepared.
        oracle: what outputs were compared with.
        sensitivity: how much the output changes between two draws of the inputs (0: not at all), by probe.
        speed_of_light_ms: the floor of its time; None where it could not be counted.
        speed_of_light: what it is made of, for people.
        seconds: wall time of the case.
        failure: why the case has no result at all.
    """

    name: str
    description: str
    precision: str
    subjects: tuple[SubjectResult, ...] = ()
    oracle: str = ""
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    speed_of_light_ms: float | None = None
    speed_of_light: str = ""
    seconds: float = 0.0
    failure: str = ""

    def subject(self, name: str) -> SubjectResult | None:
        """The subject of that name."""
        return next((subject for subject in self.subjects if subject.name == name), None)

    @property
    def ours(self) -> SubjectResult | None:
        """Ours, where it ran and is right."""
        found = next((subject for subject in self.subjects if subject.kind is Kind.OURS), None)
        return found if found is not None and found.right and found.median_ms is not None else None

    @property
    def best_peer(self) -> SubjectResult | None:
        """The fastest right peer."""
        peers = [s for s in self.subjects if s.kind is Kind.PEER and s.right and s.median_ms is not None]
        return min(peers, key=lambda peer: peer.median_ms or math.inf, default=None)

    def ratio_to(self, other: SubjectResult | None) -> float | None:
        """How many times faster ours is than another subject."""
        if self.ours is None or other is None or not other.median_ms or not self.ours.median_ms:
            return None
        return other.median_ms / self.ours.median_ms

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is than the best peer."""
        return self.ratio_to(self.best_peer)

    @property
    def fraction_of_speed_of_light(self) -> float | None:
        """The floor over our time."""
        if self.ours is None or not self.ours.median_ms or self.speed_of_light_ms is None:
            return None
        return self.speed_of_light_ms / self.ours.median_ms


@dataclass(frozen=True)
class Run:
    """One run of the benchmark: where, with what, and its cases."""

    date: str
    command: str
    gpu: str
    driver: str
    versions: Mapping[str, str]
    cases: tuple[CaseResult, ...]
    seconds: float
    budget_s: float
    notes: tuple[str, ...] = ()

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of the cases that have one."""
        return tuple(case.ratio for case in self.cases if case.ratio is not None)

    @property
    def geometric_mean(self) -> float | None:
        """Of the ratios to the best peer; None where there is none."""
        return geometric_mean(self.ratios)


def geometric_mean(ratios: Sequence[float]) -> float | None:
    """The geometric mean of positive numbers; None of nothing."""
    if not ratios:
        return None
    return math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))


def run_as_json(run: Run) -> dict[str, Any]:
    """The record: the run's values, and what follows from them beside each case."""
    from tilewright.values.serialise import as_json

    record = as_json(run)
    assert isinstance(record, dict)
    record["cases"] = [case_as_json(case) for case in run.cases]
    record["geometric_mean_ratio_to_best_peer"] = run.geometric_mean
    record["cases_with_a_ratio"] = len(run.ratios)
    return record


def case_as_json(case: CaseResult) -> dict[str, Any]:
    """One case with what follows from it."""
    from tilewright.values.serialise import as_json

    record = as_json(case)
    assert isinstance(record, dict)
    peer = case.best_peer
    reference, document = case.subject("reference"), case.subject("document")
    return record | {
        "best_peer": peer.name if peer else None,
        "ratio_to_best_peer": case.ratio,
        "ratio_to_reference": case.ratio_to(reference),
        "ratio_to_document": case.ratio_to(document),
        "ratio_to_compile_default": case.ratio_to(case.subject("compile")),
        "fraction_of_speed_of_light": case.fraction_of_speed_of_light,
    }


def case_from_json(data: Mapping[str, Any]) -> CaseResult:
    """The inverse of `case_as_json`, for what a worker wrote."""
    known = _known(CaseResult, data)
    known["subjects"] = tuple(_subject_from_json(item) for item in data.get("subjects", ()))
    return CaseResult(**known)


def _subject_from_json(data: Mapping[str, Any]) -> SubjectResult:
    known = _known(SubjectResult, data)
    known["kind"] = Kind(data["kind"])
    known["checks"] = tuple(
        Check(**{**_known(Check, item), "error": float(item["error"]), "allowed": float(item["allowed"])})
        for item in data.get("checks", ())
    )
    return SubjectResult(**known)


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


# ---------------------------------------------------------------------------------------------------------
# The table for people


def table(run: Run) -> str:
    """The run as a table: a row for each case, a column for each subject, milliseconds."""
    names: list[str] = []
    for case in run.cases:
        names += [subject.name for subject in case.subjects if subject.name not in names]
    header = ["case", *names, "best peer", "ratio", "of speed of light"]
    rows = [header, *(_row(case, names) for case in run.cases)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    mean = run.geometric_mean
    summary = "no ratios" if mean is None else f"geometric mean {mean:.3f} over {len(run.ratios)} cases"
    return "\n".join([*lines, "", f"{run.gpu or 'no GPU'}: {summary} (times in ms; ! wrong output, - no result)"])


def _row(case: CaseResult, names: Sequence[str]) -> list[str]:
    cells = [case.name, *(_cell(case.subject(name)) for name in names)]
    peer, part = case.best_peer, case.fraction_of_speed_of_light
    cells.append(peer.name.removeprefix("compile ") if peer else "-")
    cells.append(f"{case.ratio:.3f}" if case.ratio is not None else "-")
    cells.append(f"{part:.0%}" if part is not None else "-")
    return cells


def _cell(subject: SubjectResult | None) -> str:
    if subject is None or subject.median_ms is None:
        return "-"
    return f"{subject.median_ms:.4g}{'' if subject.right else ' !'}"
