"""How much a run may spend: one frozen table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tilewright.errors import TilewrightError
from tilewright.search.strategies import Bounds


@dataclass(frozen=True)
class Effort:
    """One level of effort.

    Attributes:
        name: as `--effort` takes it.
        predicted: candidates of one batch that are compiled and given to the model at most.
        verified: candidates of one batch that go through the gate at most.
        gate: effort of the gate.
        given_gate: effort of the gate on the given code where times are measured: the search does not wait for more.
        strategy: how a batch is measured where it is larger than `small`; a name of the registry.
        small: batches of at most so many options are measured whole.
        bounds: of the measurements of one batch.
        far_behind: with a GPU, a candidate whose modelled time is more than this many times the third best of its
            batch is not measured (the model may be wrong about one or two); 0 for no such limit.
        idle_stages: the run ends after this many stages in a row that had proposals and gained nothing.
        near_speed_of_light: the run ends when this fraction of the speed of light is reached.
        retune: the retune proposer is asked at all.
        budget_s: wall seconds of the run, where times are modelled (`tilewright.search.budget` keeps them) ...
        gpu_budget_s: ... and where they are measured ...
        gpu_time_s: ... and seconds for which the GPU may be held by the clock alone.
        peer_modes: of torch.compile, which are measured beside the candidates.
        peers_s: seconds that compiling them may take, all together.
    """

    name: str
    predicted: int
    verified: int
    gate: str
    given_gate: str
    strategy: str
    small: int
    bounds: Bounds
    far_behind: float
    idle_stages: int
    near_speed_of_light: float
    retune: bool
    budget_s: float
    gpu_budget_s: float
    gpu_time_s: float
    peer_modes: tuple[str, ...] = ("default",)
    peers_s: float = 20.0


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        effort.name: effort
        for effort in (
            Effort(
                "none", predicted=1, verified=1, gate="none", given_gate="none",
                strategy="ranked_by_model", small=1, bounds=Bounds(1, final="none", finalists=1), far_behind=1.0,
                idle_stages=1, near_speed_of_light=0.95, retune=False,
                budget_s=120.0, gpu_budget_s=60.0, gpu_time_s=30.0,
            ),
            Effort(
                "quick", predicted=8, verified=2, gate="quick", given_gate="quick",
                strategy="successive_halving", small=8, bounds=Bounds(5, final="quick", finalists=3), far_behind=3.0,
                idle_stages=1, near_speed_of_light=0.95, retune=True,
                budget_s=120.0, gpu_budget_s=75.0, gpu_time_s=30.0, peers_s=30.0,
            ),
            Effort(
                "full", predicted=48, verified=6, gate="full", given_gate="quick",
                strategy="sampled", small=48, bounds=Bounds(64, final="quick", finalists=4), far_behind=0.0,
                idle_stages=2, near_speed_of_light=0.98, retune=True,
                budget_s=1800.0, gpu_budget_s=180.0, gpu_time_s=90.0,
                peer_modes=("default", "max-autotune-no-cudagraphs"), peers_s=80.0,
            ),
        )
    }
)  # fmt: skip


def find_effort(name: str) -> Effort:
    """The effort level of that name.

    Raises:
        TilewrightError: there is none.
    """
    if name not in EFFORTS:
        raise TilewrightError(f"no effort level is named {name!r}", hint=f"levels: {', '.join(EFFORTS)}")
    return EFFORTS[name]
