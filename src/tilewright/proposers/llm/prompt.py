"""What is sent: the document of a stage with what is known of it, and the words that send a reply back."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tilewright.proposers.llm.turn import Turn
from tilewright.task.compose import compose_document
from tilewright.task.document import read_document
from tilewright.task.task import OutputRules
from tilewright.values.measurement import Timing
from tilewright.values.study import Outcome, Trial
from tilewright.values.verdict import Finding, KernelResources

#: Raised when the wording changes: replies to other words are not taken for replies to these.
EDITION = 1

#: Functions of other frameworks and of other languages that code for Triton is often written with, to be looked up.
_EXPECTED = (
    "tanh",
    "sigmoid",
    "gelu",
    "silu",
    "softmax",
    "mish",
    "relu",
    "leaky_relu",
    "elu",
    "softplus",
    "erf",
    "pow",
    "log1p",
    "expm1",
    "isnan",
    "isinf",
    "round",
    "sign",
    "mean",
    "var",
    "prod",
    "any",
    "all",
    "concatenate",
    "matmul",
    "roll",
    "pad",
    "atan2",
    "shared",
    "syncthreads",
)

#: Trials that are told of, the latest.
_TRIALS_TOLD = 16
_LINE = 240

#: Findings that go back with a rejected candidate.
_FINDINGS_TOLD = 5

#: Of a reply that is sent back with the question, from the end.
_ECHO_CHARACTERS = 60_000


@functools.cache
def missing_functions() -> tuple[str, ...]:
    """Names of `_EXPECTED` that the installed `triton.language` does not have, dotted."""
    language = importlib.import_module("triton.language")
    return tuple(f"tl.{name}" for name in _EXPECTED if not hasattr(language, name))


def document_for(turn: Turn) -> str:
    """The document of a turn: sections in the order that documents have, with the evidence beside the metrics.

    Raises:
        MissingReferenceError: there is no code to start from.
        SourceError: the code does not parse or lacks `ModelNew`.
    """
    task = replace(turn.task, output_rules=_rules_as_installed(turn.task.output_rules))
    code = turn.current.candidate.source if turn.current is not None else None
    metrics, origin = _metrics(turn)
    text = compose_document(task, turn.rules.stage, code=code, metrics=metrics)
    document = read_document(text)
    written = [*_evidence(turn, origin if metrics else ""), *_tried(turn.trials)]
    after = "metrics" if metrics else "code"
    parts = []
    for section in document.sections:
        note = _forbidden_note(turn.task.output_rules) if section.kind == "api_constraints" else ""
        parts.append(f"{section.text.rstrip()}\n{note}\n" if note else section.text)
        if section.kind == after:
            parts.append("".join(f"{part}\n" for part in written))
    return "".join(parts)


def _rules_as_installed(rules: OutputRules) -> OutputRules:
    """The rules with what the installed Triton lacks, looked up, in the place of what a document remembers."""
    return replace(rules, forbidden_functions=missing_functions())


def _forbidden_note(rules: OutputRules) -> str:
    """What the task forbids although the installed Triton has it: the gate rejects that too."""
    names = [name for name in rules.forbidden_functions if name not in missing_functions()]
    return f"- This task forbids {', '.join(names)}, although Triton has them\n" if names else ""


def _metrics(turn: Turn) -> tuple[Mapping[str, Mapping[str, float]], str]:
    """Metrics of the current code and where they are from: the turn's, the document's own, the compiler's."""
    if turn.metrics:
        return turn.metrics, turn.metrics_from
    task, current = turn.task, turn.current
    own = current is None or current.candidate.source == task.given_code
    if own and task.metrics:
        return task.metrics, "measured by Nsight Compute, as the task came with them"
    if current is None:
        return {}, ""
    if current.verdict is not None and current.verdict.resources:
        found = {row.kernel: _compiled(row) for row in current.verdict.resources}
        return found, f"from the compiler, for sm_{task.gpu.capability}"
    if current.timing is None:
        return {}, ""
    return {"forward pass": {"time_ms": current.timing.time_ms}}, current.timing.label


def _compiled(row: KernelResources) -> Mapping[str, float]:
    return {
        "launch__registers_per_thread": row.registers,
        "launch__shared_mem_per_block": row.shared_bytes,
        "launch__block_size": 32 * row.warps,
        "local_memory_spill_bytes_per_thread": row.spill_bytes,
    }


def _evidence(turn: Turn, metrics_from: str) -> Iterator[str]:
    lines = [f"- The metrics above: {metrics_from}"] if metrics_from else []
    if turn.current is not None and turn.current.timing is not None:
        lines.append(f"- Current code: {_time(turn.current.timing)}{_fraction(turn)}")
    if turn.reference is not None:
        lines.append(f"- PyTorch reference: {_time(turn.reference)}")
    if turn.floor_ms is not None:
        lines.append(f"- Speed of light of the task on this GPU: {turn.floor_ms:.4g} ms (computed)")
    if lines:
        yield "[EVIDENCE]\n" + "\n".join(lines) + "\n"
    if turn.diagnosis.strip():
        yield f"[DIAGNOSIS]\n{turn.diagnosis.strip()}\n"


def _time(timing: Timing) -> str:
    where = f"on a {timing.gpu}" if timing.label == "measured" else f"for the {timing.gpu}, no GPU was asked"
    return f"{timing.time_ms:.4g} ms, {timing.label} {where}"


def _fraction(turn: Turn) -> str:
    timing = turn.current.timing if turn.current is not None else None
    if turn.floor_ms is None or timing is None or timing.time_ms <= 0:
        return ""
    return f", {100 * turn.floor_ms / timing.time_ms:.0f} % of the speed of light"


def _tried(trials: Sequence[Trial]) -> Iterator[str]:
    if not trials:
        return
    told = trials[-_TRIALS_TOLD:]
    more = f" (the latest {len(told)} of {len(trials)})" if len(told) < len(trials) else ""
    lines = [_line(f"- {trial.candidate.description}: {trial.outcome}; {trial.reason}") for trial in told]
    yield f"[TRIED SO FAR]{more}\n" + "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """One line of data: what a candidate said of itself must not look like a heading or a block."""
    flat = " ".join(text.replace("```", "'''").split())
    return flat if len(flat) <= _LINE else flat[: _LINE - 3] + "..."


def echo(reply: str) -> str:
    """A reply as it stands in the conversation when it is sent back: its end, where it is very long."""
    return reply if len(reply) <= _ECHO_CHARACTERS else "[...]\n" + reply[-_ECHO_CHARACTERS:]


def unreadable_reply(detail: str) -> str:
    """The question that follows a reply without exactly one block that can be read."""
    return f"That reply could not be read: {detail}.\n\n{_AGAIN}"


def truncated_reply(limit: int) -> str:
    """The question that follows a reply that ended at its token limit."""
    return (
        f"That reply reached its limit of {limit} tokens before the code ended. Leave out everything but the code.\n\n"
        f"{_AGAIN}"
    )


def rejected_candidate(trial: Trial) -> str:
    """The question that follows a candidate that compiler or gate rejected: the findings, first those that reject."""
    reasons = trial.verdict.reasons if trial.verdict is not None else ()
    lines = [_finding(one) for one in reasons[:_FINDINGS_TOLD]] or [_line(f"- {trial.reason}")]
    if len(reasons) > _FINDINGS_TOLD:
        lines.append(f"- and {len(reasons) - _FINDINGS_TOLD} more")
    return "That code was rejected:\n" + "\n".join(lines) + f"\n\n{_AGAIN}"


def _finding(finding: Finding) -> str:
    where = f" ({finding.where})" if finding.where else ""
    return _line(f"- {finding.check}{where}: {finding.message}")


_AGAIN = "Answer again under the same rules: the whole corrected file in exactly one block between ```python and ```."


def is_rejection(trial: Trial) -> bool:
    """A trial that is answered with its findings."""
    return trial.outcome is Outcome.REJECTED
