"""The documents' own code, each with its reference: the first causes, most important first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilewright.search.sight import look_at
from tilewright.search.understand import understand
from tilewright.task.load import load_task
from tilewright.values.candidate import Candidate, Origin

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.documents

#: Document -> its reference, the rules of its first causes in order, and a rule that must not speak.
CAUSES = {
    "000": ("add_min_gelu_mul", ("native-operation", "memory-roofline"), "latency"),
    "001": ("min_sum_gelu_bias", ("unread",), "memory-roofline"),
    "002": ("mish_add_hardtanh_scale", ("native-operation", "memory-roofline"), "latency"),
    "003": ("linear_batchnorm_gelu_relu", ("small-tile",), "unread"),
    "004": ("multiply_global_mean", ("removed-by-algebra",), "memory-roofline"),
}
#: Further causes, wherever they stand.
FURTHER = {
    "001": {"latency", "native-operation"},
    "003": {"redone-on-every-call"},
    "004": {"too-few-programs", "spills"},
}


@pytest.mark.parametrize("number", CAUSES)
def test_the_first_causes_of_a_document(documents_dir: Path, number: str) -> None:
    reference, expected, absent = CAUSES[number]
    path = next(documents_dir.glob(f"{number}*.txt"), None)
    if path is None:
        pytest.skip(f"needs document {number}")
    task = load_task(path, reference=EXAMPLES / f"{reference}.py")
    assert task.given_code is not None
    candidate = Candidate(task.given_code, Origin.DOCUMENT, "the given code")
    sight = look_at(task, candidate, understand(task), look_for_unread=number == "001", thorough=False)
    rules = [one.rule for one in sight.report.diagnoses]
    assert tuple(rules[: len(expected)]) == expected
    assert FURTHER.get(number, set()) <= set(rules)
    assert absent not in rules
    if number == "001":
        assert {"latency", "native-operation"} == set(rules[1:3])
    if expected[0] == "native-operation":
        times = {part.native: part.time_ms for part in sight.report.parts}
        assert times[True] is not None
        assert times[False] is not None
        assert times[True] > times[False]
