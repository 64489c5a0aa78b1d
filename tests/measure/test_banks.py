"""Banks of shared memory: where lanes go by the machine code, and what their meeting in a bank costs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.gpu.table import find_gpu
from tilewright.measure.banks import matrix_wavefronts, shared_cycles, wavefronts
from tilewright.measure.demand import tensor_cycles, warp_demand
from tilewright.measure.flow import hot_path
from tilewright.measure.lanes import shared_addresses
from tilewright.measure.sass import parse_sass
from tilewright.measure.timeline import Latencies, Program, follow

HOPPER = find_gpu("h200")
LANES = np.arange(32, dtype=np.int64)
#: Rows of 128 bytes, of which lane i takes row 4 i, chunks of 16 bytes swapped by the row: a transposing copy.
TRANSPOSING = (
    "S2R R0, SR_TID.X",
    "IMAD.SHL.U32 R1, R0, 0x4, RZ",
    "LOP3.LUT R2, R1, 0x7, RZ, 0xc0, !PT",
    "SHF.L.U32 R2, R2, 0x4, RZ",
    "LEA R3, R1, R2, 0x7",
)


def sass(*rows):
    return parse_sass("\n".join(f"/*{16 * i:04x}*/ {row} ;" for i, row in enumerate(rows)))


def addresses(*rows, warps=1):
    [found] = shared_addresses(sass(*rows, "STS [R3], R4"), warps).values()
    return found


def cycles(instruction, *rows, warps=1, lines=None):
    code = sass(*rows, instruction, "EXIT")
    return shared_cycles(hot_path(code, {}), warps, lines)[16 * len(rows)]


@given(stride=st.integers(0, 200), start=st.integers(0, 1000))
def test_a_stride_meets_in_a_bank_as_often_as_it_shares_factors_with_their_number(stride, start):
    expected = 1 if stride == 0 else math.gcd(stride, 32)
    assert wavefronts(4 * (start + stride * LANES), 4) == expected


@given(st.lists(st.integers(0, 4000), min_size=32, max_size=32), st.permutations(range(32)))
def test_conflicts_depend_on_which_lanes_meet_alone(words, order):
    where = 4 * np.array(words, dtype=np.int64)
    found = wavefronts(where, 4)
    assert 1 <= found <= len(set(words))
    assert wavefronts(where[list(order)], 4) == found
    # Parts of a warp that are served one after the other are never faster.
    assert found <= wavefronts(where, 4, parts=4) <= 32


def test_wide_accesses_are_served_by_parts_of_the_warp():
    assert wavefronts(16 * LANES, 16) == 4
    assert wavefronts(8 * LANES, 8) == 2
    assert wavefronts(128 * LANES, 16) == 32
    assert matrix_wavefronts(16 * LANES, 4) == 4
    assert matrix_wavefronts(128 * LANES, 4) == 32


@pytest.mark.parametrize("warps", [1, 4])
def test_addresses_follow_from_the_machine_code(warps):
    thread = np.arange(32 * warps)
    row = 4 * thread
    assert addresses(*TRANSPOSING, warps=warps).reshape(-1).tolist() == (row * 128 + (row & 7) * 16).tolist()


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_logic_by_its_table(table, a, c):
    found = addresses("S2R R0, SR_TID.X", f"MOV R1, 0x{a:x}", f"LOP3.LUT R3, R1, R0, 0x{c:x}, 0x{table:x}, !PT")[0]
    for lane in (0, 5, 31):
        bits = (
            (table >> ((a >> i & 1) * 4 + (lane >> i & 1) * 2 + (c >> i & 1)) & 1) << i for i in range(32)
        )  # fmt: skip
        assert found[lane] == sum(bits)


def test_predicates_guards_and_selections():
    test = ("S2R R0, SR_TID.X", "ISETP.GT.AND P0, PT, R0, 0xf, PT")
    assert addresses(*test, "SEL R3, R0, 0x40, P0")[0].tolist() == [64] * 16 + list(range(16, 32))
    assert addresses(*test, "MOV R3, 0x8", "@!P0 VIADD R3, R0, 0x1")[0].tolist() == [*range(1, 17)] + [8] * 16
    assert addresses("S2R R0, SR_TID.X", "R2P PR, R0, 0x2", "SEL R3, RZ, 0x1, P1")[0].tolist() == [1, 1, 0, 0] * 8
    assert addresses("S2R R0, SR_TID.X", "SHFL.IDX PT, R3, R0, 0x7, 0x1f")[0].tolist() == [7] * 32


@pytest.mark.parametrize("row", ["FROB R3, R0, 0x1", "LOP3.LUT R3, R0", "R2P PR, R0, R1"])
def test_what_is_not_known_is_no_conflict(row):
    assert wavefronts(addresses("S2R R0, SR_TID.X", row)[0], 4) == 1


def test_a_transposing_copy_meets_in_few_banks():
    through, past = "LDGSTS.E [R3], desc[UR4][R8.64]", "LDGSTS.E.BYPASS [R3], desc[UR4][R8.64]"
    # Two chunks of 16 bytes, one word of each: 16 lanes meet in either.
    assert cycles("STS [R3], R4", *TRANSPOSING) == cycles(past, *TRANSPOSING, lines={0: 4.0}) == 16
    assert cycles(through, *TRANSPOSING, lines={0: 4.0}) == 16
    assert cycles(through, "S2R R0, SR_TID.X", "IMAD.SHL.U32 R3, R0, 0x4, RZ", lines={0: 4.0}) == 4
    assert cycles(past, "S2R R0, SR_TID.X", "IMAD.SHL.U32 R3, R0, 0x4, RZ", lines={0: 4.0}) == 1


def test_an_asynchronous_product_reads_its_second_operand():
    # 256 columns of 32 bytes, by four warps together.
    assert cycles("HGMMA.64x256x8.F32.TF32 R24, gdesc[UR8], R24") == 256 * 32 / 128 / 4
    assert warp_demand(hot_path(sass("HGMMA.64x64x16.F32 R24, gdesc[UR8], R24", "EXIT"), {}), HOPPER).shared_cycles == 4


COPIES = ("LDGSTS.E [R3], desc[UR4][R8.64]",) * 8
BODY = (*COPIES, "LDGDEPBAR", "DEPBAR.LE SB0, 0x0", "LDS R5, [R3]", "FADD R6, R6, R5", "EXIT")


def in_step(warps, conflicts, fills=0.0):
    code = sass(*BODY)
    banks = {item.address: conflicts for item in code if item.base in ("LDGSTS", "LDS")}
    path = hot_path(code, {})
    latencies = Latencies({0: 500.0}, {0: 4.0}, 500.0)
    return follow(path, latencies, tensor_cycles(HOPPER), Program(warps, banks, {0: fills})).cycles


@given(warps=st.integers(1, 16), more=st.integers(0, 16), conflicts=st.floats(1, 32), worse=st.floats(0, 32))
def test_more_warps_in_step_and_more_conflicts_are_never_faster(warps, more, conflicts, worse):
    one = in_step(warps, conflicts)
    assert one <= in_step(warps + more, conflicts)
    assert one <= in_step(warps, conflicts + worse)
    assert one + 8 * warps * worse == pytest.approx(in_step(warps, conflicts, fills=worse))
    # All copies of all warps pass one path, each read from L1 and stored.
    assert one >= 8 * warps * (4 + conflicts) + 500


def test_a_program_of_one_warp_without_conflicts_is_a_warp_alone():
    path = hot_path(sass(*BODY), {})
    latencies = Latencies({0: 500.0}, {0: 4.0}, 500.0)
    alone, program = (
        follow(path, latencies, tensor_cycles(HOPPER), *rest).cycles for rest in ((), (Program(1, {}),))
    )  # fmt: skip
    assert alone == program
