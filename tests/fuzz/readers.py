"""Every reader of text that somebody else wrote, with the texts that damage starts from."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tilewright.errors import TilewrightError
from tilewright.sandbox import wire

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which a reader counts as hanging.
LIMIT_S = 10.0


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: for people.
        read: reads a text; raises `TilewrightError` or one of `refuses` where it is bad.
        seeds: texts that it accepts.
        refuses: errors of its own that are caught one step above.
    """

    name: str
    read: Callable[[str], object]
    seeds: Callable[[], Sequence[str]]
    refuses: tuple[type[Exception], ...] = (TilewrightError,)


@dataclass(frozen=True)
class Ended:
    """How a reader ended: `accepted`, `refused` or `failure`; for a failure what happened and where, and its words."""

    kind: str
    text: str = ""
    message: str = ""


class _TooSlowError(BaseException):
    pass


@dataclass
class _Writes:
    """Files opened for writing while `watching`; an audit hook cannot be taken out again."""

    watching: bool = False
    found: list[str] = field(default_factory=list)
    hooked: bool = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.found.append(f"open {arguments[0]!r} for writing")
        elif event in {"os.remove", "os.rename", "os.mkdir", "subprocess.Popen", "os.system", "socket.connect"}:
            self.found.append(f"{event} {arguments!r}")


_WRITES = _Writes()


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Notes what is written meanwhile, and ends what takes too long."""
    if not _WRITES.hooked:
        sys.addaudithook(_WRITES.hook)
        _WRITES.hooked = True

    def late(number: int, frame: FrameType | None) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    _WRITES.found, _WRITES.watching = [], True
    try:
        yield _WRITES.found
    finally:
        _WRITES.watching = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def outcome(reader: Reader, text: str) -> Ended:
    """Feed one text to a reader."""
    kind = "accepted"
    with _watched() as written:
        try:
            reader.read(text)
        except reader.refuses:
            kind = "refused"
        except _TooSlowError:
            return Ended("failure", f"no end after {LIMIT_S:.0f} s")
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            return Ended("failure", f"{type(error).__name__} at {place}", str(error)[:200])
    if written:
        return Ended("failure", f"it wrote: {written[0]}")
    return Ended(kind)


# --- texts that are right ------------------------------------------------------------------------------------


@cache
def _documents() -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples" / "documents").glob("*.txt")))


@cache
def _modules() -> tuple[str, ...]:
    paths = [*(ROOT / "examples").glob("*.py"), *(ROOT / "tests" / "verify" / "corpus" / "right").glob("*.py")]
    return tuple(path.read_text(encoding="utf-8") for path in sorted(paths))


@cache
def _replies() -> tuple[str, ...]:
    code = _modules()[0]
    return (
        f"Here it is.\n\n```python\n{code}```\n",
        f"```\nnot this\n```\nbut\n~~~python\n{code}~~~\n",
        f"````python\n{code}````\nIt is **faster**.",
    )


@cache
def _toml() -> tuple[str, ...]:
    return (
        'like = "rtx-4090"\nname = "Mine"\nsm_count = 100\n',
        'like = "h100"\nboost_clock_mhz = 1500\nmemory_bandwidth_gbs = 2000.0\n[tensor_tflops]\nfp16 = 300.0\n',
    )


def _specs() -> tuple[str, ...]:
    return (
        "rand(16, 64, 32, 32)", "randn(4, 8), randint(0, 10, (3, 4)), 3.5, [1, 2], None", "ones(2, 3, dtype=float16)",
        "full((2, 2), -1e-3), arange(10), 'text', True, zeros((1,))", "[16, 32, (3, 3), 0.5]", "[(1, 2), [3, 4]]",
    )  # fmt: skip


@cache
def _recordings() -> tuple[str, ...]:
    """Parts as the recorder's process writes them, as one JSON text."""
    pointer = {
        "name": "p", "type": "*fp32", "value": None, "shape": [4, 8], "stride": [8, 1], "divisible_by_16": True,
        "storage": 1,
    }  # fmt: skip
    launch: dict[str, Any] = {
        "kernel": "k", "key": "k1", "grid": [4], "num_warps": 4, "num_stages": 2,
        "arguments": [pointer, {"name": "BLOCK", "type": "constexpr", "value": 128, "divisible_by_16": False}],
        "alternatives": [],
    }  # fmt: skip
    native = {
        "operation": "aten.mm.default", "input_shapes": [[4, 8], [8, 2]], "output_shapes": [[4, 2]], "read_bytes": 192,
        "written_bytes": 32, "matrix_operations": 128, "layout": "contiguous", "reads": [1, 2],
    }  # fmt: skip
    steps = {"steps": [launch, native], "outputs": [3], "given": [1], "output_shapes": [[4, 2]]}
    good = {"key": "k1", "kernel": "k", "registers": 32, "spill_bytes": 0, "shared_bytes": 1024, "warps": 4}
    bad = {"key": "k1", "kernel": "k", "error": "no such thing", "line": 12}
    failed = {"error": {"text": "ValueError: no", "line": 3, "memory": False}, "steps": [], "given": []}
    return tuple(
        json.dumps([{"name": name, "data": data} for name, data in parts])
        for parts in (
            [("recording", steps), ("kernel 0", good)],
            [("recording", steps), ("kernel 0", bad)],
            [("recording", failed)],
        )
    )


@cache
def _runs() -> tuple[str, ...]:
    """Reports as the candidate's process writes them."""
    tree = {"$tensor": "out.0", "stride": [3, 1]}
    form = {"structure": "(tensor)", "devices": ["cpu"], "layouts": ["contiguous"]}
    good = {
        "outputs": [tree], "form": form, "types": ["float32"], "launches": {"k": 1}, "grids": {"k": [[4]]},
        "dots": {}, "narrowed": {}, "missing": [], "unset": [], "reshaped": [], "configurations": 1, "seconds": 0.1,
    }  # fmt: skip
    raised = {"error": {"text": "ValueError: no", "line": 7, "memory": False}, "launches": {}}
    nested = good | {"outputs": {"$tuple": [tree, {"$dict": [["a", tree]]}]}, "dots": {"tf32": 3}}
    return tuple(json.dumps(data) for data in (good, raised, nested, {"skipped": "no time was left"}))


@cache
def _experiments() -> tuple[str, ...]:
    """What the experiments on a candidate's honesty send back, as one JSON text."""
    form = {"structure": "(tensor)", "devices": ["cpu"], "layouts": ["contiguous"]}
    call = {
        "outputs": [{"$tensor": "out.0", "stride": [3, 1]}], "form": form, "launches": {"k": 1}, "kernels": ["k"],
        "dots": {}, "narrowed": {}, "threads": 1, "side_streams": 1, "unwaited": 0, "late": False, "subclasses": [],
    }  # fmt: skip
    first = call | {"inputs changed": ["input 0"], "parameters changed": [], "is input": False}
    unused = [{"kernel": "k", "launch": 1, "dots": 2}]
    parts = {
        "first": first, "again": call | {"same bits": False}, "in place": call | {"kept": False}, "update": call,
        "poison": call | {"same bits": True}, "new tensors": {"skipped": "it takes too long"},
        "constants": {"controls": [call, call], "kernels": ["k", "l"], "stores": 3, "unused": unused},
        "failure": {"swallowed": [{"kernel": "k", "later": 0, "same bits": True}]},
        "end": {"replaced": ["time.time"], "left out": ["data"]},
    }  # fmt: skip
    raised = {"first": {"error": {"text": "ValueError: no", "line": 3, "memory": False}}, "end": {"replaced": []}}
    return tuple(json.dumps([{"name": n, "data": d} for n, d in one.items()]) for one in (parts, raised))


@cache
def _traces() -> tuple[str, ...]:
    """A traced launch and the coverage of a run, as one JSON text."""
    tensor = {
        "argument": "p", "storage": 1, "storage_offset": 0, "shape": [4, 8], "stride": [8, 1], "element_bytes": 4,
        "dtype": "float32",
    }  # fmt: skip
    launch = {"kernel": "k", "grid": [4, 1, 1], "tensors": [tensor], "arguments": ["p"], "complete": True}
    event = {
        "kind": "outside", "kernel": "k", "argument": "p", "access": "load", "line": 3, "count": 2, "low": 0, "high": 4,
    }  # fmt: skip
    unread = {"role": "", "kernel": "k", "argument": "p", "flags": "flags", "values": "out.0"}
    coverage = {"events": [event], "unwritten": [{"output": 0, "flags": "flags"}], "unread": [unread], "redone": ["mm"]}
    parts = [("launch 0", launch), ("run 0 0", {"coverage": coverage}), ("end", {"error": None})]
    return (json.dumps([{"name": name, "data": data} for name, data in parts]),)


@cache
def _trees() -> tuple[str, ...]:
    tree = {"$tensor": "out.0", "stride": [1, 2]}
    return tuple(json.dumps(value) for value in (tree, [tree, 1, None], {"$tuple": [tree, {"$dict": [["a", tree]]}]}))


@cache
def _studies() -> tuple[str, ...]:
    return ('{"verdict": null, "measured": null}', '{"verdict": {"findings": [], "errors": []}, "modelled": null}')


@cache
def _timings() -> tuple[str, ...]:
    good = {"label": "reference", "samples_ms": [1.0, 1.1, 0.9], "method": "events", "failure": ""}
    device = {"name": "device", "data": {"gpu": "NVIDIA H200"}}
    return (
        json.dumps([device, {"name": "timing", "data": good}]),
        json.dumps([{"name": "timing", "data": {"label": "reference", "failure": "it raised"}}]),
    )


# --- the readers ---------------------------------------------------------------------------------------------


def _read_document(text: str) -> object:
    from tilewright.task.document import read_document, write_document

    document = read_document(text)
    assert write_document(document) == text, "what was read is not what is written"
    return document


def _by_path(read: Callable[[Path], object], suffix: str) -> Callable[[str], object]:
    """A reader of files, given the text; the file is written before anybody watches."""

    def run(text: str) -> object:
        _WRITES.watching = False
        path = _scratch() / f"input{suffix}"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        _WRITES.watching = True
        return read(path)

    return run


@cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="tilewright-fuzz-"))


def _load_task(path: Path) -> object:
    from tilewright.task.load import load_task

    return load_task(path, gpu="rtx-4090")


def _read_candidate(path: Path) -> object:
    from tilewright.api import read_candidate

    return read_candidate(path)


def _read_gpu(path: Path) -> object:
    from tilewright.gpu.table import find_gpu

    return find_gpu(str(path))


def _python_block(text: str) -> object:
    from tilewright.task.reply import python_block

    return python_block(text, "reply.md")


def _input_specs(text: str) -> object:
    from tilewright.task.input_spec import parse_inputs

    return parse_inputs(text)


def _init_arguments(text: str) -> object:
    from tilewright.task.input_spec import parse_init

    return parse_init(text)


def _contract(text: str) -> object:
    from tilewright.gate.contract.rules import check_contract
    from tilewright.task.task import OutputRules

    return check_contract(text, OutputRules())


def _job_result(text: str, tensors: Mapping[str, torch.Tensor] | None = None) -> Any:
    """Parts of a job, as the sandbox hands them on, each with these tensors."""
    from tilewright.sandbox.job import JobResult, Outcome, Part

    parts = json.loads(text)
    if not isinstance(parts, list):
        parts = [parts]
    kept = [
        Part(p["name"], p["data"], tensors or {})
        for p in parts
        if isinstance(p, dict) and isinstance(p.get("name"), str) and "data" in p
    ]
    return JobResult(Outcome.OK, "", tuple(kept), 0, "", "", 0.1, ())


def _wire_json(path: Path) -> object:
    return wire.load_json(path)


def _recording(path: Path) -> object:
    from tilewright.gate.stages.record import read_recording
    from tilewright.gpu.table import find_gpu

    wire.load_json(path)
    return read_recording(_job_result(path.read_text(encoding="utf-8")), find_gpu("rtx-4090"))


def _expected() -> Any:
    """A right answer, for reports to be judged by."""
    from tilewright.gate.compare.errors import Errors
    from tilewright.gate.judging import judge
    from tilewright.gate.probes.planning import Family, Probe
    from tilewright.gate.reference.subject import Form

    right = torch.arange(6.0).reshape(2, 3)
    return judge.Expected(
        probe=Probe("fuzz", Family.VALUE), weights_key="w", inputs=[], exact=(right.double(),), native=(right,),
        types=(right.dtype,), errors={"ieee": [Errors(1e-8, 1e-7)]}, form=Form("(tensor)", ("cpu",), ("contiguous",)),
    )  # fmt: skip


def _run_report(path: Path) -> object:
    from tilewright.gate.judging import judge

    data, expected = wire.load_json(path), _expected()
    tensors = {"out.0": expected.native[0].clone()}
    return judge.judge_run("run 0 0", data, tensors, expected, expected.errors, "ieee", False)


def _honesty(path: Path) -> object:
    from tilewright.gate.contract.syntax import Source
    from tilewright.gate.judging import honesty

    wire.load_json(path)
    expected = _expected()
    tensors = {"out.0": expected.native[0].clone()}
    result = _job_result(path.read_text(encoding="utf-8"), tensors)
    scene = honesty.Scene(0, 0, 0)
    judged = honesty.read(result, [expected], scene, expected.errors, "ieee", False)
    return list(honesty.findings_of(judged, Source.parse("x = 1")))


def _trace(path: Path) -> object:
    from tilewright.gate.judging.coverage import read_covered
    from tilewright.gate.stages.trace import read_trace

    wire.load_json(path)
    flags = torch.tensor([[True, False, True], [False, False, True]])
    tensors = {
        "flags": flags, "out.0": torch.zeros(2, 3), "programs": torch.zeros(1, 3, dtype=torch.int64),
        "table": torch.tensor([[0, 0, 0, 0, 0, 0, 4, 7, 1, 6, 0, 0, 0, 0]]), "mask": flags.reshape(-1),
        "offsets": torch.arange(6),
    }  # fmt: skip
    result = _job_result(path.read_text(encoding="utf-8"), tensors)
    return read_trace(result), [read_covered(part, 0, 0) for part in result.parts]


def _safetensors(path: Path) -> object:
    return wire.load_tensors(path, 1 << 20)


def _from_base64(read: Callable[[Path], object]) -> Callable[[str], object]:
    """A reader of bytes, from a text that holds them in base 64 (damage to it is damage to them)."""

    def run(text: str) -> object:
        _WRITES.watching = False
        path = _scratch() / "input.safetensors"
        kept = "".join(letter for letter in text if letter.isascii() and (letter.isalnum() or letter in "+/"))
        path.write_bytes(base64.b64decode(kept[: len(kept) - (len(kept) % 4 == 1)] + "=="))
        _WRITES.watching = True
        return read(path)

    return run


@cache
def _tensor_files() -> tuple[str, ...]:
    import safetensors.torch

    data = safetensors.torch.save({"a": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(2, dtype=torch.int64)})
    return (base64.b64encode(data).decode(),)


def _unpack(path: Path) -> object:
    return wire.unpack(wire.load_json(path), {"out.0": torch.arange(6.0).reshape(2, 3)})


def _stored(text: str) -> object:
    from tilewright.search.records import decode_evaluation

    return decode_evaluation(text)


def _clock_report(path: Path) -> object:
    from tilewright.measure.clock import read_report

    wire.load_json(path)
    return read_report(["reference"], _job_result(path.read_text(encoding="utf-8")), ())


_GARBAGE = (wire.GarbageError,)

READERS: tuple[Reader, ...] = (
    Reader("document", _read_document, _documents),
    Reader("task from a document", _by_path(_load_task, ".txt"), _documents),
    Reader("task from a Python file", _by_path(_load_task, ".py"), _modules),
    Reader("candidate file", _by_path(_read_candidate, ".py"), _modules),
    Reader("reply", _python_block, _replies),
    Reader("reply file", _by_path(_read_candidate, ".md"), _replies),
    Reader("GPU file", _by_path(_read_gpu, ".toml"), _toml),
    Reader("--inputs", _input_specs, _specs),
    Reader("--init", _init_arguments, _specs),
    Reader("contract", _contract, _modules),
    Reader("JSON of a sandbox", _by_path(_wire_json, ".json"), _recordings, _GARBAGE),
    Reader("recording", _by_path(_recording, ".json"), _recordings, _GARBAGE),
    Reader("run report", _by_path(_run_report, ".json"), _runs, _GARBAGE),
    Reader("experiments", _by_path(_honesty, ".json"), _experiments, _GARBAGE),
    Reader("trace and coverage", _by_path(_trace, ".json"), _traces, _GARBAGE),
    Reader("tree of a sandbox", _by_path(_unpack, ".json"), _trees, _GARBAGE),
    Reader("tensors of a sandbox", _from_base64(_safetensors), _tensor_files, _GARBAGE),
    Reader("clock report", _by_path(_clock_report, ".json"), _timings, _GARBAGE),
    Reader("stored trial", _stored, _studies),
)
