"""A rule as a row: its name, its law, its threshold with the source, and the function that looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tilewright.diagnosis.facts import Facts, Figure
from tilewright.values.diagnosis import Diagnosis, Evidence


@dataclass(frozen=True)
class Threshold:
    """What a figure is compared with.

    Attributes:
        value: the number.
        unit: of both.
        relation: `at least`, `under`, `over`.
        source: where the number comes from; an assumption says so.
    """

    value: float
    unit: str
    relation: str
    source: str

    def met_by(self, value: float) -> bool:
        """Whether the figure is on the side that the relation names."""
        if self.relation == "at least":
            return value >= self.value
        return value < self.value if self.relation == "under" else value > self.value

    def evidence(self, name: str, figure: Figure) -> Evidence:
        """The figure beside the threshold."""
        return Evidence(name, figure.value, self.unit, figure.label, self.value, self.relation, self.source)


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        name: stable, for reports and `tilewright explain`.
        law: what follows from what, one sentence.
        threshold: of the deciding figure.
        look: the diagnoses of a forward pass; none where the rule does not apply.
        explained_by: names of rules; where one of them speaks of the same subject, or of the whole forward pass,
            this one has nothing to add.
    """

    name: str
    law: str
    threshold: Threshold
    look: Callable[[Facts, Threshold], Iterable[Diagnosis]]
    explained_by: tuple[str, ...] = ()


def plain(name: str, value: float, unit: str, label: str) -> Evidence:
    """A figure that only explains."""
    return Evidence(name, value, unit, label)


def words_of_bytes(count: float) -> str:
    """Bytes for people (10**6 bytes)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
