"""Inputs that a forward pass changes: nobody's right, but for those that the reference changes in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from tilewright.gate.compare.errors import Allowed, compare_one, is_exact
from tilewright.gate.contract.rules import finding
from tilewright.gate.judging.judge import Expected
from tilewright.sandbox import wire
from tilewright.values.verdict import Finding, Severity


def changed_inputs(
    report: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], expected: Expected
) -> Iterator[Finding]:
    """What a candidate's first call did to its inputs, beside what the reference does to them.

    Args:
        report: of the call: `inputs changed`, and `inputs after`, the changed ones.
        tensors: that came along.
        expected: the oracle's answer.
    """
    changed = [str(name) for name in report.get("inputs changed", ())]
    mine = {f"input {index}": value for index, value in expected.after.items()}
    uncalled = [name for name in changed if name not in mine]
    if uncalled:
        yield finding("honesty.inputs", f"its forward pass changes what it was given: {', '.join(uncalled)}")
    after = dict(wire.unpack(report.get("inputs after", []), tensors))
    for name, right in mine.items():
        if name not in changed:
            text = f"the reference changes {name} in place, it does not: who reads that afterwards sees other values"
            yield replace(finding("honesty.inputs", text), severity=Severity.LIMIT)
        elif not _same(right, after[name]):
            yield finding("honesty.inputs", f"it changes {name} in place, as the reference does, to other values")


def _same(right: torch.Tensor, got: torch.Tensor) -> bool:
    if right.shape != got.shape or right.dtype != got.dtype:
        return False
    if is_exact(right.dtype):
        return torch.equal(right, got)
    errors = compare_one(right.to(torch.complex128 if right.is_complex() else torch.float64), got, right)
    # The reference's own rounding is in both.
    unit = torch.finfo(right.dtype).eps
    allowed = Allowed.by(replace(errors, norm=4 * unit, worst=16 * unit, bias=unit), right.dtype, right.numel())
    return allowed.pass_(errors)
