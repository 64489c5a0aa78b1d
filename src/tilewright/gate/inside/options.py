"""Probes with other arguments that are no sizes: of the forward pass, and of the constructor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilewright.gate.probes import arguments as values_of
from tilewright.gate.probes import planning
from tilewright.gate.probes.planning import Family, Plan, Probe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilewright.gate.inside.oracle import Oracle

#: Options of the constructor that are varied, at most.
_MOST = 10


def argument_probes(plan: Plan, oracle: Oracle, home: tuple[int, Mapping[planning.Member, int]]) -> None:
    """Numbers, flags and words among the inputs at other values; what has no other is named."""
    constructor, sizes = home
    given = values_of.plain_values(oracle.template)
    place = tuple(sorted(sizes.items()))

    def probe(number: int, value: Any) -> Probe:
        name = f"the plain input {number} = {value!r} instead of {given[number]!r}"
        return Probe(
            name, Family.ARGUMENT, constructor, place, "responsive", seed=11, scalars=((number, value),)
        )  # fmt: skip

    words = values_of.words_of(oracle.subject.source.source)
    found = values_of.variations(given, frozenset(), words, lambda n, value: oracle.accepts(probe(n, value)))
    plan.probes += [probe(number, value) for number, value in found]
    left = set(range(len(given))) - {number for number, _ in found}
    plan.skipped += [f"another value of the plain input {number} ({given[number]!r})" for number in sorted(left)]


def option_probes(plan: Plan, oracle: Oracle, trace: planning.Tracer, base: planning.Sizes) -> None:
    """Options of the constructor at other values, those with defaults too; sizes have probes of their own."""
    full, own = values_of.full_arguments(oracle.subject), oracle.subject.own_arguments
    if full is None or own is None:
        return
    names = oracle.subject.argument_names
    sizes = frozenset(planning.size_arguments(trace, oracle.subject, oracle.template, base))
    found: dict[tuple[int, Any], planning.Variation] = {}

    def accepted(position: int, value: Any) -> bool:
        start = full[: max(len(own), position + 1)]
        alone = tuple(value if index == position else item for index, item in enumerate(start))
        name = names[position] if position < len(names) else f"constructor argument {position}"
        variation: planning.Variation | None = None
        if trace.confirmed(alone, base):
            variation = planning.Variation(alone, tuple(sorted(base.items())), f"{name} = {value!r}")
        elif type(value) is int:
            variation = planning.vary(trace, oracle.template, start, position, value, base, names)
        if variation is None or len(found) >= _MOST:
            return False
        found[position, value] = variation
        return True

    words = values_of.words_of(oracle.subject.source.source)
    for key in values_of.variations(full, sizes, words, accepted):
        one = found[key]
        plan.constructors.append(one.arguments)
        plan.changed.append(one.what)
        index = len(plan.constructors) - 1
        plan.probes.append(Probe(one.what, Family.CONSTRUCTOR, index, one.sizes, weights="responsive", seed=9))
