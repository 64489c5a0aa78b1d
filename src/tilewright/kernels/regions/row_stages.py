"""Rounds of reductions over a row, and how each is accumulated when the row is walked step by step.

An accumulator keeps states. Each lane of a tile updates its own; `combine` brings the states of lanes, or of the
parts of a split row, together; `results` are the values of the region's reductions. Sums, means and variances of
one value, and a maximum with the sum of exponentials beneath it, are kept together, so that one walk gives both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.fx as torch_fx

from tilewright.graph.nodes import source_of
from tilewright.kernels.code.text import Lines, Names
from tilewright.kernels.regions.rows import PICKS, ROW_REDUCTIONS, RowRegion

aten = torch.ops.aten

#: Kind -> value that changes nothing.
IDENTITY = {"sum": "0.0", "mean": "0.0", "min": 'float("inf")', "max": 'float("-inf")', "prod": "1.0"}

#: Behind every place in a row.
_NO_PLACE = 2**31 - 1

#: (kind, text) -> the text reduced along the row.
Reduce = Callable[[str, str], str]


@dataclass(frozen=True)
class State:
    """One number of an accumulator.

    Attributes:
        suffix: of its name.
        start: its value before anything was added.
        counts: it counts a lane's elements: one number for all lanes where every step is whole (`WHOLE`).
        type: of the number.
    """

    suffix: str
    start: str
    counts: bool = False
    type: str = "tl.float32"


@dataclass(frozen=True)
class Accumulator:
    """Reductions of one value that are kept together.

    Attributes:
        nodes: the reductions that it gives.
        source: the value that is reduced.
        round: the round that it belongs to, from 1 on.
    """

    nodes: tuple[torch_fx.Node, ...]
    source: torch_fx.Node
    round: int

    @property
    def states(self) -> tuple[State, ...]:
        """Its states."""
        return (State("", IDENTITY[self.kind]),)

    @property
    def kind(self) -> str:
        """Kind of its first reduction."""
        return ROW_REDUCTIONS[self.nodes[0].target]

    def update(self, lines: Lines, names: Sequence[str], value: str, mask: str, place: str = "") -> None:
        """Add a tile's elements to the lanes; `place` is their index in the row, where it has one."""
        kept = f"tl.where({mask}, {value}, {IDENTITY[self.kind]})" if mask else value
        lines.add(f"{names[0]} = {join(self.kind, names[0], kept)}")

    def combine(self, lines: Lines, names: Sequence[str], reduce: Reduce) -> None:
        """Bring lanes together."""
        lines.add(f"{names[0]} = {reduce(self.kind, names[0])}")

    def results(self, lines: Lines, names: Sequence[str], count: str) -> dict[torch_fx.Node, str]:
        """Text of each reduction's value; `count` is the number of a row's elements."""
        return {node: _divided(node, names[0], count) for node in self.nodes}


def _divided(node: torch_fx.Node, total: str, count: str) -> str:
    return f"{total} / {count}" if ROW_REDUCTIONS[node.target] == "mean" else total


def along(kind: str, text: str, axis: int, *, keep: bool) -> str:
    """A tile reduced along one of its axes."""
    if kind in ("sum", "mean"):
        return f"tl.sum({text}, {axis}{', keep_dims=True' if keep else ''})"
    if kind == "first":
        return f"tl.min({text}, {axis}{', keep_dims=True' if keep else ''})"
    return f"{kind}_along({text}, {axis}, {keep})"


def join(kind: str, a: str, b: str) -> str:
    """Two partial results as one."""
    if kind in ("sum", "mean"):
        return f"{a} + {b}"
    return f"{a} * {b}" if kind == "prod" else f"{kind}imum({a}, {b})"


def correction_of(node: torch_fx.Node) -> float:
    """Degrees of freedom that a variance loses."""
    correction = node.kwargs.get("correction", 1)
    return 1.0 if correction is None else float(correction)  # type: ignore[arg-type]


def variance_text(node: torch_fx.Node, squares: str, count: str) -> str:
    """A variance from the sum of squared differences."""
    lost = correction_of(node)
    return f"{squares} / {count}" if lost == 0 else f"{squares} / tl.maximum({count} - {lost}, 0.0)"


@dataclass(frozen=True)
class RegisterRows:
    """Reductions of rows that lie whole in registers.

    Attributes:
        mask: which elements of a tile belong to a row.
        count: number of a row's elements.
        reduce: a tile along the row.
        place: index of each element in the row, where it has one.
    """

    mask: str
    count: str
    reduce: Reduce
    place: str = ""

    def text(
        self, lines: Lines, names: Names, node: torch_fx.Node, value: str, known: Mapping[torch_fx.Node, str]
    ) -> str:
        """The reduction `node` of `value`; a variance takes the mean from `known` values where it is there."""
        kind = ROW_REDUCTIONS[node.target]
        if kind in PICKS:
            kept, best = names.unique("kept"), names.unique("best")
            lines.add(f"{kept} = {self.masked(value, _extremum(kind))}")
            lines.add(f"{best} = {self.reduce(_extremum(kind), kept)}")
            return _first_place(kept, best, self.place, self.reduce)
        if kind != "var":
            total = self.reduce(kind, self.masked(value, kind))
            return f"{total} / {self.count}" if kind == "mean" else total
        mean = next((text for other, text in known.items() if _is_mean_beneath(other, node)), None)
        if mean is None:
            mean = names.unique("mean")
            lines.add(f"{mean} = {self.reduce('sum', self.masked(value, 'sum'))} / {self.count}")
        centred = names.unique("centred")
        lines.add(f"{centred} = {self.masked(f'{value} - {mean}', 'sum')}")
        return variance_text(node, self.reduce("sum", f"{centred} * {centred}"), self.count)

    def masked(self, text: str, kind: str) -> str:
        """What changes nothing in the place of elements that belong to no row."""
        return f"tl.where({self.mask}, {text}, {IDENTITY[kind]})"


def _is_mean_beneath(node: torch_fx.Node, variance: torch_fx.Node) -> bool:
    """The mean of the value whose variance is taken, over the same row."""
    return ROW_REDUCTIONS.get(node.target) == "mean" and source_of(node) is source_of(variance)


class Moments(Accumulator):
    """Count, mean and sum of squared differences, updated so that nothing cancels (Welford; combined as Chan)."""

    @property
    def states(self) -> tuple[State, ...]:
        """Count, mean, squares."""
        return (State("count", "0.0", counts=True), State("mean", "0.0"), State("squares", "0.0"))

    def update(self, lines: Lines, names: Sequence[str], value: str, mask: str, place: str = "") -> None:
        """Each lane has a mean of its own."""
        count, mean, squares = names
        lines.add(f"{count} += 1.0 if WHOLE else tl.where({mask}, 1.0, 0.0)" if mask else f"{count} += 1.0")
        step = f"({value} - {mean}) * rcp({count})"
        lines.add(f"{mean}_now = {mean} + " + (f"tl.where({mask}, {step}, 0.0)" if mask else step))
        change = f"({value} - {mean}) * ({value} - {mean}_now)"
        lines.add(f"{squares} += " + (f"tl.where({mask}, {change}, 0.0)" if mask else change))
        lines.add(f"{mean} = {mean}_now")

    def combine(self, lines: Lines, names: Sequence[str], reduce: Reduce) -> None:
        """The differences between the lanes' means count too."""
        count, mean, squares = names
        lines.add(f"{count}_all = {reduce('sum', count)}")
        # Triton 3.6 fails to compile the sum divided by a count that is one number, but not its weights.
        lines.add(f"{mean}_all = {reduce('sum', f'{mean} * ({count} / {count}_all)')}")
        spread = f"{squares} + {count} * ({mean} - {mean}_all) * ({mean} - {mean}_all)"
        lines.add(f"{squares} = {reduce('sum', spread)}")
        lines.add(f"{count}, {mean} = {count}_all, {mean}_all")

    def results(self, lines: Lines, names: Sequence[str], count: str) -> dict[torch_fx.Node, str]:
        """Variance, and the mean where it is asked for."""
        _, mean, squares = names
        return {
            node: variance_text(node, squares, count) if ROW_REDUCTIONS[node.target] == "var" else mean
            for node in self.nodes
        }


class Exponentials(Accumulator):
    """The largest value, and the sum of exp(value - largest): rescaled whenever a larger one comes."""

    @property
    def states(self) -> tuple[State, ...]:
        """Largest, total."""
        return (State("largest", 'float("-inf")'), State("total", "0.0"))

    def update(self, lines: Lines, names: Sequence[str], value: str, mask: str, place: str = "") -> None:
        """One exponential an element: of its distance to the largest so far."""
        largest, total = names
        inside = f"tl.where({mask}, {value}, float('-inf'))".replace("'", '"') if mask else value
        lines.add(f"{largest}_new = {inside}")
        equal = f"{largest}_new == {largest}"
        lines.add(f"{largest}_gap = tl.where({equal}, 1.0, tl.exp(-tl.abs({largest}_new - {largest})))")
        grown = f"{total} * {largest}_gap + 1.0"
        lines.add(f"{total} = tl.where({largest}_new > {largest}, {grown}, {total} + {largest}_gap)")
        lines.add(f"{largest} = maximum({largest}, {largest}_new)")

    def combine(self, lines: Lines, names: Sequence[str], reduce: Reduce) -> None:
        """Each lane's total is brought to the largest of all."""
        largest, total = names
        lines.add(f"{largest}_all = {reduce('max', largest)}")
        scale = f"tl.where({largest} == {largest}_all, 1.0, tl.exp({largest} - {largest}_all))"
        lines.add(f"{total} = {reduce('sum', f'{total} * {scale}')}")
        lines.add(f"{largest} = {largest}_all")

    def results(self, lines: Lines, names: Sequence[str], count: str) -> dict[torch_fx.Node, str]:
        """Where the largest is infinite, the sum is what it would have been element by element."""
        largest, total = names
        peak = next(node for node in self.nodes if ROW_REDUCTIONS[node.target] == "max")
        found = {peak: largest}
        for node in self.nodes:
            if node is not peak:
                instead = f"tl.maximum({largest}, 0.0)" if _shift_is_finite(node, peak) else 'float("nan")'
                found[node] = f'tl.where(tl.abs({largest}) == float("inf"), {instead}, {total})'
        return found


class Pick(Accumulator):
    """The largest or smallest value, NaN before all, and the first place that has it."""

    @property
    def states(self) -> tuple[State, ...]:
        """Best, place."""
        return (State("best", IDENTITY[_extremum(self.kind)]), State("place", "0", type="tl.int64"))

    def update(self, lines: Lines, names: Sequence[str], value: str, mask: str, place: str = "") -> None:
        """Places come in order: only a better value takes the lane."""
        best, first = names
        sign = ">" if self.kind == "argmax" else "<"
        kept = f"tl.where({mask}, {value}, {IDENTITY[_extremum(self.kind)]})" if mask else value
        lines.add(f"{best}_new = {kept}")
        better = f"({best}_new {sign} {best}) | (({best}_new != {best}_new) & ({best} == {best}))"
        lines.add(f"{best}_better = {better}")
        lines.add(f"{first} = tl.where({best}_better, {place}, {first})")
        lines.add(f"{best} = tl.where({best}_better, {best}_new, {best})")

    def combine(self, lines: Lines, names: Sequence[str], reduce: Reduce) -> None:
        """The first place among the lanes that have the best value."""
        best, first = names
        lines.add(f"{best}_all = {reduce(_extremum(self.kind), best)}")
        lines.add(f"{first} = {_first_place(best, f'{best}_all', first, reduce)}")

    def results(self, lines: Lines, names: Sequence[str], count: str) -> dict[torch_fx.Node, str]:
        """The place."""
        return dict.fromkeys(self.nodes, names[1])


def _extremum(kind: str) -> str:
    return kind.removeprefix("arg")


def _first_place(value: str, best: str, place: str, reduce: Reduce) -> str:
    """The first place whose value is the best of its row; NaN is as good as NaN."""
    same = f"({value} == {best}) | (({value} != {value}) & ({best} != {best}))"
    return reduce("first", f"tl.where({same}, {place}, {_NO_PLACE})")


def find_accumulators(region: RowRegion) -> tuple[Accumulator, ...]:
    """The region's reductions, grouped into accumulators, in order."""
    rounds: dict[torch_fx.Node, int] = {}
    pairs: dict[torch_fx.Node, list[torch_fx.Node]] = {}
    owner: dict[torch_fx.Node, torch_fx.Node] = {}
    for node in region.nodes:
        before = max((rounds.get(source, 0) for source in node.all_input_nodes), default=0)
        rounds[node] = before
        if node.target not in ROW_REDUCTIONS:
            continue
        peak = peak_beneath(region, node)
        first = next((other for other in pairs if peak is None and _are_moments(node, other, pairs[other])), peak)
        if first is None or first not in pairs:
            pairs[node] = [node]
            owner[node] = node
            rounds[node] = before + 1
        else:
            pairs[first].append(node)
            owner[node] = first
            rounds[node] = rounds[first]
    return tuple(_accumulator(tuple(nodes), rounds[first]) for first, nodes in pairs.items())


def _accumulator(nodes: tuple[torch_fx.Node, ...], round_: int) -> Accumulator:
    kinds = {ROW_REDUCTIONS[node.target] for node in nodes}
    if kinds & set(PICKS):
        return Pick(nodes, source_of(nodes[0]), round_)
    if "var" in kinds:
        return Moments(nodes, source_of(nodes[0]), round_)
    if "max" in kinds and len(nodes) > 1:
        return Exponentials(nodes, source_of(nodes[0]), round_)
    return Accumulator(nodes, source_of(nodes[0]), round_)


def _are_moments(node: torch_fx.Node, other: torch_fx.Node, held: Sequence[torch_fx.Node]) -> bool:
    """Mean and variance of the same value."""
    if source_of(node) is not source_of(other):
        return False
    kinds = {ROW_REDUCTIONS[each.target] for each in (node, *held)}
    return kinds <= {"mean", "var"} or (kinds <= {"sum", "mean"} and "sum" in kinds)


def peak_beneath(region: RowRegion, node: torch_fx.Node) -> torch_fx.Node | None:
    """For sum(exp(x - max(x))) the maximum; None for anything else."""
    if ROW_REDUCTIONS.get(node.target) != "sum":
        return None
    exponential = source_of(node)
    if exponential.target is not aten.exp.default or exponential not in region.dims:
        return None
    difference = source_of(exponential)
    if difference.target is not aten.sub.Tensor or len(difference.args) != 2 or difference.kwargs:
        return None
    x, shift = difference.args
    for peak in region.reductions:
        same = ROW_REDUCTIONS[peak.target] == "max" and source_of(peak) is x
        if same and (shift is peak or (isinstance(shift, torch_fx.Node) and _is_finite_form(shift, peak))):
            return peak
    return None


def _is_finite_form(node: torch_fx.Node, peak: torch_fx.Node) -> bool:
    """The maximum, or 0 where it is infinite."""
    if node.target is not aten.masked_fill.Scalar or node.args[0] is not peak or node.args[2] != 0:
        return False
    mask = node.args[1]
    return isinstance(mask, torch_fx.Node) and mask.target is aten.isinf.default and mask.args[0] is peak


def _shift_is_finite(total: torch_fx.Node, peak: torch_fx.Node) -> bool:
    return source_of(source_of(total)).args[1] is not peak
