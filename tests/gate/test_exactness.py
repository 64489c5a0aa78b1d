"""Outputs one by one, in their own types: bias, fill values, whole numbers, complex and short ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tilewright.gate.compare.errors import Errors, compare_one
from tilewright.gate.compare.exactness import Compared, Right, compared
from tilewright.gate.compare.scales import bias, fill_bounds
from tilewright.gate.probes import nudge


def judged(exact: torch.Tensor, native: torch.Tensor, got: torch.Tensor) -> Compared:
    """How `got` compares, the reference's own error measured on the same values."""
    errors = compare_one(exact, native)
    return compared(Right(exact, native, native.dtype, None, errors, Errors(0.0, 0.0)), got)


def normal(count: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.02, False), (1.01, False)])
def test_a_factor_is_no_rounding(dtype: torch.dtype, factor: float, right: bool) -> None:
    exact = normal(4096)
    assert (judged(exact, exact.to(dtype), (exact * factor).to(dtype)).problem == "") is right


def test_rounding_twice_is_allowed() -> None:
    exact = normal(4096)
    twice = (exact.to(torch.bfloat16) * torch.tensor(1.7).to(torch.bfloat16)).double()
    assert judged(exact * 1.7, (exact * 1.7).bfloat16(), twice.bfloat16()).problem == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_formula_shows_among_many(dtype: torch.dtype) -> None:
    x = normal(1 << 15).to(dtype).double()
    exact = F.gelu(x)
    found = judged(exact, F.gelu(x.float()).to(dtype), F.gelu(x.float(), approximate="tanh").to(dtype))
    assert found.problem == "correctness.value"
    assert judged(exact, F.gelu(x.float()).to(dtype), (x * 0.5 * (1 + torch.erf(x / 2**0.5))).to(dtype)).problem == ""


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_elements_are_judged_with_patience(count: int) -> None:
    exact = normal(count) + 3.0
    native = exact.bfloat16()
    neighbour = (native.view(torch.int16) + 1).view(torch.bfloat16)
    assert judged(exact, native, native).problem == ""
    assert judged(exact, native, neighbour).problem == ""
    assert judged(exact, native, (exact * 1.1).bfloat16()).problem == "correctness.value"


def test_a_bias_is_what_spread_does_not_explain() -> None:
    exact = normal(10000)
    noise = normal(20000)[10000:] * 0.01
    assert bias(exact, exact + noise) < 1e-3
    assert bias(exact, exact * 1.01 + noise) == pytest.approx(0.01, rel=0.2)


def test_fill_values_do_not_set_the_scale() -> None:
    exact = normal(1000)
    exact[::3] = -1e9
    assert len(fill_bounds(exact)) == 1
    got = exact.clone()
    got[1] += 0.01
    assert judged(exact, exact.float(), exact.float()).problem == ""
    assert judged(exact, exact.float(), got.float()).problem == "correctness.value"
    assert fill_bounds(normal(1000)) == []
    assert fill_bounds(torch.ones(10)) == []


def test_whole_numbers_agree_exactly_but_where_rounding_decides() -> None:
    exact = torch.tensor([3, 5, 7])
    right = Right(exact, exact, exact.dtype, None, Errors(0.0, 0.0), Errors(0.0, 0.0))
    assert compared(right, exact).problem == ""
    found = compared(right, torch.tensor([3, 6, 7]))
    assert found.problem == "correctness.value"
    assert "1 of 3 differ, first at [1]: 6, right is 5" in found.message
    span = torch.tensor([3, 5, 7]), torch.tensor([3, 6, 7])
    loose = Right(exact, exact, exact.dtype, span, Errors(0.0, 0.0), Errors(0.0, 0.0))
    assert compared(loose, torch.tensor([3, 6, 7])).problem == ""
    assert compared(loose, torch.tensor([4, 6, 7])).problem == "correctness.value"


def test_ties_stay_ties_where_their_order_is_fixed() -> None:
    tied = torch.tensor([1.0, 2.0, 2.0, 2.0])
    for seed in range(4):
        assert int(torch.argmax(nudge.nudged_alike([tied], seed)[0])) == 1
    runs = [torch.argsort(nudge.nudged_apart([tied], seed)[0]) for seed in range(4)]
    assert nudge.open_range(torch.argsort(tied), runs, ties_open=True, most=3) is not None
    assert nudge.open_range(torch.argmax(tied), [torch.argmax(tied)], ties_open=False) is None


def test_complex_values_are_compared_by_their_parts() -> None:
    exact = torch.complex(normal(50), normal(50))
    native = exact.to(torch.complex64)
    assert judged(exact, native, native).problem == ""
    assert judged(exact, native, native * 1.001).problem == "correctness.value"


def test_short_values_do_not_change_in_the_last_bit() -> None:
    short = torch.randn(9).bfloat16()
    assert torch.equal(nudge.nudge(short, 1), short)
    assert not torch.equal(nudge.nudge(short.float(), 1), short.float())


def test_noise_is_no_error_of_a_candidate() -> None:
    """Where the reference has no correct digit, other noise of a like size is as good; garbage is not."""
    exact = normal(8192) * 1e-9
    native, other = (normal(30000)[start : start + 8192].float() * 1e-8 for start in (9000, 20000))
    assert judged(exact, native, other).problem == ""
    assert judged(exact, native, other * 2.5).problem == ""
    assert judged(exact, native, torch.ones(8192)).problem == "correctness.value"
