"""The gate: contract, compile, correctness, in this order. One verdict for a candidate, whoever wrote it."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cloudpickle
import torch

from tilewright.errors import InputMismatchError, MissingReferenceError
from tilewright.gate.checks.table import BY_NAME
from tilewright.gate.contract import surroundings as watches
from tilewright.gate.contract.constants import integer_constants
from tilewright.gate.contract.rules import check_contract, finding
from tilewright.gate.contract.syntax import LANGUAGE, Source
from tilewright.gate.inside.answers import LARGE
from tilewright.gate.inside.execute import MAX_CONFIGURATIONS
from tilewright.gate.inside.oracle import SENSITIVE
from tilewright.gate.inside.runtime import FILE, gpu_figures
from tilewright.gate.judging import coverage as coverage_findings
from tilewright.gate.judging import honesty, honesty_world, judge, modes, states
from tilewright.gate.judging.coverage import Covered
from tilewright.gate.judging.excuses import excuses_of
from tilewright.gate.judging.grid_limits import grid_limits
from tilewright.gate.judging.judge import Expected
from tilewright.gate.judging.trials import trial_findings
from tilewright.gate.judging.unjudged import judged_without
from tilewright.gate.judging.whole import whole_findings
from tilewright.gate.probes.draws import MODULE_LAYOUT
from tilewright.gate.probes.planning import Crossing, Family, Probe
from tilewright.gate.stages.compiled import cache_environment
from tilewright.gate.stages.honesty import BUDGET_S, Stage
from tilewright.gate.stages.launch_rules import check_launches
from tilewright.gate.stages.record import Recorded, record_fully
from tilewright.gpu.detect import detect_gpu
from tilewright.sandbox import wire
from tilewright.sandbox.job import JobResult, run_job
from tilewright.sandbox.limits import CHECK_OF, Limits, Outcome
from tilewright.sandbox.paths import own_folder
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.verdict import ErrorRow, Finding, Severity, Verdict

Progress = Callable[[str], None]

#: Processor seconds that a candidate's runs may take in the interpreter, by effort; what does not fit is named.
_BUDGET_S = {"none": 4.0, "quick": 12.0, "full": 120.0}
#: Beside a GPU the interpreter sees addresses alone, and must not be what is waited for.
_ADDRESSES_S = {"none": 0.0, "quick": 7.5, "full": 20.0}
#: Wall seconds on a GPU for compiling the probes' launches ahead, and then for running them. What does not fit is
#: named; the task's own sizes and the values always run.
_AHEAD_S = {"none": 20.0, "quick": 30.0, "full": 50.0}
_RUN_S = {"none": 15.0, "quick": 20.0, "full": 30.0}
_MUST = (Family.OWN, Family.VALUE)
#: Processor seconds for tracing the launches at the task's own sizes, without data.
_WHOLE_S = {"none": 0.0, "quick": 1.2, "full": 20.0}
_ORACLE_DEADLINE_S = {"none": 120.0, "quick": 180.0, "full": 900.0}
#: Families and sizes of the probes that are interpreted beside a GPU, to see addresses.
_COVERED = (Family.VALUE, Family.SIZE, Family.CONSTRUCTOR)
_ADDRESSES = 1 << 17
#: Elements of the largest inner tensor up to which an experiment is repeated in the interpreter.
_REPEATED = 1 << 20
#: After a recording that ended so the candidate is not started again: it would end so, and take as long.
_FATAL = frozenset({Outcome.CRASH, Outcome.TIMEOUT, Outcome.MEMORY, Outcome.PROCESSES, Outcome.FILES})


def verify(task: Task, candidate: Candidate, *, effort: str = "quick", progress: Progress | None = None) -> Verdict:
    """Judge a candidate.

    Args:
        task: what is right, how it is called, and on what it is to run; it must have a reference.
        candidate: the source to judge. It runs in sandboxed processes only.
        effort: `none`, `quick` or `full`: how many probes, and how much time they may take.
        progress: told what is being done.

    Returns:
        the verdict; whatever the candidate does, this returns one.

    Raises:
        MissingReferenceError: the task does not say what is right.
        InputMismatchError: the reference cannot be built or run on its own inputs.
    """
    if task.reference is None:
        raise MissingReferenceError(
            "the task does not say what is right",
            hint="give --reference FILE, or --init and --inputs to take the given code as the specification",
        )
    started = time.monotonic()
    say = progress or (lambda text: None)
    gate = _Gate(task, candidate, effort if effort in _BUDGET_S else "quick", say)
    verdict = gate.run()
    return replace(verdict, seconds=time.monotonic() - started)


@dataclass
class _Gate:
    task: Task
    candidate: Candidate
    effort: str
    say: Progress

    def run(self) -> Verdict:
        self.say("contract")
        findings = list(check_contract(self.candidate.source, self.task.output_rules, self.task.rules))
        if any(one.check == "contract.parse" for one in findings):
            return Verdict(tuple(findings))
        source = Source.parse(self.candidate.source)
        findings += [*watches.findings_of(self.candidate.source), *honesty_world.source_findings(source)]
        self.say("compile and oracle")
        with ThreadPoolExecutor(2) as pool:
            recording = pool.submit(record_fully, self.task, self.candidate, self.task.gpu)
            answers = pool.submit(self._ask_oracle)
            recorded, oracle = recording.result(), answers.result()
        findings += self._compile_findings(recorded, source)
        plan = oracle.part("plan")
        if plan is None:
            raise InputMismatchError(f"the reference cannot be run: {_last_line(oracle)}")
        expected = judge.read_expected(oracle, [_probe(data) for data in plan.data["probes"]])
        findings += [*_input_findings(plan.data, oracle, expected), *modes.plan_findings(plan.data)]
        errors: list[ErrorRow] = []
        launches: Mapping[str, int] = {}
        if recorded.ended not in _FATAL:
            self.say("correctness and honesty")
            with ThreadPoolExecutor(1) as pool:
                # With no effort nothing is done for a candidate that is known to be wrong.
                at_once = self.effort != "none"
                honest = pool.submit(self._honesty, plan.data, oracle, expected, recorded, source) if at_once else None
                errors, launches, found, launched = self._correctness(plan.data, oracle, expected, recorded, source)
                if honest is None and not any(self._rejects(one) for one in (*findings, *found)):
                    honest = pool.submit(self._honesty, plan.data, oracle, expected, recorded, source)
                findings += found
                if honest is not None:
                    findings += self._where_launched(*honest.result(), launched)
        how = "gpu" if _on_gpu() else "interpreter"
        weighed = tuple(self._weighed(one) for one in findings)
        end = oracle.part("oracle")
        kind = str(end.data["kind"]) if end is not None else "incomplete oracle"
        return Verdict(weighed, tuple(errors), recorded.resources, launches, how, kind)

    def _rejects(self, found: Finding) -> bool:
        return self._weighed(found).severity is Severity.ERROR

    def _weighed(self, found: Finding) -> Finding:
        """Rules on the form of an answer bind answers, not the code that was given or somebody's file."""
        check = BY_NAME.get(found.check)
        given = self.candidate.origin is Origin.DOCUMENT or (
            self.candidate.origin is Origin.FILE and self.task.document is None
        )
        if check is not None and check.form and given and found.severity is Severity.ERROR:
            return replace(found, severity=Severity.NOTE)
        # Where gradients are wanted, emitted modules do what the reference does.
        if found.severity is Severity.LIMIT and self._own_code and found.check != "correctness.gradient":
            return replace(found, severity=Severity.ERROR)
        return found

    @property
    def _own_code(self) -> bool:
        return self.candidate.origin is Origin.SYNTHESIZE

    def _compile_findings(self, recorded: Recorded, source: Source) -> Iterator[Finding]:
        yield from recorded.findings
        yield from check_launches(recorded, source, self.task.rules, len(self.candidate.scratch))

    def _job(self, entry: str) -> dict[str, Any]:
        return {
            "entry": entry,
            "source": base64.b64encode(cloudpickle.dumps(self.task.reference)).decode(),
            "gpu": gpu_figures(self.task.gpu),
            "device": "cuda" if _on_gpu() else "cpu",
            "needs_reference": self.candidate.needs_reference,
        }

    def _ask_oracle(self) -> JobResult:
        job = self._job("tilewright.gate.inside.oracle:run") | {
            "precision": self.task.precision.value,
            "constants": integer_constants(self.candidate.source),
            "effort": self.effort,
            "given_code": self.task.given_code_is_specification,
            "wanted_mode": modes.wanted(self.task, self.candidate),
            "needs_reference": False,
        }
        return _oracle_result(json.dumps(job))

    def _correctness(
        self,
        plan: Mapping[str, Any],
        oracle: JobResult,
        expected: Sequence[Expected | None],
        recorded: Recorded,
        source: Source,
    ) -> tuple[list[ErrorRow], Mapping[str, int], list[Finding], frozenset[int]]:
        with ThreadPoolExecutor(1) as pool_of_one:
            beside = pool_of_one.submit(self._addresses, plan, oracle, expected) if _on_gpu() else None
            result = self._execute(plan, oracle, expected, interpreted=not _on_gpu())
        precision = self.task.precision.value
        reduced = _reduces(recorded, source)
        pool = {name: judge.pooled(expected, name) for name in {"ieee", precision}}
        outcomes = []
        covered: list[Covered] = []
        for part in result.parts:
            index = _run_index(part.name, len(expected))
            answer = expected[index] if index is not None else None
            if answer is None:
                continue
            class_ = reduced or (_on_gpu() and answer.probe.family is Family.OWN)
            outcomes.append(judge.judge_run(part.name, part.data, part.tensors, answer, pool, precision, class_))
            if answer.probe.family is not Family.MODE:  # what is never read is asked of the reference in one mode
                covered += coverage_findings.read_covered(part, outcomes[-1].index, outcomes[-1].choice)
        covered += beside.result() if beside is not None else []
        found = judge.findings_of(
            expected,
            outcomes,
            self._own_code,
            integer_constants(self.candidate.source),
            float(plan["response"]) >= SENSITIVE,
            {str(name): int(size) for name, size in plan["own_sizes"]},
        )
        if not self._own_code:
            excused = excuses_of(expected, outcomes).indices | judge.apart(expected)
            covered = [run for run in covered if run.index not in excused]
        found += trial_findings(
            result.parts, expected, outcomes,
            lambda name, part, answer: judge.judge_run(
                name, part.data, part.tensors, answer, pool, precision, bool(reduced)
            ),
        )  # fmt: skip
        found += whole_findings(result.part("whole"))
        found += [] if self._own_code else grid_limits(result.parts, expected, recorded.recording)
        found += self._coverage_findings(plan, oracle, expected, outcomes, covered)
        found += _run_findings(result, outcomes, expected, self._own_code)
        found += modes.run_findings(expected, outcomes)
        if states.asked(self.task, self.candidate):
            found += states.findings_of([part.data.get("names", {}) for part in result.parts if part.name[:3] == "run"])
        launches: dict[str, int] = {}
        for outcome in outcomes:
            for name, count in outcome.launches.items():
                launches[name] = launches.get(name, 0) + count
        launched = frozenset(outcome.index for outcome in outcomes if outcome.launches)
        return judge.error_rows(expected, outcomes), launches, found, launched

    def _honesty(
        self,
        plan: Mapping[str, Any],
        oracle: JobResult,
        expected: Sequence[Expected | None],
        recorded: Recorded,
        source: Source,
    ) -> tuple[list[Finding], Stage]:
        """Experiments beside the ordinary runs, in a process of their own."""
        assert self.task.reference is not None
        sizes = [sum(output.nbytes for output in answer.exact) for answer in expected if answer is not None]
        stage = Stage(
            self._job("") | {name: plan[name] for name in ("constructors", "mode")}, oracle, expected, self.candidate,
            source, recorded,
            self.task.precision.value, _reduces(recorded, source), self.effort,
            candidate_limits((sum(sizes), max(sizes, default=0)), BUDGET_S[self.effort]),
            own_folder(self.task.reference.path), bool(plan["same_modes"]),
        )  # fmt: skip
        return stage.findings(), stage

    def _where_launched(self, honest: list[Finding], stage: Stage, launched: frozenset[int]) -> list[Finding]:
        """The findings of the experiments; one of them is repeated where the kernels left its sizes to PyTorch.

        That the ordinary run at the experiments' sizes saw no launch either tells this from a decoy that says it
        launched. The cheapest probe that saw one is taken then.
        """
        idle = [one for one in honest if one.check == "honesty.decoy" and one.evidence.get("kernels") == []]
        scene = honesty.find_scene(stage.expected)
        if not idle or not launched or scene is None or scene.first in launched:
            return honest
        probes = {i: answer.probe for i, answer in enumerate(stage.expected) if answer is not None and i in launched}
        cheapest, probe = min(probes.items(), key=lambda item: _work(item[1]))
        small = _work(probe) <= _REPEATED
        done = f"what kernels store was replaced at {probe.name}" if small else "the others are too dear to repeat"
        note = replace(
            finding("honesty.decoy", f"at the experiments' sizes PyTorch does all; {done}"), severity=Severity.NOTE
        )
        repeated = stage.constants_at(cheapest) if small else []
        return [*(one for one in honest if one not in idle), note, *repeated]

    def _coverage_findings(
        self,
        plan: Mapping[str, Any],
        oracle: JobResult,
        expected: Sequence[Expected | None],
        outcomes: Sequence[judge.Outcome],
        covered: Sequence[Covered],
    ) -> list[Finding]:
        own = [o for o in outcomes if (e := expected[o.index]) is not None and e.probe.family is Family.OWN]
        own_ran = [o for o in own if o.problem != "skipped"]
        weighing = coverage_findings.Weighing(self._own_code, bool(own_ran) and all(not o.problem for o in own_ran))

        def ask(questions: list[dict[str, Any]], sent: dict[str, torch.Tensor]) -> JobResult:
            self.say("what is never read")
            tensors = dict(sent)
            for question in questions:
                index, key = int(question["index"]), question["weights_key"]
                answer, part, state = expected[index], oracle.part(f"probe {index}"), oracle.part(f"weights {key}")
                assert answer is not None
                assert part is not None
                assert state is not None
                prefix = f"p{index}."
                question["inputs"] = wire.prefixed(answer.inputs, prefix)
                tensors |= {f"{prefix}{n}": t for n, t in part.tensors.items() if n.startswith("inputs.")}
                tensors |= {f"{key}|{n}": t for n, t in state.tensors.items()}
            job = self._job("tilewright.gate.inside.perturb:run") | {
                "constructors": plan["constructors"],
                "questions": questions,
                "mode": plan["mode"],
                "needs_reference": False,
            }
            return run_job(job, tensors, deadline_s=_ORACLE_DEADLINE_S[self.effort], limits=_oracle_limits())

        return [
            *coverage_findings.unread_findings(covered, expected, weighing, ask),
            *coverage_findings.unwritten_findings(covered, expected, weighing),
            *coverage_findings.event_findings(covered, expected, weighing),
            *coverage_findings.redone_findings(covered),
        ]

    def _addresses(
        self, plan: Mapping[str, Any], oracle: JobResult, expected: Sequence[Expected | None]
    ) -> list[Covered]:
        """On a GPU nobody sees addresses: the small probes are interpreted beside it, for those alone."""
        if self.effort == "none":
            return []
        small = [
            answer
            if answer is not None and answer.probe.family in _COVERED and _work(answer.probe) <= _ADDRESSES
            else None
            for answer in expected
        ]
        found: list[Covered] = []
        for part in self._execute(plan, oracle, small, interpreted=True).parts:
            index = _run_index(part.name, len(expected))
            if index is not None:
                found += coverage_findings.read_covered(part, index, int(part.name.split(" ")[2]))
        return found

    def _execute(
        self,
        plan: Mapping[str, Any],
        oracle: JobResult,
        expected: Sequence[Expected | None],
        *,
        interpreted: bool,
    ) -> JobResult:
        tensors: dict[str, torch.Tensor] = {}
        probes: list[dict[str, Any]] = []
        for index, answer in enumerate(expected):
            if answer is None:
                continue
            own = answer.probe.family is Family.OWN
            prefix = f"p{index}."
            part = oracle.part(f"probe {index}")
            assert part is not None
            tensors |= {f"{prefix}{n}": t for n, t in part.tensors.items() if n.startswith("inputs.")}
            probes.append(
                {
                    "index": index,
                    "constructor": answer.probe.constructor,
                    "weights_key": answer.weights_key,
                    "inputs": wire.prefixed(answer.inputs, prefix),
                    "own": own,
                    "must": answer.probe.family in _MUST,
                    "large": answer.elements > LARGE,
                    "work": _work(answer.probe),
                    "channels_last": answer.probe.layout == MODULE_LAYOUT,
                    "multiprocessors": answer.probe.multiprocessors or self.task.gpu.sm_count,
                    "twice": answer.probe.family is Family.VALUE and not any(p["twice"] for p in probes),
                    "precision": self.task.precision.value if own else "ieee",
                    "mode": answer.probe.mode,
                }
            )
        for part in oracle.parts:
            if part.name.startswith("weights "):
                key = part.name.removeprefix("weights ")
                tensors |= {f"{key}|{name}": tensor for name, tensor in part.tensors.items()}
        budget = (_ADDRESSES_S if interpreted and _on_gpu() else _BUDGET_S)[self.effort]
        job = self._job("tilewright.gate.inside.execute:run") | {
            "constructors": plan["constructors"],
            "probes": probes,
            "mode": plan["mode"],
            "budget_s": budget,
            "run_s": _RUN_S[self.effort],
            "ahead_s": _AHEAD_S[self.effort],
            "whole_s": _WHOLE_S[self.effort],
            "device": "cpu" if interpreted else "cuda",
        }
        if not interpreted and (installed := detect_gpu()) is not None:
            job["installed"] = gpu_figures(installed)
        path = self.task.reference.path if self.task.reference is not None else None
        environment = {"TRITON_INTERPRET": "1"} if interpreted else cache_environment(self.candidate)
        deadline = 5 * budget + 60.0 if interpreted else 10 * budget + 300.0
        return run_job(
            job, tensors, deadline_s=deadline, limits=candidate_limits(job_bytes(tensors, expected), budget),
            environment=environment, files={FILE: self.candidate.source}, readable=own_folder(path),
        )  # fmt: skip


def _work(probe: Probe) -> int:
    """Elements of the largest inner tensor: what a run in the interpreter costs grows with it."""
    return max((size for name, size in probe.quantities if "elements" in name), default=0)


@lru_cache(maxsize=2)
def _oracle_result(job_text: str) -> JobResult:
    """The oracle's answers; candidates with the same constants are asked the same questions."""
    job = json.loads(job_text)
    interpreted = job["given_code"] and job["device"] == "cpu"
    environment = {"TRITON_INTERPRET": "1"} if interpreted else {}
    deadline = _ORACLE_DEADLINE_S[job["effort"]]
    return run_job(job, deadline_s=deadline, limits=_oracle_limits(), environment=environment)


def _oracle_limits() -> Limits:
    return Limits(
        memory_bytes=_memory(), cuda=_on_gpu(), cpu_s=3600, file_bytes=64 << 30, disk_bytes=128 << 30,
        result_bytes=64 << 30,
    )  # fmt: skip


def _on_gpu() -> bool:
    return bool(torch.cuda.is_available())


def _memory() -> int:
    """Most of this machine's memory: the inputs of a task may need it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(int(total * 0.7), 2 << 30)


def job_bytes(tensors: Mapping[str, torch.Tensor], expected: Sequence[Expected | None]) -> tuple[int, int]:
    """Bytes of everything that is sent to a candidate and expected back, and of its largest single run."""
    answers = [sum(output.nbytes for output in answer.exact) for answer in expected if answer is not None]
    sent = sum(tensor.nbytes for tensor in tensors.values())
    largest = max((tensor.nbytes for tensor in tensors.values()), default=0)
    return sent + sum(answers), largest + max(answers, default=0)


def candidate_limits(sizes: tuple[int, int], budget_s: float) -> Limits:
    """What a candidate may use on a task of so many bytes (`job_bytes`): many times what a kernel needs."""
    total, largest = sizes
    # On a GPU what its probes launch is compiled ahead in forks, for each of which the pages that they share count.
    base = (36 if _on_gpu() else 3) << 30
    return Limits(
        memory_bytes=min(_memory(), base + 2 * total + 16 * largest),
        cuda=_on_gpu(),
        cpu_s=3600,
        file_bytes=(1 << 30) + 4 * largest,
        disk_bytes=(2 << 30) + MAX_CONFIGURATIONS * total,
        result_bytes=(1 << 28) + 4 * largest,
        idle_s=60.0 if _on_gpu() else 20.0,
        quiet_cpu_s=0.0 if _on_gpu() else 60.0 + budget_s,
    )


def _last_line(result: JobResult) -> str:
    lines = [line for line in result.stderr.strip().splitlines() if line.strip()]
    return lines[-1] if lines else result.message


def _probe(data: Mapping[str, Any]) -> Probe:
    """A probe as the oracle's process sent it."""
    return Probe(
        str(data["name"]),
        Family(data["family"]),
        int(data["constructor"]),
        tuple(((int(member[0]), int(member[1])), int(size)) for member, size in data["sizes"]),
        str(data["weights"]),
        str(data["draw"]),
        int(data["seed"]),
        str(data["group"]),
        int(data["size"]),
        tuple(Crossing(str(c["what"]), int(c["value"]), int(c["constant"])) for c in data["crossings"]),
        tuple((str(name), int(value)) for name, value in data["quantities"]),
        str(data["layout"]),
        bool(data["own_size"]),
        int(data["multiprocessors"]),
        tuple((int(number), value) for number, value in data["scalars"]),
        bool(data["apart"]),
        str(data["mode"]),
    )


def _run_index(name: str, count: int) -> int | None:
    words = name.split(" ")
    if len(words) != 3 or words[0] != "run" or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return int(words[1]) if int(words[1]) < count else None


def _reduces(recorded: Recorded, source: Source) -> bool:
    """True where operands are 16 bits wide, or (on a GPU, where nobody watches tl.dot) products may be reduced."""
    native = any(step.get("narrows") for step in recorded.steps)
    narrow = any(a.type in {"*fp16", "*bf16"} for launch in recorded.recording.launches for a in launch.arguments)
    dots = any(any(function.calls(f"{LANGUAGE}.dot")) for function in source.functions)
    return native or narrow or (dots and _on_gpu())


def _input_findings(
    plan: Mapping[str, Any], oracle: JobResult, expected: Sequence[Expected | None]
) -> Iterator[Finding]:
    share = float(plan["response"])
    if share < SENSITIVE:
        text = (
            f"with the task's own inputs and weights {share:.1%} of the output answers to the inputs: "
            "they prove little; probes with redrawn weights decide"
        )
        yield replace(finding("inputs.insensitive", text), evidence={"share": share})
    skipped = [str(item) for item in plan["skipped"]]
    if skipped:
        yield finding("inputs.skipped", f"too dear to run: {'; '.join(dict.fromkeys(skipped))}")
    refused = {part.name for part in oracle.parts if isinstance(part.data, Mapping) and "refused" in part.data}
    unanswered = sum(answer is None and f"probe {i}" not in refused for i, answer in enumerate(expected))
    if unanswered:
        yield finding(
            "correctness.reference", f"the reference gave no answer on {unanswered} probes: {_last_line(oracle)}"
        )


def _run_findings(
    result: JobResult, outcomes: Sequence[judge.Outcome], expected: Sequence[Expected | None], own_code: bool
) -> list[Finding]:
    """What the runs as a whole say: how the process ended, kernels, parameters, what was skipped."""
    found = [finding("sandbox.unprotected", note) for note in result.notes]
    if result.outcome is not Outcome.OK:
        reached = f" (after {len(outcomes)} runs)" if outcomes else ""
        found.append(finding(CHECK_OF[result.outcome], f"its process: {result.message}{reached}"))
    ran = [outcome for outcome in outcomes if outcome.problem not in {"skipped", "correctness.raises"}]
    must = [o for o in ran if (e := expected[o.index]) is not None and e.probe.family in _MUST]
    must = must or ran  # where the interpreter had time for other sizes only
    if must and not any(outcome.launches for outcome in must):
        found.append(
            finding("correctness.no_kernel", "no Triton kernel of the candidate was launched: nothing is proved")
        )
    same = [o for o in ran if (e := expected[o.index]) is not None and e.probe.family is not Family.CONSTRUCTOR]
    lost = sorted({name for outcome in same for name in outcome.parameters})
    if lost:
        found.append(finding("correctness.parameters", f"parameters without a counterpart: {', '.join(lost)}"))
    if result.outcome is Outcome.OK and not any(o.problem == "correctness.raises" for o in outcomes):
        found += judged_without(outcomes, ran, expected, own_code)
    skipped = [o for o in outcomes if o.problem == "skipped" and not o.unknown]
    if skipped:
        names = list(dict.fromkeys(e.probe.name for o in skipped if (e := expected[o.index]) is not None))
        found.append(finding("inputs.skipped", f"not run, the time for runs was up: {'; '.join(names)}"))
    return found
