"""The ranking's figures, and what is recorded for it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ranking import RECORDED, by_problem, counted_pairs, kendall_tau, kind_taus, read, top_holds

TIMES = st.lists(st.floats(0.01, 100), min_size=2, max_size=20)


@given(TIMES)
def test_the_right_order_gives_one_and_the_reverse_minus_one(times):
    right, reverse = [(time, 3 * time) for time in times], [(time, -time) for time in times]
    if counted_pairs(right):
        assert kendall_tau(right) == 1
        assert kendall_tau(reverse) == -1


def test_near_ties_do_not_count_and_equal_predictions_agree_by_nothing():
    assert kendall_tau([(1.0, 2.0), (1.01, 1.0)]) == 1
    assert kendall_tau([(1.0, 2.0), (2.0, 2.0)]) == 0
    assert kendall_tau([(1.0, 1.0), (2.0, 3.0), (4.0, 2.0)]) == pytest.approx(1 / 3)


def test_the_best_of_the_top_five():
    times = [(1.0 + number, float(number)) for number in range(10)]
    assert top_holds(times) == 1
    assert top_holds([(time, -said) for time, said in times]) == 6


def test_enough_was_measured():
    timed, gpu = read()
    assert gpu == "NVIDIA H200"
    assert len(timed) >= 60
    kinds = {one.item.kind for one in timed}
    assert len(kinds) == 6
    for kind in kinds:
        assert sum(one.item.kind == kind for one in timed) >= 8
    assert len({one.item.name for one in timed}) == len(timed)
    assert sum(map(len, by_problem({one.item.name: 1.0 for one in timed}, timed).values())) == len(timed)


def modelled(name):
    return json.loads(RECORDED.with_name(name).read_text(encoding="utf-8"))


def test_the_recorded_order_of_each_kind_is_the_measured_one():
    """Compiled by the Triton that the GPU was measured with: its code is what ran there."""
    timed, gpu = read()
    record = modelled("2026-11-21-h200-ranking-modelled-triton-3.6.0.json")
    assert record["gpu"] == gpu
    assert record["versions"] == {"triton": json.loads(RECORDED.read_text(encoding="utf-8"))["versions"]["triton"]}
    times = record["predicted_ms"]
    assert set(times) == {one.item.name for one in timed}
    for kind, (tau, _) in kind_taus(times, timed).items():
        assert tau >= 0.7, kind
    for problem, pairs in by_problem(times, timed).items():
        assert top_holds(pairs) <= 1.1, problem


def test_another_compilers_code_is_recorded_whole():
    timed, _ = read()
    record = modelled("2026-11-21-h200-ranking-modelled.json")
    assert set(record["predicted_ms"]) == {one.item.name for one in timed}
    for problem, pairs in by_problem(record["predicted_ms"], timed).items():
        assert top_holds(pairs) <= 1.1, problem
