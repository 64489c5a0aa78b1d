"""The store under fire: many writers, kills, a full disk, a read-only directory, a damaged file."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.fakes import Bench, accepted, candidate, task
from tests.search.fire import ROOT, under_fire
from tilewright.errors import TilewrightError
from tilewright.search.journal import Journal, journal_path
from tilewright.search.opening import mend, open_memory
from tilewright.search.records import Evaluation
from tilewright.search.run import optimize_task
from tilewright.search.store import StoreError, StudyStore
from tilewright.search.studies import import_study

EVALUATION = Evaluation(None, accepted())


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


def put(store: StudyStore, key: str) -> None:
    store.put(key, task(), candidate(f"# {key}\n" + "x = 1\n" * 200), EVALUATION, {"triton": "3.7"}, of_task="t")


def filled(path: Path, count: int) -> list[str]:
    store = StudyStore(path)
    keys = [f"key-{number:03}" for number in range(count)]
    for key in keys:
        put(store, key)
    store.close()
    return keys


def missing(path: Path, keys: list[str]) -> list[str]:
    with open_memory(path, None) as memory:
        return [key for key in keys if memory.find(key) is None]


def test_writers_that_are_killed_lose_nothing_that_was_finished(tmp_path: Path) -> None:
    left = under_fire(tmp_path, writers=3, kills=5, seed=1, most_s=60)
    assert left.kills == 5
    assert left.finished > 0
    assert left.lost == ()
    assert left.whole == "ok"


# A damaged file.


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


@pytest.mark.parametrize("where", ["header", "middle", "all", "cut"])
@pytest.mark.parametrize("journal", [True, False])
def test_a_damaged_file_is_made_whole(tmp_path: Path, where: str, journal: bool) -> None:
    path = tmp_path / "study.sqlite"
    keys = filled(path, 60)
    if not journal:
        journal_path(path).unlink()
    size = path.stat().st_size
    if where == "cut":
        os.truncate(path, size // 2)
    else:
        start, length = {"header": (0, 100), "middle": (size // 2, 8192), "all": (0, size)}[where]
        overwrite(path, start, b"\xa5" * length)
    with open_memory(path, tmp_path) if journal or where == "middle" else open_memory(None, tmp_path) as memory:
        assert any("damaged" in note or "nothing is remembered" in note for note in memory.notes)
        if journal:
            assert memory.store is not None
            put(memory.store, "new")
    if journal:
        assert missing(path, [*keys, "new"]) == []
        assert (tmp_path / "study.sqlite.damaged-1").is_file()
    elif where == "middle":
        assert len(missing(path, keys)) < len(keys) / 2  # without a journal, what lies outside of the damage


def test_a_damaged_journal_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    keys = filled(path, 20)
    overwrite(journal_path(path), 0, b"\xff" * 5000)
    store = StudyStore(path)
    put(store, "new")
    store.close()
    assert missing(path, [*keys, "new"]) == []


def test_a_torn_line_of_the_journal_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    keys = filled(path, 5)
    with journal_path(path).open("ab") as file:
        file.write(b'{"kind": "trial", "key": "half')
    store = StudyStore(path)
    put(store, "new")
    store.close()
    path.unlink()
    assert missing(path, [*keys, "new"]) == []


def test_a_file_that_is_no_study_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    path.write_text("these are somebody's notes\n" * 50)
    assert mend(path) == ""
    with pytest.raises(StoreError, match="cannot be opened"), open_memory(path, None):
        pass
    assert path.read_text().startswith("these are")


def test_many_open_a_damaged_file_at_once(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "study.sqlite"
    keys = filled(path, 40)
    overwrite(path, path.stat().st_size // 2, b"\xa5" * 8192)
    notes: list[str] = []

    def look() -> None:
        with open_memory(path, None) as memory:
            notes.extend(memory.notes)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(notes) == 1
    assert missing(path, keys) == []


# A full disk.


@pytest.fixture
def little_room(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own with little room, where this system lets us make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_what_a_full_disk_does_not_take_lies_elsewhere(little_room: Path, own_cache: Path) -> None:
    path = little_room / "study.sqlite"
    keys = [f"key-{number:03}" for number in range(120)]
    failed = 0
    with open_memory(path, None) as memory:
        assert memory.store is not None
        for key in keys:
            try:
                put(memory.store, key)
            except StoreError:
                failed += 1
        assert failed > 0
        assert all(memory.find(key) is not None for key in keys)
        memory.settle()
        [note] = memory.notes
    assert "tilewright study import" in note
    [rescued] = own_cache.rglob("*.jsonl")
    copy = own_cache / "copy.sqlite"
    import_study(copy, rescued)
    left = set(missing(path, keys))
    assert left
    assert missing(copy, sorted(left)) == []


def test_a_run_goes_on_where_files_may_not_grow(tmp_path: Path) -> None:
    """The same, where nothing can be mounted: the largest file size stands for the disk."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.search.fakes import Bench, candidate, task\n"
        "from tilewright.search.run import optimize_task\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sources = {f'# {n}\\n' + 'x = 1\\n' * 800: 5.0 + n for n in range(30)}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "bench = Bench(sources, synthesized=[candidate(source) for source in sources])\n"
        "study = optimize_task(task(), effort='full', tools=bench.tools(), study=Path(sys.argv[1]))\n"
        "assert study.best is not None\n"
        "print('\\n'.join(study.notes))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    command = [sys.executable, "-c", script, str(tmp_path / "study.sqlite")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "without its store" in ran.stdout or "could not be written" in ran.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 65536


# A directory that cannot be written.


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study in a folder that cannot be written; for root, too, who may write everywhere."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    filled(folder / "study.sqlite", 10)
    if os.geteuid() == 0:
        made = subprocess.run(
            ["mount", "--bind", "-o", "ro", str(folder), str(folder)], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("root cannot be kept from writing here")
    else:
        folder.chmod(0o500)
    return folder


@pytest.fixture(autouse=True)
def unmounted(tmp_path: Path) -> Iterator[None]:
    yield
    folder = tmp_path / "read-only"
    if folder.exists():
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
        folder.chmod(0o700)


def test_a_read_only_study_is_used_and_the_run_remembered_elsewhere(read_only: Path, own_cache: Path) -> None:
    bench = Bench({"a": 5.0}, synthesized=[candidate("a")])
    study = optimize_task(task(), tools=bench.tools(), study=read_only / "study.sqlite")
    assert study.best is not None
    [note] = [note for note in study.notes if "remembered in" in note]
    assert "its trials are used" in note
    assert str(own_cache) in note
    with open_memory(read_only / "study.sqlite", None) as memory:
        assert memory.find("key-003") == EVALUATION
    again = Bench({"a": 5.0}, synthesized=[candidate("a")])
    found = optimize_task(task(), tools=again.tools(), study=read_only / "study.sqlite")
    assert found.best is not None
    assert not again.calls["predict a"]


def test_a_new_study_in_a_read_only_folder_lies_elsewhere(read_only: Path, own_cache: Path) -> None:
    bench = Bench({"a": 5.0}, synthesized=[candidate("a")])
    study = optimize_task(task(), tools=bench.tools(), study=read_only / "other.sqlite")
    assert study.best is not None
    assert any(str(own_cache) in note for note in study.notes)


def test_the_journal_keeps_one_line_for_each_key_when_it_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    store = StudyStore(path)
    for _ in range(5):
        put(store, "same")
    put(store, "other")
    store.delete("trial", ["other"])
    store.close()
    lines = journal_path(path).read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["same"]
    assert Journal(journal_path(path)).read()[1] == journal_path(path).stat().st_size
    assert missing(path, ["same", "other"]) == ["other"]


def test_garbage_is_no_import(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"schema": "something"}')
    with pytest.raises(TilewrightError, match="no record"):
        import_study(tmp_path / "s.sqlite", file)
