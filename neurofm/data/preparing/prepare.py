"""Recordings to a store, once: load, preprocess, write; resumable at any moment.

Every prepared recording has a key: a hash of its source files' contents, the card's rules, the
steps, the sample type and `CODE_VERSION`. A key that is in the store, whole, is not made again; a
rewritten source or a changed rule has another key, so that recording and no other is rebuilt. Each
combination of dataset, steps and sample type has a folder of its own.

`prepare_corpus` maps `prepare_recording` over an executor. The recordings' documents in the store
are the truth about what is done: a run of which any part was killed continues where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from neurofm.data.preparing.executors import Executor
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
from neurofm.data.preparing.preparation import MEMORY, Job, Preparation, Prepared
from neurofm.data.preparing.progress import shown
from neurofm.data.preparing.running import JOURNAL, SEAL_S, Run
from neurofm.types import Recording


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
    about = {"dataset": corpus.name, "steps": step_specs(steps), "dtype": dtype}
    with (
        closing(Journal(store / JOURNAL, believe=not rehash)) as journal,
        shown(corpus.name, len(recordings), progress) as counter,
    ):
        run = Run(store, about, journal, counter, name=corpus.name, strict=strict, seal_s=seal_s)
        jobs = _unfinished(run, work, recordings)
        run.do(work, jobs, executor=executor, workers=workers, scheduler=scheduler)
    run.report(len(recordings))
    return store


def _unfinished(run: Run, work: Preparation, recordings: Sequence[Recording]) -> Iterator[Job]:
    """Jobs for recordings that may need work, as they are asked for; counts the others."""
    folders = Folders()
    rules, steps = rules_hash(work.corpus.card), steps_hash(work.steps)
    for recording in recordings:
        sources: tuple[Path, ...] | None = None
        known: dict[str, Hashed] = {}
        with suppress(OSError, ValueError):  # the worker meets it too, and says so
            sources = tuple(all_sources(work.corpus, recording, folders=folders))
            known = run.journal.known(sources)
        if sources is not None and len(known) == len(sources):
            hashes = {path: item.sha256 for path, item in known.items()}
            parts = key_parts(recording, hashes, rules=rules, steps=steps, dtype=work.dtype)
            found = run.journal.finished(run.store, parts.key(recording))
            if found is not None:
                run.count(recording, Prepared(found, made=False))
                continue
        yield Job(recording, sources, known)
