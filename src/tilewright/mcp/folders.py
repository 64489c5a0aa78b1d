"""The folders that a server may touch: every path that a client names is resolved and checked here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.errors import TilewrightError


class PathRefusedError(TilewrightError):
    """A path lies outside the folders that the server was started with, or one of those is no folder."""


@dataclass(frozen=True)
class Folders:
    """The folders given at start, resolved; relative paths are relative to the first."""

    roots: tuple[Path, ...]

    def resolve(self, path: str) -> Path:
        """The absolute path that `path` means, links followed.

        Raises:
            PathRefusedError: it lies outside the folders.
        """
        try:
            found = (self.roots[0] / path).resolve()
        except (OSError, ValueError, RuntimeError):  # a loop of links, a NUL
            raise PathRefusedError(f"{path!r} is no path") from None
        if not any(found.is_relative_to(root) for root in self.roots):
            allowed = ", ".join(str(root) for root in self.roots)
            raise PathRefusedError(f"{path!r} lies outside the folders of this server", hint=f"they are: {allowed}")
        return found


def open_folders(paths: Sequence[Path]) -> Folders:
    """The folders given at start; the current one where none are.

    Raises:
        PathRefusedError: one of them is no folder.
    """
    roots = tuple(path.resolve() for path in paths or [Path()])
    for given, root in zip(paths or [Path()], roots, strict=True):
        if not root.is_dir():
            raise PathRefusedError(f"{given}: not a folder")
    return Folders(roots)
