"""Whether a candidate takes the reference's state: its names, as `load_state_dict` wants them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def differences(module: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Names by which `module.load_state_dict(state)` would fail.

    Returns:
        `unknown`: of the state, which the module has not; `new`: the module's own parameters, which the state has
        not; `shape`: in other shapes; `buffers`: buffers that only one of the two has.
    """
    own = module.state_dict()
    parameters = {name for name, _ in module.named_parameters()}
    buffers = {name for name in state if name.endswith(("num_batches_tracked", "running_mean", "running_var"))}
    unknown = [name for name in state if name not in own]
    return {
        "unknown": [name for name in unknown if name not in buffers],
        "new": [name for name in own if name not in state and name in parameters],
        "shape": [name for name in own if name in state and own[name].shape != state[name].shape],
        "buffers": [name for name in unknown if name in buffers]
        + [name for name in own if name not in state and name not in parameters],
    }
