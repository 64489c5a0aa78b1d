"""Gradients of a candidate beside the reference's, as findings.

A Triton kernel carries none of its own: then backward() raises, and everybody knows. Silent is an output that says that
it has gradients, while some of them are missing or wrong.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tilewright.gate.contract.rules import finding
from tilewright.gate.contract.syntax import Source
from tilewright.values.verdict import Finding, Severity

#: Norm-wise difference beyond which a gradient is another one: no class of precision makes so much.
_WRONG = 0.05


def findings_of(
    report: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor], source: Source
) -> Iterator[Finding]:
    """What a candidate's gradients are beside the reference's.

    Args:
        report, tensors: of the experiment `gradients`.
        right: the reference's gradients by name; empty where it has none.
        source: of the candidate: whoever writes a backward pass promises that it is right.
    """
    if not right or "carries" not in report:
        return
    carried = {f"{int(number)}" for number in report["carries"]}
    lost = sorted({name.partition(" by ")[0] for name in right} - carried, key=int)
    if lost:
        text = f"output {', '.join(lost)} carries no gradients, where the reference's does"
        yield replace(finding("correctness.gradient", text), severity=Severity.NOTE)
    right = {name: value for name, value in right.items() if name.partition(" by ")[0] in carried}
    got = {str(name): tensors[str(key)] for name, key in dict(report["gradients"]).items()}
    wrong = [name for name, value in right.items() if not _agree(got.get(name), value)]
    if not wrong:
        return
    missing = [name for name in wrong if name not in got or not bool(got[name].any())]
    said = [f"those by {_listed(missing)} vanish"] if missing else []
    said += [f"those by {_listed(others)} are wrong"] if (others := [n for n in wrong if n not in missing]) else []
    promised = bool(report.get("pretends")) or "backward" in _functions(source)
    text = f"what it returns carries gradients, but silently {' and '.join(said)}"
    found = finding("correctness.gradient", text if promised else f"{text}: it is right for inference alone")
    yield found if promised else replace(found, severity=Severity.LIMIT)


def _agree(got: torch.Tensor | None, right: torch.Tensor) -> bool:
    size = float(right.double().norm())
    if size == 0.0:
        return True
    return (
        got is not None and got.shape == right.shape and float((got.double() - right.double()).norm()) <= _WRONG * size
    )


def _functions(source: Source) -> set[str]:
    return {node.name for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef)}


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(name.partition(" by ")[2] for name in names))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
