"""Work on the host that depends on parameters alone, done once for each version of the parameters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from tilewright.proposers.retune.edit import Context, Proposal, Subject
from tilewright.proposers.retune.purity import chains_in, is_pure_statement, makes_tensors
from tilewright.proposers.retune.signatures import fresh_name
from tilewright.proposers.retune.trees import (
    dotted_name,
    names_in,
    replace_nodes,
    statements,
    walk,
)
from tilewright.proposers.retune.view import View

_KEPT = '''

def {name}(owner, slot, sources, compute):
    """`compute()`, kept on `owner` for as long as the sources are the same tensors, unchanged, or equal values."""
    tensors = [source for source in sources if isinstance(source, torch.Tensor)]
    plain = (int, float, str, type(None), torch.dtype, torch.device, torch.Size)
    if any(tensor.is_inference() or (torch.is_grad_enabled() and tensor.requires_grad) for tensor in tensors) or any(
        not isinstance(source, (torch.Tensor, *plain)) for source in sources
    ):
        return compute()
    state = [torch.is_inference_mode_enabled(), torch.is_autocast_enabled()]
    state += [
        (source.data_ptr(), source._version, source.shape, source.stride(), source.dtype, source.device)
        if isinstance(source, torch.Tensor)
        else source
        for source in sources
    ]
    kept = owner.__dict__.get(slot)
    if kept is None or kept[0] != state or any(old is not new for old, new in zip(kept[1], tensors)):
        # The sources and their memory are held, so that no other tensor can take their place unseen.
        kept = (state, tensors, [tensor.detach() for tensor in tensors], compute())
        owner.__dict__[slot] = kept
    return kept[3]
'''


#: Calls that ask for a size or make an empty tensor.
_QUIET = frozenset(
    {"cdiv", "dim", "empty", "empty_like", "is_contiguous", "max", "min", "next_power_of_2", "numel", "size", "stride"}
)


@dataclass(frozen=True)
class _Roots:
    """A function, and the names in it that stand for the module or for its parameters."""

    function: cst.FunctionDef
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """What moves out of a function.

    Attributes:
        roots: the function.
        moved: the statements that move, in order.
        copied: cheap ones that stay and are needed by those that move.
        inputs: sizes, dtypes and devices that those that move take from the function.
        outputs: what the rest of the function uses of them.
    """

    roots: _Roots
    moved: tuple[cst.BaseStatement, ...]
    copied: tuple[cst.BaseStatement, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def keep_host_work(subject: Subject, context: Context) -> Iterator[Proposal]:
    """`w = weight.t().contiguous()` on every call -> once for each version of `weight`."""
    del context
    view = subject.view
    plans = [plan for roots in _candidates(view) if (plan := _plan(view, roots)) is not None]
    if plans:
        words = ", ".join(name for plan in plans for name in plan.outputs)
        yield Proposal(_rewritten(view, plans), f"{words} kept until the parameters change", 1.15)


# -- which functions -------------------------------------------------------------------------------------------


def _candidates(view: View) -> Iterator[_Roots]:
    """`forward` of ModelNew, and the functions that it calls once with parts of `self`."""
    forward = _forward(view)
    if forward is None:
        return
    yield _Roots(forward, ("self",))
    for function in view.module.body:
        if isinstance(function, cst.FunctionDef):
            name = function.name.value
            calls = [n for n in walk(view.module) if isinstance(n, cst.Call) and dotted_name(n.func) == name]
            inside = [node for node in walk(forward) if any(node is call for call in calls)]
            if len(calls) == 1 and inside and not any(arg.star for arg in calls[0].args):
                names = _bound_to_self(function, calls[0])
                if names:
                    yield _Roots(function, names)


def _forward(view: View) -> cst.FunctionDef | None:
    for node in view.module.body:
        if isinstance(node, cst.ClassDef) and node.name.value == "ModelNew":
            for method in node.body.body:
                if isinstance(method, cst.FunctionDef) and method.name.value == "forward":
                    return method
    return None


def _bound_to_self(function: cst.FunctionDef, call: cst.Call) -> tuple[str, ...]:
    found: list[str] = []
    parameters = [parameter.name.value for parameter in function.params.params]
    for position, arg in enumerate(call.args):
        name = arg.keyword.value if arg.keyword is not None else parameters[position : position + 1]
        text = dotted_name(arg.value)
        if name and text.startswith("self."):
            found.append(name if isinstance(name, str) else name[0])
    return tuple(found)


# -- what moves -------------------------------------------------------------------------------------------------


def _plan(view: View, roots: _Roots) -> _Plan | None:
    body = roots.function.body
    if not isinstance(body, cst.IndentedBlock):
        return None
    bound = Counter(name for statement in body.body for name in _all_bound(statement))
    fixed = _banned(view, roots.function) | set(roots.names) | {name for name, count in bound.items() if count > 1}
    known = set(roots.names)
    moved: list[cst.BaseStatement] = []
    cheap: dict[str, cst.BaseStatement] = {}
    scalars: set[str] = set()
    for statement in body.body:
        targets = _targets(statement)
        reads = _reads(statement)
        may_move = targets and not targets & fixed and is_pure_statement(statement)
        if may_move and reads & known and reads <= known | scalars | _globals(view):
            if makes_tensors(statement):
                moved.append(statement)
            elif len(targets) == 1:
                cheap[next(iter(targets))] = statement
            known |= targets
            continue
        if _is_size(statement):
            scalars |= targets
        known -= targets
        scalars -= targets if not _is_size(statement) else set()
        for name in targets:
            cheap.pop(name, None)
    return _checked(roots, list(body.body), moved, cheap, scalars) if moved else None


def _checked(
    roots: _Roots,
    body: Sequence[cst.BaseStatement],
    moved: Sequence[cst.BaseStatement],
    cheap: dict[str, cst.BaseStatement],
    scalars: set[str],
) -> _Plan | None:
    """The plan, if every name that moves is bound by statements that move, and used only after the last of them."""
    targets = set().union(*(_targets(statement) for statement in moved))
    rest = [statement for statement in body if not any(statement is m for m in moved)]
    if any(_all_bound(statement) & targets for statement in rest):
        return None
    last = max(index for index, statement in enumerate(body) if statement is moved[-1])
    before = [statement for statement in body[:last] if not any(statement is m for m in moved)]
    if any(_reads(statement) & targets for statement in before):
        return None
    outputs = [name for name in _ordered(moved) if any(name in _reads(statement) for statement in rest)]
    needed = set().union(*(_reads(statement) for statement in moved))
    copied = _needed(cheap, needed, body)
    for statement in copied:
        needed |= _reads(statement)
    inputs = tuple(sorted(needed & scalars))
    if not outputs or _bare_roots(roots, [*moved, *copied]):
        return None
    return _Plan(roots, tuple(moved), tuple(copied), inputs, tuple(outputs))


def _needed(
    cheap: dict[str, cst.BaseStatement], needed: set[str], body: Sequence[cst.BaseStatement]
) -> list[cst.BaseStatement]:
    wanted: set[str] = set()
    queue = list(needed)
    while queue:
        name = queue.pop()
        if name in cheap and name not in wanted:
            wanted.add(name)
            queue.extend(_reads(cheap[name]))
    return [statement for statement in body if any(cheap[name] is statement for name in wanted)]


def _bare_roots(roots: _Roots, found: Sequence[cst.BaseStatement]) -> bool:
    """A module is used as a whole: what is read of it cannot be told. A parameter itself may be."""
    return "self" in roots.names and any("self" in bare for s in found for bare in [chains_in(s, roots.names)])


def _targets(statement: cst.BaseStatement) -> set[str]:
    """Names that a statement surely binds: an assignment's, or those that both branches of an `if` bind."""
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
        small = statement.body[0]
        if isinstance(small, cst.Assign) and len(small.targets) == 1:
            return {node.value for node in walk(small.targets[0].target) if isinstance(node, cst.Name)}
    if isinstance(statement, cst.If) and isinstance(statement.orelse, cst.Else):
        branches = [statement.body, statement.orelse.body]
        if all(isinstance(branch, cst.IndentedBlock) for branch in branches):
            sets = [
                set().union(*(_targets(part) for part in branch.body if isinstance(part, cst.BaseStatement)))
                for branch in branches
            ]
            return sets[0] if sets[0] == sets[1] else set()
    return set()


def _all_bound(statement: cst.BaseStatement) -> set[str]:
    found: set[str] = set()
    for node in walk(statement):
        if isinstance(node, cst.AssignTarget | cst.AugAssign | cst.For | cst.AnnAssign | cst.NamedExpr):
            found |= {part.value for part in walk(node.target) if isinstance(part, cst.Name)}
    return found


def _reads(statement: cst.BaseStatement) -> set[str]:
    """Names that a statement reads, those aside that it binds itself first."""
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
        small = statement.body[0]
        if isinstance(small, cst.Assign) and isinstance(small.targets[0].target, cst.Name | cst.Tuple):
            return names_in(small.value)
    if isinstance(statement, cst.If):
        inner = [s for s in walk(statement) if isinstance(s, cst.SimpleStatementLine)]
        return names_in(statement.test).union(*(_reads(s) for s in inner))
    return names_in(statement)


def _ordered(moved: Sequence[cst.BaseStatement]) -> list[str]:
    return list(dict.fromkeys(name for statement in moved for name in sorted(_targets(statement))))


def _is_size(statement: cst.BaseStatement) -> bool:
    """Binds sizes, a dtype or a device of something."""
    if not (isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1):
        return False
    small = statement.body[0]
    if not isinstance(small, cst.Assign):
        return False
    value = small.value.value if isinstance(small.value, cst.Subscript) else small.value
    if isinstance(value, cst.Attribute):
        return value.attr.value in ("shape", "device", "dtype")
    is_method = isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute)
    return is_method and dotted_name(cst.ensure_type(value, cst.Call).func).split(".")[-1] in ("size", "numel", "dim")


def _globals(view: View) -> set[str]:
    """Names of modules and builtins that a moved statement may use."""
    found = {"torch", "nn", "F", "triton", "math", "float", "int", "len", "max", "min", "None", "True", "False"}
    own = {node.name.value for node in view.module.body if isinstance(node, cst.FunctionDef | cst.ClassDef)}
    return found - own


def _banned(view: View, function: cst.FunctionDef) -> set[str]:
    """Names whose tensors are written to, or leave the function: they must be fresh on every call."""
    from tilewright.proposers.retune.flow import flow_of

    found: set[str] = set()
    for node in walk(function.body):
        if isinstance(node, cst.Return) and node.value is not None:
            found |= names_in(node.value) if not isinstance(node.value, cst.Call) else set()
        elif isinstance(node, cst.AugAssign) or (
            isinstance(node, cst.AssignTarget) and not isinstance(node.target, cst.Name | cst.Tuple)
        ):
            found |= names_in(node.target)
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            if re.search(r"[^_]_$", node.func.attr.value):
                found |= names_in(node.func.value)
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
            own = {f.name.value for f in view.module.body if isinstance(f, cst.FunctionDef)}
            if node.func.value in own - _wrappers_that_only_launch(view):
                found |= set().union(*(names_in(arg.value) for arg in node.args))
    for kernel in view.kernels:
        accessed = flow_of(kernel, view.language).accessed
        for site in kernel.launches:
            for name, arg in site.bound.items():
                if accessed.get(name, {"store"}) != {"load"} and name in accessed:
                    found |= names_in(arg.value)
            if site.has_star:
                found |= set().union(*(names_in(arg.value) for arg in site.call.args))
    return found


def _wrappers_that_only_launch(view: View) -> set[str]:
    """Functions that do nothing to their arguments but pass them to kernels that load from them, or ask their sizes."""
    from tilewright.proposers.retune.flow import flow_of

    found: set[str] = set()
    for function in view.module.body:
        if not isinstance(function, cst.FunctionDef) or any(k.name == function.name.value for k in view.kernels):
            continue
        parameters = {parameter.name.value for parameter in function.params.params}
        sites = [(k, s) for k in view.kernels for s in k.launches if s.function is function]
        stored: set[str] = set()
        for kernel, site in sites:
            accessed = flow_of(kernel, view.language).accessed
            for name, arg in site.bound.items():
                if accessed.get(name, set()) - {"load"}:
                    stored |= names_in(arg.value)
        launches = {id(site.call) for _, site in sites}
        calls = [n for n in walk(function.body) if isinstance(n, cst.Call) and id(n) not in launches]
        quiet = all(_asks_only(call) for call in calls)
        returned = [n for n in walk(function.body) if isinstance(n, cst.Return) and n.value is not None]
        leaks = any(names_in(node.value) & parameters for node in returned if node.value is not None)
        rebinds = any(_all_bound(s) & parameters for s in function.body.body if isinstance(s, cst.BaseStatement))
        if sites and quiet and not stored & parameters and not leaks and not rebinds:
            found.add(function.name.value)
    return found


def _asks_only(call: cst.Call) -> bool:
    name = dotted_name(call.func).split(".")[-1] or (
        call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
    )
    return name in _QUIET


# -- writing it -------------------------------------------------------------------------------------------------


def _rewritten(view: View, plans: Sequence[_Plan]) -> str:
    keeper = fresh_name(view, "kept_until_changed")
    changes: dict[cst.CSTNode, cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNode]] = {}
    added: dict[int, list[str]] = {}
    for plan in plans:
        function = plan.roots.function
        name = fresh_name(view, f"prepared_{function.name.value}")
        added.setdefault(_top_level(view, function), []).append(_function_text(plan, name))
        (call,) = statements(_call_text(plan, keeper, name))
        for statement in plan.moved[:-1]:
            changes[statement] = cst.RemoveFromParent()
        line = cst.ensure_type(call, cst.SimpleStatementLine)
        changes[plan.moved[-1]] = line.with_changes(leading_lines=_leading(plan))
    module = replace_nodes(view.module, changes)
    first = min(added)
    body = list(module.body)
    for index in sorted(added, reverse=True):
        text = (_KEPT.format(name=keeper) if index == first else "") + "".join(added[index])
        body[index:index] = list(cst.parse_module(text.lstrip("\n")).body)
        new = body[index]
        body[index] = new.with_changes(leading_lines=[cst.EmptyLine(indent=False), cst.EmptyLine(indent=False)])
    return module.with_changes(body=body).code


def _leading(plan: _Plan) -> list[cst.EmptyLine]:
    lines = getattr(plan.moved[0], "leading_lines", [])
    return [line for line in lines if line.comment is None][:1]


def _top_level(view: View, function: cst.FunctionDef) -> int:
    """Where in the module the new function goes: before the function, or the class, that uses it."""
    for index, node in enumerate(view.module.body):
        if node is function or (isinstance(node, cst.ClassDef) and any(part is function for part in walk(node))):
            return index
    raise ValueError("the function is not of this module")


def _function_text(plan: _Plan, name: str) -> str:
    """The function that computes what is kept."""
    body = plan.roots.function.body
    order = list(body.body) if isinstance(body, cst.IndentedBlock) else []
    ids = {id(statement) for statement in (*plan.moved, *plan.copied)}
    inside = [statement for statement in order if id(statement) in ids]
    kept = [s for s in inside if isinstance(s, cst.SimpleStatementLine | cst.BaseCompoundStatement)]
    text = cst.Module(body=kept).code
    indented = "\n".join(f"    {line}" if line.strip() else "" for line in text.strip("\n").splitlines())
    parameters = ", ".join((*plan.roots.names, *plan.inputs))
    result = ", ".join(plan.outputs)
    doc = f'    """What {plan.roots.function.name.value} computes from the parameters alone."""\n'
    return f"\n\ndef {name}({parameters}):\n{doc}{indented}\n    return {result}\n"


def _call_text(plan: _Plan, keeper: str, name: str) -> str:
    given = ", ".join((*plan.roots.names, *plan.inputs))
    sources = list(
        dict.fromkeys(
            chain
            for statement in (*plan.moved, *plan.copied)
            for chain in sorted(chains_in(statement, plan.roots.names))
        )
    )
    keys = ", ".join((*sources, *plan.inputs))
    owner = plan.roots.names[0]
    targets = ", ".join(plan.outputs)
    lines = [owner, f'"_{name}"', f"[{keys}]", f"lambda: {name}({given})"]
    return f"{targets} = {keeper}(\n" + "".join(f"    {line},\n" for line in lines) + ")\n"
