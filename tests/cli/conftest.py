from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.samples import DOCUMENT, MODEL, Command, Ended
from tilewright.cli.main import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own, with a module and a document in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "document.txt").write_text(DOCUMENT)
    return tmp_path


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command as its entry point does, in this process."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["tilewright", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capfd.readouterr()
        code = leaving.value.code
        return Ended(code if isinstance(code, int) else int(code is not None), captured.out, captured.err)

    return run
