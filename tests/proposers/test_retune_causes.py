"""The diagnosis orders what retune tries first, and changes nothing else."""

from __future__ import annotations

import pytest

from tests.proposers.retune_cases import CASES, rules, task_of
from tilewright.diagnosis.table import RULES
from tilewright.proposers.retune import retune
from tilewright.proposers.retune.causes import BOOST, HELPS, boost
from tilewright.proposers.retune.edit import Proposal
from tilewright.proposers.retune.table import STRUCTURE, TUNING


def test_the_table_names_rules_and_edits_that_exist() -> None:
    assert set(HELPS) <= {rule.name for rule in RULES}
    assert {edit for edits in HELPS.values() for edit in edits} <= {edit.name for edit in (*STRUCTURE, *TUNING)}


def test_an_edit_that_acts_on_a_cause_is_worth_more() -> None:
    tiles = Proposal("source", "k: BLOCK=64", 1.0, ("retile",))
    hints = Proposal("source", "k: hints", 1.0, ("cache_hints",))
    assert boost(tiles, ["small-tile", "latency"]) == BOOST
    assert boost(hints, ["small-tile"]) == 1.0
    assert boost(tiles, []) == 1.0


@pytest.mark.parametrize("case", CASES[3:5], ids=lambda case: case.name)
def test_causes_order_the_same_candidates(case: object) -> None:
    given = rules("memory_and_tuning")
    source = case.source  # type: ignore[attr-defined]
    plain = retune(task_of(source, given), source, given, ())
    asked = retune(task_of(source, given), source, given, (), ["latency", "spills"])
    if len(plain) < 40:  # all of them, in another order
        assert {item.digest for item in plain} == {item.digest for item in asked}
    assert asked
