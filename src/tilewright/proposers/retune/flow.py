"""What a kernel's values are made of: definitions, additive terms of an address, kinds of the run-time arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import libcst as cst

from tilewright.proposers.retune.trees import ancestors, dotted_name, integer_value, names_in, parents_of, walk
from tilewright.proposers.retune.view import Kernel

#: Calls that pass their first argument through unchanged, as far as its value goes.
_TRANSPARENT = ("multiple_of", "max_contiguous", "max_constancy", "assume")
_MEMORY = ("load", "store")
_ATOMIC = (
    "atomic_add",
    "atomic_max",
    "atomic_min",
    "atomic_and",
    "atomic_or",
    "atomic_xor",
    "atomic_xchg",
    "atomic_cas",
)
_BLOCK_POINTERS = ("make_block_ptr", "make_tensor_descriptor", "advance")


@dataclass(frozen=True)
class Definition:
    """One binding of a name: `value` is None where it is not a plain `name = value`."""

    value: cst.BaseExpression | None
    node: cst.CSTNode
    in_loop: bool


@dataclass(frozen=True)
class Flow:
    """Definitions and memory accesses of one kernel."""

    kernel: Kernel
    language: str
    parents: Mapping[cst.CSTNode, cst.CSTNode] = field(repr=False)
    definitions: Mapping[str, tuple[Definition, ...]] = field(repr=False)

    # -- calls ---------------------------------------------------------------------------------------------

    def is_call(self, node: cst.CSTNode, *names: str) -> bool:
        """Whether the node is `tl.<name>(...)` for one of the names."""
        return isinstance(node, cst.Call) and self.called(node) in names

    def called(self, call: cst.Call) -> str:
        """`load` for `tl.load(...)`; the empty string for calls of other things."""
        name = dotted_name(call.func)
        for prefix in (f"{self.language}.", "triton.language."):
            if name.startswith(prefix):
                return name[len(prefix) :]
        return ""

    def calls(self, *names: str) -> list[cst.Call]:
        """All calls of these functions of triton.language, in source order."""
        return [call for call, called in self._all_calls if called in names]

    @cached_property
    def _all_calls(self) -> list[tuple[cst.Call, str]]:
        return [(node, self.called(node)) for node in self.nodes if isinstance(node, cst.Call)]

    @cached_property
    def nodes(self) -> tuple[cst.CSTNode, ...]:
        """All nodes of the kernel's body, in source order."""
        return tuple(walk(self.kernel.function.body))

    @property
    def loads(self) -> list[cst.Call]:
        """The `tl.load` calls."""
        return self.calls("load")

    @property
    def stores(self) -> list[cst.Call]:
        """The `tl.store` calls."""
        return self.calls("store")

    @property
    def has_atomics(self) -> bool:
        """The kernel adds to memory that others may add to: running it twice is not running it once."""
        return bool(self.calls(*_ATOMIC))

    @property
    def has_block_pointers(self) -> bool:
        """Addresses are not plain pointer arithmetic."""
        return bool(self.calls(*_BLOCK_POINTERS, "load_tensor_descriptor"))

    # -- values --------------------------------------------------------------------------------------------

    def single(self, name: str) -> cst.BaseExpression | None:
        """The value of a name that is bound once, by `name = value`, and is no parameter."""
        found = self.definitions.get(name, ())
        if len(found) != 1 or any(parameter.name == name for parameter in self.kernel.parameters):
            return None
        return found[0].value

    def terms(self, node: cst.BaseExpression, depth: int = 0) -> list[cst.BaseExpression]:
        """The additive terms of an expression, names inlined, shape expansions (`[:, None]`) looked through."""
        if depth > 40:
            return [node]
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Add):
            return self.terms(node.left, depth + 1) + self.terms(node.right, depth + 1)
        inner = self.looked_through(node)
        if inner is not node:
            return self.terms(inner, depth + 1)
        if isinstance(node, cst.Name):
            value = self.single(node.value)
            if value is not None and self._adds(value):
                return self.terms(value, depth + 1)
        return [node]

    def _adds(self, value: cst.BaseExpression) -> bool:
        inner = self.looked_through(value)
        if inner is not value:
            return True
        return isinstance(value, cst.Name) or (
            isinstance(value, cst.BinaryOperation) and isinstance(value.operator, cst.Add | cst.Multiply)
        )

    def looked_through(self, node: cst.BaseExpression) -> cst.BaseExpression:
        """The operand of a shape expansion, a hint, or a cast to an integer type; else the node itself."""
        if isinstance(node, cst.Subscript) and all(self._expands(element) for element in node.slice):
            return node.value
        if isinstance(node, cst.Call) and self.called(node) in (*_TRANSPARENT, "expand_dims", "broadcast_to"):
            return node.args[0].value if node.args else node
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "to":
            return node.func.value
        return node

    def looked_through_call(self, node: cst.CSTNode) -> bool:
        """Whether a node is a call that passes its first argument through, or a cast."""
        return isinstance(node, cst.Call) and self.looked_through(node) is not node

    @staticmethod
    def _expands(element: cst.SubscriptElement) -> bool:
        part = element.slice
        if isinstance(part, cst.Slice):
            return part.lower is None and part.upper is None and part.step is None
        return isinstance(part, cst.Index) and isinstance(part.value, cst.Name) and part.value.value == "None"

    def reach(self, node: cst.CSTNode) -> set[str]:
        """Every name that a value depends on, through all of its definitions."""
        found: set[str] = set()
        queue = list(names_in(node))
        while queue:
            name = queue.pop()
            if name in found:
                continue
            found.add(name)
            for definition in self.definitions.get(name, ()):
                if definition.value is not None:
                    queue.extend(names_in(definition.value))
                elif isinstance(definition.node, cst.For):
                    queue.extend(names_in(definition.node.iter))
                elif isinstance(definition.node, cst.AugAssign | cst.Assign):
                    queue.extend(names_in(definition.node.value))
        return found

    def expanded(self, node: cst.BaseExpression, depth: int = 0) -> Iterator[cst.CSTNode]:
        """The node, and the values that its names stand for, down to the leaves."""
        for inner in walk(node):
            yield inner
            if isinstance(inner, cst.Name) and depth < 30:
                value = self.single(inner.value)
                if value is not None and value is not node:
                    yield from self.expanded(value, depth + 1)

    def loops_of(self, name: str) -> tuple[cst.For, ...]:
        """The loops whose variable a name is; none where it is bound in another way too."""
        nodes = [definition.node for definition in self.definitions.get(name, ())]
        loops = tuple(node for node in nodes if isinstance(node, cst.For))
        return loops if len(loops) == len(nodes) else ()

    def program_axis(self, node: cst.BaseExpression) -> int | None:
        """The axis of `tl.program_id(axis)`, looked up through a name."""
        if isinstance(node, cst.Name):
            value = self.single(node.value)
            return None if value is None else self.program_axis(value)
        node = self.looked_through(node)
        if not self.is_call(node, "program_id"):
            return None
        call = cst.ensure_type(node, cst.Call)
        return integer_value(call.args[0].value) if call.args else None

    def varies_by_program(self, node: cst.BaseExpression) -> bool:
        """Whether a value depends on the program's place in the grid."""
        return any(self.is_call(inner, "program_id") for inner in self.expanded(node))

    # -- kinds of parameters ---------------------------------------------------------------------------------

    @cached_property
    def accessed(self) -> dict[str, set[str]]:
        """Pointer parameter -> {`load`, `store`, `atomic`}."""
        names = {parameter.name for parameter in self.kernel.parameters}
        found: dict[str, set[str]] = {}
        for call in self.calls(*_MEMORY, *_ATOMIC):
            if not call.args:
                continue
            kind = self.called(call) if self.called(call) in _MEMORY else "atomic"
            for name in self._roots(call.args[0].value, names):
                found.setdefault(name, set()).add(kind)
        return found

    def _roots(self, address: cst.BaseExpression, names: set[str]) -> set[str]:
        """Parameters that are a whole term of an address, through every definition of a moving pointer."""
        roots: set[str] = set()
        seen: set[str] = set()
        queue: list[cst.BaseExpression] = [address]
        while queue:
            for term in self.terms(queue.pop()):
                if not isinstance(term, cst.Name) or term.value in seen:
                    continue
                seen.add(term.value)
                if term.value in names:
                    roots.add(term.value)
                queue.extend(d.value for d in self.definitions.get(term.value, ()) if d.value is not None)
        return roots

    @cached_property
    def pointers(self) -> set[str]:
        """Parameters that addresses start from, or that block pointers and descriptors are made of.

        A whole term of an address may also be an integer (`base_ptr + start`): of the terms of one address the
        first is the pointer, unless another parameter is loaded from elsewhere.
        """
        found: set[str] = set()
        names = {parameter.name for parameter in self.kernel.parameters}
        for call in self.calls(*_MEMORY, *_ATOMIC, *_BLOCK_POINTERS):
            if call.args:
                roots = self._roots(call.args[0].value, names)
                ordered = [parameter.name for parameter in self.kernel.parameters if parameter.name in roots]
                found.update(ordered[:1])
        return found

    @cached_property
    def integers(self) -> tuple[str, ...]:
        """Run-time arguments that are used as integers: in addresses, bounds, loop limits, divisions."""
        used: set[str] = set()
        for node in self.nodes:
            used |= self._integer_uses(node)
        pointers = self.pointers
        return tuple(
            parameter.name
            for parameter in self.kernel.parameters
            if not parameter.is_constexpr
            and parameter.name in used
            and parameter.name not in pointers
            and parameter.name not in self.definitions
            and not self._declared_float(parameter.node)
        )

    def _integer_uses(self, node: cst.CSTNode) -> set[str]:
        if isinstance(node, cst.For) and isinstance(node.iter, cst.Call):
            return set().union(*(self._integer_reach(arg.value) for arg in node.iter.args))
        if isinstance(node, cst.Call) and self.called(node) in (*_MEMORY, *_ATOMIC) and node.args:
            return self._integer_reach(node.args[0].value)
        if isinstance(node, cst.Call) and self.called(node) == "cdiv":
            return set().union(*(self._integer_reach(arg.value) for arg in node.args))
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Modulo | cst.FloorDivide):
            return self._integer_reach(node.left) | self._integer_reach(node.right)
        if isinstance(node, cst.Comparison):
            sides = [node.left, *(target.comparator for target in node.comparisons)]
            if any(self._is_index(side) for side in sides):
                return set().union(*(self._integer_reach(side) for side in sides))
        return set()

    def _is_index(self, node: cst.BaseExpression) -> bool:
        """Made of program ids, ranges and loop variables, and of nothing that was loaded."""
        inner = list(self.expanded(node))
        if any(self.is_call(part, "load") for part in inner):
            return False
        return any(
            self.is_call(part, "arange", "program_id")
            or (isinstance(part, cst.Name) and bool(self.loops_of(part.value)))
            for part in inner
        )

    def _integer_reach(self, node: cst.BaseExpression) -> set[str]:
        """Parameters in an integer expression; what a loaded value depends on does not count."""
        if any(self.is_call(part, "load") for part in self.expanded(node)):
            return names_in(node)
        return {part.value for part in self.expanded(node) if isinstance(part, cst.Name)}

    def _declared_float(self, node: cst.Param) -> bool:
        return node.annotation is not None and "float" in dotted_name(node.annotation.annotation)


def flow_of(kernel: Kernel, language: str) -> Flow:
    """The dataflow of a kernel; nodes are the kernel's own."""
    parents = parents_of(kernel.function)
    found: dict[str, list[Definition]] = {}
    for node in walk(kernel.function.body):
        for name, definition in _bindings(node, parents):
            found.setdefault(name, []).append(definition)
    return Flow(kernel, language, parents, {name: tuple(items) for name, items in found.items()})


def _bindings(node: cst.CSTNode, parents: Mapping[cst.CSTNode, cst.CSTNode]) -> Iterator[tuple[str, Definition]]:
    in_loop = any(isinstance(outer, cst.For | cst.While) for outer in ancestors(node, parents))
    if isinstance(node, cst.Assign):
        for target in node.targets:
            if isinstance(target.target, cst.Name):
                value = node.value if len(node.targets) == 1 else None
                yield target.target.value, Definition(value, node, in_loop)
            else:
                # Of `a, b = f(...)` each name depends on the call; of other unpackings nothing is said.
                call = node.value if isinstance(node.value, cst.Call) else None
                for name in names_in(target.target):
                    yield name, Definition(call, node, in_loop)
    elif isinstance(node, cst.AnnAssign) and isinstance(node.target, cst.Name):
        yield node.target.value, Definition(node.value, node, in_loop)
    elif isinstance(node, cst.AugAssign):
        for name in names_in(node.target):
            yield name, Definition(None, node, in_loop)
    elif isinstance(node, cst.For):
        for name in names_in(node.target):
            yield name, Definition(None, node, True)
