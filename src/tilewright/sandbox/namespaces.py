"""Linux namespaces for one job: its own users, processes and network, without privileges.

The calls have no wrapper in Python 3.11; see unshare(2), mount(2), prctl(2), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

_NEW_MOUNTS, _NEW_USERS, _NEW_PROCESSES, _NEW_NETWORK = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_PRIVATE_RECURSIVELY = (1 << 18) | (1 << 14)
_NO_SETUID_DEVICES_PROGRAMS = 2 | 4 | 8
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36

USERS, PROCESSES, NETWORK = "users", "processes", "network"
#: Sets of namespaces, best first; not every system (or container) permits all of them.
CHOICES: tuple[frozenset[str], ...] = (
    frozenset({USERS, NETWORK, PROCESSES}),
    frozenset({NETWORK, PROCESSES}),
    frozenset({USERS, PROCESSES}),
    frozenset({USERS, NETWORK}),
)


def best() -> frozenset[str]:
    """The first of `CHOICES` that this system permits, found by trying; empty where it permits none."""
    return next((choice for choice in CHOICES if _is_permitted(choice)), frozenset())


def run_inside(wanted: frozenset[str], work: Callable[[], int]) -> int:
    """Enter namespaces of these kinds and run `work` there; returns its exit code, 128 + n where signal n ended it.

    With processes of its own, `work` runs in a forked process that is the first of the namespace, and the whole
    namespace ends with this process. This process must have one thread only.

    Raises:
        OSError: the system does not permit it.
    """
    user, group = os.geteuid(), os.getegid()
    own_processes = PROCESSES in wanted
    flags = (_NEW_USERS if USERS in wanted else 0) | (_NEW_NETWORK if NETWORK in wanted else 0)
    flags |= (_NEW_PROCESSES | _NEW_MOUNTS) if own_processes else 0
    if flags:
        _checked("unshare", ctypes.c_int(flags))
    if USERS in wanted:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    if not own_processes:
        return work()
    first = os.fork()
    if first == 0:
        os._exit(_as_first_process(work))
    return code_of(os.waitpid(first, 0)[1])


def _as_first_process(work: Callable[[], int]) -> int:
    try:
        _checked("prctl", ctypes.c_int(_SET_PARENT_DEATH_SIGNAL), ctypes.c_ulong(signal.SIGKILL))
        _checked("mount", b"none", b"/", None, ctypes.c_ulong(_PRIVATE_RECURSIVELY), None)
        _checked("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(_NO_SETUID_DEVICES_PROGRAMS), None)
    except OSError:
        return 71
    return work()


def adopt_orphans() -> None:
    """Processes below this one whose parent ends become this one's children; nothing where that cannot be had."""
    ctypes.CDLL(None).prctl(ctypes.c_int(_SET_CHILD_SUBREAPER), ctypes.c_ulong(1), 0, 0, 0)


def code_of(status: int) -> int:
    """A wait status as a shell's exit code: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _is_permitted(choice: frozenset[str]) -> bool:
    """Whether a forked process can enter these namespaces."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(run_inside(choice, lambda: 0))
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _checked(function: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function}: {os.strerror(error)}")
