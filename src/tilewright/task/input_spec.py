"""`--init` and `--inputs`: literals and a few named fillers, parsed and never evaluated as code."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tilewright.errors import InputSpecError, SourceLocation
from tilewright.task.task import InputSpec
from tilewright.values.syntax_tree import parse_expression

#: Name that people write -> torch's name.
DTYPES: Mapping[str, str] = {
    "float16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "float32": "float32",
    "float": "float32",
    "float64": "float64",
    "double": "float64",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "short": "int16",
    "int32": "int32",
    "int": "int32",
    "int64": "int64",
    "long": "int64",
    "bool": "bool",
}
FLOATING = frozenset({"float16", "bfloat16", "float32", "float64"})

_LARGEST_INTEGER = 2**63 - 1
_MOST_DIMENSIONS = 16
_EXAMPLES = "rand(16, 64, 32, 32), randn(8, 4, dtype=float16), randint(0, 10, (8,)), 0.5"
_FILLERS = ("rand", "randn", "zeros", "ones", "full", "randint", "arange", "bool")


def parse_init(text: str, option: str = "--init") -> tuple[Any, ...]:
    """Constructor arguments out of a list of literals: `[64, 128, 3, 0.5, (1, 1, 1), "same", None]`.

    Raises:
        InputSpecError: it is no list or tuple of literals; the message has the column.
    """
    node = _Reader(option).parse(text)
    if not isinstance(node, ast.List | ast.Tuple):
        return (_Reader(option).literal(node),)
    return tuple(_Reader(option).literal(item) for item in node.elts)


def parse_inputs(text: str, option: str = "--inputs") -> tuple[InputSpec, ...]:
    """Inputs out of fillers and literals, separated by commas: `rand(128, 64), zeros(64, dtype=int64), 0.5`.

    Raises:
        InputSpecError: something else stands there; the message has the column.
    """
    reader = _Reader(option)
    node = reader.parse(text)
    items = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    return tuple(reader.spec(item) for item in items)


def format_inputs(specs: Sequence[InputSpec]) -> str:
    """The text that `parse_inputs` reads as `specs`."""
    return ", ".join(_format(spec) for spec in specs) + ("," if len(specs) == 1 and _is_sequence(specs[0]) else "")


def _is_sequence(spec: InputSpec) -> bool:
    return spec.filler == "literal" and isinstance(spec.value, list | tuple)


def _format(spec: InputSpec) -> str:
    if spec.filler == "literal":
        return repr(spec.value)
    shape = repr(tuple(spec.shape))
    arguments = {
        "full": f"{shape}, {spec.value!r}",
        "randint": f"{spec.low}, {spec.high}, {shape}",
        "arange": f"{spec.low}, {spec.high}, {spec.value}",
    }.get(spec.filler, shape)
    return f"{spec.filler}({arguments}{'' if spec.filler == 'bool' else f', dtype={spec.dtype}'})"


class _Reader:
    """Reads one option's text; every error names the option and the column."""

    def __init__(self, option: str) -> None:
        self.option = option

    def fail(self, what: str, node: ast.AST | None = None, column: int | None = None) -> NoReturn:
        """Raise the error about `node`."""
        if node is not None:
            column = getattr(node, "col_offset", 0) + 1
        where = SourceLocation(self.option, None if column is None else 1, column)
        hint = f"for example {_EXAMPLES}" if self.option == "--inputs" else "for example [64, 128, 3, 0.5, (1, 1)]"
        raise InputSpecError(what, where=where, hint=hint) from None

    def parse(self, text: str) -> ast.expr:
        """The syntax tree of one expression."""
        if not text.strip():
            self.fail("nothing is given")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return parse_expression(text.strip()).body
        except SyntaxError as error:
            self.fail(f"this is no list of values: {error.msg}", column=error.offset or None)
        except (ValueError, RecursionError, MemoryError) as error:
            self.fail(f"this is no list of values: {error or type(error).__name__}")

    def literal(self, node: ast.expr, depth: int = 0) -> Any:
        """The value of a literal: numbers, strings, True, False, None, inf, nan, and lists, tuples, dicts of them."""
        if depth > 20:
            self.fail("this is nested too deeply", node)
        match node:
            case ast.Constant(value=None | bool() | str() as value):
                return value
            case ast.Constant(value=int() as value):
                return self._bounded(value, node)
            case ast.Constant(value=float() as value):
                return value
            case ast.Name(id="inf" | "nan" as name):
                return float(name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                value = self.literal(operand, depth + 1)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    self.fail("a sign belongs before a number", node)
                return -value if isinstance(sign, ast.USub) else value
            case ast.List(elts=items):
                return [self.literal(item, depth + 1) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self.literal(item, depth + 1) for item in items)
            case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
                pairs = zip(keys, values, strict=True)
                return {self.literal(key, depth + 1): self.literal(value, depth + 1) for key, value in pairs if key}
            case ast.Call():
                self.fail("a call is no literal; fillers belong in --inputs", node)
        self.fail(f"only literals are allowed here, not {_described(node)}", node)

    def _bounded(self, value: int, node: ast.AST) -> int:
        if abs(value) > _LARGEST_INTEGER:
            self.fail("this integer does not fit in 64 bits", node)
        return value

    def spec(self, node: ast.expr) -> InputSpec:
        """One input."""
        if not isinstance(node, ast.Call):
            return InputSpec("literal", value=self.literal(node))
        name = self._name(node.func)
        if name not in _FILLERS:
            self.fail(f"unknown filler {(name or _described(node.func))!r}; there are {', '.join(_FILLERS)}", node)
        keywords = self._keywords(node)
        dtype = keywords.pop("dtype", None)
        arguments = [self.literal(item) for item in node.args]
        spec = getattr(self, f"_{name}", self._shaped)(name, arguments, keywords, node)
        if keywords:
            self.fail(f"{name} has no argument {next(iter(keywords))!r}", node)
        return self._with_dtype(spec, dtype, node)

    def _name(self, node: ast.expr) -> str | None:
        """`rand` of `rand` and of `torch.rand`; None for anything else."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            return node.attr
        return node.id if isinstance(node, ast.Name) else None

    def _keywords(self, call: ast.Call) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                self.fail("`**` is not allowed here", call)
            if keyword.arg == "dtype":
                found["dtype"] = self._dtype(keyword.value)
            else:
                found[keyword.arg] = self.literal(keyword.value)
        return found

    def _dtype(self, node: ast.expr) -> str:
        name = node.value if isinstance(node, ast.Constant) else self._name(node)
        if not isinstance(name, str) or name.removeprefix("torch.") not in DTYPES:
            self.fail(f"unknown dtype; there are {', '.join(dict.fromkeys(DTYPES.values()))}", node)
        return DTYPES[name.removeprefix("torch.")]

    def _with_dtype(self, spec: InputSpec, dtype: str | None, node: ast.AST) -> InputSpec:
        chosen = dtype or spec.dtype
        if spec.filler in ("rand", "randn") and chosen not in FLOATING:
            self.fail(f"{spec.filler} needs a floating-point dtype, not {chosen}", node)
        if spec.filler == "bool" and chosen != "bool":
            self.fail("bool has no other dtype", node)
        return InputSpec(spec.filler, spec.shape, chosen, spec.low, spec.high, spec.value)

    def _shape(self, value: Any, node: ast.AST) -> tuple[int, ...]:
        sizes = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in sizes):
            self.fail(f"a shape is made of integers of at least 0, not {value!r}", node)
        if len(sizes) > _MOST_DIMENSIONS:
            self.fail(f"a shape has at most {_MOST_DIMENSIONS} dimensions", node)
        if math.prod(max(size, 1) for size in sizes) > _LARGEST_INTEGER:
            self.fail("a tensor of this shape has more elements than 64 bits can count", node)
        return tuple(sizes)

    def _shaped(self, name: str, arguments: list[Any], keywords: dict[str, Any], node: ast.AST) -> InputSpec:
        """`rand(2, 3)`, `rand((2, 3))`, `rand(size=(2, 3))`: rand, randn, zeros, ones, bool."""
        if "size" in keywords and not arguments:
            sizes = keywords.pop("size")
        else:
            sizes = arguments[0] if len(arguments) == 1 else arguments
        return InputSpec(name, self._shape(sizes, node), "bool" if name == "bool" else "float32")

    def _full(self, name: str, arguments: list[Any], keywords: dict[str, Any], node: ast.AST) -> InputSpec:
        """`full((2, 3), 0.5)`."""
        if "fill_value" in keywords:
            arguments = [*arguments, keywords.pop("fill_value")]
        if len(arguments) != 2 or not isinstance(arguments[1], bool | int | float):
            self.fail("full takes a shape and a value: full((2, 3), 0.5)", node)
        shape, value = arguments
        kinds = {bool: "bool", int: "int64", float: "float32"}
        return InputSpec(name, self._shape(shape, node), kinds[type(value)], value=value)

    def _randint(self, name: str, arguments: list[Any], keywords: dict[str, Any], node: ast.AST) -> InputSpec:
        """`randint(0, 10, (2, 3))`, `randint(10, (2, 3))`."""
        arguments = [*([keywords.pop("low")] if "low" in keywords else []), *arguments]
        arguments += [keywords.pop(key) for key in ("high", "size") if key in keywords]
        if len(arguments) == 2:
            arguments = [0, *arguments]
        if len(arguments) != 3 or not all(type(bound) is int for bound in arguments[:2]):
            self.fail("randint takes low, high and a shape: randint(0, 10, (2, 3))", node)
        low, high, shape = arguments
        if low >= high:
            self.fail(f"randint needs low < high, not {low} and {high}", node)
        return InputSpec(name, self._shape(shape, node), "int64", low, high)

    def _arange(self, name: str, arguments: list[Any], keywords: dict[str, Any], node: ast.AST) -> InputSpec:
        """`arange(10)`, `arange(2, 10)`, `arange(2, 10, 2)`."""
        if not 1 <= len(arguments) <= 3 or not all(type(item) is int for item in arguments):
            self.fail("arange takes integers: arange(10), arange(2, 10), arange(2, 10, 2)", node)
        low, high = (0, arguments[0]) if len(arguments) == 1 else arguments[:2]
        step = arguments[2] if len(arguments) == 3 else 1
        if step == 0 or (high - low) * step < 0:
            self.fail(f"arange cannot go from {low} to {high} in steps of {step}", node)
        length = -(-(high - low) // step)
        return InputSpec(name, (length,), "int64", low, high, step)


def _described(node: ast.AST) -> str:
    """A syntax node in words, for a message."""
    if isinstance(node, ast.Name):
        return f"the name {node.id[:60]!r}"
    return {
        "BinOp": "arithmetic",
        "Lambda": "a lambda",
        "Attribute": "an attribute",
        "JoinedStr": "an f-string",
        "ListComp": "a comprehension",
        "GeneratorExp": "a comprehension",
        "Starred": "`*`",
    }.get(type(node).__name__, f"this ({type(node).__name__})")
