"""The measured profile of a forward pass: Nsight Compute on every kernel, and the time between them.

The forward pass runs in a process of its own (`tilewright.measure.forward`), once without counters, which gives the
total, the gaps and the host's time, and once under `ncu`. Clocks are left alone.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle

from tilewright.errors import MissingReferenceError, TilewrightError
from tilewright.measure.clock import NoGpuError
from tilewright.measure.lock import alone_on_gpu
from tilewright.measure.ncu import NcuKernel, find_ncu, kernel_profiles, ncu_command, ncu_version, read_csv
from tilewright.measure.predict import given_candidate
from tilewright.task.task import Task
from tilewright.values.candidate import Candidate
from tilewright.values.profile import ForwardProfile, KernelProfile

#: Wall seconds of the process without counters, and under `ncu` (which repeats each kernel some forty times).
_PLAIN_DEADLINE_S = 300.0
_COUNTED_DEADLINE_S = 900.0

_PERMISSION = "ERR_NVGPUCTRPERM"
_PERMISSION_HINT = (
    "let every user read counters: as root, put 'options nvidia NVreg_RestrictProfilingToAdminUsers=0' into "
    "/etc/modprobe.d/nvidia.conf and reload the driver (or reboot); in a container, add --cap-add=SYS_ADMIN; or run "
    "as root (https://developer.nvidia.com/ERR_NVGPUCTRPERM)"
)


class ProfileError(TilewrightError):
    """The forward pass could not be run for its profile."""


def collect_profile(task: Task, candidate: Candidate | None = None, *, counters: bool = True) -> ForwardProfile:
    """Run one forward pass on the installed GPU and say what its kernels do.

    Where `ncu` is missing or its counters are not permitted, the notes say what to do, and times alone are given.

    Args:
        task: says how the module is built and called; it must have a reference.
        candidate: what is profiled; the task's given code if None, or else the reference.
        counters: read Nsight Compute's metrics too, not times alone.

    Raises:
        MissingReferenceError: the task does not say how to call its code.
        NoGpuError: there is no GPU.
        ProfileError: the code fails.
    """
    import torch

    if task.reference is None:
        raise MissingReferenceError(
            "a document alone does not say how to call its code", hint="give --reference FILE, or --init and --inputs"
        )
    if not torch.cuda.is_available():
        raise NoGpuError(
            "there is no GPU to profile on", hint="tilewright profile --model --gpu NAME predicts a profile"
        )
    candidate = candidate or given_candidate(task)
    with (
        tempfile.TemporaryDirectory(prefix="tilewright-profile-") as folder,
        alone_on_gpu(os.environ.get("CUDA_VISIBLE_DEVICES", "") + "0"),
    ):
        job = _write_job(task, candidate, Path(folder))
        timed = _run_plain(job)
        launches, notes, version = _count(job) if counters else ((), (), "")
    return _profile(timed, launches, notes, version)


def _write_job(task: Task, candidate: Candidate | None, folder: Path) -> Path:
    job = {
        "source": base64.b64encode(cloudpickle.dumps(task.reference)).decode(),
        "candidate": None
        if candidate is None
        else {"source": candidate.source, "needs_reference": candidate.needs_reference},
        "precision": task.precision.value,
        "result": str(folder / "result.json"),
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def _command(job: Path, mode: str) -> list[str]:
    return [sys.executable, "-m", "tilewright.measure.forward", mode, str(job)]


def _run(command: Sequence[str], deadline_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, env=dict(os.environ))
    except subprocess.TimeoutExpired:
        raise ProfileError(f"the forward pass did not end within {deadline_s:.0f} s of profiling") from None
    except OSError as error:
        raise ProfileError(f"{command[0]} cannot be started: {error.strerror}") from None


def _run_plain(job: Path) -> Mapping[str, Any]:
    """Times without counters: of each kernel, of the whole, of the host."""
    done = _run(_command(job, "time"), _PLAIN_DEADLINE_S)
    result = Path(json.loads(job.read_text(encoding="utf-8"))["result"])
    if done.returncode != 0 or not result.is_file():
        raise ProfileError(f"the forward pass failed: {_last_line(done.stderr)}")
    found: Mapping[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _count(job: Path) -> tuple[tuple[NcuKernel, ...], tuple[str, ...], str]:
    """Nsight Compute's figures, or why there are none."""
    ncu = find_ncu()
    if ncu is None:
        hint = "install NVIDIA Nsight Compute, or put ncu on PATH"
        return (), (f"ncu was not found, so there are times alone: {hint}",), ""
    why = ""
    for named in (True, False):
        done = _run(ncu_command(ncu, _command(job, "count"), named=named), _COUNTED_DEADLINE_S)
        said = done.stdout + done.stderr
        if _PERMISSION in said:
            return (
                (),
                (f"counters are not permitted ({_PERMISSION}), so there are times alone: {_PERMISSION_HINT}",),
                "",
            )
        try:
            found = read_csv(done.stdout)
        except ValueError:
            found = ()
        if found:
            return found, (), ncu_version(ncu)
        why = next((line for line in said.splitlines() if "==ERROR==" in line), "") or _last_line(said)
    return (), (f"ncu gave no metrics, so there are times alone: {why}",), ncu_version(ncu)


def _profile(
    timed: Mapping[str, Any], launches: tuple[NcuKernel, ...], notes: tuple[str, ...], version: str
) -> ForwardProfile:
    own = frozenset(str(name) for name in timed["own"])
    gpu, versions = str(timed["gpu"]), {str(k): str(v) for k, v in timed["versions"].items()}
    if version:
        versions["ncu"] = version
    times = {str(name): [float(ms) for ms in found] for name, found in timed["kernels"].items()}
    if launches:
        kernels = tuple(kernel_profiles(launches, gpu, f"ncu {version}".strip(), own))
    else:
        kernels = tuple(
            KernelProfile(
                name, gpu, False, "PyTorch profiler", launches=len(found), duration_ms=sum(found) / len(found),
                native=name not in own, position=position, evidence={"time": "CUPTI activity"},
            )
            for position, (name, found) in enumerate(times.items())
        )  # fmt: skip
    busy = sum(sum(found) for found in times.values())
    total = float(timed["total_ms"])
    profile = ForwardProfile(
        kernels, gap_ms=max(0.0, total - busy), host_ms=float(timed["host_ms"]), total_ms=total, gpu=gpu,
        versions=versions, notes=notes,
    )  # fmt: skip
    return replace(profile, notes=(*notes, *(str(note) for note in timed.get("notes", ()))))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
