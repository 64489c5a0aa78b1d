"""The corpus: what is wrong is rejected for its own reason, what is right is accepted, whatever its style.

A run takes the sample marked in the table; `--corpus all`, or `python -m benchmarks.soak corpus`, takes everything.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from tests.gate.corpus.cases import FOLDER, RIGHT, WRONG, Right, Wrong, reference_path
from tests.gate.corpus.judged import complaint, judged


def _parameters(cases: tuple[Right, ...] | tuple[Wrong, ...]) -> list[object]:
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.gpu] if isinstance(case, Wrong) and case.gpu else [])
        for case in cases
    ]


@pytest.fixture
def chosen(request: pytest.FixtureRequest) -> str:
    """Which cases are run: `sample` or `all`."""
    return str(request.config.getoption("--corpus", default="sample"))


def _skip_unless_chosen(case: Right | Wrong, chosen: str) -> None:
    if not case.quick and chosen != "all":
        pytest.skip("outside of the sample: give --corpus all, or run `python -m benchmarks.soak corpus`")


@pytest.mark.parametrize("case", _parameters(WRONG))
def test_wrong_is_rejected_for_its_own_reason(case: Wrong, chosen: str) -> None:
    _skip_unless_chosen(case, chosen)
    assert not complaint(case, judged(case))


@pytest.mark.parametrize("case", _parameters(RIGHT))
def test_right_is_accepted(case: Right, chosen: str) -> None:
    _skip_unless_chosen(case, chosen)
    assert not complaint(case, judged(case))


def _files(folder: str) -> list[Path]:
    return sorted((FOLDER / folder).glob("*.py"))


def test_the_table_names_every_file_once() -> None:
    for folder, cases in (("right", RIGHT), ("wrong", WRONG)):
        assert sorted(case.name for case in cases) == [path.stem for path in _files(folder)]
    assert {case.reference for case in (*RIGHT, *WRONG)} == {path.stem for path in _files("references")}


def test_the_corpus_is_large_enough() -> None:
    assert sum(not case.gpu for case in WRONG) >= 32
    assert len(RIGHT) >= 32


def test_no_two_candidates_are_the_same() -> None:
    texts = [ast.dump(ast.parse(case.source)) for case in (*RIGHT, *WRONG)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("path", [*_files("right"), *_files("wrong"), *_files("references")], ids=lambda p: p.stem)
def test_every_file_says_what_it_does(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted({case.reference for case in RIGHT if not case.large}))
def test_references_are_small(name: str) -> None:
    """The interpreter must be quick on them."""
    from tilewright.task.load import load_task
    from tilewright.task.module_source import make_inputs

    source = load_task(reference_path(name), gpu="rtx-4090").reference
    assert source is not None
    inputs = [one for one in make_inputs(source) if isinstance(one, torch.Tensor)]
    assert sum(tensor.numel() for tensor in inputs) < 10_000
