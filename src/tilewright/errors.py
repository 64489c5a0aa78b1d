"""Errors for people: what is wrong, where, and what to do.

Every error that a user can cause is a `TilewrightError`; the command prints it without a traceback and
ends with its `exit_code`. Exit codes are part of the command's contract (see `ExitCode`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Exit codes of the command: documented, stable."""

    OK = 0  #: a verified module was written (or the question was answered)
    REJECTED = 1  #: the candidate was rejected, nothing better was found, or torch.compile is faster
    BAD_INPUT = 2  #: the input is at fault; nothing was written


@dataclass(frozen=True)
class SourceLocation:
    """A place in a file that a user gave. Lines and columns count from 1; None means the whole file."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = [self.file]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        return ":".join(parts)


class TilewrightError(Exception):
    """Base of all errors that are shown to people.

    Args:
        what: what is wrong, one sentence.
        where: the file and line it is about, if any.
        hint: what to do about it, one sentence, if anything is known.
    """

    exit_code: ExitCode = ExitCode.BAD_INPUT

    def __init__(self, what: str, *, where: SourceLocation | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where is not None else self.what
        return f"{head}\n  hint: {self.hint}" if self.hint else head


class DocumentError(TilewrightError):
    """A document cannot be read: no code block, metrics that are not JSON, and the like."""


class SourceError(TilewrightError):
    """Python source that was given does not parse, or lacks the class or function that is needed."""


class InputSpecError(TilewrightError):
    """`--init` or `--inputs` is not a list of literals and known fillers."""


class MissingReferenceError(TilewrightError):
    """A document alone does not say how to call its code."""


class UnknownGpuError(TilewrightError):
    """No GPU of that name is in the table."""


class InputMismatchError(TilewrightError):
    """The inputs do not fit the reference: it raises on them."""


class CaptureError(TilewrightError):
    """The reference cannot be captured; the message names the operation that stopped it."""


def path_location(path: Path | str, line: int | None = None, column: int | None = None) -> SourceLocation:
    """A `SourceLocation` for a path."""
    return SourceLocation(str(path), line, column)
