"""In a sandboxed process: what a candidate changes for everybody in its process, on import and by calls."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tilewright.gate.inside.pretend import really

#: What a call or an import must leave as it was: name for people -> how it is asked.
FLAGS: Mapping[str, Callable[[], Any]] = {
    "torch.set_grad_enabled": torch.is_grad_enabled,
    "torch.inference_mode": torch.is_inference_mode_enabled,
    "torch.set_default_dtype": torch.get_default_dtype,
    "torch.set_default_device": lambda: str(torch.get_default_device()),
    "torch.set_num_threads": torch.get_num_threads,
    "torch.set_float32_matmul_precision": torch.get_float32_matmul_precision,
    "torch.use_deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
    "torch.backends.cuda.matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
    "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction": (
        lambda: torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    ),
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction": (
        lambda: torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    ),
    "torch.backends.cudnn.enabled": lambda: torch.backends.cudnn.enabled,
    "torch.backends.cudnn.allow_tf32": lambda: torch.backends.cudnn.allow_tf32,
    "torch.backends.cudnn.deterministic": lambda: torch.backends.cudnn.deterministic,
    "torch.backends.cudnn.benchmark": lambda: torch.backends.cudnn.benchmark,
    "torch.backends.mkldnn.enabled": lambda: torch.backends.mkldnn.enabled,
    "torch.backends.cuda.enable_flash_sdp": torch.backends.cuda.flash_sdp_enabled,
    "torch.backends.cuda.enable_math_sdp": torch.backends.cuda.math_sdp_enabled,
    "torch.backends.cuda.enable_mem_efficient_sdp": torch.backends.cuda.mem_efficient_sdp_enabled,
    "torch.backends.cuda.preferred_linalg_library": lambda: str(torch.backends.cuda.preferred_linalg_library()),
    "torch.autocast": lambda: (torch.is_autocast_enabled("cuda"), torch.is_autocast_enabled("cpu")),
    "torch.set_autocast_dtype": lambda: (torch.get_autocast_dtype("cuda"), torch.get_autocast_dtype("cpu")),
    "torch.set_flush_denormal": lambda: bool(torch.tensor([1e-39]).mul(0.5).item() == 0.0),
    "torch.autograd.set_detect_anomaly": torch.is_anomaly_enabled,
    "torch.manual_seed": torch.initial_seed,
    "a mode of torch functions": torch._C._len_torch_function_stack,
    "a mode of torch's dispatcher": torch._C._len_torch_dispatch_stack,
    "a global hook of modules": lambda: _global_hooks(),
    "gc.disable": gc.isenabled,
    "sys.settrace": sys.gettrace,
    "sys.setprofile": sys.getprofile,
    "sys.setrecursionlimit": sys.getrecursionlimit,
    "sys.setswitchinterval": sys.getswitchinterval,
    "threading.setprofile": threading.getprofile,
    "os.chdir": os.getcwd,
}
#: It changes how fast convolutions are found, not what anything computes.
HARMLESS = frozenset({"torch.backends.cudnn.benchmark"})
#: Variables of the environment by which libraries compute differently.
_LIBRARIES = ("NVIDIA_", "CUBLAS_", "CUDNN_", "CUDA_", "TORCH_", "PYTORCH_", "TRITON_", "OMP_", "MKL_")

State = Mapping[str, Any]


def state() -> State:
    """How everything stands now; what this version of torch does not have is left out."""
    found: dict[str, Any] = {}
    with really():
        for name, ask in FLAGS.items():
            try:
                found[name] = ask()
            except Exception:  # another version of torch asks for it by another name
                continue
    found["environment"] = {name: value for name, value in os.environ.items() if name.startswith(_LIBRARIES)}
    return found


def changed(before: State, after: State) -> list[str]:
    """What is not as it was: names for people, with the new value."""
    names = [f"{name} (now {after[name]})" for name in FLAGS if before.get(name) != after.get(name)]
    variables = before["environment"], after["environment"]
    names += [f"os.environ[{name!r}]" for name in {**variables[0], **variables[1]}
              if variables[0].get(name) != variables[1].get(name)]  # fmt: skip
    return names


def is_harmless(name: str) -> bool:
    """Whether a change, as `changed` names it, leaves every result as it is."""
    return name.split(" (now ")[0] in HARMLESS


def _global_hooks() -> int:
    from torch.nn.modules import module

    return sum(
        len(value)
        for name, value in vars(module).items()
        if name.startswith("_global_") and name.endswith(("_hooks", "_kwargs")) and isinstance(value, dict)
    )


# --- operators ----------------------------------------------------------------------------------------------------


class Operators:
    """Watches who makes libraries of operators: those of others are nobody's to replace.

    Attributes:
        replaced: `namespace (dispatch key)` of libraries that the candidate's file made in a namespace of others.
    """

    def __init__(self, files: tuple[str, ...]) -> None:
        self.replaced: list[str] = []
        self._files = files
        self._known = frozenset(name.split("::")[0] for name in torch._C._dispatch_get_all_op_names())
        self._plain = torch._C._dispatch_library

    def watch(self) -> None:
        """From now on."""
        plain, note = self._plain, self._note

        def library(kind: str, namespace: str, *rest: Any, **options: Any) -> Any:
            note(namespace, str(rest[0]) if rest else "")
            return plain(kind, namespace, *rest, **options)

        torch._C._dispatch_library = library  # type: ignore[assignment]

    def _note(self, namespace: str, key: str) -> None:
        if namespace not in self._known:
            return
        frame = sys._getframe(2)
        # Torch makes such libraries itself, when a part of it is first imported.
        while frame is not None and _is_library(frame.f_code.co_filename):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None and frame.f_code.co_filename.endswith(self._files):
            self.replaced.append(f"{namespace}{f' ({key})' if key else ''}")


def _is_library(name: str) -> bool:
    name = name.replace(os.sep, "/")
    return name.endswith(("/torch/library.py", "/inside/world.py")) or "/torch/_library/" in name
