"""The integer arithmetic of a kernel's machine code, for all lanes of a program: where in shared memory they go.

Launch parameters, program numbers and what is loaded are taken to be 0: buffers in shared memory lie at multiples of
the banks' width, so that which lanes meet in a bank depends on the lanes' own numbers alone. Instructions that are not
known give 0 as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tilewright.measure.sass import Instruction

Words = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LANES = 32
_WORD = 0xFFFFFFFF
_PREDICATE = re.compile(r"!?U?P(\d+|T)$")
_REGISTER = re.compile(r"([-~|]*)(U?R(?:\d+|Z))\|?(?:\.(X\d+|H0_H0|H1_H1|B\d))?")
_ADDRESS = re.compile(r"(?<!desc)\[([^\[\]]*)\]")


@dataclass
class Lanes:
    """Registers and predicates of all lanes of a program.

    Attributes:
        threads: of the program; a warp's lanes follow one another.
        registers: name -> unsigned 32-bit values; a missing one is 0.
        predicates: name -> values; a missing one is false.
    """

    threads: int
    registers: dict[str, Words] = field(default_factory=dict)
    predicates: dict[str, Flags] = field(default_factory=dict)

    def value(self, operand: str) -> Words:
        """An operand's unsigned 32-bit values: a register, perhaps negated, or a number; others are 0."""
        text = operand.strip()
        if re.fullmatch(r"-?0x[0-9a-f]+|-?\d+", text):
            return self._same(int(text, 0))
        match = _REGISTER.match(text)
        if match is None:
            return self._same(0)
        sign, name, scale = match.groups()
        found = self.registers.get(name, self._same(0))
        if scale and scale.startswith("X"):
            found = found * int(scale[1:])
        if "|" in sign:
            found = np.abs(_signed(found))
        return (-found if "-" in sign else ~found if "~" in sign else found) & _WORD

    def holds(self, operand: str) -> Flags:
        """A predicate operand's values."""
        text = operand.strip()
        name = text.lstrip("!@")
        found = (
            np.ones(self.threads, bool)
            if name in ("PT", "UPT")
            else self.predicates.get(name, np.zeros(self.threads, bool))
        )
        return ~found if text.lstrip("@").startswith("!") else found

    def address(self, instruction: Instruction) -> Words:
        """Byte addresses in shared memory of an access: the sum within its first brackets."""
        match = _ADDRESS.search(instruction.text)
        total = self._same(0)
        for part in match.group(1).split("+") if match else ():
            total = total + self.value(part)
        return total & _WORD

    def step(self, instruction: Instruction) -> None:
        """Carry out an instruction, under its guard."""
        results, operands = _split(instruction)
        guard = self.holds(instruction.guard) if instruction.guard else None
        flags = [name for name in results if _PREDICATE.match(name)]
        words = [name for name in results if not _PREDICATE.match(name)]
        base = instruction.base.removeprefix("U")
        try:
            if base == "R2P":
                self._unpack(operands, guard)
            elif base in _TESTS and not words:
                self._write_flag(flags[0], _TESTS[base](self, instruction, operands), guard)
            elif base in _OPERATIONS and words:
                self._write_result(instruction, words[0], flags, _OPERATIONS[base](self, instruction, operands), guard)
            else:
                self._forget(instruction, guard)
        except (IndexError, ValueError):  # a form that is not known
            self._forget(instruction, guard)

    def _write_result(
        self, instruction: Instruction, register: str, flags: list[str], result: Words, guard: Flags | None
    ) -> None:
        self._write(register, result, guard)
        if instruction.base.endswith("LOP3"):
            for name in flags:
                self._write_flag(name, (result & _WORD) != 0, guard)
        if "WIDE" in instruction.opcode or instruction.opcode.endswith(".64"):
            self._write(_following(register), result >> 32, guard)

    def _unpack(self, operands: list[str], guard: Flags | None) -> None:
        """R2P: the bits of a register become predicates, those that a mask names."""
        bits, chosen = self.value(operands[0]), int(operands[1], 0)
        for number in range(7):
            if chosen >> number & 1:
                self._write_flag(f"P{number}", (bits >> number & 1).astype(bool), guard)

    def _forget(self, instruction: Instruction, guard: Flags | None) -> None:
        for name in instruction.writes:
            if "P" not in name:
                self._write(name, self._same(0), guard)

    def _same(self, number: int) -> Words:
        return np.full(self.threads, number & _WORD, dtype=np.int64)

    def _write(self, name: str, values: Words, guard: Flags | None) -> None:
        if name not in ("RZ", "URZ"):
            values = values & _WORD
            self.registers[name] = values if guard is None else np.where(guard, values, self.value(name))

    def _write_flag(self, name: str, values: Flags, guard: Flags | None) -> None:
        if name not in ("PT", "UPT"):
            self.predicates[name] = values if guard is None else np.where(guard, values, self.holds(name))


def shared_addresses(path: Iterable[Instruction], warps: int) -> dict[int, Words]:
    """Place in the code -> [warps, 32] byte addresses in shared memory, for each instruction that names some.

    Args:
        path: the instructions in the order in which they are first carried out.
        warps: of a program.
    """
    lanes, found = Lanes(LANES * warps), dict[int, Words]()
    for instruction in path:
        if instruction.base in _SHARED:
            found.setdefault(instruction.address, lanes.address(instruction).reshape(warps, LANES))
        lanes.step(instruction)
    return found


_SHARED = frozenset({"LDS", "STS", "LDSM", "STSM", "ATOMS", "LDGSTS"})
#: What changes no register that addresses are made of.
_PASSED = frozenset({"STG", "ST", "STS", "STSM", "STL", "RED", "BRA", "EXIT", "BAR", "LDGSTS", "DEPBAR", "LDGDEPBAR"})


def _split(instruction: Instruction) -> tuple[list[str], list[str]]:
    """Results (predicates before or after the register too) and operands, as text."""
    parts = [part.strip().replace(".reuse", "") for part in instruction.text.split(",")]
    if instruction.base in _PASSED or not parts[0]:
        return [], parts
    results = [parts.pop(0)]
    if instruction.base.removeprefix("U") in ("ISETP", "PLOP3") and parts:
        results.append(parts.pop(0))
        return results, parts
    if _PREDICATE.match(results[0]) and parts:
        results.append(parts.pop(0))
    while parts and len(parts) > 1 and re.fullmatch(r"U?P\d+", parts[0]) and instruction.base not in ("SEL", "USEL"):
        results.append(parts.pop(0))
    return [name.split(".")[0] for name in results], parts


def _following(name: str) -> str:
    match = re.fullmatch(r"(U?R)(\d+)", name)
    return f"{match.group(1)}{int(match.group(2)) + 1}" if match else "RZ"


def _signed(values: Words) -> Words:
    return np.where(values & 0x80000000, values - (1 << 32), values)


# ---------------------------------------------------------------------------------------------------------
# Operations: their 32-bit results (the wide ones' 64 bits). Source of their meaning: NVIDIA, "CUDA Binary Utilities",
# instruction sets; LOP3's table as PTX's lop3, SHF's and PRMT's as PTX's shf and prmt.


def _number(lanes: Lanes, operands: list[str], place: int) -> Words:
    return lanes.value(operands[place]) if place < len(operands) else lanes.value("0")


def _moved(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    return lanes.value(operands[0])


def _added(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    terms = [item for item in operands[:3] if not _PREDICATE.match(item)]
    total = lanes.value("0")
    for item in terms:
        total = total + lanes.value(item)
    return total


def _multiplied(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    a, b, c = (_number(lanes, operands, place) for place in range(3))
    if "WIDE" in instruction.opcode or "HI" in instruction.opcode:
        if "U32" not in instruction.opcode:
            a, b = _signed(a), _signed(b)
        product = a * b  # exact for the small numbers that lanes are made of
        return (product >> 32) + c if "HI" in instruction.opcode else product + c
    return a * b + c


def _shifted_sum(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    """LEA: (a << s) + b; LEA.HI: the upper half of (c, a) << s, plus b."""
    if "HI" not in instruction.opcode:
        amount = _number(lanes, operands, 2) & 31
        return (lanes.value(operands[0]) << amount) + lanes.value(operands[1])
    if "SX32" in instruction.opcode:
        low, amount = _signed(lanes.value(operands[0])), _number(lanes, operands, 2) & 31
        return (low >> (32 - amount)) + lanes.value(operands[1])
    low, high = lanes.value(operands[0]), _number(lanes, operands, 2)
    amount = _number(lanes, operands, 3) & 31
    return (((high << 32) | low) >> (32 - amount)) + lanes.value(operands[1])


def _logic(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    a, b, c = (_number(lanes, operands, place) for place in range(3))
    table = int(operands[3], 0) if len(operands) > 3 else 0
    found = np.zeros_like(a)
    for index in range(8):
        if table >> index & 1:
            found = found | ((a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c))
    return found & _WORD


def _funnel(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    """SHF: the two words (c, a) shifted; `.HI` gives the upper one."""
    low, amount, high = (_number(lanes, operands, place) for place in range(3))
    upper = ".HI" in instruction.opcode
    if ".L" in instruction.opcode:
        amount = amount & (63 if "64" in instruction.opcode else 31)
        return (high << amount) | (low >> (32 - np.minimum(amount, 32))) if upper else low << amount
    high = _signed(high) if "S32" in instruction.opcode or "S64" in instruction.opcode else high
    return high >> amount if upper else (low >> amount) | (high << (32 - np.minimum(amount, 32)))


def _extended(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    bits = np.clip(lanes.value(operands[1]), 1, 32)
    kept = lanes.value(operands[0]) & ((np.int64(1) << bits) - 1)
    if "U32" in instruction.opcode:
        return kept
    return np.where(kept >> (bits - 1) & 1, kept - (np.int64(1) << bits), kept)


def _selected(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    return np.where(lanes.holds(operands[2]), lanes.value(operands[0]), lanes.value(operands[1]))


def _extreme(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    a, b = _signed(lanes.value(operands[0])), _signed(lanes.value(operands[1]))
    return np.where(lanes.holds(operands[2]), np.minimum(a, b), np.maximum(a, b))


def _permuted(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    a, chosen, c = (_number(lanes, operands, place) for place in range(3))
    both, found = (c << 32) | a, np.zeros_like(a)
    for byte in range(4):
        found = found | ((both >> (8 * (chosen >> (4 * byte) & 7)) & 0xFF) << (8 * byte))
    return found


def _read(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    thread = np.arange(lanes.threads, dtype=np.int64)
    if "SR_TID.X" in operands[0]:
        return thread
    return thread % LANES if "SR_LANEID" in operands[0] else lanes.value("0")


def _shuffled(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    if ".IDX" not in instruction.opcode:
        return lanes.value("0")
    thread = np.arange(lanes.threads, dtype=np.int64)
    return lanes.value(operands[0])[thread // LANES * LANES + (lanes.value(operands[1]) & 31)]


def _absolute(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Words:
    return np.abs(_signed(lanes.value(operands[0])))


_COMPARISONS: dict[str, Callable[[Words, Words], Flags]] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}


def _compared(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Flags:
    parts = instruction.opcode.split(".")
    a, b = lanes.value(operands[0]), lanes.value(operands[1])
    if "U32" not in parts:
        a, b = _signed(a), _signed(b)
    found = next((_COMPARISONS[part](a, b) for part in parts if part in _COMPARISONS), a != a)
    with_other = lanes.holds(operands[2]) if len(operands) > 2 else ~(a != a)
    return found | with_other if "OR" in parts else found ^ with_other if "XOR" in parts else found & with_other


def _three_predicates(lanes: Lanes, instruction: Instruction, operands: list[str]) -> Flags:
    a, b, c = (lanes.holds(item) for item in operands[:3])
    return (int(operands[3], 0) >> (a.astype(np.int64) * 4 + b * 2 + c) & 1).astype(bool)


_TESTS: dict[str, Callable[[Lanes, Instruction, list[str]], Flags]] = {"ISETP": _compared, "PLOP3": _three_predicates}

_OPERATIONS: dict[str, Callable[[Lanes, Instruction, list[str]], Words]] = {
    **dict.fromkeys(("MOV", "R2UR"), _moved),
    **dict.fromkeys(("IADD3", "VIADD", "IADD"), _added),
    "IMAD": _multiplied,
    "LEA": _shifted_sum,
    "LOP3": _logic,
    "SHF": _funnel,
    "SGXT": _extended,
    "SEL": _selected,
    **dict.fromkeys(("IMNMX", "VIMNMX"), _extreme),
    "PRMT": _permuted,
    **dict.fromkeys(("S2R", "S2UR"), _read),
    "SHFL": _shuffled,
    "IABS": _absolute,
}
