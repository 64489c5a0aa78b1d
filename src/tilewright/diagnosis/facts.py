"""What the rules look at: a forward pass, step by step, each figure with its origin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tilewright.gpu.gpu import Gpu
from tilewright.measure.launches import ProductShape
from tilewright.values.candidate import Launch, NativeCall
from tilewright.values.precision import PrecisionClass
from tilewright.values.profile import DRAM_THROUGHPUT, GRID_SIZE, KernelProfile

#: Percent of the DRAM's peak under which a throughput says little of the time.
_LEAST_THROUGHPUT = 5.0

#: ATen names that say little to people.
_IN_WORDS = {"_to_copy": "conversion of type", "clone": "copy", "copy_": "copy", "copy": "copy"}


@dataclass(frozen=True)
class Figure:
    """A number and its origin.

    Attributes:
        value: the number.
        label: `measured`, `modelled` or `counted`.
    """

    value: float
    label: str


@dataclass(frozen=True)
class Traffic:
    """Bytes of a step's tensors, once each, by what they are.

    Attributes:
        needed: of the task's inputs, parameters and outputs.
        read_between, written_between: of memory that only this forward pass knows (an intermediate result).
        maker: the step that wrote what `read_between` counts; empty where nothing is.
        read, written: of all of them, by what the step does with them.
    """

    needed: int = 0
    read_between: int = 0
    written_between: int = 0
    maker: str = ""
    read: int = 0
    written: int = 0

    @property
    def between(self) -> int:
        """Bytes of intermediate results, in and out."""
        return self.read_between + self.written_between

    @property
    def total(self) -> int:
        """All bytes."""
        return self.needed + self.between


@dataclass(frozen=True)
class Unread:
    """A part of an operand that no program reads.

    Attributes:
        operand: the pointer's name in the kernel.
        read: share of its elements that is read, 0 to 1.
        what: which are not, for people (`rows 32 to 255 of dim 2`).
    """

    operand: str
    read: float
    what: str


@dataclass(frozen=True)
class KernelFacts:
    """One Triton kernel of the forward pass.

    Attributes:
        name: of its function.
        position: of its first launch among the steps; 0 where the source does not say.
        modelled, measured: its profiles, as far as there are any.
        launch: as recorded at the task's own shapes; None without a recording.
        traffic: of its tensors.
        product: the matrix product that it looks like.
        from_parameters: it reads nothing but parameters and what was made of them.
        unread: parts of its operands that it should read and does not.
        bandwidth_gb_s: of the GPU's memory, 10**9 bytes a second; 0 where it is not known.
    """

    name: str
    position: int = 0
    modelled: KernelProfile | None = None
    measured: KernelProfile | None = None
    launch: Launch | None = None
    traffic: Traffic = field(default_factory=Traffic)
    product: ProductShape | None = None
    from_parameters: bool = False
    unread: tuple[Unread, ...] = ()
    bandwidth_gb_s: float = 0.0

    @property
    def profiles(self) -> Iterator[KernelProfile]:
        """The profiles that there are, the measured one first."""
        return (profile for profile in (self.measured, self.modelled) if profile is not None)

    def metric(self, name: str) -> Figure | None:
        """A metric by Nsight Compute's name: measured where it was, modelled where the model says it."""
        for profile in self.profiles:
            if name in profile.metrics:
                return Figure(profile.metrics[name], profile.label)
        return None

    def field(self, name: str) -> Figure | None:
        """A numeric field of the profiles, likewise."""
        for profile in self.profiles:
            value = getattr(profile, name)
            if value is not None:
                return Figure(float(value), profile.label)
        return None

    @property
    def launches(self) -> int:
        """In one forward pass."""
        return max((profile.launches for profile in self.profiles), default=1)

    @property
    def time_ms(self) -> Figure | None:
        """Milliseconds of all its launches: measured; or its modelled bytes over a measured throughput; or modelled."""
        if self.measured is not None and self.measured.duration_ms is not None:
            return Figure(self.measured.total_ms, "measured")
        if self.modelled is None or self.modelled.duration_ms is None:
            return None
        return Figure(self.time_by_throughput_ms or self.modelled.total_ms, "modelled")

    @property
    def time_by_throughput_ms(self) -> float | None:
        """Modelled DRAM bytes over the measured DRAM throughput; None where either is missing or means little."""
        model, measured = self.modelled, self.measured
        if model is None or measured is None or measured.duration_ms is not None or not self.bandwidth_gb_s:
            return None
        percent = measured.metrics.get(DRAM_THROUGHPUT, 0.0)
        moved = (model.dram_read_bytes or 0.0) + (model.dram_written_bytes or 0.0)
        if percent < _LEAST_THROUGHPUT or moved <= 0:
            return None
        return moved / (percent / 100 * self.bandwidth_gb_s * 1e6) * model.launches

    @property
    def programs(self) -> Figure | None:
        """Program instances of a launch."""
        found = self.metric(GRID_SIZE)
        if found is not None:
            return found
        return Figure(self.launch.programs, "counted") if self.launch is not None else None

    @property
    def limits(self) -> dict[str, float]:
        """Limit -> milliseconds that it alone would take, of all launches, without the launch itself."""
        if self.modelled is None:
            return {}
        count = self.modelled.launches
        return {name: value * count for name, value in self.modelled.limits.items() if name != "launch"}

    @property
    def mix(self) -> dict[str, float]:
        """Class of instruction -> share; empty where it is not known."""
        return dict(self.modelled.instruction_mix) if self.modelled is not None else {}


@dataclass(frozen=True)
class NativeFacts:
    """One call that is left to PyTorch.

    Attributes:
        call: as recorded.
        position: among the steps.
        time_ms: milliseconds; None where nobody can tell.
        traffic: of its tensors.
        from_parameters: as for a kernel.
        limit: what binds it, as the model says.
    """

    call: NativeCall
    position: int
    time_ms: Figure | None = None
    traffic: Traffic = field(default_factory=Traffic)
    from_parameters: bool = False
    limit: str = ""

    @property
    def name(self) -> str:
        """The operation as people call it: `convolution`, `_to_copy`."""
        parts = self.call.operation.split(".")
        return parts[1] if len(parts) > 1 else self.call.operation

    @property
    def words(self) -> str:
        """The same in words, where its name says little."""
        return _IN_WORDS.get(self.name, self.name)


@dataclass(frozen=True)
class Collapse:
    """What the algebra leaves of the task.

    Attributes:
        rules: names of the collapses that apply.
        laws: theirs, `before -> after`.
        floor_ms: speed of light of what is left, milliseconds.
        operations_before, operations_after: matrix operations of the task as written, and of what is left.
    """

    rules: tuple[str, ...]
    laws: tuple[str, ...]
    floor_ms: float
    operations_before: int
    operations_after: int


@dataclass(frozen=True)
class Facts:
    """A forward pass on a GPU.

    Attributes:
        task: the task's name.
        gpu: the target.
        precision: class of the task.
        kernels: Triton kernels, in order.
        native: calls that are left to PyTorch, in order, views left out.
        gap_ms: time between kernels in which the GPU waits; None where nobody can tell.
        host_ms: that the host needs to enqueue a call; None where it was not measured.
        total_ms: of the forward pass; None where nobody can tell.
        collapse: what the algebra leaves, where it throws most of the work away and this code does not.
        notes: what a reader must know of the evidence.
    """

    task: str
    gpu: Gpu
    precision: PrecisionClass
    kernels: tuple[KernelFacts, ...]
    native: tuple[NativeFacts, ...] = ()
    gap_ms: Figure | None = None
    host_ms: float | None = None
    total_ms: Figure | None = None
    collapse: Collapse | None = None
    notes: tuple[str, ...] = ()

    @property
    def kernels_ms(self) -> float:
        """Milliseconds of all Triton kernels; 0 where nobody can tell."""
        return sum(kernel.time_ms.value for kernel in self.kernels if kernel.time_ms is not None)
