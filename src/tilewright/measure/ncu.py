"""Nsight Compute: where `ncu` lies, how it is called, and how its CSV is read."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tilewright.values import profile as names
from tilewright.values.profile import KernelProfile

#: Places of `ncu` beside PATH: patterns below the root.
_PLACES = ("opt/nvidia/nsight-compute/*/ncu", "usr/local/cuda*/bin/ncu")

SECTIONS = (
    "SpeedOfLight",
    "LaunchStats",
    "Occupancy",
    "MemoryWorkloadAnalysis",
    "MemoryWorkloadAnalysis_Tables",
    "WarpStateStats",
    "ComputeWorkloadAnalysis",
    "SchedulerStats",
    "InstructionStats",
)

#: Asked for by name beside what the sections bring.
METRICS = (
    *names.DOCUMENT_METRICS,
    names.DURATION_NS,
    names.DRAM_READ_BYTES,
    names.DRAM_WRITTEN_BYTES,
    names.L1_HIT_RATE,
    names.LOAD_BYTES_PER_SECTOR,
    names.STORE_BYTES_PER_SECTOR,
)

#: Tensor pipe by chip: the first that a report has counts.
_TENSOR_PIPE = (
    names.TENSOR_PIPE,
    "sm__pipe_tensor_type_hmma_hgmma_qgmma_imma_igmma_bmma_bgmma_cycles_active.avg.pct_of_peak_sustained_elapsed",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
)

_STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio")
#: Not waits: the warp issues, or could.
_NO_WAIT = ("selected", "not_selected")

#: Units of Nsight Compute's pages -> factor to the base unit.
_UNITS = {
    "nsecond": 1.0, "ns": 1.0, "usecond": 1e3, "us": 1e3, "msecond": 1e6, "ms": 1e6, "second": 1e9, "s": 1e9,
    "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "Tbyte": 1e12, "byte/block": 1.0, "Kbyte/block": 1e3,
    "Ghz": 1e9, "Mhz": 1e6, "hz": 1.0, "byte/second": 1.0, "Kbyte/second": 1e3, "Mbyte/second": 1e6,
    "Gbyte/second": 1e9, "Tbyte/second": 1e12, "byte/s": 1.0, "Kbyte/s": 1e3, "Mbyte/s": 1e6, "Gbyte/s": 1e9,
    "Tbyte/s": 1e12,
}  # fmt: skip

#: Names on the details page -> names of the metrics.
_DETAILS = {
    "Duration": names.DURATION_NS,
    "DRAM Throughput": names.DRAM_THROUGHPUT,
    "Compute (SM) Throughput": names.SM_THROUGHPUT,
    "L2 Hit Rate": names.L2_HIT_RATE,
    "L1/TEX Hit Rate": names.L1_HIT_RATE,
    "Grid Size": names.GRID_SIZE,
    "Block Size": names.BLOCK_SIZE,
    "Registers Per Thread": names.REGISTERS,
    "Achieved Occupancy": names.WARPS_ACTIVE,
    "Theoretical Occupancy": names.THEORETICAL_OCCUPANCY,
    "Block Limit Registers": names.LIMIT_REGISTERS,
    "Block Limit Shared Mem": names.LIMIT_SHARED,
    "Block Limit Warps": names.LIMIT_WARPS,
    "Block Limit SM": names.LIMIT_BLOCKS,
    "Waves Per SM": names.WAVES,
}


@dataclass(frozen=True)
class NcuKernel:
    """One launch in a report.

    Attributes:
        name: of the kernel.
        grid, block: as launched.
        metrics: name -> number in base units.
        capability: compute capability, 90 for 9.0; 0 where the report does not say.
    """

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    metrics: Mapping[str, float]
    capability: int = 0


@lru_cache(maxsize=1)
def find_ncu() -> Path | None:
    """The newest `ncu` of this machine: on PATH, or where NVIDIA's packages put it; None where there is none."""
    on_path = shutil.which("ncu")
    if on_path is not None:
        return Path(on_path)
    found = [path for pattern in _PLACES for path in Path("/").glob(pattern)]
    return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))], default=None)


def ncu_command(ncu: Path, program: Sequence[str], *, named: bool = True) -> list[str]:
    """The call of `ncu` on a program that starts and stops the profiler itself. Clocks are left alone.

    Args:
        ncu: its path.
        program: command line that is profiled.
        named: ask for metrics by name; a chip that lacks one of them refuses.
    """
    sections = [part for section in SECTIONS for part in ("--section", section)]
    metrics = ["--metrics", ",".join(METRICS)] if named else []
    options = ["--profile-from-start", "off", "--clock-control", "none", "--csv", "--page", "raw"]
    return [str(ncu), *options, "--print-units", "base", *sections, *metrics, *program]


def ncu_version(ncu: Path) -> str:
    """`2025.3.1.0`; empty where it does not say."""
    try:
        text = subprocess.run([str(ncu), "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"Version (\S+)", text)
    return found.group(1) if found else ""


def read_csv(text: str) -> tuple[NcuKernel, ...]:
    """The launches of `ncu --csv`, of its raw or of its details page; what stands around the table is passed over.

    Raises:
        ValueError: there is no such table.
    """
    start = re.search(r'^"ID",', text, re.MULTILINE)
    if start is None:
        raise ValueError("it holds no table of Nsight Compute (`ncu --csv`, raw or details page)")
    rows = [row for row in csv.reader(io.StringIO(text[start.start() :])) if row]
    head = rows[0]
    if "Metric Name" in head:
        return _details(head, rows[1:])
    return _raw(head, rows[1:])


def _raw(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[NcuKernel, ...]:
    units = rows[0] if rows and not rows[0][0].strip() else [""] * len(head)
    found = []
    for row in rows:
        if len(row) != len(head) or not row[0].strip().isdigit():
            continue
        fields = dict(zip(head, row, strict=True))
        metrics = {
            name: number if _factor(unit) == 1 else number * _factor(unit)
            for name, unit, value in zip(head, units, row, strict=True)
            if "__" in name and (number := _number(value)) is not None
        }
        found.append(_kernel(fields, metrics))
    return tuple(found)


def _details(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[NcuKernel, ...]:
    launches: dict[str, tuple[dict[str, str], dict[str, float]]] = {}
    for row in rows:
        # Rows of metrics stop where the columns of rules begin.
        fields = dict(zip(head, row, strict=False))
        if "Metric Name" not in fields:
            continue
        _, metrics = launches.setdefault(fields["ID"], (fields, {}))
        number = _number(fields.get("Metric Value", ""))
        name = fields.get("Metric Name", "")
        if number is not None and name:
            factor = _factor(fields.get("Metric Unit", ""))
            metrics[_DETAILS.get(name, name)] = number if factor == 1 else number * factor
    return tuple(_kernel(fields, metrics) for fields, metrics in launches.values())


def _kernel(fields: Mapping[str, str], metrics: dict[str, float]) -> NcuKernel:
    grid, block = _triple(fields.get("Grid Size", "")), _triple(fields.get("Block Size", ""))
    if names.GRID_SIZE not in metrics and grid[0]:
        metrics[names.GRID_SIZE] = grid[0] * grid[1] * grid[2]
    capability = re.fullmatch(r"\s*(\d+)\.(\d)\s*", fields.get("CC", ""))
    number = int(capability.group(1) + capability.group(2)) if capability else 0
    return NcuKernel(fields.get("Kernel Name", ""), grid, block, metrics, number)


def _triple(text: str) -> tuple[int, int, int]:
    sizes = [int(size) for size in re.findall(r"\d+", text)]
    return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else (0, 0, 0)


def _number(text: str) -> float | int | None:
    """A number as printed: with thousands separators, or `1,234 (5)` for several instances."""
    try:
        number = float(text.split("(")[0].replace(",", "").strip())
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _factor(unit: str) -> float:
    return _UNITS.get(unit.strip(), 1.0)


# ---------------------------------------------------------------------------------------------------------
# Profiles


def kernel_profiles(launches: Sequence[NcuKernel], gpu: str, source: str, own: frozenset[str]) -> list[KernelProfile]:
    """Launches of a report as profiles; those of one kernel and grid together, their metrics averaged.

    Args:
        launches: in order.
        gpu: the GPU's name.
        source: for `KernelProfile.source`.
        own: names of the profiled code's own kernels; others are native. Empty where it is not known.
    """
    groups: dict[tuple[str, tuple[int, int, int]], list[tuple[int, NcuKernel]]] = {}
    for position, launch in enumerate(launches):
        groups.setdefault((plain_name(launch.name), launch.grid), []).append((position, launch))
    return [_profile(name, group, gpu, source, own) for (name, _), group in groups.items()]


def plain_name(name: str) -> str:
    """A kernel's name without return type, template arguments and parameters."""
    text = re.sub(r"^(void|static)\s+", "", name.strip())
    return re.split(r"[<(]", text, maxsplit=1)[0].strip() or name


def _profile(
    name: str, group: Sequence[tuple[int, NcuKernel]], gpu: str, source: str, own: frozenset[str]
) -> KernelProfile:
    known = [launch.metrics for _, launch in group]
    shared = set(known[0]).intersection(*known[1:])
    metrics = {
        key: known[0][key] if len(known) == 1 else sum(one[key] for one in known) / len(known)
        for key in known[0]
        if key in shared
    }
    pipe = next((key for key in _TENSOR_PIPE if key in metrics), None)
    if pipe is not None:
        metrics.setdefault(names.TENSOR_PIPE, metrics[pipe])
    first = group[0][1]
    threads = first.block[0] * first.block[1] * first.block[2] or int(metrics.get(names.BLOCK_SIZE, 0))
    duration = metrics.get(names.DURATION_NS)
    limits = {short: int(metrics[key]) for key, short in names.OCCUPANCY_LIMITS.items() if key in metrics}
    return KernelProfile(
        kernel=name,
        gpu=gpu,
        modelled=False,
        source=source,
        grid=first.grid,
        launches=len(group),
        metrics=metrics,
        duration_ms=None if duration is None else duration * 1e-6,
        native=bool(own) and name not in own,
        position=group[0][0],
        warps=-(-threads // 32) if threads else None,
        registers=_whole(metrics, names.REGISTERS),
        shared_bytes=_whole(metrics, names.SHARED_BYTES),
        active_blocks=min(limits.values()) if limits else None,
        occupancy_limits=limits,
        waves=metrics.get(names.WAVES),
        stalls=_stalls(metrics),
        tensor_percent=metrics.get(names.TENSOR_PIPE),
        dram_read_bytes=metrics.get(names.DRAM_READ_BYTES),
        dram_written_bytes=metrics.get(names.DRAM_WRITTEN_BYTES),
        load_bytes_per_sector=metrics.get(names.LOAD_BYTES_PER_SECTOR),
        store_bytes_per_sector=metrics.get(names.STORE_BYTES_PER_SECTOR),
        evidence={"metrics": source},
    )


def _whole(metrics: Mapping[str, float], name: str) -> int | None:
    return int(metrics[name]) if name in metrics else None


def _stalls(metrics: Mapping[str, float]) -> dict[str, float]:
    """Shares of the time that warps wait, by reason."""
    waits = {found.group(1): value for name, value in metrics.items() if (found := _STALL.fullmatch(name))}
    waits = {name: value for name, value in waits.items() if name not in _NO_WAIT and value > 0}
    whole = sum(waits.values())
    return {name: value / whole for name, value in sorted(waits.items(), key=lambda item: -item[1])} if whole else {}
