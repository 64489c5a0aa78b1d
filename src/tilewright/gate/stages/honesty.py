"""The gate's stage of experiments: which jobs are run, where, and with what."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilewright.gate.contract.rules import finding
from tilewright.gate.contract.syntax import Source
from tilewright.gate.inside.runtime import OTHER_FILE
from tilewright.gate.judging import honesty, judge
from tilewright.gate.judging.judge import Expected
from tilewright.gate.stages.compiled import cache_environment
from tilewright.gate.stages.record import Recorded
from tilewright.sandbox import wire
from tilewright.sandbox.job import JobResult, run_job
from tilewright.sandbox.limits import CHECK_OF, Limits, Outcome
from tilewright.values.candidate import Candidate
from tilewright.values.verdict import Finding

#: Processor seconds of all experiments, by effort; those that do not fit are named.
BUDGET_S: Mapping[str, float] = {"none": 4.0, "quick": 10.0, "full": 50.0}
#: So many calls are made at least, and less than twice as many.
CALLS: Mapping[str, int] = {"none": 250, "quick": 550, "full": 5000}
#: Bytes that glibc fills fresh memory with (and freed memory with its complement): no zeros by luck.
_MALLOC_PERTURB = {"MALLOC_PERTURB_": "90"}


@dataclass(frozen=True)
class Stage:
    """What the experiments need to know.

    Attributes:
        job: `source`, `gpu`, `device`, `needs_reference`, `constructors`.
        oracle: the oracle's parts: inputs and weights of the probes.
        expected: the right answers, in the order of the probes.
        candidate, source, recorded: what is examined.
        precision: the task's class.
        reduced: its products may be reduced.
        effort: decides the budget.
        limits: of each process.
        readable: folders that it may read.
        same_modes: the reference computes the same in training mode.
    """

    job: Mapping[str, Any]
    oracle: JobResult
    expected: Sequence[Expected | None]
    candidate: Candidate
    source: Source
    recorded: Recorded
    precision: str
    reduced: bool
    effort: str
    limits: Limits
    readable: tuple[Path, ...]
    same_modes: bool = False

    def findings(self) -> list[Finding]:
        """Run the experiments and say what they mean."""
        scene = honesty.find_scene(self.expected)
        found: list[Finding] = []
        if scene is not None:
            runs: list[tuple[str, Sequence[str]]] = [("cpu", honesty.BOTH)]
            if self.job["device"] == "cuda":
                # What a kernel stores can be replaced in the interpreter alone.
                runs = [("cuda", honesty.ANYWHERE), ("cpu", honesty.INTERPRETED)]
            if not self.same_modes:
                runs = [(device, [name for name in names if name != "as built"]) for device, names in runs]
            with ThreadPoolExecutor(len(runs)) as pool:
                for part in pool.map(lambda run: self._run(scene, *run), runs):
                    found += part
        found += honesty.library_findings(self.candidate, self.recorded.recording, found)
        return list({(one.check, one.message): one for one in found}.values())

    def constants_at(self, index: int) -> list[Finding]:
        """What it means to replace what kernels store, at another probe."""
        return self._run(honesty.Scene(index, None, None), "cpu", honesty.INTERPRETED)

    def _run(self, scene: honesty.Scene, device: str, names: Sequence[str]) -> list[Finding]:
        result = self._job(scene, device, scene.experiments(names))
        pool = {name: judge.pooled(self.expected, name) for name in {"ieee", self.precision}}
        judged = honesty.read(result, self.expected, scene, pool, self.precision, self.reduced)
        library = device == "cuda" and any(call.matrix_operations for call in self.recorded.recording.native)
        found = list(honesty.findings_of(judged, self.source, library=library))
        if result.outcome is not Outcome.OK and device == self.job["device"]:
            text = (
                f"its process, in the experiments ({', '.join(judged.reports) or 'before the first'}): {result.message}"
            )
            found.append(finding(CHECK_OF[result.outcome], text))
        return found

    def _job(self, scene: honesty.Scene, device: str, names: Sequence[str]) -> JobResult:
        tensors: dict[str, torch.Tensor] = {}
        probes: dict[str, Any] = {}
        for role in ("first", "second", "weights"):
            index = getattr(scene, role)
            if index is not None:
                probes[role] = self._probe(index, tensors)
        budget = BUDGET_S[self.effort]
        answer = self.expected[scene.first]
        assert answer is not None
        job = {
            "aliases": answer.aliases,
            **self.job, **probes, "entry": "tilewright.gate.inside.honest_run:run", "device": device,
            "experiments": list(names), "budget_s": budget, "share_s": budget / 3,
            # Nobody outside can know how many calls are made.
            "calls": CALLS[self.effort] + secrets.randbelow(CALLS[self.effort]),
        }  # fmt: skip
        environment = cache_environment(self.candidate) if device == "cuda" else {"TRITON_INTERPRET": "1"}
        return run_job(
            job, tensors, deadline_s=8 * budget + 120.0, limits=self.limits,
            environment={**environment, **_MALLOC_PERTURB}, files={OTHER_FILE: self.candidate.source},
            readable=self.readable,
        )  # fmt: skip

    def _probe(self, index: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """A probe as the job names it; what it needs is added to `tensors`."""
        answer, part = self.expected[index], self.oracle.part(f"probe {index}")
        assert answer is not None
        assert part is not None
        prefix, key = f"p{index}.", answer.weights_key
        tensors |= {f"{prefix}{name}": t for name, t in part.tensors.items() if name.startswith("inputs.")}
        weights = self.oracle.part(f"weights {key}")
        tensors |= {f"{key}|{name}": t for name, t in (weights.tensors if weights is not None else {}).items()}
        return {
            "constructor": answer.probe.constructor,
            "weights_key": key,
            "inputs": wire.prefixed(answer.inputs, prefix),
            "precision": "ieee",
        }
