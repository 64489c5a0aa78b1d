"""A task and tools whose answers a test writes down: no compiler, no gate, no GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tilewright.gpu.gpu import Gpu
from tilewright.gpu.table import find_gpu
from tilewright.measure.clock import ClockReport
from tilewright.measure.peers import Peer
from tilewright.search.tools import Prediction, Tools
from tilewright.search.understand import NOTHING, Understanding
from tilewright.task.stage import FULL_RUN, Stage, StageRules
from tilewright.task.task import InputSpec, ModuleSource, Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.measurement import Measured, Modelled
from tilewright.values.precision import PrecisionClass
from tilewright.values.sight import Sight
from tilewright.values.verdict import ErrorRow, Finding, KernelResources, Severity, Verdict

GPU = find_gpu("4090")


def task(
    *, stages: Sequence[Stage] = FULL_RUN, given: str | None = None, specification: bool = False, name: str = "toy"
) -> Task:
    reference = ModuleSource("class Model: ...", "Model", init_args=(3,), inputs=(InputSpec("rand", (4, 8)),))
    return Task(
        name=name,
        reference=reference,
        gpu=GPU,
        stages=tuple(stages),
        rules=tuple(StageRules(stage, str(stage)) for stage in stages),
        precision=PrecisionClass.TF32,
        given_code=given,
        given_code_is_specification=specification,
    )


def candidate(source: str, *, origin: Origin = Origin.SYNTHESIZE, native: tuple[str, ...] = ()) -> Candidate:
    return Candidate(source, origin, f"try {source}", native=native)


def accepted() -> Verdict:
    row = ErrorRow("task inputs", 0, ((4, 8),), 1e-4, 2e-4, 3e-4, 1e-4, 2e-4, 3e-4, True)
    resources = KernelResources("kernel", 89, 32, 0, 1024, 4)
    return Verdict((), (row,), (resources,), {"kernel": 1}, "interpreter", "float64 reference", 1.5)


def rejected(message: str = "wrong by 1.03") -> Verdict:
    row = ErrorRow("task inputs", 0, ((4, 8),), 1e-4, 1.03, 3e-4, 1e-4, 2.0, 3e-4, False)
    finding = Finding("correctness.value", Severity.ERROR, message, "task inputs", {"error": 1.03})
    return Verdict((finding,), (row,), (), {"kernel": 1}, "interpreter", "float64 reference", 1.5)


def limited() -> Verdict:
    finding = Finding("correctness.value", Severity.LIMIT, "wrong beyond 65504", "inputs times 1e6")
    return replace(accepted(), findings=(finding,))


@dataclass
class Bench:
    """Times and verdicts by source text, and a count of every call.

    A source without a time cannot be compiled; one without a verdict is accepted. A peer without a time fails. A call
    takes as long as the GPU's work in it, unless `call_times` says otherwise (by source, by a peer's name, or
    `reference`).
    """

    times: Mapping[str, float]
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    reference_ms: float | None = 10.0
    synthesized: Sequence[Candidate] = ()
    retuned: Mapping[str, Sequence[Candidate]] = field(default_factory=dict)
    installed: Gpu | None = None
    understanding: Understanding = NOTHING
    sights: Mapping[str, Sight] = field(default_factory=dict)
    peers: Mapping[str, float] = field(default_factory=dict)
    call_times: Mapping[str, float] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    stages_retuned: list[tuple[str, Stage]] = field(default_factory=list)

    def tools(self) -> Tools:
        return Tools(
            understand=lambda task: self.understanding,
            synthesize=self._synthesize,
            retune=self._retune,
            predict=self._predict,
            compile_together=None,
            predict_reference=self._predict_reference,
            gate=self._gate,
            open_clock=lambda task: FakeClock(self, task),
            installed=lambda: self.installed,
            look=self._look,
        )

    def _look(
        self, task: Task, candidate: Candidate | None, understanding: Understanding, subject: str, thorough: bool
    ) -> Sight | None:
        self.calls[f"look {candidate.source if candidate else ''}"] += 1
        return self.sights.get(candidate.source if candidate else "")

    def _synthesize(self, task: Task, say: object) -> tuple[Candidate, ...]:
        self.calls["synthesize"] += 1
        return tuple(self.synthesized)

    def _retune(
        self, task: Task, code: str, rules: StageRules, resources: Sequence[KernelResources], causes: Sequence[str]
    ) -> tuple[Candidate, ...]:
        self.stages_retuned.append((code, rules.stage))
        return tuple(replace(item, origin=Origin.RETUNE) for item in self.retuned.get(code, ()))

    def _predict(self, task: Task, candidate: Candidate) -> Prediction:
        self.calls[f"predict {candidate.source}"] += 1
        if candidate.source not in self.times:
            finding = Finding("compile.error", Severity.ERROR, "tl.arange over a run-time value", "kernel")
            return Prediction(None, (finding,))
        return Prediction(Modelled(self.times[candidate.source], task.gpu.name, "dram"))

    def _predict_reference(self, task: Task, understanding: Understanding) -> Modelled | None:
        return None if self.reference_ms is None else Modelled(self.reference_ms, task.gpu.name, "dram")

    def _gate(self, task: Task, candidate: Candidate, effort: str, say: object) -> Verdict:
        self.calls[f"gate {candidate.source}"] += 1
        return self.verdicts.get(candidate.source, accepted())

    def measure(
        self, task: Task, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer] = ()
    ) -> ClockReport:
        self.calls["peers" if peers and not candidates else "measure"] += 1
        self.calls[f"measure {plan}"] += 1
        times = {item.digest: self.times[item.source] for item in candidates if item.source in self.times}
        times |= {peer.name: self.peers[peer.name] for peer in peers if peer.name in self.peers}
        if self.reference_ms is not None:
            times["reference"] = self.reference_ms
        sources = {item.digest: item.source for item in candidates}
        measured = {
            label: Measured(
                time, time, time, 20, task.gpu.name, "CUDA events, cold L2",
                call_ms=self.call_times.get(sources.get(label, label), time),
            )
            for label, time in times.items()
        }  # fmt: skip
        failures = {item.digest: "it raised" for item in candidates if item.digest not in measured}
        failures |= {peer.name: "BackendCompilerFailed" for peer in peers if peer.name not in measured}
        return ClockReport(measured, failures)


@dataclass
class FakeClock:
    """Measures by the bench's table."""

    bench: Bench
    task: Task

    def start(self) -> None:
        self.bench.calls["start"] += 1

    def measure(
        self, candidates: Sequence[Candidate], plan: str, peers: Sequence[Peer] = (), peers_s: float = 0.0
    ) -> ClockReport:
        return self.bench.measure(self.task, candidates, plan, peers)

    def close(self) -> None:
        self.bench.calls["close"] += 1
