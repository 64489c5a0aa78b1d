"""What our own candidates write and read again is declared: the gate turns away what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilewright.gate.contract.syntax import Source
from tilewright.gate.stages.launch_rules import check_launches
from tilewright.gate.stages.record import record_fully
from tilewright.proposers.synthesize import synthesize
from tilewright.task.load import load_task

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["linear_batchnorm_gelu_relu", "add_min_gelu_mul"])
def test_scratch_is_declared(name: str) -> None:
    task = load_task(EXAMPLES / f"{name}.py", gpu="4090", precision="tf32")
    candidate = synthesize(task)[0]
    recorded = record_fully(task, candidate, task.gpu)
    source = Source.parse(candidate.source)
    assert not check_launches(recorded, source, task.rules, len(candidate.scratch))
