"""Shells: the class around a planned forward pass.

For a reference in a Python file, its class is kept as it was written, and `ModelNew` inherits from it. For a live
module, `ModelNew` is of the module's class and shares all that it owns.
"""

from __future__ import annotations

import ast
import builtins
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilewright.errors import SourceError, path_location
from tilewright.kernels.code.text import Lines
from tilewright.kernels.module.planned import plan_text, replay_sources, watched_source
from tilewright.kernels.module.text import ForwardText
from tilewright.values.syntax_tree import parse_tree

_IMPORTS = """import threading

import torch
import torch.nn as nn
{functional}import triton
import triton.language as tl
from triton.compiler import CompiledKernel"""


@dataclass(frozen=True)
class ReferenceClass:
    """The reference's class, and what of its file it needs.

    Attributes:
        code: source of the class.
        class_name: its name there.
        imports: import statements that the class needs beyond torch's own.
        support: other definitions of the file that it needs, in order.
    """

    code: str
    class_name: str
    imports: str
    support: str


def read_reference(source: str, class_name: str, path: str = "reference") -> ReferenceClass:
    """Find the class and everything in the file that it needs.

    Raises:
        SourceError: the source does not parse, or has no such class.
    """
    try:
        tree = parse_tree(source)
    except SyntaxError as error:
        raise SourceError(f"does not parse: {error.msg}", where=path_location(path, error.lineno)) from error
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if class_name not in definitions:
        raise SourceError(f"has no class {class_name}", where=path_location(path))
    target = definitions[class_name]
    needed = _needed_statements(tree, target)
    imports = [_segment(source, node) for node in needed if isinstance(node, ast.Import | ast.ImportFrom)]
    support = [_segment(source, node) for node in needed if not isinstance(node, ast.Import | ast.ImportFrom)]
    return ReferenceClass(_segment(source, target), class_name, "\n".join(imports), "\n\n\n".join(support))


def _segment(source: str, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    assert node.end_lineno is not None
    return textwrap.dedent("\n".join(source.splitlines()[first - 1 : node.end_lineno]))


def _used_names(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def _bound_names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return set()


def _needed_statements(tree: ast.Module, target: ast.ClassDef) -> list[ast.stmt]:
    """Top-level statements that bind what the class uses, transitively, in the file's order."""
    wanted = _used_names(target) - set(dir(builtins))
    needed: set[ast.stmt] = set()
    changed = True
    while changed:
        changed = False
        for node in tree.body:
            if node is target or node in needed or not (_bound_names(node) & wanted):
                continue
            needed.add(node)
            wanted |= _used_names(node) - set(dir(builtins))
            changed = True
    provided = {"torch": "torch", "nn": "torch.nn", "F": "torch.nn.functional", "triton": "triton"}
    return [node for node in tree.body if node in needed and not _already_imported(node, provided)]


def _already_imported(node: ast.stmt, provided: dict[str, str]) -> bool:
    if isinstance(node, ast.Import):
        return all(provided.get(alias.asname or alias.name) == alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return all(provided.get(alias.asname or alias.name) == f"{node.module}.{alias.name}" for alias in node.names)
    return False


# -- files -------------------------------------------------------------------------------------------------

_DOCSTRING = '''
"""{name} with Triton kernels where they hold; all else is as it was.

Under torch.compile it is the module that it replaces. After a first call, calls can be captured in a CUDA graph: its
replays read parameters where they lay at the capture. They follow changes in place, not a parameter that was replaced.
"""
'''.strip("\n")

_GUARDS = '''
def is_plain(tensor, dtype, rank, form=torch.contiguous_format):
    """True for an ordinary CUDA tensor with data, of that type, rank and memory format (None: any), no gradient."""
    return (
        type(tensor) in TENSORS
        and tensor.is_cuda
        and tensor.dtype is dtype
        and tensor.dim() == rank
        and tensor.layout is torch.strided
        and (form is None or tensor.is_contiguous() or tensor.is_contiguous(memory_format=form))
        and tensor.numel() > 0
        and not tensor.is_neg()
        and not (tensor.requires_grad and torch.is_grad_enabled())
    )


def is_here(tensor):
    """True for a tensor on the current device, where kernels are launched."""
    return tensor.get_device() < 0 or tensor.get_device() == torch.cuda.current_device()
'''.strip("\n")

_GIVEN = '''
def given(**arguments):
    """The arguments that a call did not leave out."""
    return {name: value for name, value in arguments.items() if value is not ...}
'''.strip("\n")


def write_file(
    reference: ReferenceClass,
    forward: ForwardText,
    *,
    description: str,
    may_differ: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The emitted file for a reference in a Python file.

    Args:
        reference: its class.
        forward: the planned forward pass.
        description: one line for the file's docstring.
        may_differ: what was read of the module, with `...` for what other constructor arguments may change.
    """
    lines = Lines()
    lines.open(f"class ModelNew({reference.class_name}):")
    lines.block(_DOCSTRING.format(name=reference.class_name))
    lines.add()
    lines.add("_watched = Watched()  # until the module is made, the kernels hold for nothing")
    lines.add()
    lines.open("def __init__(self, *args, **kwargs):")
    lines.add("super().__init__(*args, **kwargs)")
    lines.add("self._watched = Watched(self, PLANNED, STATE)")
    lines.close()
    lines.add()
    _write_forward(lines, forward, "super()")
    return _assemble(forward, reference, str(lines), description, may_differ or forward.reads)


def write_live_file(forward: ForwardText, *, description: str) -> str:
    """The emitted file for a live module: `ModelNew(reference)` shares what the module owns."""
    lines = Lines()
    lines.open("class ModelNew(nn.Module):")
    lines.add('"""Takes the place of the module that it is given: of its class, and with all that it owns."""')
    lines.add()
    lines.add('__slots__ = ("reference", "_watched", "evidence")')
    lines.add("kinds = {}")
    lines.add()
    lines.open("def __new__(cls, reference):")
    lines.add("kind = type(reference)")
    lines.open("if kind not in cls.kinds:")
    lines.add("cls.kinds[kind] = type(kind.__name__, (cls, kind), {})")
    lines.close()
    lines.add("self = object.__new__(cls.kinds[kind])")
    lines.add('object.__setattr__(self, "__dict__", vars(reference))')
    lines.add('object.__setattr__(self, "reference", reference)')
    lines.add('object.__setattr__(self, "_watched", Watched(reference, PLANNED, STATE))')
    lines.add("return self")
    lines.close()
    lines.add()
    lines.open("def __init__(self, reference):")
    lines.add("pass  # the module has been made")
    lines.close()
    lines.add()
    lines.open("def __init_subclass__(cls, **kwargs):")
    lines.add("pass  # the module's class need not know of this one")
    lines.close()
    lines.add()
    lines.open("def __reduce_ex__(self, protocol):")
    lines.add("return ModelNew, (self.reference,)")
    lines.close()
    lines.add()
    _write_forward(lines, forward, "self.reference")
    return _assemble(forward, None, str(lines), description, forward.reads)


def _write_forward(lines: Lines, forward: ForwardText, reference: str) -> None:
    signature = forward.signature
    names = ", ".join(signature.names)
    lines.open(f"def forward(self, {signature.parameters}):")
    lines.add(f"state = None if torch.compiler.is_compiling() else self._state_for_kernels({names})")
    lines.open("if state is None:")
    lines.add(f"return {reference}.forward({signature.passed})")
    lines.close()
    if forward.whole is not None:
        name, arguments = forward.whole
        lines.add(f"return {name}({', '.join([*arguments, *(['*state'] if forward.state else [])])})")
    else:
        if forward.state:
            lines.add(f"{', '.join(forward.state.values())}{',' if len(forward.state) == 1 else ''} = state")
        lines.block(forward.body)
    lines.close()
    lines.add()
    lines.open(f"def _state_for_kernels(self, {names}):")
    lines.add('"""The tensors and numbers that the kernels take of the module; None where PyTorch does the work."""')
    left_out = [f"not {name}" for name in signature.variadic if name not in forward.given]
    lines.open("if not (")
    _write_all([*left_out, *forward.arguments, "not torch.is_autocast_enabled()"], lines)
    lines.close()
    lines.open("):")
    lines.add("return None")
    lines.close()
    lines.add(f"state = self._watched.now(self, {forward.device})")
    if not forward.conditions:
        lines.add("return state")
        lines.close()
        return
    lines.open("if state is None:")
    lines.add("return None")
    lines.close()
    if forward.state:
        lines.add(f"{', '.join(forward.state.values())}{',' if len(forward.state) == 1 else ''} = state")
    lines.open("holds = (")
    _write_all(forward.conditions, lines)
    lines.close()
    lines.add(")")
    lines.add("return state if holds else None")
    lines.close()


def _write_all(conditions: Sequence[str], lines: Lines) -> None:
    for position, condition in enumerate(conditions):
        lines.add(condition if position == 0 else f"and {condition}")


def _assemble(
    forward: ForwardText,
    reference: ReferenceClass | None,
    module: str,
    description: str,
    reads: Mapping[str, Mapping[str, Any]],
) -> str:
    imports = reference.imports if reference is not None else ""
    state = ", ".join(f'"{path}"' for path in forward.state) + ("," if len(forward.state) == 1 else "")
    planned = f"{plan_text(reads, forward.numbers)}\n\n#: The tensors and floats that kernels take.\nSTATE = ({state})"
    given = _GIVEN if "given(" in forward.signature.passed else ""
    noted, replayed = replay_sources()
    wrappers = [replayed, forward.wrappers, _whole_source(forward)]
    own = [noted, forward.kernels, *wrappers, watched_source(), _GUARDS, given, planned]
    theirs = _reference_text(reference, _top_names(own)) if reference is not None else ""
    uses_functional = forward.uses_functional or _mentions(theirs, "F.")
    head = _IMPORTS.format(functional="import torch.nn.functional as F\n" if uses_functional else "")
    opening = "\n".join(part for part in (f'"""{description}"""', "", head, imports) if part or part == "")
    parts = [opening, *own, theirs, module]
    text = "\n\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"
    parse_tree(text)
    return text


def _whole_source(forward: ForwardText) -> str:
    """The wrapper of all launches, where there is one."""
    if forward.whole is None:
        return ""
    name, arguments = forward.whole
    lines = Lines()
    lines.add("@replayed")
    lines.open(f"def {name}({', '.join([*arguments, *forward.state.values()])}):")
    lines.add('"""All launches of a call."""')
    lines.block(forward.body)
    return str(lines)


def _top_names(parts: Sequence[str]) -> set[str]:
    tree = parse_tree("\n".join(parts))
    return set().union(*map(_bound_names, tree.body))


def _reference_text(reference: ReferenceClass, taken: set[str]) -> str:
    """The reference's class and what it needs; in a function of its own where its names are taken."""
    parts = [part.rstrip() for part in (reference.support, reference.code) if part.strip()]
    if not _top_names(parts) & taken:
        return "\n\n\n".join(parts)
    lines = Lines()
    lines.open("def reference_class():")
    lines.add('"""The reference, whose names are kept apart from those above."""')
    for line in "\n\n".join(parts).splitlines():
        lines.add(line)
    lines.add(f"return {reference.class_name}")
    lines.close()
    return f"{lines}\n\n\n{reference.class_name} = reference_class()"


def _mentions(text: str, word: str) -> bool:
    return any(word in line for line in text.splitlines())
