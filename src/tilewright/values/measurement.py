"""Times: measured on a GPU, or modelled. Different types, so that they never share a column unlabelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

#: A call that takes so many times as long as the GPU's work in it waits for the host. Less is warm-up and spread.
HOST_BINDS_FROM = 1.1


@dataclass(frozen=True)
class Measured:
    """A time from a GPU.

    Attributes:
        median_ms, low_ms, high_ms: of the GPU's work in a call, cold L2: median, 20th and 80th percentile of the
            samples, milliseconds.
        samples: how many.
        gpu: name as the driver gives it.
        method: how it was taken (`CUDA events, cold L2`).
        call_ms: of a call when calls are made back to back, warm: wall time of many and the wait for the last, over
            their number, milliseconds; None in records of versions that did not take it.
        graphs: calls are captured in CUDA graphs: the GPU's time alone decides.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    samples: int
    gpu: str
    method: str
    call_ms: float | None = None
    graphs: bool = False

    @property
    def gpu_ms(self) -> float:
        """Milliseconds that the GPU works in a call."""
        return self.median_ms

    @property
    def time_ms(self) -> float:
        """The figure that comparisons use: the longer of the two, or the GPU's alone where graphs are captured."""
        return self.median_ms if self.graphs or self.call_ms is None else max(self.median_ms, self.call_ms)

    def by_gpu_alone(self) -> Measured:
        """The same where calls are captured in CUDA graphs."""
        return replace(self, graphs=True)

    @property
    def label(self) -> str:
        """`measured`."""
        return "measured"


@dataclass(frozen=True)
class Modelled:
    """A time from the model: no GPU was asked.

    Attributes:
        time_ms: predicted, milliseconds; the figure that comparisons use.
        gpu: the target's name.
        limit: what binds on the GPU (`dram`, `tensor`, `issue`, `latency`, `launch`).
        parts: name of each step of the forward pass -> its predicted milliseconds on the GPU.
        on_gpu_ms: that the GPU works in a call; None in records of versions that had no other time.
        host_ms: that the host needs to enqueue a call; None in the same ones.
    """

    time_ms: float
    gpu: str
    limit: str
    parts: Mapping[str, float] = field(default_factory=dict)
    on_gpu_ms: float | None = None
    host_ms: float | None = None

    @property
    def gpu_ms(self) -> float:
        """Milliseconds that the GPU works in a call."""
        return self.time_ms if self.on_gpu_ms is None else self.on_gpu_ms

    @property
    def call_ms(self) -> float | None:
        """The longer of the GPU's time and the host's, milliseconds; None where the host's is not known."""
        return None if self.host_ms is None else max(self.gpu_ms, self.host_ms)

    def by_call(self) -> Modelled:
        """The same where calls are made one by one: the longer of the two times decides."""
        return self if self.call_ms is None else replace(self, time_ms=self.call_ms)

    def by_gpu_alone(self) -> Modelled:
        """The same where calls are captured in CUDA graphs: the GPU's time alone decides."""
        return replace(self, time_ms=self.gpu_ms)

    @property
    def label(self) -> str:
        """`modelled`."""
        return "modelled"


Timing = Measured | Modelled


def bound_by(timing: Timing) -> str:
    """`host` where a call takes longer than the GPU's work in it, else `GPU`; empty where one time alone is known."""
    if timing.call_ms is None:
        return ""
    return "host" if timing.time_ms > HOST_BINDS_FROM * timing.gpu_ms else "GPU"


@dataclass(frozen=True)
class Work:
    """What a task must do at least, whatever the implementation.

    Attributes:
        read_bytes: every input and parameter once.
        written_bytes: every output once.
        matrix_operations: multiplications and additions of matrix products and convolutions, after algebra.
        scalar_operations: the rest.
    """

    read_bytes: int
    written_bytes: int
    matrix_operations: int
    scalar_operations: int

    @property
    def total_bytes(self) -> int:
        """Bytes that must move between device memory and the chip."""
        return self.read_bytes + self.written_bytes
