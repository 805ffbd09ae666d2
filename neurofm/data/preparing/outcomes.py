"""What became of each item that an executor works on, and who is tried again after a death.

Workers return failures as plain text (`Failure`), so that an exception that cannot be sent to
another process never hides the reason. Only the standard library is imported here: worker
processes read this before they decide how many threads numerical libraries may start.
"""

from __future__ import annotations

import itertools
import pickle
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_TAIL = 20  # lines of a traceback that are kept
WORKER_DIED = "WorkerDied"


@dataclass(frozen=True)
class Failure:
    """Why an item has no result.

    Args:
        type: Name of the exception, or `WORKER_DIED`.
        traceback: Its last lines.
        errno: Of an OSError.
        error: The exception itself where it could be sent here.
    """

    type: str
    message: str
    traceback: str = ""
    errno: int | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, error: BaseException, *, portable: bool = True) -> Failure:
        """A failure from an exception.

        Args:
            portable: It will be sent to another process, so keep only an exception that survives.
        """
        lines = "".join(traceback.format_exception(error)).splitlines()
        kept: Exception | None = error if isinstance(error, Exception) else None
        if portable:
            try:
                kept = pickle.loads(pickle.dumps(kept))
            except Exception:
                kept = None
        number = error.errno if isinstance(error, OSError) else None
        text = "\n".join(lines[-_TAIL:])
        return cls(type(error).__name__, str(error), text, number, kept)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"

    def exception(self) -> Exception:
        """Something to raise."""
        return ValueError(str(self)) if self.error is None else self.error


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """An item with its result, or with the reason why there is none.

    Args:
        attempts: How often it was tried; more than once only after a worker died.
        seconds: The time the work took.
    """

    item: T
    result: R | None = None
    failure: Failure | None = None
    attempts: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Task(Generic[T]):
    """An item on its way to a worker, for the `attempt`-th time."""

    item: T
    attempt: int = 1


def attempt(
    work: Callable[[T], R], task: Task[T], *, portable: bool = True
) -> tuple[R | None, Failure | None, float]:
    """Result, failure and seconds of one call; raises only what stops the whole process."""
    start = time.perf_counter()
    try:
        return work(task.item), None, time.perf_counter() - start
    except Exception as error:
        failure = Failure.of(error, portable=portable)
        return None, failure, time.perf_counter() - start


class Backlog(Generic[T]):
    """Items still to be done: new ones first, then those whose worker died.

    The last attempt of an item runs with no other at work. So an item is never blamed for the death
    of a worker that it shared, and what needs much memory gets all there is before it is given up.

    Args:
        items: Taken one at a time; 100,000 of them cost no memory here.
        attempts: How often an item may meet the death of its worker.
    """

    def __init__(self, items: Iterable[T], attempts: int) -> None:
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}, expected at least 1.")
        self._items = iter(items)
        self._again: deque[Task[T]] = deque()
        self._attempts = attempts
        self._alone = False

    def take(self, *, busy: int, most: int = 1) -> list[Task[T]]:
        """What to start next, at most `most`; empty if nothing may start now.

        Args:
            busy: How many are at work.
        """
        if not busy:
            self._alone = False
        if self._alone:
            return []
        fresh = [Task(item) for item in itertools.islice(self._items, most)]
        if fresh or not self._again:
            return fresh
        last = self._again[0].attempt >= self._attempts
        if last and busy:
            return []
        self._alone = last
        return [self._again.popleft()]

    def died(self, tasks: Sequence[Task[T]], reason: str) -> list[Outcome[T, Any]]:
        """Take back what a dead worker held; outcomes of those that had their last attempt."""
        given_up: list[Outcome[T, Any]] = []
        for task in tasks:
            if task.attempt < self._attempts:
                self._again.append(Task(task.item, task.attempt + 1))
                continue
            message = f"{reason} in {task.attempt} of {task.attempt} attempts"
            if task.attempt > 1:
                message += ", the last with nothing else at work"
            failure = Failure(WORKER_DIED, f"{message}.")
            given_up.append(Outcome(task.item, failure=failure, attempts=task.attempt))
        return given_up

    def put_back(self, task: Task[T]) -> None:
        """Try this again as if it had not been started."""
        self._again.append(task)
