"""A Triton module as retune sees it: its kernels, their autotune lists, and the places that launch them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import libcst as cst

from tilewright.errors import SourceError
from tilewright.proposers.retune.trees import ancestors, dotted_name, integer_value, keyword, parents_of, walk

#: What Triton takes where a launch names neither (its NVIDIA backend's options).
DEFAULT_NUM_WARPS = 4
DEFAULT_NUM_STAGES = 3


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel."""

    name: str
    node: cst.Param
    is_constexpr: bool


@dataclass(frozen=True)
class Config:
    """One `triton.Config` of an autotune list: its call, and constexpr name -> value node."""

    call: cst.Call
    tiles: Mapping[str, cst.BaseExpression]

    def number(self, name: str) -> int | None:
        """`num_warps` or `num_stages` where it is a literal."""
        arg = keyword(self.call, name)
        return integer_value(arg.value) if arg is not None else None

    @property
    def num_warps(self) -> int:
        """Warps of a program."""
        return self.number("num_warps") or DEFAULT_NUM_WARPS

    @property
    def num_stages(self) -> int:
        """Depth of the software pipeline."""
        return self.number("num_stages") or DEFAULT_NUM_STAGES

    @property
    def is_plain(self) -> bool:
        """Only tiles, warps and stages: no hook, no other option."""
        named = {arg.keyword.value for arg in self.call.args[1:] if arg.keyword is not None}
        return named <= {"num_warps", "num_stages"} and all(arg.keyword is not None for arg in self.call.args[1:])


@dataclass(frozen=True)
class Autotune:
    """A `@triton.autotune` decorator whose list is written out."""

    decorator: cst.Decorator
    call: cst.Call
    elements: cst.List
    configs: tuple[Config, ...]


@dataclass(frozen=True)
class LaunchSite:
    """One `kernel[grid](...)`.

    Attributes:
        call: the launch.
        grid: what stands in the brackets, as one expression (a tuple where there are several).
        function: the function that holds it, if any.
        bound: parameter name -> argument, as far as it can be told.
        has_star: `*args` or `**kwargs` hide some of them.
    """

    kernel: str
    call: cst.Call
    grid: cst.BaseExpression
    function: cst.FunctionDef | None
    bound: Mapping[str, cst.Arg]
    has_star: bool

    def number(self, name: str, default: int) -> int | None:
        """`num_warps` or `num_stages` of the launch; None where it is not a literal."""
        arg = keyword(self.call, name)
        return default if arg is None else integer_value(arg.value)


@dataclass(frozen=True)
class Kernel:
    """One launched `@triton.jit` function."""

    name: str
    function: cst.FunctionDef
    parameters: tuple[Parameter, ...]
    launches: tuple[LaunchSite, ...]
    autotune: Autotune | None
    has_opaque_autotune: bool
    heuristics: frozenset[str]

    @property
    def constexprs(self) -> tuple[str, ...]:
        """Names of the constexpr parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters if parameter.is_constexpr)

    @property
    def is_plainly_launched(self) -> bool:
        """Every launch shows its arguments."""
        return bool(self.launches) and not any(site.has_star for site in self.launches)


@dataclass(frozen=True)
class View:
    """A module, taken apart; nodes are those of `module`, so that they can be replaced by identity."""

    module: cst.Module
    language: str
    kernels: tuple[Kernel, ...]
    parents: Mapping[cst.CSTNode, cst.CSTNode] = field(repr=False)

    @property
    def source(self) -> str:
        """The module's text."""
        return self.module.code

    def kernel(self, name: str) -> Kernel | None:
        """The kernel of that name."""
        return next((kernel for kernel in self.kernels if kernel.name == name), None)


@lru_cache(maxsize=256)
def view_of(source: str) -> View:
    """Read a Triton module; views are frozen, so the same text gives the same view.

    Raises:
        SourceError: the text is not Python.
    """
    try:
        module = cst.parse_module(source)
    except cst.ParserSyntaxError as error:
        raise SourceError(f"the given code does not parse: {error.message} (line {error.raw_line})") from error
    return _view(module)


def _view(module: cst.Module) -> View:
    parents = parents_of(module)
    functions = {f.name.value: f for f in _jit_functions(module)}
    sites = tuple(_launch_sites(module, functions, parents))
    kernels = tuple(
        _kernel(function, tuple(site for site in sites if site.kernel == name), _language(module))
        for name, function in functions.items()
        if any(site.kernel == name for site in sites)
    )
    return View(module, _language(module), kernels, parents)


def _language(module: cst.Module) -> str:
    """The name under which the module imports triton.language."""
    for node in walk(module):
        if isinstance(node, cst.ImportAlias) and node.asname is not None:
            name = dotted_name(node.name)
            if name in ("triton.language", "language") and isinstance(node.asname.name, cst.Name):
                return node.asname.name.value
    return "tl"


def _jit_functions(module: cst.Module) -> Iterator[cst.FunctionDef]:
    for node in module.body:
        if isinstance(node, cst.FunctionDef) and any(_is(d, "jit") for d in node.decorators):
            yield node


def _is(decorator: cst.Decorator, name: str) -> bool:
    target = decorator.decorator.func if isinstance(decorator.decorator, cst.Call) else decorator.decorator
    return dotted_name(target) in (name, f"triton.{name}")


def _launch_sites(
    module: cst.Module, functions: Mapping[str, cst.FunctionDef], parents: Mapping[cst.CSTNode, cst.CSTNode]
) -> Iterator[LaunchSite]:
    for node in walk(module):
        if not (isinstance(node, cst.Call) and isinstance(node.func, cst.Subscript)):
            continue
        name = dotted_name(node.func.value)
        if name not in functions:
            continue
        holder = next((outer for outer in ancestors(node, parents) if isinstance(outer, cst.FunctionDef)), None)
        names = [parameter.name.value for parameter in functions[name].params.params]
        yield LaunchSite(
            kernel=name,
            call=node,
            grid=_grid_expression(node.func),
            function=holder,
            bound=_bind(node, names),
            has_star=any(arg.star for arg in node.args),
        )


def _grid_expression(subscript: cst.Subscript) -> cst.BaseExpression:
    items = [element.slice.value for element in subscript.slice if isinstance(element.slice, cst.Index)]
    if len(items) == 1:
        return items[0]
    return cst.Tuple([cst.Element(item) for item in items])


def _bind(call: cst.Call, names: list[str]) -> dict[str, cst.Arg]:
    bound: dict[str, cst.Arg] = {}
    for position, arg in enumerate(call.args):
        if arg.star:
            break
        if arg.keyword is not None:
            bound[arg.keyword.value] = arg
        elif position < len(names):
            bound[names[position]] = arg
    return bound


def _kernel(function: cst.FunctionDef, sites: tuple[LaunchSite, ...], language: str) -> Kernel:
    constexpr = {"constexpr", f"{language}.constexpr", "triton.language.constexpr"}
    parameters = tuple(
        Parameter(
            parameter.name.value,
            parameter,
            parameter.annotation is not None and _annotation_name(parameter.annotation) in constexpr,
        )
        for parameter in function.params.params
    )
    autotunes = [d for d in function.decorators if _is(d, "autotune")]
    autotune = _autotune(autotunes[0]) if len(autotunes) == 1 else None
    heuristics = frozenset(
        name for d in function.decorators if _is(d, "heuristics") for name in _heuristic_names(d.decorator)
    )
    return Kernel(
        function.name.value, function, parameters, sites, autotune, bool(autotunes) and autotune is None, heuristics
    )


def _annotation_name(annotation: cst.Annotation) -> str:
    value = annotation.annotation
    if isinstance(value, cst.SimpleString):
        return str(value.evaluated_value)
    return dotted_name(value)


def _heuristic_names(decorator: cst.BaseExpression) -> Iterator[str]:
    for node in walk(decorator):
        if isinstance(node, cst.DictElement) and isinstance(node.key, cst.SimpleString):
            yield str(node.key.evaluated_value)


def _autotune(decorator: cst.Decorator) -> Autotune | None:
    call = decorator.decorator
    if not isinstance(call, cst.Call):
        return None
    listed = keyword(call, "configs") or (call.args[0] if call.args and call.args[0].keyword is None else None)
    if listed is None or not isinstance(listed.value, cst.List):
        return None
    configs = [_config(element.value) for element in listed.value.elements]
    if not configs or any(config is None for config in configs):
        return None
    return Autotune(decorator, call, listed.value, tuple(config for config in configs if config is not None))


def _config(node: cst.BaseExpression) -> Config | None:
    if not (isinstance(node, cst.Call) and dotted_name(node.func) in ("triton.Config", "Config") and node.args):
        return None
    tiles = node.args[0].value
    if not isinstance(tiles, cst.Dict):
        return None
    found: dict[str, cst.BaseExpression] = {}
    for element in tiles.elements:
        if not (isinstance(element, cst.DictElement) and isinstance(element.key, cst.SimpleString)):
            return None
        found[str(element.key.evaluated_value)] = element.value
    return Config(node, found)
