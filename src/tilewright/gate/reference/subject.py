"""In a sandboxed process: the module that says what is right, built and run in several precisions."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tilewright.task.task import ModuleSource

Tree = Any  #: nested lists, tuples and dicts with tensors and plain values at the leaves


def leaves(tree: Tree) -> list[torch.Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in leaves(value)]
    return []


def map_leaves(tree: Tree, change: Callable[[torch.Tensor], Any]) -> Tree:
    """A tree with each tensor replaced."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: map_leaves(value, change) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return tuple(map_leaves(value, change) for value in tree)
    if isinstance(tree, list | tuple):
        return type(tree)(map_leaves(value, change) for value in tree)
    return tree


def as_tensors(tree: Tree) -> Tree:
    """A tree with each number in it as a tensor of its own, so that it is compared like one."""
    if isinstance(tree, bool | int | float):
        return torch.tensor(tree, dtype=torch.float64 if isinstance(tree, float) else None)
    if isinstance(tree, Mapping):
        return {key: as_tensors(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [as_tensors(value) for value in tree]
    return tree


@dataclass(frozen=True)
class Form:
    """What of outputs must agree beside values, shapes and types.

    Attributes:
        structure: how they are nested, `(tensor, {mean: tensor})`; lists and tuples are the same.
        devices: type of each tensor's device.
        layouts: kind of each tensor's strides, see `layout_kind`.
    """

    structure: str
    devices: tuple[str, ...]
    layouts: tuple[str, ...]

    @classmethod
    def of(cls, tree: Tree) -> Form:
        """The form of a module's outputs."""
        found = leaves(tree)
        return cls(_structure(tree), tuple(t.device.type for t in found), tuple(layout_kind(t) for t in found))

    def as_data(self) -> dict[str, Any]:
        """As JSON values."""
        return {"structure": self.structure, "devices": list(self.devices), "layouts": list(self.layouts)}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Form:
        """From JSON values."""
        devices, layouts = (tuple(str(name) for name in data[key]) for key in ("devices", "layouts"))
        return cls(str(data["structure"]), devices, layouts)


def _structure(tree: Tree) -> str:
    if isinstance(tree, torch.Tensor):
        return "tensor"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {_structure(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list | tuple):
        return "(" + ", ".join(_structure(value) for value in tree) + ")"
    return "None" if tree is None else type(tree).__name__


def layout_kind(tensor: torch.Tensor) -> str:
    """`contiguous`, `channels_last`, `permuted` (dense in another order), `overlapping` or `with gaps`."""
    if tensor.layout is not torch.strided:
        return str(tensor.layout)
    if tensor.is_contiguous():
        return "contiguous"
    for dims, form in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == dims and tensor.is_contiguous(memory_format=form):
            return "channels_last"
    extent = 1
    for step, size in sorted(
        (step, size) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1
    ):
        if step != extent:
            return "overlapping" if step < extent else "with gaps"
        extent *= size
    return "permuted"


@dataclass(frozen=True)
class Trace:
    """Shapes that a forward pass makes: of its outputs, and of every operation's first result, in order."""

    outputs: tuple[tuple[int, ...], ...]
    steps: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        sizes = [_numel(shape) for _, shape in self.steps] + [_numel(shape) for shape in self.outputs]
        return max(sizes, default=0)


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The base of our modes: nothing is compiled under them, so torch need not import its compiler for them.

    That import takes seconds in each process.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Steps(DispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        found = leaves(result)
        if found and not _shares_storage(found[0], leaves(list(args))):
            self.steps.append((func._schema.name.removeprefix("aten::"), tuple(found[0].shape)))
        return result


def _shares_storage(result: torch.Tensor, arguments: Sequence[torch.Tensor]) -> bool:
    """True for views: they move nothing, and of a weight they are no size of the data."""
    storage = result.untyped_storage()._cdata
    return any(argument.untyped_storage()._cdata == storage for argument in arguments)


@dataclass
class Subject:
    """The reference module of a task, and what can be asked of it.

    Attributes:
        source: how to build and call it.
        own_arguments: its constructor arguments; None for a live module.
        mode: `eval`, or `built` for the mode in which it is built (see `modes`).
    """

    source: ModuleSource
    own_arguments: tuple[Any, ...] | None
    mode: str = "eval"
    _built: dict[str, torch.nn.Module] = field(default_factory=dict)

    @classmethod
    def of(cls, source: ModuleSource, mode: str = "eval") -> Subject:
        """The subject of a source."""
        from tilewright.task import module_source

        arguments = None if source.pickled is not None else tuple(module_source.init_args(source))
        return cls(source, arguments, mode)

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names of the constructor's positional arguments."""
        signature = inspect.signature(type(self.build(self.own_arguments, "meta")).__init__)
        return tuple(signature.parameters)[1:]

    def build(self, arguments: tuple[Any, ...] | None, device: str = "cpu") -> torch.nn.Module:
        """The module, in its mode, without gradients; the same arguments give the same weights."""
        from tilewright.task import module_source

        key = f"{self.mode}:{device}:{arguments!r}"
        if key not in self._built:
            given = None if self.source.pickled is not None else arguments
            built = self.mode == "built"
            module = module_source.build_module(self.source, init_args=given, device=device, as_built=built)
            self._built[key] = module.requires_grad_(False)
        return self._built[key]

    def inputs(self, seed: int, device: str = "cpu") -> list[Any]:
        """The task's own inputs."""
        from tilewright.task import module_source

        return list(module_source.make_inputs(self.source, seed=seed, device=device))

    def trace(self, arguments: tuple[Any, ...] | None, inputs: Sequence[Any], device: str = "meta") -> Trace | None:
        """The shapes of a pass over meta tensors (or real ones), or None where the module does not accept them."""
        try:
            module = self.build(arguments, device)
            with torch.no_grad(), _Steps() as mode:
                result = module(*inputs)
        except Exception:
            return None
        outputs = tuple(tuple(leaf.shape) for leaf in leaves(result))
        if not outputs or any(_numel(shape) == 0 for shape in outputs):
            return None
        return Trace(outputs, tuple(mode.steps))

    def accepts(self, arguments: tuple[Any, ...] | None, inputs: Sequence[Any]) -> bool:
        """True where the module runs on these inputs, which it may change."""
        try:
            with torch.no_grad():
                self.build(arguments)(*map_leaves(list(inputs), lambda tensor: tensor.clone()))
        except Exception:
            return False
        return True


# --- precision ---------------------------------------------------------------------------------------------

_PRODUCTS = frozenset(
    {
        "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "einsum", "dot", "inner",
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "bilinear",
        "__matmul__", "__rmatmul__", "tensordot", "scaled_dot_product_attention",
    }
)  # fmt: skip


def round_operand(values: torch.Tensor, bits: int, *, nearest: bool) -> torch.Tensor:
    """float32 values with `bits` explicit mantissa bits, to nearest even or toward zero; the range is kept."""
    if values.dtype is not torch.float32:
        return values
    raw = values.contiguous().view(torch.int32)
    drop = 23 - bits
    if nearest:
        raw = raw + ((1 << (drop - 1)) - 1) + ((raw >> drop) & 1)
    rounded = (raw & ~((1 << drop) - 1)).view(torch.float32)
    return torch.where(torch.isfinite(values), rounded, values)


class ReducedProducts(TorchFunctionMode):
    """Rounds the operands of matrix products and convolutions, as a tensor core's input does.

    Args:
        bits: explicit mantissa bits of an operand: 10 (tf32, fp16) or 7 (bf16).
        nearest: round to nearest even; else toward zero. Hardware does either.
    """

    def __init__(self, bits: int, *, nearest: bool) -> None:
        super().__init__()
        self.bits = bits
        self.nearest = nearest

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in _PRODUCTS:
            # A bias is added after the product, unrounded: it is the operand with one dimension.
            args = map_leaves(tuple(args), self._round)
            kwargs = {key: value if key == "bias" else map_leaves(value, self._round) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _round(self, tensor: torch.Tensor) -> torch.Tensor:
        return round_operand(tensor, self.bits, nearest=self.nearest) if tensor.dim() > 1 else tensor


@contextlib.contextmanager
def product_precision(precision: str) -> Iterator[None]:
    """Set torch's own flags for float32 products on a GPU to a class (`ieee` or any reduced one)."""
    allow = precision != "ieee"
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allow, allow
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def to_double(tree: Tree) -> Tree:
    """Floating-point tensors as float64, complex ones as complex128."""

    def widened(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_complex():
            return tensor.to(torch.complex128)
        return tensor.double() if tensor.is_floating_point() else tensor

    return map_leaves(tree, widened)
