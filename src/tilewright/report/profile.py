"""A profile as JSON, in the documents' form with the rest beside it, and as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tilewright.values import profile as names
from tilewright.values.profile import ForwardProfile, KernelProfile
from tilewright.values.serialise import as_json

#: Keys beside the kernels in the JSON object; none can be a kernel's name.
FORWARD = "tilewright:forward"
KERNELS = "tilewright:kernels"
SCHEMA = "tilewright:schema"


def profile_report(profile: ForwardProfile) -> dict[str, Any]:
    """kernel -> metric -> number, as the documents have it; everything else under keys with a colon.

    Launches of one kernel with another grid or schedule are told apart by a number after the name.
    """
    found: dict[str, Any] = {}
    for kernel in profile.kernels:
        found[_unused(kernel.kernel, found)] = {name: kernel.metrics[name] for name in _in_order(kernel.metrics)}
    kernels = [{**_plain(kernel), "kernel": name} for name, kernel in zip(found, profile.kernels, strict=True)]
    whole = as_json(profile)
    assert isinstance(whole, dict)
    whole.pop("kernels")
    return {**found, KERNELS: kernels, FORWARD: whole, SCHEMA: "tilewright.profile 1"}


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _in_order(metrics: Mapping[str, float]) -> list[str]:
    """The documents' metrics first, in their order."""
    first = [name for name in names.DOCUMENT_METRICS if name in metrics]
    return [*first, *(name for name in metrics if name not in first)]


def _plain(kernel: KernelProfile) -> dict[str, Any]:
    data = as_json(kernel)
    assert isinstance(data, dict)
    data.pop("metrics")
    return data


# ---------------------------------------------------------------------------------------------------------
# The terminal


def profile_view(profile: ForwardProfile) -> RenderableType:
    """Tables: where the time goes, the kernels' metrics, what limits them."""
    kind = "modelled for" if profile.modelled else "measured on"
    head = f"{kind} {profile.gpu or 'a GPU that the file does not name'}"
    if profile.total_ms is not None:
        head += f": {_time(profile.total_ms)} in all"
    parts: list[RenderableType] = [Text(head)]
    parts.append(_times(profile))
    parts += [_metrics(kernel) for kernel in profile.kernels if kernel.metrics and not kernel.native]
    parts += [Text(f"note: {note}") for note in profile.notes]
    return Group(*parts)


def _times(profile: ForwardProfile) -> Table:
    table = Table("step", "launches", "time", "share", "bound by", title="where the time goes", title_justify="left")
    total = profile.total_ms or sum(kernel.total_ms for kernel in profile.kernels) or 1.0
    rows = [(k.position, k.kernel, k.launches, k.total_ms, k.limit) for k in profile.kernels if k.duration_ms]
    rows += [(n.position, n.operation, n.calls, n.total_ms, n.limit) for n in profile.native]
    for _, name, launches, time, limit in sorted(rows):
        table.add_row(Text(name), str(launches), _time(time), f"{100 * time / total:.1f} %", limit or "-")
    if profile.gap_ms > 0:
        table.add_row("between kernels", "", _time(profile.gap_ms), f"{100 * profile.gap_ms / total:.1f} %", "launch")
    return table


def _metrics(kernel: KernelProfile) -> Table:
    table = Table("metric", "value", title=f"{kernel.kernel} ({kernel.label})", title_justify="left")
    shown = [name for name in _in_order(kernel.metrics) if name in _SHOWN]
    for name in shown:
        table.add_row(name, f"{kernel.metrics[name]:,.2f}".removesuffix(".00"))
    if kernel.spill_bytes:
        table.add_row("spilled bytes of a thread", f"{kernel.spill_bytes:,}")
    for title, values in (("limit", kernel.limits), ("stall", kernel.stalls), ("instructions", kernel.instruction_mix)):
        for name, value in sorted(values.items(), key=lambda item: -item[1])[:4]:
            table.add_row(f"{title}: {name}", _time(value) if title == "limit" else f"{100 * value:.1f} %")
    return table


_SHOWN = frozenset(
    {
        *names.DOCUMENT_METRICS,
        names.DURATION_NS,
        names.DRAM_READ_BYTES,
        names.DRAM_WRITTEN_BYTES,
        names.L1_HIT_RATE,
        names.LOAD_BYTES_PER_SECTOR,
        names.STORE_BYTES_PER_SECTOR,
        names.REGISTERS,
        names.SHARED_BYTES,
        names.THEORETICAL_OCCUPANCY,
        names.TENSOR_PIPE,
        names.WAVES,
        *names.OCCUPANCY_LIMITS,
    }
)


def _time(ms: float) -> str:
    return f"{ms:.3f} ms" if ms >= 0.1 else f"{1e3 * ms:.2f} us"
