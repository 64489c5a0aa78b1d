"""Rewriting the captured graph: an editor that keeps every node's fake value, and the pass that runs rules.

A rule is a named row of a table: its law as `before -> after`, and a function that returns the node that
stands for the old one, or None ("not mine").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx as torch_fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from tilewright.graph.graph import Graph, has_data_dependent_size


class Editor:
    """Adds nodes before a given node, and gives each its fake value."""

    def __init__(self, graph: torch_fx.Graph, before: torch_fx.Node) -> None:
        self.graph = graph
        self.before = before

    def call(self, target: Any, *args: Any, **kwargs: Any) -> torch_fx.Node:
        """A new call node, its value inferred on fake tensors."""
        with self.graph.inserting_before(self.before):
            node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = infer_value(target, args, kwargs)
        return node


def infer_value(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The fake value of `target(*args, **kwargs)` where nodes stand for their own fake values."""

    def value_of(item: Any) -> Any:
        return item.meta["val"] if isinstance(item, torch_fx.Node) else item

    values = tree_map(value_of, (tuple(args), dict(kwargs)))
    mode = next((mode for item in tree_leaves(values) if (mode := getattr(item, "fake_mode", None))), None)
    with mode if isinstance(mode, FakeTensorMode) else FakeTensorMode(), torch.no_grad():
        return target(*values[0], **values[1])


def tree_leaves(tree: Any) -> list[Any]:
    """Leaves of nested tuples, lists and dicts."""
    leaves: list[Any] = []
    tree_map(leaves.append, tree)
    return leaves


@dataclass(frozen=True)
class Rule:
    """One algebraic rule.

    Attributes:
        name: stable name, for reports.
        law: `before -> after`.
        apply: returns the node that replaces the given one, or None where the rule does not apply.
        targets: the operations that it looks at.
        collapse: it removes most of the work, and is reported by name.
    """

    name: str
    law: str
    targets: tuple[Any, ...]
    apply: Callable[[Editor, torch_fx.Node, Graph], torch_fx.Node | None]
    collapse: bool = False


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph, and how often each rule fired."""

    graph: Graph
    fired: Mapping[str, int]


class _Braced(dict[str, str]):
    """New names for the fields of a template, each a field again."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__({old: f"{{{new}}}" for old, new in names.items()})


def copy_graph(graph: Graph) -> Graph:
    """A copy whose nodes may be changed; names and fake values are kept."""
    copied = torch_fx.Graph()
    mapping: dict[torch_fx.Node, torch_fx.Node] = {}
    returned = copied.graph_copy(graph.fx, mapping)
    copied.output(returned)
    # A copy may have to rename nodes (one called `input`, say): the names that the graph holds follow.
    names = {old.name: new.name for old, new in mapping.items()}

    def renamed(table: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): value for name, value in table.items()}

    return replace(
        graph,
        fx=copied,
        parameters=renamed(graph.parameters),
        buffers=renamed(graph.buffers),
        constants=renamed(graph.constants),
        constant_names=renamed(graph.constant_names),
        inputs=tuple(names.get(name, name) for name in graph.inputs),
        arguments=tuple(
            replace(argument, placeholder=names.get(argument.placeholder or "", argument.placeholder))
            for argument in graph.arguments
        ),
        guards=tuple(guard.format_map(_Braced(names)) for guard in graph.guards),
        outputs=_output_names(copied),
    )


def rewrite(graph: Graph, rules: Sequence[Rule], *, max_rounds: int = 8) -> Rewritten:
    """Apply `rules` in order, again and again until none fires.

    The given graph is left alone. Rules see nodes in execution order; dead nodes are removed after each round.
    """
    result = copy_graph(graph)
    fired: Counter[str] = Counter()
    for _ in range(max_rounds):
        before = fired.total()
        for rule in rules:
            fired[rule.name] += _apply_rule(result, rule)
        result.fx.eliminate_dead_code()
        if fired.total() == before:
            break
    result.fx.lint()
    return Rewritten(replace(result, outputs=_output_names(result.fx)), {name: n for name, n in fired.items() if n})


def _apply_rule(graph: Graph, rule: Rule) -> int:
    count = 0
    for node in list(graph.fx.nodes):
        if node.op != "call_function" or node.target not in rule.targets or not node.users:
            continue
        if has_data_dependent_size(node):
            continue
        new = rule.apply(Editor(graph.fx, node), node, graph)
        if new is not None and new is not node:
            node.replace_all_uses_with(new)
            graph.fx.erase_node(node)
            count += 1
    return count


def _output_names(graph: torch_fx.Graph) -> tuple[str, ...]:
    returned = next(node for node in graph.nodes if node.op == "output").args[0]
    return tuple(node.name for node in returned if isinstance(node, torch_fx.Node))
