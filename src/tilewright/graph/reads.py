"""What a forward pass reads of its module while it is captured.

A captured graph holds for the options, children and numbers that the module had: a branch on `self.residual` was
taken one way. `recorded_reads` notes every attribute that the forward pass looks up, on the module and on its
parts, so that emitted code can compare them on the way in.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tilewright.graph.watched import HOOKS, described, holder, plain

#: What torch looks up for itself on every module. `training` and the table of children matter to a forward pass.
_TORCH_OWN = frozenset(vars(nn.Module())) - {"training", "_modules"}

#: Methods and constants of every module's class; a module may have an attribute of such a name, too.
_OF_CLASS = frozenset(vars(nn.Module)) - {"forward"}

#: Only one capture at a time may watch all modules.
_LOCK = threading.RLock()


@dataclass
class ReadLog:
    """The reads of one forward pass, as they come in.

    Attributes:
        root: the module.
        counts: part -> what was read of it -> how often.
        changed: names of attributes that the forward pass sets, or whose content it changes.
        active: the forward pass is running.
    """

    root: nn.Module
    counts: dict[nn.Module, Counter[str]]
    contents: dict[tuple[nn.Module, str], Any] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    active: bool = False

    def restart(self) -> None:
        """A forward pass begins."""
        for counts in self.counts.values():
            counts.clear()
        self.contents.clear()
        self.changed.clear()
        self.active = True

    def note(self, part: nn.Module, name: str) -> None:
        """An attribute was looked up."""
        counts = self.counts.get(part)
        if counts is None or name in _TORCH_OWN or name.startswith("__"):
            return
        if name in _OF_CLASS and not any(name in table for table in (vars(part), part._buffers, part._parameters)):
            return
        counts[name] += 1
        if counts[name] == 1 and isinstance(value := vars(part).get(name), list | dict | set) and name != "_modules":
            self.contents[part, name] = plain(value)

    def note_change(self, part: nn.Module, name: str) -> None:
        """An attribute was set."""
        # Modules of torch's own keep lists of their weights in step.
        is_torchs = name.startswith("_") and type(part).__module__.startswith("torch.nn.")
        if part in self.counts and name not in _TORCH_OWN and not is_torchs:
            self.changed.add(self._full(part, name))

    def end(self) -> None:
        """The forward pass is over."""
        self.active = False
        for (part, name), content in self.contents.items():
            if plain(vars(part).get(name)) != content:
                self.changed.add(self._full(part, name))

    def _full(self, part: nn.Module, name: str) -> str:
        path = next((path for path, module in self.root.named_modules() if module is part), "")
        return f"{path}.{name}" if path else name

    def read(self) -> Mapping[str, Mapping[str, Any]]:
        """Path of a part -> what was read of it -> its plain value (`tilewright.graph.watched.plain`)."""
        names = {path: self._names(part) for path, part in self.root.named_modules()}
        wanted = {path: dict.fromkeys(found) for path, found in names.items() if found}
        found: dict[str, dict[str, Any]] = described(self.root, wanted)
        return found

    def _names(self, part: nn.Module) -> list[str]:
        return [name for name in self.counts.get(part, ()) if _is_data(holder(part, name).get(name))]

    def times(self, path: str) -> int:
        """How often the attribute of that path was read."""
        owner, _, name = path.rpartition(".")
        return self.counts[self.root.get_submodule(owner)][name]


def _is_data(value: Any) -> bool:
    """False for what is computed of other attributes, as properties are."""
    return callable(value) or not hasattr(type(value), "__get__")


@contextlib.contextmanager
def recorded_reads(root: nn.Module, argument: Callable[[str, Any], Any]) -> Iterator[ReadLog]:
    """Note what the forward pass of `root` reads of it and its parts, while this is open.

    Each forward pass starts the log anew. Hooks of the root are put aside: whoever calls the result calls them.

    Args:
        root: the module.
        argument: given an argument's name and value, what the forward pass is to see.
    """
    log = ReadLog(root, {part: Counter() for part in root.modules()})
    with _LOCK, _without_hooks(root), _logged_forward(root, log, argument), _noting(log):
        yield log


@contextlib.contextmanager
def _noting(log: ReadLog) -> Iterator[None]:
    get, assign = nn.Module.__getattribute__, nn.Module.__setattr__

    def noted_get(self: nn.Module, name: str) -> Any:
        if log.active:
            log.note(self, name)
        return get(self, name)

    def noted_set(self: nn.Module, name: str, value: Any) -> None:
        if log.active:
            log.note_change(self, name)
        assign(self, name, value)

    nn.Module.__getattribute__, nn.Module.__setattr__ = noted_get, noted_set  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del nn.Module.__getattribute__
        nn.Module.__setattr__ = assign  # type: ignore[method-assign]


@contextlib.contextmanager
def _logged_forward(root: nn.Module, log: ReadLog, argument: Callable[[str, Any], Any]) -> Iterator[None]:
    """The log is active inside the root's forward pass only."""
    forward, own = root.forward, vars(root)
    had = own.get("forward")
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def logged(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update((name, argument(name, value)) for name, value in bound.arguments.items())
        log.restart()
        try:
            return forward(*bound.args, **bound.kwargs)
        finally:
            log.end()

    own["forward"] = logged
    try:
        yield
    finally:
        if had is None:
            del own["forward"]
        else:
            own["forward"] = had


@contextlib.contextmanager
def _without_hooks(root: nn.Module) -> Iterator[None]:
    kept = {name: dict(table) for name in HOOKS if (table := vars(root).get(name))}
    for name in kept:
        vars(root)[name].clear()
    try:
        yield
    finally:
        for name, table in kept.items():
            vars(root)[name].update(table)
