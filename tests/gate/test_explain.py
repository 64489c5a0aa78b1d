"""What `tilewright explain` says of each check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tilewright.gate.checks import table as checks
from tilewright.gate.checks.explain import UnknownCheckError, explain, source_of
from tilewright.gate.checks.sources import SOURCES
from tilewright.gate.checks.table import BY_NAME, CHECKS

PACKAGE = Path(checks.__file__).parent


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_says_what_it_does_why_and_where_that_is_known_from(check) -> None:
    text = explain(check.name)
    assert check.what in text
    assert check.why in text
    assert len(source_of(check)) > 10
    assert f"Source: {source_of(check)}" in text


def test_names_are_given_once_and_sources_belong_to_checks() -> None:
    assert len(BY_NAME) == len(CHECKS)
    assert set(SOURCES) <= set(BY_NAME)


def test_every_name_that_the_gate_uses_is_explained() -> None:
    named = set()
    for path in PACKAGE.rglob("*.py"):
        groups = "contract|record|compile|correctness|coverage|cost|inputs|honesty|sandbox"
        named |= set(re.findall(rf'"((?:{groups})[.][a-z_]+)"', path.read_text(encoding="utf-8")))
    assert named - set(BY_NAME) == set()
    assert {name for name in BY_NAME if name.startswith("honesty")} <= named


def test_a_check_that_does_not_exist_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownCheckError) as caught:
        explain("honesty.streems")
    assert "honesty.streams" in caught.value.hint
