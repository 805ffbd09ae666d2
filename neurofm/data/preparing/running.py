"""One run over many recordings into one store: counting, sealing on the way, quarantine, the end.

What is done for a recording, and which recordings need it, is the business of `prepare` and
`neurofm.data.tokenized`; the recordings' documents in the store are the truth about what is done.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from neurofm.data.preparing.executors import Executor, open_executor
from neurofm.data.preparing.journal import Journal
from neurofm.data.preparing.lock import only_driver
from neurofm.data.preparing.outcomes import Outcome
from neurofm.data.preparing.preparation import Prepared
from neurofm.data.preparing.problems import PROBLEMS, Quarantined, quarantined, write_problems
from neurofm.data.preparing.progress import Shown
from neurofm.io.stores.files import LocalFiles, remove_partial
from neurofm.io.stores.manifest import read_manifest, seal
from neurofm.types import Recording

log = logging.getLogger(__name__)
JOURNAL = "journal.jsonl"
SEAL_S = 60.0
# Errors of the store's disk: they would meet every other recording too.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SEALING = 0.02  # part of the time that sealing on the way may take


class Run:
    """One run over recordings: what was found, done and left out.

    Args:
        store: Its folder, which exists.
        about: What the manifest says of how it was made.
        name: Of the dataset, for messages.
        command: What is done, "prepare" or "tokenize".
        strict: Stop at the first bad recording.
        seal_s: See `prepare_corpus`.
    """

    def __init__(
        self,
        store: Path,
        about: dict[str, Any],
        journal: Journal,
        counter: Shown,
        *,
        name: str,
        command: str = "prepare",
        strict: bool = False,
        seal_s: float = SEAL_S,
    ) -> None:
        self.store, self._about, self.name, self.command = store, about, name, command
        self.journal, self.counter, self.strict = journal, counter, strict
        self.keys: list[str] = []
        self.tried: set[str] = set()
        self.problems: dict[str, Quarantined] = {}
        self.notes: dict[str, tuple[int, str]] = {}
        self.coarse = [0, 0]  # recordings, channels
        self._seal_s = seal_s
        self._over = threading.Event()

    def do(
        self,
        work: Callable[[Any], Prepared],
        jobs: Iterator[Any],
        *,
        executor: str | Executor,
        workers: int | None,
        scheduler: str | None,
    ) -> None:
        """Work on the jobs, if there are any, and seal; another driver is waited for.

        Args:
            work: Callable that can be pickled.
            jobs: Each has a `recording`.
            executor: So `workers` and `scheduler`, as in `prepare_corpus`.

        Raises:
            Exception: As `prepare_corpus`.
        """
        first = next(jobs, None)
        if first is None and self.sealed():
            return
        with only_driver(self.store, tell=self.counter.say), self.sealing():
            if first is not None:
                with _opened(executor, workers, scheduler) as chosen:
                    self._map(chosen, work, chain([first], jobs))

    def _map(
        self, executor: Executor, work: Callable[[Any], Prepared], jobs: Iterator[Any]
    ) -> None:
        self.counter.begin(executor.workers)
        with closing(executor.imap_unordered(work, jobs)) as outcomes:
            for outcome in outcomes:
                self._take(outcome)
                self.counter.workers = executor.workers

    def _take(self, outcome: Outcome[Any, Prepared]) -> None:
        recording, failure = outcome.item.recording, outcome.failure
        if outcome.result is not None:
            self.journal.note(outcome.result.hashed, outcome.result.finished)
            self.count(recording, outcome.result)
        elif failure is not None:
            if failure.errno in _DISK:
                raise self._disk_error(failure.errno) from failure.error
            if self.strict:
                raise failure.exception()
            self.tried.add(recording.id)
            self.problems[recording.id] = quarantined(outcome, recording.path)
            self.counter.advance(None, made=False)

    def count(self, recording: Recording, prepared: Prepared) -> None:
        """A recording that is done, now or before."""
        self.tried.add(recording.id)
        self.keys.append(prepared.key)
        for about, text in dict(prepared.notes).items():
            count, example = self.notes.get(about, (0, text))
            self.notes[about] = (count + 1, example)
        if prepared.finished.coarse:
            self.coarse[0] += 1
            self.coarse[1] += prepared.finished.coarse
        self.counter.advance(prepared.seconds, made=prepared.made, tokens=prepared.tokens)

    def sealed(self) -> bool:
        """Whether readers of the store see all that is there, and nothing that was left out."""
        try:
            manifest, index = read_manifest(LocalFiles(self.store), str(self.store))
        except (OSError, ValueError):
            return not self.keys
        same = manifest["about"] == self._about and not (self.store / PROBLEMS).exists()
        return same and set(self.keys) <= set(index.pools["key"])

    @contextmanager
    def sealing(self) -> Iterator[None]:
        """Seal now and then, and at the end, whatever the end is; remove what dead writers left."""
        self._clean()
        thread = threading.Thread(target=self._seal_now_and_then, name="sealing", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._over.set()
            thread.join()
            # What is complete becomes readable, unless the disk is too full for that as well.
            with suppress(OSError):
                self._seal()
            raise
        finally:
            self._over.set()
            thread.join()
        self._seal()
        # Workers of a driver that was killed may have lived a moment longer.
        self._clean()

    def _seal_now_and_then(self) -> None:
        pause, sealed = max(self._seal_s, 0.1), 0
        while not self._over.wait(pause):
            if len(self.keys) == sealed:
                continue
            start, sealed = time.monotonic(), len(self.keys)
            try:
                self._seal()
            except OSError as error:  # the recordings will meet it too, or the last sealing
                log.info("%s %s: not sealed on the way: %s", self.command, self.store, error)
            pause = max(self._seal_s, 0.1, (time.monotonic() - start) / _SEALING)

    def _seal(self) -> None:
        if self.keys:
            seal(self.store, keys=list(self.keys), about=self._about)
        write_problems(self.store, dict(self.problems), set(self.tried))

    def _clean(self) -> None:
        remove_partial(self.store / "recordings")
        remove_partial(self.store)

    def _disk_error(self, number: int | None) -> OSError:
        return OSError(
            number,
            f"{os.strerror(number or 0)} after {len(self.keys)} of {self.counter.total} "
            "recordings; these are complete. Free some space (or give another folder with "
            "--store) and run the same command again",
            str(self.store),
        )

    def report(self, total: int) -> None:
        """Log and warn about what the run met.

        Args:
            total: Recordings that were asked for.

        Raises:
            ValueError: No recording could be prepared.
        """
        name, problems = self.name, self.problems
        done = f"{self.command}d"
        listed = "; ".join(f"{key}: {reason}" for key, reason in list(problems.items())[:3])
        if not self.keys:
            raise ValueError(
                f"{self.command} {name}: none of {total} recordings could be {done}. {listed}"
            )
        if problems:
            log.warning(
                "%s %s: %d of %d recordings could not be %s: %s (all reasons: %s)",
                self.command,
                name,
                len(problems),
                total,
                done,
                listed,
                self.store / PROBLEMS,
            )
        for count, example in self.notes.values():
            log.warning("%s %s: %d of %d recordings: %s", self.command, name, count, total, example)
        if self.coarse[0]:
            warnings.warn(
                f"prepare {name}: in {self.coarse[0]} of {len(self.keys)} recordings, "
                f"{self.coarse[1]} channels in all have an int16 step above a tenth of their "
                "amplitude (a large offset or artefact). High-pass or clip them, or use dtype "
                "float32.",
                stacklevel=3,
            )


@contextmanager
def _opened(
    executor: str | Executor, workers: int | None, scheduler: str | None
) -> Iterator[Executor]:
    if not isinstance(executor, str):
        yield executor
        return
    with closing(open_executor(executor, workers=workers, scheduler=scheduler)) as opened:
        yield opened
