"""In a sandboxed process: runs a candidate on the probes' inputs and sends back what it returns.

Entry `run`. Parts: `run I C` for probe I under configuration C of the autotune lists; `trials I C` for the same after
the autotuners' trial runs.
"""

from __future__ import annotations

import base64
import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import nn

from tilewright.gate.inside import ahead, coverage, modes, runtime, states
from tilewright.gate.inside.coverage import Coverage
from tilewright.gate.inside.pretend import really
from tilewright.gate.reference.subject import Form, as_tensors, leaves, map_leaves, product_precision
from tilewright.sandbox import wire
from tilewright.toolchain.interpreting.unsupported import NotInterpretableError
from tilewright.toolchain.memory import observed_memory

Emit = Callable[[str, Any, Mapping[str, torch.Tensor] | None], None]

#: So many configurations of an autotune list are tried at most.
MAX_CONFIGURATIONS = 64


def run(job: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], emit: Emit) -> None:
    """The entry: see the module."""
    source = cloudpickle.loads(base64.b64decode(job["source"])) if job["needs_reference"] else None
    unfinished = ahead.compile_for_probes(job, tensors) if "installed" in job else frozenset()
    with runtime.kernel_environment(job) as watch, _covered(job) as followed:
        bench = _Bench(job, tensors, emit, watch, source, followed)
        multiprocessors = int(job["gpu"]["sm_count"])
        bench.load(multiprocessors)
        stop = time.process_time() + float(job["budget_s"])
        # On a GPU runs cost nothing, but a size that was not compiled ahead is compiled first.
        late = time.monotonic() + float(job["run_s"]) if job["device"] == "cuda" else float("inf")
        dear = float("inf")
        for probe in job["probes"]:
            index = int(probe["index"])
            if (time.monotonic() > late or index in unfinished) and not probe["must"]:
                why = "it takes too long to compile" if index in unfinished else "no time was left"
                bench.emit(f"run {index} 0", {"skipped": why}, None)
                continue
            if int(probe["work"]) >= dear:
                bench.emit(f"run {index} 0", {"skipped": "it is as large as one that takes too long"}, None)
                continue
            try:
                bench.load(int(probe["multiprocessors"]))
            except Exception as error:  # it has been imported once: operators that it registers, say, are taken
                bench.emit(f"run {index} 0", {"skipped": f"a second import fails: {error}"[:300]}, None)
                continue
            if probe.get("large"):
                # Each output is gigabytes: once, with the configuration that the autotuner chooses itself.
                bench.run(index, probe, None, 0.0)
                continue
            choice = 0
            while choice < min(watch.configurations, MAX_CONFIGURATIONS):
                left = stop - time.process_time()
                # The task's own sizes decide most: their first run may take half of the time.
                part = 0.5 if probe["own"] and choice == 0 else 0.2
                share = min(left, max(float(job["budget_s"]) * part, 1.0))
                if job["device"] == "cpu" and left <= 0:
                    emit(f"run {index} {choice}", {"skipped": "no time was left"}, None)
                    break
                if bench.run(index, probe, choice, time.process_time() + share):
                    if choice == 0:
                        dear = int(probe["work"])
                    if choice == 0 or not bench.loaded(int(probe["multiprocessors"])):
                        break
                choice += 1
            # Where a run was given up, the trials begin with the file as it is imported.
            tried = probe.get("twice") and watch.configurations > 1 and not bench.broken
            if tried and bench.loaded(int(probe["multiprocessors"])):
                _try_configurations(bench, index, probe, watch.configurations, stop)
            if bench.broken:
                return
    if job["device"] == "cpu" and job.get("whole_s"):
        bench.forget()  # what small sizes left behind decides about nothing here
        bench.loaded(multiprocessors)
        with contextlib.suppress(NotInterpretableError):  # the runs on data have named it
            _trace_whole(bench)


def _trace_whole(bench: _Bench) -> None:
    """The launches at the task's own sizes, without data. Part: `whole`."""
    from tilewright.gate.inside.whole_run import trace_whole  # which describes errors as this module does

    small = next((probe for probe in bench.job["probes"] if probe.get("twice") and not probe["constructor"]), None)
    inputs = wire.unpack(small["inputs"], bench.tensors) if small is not None else None
    bench.emit("whole", trace_whole(bench.job, bench.watch, bench.module, inputs), None)


def _try_configurations(bench: _Bench, index: int, probe: Mapping[str, Any], count: int, stop: float) -> None:
    """The first call of a user: autotuners try all configurations on its tensors. Parts: `trials I C`."""
    for choice in dict.fromkeys((0, count // 2, count - 1)):
        left = stop - time.process_time()
        if left <= 0 or bench.broken or bench.run(index, probe, choice, time.process_time() + 0.2 * left, trials=True):
            return


@contextlib.contextmanager
def _covered(job: Mapping[str, Any]) -> Iterator[Coverage | None]:
    """Follows every access of interpreted kernels; None on a GPU, where nobody sees them."""
    if job["device"] == "cuda":
        yield None
        return
    followed = coverage.Coverage()
    with observed_memory(followed.memory):
        yield followed


@dataclass
class _Bench:
    job: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    emit: Emit
    watch: runtime.Watch
    source: Any
    coverage: Coverage | None
    module: Any = None
    broken: bool = False
    _modules: dict[int, Any] = field(default_factory=dict)
    _built: dict[tuple[int, int, str, bool], tuple[nn.Module, nn.Module]] = field(default_factory=dict)

    def load(self, multiprocessors: int) -> None:
        """Take the candidate's file as imported on a GPU of so many multiprocessors: it may ask once, on import."""
        self.job["gpu"]["sm_count"] = multiprocessors
        if multiprocessors not in self._modules:
            self._modules[multiprocessors] = runtime.load_candidate(Path.cwd())
        self.module = self._modules[multiprocessors]

    def loaded(self, multiprocessors: int) -> bool:
        """Whether `load` works, after an import before: operators that a file registers, say, are taken."""
        try:
            self.load(multiprocessors)
        except Exception:
            return False
        return True

    def forget(self) -> None:
        """Import the file anew before the next run.

        After a launch that was given up half-way, what the candidate keeps (counters, say) is not what it left there.
        """
        self._modules.clear()
        self._built.clear()

    def run(
        self, index: int, probe: Mapping[str, Any], choice: int | None, deadline: float, *, trials: bool = False
    ) -> bool:
        """One probe under one configuration; whatever the candidate raises is sent back as data.

        Args:
            index, probe: which.
            choice: of the configuration; None lets autotuners choose.
            deadline: processor seconds of this process, in the interpreter.
            trials: autotuners try all configurations first.

        Returns:
            whether it was given up for its time.
        """
        on_gpu = self.job["device"] == "cuda"
        started = time.process_time()
        report: dict[str, Any] = {"configurations": 1}
        packed: dict[str, torch.Tensor] = {}
        try:
            mode = str(probe.get("mode") or self.job.get("mode", "eval"))
            in_rows = bool(probe.get("channels_last"))
            candidate, holder = self._candidate(int(probe["constructor"]), mode, channels_last=in_rows)
            prefix = f"{probe['weights_key']}|"
            state = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
            matched = runtime.load_state(holder, state)
            report["names"] = states.differences(holder, state)
            report |= {"missing": matched.missing, "unset": matched.unset, "reshaped": matched.reshaped}
            inputs = wire.unpack(probe["inputs"], self.tensors)
            if on_gpu:
                inputs = map_leaves(inputs, lambda tensor: tensor.to("cuda"))
            self.watch.reset(choice, 0.0 if on_gpu else deadline, trials=trials)
            inputs, native = self._followed(inputs, holder)
            with torch.no_grad(), product_precision(str(probe["precision"])), native:
                runtime.seed_generators()
                outputs = candidate(*inputs)
                if on_gpu:
                    torch.cuda.synchronize()
            report |= self._outputs(outputs, packed, keep=bool(probe.get("twice")) and choice == 0)
            report["updated"] = modes.updated(state, holder)
            if self.coverage is not None and not trials:
                with really():
                    report["coverage"] = coverage.report(self.coverage, leaves(outputs), packed)
                if probe.get("twice") and choice == 0:
                    report["coverage"]["redone"] = self._redone(candidate, holder, inputs)
        except runtime.TooDearError as error:
            report["skipped"] = str(error)
            self.forget()
        except NotInterpretableError as error:
            self.forget()
            report["skipped"] = report["unknown"] = unknown_to_us(error, self.watch.running)
        except Exception as error:
            report["error"] = describe(error)
            # After either the process is not what it was: what it says from here on is not the candidate's doing.
            self.broken = "CUDA error" in str(error) or bool(report["error"]["memory"])
        report |= {
            "launches": dict(self.watch.launches),
            "grids": {name: grids[:8] for name, grids in self.watch.grids.items()},
            "dots": dict(self.watch.seen.dots),
            "narrowed": dict(self.watch.seen.narrowed),
            "configurations": self.watch.configurations,
            "seconds": time.process_time() - started,
        }
        with really():
            self.emit(f"{'trials' if trials else 'run'} {index} {choice or 0}", report, packed)
        return "skipped" in report

    def _followed(self, inputs: Any, holder: nn.Module) -> tuple[Any, contextlib.AbstractContextManager[Any]]:
        """Inputs amid poison, and what watches PyTorch's operations on them."""
        if self.coverage is None:
            return inputs, contextlib.nullcontext()
        with really():
            inputs = map_leaves(inputs, coverage.guarded)
        self.coverage.start(leaves(inputs), {**dict(holder.named_parameters()), **dict(holder.named_buffers())})
        return inputs, coverage.NativeAccesses(self.coverage)

    def _redone(self, candidate: nn.Module, holder: nn.Module, inputs: Any) -> list[str]:
        """Native operations on parameters alone that a second call does again."""
        assert self.coverage is not None
        _, native = self._followed(inputs, holder)
        with torch.no_grad(), native:
            candidate(*inputs)
        return list(dict.fromkeys(self.coverage.redone))

    def _candidate(self, constructor: int, mode: str, *, channels_last: bool) -> tuple[nn.Module, nn.Module]:
        """The candidate for constructor arguments, and the module that holds its parameters.

        Args:
            constructor: which arguments.
            mode: training or eval.
            channels_last: the user has called `.to(memory_format=torch.channels_last)` on it.
        """
        key = constructor, int(self.job["gpu"]["sm_count"]), mode, channels_last
        if key not in self._built:
            arguments = cloudpickle.loads(base64.b64decode(self.job["constructors"][constructor]))
            reference = self._reference(arguments)
            candidate = runtime.build_candidate(self.module, arguments, reference, mode)
            holder = candidate if reference is None else reference
            if self.job["device"] == "cuda":
                candidate, holder = candidate.to("cuda"), holder.to("cuda")
            if channels_last:
                _to_channels_last(candidate, holder)
            self._built[key] = candidate, holder
        return self._built[key]

    def _reference(self, arguments: tuple[Any, ...] | None) -> nn.Module | None:
        if self.source is None:
            return None
        from tilewright.task import module_source

        given = None if self.source.pickled is not None else arguments
        built = module_source.build_module(self.source, init_args=given)
        return (built.to("cuda") if self.job["device"] == "cuda" else built).eval().requires_grad_(False)

    def _outputs(self, outputs: Any, packed: dict[str, torch.Tensor], *, keep: bool) -> dict[str, Any]:
        """What is sent back; `keep`: a later call may change what this one returned."""
        with really():
            outputs = as_tensors(outputs)
            found = leaves(outputs)
            # Packed: a view with gaps is its values; how it lies is its form.
            plain = [leaf.detach().cpu().contiguous() for leaf in found]
            plain = [leaf.clone() for leaf in plain] if keep else plain
            return {
                "outputs": wire.pack(plain, packed, "out"),
                "form": Form.of(outputs).as_data(),
                "types": [str(leaf.dtype).removeprefix("torch.") for leaf in found],
            }


def _to_channels_last(*modules: nn.Module) -> None:
    """Put parameters and buffers of four and five dimensions in channels-last order, as `Module.to` does."""
    for module in modules:
        with really(), torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
                if form is not None:
                    tensor.data = tensor.data.contiguous(memory_format=form)


#: What torch says where it gets no memory, on a CPU and on a GPU.
_NO_MEMORY = ("not enough memory", "CUDA out of memory")


def unknown_to_us(error: NotInterpretableError, kernel: str) -> str:
    """What of a kernel has no plain twin here, and where it stands."""
    line = describe(error)["line"]
    return f"{error.what} in {kernel}" + (f" (line {line})" if line else "")


def describe(error: BaseException) -> dict[str, Any]:
    """What was raised, and the line of the candidate where."""
    lines: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
        lines = [*lines, *traceback.extract_tb(inner.__traceback__)]
    own = [frame.lineno for frame in lines if frame.filename.endswith((f"/{runtime.FILE}", f"/{runtime.OTHER_FILE}"))]
    text = f"{type(inner).__name__}: {inner}".strip()
    memory = isinstance(inner, MemoryError) or any(words in text for words in _NO_MEMORY)
    return {"text": text[:600], "line": own[-1] if own else None, "memory": memory}
