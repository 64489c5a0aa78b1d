"""A model's reply: the one Python block in it; and a candidate's file, which may be such a reply."""

from __future__ import annotations

from pathlib import Path

from tilewright.errors import SourceError, SourceLocation
from tilewright.task.fences import find_fences, split_lines, with_unix_newlines
from tilewright.task.python_source import parse_source
from tilewright.task.text_file import read_text


def python_block(text: str, path: Path | str | None = None) -> tuple[str, int]:
    """The code of the one Python block in a reply, and the line of the reply where it starts.

    Blocks of other languages beside it are left alone.

    Args:
        text: the reply.
        path: where it is from, for messages.

    Raises:
        SourceError: no Python block, more than one, one that is never closed, empty, or does not parse.
    """
    shown = "<reply>" if path is None else str(path)
    lines = [line.rstrip("\r\n") for line in split_lines(with_unix_newlines(text))]
    fences = find_fences(lines)
    blocks = [fence for fence in fences if fence.is_python]
    if not blocks:
        if not fences:
            raise SourceError("there is no code block", where=SourceLocation(shown), hint=_HINT)
        language = fences[0].language
        what = f"the code block is {language[:40]!r}, not Python" if language else "the code block names no language"
        raise SourceError(what, where=SourceLocation(shown, fences[0].start + 1), hint=_HINT)
    if len(blocks) > 1:
        first = blocks[0].start + 1
        raise SourceError(
            f"there are {len(blocks)} Python blocks, the first in line {first}",
            where=SourceLocation(shown, blocks[1].start + 1),
            hint=_HINT,
        )
    block = blocks[0]
    where = SourceLocation(shown, block.start + 1)
    if not block.closed:
        raise SourceError("the Python block is never closed; the reply may be cut off", where=where, hint=_HINT)
    code = "".join(f"{line}\n" for line in lines[block.body])
    if not code.strip():
        raise SourceError("the Python block is empty", where=where, hint=_HINT)
    first_line = block.start + 2
    parse_source(code, shown, first_line)
    return code, first_line


_HINT = "a reply has exactly one block, between ```python and ```"


def read_candidate(path: Path) -> tuple[str, int]:
    """The source of a candidate's file and the line where it starts: a Python file whole, or a reply's one block.

    Raises:
        SourceError: the file cannot be read, or is neither.
    """
    text = read_text(path, SourceError)
    try:
        parse_source(text, path)
    except SourceError:
        if not find_fences(split_lines(text)):
            raise
        return python_block(text, path)
    if not text.strip():
        raise SourceError("the file is empty", where=SourceLocation(str(path)))
    return text.removeprefix("\ufeff"), 1
