"""A task: what is asked. Floor 0; no floor above is known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilewright.gpu.gpu import Gpu
from tilewright.task.stage import Stage, StageRules
from tilewright.values.precision import PrecisionClass


@dataclass(frozen=True)
class OutputRules:
    """What a document demands of the answer, as data. All of it is on by default.

    Attributes:
        forbidden_functions: dotted names that the answer must not use (`tl.tanh`), where the document names any; what
            the installed Triton lacks is no name in any case.
        fixed_order: imports, kernels, wrappers, ModelNew.
        no_test_code: no testing code, `if __name__`, `get_inputs`, `get_init_inputs`.
        require_jit: every kernel is decorated.
        power_of_two_tiles: block sizes are powers of two.
        no_jumps_in_loops: no break, continue, return in a kernel's loop.
        no_tensor_indexing: no `x[:, i]` with a loop variable.
        one_store_per_output: as the stage demands.
        strict_stores: `--rules strict`: one literal `tl.store` an output and nothing else.
    """

    forbidden_functions: tuple[str, ...] = ()
    fixed_order: bool = True
    no_test_code: bool = True
    require_jit: bool = True
    power_of_two_tiles: bool = True
    no_jumps_in_loops: bool = True
    no_tensor_indexing: bool = True
    one_store_per_output: bool = True
    strict_stores: bool = False


@dataclass(frozen=True)
class Section:
    """One section of a document, as written: its heading line and its text, both byte for byte."""

    kind: str
    text: str


@dataclass(frozen=True)
class Document:
    """The text form of a task, taken apart. `sections` joined gives back the bytes.

    Attributes:
        path: where it was read from, if from a file.
        sections: the whole text, cut into sections in order; unknown ones are kept with kind `unknown`.
        gpu: the target.
        gpu_figures: what the header's table says, figure by figure, as written; empty for the one-line header.
        rules: the stage and its rules.
        code: the current code (one Python module).
        code_line: line of the document where the code starts, counting from 1.
        metrics: kernel name -> metric name -> value, as Nsight Compute prints them.
        api_constraints: as written, one item a line.
        output_rules: as data.
    """

    path: Path | None
    sections: tuple[Section, ...]
    gpu: Gpu
    gpu_figures: Mapping[str, str]
    rules: StageRules
    code: str
    code_line: int
    metrics: Mapping[str, Mapping[str, float]]
    api_constraints: tuple[str, ...]
    output_rules: OutputRules

    @property
    def text(self) -> str:
        """The document's text, byte for byte as it was read."""
        return "".join(section.text for section in self.sections)


@dataclass(frozen=True)
class InputSpec:
    """One input as `--inputs` names it: a filler and its shape, or a literal.

    Attributes:
        filler: `rand`, `randn`, `zeros`, `ones`, `randint`, ... or `literal`.
        shape: of a tensor.
        dtype: torch dtype name without `torch.`.
        low, high: bounds of `randint`.
        value: of a literal.
    """

    filler: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    low: int = 0
    high: int = 2
    value: Any = None


@dataclass(frozen=True)
class ModuleSource:
    """Where a module comes from, and how to call it: enough for another process to build it again.

    Exactly one of three forms: a Python file's source with `get_inputs` / `get_init_inputs` in it
    (`init_args` and `inputs` None); source with `init_args` and `inputs` given (`--init`, `--inputs`);
    a live module and example inputs, pickled by value (`pickled`).

    Attributes:
        source: Python source; empty for a live module.
        class_name: the module class in it (`Model`, `ModelNew`).
        path: the file, for messages and for imports relative to it.
        init_args: constructor arguments (literals), or None where `get_init_inputs()` gives them.
        inputs: how inputs are made, or None where `get_inputs()` gives them.
        pickled: (module, inputs) by cloudpickle, for live modules; made by the parent, never by a candidate.
        first_line: line of `path` where `source` starts, counting from 1 (a document's code block).
    """

    source: str
    class_name: str
    path: Path | None = None
    init_args: tuple[Any, ...] | None = None
    inputs: tuple[InputSpec, ...] | None = None
    pickled: bytes | None = field(default=None, repr=False)
    first_line: int = 1


@dataclass(frozen=True)
class Task:
    """What is asked, whole.

    Attributes:
        name: short name for files and tables.
        reference: the module that says what is right. Where the given code is the specification, it is that
            code (`class_name` is `ModelNew`) and `given_code_is_specification` is True.
        gpu: the target.
        stages: the stages that this run goes through, in order.
        rules: the rules of each of them.
        precision: the class that the reference runs in.
        output_rules: of the answer.
        given_code: the document's (or starting) Triton code, if any.
        metrics: profile of the given code, if any (kernel -> metric -> value).
        document: the document that it was read from, if any.
        given_code_is_specification: no reference was given.
        also_inputs: further inputs that the module is called with and should be fast on, each a list as `--inputs`
            takes it.
        has_reference: a document may have been given alone; then nothing can be run (`inspect`, `prompt`).
    """

    name: str
    reference: ModuleSource | None
    gpu: Gpu
    stages: tuple[Stage, ...]
    rules: tuple[StageRules, ...]
    precision: PrecisionClass
    output_rules: OutputRules = field(default_factory=OutputRules)
    given_code: str | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    document: Document | None = None
    given_code_is_specification: bool = False
    also_inputs: tuple[tuple[InputSpec, ...], ...] = ()

    @property
    def has_reference(self) -> bool:
        """True where the task says how to build and call its module."""
        return self.reference is not None
