"""The call of a module as text: its signature, its arguments by name, and what the kernels ask of them."""

from __future__ import annotations

import enum
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tilewright.errors import TilewrightError
from tilewright.graph.arguments import InputArgument
from tilewright.graph.graph import Graph

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_LITERALS = (bool, int, str)


class Layout(enum.Enum):
    """How an example input lies in memory."""

    PACKED = "packed"
    CHANNELS_LAST = "channels last"
    STRIDED = "strided"


def layout_of(tensor: torch.Tensor) -> Layout:
    """How a (fake) tensor lies in memory."""
    if tensor.is_contiguous():
        return Layout.PACKED
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    form = formats.get(tensor.dim())
    is_last = form is not None and tensor.is_contiguous(memory_format=form)
    return Layout.CHANNELS_LAST if is_last else Layout.STRIDED


@dataclass(frozen=True)
class Signature:
    """How a forward pass is called.

    Attributes:
        parameters: of the method, after self, as text: `x, mask=None, *, flag=False`.
        passed: the same arguments handed on: `x, mask, flag=flag`.
        names: the parameters' names, in order.
        variadic: names of those that take any number of arguments.
    """

    parameters: str
    passed: str
    names: tuple[str, ...]
    variadic: tuple[str, ...]

    @staticmethod
    def of(signature: inspect.Signature) -> Signature:
        """The texts of a signature without self."""
        found = list(signature.parameters.values())
        left = [position for position, one in enumerate(found) if value_text(one.default) is None]
        unwritten = [position for position in left if found[position].default is not inspect.Parameter.empty]
        first = min(unwritten, default=len(found))
        if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in found[first:]):
            raise TilewrightError(
                f"forward()'s default of {found[first].name}, before *{found[-1].name}, is no literal"
            )
        return Signature(
            ", ".join(_declared(found)),
            ", ".join(_handed_on(parameter, position > first) for position, parameter in enumerate(found)),
            tuple(parameter.name for parameter in found),
            tuple(parameter.name for parameter in found if parameter.kind in _VARIADIC),
        )


def _declared(parameters: Sequence[inspect.Parameter]) -> Iterator[str]:
    seen_star = False
    for position, parameter in enumerate(parameters):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            seen_star = True
            yield f"*{parameter.name}"
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            yield f"**{parameter.name}"
        else:
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not seen_star:
                seen_star = True
                yield "*"
            default = parameter.default
            yield parameter.name if default is inspect.Parameter.empty else f"{parameter.name}={_default(parameter)}"
        following = parameters[position + 1].kind if position + 1 < len(parameters) else None
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and following is not parameter.kind:
            yield "/"


def _default(parameter: inspect.Parameter) -> str:
    """A default, or `...` where it cannot be written down: such an argument is not handed on."""
    return value_text(parameter.default) or "..."


def _handed_on(parameter: inspect.Parameter, as_keyword: bool) -> str:
    name = parameter.name
    has_default = parameter.default is not inspect.Parameter.empty
    if has_default and value_text(parameter.default) is None:
        return f"**given({name}={name})"
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"*{name}"
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return f"**{name}"
    return f"{name}={name}" if as_keyword or parameter.kind is inspect.Parameter.KEYWORD_ONLY else name


def value_text(value: Any) -> str | None:
    """A constant as Python; None for one that cannot be written down."""
    if value is None or type(value) in _LITERALS:
        return repr(value)
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if type(value) in (tuple, list):
        texts = [value_text(item) for item in value]
        if None in texts:
            return None
        listed = ", ".join(text for text in texts if text is not None)
        return f"[{listed}]" if type(value) is list else f"({listed},)" if len(texts) == 1 else f"({listed})"
    return None


def argument_conditions(graph: Graph) -> Iterator[str]:
    """What must hold of the call's arguments, sizes apart, for the kernels to run."""
    first: str | None = None
    links = {link.path for link in graph.linked.values() if link.is_argument}
    yield from _container_conditions(graph.arguments)
    for argument in graph.arguments:
        if argument.placeholder is None:
            yield _constant_condition(argument, argument.name in links)
            continue
        value = graph.node(argument.placeholder).meta["val"]
        formats = {
            Layout.PACKED: "",
            Layout.CHANNELS_LAST: ", torch.channels_last" + ("_3d" if value.dim() == 5 else ""),
            Layout.STRIDED: ", None",
        }
        yield f"is_plain({argument.name}, {value.dtype}, {value.dim()}{formats[layout_of(value)]})"
        if first is None:
            first = argument.name
            yield f"is_here({first})"
        else:
            yield f"{argument.name}.get_device() == {first}.get_device()"


def _constant_condition(argument: InputArgument, is_linked: bool) -> str:
    value, name = argument.value, argument.name
    if not argument.given and value_text(value) is None:
        return f"{name} is ..."
    if is_linked:
        return f"type({name}) is float"
    if value is None or type(value) is bool:
        return f"{name} is {value}"
    text = value_text(value)
    if text is None:
        raise TilewrightError(f"forward()'s argument {name} is a {type(value).__name__}, which cannot be compared")
    if type(value) is float and value != value:
        return f"{name} != {name}"
    return (
        f"type({name}) is {type(value).__name__} and {name} == {text}"
        if type(value) in (int, float)
        else (f"{name} == {text}")
    )


def _container_conditions(arguments: Sequence[InputArgument]) -> Iterator[str]:
    """The containers among the arguments have the items that they had."""
    items: dict[str, dict[str, None]] = {}
    for argument in arguments:
        steps = _steps(argument.path)
        for depth, step in enumerate(steps):
            items.setdefault(argument.parameter + "".join(steps[:depth]), {})[step] = None
    for text, found in items.items():
        keys = [step[1:-1] for step in found]
        if all(key.isdigit() for key in keys):
            yield f"isinstance({text}, (list, tuple)) and len({text}) == {len(keys)}"
        else:
            yield f"type({text}) is dict and {text}.keys() == {{{', '.join(keys)}}}"


def _steps(path: str) -> list[str]:
    """`[0]["h"]` in its steps."""
    steps, start, quoted = [], 0, ""
    for position, sign in enumerate(path):
        if quoted:
            quoted = "" if sign == quoted else quoted
        elif sign in "\"'":
            quoted = sign
        elif sign == "]":
            steps.append(path[start : position + 1])
            start = position + 1
    if start != len(path):
        raise TilewrightError(f"forward() is given a container that cannot be compared (`{path}`)")
    return steps
