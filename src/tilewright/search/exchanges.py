"""The study's exchanges with a language model: a table of the study file, written as they happen."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import path_location
from tilewright.search.store import StoreError, StudyStore, open_connection
from tilewright.values.exchange import Exchange, Position
from tilewright.values.serialise import JsonValue, as_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from tilewright.proposers.llm.turn import ExchangeLog

_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchange (
    key TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    stage TEXT NOT NULL,
    sample INTEGER NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    model TEXT NOT NULL,
    exchange TEXT NOT NULL,
    finished_at REAL NOT NULL
) WITHOUT ROWID
"""

_AT = (
    "SELECT exchange FROM exchange WHERE task = ? AND stage = ? AND sample = ? AND round = ? AND attempt = ? "
    "ORDER BY finished_at DESC LIMIT 1"
)


class ExchangeTable:
    """The exchanges in a study file; safe to use from several threads.

    What was paid must survive: each exchange is on disk when `put` returns. A file that fails later costs the
    memory of the run, not the run, and `notes` says so.
    """

    def __init__(self, path: Path) -> None:
        """Open the table in the study file `path`, creating it.

        Raises:
            StoreError: it cannot be opened or is not a study.
        """
        self._lock = threading.Lock()
        self._notes: list[str] = []
        try:
            self._connection: sqlite3.Connection | None = open_connection(path, shared=True)
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(f"the study's exchanges cannot be opened: {error}", where=path_location(path)) from None

    def find(self, key: str) -> Exchange | None:
        """The exchange of that key; None where there is none, or where it no longer reads as one."""
        return self._one("SELECT exchange FROM exchange WHERE key = ?", (key,))

    def at(self, position: Position) -> Exchange | None:
        """The latest exchange at that place of a conversation."""
        place = (position.task, position.stage, position.sample, position.round, position.attempt)
        return self._one(_AT, place)

    def put(self, exchange: Exchange) -> None:
        """Keep an exchange, replacing what was known under its key."""
        place = exchange.position
        row = (
            exchange.key,
            place.task,
            place.stage,
            place.sample,
            place.round,
            place.attempt,
            exchange.model,
            json.dumps(as_json(exchange)),
            time.time(),
        )
        with self._lock:
            if self._connection is None:
                return
            try:
                self._connection.execute("INSERT OR REPLACE INTO exchange VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.Error as error:
                self._give_up(error)

    def everything(self) -> tuple[Exchange, ...]:
        """All exchanges that still read as such, in the order of their ends."""
        with self._lock:
            if self._connection is None:
                return ()
            try:
                rows = self._connection.execute("SELECT exchange FROM exchange ORDER BY finished_at, key").fetchall()
            except sqlite3.Error as error:
                self._give_up(error)
                return ()
        return tuple(found for row in rows if (found := _decode(row[0])) is not None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the table."""
        return tuple(self._notes)

    def close(self) -> None:
        """Close the file; nothing is found or kept afterwards."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _one(self, query: str, values: tuple[str | int, ...]) -> Exchange | None:
        with self._lock:
            if self._connection is None:
                return None
            try:
                row = self._connection.execute(query, values).fetchone()
            except sqlite3.Error as error:
                self._give_up(error)
                return None
        return None if row is None else _decode(row[0])

    def _give_up(self, error: sqlite3.Error) -> None:
        self._connection = None
        self._notes.append(f"exchanges were not kept any more, the study cannot be used: {error}")


class Replay:
    """A log that is read from one study and written to another."""

    def __init__(self, recorded: ExchangeTable, kept: ExchangeTable | None) -> None:
        self._recorded = recorded
        self._kept = kept

    def find(self, key: str) -> Exchange | None:
        """As `ExchangeTable.find`, in the study that is replayed."""
        return self._recorded.find(key)

    def at(self, position: Position) -> Exchange | None:
        """As `ExchangeTable.at`, in the study that is replayed."""
        return self._recorded.at(position)

    def put(self, exchange: Exchange) -> None:
        """Keep an exchange in this run's own study."""
        if self._kept is not None:
            self._kept.put(exchange)

    @property
    def notes(self) -> tuple[str, ...]:
        """Of both."""
        return (*self._recorded.notes, *(self._kept.notes if self._kept is not None else ()))


@contextlib.contextmanager
def open_log(store: StudyStore | None, replay: Path | None) -> Iterator[ExchangeLog | None]:
    """The log of a run: the table in its study, if it has one, and the study that is replayed, if one is.

    Raises:
        StoreError: one of them cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        kept = None
        if store is not None:
            kept = ExchangeTable(store.path)
            stack.callback(kept.close)
        if replay is None:
            yield kept
            return
        recorded = ExchangeTable(replay)
        stack.callback(recorded.close)
        yield Replay(recorded, kept)


def export_exchanges(path: Path) -> list[JsonValue]:
    """All exchanges of a study file as JSON data, in the order of their ends.

    Raises:
        StoreError: there is no such study.
    """
    if not path.is_file():
        raise StoreError("there is no such study", where=path_location(path))
    table = ExchangeTable(path)
    try:
        return [as_json(exchange) for exchange in table.everything()]
    finally:
        table.close()


@functools.cache
def _adapter() -> TypeAdapter[Exchange]:
    from pydantic import TypeAdapter

    return TypeAdapter(Exchange)


def _decode(text: str) -> Exchange | None:
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(json.loads(text))
    except (ValidationError, ValueError):
        return None
