"""Keys stay where they are: what is kept, shown or logged passes here first."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote, urlsplit, urlunsplit

#: Environment variables whose values are credentials.
_CREDENTIALS = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET")

#: Shorter values are no keys (`EMPTY`, `none`, as local servers take), and would be found in any text.
_SHORTEST = 8

_PR_SET_DUMPABLE = 4

SHOWN = "[key]"


class Redactor:
    """Takes credentials out of text, in every form in which a server or a library may write them."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        values = set(_credentials(os.environ if environment is None else environment))
        forms = {form for value in values if len(value) >= _SHORTEST for form in _forms(value)}
        self._forms = sorted(forms, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """`text` without any credential."""
        for form in self._forms:
            text = text.replace(form, SHOWN)
        return text


def _credentials(environment: Mapping[str, str]) -> Iterator[str]:
    yield from (environment[name].strip() for name in _CREDENTIALS if environment.get(name, "").strip())
    for line in environment.get("OPENAI_CUSTOM_HEADERS", "").splitlines():
        _, _, value = line.partition(":")
        yield from value.split()
    with contextlib.suppress(ValueError):  # no URL at all
        parts = urlsplit(environment.get("OPENAI_BASE_URL", ""))
        yield from (unquote(part) for part in (parts.username, parts.password) if part)
        yield from (pair.partition("=")[2] for pair in parts.query.split("&") if "=" in pair)


def _forms(value: str) -> Iterator[str]:
    yield value
    yield quote(value, safe="")
    # The three alignments that base64 can have; their first and last letters depend on what stands beside.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + value.encode()).decode().rstrip("=")
        yield encoded[shift + 1 if shift else 0 : -2]


def public_url(url: str) -> str:
    """`url` without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "[no URL]"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def close_process_to_others() -> None:
    """Keep other processes of this user from reading this one's environment and memory, where the system can.

    Candidates run under the same user; what `/proc` shows of a process that is not dumpable belongs to root.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
