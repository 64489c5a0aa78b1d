"""Text files that a user gives: read whole, line endings kept, with errors for people."""

from __future__ import annotations

from pathlib import Path

from tilewright.errors import SourceLocation, TilewrightError

LARGEST_BYTES = 8 * 1024 * 1024


def read_text(path: Path, error_class: type[TilewrightError] = TilewrightError) -> str:
    """The text of a UTF-8 file, byte for byte.

    Raises:
        TilewrightError: of the class given: no such file, a folder, not readable, too large, or not UTF-8 (the
            message has the line of the first bad byte).
    """
    where = SourceLocation(str(path))
    try:
        if path.is_dir():
            raise error_class("this is a folder, not a file", where=where)
        if path.stat().st_size > LARGEST_BYTES:
            raise error_class(f"the file has more than {LARGEST_BYTES} bytes", where=where)
        content = path.read_bytes()
    except FileNotFoundError:
        raise error_class("there is no such file", where=where) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise error_class(f"the file cannot be read: {reason}", where=where) from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise error_class("the file is not UTF-8 text", where=SourceLocation(str(path), line)) from None
