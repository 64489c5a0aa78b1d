"""Which shapes prove something: small ones that lie on both sides of every constant of the candidate.

All of it is found by asking the reference on meta tensors: which dimensions of its inputs may change, which must
change together, what sizes its inner tensors then have, and which constructor arguments are sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch

from tilewright.gate.reference.subject import Subject, Trace, leaves, map_leaves

Member = tuple[int, int]  #: (which tensor of the inputs, which of its dimensions)
Sizes = Mapping[Member, int]
#: Sizes that a probe sets, in order.
Place = tuple[tuple[Member, int], ...]


#: Alignments that kernels ask for, the largest first.
ALIGNMENTS = (128, 64, 32, 16, 8, 4, 2)


class Family(StrEnum):
    """What a probe is about; it decides how much a failure weighs."""

    OWN = "own"  #: the task's own sizes (the batch may be cut), own or redrawn weights: must be right
    VALUE = "value"  #: ordinary values at a small size of the task's own module: must be right
    SIZE = "size"  #: other sizes of the inputs
    EXTREME = "extreme"  #: values far outside of the task's: huge, tiny, infinite, NaN
    CONSTRUCTOR = "constructor"  #: other constructor arguments
    ARGUMENT = "argument"  #: other numbers, flags and words among the inputs: must be right, or be refused aloud
    MODE = "mode"  #: training mode where all else is judged in eval mode, or the reverse


@dataclass(frozen=True)
class Effort:
    """How much is probed.

    Attributes:
        elements: largest tensor of a size probe.
        own_elements: largest tensor of the own-size probe.
        sizes: at most so many sizes of one dimension.
        seeds: how many draws of the task's own inputs.
        constructor_bound: channels are not raised beyond this.
    """

    elements: int
    own_elements: int
    sizes: int
    seeds: int
    constructor_bound: int


EFFORTS: Mapping[str, Effort] = {
    "none": Effort(elements=1 << 16, own_elements=1 << 20, sizes=3, seeds=1, constructor_bound=160),
    "quick": Effort(elements=1 << 19, own_elements=3 << 22, sizes=8, seeds=2, constructor_bound=600),
    "full": Effort(elements=1 << 22, own_elements=1 << 26, sizes=24, seeds=5, constructor_bound=2200),
}


@dataclass(frozen=True)
class Crossing:
    """A size at which an inner size passes a constant of the candidate: `what` is `value`, the constant `constant`."""

    what: str
    value: int
    constant: int

    @property
    def side(self) -> str:
        """For people: `dim 2 of convolution = 34 (> 32)`."""
        sign = ">" if self.value > self.constant else "<="
        return f"{self.what} = {self.value} ({sign} {self.constant})"


@dataclass(frozen=True)
class Probe:
    """One run of reference and candidate.

    Attributes:
        name: for people and tables.
        family: what it is about.
        constructor: index into the plan's constructor arguments.
        sizes: changed dimensions of the inputs.
        weights: which weights: `own`, `responsive` or `responsive at full size`.
        draw: how inputs are drawn (a key of `draws.DRAWS`).
        layout: how inputs lie in memory (a key of `draws.LAYOUTS`).
        seed: of the draw.
        group: name of the dimension that was varied, if one was.
        size: its size.
        crossings: what that size crosses.
        quantities: inner sizes of the reference's pass at these sizes, by name.
        own_size: the dimension that was varied has the task's own size.
        multiprocessors: of the GPU that is pretended; 0 for the target's own number.
        scalars: other values of inputs that are no tensors, by their number among those.
        apart: sizes that are equal in the task are not here.
        mode: of the modules, `eval` or `built`; empty for the one in which all else is judged.
    """

    name: str
    family: Family
    constructor: int = 0
    sizes: Place = ()
    weights: str = "own"
    draw: str = "own"
    seed: int = 0
    group: str = ""
    size: int = 0
    crossings: tuple[Crossing, ...] = ()
    quantities: tuple[tuple[str, int], ...] = ()
    layout: str = "packed"
    own_size: bool = False
    multiprocessors: int = 0
    scalars: tuple[tuple[int, Any], ...] = ()
    apart: bool = False
    mode: str = ""


@dataclass
class Plan:
    """Constructor arguments and probes, in the order in which they should run, and what was left out.

    Attributes:
        own_sizes: inner sizes of the reference's pass at the task's own sizes, by name.
    """

    constructors: list[tuple[Any, ...] | None]
    changed: list[str]
    probes: list[Probe] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    own_sizes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Group:
    """Dimensions of the inputs that change together, and their size in the task."""

    members: tuple[Member, ...]
    size: int

    @property
    def name(self) -> str:
        """`dim 2 of input 0`."""
        leaf, dim = self.members[0]
        more = "".join(f" and dim {d} of input {i}" for i, d in self.members[1:])
        return f"dim {dim} of input {leaf}{more}"

    def at(self, size: int) -> dict[Member, int]:
        """The group at another size."""
        return dict.fromkeys(self.members, size)


def resized(inputs: Sequence[Any], sizes: Sizes) -> list[Any]:
    """Meta inputs with some dimensions changed."""
    counter = itertools.count()

    def change(tensor: torch.Tensor) -> torch.Tensor:
        index = next(counter)
        shape = [sizes.get((index, dim), size) for dim, size in enumerate(tensor.shape)]
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    changed: list[Any] = map_leaves(list(inputs), change)
    return changed


#: Passes whose largest tensor is at most this are run for real, until one of their kind has succeeded.
_REAL_ELEMENTS = 1 << 22


class Tracer:
    """A memo of the subject's traces by constructor arguments and changed sizes.

    Some operations accept on meta tensors what they refuse on real ones (a convolution's channels, for one), so
    each combination of changed dimensions must have run for real once, at a size where that is cheap.
    """

    def __init__(
        self,
        subject: Subject,
        inputs: Sequence[Any],
        example: Callable[[tuple[Any, ...] | None, Sizes], list[Any]] | None = None,
    ) -> None:
        """Args: the subject; its own inputs on the meta device; what makes inputs at other sizes (else zeros)."""
        self._subject = subject
        self._inputs = inputs
        self._example = example
        self._memo: dict[tuple[str, tuple[tuple[Member, int], ...]], Trace | None] = {}
        self._real: set[tuple[str, tuple[Member, ...]]] = set()
        self._with_data = False

    def use_data(self) -> None:
        """Trace on real inputs from now on: the shapes of this module depend on values."""
        self._with_data = self._example is not None
        self._memo.clear()

    def __call__(self, arguments: tuple[Any, ...] | None, sizes: Sizes) -> Trace | None:
        """The trace at these sizes, or None where the module does not accept them."""
        key = (repr(arguments), tuple(sorted(sizes.items())))
        if key not in self._memo:
            self._memo[key] = self._found(arguments, sizes, _kind(*key))
        return self._memo[key]

    def _found(
        self, arguments: tuple[Any, ...] | None, sizes: Sizes, kind: tuple[str, tuple[Member, ...]]
    ) -> Trace | None:
        shaped = resized(self._inputs, sizes)
        if self._with_data:
            if sum(leaf.numel() for leaf in leaves(shaped)) > _REAL_ELEMENTS:
                return None
            found = self._subject.trace(arguments, self._real_inputs(arguments, shaped, sizes), "cpu")
            if found is not None:
                self._real.add(kind)
            return found
        found = self._subject.trace(arguments, shaped)
        if found is not None and found.largest <= _REAL_ELEMENTS and kind not in self._real:
            if not self._subject.accepts(arguments, self._real_inputs(arguments, shaped, sizes)):
                return None
            self._real.add(kind)
        return found

    def _real_inputs(self, arguments: tuple[Any, ...] | None, shaped: Sequence[Any], sizes: Sizes) -> list[Any]:
        if self._example is not None:
            return self._example(arguments, sizes)
        zeros: list[Any] = map_leaves(list(shaped), lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))
        return zeros

    def confirmed(self, arguments: tuple[Any, ...] | None, sizes: Sizes) -> bool:
        """True where the module accepts these sizes, and has run for real with the same dimensions changed."""
        accepted = self(arguments, sizes) is not None
        return accepted and (not sizes or _kind(repr(arguments), tuple(sorted(sizes.items()))) in self._real)


def _kind(arguments: str, sizes: tuple[tuple[Member, int], ...]) -> tuple[str, tuple[Member, ...]]:
    return arguments, tuple(member for member, _ in sizes)


def find_groups(trace: Tracer, arguments: tuple[Any, ...] | None, inputs: Sequence[Any]) -> list[Group]:
    """Dimensions of the inputs that the reference accepts in other sizes; those that must agree are one group."""
    members = [(i, d) for i, leaf in enumerate(leaves(list(inputs))) for d in range(leaf.dim())]
    size_of = {(i, d): leaf.shape[d] for i, leaf in enumerate(leaves(list(inputs))) for d in range(leaf.dim())}
    groups: list[Group] = []
    taken: set[Member] = set()
    for member in members:
        if member in taken:
            continue
        size = size_of[member]
        equal = tuple(m for m in members if size_of[m] == size and m not in taken)
        same_place = tuple(m for m in equal if m[1] == member[1])
        for tied in dict.fromkeys(((member,), same_place, equal)):
            if member in tied and _varies(trace, arguments, Group(tied, size)):
                groups.append(Group(tied, size))
                taken |= set(tied)
                break
    return groups


def _varies(trace: Tracer, arguments: tuple[Any, ...] | None, group: Group) -> bool:
    # A step of one, or of the multiples that a patch or a head count asks for.
    steps = (1, 2, 4, 8, 16, group.size)
    return any(trace(arguments, group.at(group.size + step)) is not None for step in steps)


def settle(
    trace: Tracer, arguments: tuple[Any, ...] | None, groups: Sequence[Group]
) -> tuple[list[Group], dict[Member, int]]:
    """The groups that really vary, and a small size for each, all accepted together.

    The largest set of groups whose small sizes the reference accepts when it is run for real.
    """
    for count in range(len(groups), -1, -1):
        for chosen in itertools.combinations(groups, count):
            base = _small_together(trace, arguments, chosen)
            if base is not None:
                return list(chosen), base
    return [], {}


def _small_together(
    trace: Tracer, arguments: tuple[Any, ...] | None, groups: Sequence[Group]
) -> dict[Member, int] | None:
    """A small size for each group, found one by one on meta tensors and confirmed together."""
    base: dict[Member, int] = {}
    for group in groups:
        for size in itertools.chain(range(2, min(group.size, 65)), [group.size]):
            if trace(arguments, base | group.at(size)) is not None:
                base |= group.at(size)
                break
        else:
            return None
    return base if trace.confirmed(arguments, base) else None


def quantities(trace: Trace) -> dict[str, int]:
    """Sizes that a kernel over the pass's tensors may see: dimensions, and products of neighbouring ones."""
    found: dict[str, int] = {}
    for index, (name, shape) in enumerate(trace.steps):
        place = f"{name.removesuffix('_').strip('_')}'s output"
        for dim, size in enumerate(shape):
            found[f"{index}:dim {dim} of {place}"] = size
        if len(shape) > 3:
            found[f"{index}:inner size of {place}"] = _product(shape[2:])
        if len(shape) > 1:
            found[f"{index}:elements of {place}"] = _product(shape)
            found[f"{index}:rows of {place}"] = _product(shape[:-1])
    return found


def named_quantities(trace: Trace | None) -> tuple[tuple[str, int], ...]:
    """Inner sizes by name for people; of two with one name, the first."""
    found: dict[str, int] = {}
    for key, value in quantities(trace).items() if trace is not None else ():
        found.setdefault(key.partition(":")[2], value)
    return tuple(found.items())


def _product(sizes: Iterable[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def boundary_sizes(
    trace: Tracer,
    arguments: tuple[Any, ...] | None,
    group: Group,
    base: Sizes,
    constants: Sequence[int],
    effort: Effort,
) -> tuple[dict[int, tuple[Crossing, ...]], list[str]]:
    """Sizes of one group, the others at their base, on both sides of every constant that an inner size can pass.

    Returns:
        size -> what it crosses, and the crossings that were too dear.
    """

    def at(size: int) -> Trace | None:
        return trace(arguments, {**base, **group.at(size)})

    found: dict[int, list[Crossing]] = {}
    skipped: list[str] = []
    for key in _varying(at, next(iter(group.at(0))), base, group):
        what = key.partition(":")[2]
        for constant in constants:
            beyond = _first_beyond(at, key, constant)
            if beyond is None:
                continue
            size, passed = beyond
            if passed.largest > effort.elements:
                skipped.append(f"{what} beyond {constant}")
                continue
            found.setdefault(size, []).append(Crossing(what, quantities(passed)[key], constant))
            within = at(size - 1) if size > 1 else None
            if within is not None and key in quantities(within):
                found.setdefault(size - 1, []).append(Crossing(what, quantities(within)[key], constant))
    return {size: tuple(crossings) for size, crossings in found.items()}, skipped


def _varying(at: Callable[[int], Trace | None], member: Member, base: Sizes, group: Group) -> list[str]:
    """Inner sizes that grow with the group, each kind of growth once; dimensions before products."""
    small = base.get(member, group.size)
    points = [t for t in (at(small), at(small + 2), at(small * 2 + 8), at(small * 4 + 16)) if t is not None]
    if len(points) < 2 or len({len(point.steps) for point in points}) > 1:
        return []
    tables = [quantities(point) for point in points]
    seen: dict[tuple[int, ...], str] = {}
    for key in tables[0]:
        values = tuple(table.get(key, 0) for table in tables)
        if values[-1] > values[0]:
            seen.setdefault(values, key)
    return sorted(seen.values(), key=lambda key: (not key.partition(":")[2].startswith("dim"), int(key.split(":")[0])))


def _first_beyond(at: Callable[[int], Trace | None], key: str, constant: int) -> tuple[int, Trace] | None:
    """The smallest accepted size at which the inner size `key` exceeds `constant`."""

    def value(size: int) -> int | None:
        found = at(size)
        return None if found is None else quantities(found).get(key)

    low, high = 0, 1
    while (value(high) or 0) <= constant:
        low, high = high, high * 2
        if high > 1 << 17:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        near = value(middle)
        low, high = (middle, high) if near is None or near <= constant else (low, middle)
    for size in range(high, high + 64):
        passed = at(size)
        if passed is not None and quantities(passed).get(key, 0) > constant:
            return size, passed
    return None


def thinned(sizes: Mapping[int, tuple[Crossing, ...]], limit: int) -> dict[int, tuple[Crossing, ...]]:
    """At most `limit` sizes: those that cross for dimensions first, then those that cross most often."""

    def weight(item: tuple[int, tuple[Crossing, ...]]) -> tuple[int, int, int]:
        size, crossings = item
        direct = sum(crossing.what.startswith("dim") for crossing in crossings)
        return (-direct, -len(crossings), size)

    kept = sorted(sizes.items(), key=weight)[:limit]
    return dict(sorted(kept))


# --- constructor arguments -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variation:
    """Other constructor arguments, the sizes of inputs that go with them, and a name for people."""

    arguments: tuple[Any, ...]
    sizes: Place
    what: str


def size_arguments(trace: Tracer, subject: Subject, inputs: Sequence[Any], base: Sizes) -> list[int]:
    """Positions of constructor arguments that are sizes: changing one changes leading dimensions of parameters."""
    own = subject.own_arguments
    if own is None:
        return []
    before = _parameter_shapes(subject, own)
    found = []
    for position, value in enumerate(own):
        if type(value) is not int or value < 2:
            continue
        tries = (vary(trace, inputs, own, position, other, base) for other in (value + 1, value * 2))
        variation = next((found for found in tries if found is not None), None)
        if variation is not None and _leading(before, _parameter_shapes(subject, variation.arguments)):
            found.append(position)
    return found


def _parameter_shapes(subject: Subject, arguments: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in subject.build(arguments, "meta").named_parameters()}


def _leading(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]) -> bool:
    """True where parameters changed, and only in their first two dimensions."""
    if before.keys() != after.keys():
        return False
    changed = [name for name in before if before[name] != after[name]]
    return bool(changed) and all(
        len(before[name]) == len(after[name]) and before[name][2:] == after[name][2:] for name in changed
    )


def vary(
    trace: Tracer,
    inputs: Sequence[Any],
    own: tuple[Any, ...],
    position: int,
    value: int,
    base: Sizes,
    names: Sequence[str] = (),
) -> Variation | None:
    """One constructor argument at another value, with what must change along: equal arguments, equal dimensions."""
    old = own[position]
    fixed = [
        (i, d)
        for i, leaf in enumerate(leaves(list(inputs)))
        for d in range(leaf.dim())
        if leaf.shape[d] == old and (i, d) not in base
    ]
    alone = tuple(value if index == position else item for index, item in enumerate(own))
    nested = tuple(item if isinstance(item, int) else _replaced(item, old, value) for item in alone)
    everywhere = tuple(_replaced(item, old, value) for item in own)
    subsets = [(), *[(member,) for member in fixed], tuple(fixed)]
    for arguments, members in itertools.product(dict.fromkeys((alone, nested, everywhere)), dict.fromkeys(subsets)):
        sizes = dict(base) | dict.fromkeys(members, value)
        if trace.confirmed(arguments, sizes):
            name = names[position] if position < len(names) else f"constructor argument {position}"
            return Variation(arguments, tuple(sorted(sizes.items())), f"{name} = {value}")
    return None


def _replaced(item: Any, old: int, new: int) -> Any:
    if type(item) is int:
        return new if item == old else item
    if isinstance(item, list | tuple):
        return type(item)(_replaced(part, old, new) for part in item)
    return item


def beyond(constants: Sequence[int], bound: int) -> int:
    """A prime above every constant that is at most `bound`."""
    return prime_after(max((c for c in constants if c <= bound), default=32))


def prime_after(size: int) -> int:
    """The smallest prime above `size`."""
    return next(_primes_from(size + 1))


def _primes_from(start: int) -> Iterator[int]:
    for candidate in itertools.count(max(start, 2)):
        if all(candidate % factor for factor in range(2, int(candidate**0.5) + 1)):
            yield candidate
