"""Emitted into every file: whether a module still is what its kernels were planned for.

Everything from `ABSENT` on is copied into emitted files as it stands, so it needs nothing but torch.
"""

from __future__ import annotations

import torch
from torch import nn

ABSENT = object()
TENSORS = (torch.Tensor, nn.Parameter)
HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def plain(value, depth=4):
    """A value as data that can be compared and written down: its content, or a name where it is code."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        return ("tensor", str(value.dtype), *value.shape)
    if isinstance(value, nn.Module) or depth == 0:
        return type(value).__name__
    if isinstance(value, dict):
        return {str(key): plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(plain(item, depth - 1) for item in value))
    if hasattr(value, "__code__"):
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        return (value.__qualname__, *value.__code__.co_names, *(plain(cell, depth - 1) for cell in cells))
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    if hasattr(value, "__dict__"):
        return type(value).__name__, plain(vars(value), depth - 1)
    return type(value).__name__ if " at 0x" in repr(value) else repr(value)


def fits(found, planned):
    """True where plain values are as planned, types included; `...` stands for any value, `float` for any float."""
    if planned is ... or (planned is float and type(found) is float):
        return True
    if type(found) is not type(planned):
        return False
    if type(found) is dict:
        return [*found] == [*planned] and all(fits(found[key], planned[key]) for key in found)
    if type(found) is tuple:
        return len(found) == len(planned) and all(map(fits, found, planned))
    return found == planned or (found != found and planned != planned)


def settled(found, planned):
    """A plan with what was found in the place of `...`: from now on that must stay, too."""
    if planned is ...:
        return found
    if type(planned) is dict:
        return {key: settled(found[key], planned[key]) for key in planned}
    return tuple(map(settled, found, planned)) if type(planned) is tuple else planned


def holder(part, name):
    """The dictionary in which an attribute of a module lies: its own, one of its tables, or that of a class."""
    own = vars(part)
    tables = (own, own["_parameters"], own["_buffers"], own["_modules"], *map(vars, type(part).__mro__))
    return next((table for table in tables if name in table), own)


def described(module, planned):
    """The module in the form of a plan: what is read of each part; None where a part is missing."""
    found = {}
    for path in planned:
        try:
            part = module.get_submodule(path)
        except AttributeError:
            return None
        values = {name: holder(part, name).get(name, ABSENT) for name in planned[path] if name not in HOOKS}
        methods = {name for name, value in values.items() if callable(value) and name not in vars(part) | part._modules}
        found[path] = {name: "method" if name in methods else plain(value) for name, value in values.items()}
        if "forward" in methods and path:
            found[path].update((name, plain(getattr(part, name))) for name in HOOKS if getattr(part, name))
    return found


class Watched:
    """A module's tensors and numbers, for as long as it is what its kernels were planned for.

    `planned` says for each part of the module what was read of it when the kernels were planned (see `plain`); `state`
    names the tensors and floats that kernels take. What may be anything when the module is made must stay as it is. A
    copied or loaded module is compared as a whole on its first call; later calls compare by identity.
    """

    values = None

    def __init__(self, module=None, planned=None, state=()):
        found = None if module is None else described(module, planned)
        for path, names in (found or {}).items():
            if "training" in names:  # a module is made in training mode
                names["training"] = planned[path]["training"]
        self.planned = settled(found, planned) if found is not None and fits(found, planned) else None
        self.state = state

    def __getstate__(self):
        return {"planned": self.planned, "state": self.state}

    def look(self, module):
        """Compare the whole module, and note where all of it lies; True where it is as planned."""
        if self.planned is None or not fits(described(module, self.planned), self.planned):
            return False
        self.values, self.tables, self.contents, places = [], [], [], {}
        for path, names in self.planned.items():
            part = module.get_submodule(path)
            for name, kept in names.items():
                table = vars(part) if kept == "method" else holder(part, name)
                value = table.get(name, ABSENT)
                if isinstance(value, torch.Tensor):
                    places[f"{path}.{name}".lstrip(".")] = table.get, name, value.dtype, value.shape
                elif kept is float:
                    places[f"{path}.{name}".lstrip(".")] = table.get, name, float, None
                elif name == "_modules" or name in HOOKS:
                    self.tables.append((value, list(value.items())))
                else:
                    self.values.append((table.get, name, value))
                    if type(kept) in (tuple, dict) and type(value) is not tuple and not hasattr(value, "__code__"):
                        self.contents.append((table, name, kept))
            if "forward" in names and path:
                self.tables += [(table, []) for table in (getattr(part, hook) for hook in HOOKS) if not table]
        self.places = [places.pop(name) for name in self.state] + list(places.values())
        return True

    def now(self, module, device):
        """The tensors and floats of `state` as they are; None where kernels do not hold, or gradients are wanted.

        `device` is the number of the device that all of them lie on.
        """
        if self.values is None and not self.look(module):
            return None
        for get, name, kept in self.values:
            value = get(name, ABSENT)
            if value is not kept and isinstance(kept, nn.Module):
                self.values = None  # another part may be like the one that it replaces: look again, next time
                return None
            if value is not kept and not (type(value) is type(kept) and fits(plain(value), plain(kept))):
                return None
        for table, kept in self.tables:
            if len(table) != len(kept) or (kept and list(table.items()) != kept):
                self.values = None
                return None
        for table, name, kept in self.contents:  # lists, dictionaries and the like change in place
            if not fits(plain(table[name]), kept):
                return None
        found, wants_gradients = [], torch.is_grad_enabled()
        for get, name, dtype, shape in self.places:
            value = get(name)
            if dtype is float:
                is_kept = type(value) is float
            else:
                is_kept = type(value) in TENSORS and value.dtype is dtype and value.shape == shape
                is_kept = is_kept and value.get_device() == device and not (wants_gradients and value.requires_grad)
            if not is_kept:
                return None
            found.append(value)
        return found[: len(self.state)]
