"""A folder of tasks: found, run, resumed, and put into a table."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tilewright.cli.main import app
from tilewright.errors import TilewrightError
from tilewright.suite import run as suite_run
from tilewright.suite.results import Fate, SuiteResult, read_results
from tilewright.suite.run import Settings, run_suite
from tilewright.suite.table import csv_text, mean_speed_up, page
from tilewright.suite.tasks import EmptySuiteError, find_tasks
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.measurement import Modelled
from tilewright.values.study import Outcome, Study, Trial
from tilewright.values.verdict import Verdict

REFERENCE = """
import torch
from torch import nn

class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x)

def get_inputs():
    return [torch.rand(8, 64)]

def get_init_inputs():
    return []
"""

_TRIAL = Trial(
    1,
    "block_tiling",
    Candidate("source", Origin.SYNTHESIZE, "tried"),
    Outcome.KEPT,
    "gained",
    Verdict((), how="interpreter", oracle="float64"),
    Modelled(0.5, "RTX 4090", "dram"),
)
STUDY = Study(
    task="relu",
    gpu="RTX 4090",
    gpu_key="rtx4090",
    precision="ieee",
    stages=("block_tiling",),
    effort="quick",
    oracle="reference",
    versions={},
    command="",
    started="",
    seconds=1.0,
    timing_kind="modelled",
    reference=Modelled(1.0, "RTX 4090", "dram"),
    given=None,
    trials=(_TRIAL,),
    best_number=1,
)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Three Python files, a document with a reference, one without, and what is no task."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("alpha", "beta", "gamma", "paired"):
        (folder / f"{name}.py").write_text(REFERENCE)
    (folder / "paired.txt").write_text("a document")
    (folder / "alone.md").write_text("a document")
    (folder / "helper.py").write_text("def nothing(): ...\n")
    (folder / "broken.py").write_text("class Model(\n")
    (folder / "README.md").write_text("what this is\n")
    return folder


def test_tasks_are_documents_and_references(tasks: Path) -> None:
    found = {task.name: task.reference.name if task.reference else None for task in find_tasks(tasks)}
    assert found == {"alone": None, "alpha": None, "beta": None, "gamma": None, "paired": "paired.py"}


def test_a_folder_without_tasks_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(EmptySuiteError, match="no task"):
        find_tasks(tmp_path)
    assert CliRunner().invoke(app, ["suite", str(tmp_path / "nowhere")]).exception is not None


def test_keys_change_with_files_settings_and_versions(tasks: Path) -> None:
    task = find_tasks(tasks)[-1]
    settings = Settings(gpu="4090").as_dict()
    key = task.key(settings, {"torch": "1"})
    assert task.key(settings, {"torch": "1"}) == key
    assert task.key(Settings(gpu="h200").as_dict(), {"torch": "1"}) != key
    assert task.key(settings, {"torch": "2"}) != key
    (tasks / "paired.py").write_text(REFERENCE + "\n")
    assert task.key(settings, {"torch": "1"}) != key


def test_a_suite_goes_on_after_bad_tasks_and_repeats_none_that_is_finished(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def optimise(path: Path, **settings: object) -> Study:
        asked.append(path.name)
        if path.name == "alone.md":
            raise TilewrightError("no reference")
        if path.name == "beta.py" and asked.count("beta.py") == 1:
            raise ZeroDivisionError("ours")
        return STUDY if path.name != "gamma.py" else replace(STUDY, best_number=None)

    monkeypatch.setattr(suite_run, "optimize_file", optimise)
    out = tmp_path / "out"
    first = {result.task: result for result in run_suite(tasks, out, Settings())}
    fates = {name: result.fate for name, result in first.items()}
    assert fates == {
        "alone": Fate.BAD_INPUT,
        "alpha": Fate.IMPROVED,
        "beta": Fate.FAILED,
        "gamma": Fate.UNCHANGED,
        "paired": Fate.IMPROVED,
    }
    assert first["alpha"].speed_up == 2.0
    assert "ZeroDivisionError" in first["beta"].reason
    again = {result.task: result for result in run_suite(tasks, out, Settings())}
    assert asked.count("beta.py") == 2
    assert len(asked) == 6
    assert again["beta"].fate is Fate.IMPROVED
    assert again["alpha"] == first["alpha"]
    assert set(read_results(out / "suite.json")) == {result.key for result in again.values()}


def test_a_suite_that_was_cut_short_keeps_what_it_had(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def optimise(path: Path, **settings: object) -> Study:
        asked.append(path.name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return STUDY

    monkeypatch.setattr(suite_run, "optimize_file", optimise)
    with pytest.raises(KeyboardInterrupt):
        run_suite(tasks, tmp_path / "out", Settings())
    assert len(read_results(tmp_path / "out" / "suite.json")) == 2
    results = run_suite(tasks, tmp_path / "out", Settings())
    assert len(asked) == 6
    assert len(results) == 5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"results": 3}', '{"results": [{"task": 1}]}', "[" * 9000])
def test_a_damaged_report_is_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    assert read_results(tmp_path / "suite.json") == {}


def test_tables_hold_every_task() -> None:
    results = [
        SuiteResult("a <b>", "k1", Fate.IMPROVED, "gained, much", "RTX 4090", "modelled", 1.0, 0.25, 4.0, 0.5, 3.0),
        SuiteResult("b", "k2", Fate.BAD_INPUT, "no reference"),
        SuiteResult("c", "k3", Fate.IMPROVED, "", "RTX 4090", "modelled", 1.0, 1.0, 1.0, 0.5, 3.0),
    ]
    rows = list(csv.DictReader(io.StringIO(csv_text(results))))
    assert [row["task"] for row in rows] == ["a <b>", "b", "c"]
    assert rows[0]["reason"] == "gained, much"
    html = page(results)
    assert "a &lt;b&gt;" in html
    assert "modelled" in html
    assert "2.00 times" in html
    assert "2 of 3" in html
    assert mean_speed_up(results) == pytest.approx(2.0)


def test_the_command_prints_one_object(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_run, "optimize_file", lambda path, **settings: STUDY)
    done = CliRunner().invoke(app, ["suite", str(tasks), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["schema"] == "tilewright.suite"
    assert len(report["results"]) == 5
    assert (tmp_path / "out" / "suite.html").is_file()
    assert (tmp_path / "out" / "suite.csv").is_file()
