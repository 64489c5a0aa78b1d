"""The kernels and schedules of the ranking: plain Triton ones, and our emitter's convolutions under many tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.ranking_templates import Item, plain_items
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.conv.plan import ConvTiles
from tilewright.kernels.module.classes import read_reference, write_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.proposers.synthesize import plan_variants
from tilewright.task.module_source import build_module, make_inputs
from tilewright.task.task import ModuleSource
from tilewright.values.precision import PrecisionClass

#: (positions, channels, warps, stages) of a convolution's tile.
_TILES = (
    (16, 16, 1, 2),
    (32, 32, 2, 2),
    (32, 128, 4, 2),
    (64, 16, 4, 2),
    (64, 64, 4, 1),
    (64, 64, 4, 2),
    (64, 64, 2, 2),
    (128, 64, 4, 2),
    (128, 128, 8, 2),
    (128, 16, 8, 2),
)

_MODULE = """import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    def __init__(self, *arguments):
        super().__init__()
        self.conv = nn.{layer}

    def forward(self, x):
        return {expression}


def get_init_inputs():
    return []


def get_inputs():
    return [{inputs}]
"""

#: kind, problem, layer, expression, inputs.
_CONVOLUTIONS = (
    (
        "convolution tiles",
        "64 to 128 channels, 3x3, then mish",
        "Conv2d(64, 128, 3, padding=1)",
        "F.mish(self.conv(x))",
        "torch.rand(64, 64, 64, 64)",
    ),
    (
        "convolution tiles",
        "32 to 64 channels, 5x5 stride 2, then relu",
        "Conv2d(32, 64, 5, stride=2)",
        "F.relu(self.conv(x))",
        "torch.rand(64, 32, 129, 129)",
    ),
    (
        "transposed-convolution tiles",
        "64 to 64 channels, 3x3 stride 2, then tanh",
        "ConvTranspose2d(64, 64, 3, stride=2, padding=1, output_padding=1)",
        "torch.tanh(self.conv(x))",
        "torch.rand(32, 64, 64, 64)",
    ),
    (
        "transposed-convolution tiles",
        "128 to 64 channels, 4x4 stride 2, then gelu",
        "ConvTranspose2d(128, 64, 4, stride=2)",
        "F.gelu(self.conv(x))",
        "torch.rand(32, 128, 32, 32)",
    ),
)


def convolutions(sm_count: int) -> Iterator[Item]:
    """What our emitter writes for convolutions of both kinds, one item for each tile."""
    [anchored, *_] = plan_variants(sm_count, PrecisionClass.TF32)
    for kind, problem, layer, expression, inputs in _CONVOLUTIONS:
        text = _MODULE.format(layer=layer, expression=expression, inputs=inputs)
        source = ModuleSource(text, "Model")
        graph = simplify(capture(build_module(source, device="meta"), make_inputs(source, device="meta"))).graph
        reference = read_reference(text, "Model")
        for positions, channels, warps, stages in _TILES:
            options = replace(anchored, convolution_tiles=ConvTiles(positions, channels, warps, stages))
            forward = write_forward(plan_module(graph, options))
            schedule = f"{positions} positions by {channels} channels, {warps} warps, {stages} stages"
            yield Item(kind, problem, schedule, text, write_file(reference, forward, description=problem))


def all_items(sm_count: int) -> list[Item]:
    """Every kernel and schedule that the ranking measures."""
    return [*plain_items(), *convolutions(sm_count)]
