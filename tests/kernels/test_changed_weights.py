"""Parameters change in every way between calls: emitted kernels compute with what is there."""

from __future__ import annotations

import pytest

from tests.kernels.properties import check_property


@pytest.mark.parametrize(
    "name", ["every change is seen", "every change of every tensor", "copies are modules of their own"]
)
def test_nothing_of_parameters_is_kept_between_calls(name: str) -> None:
    check_property("changed_weights_interpreted.py", name, {"OMP_NUM_THREADS": "1"})
