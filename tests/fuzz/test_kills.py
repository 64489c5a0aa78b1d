"""A fixed sample of kills; `python -m benchmarks.soak kills` takes 50 at random points."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.kills import commands, half_written, kill_after


@pytest.mark.parametrize(("name", "seconds"), [("verify", 1.0), ("optimize", 4.0)])
def test_a_kill_leaves_no_process_and_no_half_result(name: str, seconds: float, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = kill_after(commands(out)[name], seconds, out, of_first_child=True)
    assert not found.orphans
    assert not found.halves
    assert found.ended_itself or found.children > 0, "the kill came before anything was started"


def test_half_results_are_seen(tmp_path: Path) -> None:
    whole = {"model_new.py": "class ModelNew:\n    pass\n", "report.json": "{}", "report.html": "<html></html>\n"}
    for name, text in whole.items():
        (tmp_path / name).write_text(text)
    assert half_written(tmp_path) == []
    for name, text in whole.items():
        (tmp_path / name).write_text(text[:-9])
    (tmp_path / "report.json").write_text('{"a":')
    (tmp_path / "study.sqlite").write_text("not a study")
    assert len(half_written(tmp_path)) == 4
