"""What a result is compared with beside the reference: measured with it, in the same run, where a GPU is."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.values.candidate import Candidate, Origin

_COMPILED = '''"""The reference under torch.compile, in its default mode."""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, reference):
        super().__init__()
        torch._inductor.config.compile_threads = 1  # the measuring process may start no others
        self.compiled = torch.compile(reference)

    def forward(self, *inputs):
        return self.compiled(*inputs)
'''

#: Name -> what is measured under it. Its time is shown; it is no candidate, and nothing is kept or reverted for it.
PEERS: Mapping[str, Candidate] = {
    "torch.compile": Candidate(_COMPILED, Origin.FILE, "torch.compile", needs_reference=True)
}

#: Seconds that compiling and measuring a peer may take. Assumption.
PEER_S = 90.0
