"""Diagnoses: what holds a forward pass back, with the evidence, what it costs, and what would change it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """One figure behind a diagnosis.

    Attributes:
        name: of the metric, as Nsight Compute or the model has it, or in words.
        value: the figure.
        unit: `%`, `ms`, `bytes`, `programs`, ...; empty for a plain number.
        label: `measured`, `modelled`, or `counted` (from the code and the shapes alone).
        threshold: what the rule compares it with; None for a figure that only explains.
        relation: how, as a word for people (`at least`, `under`); empty without a threshold.
        source: where the threshold comes from; empty without one.
    """

    name: str
    value: float
    unit: str
    label: str
    threshold: float | None = None
    relation: str = ""
    source: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """One thing that holds a forward pass back.

    Attributes:
        rule: stable name of the rule that fired.
        title: a few words, for lists.
        subject: the kernel or operation that it is about, or `forward pass`.
        message: what is the matter, in plain words and numbers.
        evidence: the figures, the deciding one first.
        remedy: what would change it.
        cost_ms: milliseconds of one forward pass that it costs at most; None where nobody can tell.
        cost_label: `measured` or `modelled`; empty without a cost.
        share: the cost as a part of the forward pass, 0 to 1; None without one.
        wrong: the code does not compute what it should; its time means little until that is mended.
    """

    rule: str
    title: str
    subject: str
    message: str
    evidence: tuple[Evidence, ...]
    remedy: str
    cost_ms: float | None = None
    cost_label: str = ""
    share: float | None = None
    wrong: bool = False


@dataclass(frozen=True)
class ForwardPart:
    """One step of a forward pass, for the table of where its time goes.

    Attributes:
        name: the kernel or the ATen operation.
        native: left to PyTorch.
        calls: in one forward pass.
        time_ms: of all calls; None where nobody can tell.
        label: `measured` or `modelled`; empty without a time.
        limit: what binds it, as the model says; empty where it does not say.
    """

    name: str
    native: bool
    calls: int
    time_ms: float | None
    label: str
    limit: str = ""


@dataclass(frozen=True)
class DiagnosisReport:
    """All diagnoses of one forward pass, the most important first.

    Attributes:
        task: the task's name.
        gpu: the target's name.
        summary: the first causes in one sentence.
        diagnoses: wrong results first, then by what they cost.
        parts: the forward pass in order.
        total_ms: of the forward pass; None where nobody can tell.
        total_label: `measured` or `modelled`; empty without a total.
        notes: what a reader must know of the evidence.
    """

    task: str
    gpu: str
    summary: str
    diagnoses: tuple[Diagnosis, ...]
    parts: tuple[ForwardPart, ...] = ()
    total_ms: float | None = None
    total_label: str = ""
    notes: tuple[str, ...] = ()
