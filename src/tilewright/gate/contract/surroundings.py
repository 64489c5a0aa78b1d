"""What a candidate's source looks at beside its inputs: the clock, the process, the stack, who imported it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tilewright.gate.contract.rules import finding
from tilewright.gate.contract.syntax import Names, Source, dotted
from tilewright.values.verdict import Finding, Severity

#: Dotted name, or the start of one (with a dot at its end) -> what it tells.
TELLING: Mapping[str, str] = {
    "time.": "the clock",
    "timeit.": "the clock",
    "datetime.": "the clock",
    "sys.modules": "what else is imported",
    "sys.meta_path": "what else is imported",
    "sys.argv": "how the process was started",
    "sys.orig_argv": "how the process was started",
    "sys.flags": "how the process was started",
    "sys.executable": "how the process was started",
    "sys.path": "where it lies",
    "sys.stdin": "how the process was started",
    "sys._": "the call stack",
    "sys.gettrace": "who watches",
    "sys.getprofile": "who watches",
    "sys.settrace": "who watches",
    "sys.setprofile": "who watches",
    "sys.addaudithook": "who watches",
    "sys.monitoring": "who watches",
    "sys.getrefcount": "who holds its tensors",
    "inspect.stack": "the call stack",
    "inspect.trace": "the call stack",
    "inspect.currentframe": "the call stack",
    "inspect.getouterframes": "the call stack",
    "inspect.getframeinfo": "the call stack",
    "inspect.getmodule": "who imported it",
    "inspect.getfile": "where it lies",
    "inspect.getsourcefile": "where it lies",
    "traceback.extract_stack": "the call stack",
    "traceback.format_stack": "the call stack",
    "traceback.print_stack": "the call stack",
    "traceback.walk_stack": "the call stack",
    "os.getpid": "the process",
    "os.getppid": "the process",
    "os.getcwd": "where it runs",
    "os.listdir": "where it runs",
    "os.scandir": "where it runs",
    "os.walk": "where it runs",
    "os.stat": "where it runs",
    "os.path.exists": "where it runs",
    "os.path.isfile": "where it runs",
    "os.path.isdir": "where it runs",
    "os.uname": "the machine",
    "os.getlogin": "the user",
    "os.getuid": "the user",
    "os.times": "the clock",
    "os.isatty": "how the process was started",
    "os.readlink": "the process",
    "pathlib.": "where it runs",
    "glob.": "where it runs",
    "gc.get_": "who holds its tensors",
    "gc.callbacks": "who watches",
    "weakref.getweakref": "who holds its tensors",
    "ctypes": "the process's memory",
    "_ctypes": "the process's memory",
    "cffi": "the process's memory",
    "threading.enumerate": "the process's threads",
    "threading.current_thread": "the process's threads",
    "threading.main_thread": "the process's threads",
    "threading.active_count": "the process's threads",
    "threading.get_ident": "the process's threads",
    "threading.get_native_id": "the process's threads",
    "multiprocessing.current_process": "the process",
    "multiprocessing.parent_process": "the process",
    "platform.": "the machine",
    "socket.": "the machine",
    "psutil": "the process",
    "resource.": "the process",
    "getpass.": "the user",
    "pwd.": "the user",
    "uuid.": "the machine",
    "random.": "chance",
    "secrets.": "chance",
    "os.urandom": "chance",
    "numpy.random.": "chance",
    "importlib.": "what else is imported",
    "pkgutil.": "what else is imported",
    "builtins.": "who watches",
    "torch.initial_seed": "the state of random numbers",
    "torch.seed": "the state of random numbers",
    "torch.get_rng_state": "the state of random numbers",
    "torch.random.": "the state of random numbers",
    "torch.cuda.get_rng_state": "the state of random numbers",
    "torch.cuda.initial_seed": "the state of random numbers",
    "torch.get_num_threads": "the process's threads",
    "torch.get_num_interop_threads": "the process's threads",
    "torch.overrides._": "who watches",
    "torch.utils._python_dispatch.": "who watches",
    "torch._C._len_torch": "who watches",
    "torch._C._get_": "who watches",
    "torch._C._is_torch": "who watches",
    "torch.autograd.profiler": "who watches",
    "torch.autograd._profiler_enabled": "who watches",
    "torch.cuda.memory_": "what else is in memory",
    "torch.cuda.max_memory": "what else is in memory",
    "torch.cuda.mem_get_info": "what else is in memory",
    "triton.knobs": "whether kernels are interpreted",
    "triton.runtime.interpreter": "whether kernels are interpreted",
    "triton.runtime.jit.InterpretedFunction": "whether kernels are interpreted",
}
#: Attributes that tell the same wherever they stand.
ATTRIBUTES: Mapping[str, str] = {
    **dict.fromkeys(
        ("f_back", "f_code", "f_globals", "f_locals", "f_lineno", "f_builtins", "tb_frame", "gi_frame", "cr_frame"),
        "the call stack",
    ),
    **dict.fromkeys(("co_filename", "__module__", "__globals__"), "who imported it"),
    "_getframe": "the call stack",
    "elapsed_time": "the clock",
    "__cuda_array_interface__": "where its tensors really lie",
    "__array_interface__": "where its tensors really lie",
}
#: Names of a module about itself.
OWN: Mapping[str, str] = {
    "__name__": "who imported it",
    "__file__": "where it lies",
    "__spec__": "who imported it",
    "__loader__": "who imported it",
    "__package__": "who imported it",
    "__builtins__": "who watches",
}
#: Calls that hide what is looked at.
_HIDING = ("exec", "eval", "compile", "__import__")
#: Parts of strings that name a place to look.
_WORDS = (
    "tilewright", "TRITON_INTERPRET", "PYTEST_", "runtime.interpreter", "_getframe", "/proc/", "__name__", "__file__",
    "__main__",
)  # fmt: skip
#: Starts of environment variables that differ between the gate and a user's process whatever the user wants.
_COMMON = (
    "TRITON_", "TILEWRIGHT_", "PYTEST_", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "OMP_", "OPENBLAS_",
    "MKL_", "MALLOC_", "LD_", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "PWD", "OLDPWD", "PATH", "TMPDIR", "TMP",
    "TEMP", "LANG", "LC_", "DISPLAY", "HOSTNAME", "SSH_", "CI", "XDG_", "VIRTUAL_ENV", "CONDA_", "EDITOR", "MAIL",
    "SHLVL", "KERNELBENCH_",
)  # fmt: skip
_ENVIRONMENT = ("os.environ", "os.getenv", "os.environb")


@dataclass(frozen=True)
class Look:
    """One look: at what, in which line; of a variable of the environment, its name."""

    what: str
    told: str
    line: int
    variable: str = ""


def findings_of(text: str) -> Iterator[Finding]:
    """A finding for each thing that code which a user's call runs looks at."""
    seen: set[tuple[str, str]] = set()
    for look in looks(text):
        if (look.what, look.variable) in seen:
            continue
        seen.add((look.what, look.variable))
        if look.variable:
            message = f"it reads `{look.variable}` from the environment: it was judged with that unset"
            yield replace(finding("honesty.watches", message, look.line), severity=Severity.LIMIT)
        else:
            message = f"it looks at {look.told} (`{look.what}`): nothing but its inputs and parameters may decide"
            yield finding("honesty.watches", message, look.line)


def looks(text: str) -> list[Look]:
    """Everything that the source looks at, in the order of its lines; only in code that is run for a user."""
    source = Source.parse(text)
    names = _names(source.tree)
    kernels = frozenset(function.node.name for function in source.functions if function.decorated)
    found: list[Look] = []
    for root in _reached(source.tree):
        if not _is_twin_switch(root, source.tree, kernels):
            found += _looks_in(root, names, kernels)
    return sorted(set(found), key=lambda look: look.line)


_COMPILED = "tl.constexpr(not triton.knobs.runtime.interpret)"


def _is_twin_switch(root: ast.stmt, tree: ast.Module, kernels: frozenset[str]) -> bool:
    """A constant that says whether kernels are compiled, asked only by device code that has a plain twin beside it.

    What a GPU alone can do (inline assembly) needs such a twin in the interpreter; a GPU is judged as it compiles.
    """
    if not isinstance(root, ast.Assign) or ast.unparse(root.value) != _COMPILED or len(root.targets) != 1:
        return False
    name = ast.unparse(root.targets[0])
    device = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in kernels]
    switches = [node for part in device for node in ast.walk(part) if isinstance(node, ast.If) and node.orelse]
    asked = {id(node.test) for node in switches if ast.unparse(node.test) == name}
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    return all(id(use) in asked or isinstance(use.ctx, ast.Store) for use in uses)


def _names(tree: ast.Module) -> Names:
    """What names mean, renamings of the standard library's modules and functions among them."""
    names = Names.of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            meant = names.resolve(node.value)
            if meant is not None and _told(meant):
                names.meaning[node.targets[0].id] = meant
    return names


def _reached(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run on import or for `ModelNew`: functions that nothing of these names are left out."""
    definitions = {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    reached: list[ast.stmt] = [node for node in tree.body if node not in definitions.values() and not _is_guard(node)]
    waiting = list(reached)
    if "ModelNew" in definitions:
        waiting.append(definitions["ModelNew"])
        reached.append(definitions["ModelNew"])
    while waiting:
        node = waiting.pop()
        for inner in ast.walk(node):
            name = inner.id if isinstance(inner, ast.Name) else None
            wanted = definitions.get(name) if name is not None else None
            if wanted is not None and wanted not in reached:
                reached.append(wanted)
                waiting.append(wanted)
    return reached


def _is_guard(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, whose body never runs for a module."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and len(node.test.ops) == 1
        and isinstance(node.test.ops[0], ast.Eq)
        and {ast.unparse(node.test.left), ast.unparse(node.test.comparators[0])} == {"__name__", "'__main__'"}
        and not node.orelse
    )


def _looks_in(root: ast.stmt, names: Names, kernels: frozenset[str]) -> Iterator[Look]:
    harmless = _harmless(root, names)
    for read, variable in _settings(root, names):
        if id(read) not in harmless:
            yield Look("os.environ", "the environment", read.lineno, variable)
        harmless |= {id(inner) for inner in ast.walk(read)}
    for node in ast.walk(root):
        if id(node) in harmless:
            continue
        if isinstance(node, ast.Name | ast.Attribute | ast.Call):
            yield from _looks_at(node, names)
            if _asks_of(node, kernels):
                yield Look(ast.unparse(node), "whether kernels are interpreted", node.lineno)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for word in _WORDS:
                if word in node.value:
                    yield Look(word, "whether it is being judged", node.lineno)


def _looks_at(node: ast.Name | ast.Attribute | ast.Call, names: Names) -> Iterator[Look]:
    if isinstance(node, ast.Call):
        name = dotted(node.func)
        if name in _HIDING and name not in names.meaning:
            yield Look(str(name), "what it hides from a reader", node.lineno)
        meant = names.resolve(node)
    else:
        meant = names.resolve(node)
        if isinstance(node, ast.Name) and node.id in OWN and isinstance(node.ctx, ast.Load):
            yield Look(node.id, OWN[node.id], node.lineno)
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            yield Look(node.attr, ATTRIBUTES[node.attr], node.lineno)
    if meant is None:
        return
    if meant.startswith(_ENVIRONMENT):
        yield Look(meant, "the environment", node.lineno)
    told = _told(meant)
    if told:
        yield Look(meant, told, node.lineno)


def _asks_of(node: ast.AST, kernels: frozenset[str]) -> bool:
    """`type(kernel)`, `isinstance(kernel, ...)`, `kernel.__class__`: of what kind a kernel is."""
    if isinstance(node, ast.Call) and dotted(node.func) in ("type", "isinstance", "hasattr", "vars", "dir", "callable"):
        return bool(node.args) and isinstance(node.args[0], ast.Name) and node.args[0].id in kernels
    if isinstance(node, ast.Attribute) and node.attr in ("__class__", "__dict__"):
        return isinstance(node.value, ast.Name) and node.value.id in kernels
    return False


def _told(meant: str) -> str:
    """What a dotted name tells; empty where it is nobody's business."""
    for name, told in TELLING.items():
        if meant == name or meant.startswith(name if name[-1] in "._" else f"{name}."):
            return told
    return ""


def _harmless(root: ast.stmt, names: Names) -> set[int]:
    """Nodes that need not be looked at: docstrings, `getLogger(__name__)`, what is written into the environment."""
    found: set[int] = set()
    for node in ast.walk(root):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.add(id(node.value))
        elif isinstance(node, ast.Call) and str(dotted(node.func)).endswith("getLogger"):
            found |= {id(inner) for argument in node.args for inner in ast.walk(argument)}
        elif isinstance(node, ast.Assign | ast.Delete):
            for target in node.targets:
                if isinstance(target, ast.Subscript) and names.resolve(target.value) == "os.environ":
                    found |= {id(inner) for inner in ast.walk(target)}
        elif (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and names.resolve(node.value.func) == "os.environ.setdefault"
        ):
            found |= {id(inner) for inner in ast.walk(node.value)}
    return found


def _settings(tree: ast.AST, names: Names) -> Iterator[tuple[ast.expr, str]]:
    """Reads of one variable by a name of its own: the node, and the variable."""
    for node in ast.walk(tree):
        key: ast.AST | None = None
        if isinstance(node, ast.Subscript) and names.resolve(node.value) == "os.environ":
            key = node.slice
        elif isinstance(node, ast.Call) and names.resolve(node.func) in ("os.environ.get", "os.getenv") and node.args:
            key = node.args[0]
        elif isinstance(node, ast.Compare) and names.resolve(node.comparators[0]) == "os.environ":
            key = node.left
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and not _is_common(key.value):
            assert isinstance(node, ast.expr)
            yield node, key.value


def _is_common(variable: str) -> bool:
    return any(variable.startswith(name) if name.endswith("_") else variable == name for name in _COMMON)
