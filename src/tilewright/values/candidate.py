"""A candidate module, and the kernel launches that it makes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from tilewright.values.schedule import Schedule


class Origin(StrEnum):
    """Where a candidate's source came from."""

    SYNTHESIZE = "synthesize"
    RETUNE = "retune"
    LLM = "llm"
    DOCUMENT = "document"
    FILE = "file"


@dataclass(frozen=True)
class Candidate:
    """Source text that defines `ModelNew`, and where it came from.

    Attributes:
        source: one Python file.
        origin: the proposer.
        description: what was tried, one line for people.
        parent: digest of the source that it was made from, if any.
        schedules: the schedule of each kernel, where the proposer knows it.
        native: operations that stayed with PyTorch, by their names for people.
        scratch: declared scratch tensors, `name: what it holds, its bytes as a formula`.
        spares: kernels that return at once unless a guard on the inputs' values fails.
        products: (kernel, operations of its matrix product at the task's own sizes), where the proposer knows them.
        collapses: algebraic collapses (rules that remove most of the work), by name.
        needs_reference: the constructor takes the reference module (live modules) rather than its arguments.
    """

    source: str
    origin: Origin
    description: str
    parent: str | None = None
    schedules: tuple[Schedule, ...] = ()
    native: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()
    products: tuple[tuple[str, int], ...] = ()
    collapses: tuple[str, ...] = ()
    needs_reference: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the source, 16 hex digits: the candidate's identity in a study."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class LaunchArgument:
    """One argument of a kernel launch.

    Attributes:
        name: parameter name in the kernel's signature.
        type: Triton's signature type (`*fp32`, `i32`, `fp32`, ...) or `constexpr`.
        value: the value of a scalar or constexpr; None for pointers.
        shape, stride: of the tensor behind a pointer, in elements; empty for scalars.
        divisible_by_16: what Triton would specialise on (pointers: address; integers: value).
        storage: number of the memory behind a pointer, the same for tensors that share it; 0 for scalars.
    """

    name: str
    type: str
    value: int | float | bool | str | None = None
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    divisible_by_16: bool = False
    storage: int = 0


@dataclass(frozen=True)
class Launch:
    """One kernel launch as a candidate makes it on given inputs: what would run, without running it.

    Attributes:
        grid: as launched, padded with 1.
        alternatives: the same launch under the other configurations of an autotune list.
    """

    kernel: str
    grid: tuple[int, int, int]
    arguments: tuple[LaunchArgument, ...]
    num_warps: int
    num_stages: int
    alternatives: tuple[Launch, ...] = ()

    @property
    def programs(self) -> int:
        """Program instances of the launch."""
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class NativeCall:
    """One operation that a candidate leaves to PyTorch, as seen by a dispatcher that does not run it.

    Attributes:
        operation: ATen name (`aten.convolution.default`).
        input_shapes, output_shapes: of its tensors.
        read_bytes, written_bytes: its tensors once each; 0 for views.
        matrix_operations: multiplications and additions of a contraction; 0 for the rest.
        layout: `channels_last` or `contiguous`, of the first input.
    """

    operation: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    read_bytes: int
    written_bytes: int
    matrix_operations: int
    layout: str = "contiguous"


@dataclass(frozen=True)
class Recording:
    """What one forward pass does, in order, without running it: launches and native operations."""

    steps: tuple[Launch | NativeCall, ...]

    @property
    def launches(self) -> tuple[Launch, ...]:
        """The Triton launches."""
        return tuple(step for step in self.steps if isinstance(step, Launch))

    @property
    def native(self) -> tuple[NativeCall, ...]:
        """The native operations."""
        return tuple(step for step in self.steps if isinstance(step, NativeCall))
