"""Emitted files that are compared with those kept in `golden`."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, source: str) -> None:
    """The text is the golden file's; TILEWRIGHT_UPDATE_GOLDEN=1 writes it again, and a missing file fails."""
    path = GOLDEN / f"{name}.py.txt"
    if os.environ.get("TILEWRIGHT_UPDATE_GOLDEN"):
        path.write_text(source)
    assert path.exists(), f"{path} is missing"
    assert source == path.read_text()
