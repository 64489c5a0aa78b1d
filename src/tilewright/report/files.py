"""The files of a run: `model_new.py`, `report.json`, `report.html`, each there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from tilewright.errors import TilewrightError, path_location
from tilewright.report.data import study_report
from tilewright.report.page import study_page
from tilewright.values.study import Study

MODEL_NAME = "model_new.py"


class OutputError(TilewrightError):
    """The folder of the results cannot be written."""


def write_report(study: Study, out: Path) -> tuple[Path, ...]:
    """Write the run's files to `out` and return their paths; without a result there is no `model_new.py`.

    Each file is written beside its place and renamed into it, so that a kill leaves the old one or the new one.

    Raises:
        OutputError: `out` cannot be written.
    """
    names = ["report.json", "report.html"]
    if study.best is not None:
        names.insert(0, MODEL_NAME)
    paths = tuple(out / name for name in names)
    report = study_report(study, [str(path) for path in paths])
    texts = {"report.json": json.dumps(report, indent=2) + "\n", "report.html": study_page(study)}
    if study.best is not None:
        texts[MODEL_NAME] = study.best.candidate.source
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in paths:
            write_atomically(path, texts[path.name])
        if study.best is None:
            _remove_earlier_model(out)
    except OSError as error:
        raise OutputError(
            f"the results cannot be written: {error.strerror or error}", where=path_location(out)
        ) from None
    return paths


def _remove_earlier_model(out: Path) -> None:
    """A module of an earlier run beside this run's report would pass for its result: it is renamed."""
    earlier = out / MODEL_NAME
    if earlier.exists():
        os.replace(earlier, out / f"{MODEL_NAME}.earlier")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` by way of a temporary file in the same folder.

    Raises:
        OSError: the folder cannot be written.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(out: Path) -> None:
    """Check before a long run that `out` can become or is a folder that can be written; nothing is created.

    Raises:
        OutputError: it cannot.
    """
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError("the results cannot be written: not a folder", where=path_location(existing))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError("the results cannot be written: no permission", where=path_location(existing))
