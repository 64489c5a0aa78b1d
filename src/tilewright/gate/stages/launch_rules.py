"""Contract checks that need values: they run on what a candidate would launch at the task's own shapes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tilewright.gate.contract.kernel_rules import is_power_of_two
from tilewright.gate.contract.rules import finding, permitted
from tilewright.gate.contract.syntax import LANGUAGE, Function, Source
from tilewright.gate.judging.grid_limits import MOST_PROGRAMS
from tilewright.gate.stages.record import Recorded
from tilewright.task.stage import StageRules
from tilewright.values.candidate import Launch
from tilewright.values.verdict import Finding


def check_launches(
    recorded: Recorded, source: Source, stage_rules: Sequence[StageRules], scratch: int
) -> tuple[Finding, ...]:
    """Check recorded launches: grids, tiles as they come out, the stage's values, intermediates.

    Args:
        recorded: of the candidate.
        source: its syntax tree.
        stage_rules: of the stages that bind.
        scratch: how many scratch tensors the candidate declares.
    """
    functions = {function.name: function for function in source.functions}
    found: dict[tuple[str, str], Finding] = {}
    for launch in recorded.recording.launches:
        function = functions.get(launch.kernel)
        for one in (launch, *launch.alternatives):
            for check, message in _launch(one, function, stage_rules):
                found.setdefault((check, message), finding(check, message, where=one.kernel))
    for check, message in _grid_axes(recorded.steps):
        found.setdefault((check, message), finding(check, message))
    if any(rules.one_store_per_output for rules in stage_rules):
        for message in _intermediates(recorded, functions, scratch):
            found.setdefault(("contract.intermediate", message), finding("contract.intermediate", message))
    return tuple(found.values())


def _launch(launch: Launch, function: Function | None, stage_rules: Sequence[StageRules]) -> Iterator[tuple[str, str]]:
    if min(launch.grid) < 1:
        yield "contract.grid", f"{launch.kernel} is launched with the grid {launch.grid} at the task's own shapes"
    for axis, (programs, most) in enumerate(zip(launch.grid, MOST_PROGRAMS, strict=True)):
        if programs > most:
            text = f"{launch.kernel} is launched with {programs:,} programs along grid axis {axis}"
            advice = f"a GPU takes {most:,} there: use axis 0, or let programs loop"
            yield "contract.grid", f"{text} at the task's own shapes; {advice}"
    for check, option in (("contract.stage_warps", "num_warps"), ("contract.stage_stages", "num_stages")):
        allowed = permitted(stage_rules, option)
        value = getattr(launch, option)
        if allowed and value not in allowed and _says(function, option):
            yield check, f"{launch.kernel} is launched with {option} = {value}; the stage permits {allowed}"
    if function is not None:
        constants = {a.name: a.value for a in launch.arguments if a.type == "constexpr" and type(a.value) is int}
        for call in function.calls(f"{LANGUAGE}.arange"):
            bounds = [evaluate(argument, constants) for argument in call.args]
            if len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
                continue
            if not is_power_of_two(bounds[1] - bounds[0]):
                text = f"`{ast.unparse(call)}` in {launch.kernel} spans {bounds[1] - bounds[0]} elements"
                yield "contract.power_of_two", f"{text}: not a power of two"


def _says(function: Function | None, option: str) -> bool:
    """Only values that the candidate wrote are held against it; Triton's defaults are not."""
    return function is not None and any(k.arg == option for config in function.configs for k in config.keywords)


def evaluate(node: ast.expr, constants: Mapping[str, Any]) -> int | None:
    """The value of an integer expression over known constants, or None."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.Name):
        value = constants.get(node.id)
        return value if type(value) is int else None
    if isinstance(node, ast.BinOp):
        left, right = evaluate(node.left, constants), evaluate(node.right, constants)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.FloorDiv) and right != 0:
            return left // right
    return None


def _grid_axes(steps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for step in steps:
        if "kernel" in step and not 1 <= len(step["grid"]) <= 3:
            yield "contract.grid", f"{step['kernel']} is launched with {len(step['grid'])} grid axes; there are three"


def _intermediates(recorded: Recorded, functions: Mapping[str, Function], scratch: int) -> Iterator[str]:
    """Memory that a kernel writes and a later step reads, beyond what is declared."""
    written: dict[int, str] = {}
    read_again: dict[int, str] = {}
    for step in recorded.steps:
        if "kernel" in step:
            function = functions.get(step["kernel"])
            stores = {a.root for a in function.accesses if a.kind != "load"} if function else set()
            loads = {a.root for a in function.accesses if a.kind == "load"} if function else set()
            arguments = {a["name"]: int(a.get("storage", 0)) for a in step["arguments"]}
            reads = {arguments[name] for name in loads if arguments.get(name)}
            writes = {arguments[name] for name in stores if arguments.get(name)}
        elif step["written_bytes"] == 0:
            continue
        else:
            reads, writes = set(step["reads"]), set()
        for storage in reads & written.keys():
            read_again.setdefault(storage, written[storage])
        written |= dict.fromkeys(writes, str(step.get("kernel", "")))
    if len(read_again) > scratch:
        names = ", ".join(sorted(set(read_again.values())))
        yield f"{len(read_again)} intermediate(s) written by {names} are read again; {scratch} are declared as scratch"
