"""What the retune tests share: modules of our own writing, how to call them, and the process that runs them."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.gpu.table import find_gpu
from tilewright.task.stage import Stage, StageRules
from tilewright.task.stage_rules import default_rules
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.precision import PrecisionClass

HERE = Path(__file__).parent
#: Reordered float32 sums of at most a few thousand terms of one size, relative to the largest output.
ALLOWED_ERROR = 2e-5


@dataclass(frozen=True)
class Case:
    """A module under retune_kernels/: constructor arguments, input shapes, whether other layouts are accepted."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    init: tuple[Any, ...] = ()
    views: bool = False

    @property
    def source(self) -> str:
        return (HERE / "retune_kernels" / f"{self.name}.py").read_text()


CASES = (
    Case("softmax", ((5, 37), (3, 64))),
    Case("layer_norm", ((2, 3, 100),), (100,)),
    Case("matmul", ((33, 64), (64, 64)), (64, 50)),
    Case("transpose", ((19, 40), (16, 16))),
    Case("row_sum", ((5, 300), (4, 256))),
    Case("column_sum", ((70, 9), (64, 16)), views=True),
    Case("stencil", ((2, 7, 9), (1, 16, 16))),
    Case("pointwise_4d", ((2, 3, 5, 7), (2, 3, 8, 8)), (3,), views=True),
    Case("row_statistics", ((6, 150), (4, 64))),
)


def case(name: str) -> Case:
    return next(found for found in CASES if found.name == name)


def rules(stage: str, **changes: Any) -> StageRules:
    return dataclasses.replace(default_rules(Stage(stage)), **changes)


def task_of(code: str, stage_rules: StageRules, **changes: Any) -> Task:
    return Task(
        name="case",
        reference=None,
        gpu=find_gpu("4090"),
        stages=(stage_rules.stage,),
        rules=(stage_rules,),
        precision=PrecisionClass.TF32,
        given_code=code,
        **changes,
    )


def different(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One of those that differ in warps and stages alone: the interpreter knows neither."""
    kept: dict[str, Candidate] = {}
    for candidate in candidates:
        kept.setdefault(re.sub(r",?\s*num_(warps|stages)=\d+", "", candidate.source), candidate)
    return list(kept.values())


def interpreted_errors(
    sources: Sequence[str], init: Sequence[Any], shapes: Sequence[Sequence[int]], *, views: bool, change: bool = False
) -> list[float | str]:
    """Each module's largest error against the first one's outputs, or the text of what it raised."""
    job = {
        "sources": list(sources),
        "init": list(init),
        "shapes": [list(s) for s in shapes],
        "views": views,
        "change": change,
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "retune_runner.py")],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(outcomes, list)
    return outcomes
