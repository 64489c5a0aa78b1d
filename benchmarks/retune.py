"""What retune alone gains: kernel time of given Triton code and of its best variant, on a GPU.

    python -m benchmarks.retune [--documents DIR] [--only NAME ...] [--gate quick] [--out FILE]

The subjects are the documents' own kernels and six plain ones of the tests. There is no reference: the given code is
the specification, so the search has nothing but retune. What it is driven by and what is recorded is the time of the
code's own Triton kernels in one forward pass (CUPTI, L2 cold, medians, variants in turns), not of what PyTorch does
around them. Outputs of the best are compared with the given code's at the end; with `--gate` each candidate that would
be kept goes through the gate too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import EXAMPLES, WORKLOADS
from benchmarks.workloads import RESULTS, no_gpu

SCHEMA = "tilewright/retune/1"
KERNELS = Path(__file__).resolve().parent.parent / "tests" / "proposers" / "retune_kernels"

#: Plain kernels -> constructor arguments and inputs, as `--init` and `--inputs` take them.
PLAIN: Mapping[str, tuple[str, str]] = {
    "softmax": ("[]", "randn(16384, 2048)"),
    "layer_norm": ("[1000]", "randn(32, 1024, 1000)"),
    "matmul": ("[1024, 1024]", "randn(4096, 1024)"),
    "transpose": ("[]", "randn(8192, 4096)"),
    "row_sum": ("[]", "randn(16384, 2048)"),
    "stencil": ("[]", "randn(32, 1024, 1024)"),
}
#: Largest difference of outputs, relative to the largest output: sums in another order, products of TF32 operands.
ALLOWED = 2e-3
#: Calls of each variant in one turn, and turns, by how thoroughly a batch is measured.
_CALLS = {"scout": 3, "none": 5, "quick": 7, "full": 11}
_TURNS = {"scout": 1, "none": 1, "quick": 2, "full": 3}
_FLUSH_BYTES = 256 << 20


@dataclass(frozen=True)
class Subject:
    """Given code, and how it is called.

    Attributes:
        name: of the document or the plain kernel.
        code: the module's source.
        init, inputs: as `--init` and `--inputs` take them.
    """

    name: str
    code: str
    init: str
    inputs: str


@dataclass(frozen=True)
class Gain:
    """What retune made of one subject.

    Attributes:
        name: of the subject.
        given_ms, retuned_ms: of its Triton kernels in one forward pass, milliseconds; medians of one measurement.
        ratio: given / retuned.
        what: the edits that were kept.
        difference: of the outputs, relative to the largest.
        tried: candidates.
        failure: why there is no figure.
        seconds: wall time.
        source: of the best variant.
    """

    name: str
    given_ms: float | None = None
    retuned_ms: float | None = None
    ratio: float | None = None
    what: str = ""
    difference: float | None = None
    tried: int = 0
    failure: str = ""
    seconds: float = 0.0
    source: str = field(default="", repr=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Record; 0 where it ran, 2 for bad arguments or without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retune", description=__doc__.split("\n\n")[0])
    parser.add_argument("--documents", type=Path, metavar="DIR", help="folder of the documents")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="subjects whose name starts so")
    parser.add_argument("--gate", choices=["off", "none", "quick", "full"], default="off", help="effort of the gate")
    parser.add_argument("--effort", default="quick", metavar="LEVEL", help="of the search")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record")
    parser.add_argument("--budget-s", type=float, default=1800.0, help="no subject is begun after so many seconds")
    options = parser.parse_args(argv)
    if (problem := no_gpu()) is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    started = time.monotonic()
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.retune", *(argv if argv is not None else sys.argv[1:])]),
        "gpu": torch.cuda.get_device_name(),
        "gate": options.gate,
        **_versions(),
        "subjects": [],
    }
    path = options.out or RESULTS / f"{record['date'][:10]}-retune.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for subject in subjects(options.documents):
        if options.only and not subject.name.startswith(tuple(options.only)):
            continue
        if time.monotonic() - started > options.budget_s:
            gain = Gain(subject.name, failure="out of time before it was begun")
        else:
            gain = retuned(subject, options.effort, options.gate)
        said = gain.failure or f"{gain.given_ms:.4f} -> {gain.retuned_ms:.4f} ms, {gain.ratio:.2f}x: {gain.what}"
        print(f"{gain.name}: {said} ({gain.tried} tried, {gain.seconds:.0f} s)", flush=True)
        record["subjects"].append(asdict(gain))
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"recorded in {path}")
    return 0


def _versions() -> dict[str, Any]:
    from tilewright.search.versions import versions

    return {"versions": dict(versions())}


def subjects(documents: Path | None) -> list[Subject]:
    """The documents' code, where their folder is given, and the plain kernels."""
    found = []
    for number, example in WORKLOADS:
        for path in sorted(documents.glob(f"{number}*"))[:1] if documents is not None else ():
            found.append(_of_document(number, path, EXAMPLES / f"{example}.py"))
    for name, (init, inputs) in PLAIN.items():
        found.append(Subject(name, (KERNELS / f"{name}.py").read_text(), init, inputs))
    return found


def _of_document(number: str, path: Path, reference: Path) -> Subject:
    from tilewright.task.load import load_task
    from tilewright.task.module_source import init_args, make_inputs

    task = load_task(path, reference=reference)
    assert task.given_code is not None
    assert task.reference is not None
    kind = "randn" if re.search(r"torch\.randn\(", task.reference.source) else "rand"
    shapes = [tuple(tensor.shape) for tensor in make_inputs(task.reference, device="meta")]
    inputs = ", ".join(f"{kind}({', '.join(map(str, shape))})" for shape in shapes)
    return Subject(number, task.given_code, repr(list(init_args(task.reference))), inputs)


def retuned(subject: Subject, effort: str, gate: str) -> Gain:
    """Search with retune alone, by kernel time; whatever fails is said."""
    from tilewright.errors import TilewrightError

    started = time.monotonic()
    try:
        return _retuned(subject, effort, gate, started)
    except (TilewrightError, RuntimeError, LookupError) as error:
        failure = f"{type(error).__name__}: {str(error)[:300]}"
        return Gain(subject.name, failure=failure, seconds=round(time.monotonic() - started, 1))


def _retuned(subject: Subject, effort: str, gate: str, started: float) -> Gain:
    from tilewright.gate.verify import verify
    from tilewright.gpu.detect import detect_gpu
    from tilewright.search.run import optimize_task
    from tilewright.search.tools import Tools
    from tilewright.task.load import load_task
    from tilewright.values.verdict import Verdict

    installed = detect_gpu()
    with tempfile.TemporaryDirectory(prefix="tilewright-retune-") as folder:
        path = Path(folder) / f"{subject.name}.py"
        path.write_text(subject.code)
        gpu = installed.key if installed is not None else None
        task = load_task(path, init=subject.init, inputs=subject.inputs, gpu=gpu, precision="tf32")
        clock = KernelClock(task)
        tools = Tools(
            gate=lambda task, candidate, _, say: (
                # Which kernels run, and what they take, is known without the gate too.
                Verdict((), resources=Tools().predict(task, candidate).resources, how="outputs are compared at the end")
                if gate == "off"
                else verify(task, candidate, effort=gate, progress=say)
            ),
            open_clock=lambda task: clock,
        )
        study = optimize_task(task, effort=effort, out=Path(folder), tools=tools)
        seconds = round(time.monotonic() - started, 1)
        best = next((trial for trial in study.trials if trial.number == study.best_number), None)
        assert study.given is not None
        if best is None:
            given = study.given.timing
            time_ms = None if given is None else given.time_ms
            return Gain(
                subject.name, time_ms, time_ms, 1.0, "nothing gained, so nothing was changed", 0.0,
                len(study.trials), seconds=seconds,
            )  # fmt: skip
        times = clock.measure([study.given.candidate, best.candidate], "full").measured
        difference = clock.difference(study.given.candidate, best.candidate)
    given_ms, retuned_ms = times[study.given.candidate.digest].median_ms, times[best.candidate.digest].median_ms
    wrong = not difference <= ALLOWED
    return Gain(
        subject.name, given_ms, retuned_ms, None if wrong else given_ms / retuned_ms, best.candidate.description,
        difference, len(study.trials), "its outputs differ from the given code's" if wrong else "", seconds,
        best.candidate.source,
    )  # fmt: skip


class KernelClock:
    """A clock of the search that times a module's own Triton kernels, in this process."""

    def __init__(self, task: Any) -> None:
        from tilewright.task.module_source import make_inputs

        self._source = task.reference
        self._inputs = make_inputs(task.reference, device="cuda")
        self._modules: dict[str, Any] = {}
        self._flushed = torch.empty(_FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")

    def start(self) -> None:
        """Nothing to warm up."""

    def close(self) -> None:
        """Nothing to end: the modules are asked again for the final figures."""

    def measure(self, candidates: Sequence[Any], plan: str, peers: Sequence[Any] = (), peers_s: float = 0.0) -> Any:
        """Median of the kernels' time in one forward pass, milliseconds, of each candidate."""
        from tilewright.measure.clock import ClockReport
        from tilewright.measure.lock import alone_on_gpu
        from tilewright.measure.statistics import summarise
        from tilewright.values.measurement import Measured

        samples: dict[str, list[float]] = {}
        failures: dict[str, str] = {}
        with alone_on_gpu(os.environ.get("CUDA_VISIBLE_DEVICES", "") + "0"):
            for turn in range(_TURNS[plan]):
                for candidate in candidates if turn % 2 == 0 else list(reversed(candidates)):
                    if candidate.digest in failures:
                        continue
                    try:
                        taken = self._sampled(candidate, _CALLS[plan])
                        samples.setdefault(candidate.digest, []).extend(taken)
                    except Exception as error:
                        failures[candidate.digest] = f"{type(error).__name__}: {str(error)[:200]}"
        measured = {}
        for label, found in samples.items():
            if label not in failures:
                summary = summarise(found)
                measured[label] = Measured(
                    summary.median_ms, summary.low_ms, summary.high_ms, summary.samples,
                    torch.cuda.get_device_name(), "CUPTI, Triton kernels alone, cold L2",
                )  # fmt: skip
        return ClockReport(measured, failures)

    def difference(self, given: Any, other: Any) -> float:
        """Largest difference of two candidates' outputs, relative to the largest; infinite where one is not finite."""
        with torch.no_grad():
            first, second = (self._module(one)(*self._inputs) for one in (given, other))
        gap = float((first.float() - second.float()).abs().max())
        return gap / max(float(first.float().abs().max()), 1e-30) if gap == gap else float("inf")

    def _module(self, candidate: Any) -> Any:
        from tilewright.measure.subjects import build_candidate, candidate_as_json
        from tilewright.task.module_source import build_module

        if candidate.digest not in self._modules:
            reference = build_module(self._source, device="cuda").requires_grad_(False)
            built = build_candidate(candidate_as_json(candidate), reference, self._source, "cuda")
            self._modules[candidate.digest] = built
        return self._modules[candidate.digest]

    def _sampled(self, candidate: Any, calls: int) -> list[float]:
        from torch.profiler import ProfilerActivity, profile

        module = self._module(candidate)
        own = set(re.findall(r"^def (\w+)\(", candidate.source, re.MULTILINE))
        with torch.no_grad():
            for _ in range(2):
                module(*self._inputs)
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                for _ in range(calls):
                    self._flushed.zero_()
                    module(*self._inputs)
                torch.cuda.synchronize()
        events = sorted(
            (event for event in profiler.events() or [] if event.name in own), key=lambda event: event.time_range.start
        )
        return per_call([float(event.device_time) * 1e-3 for event in events], calls)


def per_call(times: Sequence[float], calls: int) -> list[float]:
    """Sums over each of `calls` equal parts of launches in their order.

    Raises:
        RuntimeError: the launches are not the same number in every call, or there are none.
    """
    if not times or len(times) % calls:
        raise RuntimeError(f"{len(times)} launches in {calls} calls")
    size = len(times) // calls
    return [sum(times[first : first + size]) for first in range(0, len(times), size)]


if __name__ == "__main__":
    sys.exit(main())
