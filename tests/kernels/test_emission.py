"""Emitted kernels in Triton's interpreter against float64: every op of the table, every kind of reduction."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.emission_cases import SAMPLE
from tests.once import once

HERE = Path(__file__).parent

#: float32 rounding of chains of a few operations, and of log2 and exp2 in powers.
ALLOWED = 1e-5

#: Anchors round operands to 11 bits: half a unit is 2**-11, and errors of a few taps add up.
ALLOWED_WITH_ANCHOR = 3e-3


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All cases of the sample, run once in a process of their own."""
    found: dict[str, dict[str, Any]] = once(tmp_path_factory, "emission", _results)
    return found


def _results() -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(HERE / "interpreted.py"), *SAMPLE],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == set(SAMPLE), done.stderr[-2000:]
    return found


@pytest.mark.parametrize("name", SAMPLE)
def test_emitted_module_is_right(name: str, results: dict[str, dict[str, Any]]) -> None:
    result = results[name]
    assert "problem" not in result, result.get("trace")
    assert result["kernels"] > 0, "nothing was fused"
    allowed = ALLOWED_WITH_ANCHOR if name.startswith("anchor") else ALLOWED
    assert max(result["errors"]) < allowed, result["source"]
