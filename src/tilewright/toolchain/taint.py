"""Which accesses and branches of an interpreted kernel depend on values that it loaded.

On tensors without data every load gives zeros: what follows from those says nothing of a real run. Handles of the
interpreter carry a mark from a load through every operation; an access whose pointers or mask are marked is `guessed`,
and a program that branched, or counted a loop, by a marked value is `steered`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tilewright.toolchain.patched import patched

_MARK = "tilewright_loaded"
#: What reads memory: its result is marked.
_SOURCES = ("create_masked_load", "create_load", "create_atomic_rmw", "create_atomic_cas")
#: Access -> positions of what decides where it goes.
_DECIDING = {
    "create_masked_load": (0, 1),
    "create_masked_store": (0, 2),
    "create_atomic_rmw": (1, 3),
    "create_atomic_cas": (0,),
}
#: Accesses that are carried out by one of the above, whose pointers are new then.
_OUTER = (
    "create_tensor_pointer_load", "create_tensor_pointer_store", "create_descriptor_load", "create_descriptor_store",
    "create_descriptor_gather", "create_descriptor_scatter",
)  # fmt: skip


@dataclass
class Loaded:
    """What depends on loaded values.

    Attributes:
        guessed: the access that is under way does.
        steered: the program that runs has branched by one.
    """

    guessed: bool = False
    steered: bool = False


@contextlib.contextmanager
def loaded_values(seen: Loaded) -> Iterator[None]:
    """Within it, `seen` tells what of interpreted kernels depends on what they loaded."""
    from triton.runtime import interpreter

    builder, reductions = interpreter.InterpreterBuilder, interpreter.ReduceScanOpInterface
    names = [name for name, value in vars(builder).items() if name.startswith("create_") and callable(value)]
    patches = [(builder, name, _marking(name, getattr(builder, name), seen)) for name in [*names, "cast_impl"]]
    patches.append((reductions, "apply", _reducing(reductions.apply)))
    patches.append((interpreter, "_patch_lang_tensor", _steering(interpreter._patch_lang_tensor, seen)))
    with patched(patches):
        yield


def _marked(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_marked(item) for item in value)
    return bool(getattr(value, _MARK, False))


def _mark(value: Any) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _mark(item)
    elif hasattr(value, "__dict__"):
        setattr(value, _MARK, True)


def _marking(name: str, plain: Any, seen: Loaded) -> Any:
    source, deciding, outer = name in _SOURCES, _DECIDING.get(name, ()), name in _OUTER

    def marking(self: Any, *args: Any, **kwargs: Any) -> Any:
        marked = _marked(args) or (bool(kwargs) and _marked(tuple(kwargs.values())))
        before = seen.guessed
        if outer:
            seen.guessed = before or marked
        elif deciding:
            seen.guessed = before or any(_marked(args[place]) for place in deciding if place < len(args))
        try:
            result = plain(self, *args, **kwargs)
        finally:
            seen.guessed = before
        if marked or source:
            _mark(result)
        return result

    return marking


def _reducing(plain: Any) -> Any:
    def apply(self: Any, given: Any) -> Any:
        result = plain(self, given)
        tensors = given if isinstance(given, tuple) else (given,)
        if any(_marked(tensor.handle) for tensor in tensors if hasattr(tensor, "handle")):
            for tensor in result if isinstance(result, list | tuple) else (result,):
                _mark(tensor.handle)
        return result

    return apply


def _steering(plain: Any, seen: Loaded) -> Any:
    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        plain(tensor, scope)
        for name in ("__bool__", "__index__"):
            scope.set_attr(tensor, name, _told(getattr(tensor, name), seen))

    return patch_lang_tensor


def _told(plain: Any, seen: Loaded) -> Any:
    def told(self: Any) -> Any:
        seen.steered = seen.steered or _marked(self.handle)
        return plain(self)

    return told
