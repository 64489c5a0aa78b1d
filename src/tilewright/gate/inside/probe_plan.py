"""The probes of a task, most telling first: own sizes, ordinary values, other arguments, other sizes, extremes.

Runs beside the oracle, which says how outputs respond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tilewright.gate.compare.scales import judges_bias
from tilewright.gate.inside import options
from tilewright.gate.probes import draws, nudge, planning, ties
from tilewright.gate.probes.planning import Effort, Family, Plan, Probe
from tilewright.gate.reference.subject import leaves

if TYPE_CHECKING:
    from tilewright.gate.inside.oracle import Oracle


#: Probes of the other mode.
_MODE_PROBES = 3


def make_plan(oracle: Oracle, constants: Sequence[int], effort: Effort) -> Plan:
    """The probes, most telling first."""
    subject = oracle.subject
    trace = planning.Tracer(subject, oracle.template, oracle.example)
    own = subject.own_arguments
    plan = Plan([own], ["the task's own"])
    oracle.constructors = plan.constructors
    if trace(own, {}) is None:
        trace.use_data()
    whole = trace(own, {})
    oracle.operations = frozenset(name for name, _ in whole.steps) if whole is not None else frozenset()
    shapes = [tuple(leaf.shape) for leaf in leaves(list(oracle.template))]
    apart = ties.tied(planning.find_groups(trace, own, oracle.template), shapes, oracle.structures)
    groups, base = planning.settle(trace, own, [ties.joined(together) for together in apart])
    _own_probes(plan, oracle, trace, groups, effort)
    home = _home(plan, oracle, trace, base)
    _value_probes(plan, oracle, trace, groups, base, home)
    options.argument_probes(plan, oracle, home)
    _constructor_probes(plan, oracle, trace, base, constants, effort)
    options.option_probes(plan, oracle, trace, base)
    _size_probes(plan, trace, groups, base, home, constants, effort)
    _apart_probes(plan, trace, apart, home)
    _measure_response(plan, oracle)
    plan.probes += _mode_probes(plan, oracle)
    plan.probes = [_with_quantities(plan, trace, shapes, probe) for probe in plan.probes]
    plan.own_sizes = (*planning.named_quantities(trace(own, {})), *_of_inputs(shapes, ()))
    return plan


def _measure_response(plan: Plan, oracle: Oracle) -> None:
    """How the output answers to the task's own inputs and weights, at the largest sizes that are run."""
    own = next((probe for probe in plan.probes if probe.weights == "own" and probe.draw == "own"), None)
    if own is not None and not oracle.given_code:
        oracle.own_response = oracle.response(plan, own, oracle.weights(plan, own)).share


def _mode_probes(plan: Plan, oracle: Oracle) -> list[Probe]:
    """Ordinary values in the other mode, where the reference computes something else there, and no random numbers."""
    other = oracle.modes.other
    if not other:
        return []
    names = {
        "eval": "eval mode (all else is judged as it is built, in training mode)",
        "built": "training mode, as built",
    }
    ordinary = [probe for probe in plan.probes if probe.family is Family.VALUE and probe.layout == "packed"]
    return [
        replace(probe, name=f"{names[other]}: {probe.name}", family=Family.MODE, mode=other)
        for probe in ordinary[:_MODE_PROBES]
    ]


def _with_quantities(plan: Plan, trace: planning.Tracer, shapes: Sequence[tuple[int, ...]], probe: Probe) -> Probe:
    found = trace(plan.constructors[probe.constructor], dict(probe.sizes))
    return replace(probe, quantities=(*planning.named_quantities(found), *_of_inputs(shapes, probe.sizes)))


def _of_inputs(shapes: Sequence[tuple[int, ...]], sizes: planning.Place) -> list[tuple[str, int]]:
    """Sizes of the inputs themselves, by name: what is summed over is in no result."""
    changed = dict(sizes)
    return [
        (f"dim {dim} of input {leaf}", changed.get((leaf, dim), size))
        for leaf, shape in enumerate(shapes)
        for dim, size in enumerate(shape)
    ]


def _own_probes(
    plan: Plan, oracle: Oracle, trace: planning.Tracer, groups: Sequence[planning.Group], effort: Effort
) -> None:
    """The task's own sizes: whole on a GPU; else as much of the batch as can be interpreted."""
    own, sizes, name = oracle.subject.own_arguments, {}, "own sizes"
    whole = trace(own, {})
    if oracle.device == "cpu" and whole is not None and groups and _may_be_cut(oracle, groups[0], whole.largest):
        cut = next((size for size in (1, 2, 4) if trace(own, groups[0].at(size)) is not None), None)
        if cut is not None and cut < groups[0].size:
            sizes, name = groups[0].at(cut), f"own sizes, {groups[0].name} cut to {cut}"
            whole = trace(own, sizes)
    if whole is None or (oracle.device == "cpu" and whole.largest > effort.own_elements):
        reason = "too large to interpret" if whole is not None else "the reference does not run there"
        plan.skipped.append(f"the task's own sizes ({reason})")
        return
    place = tuple(sorted(sizes.items()))
    for seed in range(effort.seeds if oracle.device == "cuda" and whole.largest < 1 << 26 else 1):
        plan.probes.append(Probe(name, Family.OWN, sizes=place, seed=seed))
    plan.probes.append(
        Probe(f"{name}, weights redrawn", Family.OWN, sizes=place, weights="responsive at full size", seed=3)
    )


#: Squares of at most so many elements are run whole.
_WHOLE = 1 << 18


def _may_be_cut(oracle: Oracle, batch: planning.Group, largest: int) -> bool:
    """Whether the first group is a batch (the first dimension of inputs, before others), or the whole is too large."""
    shapes = [leaf.shape for leaf in leaves(list(oracle.template))]
    first = all(dim == 0 and len(shapes[leaf]) > 1 for leaf, dim in batch.members)
    if first and not oracle.bounds_positions(batch.size):
        return True
    square = any(oracle.structures[leaf].square for leaf, _ in batch.members)
    return not square and largest > _WHOLE


def _apart_probes(
    plan: Plan,
    trace: planning.Tracer,
    apart: Sequence[Sequence[planning.Group]],
    home: tuple[int, Mapping[planning.Member, int]],
) -> None:
    """Dimensions of one size in the task, each at another."""
    constructor, sizes = home
    for together in apart:
        for group in together if len(together) > 1 else ():
            other = planning.prime_after(2 * max(sizes.get(group.members[0], 2), 2))
            changed = {**sizes, **group.at(other)}
            if trace(plan.constructors[constructor], changed) is not None:
                name = f"{group.name} = {other}, unlike others that are {group.size} in the task"
                place = tuple(sorted(changed.items()))
                plan.probes.append(Probe(name, Family.SIZE, constructor, place, "responsive", "own", 7, apart=True))


def _home(
    plan: Plan, oracle: Oracle, trace: planning.Tracer, base: planning.Sizes
) -> tuple[int, dict[planning.Member, int]]:
    """Where small probes live: the task's own arguments, or smaller ones where its weights are large."""
    own = oracle.subject.own_arguments
    weights = sum(parameter.numel() for parameter in oracle.subject.build(own, "meta").parameters())
    sizes = dict(base)
    if weights <= 1 << 20 or own is None:
        return 0, sizes
    arguments = own
    for position in planning.size_arguments(trace, oracle.subject, oracle.template, base):
        for value in small_values(arguments[position]):
            found = planning.vary(trace, oracle.template, arguments, position, value, sizes)
            if found is not None:
                arguments, sizes = found.arguments, dict(found.sizes)
                break
    if arguments == own:
        return 0, sizes
    plan.constructors.append(arguments)
    plan.changed.append(f"a small module {arguments}")
    return len(plan.constructors) - 1, sizes


def small_values(size: int) -> list[int]:
    """Smaller values to try for a constructor argument, the best first: no power of two, but as aligned as it is.

    A kernel may ask for aligned sizes (of tensor descriptors' rows, 16 bytes) and leave others to PyTorch: at an odd
    size nothing of it would be seen. Odd sizes have probes of their own (`Family.CONSTRUCTOR`).
    """
    alignment = min(8, size & -size)
    return sorted((v for v in (67, 68, 72, 96, 64, 128, 256) if v < size), key=lambda value: value % alignment > 0)


def _value_probes(
    plan: Plan,
    oracle: Oracle,
    trace: planning.Tracer,
    groups: Sequence[planning.Group],
    base: planning.Sizes,
    home: tuple[int, Mapping[planning.Member, int]],
) -> None:
    constructor, sizes = home[0], dict(home[1])
    primes = [3, 13, 11, 7, 5, 5, 5]
    if groups and any(dim > 0 for _, dim in groups[0].members):
        del primes[0]  # no batch comes first
    for group, prime in zip(groups, primes, strict=False):
        larger = sizes | group.at(max(prime, base.get(group.members[0], 1)))
        if trace(plan.constructors[constructor], larger) is not None:
            sizes = larger
    place = tuple(sorted(sizes.items()))

    def probe(draw: str, family: Family, weights: str = "responsive", layout: str = "packed") -> Probe:
        text = {"own": "the task's kind of inputs"}.get(draw, f"inputs {draw}")
        text += "" if layout == "packed" else f", {layout}"
        return Probe(
            f"{text}, {weights} weights", family, constructor, place, weights, draw, 5, layout=layout
        )  # fmt: skip

    plan.probes += [probe("own", Family.VALUE), probe("own", Family.VALUE, "own")]
    floats = any(leaf.is_floating_point() for leaf in leaves(list(oracle.template)))
    ordinary, unusual = (_ORDINARY, _EXTREME) if floats else ((), ())
    plan.probes += [probe(draw, Family.VALUE) for draw in ordinary]
    if not floats:  # no draw by name changes anything: the task's own kind at another seed
        plan.probes.append(replace(probe("own", Family.VALUE), name="the task's kind of inputs, once more", seed=6))
    if oracle.operations & (nudge.FIRST_OF_EQUAL | nudge.ANY_OF_EQUAL):
        plan.probes.append(probe("of few values", Family.VALUE))
    many = _many(oracle, trace, plan.constructors[constructor], groups, sizes)
    if many:
        one = probe("normal", Family.VALUE)
        plan.probes.append(replace(one, name=f"{one.name}, many", sizes=tuple(sorted(many.items()))))
    template = planning.resized(oracle.template, dict(place))
    parameters = oracle.subject.build(plan.constructors[constructor], "meta").parameters()
    formed = any(parameter.dim() in (4, 5) for parameter in parameters)
    for layout in (name for name in _layouts(template) if formed or name != draws.MODULE_LAYOUT):
        plan.probes.append(probe("own", Family.VALUE, layout=layout))
    if oracle.device == "cpu":
        plan.probes += _on_few(trace, probe("own", Family.VALUE), plan.constructors[constructor], groups)
    aligned = _aligned(trace, plan.constructors[constructor], groups, sizes)
    if aligned:
        plan.probes += [
            replace(one, name=f"{one.name}, aligned sizes", sizes=tuple(sorted(aligned.items())))
            for one in (probe("own", Family.VALUE), probe("own", Family.VALUE, "own"), probe("normal", Family.VALUE))
        ]
    # Where the smallest sizes have values enough, extreme ones need no more.
    smallest = tuple(sorted(home[1].items()))
    few = trace(plan.constructors[constructor], dict(smallest))
    enough = few is not None and few.largest >= _ENOUGH_VALUES
    extreme = [replace(probe(draw, Family.EXTREME), sizes=smallest if enough else place) for draw in unusual]
    plan.probes += [one for one in extreme if one.draw not in draws.HUGE]
    plan.probes += _huge(plan, oracle, [one for one in extreme if one.draw in draws.HUGE])
    # Where a kernel is so slow that the interpreter ends none of the above, the smallest sizes still tell.
    for draw in ("own", *ordinary) if smallest != place else ():
        one = probe(draw, Family.SIZE)
        plan.probes.append(replace(one, name=f"{one.name}, smallest sizes", sizes=smallest))


#: Elements of the largest tensor of a pass at which the direction of errors in 16 bits is seen.
_MANY = 1 << 15


def _many(
    oracle: Oracle,
    trace: planning.Tracer,
    arguments: tuple[Any, ...] | None,
    groups: Sequence[planning.Group],
    sizes: Mapping[planning.Member, int],
) -> dict[planning.Member, int]:
    """Sizes with so many elements that a formula that is off shows through the rounding of 16 bits; else empty."""
    state = oracle.subject.build(oracle.subject.own_arguments, "meta").state_dict()
    if not groups or not any(judges_bias(leaf.dtype) for leaf in (*leaves(list(oracle.template)), *state.values())):
        return {}
    best: dict[planning.Member, int] = {}
    size = 2 * max(sizes.get(groups[0].members[0], 1), 1) + 1
    while size < _MANY:
        larger = {**sizes, **groups[0].at(size)}
        found = trace(arguments, larger)
        if found is not None and found.largest > _MANY:
            break
        best = larger if found is not None else best
        size = 2 * size + 1
    return best


#: Elements of the largest tensor of a pass at sizes as aligned as the task's own.
_ALIGNED = 1 << 14


def _aligned(
    trace: planning.Tracer,
    arguments: tuple[Any, ...] | None,
    groups: Sequence[planning.Group],
    sizes: Mapping[planning.Member, int],
) -> dict[planning.Member, int]:
    """Small sizes as aligned as the task's own; empty where ordinary ones are so, or where that is not small.

    A kernel without masks is right at these and wrong at ordinary ones: that is a limit with its range.
    """
    found = dict(sizes)
    for group in groups:
        alignment = min(planning.ALIGNMENTS[1], group.size & -group.size)
        size = max(sizes.get(group.members[0], 1), 1)
        found |= group.at(min(-(-size // alignment) * alignment, group.size))
    passed = trace(arguments, found) if found != dict(sizes) else None
    return found if passed is not None and passed.largest <= _ALIGNED else {}


#: With so few multiprocessors, kernels that share out a fixed number of programs take several turns at small sizes.
_FEW = 3


def _on_few(
    trace: planning.Tracer, probe: Probe, arguments: tuple[Any, ...] | None, groups: Sequence[planning.Group]
) -> list[Probe]:
    """A probe and a larger one on a GPU with few multiprocessors."""
    name = f"{probe.name}, {_FEW} multiprocessors"
    found = [replace(probe, name=name, multiprocessors=_FEW)]
    for group in groups[:1]:
        sizes = {**dict(probe.sizes), **group.at(37)}
        larger = trace(arguments, sizes)
        if larger is not None and larger.largest <= 1 << 17:
            place = tuple(sorted(sizes.items()))
            found.append(replace(found[0], name=f"{name}, {group.name} = 37", sizes=place))
    return found


#: Draws that any module is expected to take.
_ORDINARY = ("normal", "negative", "zeros", "times 1e-3")
#: Draws far outside of a task's own, the huge ones from the largest on.
_EXTREME = (*(draw for draw in draws.DRAWS if draw not in {*_ORDINARY, *draws.HUGE, "of few values"}), *draws.HUGE)
#: Elements of the largest tensor of a pass at which extreme values meet every branch of a kernel.
_ENOUGH_VALUES = 2048


def _layouts(template: Sequence[Any]) -> list[str]:
    """Layouts that change the strides of some input."""
    real = [torch.empty(leaf.shape, dtype=leaf.dtype) for leaf in leaves(list(template))]
    return [
        name for name, lay in draws.LAYOUTS.items() if any(lay(tensor).stride() != tensor.stride() for tensor in real)
    ]


def _huge(plan: Plan, oracle: Oracle, probes: Sequence[Probe]) -> list[Probe]:
    """The largest values at which the reference itself is well away from overflow."""
    if oracle.given_code:
        return []
    for probe in probes:
        try:
            if oracle.finite(plan, probe, draws.HUGE_MARGIN):
                return [probe]
        except Exception:  # whatever a reference raises on such values
            continue
    return []


def _size_probes(
    plan: Plan,
    trace: planning.Tracer,
    groups: Sequence[planning.Group],
    base: planning.Sizes,
    home: tuple[int, Mapping[planning.Member, int]],
    constants: Sequence[int],
    effort: Effort,
) -> None:
    constructor, sizes = home
    arguments = plan.constructors[constructor]
    found: list[Probe] = []
    for group in groups:
        crossing, skipped = planning.boundary_sizes(trace, arguments, group, sizes, constants, effort)
        plan.skipped += skipped
        chosen = planning.thinned(crossing, effort.sizes)
        # Two tiles hide what goes wrong from the third on: one size has several of the largest that is passed.
        several = 3 * max(chosen, default=group.size) + 1
        for size in (1, group.size, planning.prime_after(group.size), several):
            taken = trace(arguments, {**sizes, **group.at(size)})
            if taken is not None and taken.largest <= effort.elements:
                chosen.setdefault(size, ())
        for size, crossings in chosen.items():
            place = tuple(sorted({**sizes, **group.at(size)}.items()))
            name = f"{group.name} = {size}"
            probe = Probe(name, Family.SIZE, constructor, place, "responsive", "own", 7, group.name, size, crossings)
            found.append(replace(probe, own_size=size == group.size))
    # Cheap ones first: what the time does not reach is then the dear end, and is named.
    plan.probes += sorted(found, key=lambda probe: _cost(trace, arguments, probe))


def _cost(trace: planning.Tracer, arguments: tuple[Any, ...] | None, probe: Probe) -> int:
    found = trace(arguments, dict(probe.sizes))
    return found.largest if found is not None else 0


def _constructor_probes(
    plan: Plan,
    oracle: Oracle,
    trace: planning.Tracer,
    base: planning.Sizes,
    constants: Sequence[int],
    effort: Effort,
) -> None:
    """Sizes that the constructor fixes: one beyond every constant of the candidate, and a small odd one."""
    own = oracle.subject.own_arguments
    if own is None:
        return
    names = oracle.subject.argument_names
    most = planning.beyond(constants, effort.constructor_bound)
    at_most = max((constant for constant in constants if constant < most), default=most)
    for position in planning.size_arguments(trace, oracle.subject, oracle.template, base):
        for goal in dict.fromkeys((most, at_most, 5)):
            if goal == own[position]:
                continue
            # Groups and heads want a multiple.
            tries = (goal, goal + 1, *(multiple * (goal // multiple + 1) for multiple in (2, 4, 8, 16, 32, 64)))
            variations = (
                planning.vary(trace, oracle.template, own, position, value, base, names)
                for value in tries
                if value != own[position]
            )
            found = next((variation for variation in variations if variation is not None), None)
            if found is None:
                continue
            plan.constructors.append(found.arguments)
            plan.changed.append(found.what)
            index = len(plan.constructors) - 1
            plan.probes.append(Probe(found.what, Family.CONSTRUCTOR, index, found.sizes, weights="responsive", seed=9))
