"""The study store: one SQLite file, one row for each finished trial, found again by what it depends on.

A trial's key covers everything that its results depend on: the candidate's source, the task (reference,
constructor arguments, inputs with their shapes, precision, rules), the GPU, how times were obtained, the
effort of the gate, and the versions. A trial with the same key is never run twice.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.errors import ExitCode, TilewrightError, path_location
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.measurement import Measured, Modelled
from tilewright.values.serialise import as_json
from tilewright.values.verdict import Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trial (
    key TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    gpu TEXT NOT NULL,
    candidate TEXT NOT NULL,
    source TEXT NOT NULL,
    evaluation TEXT NOT NULL,
    versions TEXT NOT NULL,
    finished_at REAL NOT NULL
) WITHOUT ROWID
"""

#: The store's name in the folder of results.
STORE_NAME = "study.sqlite"

#: Another process may hold the write lock this long before we give up, seconds.
_BUSY_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Evaluation:
    """What is known of a candidate: the part of a trial that is worth keeping between runs.

    Attributes:
        prediction: the model's time, if it was asked and could answer.
        verdict: the gate's, if it was asked.
        measured: the clock's, if there was a GPU.
    """

    prediction: Modelled | None = None
    verdict: Verdict | None = None
    measured: Measured | None = None


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
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


class StudyStore:
    """A study file, open for reading and writing; safe to share between processes (write-ahead log)."""

    def __init__(self, path: Path) -> None:
        """Open `path`, creating it and its folder.

        Raises:
            StoreError: it cannot be opened or is not a study.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = open_connection(path, shared=True)
            self._connection.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise self._error("cannot be opened", error) from error

    def find(self, key: str) -> Evaluation | None:
        """The evaluation stored under `key`; None where there is none, or where it no longer reads as one.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            with self._lock:
                row = self._connection.execute("SELECT evaluation FROM trial WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._error("cannot be read", error) from error
        return None if row is None else _decode(row[0])

    def put(
        self, key: str, task: Task, candidate: Candidate, evaluation: Evaluation, versions: Mapping[str, str]
    ) -> None:
        """Store a finished trial, replacing what was known under `key`.

        Raises:
            StoreError: the file cannot be written.
        """
        row = (
            key,
            task.name,
            task.gpu.key,
            candidate.digest,
            candidate.source,
            json.dumps(as_json(evaluation)),
            json.dumps(as_json(versions)),
            time.time(),
        )
        try:
            with self._lock:
                self._connection.execute("INSERT OR REPLACE INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise self._error("cannot be written", error) from error

    def count(self) -> int:
        """How many finished trials the file holds."""
        return int(self._connection.execute("SELECT COUNT(*) FROM trial").fetchone()[0])

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _error(self, what: str, error: Exception) -> StoreError:
        return StoreError(
            f"the study store {what}: {error}",
            where=path_location(self.path),
            hint="give another file with --study, or delete this one",
        )


@contextlib.contextmanager
def open_store(study: Path | None, out: Path | None) -> Iterator[tuple[StudyStore | None, list[str]]]:
    """The study store, and what to note of it. One that was asked for by name must open; the default may fail.

    Where the run ends with bad input, nothing that was made for the store stays.
    """
    path = study or (out / STORE_NAME if out is not None else default_store_path())
    made = [folder for folder in path.parents if not folder.exists()]
    is_new = not path.exists()
    try:
        store = StudyStore(path)
    except StoreError as error:
        if study is not None:
            raise
        yield None, [f"nothing is remembered of this run: {error.what}"]
        return
    try:
        yield store, []
    except TilewrightError as error:
        store.close()
        if is_new and error.exit_code is ExitCode.BAD_INPUT:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()
        raise
    finally:
        store.close()


@functools.cache
def _adapter() -> TypeAdapter[Evaluation]:
    from pydantic import TypeAdapter

    return TypeAdapter(Evaluation)


def _decode(text: str) -> Evaluation | None:
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(json.loads(text))
    except (ValidationError, ValueError, RecursionError):
        return None


def trial_key(task: Task, candidate: Candidate, *, timing: str, gate_effort: str, versions: Mapping[str, str]) -> str:
    """The key of a trial: SHA-256 over everything that its results depend on, 64 hex digits.

    Args:
        task: the task.
        candidate: what is tried.
        timing: how times are obtained: the GPU's name as the driver gives it, or `modelled`.
        gate_effort: effort of the gate.
        versions: what `tilewright.search.versions.versions` returns.
    """
    depends_on: dict[str, Any] = {
        "source": candidate.source,
        "needs_reference": candidate.needs_reference,
        "reference": _reference_identity(task),
        "specification": task.given_code if task.given_code_is_specification else None,
        "gpu": task.gpu,
        "precision": task.precision,
        "rules": task.rules,
        "output_rules": task.output_rules,
        "timing": timing,
        "gate_effort": gate_effort,
        "versions": versions,
    }
    text = json.dumps(as_json(depends_on), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _reference_identity(task: Task) -> dict[str, Any] | None:
    """The reference without its path: a file that was moved is the same task."""
    reference = task.reference
    if reference is None:
        return None
    return {
        "source": reference.source,
        "class_name": reference.class_name,
        "init_args": reference.init_args,
        "inputs": reference.inputs,
        "pickled": None if reference.pickled is None else hashlib.sha256(reference.pickled).hexdigest(),
    }


def default_store_path() -> Path:
    """The study file in the user's cache folder."""
    return user_cache_dir() / STORE_NAME


def user_cache_dir() -> Path:
    """The user's cache folder for Tilewright: `$XDG_CACHE_HOME/tilewright` or `~/.cache/tilewright`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "tilewright"
