"""What a soak found, as a value, and its file under `benchmarks/results`."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Record:
    """The outcome of one soak.

    Attributes:
        kind: the name of the soak, such as `corpus` or `mutants`.
        counts: what was counted, by name.
        failures: what went against the goal, one line each.
        details: one mapping for each thing that was run or that survived.
        seconds: wall time.
        goal_met: nothing went against the goal.
    """

    kind: str
    counts: Mapping[str, Any]
    failures: tuple[str, ...]
    details: tuple[Mapping[str, Any], ...]
    seconds: float
    goal_met: bool

    def as_data(self) -> dict[str, Any]:
        """As JSON values, with the versions that it ran under."""
        data = asdict(self)
        data["seconds"] = round(self.seconds, 1)
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (interpreter)"
        return data | {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
            "gpu": gpu,
        }

    def write(self, folder: Path = RESULTS) -> Path:
        """Write `soak_KIND.json` there; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"soak_{self.kind}.json"
        path.write_text(json.dumps(self.as_data(), indent=1) + "\n", encoding="utf-8")
        return path

    def summary(self) -> str:
        """For people."""
        counted = ", ".join(f"{name}: {value}" for name, value in self.counts.items())
        lines = [f"{self.kind}: {counted} ({self.seconds:.0f} s)"]
        return "\n".join([*lines, *(f"  FAIL {failure}" for failure in self.failures)])


class Journal:
    """A file of JSON lines, one for each thing that is finished, by its `key`; a line cut short by a kill is dropped.

    Args:
        path: the file; None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                self._rows[row["key"]] = row

    def find(self, key: str) -> dict[str, Any] | None:
        """What is known of `key`."""
        return self._rows.get(key)

    def others(self, keys: Collection[str]) -> list[dict[str, Any]]:
        """What it holds beside these keys."""
        with self._lock:
            return [row for key, row in self._rows.items() if key not in keys]

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, by its `key`."""
        with self._lock:
            self._rows[row["key"]] = row
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
