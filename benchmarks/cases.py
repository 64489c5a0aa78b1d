"""What is benchmarked: lists of cases, each a self-contained Python file with `Model` and its inputs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from benchmarks import chains, modules

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

_PREAMBLE = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: for `--only`, folders and tables.
        description: what it covers.
        source: a Python file with `Model`, `get_init_inputs`, `get_inputs`.
        precision: precision class of its products: `tf32`, `fp16`, `bf16`.
        document: number of the document that has the same workload, if one has.
    """

    name: str
    description: str
    source: str
    precision: str = "tf32"
    document: str = ""


def python_file(module: type[nn.Module], init: str, inputs: str) -> str:
    """A self-contained Python file: the class as `Model`, and its functions.

    Args:
        module: a class that uses nothing of its own file but torch, nn and F.
        init, inputs: lists, as Python text.
    """
    text = inspect.getsource(module)
    node = ast.parse(text).body[0]
    body = "\n".join(text.splitlines()[node.lineno - 1 :])
    renamed = re.sub(rf"^class {module.__name__}\(", "class Model(", body)
    functions = f"def get_init_inputs():\n    return {init}\n\n\ndef get_inputs():\n    return {inputs}\n"  # fmt: skip
    return f"{_PREAMBLE}{renamed}\n\n\n{functions}"


# ---------------------------------------------------------------------------------------------------------
# The five workloads, as the examples have them

WORKLOADS: Sequence[tuple[str, str]] = (
    ("000", "add_min_gelu_mul"),
    ("001", "min_sum_gelu_bias"),
    ("002", "mish_add_hardtanh_scale"),
    ("003", "linear_batchnorm_gelu_relu"),
    ("004", "multiply_global_mean"),
)


def workloads() -> tuple[Case, ...]:
    """The five workloads: the example files themselves."""
    return tuple(_example(name, number) for number, name in WORKLOADS)


def _example(name: str, number: str) -> Case:
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    summary = (ast.get_docstring(ast.parse(source)) or name).splitlines()[0]
    return Case(name, summary, source, document=number)


# ---------------------------------------------------------------------------------------------------------
# The same five op chains at other shapes


@dataclass(frozen=True)
class Shape:
    """One shape of a chain: what is special about it, constructor arguments, shape of the input."""

    name: str
    init: tuple[int, ...]
    input: tuple[int, ...]


def _transposed(
    channels: tuple[int, int],
    *,
    kernel: int = 3,
    stride: int = 2,
    padding: int = 1,
    output_padding: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> tuple[int, ...]:
    return (*channels, kernel, stride, padding, output_padding, groups, dilation)


_K4 = {"kernel": 4, "padding": 0, "output_padding": 0}
_K5 = {"kernel": 5, "stride": 3, "padding": 2, "output_padding": 0}

SHAPES: Mapping[type[nn.Module], Sequence[Shape]] = {
    chains.AddMinGeluMultiply: (
        Shape("batch_1", _transposed((64, 128), **_K4), (1, 64, 64, 64)),
        Shape("odd_sizes", _transposed((64, 128), **_K4), (7, 64, 37, 53)),
        Shape("channels_20_50", _transposed((20, 50), **_K4), (32, 20, 64, 64)),
        Shape("k5_s3_p2", _transposed((64, 128), **_K5), (16, 64, 48, 48)),
        Shape("groups_2", _transposed((64, 128), **_K4, groups=2), (32, 64, 64, 64)),
        Shape("dilation_2", _transposed((64, 64), dilation=2), (32, 64, 64, 64)),
    ),
    chains.MinSumGeluBias: (
        Shape("batch_1", _transposed((64, 128)), (1, 64, 128, 128)),
        Shape("odd_sizes", _transposed((64, 128)), (5, 64, 67, 61)),
        Shape("channels_48_200", _transposed((48, 200)), (8, 48, 96, 96)),
        Shape("k5_s3_p2", _transposed((64, 128), **_K5), (8, 64, 64, 64)),
        Shape("groups_2", _transposed((64, 128), groups=2), (16, 64, 96, 96)),
        Shape("dilation_2", _transposed((32, 96), dilation=2), (16, 32, 96, 96)),
    ),
    chains.MishAddHardtanhScale: (
        Shape("batch_1", _transposed((64, 64)), (1, 64, 128, 128)),
        Shape("odd_sizes_channels_33_65", _transposed((33, 65)), (9, 33, 45, 77)),
        Shape("k5_s3_p2", _transposed((64, 64), **_K5), (16, 64, 64, 64)),
        Shape("groups_2", _transposed((64, 64), groups=2), (32, 64, 96, 96)),
        Shape("dilation_2", _transposed((64, 64), dilation=2), (16, 64, 96, 96)),
    ),
    chains.MultiplyGlobalMean: (
        Shape("batch_1", _transposed((64, 128)), (1, 64, 128, 128)),
        Shape("odd_sizes_channels_17_31", _transposed((17, 31)), (13, 17, 59, 83)),
        Shape("k5_s3_p2", _transposed((64, 128), **_K5), (16, 64, 64, 64)),
        Shape("groups_2", _transposed((64, 128), groups=2), (16, 64, 128, 128)),
        Shape("dilation_2", _transposed((64, 128), dilation=2), (16, 64, 96, 96)),
    ),
    chains.LinearNormGeluRelu: (
        Shape("batch_1", (4096, 4096), (1, 4096)),
        Shape("odd_sizes", (1000, 777), (1000, 1000)),
        Shape("wide", (512, 2048), (16384, 512)),
        Shape("deep", (8192, 2048), (512, 8192)),
    ),
}


def shapes() -> tuple[Case, ...]:
    """The five op chains at other shapes."""
    return tuple(
        Case(
            name=f"{_snake(chain.__name__)}.{shape.name}",
            description=f"{chain.__name__}{shape.init} on {shape.input}",
            source=python_file(chain, repr(list(shape.init)), f"[torch.rand{shape.input}]"),
        )
        for chain, variants in SHAPES.items()
        for shape in variants
    )


# ---------------------------------------------------------------------------------------------------------
# Other modules


def other_modules() -> tuple[Case, ...]:
    """Modules that cover each anchor, epilogue and normalisation."""
    return tuple(
        Case(
            name=_snake(row.module.__name__),
            description=row.covers,
            source=python_file(row.module, row.init, row.inputs),
            precision=row.precision,
        )
        for row in modules.ROWS
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


CASE_LISTS: Mapping[str, Callable[[], tuple[Case, ...]]] = {
    "workloads": workloads,
    "shapes": shapes,
    "modules": other_modules,
}


def find_cases(lists: Sequence[str], only: Sequence[str]) -> tuple[Case, ...]:
    """The cases of the lists, in order; of `only`, those whose name or document number starts so.

    Raises:
        LookupError: a name of `only` fits none; the message names what there is.
    """
    cases = tuple(case for name in lists for case in CASE_LISTS[name]())
    if not only:
        return cases
    for wanted in only:
        if not any(_fits(case, wanted) for case in cases):
            raise LookupError(f"no case starts with {wanted!r}; there are: {', '.join(case.name for case in cases)}")
    return tuple(case for case in cases if any(_fits(case, wanted) for wanted in only))


def _fits(case: Case, wanted: str) -> bool:
    return case.name.startswith(wanted) or case.document == wanted
