"""A search whose compilations, gates and measurements run on a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tilewright.gpu.gpu import Gpu
from tilewright.search.fleet import Fleet, FleetError
from tilewright.search.tools import Prediction, Say, Tools
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Measured
from tilewright.values.verdict import Verdict

if TYPE_CHECKING:
    from tilewright.measure.clock import ClockReport
    from tilewright.measure.peers import Peer


def fleet_tools(fleet: Fleet, tools: Tools | None = None) -> Tools:
    """The tools of a search, with what is dear sent to the fleet: candidates as source there, results as values back.

    Args:
        fleet: the workers.
        tools: what the workers call; the real ones by default.
    """
    own = tools or Tools()

    def predict(task: Task, candidate: Candidate) -> Prediction:
        return fleet.call(own.predict, task, candidate)

    def gate(task: Task, candidate: Candidate, effort: str, say: Say) -> Verdict:
        return fleet.call(_silent_gate, own, task, candidate, effort)

    def open_clock(task: Task) -> FleetClock:
        return FleetClock(fleet, own, task)

    def installed() -> Gpu | None:
        return fleet.call(own.installed) if fleet.gpus else own.installed()

    return replace(own, predict=predict, compile_together=None, gate=gate, open_clock=open_clock, installed=installed)


class FleetClock:
    """Measures a batch on all GPUs of a fleet, and what is compared at the end on one of them."""

    def __init__(self, fleet: Fleet, tools: Tools, task: Task) -> None:
        """Measures candidates for `task`; each worker measures the reference beside its own."""
        self._fleet = fleet
        self._tools = tools
        self._task = task

    def start(self) -> None:
        """Nothing: workers start a process for each order."""

    def close(self) -> None:
        """Nothing is kept open."""

    def measure(
        self, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer] = (), peers_s: float = 0.0
    ) -> ClockReport:
        """Times by label. A large batch is dealt out to the GPUs; a small one, as what is compared at last, is not.

        Peers are compiled and timed on one GPU.
        """
        parts = min(self._fleet.size, max(1, len(candidates) // _WORTH_A_WORKER))
        jobs = [
            (self._tools, self._task, tuple(candidates[part::parts]), plan, tuple(peers) if part == 0 else (), peers_s)
            for part in range(parts)
        ]
        found = dict(self._fleet.each(_measure, jobs))
        lost = next((report for report in found.values() if isinstance(report, FleetError)), None)
        if lost is not None:
            raise lost
        return _joined([report for _, report in sorted(found.items()) if not isinstance(report, FleetError)])


#: Candidates for which a GPU more is worth its process.
_WORTH_A_WORKER = 4


def _silent_gate(tools: Tools, task: Task, candidate: Candidate, effort: str) -> Verdict:
    return tools.gate(task, candidate, effort, lambda message: None)


def _measure(
    tools: Tools, task: Task, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer], peers_s: float
) -> ClockReport:
    clock = tools.open_clock(task)
    try:
        return clock.measure(candidates, plan, peers, peers_s)
    finally:
        clock.close()


def _joined(reports: Sequence[ClockReport]) -> ClockReport:
    """One report of several; the reference's time is the first worker's."""
    measured: dict[str, Measured] = {}
    for report in reports:
        measured = {**report.measured, **measured}
    failures: Mapping[str, str] = {label: why for report in reports for label, why in report.failures.items()}
    notes = tuple(dict.fromkeys(note for report in reports for note in report.notes))
    checks = {label: check for report in reports for label, check in report.checks.items()}
    return replace(reports[0], measured=measured, failures=failures, checks=checks, notes=notes)
