"""Errors against the oracle: what is allowed, and what never is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tilewright.gate.compare.errors import Allowed, Errors, compare, wrong_ranges
from tilewright.gate.judging.judge import Range, cover
from tilewright.gate.probes.planning import Family, Probe

INF, NAN = math.inf, math.nan


def exact(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(values, dtype=torch.float64)]


def single(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(values, dtype=torch.float32)]


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20))
def test_equal_outputs_have_no_error(values: list[float]) -> None:
    errors = compare(exact(*values), single(*values), single(*values))
    assert (errors.norm, errors.worst, errors.not_finite) == (0.0, 0.0, 0)


@given(st.floats(1e-6, 1.0), st.floats(1e-3, 1e6))
def test_errors_do_not_depend_on_the_scale(error: float, scale: float) -> None:
    oracle = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    got = oracle * (1.0 + error)
    plain = compare([oracle], [got], [oracle])
    scaled = compare([oracle * scale], [got * scale], [oracle * scale])
    assert plain.norm == pytest.approx(error, rel=1e-6)
    assert scaled.norm == pytest.approx(plain.norm, rel=1e-6)
    assert scaled.worst == pytest.approx(plain.worst, rel=1e-6)


def test_one_wrong_element_among_many_is_seen() -> None:
    oracle = torch.ones(10000, dtype=torch.float64)
    got = oracle.float()
    got[77] += 1e-3
    errors = compare([oracle], [got], [oracle.float()])
    assert errors.norm < 2e-5
    assert errors.worst == pytest.approx(1e-3, rel=1e-3)
    assert "[77]" in errors.where
    assert not Allowed.by(Errors(6e-8, 1e-7), torch.float32).pass_(errors)


@pytest.mark.parametrize(
    ("oracle", "native", "got", "wrong"),
    [
        ((1.0,), (1.0,), (NAN,), 1),
        ((1.0,), (1.0,), (INF,), 1),
        ((NAN,), (NAN,), (0.0,), 1),
        ((INF,), (INF,), (-INF,), 1),
        ((INF,), (INF,), (NAN,), 1),
        ((INF, NAN), (INF, NAN), (INF, NAN), 0),
        ((1e300,), (INF,), (INF,), 0),
        ((1e300,), (INF,), (3.0,), 0),
    ],
)
def test_places_that_are_not_finite_agree(
    oracle: tuple[float, ...], native: tuple[float, ...], got: tuple[float, ...], wrong: int
) -> None:
    assert compare(exact(*oracle), single(*got), single(*native)).not_finite == wrong


def test_where_right_is_zero_nothing_else_is_right() -> None:
    errors = compare(exact(0.0, 0.0), single(0.0, 1e-30), single(0.0, 0.0))
    assert errors.norm == INF
    assert not Allowed.by(Errors(0.0, 0.0), torch.float32).pass_(errors)


def test_integers_are_compared_exactly() -> None:
    errors = compare([torch.tensor([1, 2])], [torch.tensor([1, 3])], [torch.tensor([1, 2])])
    assert errors.norm == 0.5
    assert not Allowed.by(Errors(0.0, 0.0), torch.int64).pass_(errors)


def test_allowed_grows_with_the_references_own_error() -> None:
    exact_one = Allowed.by(Errors(0.0, 0.0), torch.float32)
    rough = Allowed.by(Errors(1e-3, 1e-2), torch.float32)
    assert 0 < exact_one.norm < 1e-5
    assert rough.norm == pytest.approx(4e-3, rel=1e-2)
    assert not exact_one.pass_(Errors(NAN, 0.0))


def test_ranges_of_wrong_elements() -> None:
    oracle = torch.ones(4, 10, 6, dtype=torch.float64)
    got = oracle.clone()
    got[:, 7:] = 2.0
    assert wrong_ranges(oracle, got, 1e-3) == "30% of the output, dim 1: 7 to 9"
    assert wrong_ranges(oracle, oracle, 1e-3) == ""


def probe(name: str, **quantities: int) -> Probe:
    return Probe(name, Family.SIZE, quantities=tuple(quantities.items()))


def test_a_cover_names_the_range_that_is_wrong() -> None:
    good = [probe("a", height=8, width=3), probe("b", height=32, width=90)]
    bad = {0: probe("c", height=33, width=3), 1: probe("d", height=64, width=5)}
    assert cover(bad, good, (4, 32, 64)) == ([(Range("height", 32, above=True), {0, 1})], set())


def test_a_cover_needs_two_ranges_for_two_causes() -> None:
    good = [probe("a", height=8, width=8)]
    bad = {0: probe("c", height=33, width=8), 1: probe("d", height=8, width=2), 2: probe("e", height=40, width=8)}
    ranges, left = cover(bad, good, (4, 32))
    assert [(str(one), inside) for one, inside in ranges] == [("height > 32", {0, 2}), ("width <= 4", {1})]
    assert left == set()


def test_what_no_range_explains_is_left() -> None:
    assert cover({0: probe("c", height=8)}, [probe("a", height=8)], (4, 32)) == ([], {0})
