"""Where recordings are worked on: this process, local processes, or a Dask cluster.

All three map the same callable; what it writes does not depend on where it runs: numerical
libraries use one thread everywhere, because sums of several threads have another order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Protocol, TypeVar, runtime_checkable

import threadpoolctl

from neurofm.data.preparing.dask_cluster import DaskCluster
from neurofm.data.preparing.local_processes import LocalProcesses
from neurofm.data.preparing.outcomes import Outcome, Task, attempt

T = TypeVar("T")
R = TypeVar("R")

EXECUTORS = ("inprocess", "processes", "dask")


@runtime_checkable
class Executor(Protocol):
    """Maps work over items."""

    @property
    def workers(self) -> int:
        """How many items can be at work at once, now."""
        ...

    def imap_unordered(
        self, work: Callable[[T], R], items: Iterable[T]
    ) -> Generator[Outcome[T, R], None, None]:
        """An outcome per item, in the order in which they end.

        The work is sent to each worker once. Items are taken from the iterable when there is room
        for them, so that a long corpus makes no long queue. An exception of the work, or the death
        of its worker, is an outcome; items whose worker died are tried again first. Closing the
        iterator stops what is under way.

        Args:
            work: Callable that can be pickled.
            items: Small objects that can be pickled.

        Raises:
            ValueError: The work cannot be sent to a worker.
            OSError: Workers cannot be started or reached.
        """
        ...

    def close(self) -> None:
        """Release what the executor holds."""
        ...


class InProcess:
    """An `Executor` that does one item after the other, here."""

    workers = 1

    def imap_unordered(
        self, work: Callable[[T], R], items: Iterable[T]
    ) -> Generator[Outcome[T, R], None, None]:
        """See `Executor`. A crash takes this process with it."""
        with threadpoolctl.threadpool_limits(limits=1):
            for item in items:
                result, failure, seconds = attempt(work, Task(item), portable=False)
                yield Outcome(item, result, failure, seconds=seconds)

    def close(self) -> None:
        """Nothing is held."""


def open_executor(
    name: str, *, workers: int | None = None, scheduler: str | None = None
) -> Executor:
    """An executor by its name.

    Args:
        name: "inprocess", "processes" or "dask".
        workers: As in `LocalProcesses` and `DaskCluster`.
        scheduler: Address or scheduler file of a Dask cluster.

    Raises:
        ValueError: An unknown name, or an option that does not belong to it.
    """
    if name not in EXECUTORS:
        raise ValueError(f"executor {name!r} is not one of {', '.join(EXECUTORS)}.")
    if scheduler is not None and name != "dask":
        raise ValueError(f"executor {name}: a scheduler ({scheduler}) goes with executor dask.")
    if name == "inprocess":
        if workers not in (None, 1):
            raise ValueError(
                f"executor inprocess: {workers} workers, but it is one. Use executor processes."
            )
        return InProcess()
    if name == "processes":
        return LocalProcesses(workers)
    return DaskCluster(scheduler, workers=workers)
