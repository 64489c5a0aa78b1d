"""In-place operations made functional, without the time that torch takes to prepare for operations that are not there.

`ExportedProgram.run_decompositions({})` tells each of about seven hundred composite operations that it is to be kept,
and takes that back, for every program: two thirds of the time of a capture. What a program does not use need not be
told; only an operation that is taken apart could use others, and views are taken apart into views.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export import exported_program as export_module

_SPLIT = "_split_decomp_table_to_cia_and_python_decomp"
_COLLECT = "_collect_all_valid_cia_ops"
_COMPOSITE = "CompositeImplicitAutograd"
#: Composite operations beside views that are taken apart into operations of which none is composite.
_PLAIN = frozenset({"batch_norm", "dropout", "to", "contiguous", "type_as", "reshape_as", "flatten", "ravel"})


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program without in-place operations; nothing else of it is decomposed but aliasing composites."""
    before = _operations(program)
    if not any(map(_may_lead_further, before)):
        with _told_of(before):
            result: ExportedProgram = program.run_decompositions({})
        # What torch takes apart by other tables may have used composites that nobody was told of.
        if not any(map(_is_functional, before - _operations(result))):
            return result
    whole: ExportedProgram = program.run_decompositions({})
    return whole


def _operations(program: ExportedProgram) -> set[Any]:
    parts = [part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    return {
        node.target for part in parts for node in part.graph.nodes if isinstance(node.target, torch._ops.OpOverload)
    }


@contextlib.contextmanager
def _told_of(operations: set[Any]) -> Iterator[None]:
    """Within it, decompositions prepare for these composite operations alone."""
    split, collect = getattr(export_module, _SPLIT, None), getattr(export_module, _COLLECT, None)
    if split is None or collect is None:  # another version: as torch does it
        yield
        return

    def split_for_these(table: dict[Any, Any]) -> tuple[dict[Any, Any], ...]:
        kept, others = split(table)
        return {operation: way for operation, way in kept.items() if operation in operations}, others

    setattr(export_module, _SPLIT, split_for_these)
    setattr(export_module, _COLLECT, lambda: _collected(len(_registrations())))
    try:
        yield
    finally:
        setattr(export_module, _SPLIT, split)
        setattr(export_module, _COLLECT, collect)


def _registrations() -> list[str]:
    found: list[str] = torch._C._dispatch_get_registrations_for_dispatch_key(_COMPOSITE)
    return found


@functools.lru_cache(maxsize=1)
def _collected(registered: int) -> set[Any]:
    """The composite operations that torch can keep, while no more of them are registered."""
    from torch._export import utils

    collect = getattr(utils, _COLLECT, None)
    return set(collect()) if collect is not None else set()


def _may_lead_further(operation: Any) -> bool:
    """Whether an operation is composite, is not kept, and may be taken apart into other composite ones."""
    return _is_composite(operation) and _is_functional(operation) and operation not in _collected(len(_registrations()))


def _is_functional(operation: Any) -> bool:
    """Neither a view, nor in place, nor one of `_PLAIN`."""
    schema = operation._schema
    return not any(one.alias_info is not None for one in schema.returns) and (
        schema.name.removeprefix("aten::") not in _PLAIN
    )


def _is_composite(operation: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), _COMPOSITE))
