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

from tilewright.kernels.triton_memory import observed_memory
from tilewright.verify import draws, planning, runtime, wire
from tilewright.verify.compare import Errors, combine, compare
from tilewright.verify.coverage import Coverage
from tilewright.verify.planning import EFFORTS, Family, Place, Plan, Probe
from tilewright.verify.pretend import really
from tilewright.verify.probes import make_plan
from tilewright.verify.subject import (
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

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]

#: Scales of weights that are tried, nearest to the module's own first.
_SCALES = (1.0, 1 / 4, 4.0, 1 / 16, 16.0, 1 / 64, 1 / 128, 1 / 256)
#: A scale must answer so many times better than one nearer to the module's own; one that is good enough ends it
#: (at the task's own sizes, where each try is dear, a thousand times what the gate resolves is enough; an output that
#: answers less is said to be silent).
_BETTER, _ENOUGH, _ENOUGH_OWN = 1.25, 0.3, 1e-3
#: Weights that answer this well at one place serve at another; of one kind so many sets are searched for at most.
_SERVES, _SEARCHES = 0.05, 6
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
        oracle = Oracle(Subject.of(source), job["precision"], job["device"], bool(job["given_code"]))
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
            except runtime.TooDearError as error:
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
            emit(f"probe {index}", _answer_data(answer, packed) | {"weights": key, "responds": responds}, packed)
        # Only now is it known whether each operation had a float64 form.
        emit("oracle", {"kind": oracle.kind}, None)


def _refusal(oracle: Oracle, plan: Plan, probe: Probe, answer: Answer, followed: Coverage) -> str:
    """Why given code does not say what is right for a probe; empty where it does."""
    if any(event.kind == "outside" for event in followed.events.values()):
        return "the given code leaves its own tensors there"
    if oracle.given_code and not oracle.takes_layout(plan, probe, answer):
        return "the given code is wrong on inputs that lie so in memory"
    return ""


#: Outputs with more elements travel as float32: half a unit of rounding against gigabytes.
LARGE = 1 << 26


def _answer_data(answer: Answer, packed: dict[str, torch.Tensor]) -> dict[str, Any]:
    exact, native = answer.exact, answer.native
    types = [str(output.dtype).removeprefix("torch.") for output in native]
    if sum(output.numel() for output in exact) > LARGE:
        exact = [output.float() if output.dtype is torch.float64 else output for output in exact]
        if all(bool(torch.isfinite(output).all()) for output in native if output.is_floating_point()):
            native = []
    return {
        "inputs": wire.pack(answer.inputs, packed, "inputs"),
        "oracle": wire.pack(exact, packed, "oracle"),
        "native": wire.pack(native, packed, "native"),
        "types": types,
        "errors": {name: errors.as_data() for name, errors in answer.errors.items()},
        "form": answer.form.as_data(),
    }


def _plan_data(plan: Plan, oracle: Oracle) -> dict[str, Any]:
    return {
        "constructors": [base64.b64encode(cloudpickle.dumps(arguments)).decode() for arguments in plan.constructors],
        "changed": plan.changed,
        "probes": [asdict(probe) for probe in plan.probes],
        "skipped": plan.skipped,
        "response": oracle.own_response,
        "own_sizes": plan.own_sizes,
    }


@dataclass(frozen=True)
class Answer:
    """What is right for one probe, and how exact the reference is by class (`ieee` and the task's own)."""

    inputs: list[Any]
    exact: list[torch.Tensor]
    native: list[torch.Tensor]
    errors: Mapping[str, Errors]
    form: Form


@dataclass
class Oracle:
    """The reference in float64 and in its own precision.

    Attributes:
        subject: the reference.
        precision: the task's class.
        device: `cpu` or `cuda`.
        given_code: the reference is a Triton module: it is its own oracle, in float32.
        kind: what outputs are compared with, for people.
    """

    subject: Subject
    precision: str
    device: str
    given_code: bool = False
    kind: str = "float64 reference"
    own_response: float = 1.0
    _states: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    _searches: dict[str, int] = field(default_factory=dict)
    _chosen: dict[tuple[str, Place], tuple[str, bool]] = field(default_factory=dict)
    _made: dict[str, torch.nn.Module] = field(default_factory=dict)
    _own: list[Any] = field(default_factory=list)
    _samples: list[torch.Tensor] = field(default_factory=list)
    _drawn: dict[Probe, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.given_code:
            self.kind = "given code"
        own = self._too_large() if self.device == "cpu" else None
        if own is None:
            own = self.subject.inputs(seed=0)
            self._samples = draws.samples(own)
        else:
            self._samples = draws.stand_ins(own)
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

    def inputs(self, probe: Probe) -> list[Any]:
        """The inputs of a probe, on the CPU: where nothing is changed, what the task itself makes."""
        if probe.draw == "own" and not probe.sizes and probe.constructor == 0:
            return self.subject.inputs(probe.seed)
        template = planning.resized(self._own, dict(probe.sizes))
        drawn = draws.draw_inputs(template, self._samples, probe.draw, probe.seed)
        laid_out: list[Any] = map_leaves(drawn, draws.LAYOUTS[probe.layout])
        return laid_out

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
        arguments = plan.constructors[probe.constructor]
        state, inputs = self.weights(plan, probe), self.inputs(probe)
        moved = self._moved(inputs)
        began = time.process_time()
        outputs = self._outputs(arguments, state, moved)
        spent_s = time.process_time() - began
        with really():  # given code runs on a device that is pretended
            form = Form.of(outputs)
        native = [leaf.detach() for leaf in leaves(outputs)]

        def reordered(seed: int) -> Errors:
            """What the same sums in another order may do: inputs and weights changed in the last bit."""
            with really():
                nudged_state, nudged = _nudged(state, seed), _nudged_tree(moved, seed)
            return compare(exact, leaves(self._run(arguments, nudged_state, nudged)), native)

        if self.given_code:
            exact = [value.double() if value.is_floating_point() else value for value in native]
            own = self._if_cheap(reordered, spent_s)
            return Answer(inputs, exact, native, dict.fromkeys({"ieee", self.precision}, own), form)
        exact = self._exact(arguments, state, moved)
        seeds = (1,) if probe.family is Family.OWN else (1, 2)
        ieee = [compare(exact, native), *(reordered(seed) for seed in seeds)]
        errors = {"ieee": combine(ieee)}
        if self.precision != "ieee":
            errors[self.precision] = combine([*ieee, *self._class_errors(arguments, state, moved, exact, native)])
        return Answer(inputs, exact, native, errors, form)

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

    def _if_cheap(self, reordered: Callable[[int], Errors], spent_s: float) -> Errors:
        """Given code's own errors; none where it is too dear to run again, having taken `spent_s` processor seconds."""
        if self.device == "cpu" and spent_s > _INTERPRETED_S / 2:
            return Errors(0.0, 0.0)
        try:
            return reordered(1)
        except runtime.TooDearError:
            return Errors(0.0, 0.0)

    def _class_errors(
        self,
        arguments: tuple[Any, ...] | None,
        state: Mapping[str, torch.Tensor],
        inputs: Sequence[Any],
        exact: Sequence[torch.Tensor],
        native: Sequence[torch.Tensor],
    ) -> Iterator[Errors]:
        # Hardware rounds operands to nearest (cuDNN) or cuts them (tl.dot): a class is what either does.
        for nearest in (True, False):
            with ReducedProducts(_BITS[self.precision], nearest=nearest):
                yield compare(exact, leaves(self._run(arguments, state, inputs)), native)
        if self.device == "cuda":
            yield compare(exact, leaves(self._run(arguments, state, inputs, self.precision)), native)

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
        self._pristine(arguments)
        module = self.subject.build(arguments)
        module.load_state_dict(dict(state))
        module.to(self.device)
        # A copy of what has gaps would be packed; given code must meet the inputs as candidates do.
        moved = map_leaves(
            list(inputs), lambda tensor: wire.with_stride(tensor.to(self.device, copy=True), list(tensor.stride()))
        )
        with torch.no_grad(), product_precision(precision):
            return as_tensors(module(*moved))

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
            return [
                leaf.double() if leaf.is_floating_point() else leaf
                for leaf in leaves(self._run(arguments, state, inputs))
            ]


def _nudged(state: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    return {name: _nudge(value, seed + index) for index, (name, value) in enumerate(state.items())}


def _nudged_tree(inputs: Sequence[Any], seed: int) -> list[Any]:
    nudged: list[Any] = map_leaves(list(inputs), lambda tensor: _nudge(tensor, seed))
    return nudged


def _nudge(values: torch.Tensor, seed: int) -> torch.Tensor:
    """Values changed in the last bit, up or down: what any other order of the same operations may do."""
    if not values.is_floating_point():
        return values
    generator = torch.Generator(values.device).manual_seed(seed)
    up = torch.rand(values.shape, generator=generator, device=values.device) < 0.5
    target = torch.where(up, torch.full_like(values, float("inf")), torch.full_like(values, float("-inf")))
    return torch.where(torch.isfinite(values) & (values != 0), torch.nextafter(values, target), values)
