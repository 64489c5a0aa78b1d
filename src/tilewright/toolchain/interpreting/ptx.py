"""A plain twin of inline PTX: elementwise snippets with registers, run on arrays. What it does not know, it names.

A register is an array of bits (`uint64`), one for each call of the snippet. Source: the PTX ISA, version 8.5, and
Triton's documentation of `inline_asm_elementwise` for how elements are packed into registers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.toolchain.interpreting.ptx_instructions import INSTRUCTIONS, NOTHING
from tilewright.toolchain.interpreting.ptx_types import Bits, from_bits, immediate, to_bits
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_GUARD = re.compile(r"@(!?)\s*([\w$%]+)\s+")
_DECLARED = re.compile(r"([\w$%]+)(?:<(\d+)>)?$")
_NAME = re.compile(r"\$\{?\d+(?::\w+)?\}?$|[A-Za-z_%][\w$]*$")


@dataclass(frozen=True)
class Statement:
    """One instruction: `@p add.f32 d, a, b`.

    Attributes:
        text: as written.
        opcode: its words, `("add", "f32")`.
        operands: each a tuple of names or numbers: one, or those of a vector.
        guard: name of the predicate; empty for none.
        negated: it is carried out where the predicate is false.
    """

    text: str
    opcode: tuple[str, ...]
    operands: tuple[tuple[str, ...], ...]
    guard: str = ""
    negated: bool = False


@functools.lru_cache(maxsize=256)
def parse(text: str) -> tuple[tuple[Statement, ...], frozenset[str]]:
    """The instructions of a snippet, and the names of the registers that it declares.

    Raises:
        NotInterpretableError: it is no straight list of instructions.
    """
    plain = _COMMENT.sub(" ", text).replace("$$", "").replace("\\n", "\n").replace("\\t", " ")
    found: list[Statement] = []
    declared: set[str] = set()
    for raw in plain.split(";"):
        statement = " ".join(raw.split())
        # Braces around statements open a scope; those within are vectors.
        while statement.startswith(("{", "}")):
            statement = statement[1:].strip()
        if not statement or statement == "}":
            continue
        if statement.startswith(".reg"):
            declared |= _declaration(statement)
            continue
        if statement.startswith(".") or re.match(r"[\w$]+\s*:", statement):
            raise NotInterpretableError(f"`{statement}` in inline PTX")
        found.append(_statement(statement))
    return tuple(found), frozenset(declared)


def _declaration(statement: str) -> set[str]:
    names: set[str] = set()
    for item in statement.split(None, 2)[2].split(","):
        match = _DECLARED.match(item.strip())
        if match is None:
            raise NotInterpretableError(f"`{statement}` in inline PTX")
        count = match[2]
        names |= {match[1]} if count is None else {f"{match[1]}{number}" for number in range(int(count))}
    return names


def _statement(text: str) -> Statement:
    guard, negated, rest = "", False, text
    match = _GUARD.match(text)
    if match is not None:
        guard, negated, rest = match[2], bool(match[1]), text[match.end() :]
    opcode, _, operands = rest.partition(" ")
    parts = re.findall(r"\{[^}]*\}|[^,{}]+", operands)
    vectors = (re.split(r"[,\s]+", part.strip(" {}")) if "{" in part else [part.strip()] for part in parts)
    cleaned = tuple(tuple(name for name in vector if name) for vector in vectors)
    return Statement(text, tuple(opcode.split(".")), tuple(vector for vector in cleaned if vector), guard, negated)


@dataclass
class Machine:
    """The registers while a snippet runs.

    Attributes:
        lanes: calls of the snippet.
        registers: name -> bits.
        program: number of the program that runs, for `%ctaid`.
    """

    lanes: int
    registers: dict[str, Bits] = field(default_factory=dict)
    program: tuple[int, int, int] = (0, 0, 0)

    def run(self, text: str) -> None:
        """Carry out a snippet.

        Raises:
            NotInterpretableError: it holds what is not known here.
        """
        statements, declared = parse(text)
        for name in declared:
            self.registers[name] = np.zeros(self.lanes, dtype=np.uint64)
        for statement in statements:
            with np.errstate(all="ignore"):
                self._step(statement)

    def _step(self, statement: Statement) -> None:
        base = statement.opcode[0]
        if base in NOTHING:
            return
        instruction = INSTRUCTIONS.get(base)
        if instruction is None:
            raise NotInterpretableError(f"`{statement.text}` in inline PTX")
        targets, *sources = statement.operands
        values = [tuple(self._read(name, statement) for name in vector) for vector in sources]
        try:
            results = instruction(statement.opcode[1:], values, len(targets))
        except (KeyError, IndexError, ValueError) as error:
            raise NotInterpretableError(f"`{statement.text}` in inline PTX ({error})") from error
        names = [name for target in targets for name in target.split("|")]
        for name, bits in zip(names, results, strict=False):
            self._write(name, np.broadcast_to(bits, (self.lanes,)), statement)

    def _read(self, name: str, statement: Statement) -> Bits:
        negated, name = name.startswith("!"), name.lstrip("!")
        known = self.registers.get(_plain(name))
        if known is None:
            known = self._special(name, statement) if name.startswith("%") else immediate(name, statement.opcode)
        if known is None:
            raise NotInterpretableError(f"`{name}` of `{statement.text}` in inline PTX")
        return np.where(known == 0, np.uint64(1), np.uint64(0)) if negated else known

    def _special(self, name: str, statement: Statement) -> Bits | None:
        places = {"%ctaid.x": 0, "%ctaid.y": 1, "%ctaid.z": 2}
        if name in places:
            return np.full(self.lanes, self.program[places[name]], dtype=np.uint64)
        if name in {"%smid", "%laneid", "%clock", "%clock64", "%globaltimer", "%globaltimer_lo"}:
            return np.zeros(self.lanes, dtype=np.uint64)
        return None

    def _write(self, name: str, bits: Bits, statement: Statement) -> None:
        if name == "_":
            return
        if _NAME.match(name) is None:
            raise NotInterpretableError(f"`{statement.text}` in inline PTX")
        if statement.guard:
            taken = (self._read(statement.guard, statement) != 0) ^ statement.negated
            before = self.registers.get(_plain(name), np.zeros(self.lanes, dtype=np.uint64))
            bits = np.where(taken, bits, before)
        self.registers[_plain(name)] = bits


def _plain(name: str) -> str:
    """`${3:r}` is `$3`."""
    match = re.match(r"\$\{?(\d+)", name)
    return f"${match[1]}" if match is not None else name


# --- elements in registers -----------------------------------------------------------------------------------


def evaluate(
    text: str, constraints: str, arguments: Sequence[tuple[npt.NDArray[Any], int]], results: Sequence[int], pack: int,
    program: tuple[int, int, int] = (0, 0, 0),
) -> list[npt.NDArray[Any]]:  # fmt: skip
    """Run a snippet on every `pack` elements.

    Args:
        text, constraints: as given to `inline_asm_elementwise`.
        arguments: of each argument its elements, flat and equally many, as unsigned integers, and their bits.
        results: bits of an element of each result.
        pack: elements of one call.
        program: that runs.

    Returns:
        the elements of each result, flat, as unsigned integers.

    Raises:
        NotInterpretableError: it holds what is not known here.
        ValueError: the constraints do not fit the arguments.
    """
    kinds = [kind.strip() for kind in constraints.split(",") if kind.strip() and not kind.strip().startswith("~")]
    count = arguments[0][0].size if arguments else 1
    lanes = -(-count // pack)
    machine = Machine(lanes, program=program)
    outputs = [_shared(bits, pack) for bits in results]
    number = sum(pack // shared for shared in outputs)
    for place in range(number):
        machine.registers[f"${place}"] = np.zeros(lanes, dtype=np.uint64)
    for values, bits in arguments:
        padded = np.concatenate([values.astype(np.uint64), np.zeros(lanes * pack - count, dtype=np.uint64)])
        elements = padded.reshape(lanes, pack)
        shared = _shared(bits, pack)
        for start in range(0, pack, shared):
            register = np.zeros(lanes, dtype=np.uint64)
            for offset in range(shared):
                register |= elements[:, start + offset] << np.uint64(bits * offset)
            machine.registers[f"${number}"] = register
            if number < len(kinds) and kinds[number].isdigit():  # it is in the place of that output
                machine.registers[f"${kinds[number]}"] = register
            number += 1
    if len(kinds) != number:
        raise ValueError(f"the constraints {constraints!r} name {len(kinds)} registers, and there are {number}")
    machine.run(text)
    return _unpacked(machine.registers, results, outputs, pack, count)


def _shared(bits: int, pack: int) -> int:
    """Elements in one register."""
    return max(min(32 // bits, pack), 1)


def _unpacked(
    registers: Mapping[str, Bits], results: Sequence[int], outputs: Sequence[int], pack: int, count: int
) -> list[npt.NDArray[Any]]:
    number = 0
    found = []
    for bits, shared in zip(results, outputs, strict=True):
        columns = []
        for _ in range(0, pack, shared):
            register = registers[f"${number}"]
            number += 1
            limit = np.uint64((1 << bits) - 1)
            columns += [(register >> np.uint64(bits * offset)) & limit for offset in range(shared)]
        found.append(np.stack(columns, axis=1).reshape(-1)[:count])
    return found


# --- the builder ---------------------------------------------------------------------------------------------


def install(interpreter: Any) -> None:
    """Give the builder `create_inline_asm` and `create_extern_elementwise`."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def create_inline_asm(
        self: Any, text: str, constraints: str, values: Sequence[Any], types: Sequence[Any], pure: bool, pack: int
    ) -> Any:
        shape = np.broadcast_shapes(*(value.data.shape for value in values)) if values else (1,)
        arguments = []
        for value in values:
            data = np.broadcast_to(value.data, shape)
            bits = max(value.dtype.scalar.primitive_bitwidth, 8)
            arguments.append((to_bits(data.reshape(-1)), bits))
        widths = [max(kind.scalar.primitive_bitwidth, 8) for kind in types]
        found = evaluate(text, constraints, arguments, widths, int(pack), self.grid_idx)
        return _Results(
            [
                handle(from_bits(bits, interpreter._get_np_dtype(kind.scalar)).reshape(shape), kind.scalar)
                for bits, kind in zip(found, types, strict=True)
            ]
        )

    def create_extern_elementwise(
        self: Any, library: str, path: str, symbol: str, arguments: Sequence[Any], kind: Any, pure: bool
    ) -> Any:
        from tilewright.toolchain.interpreting import libdevice

        data = libdevice.evaluate(symbol, [value.data for value in arguments], interpreter._get_np_dtype(kind.scalar))
        return handle(data, kind.scalar)

    builder.create_inline_asm, builder.create_extern_elementwise = create_inline_asm, create_extern_elementwise


@dataclass(frozen=True)
class _Results:
    handles: list[Any]

    def get_result(self, number: int) -> Any:
        """The handle of one result."""
        return self.handles[number]
