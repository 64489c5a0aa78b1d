"""The mutators, and a fixed sample of mutants that must be killed; `python -m benchmarks.soak mutants` takes 500."""

from __future__ import annotations

import ast

import pytest

from tests.gate.corpus.cases import RIGHT, reference_path
from tilewright.gate.mutate.mutants import Mutant, all_mutants, sample_mutants
from tilewright.gate.mutate.operators import OPERATORS
from tilewright.gate.mutate.twins import compare_sources
from tilewright.gate.verify import verify
from tilewright.task.load import load_task
from tilewright.values.candidate import Candidate, Origin

#: Candidate -> how many mutants of it are in the sample, and of which seed.
_SAMPLE = {
    "flattened_channels": (2, 5),
    "atomic_split_sum": (2, 6),
    "block_pointers": (2, 5),
    "backward_accumulation": (2, 5),
}


def _case(name: str):
    return next(case for case in RIGHT if case.name == name)


def _sampled() -> list[object]:
    return [
        pytest.param(name, mutant, id=f"{name}-{number}-{mutant.operator}")
        for name, (count, seed) in _SAMPLE.items()
        for number, mutant in enumerate(sample_mutants(_case(name).source, count, seed))
    ]


@pytest.mark.parametrize(("name", "mutant"), _sampled())
def test_mutants_are_killed(name: str, mutant: Mutant) -> None:
    case = _case(name)
    task = load_task(reference_path(case.reference), gpu="rtx-4090")
    verdict = verify(task, Candidate(mutant.source, Origin.SYNTHESIZE, str(mutant)), effort="none")
    assert not verdict.accepted, f"{name}, {mutant}"


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
def test_mutants_parse_differ_and_change_one_place(case) -> None:
    mutants = all_mutants(case.source)
    assert len(mutants) > 20
    shapes = {ast.dump(ast.parse(mutant.source)) for mutant in mutants}
    assert len(shapes) == len(mutants)
    assert ast.dump(ast.parse(case.source)) not in shapes
    for mutant in mutants:
        assert mutant.before != mutant.after
        assert mutant.source.count("\n") <= case.source.count("\n")


def test_every_operator_finds_something_in_the_corpus() -> None:
    found = {mutant.operator for case in RIGHT for mutant in all_mutants(case.source)}
    assert found == set(OPERATORS)


def test_samples_repeat_and_take_operators_in_turn() -> None:
    source = _case("fused_attention").source
    chosen = sample_mutants(source, 12, seed=3)
    assert chosen == sample_mutants(source, 12, seed=3)
    assert chosen != sample_mutants(source, 12, seed=4)
    assert len({mutant.operator for mutant in chosen}) == 12


def test_twins_tell_the_same_from_the_different() -> None:
    from tilewright.gpu.table import find_gpu

    source = _case("flattened_channels").source
    inputs = ["randn(2, 3, 4, 5)", "randn(1, 3, 1, 1)", "randn(3, 3, 7, 2)"]
    gpu = find_gpu("rtx-4090")
    same = compare_sources(
        source, source.replace("BLOCK=128", "BLOCK=64").replace(", 128)", ", 64)"), [3, -1.0, 1.0], inputs, gpu
    )
    assert same.same
    assert same.compared == 3
    other = compare_sources(
        source, source.replace("value > high, high", "value > high, low"), [3, -1.0, 1.0], inputs, gpu
    )
    assert not other.same
    assert "relative difference" in other.difference
