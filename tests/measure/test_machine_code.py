"""Machine code: what is read off its text, the path through it, and the time of one warp."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.gpu.table import find_gpu
from tilewright.measure.demand import tensor_cycles, warp_demand
from tilewright.measure.flow import Loop, hot_path
from tilewright.measure.sass import Pipe, Space, parse_sass
from tilewright.measure.timeline import Latencies, follow

ADA, HOPPER = find_gpu("4090"), find_gpu("h200")

LOOP = """
kernel:
	//## File "/tmp/candidate.py", line 7
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
        /*0010*/                   S2R R0, SR_TID.X ;
.L_x_1:
	//## File "/tmp/candidate.py", line 9
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
	//## File "/usr/lib/standard.py", line 250
        /*0030*/                   FADD R8, R8, R4 ;
        /*0040*/                   SHFL.BFLY PT, R9, R8, 0x10, 0x1f ;
        /*0050*/                   IADD3 R2, P1, R2, 0x10, RZ ;
        /*0060*/                   ISETP.NE.AND P0, PT, R2, R12, PT ;
        /*0070*/               @P0 BRA `(.L_x_1) ;
	//## File "/tmp/candidate.py", line 11
        /*0080*/                   STG.E desc[UR4][R10.64], R9 ;
        /*0090*/                   EXIT ;
.L_x_2:
        /*00a0*/                   BRA `(.L_x_2);
        /*00b0*/                   NOP;
"""


def sass(*rows):
    return parse_sass("\n".join(f"/*{16 * i:04x}*/ {row} ;" for i, row in enumerate(rows)))


def test_registers_widths_lines_and_targets():
    code = {item.address: item for item in parse_sass(LOOP, "candidate.py")}
    load = code[0x20]
    assert load.writes == ("R4", "R5", "R6", "R7")
    assert set(load.reads) == {"UR4", "R2", "R3"}
    assert (load.bytes_per_lane, load.space, load.pipe, load.line) == (16, Space.GLOBAL, Pipe.MEMORY, 9)
    assert code[0x30].line == 9  # the standard library's own line is not the candidate's
    assert code[0x40].writes == ("R9",)  # after a predicate that is thrown away
    assert code[0x50].writes == ("R2", "P1")
    assert code[0x70].target == 0x20
    assert code[0x70].guarded
    assert "P0" in code[0x70].reads
    assert not code[0x80].writes
    assert code[0x80].is_store


@given(trips=st.integers(1, 5000))
def test_trips_follow_from_the_bytes_that_a_lane_asks_for(trips):
    path = hot_path(parse_sass(LOOP, "candidate.py"), {(9, False): 16.0 * trips, (11, True): 4.0})
    [loop] = [step for step in path.steps if isinstance(step, Loop)]
    assert loop.trips == pytest.approx(trips)
    executed = {}
    for instruction, times in path.executed():
        executed[instruction.base] = executed.get(instruction.base, 0) + times
    assert executed["LDG"] == pytest.approx(trips)
    assert executed["STG"] == 1
    assert executed["BRA"] == pytest.approx(trips)  # the endless one after the exit is never reached


def test_a_loop_without_memory_is_counted_once_and_said():
    code = parse_sass(LOOP.replace("LDG.E.128 R4, desc[UR4][R2.64]", "FMUL R4, R4, R4"), "candidate.py")
    assert hot_path(code, {(11, True): 4.0}).notes


def test_a_call_that_serves_rare_values_is_left_out():
    code = sass("MUFU.RCP R2, R3", "@!P0 BRA `(.L_slow)", "MOV R4, R2", "EXIT")
    assert [item.base for item in (step for step in hot_path(code, {}).steps)] == ["MUFU", "BRA", "MOV", "EXIT"]


@given(latency=st.integers(50, 2000), more=st.integers(0, 1000), trips=st.integers(1, 300))
def test_later_data_never_make_a_warp_faster(latency, more, trips):
    path = hot_path(parse_sass(LOOP, "candidate.py"), {(9, False): 16.0 * trips, (11, True): 4.0})
    early, late = (
        follow(path, Latencies({9: cycles}, {}, cycles), tensor_cycles(ADA)).cycles
        for cycles in (latency, latency + more)
    )
    assert early <= late
    # Each iteration's sum waits for its load.
    assert early >= trips * latency * 0.9


def test_loads_that_are_issued_together_overlap():
    rows = [f"LDG.E R{4 + i}, [R2.64]" for i in range(8)]
    together = sass(*rows, *(f"FADD R20, R20, R{4 + i}" for i in range(8)), "EXIT")
    apart = sass(*(row for i in range(8) for row in (rows[i], f"FADD R20, R20, R{4 + i}")), "EXIT")
    times = [
        follow(hot_path(code, {(0, False): 32.0}), Latencies({0: 600.0}, {}, 600.0), tensor_cycles(ADA)).cycles
        for code in (together, apart)
    ]
    assert times[0] < 800
    assert times[1] > 8 * 600


def test_what_a_spilled_register_waits_for():
    code = sass("LDG.E R4, [R2.64]", "LDL R5, [R1]", "FADD R6, R5, R5", "EXIT")
    timeline = follow(hot_path(code, {(0, False): 4.0}), Latencies({0: 600.0}, {}, 600.0), tensor_cycles(ADA))
    assert timeline.cycles > 600
    assert timeline.stalls["long_scoreboard"] > 500


def test_asynchronous_copies_are_waited_for_by_group():
    copies = ["LDGSTS.E.BYPASS.128 [R4], [R2.64]", "LDGDEPBAR"]
    oldest = sass(*copies, *copies, "DEPBAR.LE SB0, 0x1", "EXIT")
    newest = sass(*copies, *copies, "DEPBAR.LE SB0, 0x0", "EXIT")
    waits = [
        follow(hot_path(code, {}), Latencies({0: 500.0}, {0: 100.0}, 500.0), tensor_cycles(ADA)).cycles
        for code in (oldest, newest)
    ]
    assert 500 < waits[0] < waits[1]


@pytest.mark.parametrize(
    ("gpu", "opcode", "products"),
    [
        (ADA, "HMMA.16816.F32 R4, R8, R12, R4", 2048),
        (ADA, "HMMA.1688.F32.TF32 R4, R8, R12, R4", 1024),
        (HOPPER, "HGMMA.64x64x16.F32 R24, gdesc[UR4].tnspB, R24", 16384),
    ],
)
def test_products_take_the_time_that_the_data_sheet_gives_them(gpu, opcode, products):
    [instruction, _] = sass(opcode, "EXIT")
    demand = warp_demand(hot_path(sass(opcode, "EXIT"), {}), gpu)
    assert demand.products == products
    rate = gpu.tensor_tflops["tf32" if "TF32" in opcode else "fp16"] * 1e12 / 2
    each = products / (rate / (gpu.sm_count * 4 * gpu.boost_clock_mhz * 1e6))
    assert tensor_cycles(gpu)(instruction) == pytest.approx(each, rel=0.02)
