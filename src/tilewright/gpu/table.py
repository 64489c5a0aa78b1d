"""The table of GPUs: names and aliases to figures, and a user's own GPU from a TOML file."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tilewright.errors import SourceLocation, UnknownGpuError
from tilewright.gpu.figures import FIGURES, LIMITS, GpuText, build_gpu, read_capability, read_toml_text
from tilewright.gpu.gpu import Gpu

_TABLE_NAME = "table.toml"


def find_gpu(name_or_toml_path: str) -> Gpu:
    """The GPU of that name, alias or driver's name, or the one that a `.toml` file describes.

    Case, spaces, hyphens and underscores do not matter: `RTX-4090`, `rtx 4090`, `4090` are one.

    Raises:
        UnknownGpuError: no such GPU (the nearest names are in the hint), or a bad file.
    """
    name = name_or_toml_path.strip()
    if name.lower().endswith(".toml"):
        return read_gpu_file(Path(name))
    by_name = _by_name()
    found = by_name.get(_normalise(name))
    if found is not None:
        return found
    raise UnknownGpuError(f"no GPU named {_shortened(name)!r} is in the table", hint=_nearest_hint(name))


def all_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the table, in its order."""
    table, text = _table()
    return tuple(
        build_gpu(key, GpuText(values, _TABLE_NAME, text), _limits_of(table, values))
        for key, values in table["gpu"].items()
    )


def capability_limits(capability: int) -> Mapping[str, Any] | None:
    """The limits and per-SM rates of a compute capability (89 for 8.9); None where the table lacks it."""
    table, _ = _table()
    limits: Mapping[str, Any] | None = table["capability"].get(str(capability))
    return limits


def read_gpu_file(path: Path) -> Gpu:
    """The GPU that a TOML file describes.

    The file has the keys of one entry of the table. Limits that its compute capability fixes may be left
    out where the table knows the capability; `like = "rtx-4090"` starts from another GPU's figures.

    Raises:
        UnknownGpuError: the file cannot be read or parsed, or a figure is missing or ill-typed.
    """
    text = read_toml_text(path)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        found = re.search(r"at line (\d+)", str(error))
        where = SourceLocation(str(path), int(found[1]) if found else None)
        raise UnknownGpuError(f"the GPU file is not TOML: {error}", where=where) from None
    table, _ = _table()
    described = GpuText(values, str(path), text)
    if "like" in values:
        base = _entry_of(described)
        values = {**base, "aliases": [], "source": str(path), **values}
        described = GpuText(values, str(path), text)
    limits = table["capability"].get(str(read_capability(described)), {})
    return build_gpu(path.stem.lower(), described, _shared(limits), file=str(path))


def _entry_of(described: GpuText) -> Mapping[str, Any]:
    """The table's entry that a file's `like` names."""
    name = described.string("like")
    found = _by_name().get(_normalise(name))
    if found is None:
        raise described.error(f"no GPU named {_shortened(name)!r} is in the table", "like", _nearest_hint(name))
    table, _ = _table()
    entry: Mapping[str, Any] = table["gpu"][found.key]
    return {key: entry[key] for key in (*FIGURES, "name", "architecture", "capability", "tensor_tflops")}


@cache
def _table() -> tuple[dict[str, Any], str]:
    """The parsed table and its text."""
    text = (files("tilewright.gpu") / _TABLE_NAME).read_text(encoding="utf-8")
    return tomllib.loads(text), text


def _limits_of(table: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The limits that a table entry shares with its compute capability."""
    return _shared(table["capability"][str(values["capability"])])


def _shared(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Of a capability's entry, what a `Gpu` holds."""
    return {key: value for key, value in limits.items() if key in (*LIMITS, "source")}


@cache
def _by_name() -> dict[str, Gpu]:
    """Normalised key, name and alias -> GPU."""
    return {_normalise(name): gpu for gpu in all_gpus() for name in (gpu.key, gpu.name, *gpu.aliases)}


def _normalise(name: str) -> str:
    """Lower case, without the separators that people put between the parts of a name."""
    return re.sub(r"[\s_\-]+", "", name.lower())


def _shortened(name: str) -> str:
    """A name for a message: never a page of it."""
    return name if len(name) <= 60 else name[:57] + "..."


def _nearest_hint(name: str) -> str:
    """The nearest names in the table, or all of them where none is near."""
    names = _by_name()
    near = difflib.get_close_matches(_normalise(name[:60]), names, n=6, cutoff=0.6)
    keys = list(dict.fromkeys(names[item].key for item in near))[:3]
    if not keys:
        keys = list(dict.fromkeys(gpu.key for gpu in names.values()))
        return f"known: {', '.join(keys)}; or give a TOML file that describes the GPU"
    return f"did you mean {' or '.join(keys)}? A TOML file can describe a GPU that is not in the table"
