"""The study store: one SQLite file with a journal beside it; each finished trial and run, found by what it depends on.

A trial with the same key is never run twice, and a run that was finished for a task is found again without a search.
Several processes may write at once (write-ahead log). What cannot be written is kept and tried again, and in the end
laid down elsewhere: a store that fails costs nothing that was finished.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from tilewright.errors import TilewrightError, path_location
from tilewright.search.journal import Journal, journal_path
from tilewright.search.keys import task_key, trial_key
from tilewright.search.records import (
    KINDS,
    Evaluation,
    Record,
    RunRecord,
    TrialRecord,
    canonical,
    decode_evaluation,
)
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate

__all__ = ["Evaluation", "StoreError", "StudyStore", "open_connection", "task_key", "trial_key"]

_COLUMNS: Mapping[str, str] = {
    "trial": "key TEXT PRIMARY KEY, task_key TEXT NOT NULL, task TEXT NOT NULL, gpu TEXT NOT NULL, "
    "digest TEXT NOT NULL, source TEXT NOT NULL, description TEXT NOT NULL, schedule TEXT NOT NULL, "
    "evaluation TEXT NOT NULL, versions TEXT NOT NULL, finished_at REAL NOT NULL",
    "run": "key TEXT PRIMARY KEY, task_key TEXT NOT NULL, task TEXT NOT NULL, gpu TEXT NOT NULL, "
    "versions TEXT NOT NULL, finished_at REAL NOT NULL, effort TEXT NOT NULL, timing TEXT NOT NULL, best_ms REAL, "
    "best TEXT NOT NULL, study TEXT NOT NULL",
}

#: Another process may hold the write lock this long before we give up, seconds.
_BUSY_TIMEOUT_S = 30.0
#: Several processes that open a new file at once switch it to the write-ahead log one after another.
_OPEN_TRIES = 60


class StoreError(TilewrightError):
    """The study store cannot be used: unreadable, not a study, read-only, disk full."""


def open_connection(path: Path, *, shared: bool = False) -> sqlite3.Connection:
    """A connection to a study file as every user of one has it: write-ahead log, patient with other writers.

    Args:
        path: the file; it is created where there is none.
        shared: several threads use it, one at a time.

    Raises:
        sqlite3.Error: it is no such file.
    """
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=not shared)
    try:
        _use_log(connection)
    except sqlite3.Error:
        connection.close()
        raise
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _use_log(connection: sqlite3.Connection) -> None:
    for attempt in range(_OPEN_TRIES):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:  # the busy timeout does not cover this switch
            if "locked" not in str(error) or attempt == _OPEN_TRIES - 1:
                raise
            time.sleep(0.05)


class StudyStore:
    """A study file, open for reading and writing; safe to share between processes and threads."""

    def __init__(self, path: Path) -> None:
        """Open `path`, creating it and its folder.

        Raises:
            StoreError: it cannot be opened or is not a study.
        """
        self.path = path
        self._lock = threading.RLock()
        self._pending: dict[tuple[str, str], Record] = {}
        self._journal = Journal(journal_path(path))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = open_connection(path, shared=True)
            for table, columns in _COLUMNS.items():
                self._connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) WITHOUT ROWID")
                self._add_columns(table)
            self._connection.execute("CREATE TABLE IF NOT EXISTS journal (inode INTEGER, size INTEGER)")
            self._catch_up()
        except (sqlite3.Error, OSError) as error:
            raise self.error("cannot be opened", error) from error

    def _add_columns(self, table: str) -> None:
        """Columns that a file of an earlier version lacks; what it has stays readable."""
        present = {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}
        if table == TrialRecord.TABLE and "digest" not in present:
            self._connection.execute("ALTER TABLE trial RENAME COLUMN candidate TO digest")
            present.add("digest")
        for column in _COLUMNS[table].split(", "):
            name = column.split()[0]
            if name not in present:
                default = "0" if "REAL" in column else "''"
                self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} DEFAULT {default}")

    def _catch_up(self) -> None:
        """Take in what the journal has beyond what this file was told: all of it, where the file was made anew."""
        inode, size = self._journal.identity
        row = self._connection.execute("SELECT inode, size FROM journal").fetchone()
        start = row[1] if row is not None and row[0] == inode and row[1] <= size else 0
        if start == size:
            return
        records, end = self._journal.read(start)
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:  # commits, or rolls back
            for record in records:
                self._connection.execute(_upsert(record), astuple(record))
            self._connection.execute("DELETE FROM journal")
            self._connection.execute("INSERT INTO journal VALUES (?, ?)", (inode, end))

    # Trials.

    def find(self, key: str) -> Evaluation | None:
        """The evaluation stored under `key`; None where there is none, or where it no longer reads as one.

        Raises:
            StoreError: the file cannot be read.
        """
        waiting = self._pending.get((TrialRecord.TABLE, key))
        if isinstance(waiting, TrialRecord):
            return decode_evaluation(waiting.evaluation)
        row = self._ask("SELECT evaluation FROM trial WHERE key = ?", (key,))
        return decode_evaluation(row[0][0]) if row else None

    def put(
        self,
        key: str,
        task: Task,
        candidate: Candidate,
        evaluation: Evaluation,
        versions: Mapping[str, str],
        *,
        of_task: str = "",
    ) -> None:
        """Store a finished trial, replacing what was known under `key`.

        Args:
            key: of `trial_key`.
            task, candidate: what was tried.
            evaluation: what came of it.
            versions: what it depends on.
            of_task: of `task_key`.

        Raises:
            StoreError: it cannot be written now; it is kept, and written with a later one or at the end.
        """
        schedule = "; ".join(f"{one.kernel}: {one.describe()}" for one in candidate.schedules)
        self.put_record(
            TrialRecord(
                key,
                of_task,
                task.name,
                task.gpu.key,
                candidate.digest,
                candidate.source,
                candidate.description,
                schedule,
                canonical(evaluation),
                canonical(versions),
                time.time(),
            )
        )

    def put_record(self, record: Record) -> None:
        """Store a record, and whatever could not be written before.

        Raises:
            StoreError: as `put` does.
        """
        with self._lock:
            self._pending[record.TABLE, record.key] = record
            self.flush()

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            StoreError: as `put` does.
        """
        with self._lock:
            for place, record in list(self._pending.items()):
                # In either of the two it is safe: each is made again from the other.
                failures = [failure for failure in (self._insert(record), self._append(record)) if failure is not None]
                if len(failures) == 2:
                    raise self.error("cannot be written", failures[0])
                del self._pending[place]

    def _insert(self, record: Record) -> sqlite3.Error | None:
        try:
            self._connection.execute(_upsert(record), astuple(record))
        except sqlite3.Error as error:
            return error
        return None

    def _append(self, record: Record) -> OSError | None:
        try:
            self._journal.append(record)
        except OSError as error:
            return error
        return None

    @property
    def pending(self) -> Sequence[Record]:
        """What could not be written so far."""
        return tuple(self._pending.values())

    def give_up_pending(self) -> None:
        """Wait no longer for what could not be written: it lies elsewhere."""
        with self._lock:
            self._pending.clear()

    # Runs.

    def runs(self, of_task: str) -> tuple[RunRecord, ...]:
        """The finished runs for a task, the last one first.

        Raises:
            StoreError: the file cannot be read.
        """
        return tuple(
            record
            for record in self.records(RunRecord.TABLE, "WHERE task_key = ? ORDER BY finished_at DESC", (of_task,))
            if isinstance(record, RunRecord)
        )

    def records(self, table: str, clause: str = "", values: tuple[str | float, ...] = ()) -> tuple[Record, ...]:
        """The records of a table (`trial` or `run`).

        Raises:
            StoreError: the file cannot be read.
        """
        kind = KINDS[table]
        names = ", ".join(field.name for field in fields(kind))
        return tuple(kind(*row) for row in self._ask(f"SELECT {names} FROM {table} {clause}", values))

    def delete(self, table: str, keys: Sequence[str]) -> None:
        """Forget records, in the journal too, and give their space back.

        Raises:
            StoreError: the file cannot be written.
        """
        gone = {(table, key) for key in keys}
        try:
            with self._lock:
                self._journal.rewrite(lambda record: (record.TABLE, record.key) not in gone)
                self._connection.executemany(f"DELETE FROM {table} WHERE key = ?", [(key,) for key in keys])
                self._connection.execute("VACUUM")
        except (sqlite3.Error, OSError) as error:
            raise self.error("cannot be written", error) from error

    def count(self) -> int:
        """How many finished trials the file holds."""
        return int(self._ask("SELECT COUNT(*) FROM trial")[0][0])

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _ask(self, query: str, values: tuple[str | float, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self.error("cannot be read", error) from error

    def error(self, what: str, error: Exception) -> StoreError:
        """What went wrong with this file, for people."""
        return StoreError(
            f"the study store {what}: {error}",
            where=path_location(self.path),
            hint="give another file with --study, or delete this one",
        )


def _upsert(record: Record) -> str:
    """A statement that puts a record where there is none of its key, or an older one."""
    names = [field.name for field in fields(record)]
    changed = ", ".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"INSERT INTO {record.TABLE} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
        f"ON CONFLICT (key) DO UPDATE SET {changed} WHERE excluded.finished_at >= {record.TABLE}.finished_at"
    )


def readable_rows(path: Path, table: str) -> Iterator[Record]:
    """What can still be read of a table in a damaged file: from both ends, up to the damage."""
    kind = KINDS[table]
    names = ", ".join(field.name for field in fields(kind))
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.Error, TypeError), contextlib.closing(read_only(path)) as connection:
            for row in connection.execute(f"SELECT {names} FROM {table} ORDER BY key {order}"):
                yield kind(*row)


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing: with what lies in the write-ahead log where that can be read, else without."""
    name = path.resolve().as_uri()
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"{name}?mode=ro", uri=True, check_same_thread=False)
        connection.execute("SELECT COUNT(*) FROM sqlite_master")
        return connection
    return sqlite3.connect(f"{name}?mode=ro&immutable=1", uri=True, check_same_thread=False)
