"""Metrics side by side: what each is called for people, and its figure in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilewright.report.summary import bytes_text
from tilewright.values import profile as m
from tilewright.values.profile import KernelProfile
from tilewright.values.sight import Sight

#: Metric -> (for people, unit), in the order of the tables.
NAMES: Mapping[str, tuple[str, str]] = {
    m.DURATION_NS: ("duration", "ns"),
    m.SM_THROUGHPUT: ("SM throughput", "%"),
    m.DRAM_THROUGHPUT: ("DRAM throughput", "%"),
    m.L2_THROUGHPUT: ("L2 throughput", "%"),
    m.TENSOR_PIPE: ("tensor pipe", "%"),
    m.ISSUE_ACTIVE: ("issue slots used", "%"),
    m.SM_ACTIVE: ("SMs active", "%"),
    m.WARPS_ACTIVE: ("warps active", "%"),
    m.THEORETICAL_OCCUPANCY: ("warps that fit", "%"),
    m.L1_HIT_RATE: ("L1 hit rate", "%"),
    m.L2_HIT_RATE: ("L2 hit rate", "%"),
    m.DRAM_READ_BYTES: ("read from DRAM", "bytes"),
    m.DRAM_WRITTEN_BYTES: ("written to DRAM", "bytes"),
    m.LOAD_BYTES_PER_SECTOR: ("bytes a loaded sector", ""),
    m.STORE_BYTES_PER_SECTOR: ("bytes a stored sector", ""),
    m.LOAD_SECTORS_PER_REQUEST: ("sectors a load", ""),
    m.STORE_SECTORS_PER_REQUEST: ("sectors a store", ""),
    m.GRID_SIZE: ("programs", "count"),
    m.WAVES: ("waves", ""),
    m.BLOCK_SIZE: ("threads a program", "count"),
    m.REGISTERS: ("registers a thread", "count"),
    m.SHARED_BYTES: ("shared memory a program", "bytes"),
    m.LIMIT_REGISTERS: ("programs an SM, by registers", "count"),
    m.LIMIT_SHARED: ("programs an SM, by shared memory", "count"),
    m.LIMIT_WARPS: ("programs an SM, by warps", "count"),
    m.LIMIT_BLOCKS: ("programs an SM, at most", "count"),
}

#: Fields of a profile that stand in where no metric says the same: metric -> field.
_FIELDS: Mapping[str, str] = {
    m.REGISTERS: "registers",
    m.SHARED_BYTES: "shared_bytes",
    m.WAVES: "waves",
    m.LOAD_BYTES_PER_SECTOR: "load_bytes_per_sector",
    m.STORE_BYTES_PER_SECTOR: "store_bytes_per_sector",
    m.TENSOR_PIPE: "tensor_percent",
    m.DRAM_READ_BYTES: "dram_read_bytes",
    m.DRAM_WRITTEN_BYTES: "dram_written_bytes",
}


@dataclass(frozen=True)
class MetricTable:
    """The metrics of one kernel, measured and modelled side by side.

    Attributes:
        subject: whose kernel it is.
        kernel: its name.
        schedule: of its launch.
        limit: what binds it, as the model says.
        has_measured, has_modelled: which columns there are.
        rows: (for people, Nsight Compute's name, measured, modelled), as text.
    """

    subject: str
    kernel: str
    schedule: str
    limit: str
    has_measured: bool
    has_modelled: bool
    rows: tuple[tuple[str, str, str, str], ...]


def metric_tables(sights: Sequence[Sight]) -> tuple[MetricTable, ...]:
    """One table for each kernel of the given code and of the result."""
    tables = []
    for sight in sights:
        profiles = (sight.measured, sight.modelled)
        names = dict.fromkeys(
            kernel.kernel for forward in profiles if forward is not None for kernel in forward.kernels
        )
        for name in names:
            measured, modelled = (forward.kernel(name) if forward is not None else None for forward in profiles)
            tables.append(_table(sight.subject, name, measured, modelled))
    return tuple(tables)


def _table(subject: str, kernel: str, measured: KernelProfile | None, modelled: KernelProfile | None) -> MetricTable:
    found = {name for profile in (measured, modelled) if profile is not None for name in _figures(profile)}
    ordered = [name for name in NAMES if name in found] + sorted(found - set(NAMES))
    rows = tuple(
        (NAMES.get(name, (name, ""))[0], name, _text(measured, name), _text(modelled, name)) for name in ordered
    )
    known = [profile for profile in (modelled, measured) if profile is not None]
    return MetricTable(
        subject,
        kernel,
        next((profile.schedule for profile in known if profile.schedule), ""),
        next((profile.limit for profile in known if profile.limit), ""),
        measured is not None,
        modelled is not None,
        rows,
    )


def _figures(profile: KernelProfile) -> dict[str, float]:
    figures = {metric: getattr(profile, field) for metric, field in _FIELDS.items()}
    found = {metric: value for metric, value in figures.items() if value is not None}
    if profile.duration_ms is not None:
        found[m.DURATION_NS] = profile.duration_ms * 1e6
    if profile.programs:
        found[m.GRID_SIZE] = profile.programs
    return {**found, **profile.metrics}


def _text(profile: KernelProfile | None, metric: str) -> str:
    value = _figures(profile).get(metric) if profile is not None else None
    if value is None:
        return "-"
    unit = NAMES.get(metric, ("", ""))[1]
    if unit == "ns":
        return f"{value * 1e-6:.4g} ms" if value >= 1e5 else f"{value * 1e-3:.4g} us"
    if unit == "bytes":
        return bytes_text(value)
    if unit == "count":
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.4g} {unit}".rstrip()
