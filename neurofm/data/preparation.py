"""One recording to a store: what is to do, what was done, and `prepare_recording`.

`prepare_recording` depends on its arguments alone, so that any executor can map it. The driver
(`neurofm.data.prepare`) finds source files and known hashes; a worker trusts a known hash only
while the file's stamp is the same, and refuses a source that changes while it is read.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neurofm.data.fingerprints import fingerprint
from neurofm.data.journal import Finished, Hashed, hash_of, stamp_of, stamps_of_recording
from neurofm.data.keys import (
    CorpusLike,
    Step,
    key_parts,
    rules_hash,
    source_files,
    source_name,
    steps_hash,
)
from neurofm.io.quality import RecordingWarning
from neurofm.io.store import read_record, write_recording
from neurofm.types import Recording

MEMORY = 2_000_000_000


@dataclass(frozen=True)
class Prepared:
    """What became of one recording.

    Args:
        finished: Its key, and its files as they are in the store.
        made: False if the store had it already.
        coarse: Channels whose int16 step exceeds a tenth of their amplitude.
        notes: Warnings of the reader and the steps: what they are about, and their text.
        hashed: Its source files.
    """

    finished: Finished
    made: bool
    coarse: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    hashed: tuple[Hashed, ...] = ()

    @property
    def key(self) -> str:
        """Name of its files in the store."""
        return self.finished.key

    @property
    def seconds(self) -> float:
        """Length of the prepared signal."""
        return self.finished.seconds


@dataclass(frozen=True)
class Job:
    """A recording to prepare, with what the driver found out about its files.

    Args:
        sources: From `source_files`; None if they could not be looked up.
        known: Hashes of source files that need not be read.
    """

    recording: Recording
    sources: tuple[Path, ...] | None
    known: dict[str, Hashed] = field(default_factory=dict)


@dataclass(frozen=True)
class Preparation:
    """`prepare_recording` with all but the recording: what is sent to workers, once each."""

    corpus: CorpusLike
    steps: tuple[Step, ...]
    store: Path
    dtype: str
    memory: int
    strict: bool

    def __call__(self, job: Job) -> Prepared:
        """Prepare one recording."""
        if not (self.store / "recordings").is_dir():
            raise FileNotFoundError(
                f"{self.store}: a worker does not see this folder. Workers on other machines need "
                "recordings and store under the same paths, on a shared file system."
            )
        return prepare_recording(
            self.corpus,
            job.recording,
            self.steps,
            self.store,
            dtype=self.dtype,
            memory=self.memory,
            strict=self.strict,
            sources=job.sources,
            known=job.known,
        )


def prepare_recording(
    corpus: CorpusLike,
    recording: Recording,
    steps: Sequence[Step],
    store: Path,
    *,
    dtype: str = "int16",
    memory: int = MEMORY,
    strict: bool = False,
    sources: Sequence[Path] | None = None,
    known: dict[str, Hashed] | None = None,
) -> Prepared:
    """Prepare one recording unless the store has it, whole.

    Args:
        memory: Bytes for samples; held to where the reader and all steps can work on some channels
            at a time (`slabs`, `by_channel`). Others take the whole recording, several times.
        strict: Readers that can repair shall refuse instead.
        sources: From `source_files`, if they were looked up already.
        known: Hashes of source files that need not be read while their stamps are the same.

    Raises:
        ValueError: As raised by the reader or a step, or the source changed while it was read.
        OSError: As raised while reading or writing.
    """
    sources = source_files(recording) if sources is None else sources
    hashed = tuple(hash_of(file, known or {}) for file in sources)
    parts = key_parts(
        recording,
        {item.path: item.sha256 for item in hashed},
        rules=rules_hash(corpus.card),
        steps=steps_hash(steps),
        dtype=dtype,
    )
    key = parts.key(recording)
    record = read_record(store, key)
    if record is not None:
        return _prepared(store, record, made=False, hashed=hashed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"strict": True} if strict and _takes(corpus.load, "strict") else {}
        signal = corpus.load(recording, **options)
        # Of the recording as it was read: steps change what it is recognised by.
        mark = fingerprint(signal)
        for step in steps:
            signal = step(signal)
    if [stamp_of(item.path) for item in hashed] != [item.stamp for item in hashed]:
        raise ValueError(f"{recording.path}: changed while it was read. Prepare it again.")
    # The corpus names the recording; a reader may have filled in less.
    signal = replace(signal, recording=replace(recording, path=None))
    provenance = parts.provenance(source_name(recording, corpus.root))
    record = write_recording(
        store, signal, key=key, dtype=dtype, provenance=provenance, fingerprint=mark
    )
    notes = tuple(_note(item.message, recording) for item in caught)
    return _prepared(store, record, made=True, hashed=hashed, notes=notes)


def _prepared(store: Path, record: dict[str, Any], *, made: bool, **more: Any) -> Prepared:
    key, coarse = record["key"], tuple(record["coarse"])
    seconds = record["n_times"] / record["sfreq"]
    finished = Finished(key, stamps_of_recording(store, key), seconds, len(coarse))
    return Prepared(finished, made, coarse, **more)


def _takes(function: Any, name: str) -> bool:
    return name in inspect.signature(function).parameters


def _note(message: Warning | str, recording: Recording) -> tuple[str, str]:
    if isinstance(message, RecordingWarning):
        return message.problem.code, str(message.problem)
    text = str(message).removeprefix(f"{recording.id}: ")
    return text, text
