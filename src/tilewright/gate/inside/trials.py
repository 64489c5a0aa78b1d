"""An autotuner's first call: each configuration is tried on the very arguments of the launch, before the launch.

The gate's other runs take a configuration at once, as a later call with a cached choice does. What trials leave in
memory (sums that were added to, a buffer that was changed in place) is seen in a run like this one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Run = Callable[..., Any]


def first_call(tuner: Any, run: Run, choice: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Launch as Triton's autotuner does where it has no choice cached: trials with their hooks, then the choice.

    Args:
        tuner: the `Autotuner`.
        run: its own `run`, unpatched.
        choice: which configuration wins, modulo how many there are.
        args, kwargs: of the launch.
    """
    count = len(tuner.prune_configs(dict(kwargs)))
    with _bench_of(tuner, _Bench(count, choice % count)):
        return run(tuner, *args, **kwargs)


class _Bench:
    """Stands for `do_bench`: it calls a trial once, where a real one calls it hundreds of times.

    All trials together are odd in number: what undoes itself every second time (a negation in place) shows too.
    """

    def __init__(self, count: int, winner: int) -> None:
        self._again = count % 2 == 0
        self._winner = winner
        self._number = 0

    def __call__(self, trial: Callable[[], Any], *_: Any, **__: Any) -> list[float]:
        trial()
        if self._number == 0 and self._again:
            trial()
        time = 1.0 if self._number == self._winner else 2.0
        self._number += 1
        return [time] * 3


@contextmanager
def _bench_of(tuner: Any, bench: _Bench) -> Iterator[None]:
    """The tuner with another stopwatch, and without the choices that it keeps on disk."""
    own = vars(tuner)
    before = {name: own[name] for name in ("do_bench", "cache_results") if name in own}
    own["do_bench"], own["cache_results"] = bench, False
    try:
        yield
    finally:
        for name in ("do_bench", "cache_results"):
            own.pop(name, None)
        own.update(before)
