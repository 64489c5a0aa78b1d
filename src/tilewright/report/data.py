"""Reports as JSON data: one versioned schema for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.errors import ExitCode
from tilewright.report.summary import rows, sentence
from tilewright.search.understand import Inspection
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.diagnosis import DiagnosisReport
from tilewright.values.measurement import bound_by
from tilewright.values.serialise import JsonValue, as_json
from tilewright.values.study import Study
from tilewright.values.verdict import Verdict

#: Raised when a field changes its meaning or goes; a new field does not raise it.
SCHEMA_VERSION = 1

JsonObject = dict[str, JsonValue]


def _schema(name: str) -> JsonObject:
    return {"schema": f"tilewright.{name}", "schema_version": SCHEMA_VERSION}


def study_report(study: Study, files: Sequence[str] = ()) -> JsonObject:
    """A run of `optimize`: verdict, summary, the final code, and the whole study."""
    best = study.best
    return {
        **_schema("report"),
        "verified": best is not None,
        "exit_code": int(ExitCode.OK if best is not None else ExitCode.REJECTED),
        "verdict": sentence(study),
        "speed_up": study.speed_up,
        "faster_peer": study.best_peer[0] if study.peer_wins and study.best_peer is not None else None,
        "summary": [
            {
                "name": row.name,
                "time_ms": row.timing.time_ms if row.timing is not None else None,
                "timing_kind": row.timing.label if row.timing is not None else None,
                "gpu_ms": row.timing.gpu_ms if row.timing is not None else None,
                "call_ms": row.timing.call_ms if row.timing is not None else None,
                "bound_by": bound_by(row.timing) or None if row.timing is not None else None,
                "speed_of_light_fraction": row.speed_of_light_fraction,
                "error": as_json(row.error),
                "allowed_error": as_json(row.allowed),
                "remark": row.remark,
            }
            for row in rows(study)
        ],
        "code": best.candidate.source if best is not None else None,
        "native": list(best.candidate.native) if best is not None else [],
        "collapses": list(best.candidate.collapses) if best is not None else [],
        "scratch": list(best.candidate.scratch) if best is not None else [],
        "files": list(files),
        "study": as_json(study),
    }


def verdict_report(task: Task, candidate: Candidate, verdict: Verdict, candidate_path: str) -> JsonObject:
    """A run of `verify`."""
    return {
        **_schema("verdict"),
        "accepted": verdict.accepted,
        "exit_code": int(ExitCode.OK if verdict.accepted else ExitCode.REJECTED),
        "task": task.name,
        "gpu": task.gpu.key,
        "precision": str(task.precision),
        "candidate": candidate_path,
        "candidate_digest": candidate.digest,
        "verdict": as_json(verdict),
    }


def inspection_report(inspection: Inspection) -> JsonObject:
    """A run of `inspect`: the task without its source texts, and what was understood of it."""
    task, understood = inspection.task, inspection.understanding
    document: Any = None
    if task.document is not None:
        document = {
            "path": as_json(task.document.path),
            "sections": [section.kind for section in task.document.sections],
            "gpu_figures": as_json(task.document.gpu_figures),
            "code_line": task.document.code_line,
            "api_constraints": list(task.document.api_constraints),
        }
    return {
        **_schema("inspection"),
        "name": task.name,
        "gpu": as_json(task.gpu),
        "precision": str(task.precision),
        "stages": [str(stage) for stage in task.stages],
        "rules": as_json(task.rules),
        "output_rules": as_json(task.output_rules),
        "has_reference": task.has_reference,
        "given_code_is_specification": task.given_code_is_specification,
        "given_code": task.given_code,
        "kernels": list(inspection.kernels),
        "metrics": as_json(task.metrics),
        "document": document,
        "operations": list(understood.operations),
        "input_shapes": as_json(understood.input_shapes),
        "output_shapes": as_json(understood.output_shapes),
        "work": as_json(understood.work),
        "speed_of_light": {str(precision): as_json(floor) for precision, floor in understood.floors.items()},
    }


def diagnosis_report(report: DiagnosisReport) -> JsonObject:
    """A run of `diagnose`."""
    body = as_json(report)
    assert isinstance(body, dict)
    return {**_schema("diagnosis"), **body}


def gpus_report(gpus: Sequence[Any], installed: Any) -> JsonObject:
    """A run of `gpus`."""
    return {
        **_schema("gpus"),
        "gpus": [as_json(gpu) for gpu in gpus],
        "installed": as_json(installed),
    }
