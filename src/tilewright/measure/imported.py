"""Profiles out of files: what Nsight Compute wrote (`--csv`, `.ncu-rep`), and the documents' JSON."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tilewright.errors import SourceLocation, TilewrightError
from tilewright.measure.ncu import NcuKernel, kernel_profiles, read_csv
from tilewright.task.metrics import read_metrics
from tilewright.values import profile as names
from tilewright.values.profile import ForwardProfile, KernelProfile


class ProfileFileError(TilewrightError):
    """A profile cannot be read: not a file of Nsight Compute or of a document, or its library is missing."""


#: Folders of NVIDIA's own report library, below the root.
_LIBRARY = ("opt/nvidia/nsight-compute/*/extras/python", "usr/local/cuda*/nsight-compute*/extras/python")


def import_profile(path: Path | str, *, gpu: str = "", own: frozenset[str] = frozenset()) -> ForwardProfile:
    """The profile in a file.

    Args:
        path: output of `ncu --csv` (raw or details page), an `.ncu-rep` report, a document, or its JSON of metrics.
        gpu: the GPU's name, where the file does not say it.
        own: names of the profiled code's own kernels, where they are known.

    Raises:
        ProfileFileError: it is none of these, or the report library is not installed.
        DocumentError: the JSON is not kernel -> metric -> number; the message has the line.
    """
    file = Path(path)
    if file.suffix == ".ncu-rep":
        launches, source = _read_report(file), "ncu report"
        return measured_profile(launches, gpu, f"{source} {file.name}", own)
    text = _text(file)
    if '"ID",' in text:
        try:
            return measured_profile(read_csv(text), gpu, f"ncu --csv {file.name}", own)
        except ValueError as error:
            raise ProfileFileError(str(error), where=SourceLocation(str(file))) from None
    if "[NCU PROFILING METRICS]" in text:
        from tilewright.task.document import read_document

        document = read_document(text, file)
        return document_profile(document.metrics, gpu or document.gpu.name, file.name)
    if text.lstrip().startswith("{"):
        return document_profile(read_metrics(text, path=str(file), first_line=1), gpu, file.name)
    raise ProfileFileError(
        "this is no profile",
        where=SourceLocation(str(file)),
        hint="known are `ncu --csv` output (raw or details page), .ncu-rep reports, documents and their JSON",
    )


def document_profile(metrics: Mapping[str, Mapping[str, float]], gpu: str, source: str = "document") -> ForwardProfile:
    """A document's metrics as a profile: its own kernels alone, without times."""
    kernels = tuple(
        KernelProfile(
            kernel=kernel,
            gpu=gpu,
            modelled=False,
            source=source,
            metrics=dict(found),
            duration_ms=found[names.DURATION_NS] * 1e-6 if names.DURATION_NS in found else None,
            position=position,
            registers=int(found[names.REGISTERS]) if names.REGISTERS in found else None,
            dram_read_bytes=found.get(names.DRAM_READ_BYTES),
            dram_written_bytes=found.get(names.DRAM_WRITTEN_BYTES),
            evidence={"metrics": source},
        )
        for position, (kernel, found) in enumerate(metrics.items())
    )
    return ForwardProfile(kernels, gpu=gpu, notes=("the document tells neither times nor other kernels",))


def measured_profile(
    launches: tuple[NcuKernel, ...], gpu: str, source: str, own: frozenset[str] = frozenset()
) -> ForwardProfile:
    """Launches of a report as a profile; the total is that of the kernels."""
    kernels = tuple(kernel_profiles(launches, gpu, source, own))
    times = [kernel.total_ms for kernel in kernels if kernel.duration_ms is not None]
    return ForwardProfile(kernels, total_ms=sum(times) if times else None, gpu=gpu)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ProfileFileError("it is not UTF-8 text", where=SourceLocation(str(path))) from None
    except OSError as error:
        raise ProfileFileError(f"it cannot be read: {error.strerror}", where=SourceLocation(str(path))) from None


def _read_report(path: Path) -> tuple[NcuKernel, ...]:
    library = _report_library()
    if library is None:
        raise ProfileFileError(
            "an .ncu-rep report needs NVIDIA's report library, which is not installed here",
            where=SourceLocation(str(path)),
            hint="install Nsight Compute, or write the report as text: ncu --import FILE --csv --page raw",
        )
    try:
        report = library.load_report(str(path))
        return tuple(_action(action) for group in report for action in group)
    except Exception as error:  # the library's own errors have no common class
        raise ProfileFileError(f"the report cannot be read: {error}", where=SourceLocation(str(path))) from None


def _report_library() -> ModuleType | None:
    """NVIDIA's `ncu_report`, from the path or from where Nsight Compute installs it."""
    try:
        return importlib.import_module("ncu_report")
    except ImportError:
        pass
    for folder in sorted((path for pattern in _LIBRARY for path in Path("/").glob(pattern)), reverse=True):
        sys.path.append(str(folder))
        try:
            return importlib.import_module("ncu_report")
        except ImportError:
            continue
        finally:
            sys.path.remove(str(folder))
    return None


def _action(action: Any) -> NcuKernel:
    metrics: dict[str, float] = {}
    for name in action.metric_names():
        value = action[name].value()
        if isinstance(value, int | float) and not isinstance(value, bool):
            metrics[str(name)] = float(value)

    def triple(kind: str) -> tuple[int, int, int]:
        x, y, z = (int(metrics.get(f"launch__{kind}_dim_{axis}", 0)) for axis in "xyz")
        return x, y, z

    capability = int(metrics.get("device__attribute_compute_capability_major", 0)) * 10
    capability += int(metrics.get("device__attribute_compute_capability_minor", 0))
    return NcuKernel(str(action.name()), triple("grid"), triple("block"), metrics, capability)
