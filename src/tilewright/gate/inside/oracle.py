"""In a sandboxed process: plans the probes, and says for each what is right and how exact the reference is itself.

Entry `run`. Parts: `plan`; then for each set of weights `weights K`; for each probe `probe I`; `oracle` at the end.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cloudpickle
import torch

from tilewright.gate.compare import aliases
from tilewright.gate.compare.errors import Errors, compare, compare_each, is_exact
from tilewright.gate.inside import gradients, modes, runtime
from tilewright.gate.inside.answers import Answer, OtherShapesError, Pass, answer_data, largest, widened
from tilewright.gate.inside.coverage import Coverage
from tilewright.gate.inside.loops import PlainLoops
from tilewright.gate.inside.pretend import really
from tilewright.gate.inside.probe_plan import make_plan
from tilewright.gate.probes import draws, nudge, planning
from tilewright.gate.probes.arguments import with_values
from tilewright.gate.probes.planning import EFFORTS, Family, Place, Plan, Probe
from tilewright.gate.probes.remake import Remaker, as_meta
from tilewright.gate.probes.structure import Structure, structures_of
from tilewright.gate.reference.subject import (
    Form,
    ReducedProducts,
    Subject,
    Tree,
    as_tensors,
    leaves,
    map_leaves,
    product_precision,
    to_double,
)
from tilewright.sandbox import wire
from tilewright.task.task import ModuleSource
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError
from tilewright.toolchain.memory import observed_memory

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]

#: Scales of weights that are tried, nearest to the module's own first.
_SCALES = (1.0, 1 / 4, 4.0, 1 / 16, 16.0, 1 / 64, 1 / 128, 1 / 256)
#: A scale must answer so many times better than one nearer to the module's own; one that is good enough ends it
#: (at the task's own sizes, where each try is dear, a thousand times what the gate resolves is enough; an output that
#: answers less is said to be silent).
_BETTER, _ENOUGH, _ENOUGH_OWN = 1.25, 0.3, 1e-3
#: Weights that answer this well at one place serve at another; of one kind so many sets are searched for at most.
_SERVES, _SEARCHES = 0.05, 8
#: Seconds for one probe where the reference itself has to be interpreted.
_INTERPRETED_S = 15.0
#: An output that answers at fewer of its elements than this proves little.
SENSITIVE = 0.05
#: Outputs of the same numbers in two layouts differ by no more, norm-wise: a sum in another order.
_SAME = 1e-4
#: Mantissa bits of an operand by precision class.
_BITS = {"tf32": 10, "fp16": 10, "bf16": 7}


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module."""
    torch.manual_seed(0)
    source = cloudpickle.loads(base64.b64decode(job["source"]))
    followed = Coverage()
    with contextlib.ExitStack() as stack:
        watch = runtime.Watch()
        if job["given_code"]:
            watch = stack.enter_context(runtime.kernel_environment(job))
        if job["given_code"] and job["device"] == "cpu":
            stack.enter_context(observed_memory(followed.memory))
        found = modes.choose(source, str(job.get("wanted_mode", "eval")))
        subject = Subject.of(source, found.mode)
        oracle = Oracle(subject, job["precision"], job["device"], bool(job["given_code"]), modes=found)
        plan = make_plan(oracle, tuple(job["constants"]), EFFORTS[job["effort"]])
        emit("plan", _plan_data(plan, oracle), None)
        sent: set[str] = set()
        for index, probe in enumerate(plan.probes):
            watch.deadline = time.process_time() + _INTERPRETED_S
            followed.start([], {})
            try:
                key, responds = oracle.chosen(plan, probe)
                state = oracle.weights(plan, probe)
                answer = oracle.answer(plan, probe)
                refusal = _refusal(oracle, plan, probe, answer, followed)
            except (runtime.TooDearError, NotInterpretableError) as error:
                emit(f"probe {index}", {"skipped": str(error)}, None)
                continue
            except Exception as error:
                if probe.family is Family.OWN:
                    raise
                # What the reference does not take, nobody has to take.
                emit(f"probe {index}", {"refused": f"{type(error).__name__}: {error}"[:300]}, None)
                continue
            if refusal:
                emit(f"probe {index}", {"refused": refusal}, None)
                continue
            if key not in sent:
                emit(f"weights {key}", {}, state)
                sent.add(key)
            packed: dict[str, torch.Tensor] = {}
            emit(f"probe {index}", answer_data(answer, packed) | {"weights": key, "responds": responds}, packed)
        # Only now is it known whether each operation had a float64 form.
        emit("oracle", {"kind": oracle.kind}, None)


def _refusal(oracle: Oracle, plan: Plan, probe: Probe, answer: Answer, followed: Coverage) -> str:
    """Why given code does not say what is right for a probe; empty where it does."""
    if any(event.kind == "outside" for event in followed.events.values()):
        return "the given code leaves its own tensors there"
    if oracle.given_code and not oracle.takes_layout(plan, probe, answer):
        return "the given code is wrong on inputs that lie so in memory"
    return ""


def _plan_data(plan: Plan, oracle: Oracle) -> dict[str, Any]:
    return {
        "constructors": [base64.b64encode(cloudpickle.dumps(arguments)).decode() for arguments in plan.constructors],
        "changed": plan.changed,
        "probes": [asdict(probe) for probe in plan.probes],
        "skipped": plan.skipped,
        "response": oracle.own_response,
        "own_sizes": plan.own_sizes,
        "mode": oracle.modes.mode,
        "random_mode": oracle.modes.random,
        "same_modes": oracle.modes.same,
    }


@dataclass
class Oracle:
    """The reference in float64 and in its own precision.

    Attributes:
        subject: the reference.
        precision: the task's class.
        device: `cpu` or `cuda`.
        given_code: the reference is a Triton module: it is its own oracle, in float32.
        kind: what outputs are compared with, for people.
        operations: names of the reference's operations.
        constructors: constructor arguments that probes name by their index.
    """

    subject: Subject
    precision: str
    device: str
    given_code: bool = False
    kind: str = "float64 reference"
    own_response: float = 1.0
    operations: frozenset[str] = frozenset()
    modes: modes.Modes = field(default_factory=modes.Modes)
    _states: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    _searches: dict[str, int] = field(default_factory=dict)
    _chosen: dict[tuple[str, Place], tuple[str, bool]] = field(default_factory=dict)
    _made: dict[str, torch.nn.Module] = field(default_factory=dict)
    constructors: list[tuple[Any, ...] | None] = field(default_factory=list)
    _own: list[Any] = field(default_factory=list)
    _structures: list[Structure] = field(default_factory=list)
    _remaker: Remaker = field(default_factory=lambda: Remaker(ModuleSource("", ""), ()))
    _samples: list[torch.Tensor] = field(default_factory=list)
    _drawn: dict[Probe, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.given_code:
            self.kind = "given code"
        own = self._too_large() if self.device == "cpu" else None
        made = own is None
        if own is None:
            own = self.subject.inputs(seed=0)
        self._samples = draws.samples(own) if made else draws.stand_ins(own)
        self._structures = structures_of(own, self.subject.inputs) if made else [Structure() for _ in leaves(own)]
        self._remaker = Remaker(self.subject.source, as_meta(own))
        self.constructors = [self.subject.own_arguments]
        self._own = map_leaves(own, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"))

    def _too_large(self) -> list[Any] | None:
        """The task's own inputs on the meta device, where they are larger than anybody should make on a CPU."""
        try:
            own = self.subject.inputs(0, "meta")
        except Exception:  # whatever the task's own code raises without data
            return None
        return own if sum(leaf.numel() for leaf in leaves(own) if leaf.is_meta) > draws.MOST_MADE else None

    @property
    def template(self) -> list[Any]:
        """The task's own inputs on the meta device."""
        return self._own

    @property
    def structures(self) -> list[Structure]:
        """What is special about each tensor of the task's own inputs."""
        return self._structures

    def bounds_positions(self, size: int) -> bool:
        """Whether whole numbers among the task's own inputs are positions in a dimension of this size."""
        return any(draws.lie_below(sample, size) for sample in self._samples)

    def inputs(self, probe: Probe) -> list[Any]:
        """The inputs of a probe, on the CPU: where nothing is changed, what the task itself makes."""
        if probe.draw == "own" and not probe.sizes and probe.constructor == 0:
            return with_values(self.subject.inputs(probe.seed), dict(probe.scalars))  # type: ignore[no-any-return]
        arguments = self.constructors[probe.constructor]
        drawn = self._drawn_at(arguments, dict(probe.sizes), probe.draw, probe.seed)
        laid_out: list[Any] = map_leaves(with_values(drawn, dict(probe.scalars)), draws.LAYOUTS[probe.layout])
        return laid_out

    def example(self, arguments: tuple[Any, ...] | None, sizes: planning.Sizes) -> list[Any]:
        """Inputs as the task makes them, at these sizes."""
        return self._drawn_at(arguments, sizes, "own", 0)

    def _drawn_at(self, arguments: tuple[Any, ...] | None, sizes: planning.Sizes, draw: str, seed: int) -> list[Any]:
        template = planning.resized(self._own, sizes)
        own = self.subject.own_arguments or ()
        constants = {
            old: new for old, new in zip(own, arguments or (), strict=False) if type(old) is int and type(new) is int
        }
        made = self._remaker.inputs(sizes, constants, seed)
        return draws.draw_inputs(
            template, self._samples, draw, seed, structures=self._structures,
            made=None if made is None else leaves(made), bounds=self._remaker.bounds(sizes, constants),
        )  # fmt: skip

    def accepts(self, probe: Probe) -> bool:
        """Whether the reference runs on a probe's inputs."""
        try:
            self._run(self.constructors[probe.constructor], self._own_state(probe.constructor), self.inputs(probe))
        except Exception:  # whatever a reference raises on what it does not take
            return False
        return True

    def _own_state(self, constructor: int) -> dict[str, torch.Tensor]:
        return dict(self._pristine(self.constructors[constructor]).state_dict())

    def _kept_inputs(self, probe: Probe) -> list[Any]:
        """As `inputs`, on the device; the last two are kept: weights are tried out on the same ones."""
        if probe not in self._drawn:
            while len(self._drawn) > 1:
                del self._drawn[next(iter(self._drawn))]
            self._drawn[probe] = self._moved(self.inputs(probe))
        return self._drawn[probe]

    def _moved(self, inputs: Sequence[Any]) -> list[Any]:
        moved: list[Any] = map_leaves(list(inputs), lambda tensor: tensor.to(self.device))
        return moved

    def finite(self, plan: Plan, probe: Probe, factor: float) -> bool:
        """Whether the reference's own outputs are all finite on a probe's inputs times `factor`."""
        inputs = map_leaves(self.inputs(probe), lambda t: t * factor if t.is_floating_point() else t)
        arguments = plan.constructors[probe.constructor]
        outputs = leaves(self._run(arguments, self.weights(plan, probe), inputs))
        return all(bool(torch.isfinite(output).all()) for output in outputs if output.is_floating_point())

    def weights(self, plan: Plan, probe: Probe) -> dict[str, torch.Tensor]:
        """The state that a probe runs with."""
        return self._states[self.chosen(plan, probe)[0]]

    def chosen(self, plan: Plan, probe: Probe) -> tuple[str, bool]:
        """The name of the state that a probe runs with, and whether the output answers to the inputs there.

        Weights at which a small output answers can saturate a larger one (a sum over more rows, before a GELU): each
        place is asked anew, and where no known weights serve, others are searched for.
        """
        kind = f"{probe.constructor}:{probe.weights}"
        place = kind, probe.sizes
        if place not in self._chosen:
            plain = probe.weights == "own" or self.given_code  # given code would be interpreted for each try
            self._chosen[place] = self._plain(plan, probe, kind) if plain else self._answering(plan, probe, kind)
        return self._chosen[place]

    def _plain(self, plan: Plan, probe: Probe, kind: str) -> tuple[str, bool]:
        """The module's own weights, or redrawn ones that nobody has tried."""
        if kind not in self._states:
            module = self._pristine(plan.constructors[probe.constructor])
            if probe.weights == "own":
                self._states[kind] = {name: value.detach().clone() for name, value in module.state_dict().items()}
            else:
                self._states[kind] = draws.redraw_weights(module, 1.0, seed=17)
        return kind, True

    def _answering(self, plan: Plan, probe: Probe, kind: str) -> tuple[str, bool]:
        """Redrawn weights, of any kind, that serve at the probe's place; the best known where a search fails."""
        enough = _ENOUGH_OWN if probe.family is Family.OWN else _SERVES
        known = [key for key in self._states if key.startswith(f"{probe.constructor}:responsive")]
        best, strength = "", -1.0
        for key in known:
            found = self.response(plan, probe, self._states[key]).strength
            if found > strength:
                best, strength = key, found
            if found > enough:
                return key, True
        searches = self._searches.get(kind, 0)
        if searches < _SEARCHES:
            state, found = self._responsive(plan, probe)
            self._searches[kind] = searches + 1
            if found > strength * _BETTER or not known:
                best, strength = f"{kind}:{searches}", found
                self._states[best] = state
        return best, strength > _ENOUGH_OWN

    def _responsive(self, plan: Plan, probe: Probe) -> tuple[dict[str, torch.Tensor], float]:
        """Weights at the scale at which the output answers best to the task's own inputs, and how strongly."""
        module = self._pristine(plan.constructors[probe.constructor])
        best, state = 0.0, draws.redraw_weights(module, 1.0, seed=17)
        for moderate, scale in itertools.product((False, True), _SCALES):
            if moderate and best > _ENOUGH_OWN:
                break  # only biases that drown everything need another mean
            candidate = draws.redraw_weights(module, scale, seed=17, moderate=moderate)
            strength = self.response(plan, probe, candidate).strength
            if strength > best * _BETTER:
                best, state = strength, candidate
            if best > (_ENOUGH_OWN if probe.family is Family.OWN else _ENOUGH):
                break
        return state, best

    def _pristine(self, arguments: tuple[Any, ...] | None) -> torch.nn.Module:
        """The module with the weights that it was made with; runs load theirs into another copy."""
        key = repr(arguments)
        if key not in self._made:
            self._made[key] = copy.deepcopy(self.subject.build(arguments))
        return self._made[key]

    def response(self, plan: Plan, probe: Probe, state: Mapping[str, torch.Tensor]) -> draws.Response:
        """How the output answers, at the probe's sizes with the task's own kind of inputs."""
        first, second = (
            self._kept_inputs(Probe("", probe.family, probe.constructor, probe.sizes, draw="own", seed=seed))
            for seed in (101, 102)
        )
        arguments = plan.constructors[probe.constructor]
        return draws.response(self._run(arguments, state, first), self._run(arguments, state, second))

    def answer(self, plan: Plan, probe: Probe) -> Answer:
        """The right outputs of a probe, and the reference's own errors."""
        if probe.mode and probe.mode != self.subject.mode:
            other = Oracle(
                Subject(self.subject.source, self.subject.own_arguments, probe.mode), self.precision, self.device
            )
            return other.answer_with(plan, probe, self.weights(plan, probe), self.inputs(probe))
        return self.answer_with(plan, probe, self.weights(plan, probe), self.inputs(probe))

    def answer_with(self, plan: Plan, probe: Probe, state: dict[str, torch.Tensor], inputs: list[Any]) -> Answer:
        """As `answer`, for given weights and inputs."""
        arguments = plan.constructors[probe.constructor]
        moved = self._moved(inputs)
        began = time.process_time()
        passed = self._passed(arguments, state, moved)
        spent_s = time.process_time() - began
        with really():  # given code runs on a device that is pretended
            form = Form.of(passed.outputs)
        native = [leaf.detach() for leaf in leaves(passed.outputs)]

        def reordered(seed: int) -> list[Errors]:
            """What the same sums in another order may do: inputs and weights changed in the last bit."""
            with really():
                nudged_state, nudged = nudge.nudged_state(state, seed), nudge.nudged_tree(moved, seed)
            found = leaves(self._run(arguments, nudged_state, nudged))
            if [one.shape for one in found] != [one.shape for one in exact]:
                raise OtherShapesError
            return compare_each(exact, found, native)

        if self.given_code:
            exact = [widened(value) for value in native]
            own = self._if_cheap(reordered, spent_s, len(exact))
            known = dict.fromkeys({"ieee", self.precision}, own)
            return Answer(inputs, exact, native, known, form, shared=passed.shared, updated=passed.updated)
        exact = self._right(passed, arguments, state, moved, native)
        ranges = self._ranges(arguments, state, moved, native, exact)
        exact = [mine if is_exact(mine.dtype) else right for mine, right in zip(native, exact, strict=True)]
        seeds = (1,) if probe.family is Family.OWN else (1, 2)
        ieee = [compare_each(exact, native), *self._reordered(reordered, seeds)]
        ieee += [] if passed.random else [self._looped(arguments, state, moved, exact, native)]
        errors = {"ieee": largest(ieee)}
        if self.precision != "ieee":
            classes = self._class_errors(arguments, state, moved, exact, native)
            errors[self.precision] = largest([*ieee, *classes])
        gradient = self._gradients(arguments, state, moved) if _ordinary(probe) else {}
        return Answer(
            inputs, exact, native, errors, form, ranges, passed.after, passed.aliases, passed.shared, passed.updated,
            gradient,
        )  # fmt: skip

    def _looped(
        self, arguments: tuple[Any, ...] | None, state: Mapping[str, torch.Tensor], inputs: Sequence[Any],
        exact: Sequence[torch.Tensor], native: Sequence[torch.Tensor],
    ) -> list[Errors]:  # fmt: skip
        """Own errors where each sum is a plain loop; none where that changes the outputs' shapes."""
        with PlainLoops(seed=3):
            found = leaves(self._run(arguments, state, inputs))
        if [one.shape for one in found] != [one.shape for one in exact]:
            return [Errors(0.0, 0.0)] * len(exact)
        return compare_each(exact, found, native)

    def _reordered(self, reordered: Callable[[int], list[Errors]], seeds: Sequence[int]) -> Iterator[list[Errors]]:
        """Own errors in other orders, where rounding does not change the outputs' shapes."""
        for seed in seeds:
            with contextlib.suppress(OtherShapesError):
                yield reordered(seed)

    def _right(
        self, passed: Pass, arguments: tuple[Any, ...] | None, state: Mapping[str, torch.Tensor], inputs: Sequence[Any],
        native: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:  # fmt: skip
        """The outputs in float64; those of the reference's own precision where float64 would say something else."""
        if passed.random:
            self.kind = "the reference in its own precision (it draws random numbers; the same generator state for all)"
            return [widened(value) for value in native]
        exact = self._exact(arguments, state, inputs)
        if [value.shape for value in exact] != [value.shape for value in native]:
            self.kind = "the reference in its own precision (the shapes of its outputs depend on rounding)"
            return [widened(value) for value in native]
        return exact

    def _ranges(
        self, arguments: tuple[Any, ...] | None, state: Mapping[str, torch.Tensor], inputs: Sequence[Any],
        native: Sequence[torch.Tensor], exact: Sequence[torch.Tensor],
    ) -> list[tuple[torch.Tensor, torch.Tensor] | None]:  # fmt: skip
        """Of integer outputs, what else is right where rounding or an open order of equal values decides."""
        if not any(is_exact(value.dtype) for value in native):
            return []
        ties_open = bool(self.operations & nudge.ANY_OF_EQUAL)
        change = nudge.nudged_apart if ties_open else nudge.nudged_alike
        again = (leaves(self._run(arguments, state, change(inputs, seed))) for seed in range(1, 5))
        runs = [list(exact), *again]
        runs = [run for run in runs if len(run) == len(native)]
        most = max((size - 1 for leaf in leaves(list(inputs)) for size in leaf.shape), default=0)
        others = [[run[index] for run in runs] for index in range(len(native))]
        return [
            nudge.open_range(mine, same, ties_open=ties_open, most=most) if is_exact(mine.dtype) else None
            for mine, same in zip(native, others, strict=True)
        ]

    def _gradients(
        self, arguments: tuple[Any, ...] | None, state: Mapping[str, torch.Tensor], inputs: Sequence[Any]
    ) -> Mapping[str, torch.Tensor]:
        """The reference's own gradients by name; none where it has none, or is not made for them."""
        module = self.subject.build(arguments)
        module.load_state_dict(dict(state))
        module.to(self.device)
        try:
            given = map_leaves(list(inputs), lambda tensor: tensor.detach().clone())
            return gradients.take(lambda leaves: module(*leaves), given, dict(module.named_parameters())).values
        except Exception:  # nobody has to be differentiable
            return {}
        finally:
            module.requires_grad_(False)

    def takes_layout(self, plan: Plan, probe: Probe, answer: Answer) -> bool:
        """Whether given code says the same of a probe's inputs when they lie packed in memory.

        Code that ignores strides reads what lies between the elements; nobody has to do the same.
        """
        if probe.layout == "packed":
            return True
        packed = map_leaves(answer.inputs, lambda tensor: tensor.contiguous())
        found = self._run(plan.constructors[probe.constructor], self.weights(plan, probe), self._moved(packed))
        errors = compare(answer.exact, leaves(found), answer.native)
        return errors.not_finite == 0 and errors.norm <= _SAME

    def _if_cheap(self, reordered: Callable[[int], list[Errors]], spent_s: float, count: int) -> list[Errors]:
        """Given code's own errors; none where it is too dear to run again, having taken `spent_s` processor seconds."""
        if self.device == "cpu" and spent_s > _INTERPRETED_S / 2:
            return [Errors(0.0, 0.0)] * count
        try:
            return reordered(1)
        except (runtime.TooDearError, NotInterpretableError):
            return [Errors(0.0, 0.0)] * count

    def _class_errors(
        self,
        arguments: tuple[Any, ...] | None,
        state: Mapping[str, torch.Tensor],
        inputs: Sequence[Any],
        exact: Sequence[torch.Tensor],
        native: Sequence[torch.Tensor],
    ) -> Iterator[list[Errors]]:
        # Hardware rounds operands to nearest (cuDNN) or cuts them (tl.dot): a class is what either does.
        for nearest in (True, False):
            with ReducedProducts(_BITS[self.precision], nearest=nearest):
                yield compare_each(exact, leaves(self._run(arguments, state, inputs)), native)
        if self.device == "cuda":
            yield compare_each(exact, leaves(self._run(arguments, state, inputs, self.precision)), native)

    def _run(
        self,
        arguments: tuple[Any, ...] | None,
        state: Mapping[str, torch.Tensor],
        inputs: Sequence[Any],
        precision: str = "ieee",
    ) -> Tree:
        outputs = self._outputs(arguments, state, inputs, precision)
        return map_leaves(outputs, lambda tensor: tensor.detach())

    def _outputs(
        self,
        arguments: tuple[Any, ...] | None,
        state: Mapping[str, torch.Tensor],
        inputs: Sequence[Any],
        precision: str = "ieee",
    ) -> Tree:
        return self._passed(arguments, state, inputs, precision).outputs

    def _passed(
        self,
        arguments: tuple[Any, ...] | None,
        state: Mapping[str, torch.Tensor],
        inputs: Sequence[Any],
        precision: str = "ieee",
    ) -> Pass:
        self._pristine(arguments)
        module = self.subject.build(arguments)
        module.load_state_dict(dict(state))
        module.to(self.device)
        # A copy of what has gaps would be packed; given code must meet the inputs as candidates do.
        moved = map_leaves(
            list(inputs), lambda tensor: wire.with_stride(tensor.to(self.device, copy=True), list(tensor.stride()))
        )
        given = leaves(moved)
        versions = [tensor._version for tensor in given]
        runtime.seed_generators()
        before = torch.get_rng_state()
        with torch.no_grad(), product_precision(precision):
            outputs = module(*moved)
        with really():
            held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            shared, updated = aliases.shared(leaves(outputs), given, held), modes.updated(state, module)
        outputs = as_tensors(outputs)
        random = not torch.equal(before, torch.get_rng_state())
        changed = [index for index, tensor in enumerate(given) if tensor._version != versions[index]]
        after = {index: given[index].detach().clone() for index in changed}
        memory = {tensor.untyped_storage()._cdata for tensor in given}
        is_alias = any(leaf.untyped_storage()._cdata in memory for leaf in leaves(outputs))
        return Pass(outputs, after, is_alias, random, shared, updated)

    def _exact(
        self, arguments: tuple[Any, ...] | None, state: Mapping[str, torch.Tensor], inputs: Sequence[Any]
    ) -> list[torch.Tensor]:
        module = self.subject.build(arguments)
        module.load_state_dict(dict(state))
        exact = copy.deepcopy(module).double().to(self.device)
        moved = map_leaves(to_double(list(inputs)), lambda tensor: tensor.to(self.device, copy=True))
        try:
            with torch.no_grad():
                return [leaf.detach() for leaf in leaves(to_double(as_tensors(exact(*moved))))]
        except (RuntimeError, NotImplementedError, TypeError) as error:
            self.kind = f"float32 reference without TF32 (no float64: {str(error).splitlines()[0][:120]})"
            return [widened(leaf) for leaf in leaves(self._run(arguments, state, inputs))]


def _ordinary(probe: Probe) -> bool:
    """Whether the experiments may use a probe: there the reference's gradients are asked for, too."""
    return probe.family is Family.VALUE and probe.draw == "own" and probe.layout == "packed"
