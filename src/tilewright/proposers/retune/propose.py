"""From the given source to an ordered list of candidates."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from tilewright.proposers.retune.causes import boost
from tilewright.proposers.retune.edit import Context, Edit, Proposal, permitted_changes, subject_of
from tilewright.proposers.retune.schedule_edits import conform
from tilewright.proposers.retune.stage_check import stage_findings
from tilewright.proposers.retune.table import STRUCTURE, TUNING
from tilewright.proposers.retune.view import View, view_of
from tilewright.task.stage import StageRules
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.verdict import KernelResources

#: Candidates that are returned at most; the search measures as many of them as its effort allows.
MAX_CANDIDATES = 40
#: What each further proposal of one chain of edits is worth, beside the one before.
_PATIENCE = 0.9
#: A structural edit that promises at least so much is built upon; the others are tried alone, and all at the end.
_STRONG = 1.1
#: Structural variants that the tuning edits start from.
_MAX_BASES = 3


def retune(
    task: Task,
    code: str,
    stage_rules: StageRules,
    resources: Sequence[KernelResources],
    causes: Collection[str] = (),
) -> tuple[Candidate, ...]:
    """Edited versions of a Triton module that keep its meaning, the most promising first.

    Args:
        task: gives the target GPU and the profile, if there is one.
        code: the module: kernels, wrappers, `ModelNew`.
        stage_rules: what may change; every candidate stays inside (checked on the syntax tree).
        resources: what the compiler says of the kernels of `code`, as far as known; orders the candidates, and the
            stage's conditional rules are evaluated on it.
        causes: names of the diagnosis' rules that say what holds `code` back; orders the candidates.

    Returns:
        At most `MAX_CANDIDATES`; none where the module launches no kernel that can be read.

    Raises:
        SourceError: `code` does not parse.
    """
    context = Context(stage_rules, task.gpu, tuple(resources), task.metrics)
    parent = hashlib.sha256(code.encode()).hexdigest()[:16]
    view = view_of(code)
    found = _unique(_proposals(code, view, context), code)
    proposals = _ordered([replace(one, gain=one.gain * boost(one, causes)) for one in found], stage_rules)
    inside = (proposal for proposal in proposals if not stage_findings(code, proposal.source, stage_rules))
    return tuple(
        Candidate(proposal.source, Origin.RETUNE, proposal.description, parent)
        for proposal in itertools.islice(inside, MAX_CANDIDATES)
    )


def _proposals(code: str, view: View, context: Context) -> Iterator[Proposal]:
    """Structure first, alone and together; then tuning, on the given code and on the best structures."""
    conformed = conform(code, context.rules)
    start = Proposal(conformed, "", 1.0)
    if conformed != code:
        yield replace(start, description="launch parameters moved into the stage's sets")
    for kernel in view.kernels:
        if not context.runs(kernel.name):
            continue
        own = replace(context, given_arguments=frozenset(parameter.name for parameter in kernel.parameters))
        structures = list(_structures(start, kernel.name, own))
        yield from structures
        strong = sorted((s for s in structures[:-1] if s.gain >= _STRONG), key=lambda proposal: -proposal.gain)
        for base in [start, *strong[: _MAX_BASES - 1]]:
            yield from _tuned(base, kernel.name, own)


def _structures(start: Proposal, kernel: str, context: Context) -> Iterator[Proposal]:
    """Each structural edit alone; the chain of the strong ones; the chain of all that apply, the weak ones last."""
    chain = start
    weak: list[Edit] = []
    for edit in _permitted(STRUCTURE, context):
        yield from _applied(edit, start, kernel, context)
        best = _best(edit, chain, kernel, context)
        if best is None:
            continue
        if best.gain >= chain.gain * _STRONG:
            chain = best
            yield chain
        else:
            weak.append(edit)
    for edit in weak:
        best = _best(edit, chain, kernel, context)
        if best is not None and best.gain > chain.gain:
            chain = best
    yield chain


def _best(edit: Edit, base: Proposal, kernel: str, context: Context) -> Proposal | None:
    return max(_applied(edit, base, kernel, context), key=lambda found: found.gain, default=None)


def _tuned(base: Proposal, kernel: str, context: Context) -> Iterator[Proposal]:
    """The tuning edits on one base; an autotune list is resolved first, and what comes out is tuned further."""
    starts = [base]
    for edit in _permitted(TUNING, context):
        fresh = [base] if edit.name == "insert_autotune" else starts
        found = [proposal for start in fresh for proposal in _applied(edit, start, kernel, context)]
        yield from found
        if edit.name == "resolve_autotune" and found:
            starts = [base, max(found, key=lambda proposal: proposal.gain)]


def _permitted(edits: Iterable[Edit], context: Context) -> list[Edit]:
    permitted = permitted_changes(context.rules)
    return [edit for edit in edits if edit.changes <= permitted]


def _applied(edit: Edit, base: Proposal, kernel: str, context: Context) -> Iterator[Proposal]:
    """One edit on top of a base."""
    subject = subject_of(base.source, kernel)
    if subject is None:
        return
    for found in edit.propose(subject, context):
        head = base.description if base.description else f"{kernel}: "
        description = f"{head}; {found.description}" if base.description else f"{head}{found.description}"
        yield Proposal(
            conform(found.source, context.rules), description, base.gain * found.gain, (*base.edits, edit.name)
        )


def _unique(proposals: Iterable[Proposal], code: str) -> list[Proposal]:
    """The best-rated of each source; none that is the given code."""
    best: dict[str, Proposal] = {}
    for proposal in proposals:
        held = best.get(proposal.source)
        if proposal.source != code and (held is None or held.gain < proposal.gain):
            best[proposal.source] = proposal
    return list(best.values())


def _ordered(proposals: Sequence[Proposal], rules: StageRules) -> list[Proposal]:
    """By expected gain, varied; the conservative baseline, which the rules want tried, is among the first three."""
    ordered = sorted(proposals, key=lambda proposal: -proposal.gain)
    seen: Counter[tuple[str, ...]] = Counter()
    discounted: list[tuple[float, Proposal]] = []
    for proposal in ordered:
        # Of many that differ in numbers alone, the later ones wait for the first of another kind.
        discounted.append((proposal.gain * _PATIENCE ** seen[proposal.edits], proposal))
        seen[proposal.edits] += 1
    ordered = [proposal for _, proposal in sorted(discounted, key=lambda pair: -pair[0])]
    baseline = rules.conservative_baseline
    if baseline is None:
        return ordered
    words = f"{baseline[0]} warps and {baseline[1]} stages"
    held = next((p for p in ordered if p.edits[-1:] == ("warps_and_stages",) and words in p.description), None)
    if held is not None and ordered.index(held) > 2:
        ordered.remove(held)
        ordered.insert(2, held)
    return ordered
