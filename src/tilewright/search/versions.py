"""The versions that results depend on."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import tilewright


@functools.cache
def versions() -> Mapping[str, str]:
    """Name -> version of everything whose change makes an earlier result doubtful.

    `tilewright` carries a digest of the package's own source files after its version: two builds of one
    version number are not taken for the same.
    """
    return {
        "tilewright": f"{tilewright.__version__}+{_source_digest()}",
        "torch": metadata.version("torch"),
        "triton": metadata.version("triton"),
        "python": platform.python_version(),
    }


def _source_digest() -> str:
    """The first 8 hex digits of SHA-256 over the package's Python files, by path."""
    digest = hashlib.sha256()
    root = Path(tilewright.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
