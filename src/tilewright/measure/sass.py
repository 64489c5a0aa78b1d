"""A kernel's machine code, as `nvdisasm` prints it: instructions with registers, pipe, and source line."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path


class Pipe(StrEnum):
    """The unit that executes an instruction."""

    FMA = "fma"
    HEAVY = "fma heavy"  #: integer multiply-adds, on half of the multiply-add lanes
    ALU = "alu"
    SPECIAL = "special"
    TENSOR = "tensor"
    MEMORY = "memory"
    UNIFORM = "uniform"
    CONTROL = "control"


class Space(StrEnum):
    """The memory that an instruction accesses."""

    GLOBAL = "global"
    SHARED = "shared"
    LOCAL = "local"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: byte offset in the kernel.
        opcode: with its modifiers (`LDG.E.128`).
        writes, reads: registers, by name (`R12`, `UR4`, `P0`); the predicate that guards it is read.
        target: address of a branch; None for other instructions.
        guarded: it runs under a predicate.
        line: of the source file that is being profiled; 0 where it has none.
        text: operands, for what is rare.
        guard: the predicate under which it runs (`!P0`); empty where there is none.
    """

    address: int
    opcode: str
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    target: int | None
    guarded: bool
    line: int
    text: str
    guard: str = ""

    @property
    def base(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".", 1)[0]

    @property
    def pipe(self) -> Pipe:
        """The unit that executes it."""
        return _PIPES.get(self.base, Pipe.UNIFORM if self.base.startswith("U") else Pipe.ALU)

    @property
    def space(self) -> Space | None:
        """The memory that it accesses, if any."""
        return _SPACES.get(self.base)

    @property
    def is_load(self) -> bool:
        """It brings data from memory."""
        return self.base in ("LDG", "LD", "LDS", "LDSM", "LDL", "LDGSTS", "UTMALDG")

    @property
    def is_store(self) -> bool:
        """It sends data to memory."""
        return self.base in ("STG", "ST", "STS", "STSM", "STL", "RED", "ATOMG", "ATOM", "UTMASTG")

    @property
    def bytes_per_lane(self) -> int:
        """Bytes of a lane's access."""
        parts = self.opcode.split(".")
        for width in ("128", "64"):
            if width in parts:
                return int(width) // 8
        if any(part in parts for part in ("U8", "S8")):
            return 1
        return 2 if any(part in parts for part in ("U16", "S16")) else 4

    @property
    def past_l1(self) -> bool:
        """A load that does not look into L1."""
        return "BYPASS" in self.opcode or "STRONG" in self.opcode


# Pipes by opcode. Source: NVIDIA, "CUDA Binary Utilities" (instruction sets) and the pipeline section of Nsight
# Compute's profiling guide; what is in neither table runs on the ALU.
_PIPES = {
    **dict.fromkeys(("FADD", "FMUL", "FFMA", "HADD2", "HMUL2", "HFMA2", "FSWZADD", "FFMA32I"), Pipe.FMA),
    **dict.fromkeys(("IMAD", "IMUL", "IDP"), Pipe.HEAVY),
    **dict.fromkeys(("MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV", "I2FP", "F2IP"), Pipe.SPECIAL),
    **dict.fromkeys(("HMMA", "IMMA", "DMMA", "BMMA", "HGMMA", "IGMMA", "QGMMA", "QMMA"), Pipe.TENSOR),
    **dict.fromkeys(
        ("LDG", "LD", "LDS", "LDSM", "LDL", "LDGSTS", "STG", "ST", "STS", "STSM", "STL", "RED", "ATOM", "ATOMG",
         "ATOMS", "SHFL", "UTMALDG", "UTMASTG", "LDC"),
        Pipe.MEMORY,
    ),
    **dict.fromkeys(
        ("BRA", "EXIT", "BSSY", "BSYNC", "NOP", "WARPSYNC", "BAR", "DEPBAR", "LDGDEPBAR", "CALL", "RET", "JMP",
         "WARPGROUP", "YIELD", "KILL", "BREAK", "MEMBAR", "ERRBAR", "CCTL", "FENCE", "SYNCS", "ELECT"),
        Pipe.CONTROL,
    ),
}  # fmt: skip

_SPACES = {
    **dict.fromkeys(("LDG", "LD", "STG", "ST", "RED", "ATOMG", "ATOM", "LDGSTS", "UTMALDG", "UTMASTG"), Space.GLOBAL),
    **dict.fromkeys(("LDS", "LDSM", "STS", "STSM", "ATOMS"), Space.SHARED),
    **dict.fromkeys(("LDL", "STL"), Space.LOCAL),
    "LDC": Space.CONSTANT,
}

_LINE = re.compile(r'//## File "([^"]*)", line (\d+)')
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P[T0-9]+)\s+)?([A-Z][A-Z0-9_.x]*)\s*([^;]*);")
_LABEL = re.compile(r"^(\.L_[A-Za-z0-9_]+):")
_REGISTER = re.compile(r"\b(UR\d+|R\d+|UP\d+|P\d+)\b(\.64)?")

#: Opcodes whose first operand is no result.
_NO_RESULT = frozenset(
    {"STG", "ST", "STS", "STSM", "STL", "RED", "BRA", "EXIT", "BSSY", "BSYNC", "NOP", "WARPSYNC", "BAR", "DEPBAR"}
    | {"LDGDEPBAR", "CALL", "RET", "JMP", "LDGSTS", "WARPGROUP", "UTMALDG", "UTMASTG", "MEMBAR", "ERRBAR", "CCTL"}
    | {"FENCE", "SYNCS", "KILL", "YIELD"}
)


#: Opcodes that may give predicates (carries) after their result.
_CARRIES = frozenset({"IADD3", "LEA", "IMAD", "UIADD3", "ULEA"})


def disassemble(cubin: bytes) -> str:
    """`nvdisasm`'s text of a cubin, with source lines.

    Raises:
        subprocess.CalledProcessError: it is no cubin.
    """
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.nvdisasm.path, "-g", "-c", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def parse_sass(text: str, file: str = "") -> tuple[Instruction, ...]:
    """The instructions of a disassembled kernel, in the order of their addresses.

    Args:
        text: of `disassemble`.
        file: name of the source file whose lines count; lines of other files (the standard library's) keep the
            last line of this one.
    """
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    targets: list[str] = []
    line = 0
    for row in text.splitlines():
        if "//## File" in row:
            matches = [int(number) for name, number in _LINE.findall(row) if not file or name.endswith(file)]
            line = matches[0] if matches else line
            continue
        label = _LABEL.match(row.strip())
        if label:
            waiting.append(label.group(1))
            continue
        match = _INSTRUCTION.search(row)
        if match is None:
            continue
        address = int(match.group(1), 16)
        if found and address <= found[-1].address:
            break  # another section
        labels.update(dict.fromkeys(waiting, address))
        waiting = []
        instruction, target = _instruction(address, match, line)
        found.append(instruction)
        targets.append(target)
    return tuple(
        instruction if not target else _with_target(instruction, labels.get(target))
        for instruction, target in zip(found, targets, strict=True)
    )


def _with_target(instruction: Instruction, target: int | None) -> Instruction:
    return replace(instruction, target=target)


def _instruction(address: int, match: re.Match[str], line: int) -> tuple[Instruction, str]:
    guard, opcode, operands = match.group(2), match.group(3), match.group(4).strip()
    label = re.search(r"`\((\.L_[A-Za-z0-9_]+)\)", operands)
    base = opcode.split(".", 1)[0]
    parts = [part.strip() for part in operands.split(",")] if operands else []
    writes: list[str] = []
    reads: list[str] = []
    results = 0 if base in _NO_RESULT else _results(base, parts)
    for position, part in enumerate(parts):
        for name, wide in _REGISTER.findall(part):
            into = writes if position < results and "[" not in part else reads
            into.append(name)
            if wide:
                into.append(_next(name))
    if writes:
        writes += [_next(writes[0], step) for step in range(1, _width(opcode))]
    if guard and "PT" not in guard:
        reads.append(guard.lstrip("@!"))
    instruction = Instruction(
        address, opcode, tuple(writes), tuple(reads), None, guard is not None, line, operands, (guard or "").lstrip("@")
    )
    return instruction, label.group(1) if label and base in ("BRA", "JMP") else ""


def _results(base: str, parts: list[str]) -> int:
    """How many leading operands are results: a comparison has two predicates, an addition with carry more."""
    if base in ("ISETP", "FSETP", "HSETP2", "PLOP3", "DSETP", "UISETP", "R2P"):
        return 2
    leading = 1
    first = parts[0] if parts else ""
    if re.fullmatch(r"U?P(\d+|T)", first):  # SHFL and VOTE name a predicate before their result
        leading = 2
    while leading < min(len(parts), 3) and re.fullmatch(r"U?P(\d+|T)", parts[leading]) and base in _CARRIES:
        leading += 1
    return leading


def _next(name: str, step: int = 1) -> str:
    match = re.fullmatch(r"([A-Z]+)(\d+)", name)
    assert match is not None
    return f"{match.group(1)}{int(match.group(2)) + step}"


def _width(opcode: str) -> int:
    """Registers of the result."""
    parts = opcode.split(".")
    base = parts[0]
    if base == "HGMMA":
        shape = next((part for part in parts if re.fullmatch(r"\d+x\d+x\d+", part)), "64x8x16")
        return max(1, int(shape.split("x")[1]) // 2)
    if base in ("HMMA", "IMMA"):
        return 2 if "F16" in parts[2:3] and "F32" not in parts else 4
    if base == "LDSM":
        return int(parts[-1]) if parts[-1].isdigit() else 1
    if "WIDE" in parts:
        return 2
    if base in ("LDG", "LDS", "LDL", "LD", "LDC", "ULDC"):
        return 4 if "128" in parts else 2 if "64" in parts else 1
    return 1
