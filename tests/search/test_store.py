from __future__ import annotations

import json
import math
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.search.fakes import GPU, Bench, accepted, candidate, rejected, task
from tilewright.gpu.table import find_gpu
from tilewright.search.keys import trial_key
from tilewright.search.opening import default_store_path
from tilewright.search.records import Evaluation, canonical, decode_study
from tilewright.search.run import optimize_task
from tilewright.search.store import StoreError, StudyStore
from tilewright.search.versions import versions
from tilewright.task.task import InputSpec, Task
from tilewright.values.measurement import Measured, Modelled
from tilewright.values.precision import PrecisionClass
from tilewright.values.verdict import Verdict

VERSIONS = {"torch": "2.13.0", "triton": "3.7.1"}


def key(asked: Task, source: str = "a", **changed: object) -> str:
    options: dict[str, object] = {"timing": "modelled", "gate_effort": "quick", "versions": VERSIONS, **changed}
    return trial_key(asked, candidate(source), **options)  # type: ignore[arg-type]


def put(store: StudyStore, name: str, evaluation: Evaluation) -> None:
    store.put(name, task(), candidate("a"), evaluation, VERSIONS)


@pytest.mark.parametrize(
    "evaluation",
    [
        Evaluation(),
        Evaluation(Modelled(0.5, "RTX 4090", "dram", {"kernel": 0.25})),
        Evaluation(Modelled(0.5, "RTX 4090", "dram"), accepted()),
        Evaluation(None, rejected()),
        Evaluation(None, accepted(), Measured(0.5, 0.4, 0.6, 50, "NVIDIA H200", "CUDA events, cold L2", 0.71, True)),
    ],
)
def test_what_is_put_is_found(tmp_path: Path, evaluation: Evaluation) -> None:
    store = StudyStore(tmp_path / "deep" / "study.sqlite")
    put(store, "k", evaluation)
    store.close()
    assert StudyStore(store.path).find("k") == evaluation


def test_a_record_of_a_version_with_one_time_reads(tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "study.sqlite")
    put(store, "k", Evaluation())
    measured = {
        "median_ms": 0.5,
        "low_ms": 0.4,
        "high_ms": 0.6,
        "samples": 50,
        "gpu": "NVIDIA H200",
        "method": "events",
    }
    modelled = {"time_ms": 0.75, "gpu": "H200", "limit": "dram", "parts": {}}
    text = json.dumps({"prediction": modelled, "verdict": None, "measured": measured})
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE trial SET evaluation = ?", (text,))
    found = store.find("k")
    assert found is not None
    assert found.measured is not None
    assert found.prediction is not None
    assert (found.measured.time_ms, found.measured.call_ms) == (0.5, None)
    assert (found.prediction.gpu_ms, found.prediction.call_ms) == (0.75, None)


def test_a_study_of_a_version_without_peers_reads(tmp_path: Path) -> None:
    bench = Bench({"a": 5.0}, synthesized=[candidate("a")])
    study = optimize_task(task(), tools=bench.tools(), study=tmp_path / "study.sqlite")
    old = json.loads(canonical(study))
    for name in ("peers", "peer_failures", "runner_up", "graphs", "budget_s"):
        del old[name]
    found = decode_study(json.dumps(old))
    assert found is not None
    assert found.best == study.best
    assert (found.peers, found.best_peer, found.peer_wins, found.graphs) == ({}, None, False, False)


def test_non_finite_errors_survive(tmp_path: Path) -> None:
    row = replace(rejected().errors[0], candidate_error=math.nan, candidate_worst=math.inf)
    store = StudyStore(tmp_path / "study.sqlite")
    put(store, "k", Evaluation(None, Verdict(rejected().findings, (row,))))
    found = store.find("k")
    assert found is not None
    assert found.verdict is not None
    assert math.isnan(found.verdict.errors[0].candidate_error)
    assert found.verdict.errors[0].candidate_worst == math.inf


def test_what_was_not_put_is_not_found(tmp_path: Path) -> None:
    assert StudyStore(tmp_path / "study.sqlite").find("k") is None


def test_a_row_that_no_longer_reads_is_not_found(tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "study.sqlite")
    put(store, "k", Evaluation(None, accepted()))
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE trial SET evaluation = '{\"verdict\": 3}'")
    assert store.find("k") is None


def test_the_key_changes_with_everything_that_results_depend_on() -> None:
    asked = task()
    assert asked.reference is not None
    other_shapes = replace(asked.reference, inputs=(InputSpec("rand", (5, 8)),))
    keys = [
        key(asked),
        key(asked, "b"),
        key(replace(asked, reference=other_shapes)),
        key(replace(asked, reference=replace(asked.reference, init_args=(4,)))),
        key(replace(asked, gpu=find_gpu("h200"))),
        key(replace(asked, precision=PrecisionClass.IEEE)),
        key(replace(asked, output_rules=replace(asked.output_rules, strict_stores=True))),
        key(asked, timing="measured"),
        key(asked, gate_effort="full"),
        key(asked, versions={**VERSIONS, "triton": "3.6.0"}),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_is_the_same_where_only_names_differ() -> None:
    asked = task()
    assert asked.reference is not None
    moved = replace(asked, name="other", reference=replace(asked.reference, path=Path("/elsewhere.py")))
    assert key(moved) == key(asked)


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"

    def write(writer: int) -> None:
        store = StudyStore(path)
        for index in range(20):
            put(store, f"{writer}-{index}", Evaluation(None, accepted()))
        store.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert StudyStore(path).count() == 80


def test_a_file_that_is_no_study_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match=r"study\.sqlite: the study store cannot be opened"):
        StudyStore(path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        StudyStore(tmp_path / "file" / "study.sqlite")


def test_the_default_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store_path() == tmp_path / "tilewright" / "study.sqlite"


def test_versions_name_what_results_depend_on() -> None:
    assert set(versions()) == {"tilewright", "torch", "triton", "python"}
    assert GPU.key
