"""In a sandboxed process: what sampled programs of each launch ask of memory, on the second forward pass.

Entry `run`. One program of each launch is followed to its end, others only until they have touched each place of
the first loop iteration. Parts: `launch I` for each launch, then `end`.
"""

from __future__ import annotations

import base64
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch

from tilewright.gate.inside import runtime
from tilewright.gate.inside.accesses import AccessKind, Memory, Region, Touch
from tilewright.gate.inside.execute import describe
from tilewright.gate.inside.pretend import pretend
from tilewright.gate.reference.subject import Subject, map_leaves
from tilewright.toolchain import triton_compat
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError
from tilewright.toolchain.memory import EndProgramError, observed_memory, source_line
from tilewright.toolchain.patched import cheap_products

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]
Program = tuple[int, int, int]

KINDS = tuple(AccessKind)
#: Lanes that are kept of the program that is followed to its end; further accesses are kept as their extent alone.
MOST_LANES = 1 << 22
#: Programs whose beginnings are looked at, where the caller does not say how many are resident.
MOST_BEGINNINGS = 512


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module."""
    subject = Subject.of(cloudpickle.loads(base64.b64decode(job["source"])))
    reference = subject.build(subject.own_arguments) if job["needs_reference"] else None
    watcher = Watcher({str(name): int(count) for name, count in job["resident"].items()}, float(job["budget_s"]))
    memory = _Followed([watcher])
    error: dict[str, Any] = {}
    triton_compat.refine_interpreter()
    with runtime.interpreted_kernels(int(job["configuration"])), observed_memory(memory), cheap_products():
        try:
            _forward_twice(subject, reference, job["gpu"], watcher)
        except (Exception, NotInterpretableError) as problem:
            error = describe(problem)
    for index, launch in enumerate(watcher.launches):
        packed: dict[str, torch.Tensor] = {}
        emit(f"launch {index}", launch.packed(packed), packed)
    emit("end", {"error": error}, None)


def _forward_twice(subject: Subject, reference: Any, gpu: Mapping[str, Any], watcher: Watcher) -> None:
    """The first pass packs weights and the like; the second is what a user's calls cost."""
    with pretend(gpu, "cpu", poisoned=False):
        module = runtime.load_candidate(Path.cwd())
        candidate = runtime.build_candidate(module, subject.own_arguments, reference)
    inputs = map_leaves(
        subject.inputs(0, "meta"),
        lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"),
    )
    candidate = candidate.to("meta")
    with pretend(gpu, "meta", poisoned=False), torch.no_grad():
        candidate(*inputs)
        watcher.watching = True
        candidate(*inputs)


class _Followed(Memory):
    """Memory whose one sink names the programs that are run."""

    def programs(self, grid: Program) -> Iterator[Program]:
        """See `Observer`."""
        watcher = self.sinks[0]
        assert isinstance(watcher, Watcher)
        return iter(watcher.chosen(grid))


@dataclass
class _Launch:
    """What was seen of a launch."""

    kernel: str
    grid: Program
    regions: tuple[Region, ...]
    rows: list[tuple[int, ...]] = field(default_factory=list)
    offsets: list[Any] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)
    lanes: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    begun: list[tuple[int, ...]] = field(default_factory=list)
    complete: bool = True

    def packed(self, into: dict[str, torch.Tensor]) -> dict[str, Any]:
        """The launch as JSON values and tensors."""
        none = np.zeros(0, np.int64)
        into["rows"] = torch.tensor(self.rows, dtype=torch.int64).reshape(len(self.rows), -1)
        into["begun"] = torch.tensor(self.begun, dtype=torch.int64).reshape(len(self.begun), -1)
        into["offsets"] = torch.from_numpy(np.concatenate(self.offsets or [none]).astype(np.int64))
        into["masks"] = torch.from_numpy(np.concatenate(self.masks or [none.astype(bool)]))
        return {
            "kernel": self.kernel,
            "grid": list(self.grid),
            "tensors": [asdict(region.tensor) for region in self.regions],
            "shapes": [list(shape) for shape in self.shapes],
            "complete": self.complete,
        }


@dataclass
class Watcher:
    """The sink: follows the middle program of each launch, and the beginnings of a run of programs.

    Attributes:
        resident: kernel -> programs whose beginnings are looked at, at most.
        budget_s: processor seconds for the followed program of a launch, and for the beginnings.
        watching: the pass that counts is under way.
        launches: what was seen, in order.
    """

    resident: Mapping[str, int]
    budget_s: float
    watching: bool = False
    launches: list[_Launch] = field(default_factory=list)
    _turn: int = 0
    _number: int = 0
    _lines: set[int] = field(default_factory=set)
    _started: float = 0.0
    _kernel: str = ""

    def chosen(self, grid: Program) -> Sequence[Program]:
        """The programs to run: the middle one to its end, then the beginnings of a run of neighbours."""
        programs = math.prod(grid)
        if not self.watching or not programs:
            return ()
        count = self.resident.get(self._kernel, MOST_BEGINNINGS)
        first = max(0, programs // 2 - count // 2)
        numbers = range(first, min(programs, first + count))
        return [_program(number, grid) for number in itertools.chain([programs // 2], numbers)]

    def launch(self, kernel: str, grid: Program, regions: Sequence[Region]) -> None:
        """See `Sink`."""
        self._kernel = kernel
        if self.watching:
            self.launches.append(_Launch(kernel, grid, tuple(regions)))
            self._turn = 0

    def named(self) -> frozenset[int] | None:
        """See `Sink`: `chosen` names them."""
        return None

    def program(self, program: Program, number: int) -> bool:
        """See `Sink`."""
        self._turn += 1
        if self._turn <= 2:  # the followed one, and the first of the others, from which on the budget is theirs
            self._started = time.process_time()
        self._number, self._lines = number, set()
        return time.process_time() - self._started < self.budget_s

    def touch(self, touch: Touch) -> None:
        """See `Sink`."""
        launch = self.launches[-1]
        region = touch.region
        argument = launch.regions.index(region) if region is not None else -1
        start = region.start if region is not None else 0
        offsets = (touch.addresses - np.uint64(start)).view(np.int64)
        active = int(np.count_nonzero(touch.mask))
        low, high = _extent(offsets, touch.mask, active)
        line = source_line()
        if self._turn > 1:
            row = (self._number, KINDS.index(touch.kind), argument, line, low, high, active, touch.element_bytes)
            if line in self._lines:  # the second iteration of a loop
                raise EndProgramError
            self._lines.add(line)
            launch.begun.append(row)
            return
        if time.process_time() - self._started > self.budget_s:
            launch.complete = False
            raise EndProgramError
        shape = tuple(offsets.shape)
        if shape not in launch.shapes:
            launch.shapes.append(shape)
        kept = launch.lanes + offsets.size <= MOST_LANES
        place = launch.shapes.index(shape)
        kind = KINDS.index(touch.kind)
        launch.rows.append((kind, argument, line, low, high, active, touch.element_bytes, int(kept), place))
        if kept:
            launch.lanes += offsets.size
            launch.offsets.append(offsets.reshape(-1))
            launch.masks.append(touch.mask.reshape(-1).copy())


def _extent(offsets: Any, mask: Any, active: int) -> tuple[int, int]:
    if not active:
        return 0, 0
    within = offsets if active == offsets.size else offsets[mask]
    return int(within.min()), int(within.max())


def _program(number: int, grid: Program) -> Program:
    """Programs start along axis 0 first."""
    x, rest = number % grid[0], number // grid[0]
    return x, rest % grid[1], rest // grid[1]
