"""From a task and its code to the facts: what is recorded, what is modelled or measured, what the algebra leaves."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tilewright.diagnosis.facts import Collapse, Facts, Figure, KernelFacts, NativeFacts, Traffic, Unread
from tilewright.gate.contract.syntax import Function, Source
from tilewright.gate.stages.record import Recorded
from tilewright.gpu.gpu import Gpu
from tilewright.gpu.speed_of_light import speed_of_light
from tilewright.graph.canonical import canonicalize, simplify
from tilewright.graph.collapse import COLLAPSE_RULES
from tilewright.graph.graph import Graph
from tilewright.graph.work import NodeWork, count_nodes, count_work
from tilewright.measure.launches import argument_bytes, matrix_product_shape
from tilewright.measure.model import predict_reference, predict_step
from tilewright.measure.seen import schedule_of
from tilewright.task.task import Task
from tilewright.values.candidate import Launch, NativeCall
from tilewright.values.profile import ForwardProfile, KernelProfile
from tilewright.values.syntax_tree import parse_tree


@dataclass(frozen=True)
class Sources:
    """What is known of one forward pass.

    Attributes:
        recorded: its steps; None where nobody can call it.
        modelled: its profile as the model has it; None where it could not be modelled.
        measured: as a GPU has it; None where none was asked.
        graph: of the task's reference; None without one.
        unread: kernel -> parts of its operands that it never reads.
        source: the code, for what each kernel loads and stores; empty where there is none.
        collapses: names of the collapses that the code has taken already.
    """

    recorded: Recorded | None = None
    modelled: ForwardProfile | None = None
    measured: ForwardProfile | None = None
    graph: Graph | None = None
    unread: Mapping[str, Sequence[Unread]] | None = None
    source: str = ""
    collapses: tuple[str, ...] = ()


def gather(task: Task, sources: Sources) -> Facts:
    """The facts of a forward pass, for the rules."""
    roles = _Roles.of(sources)
    kernels = _kernels(sources, roles, task.gpu)
    native = _native(sources, roles, task)
    modelled, measured = sources.modelled, sources.measured
    total = _total(measured, kernels, native)
    timed = measured if measured is not None and measured.total_ms is not None else modelled
    facts = Facts(
        task=task.name,
        gpu=task.gpu,
        precision=task.precision,
        kernels=kernels,
        native=native,
        gap_ms=Figure(timed.gap_ms, _label(timed)) if timed is not None and timed.gap_ms > 0 else None,
        host_ms=measured.host_ms if measured is not None else None,
        total_ms=total,
        notes=(*_notes(sources), *_derived(kernels)),
    )
    return replace(facts, collapse=_collapse(task, sources, facts))


def gather_reference(task: Task, graph: Graph) -> Facts:
    """The facts of the reference itself in eager PyTorch: each operation a call of its own."""
    nodes = [node for node in count_nodes(graph) if not node.moves_nothing]
    times = list(predict_reference(graph, task.gpu, task.precision).parts.values())
    native = tuple(_eager_call(position, times[position], nodes) for position in range(len(nodes)))
    total = sum(step.time_ms.value for step in native if step.time_ms is not None)
    facts = Facts(task.name, task.gpu, task.precision, (), native, total_ms=Figure(total, "modelled"))
    return replace(facts, collapse=_collapse(task, Sources(graph=graph), facts))


def _eager_call(position: int, time_ms: float, nodes: Sequence[NodeWork]) -> NativeFacts:
    """An operation of a graph as a call; what it reads is taken to come from the operation before it, if any."""
    node = nodes[position]
    call = NativeCall(f"aten.{node.operation}", (), (), node.read_bytes, node.written_bytes, node.matrix_operations)
    first, last = position == 0, position == len(nodes) - 1
    before = 0 if first else min(node.read_bytes, nodes[position - 1].written_bytes)
    after = 0 if last else node.written_bytes
    needed = node.read_bytes - before + node.written_bytes - after
    maker = "" if first else nodes[position - 1].operation
    return NativeFacts(call, position, Figure(time_ms, "modelled"), Traffic(needed, before, after, maker))


def _label(profile: ForwardProfile | None) -> str:
    return "modelled" if profile is None or profile.modelled else "measured"


def _notes(sources: Sources) -> tuple[str, ...]:
    notes = [note for profile in (sources.measured, sources.modelled) if profile is not None for note in profile.notes]
    if sources.recorded is None:
        left = native_modules(sources.source)
        notes.append(
            "without a reference or inputs nobody can call this code: its steps, times and costs are not known"
            + (f", nor those of what it leaves to PyTorch ({', '.join(left)})" if left else "")
        )
    return tuple(dict.fromkeys(notes))


def _derived(kernels: Sequence[KernelFacts]) -> tuple[str, ...]:
    """Which times are neither measured nor the model's alone."""
    return tuple(
        f"the time of {kernel.name} is its modelled bytes over its measured DRAM throughput"
        for kernel in kernels
        if kernel.time_by_throughput_ms is not None
    )


def _total(
    measured: ForwardProfile | None, kernels: Sequence[KernelFacts], native: Sequence[NativeFacts]
) -> Figure | None:
    """The forward pass as it was measured; else the sum of its steps, where all of them are known."""
    if measured is not None and measured.total_ms and _is_whole(measured):
        return Figure(measured.total_ms, "measured")
    steps: list[KernelFacts | NativeFacts] = [*kernels, *native]
    times = [step.time_ms for step in steps if step.time_ms is not None]
    if not times or len(times) < len(steps):
        return None
    label = "measured" if all(time.label == "measured" for time in times) else "modelled"
    return Figure(sum(time.value for time in times), label)


# ---------------------------------------------------------------------------------------------------------
# Whose memory is it?


@dataclass(frozen=True)
class _Roles:
    """Numbers of the memory that a forward pass touches, by what it holds.

    Attributes:
        inputs, parameters, outputs: of the task.
        prepared: made of nothing but parameters.
        makers: memory -> the step that wrote it.
        touched: for each recorded step, (reads, writes).
    """

    inputs: frozenset[int]
    parameters: frozenset[int]
    outputs: frozenset[int]
    prepared: frozenset[int]
    makers: Mapping[int, str]
    touched: tuple[tuple[frozenset[int], frozenset[int]], ...]

    @staticmethod
    def of(sources: Sources) -> _Roles:
        """Follow the memory through the recorded steps."""
        recorded = sources.recorded
        if recorded is None:
            return _Roles(frozenset(), frozenset(), frozenset(), frozenset(), {}, ())
        inputs = frozenset(recorded.given[: recorded.input_count])
        parameters = frozenset(recorded.given[recorded.input_count :]) - inputs
        functions = _functions(sources.source)
        prepared: set[int] = set()
        makers: dict[int, str] = {}
        touched = []
        for step in recorded.steps:
            reads, writes = _touched(step, functions, frozenset(recorded.given), makers)
            touched.append((reads, writes))
            if reads and reads <= parameters | prepared:
                prepared |= writes
            else:
                prepared -= writes
            if step.get("written_bytes", 1):
                makers |= dict.fromkeys(writes, _step_name(step))
        return _Roles(inputs, parameters, frozenset(recorded.outputs), frozenset(prepared), makers, tuple(touched))

    def from_parameters(self, position: int) -> bool:
        """The step reads nothing but parameters and what was made of them, and writes no output."""
        reads, writes = self.touched[position]
        return bool(reads) and reads <= self.parameters | self.prepared and not writes & self.outputs

    def traffic(self, position: int, sizes: Mapping[int, int]) -> Traffic:
        """Bytes of a step's tensors (memory -> bytes) by what they hold."""
        reads, writes = self.touched[position]
        task_own = self.inputs | self.parameters | self.outputs
        # What a kernel itself writes and reads again is scratch of its own.
        inner_reads = [storage for storage in reads - task_own - writes if storage in self.makers]
        inner_writes = writes - task_own
        largest = max(inner_reads, key=lambda storage: sizes.get(storage, 0), default=None)
        return Traffic(
            needed=sum(sizes.get(storage, 0) for storage in (reads | writes) & task_own),
            read_between=sum(sizes.get(storage, 0) for storage in inner_reads),
            written_between=sum(sizes.get(storage, 0) for storage in inner_writes),
            maker=self.makers[largest] if largest is not None else "",
            read=sum(sizes.get(storage, 0) for storage in reads),
            written=sum(sizes.get(storage, 0) for storage in writes),
        )


def _step_name(step: Mapping[str, Any]) -> str:
    if "kernel" in step:
        return str(step["kernel"])
    parts = str(step["operation"]).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _functions(source: str) -> Mapping[str, Function]:
    try:
        return {function.name: function for function in Source.parse(source).functions} if source else {}
    except (SyntaxError, ValueError):
        return {}


def _touched(
    step: Mapping[str, Any], functions: Mapping[str, Function], given: frozenset[int], makers: Mapping[int, str]
) -> tuple[frozenset[int], frozenset[int]]:
    """(memory read, memory written) of a recorded step."""
    if "kernel" not in step:
        return frozenset(step["reads"]), frozenset(step["writes"])
    pointers = {a["name"]: int(a.get("storage", 0)) for a in step["arguments"] if a.get("storage")}
    function = functions.get(step["kernel"])
    loads = {access.root for access in function.accesses if access.kind == "load"} if function is not None else set()
    stores = {access.root for access in function.accesses if access.kind != "load"} if function is not None else set()
    reads, writes = set(), set()
    for name, storage in pointers.items():
        if name in loads or name in stores:
            known_read, known_write = name in loads, name in stores
        else:  # through a helper: memory that nobody wrote before is what this kernel writes
            known_read = storage in given or storage in makers
            known_write = not known_read
        reads |= {storage} if known_read else set()
        writes |= {storage} if known_write else set()
    return frozenset(reads), frozenset(writes)


# ---------------------------------------------------------------------------------------------------------
# Steps


def _kernels(sources: Sources, roles: _Roles, gpu: Gpu) -> tuple[KernelFacts, ...]:
    """One entry for each kernel and schedule, of its first launch; its traffic is that launch's."""
    if sources.recorded is None:
        profiles = [one for one in (sources.measured, sources.modelled) if one is not None]
        names = dict.fromkeys(kernel.kernel for one in profiles for kernel in one.kernels if not kernel.native)
        return tuple(
            KernelFacts(name, 0, _profile(sources.modelled, name), _profile(sources.measured, name)) for name in names
        )
    found: list[KernelFacts] = []
    for position, launch, modelled in _launches(sources, sources.recorded):
        same = sum(1 for other in found if other.launch is not None and other.launch.kernel == launch.kernel)
        facts = KernelFacts(
            f"{launch.kernel} (schedule {same + 1})" if same else launch.kernel,
            position,
            modelled=modelled,
            measured=_profile(sources.measured, launch.kernel),
            launch=launch,
            traffic=roles.traffic(position, _launch_sizes(launch)),
            product=matrix_product_shape(launch),
            from_parameters=roles.from_parameters(position),
            unread=tuple((sources.unread or {}).get(launch.kernel, ())),
            bandwidth_gb_s=gpu.bandwidth_gb_s,
        )
        found.append(facts)
    return tuple(found)


def _launches(sources: Sources, recorded: Recorded) -> Iterator[tuple[int, Launch, KernelProfile | None]]:
    """First launch of each kernel and schedule, with its modelled profile; of an autotune list, the one it chose."""
    steps = recorded.recording.steps
    seen: set[str] = set()
    for profile in sources.modelled.kernels if sources.modelled is not None else ():
        step = steps[profile.position] if profile.position < len(steps) else None
        if isinstance(step, Launch) and step.kernel == profile.kernel:
            forms = (step, *step.alternatives)
            seen.add(step.kernel)
            yield profile.position, next((one for one in forms if schedule_of(one) == profile.schedule), step), profile
    for position, step in enumerate(steps):
        if isinstance(step, Launch) and step.kernel not in seen:
            seen.add(step.kernel)
            yield position, step, None


def _profile(forward: ForwardProfile | None, kernel: str) -> KernelProfile | None:
    return forward.kernel(kernel) if forward is not None else None


def _launch_sizes(launch: Launch) -> Mapping[int, int]:
    sizes: dict[int, int] = {}
    for argument in launch.arguments:
        if argument.storage:
            sizes[argument.storage] = max(sizes.get(argument.storage, 0), argument_bytes(argument))
    return sizes


def _native(sources: Sources, roles: _Roles, task: Task) -> tuple[NativeFacts, ...]:
    recorded = sources.recorded
    if recorded is None:
        return ()
    found = []
    for position, (step, data) in enumerate(zip(recorded.recording.steps, recorded.steps, strict=True)):
        if isinstance(step, Launch) or (step.read_bytes + step.written_bytes == 0 and not step.matrix_operations):
            continue
        time = predict_step(step, (), task.gpu, task.precision)
        facts = NativeFacts(
            step,
            position,
            Figure(time.time_ms, "modelled"),
            roles.traffic(position, _native_sizes(step, data)),
            roles.from_parameters(position),
            time.limit,
        )
        found.append(facts)
    return _with_measured_times(found, sources.measured, recorded)


def _with_measured_times(
    steps: Sequence[NativeFacts], measured: ForwardProfile | None, recorded: Recorded
) -> tuple[NativeFacts, ...]:
    """Native steps with the measured time of the library's kernels between the same kernels of the code.

    Where several steps stand between two kernels, the time is split as the model splits it, and stays `modelled`.
    """
    times = _between_own_kernels(measured)
    if not times:
        return tuple(steps)
    own_before = [0]
    for recorded_step in recorded.recording.steps:
        own_before.append(own_before[-1] + isinstance(recorded_step, Launch))
    result = []
    for step in steps:
        place = own_before[step.position]
        beside = [other for other in steps if own_before[other.position] == place]
        modelled = sum(other.time_ms.value for other in beside if other.time_ms is not None)
        if place not in times or step.time_ms is None or modelled <= 0:
            result.append(step)
            continue
        label = "measured" if len(beside) == 1 else "modelled"
        result.append(replace(step, time_ms=Figure(times[place] * step.time_ms.value / modelled, label)))
    return tuple(result)


def _is_whole(measured: ForwardProfile) -> bool:
    """It is one forward pass and nothing else: a report of a whole program holds other kernels, too."""
    return measured.host_ms is not None


def _between_own_kernels(measured: ForwardProfile | None) -> dict[int, float]:
    """Launches of the code's own kernels so far -> milliseconds of the library's kernels that follow."""
    times: dict[int, float] = {}
    own = 0
    for kernel in measured.kernels if measured is not None and _is_whole(measured) else ():
        if not kernel.native:
            own += kernel.launches
        elif kernel.duration_ms is not None:
            times[own] = times.get(own, 0.0) + kernel.total_ms
    return times


def _native_sizes(call: NativeCall, data: Mapping[str, Any]) -> Mapping[int, int]:
    """Bytes of each piece of memory, its share of the call's bytes by the elements of its tensor."""
    sizes: dict[int, int] = {}
    for storages, shapes, total in (
        (data["reads"], call.input_shapes, call.read_bytes),
        (data["writes"], call.output_shapes, call.written_bytes),
    ):
        counts = [_elements(shape) for shape in shapes]
        for storage, count in zip(storages, counts, strict=True):
            sizes[storage] = sizes.get(storage, 0) + total * count // max(1, sum(counts))
    return sizes


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


# ---------------------------------------------------------------------------------------------------------
# What the algebra leaves


def _collapse(task: Task, sources: Sources, facts: Facts) -> Collapse | None:
    """What is left of the task where a collapse applies and the code does not take it."""
    if sources.graph is None or sources.collapses:
        return None
    written = canonicalize(sources.graph)
    left = simplify(sources.graph)
    rules = [rule for rule in COLLAPSE_RULES if rule.collapse and left.fired.get(rule.name)]
    before, after = count_work(written.graph), count_work(left.graph)
    done = sum(step.call.matrix_operations for step in facts.native)
    done += sum(_tensor_operations(kernel) for kernel in facts.kernels)
    if not rules or done < before.matrix_operations / 2:
        return None
    return Collapse(
        rules=tuple(rule.name for rule in rules),
        laws=tuple(rule.law for rule in rules),
        floor_ms=speed_of_light(after, task.gpu, task.precision).time_ms,
        operations_before=before.matrix_operations,
        operations_after=after.matrix_operations,
    )


def _tensor_operations(kernel: KernelFacts) -> int:
    """Operations of a product in a kernel, as far as it can be told."""
    if kernel.product is not None:
        m, n, k = kernel.product.sizes
        return 2 * m * n * k
    return 0


def native_modules(source: str) -> tuple[str, ...]:
    """Modules of `torch.nn` that a source builds, in order: what it leaves to PyTorch, told without running it."""
    try:
        tree = parse_tree(source)
    except SyntaxError:
        return ()
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name = node.func.attr
        if name[:1].isupper() and name != "Parameter" and ast.unparse(node.func.value) in ("nn", "torch.nn"):
            found.append(name)
    return tuple(dict.fromkeys(found))
