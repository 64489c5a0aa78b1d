"""Optimisation stages: what a step may change, and under which rules."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """The stages, in the order of a full run; `memory_and_tuning` is the last two together."""

    GRID_AND_PARALLEL = "grid_and_parallel"
    BLOCK_TILING = "block_tiling"
    MEMORY_ACCESS = "memory_access"
    ADVANCED_MEMORY = "advanced_memory"
    MEMORY_AND_TUNING = "memory_and_tuning"


#: The stages of a full run, in order.
FULL_RUN: tuple[Stage, ...] = (
    Stage.GRID_AND_PARALLEL,
    Stage.BLOCK_TILING,
    Stage.MEMORY_ACCESS,
    Stage.ADVANCED_MEMORY,
)


@dataclass(frozen=True)
class StageRules:
    """A stage's rules as data. An empty or None field means that the stage says nothing of it.

    Attributes:
        stage: which stage.
        focus: its focus as the document words it.
        num_warps, num_stages: the values that may be tried.
        max_autotune_configs: at most so many configurations of an autotune list.
        conservative_baseline: (num_warps, num_stages) that must be among the trials.
        one_store_per_output: intermediate stores are forbidden.
        min_gain_percent: a smaller gain is reverted.
        start_num_stages: where to start with num_stages, if said.
        may_change_grid: False in a stage that only tunes.
        may_retile: tile sizes may change.
        conditions: conditional rules, each (`when`, `advice`) as text, to be evaluated on the compiled kernel.
        text: the section as it was written, for the writer.
    """

    stage: Stage
    focus: str
    num_warps: tuple[int, ...] = ()
    num_stages: tuple[int, ...] = ()
    max_autotune_configs: int | None = None
    conservative_baseline: tuple[int, int] | None = None
    one_store_per_output: bool = False
    min_gain_percent: float = 2.0
    start_num_stages: int | None = None
    may_change_grid: bool = True
    may_retile: bool = True
    conditions: tuple[tuple[str, str], ...] = ()
    text: str = ""
