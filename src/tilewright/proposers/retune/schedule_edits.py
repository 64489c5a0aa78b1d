"""Warps, pipeline stages and autotune lists: edits that leave every kernel's body as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import libcst as cst

from tilewright.proposers.retune.conditions import Advice, advice_for
from tilewright.proposers.retune.edit import Context, Proposal, Subject
from tilewright.proposers.retune.facts import distinct_loads, has_pipelined_loop, starved
from tilewright.proposers.retune.host import HostScope
from tilewright.proposers.retune.merit import Extent, merit
from tilewright.proposers.retune.tiles import free_tiles
from tilewright.proposers.retune.trees import (
    code_of,
    dotted_name,
    integer_value,
    names_in,
    replace_nodes,
    walk,
    with_keywords,
)
from tilewright.proposers.retune.view import (
    DEFAULT_NUM_STAGES,
    DEFAULT_NUM_WARPS,
    Autotune,
    Config,
    Kernel,
    View,
    view_of,
)
from tilewright.task.stage import StageRules

#: A list longer than this costs more compilation than it finds, where the rules do not say.
DEFAULT_MAX_CONFIGS = 4


def launch_options(kernel: Kernel) -> tuple[int, int] | None:
    """(num_warps, num_stages) of a kernel's launches; None where they differ, hide or are not literals."""
    if kernel.autotune is not None or kernel.has_opaque_autotune or not kernel.is_plainly_launched:
        return None
    if {"num_warps", "num_stages"} & kernel.heuristics:
        return None
    found = {
        (site.number("num_warps", DEFAULT_NUM_WARPS), site.number("num_stages", DEFAULT_NUM_STAGES))
        for site in kernel.launches
    }
    warps, stages = next(iter(found))
    return None if len(found) != 1 or warps is None or stages is None else (warps, stages)


def set_launch_options(view: View, kernel: Kernel, values: Mapping[str, str | None]) -> cst.Module:
    """The module with keyword arguments of all launches of a kernel set."""
    return replace_nodes(view.module, {site.call: with_keywords(site.call, values) for site in kernel.launches})


def warps_and_stages(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`kernel[grid](..., num_warps=a, num_stages=b)` -> the same with other values."""
    current = launch_options(subject.kernel)
    if current is None:
        return
    advice = kernel_advice(subject, context)
    for warps, stages in _pairs(advice, current, context.rules, has_pipelined_loop(subject.flow)):
        if (warps, stages) == current:
            continue
        module = set_launch_options(subject.view, subject.kernel, {"num_warps": str(warps), "num_stages": str(stages)})
        yield Proposal(
            module.code,
            f"{warps} warps and {stages} stages instead of {current[0]} and {current[1]}",
            _tuned_gain(subject, context, warps, current[0]),
        )


def _tuned_gain(subject: Subject, context: Context, warps: int, current: int) -> float:
    """A prior for another number of warps: by the work of a thread where the tiles are known, else by registers."""
    more = warps > current
    extents = sized_extents(subject)
    if extents:
        ratio = merit(extents, warps, subject, context) / merit(extents, current, subject, context)
        return float(min(1.3, ratio**0.5)) * (1.02 if warps in (4, 8) else 1.0)
    compiled = context.of(subject.name)
    registers = max((found.registers for found in compiled), default=64)
    if any(found.spill_bytes for found in compiled) or starved(subject.name, context) < 1:
        return 1.15 if more else 0.9
    if registers < 40 and not more:
        return 1.03
    if registers > 128:
        return 1.05 if more else 1.0
    return 1.02 if warps in (4, 8) else 0.99


def sized_extents(subject: Subject) -> list[Extent]:
    """The block sizes of a kernel that its first launch gives as numbers."""
    free = {tile.name: tile for tile in free_tiles(subject.flow)}
    ranged = {name for call in subject.flow.calls("arange") for name in names_in(call)}
    site = subject.kernel.launches[0]
    scope = HostScope(subject.view, site)
    found: list[Extent] = []
    for name in subject.kernel.constexprs:
        arg = site.bound.get(name)
        size = integer_value(scope.size_literal(arg.value)) if arg is not None and name in ranged else None
        if size:
            tile = free.get(name)
            found.append(Extent(size, size, tile is not None and tile.by_program, tile is not None and tile.by_loop))
    return found


def kernel_advice(subject: Subject, context: Context) -> Advice:
    """The warps and stages that the stage's rules leave for a kernel."""
    return advice_for(subject.name, distinct_loads(subject.flow), context)


def _pairs(advice: Advice, current: tuple[int, int], rules: StageRules, pipelined: bool) -> Iterator[tuple[int, int]]:
    """The baseline first, then each number of warps; the stages vary only where there is a loop to pipeline."""
    allowed_now = conforming(*current, rules)
    pairs = [rules.conservative_baseline] if rules.conservative_baseline else []
    pairs += [(warps, allowed_now[1]) for warps in advice.num_warps]
    if pipelined and rules.num_warps and rules.num_stages:  # a small set, as a document gives it: all of it
        pairs += [(warps, stages) for stages in advice.num_stages for warps in advice.num_warps]
    elif pipelined:
        pairs += [(allowed_now[0], stages) for stages in advice.num_stages]
    yield from dict.fromkeys(pairs)


def resolve_autotune(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`@triton.autotune(configs=[..., c, ...])` -> no list: the launch passes what `c` says."""
    kernel = subject.kernel
    if kernel.autotune is None or not kernel.is_plainly_launched or _used_elsewhere(subject):
        return
    for index, config in enumerate(kernel.autotune.configs):
        if not config.is_plain:
            continue
        warps, stages = conforming(config.num_warps, config.num_stages, context.rules)
        values: dict[str, str | None] = {name: code_of(value) for name, value in config.tiles.items()}
        values |= {"num_warps": str(warps), "num_stages": str(stages)}
        changes: dict[cst.CSTNode, cst.CSTNode | cst.RemovalSentinel] = {
            site.call: with_keywords(site.call, values) for site in kernel.launches
        }
        changes[kernel.autotune.decorator] = cst.RemoveFromParent()
        chosen = [f"{name}={code_of(value)}" for name, value in config.tiles.items()]
        chosen += [f"{warps} warps", f"{stages} stages"]
        merits = [config_merit(subject, found, context) for found in kernel.autotune.configs]
        yield Proposal(
            replace_nodes(subject.view.module, changes).code,
            f"the autotune list resolved to {', '.join(chosen)}",
            (1.02 - 0.001 * index) * (merits[index] / max(merits)) ** 0.2,
        )


def config_merit(subject: Subject, config: Config, context: Context) -> float:
    """The prior of one configuration of a list."""
    free = {tile.name: tile for tile in free_tiles(subject.flow)}
    extents: list[Extent] = []
    for name, value in config.tiles.items():
        size, tile = integer_value(value), free.get(name)
        if size:
            by_program, by_loop = (tile.by_program, tile.by_loop) if tile is not None else (False, False)
            extents.append(Extent(size, size, by_program, by_loop))
    return merit(extents, config.num_warps, subject, context)


def _used_elsewhere(subject: Subject) -> bool:
    """The kernel is named in other places than its launches (its `best_config` read, say)."""
    uses = sum(1 for node in walk(subject.view.module) if isinstance(node, cst.Name) and node.value == subject.name)
    return uses != 1 + len(subject.kernel.launches)


def shorten_autotune(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`@triton.autotune(configs=[many])` -> as many as the rules allow, the baseline among them."""
    autotune = subject.kernel.autotune
    if autotune is None:
        return
    conformed = conform(subject.view.source, context.rules)
    limit = context.rules.max_autotune_configs or DEFAULT_MAX_CONFIGS
    if conformed == subject.view.source and len(autotune.configs) > limit:
        module = replace_nodes(subject.view.module, {autotune.elements: _first(autotune, limit)})
        conformed = module.code
    if conformed != subject.view.source:
        yield Proposal(conformed, f"the autotune list shortened to at most {limit}", 1.0)


def _first(autotune: Autotune, limit: int) -> cst.List:
    return autotune.elements.with_changes(elements=autotune.elements.elements[:limit])


def insert_autotune(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`@triton.jit` -> `@triton.autotune` over warps and stages above it, keyed on the integer arguments.

    Declines where running the kernel several times is not running it once: atomics, or memory that it both reads
    and writes.
    """
    kernel, flow = subject.kernel, subject.flow
    current = launch_options(kernel)
    key = [name for name in flow.integers if not _is_stride(kernel, name)]
    if current is None or not key or _repeats_badly(subject) or kernel.heuristics:
        return
    advice = kernel_advice(subject, context)
    pairs = list(_pairs(advice, current, context.rules, has_pipelined_loop(flow)))
    pairs = pairs[: context.rules.max_autotune_configs or DEFAULT_MAX_CONFIGS]
    if len(pairs) < 2:
        return
    view = view_of(set_launch_options(subject.view, kernel, {"num_warps": None, "num_stages": None}).code)
    found = view.kernel(kernel.name)
    if found is None:
        return
    decorated = found.function.with_changes(decorators=[_autotune_decorator(pairs, key), *found.function.decorators])
    module = replace_nodes(view.module, {found.function: decorated})
    listed = ", ".join(f"{warps}x{stages}" for warps, stages in pairs)
    yield Proposal(module.code, f"an autotune list over warps x stages ({listed}) put in", 0.9)


def _autotune_decorator(pairs: Sequence[tuple[int, int]], key: Sequence[str]) -> cst.Decorator:
    lines = "\n".join(f"        triton.Config({{}}, num_warps={w}, num_stages={s})," for w, s in pairs)
    names = ", ".join(f'"{name}"' for name in key)
    text = f"@triton.autotune(\n    configs=[\n{lines}\n    ],\n    key=[{names}],\n)\ndef _():\n    pass\n"
    function = cst.ensure_type(cst.parse_module(text).body[0], cst.FunctionDef)
    return function.decorators[0]


def _is_stride(kernel: Kernel, name: str) -> bool:
    """Every launch passes `tensor.stride(...)` for it: the sizes already tell the cases apart."""
    args = [site.bound.get(name) for site in kernel.launches]
    return all(
        arg is not None and isinstance(arg.value, cst.Call) and dotted_name(arg.value.func).endswith(".stride")
        for arg in args
    )


def _repeats_badly(subject: Subject) -> bool:
    flow = subject.flow
    if flow.has_atomics or flow.has_block_pointers:
        return True
    accessed = flow.accessed
    if not flow.stores or any("store" in kinds and len(kinds) > 1 for kinds in accessed.values()):
        return True
    for site in subject.kernel.launches:
        given = [code_of(site.bound[name].value) for name in accessed if name in site.bound]
        if len(given) != len(set(given)):  # one tensor behind two pointers
            return True
    return _calls_helper(subject)


def _calls_helper(subject: Subject) -> bool:
    """A helper function of the module's own may store or load on the kernel's behalf."""
    own = {node.name.value for node in subject.view.module.body if isinstance(node, cst.FunctionDef)}
    return any(
        isinstance(node, cst.Call) and dotted_name(node.func) in own for node in walk(subject.kernel.function.body)
    )


# -- keeping to the rules -----------------------------------------------------------------------------------


def conforming(warps: int, stages: int, rules: StageRules) -> tuple[int, int]:
    """The nearest values that the rules allow."""
    if rules.num_warps:
        warps = min(rules.num_warps, key=lambda value: (abs(value - warps), value))
    if rules.num_stages:
        stages = min(rules.num_stages, key=lambda value: (abs(value - stages), value))
    return warps, stages


def conform(source: str, rules: StageRules) -> str:
    """The module with every launch and every autotune list inside the stage's rules.

    Values outside the rules' sets move to the nearest inside; a list too long is cut, the conservative baseline kept
    (or put in with the first configuration's tiles). What cannot be read is left: the stage check will say so.
    """
    if not (rules.num_warps or rules.num_stages or rules.max_autotune_configs or rules.conservative_baseline):
        return source
    view = view_of(source)
    changes: dict[cst.CSTNode, cst.CSTNode] = {}
    for kernel in view.kernels:
        if kernel.autotune is not None:
            listed = _conforming_list(kernel.autotune, rules)
            if listed is not None:
                changes[kernel.autotune.elements] = listed
        else:
            changes.update(_conforming_launches(kernel, rules))
    return replace_nodes(view.module, changes).code if changes else source


def _conforming_launches(kernel: Kernel, rules: StageRules) -> Iterable[tuple[cst.CSTNode, cst.CSTNode]]:
    current = launch_options(kernel)
    if current is None or current == (wanted := conforming(*current, rules)):
        return
    names = ("num_warps", "num_stages")
    values = {name: str(new) for name, old, new in zip(names, current, wanted, strict=True) if old != new}
    for site in kernel.launches:
        yield site.call, with_keywords(site.call, values)


def _conforming_list(autotune: Autotune, rules: StageRules) -> cst.List | None:
    calls: list[cst.Call] = []
    for config in autotune.configs:
        call = _conforming_config(config, rules)
        if all(code_of(call) != code_of(other) for other in calls):
            calls.append(call)
    baseline = rules.conservative_baseline
    limit = rules.max_autotune_configs or len(calls) + 1
    if baseline is not None:
        held = [call for call in calls if _options(call) == baseline]
        first = held[0] if held else _with_options(calls[0], baseline)
        rest = [call for call in calls if call is not first]
        calls = [*rest[: limit - 1], first] if not held or calls.index(first) >= limit else calls
    calls = calls[:limit]
    old = [code_of(config.call) for config in autotune.configs]
    if [code_of(call) for call in calls] == old:
        return None
    elements = list(autotune.elements.elements)
    template = elements[0]
    kept = [template.with_changes(value=call) for call in calls]
    kept[-1] = elements[-1].with_changes(value=calls[-1])
    return autotune.elements.with_changes(elements=kept)


def _conforming_config(config: Config, rules: StageRules) -> cst.Call:
    warps, stages = conforming(config.num_warps, config.num_stages, rules)
    if (warps, stages) == (config.num_warps, config.num_stages):
        return config.call
    return _with_options(config.call, (warps, stages))


def _with_options(call: cst.Call, options: tuple[int, int]) -> cst.Call:
    return with_keywords(call, {"num_warps": str(options[0]), "num_stages": str(options[1])})


def _options(call: cst.Call) -> tuple[int, int]:
    config = Config(call, {})
    return config.num_warps, config.num_stages
