"""Finished runs found again; what other versions found, retried; studies listed, shown, carried, and pruned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.search.fakes import GPU, Bench, candidate, rejected, task
from tilewright import api
from tilewright.cli.main import app
from tilewright.errors import TilewrightError
from tilewright.gpu.table import find_gpu
from tilewright.search import recall, run, studies
from tilewright.search.keys import task_key
from tilewright.search.run import optimize_task
from tilewright.task.stage import Stage
from tilewright.task.task import InputSpec, Task
from tilewright.values.study import Outcome, Study

runner = CliRunner()


def bench(**times: float) -> Bench:
    return Bench(times, synthesized=[candidate(source) for source in times])


def search(found: Bench, path: Path, asked: Task | None = None, **options: object) -> Study:
    return optimize_task(asked or task(), tools=found.tools(), study=path, **options)  # type: ignore[arg-type]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study.sqlite"


def other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this is another machine, with another Triton."""
    changed = {**run.versions(), "triton": "9.9.9"}
    for module in (run, recall, studies):
        monkeypatch.setattr(module, "versions", lambda: changed)


def test_a_finished_run_is_found_again_without_a_search(study: Path) -> None:
    first = search(bench(a=5.0, b=4.0), study)
    second = bench(a=5.0, b=4.0)
    found = search(second, study)
    assert not second.calls
    assert found.best is not None
    assert first.best is not None
    assert found.best.candidate == first.best.candidate
    assert found.best.timing == first.best.timing
    assert found.speed_up == first.speed_up
    assert all(trial.resumed for trial in found.trials)
    assert any("found again in the study" in note for note in found.notes)


def test_that_nothing_is_better_is_found_again_too(study: Path) -> None:
    assert search(bench(a=50.0), study).best is None
    second = bench(a=50.0)
    assert search(second, study).best is None
    assert not second.calls


def test_a_run_that_could_time_nothing_is_searched_again(study: Path) -> None:
    search(Bench({"a": 5.0}, synthesized=[candidate("broken")], reference_ms=None), study)
    second = bench(a=5.0)
    search(second, study)
    assert second.calls["synthesize"] == 1


@pytest.mark.parametrize("change", ["shapes", "gpu", "stages", "effort", "precision"])
def test_another_question_is_searched(study: Path, change: str) -> None:
    search(bench(a=5.0), study)
    asked, options = task(), {}
    assert asked.reference is not None
    if change == "shapes":
        asked = replace(asked, reference=replace(asked.reference, inputs=(InputSpec("rand", (5, 8)),)))
    elif change == "gpu":
        asked = replace(asked, gpu=find_gpu("h200"))
    elif change == "stages":
        asked = task(stages=[Stage.BLOCK_TILING])
    elif change == "precision":
        from tilewright.values.precision import PrecisionClass

        asked = replace(asked, precision=PrecisionClass.IEEE)
    else:
        options = {"effort": "full"}
    second = bench(a=5.0)
    search(second, study, asked, **options)
    assert second.calls["synthesize"] == 1


def test_less_effort_is_answered_by_more(study: Path) -> None:
    search(bench(a=5.0), study, effort="full")
    second = bench(a=5.0)
    search(second, study)
    assert not second.calls


def test_a_search_can_be_asked_for_again(study: Path) -> None:
    search(bench(a=5.0), study)
    second = bench(a=5.0, c=2.0)
    found = search(second, study, again=True)
    assert found.best is not None
    assert found.best.candidate.source == "c"


def test_what_other_versions_found_is_retried_before_it_is_trusted(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(bench(a=5.0), study)
    other_versions(monkeypatch)
    second = Bench({"a": 4.5, "b": 6.0}, synthesized=[candidate("b")])
    found = search(second, study)
    assert second.calls["gate a"] == second.calls["predict a"] == 1
    assert found.best is not None
    assert found.best.candidate.source == "a"
    assert "under other versions, retried" in found.best.candidate.description
    third = Bench({"a": 4.5}, {"a": rejected()}, synthesized=[])
    refused = search(third, study, again=True, effort="full")
    assert refused.best is None
    assert refused.trials[0].outcome is Outcome.REJECTED


def test_a_result_travels_to_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, file = tmp_path / "here.sqlite", tmp_path / "there.sqlite", tmp_path / "export.json"
    first = search(bench(a=5.0), here)
    api.study("export", here, file=file)
    assert api.study("import", there, file=file)["records"] == 2
    second = bench(a=5.0)
    found = search(second, there)
    assert not second.calls
    assert found.best is not None
    assert first.best is not None
    assert found.best.candidate == first.best.candidate
    # A result alone, without trials, is proposed and judged anew.
    small, best = tmp_path / "small.json", tmp_path / "best.sqlite"
    api.study("export", here, file=small, best_only=True)
    api.study("import", best, file=small)
    other_versions(monkeypatch)
    third = Bench({"a": 4.0}, synthesized=[])
    again = search(third, best)
    assert third.calls["gate a"] == 1
    assert again.best is not None


def test_the_key_of_a_task_leaves_versions_and_names_out() -> None:
    asked = task()
    assert task_key(asked, "modelled") == task_key(replace(asked, name="other"), "modelled")
    assert task_key(asked, "modelled") != task_key(asked, "measured")
    assert GPU.key == asked.gpu.key


# The command.


def ask(*arguments: str) -> tuple[int, str]:
    result = runner.invoke(app, ["study", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_command_lists_shows_exports_and_prunes(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(
        Bench({"a": 5.0, "wrong": 3.0}, {"wrong": rejected()}, synthesized=[candidate("a"), candidate("wrong")]), study
    )
    place = ("--study", str(study))
    code, text = ask("list", *place)
    assert code == 0
    assert "toy" in text
    assert "5 ms modelled" in text
    data = json.loads(ask("list", *place, "--json")[1])
    assert (data["tasks"][0]["trials"], data["tasks"][0]["runs"]) == (2, 1)
    assert data["tasks"][0]["current"]
    assert "wrong by 1.03" in ask("show", "toy", *place)[1]
    shown = json.loads(ask("show", data["tasks"][0]["task_key"], *place, "--json")[1])
    assert shown["best"]["source"] == "a"
    assert {trial["verdict"] for trial in shown["trials"]} == {"accepted", "rejected"}
    file = tmp_path / "export.json"
    assert ask("export", *place, "--out", str(file))[0] == 0
    assert len(json.loads(file.read_text())["records"]) == 3
    assert json.loads(ask("prune", *place, "--json")[1])["forgotten"] == {"trial": 0, "run": 0}
    other_versions(monkeypatch)
    assert json.loads(ask("prune", *place, "--json")[1])["forgotten"] == {"trial": 2, "run": 0}
    assert json.loads(ask("prune", *place, "--task", "toy", "--json")[1])["forgotten"]["run"] == 1
    assert json.loads(ask("list", *place, "--json")[1]) == {"tasks": []}


def test_what_is_not_there_is_said(study: Path, tmp_path: Path) -> None:
    with pytest.raises(TilewrightError, match="no such study"):
        ask("list", "--study", str(study))
    search(bench(a=5.0), study)
    with pytest.raises(TilewrightError, match="nothing for 'other'"):
        ask("show", "other", "--study", str(study))
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(TilewrightError, match="no record"):
        ask("import", str(tmp_path / "x.json"), "--study", str(study))
    with pytest.raises(TilewrightError, match="cannot be written"):
        ask("export", "--study", str(study), "--out", str(tmp_path / "no" / "such" / "folder.json"))
    with pytest.raises(TilewrightError, match="no study action"):
        api.study("burn", study)


def test_an_old_study_file_is_taken_over(study: Path) -> None:
    import sqlite3

    with sqlite3.connect(study) as connection:
        connection.execute(
            "CREATE TABLE trial (key TEXT PRIMARY KEY, task TEXT NOT NULL, gpu TEXT NOT NULL, candidate TEXT NOT NULL, "
            "source TEXT NOT NULL, evaluation TEXT NOT NULL, versions TEXT NOT NULL, finished_at REAL NOT NULL) "
            "WITHOUT ROWID"
        )
        connection.execute("INSERT INTO trial VALUES ('k', 'old', 'rtx-4090', 'd', 's', '{}', '{}', 1.0)")
    search(bench(a=5.0), study)
    assert {one["task"] for one in api.study("list", study)["tasks"]} == {"old", "toy"}
