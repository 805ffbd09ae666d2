"""Recordings to a store, once: load, preprocess, write; resumable at any moment.

Every prepared recording has a key: a hash of its source files' contents, the card's rules, the
steps, the sample type and `CODE_VERSION`. A key that is in the store, whole, is not made again; a
rewritten source or a changed rule has another key, so that recording and no other is rebuilt. Each
combination of dataset, steps and sample type has a folder of its own.

`prepare_corpus` maps `prepare_recording` over an executor. The recordings' documents in the store
are the truth about what is done: a run of which any part was killed continues where it was.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path

from neurofm.data.preparing.executors import Executor, open_executor
from neurofm.data.preparing.journal import Hashed, Journal
from neurofm.data.preparing.keys import (
    CorpusLike,
    Folders,
    Step,
    all_sources,
    key_parts,
    rules_hash,
    step_specs,
    steps_hash,
    store_folder,
)
from neurofm.data.preparing.lock import only_driver
from neurofm.data.preparing.outcomes import Outcome
from neurofm.data.preparing.preparation import MEMORY, Job, Preparation, Prepared
from neurofm.data.preparing.problems import PROBLEMS, Quarantined, quarantined, write_problems
from neurofm.data.preparing.progress import Shown, shown
from neurofm.io.stores.files import LocalFiles, remove_partial
from neurofm.io.stores.manifest import read_manifest, seal
from neurofm.types import Recording

log = logging.getLogger(__name__)
JOURNAL = "journal.jsonl"
SEAL_S = 60.0
# Errors of the store's disk: they would meet every other recording too.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SEALING = 0.02  # part of the time that sealing on the way may take


def prepare_corpus(
    corpus: CorpusLike,
    steps: Sequence[Step],
    store_root: Path | str | None = None,
    *,
    subjects: Sequence[str | int] | None = None,
    runs: Sequence[str | int] | None = None,
    dtype: str = "int16",
    progress: bool = True,
    strict: bool = False,
    executor: str | Executor = "inprocess",
    workers: int | None = None,
    scheduler: str | None = None,
    memory: int = MEMORY,
    rehash: bool = False,
    seal_s: float = SEAL_S,
) -> Path:
    """Prepare a corpus, or the part of it that is asked for; what is done already is left alone.

    A recording that cannot be read or processed is listed in `problems.json` of the store, with
    the reason, and the others go on; the next run tries it again. Another driver that is at work on
    the same store is waited for.

    Args:
        steps: As made by `build_steps`.
        store_root: Folder of stores; `default_store_root()` if not given.
        dtype: "int16" or "float32".
        progress: Show a bar on the terminal, or lines in a log.
        strict: Stop at the first bad recording instead.
        executor: "inprocess", "processes", "dask", or an executor of your own, which stays open.
            The store's bytes are the same whichever it is.
        workers: Of an executor given by name.
        scheduler: Address or scheduler file of a Dask cluster.
        memory: Bytes for samples in each worker, see `prepare_recording`.
        rehash: Read every source file and every prepared sample again, whatever the journal of the
            store knows of them.
        seal_s: How often the store is sealed on the way, so that a killed driver leaves one that
            can be read; more seldom where that would take more than 2 % of the time.

    Returns:
        Folder of the store.

    Raises:
        ValueError: Nothing to prepare, or no recording could be prepared.
        OSError: The disk of the store is full or read-only; what is complete stays readable.
    """
    recordings = corpus.recordings(subjects=subjects, runs=runs)
    if not recordings:
        raise ValueError(
            f"prepare_corpus {corpus.name}: no recordings for subjects {subjects} and runs {runs} "
            f"in {corpus.root}. `neurofm check {corpus.name}` lists what is there."
        )
    store = store_folder(corpus.name, steps, store_root, dtype=dtype)
    (store / "recordings").mkdir(parents=True, exist_ok=True)
    work = Preparation(corpus, tuple(steps), store, dtype, memory, strict)
    with (
        closing(Journal(store / JOURNAL, believe=not rehash)) as journal,
        shown(corpus.name, len(recordings), progress) as counter,
    ):
        run = _Run(work, journal, counter, seal_s)
        jobs = run.unfinished(recordings)
        first = next(jobs, None)
        if first is not None or not run.sealed():
            with only_driver(store, tell=counter.say), run.sealing():
                if first is not None:
                    with _opened(executor, workers, scheduler) as chosen:
                        run.do(chosen, chain([first], jobs))
    run.report(len(recordings))
    return store


@contextmanager
def _opened(
    executor: str | Executor, workers: int | None, scheduler: str | None
) -> Iterator[Executor]:
    if not isinstance(executor, str):
        yield executor
        return
    with closing(open_executor(executor, workers=workers, scheduler=scheduler)) as opened:
        yield opened


class _Run:
    """One run over a corpus: what was found, done and left out."""

    def __init__(self, work: Preparation, journal: Journal, counter: Shown, seal_s: float) -> None:
        self.work, self.store = work, work.store
        self.journal, self.counter = journal, counter
        self.keys: list[str] = []
        self.tried: set[str] = set()
        self.problems: dict[str, Quarantined] = {}
        self.notes: dict[str, tuple[int, str]] = {}
        self.coarse = [0, 0]  # recordings, channels
        self._rules, self._steps = rules_hash(work.corpus.card), steps_hash(work.steps)
        self._about = {
            "dataset": work.corpus.name,
            "steps": step_specs(work.steps),
            "dtype": work.dtype,
        }
        self._seal_s = seal_s
        self._over = threading.Event()

    def unfinished(self, recordings: Sequence[Recording]) -> Iterator[Job]:
        """Jobs for recordings that may need work, as they are asked for; counts the others."""
        folders = Folders()
        for recording in recordings:
            sources: tuple[Path, ...] | None = None
            known: dict[str, Hashed] = {}
            with suppress(OSError, ValueError):  # the worker meets it too, and says so
                sources = tuple(all_sources(self.work.corpus, recording, folders=folders))
                known = self.journal.known(sources)
            if sources is not None and len(known) == len(sources):
                hashes = {path: item.sha256 for path, item in known.items()}
                parts = key_parts(
                    recording, hashes, rules=self._rules, steps=self._steps, dtype=self.work.dtype
                )
                found = self.journal.finished(self.store, parts.key(recording))
                if found is not None:
                    self._count(recording, Prepared(found, made=False))
                    continue
            yield Job(recording, sources, known)

    def do(self, executor: Executor, jobs: Iterator[Job]) -> None:
        """Work on the jobs.

        Raises:
            Exception: As `prepare_corpus`.
        """
        self.counter.begin(executor.workers)
        with closing(executor.imap_unordered(self.work, jobs)) as outcomes:
            for outcome in outcomes:
                self._take(outcome)
                self.counter.workers = executor.workers

    def _take(self, outcome: Outcome[Job, Prepared]) -> None:
        recording, failure = outcome.item.recording, outcome.failure
        if outcome.result is not None:
            self.journal.note(outcome.result.hashed, outcome.result.finished)
            self._count(recording, outcome.result)
        elif failure is not None:
            if failure.errno in _DISK:
                raise self._disk_error(failure.errno) from failure.error
            if self.work.strict:
                raise failure.exception()
            self.tried.add(recording.id)
            self.problems[recording.id] = quarantined(outcome, recording.path)
            self.counter.advance(None, made=False)

    def _count(self, recording: Recording, prepared: Prepared) -> None:
        self.tried.add(recording.id)
        self.keys.append(prepared.key)
        for about, text in dict(prepared.notes).items():
            count, example = self.notes.get(about, (0, text))
            self.notes[about] = (count + 1, example)
        if prepared.finished.coarse:
            self.coarse[0] += 1
            self.coarse[1] += prepared.finished.coarse
        self.counter.advance(prepared.seconds, made=prepared.made)

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
                log.info("prepare %s: not sealed on the way: %s", self.store, error)
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

        Raises:
            ValueError: No recording could be prepared.
        """
        name, problems = self.work.corpus.name, self.problems
        listed = "; ".join(f"{key}: {reason}" for key, reason in list(problems.items())[:3])
        if not self.keys:
            raise ValueError(
                f"prepare {name}: none of {total} recordings could be prepared. {listed}"
            )
        if problems:
            log.warning(
                "prepare %s: %d of %d recordings could not be prepared: %s. All reasons: %s",
                name,
                len(problems),
                total,
                listed,
                self.store / PROBLEMS,
            )
        for count, example in self.notes.values():
            log.warning("prepare %s: %d of %d recordings: %s", name, count, total, example)
        if self.coarse[0]:
            warnings.warn(
                f"prepare {name}: in {self.coarse[0]} of {len(self.keys)} recordings, "
                f"{self.coarse[1]} channels in all have an int16 step above a tenth of their "
                "amplitude (a large offset or artefact). High-pass or clip them, or use dtype "
                "float32.",
                stacklevel=3,
            )
