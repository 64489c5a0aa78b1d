"""What a call costs the host: the time to enqueue it, which bounds small modules. One table, with sources.

The figures are of one host: another one's differ with its cores. They say which of two ways is the shorter one for a
host, not how long it takes to a microsecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tilewright.graph.graph import Graph
from tilewright.graph.work import NodeWork, count_nodes
from tilewright.values.candidate import Launch, NativeCall, Recording

_MEASURED = "measured beside an H200"
_BREADTH = f"{_MEASURED}, benchmarks/results/2026-11-30-h200-breadth.json"


@dataclass(frozen=True)
class HostCost:
    """Microseconds of the host, and where the figure comes from."""

    us: float
    source: str


HOST_COSTS: Mapping[str, HostCost] = MappingProxyType(
    {
        "first launch": HostCost(
            16.0, f"{_BREADTH}: 16 to 17 us for modules of one kernel, guard and allocation of the output included",
        ),
        "further launch": HostCost(11.0, f"{_BREADTH}: 27 us for two kernels, 46 for four, of one replayed call"),
        "contraction": HostCost(20.0, f"{_MEASURED}: 63 us for a linear, a scale and a batch norm in eager PyTorch"),
        "normalisation": HostCost(20.0, "as a contraction"),
        "other operation": HostCost(10.0, "assumption between 5 us (pointwise) and 20 us, the range in eager PyTorch"),
        "view": HostCost(2.0, "assumption: dispatch without a kernel"),
        "compiled call": HostCost(31.0, f"{_BREADTH}: 37 to 45 us for one kernel in torch.compile's default mode; "
            "guards and wrapper are what does not depend on the kernels"),
        "compiled kernel": HostCost(6.0, f"{_MEASURED}: 5 to 7 us for a compiled kernel that is held"),
    }
)  # fmt: skip


def host_ms_of(recording: Recording) -> float:
    """Milliseconds that the host needs to enqueue a candidate's forward pass; its guard is part of the first launch."""
    launched = False
    total_us = 0.0
    for step in recording.steps:
        if isinstance(step, Launch):
            total_us += _us("further launch" if launched else "first launch")
            launched = True
        else:
            total_us += _us(_kind_of_call(step))
    return total_us / 1e3


def host_ms_of_eager(graph: Graph) -> float:
    """Milliseconds that the host needs to enqueue a graph's operations in eager PyTorch."""
    return _sum_ms(_kind_of_node(node) for node in count_nodes(graph))


def host_ms_of_compiled(graph: Graph) -> float:
    """Milliseconds that the host needs at least for a call of the graph under torch.compile.

    A library call for each contraction and one kernel for all that is fused: no fewer are known to be made.
    """
    contractions = sum(1 for node in count_nodes(graph) if node.matrix_operations)
    return _sum_ms(["compiled call", "compiled kernel", *["contraction"] * contractions])


def _kind_of_node(node: NodeWork) -> str:
    if node.moves_nothing:
        return "view"
    return _kind(node.operation, node.matrix_operations)


def _kind_of_call(call: NativeCall) -> str:
    if call.read_bytes + call.written_bytes == 0 and not call.matrix_operations:
        return "view"
    return _kind(call.operation, call.matrix_operations)


def _kind(operation: str, matrix_operations: int) -> str:
    if matrix_operations:
        return "contraction"
    return "normalisation" if "norm" in operation else "other operation"


def _us(kind: str) -> float:
    return HOST_COSTS[kind].us


def _sum_ms(kinds: Iterable[str]) -> float:
    return sum(_us(kind) for kind in kinds) / 1e3
