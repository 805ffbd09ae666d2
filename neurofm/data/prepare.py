"""Recordings to a store, once: load, preprocess, write; resumable at any moment.

Every prepared recording has a key: a hash of its source files' contents, the card's rules, the
steps, the sample type and `CODE_VERSION`. A key that is in the store, whole, is not made again; a
rewritten source or a changed rule has another key, so that recording and no other is rebuilt. Each
combination of dataset, steps and sample type has a folder of its own.

`prepare_recording` depends on its arguments alone, so that any executor can map it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neurofm.data.keys import (
    CODE_VERSION,
    CorpusLike,
    Step,
    content_hash,
    recording_key,
    source_files,
    source_name,
    step_specs,
    store_folder,
)
from neurofm.io.files import remove_partial, write_document
from neurofm.io.manifest import seal
from neurofm.io.quality import RecordingWarning
from neurofm.io.store import read_record, write_recording
from neurofm.types import Recording

log = logging.getLogger(__name__)
# Errors of the store's disk: they would meet every other recording too.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Prepared:
    """What became of one recording.

    Args:
        seconds: Length of the prepared signal.
        made: False if the store had it already.
        coarse: Channels whose int16 step exceeds a tenth of their amplitude.
        notes: Warnings of the reader and the steps: what they are about, and their text.
    """

    key: str
    seconds: float
    made: bool
    coarse: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


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
) -> Path:
    """Prepare a corpus, or the part of it that is asked for; what is done already is left alone.

    A recording that cannot be read or processed is listed in `problems.json` of the store, with
    the reason, and the others go on.

    Args:
        steps: As made by `build_steps`.
        store_root: Folder of stores; `default_store_root()` if not given.
        dtype: "int16" or "float32".
        progress: Show a bar on the terminal.
        strict: Stop at the first bad recording instead.

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
    remove_partial(store / "recordings")
    remove_partial(store)
    about = {"dataset": corpus.name, "steps": step_specs(steps), "dtype": dtype}
    done: list[Prepared] = []
    problems: dict[str, str] = {}
    try:
        with _shown(corpus.name, len(recordings), progress) as advance:
            for recording in recordings:
                try:
                    prepared = prepare_recording(corpus, recording, steps, store, dtype=dtype)
                except Exception as error:
                    if isinstance(error, OSError) and error.errno in _DISK:
                        raise _disk_error(error, store, len(done), len(recordings)) from error
                    if strict:
                        raise
                    problems[recording.id] = f"{type(error).__name__}: {error}"
                    advance(None)
                    continue
                done.append(prepared)
                advance(prepared)
    except BaseException:
        # What is complete becomes readable, unless the disk is too full for that as well.
        with suppress(OSError):
            _seal(store, done, about)
        raise
    _seal(store, done, about)
    _note_problems(store, problems, {recording.id for recording in recordings})
    _report(corpus.name, done, problems, len(recordings), store)
    return store


def _seal(store: Path, done: list[Prepared], about: dict[str, Any]) -> None:
    if done:
        seal(store, keys=[item.key for item in done], about=about)


def prepare_recording(
    corpus: CorpusLike,
    recording: Recording,
    steps: Sequence[Step],
    store: Path,
    *,
    dtype: str = "int16",
) -> Prepared:
    """Prepare one recording unless the store has it, whole.

    Raises:
        ValueError: As raised by the reader or a step, or the source changed while it was read.
        OSError: As raised while reading or writing.
    """
    sources = source_files(recording)
    before = [file.stat() for file in sources]
    content = content_hash(sources)
    specs = step_specs(steps)
    key = recording_key(corpus, recording, content, specs, dtype)
    record = read_record(store, key)
    if record is not None:
        seconds = record["n_times"] / record["sfreq"]
        return Prepared(key, seconds, made=False, coarse=tuple(record["coarse"]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        signal = corpus.load(recording)
        for step in steps:
            signal = step(signal)
    after = [file.stat() for file in sources]
    if [_stamp(item) for item in before] != [_stamp(item) for item in after]:
        raise ValueError(f"{recording.path}: changed while it was read. Prepare it again.")
    # The corpus names the recording; a reader may have filled in less.
    signal = replace(signal, recording=replace(recording, path=None))
    provenance = {
        "source": source_name(recording, corpus.root),
        "source_sha256": content,
        "code_version": CODE_VERSION,
    }
    made = write_recording(store, signal, key=key, dtype=dtype, provenance=provenance)
    return Prepared(
        key,
        signal.duration,
        made=True,
        coarse=tuple(made["coarse"]),
        notes=tuple(_note(item.message, recording) for item in caught),
    )


def _note(message: Warning | str, recording: Recording) -> tuple[str, str]:
    if isinstance(message, RecordingWarning):
        return message.problem.code, str(message.problem)
    text = str(message).removeprefix(f"{recording.id}: ")
    return text, text


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _disk_error(error: OSError, store: Path, done: int, total: int) -> OSError:
    return OSError(
        error.errno,
        f"{os.strerror(error.errno or 0)} after {done} of {total} recordings; these are complete. "
        "Free some space (or give another folder with --store) and run the same command again",
        str(store),
    )


def _note_problems(store: Path, problems: dict[str, str], attempted: set[str]) -> None:
    """Keep problems.json true: this run's problems, and earlier ones it did not try again."""
    path = store / "problems.json"
    before: dict[str, str] = {}
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["problems"]
        except (ValueError, KeyError):
            before = {}
    merged = {k: v for k, v in before.items() if k not in attempted} | problems
    if merged:
        write_document(path, {"problems": dict(sorted(merged.items()))})
    else:
        path.unlink(missing_ok=True)


def _report(
    name: str, done: list[Prepared], problems: dict[str, str], total: int, store: Path
) -> None:
    listed = "; ".join(f"{key}: {reason}" for key, reason in list(problems.items())[:3])
    if not done:
        raise ValueError(f"prepare {name}: none of {total} recordings could be prepared. {listed}")
    if problems:
        log.warning(
            "prepare %s: %d of %d recordings could not be prepared: %s. All reasons: %s",
            name,
            len(problems),
            total,
            listed,
            store / "problems.json",
        )
    notes: dict[str, list[str]] = {}
    for item in done:
        for about, text in dict(item.notes).items():
            notes.setdefault(about, []).append(text)
    for texts in notes.values():
        log.warning("prepare %s: %d of %d recordings: %s", name, len(texts), total, texts[0])
    coarse = [item for item in done if item.coarse]
    if coarse:
        n = int(np.sum([len(item.coarse) for item in coarse]))
        warnings.warn(
            f"prepare {name}: in {len(coarse)} of {len(done)} recordings, {n} channels in all have "
            "an int16 step above a tenth of their amplitude (a large offset or artefact). "
            "High-pass or clip them, or use dtype float32.",
            stacklevel=3,
        )


@contextmanager
def _shown(name: str, total: int, progress: bool) -> Iterator[Callable[[Prepared | None], None]]:
    """A bar with the rate in hours of signal per second, and the time left."""
    if not progress:
        yield lambda prepared: None
        return
    columns = (
        TextColumn(f"prepare {name}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    hours = 0.0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, rate="")

        def advance(prepared: Prepared | None) -> None:
            nonlocal hours
            if prepared is not None and prepared.made:
                hours += prepared.seconds / 3600
            rate = f"{hours / max(time.monotonic() - start, 1e-9):.3f} h of signal per s"
            bar.update(task, advance=1, rate=rate if hours else "already prepared")

        yield advance
