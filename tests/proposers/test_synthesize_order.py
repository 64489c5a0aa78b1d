"""The order of plans: what a small search tries must hold every kind of plan."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.graph.graph import Graph
from tilewright.kernels.layout import MemoryFormat
from tilewright.proposers.synthesize import plan_variants, with_depthwise
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


def _graph(groups: int) -> Graph:
    """[2, 8, 9, 9] through a convolution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return simplify(capture(nn.Conv2d(8, 8, 3, groups=groups).eval(), [torch.randn(2, 8, 9, 9)])).graph


@pytest.mark.parametrize("precision", [PrecisionClass.TF32, PrecisionClass.IEEE])
def test_stencils_come_first_and_native_convolutions_in_both_formats_soon_after(precision: PrecisionClass) -> None:
    variants = with_depthwise(plan_variants(132, precision), _graph(8))
    assert len(set(variants)) == len(variants)
    first = variants[: find_effort("quick").predicted - OTHERS]
    assert first[0].depthwise_tiles is not None
    assert "depthwise convolutions as stencils" in first[0].describe()
    native = {options.convolution_format for options in first if options.depthwise_tiles is None}
    assert native == {MemoryFormat.CHANNELS_LAST, MemoryFormat.CONTIGUOUS}
    assert not any(options.convolution_anchors for options in variants if options.depthwise_tiles is None)


def test_without_depthwise_convolutions_nothing_changes() -> None:
    variants = plan_variants(132, PrecisionClass.TF32)
    assert with_depthwise(variants, _graph(4)) == list(variants)
