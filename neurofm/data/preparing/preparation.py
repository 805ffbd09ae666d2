"""One recording to a store: what is to do, what was done, and `prepare_recording`.

`prepare_recording` depends on its arguments alone, so that any executor can map it. The driver
(`prepare`) finds source files and known hashes; a worker trusts a known hash only
while the file's stamp is the same, and refuses a source that changes while it is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from neurofm.data.fingerprints import Fingerprinter, joins_of
from neurofm.data.preparing.journal import Finished, Hashed, hash_of, stamp_of, stamps_of_recording
from neurofm.data.preparing.keys import (
    CorpusLike,
    Step,
    all_sources,
    key_parts,
    rules_hash,
    source_name,
    steps_hash,
)
from neurofm.data.steps.bold import without_repeats
from neurofm.io.quality import RecordingWarning
from neurofm.io.quality import strict as refusing
from neurofm.io.stores.store import read_record, write_recording
from neurofm.types import Recording, Signal

MEMORY = 2_000_000_000
# A slab and what is made of it: read, processed, one more that waits, and room for a step's work.
_COPIES = 6


@dataclass(frozen=True)
class Prepared:
    """What became of one recording.

    Args:
        finished: Its key, and its files as they are in the store.
        made: False if the store had it already.
        coarse: Channels whose int16 step exceeds a tenth of their amplitude.
        notes: Warnings of the reader and the steps: what they are about, and their text.
        hashed: Its source files.
        tokens: How many were made, of a run that makes tokens.
    """

    finished: Finished
    made: bool
    coarse: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    hashed: tuple[Hashed, ...] = ()
    tokens: int = 0

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
        sources: From `all_sources`; None if they could not be looked up.
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
            at a time (`slabs`, `by_channel`). Others take the whole recording, several times. What
            is known of channels comes on top: 0.4 kB for each, which images of voxels feel.
        strict: Readers that can repair shall refuse instead.
        sources: From `all_sources`, if they were looked up already.
        known: Hashes of source files that need not be read while their stamps are the same.

    Raises:
        ValueError: As raised by the reader or a step, or the source changed while it was read.
        OSError: As raised while reading or writing.
    """
    sources = all_sources(corpus, recording) if sources is None else sources
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
        return prepared(store, record, made=False, hashed=hashed)
    provenance = parts.provenance(source_name(recording, corpus.root))
    mark = _Mark()
    with warnings.catch_warnings(record=True) as caught, refusing() if strict else nullcontext():
        warnings.simplefilter("always")
        slabs = _processed(_read(corpus, recording, steps, memory), recording, steps, mark, hashed)
        record = write_recording(
            store,
            _whole_or_slabs(slabs),
            key=key,
            dtype=dtype,
            provenance=provenance,
            fingerprint=mark,
        )
    notes = tuple(_note(item.message, recording) for item in caught)
    return prepared(store, record, made=True, hashed=hashed, notes=notes)


class _Mark:
    """Fingerprint of a recording as it was read: steps change what it is recognised by."""

    def __init__(self) -> None:
        self._maker: Fingerprinter | None = None

    def add(self, slab: Signal) -> None:
        if self._maker is None:
            self._maker = Fingerprinter(slab.sfreq)
        self._maker.add(slab.data, slab.sensors.kind, joins_of(slab))

    def __call__(self) -> str:
        return "" if self._maker is None else self._maker.result()


def _read(
    corpus: CorpusLike, recording: Recording, steps: Sequence[Step], memory: int
) -> Iterator[Signal]:
    """The recording in groups of channels where reader and steps can, else whole."""
    slabs = getattr(corpus, "slabs", None)
    if slabs is None or not all(getattr(step, "by_channel", False) for step in steps):
        return iter([corpus.load(recording)])
    return iter(slabs(recording, max_bytes=max(1, memory // _COPIES)))


def _processed(
    slabs: Iterator[Signal],
    recording: Recording,
    steps: Sequence[Step],
    mark: _Mark,
    hashed: Sequence[Hashed],
) -> Iterator[Signal]:
    written: set[str] = set()
    for signal in slabs:
        mark.add(signal)
        for step in steps:
            signal = step(signal)
        # Confounds come with every group, for the steps; those that are left are written once.
        signal = without_repeats(signal, written)
        # The corpus names the recording; a reader may have filled in less.
        yield replace(signal, recording=replace(recording, path=None))
        del signal  # before the next one is made
    if [stamp_of(item.path) for item in hashed] != [item.stamp for item in hashed]:
        raise ValueError(f"{recording.path}: changed while it was read. Prepare it again.")


def _whole_or_slabs(slabs: Iterator[Signal]) -> Signal | Iterator[Signal]:
    """The only slab as it is: several are written to the disk twice, one is not."""
    held = [next(slabs)]
    held += islice(slabs, 1)
    if len(held) == 1:
        return held[0]

    def every() -> Iterator[Signal]:
        while held:
            yield held.pop(0)
        yield from slabs

    return every()


def prepared(store: Path, record: dict[str, Any], *, made: bool, **more: Any) -> Prepared:
    """What became of a recording that the store now has.

    Args:
        record: From `write_recording` or `read_record`.
        more: Further fields.
    """
    key, coarse = record["key"], tuple(record["coarse"])
    seconds = record["n_times"] / record["sfreq"]
    finished = Finished(key, stamps_of_recording(store, key), seconds, len(coarse))
    return Prepared(finished, made, coarse, **more)


def _note(message: Warning | str, recording: Recording) -> tuple[str, str]:
    if isinstance(message, RecordingWarning):
        return message.problem.code, str(message.problem)
    text = str(message).removeprefix(f"{recording.id}: ")
    return text, text
