"""Runs modules in Triton's interpreter and compares them; started by the tests as a process of its own.

stdin: JSON {"sources": [text, ...], "init": [...], "shapes": [[...], ...], "views": bool,
"change": bool}; with `change` the parameters change between calls; the first source is the
given one. stdout, last line: JSON [largest error relative to the largest output, or the error's text, ...].
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from triton.runtime import autotuner


def _every_config(self: Any, *args: Any, **kwargs: Any) -> None:
    """In place of timing the configurations: run them all, in their order."""
    for config in self.configs:
        self.fn.run(*args, **kwargs, **config.all_kwargs())


def _inputs(shape: list[int], seed: int) -> list[torch.Tensor]:
    """A contiguous tensor, and one of the same sizes in another layout."""
    torch.manual_seed(seed)
    plain = torch.randn(shape)
    order = list(range(len(shape)))[::-1]
    other = torch.randn([shape[i] for i in order]).permute(order)
    return [plain, other]


def _load(source: str, folder: Path, index: int) -> Any:
    path = folder / f"module_{index}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelNew


def _outputs(model: Any, job: dict[str, Any]) -> list[torch.Tensor]:
    return [
        model(x) for seed, shape in enumerate(job["shapes"]) for x in _inputs(shape, seed)[: 2 if job["views"] else 1]
    ]


def _in_place(model: Any) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.mul_(2)


def _new_storage(model: Any) -> None:
    for tensor in model.parameters():
        tensor.data = tensor.data * 0.5 + 0.25


def _new_parameters(model: Any) -> None:
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, torch.nn.Parameter(parameter.detach() - 0.5))


def main() -> None:
    job = json.load(sys.stdin)
    torch.set_num_threads(1)
    autotuner.Autotuner.run = _every_config
    torch.Tensor.is_cuda = property(lambda self: True)
    outcomes: list[Any] = []
    expected: list[torch.Tensor] = []
    with tempfile.TemporaryDirectory() as folder:
        for index, source in enumerate(job["sources"]):
            try:
                torch.manual_seed(0)
                model = _load(source, Path(folder), index)(*job["init"]).eval()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.uniform_(-1, 1)
                    outputs = _outputs(model, job)
                    for change in (_in_place, _new_storage, _new_parameters) if job["change"] else ():
                        change(model)
                        outputs += _outputs(model, job)
                if index == 0:
                    expected = outputs
                outcomes.append(max(_error(a, b) for a, b in zip(outputs, expected, strict=True)))
            except Exception as error:
                outcomes.append(f"{type(error).__name__}: {error}"[:2000])
    print("\n" + json.dumps(outcomes))


def _error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    if got.shape != wanted.shape or got.dtype != wanted.dtype or not torch.equal(got.isnan(), wanted.isnan()):
        return float("inf")
    return ((got - wanted).abs().nan_to_num(0).max() / wanted.abs().nan_to_num(0).max().clamp_min(1e-6)).item()


main()
