"""What crosses the wall between the tool and a candidate's process: JSON trees and safetensors, nothing else.

A tree is JSON in which a tensor is `{"$tensor": name}` and a tuple `{"$tuple": [...]}`; the tensors themselves
travel beside it, by name, in one safetensors file.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

#: JSON text that comes back from a sandbox may be this long, bytes.
MAX_JSON_BYTES = 16 << 20


class GarbageError(ValueError):
    """What came back is not what the trusted wrapper writes; the message says what is wrong with it."""


def pack(value: Any, tensors: dict[str, torch.Tensor], prefix: str) -> Any:
    """A tree of plain values and tensors as JSON; its tensors are added to `tensors` under `prefix`.

    Raises:
        TypeError: a value that is neither plain nor a tensor.
    """
    if isinstance(value, torch.Tensor):
        name = f"{prefix}.{len(tensors)}"
        if value.is_complex():
            # The file format knows one complex type; pairs of real numbers go as they are.
            tensors[name] = torch.view_as_real(value.detach().resolve_conj())
            return {"$tensor": name, "stride": list(value.stride()), "complex": True}
        tensors[name] = value
        return {"$tensor": name, "stride": list(value.stride())}
    if isinstance(value, tuple):
        return {"$tuple": [pack(item, tensors, prefix) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors, prefix) for item in value]
    if isinstance(value, Mapping):
        return {"$dict": [[str(key), pack(item, tensors, prefix)] for key, item in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} is neither a tensor nor a plain value")


def unpack(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `pack`, with the strides that the tensors had.

    Raises:
        GarbageError: the tree names a tensor that is not there.
    """
    if isinstance(tree, list):
        return [unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        if not isinstance(tree["$tensor"], str) or tree["$tensor"] not in tensors:
            raise GarbageError(f"no tensor named {tree['$tensor']!r} came along")
        tensor = tensors[tree["$tensor"]]
        if tree.get("complex"):
            tensor = torch.view_as_complex(tensor.contiguous())
        return with_stride(tensor, _checked_stride(tensor, tree.get("stride")))
    if isinstance(tree.get("$tuple"), list):
        return tuple(unpack(item, tensors) for item in tree["$tuple"])
    if isinstance(tree.get("$dict"), list) and all(_is_entry(entry) for entry in tree["$dict"]):
        return {key: unpack(item, tensors) for key, item in tree["$dict"]}
    raise GarbageError(f"unknown mark in a tree: {sorted(tree)[:3]}")


def prefixed(tree: Any, prefix: str) -> Any:
    """A packed tree whose tensors go by another name."""
    if isinstance(tree, list):
        return [prefixed(item, prefix) for item in tree]
    if isinstance(tree, dict):
        if "$tensor" in tree:
            return {**tree, "$tensor": prefix + tree["$tensor"]}
        return {key: prefixed(value, prefix) for key, value in tree.items()}
    return tree


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str | int | float | bool | None)


def _checked_stride(tensor: torch.Tensor, stride: Any) -> list[int] | None:
    """A stride that lays the tensor out in memory of about its own size; the other side may claim anything."""
    if stride is None:
        return None
    if not isinstance(stride, list) or len(stride) != tensor.dim() or any(type(step) is not int for step in stride):
        raise GarbageError("a stride is no list of whole numbers, one for each dim")
    extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, stride, strict=True) if size > 1)
    if min(stride, default=0) < 0 or extent > 16 * max(1, tensor.numel()) or max(stride, default=0) >= 2**62:
        raise GarbageError(f"the stride {stride} does not fit a tensor of {tensor.numel()} elements")
    return stride


def with_stride(tensor: torch.Tensor, stride: list[int] | None) -> torch.Tensor:
    """`tensor`'s values under another dense or broadcast layout; itself where the layout is the same."""
    if stride is None or list(tensor.stride()) == stride or tensor.numel() == 0:
        return tensor
    laid_out = torch.empty_strided(tuple(tensor.shape), tuple(stride), dtype=tensor.dtype, device=tensor.device)
    return laid_out.copy_(tensor) if 0 not in stride else tensor[(slice(0, 1),) * tensor.dim()].expand(tensor.shape)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as safetensors, each contiguous and by itself, complete or not at all."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in plain.items():
        storage = tensor.untyped_storage()
        # safetensors refuses tensors that share memory, or that are a part of a larger piece.
        if tensor.numel() and (storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes):
            plain[name] = tensor.clone()
        seen.add(plain[name].untyped_storage().data_ptr())
    partial = path.with_suffix(".partial")
    safetensors.torch.save_file(plain, str(partial))
    partial.rename(path)


def load_tensors(path: Path, limit_bytes: int | None = None) -> dict[str, torch.Tensor]:
    """Read safetensors that may be hostile: a regular file of bounded size, or `GarbageError`."""
    require_plain_file(path, limit_bytes)
    try:
        loaded: dict[str, torch.Tensor] = safetensors.torch.load_file(str(path))
    except Exception as error:
        raise GarbageError(f"{path.name} is not safetensors: {error}") from error
    return loaded


def save_json(path: Path, value: Any) -> None:
    """Write JSON, complete or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.rename(path)


def load_json(path: Path, limit_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read JSON that may be hostile: a regular file of bounded size, or `GarbageError`."""
    require_plain_file(path, limit_bytes)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise GarbageError(f"{path.name} is not JSON: {error}") from error


def require_plain_file(path: Path, limit_bytes: int | None) -> None:
    """Raise `GarbageError` unless `path` is a regular file (no link, no device) of at most `limit_bytes`."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise GarbageError(f"{path.name} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise GarbageError(f"{path.name} is not a regular file")
    if limit_bytes is not None and status.st_size > limit_bytes:
        raise GarbageError(f"{path.name} holds {status.st_size} bytes, more than the {limit_bytes} allowed")
