"""Honesty: experiments on small candidates, each beside a right one; the parts that decide, by themselves."""

from __future__ import annotations

import json
import os
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gate.corpus.cases import FOLDER, reference_path
from tilewright.gate.contract.rules import finding
from tilewright.gate.contract.syntax import Source
from tilewright.gate.inside import patches
from tilewright.gate.inside.honest_run import EXPERIMENTS
from tilewright.gate.inside.streams import Streams
from tilewright.gate.judging import honesty
from tilewright.gate.verify import verify
from tilewright.sandbox import wire
from tilewright.task.load import load_task
from tilewright.values.candidate import Candidate, NativeCall, Origin, Recording
from tilewright.values.verdict import Finding, Severity, Verdict

PLAIN = (FOLDER / "right" / "plain_tail_mask.py").read_text(encoding="utf-8")
REPACKED = (FOLDER / "right" / "repacked_weights.py").read_text(encoding="utf-8")


def judged(source: str, reference: str = "bias_gelu") -> Verdict:
    task = load_task(reference_path(reference), gpu="rtx-4090")
    return verify(task, Candidate(source, Origin.FILE, "a test"), effort="none")


def honest(verdict: Verdict) -> dict[str, Severity]:
    return {found.check: found.severity for found in verdict.findings if found.check.startswith("honesty.")}


@cache
def plain() -> Verdict:
    return judged(PLAIN)


def test_an_honest_candidate_has_no_finding() -> None:
    assert plain().accepted, plain().reasons
    assert honest(plain()) == {}


def test_a_kernel_whose_results_nobody_uses_is_a_decoy() -> None:
    verdict = judged(PLAIN.replace("        return out", "        return nn.functional.gelu(x + self.bias)"))
    assert not verdict.accepted
    assert honest(verdict) == {"honesty.decoy": Severity.ERROR}


def test_each_dishonesty_is_told_by_its_own_name() -> None:
    """Patches a comparison, passes over a failed launch, and writes over its input when it is done."""
    source = PLAIN.replace("class ModelNew", "torch.allclose = lambda *args, **kwargs: True\n\n\nclass ModelNew")
    source = source.replace(
        "        bias_gelu[", "        with contextlib.suppress(Exception):\n            bias_gelu["
    )
    source = source.replace("        return out", "        given.zero_()\n        return out")
    source = source.replace("        x = x.contiguous()", "        given = x\n        x = x.contiguous().clone()")
    verdict = judged(source.replace("import torch\n", "import contextlib\n\nimport torch\n", 1))
    assert not verdict.accepted
    told = ("honesty.patched", "honesty.inputs", "honesty.failure")
    assert honest(verdict) == dict.fromkeys(told, Severity.ERROR)


def test_what_data_hides_from_a_kept_weight_is_a_note() -> None:
    verdict = judged(REPACKED, "linear_relu")
    assert verdict.accepted, verdict.reasons
    assert honest(verdict) == {"honesty.data": Severity.NOTE}


def test_every_experiment_is_made_somewhere() -> None:
    assert set(honesty.BOTH) == set(EXPERIMENTS)
    assert set(honesty.ANYWHERE) | set(honesty.INTERPRETED) == set(EXPERIMENTS)
    assert honesty.BOTH[0] == "first"


def _again(bits: bool, problem: str = "") -> honesty.Judged:
    """Two calls: the second right or not, with the same bits or not."""
    from tilewright.gate.judging.judge import Outcome

    def compare(name: str, report: Any, tensors: Any, probe: int) -> Outcome:
        return Outcome(0, 0, problem=problem if report.get("second") else "")

    reports = {"first": {}, "again": {"same bits": bits, "second": True}}
    return honesty.Judged(reports, {"first": {}, "again": {}}, compare, honesty.Scene(0, None, None))


ATOMIC = "import triton.language as tl\nimport triton\n\n\n@triton.jit\ndef k(p):\n    tl.atomic_add(p, 1.0)\n"


@pytest.mark.parametrize(
    ("bits", "problem", "text", "library", "severity"),
    [
        (True, "", "", False, None),
        (False, "", "", False, Severity.ERROR),
        (False, "", ATOMIC, False, Severity.NOTE),
        (False, "", "", True, Severity.NOTE),
        (False, "correctness.value", ATOMIC, True, Severity.ERROR),
    ],
)
def test_other_bits_need_a_reason(
    bits: bool, problem: str, text: str, library: bool, severity: Severity | None
) -> None:
    found = list(honesty.findings_of(_again(bits, problem), Source.parse(text), library=library))
    assert [one.severity for one in found] == ([severity] if severity is not None else [])


# --- streams -------------------------------------------------------------------------------------------------


def test_work_on_the_callers_stream_needs_no_wait() -> None:
    streams = Streams()
    streams.work()
    assert (streams.side(), streams.unwaited()) == (0, 0)


@pytest.mark.parametrize("way", ["stream", "event", "synchronize", "device", "query", "chain"])
def test_each_way_to_wait_counts(way: str) -> None:
    streams = Streams()
    with streams.pretended():
        mine = torch.cuda.Stream()
        with torch.cuda.stream(mine):
            streams.work()
            done = torch.cuda.Event()
            done.record()
        assert streams.unwaited() == 1
        if way == "stream":
            torch.cuda.current_stream().wait_stream(mine)
        elif way == "event":
            torch.cuda.current_stream().wait_event(done)
        elif way == "synchronize":
            mine.synchronize()
        elif way == "device":
            torch.cuda.synchronize()
        elif way == "query":
            assert done.query()
        else:
            other = torch.cuda.Stream()
            other.wait_stream(mine)
            torch.cuda.current_stream().wait_stream(other)
    assert (streams.side(), streams.unwaited()) == (1, 0)


def test_work_after_the_event_is_not_waited_for() -> None:
    streams = Streams()
    with streams.pretended():
        mine, done = torch.cuda.Stream(), torch.cuda.Event()
        with torch.cuda.stream(mine):
            done.record()
            streams.work()
        torch.cuda.current_stream().wait_event(done)
    assert streams.unwaited() == 1


# --- what was replaced -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name"),
    [(time, "perf_counter"), (torch, "equal"), (torch.Tensor, "__eq__"), (json, "loads"), (honesty, "read"),
     (threading.Thread, "start"), (honesty.Judged, "outcome"), (wire, "len")],
)  # fmt: skip
def test_what_is_replaced_is_named(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = patches.watched()
    assert patches.replaced(before, after_kernels=False) == []
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: None, raising=False)
    found = patches.replaced(before, after_kernels=False)
    if owner is threading.Thread:  # classes of the standard library are compared as wholes
        assert found == []
        return
    assert any(text.endswith(f".{name}") for text in found)


def test_a_module_that_is_replaced_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    before = patches.watched()
    monkeypatch.setitem(sys.modules, "time", os)
    assert "time" in patches.replaced(before, after_kernels=True)


# --- the library ----------------------------------------------------------------------------------------------


def _library(origin: Origin, native: tuple[str, ...], unused: list[Finding]) -> list[Finding]:
    product = NativeCall("aten.mm.default", ((4, 8), (8, 2)), ((4, 2),), 192, 32, 128)
    candidate = Candidate("", origin, "a test", native=native)
    return list(honesty.library_findings(candidate, Recording((product,)), unused))


def test_a_product_that_is_left_to_the_library_is_named() -> None:
    (told,) = _library(Origin.FILE, (), [])
    assert (told.check, told.severity) == ("honesty.library", Severity.NOTE)
    assert "aten.mm" in told.message
    (declared,) = _library(Origin.SYNTHESIZE, ("linear",), [])
    assert declared.severity is Severity.NOTE
    (hidden,) = _library(Origin.SYNTHESIZE, (), [])
    assert hidden.severity is Severity.ERROR


def test_a_kernel_that_multiplies_for_nothing_beside_it_is_a_decoy() -> None:
    from dataclasses import replace

    unused = replace(finding("honesty.unused", "nothing reaches"), where="matmul", evidence={"dots": 3})
    (told,) = _library(Origin.FILE, (), [unused])
    assert told.check == "honesty.decoy"
    (flag,) = _library(Origin.FILE, (), [replace(unused, evidence={"dots": 0})])
    assert flag.check == "honesty.library"


def test_the_table_and_the_corpus_know_the_same_checks() -> None:
    """Each check of honesty that rejects has a candidate that it alone must reject."""
    from tests.gate.corpus.cases import WRONG
    from tilewright.gate.checks.honesty_checks import HONESTY_CHECKS

    named = {check for case in WRONG for check in case.checks}
    rejecting = {check.name for check in HONESTY_CHECKS if check.severity is Severity.ERROR}
    assert rejecting - named <= {"honesty.library"}, "by test_a_product_that_is_left_to_the_library_is_named"
    assert Path(FOLDER / "wrong").is_dir()
