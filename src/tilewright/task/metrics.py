"""A document's metrics: JSON of kernel -> metric -> number, with errors that name the line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from json.decoder import JSONObject  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from tilewright.errors import DocumentError, SourceLocation


class _Fault(Exception):
    """A fault at an offset of the text."""

    def __init__(self, what: str, offset: int) -> None:
        self.what = what
        self.offset = offset
        super().__init__(what)


@dataclass(frozen=True)
class _Number:
    """A number's text; converted later, so that its faults can be told."""

    text: str


class _Decoder(json.JSONDecoder):
    """JSON as the standard has it: no NaN, no key twice. The Python scanner tells where an object starts."""

    def __init__(self) -> None:
        super().__init__(parse_int=_Number, parse_float=_Number, parse_constant=self._refuse_constant)
        self.parse_object = self._object
        self.scan_once = py_make_scanner(self)

    def _object(self, state: Any, *others: Any) -> Any:
        text, start = state
        pairs, end = JSONObject(state, self.strict, others[1], None, lambda found: found, {})
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise _Fault(f"the key {_shortened(key)} appears twice", _second(text, key, start))
            values[key] = value
        return values, end

    def _refuse_constant(self, name: str) -> Any:
        raise _Constant(name)


class _Constant(Exception):
    """NaN or Infinity."""


def _shortened(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)


def _second(text: str, key: str, start: int) -> int:
    """Where `key` stands for the second time after `start`; `start` where it is written with escapes."""
    places = [match.start() for match in re.finditer(re.escape(f'"{key}"') + r"\s*:", text[start:])]
    return start + places[1] if len(places) > 1 else start


def read_metrics(text: str, *, path: str, first_line: int) -> Mapping[str, Mapping[str, float]]:
    """The metrics of a section.

    Args:
        text: the section's text after its heading; prose after the JSON is left alone.
        path: the document, for messages.
        first_line: line of the document where `text` starts.

    Raises:
        DocumentError: no JSON, a key twice, NaN, or another form than kernel -> metric -> number.
    """

    def error(what: str, offset: int) -> DocumentError:
        line = first_line + text.count("\n", 0, offset)
        hint = 'the form is {"kernel": {"metric": number}}'
        return DocumentError(
            f"the metrics are not JSON as expected: {what}", where=SourceLocation(path, line), hint=hint
        )

    start = len(text) - len(text.lstrip())
    if not text.strip():
        raise error("the section is empty", 0)
    try:
        value, end = _Decoder().raw_decode(text, start)
    except json.JSONDecodeError as fault:
        raise error(fault.msg, fault.pos) from None
    except _Fault as fault:
        raise error(fault.what, fault.offset) from None
    except _Constant as fault:
        raise error(f"{fault} is no JSON number", max(text.find(str(fault)), 0)) from None
    except RecursionError:
        raise error("it is nested too deeply", start) from None
    rest = text[end:].lstrip()
    if rest[:1] in tuple('{}[],:"') and rest:
        raise error("there is more after the object", len(text) - len(rest))
    try:
        return _as_metrics(value)
    except _Fault as fault:
        place = max(text.find(f'"{fault.offset_key}"'), start) if isinstance(fault, _KeyFault) else start
        raise error(fault.what, place) from None


class _KeyFault(_Fault):
    """A fault of the value under a key."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(what, 0)
        self.offset_key = key


def _as_metrics(value: Any) -> dict[str, dict[str, float]]:
    if not isinstance(value, dict):
        raise _Fault("the outermost value is no object", 0)
    found: dict[str, dict[str, float]] = {}
    for kernel, metrics in value.items():
        if not kernel.isprintable():
            raise _Fault(f"the kernel's name {kernel!a} is not printable", 0)
        if not isinstance(metrics, dict):
            raise _KeyFault(f"the metrics of the kernel {_shortened(kernel)} are no object", kernel)
        found[kernel] = {name: _as_number(name, item) for name, item in metrics.items()}
    return found


def _as_number(name: str, value: Any) -> float:
    if not isinstance(value, _Number):
        raise _KeyFault(f"the metric {_shortened(name)} is no number", name)
    digits = value.text
    if re.fullmatch(r"-?\d{1,15}", digits):
        return int(digits)
    number = float(digits)
    if not math.isfinite(number):
        raise _KeyFault(f"the metric {_shortened(name)} is too large", name)
    return number


def write_metrics(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """The metrics as the documents print them: two spaces a level."""
    return json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
