"""Sizes that belong together in the task, though the reference itself would take them apart.

A square matrix, two inputs of one shape: a candidate may rely on that. Such dimensions change together; that they can
be told apart is asked by probes of its own, whose failure is a limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.gate.probes.planning import Group, Member
from tilewright.gate.probes.structure import Structure


def tied(
    groups: Sequence[Group], shapes: Sequence[tuple[int, ...]], structures: Sequence[Structure]
) -> list[tuple[Group, ...]]:
    """The groups, those that belong together side by side.

    Args:
        groups: dimensions that the reference lets change by themselves.
        shapes: of each tensor of the inputs.
        structures: of each.
    """
    home = {member: number for number, group in enumerate(groups) for member in group.members}
    parent = list(range(len(groups)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    for one, other in _pairs(shapes, structures):
        if one in home and other in home:
            first, second = sorted((root(home[one]), root(home[other])))
            parent[second] = first
    return [
        tuple(group for number, group in enumerate(groups) if root(number) == first)
        for first in dict.fromkeys(root(number) for number in range(len(groups)))
    ]


def _pairs(shapes: Sequence[tuple[int, ...]], structures: Sequence[Structure]) -> list[tuple[Member, Member]]:
    pairs: list[tuple[Member, Member]] = []
    for leaf, shape in enumerate(shapes):
        last = len(shape) - 1
        square = len(shape) in (2, 3) or (len(structures) > leaf and structures[leaf].square)
        if last > 0 and shape[last] == shape[last - 1] and square:
            pairs.append(((leaf, last - 1), (leaf, last)))
        pairs += [
            ((leaf, dim), (other, dim)) for other in range(leaf) if shapes[other] == shape for dim in range(len(shape))
        ]
    return pairs


def joined(groups: Sequence[Group]) -> Group:
    """Groups that belong together, as one."""
    return Group(tuple(member for group in groups for member in group.members), groups[0].size)
