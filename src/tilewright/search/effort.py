"""How much a run may spend: one frozen table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tilewright.errors import TilewrightError


@dataclass(frozen=True)
class Effort:
    """One level of effort.

    Attributes:
        name: as `--effort` takes it.
        predicted: candidates of one batch that are compiled and given to the model at most.
        verified: candidates of one batch that go through the gate at most.
        gate: effort of the gate.
        far_behind: with a GPU, a candidate whose modelled time is more than this many times the best of its
            batch is not measured.
        idle_stages: the run ends after this many stages in a row that had proposals and gained nothing.
        near_speed_of_light: the run ends when this fraction of the speed of light is reached.
        retune: the retune proposer is asked at all.
        budget_s: no new candidate is started after this many seconds.
    """

    name: str
    predicted: int
    verified: int
    gate: str
    far_behind: float
    idle_stages: int
    near_speed_of_light: float
    retune: bool
    budget_s: float


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        effort.name: effort
        for effort in (
            Effort("none", 1, 1, "none", 1.0, 1, 0.95, retune=False, budget_s=120.0),
            Effort("quick", 16, 2, "quick", 1.5, 1, 0.95, retune=True, budget_s=120.0),
            Effort("full", 32, 6, "full", 3.0, 4, 0.98, retune=True, budget_s=1800.0),
        )
    }
)


def find_effort(name: str) -> Effort:
    """The effort level of that name.

    Raises:
        TilewrightError: there is none.
    """
    if name not in EFFORTS:
        raise TilewrightError(f"no effort level is named {name!r}", hint=f"levels: {', '.join(EFFORTS)}")
    return EFFORTS[name]
