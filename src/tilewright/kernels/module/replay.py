"""Emitted into every file: the launches of a call are kept, and made again for calls like it.

Triton looks at each argument of each launch, and a wrapper works out sizes and grids: together several times what the
driver takes to enqueue a kernel. All of it follows from sizes, strides, types and the alignment of addresses.

Everything from `RECORDS = ` on is copied into emitted files as it stands, in two parts: `noted` stands before the
kernels, the rest behind them.
"""

from __future__ import annotations

import threading

import torch
import triton
from triton.compiler import CompiledKernel

RECORDS = threading.local()  # its `now` is the record that this thread writes


class noted:
    """A kernel that writes its launches into the open record."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getattr__(self, name):
        return getattr(self.kernel, name)

    def __getitem__(self, grid):
        if (record := open_record()) is None:
            return self.kernel[grid]

        def launch(*arguments, **named):
            compiled = self.kernel[grid](*arguments, **named)
            rest = [named[name] for name in self.kernel.arg_names[len(arguments) :]]
            record.launches.append((compiled, (*grid, 1, 1)[:3], [*arguments, *rest]))
            return compiled

        return launch


ALIGNMENT = 512  # bytes, as torch's allocator aligns


class Number(int):
    """A number that is another one in each call, and for which Triton compiles one kernel."""


class Record:
    """What a wrapper does in one call: tensors that it takes and makes, and launches that use them."""

    def __init__(self, given):
        self.given = [one for one in given if isinstance(one, torch.Tensor)]
        self.made, self.cleared, self.renewed, self.launches = [], [], [], []


def open_record():
    """The record that this thread writes, or None."""
    return getattr(RECORDS, "now", None)


def note(tensor, cleared=False):
    """A tensor that a wrapper made, its values undefined, or zeros where it is `cleared`."""
    if (record := open_record()) is not None:
        (record.cleared if cleared else record.made).append(tensor)
    return tensor


def renew(function, *arguments):
    """What the function returns, which later calls ask it for anew."""
    found = function(*arguments)
    if (record := open_record()) is not None:
        record.renewed.append((function, arguments, found if isinstance(found, tuple) else (found,)))
    return found


def storage(tensor):
    """The address at which a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()


class Replay:
    """A recorded call's launches, made for other tensors of the same form.

    Raises LookupError where a launch uses memory that the record does not know.
    """

    def __init__(self, record, returned):
        returned_all = returned if isinstance(returned, tuple) else (returned,)
        kept = {storage(one) for one in returned_all}
        results = [one for one in record.made if storage(one) in kept]
        scratch = [one for one in record.made if storage(one) not in kept]
        self.is_tuple, self.device = isinstance(returned, tuple), record.given[0].get_device()
        self.results = [(one.shape, one.stride(), one.dtype) for one in results]
        self.returned = [self._returned(one, results) for one in returned_all]
        self.cleared = [(one.shape, one.dtype) for one in record.cleared]
        self.offsets, self.bytes = [], 0
        for one in scratch:
            self.offsets.append(self.bytes)
            self.bytes += -(-one.nbytes // ALIGNMENT) * ALIGNMENT
        self.renewed = [(function, self._given(record, given)) for function, given, _ in record.renewed]
        known = [*record.given, *results, *scratch, *record.cleared]
        known += [one for _, _, found in record.renewed for one in found if one is not None]
        self.launches = [(kernel, grid, *self._arguments(given, known)) for kernel, grid, given in record.launches]

    def _returned(self, tensor, results):
        """Number of the result that a returned tensor is, or is a view of, and the view."""
        for number, one in enumerate(results):
            if storage(one) == storage(tensor):
                same = tensor.shape == one.shape and tensor.stride() == one.stride()
                return number, None if same else (tensor.shape, tensor.stride(), tensor.storage_offset())
        raise LookupError("the wrapper returns a tensor that it did not make")

    def _given(self, record, arguments):
        """Arguments of a function that is asked anew: for a given tensor its number, else the value itself."""
        numbers = {id(one): number for number, one in enumerate(record.given)}
        if any(isinstance(one, torch.Tensor) and id(one) not in numbers for one in arguments):
            raise LookupError("a function is asked about a tensor that the wrapper was not given")
        return [(numbers.get(id(one)), None if id(one) in numbers else one) for one in arguments]

    def _arguments(self, arguments, known):
        """A launch's arguments without what differs from call to call, and where that comes from."""
        fixed, moved = list(arguments), []
        for position, one in enumerate(arguments):
            if isinstance(one, Number):
                slot = next(slot for slot, other in enumerate(known) if other is one)
                moved.append((position, slot, 0))
            elif isinstance(one, torch.Tensor):
                tensors = [(slot, other) for slot, other in enumerate(known) if isinstance(other, torch.Tensor)]
                found = [(slot, other) for slot, other in tensors if storage(other) == storage(one)]
                found = [(slot, other) for slot, other in found if other is one][:1] or found
                if len(found) != 1:
                    raise LookupError("a launch takes memory of no tensor that the record knows, or of several")
                slot, other = found[0]
                moved.append((position, slot, one.data_ptr() - other.data_ptr()))
            if moved and moved[-1][0] == position:
                fixed[position] = None
        return fixed, moved

    def __call__(self, given):
        tensors = [one for one in given if isinstance(one, torch.Tensor)]
        first = tensors[0]
        results = [first.new_empty_strided(size, stride, dtype=dtype) for size, stride, dtype in self.results]
        places = [one.data_ptr() for one in (*tensors, *results)]
        if self.offsets:
            scratch = first.new_empty(self.bytes, dtype=torch.int8)
            start = scratch.data_ptr()
            places += [start + offset for offset in self.offsets]
        held = [first.new_zeros(size, dtype=dtype) for size, dtype in self.cleared]
        places += [one.data_ptr() for one in held]
        for function, arguments in self.renewed:
            found = function(*[value if number is None else tensors[number] for number, value in arguments])
            held.append(found)
            for one in found if isinstance(found, tuple) else (found,):
                if one is not None:
                    places.append(one if isinstance(one, int) else one.data_ptr())
        stream = triton.runtime.driver.active.get_current_stream(self.device)
        for kernel, grid, fixed, moved in self.launches:
            arguments = fixed.copy()
            for position, place, distance in moved:
                arguments[position] = places[place] + distance
            kernel.run(*grid, stream, kernel.function, kernel.packed_metadata, None, None, None, *arguments)
        found = [
            results[number] if view is None else results[number].as_strided(*view) for number, view in self.returned
        ]
        return tuple(found) if self.is_tuple else found[0]


class replayed:
    """A wrapper whose launches are made again, without a look at each argument, for calls of a form that it has seen.

    The form is what sizes, grids and compiled kernels follow from: sizes, strides, types and alignment of tensors, and
    all numbers; a schedule that is `chosen` from a table is one of the table's. A call of another form runs as written,
    and so does one in which Triton compiles nothing.
    """

    MOST_FORMS = 256

    def __init__(self, wrapper):
        self.wrapper, self.replays = wrapper, {}

    def __call__(self, *given, **chosen):
        form = [given[0].get_device(), *map(id, chosen.values())]
        for one in given:
            if isinstance(one, torch.Tensor):
                form.append((one.shape, one.stride(), one.dtype, one.data_ptr() % 16))
            else:
                form.append(one.hex() if type(one) is float else one)
        names = list(map(id, given))
        if len({*names}) < len(names):  # which arguments are one and the same
            form += map(names.index, names)
        form = tuple(form)
        replay = self.replays.get(form)
        return self.record(form, given, chosen) if replay is None else replay(given)

    def record(self, form, given, chosen):
        """Run as written; keep what was launched, where all of it is known."""
        if open_record() is not None:
            return self.wrapper(*given, **chosen)
        record = RECORDS.now = Record(given)
        try:
            returned = self.wrapper(*given, **chosen)
        finally:
            RECORDS.now = None
        if record.launches and all(isinstance(kernel, CompiledKernel) for kernel, _, _ in record.launches):
            if len(self.replays) >= self.MOST_FORMS:
                self.replays.clear()
            try:
                self.replays[form] = Replay(record, returned)
            except LookupError:
                self.replays[form] = lambda given: self.wrapper(*given, **chosen)
        return returned
