"""What the search calls, as one value: proposers, gate, model, clock. Tests put others in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tilewright.gpu.gpu import Gpu
from tilewright.search.understand import Understanding, understand
from tilewright.task.stage import StageRules
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Modelled
from tilewright.values.sight import Sight
from tilewright.values.verdict import Finding, KernelResources, Verdict

if TYPE_CHECKING:
    from tilewright.measure.clock import ClockReport
    from tilewright.measure.peers import Peer

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prediction:
    """What compiling a candidate and asking the model gave.

    Attributes:
        modelled: the time; None where the candidate could not be compiled or recorded.
        findings: what compiling and recording found.
        resources: of each kernel.
    """

    modelled: Modelled | None
    findings: tuple[Finding, ...] = ()
    resources: tuple[KernelResources, ...] = ()


def _synthesize(task: Task, say: Say) -> tuple[Candidate, ...]:
    from tilewright.proposers.synthesize import synthesize

    return tuple(synthesize(task, progress=say))


def _retune(
    task: Task, code: str, rules: StageRules, resources: Sequence[KernelResources], causes: Sequence[str]
) -> tuple[Candidate, ...]:
    from tilewright.proposers.retune import retune

    return tuple(retune(task, code, rules, resources, causes))


def _gate(task: Task, candidate: Candidate, effort: str, say: Say) -> Verdict:
    from tilewright.gate.verify import verify

    return verify(task, candidate, effort=effort, progress=say)


def _predict(task: Task, candidate: Candidate) -> Prediction:
    from tilewright.gate.stages.record import record
    from tilewright.measure.model import predict
    from tilewright.values.verdict import Severity

    recording, resources, findings = record(task, candidate, task.gpu)
    if any(finding.severity is Severity.ERROR for finding in findings):
        return Prediction(None, tuple(findings), tuple(resources))
    modelled = predict(
        recording, resources, task.gpu, task.precision, spares=candidate.spares, products=dict(candidate.products)
    )
    return Prediction(modelled, tuple(findings), tuple(resources))


def _compile_together(task: Task, candidates: Sequence[Candidate]) -> None:
    from tilewright.gate.stages.record import record_together

    record_together(task, candidates, task.gpu)


def _predict_reference(task: Task, understanding: Understanding) -> Modelled | None:
    from tilewright.measure.model import predict_reference

    if understanding.graph is None:
        return None
    return predict_reference(understanding.graph, task.gpu, task.precision)


class Clock(Protocol):
    """What measures: one process for a whole run, which keeps the reference warm."""

    def start(self) -> None:
        """Begin to warm up; the first measurement waits for it."""

    def measure(
        self, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer] = (), peers_s: float = 0.0
    ) -> ClockReport:
        """Times, all taken in one interleaved run; labels: `reference`, the candidates' digests, the peers' names.

        Args:
            candidates: what is timed.
            plan: a name of `tilewright.measure.timer.PLANS`.
            peers: what is compiled and timed beside them.
            peers_s: seconds that compiling all peers may take.
        """

    def close(self) -> None:
        """End the process."""


def _open_clock(task: Task) -> Clock:
    from tilewright.measure.session import ClockSession

    return ClockSession(task, include_reference=not task.given_code_is_specification)


def _look(task: Task, candidate: Candidate | None, understanding: Understanding, subject: str, thorough: bool) -> Sight:
    from tilewright.search.sight import look_at

    # The gate has accepted everything but, perhaps, the given code.
    ask = thorough and subject == "given code"
    return look_at(task, candidate, understanding, subject=subject, look_for_unread=ask, thorough=thorough)


def _installed() -> Gpu | None:
    from tilewright.gpu.detect import detect_gpu

    return detect_gpu()


@dataclass(frozen=True)
class Tools:
    """The functions that a search calls; the defaults are the real ones, loaded when first called.

    Attributes:
        understand: task -> graph, work, speed of light.
        synthesize: task -> candidates from the reference, best first.
        retune: task, code, stage's rules, its kernels' resources, rules of the diagnosis that fired -> candidates
            that keep the code's meaning.
        predict: task, candidate -> modelled time, or why there is none.
        compile_together: task, candidates of one proposer: makes `predict` cheap for each of them; None where each
            is better predicted by itself.
        predict_reference: task, understanding -> the reference's modelled time.
        gate: task, candidate, effort -> verdict.
        open_clock: task -> what measures it and its candidates.
        look: task, candidate (None: the reference), understanding, what it is called, whether there is
            time for the full model -> profile and diagnosis.
        installed: the GPU of this machine, or None.
    """

    understand: Callable[[Task], Understanding] = understand
    synthesize: Callable[[Task, Say], tuple[Candidate, ...]] = _synthesize
    retune: Callable[[Task, str, StageRules, Sequence[KernelResources], Sequence[str]], tuple[Candidate, ...]] = _retune
    predict: Callable[[Task, Candidate], Prediction] = _predict
    compile_together: Callable[[Task, Sequence[Candidate]], None] | None = _compile_together
    predict_reference: Callable[[Task, Understanding], Modelled | None] = _predict_reference
    gate: Callable[[Task, Candidate, str, Say], Verdict] = _gate
    open_clock: Callable[[Task], Clock] = _open_clock
    look: Callable[[Task, Candidate | None, Understanding, str, bool], Sight | None] = _look
    installed: Callable[[], Gpu | None] = _installed
