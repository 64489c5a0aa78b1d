"""A model's reply is data: one Python block that parses and defines `ModelNew`, or a reason to send it back."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.errors import SourceError, SourceLocation
from tilewright.task.python_source import parse_source, require_names
from tilewright.task.reply import python_block
from tilewright.values.exchange import Fault


@dataclass(frozen=True)
class Answer:
    """What a reply holds.

    Attributes:
        code: the candidate's source; empty where there is none.
        fault: why there is none.
        detail: the fault in words, one line.
    """

    code: str = ""
    fault: Fault | None = None
    detail: str = ""


def read_answer(text: str) -> Answer:
    """Read a reply. Nothing of it is run; whatever it is, the answer says what it held."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Answer(fault=Fault.INVALID_TEXT, detail="the reply holds half characters, which are no text")
    if not text.strip():
        return Answer(fault=Fault.EMPTY, detail="the reply has no text")
    try:
        code, first_line = python_block(text, _SHOWN)
        require_names(parse_source(code, _SHOWN, first_line), ["ModelNew"], _SHOWN, first_line)
    except SourceError as error:
        return Answer(fault=Fault.UNREADABLE, detail=_words(error))
    return Answer(code)


_SHOWN = "reply"


def _words(error: SourceError) -> str:
    where = f"{_place(error.where)}: " if error.where is not None and error.where.line is not None else ""
    hint = f" ({error.hint})" if error.hint else ""
    return " ".join(f"{where}{error.what}{hint}".split())[:400]


def _place(where: SourceLocation) -> str:
    return f"line {where.line} of the reply"
