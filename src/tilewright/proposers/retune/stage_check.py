"""What changed between two versions of a module, read from their syntax trees, and whether a stage permits it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import libcst as cst

from tilewright.proposers.retune.edit import Change, permitted_changes
from tilewright.proposers.retune.flow import flow_of
from tilewright.proposers.retune.host import HostScope
from tilewright.proposers.retune.trees import code_of, replace_inside, replace_nodes, squeezed, walk, with_keywords
from tilewright.proposers.retune.view import (
    DEFAULT_NUM_STAGES,
    DEFAULT_NUM_WARPS,
    Kernel,
    LaunchSite,
    View,
    view_of,
)
from tilewright.task.stage import StageRules
from tilewright.values.syntax_tree import parse_tree
from tilewright.values.verdict import Finding, Severity

_HINT_KEYWORDS = frozenset({"eviction_policy", "cache_modifier", "volatile"})
_HINT_CALLS = frozenset({"multiple_of", "max_contiguous", "max_constancy"})
_PLACE_CALLS = frozenset({"program_id", "num_programs", "swizzle2d"})


@dataclass(frozen=True)
class Facets:
    """One kernel's aspects, each as comparable text."""

    warps: tuple[str, ...]
    stages: tuple[str, ...]
    configs: tuple[str, ...]
    tiles: tuple[str, ...]
    grid: tuple[str, ...]
    parameters: tuple[str, ...]
    constexpr: tuple[str, ...]
    places: tuple[str, ...]
    body: str
    body_without_hints: str
    stores: int


def changes_between(before: str, after: str) -> frozenset[Change]:
    """The kinds of change between two versions of a module.

    Raises:
        SourceError: one of them does not parse.
    """
    old, new = facets_of(before), facets_of(after)
    found: set[Change] = set()
    if old.keys() != new.keys():
        found.add(Change.ADDRESS)
    for name in old.keys() & new.keys():
        found |= _kernel_changes(old[name], new[name])
    if _host_code(before, before) != _host_code(after, before):
        found.add(Change.HOST)
    return frozenset(found)


@lru_cache(maxsize=64)
def facets_of(source: str) -> Mapping[str, Facets]:
    """Kernel name -> its aspects."""
    view = view_of(source)
    return {kernel.name: facets(view, kernel) for kernel in view.kernels}


def _kernel_changes(old: Facets, new: Facets) -> set[Change]:
    found: set[Change] = set()
    both = bool(old.configs) == bool(new.configs)
    if old.configs != new.configs:
        found.add(Change.AUTOTUNE)
    if both and old.warps != new.warps:
        found.add(Change.WARPS)
    if both and old.stages != new.stages:
        found.add(Change.STAGES)
    shared = set(old.parameters) & set(new.parameters)
    if _of(new.tiles, shared) - _of(old.tiles, shared):
        found.add(Change.TILE)
    if old.grid != new.grid:
        found.add(Change.GRID)
    if set(old.constexpr) & shared != set(new.constexpr) & shared:
        found.add(Change.CONSTEXPR)
    if old.places != new.places:
        found.add(Change.ORDER)
    if old.body_without_hints != new.body_without_hints:
        found.add(Change.ADDRESS)
    elif old.body != new.body:
        found.add(Change.HINT)
    return found


def _of(tiles: tuple[str, ...], names: set[str]) -> set[str]:
    """The sizes of the tiles of these names: a block size that an edit put in is no other size of a given one."""
    return {text for text in tiles if text.split("=")[0] in names}


def facets(view: View, kernel: Kernel) -> Facets:
    """The aspects of one kernel."""
    configs = kernel.autotune.configs if kernel.autotune is not None else ()
    sites = kernel.launches
    tree = _kernel_tree(kernel)
    plain = ast.unparse(tree)
    if configs:
        warps = tuple(str(config.num_warps) for config in configs)
        stages = tuple(str(config.num_stages) for config in configs)
    else:
        warps = tuple(str(site.number("num_warps", DEFAULT_NUM_WARPS)) for site in sites)
        stages = tuple(str(site.number("num_stages", DEFAULT_NUM_STAGES)) for site in sites)
    listed = [f"{name}={squeezed(value)}" for config in configs for name, value in config.tiles.items()]
    tiles = (*listed, *(text for site in sites for text in _tile_texts(view, kernel, site)))
    return Facets(
        warps=warps,
        stages=stages,
        configs=tuple(squeezed(config.call) for config in configs),
        tiles=tiles,
        grid=tuple(_grid_text(view, kernel, site) for site in sites),
        parameters=tuple(parameter.name for parameter in kernel.parameters),
        constexpr=tuple(sorted(kernel.constexprs)),
        places=tuple(_places(tree)),
        body=plain,
        body_without_hints=ast.unparse(_WithoutHints().visit(tree)),
        stores=len(flow_of(kernel, view.language).stores),
    )


def _tile_texts(view: View, kernel: Kernel, site: LaunchSite) -> Iterator[str]:
    scope = HostScope(view, site)
    for name in kernel.constexprs:
        arg = site.bound.get(name)
        literal = scope.size_literal(arg.value) if arg is not None else None
        if literal is not None:
            yield f"{name}={literal.value}"


def _grid_text(view: View, kernel: Kernel, site: LaunchSite) -> str:
    """The grid as written; a tile's size in it, written out as a number, reads as its name."""
    scope = HostScope(view, site)
    axes = scope.axes()
    text = ",".join(squeezed(axis) for axis in axes) if axes is not None else squeezed(site.grid)
    for tile in _tile_texts(view, kernel, site):
        name, size = tile.split("=")
        text = text.replace(f",{size})", f",{name})")
    return text


def _kernel_tree(kernel: Kernel) -> ast.Module:
    """The kernel's body without its docstring; decorators and parameters have their own aspects."""
    bare = kernel.function.with_changes(decorators=[], leading_lines=[])
    tree = parse_tree(code_of(bare))
    function = tree.body[0]
    if isinstance(function, ast.FunctionDef):
        function.args = ast.arguments([], [], None, [], [], None, [])
        if ast.get_docstring(function) is not None:
            function.body = function.body[1:] or [ast.Pass()]
    return tree


def _places(tree: ast.Module) -> Iterator[str]:
    """The statements that say where in the grid a program is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(inner, ast.Call) and _last_name(inner.func) in _PLACE_CALLS for inner in ast.walk(node.value)
        ):
            yield ast.unparse(node)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


class _WithoutHints(ast.NodeTransformer):
    """Removes what only advises the compiler or the caches."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if _last_name(node.func) in _HINT_CALLS and node.args:
            return node.args[0]
        node.keywords = [item for item in node.keywords if item.arg not in _HINT_KEYWORDS]
        return node


@lru_cache(maxsize=64)
def _host_code(source: str, given: str) -> str:
    """The rest of a module: kernels, launch options, tile sizes and grids taken out.

    So are arguments of launches that the kernels of `given` do not have: what a kernel is told anew is its own matter.
    """
    known = {name: set(found.parameters) for name, found in facets_of(given).items()}
    view = view_of(source)
    nested: dict[cst.CSTNode, cst.CSTNode] = {}
    for kernel in view.kernels:
        for site in kernel.launches:
            scope = HostScope(view, site)
            for name in kernel.constexprs:
                arg = site.bound.get(name)
                literal = scope.size_literal(arg.value) if arg is not None else None
                if literal is not None and arg is not None and literal is not arg.value:
                    nested[literal] = cst.Integer("0")
            for axis in scope.axes() or [site.grid]:
                nested[axis] = cst.Integer("0")
    changes = dict(nested)
    for kernel in view.kernels:
        names: dict[str, str | None] = dict.fromkeys((*kernel.constexprs, "num_warps", "num_stages"))
        names |= dict.fromkeys(p.name for p in kernel.parameters if p.name not in known.get(kernel.name, set()))
        for site in kernel.launches:
            inside = {node: nested[node] for node in walk(site.call) if node in nested}
            for node in inside:
                changes.pop(node, None)
            call = cst.ensure_type(replace_inside(site.call, inside), cst.Call)
            changes[site.call] = with_keywords(call, names)
    tree = parse_tree(replace_nodes(view.module, changes).code)
    kernels = {kernel.name for kernel in view.kernels}
    tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name in kernels)]
    return ast.unparse(tree)


# -- the check ------------------------------------------------------------------------------------------------


def stage_findings(before: str, after: str, rules: StageRules) -> tuple[Finding, ...]:
    """What of a change lies outside its stage: the kinds of change, and the stage's own rules.

    An empty tuple means that the change stays inside. The module's interface must stay in any stage.
    """
    permitted = permitted_changes(rules)
    found = [
        _error("stage.change", f"the {change.value} changed, which stage {rules.stage.value} does not permit")
        for change in sorted(changes_between(before, after) - permitted)
    ]
    found += _rule_findings(before, after, rules)
    if _interface(before) != _interface(after):
        found.append(_error("stage.interface", "ModelNew or its constructor changed"))
    return tuple(found)


def _rule_findings(before: str, after: str, rules: StageRules) -> Iterator[Finding]:
    old = facets_of(before)
    for kernel, seen in facets_of(after).items():
        for name, allowed, values in (
            ("num_warps", rules.num_warps, seen.warps),
            ("num_stages", rules.num_stages, seen.stages),
        ):
            outside = sorted({value for value in values if allowed and value not in {str(a) for a in allowed}})
            if outside:
                text = f"{kernel}: {name} {', '.join(outside)} is not among {', '.join(map(str, allowed))}"
                yield _error(f"stage.{name}", text, kernel)
        yield from _list_findings(kernel, seen, rules)
        given = old.get(kernel)
        if rules.one_store_per_output and given is not None and seen.stores > given.stores:
            yield _error("stage.stores", f"{kernel}: {seen.stores} stores, more than before", kernel)


def _list_findings(kernel: str, seen: Facets, rules: StageRules) -> Iterator[Finding]:
    if not seen.configs:
        return
    if rules.max_autotune_configs is not None and len(seen.configs) > rules.max_autotune_configs:
        text = f"{kernel}: {len(seen.configs)} configurations, at most {rules.max_autotune_configs} are allowed"
        yield _error("stage.configs", text, kernel)
    baseline = rules.conservative_baseline
    if baseline is not None and (str(baseline[0]), str(baseline[1])) not in zip(seen.warps, seen.stages, strict=True):
        text = f"{kernel}: the baseline of {baseline[0]} warps and {baseline[1]} stages is not in the list"
        yield _error("stage.baseline", text, kernel)


def _error(check: str, message: str, where: str = "") -> Finding:
    return Finding(check, Severity.ERROR, message, where)


def _interface(source: str) -> str:
    """`ModelNew`'s constructor, word for word: its signature and the parameters that it makes."""
    for node in parse_tree(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "ModelNew":
            bases = [ast.unparse(base) for base in node.bases]
            made = [ast.unparse(m) for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"]
            return "\n".join([*bases, *made])
    return ""
