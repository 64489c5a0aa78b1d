"""Work on the workers of a Ray cluster, each of them alone on its GPU.

A worker is a Ray actor: one for each GPU of the cluster, or one for each of its CPUs where it has none. A worker that
is lost costs the work that it had in hand a new start on another one. What travels is values of floor 0; candidates
still run in the sandbox of the machine that they are sent to.
"""

from __future__ import annotations

import logging
import math
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Any, TypeVar

from tilewright.errors import TilewrightError

Result = TypeVar("Result")

#: Times that one piece of work is started, at most: what ends every worker that takes it is at fault itself.
STARTS = 4


class FleetError(TilewrightError):
    """A fleet cannot be used, or has lost what it worked on; the message says why."""


class Fleet:
    """The workers of a Ray cluster.

    Attributes:
        size: how many workers there are.
        gpus: how many of them have a GPU: all of them, or none.
    """

    def __init__(self, workers: int | None = None) -> None:
        """Joins the cluster that RAY_ADDRESS names, or starts one on this machine.

        Args:
            workers: how many workers at most; by default one for each GPU, or for each CPU where there is none.

        Raises:
            FleetError: Ray is not installed, or the cluster cannot be reached.
        """
        self._ray = _import_ray()
        self._started = _join(self._ray)
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        there = gpus or max(1, math.floor(resources.get("CPU", 1)))
        self.size = max(1, min(there, workers or there))
        self.gpus = self.size if gpus else 0
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.size):
            self._idle.put(self._new_worker())

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """`function(*arguments)` on a worker that is idle, or will be; again on another one where it was lost.

        Raises:
            FleetError: it ended every worker that took it.
            Exception: what the function raised.
        """
        errors = self._ray.exceptions
        for _ in range(STARTS):
            worker = self._idle.get()
            try:
                result: Result = self._ray.get(worker.run.remote(function, arguments))
            except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError):
                worker = self._new_worker()
                continue
            except errors.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            finally:
                self._idle.put(worker)
            return result
        raise FleetError(f"{STARTS} workers in a row were lost while they worked on the same thing")

    def each(
        self, function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Result | FleetError]]:
        """`function(*job)` for every job, on all workers: (number of the job, result) as they come.

        In the place of the result of a job that ended every worker that took it stands the error.
        """

        def result_or_error(*job: Any) -> Result | FleetError:
            try:
                return self.call(function, *job)
            except FleetError as error:
                return error

        with ThreadPoolExecutor(self.size) as threads:
            asked = {threads.submit(result_or_error, *job): number for number, job in enumerate(jobs)}
            for done in as_completed(asked):
                yield asked[done], done.result()

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        while not self._idle.empty():
            self._ray.kill(self._idle.get())
        if self._started:
            self._ray.shutdown()

    def _new_worker(self) -> Any:
        options = {"num_gpus": 1, "num_cpus": 0} if self.gpus else {"num_cpus": 1}
        return self._ray.remote(_Worker).options(max_restarts=0, **options).remote()


class _Worker:
    """What a Ray actor runs."""

    def run(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """The function's result."""
        return function(*arguments)


def _import_ray() -> Any:
    # Ray counts usage by a message to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker is told its GPU where it has one; without one, what is visible stays as it was.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise FleetError("Ray is not installed", hint="pip install 'tilewright[fleet]'") from None
    return ray


def _join(ray: Any) -> bool:
    """Join the cluster; returns whether it was started here."""
    if ray.is_initialized():
        return False
    quiet = {"configure_logging": True, "logging_level": logging.ERROR, "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address=address, include_dashboard=None if address else False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FleetError(f"the Ray cluster cannot be used: {text}", hint="see RAY_ADDRESS") from None
    return address is None
