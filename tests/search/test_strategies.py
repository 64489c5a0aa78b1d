"""Every strategy of the registry, driven by recorded timings: what it finds, in how many measurements, its manners."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.economy import economy_of
from benchmarks.timings import RECORD, RecordedCase, read_record
from tilewright.errors import TilewrightError
from tilewright.search.effort import EFFORTS
from tilewright.search.strategies import STRATEGIES, Bounds, Option, choose, far_behind_ms, find_strategy, sampled
from tilewright.search.strategies.replay import RecordedTime, replay

NAMES = sorted(STRATEGIES)
RECORDED = read_record() if RECORD.is_file() else ()


@dataclass(frozen=True)
class Landscape:
    options: tuple[Option, ...]
    times: Mapping[str, RecordedTime]

    @property
    def best_ms(self) -> float:
        return min(time.median_ms for time in self.times.values())

    def share(self, key: str) -> float:
        return self.best_ms / self.times[key].median_ms if key in self.times else 0.0


def landscape(seed: int, *, prior: float = 0.2, failing: float = 0.05) -> Landscape:
    """A schedule space with a ridge, a prior that is off by about `prior`, and options that cannot be measured."""
    generator = random.Random(seed)
    ridge = [generator.choice(values) for values in ((32, 64, 128), (32, 64, 128, 256), (4, 8), (2, 3, 4))]
    options, times = [], {}
    for values in itertools.product((16, 32, 64, 128), (32, 64, 128, 256), (2, 4, 8), (1, 2, 3, 4)):
        steps = [abs(math.log2(value / best)) for value, best in zip(values, ridge, strict=True)]
        time = 0.5 * (1 + 0.25 * steps[0] + 0.2 * steps[1] + 0.3 * steps[2] + 0.1 * steps[3])
        time *= 1 + 0.03 * generator.random()
        key = "-".join(map(str, values))
        parameters = dict(zip(("M", "N", "warps", "stages"), values, strict=True))
        options.append(Option(key, time * math.exp(generator.gauss(0, prior)), parameters))
        if generator.random() >= failing:
            times[key] = RecordedTime(time, time * 0.98, time * 1.04)
    return Landscape(tuple(options), times)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_a_strategy_comes_near_the_best_within_its_bounds(name: str, seed: int) -> None:
    place = landscape(seed)
    bounds = Bounds(48)
    found = replay(find_strategy(name), place.options, place.times, bounds)
    assert found.options_measured <= bounds.measurements
    least = {"ranked_by_model": 0.65, "exhaustive": 0.85, "successive_halving": 0.85, "sampled": 0.9}[name]
    assert place.share(found.best) >= least


@pytest.mark.parametrize("name", ["exhaustive", "successive_halving", "sampled"])
def test_with_room_for_everything_the_best_is_found(name: str) -> None:
    place = landscape(7)
    small = tuple(option for option in place.options if option.parameters["stages"] == 2)
    times = {option.key: place.times[option.key] for option in small if option.key in place.times}
    found = replay(find_strategy(name), small, times, Bounds(1000, finalists=6))
    best = min(time.median_ms for time in times.values())
    assert best / times[found.best].median_ms >= 0.97


def test_the_sampler_does_better_than_the_models_order_where_the_model_is_poor() -> None:
    shares = dict.fromkeys(("sampled", "ranked_by_model"), 0.0)
    for seed, name in itertools.product(range(6), shares):
        place = landscape(seed, prior=1.0)
        shares[name] += place.share(replay(find_strategy(name), place.options, place.times, Bounds(40)).best) / 6
    assert shares["sampled"] > shares["ranked_by_model"] + 0.05


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_manners(name: str, data: st.DataObject) -> None:
    """Only what is there is asked for, never more than allowed; failures and equal options are borne."""
    count = data.draw(st.integers(0, 12))
    priors = data.draw(st.lists(st.sampled_from([0.1, 0.2, math.inf]), min_size=count, max_size=count))
    options = [Option(f"k{i}", prior, {"A": 1 << (i % 3)} if i % 2 else {}) for i, prior in enumerate(priors)]
    alive = data.draw(st.sets(st.sampled_from([option.key for option in options]))) if options else set()
    times = {key: RecordedTime(1.0 + len(key), 1.0, 2.0 + len(key)) for key in alive}
    bounds = Bounds(data.draw(st.integers(1, 8)), finalists=data.draw(st.integers(1, 4)))
    found = replay(find_strategy(name), options, times, bounds)
    assert found.options_measured <= bounds.measurements
    assert found.best in alive or not found.best
    if len(alive) == len(options) > 0:
        assert found.best


@pytest.mark.parametrize("name", NAMES)
def test_no_option_no_question(name: str) -> None:
    assert replay(find_strategy(name), [], {}, Bounds(5)).measurements == 0


def test_small_spaces_are_measured_whole() -> None:
    assert choose(12, 12, "sampled") == "exhaustive"
    assert choose(13, 12, "sampled") == "sampled"


def test_one_option_that_the_model_flatters_sets_no_others_aside() -> None:
    assert far_behind_ms([0.1, 1.0, 1.1, 1.2, 9.0], 2.0) == pytest.approx(2.2)
    assert far_behind_ms([0.1, 1.0], 2.0) == math.inf
    assert far_behind_ms([1.0, 1.0, 1.0, math.inf], 0.0) == math.inf
    assert far_behind_ms([1.0, 2.0, math.inf, math.inf], 2.0) == math.inf


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(TilewrightError, match="no strategy is named 'luck'"):
        find_strategy("luck")


def test_without_optuna_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    steps = sampled.sampled([Option("a", 1.0, {"A": 1})], Bounds(3))
    with pytest.raises(sampled.OptunaMissingError, match="Optuna is not installed"):
        next(steps)


def test_every_effort_names_a_strategy_that_there_is() -> None:
    for effort in EFFORTS.values():
        assert effort.strategy in STRATEGIES
        assert effort.bounds.measurements >= effort.bounds.finalists
    quick, full = EFFORTS["quick"], EFFORTS["full"]
    assert quick.gpu_time_s <= 30.0
    assert full.gpu_time_s <= 180.0
    assert quick.predicted <= 8 <= full.predicted
    assert quick.bounds.measurements <= 5


# The recording of a GPU.


@pytest.mark.skipif(not RECORDED, reason="no recording")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_on_recorded_timings_every_strategy_finds_a_good_schedule(name: str, case: RecordedCase) -> None:
    found = replay(find_strategy(name), case.options, case.times, Bounds(32))
    best = min(time.median_ms for time in case.times.values())
    least = 0.5 if name == "ranked_by_model" else 0.9
    assert best / case.times[found.best].median_ms >= least


@pytest.mark.skipif(not RECORDED, reason="no recording")
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_quick_reaches_most_of_the_best(case: RecordedCase) -> None:
    assert economy_of(case, "quick").share >= 0.93  # of five options that are measured; a sixth is 7 % faster once
    assert economy_of(case, "full").share >= 0.97
