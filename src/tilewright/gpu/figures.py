"""A GPU's figures out of TOML: types checked, units converted, sources attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.errors import SourceLocation, UnknownGpuError
from tilewright.gpu.gpu import Gpu
from tilewright.values.precision import PrecisionClass

KIB = 1024
MIB = 1024 * 1024

#: Figures that a compute capability fixes, as the TOML names them; all are positive integers.
LIMITS = (
    "max_registers_per_thread",
    "registers_per_sm",
    "max_threads_per_block",
    "max_threads_per_sm",
    "max_warps_per_sm",
    "max_blocks_per_sm",
    "warp_size",
    "shared_kib_per_sm",
    "shared_kib_per_block",
)

#: Figures of one GPU: TOML key -> whether it has to be an integer.
FIGURES: Mapping[str, bool] = {
    "sm_count": True,
    "bandwidth_gb_s": False,
    "l2_mib": False,
    "fp32_tflops": False,
    "boost_clock_mhz": False,
    "memory_gb": False,
}

TENSOR_CLASSES = (PrecisionClass.TF32, PrecisionClass.FP16, PrecisionClass.BF16)

_TEXTS = ("name", "architecture", "source")
_OTHERS = ("aliases", "capability", "tensor_tflops", "sources", "like")


@dataclass(frozen=True)
class GpuText:
    """One GPU's TOML table, and where it stands, for messages.

    Attributes:
        values: the table.
        file: the file's name.
        text: the file's text, to find a key's line.
    """

    values: Mapping[str, Any]
    file: str
    text: str = ""

    def error(self, what: str, key: str, hint: str | None = None) -> UnknownGpuError:
        """The error about `key`, with its line where the file has it."""
        line = None
        for number, content in enumerate(self.text.split("\n"), start=1):
            if content.replace('"', " ").replace("=", " ").split()[:1] == [key]:
                line = number
                break
        return UnknownGpuError(what, where=SourceLocation(self.file, line), hint=hint)

    def number(self, key: str, *, integer: bool, table: Mapping[str, Any] | None = None) -> float:
        """The positive number under `key`.

        Raises:
            UnknownGpuError: where it is missing, no number, not finite, or not positive.
        """
        values = self.values if table is None else table
        if key not in values:
            raise self.error(f"the GPU's figure `{key}` is missing", key, f"add a line `{key} = ...`")
        value = values[key]
        kind = "an integer" if integer else "a number"
        if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
            raise self.error(f"the GPU's figure `{key}` must be {kind}, not {value!r}", key)
        if not 0 < value < 2**53:
            raise self.error(f"the GPU's figure `{key}` must be positive and finite, not {value!r}", key)
        return value

    def string(self, key: str, default: str | None = None) -> str:
        """The text under `key`.

        Raises:
            UnknownGpuError: where it is missing without a default, no text, empty, or more than a line.
        """
        value = self.values.get(key, default)
        if value is None:
            raise self.error(f"the GPU's `{key}` is missing", key, f'add a line `{key} = "..."`')
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise self.error(f"the GPU's `{key}` must be one line of text, not {value!r}", key)
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """The list of texts under `key`, lower case; empty where it is missing."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"the GPU's `{key}` must be a list of texts, not {value!r}", key)
        return tuple(item.lower() for item in value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """The table under `key`; empty where it is missing."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f"the GPU's `{key}` must be a table, not {value!r}", key)
        return value


def read_capability(text: GpuText) -> int:
    """Compute capability as two or three digits: 89 from `89` or `8.9`."""
    value = text.number("capability", integer=False)
    capability = round(value * 10) if value < 20 else round(value)
    if capability != (value * 10 if value < 20 else value):
        raise text.error(f"`capability` must be like 8.9 or 89, not {value!r}", "capability")
    return capability


def build_gpu(key: str, text: GpuText, limits: Mapping[str, Any], *, file: str | None = None) -> Gpu:
    """The `Gpu` that `text` describes; what it does not say of the limits comes from `limits`.

    Args:
        key: the table's key.
        text: the GPU's figures.
        limits: the figures of its compute capability; empty where that is unknown (then `text` has them all).
        file: the user's file, for a GPU that is not of the table.

    Raises:
        UnknownGpuError: a figure is missing, ill-typed or unknown; the message has file, line and key.
    """
    known = {*LIMITS, *FIGURES, *_TEXTS, *_OTHERS}
    for name in text.values:
        if name not in known:
            raise text.error(f"unknown figure `{name}`", name, f"known figures: {', '.join(sorted(known))}")
    merged = GpuText({**limits, **text.values}, text.file, text.text)
    bounds = {name: int(merged.number(name, integer=True)) for name in LIMITS}
    figures = {name: text.number(name, integer=integer) for name, integer in FIGURES.items()}
    tensor = text.mapping("tensor_tflops")
    return Gpu(
        key=key,
        name=text.string("name"),
        architecture=text.string("architecture"),
        capability=read_capability(text),
        sm_count=int(figures["sm_count"]),
        bandwidth_gb_s=float(figures["bandwidth_gb_s"]),
        l2_bytes=round(figures["l2_mib"] * MIB),
        fp32_tflops=float(figures["fp32_tflops"]),
        tensor_tflops={kind: float(text.number(kind.value, integer=False, table=tensor)) for kind in TENSOR_CLASSES},
        boost_clock_mhz=float(figures["boost_clock_mhz"]),
        max_registers_per_thread=bounds["max_registers_per_thread"],
        registers_per_sm=bounds["registers_per_sm"],
        max_threads_per_block=bounds["max_threads_per_block"],
        max_threads_per_sm=bounds["max_threads_per_sm"],
        max_warps_per_sm=bounds["max_warps_per_sm"],
        max_blocks_per_sm=bounds["max_blocks_per_sm"],
        warp_size=bounds["warp_size"],
        shared_bytes_per_sm=bounds["shared_kib_per_sm"] * KIB,
        shared_bytes_per_block=bounds["shared_kib_per_block"] * KIB,
        memory_gb=float(figures["memory_gb"]),
        sources=_sources(text, limits),
        aliases=text.strings("aliases"),
        file=file,
    )


_FIELD_OF = {
    "l2_mib": "l2_bytes",
    "shared_kib_per_sm": "shared_bytes_per_sm",
    "shared_kib_per_block": "shared_bytes_per_block",
}


def _sources(text: GpuText, limits: Mapping[str, Any]) -> dict[str, str]:
    """Field of `Gpu` -> where its figure comes from."""
    own = text.string("source", default=text.file)
    singles = text.mapping("sources")
    found = {}
    for name in (*FIGURES, "tensor_tflops", *LIMITS):
        source = own if name in text.values else str(limits.get("source", own))
        found[_FIELD_OF.get(name, name)] = str(singles.get(name, source))
    return found


def read_toml_text(path: Path) -> str:
    """The text of a GPU file.

    Raises:
        UnknownGpuError: it cannot be read, or is not UTF-8.
    """
    where = SourceLocation(str(path))
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise UnknownGpuError("the GPU file is not UTF-8 text", where=where) from None
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UnknownGpuError(f"the GPU file cannot be read: {reason}", where=where) from None
