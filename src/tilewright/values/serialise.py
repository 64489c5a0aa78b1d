"""Frozen values as JSON: one way for reports, the store and `--json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from typing_extensions import TypeAliasType

#: A named alias, which readers of types (pydantic) can follow into itself.
JsonValue = TypeAliasType("JsonValue", "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None")


def as_json(value: Any) -> JsonValue:
    """`value` as plain JSON data: dataclasses become objects, tuples arrays, enums their values.

    Non-finite floats become the strings "nan", "inf" and "-inf", since JSON has none of them.

    Raises:
        TypeError: for a type that has no JSON form.
    """
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return as_json(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [as_json(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")
