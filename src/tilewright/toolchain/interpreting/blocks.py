"""Operations on whole blocks: reductions and scans by slices, histograms, maps of scalar functions, descriptors."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.toolchain.interpreting.narrow import NARROW, narrowed, widened


def install(interpreter: Any) -> None:
    """Change the builder and the reductions of `triton.runtime.interpreter`."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    _reductions(interpreter.ReduceOps)
    _scans(interpreter.ScanOps)
    _histograms(builder, handle)
    _padding(interpreter, builder, handle)
    _descriptors(interpreter, builder, handle)


# --- reductions ----------------------------------------------------------------------------------------------


def _reductions(reductions: Any) -> None:
    plain_min_max, plain_sum = reductions.min_max, reductions.sum
    dropping = {np.max: np.fmax.reduce, np.min: np.fmin.reduce, np.nanmax: np.fmax.reduce, np.nanmin: np.fmin.reduce}

    def min_max(self: Any, operand: Any, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
        if idx_reduce_op is not None:
            return plain_min_max(self, operand, val_reduce_op, idx_reduce_op)
        if _narrow(operand):
            return _reduce_slices(self, (operand,))[0]
        return plain_min_max(self, operand, dropping.get(val_reduce_op, val_reduce_op), None)

    def sum_(self: Any, operand: Any) -> Any:
        return plain_sum(self, operand) if not _narrow(operand) else _reduce_slices(self, (operand,))[0]

    reductions.min_max, reductions.sum = min_max, sum_
    reductions.generic_reduce = _reduce_slices


def _narrow(operand: Any) -> bool:
    return operand.dtype.scalar.name in NARROW


def _reduce_slices(operation: Any, operands: Any) -> Any:
    """`tl.reduce` with a custom combination, one call for each slice rather than for each element."""
    flat = operation.axis is None
    data = [operand.handle.data.reshape(-1) if flat else operand.handle.data for operand in operands]
    axis = 0 if flat else operation.axis % data[0].ndim
    slices = [np.moveaxis(values, axis, 0) for values in data]

    def at(index: int) -> tuple[Any, ...]:
        return tuple(
            operation.to_tensor(np.ascontiguousarray(values[index]), operand.dtype)
            for values, operand in zip(slices, operands, strict=True)
        )

    total = at(0)
    for index in range(1, data[0].shape[axis]):
        combined = operation.combine_fn.fn(*total, *at(index))
        total = tuple(combined) if isinstance(combined, tuple) else (combined,)
    results = [_data_of(operation, value, operand) for value, operand in zip(total, operands, strict=True)]
    results = [values.reshape(slices[0].shape[1:]) for values in results]
    if operation.keep_dims:
        rank = operands[0].handle.data.ndim
        results = [values.reshape([1] * rank) if flat else np.expand_dims(values, axis) for values in results]
    return [
        operation.to_tensor(values if values.ndim else values.item(), operand.dtype)
        for values, operand in zip(results, operands, strict=True)
    ]


def _data_of(operation: Any, value: Any, operand: Any) -> Any:
    """The array of what a combination gave, in the operand's type."""
    if not hasattr(value, "handle"):
        return operation.to_tensor(value, operand.dtype).handle.data
    data, kind = value.handle.data, operand.handle.data.dtype
    if _narrow(operand) and data.dtype.kind == "f":
        return narrowed(operand.dtype.scalar.name, data)
    return data.astype(kind, copy=False)


def _scans(scans: Any) -> None:
    def cumulative(function: Any) -> Any:
        def scan(self: Any, operand: Any) -> Any:
            data, name = operand.handle.data, operand.dtype.scalar.name
            if name in NARROW:
                found = _scanned(function, widened(name, data), self.axis)
                return [self.to_tensor(narrowed(name, found), operand.dtype)]
            return [self.to_tensor(_scanned(function, data, self.axis), operand.dtype)]

        return scan

    scans.cumsum, scans.cumprod = cumulative(np.add), cumulative(np.multiply)
    scans.generic_scan = _scan_slices


def _scanned(function: Any, data: Any, axis: int) -> Any:
    """A scan by a tree, as lanes do it: one after the other, rounding errors would grow with the length."""
    result = np.moveaxis(data.copy(), axis, 0)
    step = 1
    while step < result.shape[0]:
        result[step:] = function(result[:-step].copy(), result[step:])
        step *= 2
    return np.ascontiguousarray(np.moveaxis(result, 0, axis))


def _scan_slices(operation: Any, operands: Any) -> Any:
    """`tl.associative_scan`, one call for each slice."""
    data = [operand.handle.data for operand in operands]
    axis = operation.axis % data[0].ndim
    slices = [np.moveaxis(values, axis, 0) for values in data]
    results = [np.empty_like(np.ascontiguousarray(values)) for values in slices]
    total: tuple[Any, ...] = ()
    for index in range(data[0].shape[axis]):
        here = tuple(
            operation.to_tensor(np.ascontiguousarray(values[index]), operand.dtype)
            for values, operand in zip(slices, operands, strict=True)
        )
        combined = operation.combine_fn.fn(*total, *here) if total else here
        total = tuple(combined) if isinstance(combined, tuple) else (combined,)
        for result, value, operand in zip(results, total, operands, strict=True):
            result[index] = _data_of(operation, value, operand).reshape(result[index].shape)
    moved = [np.ascontiguousarray(np.moveaxis(result, 0, axis)) for result in results]
    return [operation.to_tensor(values, operand.dtype) for values, operand in zip(moved, operands, strict=True)]


def mapped(function: Any, *arguments: Any, pack: int = 1) -> Any:
    """`tl.map_elementwise`: a scalar function for each element, with its own branches."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    shape = np.broadcast_shapes(*(argument.handle.data.shape for argument in arguments))
    flat = [np.broadcast_to(argument.handle.data, shape).reshape(-1) for argument in arguments]
    width = int(getattr(pack, "value", pack))
    columns: list[list[Any]] = []
    kinds: list[Any] = []
    for start in range(0, flat[0].size, width):
        given = [
            tl.tensor(TensorHandle(values[start + lane : start + lane + 1], argument.dtype), argument.dtype)
            for values, argument in zip(flat, arguments, strict=True)
            for lane in range(width)
        ]
        results = function.fn(*given) if hasattr(function, "fn") else function(*given)
        results = tuple(results) if isinstance(results, tuple) else (results,)
        kinds = [result.dtype for result in results[::width]]
        columns.append([result.handle.data.reshape(-1)[0] for result in results])
    made = []
    for number, kind in enumerate(kinds):
        values = [row[number * width + lane] for row in columns for lane in range(width)]
        data = np.array(values).reshape(shape)
        block = tl.block_type(kind, list(shape)) if arguments[0].type.is_block() else kind
        made.append(tl.tensor(TensorHandle(data, kind), block))
    return made[0] if len(made) == 1 else tuple(made)


# --- histograms, padding, descriptors ------------------------------------------------------------------------


def _histograms(builder: Any, handle: Any) -> None:
    import triton.language as tl

    def create_histogram(self: Any, data: Any, bins: int, mask: Any) -> Any:
        values = data.data.astype(np.int64).reshape(-1)
        inside = (values >= 0) & (values < bins)
        if mask is not None:
            inside &= np.broadcast_to(mask.data, data.data.shape).reshape(-1).astype(bool)
        return handle(np.bincount(values[inside], minlength=bins).astype(np.int32), tl.int32)

    builder.create_histogram = create_histogram


def _padding(interpreter: Any, builder: Any, handle: Any) -> None:
    """Block pointers may be padded with NaN in any type of float."""
    options = interpreter._ir.PADDING_OPTION

    def create_tensor_pointer_load(
        self: Any, ptr: Any, boundary_check: Any, padding: Any, cache: Any, eviction: Any, volatile: Any
    ) -> Any:
        pointers, masks = ptr.materialize_pointers(boundary_check)
        element = pointers.get_element_ty()
        kind = interpreter._get_np_dtype(element)
        fill = np.zeros(pointers.data.shape, dtype=kind)
        if padding == options.PAD_NAN and element.name in NARROW:
            fill[...] = narrowed(element.name, np.array([np.nan], dtype=np.float32))[0]
        elif padding == options.PAD_NAN:
            fill[...] = np.nan
        return self.create_masked_load(pointers, masks, handle(fill, element), cache, eviction, volatile)

    builder.create_tensor_pointer_load = create_tensor_pointer_load


def _descriptors(interpreter: Any, builder: Any, handle: Any) -> None:
    """Atomic stores through tensor descriptors."""
    import triton.language as tl

    atomics, semantics = interpreter._ir.ATOMIC_OP, interpreter._ir.MEM_SEMANTIC

    def create_descriptor_reduce(self: Any, kind: Any, desc: Any, value: Any, indices: Any) -> Any:
        pointers, mask = desc.materialize_pointers(indices)
        name = str(kind).rpartition(".")[2].upper()
        if name == "ADD" and value.dtype.scalar.is_floating():
            name = "FADD"
        if name in {"MIN", "MAX"} and value.dtype.scalar.is_int_unsigned():
            name = f"U{name}"
        lanes = handle(np.ascontiguousarray(mask), tl.int1)
        return self.create_atomic_rmw(getattr(atomics, name), pointers, value, lanes, semantics.RELAXED, None)

    if not hasattr(builder, "create_descriptor_reduce"):
        builder.create_descriptor_reduce = create_descriptor_reduce
