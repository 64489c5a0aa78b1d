"""Runs emitted modules in Triton's interpreter, changes a parameter or buffer in every way that torch has, runs again.

A script of its own, since the interpreter is chosen by an environment variable before triton is imported; prints
one JSON object for each property, with what failed.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import copy
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.graph.test_canonical import Of  # noqa: E402
from tests.kernels.gemm_interpreted import on_device  # noqa: E402
from tests.kernels.interpreted import load  # noqa: E402
from tests.kernels.properties import drawing, run_properties  # noqa: E402
from tilewright.graph.canonical import simplify  # noqa: E402
from tilewright.graph.capture import capture  # noqa: E402
from tilewright.kernels.conv.plan import ConvTiles  # noqa: E402
from tilewright.kernels.depthwise.plan import DepthwiseTiles  # noqa: E402
from tilewright.kernels.gemm.plan import GemmSchedule  # noqa: E402
from tilewright.kernels.module.classes import write_live_file  # noqa: E402
from tilewright.kernels.module.text import write_forward  # noqa: E402
from tilewright.kernels.operands import Operands  # noqa: E402
from tilewright.kernels.plan import TileLimits  # noqa: E402
from tilewright.kernels.planner import plan_module  # noqa: E402
from tilewright.kernels.steps import PlanOptions  # noqa: E402

#: Operands are rounded to 11 bits where they are float16 or TF32.
ALLOWED = 3e-3


def normalised(m: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    """A layer, a norm, and what follows."""
    return F.leaky_relu(m[1](m[0](x)) * 0.5, 0.1)


class WeightNorm(nn.Module):
    """A linear layer whose weights are computed of parameters in each call, and scaled by another."""

    def __init__(self) -> None:
        super().__init__()
        self.direction, self.length = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.rand(6, 1) + 0.5)
        self.scale = nn.Parameter(torch.rand(5) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 5] -> [N, 6]."""
        weight = self.direction / self.direction.norm(dim=1, keepdim=True) * self.length
        return torch.tanh(F.linear(x * self.scale, weight)) * torch.exp(self.length[:, 0])


#: name -> (module, input): what each kind of kernel makes of parameters.
MODULES: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "convolution": lambda: (Of(normalised, nn.Conv2d(17, 5, 3), nn.BatchNorm2d(5)), torch.randn(2, 17, 5, 6)),
    "joined taps": lambda: (Of(normalised, nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), torch.randn(2, 3, 5, 6)),
    "transposed": lambda: (
        Of(normalised, nn.ConvTranspose2d(4, 5, 4, 2, 1), nn.BatchNorm2d(5)),
        torch.randn(2, 4, 3, 4),
    ),
    "packed columns": lambda: (
        Of(normalised, nn.ConvTranspose2d(4, 5, 4, 2), nn.BatchNorm2d(5)),
        torch.randn(2, 4, 3, 4),
    ),
    "grouped": lambda: (
        Of(normalised, nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)),
        torch.randn(2, 6, 5, 6),
    ),
    "depthwise": lambda: (
        Of(normalised, nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.BatchNorm2d(4)),
        torch.randn(2, 4, 5, 6),
    ),
    "linear": lambda: (Of(normalised, nn.Linear(6, 10), nn.BatchNorm1d(10)), torch.randn(7, 6)),
    "sum of features": lambda: (
        Of(lambda m, x: m[0](x).sum(1, keepdim=True), nn.Linear(6, 10)),
        torch.randn(170, 6),
    ),
    "partial results": lambda: (
        Of(lambda m, x: torch.relu(m[1](m[0](x))).mean([2, 3]), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
        torch.randn(2, 3, 6, 7),
    ),
    "collapsed": lambda: (
        Of(lambda m, x: torch.relu(m[0](x).mean([2, 3])), nn.ConvTranspose2d(3, 4, 3, 2)),
        torch.randn(2, 3, 5, 6),
    ),
    "collapsed groups": lambda: (
        Of(lambda m, x: torch.relu(m[0](x).mean([2, 3])), nn.Conv2d(4, 6, 3, groups=2)),
        torch.randn(2, 4, 5, 6),
    ),
    "norm": lambda: (
        Of(lambda m, x: F.layer_norm(x, (6,), 1.0 + m[0].weight[0], m[0].bias * 2.0), nn.Linear(6, 6)),
        torch.randn(5, 6),
    ),
    "weight norm": lambda: (WeightNorm(), torch.randn(9, 5)),
}

LIMITS = TileLimits(256, 64, 4, 2, 16)
OPTIONS = {
    "native": PlanOptions(limits=LIMITS, sm_count=4),
    "tiles": PlanOptions(limits=LIMITS, sm_count=4, convolution_anchors=True, convolution_tiles=ConvTiles(16, 16)),
    "strips of rows": PlanOptions(
        limits=LIMITS, sm_count=4, convolution_anchors=True, convolution_tiles=ConvTiles(16, 16, 4, 1, rows=3)
    ),
    "stencils": PlanOptions(limits=LIMITS, sm_count=4, depthwise_tiles=DepthwiseTiles()),
    **{
        f"{kind.value} products": PlanOptions(limits=LIMITS, sm_count=4, gemms=(GemmSchedule(kind, 16, 16, 16, 4, 2),))
        for kind in (Operands.HALF, Operands.TF32, Operands.IEEE)
    },
}


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Other values of the same shape, positive as a variance is."""
    return torch.rand(tensor.shape, dtype=torch.float32) + 0.25


def _through_numpy(tensor: torch.Tensor) -> None:
    tensor.detach().numpy()[...] = _like(tensor).numpy()


def _resized(tensor: torch.Tensor) -> None:
    """The storage given back and taken again, as sharded training does; what it holds then is written past torch."""
    storage, size = tensor.untyped_storage(), tensor.untyped_storage().nbytes()
    storage.resize_(0)
    storage.resize_(size)
    _through_numpy(tensor)


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    """The same shape, its dims in memory in reversed order."""
    return _like(tensor).permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))


#: Changes of a tensor in place, most of which no count of versions sees.
IN_PLACE: dict[str, Callable[[torch.Tensor], Any]] = {
    "data.mul_": lambda t: t.data.mul_(3.0),
    "data.clamp_": lambda t: t.data.clamp_(0.1, 0.2),
    "numpy": _through_numpy,
    "copy_": lambda t: t.copy_(_like(t)),
    "set_": lambda t: t.data.set_(_like(t)),
    "own set_": lambda t: t.set_(_like(t)),
    "storage resized": _resized,
    "data replaced": lambda t: setattr(t, "data", _like(t)),
    "data turned": lambda t: setattr(t, "data", _turned(t)),
    "data channels last": lambda t: setattr(
        t, "data", _like(t).contiguous(memory_format=torch.channels_last) if t.dim() == 4 else _like(t)
    ),
    "tiny": lambda t: t.data.mul_(1e-6),
    "large": lambda t: t.data.mul_(1e6),
    "one channel tiny": lambda t: t.data[:1].mul_(1e-7),
}


def replaced(module: nn.Module, name: str) -> None:
    """The parameter or buffer becomes another tensor."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    new = _like(getattr(owner, last))
    setattr(owner, last, nn.Parameter(new) if last in owner._parameters else new)


def error(module: nn.Module, drop_in: nn.Module, x: torch.Tensor) -> float:
    """Of the drop-in on its kernels, relative to the largest output; the module itself stays as it is."""
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(x.double())
    got = on_device(drop_in, [x])
    assert got.shape == expected.shape
    return float((got.double() - expected).abs().max() / expected.abs().max())


def emitted(name: str, how: str) -> tuple[nn.Module, Any, torch.Tensor, str]:
    """A module, its drop-in's class, an input, and the source."""
    module, x = MODULES[name]()
    module.eval()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.running_mean.normal_()
            child.running_var.uniform_(0.5, 2.0)
    plan = plan_module(simplify(capture(module, [x])).graph, OPTIONS[how])
    forward = write_forward(plan)
    source = write_live_file(forward, description="test")
    return module, load(source, f"changed{abs(hash((name, how)))}"), x, source


@drawing(14)
@given(data=st.data())
def every_change_is_seen(data: st.DataObject) -> None:
    """Two changes, one after the other, of any parameters or buffers: the kernels compute with what is there."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    name, how = data.draw(st.sampled_from(sorted(MODULES))), data.draw(st.sampled_from(sorted(OPTIONS)))
    module, new, x, source = emitted(name, how)
    drop_in = new(module)
    assert error(module, drop_in, x) < ALLOWED, f"{name}, {how}, as it was\n{source}"
    done = []
    for _ in range(2):
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        named = data.draw(st.sampled_from(sorted(key for key, value in state.items() if value.is_floating_point())))
        change = data.draw(st.sampled_from([*IN_PLACE, "replaced"]))
        with torch.no_grad():
            replaced(module, named) if change == "replaced" else IN_PLACE[change](state[named])
        done.append(f"{named}: {change}")
        found = error(module, drop_in, x)
        assert found < ALLOWED, f"{name}, {how}, after {'; '.join(done)}: error {found}\n{source}"


def every_change_of_every_tensor() -> None:
    """Each way once, on each tensor of a convolution and of a product."""
    for name, how in (("convolution", "tiles"), ("linear", "half products")):
        module, new, x, source = emitted(name, how)
        drop_in = new(module)
        for named in {**dict(module.named_parameters()), **dict(module.named_buffers())}:
            for change in [*IN_PLACE, "replaced"]:
                tensor = dict(module.state_dict(keep_vars=True))[named]
                if not tensor.is_floating_point():
                    continue
                before = copy.deepcopy(module.state_dict())
                with torch.no_grad():
                    replaced(module, named) if change == "replaced" else IN_PLACE[change](tensor)
                    found = error(module, drop_in, x)
                    assert found < ALLOWED, f"{name}, {named}: {change}: error {found}\n{source}"
                    module.load_state_dict(before)


def copies_are_modules_of_their_own() -> None:
    """A drop-in that was called can be copied, and its tensors pickled; each copy follows its own parameters."""
    module, new, x, _ = emitted("convolution", "tiles")
    drop_in = new(module)
    first = on_device(drop_in, [x])
    twin = copy.deepcopy(drop_in)
    state = pickle.loads(pickle.dumps({key: value for key, value in drop_in.__dict__.items() if key != "reference"}))
    assert not [key for key in state if "prepared" in key], "nothing is kept between calls"
    with torch.no_grad():
        module.children_list[0].weight.data.mul_(2.0)
    assert torch.equal(on_device(twin, [x]), first)
    assert not torch.equal(on_device(drop_in, [x]), first)
    assert error(module, drop_in, x) < ALLOWED


PROPERTIES = {
    "every change is seen": every_change_is_seen,
    "every change of every tensor": every_change_of_every_tensor,
    "copies are modules of their own": copies_are_modules_of_their_own,
}


if __name__ == "__main__":
    run_properties(PROPERTIES, sys.argv[1:])
