"""Compiles the launches of an emitted module for any target, on a machine without a GPU."""

from __future__ import annotations

import copy
import linecache
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tilewright.gate.inside.pretend import pretend
from tilewright.gate.inside.recorder import Recorder
from tilewright.gate.inside.runtime import gpu_figures
from tilewright.gpu import Gpu
from tilewright.graph.canonical import simplify
from tilewright.graph.capture import capture
from tilewright.kernels.module.classes import write_live_file
from tilewright.kernels.module.text import write_forward
from tilewright.kernels.planner import plan_module
from tilewright.kernels.steps import PlanOptions
from tilewright.toolchain import triton_compat


def compile_for(
    module: nn.Module, inputs: Sequence[torch.Tensor], options: PlanOptions, gpu: Gpu, prefix: str = ""
) -> dict[str, triton_compat.Compiled]:
    """Kernel -> what it needs, of every launch of a planned module's forward pass whose kernel's name begins so."""
    plan = plan_module(simplify(capture(module, inputs)).graph, options)
    source = write_live_file(write_forward(plan), description="")
    filename = f"<compiled {abs(hash(source))}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    namespace: dict[str, Any] = {"__name__": "compiled"}
    recorder = Recorder()
    figures = gpu_figures(gpu)
    with pretend(figures, "cpu", poisoned=False):
        exec(compile(source, filename, "exec"), namespace)
        drop_in = namespace["ModelNew"](copy.deepcopy(module).to("meta"))
    with pretend(figures, "meta", poisoned=False), recorder.watching(), torch.no_grad():
        drop_in(*[x.to("meta") for x in inputs])
    with pretend(figures, "meta"):
        return {
            triton_compat.kernel_name(kernel): triton_compat.compile_launch(kernel, args, kwargs)
            for kernel, args, kwargs in recorder.distinct.values()
            if triton_compat.kernel_name(kernel).startswith(prefix)
        }
