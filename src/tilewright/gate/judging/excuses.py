"""Ordinary probes that fail where the task itself cannot be: at other alignments, or with another constructor.

A candidate that is right at the task's own sizes, and at small ones as aligned as those, serves that task: what fails
beside them is a limit with its range. The same holds of a constructor that was changed to make the module small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.gate.probes.planning import ALIGNMENTS, Family, Probe

if TYPE_CHECKING:
    from tilewright.gate.judging.judge import Expected, Outcome


@dataclass(frozen=True)
class Multiple:
    """Sizes of one inner dimension that are no multiple of a number."""

    what: str
    constant: int

    def __str__(self) -> str:
        return f"{self.what} is no multiple of {self.constant}"

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether these sizes lie in it; sizes that lack the dimension do not."""
        return self.what in sizes and sizes[self.what] % self.constant != 0


@dataclass(frozen=True)
class Excuses:
    """What ordinary probes may fail for.

    Attributes:
        ranges: misaligned sizes, and the probes that fail at them.
        constructors: probes that fail with another constructor, on the task's own kind of inputs too.
    """

    ranges: tuple[tuple[Multiple, frozenset[int]], ...] = ()
    constructors: frozenset[int] = frozenset()

    @property
    def indices(self) -> frozenset[int]:
        """All probes that are excused."""
        return self.constructors.union(*(indices for _, indices in self.ranges))


def excuses_of(expected: Sequence[Expected | None], outcomes: Sequence[Outcome]) -> Excuses:
    """What the ordinary probes that fail may be excused for; nothing where the task's own sizes are not right."""
    answered = {index: answer.probe for index, answer in enumerate(expected) if answer is not None}
    ran = [o for o in outcomes if o.index in answered and o.problem != "skipped"]
    failed = {o.index for o in ran if o.problem}
    own = [o for o in ran if answered[o.index].family is Family.OWN]
    values = {index for index in failed if answered[index].family is Family.VALUE}
    if not own or any(o.problem for o in own) or not values:
        return Excuses()
    elsewhere = _elsewhere(answered, {o.index for o in ran}, failed)
    left = values - elsewhere
    right = [answered[o.index] for o in ran if o.index not in failed]
    ranges = _misaligned(answered, left, failed - elsewhere, right) if left else []
    return Excuses(tuple(ranges), elsewhere)


def _elsewhere(answered: Mapping[int, Probe], ran: set[int], failed: set[int]) -> frozenset[int]:
    """Probes that fail with a constructor with which every probe of the task's own kind of inputs fails."""
    found: set[int] = set()
    for constructor in {answered[index].constructor for index in failed} - {0}:
        there = {i for i in ran if answered[i].constructor == constructor}
        plain = {i for i in there if answered[i].family is Family.VALUE and answered[i].draw == "own"}
        if plain and plain <= failed:
            found |= there & failed
    return frozenset(found)


def _misaligned(
    answered: Mapping[int, Probe], values: set[int], failed: set[int], right: Sequence[Probe]
) -> list[tuple[Multiple, frozenset[int]]]:
    """Ranges that hold every failing ordinary probe and no right one; none where some is left."""
    ordinary = [dict(probe.quantities) for probe in right if probe.family is not Family.EXTREME]
    if not any(probe.family is Family.VALUE for probe in right):
        return []
    names = set.intersection(*(set(table) for table in ordinary))
    asked = {i for i in failed if answered[i].family in {Family.VALUE, Family.SIZE, Family.ARGUMENT}}
    tables = {index: dict(answered[index].quantities) for index in asked}
    options = [
        Multiple(name, constant)
        for name in sorted(names)
        for constant in ALIGNMENTS
        if all(table[name] % constant == 0 for table in ordinary)
    ]
    inside = {option: {i for i, table in tables.items() if option.holds(table)} for option in options}
    left, found = set(tables), []
    while left and options:
        best = max(options, key=lambda one: (len(inside[one] & left), one.what.startswith("dim"), one.constant))
        if not inside[best] & left:
            break
        found.append((best, frozenset(inside[best] & left)))
        left -= inside[best]
    return [] if left & values else found
