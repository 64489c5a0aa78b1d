"""Documents of our own: any task and stage as text, in the order of sections that the documents have."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping

from tilewright.errors import MissingReferenceError, SourceError
from tilewright.task.document import STRICT_STORES
from tilewright.task.fences import fence_for, with_unix_newlines
from tilewright.task.gpu_header import write_header
from tilewright.task.metrics import write_metrics
from tilewright.task.python_source import bound_names, parse_source
from tilewright.task.stage import Stage
from tilewright.task.stage_rules import rules_for, write_rules
from tilewright.task.task import ModuleSource, OutputRules, Task

_OPENING = "Your trade is Triton kernels. Make the module below run as fast as the target GPU allows.\n"

_REQUEST = (
    "**Task**: Read the current code{evidence}, find what holds it back, and answer with faster code that computes "
    "the same.\n"
)


def compose_document(
    task: Task,
    stage: Stage,
    *,
    code: str | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The document that asks for one stage of a task.

    `read_document` reads the same GPU, rules, code, metrics and output rules back.

    Args:
        task: what is asked.
        stage: of which step.
        code: the current code; the task's own where none is given, or, where it has none, its reference
            under the name `ModelNew`.
        metrics: of that code; the task's own where none are given and no other code is.

    Raises:
        MissingReferenceError: there is no code: a live module has no source.
        SourceError: the code does not parse or lacks `ModelNew`.
    """
    rules = next((item for item in task.rules if item.stage is stage), None) or rules_for(
        stage, task.document.rules if task.document is not None else None
    )
    if metrics is None:
        metrics = task.metrics if code is None else {}
    current = with_unix_newlines(code if code is not None else starting_code(task))
    names = bound_names(parse_source(current))
    if "ModelNew" not in names and "*" not in names:
        raise SourceError("the current code defines no class `ModelNew`")
    evidence = " and its metrics" if metrics else ""
    parts = [
        _OPENING,
        write_header(task.gpu),
        f"[OPTIMIZATION STAGE]\n\n## {stage.value}\n\n{write_rules(rules)}",
        f"[CURRENT CODE]\n{_block(current)}",
        *([f"[NCU PROFILING METRICS]\n{write_metrics(metrics)}\n"] if metrics else []),
        _REQUEST.format(evidence=evidence),
        _constraints(task.output_rules),
        _answer_rules(task.output_rules),
        "```python\n# your code\n```\n",
    ]
    return "\n".join(parts)


def _block(code: str) -> str:
    fence = fence_for(code)
    ending = "" if code.endswith("\n") else "\n"
    return f"{fence}python\n{code}{ending}{fence}\n"


def _constraints(rules: OutputRules) -> str:
    lines = ["TRITON API CONSTRAINTS"]
    if rules.forbidden_functions:
        lines.append(f"- Triton lacks {', '.join(rules.forbidden_functions)}: write them out with what it has")
    # What the language itself demands is said in every document.
    lines += [
        "- Each kernel carries the decorator `@triton.jit`",
        "- A launch grid has one to three axes, each at least 1; round up with `triton.cdiv`",
        "- Tile sizes are powers of two",
        "- A kernel's loop has no `break`, `continue` or `return`; a mask does their work",
        "- A tensor in a kernel is never indexed by a loop's variable, as in `x[:, i]`",
        "- A mask has the shape of what it masks, in loads and in stores",
    ]
    return "\n".join(lines) + "\n"


def _answer_rules(rules: OutputRules) -> str:
    lines = ["OUTPUT RULES"]
    if rules.fixed_order:
        lines += [
            "One Python file, its parts in this order:",
            "1. Imports: torch, torch.nn, triton, triton.language as tl",
            "2. The kernels",
            "3. The functions that compute grids and launch the kernels",
            "4. `class ModelNew(nn.Module)`, which calls them and takes the same arguments as before",
        ]
    else:
        lines.append("One Python file with `class ModelNew(nn.Module)`, which takes the same arguments as before.")
    if rules.strict_stores:
        lines.append(STRICT_STORES)
    if rules.no_test_code:
        lines.append("Do NOT include tests, `if __name__`, `get_inputs` or `get_init_inputs`.")
    return "\n".join(lines) + "\n"


def starting_code(task: Task) -> str:
    """The code that a document of this task starts from.

    Raises:
        MissingReferenceError: there is none: a live module has no source.
    """
    if task.given_code is not None:
        return task.given_code
    if task.reference is None or task.reference.pickled is not None:
        raise MissingReferenceError("a live module has no source to put into a document", hint="give the current code")
    return _as_model_new(task.reference)


def _as_model_new(reference: ModuleSource) -> str:
    """A reference's source with its class named `ModelNew` and without the functions that make its inputs."""
    source = with_unix_newlines(reference.source)
    tree = parse_source(source, reference.path, reference.first_line)
    lines = source.split("\n")
    dropped = {
        number
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name in ("get_inputs", "get_init_inputs")
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    kept = "\n".join(line for number, line in enumerate(lines, start=1) if number not in dropped)
    return _renamed(kept, reference.class_name, "ModelNew").rstrip() + "\n"


def _renamed(source: str, old: str, new: str) -> str:
    """`source` with every name `old` as `new`; strings and comments stay."""
    lines = source.split("\n")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    places = [token.start for token in tokens if token.type == tokenize.NAME and token.string == old]
    for row, column in reversed(places):
        line = lines[row - 1]
        lines[row - 1] = line[:column] + new + line[column + len(old) :]
    return "\n".join(lines)
