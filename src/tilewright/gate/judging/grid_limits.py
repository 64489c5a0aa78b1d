"""From which size of an input on a grid no longer fits a GPU: limits, by arithmetic on the launches that were seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tilewright.gate.contract.rules import finding
from tilewright.gate.judging.judge import Expected
from tilewright.gate.probes.planning import Family
from tilewright.sandbox.job import Part
from tilewright.values.candidate import Recording
from tilewright.values.verdict import Finding, Severity

#: Programs along each axis of a grid. Source: CUDA C++ Programming Guide, technical specifications; all capabilities.
MOST_PROGRAMS = (2**31 - 1, 65_535, 65_535)
#: A size that is more than so many times the task's own is nobody's.
_NEAR = 16
#: Kernel, axis, dimension -> size -> programs along that axis.
_Seen = dict[tuple[str, int, str], dict[int, int]]


def grid_limits(parts: Sequence[Part], expected: Sequence[Expected | None], recording: Recording) -> list[Finding]:
    """A limit for each launch whose grid axis 1 or 2 grows with a dimension, and ends not far beyond its own size.

    Args:
        parts: the candidate's runs (`run I C`), each with the grids of its launches.
        expected: the oracle's answers, which know the probes.
        recording: the launches at the task's own sizes.
    """
    own = {e.probe.group: e.probe.size for e in expected if e is not None and e.probe.own_size}
    found: dict[tuple[str, int, str], Finding] = {}
    for (kernel, axis, group), programs in _seen(parts, expected).items():
        sizes = sorted(programs)
        there = max((launch.grid[axis] for launch in recording.launches if launch.kernel == kernel), default=0)
        grows = len(sizes) > 1 and programs[sizes[-1]] > programs[sizes[0]]
        if group not in own or not grows or not MOST_PROGRAMS[axis] // _NEAR < there <= MOST_PROGRAMS[axis]:
            continue
        last = own[group] * MOST_PROGRAMS[axis] // there
        text = (
            f"wrong where {group} > about {last:,}: {kernel} has {there:,} programs along grid axis {axis} at "
            f"{own[group]:,}, their number grows with it, and a GPU takes {MOST_PROGRAMS[axis]:,}"
        )
        found[kernel, axis, group] = replace(finding("contract.grid", text, where=group), severity=Severity.LIMIT)
    return list(found.values())


def _seen(parts: Sequence[Part], expected: Sequence[Expected | None]) -> _Seen:
    found: _Seen = {}
    for part in parts:
        words = part.name.split(" ")
        if len(words) != 3 or words[0] != "run" or not words[1].isdigit() or int(words[1]) >= len(expected):
            continue
        answer = expected[int(words[1])]
        if answer is None or answer.probe.family is not Family.SIZE or not answer.probe.group:
            continue
        for kernel, axis, programs in _grids(part.data):
            sizes = found.setdefault((kernel, axis, answer.probe.group), {})
            sizes[answer.probe.size] = max(programs, sizes.get(answer.probe.size, 0))
    return found


def _grids(data: Any) -> Iterator[tuple[str, int, int]]:
    """Kernel, axis and programs of each launch in a report, which is data of the other side."""
    grids = data.get("grids") if isinstance(data, Mapping) else None
    for kernel, launches in grids.items() if isinstance(grids, Mapping) else ():
        for grid in launches if isinstance(launches, list) else ():
            for axis in (1, 2):
                if isinstance(grid, list) and len(grid) > axis and type(grid[axis]) is int:
                    yield str(kernel), axis, grid[axis]
