"""One measurement at a time on a GPU: a file lock that all Tilewright processes of a machine share."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on this system: measurements are then the user's to keep apart
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def alone_on_gpu(device: str, *, patience_s: float = 600.0) -> Iterator[bool]:
    """Hold the lock of a GPU; yields False where it could not be had (no lock file, or out of patience).

    Args:
        device: what tells the GPU apart (`CUDA_VISIBLE_DEVICES` and index, or its UUID).
        patience_s: how long to wait for another process, seconds.
    """
    path = Path(tempfile.gettempdir()) / f"tilewright-gpu-{''.join(c for c in device if c.isalnum())}.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield False
        return
    try:
        yield _acquire(handle, patience_s)
    finally:
        os.close(handle)  # releases the lock


def _acquire(handle: int, patience_s: float) -> bool:
    if fcntl is None:
        return False
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
