"""`python -m benchmarks.soak mutants`: mutants of right kernels through the gate, and every survivor by name.

Subjects are our own emitted kernels of the five workloads and of other modules, and the hand-written ones of the
tests' corpus. A mutant is killed by a check that its original passes. Survivors are run beside their original on
random inputs: where they differ, the gate has a hole; where they do not, they are equivalent as far as can be seen.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from benchmarks.soak_record import Journal, Record
from tests.gate.corpus.cases import RIGHT, reference_path
from tilewright.errors import TilewrightError
from tilewright.gate.checks.table import BY_NAME
from tilewright.gate.mutate.mutants import Mutant, sample_mutants
from tilewright.gate.mutate.twins import Twins, compare_sources
from tilewright.gate.verify import verify
from tilewright.proposers.synthesize import synthesize
from tilewright.task.input_spec import parse_init
from tilewright.task.load import load_task
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.verdict import Finding, Verdict

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

#: Sizes that random inputs take; letters of a subject's inputs stand for them.
_SIZES = (1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 40)
#: In every sixth draw one size is one of these, and the others small: kernels that split work do so there alone.
_LARGE, _SMALL = (300, 1030, 4100), (1, 2, 3)
_DRAWS = 24
_GPU = "rtx-4090"


@dataclass(frozen=True)
class Subject:
    """A module whose kernel is mutated, small enough for the interpreter.

    Attributes:
        name: for people.
        reference: its file.
        init: constructor arguments, as `--init` takes them.
        inputs: as `--inputs` takes them, with letters for sizes that may change.
        sizes: of the letters, in the task.
        given: name of the hand-written candidate; our own emitted kernel where there is none.
    """

    name: str
    reference: Path
    init: str
    inputs: str
    sizes: tuple[tuple[str, int], ...]
    given: str = ""

    def at(self, sizes: dict[str, int]) -> str:
        """The inputs' text at given sizes."""
        return self.inputs.format(**sizes)


def _example(name: str, init: str, inputs: str, **sizes: int) -> Subject:
    return Subject(name, EXAMPLES / f"{name}.py", init, inputs, tuple(sizes.items()))


_OTHERS = {
    "softmax_rows": ("[0.5]", "randn({M}, {N})", {"M": 4, "N": 37}),
    "layer_norm": ("[37]", "randn({M}, 37)", {"M": 4}),
    "linear_relu": ("[37, 21]", "randn({M}, 37)", {"M": 9}),
    "channel_mean": ("[5]", "randn({M}, 5, {H}, {W})", {"M": 2, "H": 6, "W": 7}),
    "bias_gelu": ("[20]", "randn({M}, 20)", {"M": 6}),
    "softplus_scale": ("[1.5]", "randn({M}, {N})", {"M": 6, "N": 20}),
    "clamp_scale": ("[5, -1.0, 1.5]", "randn({M}, 5, {H}, {W})", {"M": 2, "H": 5, "W": 6}),
    "min_channels": ("[2.0]", "rand({M}, {C}, {W})", {"M": 2, "C": 11, "W": 21}),
    "weighted_sum": ("[75]", "randn({M}, 75)", {"M": 5}),
    "transpose_scale": ("[3.0]", "randn({B}, {M}, {N})", {"B": 2, "M": 18, "N": 21}),
    "attention": ("[16]", "randn({B}, {T}, 16), randn({B}, {S}, 16), randn({B}, {S}, 16)", {"B": 2, "T": 18, "S": 21}),
    "conv1x1": ("[19, 9]", "randn({B}, 19, {H}, {W})", {"B": 2, "H": 5, "W": 6}),
    "residual_mish": ("[0.25]", "randn({M}, {N}), randn({M}, {N})", {"M": 6, "N": 20}),
    "running_sum": ("[0.5]", "randn({M}, {N})", {"M": 4, "N": 37}),
    "moments": ("[0]", "randn({M}, {N})", {"M": 4, "N": 75}),
    "batch_norm_leaky": ("[6, 0.1]", "randn({B}, 6, {H}, {W})", {"B": 2, "H": 5, "W": 6}),
}


def subjects() -> tuple[Subject, ...]:
    """The five workloads and other modules by our own kernels, then hand-written kernels."""
    image = {"N": 2, "H": 6, "W": 5}
    ours = [
        _example("min_sum_gelu_bias", "[6, 9, 3, 2, 1, 1, (1, 1, 1)]", "rand({N}, 6, {H}, {W})", **image),
        _example("mish_add_hardtanh_scale", "[6, 9, 3, 2, 1, 1, 0.5, 2]", "rand({N}, 6, {H}, {W})", **image),
        _example("add_min_gelu_mul", "[6, 9, 4, 2, 0.5, 2.0]", "rand({N}, 6, {H}, {W})", **image),
        _example("linear_batchnorm_gelu_relu", "[37, 21]", "rand({M}, 37)", M=9),
        _example("multiply_global_mean", "[6, 9, 3, 2, 1, 1, 0.5]", "rand({N}, 6, {H}, {W})", **image),
        _example("gated_residual", "[5, 0.1]", "randn({N}, 5, {H}, {W}), randn({N}, 5, {H}, {W})", **image),
        _example("conv_groupnorm_hardswish_max", "[6, 8, 3, 4]", "rand({N}, 6, {H}, {W})", **image),
        _example("mlp_layernorm_gelu", "[20, 36]", "randn({N}, {M}, 20)", N=2, M=5),
    ]
    names = (
        "softmax_rows", "residual_mish", "channel_mean", "bias_gelu", "min_channels", "weighted_sum", "moments",
        "clamp_scale", "batch_norm_leaky",
    )  # fmt: skip
    ours += [_other(name, "") for name in names]
    written = [_other(case.reference, case.name) for case in RIGHT if case.reference in _OTHERS]
    return (*ours, *written)


def _other(name: str, given: str) -> Subject:
    init, inputs, sizes = _OTHERS[name]
    label = f"{given} ({name})" if given else name
    return Subject(label, reference_path(name), init, inputs, tuple(sizes.items()), given)


@cache
def task_of(subject: Subject) -> Task:
    """The subject's task, at its own small sizes."""
    inputs = subject.at(dict(subject.sizes))
    return load_task(subject.reference, init=subject.init, inputs=inputs, gpu=_GPU)


@cache
def original_of(subject: Subject) -> Candidate:
    """The right kernel that is mutated."""
    if subject.given:
        source = next(case.source for case in RIGHT if case.name == subject.given)
        return Candidate(source, Origin.SYNTHESIZE, subject.name)
    made = synthesize(task_of(subject))
    if not made:
        raise LookupError(f"{subject.name}: no kernel was emitted")
    return made[0]


@dataclass(frozen=True)
class Fate:
    """What became of a mutant, or of an original (`right`, `alarm`).

    Attributes:
        key: of the subject's name and the judged source: a journal knows it by this.
        mutant: the change, for people.
        kind: `killed`, `equivalent` (accepted, and nothing differs), `unseen` (accepted, and it could not be
            compared) or `survived` (accepted, and it differs: a hole); of originals `right` or `alarm`.
        reason: the check that killed it, or what differs.
        effort: of the gate that decided.
        seconds: wall time.
    """

    key: str
    subject: str
    mutant: str
    operator: str
    kind: str
    reason: str
    effort: str
    seconds: float


def key_of(subject: Subject, source: str) -> str:
    """Identity of one judgement: SHA-256 of the subject's name and the source, 16 hex digits."""
    return hashlib.sha256(f"{subject.name}\0{source}".encode()).hexdigest()[:16]


def _fate(subject: Subject, mutant: Mutant, kind: str, reason: str, effort: str, started: float) -> Fate:
    seconds = round(time.monotonic() - started, 1)
    key = key_of(subject, mutant.source)
    return Fate(key, subject.name, str(mutant), mutant.operator, kind, reason, effort, seconds)


def substantial(verdict: Verdict) -> tuple[Finding, ...]:
    """What rejects, but for rules on the form of an answer (a mutant's form is its original's)."""
    return tuple(found for found in verdict.reasons if not (found.check in BY_NAME and BY_NAME[found.check].form))


def judge(subject: Subject, mutant: Mutant, efforts: Sequence[str] = ("none", "quick")) -> Fate:
    """Put a mutant through the gate, with more effort while it is accepted; compare what is left."""
    from dataclasses import replace

    started = time.monotonic()
    original = original_of(subject)
    effort = ""
    for effort in efforts:
        candidate = replace(original, source=mutant.source, description=str(mutant))
        reasons = substantial(verify(task_of(subject), candidate, effort=effort))
        if reasons:
            text = f"{reasons[0].check}: {reasons[0].message[:200]}"
            return _fate(subject, mutant, "killed", text, effort, started)
    twins = compare(subject, mutant)
    kind = "equivalent" if twins.same else "survived"
    if twins.same and twins.compared == 0:
        kind = "unseen"
    reason = twins.difference or f"no difference on {twins.compared} draws of inputs"
    return _fate(subject, mutant, kind, reason, effort, started)


def compare(subject: Subject, mutant: Mutant) -> Twins:
    """A mutant beside its original on random inputs."""
    generator = random.Random(f"{subject.name} {mutant}")
    letters = [name for name, _ in subject.sizes]
    draws = [subject.at(dict(subject.sizes))]
    for number in range(_DRAWS):
        sizes = {name: generator.choice(_SMALL if number % 6 == 5 else _SIZES) for name in letters}
        if number % 6 == 5:
            sizes[generator.choice(letters)] = generator.choice(_LARGE)
        draws.append(subject.at(sizes))
    return compare_sources(
        original_of(subject).source, mutant.source, parse_init(subject.init), draws, task_of(subject).gpu
    )


def run(count: int, seed: int, jobs: int, pattern: str, journal: Path | None = None, seconds: float = 0.0) -> Record:
    """Judge `count` mutants, as many of each subject whose name contains `pattern`.

    Args:
        count: of mutants.
        seed: of the sample.
        jobs: gates at a time.
        pattern: part of the subjects' names.
        journal: a file of lines that finished judgements are added to; what it holds already is not judged again, so
            that several calls, also on several machines, add up.
        seconds: after so many nothing new is begun (0: never).
    """
    started = time.monotonic()
    book = Journal(journal)
    chosen, alarms = [], []
    for subject in subjects():
        if pattern in subject.name:
            try:
                original_of(subject)  # one after the other: torch.export is not made for threads
                chosen.append(subject)
            except (LookupError, TilewrightError) as error:
                alarms.append(str(error))
    stop = started + seconds if seconds else float("inf")

    def known(key: str, make: Callable[[], Fate]) -> Fate | None:
        if (row := book.find(key)) is not None:
            return Fate(**row)
        if time.monotonic() > stop:
            return None
        try:
            fate = make()
        except Exception as error:
            print(f"broken: {type(error).__name__}: {error}", flush=True)
            return None  # the gate itself failed: it stays open, and the goal unmet
        book.add(asdict(fate))
        print(f"{fate.kind:11}{fate.seconds:4.0f} s  {fate.subject}: {fate.mutant}: {fate.reason[:160]}", flush=True)
        return fate

    with ThreadPoolExecutor(jobs) as pool:
        originals = list(pool.map(lambda s: known(key_of(s, original_of(s).source), partial(_original, s)), chosen))
        work = list(_work(chosen, count, seed))
        fates = list(pool.map(lambda item: known(key_of(item[0], item[1].source), partial(judge, *item)), work))
    alarms += [f"{fate.subject}: {fate.reason}" for fate in originals if fate is not None and fate.kind == "alarm"]
    left = sum(fate is None for fate in (*originals, *fates))
    fates += _judged_elsewhere(book, chosen, {key_of(subject, mutant.source) for subject, mutant in work})
    return _record([fate for fate in fates if fate is not None], alarms, left, time.monotonic() - started)


def _judged_elsewhere(book: Journal, chosen: Sequence[Subject], sample: Collection[str]) -> list[Fate]:
    """Mutants of the same subjects that the journal holds beside the sample: another machine's versions may emit other
    code, and another sample may have been drawn. They count as what they are."""
    names = {subject.name for subject in chosen}
    found = [Fate(**row) for row in book.others(sample)]
    return [fate for fate in found if fate.mutant and fate.subject in names]


def _original(subject: Subject) -> Fate:
    """Why an emitted original is rejected, if it is; of the hand-written ones the corpus' own run tells."""
    started = time.monotonic()
    reasons: Sequence[Finding] = ()
    if not subject.given:
        reasons = substantial(verify(task_of(subject), original_of(subject), effort="quick"))
    reason = f"the original is rejected: {reasons[0].check}: {reasons[0].message}" if reasons else ""
    kind = "alarm" if reasons else "right"
    key = key_of(subject, original_of(subject).source)
    return Fate(key, subject.name, "", "", kind, reason, "quick", round(time.monotonic() - started, 1))


def _work(chosen: Sequence[Subject], count: int, seed: int) -> Iterator[tuple[Subject, Mutant]]:
    share = -(-count // max(len(chosen), 1))
    work = [
        (subject, mutant) for subject in chosen for mutant in sample_mutants(original_of(subject).source, share, seed)
    ]
    random.Random(seed).shuffle(work)
    yield from work[:count]


def _record(fates: Sequence[Fate], alarms: Sequence[str], left: int, seconds: float) -> Record:
    kinds = Counter(fate.kind for fate in fates)
    different = kinds["killed"] + kinds["survived"]
    share = kinds["killed"] / different if different else 0.0
    survivors = [f"{f.subject}: {f.mutant}: {f.reason[:300]}" for f in fates if f.kind in {"survived", "unseen"}]
    return Record(
        kind="mutants",
        counts={
            "mutants": len(fates),
            "not judged": left,
            "subjects": len({fate.subject for fate in fates}),
            **dict(sorted(kinds.items())),
            "killed of those that change the function": round(share, 4),
            "killed by": dict(Counter(f.reason.partition(":")[0] for f in fates if f.kind == "killed").most_common()),
            "by operator": dict(sorted(Counter(f.operator for f in fates).items())),
        },
        failures=(*alarms, *survivors),
        details=tuple(
            {"subject": f.subject, "mutant": f.mutant, "fate": f.kind, "reason": f.reason, "effort": f.effort}
            for f in fates
            if f.kind != "killed"
        ),
        seconds=seconds,
        goal_met=not alarms and not left and share >= 0.99,
    )
