"""A fixed sample of damaged texts against every reader; `python -m benchmarks.soak fuzz` takes 100,000."""

from __future__ import annotations

import pytest

from tests.fuzz.readers import READERS, Reader, outcome
from tests.fuzz.texts import damaged


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damage_ends_in_an_answer_or_a_refusal(reader: Reader) -> None:
    failures = {}
    for number in range(60):
        ended = outcome(reader, damaged(reader.seeds(), number))
        if ended.kind == "failure":
            failures[ended.text] = number
    assert not failures


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_what_is_right_is_accepted(reader: Reader) -> None:
    """Damage must start from texts that get through, or it never reaches what lies deeper."""
    assert any(outcome(reader, text).kind == "accepted" for text in reader.seeds())


def test_the_watch_sees_writes_and_what_never_ends(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.fuzz.readers.LIMIT_S", 0.2)

    def writes(text: str) -> None:
        (tmp_path / "written").write_text(text)

    def hangs(text: str) -> None:
        while True:
            pass

    def breaks(text: str) -> None:
        raise KeyError(text)

    for read in (writes, hangs, breaks):
        assert outcome(Reader("x", read, lambda: ("a",)), "a").kind == "failure"


def test_damage_is_repeatable() -> None:
    seeds = READERS[0].seeds()
    assert [damaged(seeds, n) for n in range(20)] == [damaged(seeds, n) for n in range(20)]
