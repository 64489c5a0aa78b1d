"""What the user could have had without us: torch.compile's modes, measured by the same clock in every search."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, Future

from tilewright.measure.peers import Peer, peers_for
from tilewright.search.budget import Budget
from tilewright.search.effort import Effort
from tilewright.search.evaluate import Evaluator
from tilewright.search.ledger import Ledger
from tilewright.search.meter import Meter
from tilewright.search.understand import Understanding
from tilewright.task.task import Task
from tilewright.values.measurement import Measured

#: Compiling peers takes no more than this part of what is left of the run's time.
_MOST_OF_REST = 0.5


class Peers:
    """The peers of a run: compiled and timed while candidates are written, and timed again beside the result."""

    def __init__(
        self, task: Task, understanding: Understanding, effort: Effort, evaluator: Evaluator, ledger: Ledger
    ) -> None:
        """Where the given code is the specification there is no module to compile, and no peer."""
        modes = () if task.given_code_is_specification or not ledger.measures else effort.peer_modes
        self._asked = peers_for(modes, has_layouts=has_layouts(understanding))
        self._limit_s = effort.peers_s
        self._plan = effort.bounds.final
        self._evaluator = evaluator
        self._ledger = ledger
        self._begun: Future[Mapping[str, Measured]] | None = None

    def begin(self, pool: Executor, budget: Budget, meter: Meter) -> None:
        """Compile and time them, beside other work."""
        if self._asked:
            self._limit_s = min(self._limit_s, _MOST_OF_REST * budget.left_s)
            self._begun = pool.submit(self._first_times, meter)

    def _first_times(self, meter: Meter) -> Mapping[str, Measured]:
        with meter.on("peers"):
            return self._evaluator.measure([], self._plan, self._asked, self._limit_s, activity="")

    def settle(self) -> None:
        """Wait for their first times; once."""
        if self._begun is not None:
            times = self._begun.result()
            self._begun = None
            self._ledger.peers = {peer.name: times[peer.name] for peer in self._asked if peer.name in times}

    @property
    def timed(self) -> tuple[Peer, ...]:
        """Those that could be timed: they are measured again beside the result."""
        return tuple(peer for peer in self._asked if peer.name in self._ledger.peers)

    @property
    def limit_s(self) -> float:
        """Seconds that compiling them again may take, where their process is another one."""
        return self._limit_s

    @property
    def failures(self) -> Mapping[str, str]:
        """Name -> why there is no time of it."""
        failed = self._evaluator.peer_failures
        names = (peer.name for peer in self._asked)
        return {name: failed[name] for name in names if name in failed and name not in self._ledger.peers}


def has_layouts(understanding: Understanding) -> bool:
    """There are inputs of 4 or 5 dims, or convolutions."""
    shaped = any(len(shape) in (4, 5) for shape in understanding.input_shapes)
    return shaped or any("conv" in operation for operation in understanding.operations)
