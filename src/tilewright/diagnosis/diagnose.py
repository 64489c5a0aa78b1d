"""All rules on one forward pass: what they say, in the order of its weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tilewright.diagnosis.facts import Facts, Figure
from tilewright.diagnosis.kernel_rules import FORWARD
from tilewright.diagnosis.rule import Rule
from tilewright.diagnosis.table import RULES
from tilewright.values.diagnosis import Diagnosis, DiagnosisReport, ForwardPart

#: Causes that the summary names.
_FIRST = 3
#: Part of the forward pass under which nothing but wrong results is said of a kernel.
_SMALL_KERNEL = 0.03
#: Cost, as a part of the forward pass, under which a cause is not named in the summary beside heavier ones.
_MINOR = 0.02


def diagnose(facts: Facts, rules: Sequence[Rule] = RULES) -> DiagnosisReport:
    """What holds a forward pass back, the most important first.

    Wrong results come first, then what costs most; what nobody can put a cost on comes last, in the order of the
    table.
    """
    small = _small_kernels(facts)
    said = [(rule, one) for rule in rules for one in rule.look(facts, rule.threshold)]
    found = _without_explained([(rule, one) for rule, one in said if one.wrong or one.subject not in small])
    total = facts.total_ms
    weighed = [_with_share(one, total) for one in found]
    ordered = sorted(weighed, key=lambda one: (not one.wrong, -(one.cost_ms if one.cost_ms is not None else -1.0)))
    return DiagnosisReport(
        task=facts.task,
        gpu=facts.gpu.name,
        summary=summary(ordered),
        diagnoses=tuple(ordered),
        parts=_parts(facts),
        total_ms=total.value if total is not None else None,
        total_label=total.label if total is not None else "",
        notes=facts.notes,
    )


def _small_kernels(facts: Facts) -> set[str]:
    """Kernels that take too little of the forward pass to hold it back."""
    total = facts.total_ms
    return {
        kernel.name
        for kernel in facts.kernels
        if total is not None and kernel.time_ms is not None and kernel.time_ms.value < _SMALL_KERNEL * total.value
    }


def _without_explained(found: Sequence[tuple[Rule, Diagnosis]]) -> list[Diagnosis]:
    said = {(one.rule, one.subject) for _, one in found}
    return [
        one
        for rule, one in found
        if not any((other, subject) in said for other in rule.explained_by for subject in (one.subject, FORWARD))
    ]


def _with_share(one: Diagnosis, total: Figure | None) -> Diagnosis:
    if one.cost_ms is None or total is None or total.value <= 0:
        return one
    return replace(one, share=min(1.0, one.cost_ms / total.value))


def summary(ordered: Sequence[Diagnosis]) -> str:
    """The first causes in one sentence."""
    if not ordered:
        return "Nothing was found that holds it back."
    heavy = [one for one in ordered if one.wrong or one.share is None or one.share >= _MINOR]
    named = (heavy or list(ordered))[:_FIRST]
    named += [one for one in ordered if one not in named][: max(0, min(_FIRST, len(ordered)) - len(named))]
    return "; ".join(one.title for one in named) + "."


def in_short(report: DiagnosisReport, most: int = 4) -> str:
    """A few lines for a prompt: cause, cost, remedy."""
    lines = [f"- {one.message}{_cost(one)} {one.remedy}" for one in report.diagnoses[:most]]
    return "\n".join(lines)


def _cost(one: Diagnosis) -> str:
    return "" if one.cost_ms is None else f" Costs up to {one.cost_ms:.3g} ms ({one.cost_label})."


def _parts(facts: Facts) -> tuple[ForwardPart, ...]:
    """The steps in order; calls of one operation in a row are one part."""
    steps: list[tuple[int, ForwardPart]] = []
    for kernel in facts.kernels:
        limit = next((profile.limit for profile in kernel.profiles if profile.limit), "")
        steps.append((kernel.position, _part(kernel.name, False, kernel.launches, kernel.time_ms, limit)))
    for call in facts.native:
        steps.append((call.position, _part(call.name, True, 1, call.time_ms, call.limit)))
    if facts.gap_ms is not None and facts.gap_ms.value > 0:
        steps.append((1 << 30, _part("gaps between kernels", True, 1, facts.gap_ms, "launch")))
    return tuple(_merged(part for _, part in sorted(steps, key=lambda item: item[0])))


def _part(name: str, native: bool, calls: int, time: Figure | None, limit: str) -> ForwardPart:
    return ForwardPart(name, native, calls, time.value if time else None, time.label if time else "", limit)


def _merged(parts: Iterable[ForwardPart]) -> list[ForwardPart]:
    result: list[ForwardPart] = []
    for part in parts:
        last = result[-1] if result else None
        if last is not None and (last.name, last.native, last.label) == (part.name, part.native, part.label):
            both = None if last.time_ms is None or part.time_ms is None else last.time_ms + part.time_ms
            result[-1] = replace(last, calls=last.calls + part.calls, time_ms=both)
        else:
            result.append(part)
    return result
