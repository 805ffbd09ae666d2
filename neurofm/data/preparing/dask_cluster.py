"""A Dask cluster: of this machine, or any that a scheduler's address leads to.

Slurm, Kubernetes and clouds start schedulers and workers through packages of their own
(dask-jobqueue and its kin); here only the address is needed. The work is sent as one task whose
result Dask keeps: each worker fetches it once, and it is made again if all that held it are gone.
Recordings that take milliseconds travel several to a task, because a task costs a scheduler
1-4 ms; which they are depends on what the last ones took.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

from neurofm.compat import optional
from neurofm.data.preparing.local_processes import one_thread, portable, usable_cores
from neurofm.data.preparing.outcomes import Backlog, Failure, Outcome, Task, attempt

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

_TASK_S = 0.25  # work that one task should hold at least
_MOST = 64  # items of one task at most
_AHEAD = 2  # tasks per thread of the cluster: one at work, one at hand
_COUNT_S = 2.0  # how often the cluster is asked for its size
_CONNECT_S = 30.0  # how long a scheduler may take to answer
_PATIENCE_S = 30.0  # how often the lack of workers is told

_serial = threading.Lock()
_single_threaded = False


class DaskCluster:
    """An `Executor` on a Dask cluster.

    Args:
        scheduler: Address ("tcp://host:8786") or scheduler file; a cluster of local processes is
            started, and ended by `close`, if not given.
        workers: Of the local cluster, one per usable core if not given. With an address: how many
            tasks to keep at hand for a cluster that grows on demand.

    Raises:
        ImportError: Dask is not installed.
        OSError: No scheduler answers.
    """

    def __init__(self, scheduler: str | None = None, *, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"executor dask: {workers} workers, expected at least 1.")
        self._distributed: Any = optional("distributed")
        self._cluster: Any = None
        self._hoped = workers or 0
        self._counted = (0.0, 0)
        if scheduler is None:
            # A death is told at once; `Backlog` decides who is tried again, and when.
            with optional("dask").config.set({"distributed.scheduler.allowed-failures": 0}):
                self._cluster = self._distributed.LocalCluster(
                    n_workers=workers or usable_cores(),
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    memory_limit=0,  # ours is `memory`; Dask would pause or kill by its own
                    silence_logs=logging.CRITICAL,
                )
            self._client = self._distributed.Client(self._cluster)
            self.attempts = 3
            return
        where = os.path.expanduser(scheduler)
        given = {"scheduler_file": where} if os.path.isfile(where) else {"address": scheduler}
        try:
            self._client = self._distributed.Client(**given, timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            raise OSError(
                f"executor dask: no scheduler answers at {scheduler} ({error}). Give the address "
                "that `dask scheduler` prints, or the file of its option --scheduler-file."
            ) from error
        self.attempts = 2  # Dask itself tries three times before it tells

    @property
    def workers(self) -> int:
        """Threads of the cluster now."""
        at, count = self._counted
        if time.monotonic() - at > _COUNT_S:
            count = sum(self._client.nthreads().values())
            self._counted = (time.monotonic(), count)
        return count

    def imap_unordered(
        self, work: Callable[[T], R], items: Iterable[T]
    ) -> Generator[Outcome[T, R], None, None]:
        """See `Executor`.

        Raises:
            ChildProcessError: The workers cannot load the work.
            ConnectionError: The scheduler is gone.
        """
        run = uuid.uuid4().hex[:12]
        blob = portable(work, "executor dask")
        shared = self._client.submit(_load, blob, key=f"neurofm-work-{run}", pure=False)
        self._await(shared)
        backlog = Backlog(items, self.attempts)
        done: queue.SimpleQueue[str] = queue.SimpleQueue()
        live: dict[str, tuple[Any, list[Task[T]]]] = {}
        size, count = 1, 0

        def tell(future: Any) -> None:
            done.put(future.key)

        try:
            while True:
                while len(live) < self._room():
                    tasks = backlog.take(busy=len(live), most=size)
                    if not tasks:
                        break
                    key, count = f"neurofm-prepare-{run}-{count}", count + 1
                    # As bytes: Dask would look for its own keys in what it is given.
                    blobs = [pickle.dumps(task) for task in tasks]
                    future = self._client.submit(_call, shared, blobs, key=key, pure=False)
                    live[key] = (future, tasks)
                    future.add_done_callback(tell)
                if not live:
                    return
                for future, tasks in self._ended(done, live):
                    if future.status in ("pending", "lost"):  # its worker died after it was done
                        live[future.key] = (future, tasks)
                        future.add_done_callback(tell)
                        continue
                    try:
                        results = list(zip(tasks, future.result(), strict=True))
                    except Exception as error:
                        yield from self._unfinished(error, future, tasks, backlog)
                        continue
                    mean = sum(seconds for _, (_, _, seconds) in results) / len(results)
                    size = max(1, min(_MOST, 2 * size, round(_TASK_S / max(mean, 1e-6))))
                    for task, (result, failure, seconds) in results:
                        yield Outcome(task.item, result, failure, task.attempt, seconds)
        finally:
            self._client.cancel([future for future, _ in live.values()], force=True)
            shared.release()

    def _ended(
        self, done: queue.SimpleQueue[str], live: dict[str, tuple[Any, list[Task[T]]]]
    ) -> list[tuple[Any, list[Task[T]]]]:
        """What ended since the last call; waits for the first."""
        keys: list[str] = []
        while not keys:
            try:
                keys.append(done.get(timeout=_PATIENCE_S))
            except queue.Empty:
                self._tell_if_deserted()
        while not done.empty():
            keys.append(done.get())
        return [live.pop(key) for key in keys if key in live]

    def _unfinished(
        self, error: Exception, future: Any, tasks: Sequence[Task[T]], backlog: Backlog[T]
    ) -> list[Outcome[T, Any]]:
        if future.status == "cancelled":
            raise ConnectionError(
                f"executor dask: the scheduler is gone or has dropped the work ({error}). What is "
                "finished is kept: run the same command again."
            ) from error
        if isinstance(error, self._distributed.KilledWorker):
            where = getattr(error.last_worker, "address", "")
            return backlog.died(tasks, f"its worker process died ({where})")
        return [
            Outcome(task.item, failure=Failure.of(error), attempts=task.attempt) for task in tasks
        ]

    def _room(self) -> int:
        return _AHEAD * max(self.workers, self._hoped, 1)

    def _await(self, shared: Any) -> None:
        while True:
            try:
                self._distributed.wait(shared, timeout=_PATIENCE_S)
                break
            except TimeoutError:
                self._tell_if_deserted()
        if shared.status != "finished":
            error = shared.exception() if shared.status == "error" else shared.status
            raise ChildProcessError(
                f"executor dask: the workers cannot load the work ({type(error).__name__}: "
                f"{error}). They need the same packages as here; classes of your own must be "
                "importable by their module's name."
            )

    def _tell_if_deserted(self) -> None:
        if not self.workers:
            log.warning("executor dask: no workers at the scheduler yet; waiting for them.")

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def _load(blob: bytes) -> Callable[[Any], Any]:
    work: Callable[[Any], Any] = pickle.loads(blob)
    return work


def _call(
    work: Callable[[Any], Any], tasks: Sequence[bytes]
) -> list[tuple[Any, Failure | None, float]]:
    # Python's warnings and MNE's readers are not made for threads: one recording at a time.
    global _single_threaded
    with _serial:
        if not _single_threaded:
            one_thread()
            _single_threaded = True
        return [attempt(work, pickle.loads(task)) for task in tasks]
