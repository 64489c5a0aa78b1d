"""What a capture assumed of the sizes of its inputs, as Python conditions.

Where two sizes met, where one had to divide by a number, or where Python code asked for one, torch.export noted what
it assumed. Emitted kernels hold only where that holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy
import torch
import torch.fx as torch_fx
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

_SIGNS: dict[type, str] = {
    sympy.Eq: "==",
    sympy.Ne: "!=",
    sympy.Ge: ">=",
    sympy.Gt: ">",
    sympy.Le: "<=",
    sympy.Lt: "<",
}

_DIVISIONS = (FloorDiv, Mod, PythonMod)

#: Sizes are tried one by one so far.
_TRIED = 4096

#: Sizes are at least that in a symbolic capture: torch.export takes 0 and 1 as numbers of their own.
_LEAST = 2


def size_guards(graph: torch_fx.Graph, inputs: Iterable[str]) -> tuple[str, ...]:
    """Conditions on sizes of the inputs under which a captured graph holds.

    Each is a template: `"{x}.shape[1] == {y}.shape[0]"`, where `{x}` stands for the tensor of placeholder `x`. Sizes
    that the capture fixed are not among them (see `fixed_size`).
    """
    tensors = {
        node.name: node.meta["val"]
        for node in graph.nodes
        if node.op == "placeholder" and node.name in set(inputs) and isinstance(node.meta.get("val"), torch.Tensor)
    }
    sizes = [
        (f"{{{name}}}.shape[{dim}]", size)
        for name, value in tensors.items()
        for dim, size in enumerate(value.shape)
        if isinstance(size, torch.SymInt)
    ]
    if not sizes:
        return ()
    environment = sizes[0][1].node.shape_env
    expressions = [(text, environment.replace(size.node.expr)) for text, size in sizes]
    return _Conditions(environment, expressions).all()


class _Conditions:
    """Writes conditions; each symbol reads as the first size that it is alone, or that is a multiple of it."""

    def __init__(self, environment: Any, sizes: list[tuple[str, sympy.Expr]]) -> None:
        self.environment = environment
        self.sizes = [(text, size) for text, size in sizes if not size.is_number]
        self.symbols: dict[sympy.Symbol, str] = {}
        self.divided: list[str] = []
        for text, size in self.sizes:
            if isinstance(size, sympy.Symbol):
                self.symbols.setdefault(size, text)
        for text, size in self.sizes:
            factor, rest = size.as_coeff_Mul()
            if isinstance(rest, sympy.Symbol) and rest not in self.symbols:
                self.symbols[rest] = f"({text} // {factor})"
                self.divided.append(f"{text} % {factor} == 0")

    def all(self) -> tuple[str, ...]:
        """Equations between sizes, then bounds, then what else was assumed."""
        equations = [f"{text} == {self._text(size)}" for text, size in self.sizes if self._known(size)]
        relations = self._assumed()
        ranges = self._ranges(relations)
        found = [*self.divided, *equations, *self._bounds(ranges)]
        for relation in relations:
            if _follows(relation, ranges):
                continue
            found += [f"{self._text(divisor)} != 0" for divisor in _divisors(relation)]
            found.append(f"{self._text(relation.lhs)} {_SIGNS[type(relation)]} {self._text(relation.rhs)}")
        return tuple(text for text in dict.fromkeys(found) if not _is_trivial(text))

    def _ranges(self, relations: Sequence[Any]) -> dict[sympy.Symbol, ValueRanges[Any]]:
        """The sizes that each symbol may have: small ones at which a relation fails are left out."""
        ranges = {}
        for symbol in self.symbols:
            known = self.environment.var_to_range.get(symbol)
            lower = int(known.lower) if known is not None and known.lower.is_Integer else _LEAST
            example = symbol_hint(self.environment, symbol)
            own = [one for one in relations if type(one) in _BOUNDING and one.free_symbols == {symbol}]
            lower = max(lower, *(_least(one, symbol, lower, example) for one in own)) if own else lower
            upper = known.upper if known is not None and known.upper.is_Integer else int_oo
            ranges[symbol] = ValueRanges(max(lower, _LEAST), upper)
        return ranges

    def _bounds(self, ranges: Mapping[sympy.Symbol, ValueRanges[Any]]) -> list[str]:
        texts = []
        for symbol, text in self.symbols.items():
            if ranges[symbol].lower > _LEAST:
                texts.append(f"{text} >= {int(ranges[symbol].lower)}")
            if ranges[symbol].upper.is_Integer:
                texts.append(f"{text} <= {int(ranges[symbol].upper)}")
        return texts

    def _assumed(self) -> list[Any]:
        """The other relations, as far as they can be written of the inputs' sizes."""
        guards = [guard for guard in self.environment.guards if not _is_layout(guard)]
        relations = [self.environment.simplify(guard.expr) for guard in guards]
        return [one for one in relations if type(one) in _SIGNS and self._known(one)]

    def _known(self, expression: sympy.Basic) -> bool:
        return bool(expression.free_symbols) and expression.free_symbols <= set(self.symbols)

    def _text(self, expression: sympy.Expr) -> str:
        return str(_Printer(self.symbols).doprint(expression))


def symbol_hint(environment: Any, symbol: sympy.Symbol) -> int:
    """The example's size for a symbol; newer torch has another name for it."""
    hint = getattr(environment, "optimization_hint", None) or environment.size_hint
    return int(hint(symbol))


class _Printer(PythonPrinter):
    """Python text of an expression of sizes."""

    def __init__(self, symbols: Mapping[sympy.Symbol, str]) -> None:
        super().__init__()
        self._symbols = symbols

    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        return self._symbols[expr]


#: Relations that small sizes fail and larger ones do not.
_BOUNDING = (sympy.Ne, sympy.Gt, sympy.Ge)

#: torch's functions that ask how a value lies in memory, not what it holds.
_RESHAPING, _FORMATS = "_reshape_view_helper", "channels_last"


def _is_layout(guard: Any) -> bool:
    place = str(guard.sloc)
    return _RESHAPING in place or (_FORMATS in place and len(guard.expr.free_symbols) > 1)


def _least(relation: Any, symbol: sympy.Symbol, lower: int, example: int) -> int:
    """The smallest size from which on a relation holds, up to the example's."""
    failing = [size for size in range(lower, min(example, _TRIED)) if not _may_hold(relation, symbol, size)]
    return max(failing) + 1 if failing else lower


def _may_hold(relation: Any, symbol: sympy.Symbol, size: int) -> bool:
    """Whether a relation is true at a size, or cannot be told; at a size that it divides by, if 0, it is not."""
    try:
        return bool(relation.subs(symbol, size) != False)  # noqa: E712
    except ZeroDivisionError:
        return False


def _follows(relation: Any, ranges: Mapping[sympy.Symbol, ValueRanges[Any]]) -> bool:
    """A lower bound of the difference shows that the relation holds."""
    if type(relation) not in _BOUNDING:
        return False
    least = 0 if isinstance(relation, sympy.Ge) else 1
    forms = (relation.lhs - relation.rhs, sympy.factor(relation.lhs) - relation.rhs)
    return any(bool(bound_sympy(form, dict(ranges)).lower >= least) for form in forms)


def _divisors(relation: sympy.Basic) -> list[sympy.Expr]:
    """What a relation divides by and could be 0, the innermost first; sizes themselves are not (kernels need some)."""
    divisions = [part for part in sympy.postorder_traversal(relation) if isinstance(part, _DIVISIONS)]
    return [part.args[1] for part in divisions if not part.args[1].is_number and not part.args[1].is_Symbol]


def _is_trivial(text: str) -> bool:
    left, sign, right = text.partition(" == ")
    return bool(sign) and left == right
