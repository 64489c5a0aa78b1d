"""Steps of a planned forward pass, and the options that distinguish one plan from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.fx as torch_fx

from tilewright.graph.graph import Graph
from tilewright.kernels.collapse.plan import CollapsePlan, CollapseTiles
from tilewright.kernels.conv.plan import (
    ConvPlan,
    ConvTiles,
)
from tilewright.kernels.depthwise.plan import DepthwisePlan, DepthwiseTiles
from tilewright.kernels.gemm.plan import GemmPlan, GemmSchedule
from tilewright.kernels.plan import FusedPlan, TileLimits
from tilewright.kernels.pool.plan import PoolPlan, PoolTiles
from tilewright.kernels.regions.layout import MemoryFormat
from tilewright.kernels.rows.plan import RowPlan
from tilewright.kernels.rows.rules import RowOptions


@dataclass(frozen=True)
class PlanOptions:
    """What distinguishes one plan of a module from another.

    Attributes:
        convolution_format: memory format in which native convolutions run.
        limits: tile limits of fused kernels.
        sm_count: of the target; reductions with fewer programs than fill it are split.
        approximate: activations may use approximations, as behind products rounded to 11 bits.
        convolution_anchors: convolutions become kernels of ours, with what follows them, in operands of 16 bits and
            float32 accumulators.
        convolution_dtypes: types of the operands of those that may; float32 is multiplied as float16 (the tf32 class).
        convolution_tiles: their tiles.
        gemms: schedules of matrix products that become kernels of ours, in execution order; the last one holds for
            all that follow, and without any they stay native.
        collapse_tiles: tiles of collapsed convolutions.
        rows: tiles of normalisations, the softmax family and scans; None leaves them to PyTorch.
        pool_tiles: tiles of pooling.
        depthwise_tiles: tiles of depthwise convolutions as stencils; None leaves them to the other rules.
    """

    convolution_format: MemoryFormat = MemoryFormat.CHANNELS_LAST
    limits: TileLimits = field(default_factory=TileLimits)
    sm_count: int = 128
    approximate: bool = False
    convolution_anchors: bool = False
    convolution_dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
    convolution_tiles: ConvTiles = field(default_factory=ConvTiles)
    gemms: tuple[GemmSchedule, ...] = ()
    collapse_tiles: CollapseTiles = field(default_factory=CollapseTiles)
    rows: RowOptions | None = field(default_factory=RowOptions)
    pool_tiles: PoolTiles = field(default_factory=PoolTiles)
    depthwise_tiles: DepthwiseTiles | None = None

    def describe(self) -> str:
        """One line for people."""
        tiles = self.depthwise_tiles
        return (
            f"{f'depthwise convolutions as stencils, {tiles.describe()}; ' if tiles else ''}{self._describe_others()}"
        )

    def _describe_others(self) -> str:
        if self.gemms:
            return f"products as anchors: {'; '.join(dict.fromkeys(gemm.describe() for gemm in self.gemms))}"
        if self.convolution_anchors:
            return f"convolutions as anchors, {self.convolution_tiles.describe()}"
        return (
            f"native convolutions {self.convolution_format.value}, tiles of {self.limits.tile}, "
            f"{self.limits.num_warps} warps, {self.rows.describe() if self.rows else 'rows native'}"
        )


@dataclass(frozen=True)
class NativeStep:
    """One operation that stays with PyTorch."""

    node: torch_fx.Node


@dataclass(frozen=True)
class FusedStep:
    """One fused kernel; its result stands for the region's root."""

    plan: FusedPlan | RowPlan | PoolPlan | DepthwisePlan

    @property
    def node(self) -> torch_fx.Node:
        """The node whose value it computes."""
        return self.plan.root if isinstance(self.plan, PoolPlan | DepthwisePlan) else self.plan.region.root


@dataclass(frozen=True)
class ConvStep:
    """A convolution and what follows it, in one kernel."""

    plan: ConvPlan

    @property
    def node(self) -> torch_fx.Node:
        """The node whose value it computes."""
        return self.plan.result or self.plan.region.root


@dataclass(frozen=True)
class CollapseStep:
    """A collapsed convolution and what follows it, in one launch."""

    plan: CollapsePlan

    @property
    def node(self) -> torch_fx.Node:
        """The node whose value it computes."""
        return self.plan.region.root


@dataclass(frozen=True)
class GemmStep:
    """A matrix product and what follows it, in one kernel; it may have several results."""

    plan: GemmPlan

    @property
    def node(self) -> torch_fx.Node:
        """The first node whose value it computes."""
        return self.plan.outputs[0]


KernelPlan = FusedPlan | RowPlan | PoolPlan | DepthwisePlan | ConvPlan | GemmPlan | CollapsePlan
Step = NativeStep | FusedStep | ConvStep | GemmStep | CollapseStep


@dataclass(frozen=True)
class ModulePlan:
    """All steps of a forward pass, in order.

    Attributes:
        graph: the canonical graph.
        steps: in execution order.
        formats: memory format of the results of native convolutions.
        native: names for people of the operations that compute and stay native.
        approximate: activations may be approximate.
    """

    graph: Graph
    steps: tuple[Step, ...]
    formats: Mapping[torch_fx.Node, MemoryFormat]
    native: tuple[str, ...]
    approximate: bool = False

    @property
    def fused(self) -> tuple[KernelPlan, ...]:
        """The plans of all steps that are kernels of ours."""
        return tuple(step.plan for step in self.steps if not isinstance(step, NativeStep))
