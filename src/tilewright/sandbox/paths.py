"""Which paths a job may open, and what of that this system cannot forbid."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tilewright.sandbox import landlock

#: Where systems keep programs, libraries and their settings: nobody's own files.
_SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/sys", "/dev", "/nix", "/snap",
    "/run/opengl-driver", "/run/nvidia",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: Folders of the environment that hold libraries.
_LIBRARIES = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")

#: What a reader must know where the kernel lacks Landlock.
NOTES = {
    0: "reading and writing outside of its folder could not be forbidden (this kernel has no Landlock)",
    3: "cutting files short outside of its folder could not be forbidden (Landlock before version 3)",
}


def allowed_paths(
    scratch: Path, *, cuda: bool, readable: Sequence[Path] | None, writable: Sequence[Path]
) -> dict[str, object]:
    """Paths that a job may read and write beside nothing else, as JSON values for `tilewright.sandbox.child`.

    Args:
        scratch: its own directory.
        cuda: it uses the GPU's devices.
        readable: what it may read beside the system's own files and Python's; None for everything.
        writable: what it may write beside its own directory.
    """
    devices = [f"/dev/{name}" for name in _DEVICES]
    if cuda:
        devices += sorted(str(path) for path in Path("/dev").glob("nvidia*"))
        # The driver names its threads there, and does not start where it cannot; the path is the job's own.
        devices += ["/dev/shm", "/dev/dri", "/proc/self"]
    if readable is None:
        seen = ["/"]
    else:
        seen = [*_SYSTEM, *_python_paths(), *map(str, readable), str(Path(__file__).resolve().parents[2])]
    write = [str(scratch), *map(str, writable), *devices]
    return {"read": list(dict.fromkeys(seen)), "write": write} if landlock.version() else {}


def own_folder(path: Path | None) -> tuple[Path, ...]:
    """The folder of a reference's file, which a job may read; not a home folder, nor what lies above one."""
    if path is None:
        return ()
    folder = path.resolve().parent
    return () if Path.home().is_relative_to(folder) else (folder,)


def missing() -> tuple[str, ...]:
    """Notes on what this kernel cannot forbid."""
    known = landlock.version()
    if known >= 3:
        return ()
    return (NOTES[0 if known == 0 else 3],)


def _python_paths() -> list[str]:
    """The interpreter, its packages, and the libraries that the environment names; also where links lead."""
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, *map(sysconfig.get_path, names), *filter(None, sys.path)]
    for name in _LIBRARIES:
        paths += os.environ.get(name, "").split(os.pathsep)
    paths.append(os.path.dirname(os.path.realpath(sys.executable)))
    found = [path for path in paths if path and os.path.exists(path)]
    # A script that lies above the temporary folders would open all of them, other candidates' among them.
    temporary = Path(tempfile.gettempdir()).resolve()
    real = [os.path.realpath(path) for path in found]
    return [path for path in (*found, *real) if not temporary.is_relative_to(os.path.realpath(path))]
