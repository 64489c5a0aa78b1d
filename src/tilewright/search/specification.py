"""Given code as the specification: does it take the arguments that it was given? Asked in another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tilewright.errors import InputMismatchError, SourceError, SourceLocation, TilewrightError, path_location
from tilewright.measure.subjects import source_as_json, source_from_json
from tilewright.sandbox.job import run_job
from tilewright.task.task import ModuleSource

_DEADLINE_S = 120.0


def check_specification(source: ModuleSource) -> None:
    """Build the given code's module and call it on its inputs, on shapes alone, in a sandboxed process.

    Raises:
        SourceError: it cannot be built.
        InputMismatchError: the arguments or inputs do not fit it, or its process died over them.
    """
    job = {"entry": "tilewright.search.specification:check_in_child", "source": source_as_json(source)}
    result = run_job(job, deadline_s=_DEADLINE_S)
    part = result.part("checked")
    if part is None:
        raise InputMismatchError(f"the given code could not be called: {result.message}", where=_place(source, None))
    if part.data is not None:
        kind = SourceError if part.data["is_source_error"] else InputMismatchError
        raise kind(str(part.data["what"]), where=_place(source, part.data["line"]), hint=part.data["hint"])


def check_in_child(job: Mapping[str, Any], tensors: object, emit: Callable[..., None]) -> None:
    """The other side: what is wrong, as data; None where nothing is."""
    from tilewright.task.check_inputs import check_inputs

    try:
        check_inputs(source_from_json(job["source"]))
    except TilewrightError as error:
        line = error.where.line if error.where is not None else None
        is_source_error = isinstance(error, SourceError)
        emit("checked", {"is_source_error": is_source_error, "what": error.what, "line": line, "hint": error.hint})
        return
    emit("checked", None)


def _place(source: ModuleSource, line: int | None) -> SourceLocation | None:
    return None if source.path is None else path_location(source.path, line)
