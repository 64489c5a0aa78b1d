"""Contract checks on kernels: each a function from one device function to what is wrong with it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from tilewright.gate.contract import shapes
from tilewright.gate.contract.syntax import LANGUAGE, LOADS, STORES, Function

#: One thing that is wrong: the message, and the line.
Wrong = tuple[str, int]
Rule = Callable[[Function], Iterator[Wrong]]


def is_power_of_two(value: int) -> bool:
    """True for 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0


def jit(function: Function) -> Iterator[Wrong]:
    """The decorator is there."""
    if not function.decorated:
        yield f"{function.name} calls Triton's language but is not decorated with @triton.jit", function.node.lineno


def power_of_two(function: Function) -> Iterator[Wrong]:
    """Literal ranges, shapes and configured tiles are powers of two."""
    for call in function.calls(f"{LANGUAGE}.arange"):
        bounds = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if len(bounds) == 2 and all(type(bound) is int for bound in bounds):
            length = int(bounds[1]) - int(bounds[0])  # type: ignore[arg-type]
            if not is_power_of_two(length):
                yield f"tl.arange over {length} elements in {function.name}: not a power of two", call.lineno
    for call in function.calls(f"{LANGUAGE}.zeros", f"{LANGUAGE}.full"):
        shape = call.args[0] if call.args else None
        for size in shape.elts if isinstance(shape, ast.Tuple | ast.List) else []:
            if isinstance(size, ast.Constant) and type(size.value) is int and not is_power_of_two(size.value):
                yield f"a block of {size.value} elements in {function.name}: not a power of two", call.lineno
    used = _tile_names(function)
    for config in function.configs:
        for name, value in _config_values(config):
            if name in used and not is_power_of_two(value):
                yield f"{name} = {value} in a configuration of {function.name}: not a power of two", config.lineno


def _tile_names(function: Function) -> set[str]:
    """Compile-time constants that are the length of a block."""
    found: set[str] = set()
    for call in function.calls(f"{LANGUAGE}.arange", f"{LANGUAGE}.zeros", f"{LANGUAGE}.full"):
        for argument in call.args[:2]:
            items = argument.elts if isinstance(argument, ast.Tuple | ast.List) else [argument]
            found |= {item.id for item in items if isinstance(item, ast.Name)}
    return found & function.constexprs


def _config_values(config: ast.Call) -> Iterator[tuple[str, int]]:
    mapping = config.args[0] if config.args else next((k.value for k in config.keywords if k.arg == "kwargs"), None)
    if isinstance(mapping, ast.Dict):
        for key, value in zip(mapping.keys, mapping.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and type(value.value) is int:
                yield str(key.value), value.value


def arange_runtime(function: Function) -> Iterator[Wrong]:
    """The bounds of tl.arange do not come from run-time values."""
    runtime = _runtime_names(function)
    for call in function.calls(f"{LANGUAGE}.arange"):
        names = {n.id for argument in call.args for n in ast.walk(argument) if isinstance(n, ast.Name)}
        for name in sorted(names & runtime):
            text = ast.unparse(call)
            yield (
                f"`{text}` in {function.name}: `{name}` is known only at run time, so this cannot compile",
                call.lineno,
            )


def _runtime_names(function: Function) -> set[str]:
    """Names whose value is known only at run time: parameters, and what is computed from them."""
    runtime = set(function.parameters) - function.constexprs
    statements = [n for n in ast.walk(function.node) if isinstance(n, ast.Assign)]
    for node in sorted(statements, key=lambda n: n.lineno):
        if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            continue
        used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        language = [function.names.resolve(n.func) or "" for n in ast.walk(node.value) if isinstance(n, ast.Call)]
        if used & runtime or any(name.endswith((".program_id", ".load", ".num_programs")) for name in language):
            runtime.add(node.targets[0].id)
    # Helpers that are called from kernels may be given constants for plain parameters.
    return runtime if any(function.calls(f"{LANGUAGE}.program_id")) else set()


def axis(function: Function) -> Iterator[Wrong]:
    """Axes are 0, 1 or 2."""
    for call in function.calls(f"{LANGUAGE}.program_id", f"{LANGUAGE}.num_programs"):
        argument = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "axis"), None)
        if isinstance(argument, ast.Constant) and argument.value not in (0, 1, 2):
            yield f"{ast.unparse(call)} in {function.name}: the axes are 0, 1 and 2", call.lineno


def jump_in_loop(function: Function) -> Iterator[Wrong]:
    """No jump inside a loop."""
    for loop in ast.walk(function.node):
        if isinstance(loop, ast.For | ast.While):
            for node in ast.walk(loop):
                if isinstance(node, ast.Break | ast.Continue | ast.Return):
                    word = type(node).__name__.lower()
                    yield f"`{word}` inside a loop of {function.name}: use a mask", node.lineno


def tensor_index(function: Function) -> Iterator[Wrong]:
    """No element access in a block."""
    loop_variables = {
        n.target.id for n in ast.walk(function.node) if isinstance(n, ast.For) and isinstance(n.target, ast.Name)
    }
    known = shapes.ranks(function)
    for node in ast.walk(function.node):
        if not isinstance(node, ast.Subscript):
            continue
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        plain = [i for i in items if isinstance(i, ast.Slice) or (isinstance(i, ast.Constant) and i.value is None)]
        others = [item for item in items if item not in plain]
        names = {n.id for item in others for n in ast.walk(item) if isinstance(n, ast.Name)}
        mixed = bool(plain) and bool(others)
        value = shapes.rank(node.value, known, function)
        if mixed or (others and names & loop_variables and value is not None and value > 0):
            yield f"`{ast.unparse(node)}` in {function.name}: a block has no element access", node.lineno


def mask_shape(function: Function) -> Iterator[Wrong]:
    """Mask and pointers have the same number of dimensions."""
    known = shapes.ranks(function)
    for call in function.calls(*LOADS, *STORES):
        position = 2 if function.names.resolve(call.func) in STORES else 1
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        mask = call.args[position] if len(call.args) > position else options.get("mask")
        if mask is None or not call.args:
            continue
        pointers, masked = (shapes.rank(node, known, function) for node in (call.args[0], mask))
        if pointers is None or masked is None or masked in (0, pointers):
            continue
        text = (
            f"the mask `{ast.unparse(mask)}` in {function.name} has {masked} dimensions, the pointers have {pointers}"
        )
        yield text, call.lineno


def one_store(function: Function) -> Iterator[Wrong]:
    """No place is stored to twice: two stores through the same pointers, one after the other."""
    seen: dict[str, ast.Call] = {}
    for access in function.accesses:
        if access.kind != "store":
            continue
        rest = ast.unparse(access.call.args[0]) if access.call.args and access.pointer.endswith("desc") else ""
        key = f"{access.pointer}|{rest}"
        earlier = seen.get(key)
        if (
            earlier is not None
            and not _exclusive(function.node, earlier, access.call)
            and not _moved(function.node, earlier, access.call)
        ):
            yield f"{function.name} stores through `{access.pointer}` twice", access.call.lineno
        seen[key] = access.call


def strict_store(function: Function) -> Iterator[Wrong]:
    """One literal store for each pointer parameter."""
    seen: set[str] = set()
    for access in function.accesses:
        if access.kind == "store":
            if access.root in seen:
                yield f"{function.name} has more than one tl.store to `{access.root}`", access.call.lineno
            seen.add(access.root)
        if access.kind == "atomic":
            yield f"{function.name} uses an atomic where the strict rules permit one tl.store", access.call.lineno


def _moved(root: ast.AST, first: ast.Call, second: ast.Call) -> bool:
    """True where a name of the address is assigned between the two: another place, by the same words."""
    names = {n.id for argument in second.args[:1] for n in ast.walk(argument) if isinstance(n, ast.Name)}
    if isinstance(second.func, ast.Attribute):
        names |= {n.id for n in ast.walk(second.func.value) if isinstance(n, ast.Name)}
    return any(
        isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Store)
        and node.id in names
        and first.lineno < node.lineno < second.lineno
        for node in ast.walk(root)
    )


def _exclusive(root: ast.AST, first: ast.AST, second: ast.AST) -> bool:
    """True where the two stand in different branches of one `if`."""
    for node in ast.walk(root):
        if isinstance(node, ast.If):
            body = {id(n) for part in node.body for n in ast.walk(part)}
            other = {id(n) for part in node.orelse for n in ast.walk(part)}
            if (id(first) in body and id(second) in other) or (id(second) in body and id(first) in other):
                return True
    return False


#: Check -> rule, in the order of the table of checks.
KERNEL_RULES: tuple[tuple[str, Rule], ...] = (
    ("contract.jit", jit),
    ("contract.power_of_two", power_of_two),
    ("contract.arange_runtime", arange_runtime),
    ("contract.axis", axis),
    ("contract.jump_in_loop", jump_in_loop),
    ("contract.tensor_index", tensor_index),
    ("contract.mask_shape", mask_shape),
    ("contract.one_store", one_store),
)
