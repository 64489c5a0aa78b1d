"""Keys of the study store: SHA-256 over everything that a result depends on.

A trial's key covers the candidate's source, the task (reference, constructor arguments, inputs with their shapes,
precision, rules), the GPU, how times were obtained, the effort of the gate, and the versions. A task's key covers the
task, the GPU and how times were obtained: what was found for it under other versions can then be found, and be retried.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.serialise import as_json


def trial_key(task: Task, candidate: Candidate, *, timing: str, gate_effort: str, versions: Mapping[str, str]) -> str:
    """The key of a trial, 64 hex digits.

    Args:
        task: the task.
        candidate: what is tried.
        timing: how times are obtained: `measured` or `modelled`.
        gate_effort: effort of the gate.
        versions: what `tilewright.search.versions.versions` returns.
    """
    return _digest(
        {
            "source": candidate.source,
            "needs_reference": candidate.needs_reference,
            "reference": _reference_identity(task),
            "specification": task.given_code if task.given_code_is_specification else None,
            "gpu": task.gpu,
            "precision": task.precision,
            "rules": task.rules,
            "output_rules": task.output_rules,
            "timing": timing,
            "gate_effort": gate_effort,
            "versions": versions,
        }
    )


def task_key(task: Task, timing: str, *, graphs: bool = False) -> str:
    """The key of a task on a GPU, 64 hex digits: shapes, precision and rules included, versions not.

    Args:
        task: the task.
        timing: how times are obtained: `measured` or `modelled`.
        graphs: the GPU's time alone decides: another best.
    """
    return _digest(
        {
            **({"graphs": True} if graphs else {}),
            "reference": _reference_identity(task),
            "given_code": task.given_code,
            "is_specification": task.given_code_is_specification,
            "gpu": task.gpu.key,
            "precision": task.precision,
            "rules": task.rules,
            "output_rules": task.output_rules,
            "also_inputs": task.also_inputs,
            "timing": timing,
        }
    )


def _digest(depends_on: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(as_json(depends_on), sort_keys=True).encode()).hexdigest()


def _reference_identity(task: Task) -> dict[str, Any] | None:
    """The reference without its path: a file that was moved is the same task."""
    reference = task.reference
    if reference is None:
        return None
    return {
        "source": reference.source,
        "class_name": reference.class_name,
        "init_args": reference.init_args,
        "inputs": reference.inputs,
        "pickled": None if reference.pickled is None else hashlib.sha256(reference.pickled).hexdigest(),
    }
