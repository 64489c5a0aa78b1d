"""A schedule: how a kernel's work is cut into programs, and what each program holds at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """One kernel's tile sizes, warps, pipeline stages and splits.

    Attributes:
        kernel: name of the kernel that it belongs to.
        tile: (constexpr name, elements) pairs in the order of the kernel's signature; powers of two.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline.
        split: programs that share one output tile; more than 1 means partial results and a finish.
    """

    kernel: str
    tile: tuple[tuple[str, int], ...]
    num_warps: int = 4
    num_stages: int = 2
    split: int = 1

    def describe(self) -> str:
        """One line for people: `BLOCK=1024, 4 warps, 2 stages`."""
        parts = [f"{name}={size}" for name, size in self.tile]
        parts += [f"{self.num_warps} warps", f"{self.num_stages} stages"]
        if self.split > 1:
            parts.append(f"split {self.split}")
        return ", ".join(parts)
