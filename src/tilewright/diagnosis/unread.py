"""Parts of a kernel's operands that it never reads, told from a sample of its programs.

Every sampled program, the first and the last among them, reads some indices along each dim of an operand. Where
they all read the same ones, the grid does not move along that dim, and what they leave out is left out by all.
The gate's own check looks at every element; this one is quick enough for a question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tilewright.diagnosis.facts import Unread
from tilewright.gate.inside.accesses import Access, AccessKind, Sample, TracedLaunch, TracedTensor
from tilewright.gate.stages.trace import trace
from tilewright.graph.graph import Graph
from tilewright.graph.work import count_nodes
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate

Lanes = npt.NDArray[np.bool_]

#: Programs of each launch: the first, the last and others between, spread evenly.
SAMPLE = Sample(groups=3, size=1)
#: Wall seconds.
_DEADLINE_S = 30.0

#: Operations that leave a part of their input out by right.
_SELECTING = frozenset(
    {
        *("slice", "select", "index", "index_select", "gather", "embedding", "narrow", "split", "split_with_sizes"),
        *("chunk", "unbind", "unfold", "tril", "triu", "diagonal", "take", "topk", "sort", "masked_fill", "where"),
        *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    }
)


def find_unread(task: Task, candidate: Candidate, graph: Graph | None) -> Mapping[str, tuple[Unread, ...]]:
    """Kernel -> parts of its operands that no program reads, as far as a sample can tell.

    Nothing is said where the reference itself selects (slices, gathers, pools), where addresses depend on data, or
    where the kernel cannot be run in the interpreter.

    Args:
        task: says how the code is called; it must have a reference.
        candidate: the code; it runs in a sandbox.
        graph: of the reference.
    """
    if graph is None or any(node.operation in _SELECTING for node in count_nodes(graph)):
        return {}
    seen = trace(task, candidate, task.gpu, SAMPLE, deadline_s=_DEADLINE_S)
    found: dict[str, tuple[Unread, ...]] = {}
    for launch in seen.launches:
        if launch.complete and launch.kernel not in found:
            found[launch.kernel] = tuple(_of_launch(launch))
    return {kernel: parts for kernel, parts in found.items() if parts}


def _of_launch(launch: TracedLaunch) -> Iterator[Unread]:
    loads = [access for access in launch.accesses if access.kind is AccessKind.LOAD]
    names = dict.fromkeys(access.argument for access in loads if access.argument)
    if any(_is_integer(launch, name) for name in names):
        return  # addresses may have been read from there
    for name in names:
        tensor = launch.tensor(name)
        if tensor is None or not _is_plain(tensor):
            continue
        programs = []
        for program in launch.programs:
            own = [access for access in loads if access.argument == name and access.program == program]
            if own and all(access.element_bytes == tensor.element_bytes for access in own):
                programs.append(_read_along(own, tensor))
        if len(programs) == len(launch.programs):
            yield from _left_out(name, tensor, programs)


def _is_integer(launch: TracedLaunch, name: str) -> bool:
    tensor = launch.tensor(name)
    return tensor is not None and "int" in tensor.dtype


def _is_plain(tensor: TracedTensor) -> bool:
    """Offsets can be taken apart into indices: strides fall, each a whole number of the next."""
    order = sorted((step, size) for size, step in zip(tensor.shape, tensor.stride, strict=True) if size > 1)
    reach = 1
    for step, size in order:
        if step < reach:
            return False
        reach = step * size
    return bool(order)


def _read_along(accesses: Sequence[Access], tensor: TracedTensor) -> list[Lanes]:
    """For each dim, which of its indices a program reads."""
    flags = [np.zeros(size, dtype=bool) for size in tensor.shape]
    for access in accesses:
        offsets = access.offsets[access.mask]
        for dim, (size, step) in enumerate(zip(tensor.shape, tensor.stride, strict=True)):
            flags[dim][offsets // step % size if size > 1 else 0] = True
    return flags


def _left_out(name: str, tensor: TracedTensor, programs: Sequence[Sequence[Lanes]]) -> Iterator[Unread]:
    for dim, size in enumerate(tensor.shape):
        first = programs[0][dim]
        if not first.all() and all(np.array_equal(first, other[dim]) for other in programs[1:]):
            missing = np.flatnonzero(~first)
            yield Unread(name, 1.0 - len(missing) / size, f"indices {_ranges(missing)} of dim {dim}")


def _ranges(indices: npt.NDArray[np.int64]) -> str:
    """`32 to 255`, or the first few of many pieces."""
    cuts = np.flatnonzero(np.diff(indices) != 1) + 1
    pieces = np.split(indices, cuts)
    words = [f"{piece[0]} to {piece[-1]}" if len(piece) > 1 else str(piece[0]) for piece in pieces[:3]]
    return ", ".join(words) + (f" and {len(pieces) - 3} more pieces" if len(pieces) > 3 else "")
