"""One case in a process of its own: build everything, check outputs, wait for the GPU to be free, time in turns.

    python -m benchmarks.worker FOLDER

FOLDER holds `job.json` (see `Job`); the worker writes `result.json` there again and again, so that whatever ends
it, what was found until then remains; `ready` once all is compiled; and waits for `go` before it takes times.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.check import Probe, check, leaves, make_probes
from benchmarks.peers import AUTOCAST, PEERS, NotApplicableError, Peer, build_peer, converted_inputs, prepare_torch
from benchmarks.results import CaseResult, Check, Kind, SubjectResult, case_as_json
from tilewright.measure.statistics import summarise
from tilewright.measure.subjects import build_candidate, input_sets
from tilewright.measure.timer import PLANS, CudaTimer, Subject, Timer, sample_interleaved
from tilewright.task.module_source import build_module
from tilewright.task.task import ModuleSource


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        name, description, precision, source: of the case.
        peers: names of the peers to compile.
        autocast: time torch.compile under float16 autocast too, for information.
        document: the document's own code, or empty.
        ours: our module's source, or empty.
        ours_failure: why there is none.
        effort: name of the sampling plan.
        prepare_s: seconds that compiling one subject may take.
        wait: wait for the file `go` before timing.
    """

    name: str
    description: str
    precision: str
    source: str
    peers: tuple[str, ...] = tuple(peer.name for peer in PEERS)
    autocast: bool = False
    document: str = ""
    ours: str = ""
    ours_failure: str = ""
    effort: str = "full"
    prepare_s: float = 120.0
    wait: bool = False


def read_job(folder: Path) -> Job:
    """The job of a folder."""
    data = json.loads((folder / "job.json").read_text())
    return Job(**{**data, "peers": tuple(data["peers"])})


def write_job(folder: Path, job: Job) -> None:
    """Put a job into its folder."""
    (folder / "job.json").write_text(json.dumps(asdict(job)))


@dataclass
class Entry:
    """One subject while the case runs."""

    result: SubjectResult
    call: Callable[..., Any] | None = None
    module: nn.Module | None = None
    inputs: Callable[[Sequence[Any]], list[Any]] = list


@dataclass
class CaseRun:
    """A case being run; `device` and `timer` are other ones in tests."""

    job: Job
    folder: Path
    device: str = "cuda"
    started: float = field(default_factory=time.monotonic)
    entries: list[Entry] = field(default_factory=list)
    result: CaseResult = field(init=False)

    def __post_init__(self) -> None:
        self.result = CaseResult(self.job.name, self.job.description, self.job.precision)
        self.source = ModuleSource(source=self.job.source, class_name="Model")

    def prepare(self) -> None:
        """Build the reference, the probes and every subject; check outputs."""
        prepare_torch(self.job.precision)
        self._count_floor()
        reference = build_module(self.source, device=self.device).requires_grad_(False)
        free = torch.cuda.mem_get_info()[0] if self.device == "cuda" else 1 << 30
        self.sets = input_sets(self.source, self.device, free)
        probes = make_probes(reference, self.sets[0], self.job.precision)
        self.result = replace(
            self.result,
            oracle=", ".join(dict.fromkeys(probe.oracle for probe in probes)),
            sensitivity={probe.name: probe.sensitivity for probe in probes},
        )
        self.dtypes = [leaf.dtype for leaf in leaves(reference(*self.sets[0]))]
        for name, kind, build in self._subjects(reference):
            self.entries.append(self._entry(name, kind, build, probes))
            self.save()

    def _subjects(self, reference: nn.Module) -> Iterator[tuple[str, Kind, Callable[[Entry], None]]]:
        yield "reference", Kind.REFERENCE, lambda entry: _become(entry, reference, reference)
        if self.job.document:
            yield "document", Kind.DOCUMENT, lambda entry: self._build_code(entry, self.job.document, reference)
        if self.job.ours:
            yield "ours", Kind.OURS, lambda entry: self._build_code(entry, self.job.ours, reference)
        elif self.job.ours_failure:
            yield "ours", Kind.OURS, self._no_ours
        peers = [peer for peer in PEERS if peer.name in self.job.peers] + ([AUTOCAST] if self.job.autocast else [])
        for peer in peers:
            yield peer.name, peer.kind, lambda entry, peer=peer: self._build_peer(entry, peer, reference)  # type: ignore[misc]

    def _no_ours(self, entry: Entry) -> None:
        raise RuntimeError(self.job.ours_failure)

    def _build_code(self, entry: Entry, code: str, reference: nn.Module) -> None:
        wants_module = "reference" in _constructor_arguments(code)
        module = build_candidate({"source": code, "needs_reference": wants_module}, reference, self.source, self.device)
        _become(entry, module, module)

    def _build_peer(self, entry: Entry, peer: Peer, reference: nn.Module) -> None:
        converted_inputs(peer, self.sets[0])  # says at once where the peer does not apply
        # Of its own source, so that no compilation of another peer is found again.
        module = build_module(self.source, device=self.device).requires_grad_(False)
        module.load_state_dict(copy.deepcopy(reference.state_dict()))
        _become(entry, module, build_peer(peer, module))
        entry.inputs = lambda inputs: converted_inputs(peer, inputs)

    def _entry(self, name: str, kind: Kind, build: Callable[[Entry], None], probes: Sequence[Probe]) -> Entry:
        entry = Entry(SubjectResult(name, kind))
        started = time.monotonic()
        try:
            with _deadline(self.job.prepare_s):
                build(entry)
                assert entry.call is not None
                entry.call(*entry.inputs(self.sets[0]))
                _wait_for_device(self.device)
                entry.result = replace(entry.result, prepare_s=time.monotonic() - started)
                checks = tuple(self._check(entry, probe) for probe in probes)
            entry.result = replace(entry.result, checks=checks)
        except NotApplicableError as reason:
            entry.result = replace(entry.result, failure=f"not applicable: {reason}")
        except Exception as error:
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            failure = f"{type(error).__name__}: {first}"[:500]
            entry.result = replace(entry.result, failure=failure, prepare_s=time.monotonic() - started)
        if entry.result.failure:
            entry.call = entry.module = None
        _release(self.device)
        print(f"{self.job.name}: {name}: {entry.result.failure or _said(entry.result.checks)}", flush=True)
        return entry

    def _check(self, entry: Entry, probe: Probe) -> Check:
        assert entry.module is not None
        assert entry.call is not None
        call = entry.call
        return check(probe, entry.module, lambda inputs: call(*entry.inputs(inputs)), self.dtypes)

    def measure(self, timer: Timer) -> None:
        """Take times of all subjects that run, in turns."""
        subjects = {
            entry.result.name: Subject(entry.result.name, self._calls(entry))
            for entry in self.entries
            if entry.call is not None
        }
        sample_interleaved(list(subjects.values()), timer, PLANS[self.job.effort])
        for entry in self.entries:
            subject = subjects.get(entry.result.name)
            if subject is None:
                continue
            if subject.failure:
                entry.result = replace(entry.result, failure=subject.failure)
                continue
            summary = summarise(subject.samples_ms)
            entry.result = replace(
                entry.result,
                median_ms=summary.median_ms,
                low_ms=summary.low_ms,
                high_ms=summary.high_ms,
                samples=summary.samples,
                method=timer.method(subject.label),
            )

    def _calls(self, entry: Entry) -> list[Callable[[], Any]]:
        call = entry.call
        assert call is not None
        prepared = [entry.inputs(inputs) for inputs in self.sets]
        return [lambda inputs=inputs: call(*inputs) for inputs in prepared]  # type: ignore[misc]

    def _count_floor(self) -> None:
        """The speed of light; without one the case goes on."""
        try:
            floor = _floor(self.source, self.job.precision)
        except Exception as error:
            print(f"{self.job.name}: no speed of light: {type(error).__name__}: {error}", flush=True)
            return
        self.result = replace(self.result, speed_of_light_ms=floor[0], speed_of_light=floor[1])

    def save(self, failure: str = "") -> None:
        """Write what is known so far."""
        subjects = tuple(entry.result for entry in self.entries)
        seconds = time.monotonic() - self.started
        self.result = replace(self.result, subjects=subjects, seconds=seconds, failure=failure)
        partial = self.folder / "result.partial"
        partial.write_text(json.dumps(case_as_json(self.result)))
        partial.rename(self.folder / "result.json")


def _become(entry: Entry, module: nn.Module, call: Callable[..., Any]) -> None:
    entry.module, entry.call = module, call


def _constructor_arguments(code: str) -> list[str]:
    """Argument names of `ModelNew.__init__`: a module that is made of the reference asks for `reference`."""
    import ast

    for node in ast.parse(code).body:
        if isinstance(node, ast.ClassDef) and node.name == "ModelNew":
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    return [argument.arg for argument in item.args.args[1:]]
    return []


def _floor(source: ModuleSource, precision: str) -> tuple[float, str]:
    from tilewright.gpu.detect import detect_gpu
    from tilewright.gpu.speed_of_light import speed_of_light
    from tilewright.graph.canonical import simplify
    from tilewright.graph.capture import capture
    from tilewright.graph.work import count_work
    from tilewright.task.module_source import make_inputs
    from tilewright.values.precision import PrecisionClass

    gpu = detect_gpu()
    if gpu is None:
        raise LookupError("no GPU is known here")
    inputs = make_inputs(source, device="meta")
    graph = simplify(capture(build_module(source, device="meta"), inputs)).graph
    work = count_work(graph, inputs)
    found = speed_of_light(work, gpu, PrecisionClass(precision))
    parts = (
        f"memory {found.memory_ms:.4g}, matrix {found.matrix_ms:.4g} ({found.operand}), scalar {found.scalar_ms:.4g}"
    )
    return found.time_ms, f"{parts} ms; {work.total_bytes} bytes, {work.matrix_operations} matrix operations"


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this thread after so many seconds."""

    def ring(signum: int, frame: Any) -> None:
        raise TimeoutError(f"it took more than {seconds:.0f} s to compile and check")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _wait_for_device(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _release(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _said(checks: Sequence[Check]) -> str:
    return ", ".join(
        f"{item.probe} {'ok' if item.passed else 'WRONG'} ({item.error:.2e} of {item.allowed:.2e}) {item.note}".rstrip()
        for item in checks
    )


def _wait_for_go(folder: Path) -> None:
    (folder / "ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)


def main(folder: Path) -> int:
    """Run the job in `folder`."""
    from tilewright.measure.clock import device_name
    from tilewright.measure.lock import alone_on_gpu

    job = read_job(folder)
    run = CaseRun(job, folder)
    try:
        with torch.no_grad():
            run.prepare()
            if job.wait:
                _wait_for_go(folder)
            with alone_on_gpu(device_name(), patience_s=120):
                run.measure(CudaTimer())
        run.save()
    except Exception as error:
        run.save(failure=f"{type(error).__name__}: {error}"[:1000])
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
