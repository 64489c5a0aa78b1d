"""The peers: modes of torch.compile, which every result is compared with. What a user could have had without us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.errors import TilewrightError


@dataclass(frozen=True)
class Peer:
    """One way to compile the reference.

    Attributes:
        mode: of torch.compile.
        channels_last: parameters and inputs of 4 and 5 dims are brought into that layout first, outside of the timing.
    """

    mode: str
    channels_last: bool = False

    @property
    def name(self) -> str:
        """For people, and its label in a measurement."""
        return f"torch.compile in mode {self.mode}{', channels_last' if self.channels_last else ''}"


#: In the order in which they are compiled: what is cheap to compile first.
PEERS: tuple[Peer, ...] = (
    Peer("default"),
    Peer("default", channels_last=True),
    Peer("max-autotune-no-cudagraphs"),
    Peer("max-autotune-no-cudagraphs", channels_last=True),
)


def find_peer(name: str) -> Peer:
    """The peer of that name.

    Raises:
        TilewrightError: there is none.
    """
    for peer in PEERS:
        if peer.name == name:
            return peer
    raise TilewrightError(f"no peer is named {name!r}", hint=f"peers: {'; '.join(peer.name for peer in PEERS)}")


def peers_for(modes: Sequence[str], *, has_layouts: bool) -> tuple[Peer, ...]:
    """The peers of some modes.

    Args:
        modes: of torch.compile.
        has_layouts: there are inputs of 4 or 5 dims, or convolutions: channels_last means something.
    """
    return tuple(peer for peer in PEERS if peer.mode in modes and (has_layouts or not peer.channels_last))
