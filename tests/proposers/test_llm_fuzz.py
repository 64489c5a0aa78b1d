"""A sample of `python -m benchmarks.soak replies`: fuzzed replies end as candidates or as faults, and never run."""

from __future__ import annotations

from benchmarks import soak_replies


def test_fuzzed_replies_end_as_candidates_or_faults() -> None:
    record = soak_replies.run(240, seed=7)
    assert record.failures == ()
    assert record.counts["unreadable"] > 50
    assert record.counts["candidate"] > 3
    assert any(name.startswith("wire") for name in record.counts)


def test_the_soak_notices_code_that_runs() -> None:
    with soak_replies.Watch() as watch:
        exec("1 + 1")
    assert any("exec" in event for event in watch.seen)
