"""The interpreter's bookkeeping, done once: types, shapes and constants that operations make anew each time.

Most of the time of an interpreted kernel goes into `triton.language`'s types, not into NumPy. What is kept here
is immutable there: a block type is its element type and sizes; what a tensor knows beside its value follows from its
type; a number beside a block is that number in the block's shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

#: Entries after which what was kept is forgotten: pointers have types of their own in each launch.
_MOST_TYPES, _MOST_NUMBERS = 4096, 2048
#: Elements of a block up to which a number in its shape is kept.
_LARGEST = 1 << 16
_FORM = "_tilewright_form"
#: The flags of an addition, whose operands may be pointers.
_BOTH_MAY_POINT = (True, True)


def install(interpreter: Any) -> None:
    """Change `triton.language.core` and the semantics that the interpreter asks, in this process."""
    import triton.language.core as core
    from triton.language.semantic import TritonSemantic

    if hasattr(core.tensor, _FORM):
        return
    setattr(core.tensor, _FORM, True)
    _keep_block_types(core)
    _keep_forms(core)
    _keep_numbers(core, TritonSemantic)
    _skip_equal_shapes(TritonSemantic)
    if hasattr(interpreter, "interpreter_semantic"):
        interpreter._patch_attr = _attribute_setter(interpreter.interpreter_semantic)


def _keep_block_types(core: Any) -> None:
    """One block type for an element type (by identity) and sizes."""
    kept: dict[tuple[int, tuple[int, ...]], Any] = {}
    block_type, tuple_, constexpr = core.block_type, core.tuple, core.constexpr
    plain = block_type.__init__

    def create(cls: Any, element_ty: Any, shape: Any) -> Any:
        values = shape.values if type(shape) is tuple_ else shape
        key = id(element_ty), tuple([size.value if type(size) is constexpr else size for size in values])
        found = kept.get(key)
        if found is None or found.element_ty is not element_ty:
            found = object.__new__(cls)
            plain(found, element_ty, shape)
            if len(kept) >= _MOST_TYPES:
                kept.clear()
            kept[key] = found
        return found

    block_type.__new__ = create
    block_type.__init__ = lambda self, *args, **kwargs: None  # `create` has done it


def _keep_forms(core: Any) -> None:
    """A tensor's shape, size and element type are made once for its type."""
    plain = core.tensor.__init__

    @functools.wraps(plain)
    def made(self: Any, handle: Any, type: Any) -> None:
        known = type.__dict__.get(_FORM)
        if known is None:
            plain(self, handle, type)
            known = {name: value for name, value in self.__dict__.items() if name not in ("handle", "type")}
            setattr(type, _FORM, known)
            return
        own = self.__dict__
        own.update(known)
        own["handle"], own["type"] = handle, type

    core.tensor.__init__ = made


def _keep_numbers(core: Any, semantic: Any) -> None:
    """Operands of one element type are only brought to one shape; a Python number beside a block is made once."""
    plain = semantic.binary_op_type_checking_impl
    tensor = core.tensor
    names = ("int1", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
    closed = frozenset(id(getattr(core, name)) for name in names)
    numbers: dict[tuple[Any, ...], tuple[Any, Any]] = {}
    joined = _Joined(core)

    def checked(self: Any, lhs: Any, rhs: Any, *flags: Any, **named: Any) -> Any:
        left = isinstance(lhs, tensor)
        if left and isinstance(rhs, tensor):
            if id(lhs.dtype) in closed and lhs.dtype is rhs.dtype:
                if lhs.type is rhs.type:
                    return lhs, rhs
                return joined(self.builder, lhs, rhs) or plain(self, lhs, rhs, *flags, **named)
            if flags == _BOTH_MAY_POINT and lhs.dtype.is_ptr() and rhs.dtype.is_int():
                return joined(self.builder, lhs, rhs) or plain(self, lhs, rhs, *flags)
            return plain(self, lhs, rhs, *flags, **named)
        block, number = (lhs, rhs) if left else (rhs, lhs)
        if type(number) not in (int, float) or not isinstance(block, tensor):
            return plain(self, lhs, rhs, *flags, **named)
        written = number.hex() if type(number) is float else number  # 0.0 and -0.0 are equal
        key = id(block.type), type(number), written, left, flags, tuple(named.items())
        found = numbers.get(key)
        if found is not None and found[0] is block.type:
            return (lhs, found[1]) if left else (found[1], rhs)
        results = plain(self, lhs, rhs, *flags, **named)
        same, other = results if left else results[::-1]
        if same is block and other.numel.value <= _LARGEST:
            if len(numbers) >= _MOST_NUMBERS:
                numbers.clear()
            numbers[key] = block.type, other
        return results

    semantic.binary_op_type_checking_impl = checked


class _Joined:
    """Two tensors in one shape, by what their types ask for; None where they cannot be, or a rank differs."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._known: dict[tuple[int, int], tuple[Any, Any, Any]] = {}

    def __call__(self, builder: Any, lhs: Any, rhs: Any) -> tuple[Any, Any] | None:
        left, right = lhs.type, rhs.type
        known = self._known.get((id(left), id(right)))
        if known is None or known[0] is not left or known[1] is not right:
            if len(self._known) >= _MOST_TYPES:
                self._known.clear()
            known = self._known[id(left), id(right)] = left, right, self._shape(left, right)
        shape = known[2]
        return None if shape is None else (self._in(builder, lhs, shape), self._in(builder, rhs, shape))

    def _shape(self, left: Any, right: Any) -> tuple[int, ...] | None:
        sizes = [tuple(type.shape.values) if type.is_block() else () for type in (left, right)]
        if () in sizes:
            return sizes[0] or sizes[1]
        if len(sizes[0]) != len(sizes[1]):
            return None
        pairs = list(zip(*sizes, strict=True))
        return tuple(max(pair) for pair in pairs) if all(a == b or 1 in (a, b) for a, b in pairs) else None

    def _in(self, builder: Any, tensor: Any, shape: tuple[int, ...]) -> Any:
        type = tensor.type
        if not shape or (type.is_block() and tuple(type.shape.values) == shape):
            return tensor
        wanted = self._core.block_type(tensor.dtype, list(shape))
        # By the builder: whoever follows values through the kernel watches there.
        if type.is_block():
            return self._core.tensor(builder.create_broadcast(tensor.handle, shape), wanted)
        return self._core.tensor(builder.create_splat(wanted, tensor.handle), wanted)


def _skip_equal_shapes(semantic: Any) -> None:
    """Blocks of equal shapes need no broadcast."""
    plain = semantic.broadcast_impl_value

    def broadcast(self: Any, lhs: Any, rhs: Any) -> Any:
        left, right = lhs.type, rhs.type
        if left.is_block() and right.is_block() and left.shape.values == right.shape.values:
            return lhs, rhs
        return plain(self, lhs, rhs)

    semantic.broadcast_impl_value = broadcast


def _attribute_setter(semantic: Any) -> Callable[..., None]:
    """`_patch_attr` of the interpreter, whose functions do not copy their keywords."""

    def set_attribute(owner: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
        function = getattr(member, "__wrapped__", member)  # without the check that `_semantic` is given

        def called(*args: Any, **kwargs: Any) -> Any:
            kwargs["_semantic"] = semantic
            return function(*args, **kwargs)

        scope.set_attr(owner, name, called)

    return set_attribute
