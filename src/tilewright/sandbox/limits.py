"""What a sandboxed job may use, and how it can end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a job ended."""

    OK = "ok"  #: the wrapper said that it was done
    CRASH = "crash"  #: the process died, or left without a word
    TIMEOUT = "timeout"  #: the deadline passed, or it hung
    MEMORY = "memory"  #: it used more memory than allowed
    PROCESSES = "processes"  #: it started more processes or threads than allowed
    FILES = "files"  #: it wrote more than allowed
    GARBAGE = "garbage"  #: what came back cannot be read


#: The check that says how a candidate's process ended, where that was not well.
CHECK_OF: Mapping[Outcome, str] = {
    outcome: f"sandbox.{outcome.value}" for outcome in Outcome if outcome is not Outcome.OK
}


@dataclass(frozen=True)
class Limits:
    """What a job may use.

    Attributes:
        memory_bytes: of the whole process tree, resident; also private memory of one process, unless `cuda`.
        cuda: the job uses a CUDA device, whose driver maps more addresses than any limit on them allows.
        cpu_s: processor seconds of one process.
        file_bytes: largest file that it may write.
        disk_bytes: of all files together, also of those that it has unlinked and still holds open.
        files: that it may have at a time.
        processes: of its whole tree.
        threads: of its whole tree.
        output_bytes: kept of stdout and of stderr, from the end.
        result_bytes: of one part's tensors.
        parts: that it may send back.
        idle_s: wall seconds in which the whole tree uses next to no processor time, after which it counts as hung; 0
            for a job that may wait.
        quiet_cpu_s: processor seconds of the tree between two parts, after which it counts as hung; 0 for any.
    """

    memory_bytes: int = 8 << 30
    cuda: bool = False
    cpu_s: int = 600
    file_bytes: int = 8 << 30
    disk_bytes: int = 16 << 30
    files: int = 20_000
    processes: int = 64
    threads: int = 4096
    output_bytes: int = 64 << 10
    result_bytes: int = 8 << 30
    parts: int = 20_000
    idle_s: float = 0.0
    quiet_cpu_s: float = 0.0
