"""In a sandboxed process: what a candidate does at the task's own shapes, without doing it, and what that compiles to.

Entry `run`. Parts: `recording`, of the second forward pass, then `kernel I` for each distinct launch of either pass,
compiled for the target.
"""

from __future__ import annotations

import base64
import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch.utils.flop_counter import flop_registry

from tilewright.gate.inside import runtime
from tilewright.gate.inside.execute import describe
from tilewright.gate.inside.pretend import pretend, really
from tilewright.gate.reference.subject import DispatchMode, Subject, leaves, map_leaves
from tilewright.toolchain import triton_compat
from tilewright.toolchain.interpreting.compiled import stand_in

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module."""
    source = cloudpickle.loads(base64.b64decode(job["source"]))
    subject = Subject.of(source)
    inputs = map_leaves(
        subject.inputs(0, "meta"),
        lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"),
    )
    reference = subject.build(subject.own_arguments) if job["needs_reference"] else None
    first, recorder = Recorder(), Recorder()
    data: dict[str, Any] = {}
    try:
        with pretend(job["gpu"], "cpu", poisoned=False):
            module = runtime.load_candidate(Path.cwd())
            candidate = runtime.build_candidate(module, subject.own_arguments, reference)
        candidate = candidate.to("meta")
        with pretend(job["gpu"], "meta", poisoned=False), torch.no_grad():
            with first.watching():
                candidate(*inputs)  # packs weights and the like, once
            with recorder.watching():
                outputs = candidate(*inputs)
        data["outputs"] = [recorder.storage(leaf) for leaf in leaves(outputs)]
        data["output_shapes"] = [list(leaf.shape) for leaf in leaves(outputs)]
    except Exception as error:
        data["error"] = describe(error)
    known = [*leaves(inputs), *candidate.parameters(), *candidate.buffers()] if "error" not in data else []
    data |= {
        "steps": recorder.steps,
        "given": [recorder.storage(leaf) for leaf in known],
        "inputs": len(leaves(inputs)),
    }
    emit("recording", data, None)
    with pretend(job["gpu"], "meta"):
        for index, (key, (kernel, args, kwargs)) in enumerate({**recorder.distinct, **first.distinct}.items()):
            bare = key in first.bare or key in recorder.bare
            emit(f"kernel {index}", {"key": key, "bare": bare, **_compiled(kernel, args, kwargs)}, None)


def _compiled(kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    name = triton_compat.kernel_name(kernel)
    try:
        compiled = triton_compat.compile_launch(kernel, args, kwargs)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        text = str(getattr(cause, "error_message", None) or cause).strip()
        return {"kernel": name, "error": text[-500:], "line": triton_compat.compile_error_line(error, kernel)}
    return {
        "kernel": name,
        "registers": compiled.registers,
        "spill_bytes": compiled.spill_bytes,
        "shared_bytes": compiled.shared_bytes,
        "warps": compiled.warps,
        "scratch_bytes": compiled.scratch_bytes,
    }


@dataclass
class Recorder:
    """Steps of one forward pass, as JSON values, and one example of each distinct launch.

    Attributes:
        bare: keys of launches at which no allocator was set.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    bare: set[str] = field(default_factory=set)
    distinct: dict[str, tuple[Any, tuple[Any, ...], Mapping[str, Any]]] = field(default_factory=dict)
    _storages: dict[int, int] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)

    def storage(self, tensor: torch.Tensor) -> int:
        """A number for the memory behind a tensor, from 1; tensors that share memory share it."""
        with really():
            storage = tensor.untyped_storage()
        self._kept.append(storage)
        return self._storages.setdefault(storage._cdata, len(self._storages) + 1)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record instead of launching, and note what goes to PyTorch."""
        jit, autotuner = triton_compat.jit_function_type(), triton_compat.autotuner_type()
        plain_run, plain_tune = jit.run, autotuner.run  # type: ignore[attr-defined]
        jit.run = lambda kernel, *args, **kwargs: self._run(kernel, args, kwargs)  # type: ignore[attr-defined]
        autotuner.run = lambda tuner, *args, **kwargs: self._tuned(tuner, args, kwargs)  # type: ignore[attr-defined]
        try:
            with _Native(self):
                yield
        finally:
            jit.run, autotuner.run = plain_run, plain_tune  # type: ignore[attr-defined]

    def _tuned(self, tuner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """All configurations; the first stands for the launch, the others are its alternatives."""
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
        first = len(self.steps)
        for config in tuner.prune_configs(dict(kwargs)):
            tuner.fn.run(*args, **kwargs, **config.all_kwargs())
        self.steps[first]["alternatives"] = self.steps[first + 1 :]
        del self.steps[first + 1 :]

    def _run(self, kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Note a launch; a warmup launches nothing. Either gives what stands for the compiled kernel."""
        if not kwargs.get("warmup"):
            self._launch(kernel, args, kwargs)
        return stand_in(kernel, functools.partial(type(kernel).run, kernel), args, kwargs)

    def _launch(self, kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        with really():
            bound = triton_compat.bind(kernel, args, kwargs)
        grid = kwargs["grid"]
        if callable(grid):
            grid = grid({argument.name: argument.value for argument in bound})
        grid = tuple(grid) if isinstance(grid, list | tuple) else (grid,)
        arguments = [self._argument(argument) for argument in bound]
        options = {
            "num_warps": kwargs.get("num_warps", triton_compat.DEFAULT_NUM_WARPS),
            "num_stages": kwargs.get("num_stages", triton_compat.DEFAULT_NUM_STAGES),
        }
        key = repr((triton_compat.kernel_name(kernel), [_specialised(a) for a in arguments], sorted(options.items())))
        self.distinct.setdefault(key, (kernel, args, dict(kwargs)))
        if not triton_compat.has_allocator():
            self.bare.add(key)
        step = {"kernel": triton_compat.kernel_name(kernel), "grid": [int(size) for size in grid], "key": key}
        self.steps.append({**step, "arguments": arguments, **options})

    def _argument(self, argument: triton_compat.BoundArgument) -> dict[str, Any]:
        value = argument.value
        data: dict[str, Any] = {
            "name": argument.name,
            "type": argument.type,
            "divisible_by_16": argument.divisible_by_16,
            "value": None,
        }
        base = getattr(value, "base", value)
        tensor = base if isinstance(base, torch.Tensor) else value
        if isinstance(tensor, torch.Tensor):
            data |= {"shape": list(tensor.shape), "stride": list(tensor.stride()), "storage": self.storage(tensor)}
        elif value is None or isinstance(value, bool | int | float | str):
            data["value"] = value
        else:
            data["value"] = str(getattr(value, "value", value))
        return data


def _specialised(argument: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of an argument a compiled kernel depends on."""
    fixed = argument["type"] == "constexpr" or argument["value"] == 1
    return argument["name"], argument["type"], argument["divisible_by_16"], argument["value"] if fixed else None


class _Native(DispatchMode):
    """Notes what a candidate leaves to PyTorch."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        outputs, inputs = leaves(result), leaves([args, list(options.values())])
        name = str(func)
        if not outputs or "empty" in name or name.startswith("prims."):
            return result
        view = any(_same_storage(outputs[0], tensor) for tensor in inputs) and not name.split(".")[1].endswith("_")
        first = inputs[0] if inputs else outputs[0]
        self._recorder.steps.append(
            {
                "operation": name,
                "input_shapes": [list(tensor.shape) for tensor in inputs],
                "output_shapes": [list(tensor.shape) for tensor in outputs],
                "read_bytes": 0 if view else _bytes(inputs),
                "written_bytes": 0 if view else _bytes(outputs),
                "matrix_operations": _matrix_operations(func, args, options, result),
                "layout": _layout(first),
                "narrows": _narrows(inputs, outputs),
                "reads": [self._recorder.storage(tensor) for tensor in inputs],
                "writes": [self._recorder.storage(tensor) for tensor in outputs],
            }
        )
        return result


def _narrows(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> bool:
    """True where float32 values become 16-bit ones."""
    wide = any(tensor.dtype is torch.float32 for tensor in inputs)
    return wide and any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in outputs)


def _same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _matrix_operations(func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> int:
    count = flop_registry.get(getattr(func, "overloadpacket", None))
    return int(count(*args, **kwargs, out_val=result)) if count is not None else 0


def _layout(tensor: torch.Tensor) -> str:
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        return "channels_last"
    return "contiguous"
