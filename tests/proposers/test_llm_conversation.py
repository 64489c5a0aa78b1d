"""The real SDK against a server of our own, the real loop, and a gate whose verdicts are written down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.proposers import llm_server as served
from tests.proposers.llm_server import Act, code, say, serving, status
from tests.search.fakes import Bench, candidate, rejected, task
from tilewright.errors import TilewrightError
from tilewright.proposers.llm.connect import connect
from tilewright.proposers.llm.language_model import LanguageModel
from tilewright.proposers.llm.settings import Budget, Price, Settings
from tilewright.search.exchanges import ExchangeTable, export_exchanges
from tilewright.search.progress import Step
from tilewright.search.run import optimize_task
from tilewright.task.stage import Stage
from tilewright.values.candidate import Origin
from tilewright.values.exchange import Exchange, Fault
from tilewright.values.study import Outcome, Study

REPOSITORY = Path(__file__).resolve().parents[2]


def module(name: str) -> str:
    return f"class ModelNew:\n    {name} = 1\n"


ENGINE, FAST, WRONG, SLOW, CHEAT, OTHER = (module(n) for n in ("engine", "fast", "wrong", "slow", "cheat", "other"))
TIMES = {ENGINE: 8.0, FAST: 4.0, WRONG: 1.0, SLOW: 20.0, CHEAT: 0.1, OTHER: 3.0}
VERDICTS = {WRONG: rejected("wrong by 1.03"), CHEAT: rejected("returns the reference's own output")}


def bench() -> Bench:
    return Bench(TIMES, VERDICTS, synthesized=[candidate(ENGINE)])


def talk(
    tmp_path: Path,
    *,
    settings: Settings | None = None,
    stages: tuple[Stage, ...] = (Stage.BLOCK_TILING,),
    tools: Bench | None = None,
    progress: list[Step] | None = None,
    name: str = "study.sqlite",
    replay: Path | None = None,
    **asked: object,
) -> Study:
    model = connect(settings or one())
    model._asker._sleep = lambda seconds: None
    try:
        return optimize_task(
            task(stages=stages, given="class ModelNew:\n    given = 1\n"),
            tools=(tools or bench()).tools(),
            study=tmp_path / name,
            conversation=model,
            replay=replay,
            progress=progress.append if progress is not None else None,
        )
    finally:
        model.close()


def one(**changed: object) -> Settings:
    return replace(Settings("toy", samples=1, repairs=2, request_s=8.0), **changed)  # type: ignore[arg-type]


def of_llm(study: Study) -> list[tuple[Outcome, str]]:
    return [(t.outcome, t.candidate.source) for t in study.trials if t.candidate.origin is Origin.LLM]


def test_a_better_kernel_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(FAST)) as script:
        study = talk(tmp_path)
    assert study.best is not None
    assert study.best.candidate.source == FAST
    assert study.best.candidate.description == "toy, sample 1 of stage block_tiling"
    assert script.keys == [f"Bearer {served.KEY}"]
    (exchange,) = study.exchanges
    assert (exchange.fault, exchange.candidate) == (None, study.best.candidate.digest)
    assert (exchange.input_tokens, exchange.output_tokens, exchange.estimated) == (1000, 500, False)


@pytest.mark.parametrize("source", [WRONG, CHEAT, SLOW], ids=["wrong", "cheat", "slow"])
def test_what_the_gate_or_the_clock_rejects_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    with serving(monkeypatch, code(source)):
        study = talk(tmp_path, settings=one(repairs=0))
    assert study.best is not None
    assert study.best.candidate.source == ENGINE
    assert [outcome for outcome, _ in of_llm(study)] == [Outcome.REVERTED if source is SLOW else Outcome.REJECTED]


FAULTS: dict[str, tuple[Act, Fault, str]] = {
    "prose": (say("Try larger tiles."), Fault.UNREADABLE, "no code block"),
    "two blocks": (say(f"```python\n{FAST}```\n```python\n{FAST}```"), Fault.UNREADABLE, "2 Python blocks"),
    "another language": (say("```cuda\n__global__ void k() {}\n```"), Fault.UNREADABLE, "'cuda', not Python"),
    "another class": (code("class Model: ..."), Fault.UNREADABLE, "no class `ModelNew`"),
    "no Python": (code("class ModelNew(:"), Fault.UNREADABLE, "does not parse"),
    "unclosed": (say("```python\nclass ModelNew: ..."), Fault.UNREADABLE, "never closed"),
    "truncated": (say("```python\nclass ModelNew:", finish="length"), Fault.TRUNCATED, "token limit"),
    "empty": (say(""), Fault.EMPTY, "no text"),
    "half a character": (say(f"```python\n{FAST}# \ud800\n```"), Fault.INVALID_TEXT, "half characters"),
    "refusal": (served.refuse("I cannot help"), Fault.REFUSAL, "I cannot help"),
    "filter": (say("", finish="content_filter"), Fault.REFUSAL, "filtered"),
    "hang": (served.hang(1.0), Fault.TIMEOUT, "in the time allowed"),
    "trickle": (served.trickle(1.0), Fault.TIMEOUT, "in the time allowed"),
    "429": (status(429, "slow down"), Fault.RATE_LIMIT, "HTTP 429"),
    "429, come again": (status(429, "slow down", Retry_After="1"), Fault.RATE_LIMIT, "HTTP 429"),
    "429, next year": (status(429, "slow down", Retry_After="31536000"), Fault.RATE_LIMIT, "HTTP 429"),
    "500": (status(500, "oops"), Fault.SERVER_ERROR, "HTTP 500"),
    "503": (status(503, "oops"), Fault.SERVER_ERROR, "HTTP 503"),
    "cut in the middle": (served.cut_after("```python\nclass"), Fault.STREAM_CUT, "middle of the reply"),
    "cut before": (served.cut_after(""), Fault.CONNECTION, "no reply"),
    "error in the stream": (served.raw(b'data: {"error": {"message": "full"}}\n\n'), Fault.SERVER_ERROR, "full"),
    "50 MB": (served.flood(50, in_one_line=False), Fault.TOO_LARGE, "more than"),
    "50 MB in a line": (served.flood(50, in_one_line=True), Fault.TOO_LARGE, "16 MB"),
    "not UTF-8": (served.raw(b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n'), Fault.INVALID_TEXT, "UTF-8"),
    "not JSON": (served.raw(b"data: {nope\n\n"), Fault.INVALID_TEXT, "not the protocol"),
    "not the protocol": (served.raw(b'data: {"choices": 3}\n\n'), Fault.INVALID_TEXT, "not the protocol"),
    "the key": (status(401, f"bad key {served.KEY}"), Fault.REFUSED_REQUEST, "bad key [key]"),
    "no such model": (status(404, "no model toy"), Fault.REFUSED_REQUEST, "no model toy"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=list(FAULTS))
def test_each_fault_is_bounded_and_named_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    act, kind, words = FAULTS[fault]
    with serving(monkeypatch, act) as script:
        study = talk(tmp_path, settings=one(repairs=1, attempts=2, request_s=0.5 if kind is Fault.TIMEOUT else 8.0))
    assert study.best is not None
    assert study.best.candidate.source == ENGINE
    assert {exchange.fault for exchange in study.exchanges} == {kind}
    assert 1 <= len(script.requests) <= 2
    assert any(str(kind) in note and words in note for note in study.notes), study.notes
    assert not of_llm(study)


def test_a_server_that_recovers_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, status(429, Retry_After="0"), served.cut_after("half"), code(FAST)) as script:
        study = talk(tmp_path)
    assert len(script.requests) == 3
    assert [exchange.position.attempt for exchange in study.exchanges] == [0, 1, 2]
    assert study.best is not None
    assert study.best.candidate.source == FAST


def test_a_server_that_is_gone_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, status(500)) as script:
        study = talk(tmp_path, settings=one(samples=4, attempts=1), stages=(Stage.BLOCK_TILING, Stage.MEMORY_ACCESS))
    assert len(script.requests) == 4  # all samples of the first stage, none after
    assert any("left alone after 4 conversations" in note or "left alone after 3" in note for note in study.notes)


def test_older_servers_are_asked_in_their_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = (status(400, "unknown field stream_options"), status(400, "unknown field max_completion_tokens"))
    with serving(monkeypatch, *refuses, code(FAST)) as script:
        study = talk(tmp_path)
    assert study.best is not None
    assert study.best.candidate.source == FAST
    assert "stream_options" not in script.requests[-1]
    assert script.requests[-1]["max_tokens"] == 16_000


# Repair.


def test_a_repair_that_succeeds_on_its_second_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(WRONG), code(FAST)) as script:
        study = talk(tmp_path)
    assert [outcome for outcome, _ in of_llm(study)] == [Outcome.REJECTED, Outcome.KEPT]
    assert "correctness.value" in script.prompts[1]
    assert "wrong by 1.03" in script.prompts[1]
    roles = [message["role"] for message in script.requests[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert study.exchanges[1].position.round == 1


def test_a_repair_that_never_succeeds_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(WRONG)) as script:
        study = talk(tmp_path, settings=one(repairs=3))
    assert len(script.requests) == 2  # a model that repeats rejected code has no better
    wrongs = [code(f"{WRONG}# {number}\n") for number in range(9)]
    verdicts = {f"{WRONG}# {number}\n": rejected() for number in range(9)}
    tools = Bench({**TIMES, **dict.fromkeys(verdicts, 1.0)}, verdicts, synthesized=[candidate(ENGINE)])
    with serving(monkeypatch, *wrongs) as script:
        study = talk(tmp_path, settings=one(repairs=3), tools=tools, name="other.sqlite")
    assert len(script.requests) == 4
    assert study.best is not None
    assert study.best.candidate.source == ENGINE


def test_a_reply_that_cannot_be_read_is_sent_back_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, say("Use bigger tiles."), code("class Net: ..."), code(FAST)) as script:
        study = talk(tmp_path)
    assert "there is no code block" in script.prompts[1]
    assert "no class `ModelNew`" in script.prompts[2]
    assert study.best is not None
    assert study.best.candidate.source == FAST


def test_samples_are_asked_at_once_and_the_best_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(FAST), code(OTHER), code(WRONG), code(SLOW)) as script:
        study = talk(tmp_path, settings=one(samples=4, repairs=0))
    assert len(script.requests) == 4
    assert len({json.dumps(request["messages"]) for request in script.requests}) == 1
    assert study.best is not None
    assert study.best.candidate.source == OTHER


def test_each_stage_starts_from_the_best_code_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(FAST), code(OTHER)) as script:
        study = talk(tmp_path, stages=(Stage.BLOCK_TILING, Stage.ADVANCED_MEMORY))
    assert "engine = 1" in script.prompts[0]
    assert "fast = 1" in script.prompts[1]
    assert "## advanced_memory" in script.prompts[1]
    assert "sample 1 of stage block_tiling: kept" in script.prompts[1]
    assert study.best is not None
    assert study.best.candidate.source == OTHER


# Budgets.


def test_requests_are_counted_and_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Step] = []
    with serving(monkeypatch, say("prose")) as script:
        study = talk(tmp_path, settings=one(repairs=5, budget=Budget(requests=3)), progress=steps)
    assert len(script.requests) == 3
    assert any("the budget of 3 requests is spent" in note for note in study.notes)
    assert any("2 of 3 requests" in str(step) for step in steps)
    assert study.best is not None
    assert study.best.candidate.source == ENGINE


def test_tokens_are_counted_and_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(tokens=4200)
    with serving(monkeypatch, say("prose", tokens=(1000, 1000))) as script:
        study = talk(tmp_path, settings=one(repairs=5, budget=budget))
    assert len(script.requests) == 2
    limits = [request["max_completion_tokens"] for request in script.requests]
    assert limits[0] <= 3200
    assert limits[1] <= 1200
    assert any("the budget of 4200 tokens has no room" in note for note in study.notes)


def test_dollars_are_counted_and_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Step] = []
    settings = one(repairs=5, budget=Budget(cost_usd=0.024), price=Price(1.0, 10.0))
    with serving(monkeypatch, say("prose", tokens=(1000, 1000))) as script:
        study = talk(tmp_path, settings=settings, progress=steps)
    assert len(script.requests) == 2
    assert sum(exchange.cost_usd or 0.0 for exchange in study.exchanges) == pytest.approx(0.022)
    assert any("the budget of $0.024 has no room" in note for note in study.notes)
    assert any("$0.0110 of $0.024" in str(step) for step in steps)


def test_time_is_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, served.hang(0.3)) as script:
        study = talk(tmp_path, settings=one(request_s=30.0, attempts=9, budget=Budget(seconds=0.2)))
    assert len(script.requests) == 1
    assert any("timeout" in note for note in study.notes)


def test_a_server_that_does_not_count_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, say("prose " * 100, tokens=None)):
        study = talk(tmp_path, settings=one(repairs=0))
    (exchange,) = study.exchanges
    assert exchange.estimated
    assert exchange.output_tokens == 200
    assert exchange.input_tokens > 300


# Resume, replay, export.


def spoken(study: Study) -> list[tuple[object, ...]]:
    return [(e.position, e.reply, e.fault, e.candidate) for e in study.exchanges]


def test_a_run_that_is_repeated_pays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(WRONG), say("prose"), code(FAST)) as script:
        first = talk(tmp_path)
        asked = len(script.requests)
        second = talk(tmp_path)
        assert len(script.requests) == asked == 3
    assert all(exchange.resumed for exchange in second.exchanges)
    assert spoken(second) == spoken(first)
    assert any("0 exchanges now, 3 from the study; 3 of 32 requests" in note for note in second.notes)


def test_faults_on_the_way_to_a_paid_reply_are_not_paid_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, status(500), code(FAST)) as script:
        talk(tmp_path)
        talk(tmp_path)
    assert len(script.requests) == 2


def test_a_fault_that_nobody_was_paid_for_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, status(500), code(FAST)) as script:
        talk(tmp_path, settings=one(attempts=1))
        study = talk(tmp_path, settings=one(attempts=1))
    assert len(script.requests) == 2
    assert study.best is not None
    assert study.best.candidate.source == FAST


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.proposers import test_llm_conversation as c

bench = c.bench()
calls = []
gate = bench._gate

def slow(task, candidate, effort, say):
    if candidate.source == c.WRONG:
        print("at the gate", flush=True)
        signal.pause()
    return gate(task, candidate, effort, say)

bench._gate = slow
c.talk(Path(sys.argv[1]), settings=c.one(repairs=2), tools=bench)
"""


def test_a_kill_in_the_middle_repeats_no_paid_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, say("prose"), code(WRONG), code(FAST)) as script:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, env=dict(os.environ)
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"at the gate\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(script.requests) == 2
        study = talk(tmp_path)
        assert len(script.requests) == 3
    assert [exchange.resumed for exchange in study.exchanges] == [True, True, False]
    assert study.best is not None
    assert study.best.candidate.source == FAST


def test_a_budget_counts_what_an_earlier_run_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, say("prose")) as script:
        talk(tmp_path, settings=one(repairs=1))
        study = talk(tmp_path, settings=one(repairs=9, budget=Budget(requests=3)))
    assert len(script.requests) == 3
    assert any("the budget of 3 requests is spent" in note for note in study.notes)


def test_a_study_is_replayed_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, status(500), code(WRONG), code(FAST)):
        recorded = talk(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    path = tmp_path / "study.sqlite"
    again = talk(tmp_path, settings=one(model=f"replay:{path}"), name="fresh.sqlite", replay=path)
    assert spoken(again) == spoken(recorded)
    assert again.best is not None
    assert again.best.candidate.source == FAST
    assert len(export_exchanges(tmp_path / "fresh.sqlite")) == 3


def test_a_replay_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(WRONG)):
        talk(tmp_path, settings=one(repairs=0))
    path = tmp_path / "study.sqlite"
    again = talk(tmp_path, settings=one(model=f"replay:{path}"), name="fresh.sqlite", replay=path)
    assert [exchange.fault for exchange in again.exchanges] == [None, Fault.NOT_RECORDED]
    assert any("repair 1: not recorded" in note for note in again.notes)


def test_exchanges_are_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(FAST)):
        study = talk(tmp_path)
    (exported,) = export_exchanges(tmp_path / "study.sqlite")
    assert isinstance(exported, dict)
    assert exported["reply"] == study.exchanges[0].reply
    with pytest.raises(TilewrightError, match="no such study"):
        export_exchanges(tmp_path / "none.sqlite")


def test_a_table_that_fails_costs_memory_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: ExchangeTable, exchange: Exchange) -> None:
        assert self._connection is not None
        self._connection.close()
        original(self, exchange)

    original = ExchangeTable.put
    monkeypatch.setattr(ExchangeTable, "put", put)
    with serving(monkeypatch, code(FAST)):
        study = talk(tmp_path)
    assert study.best is not None
    assert study.best.candidate.source == FAST
    assert any("exchanges were not kept any more" in note for note in study.notes)


def test_the_log_of_another_task_is_not_taken_for_this_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, code(FAST)) as script:
        talk(tmp_path)
        model = LanguageModel(one(), "other", connect(one())._server)
        optimize_task(
            task(stages=(Stage.BLOCK_TILING,), given="class ModelNew:\n    given = 1\n"),
            tools=bench().tools(),
            study=tmp_path / "study.sqlite",
            conversation=model,
        )
        model.close()
    assert len(script.requests) == 2
