"""The journal of a study: every finished record once more, as a line of JSON beside the SQLite file.

SQLite is what is read. When its file is damaged, the journal is what it is made again from; when the journal is, SQLite
has it all. Each record is one append under a lock, so writers do not mix and a kill costs at most its own line.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tilewright.search.records import Record, record_as_json, record_from_json

try:
    import fcntl
except ImportError:  # not on this system: appends of several processes may then mix, and SQLite alone is sure
    fcntl = None  # type: ignore[assignment]


def journal_path(study: Path) -> Path:
    """The journal that belongs to a study file."""
    return study.with_name(f"{study.name}.journal")


class Journal:
    """Lines of records, only ever appended to, but for `rewrite`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        """Add a record; it is in the file when this returns.

        Raises:
            OSError: it cannot be written; what was there is as it was.
        """
        line = json.dumps(record_as_json(record)).encode() + b"\n"
        with self._locked() as handle:
            end = os.lseek(handle, 0, os.SEEK_END)
            torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
            self._write(handle, b"\n" + line if torn else line, end)

    def _write(self, handle: int, data: bytes, end: int) -> None:
        left = data
        try:
            while left:
                left = left[os.write(handle, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, end)  # half a record helps nobody
            raise

    def read(self, start: int = 0) -> tuple[list[Record], int]:
        """Every record from byte `start` on that reads as one, oldest first, and where the last whole line ends."""
        records: list[Record] = []
        end = start
        with contextlib.suppress(OSError), self.path.open("rb") as lines:
            lines.seek(start)
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # being written, or torn by a kill
                end += len(line)
                with contextlib.suppress(ValueError, RecursionError):
                    record = record_from_json(json.loads(line))
                    if record is not None:
                        records.append(record)
        return records, end

    @property
    def identity(self) -> tuple[int, int]:
        """What tells this file from one that replaced it, and its size in bytes; zeros where there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0
        return status.st_ino, status.st_size

    def rewrite(self, keep: Callable[[Record], bool]) -> None:
        """Drop records, and all but the last of each key.

        Raises:
            OSError: it cannot be written; the journal is as it was.
        """
        with self._locked():
            left = {(record.TABLE, record.key): record for record in self.read()[0] if keep(record)}
            partial = self.path.with_name(f"{self.path.name}.partial")
            partial.write_text("".join(f"{json.dumps(record_as_json(record))}\n" for record in left.values()))
            partial.replace(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open and locked; a file that was replaced while we waited is opened anew."""
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                if _is_same(handle, self.path):
                    yield handle
                    return
            finally:
                os.close(handle)  # releases the lock


def _is_same(handle: int, path: Path) -> bool:
    try:
        mine, there = os.fstat(handle), path.stat()
    except OSError:
        return False
    return (mine.st_ino, mine.st_dev) == (there.st_ino, there.st_dev)
