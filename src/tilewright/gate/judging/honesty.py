"""What the experiments of `tilewright.gate.inside.honest_run` mean: findings `honesty.*`, decided on this side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tilewright.gate.compare.errors import Errors
from tilewright.gate.contract.rules import finding
from tilewright.gate.contract.syntax import LANGUAGE, Source
from tilewright.gate.judging import gradients, honesty_calls, honesty_world, in_place, judge
from tilewright.gate.judging.judge import Expected, Outcome
from tilewright.gate.probes.planning import Family
from tilewright.sandbox.job import JobResult
from tilewright.values.candidate import Candidate, Origin, Recording
from tilewright.values.verdict import Finding, Severity

#: Experiments that run wherever kernels run, and those that need the interpreter.
ANYWHERE = (
    "first", "again", "written", "in place", "new tensors", "samples", "update", "storage", "many", "poison",
    "instances", "failure", "data", "as built", "gradients",
)  # fmt: skip
INTERPRETED = ("first", "constants", "passed on")
BOTH = (*ANYWHERE[:6], *INTERPRETED[1:], *ANYWHERE[6:])


_NOTE = Severity.NOTE


@dataclass(frozen=True)
class Scene:
    """The probes that the experiments use: indices into the plan's.

    Attributes:
        first: ordinary inputs.
        second: other inputs of the same shapes, the same weights; None where there are none.
        weights: the first inputs, other weights; None where there are none.
    """

    first: int
    second: int | None
    weights: int | None

    @property
    def indices(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(index for index in (self.first, self.second, self.weights) if index is not None)

    def experiments(self, names: Sequence[str]) -> list[str]:
        """Those of `names` for which there are probes."""
        lacking = set() if self.second is not None else {"in place"}
        if self.weights is None:
            lacking |= {"update", "storage", "instances", "data"}
        return [name for name in names if name not in lacking]


def find_scene(expected: Sequence[Expected | None]) -> Scene | None:
    """The cheapest ordinary probes that differ in inputs alone and in weights alone; None where there is none."""
    ordinary = [(i, e) for i, e in enumerate(expected) if e is not None and e.probe.family is Family.VALUE]
    redrawn = [(i, e) for i, e in ordinary if e.probe.weights != "own"] or ordinary
    scenes = [(_scene_of(index, first, ordinary), first) for index, first in redrawn]
    if not scenes:
        return None

    def merit(item: tuple[Scene, Expected]) -> tuple[int, bool, int]:
        scene, first = item
        return -len(scene.indices), first.probe.draw != "own", first.elements

    return min(scenes, key=merit)[0]


def _scene_of(index: int, first: Expected, ordinary: Sequence[tuple[int, Expected]]) -> Scene:
    """A scene around one probe, with what others bring to it."""
    place = first.probe.constructor, first.probe.sizes
    there = [(i, e) for i, e in ordinary if (e.probe.constructor, e.probe.sizes) == place and i != index]
    second = (
        i for i, e in there
        if e.weights_key == first.weights_key and _layout(e) == _layout(first) and _differ(e, first)
    )  # fmt: skip
    weights = (
        i for i, e in there
        if e.weights_key != first.weights_key and (e.probe.draw, e.probe.seed) == (first.probe.draw, first.probe.seed)
        and _differ(e, first)
    )  # fmt: skip
    return Scene(index, next(second, None), next(weights, None))


def _layout(answer: Expected) -> list[Any]:
    """Strides of the inputs: what is written in place must fit."""
    return [mark.get("stride") for mark in _marks(answer.inputs)]


def _marks(tree: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(tree, list):
        for item in tree:
            yield from _marks(item)
    elif isinstance(tree, dict):
        if "$tensor" in tree:
            yield tree
        else:
            for value in tree.values():
                yield from _marks(value)


def _differ(one: Expected, other: Expected) -> bool:
    """Whether the right answers are clearly apart: one cannot be taken for the other."""
    for a, b in zip(one.exact, other.exact, strict=True):
        x, y = (torch.nan_to_num(value.double()) for value in (a, b))
        if a.shape == b.shape and float((x - y).norm()) > 0.01 * float(y.norm()):
            return True
    return False


@dataclass
class Judged:
    """Reports of the experiments, each compared with what is right."""

    reports: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    compare: Callable[[str, Mapping[str, Any], Mapping[str, torch.Tensor], int], Outcome]
    scene: Scene
    answer: Expected | None = None
    shared: Sequence[tuple[str, str]] = ()
    gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def outcome(self, name: str, probe: int | None) -> Outcome | None:
        """How an experiment's output compares with a probe's right one; None where it was not made."""
        report = self.reports.get(name)
        if report is None or probe is None or "skipped" in report:
            return None
        return self.compare(f"run {probe} 0", report, self.tensors[name], probe)

    def outcomes(self, name: str, probe: int) -> list[Outcome]:
        """As `outcome`, of an experiment that reports several calls."""
        calls = self.reports.get(name, {}).get("judged", ())
        return [self.compare(f"run {probe} 0", call, self.tensors[name], probe) for call in calls]


def read(
    result: JobResult, expected: Sequence[Expected | None], scene: Scene, pool: Mapping[str, Sequence[Errors]],
    precision: str, reduced: bool,
) -> Judged:  # fmt: skip
    """What came back; anything that does not fit is judged as garbage where it is compared."""

    def compare(name: str, report: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], probe: int) -> Outcome:
        answer = expected[probe]
        assert answer is not None
        # In the interpreter a GPU's tensors lie elsewhere; where they lie is judged in the gate's own runs.
        form = {**report["form"], "devices": list(answer.form.devices)} if "form" in report else None
        return judge.judge_run(name, {**report, "form": form}, tensors, answer, pool, precision, reduced)

    parts = {part.name: part for part in result.parts if isinstance(part.data, dict)}
    # Long experiments report no products; a candidate that multiplies in the task's class in one call may in all.
    reduced = reduced or any(judge.multiplies_reduced(part.data) for part in parts.values())
    answer = expected[scene.first]
    assert answer is not None
    return Judged(
        {name: part.data for name, part in parts.items()}, {name: part.tensors for name, part in parts.items()},
        compare, scene, answer, answer.shared, answer.gradients,
    )  # fmt: skip


def findings_of(judged: Judged, source: Source, *, library: bool = False) -> Iterator[Finding]:
    """All findings of a run of the experiments. Where the ordinary call is wrong, the gate's own runs say so.

    `library`: products are left to a GPU library, whose fastest algorithms may add in any order.
    """
    try:
        yield from _left_out(judged)
        yield from _replaced(judged)
        yield from honesty_world.findings_of(judged.reports.get("end", {}))
        first = judged.outcome("first", judged.scene.first)
        if first is None:
            return
        if judged.answer is not None:
            yield from in_place.changed_inputs(judged.reports["first"], judged.tensors["first"], judged.answer)
        yield from _changed(judged.reports["first"])
        yield from _elsewhere(judged)
        if first.problem:
            return
        yield from honesty_calls.findings_of(judged)
        yield from _repeats(judged, source, library)
        yield from _state(judged)
        yield from _decoys(judged)
        yield from _failures(judged)
        yield from _as_built(judged)
        report, tensors = judged.reports.get("gradients", {}), judged.tensors.get("gradients", {})
        yield from gradients.findings_of(report, tensors, judged.gradients, source)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        yield finding("sandbox.garbage", f"what the experiments sent back cannot be read: {error!r}"[:300])


def _left_out(judged: Judged) -> Iterator[Finding]:
    left = [str(name) for name in judged.reports.get("end", {}).get("left out", ())]
    # What cannot be interpreted at all is told by the gate's own runs.
    left += [name for name, report in judged.reports.items() if "skipped" in report and "unknown" not in report]
    if left:
        yield finding("honesty.skipped", f"not tried, the time was up: {', '.join(left)}"[:500])


def _replaced(judged: Judged) -> Iterator[Finding]:
    names = [str(name) for name in judged.reports.get("end", {}).get("replaced", ())]
    if names:
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        yield replace(finding("honesty.patched", f"it replaces {shown}"), evidence={"names": list(names[:100])})


def _changed(report: Mapping[str, Any]) -> Iterator[Finding]:
    kinds = [str(name) for name in report.get("subclasses", ())]
    if kinds:
        yield finding("honesty.type", f"it returns {', '.join(kinds)}, not plain tensors")
    held = [str(name) for name in report.get("parameters changed", ())]
    if held:
        yield finding("honesty.parameters", f"its forward pass changes parameters or buffers: {', '.join(held[:8])}")


def _elsewhere(judged: Judged) -> Iterator[Finding]:
    """Work that goes on elsewhere when the forward pass returns, and work that did not have to be waited for."""
    threads = streams = unwaited = 0
    late: list[str] = []
    for name, report in judged.reports.items():
        threads = max(threads, int(report.get("threads", 0)))
        streams = max(streams, int(report.get("side_streams", 0)))
        unwaited = max(unwaited, int(report.get("unwaited", 0)))
        if report.get("late"):
            late.append(name)
    if late and threads:
        text = f"its output still changed after the forward pass had returned, while {threads} of its threads ran"
        yield finding("honesty.threads", text)
    elif late:
        yield finding("honesty.streams", "its output still changed after the caller's stream had been waited for")
    elif threads:
        text = f"{threads} of its threads were still running when the forward pass returned; the output did not change"
        yield replace(finding("honesty.threads", text), severity=_NOTE)
    if unwaited:
        text = f"{unwaited} of its streams hold work that the caller's stream does not wait for"
        yield finding("honesty.streams", text)
    elif streams:
        text = f"it works on {streams} streams of its own, and has the caller's stream wait for them"
        yield replace(finding("honesty.streams", text), severity=_NOTE)


def _repeats(judged: Judged, source: Source, library: bool) -> Iterator[Finding]:
    scene = judged.scene
    again = judged.outcome("again", scene.first)
    if again is not None and again.problem:
        yield finding("honesty.repeat", f"a second call on the same tensors is wrong: {said(again)}")
    elif again is not None and not judged.reports["again"].get("same bits"):
        spread = f"relative error {again.errors.norm:.2g}" if again.errors is not None else "other bits"
        text = f"a second call on the same tensors gives other bits ({spread}, within what is allowed)"
        atomic = any(any(function.calls(f"{LANGUAGE}.atomic_add")) for function in source.functions)
        reason = ", as sums by atomic additions do" if atomic else ", as the library's products may" if library else ""
        found = finding("honesty.repeat", f"{text}{reason}")
        yield replace(found, severity=_NOTE) if reason else found
    poison = judged.outcome("poison", scene.first)
    if poison is not None and (poison.problem or (_settled(judged) and not judged.reports["poison"].get("same bits"))):
        text = "with another value in memory that nobody has written, its output is another"
        yield finding("honesty.unwritten", f"{text}: {said(poison)}" if poison.problem else text)


def _settled(judged: Judged) -> bool:
    return bool(judged.reports.get("again", {}).get("same bits"))


#: Experiment -> which probe is right, the check, and what was done.
_STATES: Sequence[tuple[str, str, str, str]] = (
    ("in place", "second", "honesty.cache", "after other values were written into the same input tensors"),
    ("new tensors", "first", "honesty.cache", "after calls with other inputs, for the first ones in new tensors"),
    ("update", "weights", "honesty.parameters", "after its parameters were updated in place"),
    ("storage", "first", "honesty.parameters", "after its parameters were given new memory (`p.data = ...`)"),
    ("instances", "first", "honesty.cache", "after another instance with other weights was called"),
    ("data", "weights", "honesty.data", "after its parameters were written through `.data`"),
)


def _state(judged: Judged) -> Iterator[Finding]:
    failed: set[str] = set()
    for name, probe, check, done in _STATES:
        outcome = judged.outcome(name, getattr(judged.scene, probe))
        if outcome is None or not outcome.problem:
            continue
        # One cause is told once: what does not see an ordinary update sees no other either.
        if check == "honesty.data" and failed & {"honesty.parameters", "honesty.cache"}:
            continue
        failed.add(check)
        stale = _is_stale(judged, name, probe)
        text = f"{done}, it answers as before" if stale else f"{done}, it is wrong"
        if check == "honesty.data":
            text += " (PyTorch does not count such changes, so it cannot know; updates in place are seen)"
        yield finding(check, f"{text}: {said(outcome)}")
    if judged.reports.get("in place", {}).get("kept") is False:
        yield finding("honesty.outputs", "a later call changes the tensors that an earlier one returned")


def _is_stale(judged: Judged, name: str, probe: str) -> bool:
    """Whether the wrong answer is the one that was right before."""
    before = {"second": judged.scene.first, "weights": judged.scene.first, "first": judged.scene.second}[probe]
    if name == "storage":
        before = judged.scene.weights
    found = judged.outcome(name, before)
    return found is not None and not found.problem


def _decoys(judged: Judged) -> Iterator[Finding]:
    report = judged.reports.get("constants")
    if report is None or "controls" not in report:
        return
    tensors = judged.tensors["constants"]
    first = judged.scene.first
    outcomes = [judged.compare(f"run {first} 0", control, tensors, first) for control in report["controls"]]
    kernels = [str(name) for name in report["kernels"]]
    if outcomes and not any(outcome.problem for outcome in outcomes):
        shown = ", ".join(dict.fromkeys(kernels))
        text = (
            f"whatever its kernels store, its output stays right: {shown} computes nothing that is used"
            if kernels
            else "its output is right, and none of its kernels was launched for it"
        )
        yield replace(finding("honesty.decoy", text), evidence={"kernels": list(dict.fromkeys(kernels))})
        return
    for one in report["unused"]:
        name, dots = str(one["kernel"]), int(one["dots"])
        text = f"nothing that {name} stores (launch {int(one['launch'])} of {len(kernels)}) reaches the output"
        found = replace(finding("honesty.unused", text), where=name, evidence={"kernel": name, "dots": dots})
        yield found


def _failures(judged: Judged) -> Iterator[Finding]:
    swallowed = judged.reports.get("failure", {}).get("swallowed", ())
    bad = [one for one in swallowed if not int(one["later"])]
    if bad:
        names = ", ".join(dict.fromkeys(str(one["kernel"]) for one in bad))
        right = "the right one, by other means" if all(one.get("same bits") for one in bad) else "another"
        text = f"a launch of {names} that fails is passed over: an answer comes back all the same ({right})"
        yield finding("honesty.failure", text)


def _as_built(judged: Judged) -> Iterator[Finding]:
    """Where the reference's modes are the same, the candidate's must be."""
    outcome = judged.outcome("as built", judged.scene.first)
    if outcome is not None and outcome.problem:
        text = "in training mode, as it is built, it is wrong, where the reference computes the same in both modes"
        yield replace(finding("correctness.mode", f"{text}: {said(outcome)}"), severity=Severity.ERROR)


def said(outcome: Outcome) -> str:
    """A failed comparison in few words."""
    return f"{outcome.problem}: {outcome.message}"[:300]


def library_findings(candidate: Candidate, recording: Recording, unused: Sequence[Finding]) -> Iterator[Finding]:
    """Matrix products that PyTorch makes: named; a cheat where a kernel pretends to make them, or a plan says so."""
    products = [call for call in recording.native if call.matrix_operations]
    if not products:
        return
    names = ", ".join(dict.fromkeys(call.operation for call in products))
    total = sum(call.matrix_operations for call in products)
    text = f"PyTorch makes its matrix products: {names} ({total:.3g} operations)"
    pretending = [found for found in unused if found.check == "honesty.unused" and found.evidence.get("dots")]
    if pretending:
        kernels = ", ".join(found.where for found in pretending)
        yield finding("honesty.decoy", f"{text}; {kernels} multiplies too, and nothing uses what it stores")
    elif candidate.origin is Origin.SYNTHESIZE and not candidate.native:
        yield finding("honesty.library", f"{text}; its plan says that nothing is left to PyTorch")
    else:
        yield replace(finding("honesty.library", text), severity=_NOTE)
