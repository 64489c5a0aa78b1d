"""Retune as a whole: what it returns for any module, and that every candidate still computes the same."""

from __future__ import annotations

import ast
import hashlib

import pytest

from tests.proposers.retune_cases import ALLOWED_ERROR, CASES, Case, different, interpreted_errors, rules, task_of
from tilewright.errors import SourceError
from tilewright.proposers.retune import MAX_CANDIDATES, retune, stage_findings
from tilewright.values.candidate import Origin

STAGES = ("grid_and_parallel", "block_tiling", "memory_access", "advanced_memory", "memory_and_tuning")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_candidates_compute_what_the_given_module_computes(case: Case) -> None:
    given = rules("memory_access")
    candidates = retune(task_of(case.source, given), case.source, given, ())
    assert candidates
    candidates = different(candidates)
    sources = [case.source, *(candidate.source for candidate in candidates)]
    outcomes = interpreted_errors(sources, case.init, case.shapes, views=case.views)
    wrong = {
        candidate.description: outcome
        for candidate, outcome in zip(candidates, outcomes[1:], strict=True)
        if not isinstance(outcome, float) or outcome > ALLOWED_ERROR
    }
    assert outcomes[0] == 0.0
    assert not wrong


@pytest.mark.parametrize("case", [CASES[4], CASES[3]], ids=lambda case: case.name)
@pytest.mark.parametrize("stage", STAGES)
def test_candidates_stay_inside_their_stage(case: Case, stage: str) -> None:
    given = rules(stage)
    candidates = retune(task_of(case.source, given), case.source, given, ())
    assert len(candidates) <= MAX_CANDIDATES
    assert len({candidate.source for candidate in candidates}) == len(candidates)
    for candidate in candidates:
        assert not stage_findings(case.source, candidate.source, given)
        assert candidate.origin is Origin.RETUNE
        assert candidate.parent == hashlib.sha256(case.source.encode()).hexdigest()[:16]
        assert candidate.description
        assert candidate.source != case.source
        ast.parse(candidate.source)


def test_the_same_input_gives_the_same_candidates() -> None:
    given = rules("memory_access")
    source = CASES[4].source
    assert retune(task_of(source, given), source, given, ()) == retune(task_of(source, given), source, given, ())


def test_code_that_does_not_parse_is_the_users_error() -> None:
    given = rules("memory_access")
    with pytest.raises(SourceError, match="does not parse"):
        retune(task_of("def f(:\n", given), "def f(:\n", given, ())


def test_a_module_without_kernels_gives_no_candidates() -> None:
    given = rules("memory_access")
    code = "import torch\n\n\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
    assert retune(task_of(code, given), code, given, ()) == ()
