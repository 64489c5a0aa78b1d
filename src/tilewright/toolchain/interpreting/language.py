"""Triton's language while kernels are interpreted: prepared once for a launch, wherever a kernel takes it from.

Triton prepares the modules `tl` that a kernel's file has as globals. Kernels also name single functions
(`from triton.language import load`), the device library, or `triton.language` in full; and helper functions of a
launch need nothing that the launch has not prepared.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable
from typing import Any

from tilewright.toolchain.interpreting.blocks import mapped
from tilewright.toolchain.interpreting.counters import counted
from tilewright.toolchain.interpreting.rewrite import rewritten
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError

#: Modules beside `triton.language` whose functions want to be told of the builder.
_EXTRA = ("triton.language.extra.cuda.libdevice", "triton.language.extra.cuda.utils", "triton.language.extra.cuda.gdc",
          "triton.language.extra.cuda", "triton.language.extra")  # fmt: skip
#: Operators of `tl.constexpr` whose right side may be a tensor.
_OPERATORS = tuple(
    f"__{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "and", "or", "xor", "lshift",
                               "rshift", "lt", "le", "gt", "ge", "eq", "ne")
)  # fmt: skip
#: Functions without a body, which Triton's compiler takes from the target's library.
_STUBS = "triton.language.extra.libdevice"
_LIBRARY = "triton.language.extra.cuda.libdevice"


def install(interpreter: Any) -> None:
    """Change `triton.runtime.interpreter`."""
    language = _Language(interpreter, interpreter._LangPatchScope)
    interpreter._patch_lang = language.prepare
    interpreter.InterpretedFunction.rewrite = _rewrite
    _called_as_helpers(interpreter)
    _scalars(interpreter)


def _rewrite(self: Any) -> Any:
    known = self.__dict__.get("_tilewright_rewritten")
    if known is None:
        known = self._tilewright_rewritten = rewritten(self.fn)
    return known


class _Language:
    """Prepares the language for a launch, and takes that back at its end."""

    def __init__(self, interpreter: Any, scope: Callable[[], Any]) -> None:
        self._interpreter = interpreter
        self._make_scope = scope
        self._scope: Any = None
        self._files: dict[int, Any] = {}
        self._known: list[tuple[Any, str, Any, Any]] = []
        self._makers: tuple[Any, ...] = ()

    def prepare(self, function: Any) -> _Language:
        """What `_patch_lang` does, for this function and its file; the first call of a launch does it for all."""
        if self._scope is None:
            self._scope = self._make_scope()
            self._prepare_modules()
        names = function.__globals__
        if id(names) not in self._files:
            self._files[id(names)] = names
            self._names(names)
        return self

    def restore(self) -> None:
        """The launch is over."""
        if self._scope is not None:
            self._scope.restore()
        self._scope, self._files = None, {}

    def _prepare_modules(self) -> None:
        """Prepare the modules, from the second launch on by what the first one changed, while nobody else did."""
        scope, interpreter = self._scope, self._interpreter
        absent = getattr(interpreter, "_MISSING", None)
        makers = interpreter._patch_builtin, interpreter._patch_lang_tensor, interpreter._patch_lang_core
        if makers != self._makers:  # somebody watches from now on, or does so no more
            self._known, self._makers = [], makers
        if self._known and all(getattr(owner, name, absent) is before for owner, name, before, _ in self._known):
            for owner, name, _, value in self._known:
                scope.set_attr(owner, name, value)
            return
        self._modules()
        first: dict[tuple[int, str], tuple[Any, str, Any]] = {}
        for owner, name, before in scope._changes:
            first.setdefault((id(owner), name), (owner, name, before))
        self._known = [(owner, name, before, vars(owner)[name]) for owner, name, before in first.values()]

    def _modules(self) -> None:
        import triton.language as tl

        interpreter, scope = self._interpreter, self._scope
        builder = interpreter.interpreter_builder
        for module in (tl, tl.core):
            interpreter._patch_builtin(module, builder, scope)
            interpreter._patch_builtin(module.tensor, builder, scope)
            interpreter._patch_lang_tensor(module.tensor, scope)
            interpreter._patch_lang_core(module, scope)
            scope.set_attr(module, "range", counted)
            scope.set_attr(module, "dot_scaled", _with_constants(module.dot_scaled))
            if hasattr(module, "map_elementwise"):
                scope.set_attr(module, "map_elementwise", mapped)
        for name in _OPERATORS:
            scope.set_attr(tl.constexpr, name, _left_to_tensors(getattr(tl.constexpr, name)))
        interpreter._patch_builtin(tl.math, builder, scope)
        interpreter._patch_builtin(tl.core.tensor_descriptor_base, builder, scope)
        for name in _EXTRA:
            extra = _module(name)
            if extra is not None:
                interpreter._patch_builtin(extra, builder, scope)
        stubs, library = _module(_STUBS), _module(_LIBRARY)
        for name, value in list(vars(stubs).items()) if stubs is not None else ():
            if isinstance(value, types.FunctionType):
                scope.set_attr(stubs, name, getattr(library, name, None) or _missing(name))

    def _names(self, names: dict[str, Any]) -> None:
        """Functions of the language that a file has under names of its own."""
        import triton.language as tl

        for name, value in list(names.items()):
            if not isinstance(value, types.FunctionType):
                continue
            module, called = value.__module__, value.__name__
            if module == _STUBS or (module.startswith("triton.language") and tl.core.is_builtin(value)):
                owner = _module(module)
                # Its own module has it prepared by now; `tl` has what `core` and others define.
                ready = getattr(owner, called, None) or getattr(tl, called, None)
                if ready is not None and ready is not value:
                    self._scope.set_attr(_Names(names), name, ready)


class _Names:
    """A file's globals, as an object whose attributes a scope can set back."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.__dict__ = names  # the very mapping: what is set here is set there


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _left_to_tensors(operator: Callable[..., Any]) -> Callable[..., Any]:
    """An operator of constants that leaves what a block or scalar is on the right of to that."""

    def called(self: Any, other: Any) -> Any:
        return NotImplemented if hasattr(other, "handle") else operator(self, other)

    return called


def _with_constants(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the language that asks its strings for their values, which the compiler gives as constants."""

    def called(*arguments: Any, **options: Any) -> Any:
        import triton.language as tl

        def constant(value: Any) -> Any:
            return tl.constexpr(value) if isinstance(value, str) else value

        return function(*map(constant, arguments), **{key: constant(value) for key, value in options.items()})

    return called


def _missing(name: str) -> Callable[..., Any]:
    def function(*arguments: Any, **options: Any) -> Any:
        raise NotInterpretableError(f"libdevice.{name}")

    return function


def _called_as_helpers(interpreter: Any) -> None:
    """A kernel's helper: what it raises reaches the launch as it is, and its numbers are values of the language."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.rewrite()(*args, **kwargs)

    plain = interpreter.InterpretedFunction.__call__

    def prepared(self: Any, *args: Any, **kwargs: Any) -> Any:
        interpreter._patch_lang(self.fn)
        return call(self, *args, **kwargs)

    prepared.__doc__ = plain.__doc__
    interpreter.InterpretedFunction.__call__ = prepared


def _scalars(interpreter: Any) -> None:
    """A scalar is the bound of a `range` with every NumPy, and arguments have the types that a launch gives them."""
    plain = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        plain(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patch_lang_tensor
    convert = interpreter._implicit_cvt

    def implicit_cvt(value: Any) -> Any:
        return scalar(interpreter, value) if isinstance(value, bool | int | float) else convert(value)

    interpreter._implicit_cvt = implicit_cvt


def scalar(interpreter: Any, value: Any) -> Any:
    """A Python number as the argument that a launch makes of it."""
    import numpy as np
    import triton.language as tl

    if isinstance(value, bool):
        kind, data = tl.int1, np.array([value], dtype=bool)
    elif isinstance(value, float):
        kind, data = tl.float32, np.array([value], dtype=np.float32)
    elif -(2**31) <= value < 2**31:
        kind, data = tl.int32, np.array([value], dtype=np.int32)
    elif -(2**63) <= value < 2**63:
        kind, data = tl.int64, np.array([value], dtype=np.int64)
    else:
        kind, data = tl.uint64, np.array([value], dtype=np.uint64)
    return tl.tensor(interpreter.TensorHandle(data, kind), kind)
