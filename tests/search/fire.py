"""The store under fire: writers in processes of their own, killed at any moment; what they finished must be there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: A writer: puts trials into the study for as long as it lives, and notes each key once it is stored.
WRITER = """
import os, sys, time
from pathlib import Path
from tilewright.search.opening import open_memory
from tilewright.search.records import Evaluation, TrialRecord, canonical

study, notes, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
done = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
with open_memory(study, None) as memory:
    for number in range(1_000_000):
        key, source = f"{name}-{number}", "x = 1\\n" * 400
        memory.store.put_record(TrialRecord(key, "t", "fire", "rtx-4090", key, source, "a trial", "",
                                            canonical(Evaluation()), "{}", time.time()))
        os.write(done, f"{key}\\n".encode())
"""


@dataclass(frozen=True)
class Fire:
    """What was left.

    Attributes:
        kills: writers that were killed.
        finished: trials whose writer was told that they are stored.
        lost: of those, the ones that the study does not have.
        whole: SQLite's own check of the file.
    """

    kills: int
    finished: int
    lost: tuple[str, ...]
    whole: str


def under_fire(folder: Path, *, writers: int, kills: int, seed: int, most_s: float = 600.0) -> Fire:
    """So many writers at once on one study; each that is killed is followed by another, until `kills` were."""
    generator = random.Random(seed)
    study, notes = folder / "study.sqlite", folder / "finished"
    notes.touch()
    alive: list[subprocess.Popen[bytes]] = []
    count = killed = 0
    stop = time.monotonic() + most_s
    try:
        while killed < kills and time.monotonic() < stop:
            while len(alive) < writers:
                alive.append(_writer(study, notes, f"w{count}"))
                count += 1
            while not notes.stat().st_size and time.monotonic() < stop:
                time.sleep(0.02)  # on a busy machine the first writer takes its time
            time.sleep(generator.uniform(0.0, 4.0 / writers))
            victim = generator.choice(alive)
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            alive.remove(victim)
            killed += 1
    finally:
        for process in alive:
            process.kill()
            process.wait()
    return _left(study, notes, killed)


def _writer(study: Path, notes: Path, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER, str(study), str(notes), name]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


def _left(study: Path, notes: Path, killed: int) -> Fire:
    from tilewright.search.opening import open_memory

    finished = [line for line in notes.read_text().split("\n") if line]
    with open_memory(study, None) as memory:
        assert memory.store is not None
        lost = tuple(key for key in finished if memory.find(key) is None)
        whole = str(memory.store._connection.execute("PRAGMA integrity_check").fetchone()[0])
    return Fire(killed, len(finished), lost, whole)
