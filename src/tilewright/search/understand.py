"""What can be said of a task before anything is tried: its graph, its least work, its speed of light."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError
from tilewright.gpu.speed_of_light import SpeedOfLight, speed_of_light
from tilewright.search.specification import check_specification
from tilewright.task.task import ModuleSource, Task
from tilewright.values.measurement import Work
from tilewright.values.precision import PrecisionClass
from tilewright.values.syntax_tree import parse_tree

if TYPE_CHECKING:
    from tilewright.graph.graph import Graph


@dataclass(frozen=True)
class Understanding:
    """A task, understood.

    Attributes:
        graph: the reference's captured graph; None where there is no PyTorch reference to capture (a document
            alone, or given code as the specification).
        operations: the graph's tensor operations in order, by ATen name; empty without a graph.
        input_shapes, output_shapes: at the example inputs, in elements; empty without a graph.
        work: what the task must do at least; None without a graph.
        floors: precision class -> speed of light on the target; empty without a graph.
    """

    graph: Graph | None
    operations: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    work: Work | None
    floors: Mapping[PrecisionClass, SpeedOfLight]


@dataclass(frozen=True)
class Inspection:
    """A task, and what is understood of it.

    Attributes:
        kernels: names of the Triton kernels in the given code, in order.
    """

    task: Task
    understanding: Understanding
    kernels: tuple[str, ...]


NOTHING = Understanding(None, (), (), (), None, {})


def understand(task: Task) -> Understanding:
    """Capture the task's reference and count its work.

    Raises:
        SourceError: the reference does not parse, or lacks what is needed.
        InputMismatchError: it raises on its inputs.
        CaptureError: it cannot be captured; the operation is named.
    """
    if task.reference is None:
        return NOTHING
    if task.given_code_is_specification:
        check_specification(task.reference)
        return NOTHING
    from torch._ops import OpOverload

    from tilewright.graph.graph import is_tensor_node

    graph = _captured(task.reference)
    work = least_work(graph)
    operations = tuple(str(node.target) for node in graph.fx.nodes if isinstance(node.target, OpOverload))
    tensors = {node.name: node for node in graph.fx.nodes if is_tensor_node(node)}
    return Understanding(
        graph=graph,
        operations=operations,
        input_shapes=tuple(graph.shape_of(tensors[name]) for name in graph.inputs if name in tensors),
        output_shapes=tuple(graph.shape_of(tensors[name]) for name in graph.outputs if name in tensors),
        work=work,
        floors={precision: speed_of_light(work, task.gpu, precision) for precision in PrecisionClass},
    )


def least_work(graph: Graph) -> Work:
    """The work of a graph after algebra: where a collapse applies, of what it leaves.

    Without that, an implementation that takes the collapse would be faster than the speed of light.
    """
    from tilewright.graph.canonical import simplify
    from tilewright.graph.collapse import COLLAPSE_RULES
    from tilewright.graph.work import count_work

    written, left = count_work(graph), simplify(graph)
    if not any(rule.collapse and rule.name in left.fired for rule in COLLAPSE_RULES):
        return written
    after = count_work(left.graph)
    return Work(
        read_bytes=min(written.read_bytes, after.read_bytes),
        written_bytes=min(written.written_bytes, after.written_bytes),
        matrix_operations=min(written.matrix_operations, after.matrix_operations),
        scalar_operations=min(written.scalar_operations, after.scalar_operations),
    )


def _captured(source: ModuleSource) -> Graph:
    """The reference's graph: from shapes alone where it can be built so, else from real tensors, whose errors count."""
    from tilewright.graph.capture import capture
    from tilewright.task.module_source import build_module, make_inputs

    try:
        return capture(build_module(source, device="meta"), make_inputs(source, device="meta"))
    except TilewrightError:
        return capture(build_module(source), make_inputs(source))


def inspect_task(task: Task) -> Inspection:
    """What was understood of `task`; nothing is tried, and given code is not run.

    Raises:
        TilewrightError: as `understand` does.
    """
    return Inspection(task, understand(task), kernel_names(task.given_code or ""))


def kernel_names(source: str) -> tuple[str, ...]:
    """Functions with a decorator that ends in `jit`, at the top level of Python source that parses."""
    try:
        body = parse_tree(source).body
    except SyntaxError:
        return ()
    return tuple(
        statement.name
        for statement in body
        if isinstance(statement, ast.FunctionDef)
        and any(ast.unparse(decorator).split("(")[0].endswith("jit") for decorator in statement.decorator_list)
    )
