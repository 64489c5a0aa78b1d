"""Jobs are forked from a process with everything imported, and none sees what another one did."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sandbox.test_job import run_candidate
from tilewright.sandbox import forking
from tilewright.sandbox.fork_server import cuda_is_initialised
from tilewright.sandbox.forking import close_all, fork_server, server_pids
from tilewright.sandbox.job import Outcome
from tilewright.sandbox.processes import is_alive


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    close_all()
    yield
    close_all()


def said(body: str, top: str = "") -> str:
    """What a candidate raises in its forward pass."""
    result = run_candidate(top=top, body=body)
    return str(result.parts[0].data["error"]["text"])


def test_one_server_forks_all_jobs_of_an_environment() -> None:
    parents = {said("import os; raise ValueError(open('/proc/self/cmdline').read())") for _ in range(2)}
    assert len(parents) == 1
    assert "train.py" in parents.pop()
    assert len(server_pids()) == 1


def test_jobs_do_not_see_each_other() -> None:
    top = "import os, torch, triton\nos.environ['LEFT'] = '1'\ntorch.set_num_threads(1)\ntriton.left = True\n"
    assert run_candidate(top=top).outcome is Outcome.OK
    assert said("import os, triton; raise ValueError('LEFT' in os.environ, hasattr(triton, 'left'))").endswith(
        "(False, False)"
    )


def test_a_job_has_its_own_folders_and_limits() -> None:
    body = "import os, tempfile; raise ValueError(os.environ['HOME'], os.getcwd(), tempfile.gettempdir())"
    first, second = said(body), said(body)
    assert first != second
    assert os.path.expanduser("~") not in first


def test_a_lost_server_is_an_outcome_and_the_next_job_gets_another() -> None:
    body = "import os; raise ValueError('here')"
    assert "here" in said(body)
    (pid,) = server_pids()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_candidate, "", "import time; time.sleep(60)")
        server = next(one for one in forking.servers() if one.process.pid == pid)
        while not server.jobs:
            pass
        os.kill(pid, signal.SIGKILL)
        assert running.result(timeout=30).outcome is Outcome.CRASH
    assert "here" in said(body)
    assert server_pids() != {pid}


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no such library here')\n")
    server = fork_server({"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)})
    with pytest.raises(forking.ForkServerError, match=r"did not start(.|\n)*no such library here"):
        server.namespaces()


def test_a_fresh_job_imports_everything_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = forking.ForkServer.fork
    monkeypatch.setattr(forking.ForkServer, "fork", lambda self, *args: plain(self, *args, fresh=True))
    text = said("raise ValueError(open('/proc/self/cmdline').read())")
    assert "tilewright.sandbox.child" in text
    assert not cuda_is_initialised()


def test_idle_servers_beyond_three_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    made = [fork_server({**environment, "NUMBER": str(number)}) for number in range(5)]
    assert len(server_pids()) == 3
    assert not is_alive(made[0].process.pid)
    assert is_alive(made[-1].process.pid)
