"""What a process may open, forbidden by the kernel for good: Linux's Landlock, which needs no privileges.

The three system calls have no wrapper in the C library, and no well-kept Python package; their numbers are the same on
all architectures that run here. See landlock(7), and Documentation/userspace-api/landlock.rst of the kernel.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import stat
import struct
from collections.abc import Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
#: Removing and making of every kind of entry: bits 4 to 12.
_CHANGE_DIR = ((1 << 13) - 1) & ~((1 << 4) - 1)
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_TCP = 0b11
_SCOPES = 0b11  # abstract sockets and signals end at the domain's border

_READING = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE


@functools.cache
def version() -> int:
    """The kernel's Landlock version; 0 where there is none.

    From 1 on it restricts files, from 3 on truncation, from 4 on TCP, from 6 on signals to outside.
    """
    if platform.system() != "Linux":
        return 0
    return max(_syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG), 0)


def restrict(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Restrict this thread, and whatever it starts from now on, to these paths and what lies below them.

    TCP and signals to processes outside are forbidden too where the kernel can. What is open stays open.

    Args:
        readable: files and folders to read and execute; those that do not exist are left out.
        writable: files and folders to read and to write.

    Raises:
        OSError: the kernel refuses, or has no Landlock.
    """
    known = version()
    if known < 1:
        raise OSError("this kernel has no Landlock")
    handled = _READING | _WRITE_FILE | _CHANGE_DIR | (_REFER if known >= 2 else 0) | (_TRUNCATE if known >= 3 else 0)
    attributes = struct.pack("=QQQ", handled, _TCP, _SCOPES)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = _checked(_CREATE_RULESET, attributes, size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READING & handled)
        for path in writable:
            _allow(ruleset, path, handled)
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs was refused")
        _checked(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _OF_FILES
        _checked(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, handle), 0)
    finally:
        os.close(handle)


def _checked(number: int, *arguments: object) -> int:
    result = _syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result


def _syscall(number: int, *arguments: object) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return int(library.syscall(ctypes.c_long(number), *passed))
