"""Variables of a kernel's loops: integers with a type, which can be cast as Triton's are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Counter(int):
    """An integer of 32 bits (64 where `wide`), as a loop of a kernel counts it.

    It is a Python integer, so that it costs nothing where it only counts; `k.to(tl.int64)` works as on a GPU, and
    what is computed from counters alone has their type again.
    """

    wide: bool = False

    def __new__(cls, value: int, wide: bool = False) -> Counter:
        """The value, wrapped as its bits are."""
        bits = 64 if wide else 32
        made = int.__new__(cls, ((int(value) + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1)))
        if wide:
            made.wide = True
        return made

    def tensor(self) -> Any:
        """The same as a scalar of the language."""
        import numpy as np
        import triton.language as tl
        from triton.runtime.interpreter import TensorHandle

        kind, data = (tl.int64, np.int64) if self.wide else (tl.int32, np.int32)
        return tl.tensor(TensorHandle(np.array([int(self)], dtype=data), kind), kind)

    def __getattr__(self, name: str) -> Any:
        # Only what an integer has not: `.to`, `.dtype`, `.type`, ...
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    def __add__(self, other: Any) -> Any:
        return self._same(int.__add__(self, other), other)

    def __radd__(self, other: Any) -> Any:
        return self._same(int.__radd__(self, other), other)

    def __sub__(self, other: Any) -> Any:
        return self._same(int.__sub__(self, other), other)

    def __rsub__(self, other: Any) -> Any:
        return self._same(int.__rsub__(self, other), other)

    def __mul__(self, other: Any) -> Any:
        return self._same(int.__mul__(self, other), other)

    def __rmul__(self, other: Any) -> Any:
        return self._same(int.__rmul__(self, other), other)

    def __neg__(self) -> Counter:
        return Counter(-int(self), self.wide)

    def __floordiv__(self, other: Any) -> Any:
        return self._divided(self, other)[0] if isinstance(other, int) else int.__floordiv__(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._divided(other, self)[0] if isinstance(other, int) else int.__rfloordiv__(self, other)

    def __mod__(self, other: Any) -> Any:
        return self._divided(self, other)[1] if isinstance(other, int) else int.__mod__(self, other)

    def __rmod__(self, other: Any) -> Any:
        return self._divided(other, self)[1] if isinstance(other, int) else int.__rmod__(self, other)

    def __and__(self, other: Any) -> Any:
        return self._same(int.__and__(self, other), other)

    def __or__(self, other: Any) -> Any:
        return self._same(int.__or__(self, other), other)

    def __xor__(self, other: Any) -> Any:
        return self._same(int.__xor__(self, other), other)

    def __lshift__(self, other: Any) -> Any:
        return self._same(int.__lshift__(self, other), other)

    def __rshift__(self, other: Any) -> Any:
        return self._same(int.__rshift__(self, other), other)

    def _same(self, result: Any, other: Any) -> Any:
        return result if result is NotImplemented else Counter(result, self.wide or _is_wide(other))

    def _divided(self, left: int, right: int) -> tuple[Counter, Counter]:
        """Quotient toward zero and its remainder, as C and Triton divide."""
        quotient = abs(int(left)) // abs(int(right))
        quotient = quotient if (left < 0) == (right < 0) else -quotient
        wide = self.wide or _is_wide(left) or _is_wide(right)
        return Counter(quotient, wide), Counter(int(left) - quotient * int(right), wide)


def counted(*bounds: Any, **options: Any) -> Iterator[Counter]:
    """What `range` and `tl.range` of a kernel count through: bounds may be scalars of the language."""
    step = options.get("step")
    given = [options[name] for name in ("arg1", "arg2") if name in options]
    limits = [*bounds, *given, *([] if step is None else [step])]
    if len(limits) == 2 and step is not None:
        limits.insert(0, 0)
    wide = any(_is_wide(limit) for limit in limits)
    for value in range(*(_plain(limit) for limit in limits)):
        yield Counter(value, wide)


def _plain(limit: Any) -> int:
    if isinstance(limit, int):
        return int(limit)
    return int(limit.handle.data.item() if hasattr(limit, "handle") else limit.value)


def _is_wide(limit: Any) -> bool:
    if not isinstance(limit, int) and hasattr(limit, "handle"):
        return str(limit.dtype) in {"int64", "uint64"}
    value = limit if isinstance(limit, int) else limit.value
    return (isinstance(value, Counter) and value.wide) or not -(2**31) <= int(value) < 2**31
