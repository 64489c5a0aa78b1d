"""Whether a candidate takes the reference's state: its names, as `load_state_dict` wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.verdict import Finding, Severity
from tilewright.verify.contract import finding


def differences(module: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Names by which `module.load_state_dict(state)` would fail.

    Returns:
        `unknown`: of the state, which the module has not; `new`: the module's own parameters, which the state has
        not; `shape`: in other shapes; `buffers`: buffers that only one of the two has.
    """
    own = module.state_dict()
    parameters = {name for name, _ in module.named_parameters()}
    buffers = {name for name in state if name.endswith(("num_batches_tracked", "running_mean", "running_var"))}
    unknown = [name for name in state if name not in own]
    return {
        "unknown": [name for name in unknown if name not in buffers],
        "new": [name for name in own if name not in state and name in parameters],
        "shape": [name for name in own if name in state and own[name].shape != state[name].shape],
        "buffers": [name for name in unknown if name in buffers]
        + [name for name in own if name not in state and name not in parameters],
    }


def asked(task: Task, candidate: Candidate) -> bool:
    """Whether the names bind: a document's code keeps its own."""
    return task.document is None and candidate.origin is Origin.FILE


def findings_of(reports: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """What the runs say of the candidate's names: an error for parameters, a limit for buffers."""
    found: dict[str, dict[str, None]] = {"unknown": {}, "new": {}, "shape": {}, "buffers": {}}
    for report in reports:
        for kind, names in found.items():
            names |= dict.fromkeys(str(name) for name in report.get(kind, ()))
    said = {
        "unknown": "it has none by the name of",
        "new": "the reference has none by the name of its",
        "shape": "of another shape are",
    }
    told = [f"{text} {', '.join(found[kind])}" for kind, text in said.items() if found[kind]]
    if told:
        text = f"load_state_dict of the reference's parameters fails: {'; '.join(told)}"
        yield finding("correctness.parameters", text[:600])
    if found["buffers"]:
        text = f"buffers of one of the two alone: {', '.join(found['buffers'])}; load_state_dict needs strict=False"
        yield replace(finding("correctness.parameters", text[:600]), severity=Severity.LIMIT)
