"""A study: what was tried for one task, in order, what came of it, and what it was compared with.

The last of floor 0: it gathers what the other modules of the floor define, so the package does not import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tilewright.gpu.speed_of_light import SpeedOfLight
from tilewright.values.candidate import Candidate
from tilewright.values.exchange import Exchange
from tilewright.values.measurement import Modelled, Timing, Work
from tilewright.values.sight import Ceilings, Sight
from tilewright.values.verdict import Verdict


class Outcome(StrEnum):
    """What became of a trial."""

    GIVEN = "given"  #: the code that the task came with: judged and timed, not searched for
    KEPT = "kept"  #: passed the gate and gained enough over the best before it
    REVERTED = "reverted"  #: not wrong, but no gain
    REJECTED = "rejected"  #: the gate said no


@dataclass(frozen=True)
class Trial:
    """One candidate and what became of it.

    Attributes:
        number: counts from 1 in the order of the trials; 0 for the given code.
        stage: name of the stage in which it was tried; empty for the given code.
        candidate: what was tried.
        outcome: kept, reverted or rejected.
        reason: why, one line with the numbers.
        verdict: the gate's; None where the candidate was set aside on its modelled time before the gate.
        timing: the time that comparisons use; None where there is none.
        prediction: the model's time, also where the comparison is by measurement.
        seconds: wall time that the run waited for it; 0 where it was taken from the store.
        resumed: its results were found in the study store.
    """

    number: int
    stage: str
    candidate: Candidate
    outcome: Outcome
    reason: str
    verdict: Verdict | None = None
    timing: Timing | None = None
    prediction: Modelled | None = None
    seconds: float = 0.0
    resumed: bool = False

    @property
    def is_right(self) -> bool:
        """The gate accepts it, and names no limit of its validity."""
        return self.verdict is not None and self.verdict.accepted and not self.verdict.limits


@dataclass(frozen=True)
class StageResult:
    """What one stage of a run came to.

    Attributes:
        stage: its name.
        tried: candidates that were compiled in it.
        kept: number of the trial that is its result; None where the stage was reverted: nothing in it passed the
            gate and gained enough.
        before: time of what the stage started from; None where there was nothing with a time.
        after: time of its result, taken in the same run as `before`; None where nothing was kept.
        said: one line for people.
    """

    stage: str
    tried: int
    kept: int | None
    before: Timing | None
    after: Timing | None
    said: str


@dataclass(frozen=True)
class Study:
    """One run of the search on one task.

    Attributes:
        task: the task's name.
        gpu: the target's name for people.
        gpu_key: its key in the GPU table.
        precision: precision class of the reference.
        stages: names of the stages of the run, in order.
        effort: name of the effort level.
        oracle: what says what is right: `reference` or `given code`.
        versions: name -> version of what the results depend on (torch, triton, tilewright, python, ...).
        command: the command that repeats the run.
        started: UTC time, ISO 8601.
        seconds: wall time of the run.
        timing_kind: `measured` or `modelled`; every time in the study that is compared is of this kind.
        reference: time of the reference; None where there is no reference.
        given: the given code's trial, if the task came with code.
        trials: in order.
        best_number: number of the trial that was kept last; None where nothing better was found.
        work: what the task must do at least; None where it could not be counted.
        speed_of_light: the floor that `work` sets on the target; None with it.
        notes: what a reader must know: how times were obtained, what the run left out and why.
        exchanges: with a language model, in order; empty where none was asked.
        stage_results: of the stages that were run, in order.
        spent: activity (`compile`, `measure`, `gate`, ...) -> seconds of wall time; activities may overlap.
        sights: of the reference, the given code and the result, as far as they exist: profile and diagnosis.
        ceilings: the GPU's rates in the task's class.
        peers: name (`torch.compile in mode default`) -> time, taken in one run with the result's; empty without a GPU.
        peer_failures: name -> why there is no time of it.
        runner_up: number of the trial that is the fastest of ours where a peer is faster; it is the result only where
            it was asked for all the same.
        graphs: calls are captured in CUDA graphs: the GPU's time alone decided.
        budget_s: wall seconds that the run was given; 0 in records of versions that did not say it.
    """

    task: str
    gpu: str
    gpu_key: str
    precision: str
    stages: tuple[str, ...]
    effort: str
    oracle: str
    versions: Mapping[str, str]
    command: str
    started: str
    seconds: float
    timing_kind: str
    reference: Timing | None
    given: Trial | None
    trials: tuple[Trial, ...]
    best_number: int | None
    work: Work | None = None
    speed_of_light: SpeedOfLight | None = None
    notes: tuple[str, ...] = field(default=())
    exchanges: tuple[Exchange, ...] = field(default=())
    stage_results: tuple[StageResult, ...] = field(default=())
    spent: Mapping[str, float] = field(default_factory=dict)
    sights: tuple[Sight, ...] = field(default=())
    ceilings: Ceilings | None = None
    peers: Mapping[str, Timing] = field(default_factory=dict)
    peer_failures: Mapping[str, str] = field(default_factory=dict)
    runner_up: int | None = None
    graphs: bool = False
    budget_s: float = 0.0

    @property
    def best(self) -> Trial | None:
        """The trial whose candidate is the result; None where nothing better was found."""
        return next((trial for trial in self.trials if trial.number == self.best_number), None)

    @property
    def ours(self) -> Trial | None:
        """The fastest of ours, whether or not it is the result; None where nothing beat what was there."""
        number = self.best_number if self.best_number is not None else self.runner_up
        return next((trial for trial in self.trials if trial.number == number), None)

    @property
    def best_peer(self) -> tuple[str, Timing] | None:
        """Name and time of the fastest peer; None where none was timed."""
        return min(self.peers.items(), key=lambda row: row[1].time_ms, default=None)

    @property
    def peer_wins(self) -> bool:
        """The fastest thing that the user had is a peer, and nothing of ours beats it."""
        peer = self.best_peer
        return peer is not None and self.baseline is peer[1] and (self.best is None or self.runner_up is not None)

    def keeping_ours(self) -> Study:
        """The same study with the fastest of ours as its result, also where a peer is faster."""
        return self if self.best is not None else replace(self, best_number=self.runner_up)

    @property
    def baseline(self) -> Timing | None:
        """The fastest right thing that the user had: the reference, accepted given code, or torch.compile."""
        right = [self.reference] if self.reference is not None else []
        right.extend(self.peers.values())
        if self.given is not None and self.given.timing is not None and self.given_counts:
            right.append(self.given.timing)
        return min(right, key=lambda timing: timing.time_ms, default=None)

    @property
    def given_counts(self) -> bool:
        """The given code is a baseline: the gate accepts it without limits, or it is the specification itself."""
        if self.given is None:
            return False
        return self.given.is_right or self.oracle == "given code"

    @property
    def speed_up(self) -> float | None:
        """Baseline time over best time; None where either is missing."""
        best = self.best
        if best is None or best.timing is None or self.baseline is None:
            return None
        return self.baseline.time_ms / best.timing.time_ms

    def fraction_of_speed_of_light(self, timing: Timing | None) -> float | None:
        """Speed-of-light time over `timing`, 1.0 at the floor; None where either is missing."""
        if timing is None or self.speed_of_light is None or timing.time_ms <= 0:
            return None
        return self.speed_of_light.time_ms / timing.time_ms
