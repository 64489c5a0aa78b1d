"""Which functions of torch, Triton, Python and the verifier itself have been replaced since a candidate was loaded.

What is computed in a candidate's process is never believed because of this check: outputs are judged elsewhere, and
`honesty.decoy` does not ask what a candidate says of itself. This names the attempt.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

import torch

#: Modules whose functions and classes are watched, beside all of this package's own that are loaded.
_MODULES = (
    "builtins", "time", "timeit", "os", "sys", "gc", "json", "signal", "threading", "inspect", "linecache",
    "torch", "torch.nn", "torch.nn.functional", "torch.cuda", "torch.testing", "torch.linalg", "torch.special",
    "torch.overrides", "torch.utils.benchmark",
    "triton", "triton.testing", "triton.runtime.jit", "triton.runtime.autotuner", "triton.runtime.interpreter",
    "triton.compiler.compiler", "triton.language", "triton.language.core", "triton.language.math",
    "triton.language.standard", "numpy", "numpy.testing", "safetensors.torch",
)  # fmt: skip
_OWN = "tilewright."
#: The interpreter itself swaps functions of the language while kernels run, and leaves some of them so.
_SWAPPED_BY_TRITON = "triton.language"

#: Stands for the names that a module or class has.
_NAMES = "(names)"

Watched = Mapping[tuple[str, str], object]


def watched() -> Watched:
    """What is where now: (module or class, attribute) -> object."""
    found: dict[tuple[str, str], object] = {}
    for name in _names():
        module = sys.modules[name]
        found["sys.modules", name] = module
        found[name, _NAMES] = frozenset(vars(module))
        for attribute, value in list(vars(module).items()):
            if not _counts(value):
                continue
            found[name, attribute] = value
            if isinstance(value, type) and value.__module__.startswith(("torch", "triton", "tilewright")):
                found.update(_members(value))
    return found


def replaced(before: Watched, *, after_kernels: bool) -> list[str]:
    """Names of what is not what it was.

    Args:
        before: what `watched` said.
        after_kernels: kernels have been interpreted, which swaps functions of Triton's language.
    """
    found = []
    for (owner, attribute), value in before.items():
        if after_kernels and owner.startswith(_SWAPPED_BY_TRITON):
            continue
        if attribute == _NAMES:
            found += _hidden(owner, value)
        elif (now := _current(owner, attribute, value)) is not value and not _wrapped_by_torch(now, value):
            found.append(attribute if owner == "sys.modules" else f"{owner}.{attribute}")
    return sorted(set(found))


def _wrapped_by_torch(now: object, before: object) -> bool:
    """Torch's compiler wraps some of torch's functions itself, when it is first imported: by an operator, say."""
    file = str(getattr(getattr(now, "__code__", None), "co_filename", ""))
    own = os.path.dirname(str(torch.__file__))
    inside = file == os.path.join(own, "_compile.py") or file.startswith(os.path.join(own, "_dynamo", ""))
    return inside and before in (getattr(now, "__wrapped__", None), getattr(now, "_torchdynamo_orig_callable", None))


def _hidden(owner: str, before: object) -> list[str]:
    """New names that hide what was found under them: in a class what it inherits, in our modules what is built in."""
    assert isinstance(before, frozenset)
    kind = _CLASSES.get(owner)
    if kind is not None:
        beyond = set().union(*(vars(base) for base in kind.__mro__[1:]))
        return [f"{owner}.{name}" for name in vars(kind) if name not in before and name in beyond]
    if not owner.startswith(_OWN):
        return []
    return [f"{owner}.{name}" for name in vars(sys.modules[owner]) if name not in before and hasattr(builtins, name)]


def _names() -> list[str]:
    return [name for name in list(sys.modules) if name in _MODULES or name.startswith(_OWN)]


def _counts(value: object) -> bool:
    return callable(value) and not isinstance(value, ModuleType)


def _members(owner: type) -> Iterator[tuple[tuple[str, str], object]]:
    name = f"{owner.__module__}.{owner.__qualname__}"
    _CLASSES[name] = owner
    yield (name, _NAMES), frozenset(vars(owner))
    for attribute, value in list(vars(owner).items()):
        # The special methods count as well: `__eq__` and `__getitem__` decide what others see.
        if callable(value) or isinstance(value, property | staticmethod | classmethod):
            yield (name, attribute), value


_CLASSES: dict[str, type] = {}


def _current(owner: str, attribute: str, value: object) -> object:
    if owner == "sys.modules":
        return sys.modules.get(attribute)
    if owner in _CLASSES:
        return vars(_CLASSES[owner]).get(attribute)
    return vars(sys.modules.get(owner, ModuleType(owner))).get(attribute)
