"""The target GPU in a document: the table of figures or the one line, read and written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilewright.errors import DocumentError, SourceLocation, UnknownGpuError
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.table import find_gpu
from tilewright.values.precision import PrecisionClass

_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True)
class _Figure:
    """One line of the table.

    Attributes:
        label: the words before the colon.
        fields: fields of `Gpu` that it sets, and the factor from the written unit to the field's.
        write: the text after the colon.
        integer: the figure is a whole number.
    """

    label: str
    field: str
    factor: int
    write: Callable[[Gpu], str]
    integer: bool = True


def _number(value: float) -> str:
    """A figure without a needless fraction."""
    return f"{value:.10g}"


#: The table's lines in order, after name and architecture.
_FIGURES: tuple[_Figure, ...] = (
    _Figure("Number of SMs", "sm_count", 1, lambda gpu: str(gpu.sm_count)),
    _Figure("Memory Bandwidth", "bandwidth_gb_s", 1, lambda gpu: f"{_number(gpu.bandwidth_gb_s)} GB/s", False),
    _Figure("TF32 Tensor Core TFLOPS", "tf32", 1, lambda gpu: _rate(gpu, PrecisionClass.TF32), False),
    _Figure("BFLOAT16 Tensor Core TFLOPS", "bf16", 1, lambda gpu: _rate(gpu, PrecisionClass.BF16), False),
    _Figure("FP16 Tensor Core TFLOPS", "fp16", 1, lambda gpu: _rate(gpu, PrecisionClass.FP16), False),
    _Figure(
        "Maximum number of registers per thread",
        "max_registers_per_thread",
        1,
        lambda gpu: str(gpu.max_registers_per_thread),
    ),
    _Figure("Maximum threads per block", "max_threads_per_block", 1, lambda gpu: str(gpu.max_threads_per_block)),
    _Figure("Maximum threads per SM", "max_threads_per_sm", 1, lambda gpu: str(gpu.max_threads_per_sm)),
    _Figure("Warp size", "warp_size", 1, lambda gpu: str(gpu.warp_size)),
    _Figure("Maximum concurrent warps per SM", "max_warps_per_sm", 1, lambda gpu: str(gpu.max_warps_per_sm)),
    _Figure(
        "Shared memory capacity per SM",
        "shared_bytes_per_sm",
        _KIB,
        lambda gpu: f"{_number(gpu.shared_bytes_per_sm / _KIB)} KB",
    ),
    _Figure(
        "Maximum shared memory per thread block",
        "shared_bytes_per_block",
        _KIB,
        lambda gpu: f"{_number(gpu.shared_bytes_per_block / _KIB)} KB",
    ),
    _Figure("L2 cache (global, all SM shared)", "l2_bytes", _MIB, lambda gpu: f"{_number(gpu.l2_bytes / _MIB)} MB"),
)


def _rate(gpu: Gpu, kind: PrecisionClass) -> str:
    return f"{_number(gpu.tensor_tflops[kind])} with dense"


_BY_LABEL = {figure.label.lower(): figure for figure in _FIGURES}
_ONE_LINE = re.compile(r"^#+\s*Target GPU\s*:(.*)$", re.IGNORECASE)


@dataclass(frozen=True)
class GpuHeader:
    """What a document's header says.

    Attributes:
        gpu: the target, the header's figures in the place of the table's.
        figures: label -> text, as written; empty for the one-line form.
    """

    gpu: Gpu
    figures: Mapping[str, str]


def read_header(text: str, *, path: Path | None, first_line: int, gpu: Gpu | None = None) -> GpuHeader:
    """The GPU of a header section, in either form.

    Args:
        text: the section, line endings as `\\n`.
        path: the document; a GPU file is looked for beside it.
        first_line: line of the document where the section starts.
        gpu: the target that was asked for by name, in the place of the header's.

    Raises:
        DocumentError: the header names no GPU, or a figure is no number.
        UnknownGpuError: the table has no such GPU.
    """
    figures: dict[str, str] = {}
    lines_of: dict[str, int] = {}
    name, name_line = None, first_line
    for number, line in enumerate(text.split("\n"), start=first_line):
        one_line = _ONE_LINE.match(line)
        if one_line and one_line[1].strip():
            name, name_line = one_line[1].strip(), number
            continue
        label, colon, written = line.strip().lstrip("•*-").partition(":")
        label = label.strip()
        if not colon or not label or label.startswith("#"):
            continue
        figures.setdefault(label, written.strip())
        lines_of.setdefault(label, number)
        if label.lower() == "gpu name":
            name, name_line = written.strip(), number
    if gpu is not None:
        return GpuHeader(gpu, figures)
    where = SourceLocation(_shown(path), name_line)
    if not name:
        raise DocumentError("the document's header names no GPU", where=where, hint="--gpu NAME says which")
    found = _find(name, path, where)
    return GpuHeader(_with_figures(found, figures, lines_of, path), figures)


def _shown(path: Path | None) -> str:
    return "<document>" if path is None else str(path)


def _find(name: str, path: Path | None, where: SourceLocation) -> Gpu:
    """The GPU of that name; a TOML file beside the document comes before one in the working directory."""
    try:
        if path is not None and name.lower().endswith(".toml") and (path.parent / name).is_file():
            return find_gpu(str(path.parent / name))
        return find_gpu(name)
    except UnknownGpuError as error:
        raise UnknownGpuError(error.what, where=error.where or where, hint=error.hint) from None
    except (OSError, ValueError) as error:
        raise UnknownGpuError(f"the GPU file cannot be read: {error}", where=where) from None


def _with_figures(gpu: Gpu, figures: Mapping[str, str], lines: Mapping[str, int], path: Path | None) -> Gpu:
    """`gpu` with what the header says in the place of the table's figures; what they agree on stays as it is."""
    changes: dict[str, Any] = {}
    rates = dict(gpu.tensor_tflops)
    for label, written in figures.items():
        figure = _BY_LABEL.get(label.lower())
        if figure is None or written == figure.write(gpu):
            continue
        value = _read_number(written, figure, SourceLocation(_shown(path), lines[label]))
        if figure.field in {kind.value for kind in PrecisionClass}:
            rates[PrecisionClass(figure.field)] = value
            changes["tensor_tflops"] = rates
        else:
            changes[figure.field] = value
    capability = _read_capability(figures, lines, path)
    if capability is not None and capability != gpu.capability:
        changes["capability"] = capability
    if not changes:
        return gpu
    sources = {**gpu.sources, **dict.fromkeys(changes, f"the document {_shown(path)}")}
    return replace(gpu, **changes, sources=sources)


def _read_number(written: str, figure: _Figure, where: SourceLocation) -> float:
    """The figure's number, in the unit of its field."""
    match = re.match(r"(\d{1,12}(?:\.\d{1,12})?)(?![\d.])", written.replace(",", ""))
    value = float(match[1]) * figure.factor if match else 0.0
    if value <= 0 or (figure.integer and value != int(value)):
        kind = "a positive whole number" if figure.integer else "a positive number"
        raise DocumentError(f"the GPU's {figure.label!r} must be {kind}, not {written[:60]!r}", where=where)
    return int(value) if figure.integer else value


def _read_capability(figures: Mapping[str, str], lines: Mapping[str, int], path: Path | None) -> int | None:
    for label, written in figures.items():
        if label.lower() == "compute capability":
            match = re.fullmatch(r"(\d{1,2})\.(\d)", written)
            if match is None:
                where = SourceLocation(_shown(path), lines[label])
                raise DocumentError(f"the compute capability must be like 8.9, not {written[:60]!r}", where=where)
            return int(match[1]) * 10 + int(match[2])
    return None


def write_header(gpu: Gpu) -> str:
    r"""The table form of the header, in the documents' order. Ends with `\n`."""
    lines = [
        "# Target GPU",
        f"GPU Name: {gpu.file or gpu.name}",
        f"Architecture: {gpu.architecture}",
        f"• Compute Capability: {gpu.capability // 10}.{gpu.capability % 10}",
        *(f"• {figure.label}: {figure.write(gpu)}" for figure in _FIGURES),
    ]
    return "\n".join(lines) + "\n"
