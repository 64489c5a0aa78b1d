"""The model's constants follow from the recorded points of the calibration."""

import json
from pathlib import Path

import pytest

from tilewright.measure import constants as c

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "2026-11-21-h200-calibration.json"
PEAK_GB_S = 4800.0
CLOCK_GHZ = 1.98


@pytest.fixture(scope="module")
def points():
    return json.loads(RECORD.read_text(encoding="utf-8"))["points"]


def of_kind(points, kind, **fields):
    return [p for p in points if p["kind"] == kind and all(p[name] == value for name, value in fields.items())]


def rate(point):
    """GB/s."""
    return point["bytes"] / point["ms"] / 1e6


@pytest.mark.parametrize(
    ("kind", "part"),
    [("copy", c.DRAM_COPY_PART), ("copy", c.DRAM_EFFICIENCY), ("read", c.DRAM_READ_PART), ("fill", c.DRAM_WRITE_PART)],
)
def test_streams(points, kind, part):
    assert max(map(rate, of_kind(points, kind))) / PEAK_GB_S == pytest.approx(part, abs=0.01)


@pytest.mark.parametrize(("kind", "table"), [("along", c.RUN_PARTS), ("down", c.RUN_PARTS_BESIDE)])
def test_short_runs(points, kind, table):
    for size, part in table[:3]:
        best = max(rate(point) for point in of_kind(points, kind, run=int(size) // 4))
        assert best / (PEAK_GB_S * c.DRAM_READ_PART) == pytest.approx(part, abs=0.02)


def test_latencies(points):
    cycles = {point["kib"]: point["ns"] * CLOCK_GHZ for point in of_kind(points, "latency")}
    assert cycles[16] == pytest.approx(c.L1_LATENCY_CYCLES, rel=0.02)
    assert cycles[8192] == pytest.approx(c.L2_LATENCY_CYCLES, rel=0.02)
    [cold] = of_kind(points, "cold latency")
    assert cold["ns"] == pytest.approx(c.COLD_LATENCY_NS, rel=0.01)


def test_l2(points):
    best = max(map(rate, of_kind(points, "few l2")))
    each = c.L2_BYTES_PER_CLOCK_PER_SM_BY_CAPABILITY[90]
    assert best == pytest.approx(each * 132 * CLOCK_GHZ, rel=0.02)
    regions = {point["mib"]: rate(point) for point in of_kind(points, "l2 size")}
    inside, outside = regions[16], regions[256]
    for mib in (40, 48, 56, 64):
        hit = (1 / regions[mib] - 1 / outside) / (1 / inside - 1 / outside)
        held = 1 / (1 + (mib / (60 * c.L2_PART)) ** c.L2_SHARPNESS)
        assert held == pytest.approx(hit, abs=0.12)


def test_programs_start_one_after_the_other(points):
    for point in of_kind(points, "programs", programs=1 << 20):
        assert point["ms"] * 1e6 / point["programs"] == pytest.approx(c.PROGRAM_START_NS, rel=0.02)


def test_idle_part_of_a_programs_slot(points):
    """Within five points for blocks of two warps and more, whose programs do not wait to be started."""
    for point in of_kind(points, "occupancy"):
        warps = int(point["block"].strip("()").split(",")[0]) // 32
        if warps < 2 or point["grid"] > 150_000 or point["grid"] < 2000:
            continue
        slots = 132 * 64 * point["theoretical_percent"] / 100 / warps
        life = point["ns"] * slots / point["grid"]
        doublings = warps.bit_length() - 1
        idle = c.SLOT_IDLE_PART + c.SLOT_IDLE_PART_PER_DOUBLING * doublings + c.SLOT_START_NS / life
        assert point["theoretical_percent"] * (1 - idle) == pytest.approx(point["warps_active_percent"], abs=6)
