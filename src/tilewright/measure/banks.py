"""Shared memory by its banks: cycles for which an access of a warp occupies it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from tilewright.measure.flow import Path
from tilewright.measure.lanes import LANES, Words, shared_addresses
from tilewright.measure.sass import Instruction, Space

#: Banks of shared memory, and bytes that each gives a cycle: lanes that want different words of one bank wait for one
#: another, lanes that want the same word are served together (CUDA C++ Programming Guide, "Shared Memory").
BANKS = 32
_WORD_BYTES = 4

#: Bytes along k of a row of an asynchronous product's operands, whatever their type (PTX ISA, wgmma: k8 of TF32, k16 of
#: 16-bit, k32 of 8-bit numbers).
_ASYNC_ROW_BYTES = 32
_WARPS_OF_A_GROUP = 4


def wavefronts(addresses: Words, width: int, parts: int = 1) -> int:
    """Cycles of one warp's access: the most words that one bank is asked for, summed over parts of the warp.

    Args:
        addresses: byte address of each lane.
        width: bytes of a lane; accesses of 8 and 16 bytes are served by halves and quarters of the warp.
        parts: that are served one after the other anyhow, a power of two.
    """
    return sum(_most_in_a_bank(part, width) for part in np.split(addresses, max(parts, width // _WORD_BYTES)))


def _most_in_a_bank(addresses: Words, width: int) -> int:
    words = np.unique(addresses[:, None] // _WORD_BYTES + np.arange(max(1, width // _WORD_BYTES)))
    return int(np.bincount(words % BANKS).max())


def matrix_wavefronts(addresses: Words, matrices: int) -> int:
    """The same of LDSM and STSM: eight lanes name the rows, of 16 bytes, of each matrix."""
    return sum(_most_in_a_bank(addresses[8 * number : 8 * number + 8], 16) for number in range(matrices))


def shared_cycles(path: Path, warps: int = 1, lines: Mapping[int, float] | None = None) -> Mapping[int, float]:
    """Place in the code -> cycles for which the instruction of one warp occupies shared memory, in the mean.

    Accesses by their banks; shuffles; copies from global memory (LDGSTS) as what they store; what an asynchronous
    product reads of its second operand. Its first one is not charged: measured on an H200 (`benchmarks.calibrate`,
    products of 64x64 fp16 tiles), the two together come at 219 bytes a clock, more than the banks give.

    A copy through L1 stores what L1 gives: line after line, one lookup a cycle, so that lanes of different lines never
    share a cycle. That lines are stored apart is an inference: no source says it.

    Args:
        path: what a warp carries out.
        warps: of a program.
        lines: source line -> lines of 128 bytes that a request of its loads touches; lanes of one are neighbours.
    """
    instructions = [instruction for instruction, _ in path.executed()]
    addresses = shared_addresses(instructions, warps)
    found: dict[int, float] = {}
    for instruction in instructions:
        own = addresses.get(instruction.address)
        if own is not None:
            parts = _parts((lines or {}).get(instruction.line, 1.0)) if _through_l1(instruction) else 1
            found[instruction.address] = float(np.mean([_cycles(instruction, warp, parts) for warp in own]))
        elif instruction.base == "SHFL":
            found[instruction.address] = 1.0
        elif instruction.base.endswith("GMMA"):
            found[instruction.address] = _second_operand(instruction)
    return found


def _through_l1(instruction: Instruction) -> bool:
    return instruction.base == "LDGSTS" and not instruction.past_l1


def _parts(lines: float) -> int:
    """Lines of a request as a power of two that divides the warp."""
    return min(LANES, 1 << round(math.log2(max(lines, 1.0))))


def _cycles(instruction: Instruction, addresses: Words, parts: int) -> int:
    if instruction.base in ("LDSM", "STSM"):
        last = instruction.opcode.rsplit(".", 1)[-1]
        return matrix_wavefronts(addresses, int(last) if last.isdigit() else 1)
    return wavefronts(addresses, instruction.bytes_per_lane, parts)


def _second_operand(instruction: Instruction) -> float:
    shape = re.search(r"\.\d+x(\d+)x\d+", instruction.opcode)
    columns = int(shape.group(1)) if shape else 8
    return columns * _ASYNC_ROW_BYTES / (BANKS * _WORD_BYTES) / _WARPS_OF_A_GROUP


def copies_past_l1(instructions: tuple[Instruction, ...]) -> frozenset[int]:
    """Source lines whose loads are copies to shared memory that leave nothing in L1."""
    loads = [item for item in instructions if item.space is Space.GLOBAL and item.is_load]
    past = {item.line for item in loads if item.base == "LDGSTS" and item.past_l1}
    return frozenset(past - {item.line for item in loads if item.base != "LDGSTS" or not item.past_l1})
