"""What a forward pass is given and what it gives back: each argument of the call, and the structure of the outputs.

torch.export sees a call as a flat list of leaves. These values say where each leaf stood: which parameter of
forward, and where in it (`masks[0]`, `state["h"]`), and how the returned leaves were packed.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from tilewright.errors import CaptureError

#: Forms of containers that emitted code can build again.
TUPLE, LIST, DICT, STRUCT, LEAF = "tuple", "list", "dict", "struct", "leaf"


@dataclass(frozen=True)
class InputArgument:
    """One leaf of the call's arguments.

    Attributes:
        parameter: the parameter of forward that holds it.
        position: that parameter's position in forward's signature, from 0.
        path: where in that parameter it is, as Python text (`[0]`, `["h"]`); empty for the parameter itself.
        placeholder: name of the graph's placeholder, for a tensor; None for a constant.
        value: the constant; None for a tensor (and for the constant None).
        given: False for a parameter that the call left out: `value` is its default.
    """

    parameter: str
    position: int
    path: str = ""
    placeholder: str | None = None
    value: Any = None
    given: bool = True

    @property
    def name(self) -> str:
        """How forward itself would write it: `masks[0]`."""
        return f"{self.parameter}{self.path}"


@dataclass(frozen=True)
class Structure:
    """How leaves are packed.

    Attributes:
        kind: one of `TUPLE`, `LIST`, `DICT`, `STRUCT` (of torch's return types), `LEAF`.
        parts: of a container, in order.
        keys: of a dict, in the order of its parts.
        type_name: of a struct: `torch.return_types.max`.
    """

    kind: str
    parts: tuple[Structure, ...] = ()
    keys: tuple[Any, ...] = ()
    type_name: str = ""

    def text(self, leaves: Iterator[str]) -> str:
        """Python text of the structure, filled with the texts of its leaves."""
        if self.kind == LEAF:
            return next(leaves)
        texts = [part.text(leaves) for part in self.parts]
        if self.kind == DICT:
            return (
                "{" + ", ".join(f"{_key_text(key)}: {text}" for key, text in zip(self.keys, texts, strict=True)) + "}"
            )
        listed = ", ".join(texts)
        if self.kind == LIST:
            return f"[{listed}]"
        together = f"({listed},)" if len(texts) == 1 else f"({listed})"
        return f"{self.type_name}({together})" if self.kind == STRUCT else together


def is_flat_tuple(structure: Structure) -> bool:
    """True for a plain tuple of leaves."""
    return structure.kind == TUPLE and all(part.kind == LEAF for part in structure.parts)


def _key_text(key: Any) -> str:
    plain = isinstance(key, str) and '"' not in key and repr(key) == f"'{key}'"
    return f'"{key}"' if plain else repr(key)


def input_arguments(
    module: nn.Module, inputs: Sequence[Any], placeholders: Sequence[str], tensors: frozenset[str]
) -> tuple[InputArgument, ...]:
    """Every argument of `module.forward(*inputs)`, in the order of the call; left-out parameters come last.

    Args:
        module: the module.
        inputs: what it is called with.
        placeholders: names of the graph's placeholders for the leaves, in their order.
        tensors: those of them that hold tensors.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    leaves, _ = pytree.tree_flatten_with_path(tuple(inputs))
    arguments = []
    for (keys, value), placeholder in zip(leaves, placeholders, strict=True):
        parameter, position, rest = _parameter_of(parameters, keys)
        is_tensor = placeholder in tensors
        arguments.append(
            InputArgument(
                parameter,
                position,
                "".join(map(_step_text, rest)),
                placeholder if is_tensor else None,
                None if is_tensor else value,
            )
        )
    for position, left_out in enumerate(parameters):
        variadic = left_out.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        reached = position < len(inputs) and left_out.kind is not inspect.Parameter.KEYWORD_ONLY
        if not variadic and not reached:
            arguments.append(InputArgument(left_out.name, position, value=left_out.default, given=False))
    return tuple(arguments)


def _parameter_of(parameters: Sequence[inspect.Parameter], keys: Sequence[Any]) -> tuple[str, int, Sequence[Any]]:
    """Name and position of the parameter that a leaf lies in, and the steps from there."""
    index = keys[0].idx
    for position, parameter in enumerate(parameters):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return parameter.name, position, (pytree.SequenceKey(index - position), *keys[1:])
        if position == index:
            return parameter.name, position, keys[1:]
    raise IndexError(index)


def _step_text(key: Any) -> str:
    if isinstance(key, pytree.SequenceKey):
        return f"[{key.idx}]"
    if isinstance(key, pytree.MappingKey):
        return f"[{_key_text(key.key)}]"
    if isinstance(key, pytree.GetAttrKey):
        return f".{key.name}"
    raise CaptureError(f"the reference cannot be captured: an input lies in a container that has no path ({key})")


def output_structure(spec: pytree.TreeSpec) -> Structure:
    """The structure of what is returned.

    Raises:
        CaptureError: emitted code could not build it again; the message names the type.
    """
    if spec.is_leaf():
        return Structure(LEAF)
    parts = tuple(output_structure(child) for child in _children(spec))
    kind = {tuple: TUPLE, list: LIST, dict: DICT}.get(spec.type)
    if kind == DICT:
        return Structure(DICT, parts, tuple(spec.context))
    if kind is not None:
        return Structure(kind, parts)
    name = getattr(spec.type, "__name__", str(spec.type))
    if getattr(spec.type, "__module__", "") == "torch.return_types" and hasattr(torch.return_types, name):
        return Structure(STRUCT, parts, type_name=f"torch.return_types.{name}")
    if isinstance(spec.context, type):
        name = spec.context.__name__
    raise CaptureError(
        f"the reference returns a {name}, which emitted code cannot build again",
        hint="return tensors, numbers and None in tuples, lists and dicts"
        + (" (an OrderedDict as a dict)" if spec.type is OrderedDict else ""),
    )


def _children(spec: pytree.TreeSpec) -> Sequence[pytree.TreeSpec]:
    """Newer torch has a method for what older keeps in a field."""
    children = getattr(spec, "children", None)
    return list(children()) if callable(children) else list(spec.children_specs)
