"""Which outputs of a forward pass lie in the memory of each other, of an input or of a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

#: Elements of memory beyond which two tensors of one storage are compared by their extents alone.
_MOST = 1 << 26


def shared(
    outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], held: Mapping[str, torch.Tensor]
) -> list[list[str]]:
    """Pairs of names whose tensors have an element of memory in common; the first of each is an output.

    Args:
        outputs, inputs: the tensors of a forward pass, in order.
        held: parameters and buffers by name.
    """
    results = [(f"output {number}", tensor) for number, tensor in enumerate(outputs)]
    others = [(f"input {number}", tensor) for number, tensor in enumerate(inputs)]
    others += [(f"parameter {name}", tensor) for name, tensor in held.items()]
    return [list(pair) for pair in _pairs(results, others)]


def _pairs(
    results: Sequence[tuple[str, torch.Tensor]], others: Sequence[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, str]]:
    for number, (name, tensor) in enumerate(results):
        for other, beside in (*results[number + 1 :], *others):
            if overlap(tensor, beside):
                yield name, other


def overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether writing into one tensor may change the other."""
    if one.layout is not torch.strided or other.layout is not torch.strided or not (one.numel() and other.numel()):
        return False
    if one.untyped_storage()._cdata != other.untyped_storage()._cdata:
        return False
    if one.dtype is not other.dtype or one.untyped_storage().nbytes() // one.element_size() > _MOST:
        return True
    low, high = _extent(other)
    start, end = _extent(one)
    if end <= low or high <= start:
        return False
    marks = torch.zeros(max(end, high), dtype=torch.bool)
    marks.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(marks.as_strided(other.shape, other.stride(), other.storage_offset()).any())


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The first element in the storage, and the one after the last."""
    start = int(tensor.storage_offset())
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return start, start + 1 + sum(int((size - 1) * step) for size, step in steps)
