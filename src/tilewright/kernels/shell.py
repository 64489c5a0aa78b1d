"""Shells: the class around a planned forward pass.

For a reference in a Python file, its class is kept as it was written, under the name `ModelNew`, its forward
pass as `reference_forward`. For a live module, the class shares the module's parameters, buffers and children.
"""

from __future__ import annotations

import ast
import builtins
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import libcst as cst

from tilewright.errors import SourceError, path_location
from tilewright.kernels.module_text import EmissionError, ForwardText
from tilewright.kernels.text import Lines
from tilewright.values.syntax_tree import parse_tree

_IMPORTS = "import torch\nimport torch.nn as nn\n{functional}import triton\nimport triton.language as tl"


@dataclass(frozen=True)
class ReferenceClass:
    """The reference's class, and what of its file it needs.

    Attributes:
        code: source of the class.
        class_name: its name there.
        parameters: of forward(), after self, as written (`x`, `mask=None`).
        inputs: their names.
        constructor: names of the constructor's parameters after self; None where it takes *args.
        constructor_defaults: their defaults, where they are literals.
        imports: import statements that the class needs beyond torch's own.
        support: other definitions of the file that it needs, in order.
        has_forward: the class defines forward() itself, rather than inheriting it.
    """

    code: str
    class_name: str
    parameters: str
    inputs: tuple[str, ...]
    constructor: tuple[str, ...] | None
    constructor_defaults: Mapping[str, object]
    imports: str
    support: str
    has_forward: bool


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
    forward = _forward_arguments(tree, target, class_name, path)
    parameters, inputs = forward
    return ReferenceClass(
        _segment(source, target),
        class_name,
        parameters,
        inputs,
        _constructor_parameters(target),
        _constructor_defaults(target),
        "\n".join(imports),
        "\n\n\n".join(support),
        any(isinstance(node, ast.FunctionDef) and node.name == "forward" for node in target.body),
    )


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


def _forward_arguments(
    tree: ast.Module, target: ast.ClassDef, class_name: str, path: str
) -> tuple[str, tuple[str, ...]]:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found: ast.ClassDef | None = target
    while found is not None:
        for node in found.body:
            if isinstance(node, ast.FunctionDef) and node.name == "forward":
                return _parameters_text(node, class_name, path)
        bases = [base.id for base in found.bases if isinstance(base, ast.Name)]
        found = next((classes[base] for base in bases if base in classes), None)
    raise SourceError(f"class {class_name} has no forward()", where=path_location(path, target.lineno))


def _parameters_text(node: ast.FunctionDef, class_name: str, path: str) -> tuple[str, tuple[str, ...]]:
    arguments = node.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
        raise EmissionError(
            f"forward() of {class_name} takes *args, **kwargs or keyword-only arguments",
            where=path_location(path, node.lineno),
        )
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]][1:]
    defaults = [None] * (len(names) - len(arguments.defaults)) + list(arguments.defaults)
    texts = [
        name if default is None else f"{name}={ast.unparse(default)}"
        for name, default in zip(names, defaults, strict=True)
    ]
    return ", ".join(texts), tuple(names)


def _constructor_parameters(target: ast.ClassDef) -> tuple[str, ...] | None:
    for node in target.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            if node.args.vararg or node.args.kwarg:
                return None
            return tuple(argument.arg for argument in [*node.args.posonlyargs, *node.args.args])[1:]
    return ()


def _constructor_defaults(target: ast.ClassDef) -> dict[str, object]:
    defaults: dict[str, object] = {}
    for node in target.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
            for name, default in zip(reversed(names), reversed(node.args.defaults), strict=False):
                try:
                    defaults[name] = ast.literal_eval(default)
                except ValueError:
                    continue
    return defaults


# -- the reference's class, renamed ------------------------------------------------------------------------


class _NameOnly(cst.CSTTransformer):
    """The class's own name, wherever it stands."""

    def __init__(self, old: str) -> None:
        self.old = old

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:
        """References of the class to itself, as in super(Model, self)."""
        return updated_node.with_changes(value="ModelNew") if updated_node.value == self.old else updated_node

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.Attribute:
        """Attributes that happen to have the class's name stay."""
        return updated_node.with_changes(attr=original_node.attr)


class _Renamer(_NameOnly):
    """Methods: forward() becomes reference_forward() too."""

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        """forward() becomes reference_forward()."""
        if updated_node.name.value == "forward":
            return updated_node.with_changes(name=cst.Name("reference_forward"))
        return updated_node


def _renamed_class(reference: ReferenceClass) -> str:
    module = cst.parse_module(reference.code)
    top = module.body[0]
    assert isinstance(top, cst.ClassDef)
    new_body = top.body.with_changes(
        body=[
            item.visit(_Renamer(reference.class_name))
            if _is_own_method(item)
            else item.visit(_NameOnly(reference.class_name))
            for item in top.body.body
        ]
    )
    return module.with_changes(body=[top.with_changes(name=cst.Name("ModelNew"), body=new_body)]).code.rstrip()


def _is_own_method(item: cst.CSTNode) -> bool:
    return isinstance(item, cst.FunctionDef)


# -- files -------------------------------------------------------------------------------------------------


def write_file(
    reference: ReferenceClass,
    forward: ForwardText,
    *,
    description: str,
    planned_arguments: Sequence[tuple[str, object]] = (),
    eval_children: Sequence[str] = (),
) -> str:
    """The emitted file for a reference in a Python file.

    Args:
        reference: its class.
        forward: the planned forward pass.
        description: one line for the class's docstring.
        planned_arguments: constructor arguments that the plan depends on, and their values.
        eval_children: attribute expressions of children whose training flag matters (batch norm, dropout).
    """
    methods = Lines(1)
    if planned_arguments:
        _write_plan_check(methods, reference, planned_arguments)
    if not reference.has_forward:
        methods.open(f"def reference_forward(self, {reference.parameters}):")
        methods.add(f"return super().forward({', '.join(reference.inputs)})")
        methods.close()
        methods.add()
    _write_forward(methods, reference.parameters, reference.inputs, forward, eval_children, bool(planned_arguments))
    return _assemble(
        forward, reference.imports, reference.support, f"{_renamed_class(reference)}\n\n{methods}", description
    )


def _write_plan_check(lines: Lines, reference: ReferenceClass, planned: Sequence[tuple[str, object]]) -> None:
    """`__new__` sees the arguments before `__init__` does, whatever that does with them."""
    assert reference.constructor is not None
    lines.open("def __new__(cls, *args, **kwargs):")
    lines.add('"""Notes whether the kernels below were planned for these arguments."""')
    lines.add("self = super().__new__(cls)")
    names = ", ".join(f'"{name}"' for name in reference.constructor)
    defaults = {
        name: reference.constructor_defaults[name] for name, _ in planned if name in reference.constructor_defaults
    }
    lines.add(f"given = dict({defaults!r}, **dict(zip(({names},), args), **kwargs))")
    expected = ", ".join(f'"{name}": {value!r}' for name, value in planned)
    lines.add(f"planned = {{{expected}}}")
    lines.add('object.__setattr__(self, "_is_planned", all(given.get(k) == v for k, v in planned.items()))')
    lines.add("return self")
    lines.close()
    lines.add()


def _write_forward(
    lines: Lines,
    parameters: str,
    inputs: Sequence[str],
    forward: ForwardText,
    eval_children: Sequence[str],
    has_plan_check: bool,
) -> None:
    lines.open(f"def forward(self, {parameters}):")
    lines.open(f"if not self._kernels_apply({', '.join(inputs)}):")
    lines.add(f"return self.reference_forward({', '.join(inputs)})")
    lines.close()
    for line in forward.body.splitlines():
        lines.add(line)
    lines.close()
    lines.add()
    lines.open(f"def _kernels_apply(self, {', '.join(inputs)}):")
    lines.add('"""True on CUDA tensors of the planned kind, in inference; PyTorch does the rest."""')
    training = " or ".join(["self.training", *(f"{child}.training" for child in eval_children)])
    checks = [training] if not has_plan_check else ["not self._is_planned", training]
    for check in checks:
        lines.open(f"if {check}:")
        lines.add("return False")
        lines.close()
    lines.open(f"for tensor in ({', '.join(inputs)},):")
    lines.open("if not (tensor.is_cuda and tensor.is_contiguous() and tensor.numel() > 0):")
    lines.add("return False")
    lines.close()
    lines.close()
    lines.open("if torch.is_autocast_enabled() or (")
    lines.add(f"torch.is_grad_enabled() and any(t.requires_grad for t in ({', '.join(inputs)}, *self.parameters()))")
    lines.close()
    lines.open("):")
    lines.add("return False")
    lines.close()
    _write_conditions(lines, forward.conditions)
    lines.close()


def _write_conditions(lines: Lines, conditions: Sequence[str]) -> None:
    if not conditions:
        lines.add("return True")
        return
    lines.open("return (")
    for position, condition in enumerate(conditions):
        lines.add(condition if position == 0 else f"and {condition}")
    lines.close()
    lines.add(")")


def write_live_file(
    inputs: Sequence[str], forward: ForwardText, *, description: str, eval_children: Sequence[str] = ()
) -> str:
    """The emitted file for a live module: `ModelNew(reference)` shares what the module owns."""
    lines = Lines()
    lines.open("class ModelNew(nn.Module):")
    lines.add('"""Shares the parameters, buffers and children of the module that it is given."""')
    lines.add()
    lines.open("def __init__(self, reference):")
    lines.add("super().__init__()")
    lines.add("# Not registered as a child: the names in state_dict() stay the reference's.")
    lines.add('object.__setattr__(self, "reference", reference)')
    lines.add("self._parameters = reference._parameters")
    lines.add("self._buffers = reference._buffers")
    lines.add("self._modules = reference._modules")
    lines.add("self._non_persistent_buffers_set = reference._non_persistent_buffers_set")
    lines.add("self.training = reference.training")
    lines.close()
    lines.add()
    lines.open("def train(self, mode=True):")
    lines.add("self.reference.train(mode)")
    lines.add("return super().train(mode)")
    lines.close()
    lines.add()
    lines.open("def reference_forward(self, *inputs):")
    lines.add("return self.reference(*inputs)")
    lines.close()
    lines.add()
    methods = Lines(1)
    _write_forward(methods, ", ".join(inputs), inputs, forward, eval_children, False)
    return _assemble(forward, "", "", f"{lines}\n{methods}", description)


def _assemble(forward: ForwardText, imports: str, support: str, module: str, description: str) -> str:
    uses_functional = forward.uses_functional or _mentions(module, "F.") or _mentions(support, "F.")
    head = _IMPORTS.format(functional="import torch.nn.functional as F\n" if uses_functional else "")
    parts = [
        "\n".join(part for part in (f'"""{description}"""', "", head, imports) if part or part == ""),
        forward.kernels,
        forward.wrappers,
        support,
        module,
    ]
    text = "\n\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"
    parse_tree(text)
    return text


def _mentions(text: str, word: str) -> bool:
    return any(word in line for line in text.splitlines())
