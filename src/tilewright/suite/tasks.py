"""The tasks of a folder: Python files with a `Model`, and documents with such a file beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tilewright.errors import SourceLocation, TilewrightError
from tilewright.values.syntax_tree import parse_tree

#: What a file must define to be a reference.
_NEEDED = frozenset({"Model", "get_inputs"})
_DOCUMENTS = (".txt", ".md")


class EmptySuiteError(TilewrightError):
    """A folder holds no task."""


@dataclass(frozen=True)
class SuiteTask:
    """One task of a suite.

    Attributes:
        name: of the file, without suffix; also the folder of its results.
        path: the document or Python file.
        reference: for a document, the Python file of the same name; None where there is none.
    """

    name: str
    path: Path
    reference: Path | None = None

    def key(self, settings: Mapping[str, str | None], versions: Mapping[str, str]) -> str:
        """What a result depends on, 16 hex digits: its name, the files' bytes, the settings, the versions."""
        digest = hashlib.sha256(self.name.encode())
        for path in (self.path, *([self.reference] if self.reference else [])):
            digest.update(path.read_bytes() + b"\0")
        for name, value in (*sorted(settings.items()), *sorted(versions.items())):
            digest.update(f"{name}={value}\0".encode())
        return digest.hexdigest()[:16]


def find_tasks(folder: Path) -> tuple[SuiteTask, ...]:
    """The tasks of a folder, by name; a Python file that is a document's reference is no task of its own.

    Raises:
        EmptySuiteError: there is none, or the folder cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise EmptySuiteError(
            f"the folder cannot be read: {error.strerror or error}", where=SourceLocation(str(folder))
        ) from None
    references = {path.stem: path for path in files if path.suffix == ".py" and _is_reference(path)}
    documents = [path for path in files if path.suffix in _DOCUMENTS and path.stem.lower() != "readme"]
    tasks = [SuiteTask(path.stem, path, references.get(path.stem)) for path in documents]
    taken = {task.name for task in tasks}
    tasks += [SuiteTask(name, path) for name, path in references.items() if name not in taken]
    if not tasks:
        raise EmptySuiteError(
            "there is no task in this folder",
            where=SourceLocation(str(folder)),
            hint="a task is a document (.txt, .md), or a Python file with Model and get_inputs",
        )
    return tuple(sorted(tasks, key=lambda task: task.name))


def _is_reference(path: Path) -> bool:
    """It looks like one: what is wrong with it in detail is said when its turn comes."""
    try:
        tree = parse_tree(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    return {getattr(node, "name", "") for node in tree.body} >= _NEEDED
