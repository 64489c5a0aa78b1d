"""The documents' rules, checked on a candidate's syntax tree. Nothing of the candidate is run."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from tilewright.gate.checks.table import BY_NAME
from tilewright.gate.contract import kernel_rules
from tilewright.gate.contract.kernel_rules import KERNEL_RULES, Wrong
from tilewright.gate.contract.syntax import LANGUAGE, Source, dotted
from tilewright.task.stage import StageRules
from tilewright.task.task import OutputRules
from tilewright.values.verdict import Finding

Rule = Callable[[Source, OutputRules], Iterator[Wrong]]

#: Kernel rule -> the switch of `OutputRules` that turns it off.
_SWITCHES = {
    "contract.jit": "require_jit",
    "contract.power_of_two": "power_of_two_tiles",
    "contract.jump_in_loop": "no_jumps_in_loops",
    "contract.tensor_index": "no_tensor_indexing",
    "contract.one_store": "one_store_per_output",
}


def check_contract(source: str, rules: OutputRules, stage_rules: Sequence[StageRules] = ()) -> tuple[Finding, ...]:
    """Check a candidate's source against the output rules and, where given, the stages' rules.

    Args:
        source: one Python file.
        rules: of the answer.
        stage_rules: of the stages that bind. A value is permitted where any of them permits it.

    Returns:
        findings `contract.*`, in the order of the table of checks; empty where all is well.
    """
    try:
        return _checked(Source.parse(source), rules, stage_rules)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        return (finding("contract.parse", f"the source does not parse: {error}", line),)


def _checked(parsed: Source, rules: OutputRules, stage_rules: Sequence[StageRules]) -> tuple[Finding, ...]:
    found = [finding(name, message, line) for name, rule in _MODULE_RULES for message, line in rule(parsed, rules)]
    for function in parsed.functions:
        for name, kernel_rule in KERNEL_RULES:
            if getattr(rules, _SWITCHES.get(name, ""), True):
                found += [finding(name, message, line) for message, line in kernel_rule(function)]
        if rules.strict_stores:
            found += [finding("contract.one_store", *wrong) for wrong in kernel_rules.strict_store(function)]
    found += [finding(name, *wrong) for name, wrong in _stage_findings(parsed, stage_rules)]
    return tuple(found)


def finding(check: str, message: str, line: int | None = None, where: str = "") -> Finding:
    """A finding with its check's own severity."""
    return Finding(check, BY_NAME[check].severity, message, where or (f"line {line}" if line else ""))


# --- rules on the whole file ---------------------------------------------------------------------------------


def _defines_model(source: Source, rules: OutputRules) -> Iterator[Wrong]:
    if not any(isinstance(node, ast.ClassDef) and node.name == "ModelNew" for node in source.tree.body):
        yield "there is no class ModelNew", 1


def _order(source: Source, rules: OutputRules) -> Iterator[Wrong]:
    """Each part's kind is a number that must not fall: 0 imports, 1 kernels, 2 wrappers, 3 ModelNew."""
    if not rules.fixed_order:
        return
    kernels = {function.node for function in source.functions}
    kinds = ("imports", "kernels", "wrappers", "class ModelNew")
    reached = 0
    for node in source.tree.body:
        kind = _part(node, kernels)
        if kind is None:
            continue
        if kind < reached:
            yield f"{kinds[kind]} stand after {kinds[reached]}", node.lineno
        reached = max(reached, kind)


def _part(node: ast.stmt, kernels: set[ast.FunctionDef]) -> int | None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return 0
    if isinstance(node, ast.FunctionDef):
        return 1 if node in kernels else 2
    if isinstance(node, ast.ClassDef) and node.name == "ModelNew":
        return 3
    return None


def _imports(source: Source, rules: OutputRules) -> Iterator[Wrong]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""] if not node.level else ["."]
        else:
            continue
        for module in modules:
            head = module.partition(".")[0]
            if head not in {"torch", "triton", "__future__"} and head not in sys.stdlib_module_names:
                yield f"it imports {module or '.'}; only torch, triton and the standard library are there", node.lineno


def _forbidden(source: Source, rules: OutputRules) -> Iterator[Wrong]:
    banned = {_full(name): name for name in rules.forbidden_functions}
    banned |= {name.replace(f"{LANGUAGE}.", f"{LANGUAGE}.math."): shown for name, shown in banned.items()}
    seen: set[tuple[str, int]] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("triton"):
            used = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute | ast.Name | ast.Call):
            used = [source.names.resolve(node) or ""]
        else:
            continue
        for name in used:
            line = getattr(node, "lineno", 0)
            if name in banned and (name, line) not in seen:
                seen.add((name, line))
                yield f"{banned[name]} is named; the document's rules forbid it", line


def _full(name: str) -> str:
    return f"{LANGUAGE}.{name.removeprefix('tl.')}" if name.startswith("tl.") else name


def _unknown_name(source: Source, rules: OutputRules) -> Iterator[Wrong]:
    import triton

    banned = {_full(name) for name in rules.forbidden_functions}
    banned |= {name.replace(f"{LANGUAGE}.", f"{LANGUAGE}.math.") for name in banned}
    seen: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LANGUAGE):
            used = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*"]
        else:
            used = [source.names.resolve(node) or ""] if isinstance(node, ast.Attribute | ast.Call) else []
        for name in used:
            missing = _missing(name) if name not in banned else None
            if missing is not None and missing not in seen:
                seen.add(missing)
                text = f"{missing.replace(LANGUAGE, 'tl', 1)} does not exist in triton {triton.__version__}"
                yield text, getattr(node, "lineno", 1)


def _missing(name: str) -> str | None:
    """The part of a dotted name of the language that the installed Triton does not have; None where it has it all."""
    if not name.startswith(f"{LANGUAGE}."):
        return None
    found: Any = importlib.import_module(LANGUAGE)
    path = LANGUAGE
    for part in name.removeprefix(f"{LANGUAGE}.").split("."):
        path = f"{path}.{part}"
        if not hasattr(found, part):
            try:
                importlib.import_module(path)
            except ImportError:
                return path
        found = getattr(found, part, None)
        if not isinstance(found, ModuleType):
            return None  # what a class or function has is not looked up
    return None


_TEST_NAMES = frozenset({"get_inputs", "get_init_inputs", "main", "benchmark"})


def _test_code(source: Source, rules: OutputRules) -> Iterator[Wrong]:
    if not rules.no_test_code:
        return
    for node in source.tree.body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            yield "there is an `if __name__` block", node.lineno
        elif isinstance(node, ast.FunctionDef) and (node.name in _TEST_NAMES or node.name.startswith("test_")):
            yield f"{node.name} is testing code", node.lineno
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield f"`{ast.unparse(node.value)[:80]}` runs on import", node.lineno
        elif isinstance(node, ast.For | ast.While | ast.With | ast.Assert):
            yield f"a `{type(node).__name__.lower()}` runs on import", node.lineno


def _grid(source: Source, rules: OutputRules) -> Iterator[Wrong]:
    """Literal grids; grids that are computed are checked at the launches."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
            name = dotted(node.func.value)
            if name not in {function.name for function in source.functions}:
                continue
            sizes = node.func.slice.elts if isinstance(node.func.slice, ast.Tuple) else []
            if len(sizes) > 3:
                yield f"{name} is launched with {len(sizes)} grid axes; there are three", node.lineno
            for size in sizes:
                if isinstance(size, ast.Constant) and type(size.value) is int and size.value < 1:
                    yield f"{name} is launched with a grid axis of {size.value}", node.lineno


_MODULE_RULES: tuple[tuple[str, Rule], ...] = (
    ("contract.parse", _defines_model),
    ("contract.order", _order),
    ("contract.imports", _imports),
    ("contract.forbidden", _forbidden),
    ("contract.unknown_name", _unknown_name),
    ("contract.test_code", _test_code),
    ("contract.grid", _grid),
)


# --- rules of the stages -------------------------------------------------------------------------------------


def permitted(stage_rules: Sequence[StageRules], field: str) -> tuple[int, ...]:
    """Values of `num_warps` or `num_stages` that some stage permits; empty where anything goes."""
    allowed = [getattr(rules, field) for rules in stage_rules]
    if not allowed or any(not values for values in allowed):
        return ()
    return tuple(sorted({value for values in allowed for value in values}))


def _stage_findings(source: Source, stage_rules: Sequence[StageRules]) -> Iterator[tuple[str, Wrong]]:
    if not stage_rules:
        return
    limits = [rules.max_autotune_configs for rules in stage_rules]
    most = None if any(limit is None for limit in limits) else max(limit for limit in limits if limit is not None)
    baselines = {rules.conservative_baseline for rules in stage_rules}
    for function in source.functions:
        configs = function.configs
        for check, option, default in (
            ("contract.stage_warps", "num_warps", 4),
            ("contract.stage_stages", "num_stages", 3),
        ):
            allowed = permitted(stage_rules, option)
            for config in configs:
                value = _option(config, option, default)
                if allowed and value is not None and value not in allowed:
                    text = (
                        f"{option} = {value} in a configuration of {function.name}; the stage permits {_set(allowed)}"
                    )
                    yield check, (text, config.lineno)
        if most is not None and len(configs) > most:
            text = f"{function.name} has {len(configs)} configurations; the stage permits {most}"
            yield "contract.stage_configs", (text, configs[0].lineno)
        if configs and None not in baselines and not _has_baseline(configs, baselines):
            shown = " or ".join(f"num_warps={b[0]}, num_stages={b[1]}" for b in baselines if b is not None)
            yield "contract.stage_baseline", (f"{function.name} lacks the baseline {shown}", configs[0].lineno)
    yield from _launch_options(source, stage_rules)


def _launch_options(source: Source, stage_rules: Sequence[StageRules]) -> Iterator[tuple[str, Wrong]]:
    kernels = {function.name for function in source.functions}
    for node in ast.walk(source.tree):
        if (
            not (isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript))
            or dotted(node.func.value) not in kernels
        ):
            continue
        for check, option in (("contract.stage_warps", "num_warps"), ("contract.stage_stages", "num_stages")):
            allowed = permitted(stage_rules, option)
            value = _option(node, option, None)
            if allowed and value is not None and value not in allowed:
                text = (
                    f"{option} = {value} at the launch of {dotted(node.func.value)}; the stage permits {_set(allowed)}"
                )
                yield check, (text, node.lineno)


def _set(values: Sequence[int]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


def _has_baseline(configs: Sequence[ast.Call], baselines: set[tuple[int, int] | None]) -> bool:
    return any((_option(config, "num_warps", 4), _option(config, "num_stages", 3)) in baselines for config in configs)


def _option(call: ast.Call, name: str, default: int | None) -> int | None:
    """A literal keyword of a call; the default where it is absent, None where it is computed."""
    for keyword in call.keywords:
        if keyword.arg == name:
            value = keyword.value
            return value.value if isinstance(value, ast.Constant) and type(value.value) is int else None
    return default
