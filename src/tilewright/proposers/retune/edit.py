"""What an edit is: a named change of a kernel's source that keeps its meaning, and what it touches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from tilewright.gpu.gpu import Gpu
from tilewright.proposers.retune.flow import Flow, flow_of
from tilewright.proposers.retune.view import Kernel, View, view_of
from tilewright.task.stage import Stage, StageRules
from tilewright.values.verdict import KernelResources


class Change(StrEnum):
    """What a change of the source touches; a stage permits some of these."""

    WARPS = "num_warps"
    STAGES = "num_stages"
    AUTOTUNE = "autotune list"
    TILE = "tile size"
    GRID = "grid"
    ORDER = "program order"
    ADDRESS = "kernel body"
    HINT = "memory hint"
    CONSTEXPR = "constexpr argument"
    HOST = "host code"


_TUNING = frozenset({Change.WARPS, Change.STAGES, Change.AUTOTUNE, Change.TILE})
_MEMORY = _TUNING | {Change.GRID, Change.ORDER, Change.ADDRESS, Change.HINT, Change.CONSTEXPR, Change.HOST}

#: What each stage is about. A stage's own rules (`may_change_grid`, `may_retile`, the sets of warps and stages)
#: narrow this further.
STAGE_CHANGES: Mapping[Stage, frozenset[Change]] = {
    Stage.GRID_AND_PARALLEL: frozenset(
        {Change.WARPS, Change.TILE, Change.GRID, Change.ORDER, Change.AUTOTUNE, Change.ADDRESS, Change.HOST}
    ),
    Stage.BLOCK_TILING: _TUNING | {Change.GRID, Change.ADDRESS},
    Stage.MEMORY_ACCESS: _MEMORY,
    Stage.ADVANCED_MEMORY: _TUNING | {Change.HINT},
    Stage.MEMORY_AND_TUNING: _MEMORY,
}


def permitted_changes(rules: StageRules) -> frozenset[Change]:
    """What a stage under its rules may touch."""
    permitted = STAGE_CHANGES[rules.stage]
    if not rules.may_change_grid:
        permitted -= {Change.GRID, Change.ORDER}
    if not rules.may_retile:
        permitted -= {Change.TILE}
    return permitted


@dataclass(frozen=True)
class Context:
    """What the edits know beside the source.

    Attributes:
        rules: the stage's.
        gpu: the target.
        resources: what the compiler says of the kernels.
        metrics: a profile, kernel -> metric -> value.
        given_arguments: the kernel's arguments in the given code; what another edit put in is not tuned.
    """

    rules: StageRules
    gpu: Gpu
    resources: tuple[KernelResources, ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    given_arguments: frozenset[str] | None = None

    def of(self, kernel: str) -> tuple[KernelResources, ...]:
        """The compiled resources of one kernel, one for each configuration."""
        return tuple(found for found in self.resources if found.kernel == kernel)

    def metric(self, kernel: str, name: str) -> float | None:
        """One figure of the profile, if it is there."""
        return self.metrics.get(kernel, {}).get(name)

    def is_given(self, argument: str) -> bool:
        """Whether the given code has this argument of the kernel at hand."""
        return self.given_arguments is None or argument in self.given_arguments

    def runs(self, kernel: str) -> bool:
        """Whether a kernel is known to run, or nothing is known of any."""
        seen = {found.kernel for found in self.resources} | set(self.metrics)
        return not seen or kernel in seen


@dataclass(frozen=True)
class Subject:
    """One kernel of a module, ready to be edited."""

    view: View
    kernel: Kernel
    flow: Flow

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.name


@lru_cache(maxsize=256)
def subject_of(source: str, kernel: str) -> Subject | None:
    """Read a module and take one of its kernels; None where it has none of that name."""
    view = view_of(source)
    found = view.kernel(kernel)
    return None if found is None else Subject(view, found, flow_of(found, view.language))


@dataclass(frozen=True)
class Proposal:
    """An edited module.

    Attributes:
        source: the whole module.
        description: what was changed, for people.
        gain: expected factor on the kernel's time, a rough prior that only orders the trials.
        edits: names of the edits that made it.
    """

    source: str
    description: str
    gain: float
    edits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edit:
    """One row of the table.

    Attributes:
        name: stable name.
        law: `before -> after`, and when it holds.
        changes: what it touches.
        propose: the edited modules, none where the edit does not apply.
    """

    name: str
    law: str
    changes: frozenset[Change]
    propose: Callable[[Subject, Context], Iterable[Proposal]]
