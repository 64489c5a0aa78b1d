"""The order of plans: what a small search tries must hold every kind of plan."""

from __future__ import annotations

from tilewright.kernels.layout import MemoryFormat
from tilewright.proposers.synthesize import plan_variants
from tilewright.search.effort import find_effort
from tilewright.values import PrecisionClass

#: Other tiles of rows and pooling may come before the plans of `plan_variants`.
OTHERS = 3


def test_native_convolutions_in_both_formats_are_among_the_first() -> None:
    first = plan_variants(132, PrecisionClass.TF32)[: find_effort("quick").predicted - OTHERS]
    native = {options.convolution_format for options in first if not options.convolution_anchors}
    assert native == {MemoryFormat.CHANNELS_LAST, MemoryFormat.CONTIGUOUS}
    assert first[0].convolution_anchors


def test_no_plan_is_there_twice() -> None:
    variants = plan_variants(132, PrecisionClass.TF32)
    assert len(set(variants)) == len(variants)
