"""In a sandboxed process, after the probes: the launches at the task's own sizes, traced without data (`whole`).

Part `whole`. What is found there counts where a small trace of the same kind does not find it: at small sizes the
gate's own runs have said what it means.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import nn

from tilewright.gate.inside import runtime
from tilewright.gate.inside.execute import describe
from tilewright.gate.inside.pretend import pretend, really
from tilewright.gate.inside.whole import Followed, NativeUse, Piece, Whole
from tilewright.gate.reference.subject import Subject, leaves, map_leaves
from tilewright.toolchain.memory import observed_memory
from tilewright.toolchain.patched import cheap_products
from tilewright.toolchain.taint import Loaded, loaded_values

Build = Callable[[tuple[Any, ...] | None, nn.Module | None], nn.Module]
Claim = dict[str, Any]


def trace_whole(job: Mapping[str, Any], watch: runtime.Watch, module: Any, small: Any) -> dict[str, Any]:
    """What the task's own sizes show that small ones do not, as JSON values.

    Args:
        job: `source` (the reference's), `gpu`, `needs_reference`, `whole_s` (processor seconds).
        watch: of the kernels of this process.
        module: the candidate's file, imported.
        small: inputs of a probe with the task's own constructor arguments; None where there is none.
    """
    subject = Subject.of(cloudpickle.loads(base64.b64decode(job["source"])))
    watch.reset(0, 0.0)
    watch.on_meta = True
    found: dict[str, Any] = {"claims": [], "outside": []}
    try:
        own = subject.inputs(0, "meta")
        claims, outside = _traced(job, subject, module, own, float(job["whole_s"]))
        if claims or outside:
            known: set[str] = set()
            if small is not None:
                before, left = _traced(job, subject, module, small, float(job["whole_s"]))
                known = {str(claim["key"]) for claim in before} | {str(event["line"]) for event in left}
            found["claims"] = [claim for claim in claims if claim["key"] not in known]
            found["outside"] = [event for event in outside if str(event["line"]) not in known]
    except Exception as error:
        found["error"] = describe(error)
    finally:
        watch.on_meta = False
    return found


def _traced(
    job: Mapping[str, Any], subject: Subject, module: Any, inputs: Any, budget_s: float
) -> tuple[list[Claim], list[Claim]]:
    """Claims, and accesses outside of their tensors, of one forward pass."""
    with pretend(job["gpu"], "cpu", poisoned=False):
        reference = subject.build(subject.own_arguments) if job["needs_reference"] else None
        candidate = runtime.build_candidate(module, subject.own_arguments, reference).to("meta")
    given = map_leaves(inputs, _without_data)
    loaded = Loaded()
    whole = Whole(loaded, budget_s)
    memory = Followed([whole])
    meta = pretend(job["gpu"], "meta", poisoned=False)
    with observed_memory(memory), loaded_values(loaded), cheap_products(), meta, torch.no_grad(), NativeUse(whole):
        outputs = leaves(candidate(*given))
    with really():
        claims = list(_claims(whole, given, candidate, outputs))
    return claims, list(whole.outside.values())


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _claims(whole: Whole, given: Any, candidate: nn.Module, outputs: list[torch.Tensor]) -> Iterator[Claim]:
    """Outputs and intermediates that are not written, inputs and intermediates that are not read, in part."""
    returned = {}
    for number, output in enumerate(outputs):
        identity = int(output.untyped_storage()._cdata)
        returned[identity] = number
        piece = whole.pieces.get(identity)
        if piece is not None and not (piece.unsure_written or piece.filled) and output.is_contiguous():
            yield from _unwritten(piece, f"output {number}", output)
    roles = {int(leaf.untyped_storage()._cdata): (f"input {n}", leaf) for n, leaf in enumerate(leaves(given))}
    held = {int(p.untyped_storage()._cdata) for p in (*candidate.parameters(), *candidate.buffers())}
    for identity, piece in whole.pieces.items():
        if identity in returned or identity in held or "read" not in piece.names:
            continue
        role, tensor = roles.get(identity, ("", None))
        if tensor is None and not (piece.unsure_written or piece.filled):
            yield from _unmade(piece)
        if not piece.unsure_read:
            yield from _unread(piece, role, tensor)


def _unwritten(piece: Piece, name: str, output: torch.Tensor) -> Iterator[Claim]:
    flags, first = piece.exact("written"), int(output.storage_offset())
    missing = output.numel() - piece.most("written")
    where = None
    if flags is not None:
        where = ~flags[first : first + output.numel()]
        missing = int(np.count_nonzero(where))
    if missing > 0:
        yield _claim("unwritten", piece, "written", name, tuple(output.shape), missing, where)


def _unmade(piece: Piece) -> Iterator[Claim]:
    """An intermediate that is read where nobody wrote it."""
    read, written = piece.exact("read"), piece.exact("written")
    if read is not None and written is not None:
        where = read & ~written
        if where.any():
            yield _claim("unwritten", piece, "read", "", (piece.size,), int(np.count_nonzero(where)), where)
    elif read is not None and int(np.count_nonzero(read)) > piece.most("written"):
        missing = int(np.count_nonzero(read)) - piece.most("written")
        yield _claim("unwritten", piece, "written", "", (piece.size,), missing, None)


def _unread(piece: Piece, role: str, tensor: torch.Tensor | None) -> Iterator[Claim]:
    """An input, or an intermediate that is written as a whole, of which a part is read."""
    size = piece.size
    shape: tuple[int, ...] = (size,)
    if tensor is not None:
        if not tensor.is_contiguous():
            return
        size, shape = tensor.numel(), tuple(tensor.shape)
    elif piece.most("written") < piece.size and not piece.unsure_written:
        return
    flags = piece.exact("read")
    missing = size - piece.most("read") if flags is None else int(np.count_nonzero(~flags))
    if missing > 0:
        yield _claim("unread", piece, "read", role, shape, missing, None if flags is None else ~flags)


def _claim(kind: str, piece: Piece, what: str, role: str, shape: tuple[int, ...], missing: int, where: Any) -> Claim:
    name = piece.names.get(what, "")
    claim: Claim = {
        "kind": kind, "key": f"{kind} {role or name}", "name": name, "role": role, "shape": list(shape),
        "missing": missing, "how": piece.how.get(what, ""), "low": None, "high": None,
    }  # fmt: skip
    if where is not None:
        places = np.flatnonzero(where)
        claim["low"], claim["high"] = int(places[0]), int(places[-1])
    return claim
