"""What holds one kernel back: memory, programs, waves, sectors, registers, shared memory, latency, units."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tilewright.diagnosis.facts import Facts, Figure, KernelFacts
from tilewright.diagnosis.rule import Threshold, plain, words_of_bytes
from tilewright.measure import constants as c
from tilewright.values.diagnosis import Diagnosis, Evidence
from tilewright.values.profile import (
    DRAM_THROUGHPUT,
    L2_HIT_RATE,
    L2_THROUGHPUT,
    SM_THROUGHPUT,
    THEORETICAL_OCCUPANCY,
    WARPS_ACTIVE,
)

FORWARD = "forward pass"

#: Part of a kernel's bytes under which the sectors of its loads, or of its stores, cost nothing.
_MINOR_TRAFFIC = 0.05

#: Throughputs of a kernel, percent of their peaks.
_THROUGHPUTS = (SM_THROUGHPUT, DRAM_THROUGHPUT, L2_THROUGHPUT)


def throughputs(kernel: KernelFacts) -> list[tuple[str, Figure]]:
    """The kernel's throughputs that are known; those of one origin, since the two are not to be mixed."""
    found = [(name, figure) for name in _THROUGHPUTS if (figure := kernel.metric(name)) is not None]
    measured = [item for item in found if item[1].label == "measured"]
    return measured or found


def highest_throughput(kernel: KernelFacts) -> float:
    """The highest of them, percent; 0 where none is known."""
    return max((figure.value for _, figure in throughputs(kernel)), default=0.0)


def cost_of(part: float, time: Figure | None) -> tuple[float | None, str]:
    """A part of a time, 0 to 1, and the origin of the time."""
    return (None, "") if time is None else (max(0.0, part) * time.value, time.label)


def _evidence(kernel: KernelFacts, name: str, unit: str) -> Iterator[Evidence]:
    figure = kernel.metric(name)
    if figure is not None:
        yield plain(name, figure.value, unit, figure.label)


# ---------------------------------------------------------------------------------------------------------
# Memory


def at_dram_roofline(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Memory runs at its peak: only fewer bytes help."""
    for kernel in facts.kernels:
        used = kernel.metric(DRAM_THROUGHPUT)
        if used is None or not threshold.met_by(used.value):
            continue
        traffic = kernel.traffic
        cost, label = cost_of(traffic.between / traffic.total if traffic.total else 0.0, kernel.time_ms)
        fusible = _is_fusible(kernel)
        evidence = [threshold.evidence(DRAM_THROUGHPUT, used), *_evidence(kernel, L2_HIT_RATE, "%")]
        if traffic.total:
            evidence.append(plain("bytes of its tensors, once each", traffic.total, "bytes", "counted"))
            evidence.append(plain("of these, intermediate results", traffic.between, "bytes", "counted"))
        yield Diagnosis(
            "memory-roofline",
            f"{kernel.name} is at the DRAM roofline",
            kernel.name,
            f"{kernel.name} moves bytes at {used.value:.0f} % of the {facts.gpu.name}'s {facts.gpu.bandwidth_gb_s:g} "
            f"GB/s: it cannot go faster with the bytes that it moves, whatever its tile, warps or stages."
            + _intermediates(kernel),
            tuple(evidence),
            _fewer_bytes(kernel),
            cost if fusible else None,
            label if fusible else "",
        )


def _is_fusible(kernel: KernelFacts) -> bool:
    """Enough of its bytes are intermediate results that fusing would save them."""
    return kernel.traffic.between > _MINOR_TRAFFIC * kernel.traffic.total


def _intermediates(kernel: KernelFacts) -> str:
    traffic = kernel.traffic
    if not _is_fusible(kernel):
        return ""
    made = f" that {traffic.maker} wrote just before" if traffic.maker else ""
    return (
        f" {words_of_bytes(traffic.between)} of the {words_of_bytes(traffic.total)} are an intermediate result{made}."
    )


def _fewer_bytes(kernel: KernelFacts) -> str:
    if not kernel.traffic.total:
        return "Fewer or narrower bytes: fuse it with the step before or after it."
    if not _is_fusible(kernel):
        return "Nothing in this kernel: it reads its inputs and writes its outputs once. Fewer or narrower bytes only."
    if kernel.traffic.maker:
        return f"Fuse it into {kernel.traffic.maker}, so that the result between them never goes to memory."
    return "Fuse it with the step that reads its result, so that the result never goes to memory."


def wasted_sectors(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Of the 32 bytes of each sector that moves, few are used."""
    for kernel in facts.kernels:
        traffic = kernel.traffic
        for field, word, asked in (
            ("load_bytes_per_sector", "loads", traffic.read),
            ("store_bytes_per_sector", "stores", traffic.written),
        ):
            used = kernel.field(field)
            few = asked < _MINOR_TRAFFIC * traffic.total
            if used is None or used.value <= 0 or few or not threshold.met_by(used.value):
                continue
            yield Diagnosis(
                "wasted-sectors",
                f"{word} of {kernel.name} use {used.value:.0f} of 32 bytes a sector",
                kernel.name,
                f"Memory moves in sectors of 32 bytes, and the {word} of {kernel.name} use {used.value:.1f} of them: "
                "neighbouring lanes ask for addresses that lie apart.",
                (threshold.evidence(field, used), *_evidence(kernel, L2_HIT_RATE, "%")),
                "Let neighbouring lanes take neighbouring addresses: the dim with stride 1 last in the tile, and "
                "several of its elements for each program.",
                *_sector_cost(kernel, facts, asked, used.value),
            )


def _sector_cost(kernel: KernelFacts, facts: Facts, asked: int, used: float) -> tuple[float | None, str]:
    """Time that L2 needs for the bytes that nobody wanted, of the whole work."""
    time = kernel.time_ms
    if time is None:
        return None, ""
    rate = c.L2_BYTES_PER_CLOCK_PER_SM * facts.gpu.sm_count * facts.gpu.boost_clock_mhz * 1e3
    unwanted = asked * (32.0 / used - 1.0) / rate * kernel.launches
    return min(unwanted, time.value * (1.0 - used / 32.0) / _read_part(kernel)), "modelled"


def _read_part(kernel: KernelFacts) -> float:
    """How much of its operands the kernel reads, 0 to 1: what it costs is given for the whole of them."""
    return min((part.read for part in kernel.unread), default=1.0)


# ---------------------------------------------------------------------------------------------------------
# Programs and waves


def too_few_programs(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Fewer programs than multiprocessors."""
    count = facts.gpu.sm_count
    for kernel in facts.kernels:
        programs = kernel.programs
        if programs is None or programs.value <= 0 or not threshold.met_by(programs.value / count):
            continue
        time = kernel.time_ms
        if time is not None and time.value <= 2 * c.LAUNCH_MS * kernel.launches:
            continue  # what ends with its launch has nothing to spread
        gain = min(count / programs.value, 100.0 / max(highest_throughput(kernel), 1e-3))
        cost, label = cost_of(1.0 - 1.0 / max(gain, 1.0), time)
        idle = count - programs.value
        share = Figure(programs.value / count, programs.label)
        yield Diagnosis(
            "too-few-programs",
            f"{kernel.name}: {programs.value:.0f} programs on {count} multiprocessors",
            kernel.name,
            f"{kernel.name} launches {programs.value:.0f} programs, the {facts.gpu.name} has {count} multiprocessors: "
            f"{idle:.0f} of them have nothing to do.",
            (
                threshold.evidence("programs for each multiprocessor", share),
                plain("launch__grid_size", programs.value, "programs", programs.label),
                *_evidence(kernel, WARPS_ACTIVE, "%"),
                *_evidence(kernel, DRAM_THROUGHPUT, "%"),
            ),
            "Smaller tiles, or a reduction that is split over programs, its partial results added up afterwards.",
            cost,
            label,
        )


def tail_wave(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """The last wave of programs fills a part of the GPU."""
    for kernel in facts.kernels:
        waves = kernel.field("waves")
        if waves is None or waves.value <= 1.0 or highest_throughput(kernel) >= 80.0:
            continue
        idle = 1.0 - waves.value / math.ceil(waves.value)
        if not threshold.met_by(100 * idle):
            continue
        cost, label = cost_of(idle, kernel.time_ms)
        yield Diagnosis(
            "tail-wave",
            f"{kernel.name}: the last of {math.ceil(waves.value)} waves is partly empty",
            kernel.name,
            f"The programs of {kernel.name} fill the GPU {waves.value:.2f} times: while the last wave runs, "
            f"{100 * (1.0 - waves.value % 1.0):.0f} % of the places for programs are empty.",
            (
                threshold.evidence("places left empty, of all waves", Figure(100 * idle, waves.label)),
                plain("launch__waves_per_multiprocessor", waves.value, "waves", waves.label),
            ),
            "A tile with which the programs fill whole waves, or programs that stay and take one tile after another.",
            cost,
            label,
        )


# ---------------------------------------------------------------------------------------------------------
# What a program holds


def spilled_registers(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Registers that do not fit go to local memory."""
    for kernel in facts.kernels:
        spilled = kernel.field("spill_bytes")
        if spilled is None or not threshold.met_by(spilled.value):
            continue
        registers = kernel.field("registers")
        share = kernel.mix.get("local", 0.0)
        time = kernel.time_ms
        cost, label = cost_of(min(1.0, share), time) if share else (None, "")
        if cost is None and kernel.launch is not None:
            threads = kernel.launch.programs * kernel.launch.num_warps * facts.gpu.warp_size * kernel.launches
            rate = c.L2_BYTES_PER_CLOCK_PER_SM * facts.gpu.sm_count * facts.gpu.boost_clock_mhz * 1e3
            cost, label = 2 * spilled.value * threads / rate, "modelled"
        evidence = [threshold.evidence("local memory of a thread for spills", spilled)]
        if registers is not None:
            evidence.append(plain("launch__registers_per_thread", registers.value, "registers", registers.label))
        if share:
            evidence.append(plain("instructions on local memory", 100 * share, "%", "modelled"))
        held = f" at {registers.value:.0f} registers" if registers is not None else ""
        yield Diagnosis(
            "spills",
            f"{kernel.name} spills registers",
            kernel.name,
            f"A thread of {kernel.name} needs more than it has{held}: {spilled.value:.0f} bytes of it go out to local "
            "memory and come back.",
            tuple(evidence),
            "A smaller tile, or more warps for it, so that each thread holds less.",
            cost,
            label,
        )


def few_warps_for(resource: str, name: str, remedy: str, facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """One resource of the multiprocessor is used up while few warps run, and no unit is busy."""
    for kernel in facts.kernels:
        limits = next((dict(profile.occupancy_limits) for profile in kernel.profiles if profile.occupancy_limits), {})
        held = _occupancy(kernel, facts)
        if not limits or held is None or not threshold.met_by(held.value):
            continue
        if min(limits, key=lambda key: limits[key]) != resource or highest_throughput(kernel) >= 60.0:
            continue
        excess = _excess_ms(kernel)
        time = kernel.time_ms
        cost = None if excess is None else excess * (1.0 - held.value / threshold.value)
        each = kernel.field("registers" if resource == "registers" else "shared_bytes")
        unit = "registers" if resource == "registers" else "bytes"
        evidence = [threshold.evidence(THEORETICAL_OCCUPANCY, held)]
        if each is not None:
            evidence.append(plain(f"{resource} of a {'thread' if unit == 'registers' else 'program'}", each.value, unit,
                                  each.label))  # fmt: skip
        evidence += [plain(f"programs that {key} allow", float(value), "programs", "modelled")
                     for key, value in limits.items()]  # fmt: skip
        yield Diagnosis(
            name,
            f"{resource} limit the warps of {kernel.name}",
            kernel.name,
            f"{resource.capitalize()} let {limits[resource]} programs of {kernel.name} run at once on a "
            f"multiprocessor, {held.value:.0f} % of the warps that it can hold, and no unit is busy.",
            tuple(evidence),
            remedy,
            cost,
            time.label if cost is not None and time is not None else "",
        )


def _occupancy(kernel: KernelFacts, facts: Facts) -> Figure | None:
    """Warps that can be resident, percent of what an SM holds."""
    found = kernel.metric(THEORETICAL_OCCUPANCY)
    if found is not None:
        return found
    for profile in kernel.profiles:
        if profile.active_blocks is not None and profile.warps is not None:
            return Figure(100.0 * profile.active_blocks * profile.warps / facts.gpu.max_warps_per_sm, profile.label)
    return None


def register_limit(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Registers are used up while few warps run."""
    remedy = "A smaller tile for each warp (fewer elements, or more warps), or fewer pipeline stages in registers."
    return few_warps_for("registers", "register-limit", remedy, facts, threshold)


def shared_limit(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Shared memory is used up while few warps run."""
    remedy = "Fewer pipeline stages, a shorter step along the reduced dim, or 16-bit operands."
    return few_warps_for("shared memory", "shared-limit", remedy, facts, threshold)


# ---------------------------------------------------------------------------------------------------------
# Latency and units


def _excess_ms(kernel: KernelFacts) -> float | None:
    """What the kernel takes beyond the time in which its busiest unit would do the same at its peak."""
    time = kernel.time_ms
    return None if time is None else time.value * max(0.0, 1.0 - highest_throughput(kernel) / 100.0)


def latency_bound(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """No unit is busy: warps wait for their loads."""
    for kernel in facts.kernels:
        known = throughputs(kernel)
        highest = highest_throughput(kernel)
        if len(known) < 2 or not threshold.met_by(highest):
            continue
        time = kernel.time_ms
        if time is not None and time.value <= 2 * c.LAUNCH_MS * kernel.launches:
            continue
        excess = _excess_ms(kernel)
        read = _read_part(kernel)
        cost = None if excess is None else excess / read
        evidence = [threshold.evidence(name, figure) for name, figure in known]
        evidence += [*_evidence(kernel, WARPS_ACTIVE, "%")]
        flight = _bytes_in_flight(kernel, facts)
        needed = c.DRAM_LATENCY_CYCLES / (facts.gpu.boost_clock_mhz * 1e6) * facts.gpu.bandwidth_gb_s * 1e9
        if flight is not None and flight < needed:
            evidence.append(plain("bytes in flight that hide the latency (Little's law)", needed, "bytes", "modelled"))
            evidence.append(plain("bytes that its loads keep in flight", flight, "bytes", "modelled"))
        whole = "" if read == 1.0 else (
            f" It reads {100 * read:.0f} % of what it should; with all of it the loss would be {1 / read:.3g} times as "
            "large, and is given so."
        )  # fmt: skip
        yield Diagnosis(
            "latency",
            f"{kernel.name} waits for its loads",
            kernel.name,
            f"No unit of the GPU is busy while {kernel.name} runs (the busiest at {highest:.0f} % of its peak): its "
            f"warps wait for loads, each for hundreds of cycles, and too few are on their way at once.{whole}",
            tuple(evidence),
            "More independent loads in flight: several 16-byte vectors for each thread, more warps, the loop pipelined "
            "or split over more programs; and no chain in which one load waits for another.",
            cost,
            time.label if cost is not None and time is not None else "",
        )


def _bytes_in_flight(kernel: KernelFacts, facts: Facts) -> float | None:
    """Bytes of its tile that all resident programs together can have asked for."""
    from tilewright.measure.launches import tile_elements

    profile = next((item for item in kernel.profiles if item.active_blocks), None)
    if kernel.launch is None or profile is None or profile.active_blocks is None or kernel.product is not None:
        return None
    resident = min(kernel.launch.programs, profile.active_blocks * facts.gpu.sm_count)
    threads = kernel.launch.num_warps * facts.gpu.warp_size
    held = (profile.registers or 64) * 4.0 * c.REGISTERS_FOR_LOADS
    return resident * threads * max(4.0, min(tile_elements(kernel.launch) * 4.0 / threads, held))


def special_functions(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """The special-function units are the slowest part."""
    for kernel in facts.kernels:
        limits = kernel.limits
        own = limits.pop("special", 0.0)
        next_one = max(limits.values(), default=0.0)
        if own <= 0 or not threshold.met_by(own / next_one if next_one else math.inf):
            continue
        evidence = [threshold.evidence("time of the special-function units over the next limit",
                                       Figure(own / max(next_one, 1e-9), "modelled"))]  # fmt: skip
        if share := kernel.mix.get("special"):
            evidence.append(plain("special-function instructions", 100 * share, "%", "modelled"))
        yield Diagnosis(
            "special-functions",
            f"special functions bound {kernel.name}",
            kernel.name,
            f"Exponentials, logarithms and divisions of {kernel.name} take {own:.3g} ms, longer than its memory "
            f"traffic or anything else that it does ({next_one:.3g} ms): a multiprocessor finishes 16 of them a clock.",
            tuple(evidence),
            "Fewer of them for each element: one exponential in place of two, products in place of divisions, a "
            "polynomial where float32's error allows it.",
            own - next_one,
            "modelled",
        )
