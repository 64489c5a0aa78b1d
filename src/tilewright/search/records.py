"""What a study file remembers, as plain values: finished trials, and finished runs with their results."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Measured, Modelled
from tilewright.values.serialise import JsonValue, as_json
from tilewright.values.study import Study
from tilewright.values.verdict import Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class Evaluation:
    """What is known of a candidate: the part of a trial that is worth keeping between runs.

    Attributes:
        prediction: the model's time, if it was asked and could answer.
        verdict: the gate's, if it was asked.
        measured: the clock's, if there was a GPU.
    """

    prediction: Modelled | None = None
    verdict: Verdict | None = None
    measured: Measured | None = None


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial.

    Attributes:
        key: of `tilewright.search.keys.trial_key`.
        task_key: of `tilewright.search.keys.task_key`.
        task: the task's name.
        gpu: the target's key.
        digest: the candidate's.
        source: the candidate's.
        description: what was tried.
        schedule: each kernel's schedule for people, where it is known.
        evaluation: as JSON text.
        versions: name -> version of what the results depend on, as JSON text.
        finished_at: seconds since 1970, UTC.
    """

    TABLE: ClassVar[str] = "trial"

    key: str
    task_key: str
    task: str
    gpu: str
    digest: str
    source: str
    description: str
    schedule: str
    evaluation: str
    versions: str
    finished_at: float


@dataclass(frozen=True)
class RunRecord:
    """One finished run of the search: what was found for a task.

    Attributes:
        key: task's key, versions and effort together.
        task_key, task, gpu, versions, finished_at: as a trial's.
        effort: name of the effort level.
        timing: `measured` or `modelled`.
        best_ms: time of the best; None where nothing better was found.
        best: the best candidate as JSON text; `null` where there is none.
        study: the whole study as JSON text.
    """

    TABLE: ClassVar[str] = "run"

    key: str
    task_key: str
    task: str
    gpu: str
    versions: str
    finished_at: float
    effort: str
    timing: str
    best_ms: float | None
    best: str
    study: str

    @property
    def candidate(self) -> Candidate | None:
        """The best candidate; None where there is none, or it no longer reads as one."""
        candidate: Candidate | None = decode(Candidate, self.best)
        return candidate


Record = TrialRecord | RunRecord

KINDS: Mapping[str, type[TrialRecord] | type[RunRecord]] = {kind.TABLE: kind for kind in (TrialRecord, RunRecord)}


def canonical(value: Any) -> str:
    """`value` as JSON text; equal values give equal texts."""
    return json.dumps(as_json(value), sort_keys=True)


def record_as_json(record: Record) -> dict[str, JsonValue]:
    """A record as one JSON object, `kind` among its fields."""
    fields = as_json(record)
    assert isinstance(fields, dict)
    return {"kind": record.TABLE, **fields}


def record_from_json(data: Any) -> Record | None:
    """The inverse of `record_as_json`; None for anything that is no record."""
    if not isinstance(data, dict) or data.get("kind") not in KINDS:
        return None
    fields = {name: value for name, value in data.items() if name != "kind"}
    record: Record | None = _checked(KINDS[data["kind"]], fields)
    return record


def decode(kind: type[Any], text: str) -> Any:
    """The value of that type in JSON text; None where it is none."""
    try:
        return _checked(kind, json.loads(text))
    except (ValueError, RecursionError):
        return None


def decode_study(text: str) -> Study | None:
    """The study in JSON text; None where it is none."""
    study: Study | None = decode(Study, text)
    return study


def decode_evaluation(text: str) -> Evaluation | None:
    """The evaluation in JSON text; None where it is none."""
    evaluation: Evaluation | None = decode(Evaluation, text)
    return evaluation


def _checked(kind: Any, data: Any) -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(data)
    except (ValidationError, RecursionError):
        return None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
