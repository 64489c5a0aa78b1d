"""What a tool's process does: one function of the library each, arguments and results as JSON."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tilewright.values.serialise import JsonValue, as_json

#: Told how far a job is: fraction of the whole from 0 to 1 where it is known, and what is being done.
Tell = Callable[[float | None, str], None]

Job = Callable[[Mapping[str, Any], Tell], JsonValue]

#: Tools whose functions the library has or will have; they are offered where it has them.
LOOKED_UP: Mapping[str, str] = {
    "diagnose": "tilewright.api:diagnose",
    "study": "tilewright.api:study",
}


def run(name: str, arguments: Mapping[str, Any], tell: Tell) -> JsonValue:
    """Do the job of a tool.

    Raises:
        TilewrightError: the input is at fault.
        KeyError: no tool has that name.
    """
    return _JOBS[name](arguments, tell) if name in _JOBS else _call(find_function(name), arguments, tell)


def find_function(name: str) -> Callable[..., Any]:
    """The library's function behind a tool that is looked up.

    Raises:
        KeyError: the library has none.
    """
    module, _, attribute = LOOKED_UP[name].partition(":")
    function = getattr(importlib.import_module(module), attribute, None)
    if not inspect.isfunction(function):
        raise KeyError(name)
    return function


def _call(function: Callable[..., Any], arguments: Mapping[str, Any], tell: Tell) -> JsonValue:
    given = dict(arguments)
    if "progress" in inspect.signature(function).parameters:
        # A step, or a line of text, as the function likes.
        given["progress"] = lambda step: tell(getattr(step, "fraction", None), str(step))
    return as_json(function(**given))


def _inspect(arguments: Mapping[str, Any], tell: Tell) -> JsonValue:
    from tilewright.api import inspect as inspect_path
    from tilewright.report.data import inspection_report

    given = dict(arguments)
    tell(None, "capturing the reference")
    return inspection_report(inspect_path(given.pop("path"), given.pop("inputs"), **given))


def _profile(arguments: Mapping[str, Any], tell: Tell) -> JsonValue:
    from tilewright.api import profile
    from tilewright.report.profile import profile_report

    given = dict(arguments)
    tell(None, "compiling for the target" if given["model"] else "running under Nsight Compute")
    return profile_report(profile(given.pop("path"), given.pop("inputs"), **given))


def _prompt(arguments: Mapping[str, Any], tell: Tell) -> JsonValue:
    from tilewright.api import load
    from tilewright.task.compose import compose_document

    task = load(arguments["path"], reference=arguments["reference"], gpu=arguments["gpu"], stage=arguments["stage"])
    return {"stage": str(task.stages[0]), "document": compose_document(task, task.stages[0])}


def _verify(arguments: Mapping[str, Any], tell: Tell) -> JsonValue:
    from tilewright.api import verify_files
    from tilewright.report.data import verdict_report
    from tilewright.search.effort import find_effort

    task, candidate, verdict = verify_files(
        arguments["reference"],
        arguments["candidate"],
        arguments["init"],
        arguments["inputs"],
        arguments["gpu"],
        arguments["precision"],
        arguments["strict"],
        find_effort(arguments["effort"]).gate,
        lambda message: tell(None, message),
    )
    return verdict_report(task, candidate, verdict, arguments["candidate"])


def _optimize(arguments: Mapping[str, Any], tell: Tell) -> JsonValue:
    from tilewright.api import optimize_file
    from tilewright.report.data import study_report
    from tilewright.report.files import MODEL_NAME

    given = dict(arguments)
    out = Path(given["out"])
    study = optimize_file(given.pop("path"), **given, progress=lambda step: tell(step.fraction, str(step)))
    names = ["report.json", "report.html"] if study.best is None else [MODEL_NAME, "report.json", "report.html"]
    return study_report(study, [str(out / name) for name in names])


_JOBS: Mapping[str, Job] = {
    "inspect": _inspect,
    "profile": _profile,
    "prompt": _prompt,
    "verify": _verify,
    "optimize": _optimize,
}
