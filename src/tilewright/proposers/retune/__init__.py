"""Retune: a given Triton module, its schedule and its memory accesses edited, its meaning kept.

Each edit is a row of a table (`table.py`), works on LibCST's tree so that the code stays its author's, and declines
where it cannot show that the meaning stays. The gate has the last word on every candidate.
"""

from tilewright.proposers.retune.propose import MAX_CANDIDATES, retune
from tilewright.proposers.retune.stage_check import changes_between, stage_findings

__all__ = ["MAX_CANDIDATES", "changes_between", "retune", "stage_findings"]
