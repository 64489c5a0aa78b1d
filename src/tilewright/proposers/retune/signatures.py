"""Adding an argument to a kernel and to all of its launches."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from tilewright.proposers.retune.trees import code_of, names_in, replace_nodes, walk, with_keywords
from tilewright.proposers.retune.view import Kernel, LaunchSite, View, view_of


def fresh_name(view: View, wanted: str) -> str:
    """`wanted`, or that with a number behind it where the module already uses the name."""
    taken = {node.value for node in walk(view.module) if isinstance(node, cst.Name)}
    if wanted not in taken:
        return wanted
    return next(name for number in range(2, 1000) if (name := f"{wanted}_{number}") not in taken)


def with_argument(source: str, kernel: str, name: str, values: Sequence[str], *, constexpr: bool = False) -> str:
    """The module with a parameter `name` at the end of a kernel's, given at every launch.

    Args:
        source: the module.
        kernel: the kernel's name.
        name: of the new parameter.
        values: the text of the value at each launch, in the order of the launches.
        constexpr: whether it is `tl.constexpr`.
    """
    view = view_of(source)
    found = view.kernel(kernel)
    if found is None or len(values) != len(found.launches):
        raise ValueError(f"no kernel {kernel} with {len(values)} launches")
    changes: dict[cst.CSTNode, cst.CSTNode] = {
        site.call: with_keywords(site.call, {name: value}) for site, value in zip(found.launches, values, strict=True)
    }
    changes[found.function.params] = _with_parameter(found, f"{view.language}.constexpr" if constexpr else None, name)
    return replace_nodes(view.module, changes).code


def _with_parameter(kernel: Kernel, annotation: str | None, name: str) -> cst.Parameters:
    params = list(kernel.function.params.params)
    last = params[-1]
    added = cst.Param(
        cst.Name(name),
        annotation=cst.Annotation(cst.parse_expression(annotation)) if annotation is not None else None,
        default=cst.Name("None") if last.default is not None else None,
        comma=last.comma,
        whitespace_after_param=last.whitespace_after_param,
    )
    before = last.with_changes(
        comma=cst.Comma(whitespace_after=_gap(kernel)), whitespace_after_param=cst.SimpleWhitespace("")
    )
    return kernel.function.params.with_changes(params=[*params[:-1], before, added])


def _gap(kernel: Kernel) -> cst.BaseParenthesizableWhitespace:
    """What stands between two parameters, comments aside."""
    before = kernel.function.whitespace_before_params
    if isinstance(before, cst.ParenthesizedWhitespace):
        return before.with_changes(first_line=cst.TrailingWhitespace())
    return cst.SimpleWhitespace(" ")


def argument_text(site: LaunchSite, name: str) -> str | None:
    """What a launch passes for a parameter, ready to stand in a larger expression."""
    arg = site.bound.get(name)
    if arg is None:
        return None
    text = " ".join(code_of(arg.value).split())
    simple = isinstance(arg.value, cst.Name | cst.Attribute | cst.Call | cst.Integer | cst.Subscript)
    return text if simple else f"({text})"


def is_pure(node: cst.BaseExpression) -> bool:
    """Whether an expression may be written out a second time: names, sizes, strides and arithmetic."""
    allowed = {"stride", "size", "numel", "dim", "int", "cdiv", "next_power_of_2", "min", "max", "len"}
    for part in walk(node):
        if isinstance(part, cst.Call):
            func = part.func
            called = func.attr.value if isinstance(func, cst.Attribute) else getattr(func, "value", "")
            if called not in allowed:
                return False
        elif isinstance(part, cst.Await | cst.Yield | cst.NamedExpr | cst.Lambda):
            return False
    return bool(names_in(node)) or not isinstance(node, cst.Call)
