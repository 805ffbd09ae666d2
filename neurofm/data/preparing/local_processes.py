"""Worker processes of this machine, one `concurrent.futures` pool of one process each.

A pool that loses a process fails everything it was given; with one pool per worker, a crash
(SIGKILL, out of memory, a fault in compiled code) costs one attempt of one item, and its worker is
replaced. Processes are spawned, so no lock or thread of this process is copied into them; each
may use one thread, so that sums have one order whatever the number of workers. They ignore Ctrl-C,
which is this process' to handle, and end when this process does, however it ends.

Only the standard library is imported here, see `neurofm.data.preparing.outcomes`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from neurofm.data.preparing.outcomes import Backlog, Failure, Outcome, Task, attempt

T = TypeVar("T")
R = TypeVar("R")

# Variables that numerical libraries read when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_START_S = 60.0  # s that a process may take to become ready
_STARTS = 3  # processes in a row that may die before they are ready
_Done = queue.SimpleQueue[tuple["_Lane", Future[Any]]]

_work: Callable[[Any], Any] | None = None  # what this worker process does


class LocalProcesses:
    """An `Executor` of local processes.

    Args:
        workers: Processes; one per usable core if not given.
        attempts: How often an item may meet the death of its worker before it is given up.
    """

    def __init__(self, workers: int | None = None, *, attempts: int = 3) -> None:
        self.workers = usable_cores() if workers is None else workers
        if self.workers < 1:
            raise ValueError(f"executor processes: {workers} workers, expected at least 1.")
        self.attempts = attempts

    def imap_unordered(
        self, work: Callable[[T], R], items: Iterable[T]
    ) -> Generator[Outcome[T, R], None, None]:
        """See `Executor`. One item is under way per worker: handing over takes 0.2 ms."""
        blob = portable(work, "executor processes")
        backlog = Backlog(items, self.attempts)
        done: _Done = queue.SimpleQueue()
        idle: list[_Lane] = []
        busy: dict[_Lane, Task[T]] = {}
        stillborn = 0
        try:
            while True:
                while len(busy) < self.workers and (tasks := backlog.take(busy=len(busy))):
                    lane = idle.pop() if idle else _Lane(blob, done)
                    busy[lane] = tasks[0]
                    lane.submit(tasks[0])
                if not busy:
                    return
                lane, future = done.get()
                task = busy.pop(lane)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    started, reason = lane.bury()
                    if started:
                        yield from backlog.died([task], reason)
                        continue
                    stillborn += 1
                    if stillborn >= _STARTS:
                        times = f"{_STARTS} times {reason} before it was ready"
                        raise ChildProcessError(_cannot_start(lane, times)) from error
                    backlog.put_back(task)
                    continue
                stillborn = 0
                idle.append(lane)
                if lane.failure():
                    raise ChildProcessError(_cannot_start(lane, "a worker process failed"))
                if error is not None:  # its result could not be sent, say
                    yield Outcome(task.item, failure=Failure.of(error), attempts=task.attempt)
                    continue
                result, failure, seconds = future.result()
                yield Outcome(task.item, result, failure, task.attempt, seconds)
        finally:
            for lane in busy:
                lane.kill()
            for lane in [*idle, *busy]:
                lane.close()

    def close(self) -> None:
        """Nothing is left: every call of `imap_unordered` ends its own processes."""


class _Lane:
    """One worker process."""

    def __init__(self, blob: bytes, done: _Done) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_become_worker,
        )
        self._done = done
        self._process: BaseProcess | None = None
        self._ready = self._pool.submit(_receive, blob)
        self._ready.add_done_callback(self._find)

    def _find(self, ready: Future[int]) -> None:
        if ready.exception() is None:
            pid = ready.result()
            found = [item for item in multiprocessing.active_children() if item.pid == pid]
            self._process = found[0] if found else None

    def submit(self, task: Task[Any]) -> None:
        try:
            future = self._pool.submit(_call, task)
        except BrokenProcessPool as error:  # it died while it had nothing to do
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda done: self._done.put((self, done)))

    def failure(self) -> str:
        """Why the process did not become ready, "" if that is unknown."""
        error = self._ready.exception() if self._ready.done() else None
        known = error is not None and not isinstance(error, BrokenProcessPool)
        return f" ({type(error).__name__}: {error})" if known else ""

    def bury(self) -> tuple[bool, str]:
        """Whether the dead process had been ready, and how it ended in words."""
        started = self._ready.done() and self._ready.exception() is None
        self._pool.shutdown(wait=True)
        code = None if self._process is None else self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
            return started, f"its worker process was ended by {name}{hint}"
        return started, "its worker process died" + (f" (exit code {code})" if code else "")

    def kill(self) -> None:
        """End the process now; files are written so that this harms none."""
        # By its number: other threads may be changing multiprocessing's list of children.
        with suppress(Exception):  # it never started, or is gone
            os.kill(self._ready.result(timeout=_START_S), signal.SIGKILL)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def portable(work: Callable[..., Any], where: str) -> bytes:
    """The work as bytes for another process.

    Raises:
        ValueError: It cannot be sent.
    """
    try:
        return pickle.dumps(work)
    except Exception as error:
        raise ValueError(
            f"{where}: the corpus or a step cannot be sent to another process ({error}). Define "
            "its class at the top of an importable module, or use the executor inprocess."
        ) from error


def one_thread() -> None:
    """Let numerical libraries of this process use one thread, loaded already or not."""
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    # Now and not above: the variables come before any numerical library.
    import threadpoolctl

    threadpoolctl.threadpool_limits(limits=1)


def _cannot_start(lane: _Lane, reason: str) -> str:
    return (
        f"executor processes: {reason}{lane.failure()}. A script that prepares in processes needs "
        '`if __name__ == "__main__":` around its commands; classes of your own must be importable '
        "by their module's name."
    )


def _become_worker() -> None:
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the parent: a pool's process would wait for ever for the work of a dead one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _receive(blob: bytes) -> int:
    global _work
    _work = pickle.loads(blob)
    one_thread()
    return os.getpid()


def _call(task: Task[Any]) -> tuple[Any, Failure | None, float]:
    if _work is None:  # `_receive` came first, a pool of one is a queue: it failed
        raise RuntimeError("this worker has received no work")
    return attempt(_work, task)
