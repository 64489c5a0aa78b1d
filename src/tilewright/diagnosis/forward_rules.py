"""What holds a whole forward pass back: wrong work, work redone, work elsewhere, work that algebra removes, gaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tilewright.diagnosis.facts import Facts, Figure, KernelFacts, NativeFacts
from tilewright.diagnosis.kernel_rules import FORWARD
from tilewright.diagnosis.rule import Threshold, plain, words_of_bytes
from tilewright.measure import constants as c
from tilewright.measure.model import dram_ms, matrix_ms
from tilewright.values.diagnosis import Diagnosis

#: Part of the forward pass under which a gain is none (the search reverts it).
_LEAST_GAIN = 0.02
#: Steps that are named one by one; more are counted.
_NAMED = 5


def unread_elements(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Elements of an operand that no program reads: the result cannot be right."""
    for kernel in facts.kernels:
        for part in kernel.unread:
            if not threshold.met_by(100 * (1.0 - part.read)):
                continue
            missing = Figure(100 * (1.0 - part.read), "counted")
            yield Diagnosis(
                "unread",
                f"{kernel.name} never reads {part.what} of {part.operand}",
                kernel.name,
                f"{kernel.name} reads {100 * part.read:.3g} % of {part.operand}: no program reads {part.what}. What it "
                "writes does not depend on them, so it cannot be right; and its time is that of a part of the work.",
                (threshold.evidence(f"elements of {part.operand} that no program reads", missing),),
                "A loop, or more programs, over the whole dim; then measure it again.",
                wrong=True,
            )


def removed_by_algebra(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """The algebra throws most of the work away, and this code does it."""
    found, total = facts.collapse, facts.total_ms
    if found is None or not threshold.met_by(100 * (1.0 - found.operations_after / max(found.operations_before, 1))):
        return
    left = 100 * (1.0 - found.operations_after / max(found.operations_before, 1))
    cost = None if total is None else max(0.0, total.value - found.floor_ms / c.DRAM_EFFICIENCY)
    evidence = [
        threshold.evidence("matrix operations that fall away", Figure(left, "counted")),
        plain("matrix operations as written", found.operations_before, "", "counted"),
        plain("matrix operations that are left", found.operations_after, "", "counted"),
        plain("speed of light of what is left", found.floor_ms, "ms", "modelled"),
    ]
    yield Diagnosis(
        "removed-by-algebra",
        f"algebra removes most of the work ({', '.join(found.rules)})",
        FORWARD,
        f"Most of this forward pass need not be done: {'; '.join(found.laws)}. What is left takes "
        f"{found.floor_ms:.3g} ms at the speed of light.",
        tuple(evidence),
        "Apply the law, and compute what is left in one pass over the input.",
        cost,
        "" if total is None else total.label,
    )


def native_contraction(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """The heavy operation is PyTorch's, and what follows it is fetched from memory again."""
    total = facts.total_ms
    for step in facts.native:
        if not step.call.matrix_operations or step.from_parameters or step.time_ms is None or total is None:
            continue
        share = Figure(100 * step.time_ms.value / total.value, step.time_ms.label)
        if not threshold.met_by(share.value):
            continue
        call = step.call
        efficiency = c.CONVOLUTION_EFFICIENCY if "conv" in call.operation else c.TRITON_MATRIX_EFFICIENCY
        fused = max(
            matrix_ms(call.matrix_operations, facts.gpu, facts.precision, efficiency),
            dram_ms(step.traffic.needed, facts.gpu),
        )
        excess = step.time_ms.value - fused
        if excess < _LEAST_GAIN * total.value:
            continue  # the library's kernel is as good as one that would be written for it
        evidence = [
            threshold.evidence(f"{step.name}, of the forward pass", share),
            plain(f"time of {step.name}", step.time_ms.value, "ms", step.time_ms.label),
            plain("the same product in a fused kernel", fused, "ms", "modelled"),
            plain("bytes of its result, written for a later step", step.traffic.written_between, "bytes", "counted"),
        ]
        yield Diagnosis(
            "native-operation",
            f"the native {step.name} takes {share.value:.0f} % of the forward pass",
            step.name,
            _about_native(step, facts),
            tuple(evidence),
            _instead_of_native(step),
            excess,
            step.time_ms.label,
        )


def _about_native(step: NativeFacts, facts: Facts) -> str:
    assert step.time_ms is not None
    text = f"PyTorch's {step.name} takes {step.time_ms.value:.3g} ms ({step.time_ms.label})"
    beside = facts.kernels_ms
    if beside:
        text += f", {step.time_ms.value / beside:.2g} times as much as the kernel{'s' * (len(facts.kernels) > 1)} shown"
    if step.traffic.written_between:
        text += f", and writes {words_of_bytes(step.traffic.written_between)} that the next step reads again"
    if "conv" in step.call.operation and step.call.layout != "channels_last":
        text += "; contiguous (NCHW) tensors are converted to channels-last and back around it"
    return text + "."


def _instead_of_native(step: NativeFacts) -> str:
    remedy = f"A kernel of its own for {step.name} with what follows it fused behind it"
    if "conv" in step.call.operation and step.call.layout != "channels_last":
        return f"{remedy}; or, less, channels-last tensors for it."
    return f"{remedy}."


def separate_passes(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Pointwise operations and copies that PyTorch runs one by one."""
    total = facts.total_ms
    steps = [step for step in facts.native if not step.call.matrix_operations and not step.from_parameters]
    spent = sum(step.time_ms.value for step in steps if step.time_ms is not None)
    if not steps or total is None or not threshold.met_by(100 * spent / total.value):
        return
    needed = dram_ms(sum(step.traffic.needed for step in steps), facts.gpu) if not facts.kernels else 0.0
    label = next(step.time_ms.label for step in steps if step.time_ms is not None)
    one, names = len(steps) == 1, _listed(steps)
    moved = words_of_bytes(sum(step.traffic.total for step in steps))
    passes = "a pass of its own" if one else "passes of their own"
    yield Diagnosis(
        "separate-passes",
        f"the native {names} is {passes}" if one else f"{len(steps)} native operations are {passes}",
        FORWARD,
        f"{names} {'runs' if one else 'run'} in PyTorch as {passes} over memory: {moved} in {spent:.3g} ms.",
        (
            threshold.evidence("their part of the forward pass", Figure(100 * spent / total.value, label)),
            plain("their time", spent, "ms", label),
        ),
        f"Fuse {'it' if one else 'them'} into the kernel that reads the result or writes what is read.",
        max(0.0, spent - needed),
        label,
    )


def redone_on_every_call(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """Work on nothing but parameters, on every call."""
    native = [step for step in facts.native if step.from_parameters]
    kernels = [kernel for kernel in facts.kernels if kernel.from_parameters]
    count = len(native) + len(kernels)
    if not threshold.met_by(count):
        return
    steps: list[KernelFacts | NativeFacts] = [*native, *kernels]
    times = [step.time_ms for step in steps if step.time_ms is not None]
    spent, label = sum(time.value for time in times), times[0].label if times else ""
    names = [_listed(native)] if native else []
    names += [kernel.name for kernel in kernels]
    yield Diagnosis(
        "redone-on-every-call",
        "weights are prepared on every call",
        FORWARD,
        f"{count} step{'s' * (count > 1)} of every forward pass read{'s' * (count == 1)} nothing but parameters and "
        f"give{'s' * (count == 1)} the same each time: {'; '.join(names)}."
        + (f" Together {spent:.3g} ms." if times else ""),
        (
            threshold.evidence("steps that read nothing but parameters", Figure(count, "counted")),
            plain("bytes that they move", sum(step.traffic.total for step in steps), "bytes", "counted"),
        ),
        "Do it where the weights are read, or in one kernel. A result that is kept goes stale without a sign where "
        "somebody writes through `parameter.data` or NumPy: no version counts that.",
        spent if times else None,
        label,
    )


def _listed(steps: Sequence[NativeFacts]) -> str:
    """Operations with their shapes, the largest first."""
    ordered = sorted(steps, key=lambda step: -step.traffic.total)
    named = []
    for step in ordered[:_NAMED]:
        shapes = step.call.output_shapes
        named.append(f"{step.words} {list(shapes[0])}" if shapes else step.words)
    more = len(ordered) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def waiting_for_launches(facts: Facts, threshold: Threshold) -> Iterator[Diagnosis]:
    """The GPU waits between kernels, or for the host."""
    total, gap = facts.total_ms, facts.gap_ms
    if total is None or gap is None or total.value <= 0:
        return
    waited = gap
    if facts.host_ms is not None and facts.host_ms > total.value + gap.value:
        waited = Figure(facts.host_ms - total.value, "measured")
    share = Figure(100 * waited.value / (total.value if waited is gap else facts.host_ms or total.value), waited.label)
    if not threshold.met_by(share.value):
        return
    steps = len(facts.native) + sum(kernel.launches for kernel in facts.kernels)
    yield Diagnosis(
        "launch-gaps",
        "the GPU waits between kernels",
        FORWARD,
        f"The forward pass is {steps} short step{'s' * (steps != 1)}; the GPU waits {waited.value:.3g} ms of it for "
        "the next one to start.",
        (
            threshold.evidence("waiting, of the forward pass", share),
            plain("steps", steps, "", "counted"),
        ),
        "Fewer, larger kernels; a CUDA graph around the forward pass where its shapes are fixed.",
        waited.value,
        waited.label,
    )
