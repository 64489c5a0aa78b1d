"""Modules and inputs out of a `ModuleSource`: deterministic, in eval mode, with errors that name the user's line."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import linecache
import random
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.errors import InputMismatchError, SourceError, SourceLocation
from tilewright.task.fences import with_unix_newlines
from tilewright.task.python_source import location, parse_source
from tilewright.task.task import InputSpec, ModuleSource


def build_module(
    source: ModuleSource,
    *,
    init_args: Sequence[Any] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    as_built: bool = False,
) -> nn.Module:
    """The module, in eval mode, its parameters drawn from `seed`.

    The module is built on the CPU and then moved, so that a seed gives the same parameters everywhere. A
    live module keeps its own parameters.

    Args:
        source: where it comes from.
        init_args: constructor arguments, in the place of the source's own.
        seed: of torch's, Python's and numpy's generators; their states are restored.
        device: where the parameters lie; `meta` for shapes alone.
        as_built: leave it in the mode in which it comes: torch builds modules in training mode.

    Raises:
        SourceError: the source does not parse or run, or has no such class; the message has file and line.
        InputMismatchError: the constructor does not take the arguments.
    """
    if source.pickled is not None:
        module: nn.Module = _unpickled(source)[0]
        return _on_device(module if as_built else module.eval(), device)
    namespace = load_namespace(source)
    made = namespace.get(source.class_name)
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        what = "is no torch.nn.Module" if source.class_name in namespace else "is not defined"
        raise SourceError(f"the class `{source.class_name}` {what}", where=location(source.path, source.first_line))
    arguments = tuple(init_args) if init_args is not None else _init_args(source, namespace, seed)
    _check_arguments(made, arguments, source)
    with _seeded(seed), _placed(device):
        module = _guarded(source, f"the constructor of `{source.class_name}`", lambda: made(*arguments))
    return _on_device(module if as_built else module.eval(), device)


def init_args(source: ModuleSource, seed: int = 0) -> tuple[Any, ...]:
    """The constructor's arguments: given, or what `get_init_inputs()` returns (none where there is no such function).

    Raises:
        SourceError: `get_init_inputs` raises, or returns no list.
    """
    if source.pickled is not None:
        return ()
    if source.init_args is not None:
        return source.init_args
    return _init_args(source, load_namespace(source), seed)


def make_inputs(source: ModuleSource, seed: int = 0, device: str | torch.device = "cpu") -> list[Any]:
    """The forward pass's arguments, drawn from `seed`.

    A live module's example inputs are seed 0; another seed shuffles the elements of each tensor, which keeps
    their values legal (indices stay in range).

    Raises:
        SourceError: there is no `get_inputs`, it raises, or it returns no list; the message has file and line.
        InputMismatchError: an input cannot be made (it does not fit in memory).
    """
    if source.pickled is not None:
        found = list(_unpickled(source)[1])
        return [_moved(item if seed == 0 else _shuffled(item, seed), device) for item in found]
    if source.inputs is not None:
        with _seeded(seed):
            return [_filled(spec, device) for spec in source.inputs]
    namespace = load_namespace(source)
    function = _function(source, namespace, "get_inputs")
    with _seeded(seed), _placed(device):
        made = _guarded(source, "`get_inputs`", function)
    return [_moved(item, device) for item in _as_list(made, source, "get_inputs")]


def load_namespace(source: ModuleSource) -> dict[str, Any]:
    """Run the source as a fresh module and return its names.

    The module is registered under a name of its own, and its text with `linecache`, so that `inspect`,
    `triton.jit` and tracebacks find the source. What it prints goes to stderr.

    Raises:
        SourceError: it does not parse, or raises; the message has the user's file and line.
    """
    parse_source(source.source, source.path, source.first_line)
    filename = _register(source)
    digest = hashlib.sha256(f"{filename}\n{source.source}".encode(errors="replace")).hexdigest()[:16]
    module = types.ModuleType(f"model_{digest}")
    module.__file__ = filename
    sys.modules[module.__name__] = module
    code = compile(_padded(source), filename, "exec", dont_inherit=True)
    _guarded(source, "importing it", lambda: exec(code, module.__dict__))
    return module.__dict__


def _padded(source: ModuleSource) -> str:
    """The source at the lines that it has in the user's file."""
    return "\n" * (source.first_line - 1) + source.source


def _register(source: ModuleSource) -> str:
    """The file name that the code runs under: the user's file where it holds just this, else a name in linecache."""
    if source.path is not None and source.first_line == 1 and _holds(source.path, source.source):
        return str(source.path.resolve())
    digest = hashlib.sha256(source.source.encode(errors="replace")).hexdigest()[:12]
    shown = "source" if source.path is None else source.path.name
    filename = f"<{shown} {source.first_line} {digest}>"
    text = _padded(source)
    # Without a time of modification linecache never drops the entry.
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    return filename


def _holds(path: Path, source: str) -> bool:
    try:
        return with_unix_newlines(path.read_bytes().decode("utf-8-sig")) == with_unix_newlines(source)
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def _beside(path: Path | None) -> Iterator[None]:
    """Let imports find the modules that lie beside the user's file."""
    if path is None:
        yield
        return
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _guarded(source: ModuleSource, doing: str, run: Callable[[], Any]) -> Any:
    """Run the user's code; its exceptions become a `SourceError` at the user's line."""
    try:
        with _beside(source.path), contextlib.redirect_stdout(sys.stderr or io.StringIO()):
            return run()
    except (Exception, SystemExit) as error:
        where = location_in(source, error) or location(source.path, source.first_line)
        raise SourceError(f"{doing} raised {described(error)}", where=where) from None


def described(error: BaseException) -> str:
    """An exception in one line, at most 300 characters of it."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def location_in(source: ModuleSource, error: BaseException) -> SourceLocation | None:
    """The innermost line of the user's source that the exception passed through; None where there is none."""
    filename = _register(source)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return location(source.path, lines[-1]) if lines else None


def _check_arguments(made: type[nn.Module], arguments: Sequence[Any], source: ModuleSource) -> None:
    try:
        signature = inspect.signature(made)
    except (ValueError, TypeError):
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise InputMismatchError(
            f"the constructor of `{source.class_name}` does not take these {len(arguments)} arguments: {error}",
            where=location(source.path, _class_line(source)),
            hint=f"its signature is {source.class_name}{signature}",
        ) from None


def _class_line(source: ModuleSource) -> int:
    for node in parse_source(source.source).body:
        if getattr(node, "name", None) == source.class_name:
            return node.lineno + source.first_line - 1
    return source.first_line


def _function(source: ModuleSource, namespace: dict[str, Any], name: str) -> Callable[[], Any]:
    function = namespace.get(name)
    if callable(function):
        found: Callable[[], Any] = function
        return found
    raise SourceError(
        f"the Python code defines no function `{name}`",
        where=location(source.path, source.first_line),
        hint="it returns the arguments of one forward pass; --inputs gives them in its place",
    )


def _init_args(source: ModuleSource, namespace: dict[str, Any], seed: int) -> tuple[Any, ...]:
    if source.init_args is not None:
        return source.init_args
    if "get_init_inputs" not in namespace:
        return ()
    function = _function(source, namespace, "get_init_inputs")
    with _seeded(seed):
        made = _guarded(source, "`get_init_inputs`", function)
    return tuple(_as_list(made, source, "get_init_inputs"))


def _as_list(made: Any, source: ModuleSource, name: str) -> list[Any]:
    if isinstance(made, list | tuple):
        return list(made)
    if isinstance(made, torch.Tensor):
        return [made]
    raise SourceError(
        f"`{name}` must return a list, not {type(made).__name__}", where=location(source.path, source.first_line)
    )


def _unpickled(source: ModuleSource) -> tuple[nn.Module, Sequence[Any]]:
    import cloudpickle

    assert source.pickled is not None
    found: tuple[nn.Module, Sequence[Any]] = cloudpickle.loads(source.pickled)
    return found


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, Python's and numpy's, and restore them."""
    import numpy

    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)


@contextlib.contextmanager
def _placed(device: str | torch.device) -> Iterator[None]:
    """On `meta`, make tensors there at once: they would not fit in memory first."""
    if torch.device(device).type != "meta":
        yield
        return
    with torch.device(device):
        yield


def _on_device(module: nn.Module, device: str | torch.device) -> nn.Module:
    """Move the module where it lies elsewhere; fake parameters can be made in place but not moved."""
    wanted = torch.device(device)
    tensors = (*module.parameters(), *module.buffers())
    if all(tensor.device == wanted for tensor in tensors):
        return module
    return module.to(wanted)


def _moved(item: Any, device: str | torch.device) -> Any:
    return item.to(device) if isinstance(item, torch.Tensor) else item


def _shuffled(item: Any, seed: int) -> Any:
    if not isinstance(item, torch.Tensor) or item.numel() < 2:
        return item
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(item.numel(), generator=generator).to(item.device)
    shuffled = torch.empty_like(item)
    return shuffled.copy_(item.reshape(-1)[order].reshape(item.shape))


def _filled(spec: InputSpec, device: str | torch.device) -> Any:
    """One input of `--inputs`, drawn on the CPU and then moved."""
    if spec.filler == "literal":
        return spec.value
    on = torch.device(device)
    drawn_on = on if on.type == "meta" else torch.device("cpu")
    try:
        return _FILLERS[spec.filler](spec, getattr(torch, spec.dtype), drawn_on).to(on)
    except (RuntimeError, MemoryError, ValueError, OverflowError) as error:
        sizes = "x".join(map(str, spec.shape))
        raise InputMismatchError(f"the input {spec.filler} {sizes} cannot be made: {described(error)}") from None


_FILLERS: dict[str, Callable[[InputSpec, torch.dtype, torch.device], torch.Tensor]] = {
    "rand": lambda spec, dtype, device: torch.rand(spec.shape, device=device).to(dtype),
    "randn": lambda spec, dtype, device: torch.randn(spec.shape, device=device).to(dtype),
    "zeros": lambda spec, dtype, device: torch.zeros(spec.shape, dtype=dtype, device=device),
    "ones": lambda spec, dtype, device: torch.ones(spec.shape, dtype=dtype, device=device),
    "full": lambda spec, dtype, device: torch.full(spec.shape, spec.value, dtype=dtype, device=device),
    "randint": lambda spec, dtype, device: torch.randint(spec.low, spec.high, spec.shape, device=device).to(dtype),
    "arange": lambda spec, dtype, device: torch.arange(spec.low, spec.high, spec.value, dtype=dtype, device=device),
    "bool": lambda spec, dtype, device: torch.rand(spec.shape, device=device) < 0.5,
}
