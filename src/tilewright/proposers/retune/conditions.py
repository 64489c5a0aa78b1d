"""A stage's conditional rules, evaluated on what the compiler says of a kernel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.gpu.gpu import Gpu
from tilewright.proposers.retune.edit import Context
from tilewright.values.verdict import KernelResources

_BOUND = re.compile(r"reg(?:ister)?s?(?:\s+per\s+thread)?\s*(<=|>=|<|>)\s*(\d+)", re.IGNORECASE)
_LOADS = re.compile(r"(\d+)\s*(?:\+|or more)\s*(?:distinct\s+)?loads", re.IGNORECASE)
_VALUE = re.compile(r"(num_warps|num_stages)\s*=\s*(\d+)")
#: An advice that starts so leaves no choice; the others (`try`, `may help`, `preferred`) only order the trials.
_BINDING = re.compile(r"^\W*(use|keep|only)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Advice:
    """What the rules that hold say of `num_warps` and `num_stages`.

    Attributes:
        num_warps, num_stages: the values that may be tried, the preferred first.
        fired: the conditions that hold, as written.
    """

    num_warps: tuple[int, ...]
    num_stages: tuple[int, ...]
    fired: tuple[str, ...] = ()


def advice_for(kernel: str, distinct_loads: int, context: Context, available: Sequence[int] = (2, 4, 8, 16)) -> Advice:
    """The warps and stages to try for a kernel: the rules' sets, narrowed and ordered by the conditions that hold.

    The conservative baseline stays among the values whatever the conditions say: the rules want it tried.
    """
    rules = context.rules
    warps = list(rules.num_warps or available)
    stages = list(rules.num_stages or (1, 2, 3, 4))
    if rules.start_num_stages in stages:
        stages.sort(key=lambda value: value != rules.start_num_stages)
    fired = tuple((when, advice) for when, advice in rules.conditions if holds(when, kernel, distinct_loads, context))
    for _, advice in fired:
        for line in re.split(r"[;\n]", advice):
            for name, value in _VALUE.findall(line):
                values = warps if name == "num_warps" else stages
                _apply(values, int(value), binding=_BINDING.match(line) is not None)
    return Advice(tuple(warps), tuple(stages), tuple(when for when, _ in fired))


def _apply(values: list[int], value: int, *, binding: bool) -> None:
    if value not in values:
        return
    if binding:
        values[:] = [value]
    else:
        values.sort(key=lambda other: other != value)


def holds(when: str, kernel: str, distinct_loads: int, context: Context) -> bool:
    """Whether a condition, as a document words it, is true of a kernel; what cannot be read does not hold.

    Known: a bound on registers (`regs < 96`), `no spill`, `occupancy_limit_registers`, `3+ distinct loads`. Parts
    that a document joins with `or` are alternatives, the others must all hold. Where a kernel was compiled in
    several configurations, the one with the most registers speaks.
    """
    compiled = context.of(kernel)
    worst = max(compiled, key=lambda found: found.registers, default=None)
    return any(_all_hold(part, worst, distinct_loads, context.gpu) for part in re.split(r"\bor\b(?!\s+more)", when))


def _all_hold(text: str, compiled: KernelResources | None, distinct_loads: int, gpu: Gpu) -> bool:
    outcomes: list[bool] = []
    for relation, bound in _BOUND.findall(text):
        outcomes.append(compiled is not None and _compare(compiled.registers, relation, int(bound)))
    if re.search(r"no\s+spill", text, re.IGNORECASE):
        outcomes.append(compiled is not None and compiled.spill_bytes == 0)
    if re.search(r"occupancy[_ ]limit(?:ed)?[_ ](?:by[_ ])?registers", text, re.IGNORECASE):
        outcomes.append(compiled is not None and limited_by_registers(compiled, gpu))
    loads = _LOADS.search(text)
    if loads:
        outcomes.append(distinct_loads >= int(loads.group(1)))
    return bool(outcomes) and all(outcomes)


def _compare(value: int, relation: str, bound: int) -> bool:
    return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[relation]


def limited_by_registers(compiled: KernelResources, gpu: Gpu) -> bool:
    """Whether registers, rather than threads, blocks or shared memory, bound the programs on an SM.

    Registers are handed out to a warp in units of 256, as CUDA's occupancy calculator has it since sm_70.
    """
    per_warp = -(-compiled.registers * gpu.warp_size // 256) * 256
    by_registers = gpu.registers_per_sm // max(per_warp * compiled.warps, 1)
    others = [gpu.max_warps_per_sm // compiled.warps, gpu.max_blocks_per_sm]
    if compiled.shared_bytes:
        others.append(gpu.shared_bytes_per_sm // compiled.shared_bytes)
    return by_registers < min(others)
