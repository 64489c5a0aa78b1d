"""A candidate's source taken apart: what its names mean, which functions are kernels, what they read and write."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tilewright.values.syntax_tree import parse_tree

LANGUAGE = "triton.language"

#: Functions that only a kernel calls.
KERNEL_ONLY = frozenset(
    f"{LANGUAGE}.{name}" for name in ("program_id", "num_programs", "load", "store", "atomic_add", "dot", "arange")
)
_ATOMICS = frozenset(f"{LANGUAGE}.atomic_{name}" for name in ("add", "max", "min", "and", "or", "xor", "xchg", "cas"))
STORES = frozenset({f"{LANGUAGE}.store", f"{LANGUAGE}.store_tensor_descriptor"})
LOADS = frozenset({f"{LANGUAGE}.load", f"{LANGUAGE}.load_tensor_descriptor"})


def dotted(node: ast.AST) -> str | None:
    """`a.b.c` of an attribute chain, or None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return None if head is None else f"{head}.{node.attr}"
    return None


@dataclass
class Names:
    """What names mean: module aliases, imported functions, and plain renamings of either."""

    meaning: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: ast.Module) -> Names:
        """Read the imports and the assignments of the form `name = known.dotted.name`, wherever they stand."""
        names = cls()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    head = alias.name.partition(".")[0]
                    names.meaning[alias.asname or head] = alias.name if alias.asname else head
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    names.meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        # Renamings may chain; twice over the tree settles all but contrived ones.
        for _ in range(2):
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                    resolved = names.resolve(node.value)
                    if resolved is not None and resolved.startswith(("triton", "torch")):
                        names.meaning[node.targets[0].id] = resolved
        return names

    def resolve(self, node: ast.AST) -> str | None:
        """The full dotted name that an expression stands for, also through `getattr(module, "name")`."""
        if isinstance(node, ast.Call):
            if dotted(node.func) == "getattr" and len(node.args) >= 2 and isinstance(node.args[1], ast.Constant):
                head = self.resolve(node.args[0])
                return None if head is None else f"{head}.{node.args[1].value!s}"
            return None
        name = dotted(node)
        if name is None:
            return None
        head, _, rest = name.partition(".")
        full = self.meaning.get(head)
        if full is None:
            return None
        return f"{full}.{rest}" if rest else full


@dataclass(frozen=True)
class Access:
    """One load or store of a kernel.

    Attributes:
        kind: `load`, `store` or `atomic`.
        root: the parameter that the pointer comes from; empty where that cannot be told.
        pointer: source text of the pointer expression.
        call: the call.
    """

    kind: str
    root: str
    pointer: str
    call: ast.Call


@dataclass(frozen=True)
class Function:
    """One function of a candidate that runs on the device.

    Attributes:
        node: its definition.
        decorated: it has `@triton.jit`.
        configs: calls of `triton.Config` in its autotune decorator.
        names: of the file.
    """

    node: ast.FunctionDef
    decorated: bool
    configs: tuple[ast.Call, ...]
    names: Names

    @property
    def name(self) -> str:
        """The function's name."""
        return self.node.name

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters."""
        arguments = self.node.args
        return tuple(a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))

    @cached_property
    def constexprs(self) -> frozenset[str]:
        """Parameters annotated `tl.constexpr`, and names assigned with that annotation."""
        annotated = [(a.arg, a.annotation) for a in (*self.node.args.args, *self.node.args.kwonlyargs)]
        for node in ast.walk(self.node):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                annotated.append((node.target.id, node.annotation))
        return frozenset(name for name, note in annotated if note is not None and "constexpr" in ast.unparse(note))

    def calls(self, *full_names: str) -> Iterator[ast.Call]:
        """Calls of the named functions, in the order of the source."""
        wanted = set(full_names)
        found = [n for n in ast.walk(self.node) if isinstance(n, ast.Call) and self.names.resolve(n.func) in wanted]
        yield from sorted(found, key=lambda call: (call.lineno, call.col_offset))

    @cached_property
    def roots(self) -> Mapping[str, str]:
        """Local name -> the parameter that its value is an address in."""
        found: dict[str, str] = {name: name for name in self.parameters if name not in self.constexprs}
        addressed = {name: name for name in _pointer_parameters(self)}
        for node in _in_order(self.node):
            target, value = _assignment(node)
            if target is not None and value is not None:
                root = _root(value, addressed)
                if root:
                    addressed[target] = root
        return found | addressed

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """All loads, stores and atomics, in the order of the source."""
        found: list[Access] = []
        for node in ast.walk(self.node):
            if not isinstance(node, ast.Call):
                continue
            name = self.names.resolve(node.func)
            if name in STORES | LOADS | _ATOMICS and node.args:
                kind = "store" if name in STORES else "load" if name in LOADS else "atomic"
                pointer = node.args[0]
            elif isinstance(node.func, ast.Attribute) and node.func.attr in {"load", "store"} and name is None:
                kind, pointer = node.func.attr, node.func.value  # a tensor descriptor's method
            else:
                continue
            found.append(Access(kind, _root(pointer, dict(self.roots)), ast.unparse(pointer), node))
        # By their ends: what stands in an argument of a call is done before the call itself.
        return tuple(sorted(found, key=lambda access: (access.call.end_lineno or 0, access.call.end_col_offset or 0)))


def _pointer_parameters(function: Function) -> set[str]:
    """Parameters that are used as addresses: added to before a load or store, or passed to one as they are."""
    names = set(function.parameters) - function.constexprs
    return {name for name in names if name.endswith(("ptr", "_p", "desc")) or name.startswith("p_")} or names


def _in_order(node: ast.FunctionDef) -> list[ast.stmt]:
    statements = [n for n in ast.walk(node) if isinstance(n, ast.stmt)]
    return sorted(statements, key=lambda statement: (statement.lineno, statement.col_offset))


def _assignment(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.value
    return None, None


def _root(value: ast.expr, roots: Mapping[str, str]) -> str:
    """The parameter at the left end of an address expression; loads and calls on data are no addresses."""
    if isinstance(value, ast.Name):
        return roots.get(value.id, "")
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add | ast.Sub):
        return _root(value.left, roots) or _root(value.right, roots)
    if isinstance(value, ast.IfExp):
        return _root(value.body, roots) or _root(value.orelse, roots)
    if isinstance(value, ast.Call):
        name = dotted(value.func) or ""
        if name.rpartition(".")[2] in {
            "make_tensor_descriptor",
            "make_block_ptr",
            "advance",
            "multiple_of",
            "max_contiguous",
        }:
            base = value.args[0] if value.args else next((k.value for k in value.keywords if k.arg == "base"), None)
            return _root(base, roots) if base is not None else ""
        if isinstance(value.func, ast.Attribute) and value.func.attr == "to":
            return _root(value.func.value, roots)
    return ""


@dataclass(frozen=True)
class Source:
    """A candidate's file, parsed.

    Attributes:
        tree: its syntax tree.
        names: what its names mean.
        functions: device functions, in order, wherever they stand.
        entries: names of those that are launched (`name[grid]`).
    """

    tree: ast.Module
    names: Names
    functions: tuple[Function, ...]
    entries: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Source:
        """Take a source apart.

        Raises:
            SyntaxError: it does not parse.
        """
        tree = parse_tree(text)
        names = Names.of(tree)
        called = _jitted_by_call(tree, names)
        functions = [
            Function(node, _is_jit(node, names) or node.name in called, _configs(node, names, tree), names)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            and (_is_jit(node, names) or node.name in called or _looks_like_kernel(node, names))
        ]
        functions.sort(key=lambda function: function.node.lineno)
        launched = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
            for name in [dotted(node.func.value)]
            if name is not None
        }
        return cls(tree, names, tuple(functions), frozenset(launched))


_JIT = frozenset({"triton.jit", "triton.runtime.jit", "triton.runtime.jit.jit"})
_MAKERS = _JIT | {"triton.JITFunction", "triton.runtime.JITFunction", "triton.runtime.jit.JITFunction"}


def _is_jit(node: ast.FunctionDef, names: Names) -> bool:
    for decorator in node.decorator_list:
        calls = [decorator, *(n.func for n in ast.walk(decorator) if isinstance(n, ast.Call))]
        # Also `functools.partial(triton.jit, ...)` and the like.
        inner = [argument for n in ast.walk(decorator) if isinstance(n, ast.Call) for argument in n.args]
        if any(names.resolve(target) in _JIT for target in (*calls, *inner)):
            return True
    return False


def _jitted_by_call(tree: ast.Module, names: Names) -> frozenset[str]:
    """Functions that become kernels by a call: `kernel = triton.jit(function)`."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        maker = node.func.func if isinstance(node.func, ast.Call) else node.func
        if names.resolve(maker) in _MAKERS:
            found |= {argument.id for argument in node.args if isinstance(argument, ast.Name)}
    return frozenset(found)


def _looks_like_kernel(node: ast.FunctionDef, names: Names) -> bool:
    return any(isinstance(n, ast.Call) and names.resolve(n.func) in KERNEL_ONLY for n in ast.walk(node))


def _configs(node: ast.FunctionDef, names: Names, tree: ast.Module) -> tuple[ast.Call, ...]:
    """`triton.Config` calls in the function's decorators, also where they stand in a list with a name."""
    roots: list[ast.AST] = list(node.decorator_list)
    used = {n.id for decorator in node.decorator_list for n in ast.walk(decorator) if isinstance(n, ast.Name)}
    for statement in tree.body:
        target, value = _assignment(statement)
        if target in used and value is not None:
            roots.append(value)
    calls = [n for root in roots for n in ast.walk(root) if isinstance(n, ast.Call)]
    return tuple(
        call for call in calls if names.resolve(call.func) in {"triton.Config", "triton.runtime.autotuner.Config"}
    )
