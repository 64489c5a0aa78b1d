"""Candidates recorded in one process are as those recorded alone; one that dies costs itself only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.gate.test_ahead import CANDIDATE
from tilewright.gate.inside.recorders import group
from tilewright.gate.stages import record
from tilewright.gpu.table import find_gpu
from tilewright.task.stage import Stage
from tilewright.task.task import InputSpec, ModuleSource, Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.precision import PrecisionClass

REFERENCE = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(factor))

    def forward(self, x):
        return x * x.shape[0]
"""


def task() -> Task:
    source = ModuleSource(REFERENCE, "Model", init_args=(3,), inputs=(InputSpec("rand", (6, 8)),))
    return Task("toy", source, find_gpu("4090"), (Stage.MEMORY_ACCESS,), (), PrecisionClass.IEEE)


def candidate(text: str, origin: Origin = Origin.SYNTHESIZE) -> Candidate:
    return Candidate(text, origin, "a test")


def test_together_is_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = find_gpu("4090")
    plain = candidate(CANDIDATE)
    other = candidate(CANDIDATE.replace("BLOCK=64", "BLOCK=128"))
    wrong = candidate(CANDIDATE.replace("out_ptr + o, tl.load", "out_ptr + nothing, tl.load"))
    dead = candidate("import os\nos._exit(3)\n" + CANDIDATE)
    record.record_together(task(), [plain, other, wrong, dead], gpu)
    with monkeypatch.context() as patch:
        patch.setattr(record, "run_job", lambda *_, **__: pytest.fail("it was recorded again"))
        first, second, third = (record.record_fully(task(), one, gpu) for one in (plain, other, wrong))
    assert [launch.kernel for launch in first.recording.launches] == ["scale_kernel"]
    assert "BLOCK=64" in first.resources[0].schedule
    assert "BLOCK=128" in second.resources[0].schedule
    assert any(finding.check == "compile.error" for finding in third.findings)
    record._TOGETHER.clear()
    alone = record.record_fully(task(), plain, gpu)
    assert (alone.recording, alone.resources, alone.findings) == (first.recording, first.resources, first.findings)


def test_only_one_proposers_candidates_share_a_process() -> None:
    ours = [candidate(f"# {n}") for n in range(5)]
    retuned = replace(candidate("# r"), origin=Origin.RETUNE)
    strangers = [replace(candidate(f"# s{n}"), origin=Origin.LLM) for n in range(2)]
    found = group([*ours, retuned, *strangers], 4)
    assert [len(one) for one in found] == [4, 1, 1, 1, 1]
    assert group([], 4) == []
