"""Where a candidate's compiled kernels lie while this process lives: compiled ahead once, launched by later jobs.

Each candidate has a folder of its own, which its own sandboxed processes alone write and read: what one leaves there
does not reach another.
"""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from tilewright.values.candidate import Candidate

#: What Triton reads its cache's place from.
VARIABLE = "TRITON_CACHE_DIR"

_lock = threading.Lock()


def cache_environment(candidate: Candidate) -> Mapping[str, str]:
    """Environment of a job that compiles or launches this candidate's kernels, and no other's."""
    return {VARIABLE: str(compiled_folder(candidate))}


def compiled_folder(candidate: Candidate) -> Path:
    """The folder of a candidate's compiled kernels; it is there once a kernel was put there."""
    return compiled_root() / candidate.digest


def compiled_root() -> Path:
    """The folder above those of all candidates: for a process that runs several of them."""
    with _lock:  # candidates are compiled in threads
        return Path(_root().name)


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tilewright-compiled-", ignore_cleanup_errors=True)
