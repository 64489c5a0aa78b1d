"""What stands for a compiled kernel where kernels are interpreted: `warmup` and launches return one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any


class CompiledStandIn:
    """Answers what is asked of a compiled kernel before it is launched, and launches the interpreted one.

    Its figures are those of a small kernel: whoever derives a grid from them gets one that a GPU could have.
    """

    n_regs = 32
    n_spills = 0
    n_max_threads = 1024
    shared = 0

    def __init__(self, launch: Callable[..., Any], constants: Mapping[str, Any], warps: int, stages: int) -> None:
        self._launch = launch
        self._constants = dict(constants)
        self.asm = {"ttir": "", "ttgir": "", "llir": "", "ptx": "", "cubin": b"", "sass": ""}
        self.num_warps, self.num_stages = warps, stages
        self.metadata = SimpleNamespace(
            shared=0, num_warps=warps, num_stages=stages, num_ctas=1, n_regs=32, n_spills=0, name="kernel",
            tmem_size=0, maxnreg=None, warp_size=32,
        )  # fmt: skip
        self.function = self.module = None

    def _init_handles(self) -> None:
        """Nothing is loaded anywhere."""

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Nothing of a driver is there to be called."""

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        def launch(*args: Any, **kwargs: Any) -> Any:
            options = {key: value for key, value in kwargs.items() if key != "stream"}
            return self._launch(*args, grid=grid, warmup=False, **{**self._constants, **options})

        return launch


def stand_in(kernel: Any, launch: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The stand-in for a kernel that was warmed up with these arguments.

    Args:
        kernel: the function under `@triton.jit`.
        launch: called as `kernel.run`.
        args, kwargs: of the warmup: constants among the keywords need not be given again.
    """
    names = list(getattr(kernel, "arg_names", ()))
    # Who launches it may leave out what the compiled kernel has as constants.
    constants = {key: value for key, value in kwargs.items() if key not in {"grid", "warmup"}}
    positions = dict(zip(names, args, strict=False))

    def launched(*given: Any, **options: Any) -> Any:
        taken = set(names[: len(given)])
        rest = {key: value for key, value in positions.items() if key not in taken and key not in options}
        filled = {key: value for key, value in rest.items() if not hasattr(value, "dtype")}
        kept = {key: value for key, value in options.items() if key not in taken}
        return launch(*given, **{**filled, **kept})

    return CompiledStandIn(launched, constants, int(kwargs.get("num_warps", 4)), int(kwargs.get("num_stages", 3)))
