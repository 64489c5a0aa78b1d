"""One launch under all its limits: the time that it takes, and which limit binds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tilewright.gpu.gpu import Gpu
from tilewright.gpu.occupancy import Occupancy, occupancy
from tilewright.measure import constants as c
from tilewright.measure.banks import copies_past_l1, shared_cycles
from tilewright.measure.caches import L2Traffic, hit_percent_with_spills, through_l2
from tilewright.measure.demand import Demand, tensor_cycles, warp_demand
from tilewright.measure.flow import Loop, Path, hot_path
from tilewright.measure.sass import Pipe
from tilewright.measure.seen import KernelCode, SeenKernel, SeenLaunch
from tilewright.measure.timeline import Latencies, Program, Timeline, follow
from tilewright.measure.traffic import LINE, SECTOR, ProgramTraffic, SiteTraffic, program_traffic
from tilewright.values.verdict import KernelResources


@dataclass(frozen=True)
class KernelModel:
    """Everything that the model says of one launch.

    Attributes:
        time_ms: of the launch.
        limits: limit -> milliseconds that it alone would take.
        limit: the one that binds.
        programs, resident: of the launch; that the GPU holds at once.
        held: its occupancy.
        achieved: part of the multiprocessor's warps that are active in the mean, 0 to 1.
        waves: programs / resident.
        traffic: of a typical program.
        l2: the launch's traffic at L2.
        demand: of one warp.
        timeline: of one warp alone.
        l1_hit_percent, l2_hit_percent: of the sectors that each is asked for.
    """

    time_ms: float
    limits: Mapping[str, float]
    limit: str
    programs: int
    resident: int
    held: Occupancy
    achieved: float
    waves: float
    traffic: ProgramTraffic
    l2: L2Traffic
    demand: Demand
    timeline: Timeline
    l1_hit_percent: float
    l2_hit_percent: float


def model_kernel(kernel: SeenKernel, seen: SeenLaunch, gpu: Gpu) -> KernelModel:
    """The model of one launch whose accesses were sampled; the kernel must have compiled."""
    assert kernel.resources is not None
    assert kernel.code is not None
    resources, code = kernel.resources, kernel.code
    programs = math.prod(seen.grid)
    held = occupancy(gpu, registers=resources.registers, shared_bytes=resources.shared_bytes, warps=resources.warps)
    blocks = max(1, held.active_blocks)
    traffic = program_traffic(seen, code, resources.warps, _l1_bytes(gpu, resources, blocks) / blocks)
    resident = gpu.sm_count * blocks
    l2 = through_l2(traffic.tensors, programs, resident, gpu)
    path = hot_path(code.instructions, _wanted(traffic))
    banks = shared_cycles(path, resources.warps, _lines(traffic))
    demand = warp_demand(path, gpu, banks)
    latencies = _latencies(traffic, l2, gpu)
    timeline = follow(path, latencies, tensor_cycles(gpu))
    together = Program(resources.warps, banks, _fills(traffic)) if _in_step(path) else Program()
    program_cycles = follow(path, latencies, tensor_cycles(gpu), together).cycles
    work = _Work(gpu, resources, code, traffic, l2, demand, timeline, program_cycles, held, programs)
    limits = work.limits()
    time_ms = work.time_ms(limits)
    limit = max((name for name in limits), key=lambda name: limits[name])
    return KernelModel(
        time_ms, limits, limit, programs, resident, held, work.achieved(time_ms, path), programs / resident,
        traffic, l2, demand, timeline, work.l1_hit_percent(),
        hit_percent_with_spills(l2, demand.local_stores * SECTOR * resources.warps * programs),
    )  # fmt: skip


def _l1_bytes(gpu: Gpu, resources: KernelResources, blocks: int) -> float:
    """L1 that is left beside the shared memory of the resident programs."""
    whole = c.L1_KIB_BY_CAPABILITY.get(gpu.capability, 128) * 1024
    return max(16 * 1024.0, whole - blocks * (resources.shared_bytes + 1024))


def _wanted(traffic: ProgramTraffic) -> dict[tuple[int, bool], float]:
    """(line, stores) -> bytes that one lane asks for, for the loops' trips."""
    return {(site.line, site.stores): site.lane_bytes for site in traffic.sites}


def _lines(traffic: ProgramTraffic) -> dict[int, float]:
    """Source line -> lines of 128 bytes that a request of its loads touches, in the mean."""
    return {site.line: site.lines / max(site.requests, 1.0) for site in traffic.sites if not site.stores}


def _fills(traffic: ProgramTraffic) -> dict[int, float]:
    """Source line -> cycles for which what L1 misses of a request of its loads is written to it, in the mean."""
    return {
        site.line: site.missed_sectors * SECTOR / c.L1_BYTES_PER_CLOCK / max(site.requests, 1.0)
        for site in traffic.sites
        if not site.stores
    }


def _latencies(traffic: ProgramTraffic, l2: L2Traffic, gpu: Gpu) -> Latencies:
    """Mean latency of each place's loads: a request is as late as its slowest sector."""
    of_load: dict[int, float] = {}
    requests: dict[int, float] = {}
    dram = c.COLD_LATENCY_NS * gpu.boost_clock_mhz * 1e-3
    whole = sum(tensor.unique_sectors for tensor in traffic.tensors) or 1.0
    dram_part = sum(
        tensor.unique_sectors / whole * (1.0 - hit) for tensor, hit in zip(traffic.tensors, l2.read_hit, strict=True)
    )
    for site in traffic.sites:
        each = max(1.0, site.sectors / max(site.requests, 1.0))
        missing = site.missed_sectors / site.sectors if site.sectors else 1.0
        past_l1 = 1.0 - (1.0 - missing) ** each
        past_l2 = 1.0 - (1.0 - missing * dram_part) ** min(each, 8.0)
        latency = c.L1_LATENCY_CYCLES + past_l1 * (c.L2_LATENCY_CYCLES - c.L1_LATENCY_CYCLES)
        latency += past_l2 * (dram - c.L2_LATENCY_CYCLES)
        of_load[site.line] = max(latency, of_load.get(site.line, 0.0)) if not site.stores else of_load.get(site.line, 0)
        requests[site.line] = max(1.0, site.lines / max(site.requests, 1.0) * c.L1_CYCLES_PER_LINE)
    return Latencies(of_load, requests, dram)


@dataclass(frozen=True)
class _Work:
    """A launch's work, ready to be divided by rates; `program_cycles` of a program alone, its warps in step."""

    gpu: Gpu
    resources: KernelResources
    code: KernelCode
    traffic: ProgramTraffic
    l2: L2Traffic
    demand: Demand
    timeline: Timeline
    program_cycles: float
    held: Occupancy
    programs: int

    def limits(self) -> dict[str, float]:
        """Limit -> milliseconds that it alone would take."""
        cycles = self.gpu.boost_clock_mhz * 1e3
        share = self._per_multiprocessor() * self.resources.warps / cycles
        pipes = self.demand.pipe_cycles
        partitioned = share / 4.0
        l1, shared = self._l1_cycles()
        limits = {
            "dram": self._dram_ms(),
            "l2": self._l2_ms(),
            "l1": l1 * self._per_multiprocessor() / cycles,
            "issue": self.demand.instructions * partitioned,
            "fp32": (pipes.get(Pipe.FMA, 0.0) + pipes.get(Pipe.HEAVY, 0.0)) * partitioned,
            "integer": pipes.get(Pipe.ALU, 0.0) * partitioned,
            "special": pipes.get(Pipe.SPECIAL, 0.0) * partitioned,
            "tensor": pipes.get(Pipe.TENSOR, 0.0) * partitioned,
            "shared": shared * self._per_multiprocessor() / cycles,
            "latency": self._latency_ms(),
            "launch": c.EMPTY_KERNEL_MS + self.programs * c.PROGRAM_START_NS * 1e-6,
        }
        return {name: value for name, value in limits.items() if value > 0}

    def time_ms(self, limits: Mapping[str, float]) -> float:
        """The time under all limits: whole waves, then what is left."""
        throughput = combined([value for name, value in limits.items() if name not in ("latency", "launch")])
        waves = self.programs / (self.gpu.sm_count * max(1, self.held.active_blocks))
        alone = self.timeline.cycles / (self.gpu.boost_clock_mhz * 1e3)
        # A program whose warps wait for one another at barriers never ends before their turns at the units are over.
        least = self.program_cycles / (self.gpu.boost_clock_mhz * 1e3)
        whole = math.floor(waves)
        rest = waves - whole
        time = 0.0
        if whole:
            time = whole * max(least, combined([alone, throughput / waves], c.LATENCY_EXPONENT))
        if rest > 1e-9:
            time += max(least, combined([alone, throughput * rest / waves], c.LATENCY_EXPONENT))
        return max(time, self.programs * c.PROGRAM_START_NS * 1e-6) + c.EMPTY_KERNEL_MS

    def achieved(self, time_ms: float, path: Path) -> float:
        """Part of the warps that are active in the mean, on multiprocessors that have any."""
        gpu, warps = self.gpu, self.resources.warps
        busy = min(gpu.sm_count, self.programs)
        slots = busy * max(1, self.held.active_blocks)
        if self.programs <= slots:
            return min(self.held.fraction, self.programs / busy * warps / gpu.max_warps_per_sm)
        waves = self.programs / slots
        life_ns = (time_ms - c.EMPTY_KERNEL_MS) * 1e6 / waves
        idle = 0.0 if _in_step(path) else c.SLOT_IDLE_PART + c.SLOT_IDLE_PART_PER_DOUBLING * math.log2(max(1, warps))
        idle += min(0.9, c.SLOT_START_NS / max(life_ns, 1.0))
        alone = self.timeline.cycles / (gpu.boost_clock_mhz * 1e3)
        started = self.programs * c.PROGRAM_START_NS * 1e-6
        # Where programs end sooner than others can start, the slots stay empty.
        fed = (
            min(1.0, self.programs * max(alone, 1e-9) / slots / max(started, 1e-9))
            if started >= 0.95 * (time_ms - c.EMPTY_KERNEL_MS)
            else 1.0
        )
        return self.held.fraction * (1.0 - min(idle, 0.95)) * fed

    def l1_hit_percent(self) -> float:
        """Sectors that L1 holds, of those that are asked for."""
        asked = sum(site.sectors for site in self.traffic.sites)
        missed = sum(site.missed_sectors for site in self.traffic.sites)
        local = self.demand.local_sectors * self.resources.warps
        kept = local * 1.0
        return 100.0 * (asked - missed + kept) / (asked + local) if asked + local else 0.0

    def _per_multiprocessor(self) -> float:
        """Programs of the busiest multiprocessor, where there are so few that it matters."""
        even = self.programs / self.gpu.sm_count
        return float(math.ceil(even)) if even < 2 * max(1, self.held.active_blocks) else even

    def _dram_ms(self) -> float:
        read, written = self.l2.dram_read_bytes, self.l2.dram_written_bytes
        if read + written <= 0:
            return 0.0
        mixed = 2.0 * min(read, written) / (read + written)
        pure = c.DRAM_READ_PART if read >= written else c.DRAM_WRITE_PART
        part = pure + (c.DRAM_COPY_PART - pure) * mixed
        return (read + written) / (self.gpu.bandwidth_gb_s * 1e6 * part * run_part(self.l2.run_bytes, self.l2.beside))

    def _l2_ms(self) -> float:
        each = c.L2_BYTES_PER_CLOCK_PER_SM_BY_CAPABILITY.get(self.gpu.capability, c.L2_BYTES_PER_CLOCK_PER_SM)
        local = self.demand.local_stores * SECTOR * self.resources.warps * self.programs
        rate = each * self.gpu.sm_count * self.gpu.boost_clock_mhz * 1e3
        # A request names one line: one that wants a single sector costs more than that sector.
        lines = sum(max(site.missed_lines, site.missed_sectors * SECTOR / LINE) for site in self.traffic.sites)
        requests = lines * c.L2_SECTORS_PER_REQUEST * SECTOR * self.programs
        return max(self.l2.read_bytes + self.l2.stored_bytes + local, requests) / rate

    def _l1_cycles(self) -> tuple[float, float]:
        """Cycles for which a program occupies its multiprocessor's L1 and its shared memory.

        L1's are its lookups, its data, or what it misses. The data of the two come from one memory (NVIDIA, "Tesla V100
        GPU Architecture": combined L1 data cache and shared memory; Nsight Compute counts the wavefronts of both in one
        data stage), so that their cycles add up: charged to the one that asks for more. What L1 misses is written to
        it before it is read; a copy that goes past L1 is only what it stores in shared memory.
        """
        local = self.demand.local_sectors * self.resources.warps * SECTOR / LINE
        past = copies_past_l1(self.code.instructions)
        own = [site for site in self.traffic.sites if site.stores or site.line not in past]
        moved = sum(site.sectors + (0.0 if site.stores else site.missed_sectors) for site in own)
        data = moved * SECTOR / c.L1_BYTES_PER_CLOCK + local
        lookups = sum(site.lines * c.L1_CYCLES_PER_LINE for site in self.traffic.sites) + local
        misses = sum(_miss_cycles(site) for site in self.traffic.sites) + local
        shared = self.demand.shared_cycles * self.resources.warps
        if shared > data:
            return max(lookups, data, misses), data + shared
        return max(lookups, data + shared, misses), shared

    def _latency_ms(self) -> float:
        waves = self.programs / (self.gpu.sm_count * max(1, self.held.active_blocks))
        return max(1.0, waves) * self.timeline.cycles / (self.gpu.boost_clock_mhz * 1e3)


def _miss_cycles(site: SiteTraffic) -> float:
    """A missing line takes two cycles on the way to L2, however few of its sectors are wanted."""
    lines = max(site.missed_lines, site.missed_sectors * SECTOR / LINE)
    return lines * c.L1_MISS_CYCLES_PER_LINE


def run_part(run_bytes: float, beside: float = 0.0) -> float:
    """Part of the streaming bandwidth that remains when so many contiguous bytes are fetched together.

    Args:
        run_bytes: contiguous bytes.
        beside: part of the fetches whose neighbours in memory other programs fetch at the same time, 0 to 1.
    """
    alone, together = (_interpolated(run_bytes, table) for table in (c.RUN_PARTS, c.RUN_PARTS_BESIDE))
    return alone + (together - alone) * beside


def _interpolated(run_bytes: float, table: tuple[tuple[float, float], ...]) -> float:
    sizes = [math.log2(size) for size, _ in table]
    return float(np.interp(math.log2(max(run_bytes, 1.0)), sizes, [part for _, part in table]))


def combined(times: list[float], exponent: float = c.LIMIT_EXPONENT) -> float:
    """Several limits at once: a little more than the longest alone."""
    longest = max(times, default=0.0)
    if longest <= 0:
        return 0.0
    return longest * float(sum((time / longest) ** exponent for time in times) ** (1.0 / exponent))


def _in_step(path: Path) -> bool:
    """The warps of a program meet at barriers again and again, so that they end together."""

    def barrier(steps: tuple[object, ...]) -> bool:
        return any(
            barrier(step.body) if isinstance(step, Loop) else getattr(step, "base", "") == "BAR" for step in steps
        )

    return any(isinstance(step, Loop) and step.trips > 8 and barrier(step.body) for step in path.steps)
