"""Which edits help with what holds a kernel back: the diagnosis orders what is tried first."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tilewright.proposers.retune.edit import Proposal

#: Rule of the diagnosis -> edits that act on that cause.
HELPS: Mapping[str, frozenset[str]] = {
    "small-tile": frozenset({"retile", "group_programs", "resolve_autotune"}),
    "too-few-programs": frozenset({"retile"}),
    "spills": frozenset({"retile", "warps_and_stages"}),
    "register-limit": frozenset({"retile", "warps_and_stages"}),
    "shared-limit": frozenset({"retile", "warps_and_stages"}),
    "wasted-sectors": frozenset({"coarsen_programs", "turn_programs", "flatten_addresses"}),
    "latency": frozenset({"accumulate_tiles", "coarsen_programs", "retile", "warps_and_stages"}),
    "tail-wave": frozenset({"retile", "warps_and_stages"}),
}

#: What a proposal gains in rank for the first diagnosed cause that one of its edits acts on, as a factor on its
#: promised gain. Assumption: enough to go before what acts on none, too little to go before a far better promise.
BOOST = 1.3


def boost(proposal: Proposal, causes: Collection[str]) -> float:
    """The factor on a proposal's promise for the causes (names of rules) that were diagnosed."""
    helped = {edit for cause in causes for edit in HELPS.get(cause, ())}
    return BOOST if helped.intersection(proposal.edits) else 1.0
