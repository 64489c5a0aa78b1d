"""In a sandboxed process: what a candidate can see of it is what it would see in a user's script."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

#: A script as people have one.
_SCRIPT = "train.py"
#: Modules that no user's process has, by their names or the start of them (with a dot at its end).
#: Triton's interpreter stays: it is imported again by each kernel that is made.
_OURS = ("tilewright", "tilewright.", "cloudpickle", "cloudpickle.")
#: Variables that only a process of the gate has.
_VARIABLES = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "OMP_WAIT_POLICY",
              "OPENBLAS_NUM_THREADS", "MALLOC_PERTURB_")  # fmt: skip

_kept: list[ModuleType] = []


def as_script(scratch: Path) -> None:
    """Name the process's main module and arguments as a script's in `scratch`."""
    path = str(scratch / _SCRIPT)
    _kept.append(sys.modules["__main__"])  # its functions go on running
    main = ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    sys.argv[:] = [_SCRIPT]
    sys.orig_argv[:] = [sys.executable, _SCRIPT]


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Within it, this tool and the gate's variables are not to be found by their names."""
    modules = {name: module for name, module in sys.modules.items() if _ours(name)}
    variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    for name in modules:
        del sys.modules[name]
    for name in variables:
        del os.environ[name]
    try:
        yield
    finally:
        sys.modules.update(modules)
        for name, value in variables.items():
            os.environ.setdefault(name, value)


def _ours(name: str) -> bool:
    return any(name.startswith(one) if one.endswith(".") else name == one for one in _OURS)
