"""Times: measured on a GPU, or modelled. Different types, so that they never share a column unlabelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """A time from a GPU.

    Attributes:
        median_ms, low_ms, high_ms: median, 20th and 80th percentile of the samples, milliseconds.
        samples: how many.
        gpu: name as the driver gives it.
        method: how it was taken (`CUDA events, cold L2`).
    """

    median_ms: float
    low_ms: float
    high_ms: float
    samples: int
    gpu: str
    method: str

    @property
    def time_ms(self) -> float:
        """The figure that comparisons use."""
        return self.median_ms

    @property
    def label(self) -> str:
        """`measured`."""
        return "measured"


@dataclass(frozen=True)
class Modelled:
    """A time from the model: no GPU was asked.

    Attributes:
        time_ms: predicted, milliseconds.
        gpu: the target's name.
        limit: what binds (`dram`, `tensor`, `issue`, `latency`, `launch`).
        parts: name of each step of the forward pass -> its predicted milliseconds.
    """

    time_ms: float
    gpu: str
    limit: str
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`modelled`."""
        return "modelled"


Timing = Measured | Modelled


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
