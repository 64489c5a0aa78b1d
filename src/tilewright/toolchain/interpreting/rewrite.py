"""A kernel's source, changed where Python's meaning is not Triton's, and made into a function again.

- `a and b`, `a or b`, `not a` on tensors are element by element, and both sides are evaluated.
- What is assigned becomes a value of the language, also within a tuple.
- The variable of a loop is an integer of 32 (or 64) bits.
- `range` counts up to scalars that are known at run time only.

The function keeps the globals and the closure of the original.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import linecache
import types
from collections.abc import Callable, Mapping
from typing import Any

from tilewright.toolchain.interpreting.counters import Counter, counted

#: Prefix of the names that rewritten code uses beside its own.
_OWN = "_tilewright_"


class _Rewriter(ast.NodeTransformer):
    """One kernel's tree. Nested functions and classes are left alone."""

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """`x = value` -> `x = _value(value)`."""
        self.generic_visit(node)
        node.value = _call("value", node.value)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """`x: tl.constexpr = value` stays what it is; its annotation is not evaluated."""
        if node.value is None:
            return ast.Pass()
        value = self.visit(node.value)
        constant = "constexpr" in ast.unparse(node.annotation)
        return ast.Assign(targets=[node.target], value=value if constant else _call("value", value))

    def visit_For(self, node: ast.For) -> ast.AST:
        """`for k in range(...)` and `tl.range(...)` -> `for k in _counted(...)`."""
        self.generic_visit(node)
        call = node.iter
        if isinstance(call, ast.Call) and _is_range(call.func):
            call.func = ast.Name(id=f"{_OWN}counted", ctx=ast.Load())
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """`a and b` -> `_both(a, lambda: b)`."""
        self.generic_visit(node)
        name = "both" if isinstance(node.op, ast.And) else "either"
        result = node.values[0]
        for value in node.values[1:]:
            nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
            result = _call(name, result, ast.Lambda(args=nothing, body=value))
        return result

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """`not a` -> `_negated(a)`."""
        self.generic_visit(node)
        return _call("negated", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """See the class."""
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """See the class."""
        return node


def _is_range(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "range"
    return isinstance(function, ast.Attribute) and function.attr == "range"


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(func=ast.Name(id=f"{_OWN}{name}", ctx=ast.Load()), args=list(arguments), keywords=[])


# --- what rewritten code calls -------------------------------------------------------------------------------


def _value(value: Any) -> Any:
    """A number becomes a scalar of the language, as it does where it is assigned in a kernel."""
    from triton.runtime.interpreter import interpreter_semantic

    if type(value) is Counter:
        return value
    if type(value) is tuple:
        return tuple(_value(item) for item in value)
    return interpreter_semantic.to_tensor(value, False)


def _both(left: Any, right: Callable[[], Any]) -> Any:
    return _logical(left, right, "logical_and", stops=False)


def _either(left: Any, right: Callable[[], Any]) -> Any:
    return _logical(left, right, "logical_or", stops=True)


def _logical(left: Any, right: Callable[[], Any], name: str, *, stops: bool) -> Any:
    import triton.language as tl

    if not isinstance(left, tl.tensor):
        if bool(getattr(left, "value", left)) is stops:
            return left
        return right()
    other = right()
    return getattr(left, name)(other)


def _negated(value: Any) -> Any:
    import triton.language as tl

    return value.__not__() if isinstance(value, tl.tensor) else not getattr(value, "value", value)


_HELPERS: Mapping[str, Any] = {
    "value": _value, "counted": counted, "both": _both, "either": _either, "negated": _negated,
}  # fmt: skip


# --- the function --------------------------------------------------------------------------------------------


def rewritten(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with Triton's meaning; itself where its source is not there."""
    assert isinstance(function, types.FunctionType)
    node = _definition(function)
    if node is None:
        return function
    body = _Rewriter()
    node.body = [body.visit(statement) for statement in node.body]
    node.decorator_list, node.returns = [], None
    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        argument.annotation = None
    node.args.defaults = [ast.copy_location(ast.Constant(None), node) for _ in node.args.defaults]
    free = [*function.__code__.co_freevars, *(f"{_OWN}{name}" for name in _HELPERS)]
    names = [ast.arg(arg=name) for name in free]
    outer = ast.FunctionDef(
        name=f"{_OWN}outer",
        args=ast.arguments(posonlyargs=[], args=names, kwonlyargs=[], kw_defaults=[], defaults=[]),
        body=[node, ast.Return(value=ast.Name(id=node.name, ctx=ast.Load()))],
        decorator_list=[],
    )
    if "type_params" in ast.FunctionDef._fields:  # Python 3.12 and newer
        outer.type_params = []  # type: ignore[attr-defined, unused-ignore]
    ast.copy_location(outer, node)
    tree = ast.fix_missing_locations(ast.Module(body=[outer], type_ignores=[]))
    code = compile(tree, function.__code__.co_filename, "exec", dont_inherit=True)
    return _with_cells(function, _inner(_inner(code)))


def _definition(function: types.FunctionType) -> ast.FunctionDef | None:
    """The function's definition in a fresh tree of its file."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__) or _lines_of(function)
    found = _definitions("".join(lines)).get((code.co_name, code.co_firstlineno))
    return copy.deepcopy(found)


@functools.lru_cache(maxsize=16)
def _definitions(text: str) -> Mapping[tuple[str, int], ast.FunctionDef]:
    """The functions of a file by name and first line, which is that of the first decorator."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {}
    return {
        (node.name, min([node.lineno, *(one.lineno for one in node.decorator_list)])): node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


def _lines_of(function: types.FunctionType) -> list[str]:
    try:
        return inspect.findsource(function)[0]
    except (OSError, TypeError):
        return []


def _inner(code: types.CodeType) -> types.CodeType:
    return next(one for one in code.co_consts if isinstance(one, types.CodeType))


def _with_cells(original: types.FunctionType, code: types.CodeType) -> Callable[..., Any]:
    cells = dict(zip(original.__code__.co_freevars, original.__closure__ or (), strict=True))
    cells |= {f"{_OWN}{name}": types.CellType(helper) for name, helper in _HELPERS.items()}
    closure = tuple(cells[name] for name in code.co_freevars)
    made = types.FunctionType(code, original.__globals__, original.__name__, original.__defaults__, closure)
    made.__kwdefaults__, made.__annotations__ = original.__kwdefaults__, original.__annotations__
    made.__qualname__, made.__module__ = original.__qualname__, original.__module__
    return made
