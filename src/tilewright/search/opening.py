"""Opening a study store for a run, whatever state it is in: what was finished is found, and the run goes on.

whole, writable        used as it is
damaged                set aside, and made again from what is readable in it and from its journal
read-only, unwritable  read as it is; new trials go to a file in the user's cache, or at the last in memory
no study at all        an error where it was named by the user; else the run goes on and remembers nothing
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

from tilewright.errors import ExitCode, TilewrightError
from tilewright.search.journal import Journal, journal_path
from tilewright.search.records import (
    KINDS,
    Evaluation,
    Record,
    RunRecord,
    TrialRecord,
    decode_evaluation,
    record_as_json,
)
from tilewright.search.store import StoreError, StudyStore, read_only, readable_rows

#: The store's name in the folder of results.
STORE_NAME = "study.sqlite"

_MAGIC = b"SQLite format 3\0"
_UNWRITABLE = ("readonly", "read-only", "unable to open", "permission denied", "disk is full", "no space")


def default_store_path() -> Path:
    """The study file in the user's cache folder."""
    return user_cache_dir() / STORE_NAME


def user_cache_dir() -> Path:
    """The user's cache folder for Tilewright: `$XDG_CACHE_HOME/tilewright` or `~/.cache/tilewright`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "tilewright"


@dataclass
class Memory:
    """What a run remembers in and recalls from.

    Attributes:
        store: where finished trials go; None where there is no place for them.
        beside: a study that can be read and not written.
        notes: what a reader of the run must know of it.
    """

    store: StudyStore | None
    beside: ReadOnlyStudy | None = None
    notes: list[str] = field(default_factory=list)

    def find(self, key: str) -> Evaluation | None:
        """A finished trial's evaluation, wherever it lies.

        Raises:
            StoreError: the store cannot be read.
        """
        found = self.store.find(key) if self.store is not None else None
        return found or (self.beside.find(key) if self.beside is not None else None)

    def runs(self, of_task: str) -> tuple[RunRecord, ...]:
        """The finished runs for a task, the last one first.

        Raises:
            StoreError: the store cannot be read.
        """
        own = self.store.runs(of_task) if self.store is not None else ()
        return (*own, *(self.beside.runs(of_task) if self.beside is not None else ()))

    def settle(self) -> None:
        """Write what is waiting; what cannot be written goes to a file of its own, and the notes say where."""
        if self.store is None:
            return
        try:
            self.store.flush()
        except StoreError as error:
            self.notes.append(_laid_down(self.store, error))


class ReadOnlyStudy:
    """A study that is only read: its file as far as it was written out, and its journal, which has the rest."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            sqlite3.Error: neither can be read.
        """
        self._connection = read_only(path)
        self._journal = {record.key: record for record in Journal(journal_path(path)).read()[0]}
        if not self._journal:
            self._connection.execute("SELECT COUNT(*) FROM trial")

    def find(self, key: str) -> Evaluation | None:
        """As `StudyStore.find`."""
        record = self._journal.get(key)
        if isinstance(record, TrialRecord):
            return decode_evaluation(record.evaluation)
        with contextlib.suppress(sqlite3.Error):
            row = self._connection.execute("SELECT evaluation FROM trial WHERE key = ?", (key,)).fetchone()
            return decode_evaluation(row[0]) if row else None
        return None

    def runs(self, of_task: str) -> tuple[RunRecord, ...]:
        """As `StudyStore.runs`, of those that the journal has."""
        found = [one for one in self._journal.values() if isinstance(one, RunRecord) and one.task_key == of_task]
        return tuple(sorted(found, key=lambda one: -one.finished_at))


def _laid_down(store: StudyStore, error: StoreError) -> str:
    """Put what the store could not take into a file of the user's cache or the system's temporary folder."""
    lines = "".join(f"{_line(record)}\n" for record in store.pending)
    count = len(store.pending)
    for folder in (user_cache_dir(), Path(tempfile.gettempdir())):
        path = folder / f"tilewright-rescued-{os.getpid()}-{time.time_ns()}.jsonl"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(lines)
            store.give_up_pending()
            return (
                f"{count} finished trials could not be written to {store.path} ({error.what}); they lie in {path}, and "
                f"`tilewright study import` brings them back"
            )
    return f"{count} finished trials could not be written anywhere: {error.what}"


def _line(record: Record) -> str:
    return json.dumps(record_as_json(record))


@contextlib.contextmanager
def open_memory(study: Path | None, out: Path | None) -> Iterator[Memory]:
    """What a run remembers in: the study that was named, one in the folder of results, or the user's.

    Where the run ends with bad input, nothing that was made for the store stays.

    Raises:
        StoreError: the file that was named is no study.
    """
    path = study or (out / STORE_NAME if out is not None else default_store_path())
    made = [folder for folder in path.parents if not folder.exists()]
    is_new = not path.exists()
    memory = _open(path, is_named=study is not None)
    try:
        yield memory
    except TilewrightError as error:
        _close(memory)
        if is_new and error.exit_code is ExitCode.BAD_INPUT:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                journal_path(path).unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()
        raise
    finally:
        _close(memory)


def _close(memory: Memory) -> None:
    if memory.store is not None:
        if memory.store.pending:
            memory.settle()
        memory.store.close()


def _open(path: Path, *, is_named: bool) -> Memory:
    try:
        mended = mend(path)
        return Memory(StudyStore(path), notes=[mended] if mended else [])
    except OSError as error:
        return _elsewhere(path, StoreError(f"the study store cannot be mended: {error}"))
    except StoreError as error:
        if _is_unwritable(error):
            return _elsewhere(path, error)
        if is_named:
            raise
        return Memory(None, notes=[f"nothing is remembered of this run: {error.what}"])


def _is_unwritable(error: StoreError) -> bool:
    return any(word in error.what.lower() for word in _UNWRITABLE)


def _elsewhere(path: Path, error: StoreError) -> Memory:
    """A study that cannot be written is read all the same; what is new goes to the user's cache."""
    beside = None
    with contextlib.suppress(sqlite3.Error):
        beside = ReadOnlyStudy(path) if path.exists() else None
    found = " (its trials are used)" if beside is not None else ""
    for other in (default_store_path(), Path(tempfile.gettempdir()) / f"tilewright-{os.getuid()}" / STORE_NAME):
        if other.resolve() == path.resolve():
            continue
        with contextlib.suppress(StoreError):
            store = StudyStore(other)
            return Memory(store, beside, [f"{path}: {error.what}{found}; this run is remembered in {other}"])
    return Memory(None, beside, [f"nothing is remembered of this run: {error.what}{found}"])


def mend(path: Path) -> str:
    """Make a damaged study whole again from what can be read of it and from its journal; what was done, or nothing.

    The damaged file is kept under another name. A file that is no study, and has no journal, is left as it is.

    Raises:
        StoreError: the new file cannot be written.
        OSError: neither can the folder.
    """
    if not _is_damaged(path):
        return ""
    with _alone(path):
        if not _is_damaged(path):
            return ""  # somebody else has mended it
        is_study = path.read_bytes()[: len(_MAGIC)] == _MAGIC
        if not is_study and not Journal(journal_path(path)).read()[0]:
            return ""
        readable = [record for table in KINDS if is_study for record in readable_rows(path, table)]
        aside = _set_aside(path)
        store = StudyStore(path)  # it takes in its journal
        with contextlib.closing(store):
            for record in readable:
                store.put_record(record)
            count = store.count()
    return f"the study store was damaged: it was made anew with {count} trials; the damaged file is now {aside.name}"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; without locks on this system, nobody waits."""
    lock = path.with_name(f"{path.name}.lock")
    with lock.open("w") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _is_damaged(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
    except sqlite3.OperationalError:
        return False  # locked, or not to be opened: not for us to say
    except sqlite3.DatabaseError:
        return True


def _set_aside(path: Path) -> Path:
    for number in range(1, 10_000):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            break
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(OSError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside
