"""The measuring session, with a child that plays its part in a thread: orders, deaths, and who is charged with them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.search.fakes import candidate, task
from tilewright.measure import session
from tilewright.measure.clock import REFERENCE
from tilewright.measure.metronome import Beat
from tilewright.measure.peers import PEERS, Peer
from tilewright.measure.session import ClockSession
from tilewright.sandbox.job import JobResult, Outcome
from tilewright.values.candidate import Candidate


class Died(Exception):
    pass


class Children:
    """Measuring processes by the sources that they are asked for: a source says what happens."""

    def __init__(self) -> None:
        self.started = 0
        self.orders: list[list[str]] = []
        self.peers: list[list[str]] = []
        self.dies_with = ""

    def run_job(self, job: Mapping[str, Any], *, stop: Callable[[], bool], **_: object) -> JobResult:
        self.started += 1
        try:
            self._serve(Beat(job["beat"]))
        except (Died, OSError):
            return JobResult(Outcome.CRASH, "its process was killed by signal 11", (), -11, "", "", 1.0, ())
        return JobResult(Outcome.OK, "", (), 0, "", "", 1.0, ())

    def _serve(self, beat: Beat) -> None:
        while order := beat.tell({"ready": True, "gpu": "Some GPU"}):
            asked = json.loads(Path(order["order"]).read_text())
            sources = {label: data["source"] for label, data in asked["candidates"].items()}
            peers = [Peer(**data).name for data in asked["peers"]]
            self.orders.append(list(sources.values()))
            self.peers.append(peers)
            for name in peers:
                beat.tell({"begin": name})
                if name == self.dies_with:
                    raise Died
            for label, source in sources.items():
                beat.tell({"begin": label})
                if source.startswith("dies in warm-up"):
                    raise Died
            beat.tell({"begin": ""})
            if any(source.startswith("dies later") for source in sources.values()):
                raise Died
            for label in [REFERENCE, *peers, *sources]:
                failure = "RuntimeError: no" if sources.get(label) == "raises" else ""
                for calls in (10, 20):
                    beat.timed(label, calls, lambda: None)
                samples = [] if failure else [2.0] * 5
                times = {"samples_ms": samples, "calls_ms": samples}
                beat.tell({"label": label, **times, "failure": failure, "method": "fake"})


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    found = Children()
    monkeypatch.setattr(session, "require_gpu", lambda: None)
    monkeypatch.setattr(session, "run_job", found.run_job)
    return found


def digests(*candidates: Candidate) -> set[str]:
    return {item.digest for item in candidates}


def test_orders_are_measured_in_one_process_beside_the_reference(children: Children) -> None:
    a, b = candidate("a"), candidate("b")
    with ClockSession(task()) as clock:
        first = clock.measure([a], "quick")
        second = clock.measure([b, a, b], "none")
    assert children.started == 1
    assert children.orders == [["a"], ["b", "a"]]
    assert set(first.measured) == {REFERENCE} | digests(a)
    assert set(second.measured) == {REFERENCE} | digests(a, b)
    assert second.measured[a.digest].gpu == "Some GPU"
    assert not first.failures


def test_peers_are_measured_beside_the_candidates(children: Children) -> None:
    a = candidate("a")
    with ClockSession(task()) as clock:
        first = clock.measure([], "quick", PEERS[:2], 30.0)
        second = clock.measure([a], "quick", PEERS[:1], 30.0)
    assert set(first.measured) == {REFERENCE, PEERS[0].name, PEERS[1].name}
    assert set(second.measured) == {REFERENCE, PEERS[0].name} | digests(a)
    assert children.started == 1


def test_a_peer_that_ends_the_process_is_left_out_from_then_on(children: Children) -> None:
    children.dies_with = PEERS[1].name
    a = candidate("a")
    with ClockSession(task()) as clock:
        first = clock.measure([a], "quick", PEERS[:2], 30.0)
        second = clock.measure([a], "quick", PEERS[:2], 30.0)
    for report in (first, second):
        assert set(report.measured) == {REFERENCE, PEERS[0].name} | digests(a)
        assert "signal 11" in report.failures[PEERS[1].name]
    assert children.peers == [[PEERS[0].name, PEERS[1].name], [PEERS[0].name], [PEERS[0].name]]


def test_what_raises_has_a_reason_and_no_time(children: Children) -> None:
    bad, good = candidate("raises"), candidate("good")
    with ClockSession(task()) as clock:
        report = clock.measure([bad, good], "quick")
    assert report.failures == {bad.digest: "RuntimeError: no"}
    assert good.digest in report.measured


def test_who_dies_in_its_warm_up_is_charged_alone(children: Children) -> None:
    bad, good, other = candidate("dies in warm-up"), candidate("good"), candidate("other")
    with ClockSession(task()) as clock:
        report = clock.measure([good, bad, other], "quick")
    assert "signal 11" in report.failures[bad.digest]
    assert set(report.measured) == {REFERENCE} | digests(good, other)
    assert children.started == 2


def test_a_death_among_many_is_found_by_measuring_each_alone(children: Children) -> None:
    bad, good, other = candidate("dies later"), candidate("good"), candidate("other")
    with ClockSession(task()) as clock:
        report = clock.measure([good, bad, other], "quick")
    assert set(report.failures) == digests(bad)
    assert set(report.measured) == {REFERENCE} | digests(good, other)


def test_a_reference_that_cannot_be_measured_fails_everything_at_once(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(job: object, **_: object) -> JobResult:
        children.started += 1
        return JobResult(Outcome.MEMORY, "it ran out of memory", (), 1, "", "", 1.0, ())

    monkeypatch.setattr(session, "run_job", dead)
    asked = [candidate("a"), candidate("b"), candidate("c")]
    with ClockSession(task()) as clock:
        report = clock.measure(asked, "quick")
    assert set(report.failures) == digests(*asked)
    assert children.started == 1


def test_a_child_that_hangs_is_left_behind(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hanging(job: Mapping[str, Any], *, stop: Callable[[], bool], **_: object) -> JobResult:
        beat = Beat(job["beat"])
        order = beat.tell({"ready": True, "gpu": "Some GPU"})
        beat.tell({"begin": next(iter(json.loads(Path(order["order"]).read_text())["candidates"]))})
        while not stop():
            ended.wait(0.01)
        ended.set()
        return JobResult(Outcome.TIMEOUT, "it was killed", (), None, "", "", 1.0, ())

    monkeypatch.setattr(session, "run_job", hanging)
    monkeypatch.setattr(session, "_EACH_S", 0.1)
    monkeypatch.setattr(session, "_LEAVE_S", 0.1)
    with ClockSession(task()) as clock:
        report = clock.measure([candidate("a")], "quick")
    assert ended.is_set()
    assert "killed" in report.failures[candidate("a").digest] or "in time" in report.failures[candidate("a").digest]


@pytest.mark.gpu
def test_a_session_measures_the_reference_on_a_gpu() -> None:
    from tests.measure.test_clock import NEW, module_source
    from tests.measure.test_clock import task as real_task
    from tilewright.task.task import InputSpec
    from tilewright.values.candidate import Origin

    big = module_source(init_args=(2048, 0.5), inputs=(InputSpec("rand", (4096, 2048)),))
    same = Candidate(NEW, Origin.FILE, "the same")
    with ClockSession(real_task(reference=big)) as clock:
        for _ in range(2):
            report = clock.measure([same], "scout")
            ratio = report.measured[same.digest].median_ms / report.measured[REFERENCE].median_ms
            assert 0.5 < ratio < 2
    assert torch.cuda.is_available()
