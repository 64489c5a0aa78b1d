"""`tilewright explain RULE`: what a rule of the diagnosis looks at, and where its threshold comes from."""

from __future__ import annotations

from tilewright.diagnosis.table import RULES
from tilewright.gate.checks import explain as checks


def all_names() -> tuple[str, ...]:
    """Names of the gate's checks, then of the diagnosis' rules, in their orders."""
    return (*(check.name for check in checks.all_checks()), *(rule.name for rule in RULES))


def explain(name: str) -> str:
    """What a check or a rule does and why, as text.

    Raises:
        UnknownCheckError: neither has that name; the nearest names are offered.
    """
    rule = next((rule for rule in RULES if rule.name == name), None)
    if rule is None:
        return checks.explain(name, [rule.name for rule in RULES])
    limit = rule.threshold
    words = (rule.look.__doc__ or "").strip()
    return (
        f"{rule.name} (diagnosis)\n\n{words}\n\nLaw: {rule.law}\n\n"
        f"Fires at: {limit.relation} {limit.value:g} {limit.unit}".rstrip()
        + f"\n\nSource: {limit.source}"
    )
