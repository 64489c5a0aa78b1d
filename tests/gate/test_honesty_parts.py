"""Parts of honesty that decide by themselves: looks, memory, values that look alike, the world, modes, gradients."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.gate.corpus.cases import FOLDER, reference_path
from tilewright.gate.compare import aliases
from tilewright.gate.contract import surroundings as watches
from tilewright.gate.contract.syntax import Source
from tilewright.gate.inside import gradients as gradients_inside
from tilewright.gate.inside import honest_calls, world
from tilewright.gate.inside import modes as modes_inside
from tilewright.gate.inside import states as states_inside
from tilewright.gate.judging import gradients, modes, states
from tilewright.gate.judging.honesty_world import findings_of as world_findings
from tilewright.gate.judging.honesty_world import source_findings
from tilewright.sandbox import disguise
from tilewright.task.load import load_task
from tilewright.values.candidate import Candidate, Origin
from tilewright.values.verdict import Severity

# --- looks ----------------------------------------------------------------------------------------------------

CLASS = "class ModelNew:\n    def forward(self, x):\n        {}\n        return x\n"


@pytest.mark.parametrize(
    "text",
    [
        "import time\n" + CLASS.format("time.perf_counter()"),
        "from time import monotonic as m\n" + CLASS.format("m()"),
        CLASS.format("import sys; sys._getframe(1)"),
        "import sys\nget = sys._getframe\n" + CLASS.format("get(1)"),
        "import sys\n" + CLASS.format("getattr(sys, 'modules')"),
        CLASS.format("assert __name__ != 'judge'"),
        "NAME = __name__\n" + CLASS.format("assert NAME"),
        "import inspect\n" + CLASS.format("inspect.stack()"),
        "import os\n" + CLASS.format("os.environ.get('TRITON_INTERPRET')"),
        "import os\n" + CLASS.format("dict(os.environ)"),
        "import ctypes\n" + CLASS.format("ctypes.CDLL('x')"),
        "import random\ndef help():\n    return random.random()\n" + CLASS.format("help()"),
        "import triton\n" + CLASS.format("triton.knobs.runtime.interpret"),
        "import triton\n@triton.jit\ndef k(p):\n    pass\n" + CLASS.format("type(k).__name__"),
        CLASS.format("eval('1')"),
        CLASS.format("x.f_back"),
    ],
)
def test_what_tells_the_judge_from_the_user_is_named(text: str) -> None:
    assert [one.severity for one in watches.findings_of(text)][:1] == [Severity.ERROR]


@pytest.mark.parametrize(
    "text",
    [
        CLASS.format("pass") + "if __name__ == '__main__':\n    import time\n    print(time.time())\n",
        "import logging\nLOG = logging.getLogger(__name__)\n" + CLASS.format("LOG.debug('x')"),
        "import time\ndef bench():\n    return time.time()\n" + CLASS.format("pass"),
        "import os\nos.environ['A'] = 'b'\nos.environ.setdefault('TRITON_CACHE_DIR', 'x')\n" + CLASS.format("pass"),
        "import sys\n" + CLASS.format("assert sys.version_info > (3, 10)"),
        CLASS.format("name = type(x).__name__"),
        "import torch\n" + CLASS.format("torch.compile(x); torch.cuda.get_device_properties(0)"),
        CLASS.format("'''Looks at tilewright in its words alone.'''"),
    ],
)
def test_what_tells_nothing_is_left_alone(text: str) -> None:
    assert list(watches.findings_of(text)) == []


def test_a_setting_of_its_own_is_a_limit() -> None:
    text = "import os\nDEBUG = os.environ.get('FUSED_DEBUG', '0') == '1'\n" + CLASS.format("pass")
    (found,) = watches.findings_of(text)
    assert (found.severity, "FUSED_DEBUG" in found.message) == (Severity.LIMIT, True)


def test_right_candidates_look_at_nothing() -> None:
    for path in sorted((FOLDER / "right").glob("*.py")):
        assert watches.looks(path.read_text(encoding="utf-8")) == [], path.name


# --- memory ---------------------------------------------------------------------------------------------------


def test_pairs_that_share_memory_are_named() -> None:
    x, whole = torch.ones(4, 6), torch.ones(2, 4, 6)
    assert aliases.shared([x, x], [], {}) == [["output 0", "output 1"]]
    assert aliases.shared([x.view(24)], [x], {"w": whole}) == [["output 0", "input 0"]]
    assert aliases.shared([whole[0], whole[1]], [], {}) == []
    # Interleaved: one extent, no element in common.
    assert aliases.shared([x[:, ::2], x[:, 1::2]], [x.clone()], {}) == []
    assert aliases.shared([x[:, ::2], x[:, 2:3]], [], {}) == [["output 0", "output 1"]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_that_look_alike_are_others(seed: int) -> None:
    values = torch.randn(9, 31)
    other = honest_calls.alike(values, seed)
    assert not torch.equal(values, other)
    assert torch.equal(values.reshape(-1).sort().values, other.reshape(-1).sort().values)
    for place in ((0, 0), (0, -1), (-1, 0), (-1, -1), (0, 5)):
        assert values[place] == other[place]
    assert torch.equal(honest_calls.alike(torch.arange(20), seed), torch.arange(20))
    if seed:
        assert values.sum() == other.sum()


# --- the world -------------------------------------------------------------------------------------------------


def test_what_is_changed_for_everybody_is_named() -> None:
    before = world.state()
    assert world.changed(before, world.state()) == []
    plain = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        (name,) = world.changed(before, world.state())
    finally:
        torch.set_default_dtype(plain)
    assert name.startswith("torch.set_default_dtype")
    (error,) = world_findings({"called": [name]})
    assert error.severity is Severity.ERROR
    (note,) = world_findings({"imported": ["torch.backends.cudnn.benchmark (now True)"]})
    assert note.severity is Severity.NOTE


def test_what_reaches_for_the_device_is_named() -> None:
    text = "from cuda import cudart\ncudart.cudaDeviceSetLimit(6, 1 << 20)\nimport torch\ng = torch.cuda.CUDAGraph()\n"
    found = {one.check: one.severity for one in source_findings(Source.parse(text))}
    assert found["honesty.world"] is Severity.ERROR
    assert ("honesty.graph" in found) is not torch.cuda.is_available()
    assert list(source_findings(Source.parse("import torch\ntorch.cuda.synchronize()\n"))) == []


def test_this_tool_is_not_to_be_found_by_its_name() -> None:
    import sys

    with disguise.hidden():
        assert not [name for name in sys.modules if name.partition(".")[0] == "tilewright"]
        assert "PYTHONPATH" not in os.environ
    assert "tilewright.sandbox.disguise" in sys.modules


# --- modes, names, gradients -------------------------------------------------------------------------------------


def _modes(tmp_path: Path, layer: str, asked: str) -> modes_inside.Modes:
    path = tmp_path / "reference.py"
    path.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Model(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        f"        self.layer = {layer}\n\n    def forward(self, x):\n        return self.layer(x)\n\n\n"
        "def get_init_inputs():\n    return []\n\n\ndef get_inputs():\n    return [torch.rand(4, 6)]\n"
    )
    reference = load_task(path, gpu="rtx-4090").reference
    assert reference is not None
    return modes_inside.choose(reference, asked)


def test_the_mode_is_chosen_by_what_it_changes(tmp_path: Path) -> None:
    assert _modes(tmp_path, "nn.Linear(6, 5)", "built") == modes_inside.Modes(same=True)
    assert _modes(tmp_path, "nn.BatchNorm1d(6)", "built") == modes_inside.Modes("built", "eval")
    assert _modes(tmp_path, "nn.BatchNorm1d(6)", "eval") == modes_inside.Modes("eval", "built")
    assert _modes(tmp_path, "nn.BatchNorm1d(6)", "eval only") == modes_inside.Modes()
    assert _modes(tmp_path, "nn.BatchNorm1d(6).eval()", "built") == modes_inside.Modes(same=True)
    assert _modes(tmp_path, "nn.Dropout(0.5)", "built") == modes_inside.Modes(random=True)


def test_a_candidate_that_tells_the_modes_apart_is_judged_in_eval_mode() -> None:
    task = load_task(reference_path("batch_norm_as_built"), gpu="rtx-4090")
    text = "class ModelNew:\n    def forward(self, x):\n        return x{}\n"
    assert modes.wanted(task, Candidate(text.format(""), Origin.FILE, "")) == "built"
    assert modes.wanted(task, Candidate(text.format(" if self.training else -x"), Origin.FILE, "")) == "eval"
    assert modes.wanted(task, Candidate(text.format(""), Origin.SYNTHESIZE, "")) == "eval"


def test_names_that_do_not_load_are_told() -> None:
    state = nn.BatchNorm1d(3).state_dict()
    assert not any(states_inside.differences(nn.BatchNorm1d(3), state).values())
    assert list(states.findings_of([states_inside.differences(nn.BatchNorm1d(3), state)])) == []
    other = nn.LayerNorm(3)
    (limit,) = states.findings_of([states_inside.differences(other, state)])
    assert limit.severity is Severity.LIMIT
    (error,) = states.findings_of([states_inside.differences(nn.PReLU(3), {"slope": torch.ones(3)})])
    assert (error.severity, "slope" in error.message, "weight" in error.message) == (Severity.ERROR, True, True)


PLAIN, PROMISED = Source.parse("x = 1\n"), Source.parse("def backward(ctx, up):\n    return up\n")


@pytest.mark.parametrize(
    ("source", "detached", "broken", "severity"),
    [
        (PLAIN, True, False, Severity.NOTE),
        (PLAIN, False, True, Severity.LIMIT),
        (PROMISED, False, True, Severity.ERROR),
        (PROMISED, False, False, None),
    ],
)
def test_gradients_that_vanish_are_told(
    source: Source, detached: bool, broken: bool, severity: Severity | None
) -> None:
    linear, x = nn.Linear(4, 3), torch.randn(5, 4)
    right = gradients_inside.take(linear, x, dict(linear.named_parameters()))  # type: ignore[arg-type]

    def call(given: torch.Tensor) -> torch.Tensor:
        bias = linear.bias.detach() if broken else linear.bias
        out = nn.functional.linear(given, linear.weight, bias)
        return out.detach() if detached else out

    taken = gradients_inside.take(call, x, dict(linear.named_parameters()))  # type: ignore[arg-type]
    keys = {name: name for name in taken.values}
    report = {"carries": taken.carries, "pretends": taken.pretends, "gradients": keys}
    found = list(gradients.findings_of(report, dict(taken.values), right.values, source))
    assert [one.severity for one in found] == ([severity] if severity is not None else [])
