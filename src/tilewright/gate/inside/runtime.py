"""In a sandboxed process: loads a candidate, forces its kernel path, and watches what it launches."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewright.gate.inside import trials
from tilewright.gate.inside.pretend import Redirect, pretend, really
from tilewright.sandbox import disguise
from tilewright.toolchain import triton_compat
from tilewright.toolchain.interpreting.compiled import stand_in

#: Names under which a candidate's file is imported, in the gate's runs and in its experiments: a user's own.
MODULE, OTHER_MODULE = "model_new", "fused_op"
FILE, OTHER_FILE = f"{MODULE}.py", f"{OTHER_MODULE}.py"


class TooDearError(BaseException):
    """The interpreter would need too long for this run. Not an `Exception`: nobody wraps it on its way out."""

    def __init__(self, kernel: str, programs: int, seconds: float) -> None:
        super().__init__(f"{kernel} has {programs} programs, about {seconds:.0f} s in the interpreter")


@dataclass
class Watch:
    """What the kernels of a candidate did since the last `reset`.

    Attributes:
        launches: kernel -> launches.
        grids: kernel -> the grids that it was launched with.
        configurations: length of the longest autotune list met.
        choice: which configuration each autotuner takes (modulo its length); None lets it choose.
        trials: autotuners try every configuration before the first launch of each of their keys, as for a user.
        deadline: of the run, in processor time of this process (a busy machine must not change a verdict); 0 for none.
        seen: reduced-precision products and casts in the interpreter.
        idle: launches are counted, and their kernels do nothing.
        on_meta: kernels run on tensors without data too; else their launches are left out.
        on_launch: told the kernel's name before each launch; what it raises is the launch's failure.
        running: the kernel that was launched last.
    """

    launches: dict[str, int] = field(default_factory=dict)
    grids: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    configurations: int = 1
    choice: int | None = 0
    trials: bool = False
    deadline: float = 0.0
    seen: triton_compat.Seen = field(default_factory=triton_compat.Seen)
    idle: bool = False
    on_meta: bool = False
    on_launch: Callable[[str], None] | None = None
    running: str = ""
    _first: float = 0.0
    _tuned: set[int] = field(default_factory=set)

    def reset(self, choice: int | None, deadline: float, *, trials: bool = False) -> None:
        """Start a run."""
        self.launches, self.grids, self._tuned = {}, {}, set()
        self.choice, self.deadline, self.trials = choice, deadline, trials
        self.seen.dots.clear()
        self.seen.narrowed.clear()

    def count(self, kernel: Any, grid: Any) -> Any:
        """Count a launch; returns the grid, or a wrapped one that notes its value."""
        name = triton_compat.kernel_name(kernel)
        self.launches[name] = self.launches.get(name, 0) + 1
        self.running = name
        if self.on_launch is not None:
            self.on_launch(name)
        if callable(grid):
            return lambda meta: self._note(name, grid(meta))
        return self._note(name, grid)

    def _note(self, name: str, grid: Any) -> Any:
        grid = tuple(grid) if isinstance(grid, list | tuple) else (grid,)
        self.grids.setdefault(name, []).append(tuple(int(size) for size in grid))
        return grid

    def first_time(self, tuner: Any) -> None:
        """An autotuner is met while `trials` are asked for: what it chose in earlier runs is forgotten, once a run."""
        if id(tuner) not in self._tuned:
            self._tuned.add(id(tuner))
            tuner.cache.clear()

    def before_program(self, kernel: str, index: int, programs: int) -> None:
        """Give up early where a launch will not end in time."""
        now = time.process_time()
        if index == 0:
            self._first = now
        elif self.deadline and index & 7 == 0 and index >= 8:
            expected = (now - self._first) / index * programs
            if self._first + expected > self.deadline:
                raise TooDearError(kernel, programs, expected)
        if self.deadline and now > self.deadline:
            raise TooDearError(kernel, programs, now - self._first)


def gpu_figures(gpu: Any) -> dict[str, Any]:
    """A `Gpu` as the JSON values that `pretend` needs."""
    names = (
        "name", "capability", "sm_count", "l2_bytes", "boost_clock_mhz", "registers_per_sm", "max_threads_per_sm",
        "warp_size", "shared_bytes_per_sm", "shared_bytes_per_block", "memory_gb",
    )  # fmt: skip
    return {name: getattr(gpu, name) for name in names}


@contextlib.contextmanager
def kernel_environment(job: Mapping[str, Any]) -> Iterator[Watch]:
    """Where kernels run: Triton's interpreter on a pretended device, or the GPU.

    Args:
        job: `device` (`cpu` or `cuda`) and `gpu`, the figures of the target.
    """
    watch = Watch()
    if job["device"] == "cpu":
        _use_interpreter(watch)
        with pretend(job["gpu"], "cpu"):
            yield watch
    else:
        _use_gpu(watch)
        with Redirect(None, poisoned=True):
            yield watch


def _use_interpreter(watch: Watch) -> None:
    watch.seen = triton_compat.refine_interpreter()
    triton_compat.interpret_unseen()
    triton_compat.watch_programs(watch.before_program)
    interpreted = triton_compat.interpreted_function_type()
    plain = interpreted.run  # type: ignore[attr-defined]

    def run(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        without_data = any(isinstance(arg, torch.Tensor) and _is_meta(arg) for arg in (*args, *kwargs.values()))
        if not warmup and (watch.on_meta or not without_data):
            grid = evaluated_grid(self, grid, args, kwargs)
            with really():
                counted = watch.count(self, grid)
                if not watch.idle:
                    plain(self, *args, grid=counted, warmup=False, **kwargs)
        return stand_in(self, functools.partial(interpreted.run, self), args, kwargs)  # type: ignore[attr-defined]

    interpreted.run = run  # type: ignore[attr-defined]
    _choose_configurations(watch)


def evaluated_grid(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A launch's grid as a tuple; a function is given the arguments as they were passed, as Triton does."""
    if callable(grid):
        named = {key: value for key, value in kwargs.items() if key in kernel.arg_names}
        grid = grid({**kwargs, **inspect.getcallargs(kernel.fn, *args, **named)})
    return tuple(grid) if isinstance(grid, list | tuple) else (grid,)


@contextlib.contextmanager
def interpreted_kernels(choice: int) -> Iterator[None]:
    """Within it, kernels are interpreted, also on meta tensors; autotuners take configuration `choice`."""
    interpreted, autotuner = triton_compat.interpreted_function_type(), triton_compat.autotuner_type()
    plain_run, plain_tune = interpreted.run, autotuner.run  # type: ignore[attr-defined]

    def run(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        if not warmup:
            grid = evaluated_grid(self, grid, args, kwargs)
            with really():
                plain_run(self, *args, grid=grid, warmup=False, **kwargs)
        return stand_in(self, functools.partial(interpreted.run, self), args, kwargs)  # type: ignore[attr-defined]

    interpreted.run = run  # type: ignore[attr-defined]
    _choose_configurations(Watch(choice=choice))
    try:
        yield
    finally:
        interpreted.run, autotuner.run = plain_run, plain_tune  # type: ignore[attr-defined]


def _is_meta(tensor: torch.Tensor) -> bool:
    with really():
        return tensor.is_meta


def _use_gpu(watch: Watch) -> None:
    jit = triton_compat.jit_function_type()
    plain = jit.run  # type: ignore[attr-defined]
    counted_already = threading.local()

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        counted = grid if warmup else watch.count(self, grid)
        if watch.idle and not warmup:
            return None
        counted_already.here = True
        try:
            return plain(self, *args, grid=counted, warmup=warmup, **kwargs)
        finally:
            counted_already.here = False

    jit.run = run  # type: ignore[attr-defined]
    _watch_compiled(watch, counted_already)
    _choose_configurations(watch)


def _watch_compiled(watch: Watch, counted_already: threading.local) -> None:
    """Count the launches of compiled kernels that a candidate holds, beside those that Triton makes of them."""
    compiled = triton_compat.compiled_kernel_type()
    launcher = compiled.run.fget  # type: ignore[attr-defined]

    def run(self: Any) -> Any:
        launch = launcher(self)

        def counted(x: int, y: int, z: int, *rest: Any) -> Any:
            if not getattr(counted_already, "here", False):
                watch.count(self.src.fn, (x, y, z))
                if watch.idle:
                    return None
            return launch(x, y, z, *rest)

        return counted

    compiled.run = property(run)  # type: ignore[attr-defined]


def _choose_configurations(watch: Watch) -> None:
    """Make every autotuner take the configuration that the watch names, as a later call with a cached choice does."""
    autotuner = triton_compat.autotuner_type()
    plain = autotuner.run  # type: ignore[attr-defined]

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        configs = self.prune_configs(kwargs)
        watch.configurations = max(watch.configurations, len(configs))
        if watch.choice is None:
            return plain(self, *args, **kwargs)
        if watch.trials and len(configs) > 1:
            watch.first_time(self)
            return trials.first_call(self, plain, watch.choice, args, kwargs)
        config = configs[watch.choice % len(configs)]
        if config.pre_hook is not None:
            config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
        return self.fn.run(*args, **kwargs, **config.all_kwargs())

    autotuner.run = run  # type: ignore[attr-defined]


# --- candidates ----------------------------------------------------------------------------------------------


#: Where all generators stand before a forward pass, of the reference as of candidates: random ones agree.
_SEED = 20


def seed_generators() -> None:
    """Put torch's and Python's generators into one state: a random reference, and a candidate, draw the same."""
    random.seed(_SEED)
    torch.default_generator.manual_seed(_SEED)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(_SEED)


def load_candidate(folder: Path) -> Any:
    """Import the candidate's file from `folder`, while the process looks like a user's; returns the module object."""
    name = MODULE if (folder / FILE).exists() else OTHER_MODULE
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with disguise.hidden():
        spec.loader.exec_module(module)
    return module


def build_candidate(
    module: Any, arguments: tuple[Any, ...] | None, reference: nn.Module | None, mode: str = "eval"
) -> nn.Module:
    """`ModelNew` of a candidate: from constructor arguments, or from a live reference; in a mode, no gradients."""
    made: nn.Module = module.ModelNew(reference) if reference is not None else module.ModelNew(*(arguments or ()))
    return (made if mode == "built" else made.eval()).requires_grad_(False)


@dataclass(frozen=True)
class Matched:
    """How a state's names were found in a candidate.

    Attributes:
        missing: names of the state that the candidate has nowhere.
        unset: the candidate's own parameters that nothing was copied to.
        reshaped: names whose shape differs, not their size.
    """

    missing: tuple[str, ...]
    unset: tuple[str, ...]
    reshaped: tuple[str, ...]


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> Matched:
    """Copy a state into a candidate, by name; in place, reshaped where only the shape differs.

    Names that the candidate lacks are matched to those of its own that are left, where size and order say which.
    """
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    pairs = {name: name for name in state if name in own and own[name].numel() == state[name].numel()}
    spare = [name for name in own if name not in pairs.values()]
    for name in state:
        if name in pairs:
            continue
        fitting = [other for other in spare if own[other].shape == state[name].shape and state[name].numel() > 0]
        if fitting:
            pairs[name] = fitting[0]
            spare.remove(fitting[0])
    reshaped = []
    with torch.no_grad():
        for name, target in pairs.items():
            value = state[name]
            if own[target].shape != value.shape:
                reshaped.append(name)
            own[target].copy_(value.reshape(own[target].shape))
    parameters = dict(module.named_parameters())
    missing = tuple(name for name in state if name not in pairs and state[name].is_floating_point())
    return Matched(missing, tuple(name for name in spare if name in parameters), tuple(reshaped))
