"""Several candidates of one proposer recorded and compiled by one process, which forks for each: imports are paid once.

Entry `run`, in a sandbox; `record_together`, on the parent's side, puts what came back where `record_fully` finds it. A
fork that dies costs its own candidate alone, which is then recorded by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tilewright.gate.inside.runtime import FILE

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]

_ANSWER = "parts.json"


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: part `N` for each candidate that was recorded: its parts, as `recorder.run` makes them."""
    from tilewright.gate.inside import recorder  # imports what every fork needs

    here = Path.cwd()
    waiting = list(enumerate(job["candidates"]))
    running: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < int(job["at_once"]):
            index, data = waiting.pop(0)
            folder = here / f"candidate-{index}"
            folder.mkdir()
            worker = os.fork()
            if worker == 0:
                with contextlib.suppress(BaseException):
                    _record_one(recorder.run, job, data, folder)
                os._exit(0)
            running[worker] = index
        worker, _ = os.wait()
        index = running.pop(worker, -1)
        answer = here / f"candidate-{index}" / _ANSWER
        if index >= 0 and answer.is_file():
            emit(str(index), json.loads(answer.read_text()), None)


def _record_one(record: Callable[..., None], job: Mapping[str, Any], data: Mapping[str, Any], folder: Path) -> None:
    """In a fork: the candidate's own folder and cache, and its parts in a file once all is done."""
    os.chdir(folder)
    os.environ["TRITON_CACHE_DIR"] = data["cache"]
    (folder / FILE).write_text(data["source"])
    parts: list[dict[str, Any]] = []

    def emit(name: str, part: Any, _: Any = None) -> None:
        parts.append({"name": name, "data": part})

    record({**job, "needs_reference": data["needs_reference"]}, {}, emit)
    partial = folder / f"{_ANSWER}.partial"
    partial.write_text(json.dumps(parts))
    partial.rename(folder / _ANSWER)


def is_ours(origin: str) -> bool:
    """Candidates of these proposers may share a process: none of them is a stranger's."""
    return origin in {"synthesize", "retune"}


def group(candidates: Sequence[Any], size: int) -> list[list[Any]]:
    """Candidates in order, cut into groups that may share a process."""
    groups: list[list[Any]] = []
    for candidate in candidates:
        last = groups[-1] if groups else None
        if last and len(last) < size and is_ours(candidate.origin) and last[-1].origin == candidate.origin:
            last.append(candidate)
        else:
            groups.append([candidate])
    return groups
