"""A sampler of Optuna's over the schedule parameters: for spaces too large to measure whole."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tilewright.errors import TilewrightError
from tilewright.search.strategies.strategy import Ask, Bounds, Option, Steps, asks, by_prior, fastest

#: The model's first choices start the sampler off.
_START = 6
#: Suggestions that are measured together.
_TOGETHER = 4
_FAMILY = "family"


class OptunaMissingError(TilewrightError):
    """The sampler is an extra, and not installed."""


def sampled(options: Sequence[Option], bounds: Bounds) -> Steps:
    """The model's first choices, then what a tree-structured Parzen estimator suggests; then many of the fastest.

    A suggestion is a point of the grid of all values; the nearest option that was not measured stands for it.

    Raises:
        OptunaMissingError: Optuna is not installed.
    """
    sampler = _Sampler(options)
    ordered = by_prior(options)
    limit = min(bounds.measurements, len(ordered))
    times: dict[str, float] = {}
    tried: set[str] = set()
    turn = [option.key for option in ordered[: min(_START, limit)]]
    while turn:
        tried.update(turn)
        found = yield Ask(tuple(turn), bounds.scout)
        times.update(found)
        for key in turn:
            sampler.learn(key, found.get(key))
        turn = sampler.suggest(tried, min(_TOGETHER, limit - len(tried)))
    yield from asks(fastest(times, bounds.finalists), bounds.final, bounds.at_once)


class _Sampler:
    """Optuna's study, asked for points and told of options."""

    def __init__(self, options: Sequence[Option]) -> None:
        try:
            self._optuna: Any = importlib.import_module("optuna")
        except ImportError:
            raise OptunaMissingError(
                "Optuna is not installed", hint="pip install 'tilewright[search]', or take another strategy"
            ) from None
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        sampler = self._optuna.samplers.TPESampler(seed=0, n_startup_trials=_START, constant_liar=True)
        self._study = self._optuna.create_study(sampler=sampler)
        self._options = {option.key: option for option in options}
        self._spaces: dict[str, dict[str, list[int]]] = {}
        for option in options:
            space = self._spaces.setdefault(_family(option), {name: [] for name in option.parameters})
            for name, value in option.parameters.items():
                space[name] = sorted({*space[name], value})

    def learn(self, key: str, ms: float | None) -> None:
        """An option was measured; None where it failed."""
        option = self._options[key]
        family = _family(option)
        parameters: dict[str, Any] = {_FAMILY: family}
        parameters |= {f"{family}/{name}": value for name, value in option.parameters.items()}
        choices: dict[str, Any] = {_FAMILY: sorted(self._spaces)}
        choices |= {f"{family}/{name}": values for name, values in self._spaces[family].items()}
        distribution = self._optuna.distributions.CategoricalDistribution
        trial = self._optuna.trial
        self._study.add_trial(
            trial.create_trial(
                params=parameters,
                distributions={name: distribution(values) for name, values in choices.items()},
                value=None if ms is None else math.log(ms),
                state=trial.TrialState.FAIL if ms is None else trial.TrialState.COMPLETE,
            )
        )

    def suggest(self, tried: set[str], count: int) -> list[str]:
        """So many options that were not tried; fewer where there are no more."""
        found: list[str] = []
        while len(found) < count:
            left = [option for key, option in self._options.items() if key not in tried and key not in found]
            if not left:
                break
            point = self._study.ask()
            family = point.suggest_categorical(_FAMILY, sorted(self._spaces))
            values = {
                name: point.suggest_categorical(f"{family}/{name}", choices)
                for name, choices in self._spaces[family].items()
            }
            self._study.tell(point, state=self._optuna.trial.TrialState.FAIL)
            found.append(min(left, key=lambda option: _distance(option, family, values)).key)
        return found


def _family(option: Option) -> str:
    return ",".join(sorted(option.parameters))


def _distance(option: Option, family: str, values: Mapping[str, int]) -> tuple[int, float, float]:
    """How far an option is from a point: another family, steps of doubling, then the model's time."""
    if _family(option) != family:
        return (1, 0.0, option.prior_ms)
    steps = sum(
        abs(math.log2(max(option.parameters[name], 1)) - math.log2(max(value, 1))) for name, value in values.items()
    )
    return (0, steps, option.prior_ms)
