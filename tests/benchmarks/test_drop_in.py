"""A sample of the draws of `python -m benchmarks.soak drop_ins`."""

from __future__ import annotations

from benchmarks.soak_drop_ins import draws


def test_drop_ins_do_what_their_modules_do() -> None:
    wrong, summary = draws(16, 7_000)
    assert not wrong
    assert summary["draws"] == 16
    assert any(name.endswith("kernels") for name in summary["by"])
