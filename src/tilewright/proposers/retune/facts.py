"""Simple facts of a kernel that say which edit is worth trying first."""

from __future__ import annotations

import libcst as cst

from tilewright.proposers.retune.edit import Context
from tilewright.proposers.retune.flow import Flow
from tilewright.proposers.retune.trees import ancestors, squeezed

#: Programs for each SM under which a GPU is not filled.
FULL_WAVES = 4


def distinct_loads(flow: Flow) -> int:
    """Loads from different addresses."""
    return len({squeezed(call.args[0].value) for call in flow.loads if call.args})


def has_pipelined_loop(flow: Flow) -> bool:
    """Whether a load lies in a loop: only then do pipeline stages change anything."""
    return any(in_loop(call, flow) for call in flow.loads)


def in_loop(node: cst.CSTNode, flow: Flow) -> bool:
    """Whether a node of the kernel lies in a loop."""
    return any(isinstance(outer, cst.For | cst.While) for outer in ancestors(node, flow.parents))


def has_dot(flow: Flow) -> bool:
    """Whether the kernel multiplies matrices."""
    return bool(flow.calls("dot", "dot_scaled"))


def programs(kernel: str, context: Context) -> float | None:
    """Programs of a launch, where the profile says."""
    return context.metric(kernel, "launch__grid_size")


def starved(kernel: str, context: Context) -> float:
    """Share of a full GPU that the launch's programs can fill, at most 1; 1 where it is not known."""
    count = programs(kernel, context)
    return 1.0 if count is None else min(1.0, count / (FULL_WAVES * context.gpu.sm_count))
