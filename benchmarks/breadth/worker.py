"""One module in a process of its own: made ready beside others, timed alone.

It prints JSON lines: `ready` once everything is compiled and checked, and the times after a line on its standard input.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.breadth import clock
from benchmarks.peers import PEERS, Peer, build_peer, prepare_torch

#: An output may be off by so many times the reference's own error, and by what its precision class gives where PyTorch
#: happened to compute more exactly: half a unit in the last place of TF32's 10-bit operands, twice over.
_TIMES, _FLOOR = 4.0, {"ieee": 2e-6, "tf32": 2.0**-10}

Call = Callable[[], Any]


def import_file(path: Path, name: str) -> ModuleType:
    """Import a Python file under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def errors(found: Any, right: Any) -> float:
    """The largest norm-wise relative error of an output's tensors; infinite where forms or non-finite values differ."""
    worst = 0.0
    leaves, wanted = pytree.tree_leaves(found), pytree.tree_leaves(right)
    if len(leaves) != len(wanted):
        return float("inf")
    for one, exact in zip(leaves, wanted, strict=True):
        if not isinstance(exact, torch.Tensor):
            continue
        if one.shape != exact.shape or not torch.equal(torch.isfinite(one), torch.isfinite(exact)):
            return float("inf")
        if not exact.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(one, exact) else float("inf"))
            continue
        exact = torch.nan_to_num(exact, posinf=0.0, neginf=0.0, nan=0.0)
        gap = torch.nan_to_num(one.double(), posinf=0.0, neginf=0.0, nan=0.0) - exact
        worst = max(worst, float(gap.norm() / exact.norm().clamp_min(1e-30)))
    return worst


def on_gpu(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Tensors of a tree on the GPU, floating-point ones in a type."""

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.cuda().to(dtype) if dtype is not None and leaf.is_floating_point() else leaf.cuda()

    return pytree.tree_map(moved, value)


class Bench:
    """A module, its peers and its candidates.

    Args:
        path: of the module's file.
        options: of the command.
    """

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.path, self.options = path, options
        prepare_torch(options.precision)
        torch.manual_seed(0)
        given = import_file(path, "breadth_module")
        init = given.get_init_inputs()
        self.arguments = (init, {}) if not (init and isinstance(init[-1], dict)) else (init[:-1], init[-1])
        self.reference = given.Model(*self.arguments[0], **self.arguments[1]).cuda().eval()
        self.inputs = on_gpu(given.get_inputs())
        self.calls: dict[str, Call] = {}
        self.failures: dict[str, str] = {}
        with torch.no_grad():
            exact = copy.deepcopy(self.reference).double()
            self.right = exact(*on_gpu(self.inputs, torch.float64))
            with FlopCounterMode(display=False) as counter:
                self.own = errors(self.reference(*self.inputs), self.right)
        # A module without products has no class: it is as exact in every one.
        self.floor = _FLOOR[options.precision if counter.get_total_flops() else "ieee"]

    def add(self, name: str, make: Callable[[], Callable[..., Any]], inputs: Sequence[Any] | None = None) -> None:
        """Compile, run and check one way to compute the module; a failure is noted."""
        arguments = self.inputs if inputs is None else inputs
        try:
            run = make()
            with torch.no_grad():
                found = run(*arguments)
            error = errors(found, self.right)
        except Exception as problem:
            self.failures[name] = f"{type(problem).__name__}: {problem}"[:300]
            return
        if error > _TIMES * self.own + self.floor:
            self.failures[name] = f"wrong: relative error {error:.2g}, the reference's own is {self.own:.2g}"
            return
        self.calls[name] = lambda: run(*arguments)

    def add_peers(self) -> None:
        """Eager PyTorch and the modes of torch.compile that were asked for."""
        self.add("eager", lambda: self.reference)
        for peer in PEERS:
            if "graphs" in peer.name or (self.options.peers == "quick" and "max-autotune" in peer.name):
                continue
            four = [x for x in pytree.tree_leaves(self.inputs) if isinstance(x, torch.Tensor) and x.dim() in (4, 5)]
            if peer.channels_last and not four:
                continue
            self.add(peer.name, lambda peer=peer: build_peer(peer, copy.deepcopy(self.reference)), self._laid_out(peer))

    def _laid_out(self, peer: Peer) -> Sequence[Any]:
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}

        def laid(leaf: Any) -> Any:
            form = formats.get(leaf.dim()) if isinstance(leaf, torch.Tensor) else None
            return leaf if form is None else leaf.contiguous(memory_format=form)

        changed: Sequence[Any] = pytree.tree_map(laid, self.inputs) if peer.channels_last else self.inputs
        return changed

    def add_ours(self) -> None:
        """Our candidates: a folder's, or the planner's first ones."""
        for number, source in enumerate(self._sources()):
            file = Path(self.options.work) / f"{self.path.stem}_{number}.py"
            file.write_text(source)
            self.add(f"ours {number}", lambda file=file, number=number: self._module(file, number))

    def _sources(self) -> list[str]:
        if self.options.candidates is not None:
            found = sorted((self.options.candidates / self.path.parent.name / self.path.stem).glob("*.py"))
            return [file.read_text() for file in found]
        from tilewright.gpu.detect import detect_gpu
        from tilewright.proposers.synthesize import synthesize
        from tilewright.task.load import load_task

        installed = detect_gpu()
        gpu = installed.key if installed is not None else None
        task = load_task(self.path, precision=self.options.precision, gpu=gpu)
        return [candidate.source for candidate in synthesize(task)[: self.options.choose]]

    def _module(self, file: Path, number: int) -> nn.Module:
        made: nn.Module = import_file(file, f"breadth_ours_{number}").ModelNew(*self.arguments[0], **self.arguments[1])
        made = made.cuda().eval()
        made.load_state_dict(self.reference.state_dict())
        return made

    def time(self) -> dict[str, dict[str, float]]:
        """Both times of each, in milliseconds, and the host's in microseconds."""
        found = {}
        with torch.no_grad():
            for name, call in self.calls.items():
                times = {"gpu_ms": clock.gpu_ms(call), "call_ms": clock.call_ms(call), "host_us": clock.host_us(call)}
                found[name] = {key: round(value, 5) for key, value in times.items()}
        return found


def main() -> int:
    """The process of one module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--precision", default="tf32")
    parser.add_argument("--peers", default="quick")
    parser.add_argument("--choose", type=int, default=6)
    parser.add_argument("--candidates", type=Path)
    parser.add_argument("--work", required=True)
    options = parser.parse_args()
    started = time.monotonic()
    problem, bench = "", None
    try:
        bench = Bench(options.path, options)
        bench.add_peers()
        bench.add_ours()
        del bench.right
        torch.cuda.empty_cache()
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"[:500]
    print(
        json.dumps({"ready": not problem, "problem": problem, "seconds": round(time.monotonic() - started, 1)}),
        flush=True,
    )
    if problem or bench is None or not sys.stdin.readline():
        return 1
    row = {"times": bench.time(), "failures": bench.failures, "reference_error": bench.own}
    print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
