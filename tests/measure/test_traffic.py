"""From addresses to sectors, lines, and what caches keep."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.gate.inside.accesses import AccessKind, TracedTensor
from tilewright.gpu.table import find_gpu
from tilewright.measure.caches import held, through_l2
from tilewright.measure.layouts import GlobalAccess, read_accesses, requests
from tilewright.measure.sass import parse_sass
from tilewright.measure.seen import KernelCode, SeenAccess, SeenLaunch
from tilewright.measure.traffic import program_traffic

ADA = find_gpu("4090")
FLAT = "#ttg.blocked<{sizePerThread = [4], threadsPerWarp = [32], warpsPerCTA = [4], order = [0]}>"
ROWS = "#ttg.blocked<{sizePerThread = [1, 1], threadsPerWarp = [1, 32], warpsPerCTA = [4, 1], order = [1, 0]}>"

LAYOUTS = [
    (FLAT, (1024,)),
    (ROWS, (128, 32)),
    ("#ttg.blocked<{sizePerThread = [1, 8], threadsPerWarp = [8, 4], warpsPerCTA = [4, 1], order = [1, 0]}>", (64, 32)),
    (
        "#ttg.blocked<{sizePerThread = [4, 1], threadsPerWarp = [32, 1], warpsPerCTA = [2, 2], order = [0, 1]}>",
        (256, 8),
    ),
    ("#ttg.slice<{dim = 0, parent = " + ROWS + "}>", (32,)),
    ("#ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [2, 2], instrShape = [16, 8]}>", (64, 64)),
    (
        "#ttg.linear<{register = [[1], [2]], lane = [[4], [8], [16], [32], [64]], warp = [[128], [256]], block = []}>",
        (512,),
    ),
]


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
def test_every_element_is_held_by_a_lane(layout, shape):
    found = requests(layout, shape, 4, 1)
    assert found.shape[1:] == (32, 1)
    assert set(found.reshape(-1).tolist()) == set(range(math.prod(shape)))


def test_lanes_of_a_request_hold_consecutive_vectors():
    found = requests(FLAT, (1024,), 4, 4)
    assert found.shape == (8, 32, 4)
    assert found[0].reshape(-1).tolist() == list(range(128))


def test_accesses_are_read_with_lines_and_layouts():
    text = """
#blocked = #ttg.blocked<{sizePerThread = [4], threadsPerWarp = [32], warpsPerCTA = [4], order = [0]}>
#loc = loc("/tmp/candidate.py":3:0)
#loc1 = loc("/tmp/candidate.py":8:16)
#loc2 = loc("/usr/standard.py":100:1)
    %x = tt.load %p, %m, %c : tensor<1024x!tt.ptr<f32>, #blocked> loc(#loc4)
    %b = tt.load %q : !tt.ptr<f32> loc(#loc1)
    tt.store %o, %y, %m : tensor<1024x!tt.ptr<f32>, #blocked> loc(#loc5)
#loc4 = loc("x"(#loc1))
#loc5 = loc(callsite(#loc2 at #loc1))
"""
    load, scalar, store = read_accesses(text, "candidate.py")
    assert load == GlobalAccess(8, False, (1024,), FLAT)
    assert scalar == GlobalAccess(8, False, (), "")
    assert (store.stores, store.line) == (True, 8)


def launch(accesses, begun=(), shape=(1 << 20,), programs=64):
    tensor = TracedTensor("x", 1, 0, shape, (1,), 4, "float32")
    table = np.array(begun, dtype=np.int64).reshape(-1, 8)
    return SeenLaunch("kernel", (programs, 1, 1), (tensor,), tuple(accesses), table, True)


def access(offsets, shape, kind=AccessKind.LOAD, line=5, mask=None):
    offsets = np.asarray(offsets, dtype=np.int64).reshape(-1) * 4
    mask = np.ones(offsets.size, bool) if mask is None else mask
    return SeenAccess(
        kind, 0, line, int(offsets.min()), int(offsets.max()), int(mask.sum()), 4, shape, offsets, mask
    )  # fmt: skip


def code(layout, shape, width="", line=5):
    text = f'//## File "f.py", line {line}\n/*0000*/ LDG.E{width} R4, [R2.64] ;\n/*0010*/ EXIT ;'
    return KernelCode(parse_sass(text), (GlobalAccess(line, False, shape, layout),))


def test_a_contiguous_block_moves_what_it_asks_for():
    [site] = program_traffic(launch([access(range(1024), (1024,))]), code(FLAT, (1024,), ".128"), 4, 1e5).sites
    assert (site.requests, site.sectors, site.lines) == (8, 128, 32)
    assert site.asked_bytes / site.sectors == 32
    assert site.run_bytes == 4096


def test_a_strided_block_wastes_seven_eighths_of_a_sector():
    offsets = np.arange(4096) * 1024
    [site] = program_traffic(launch([access(offsets, (128, 32))]), code(ROWS, (128, 32)), 4, 1e5).sites
    assert (site.requests, site.sectors, site.lines) == (128, 4096, 4096)
    assert site.asked_bytes / site.sectors == 4
    assert site.run_bytes == 32


def test_lanes_that_are_masked_out_ask_for_nothing():
    mask = np.arange(1024) < 100
    [site] = program_traffic(
        launch([access(range(1024), (1024,), mask=mask)]), code(FLAT, (1024,), ".128"), 4, 1e5
    ).sites
    assert site.requests == 1
    assert site.sectors == 13
    assert site.asked_bytes == 400


@pytest.mark.parametrize(("l1_bytes", "missed"), [(1e6, 128), (64.0, 256)])
def test_what_is_read_twice_hits_l1_as_far_as_it_is_large(l1_bytes, missed):
    twice = [access(range(1024), (1024,)), access(range(1024), (1024,))]
    traffic = program_traffic(launch(twice), code(FLAT, (1024,), ".128"), 4, l1_bytes)
    [site] = traffic.sites
    assert site.missed_sectors == pytest.approx(missed)
    [tensor] = traffic.tensors
    assert tensor.unique_sectors == 128


def begun(number, low, high, active=1024):
    return (number, 0, 0, 5, low, high, active, 4)


def test_blocks_that_neighbours_share_are_found_with_their_distance():
    table = [begun(number, 4096 * (number % 16), 4096 * (number % 16) + 4092) for number in range(64)]
    [tensor] = program_traffic(
        launch([access(range(1024), (1024,))], table), code(FLAT, (1024,), ".128"), 4, 1e5
    ).tensors
    assert tensor.shared == ((1.0, 16.0),)


def test_streams_share_nothing():
    table = [begun(number, 4096 * number, 4096 * number + 4092) for number in range(64)]
    seen = launch([access(range(1024), (1024,))], table)
    traffic = program_traffic(seen, code(FLAT, (1024,), ".128"), 4, 1e5)
    assert traffic.tensors[0].shared == ()
    assert traffic.tensors[0].beside == 1.0
    l2 = through_l2(traffic.tensors, 1024, 512, ADA)
    assert l2.dram_read_bytes == 1024 * 4096
    assert l2.hit_percent == 0


@given(volume=st.floats(0, 1e12), more=st.floats(0, 1e12))
def test_more_bytes_in_between_never_make_a_hit_likelier(volume, more):
    assert held(volume, 1e7) >= held(volume + more, 1e7)
    assert 0 <= held(volume, 1e7) <= 1


@given(gap=st.integers(1, 400), programs=st.integers(1, 10**6), resident=st.integers(1, 4096))
def test_memory_is_asked_for_no_more_than_the_programs_ask(gap, programs, resident):
    table = [begun(n, 4096 * (n % gap), 4096 * (n % gap) + 4092) for n in range(max(2, min(600, 2 * gap)))]
    seen = launch([access(range(1024), (1024,))], table, programs=programs)
    traffic = program_traffic(seen, code(FLAT, (1024,), ".128"), 4, 1e5)
    l2 = through_l2(traffic.tensors, programs, resident, ADA)
    assert 0 <= l2.dram_read_bytes <= l2.read_bytes + 1
    assert 0 <= l2.hit_percent <= 100
