"""Preparing on full disks and in slabs, and what keys are made of."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from prepare_toys import Gain, Toy, contents, run, subjects_in, write_source

from neurofm.data import prepare_corpus, store_folder
from neurofm.data.preparing.keys import CODE_VERSION
from neurofm.io import Store, seal
from neurofm.io.quality import Problem, report
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind


@pytest.fixture
def toy(tmp_path):
    for subject in ("1", "2", "3"):
        write_source(tmp_path / "raw", subject)
    return Toy(tmp_path / "raw")


class FullDisk:
    """A disk on which only so many more bytes find room."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, path: Path, mode: str = "r", **options: Any) -> Any:
        file = open(path, mode, **options)  # noqa: SIM115
        if "w" in mode:
            write = file.write

            def limited(data: bytes) -> int:
                self.room -= len(data)
                if self.room < 0:
                    write(bytes(data)[: len(data) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(data)

            return _Written(file, limited)
        return file


class _Written:
    def __init__(self, file: Any, write: Any) -> None:
        self._file, self.write = file, write

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_loses_nothing_and_the_next_run_continues(toy, tmp_path, monkeypatch):
    whole = run(toy, tmp_path / "whole")
    # Room for the first recording and half of the second.
    disk = FullDisk(120_000)
    with monkeypatch.context() as patch:
        patch.setattr("neurofm.io.stores.files.open", disk, raising=False)
        patch.setattr(sys.modules["neurofm.data.preparing.running"], "seal", _with_room(disk))
        with pytest.raises(OSError, match="after 1 of 3 recordings") as caught:
            run(toy, tmp_path / "store")
    assert caught.value.errno == errno.ENOSPC
    folder = store_folder("toy", [Gain(2.0)], tmp_path / "store")
    assert subjects_in(folder) == ["1"]
    # One recording, its document, index and manifest: no partial file.
    assert len(contents(folder)) == 4
    np.testing.assert_array_equal(Store(folder).read(0, 0, 10_000), Store(whole).read(0, 0, 10_000))
    toy.loaded.clear()
    run(toy, tmp_path / "store")
    assert toy.loaded == ["2", "3"]
    assert contents(folder) == contents(whole)


def _with_room(disk: FullDisk) -> Any:
    """The partial file is gone by now, so that there is room for a manifest."""

    def sealed(*args: Any, **kwargs: Any) -> Any:
        disk.room = 10**9
        return seal(*args, **kwargs)

    return sealed


@dataclass(frozen=True)
class InSlabs(Toy):
    """A corpus that can be read in groups of channels."""

    sizes: list[int] = field(default_factory=list)

    def slabs(self, recording: Recording, *, max_bytes: int) -> Iterator[Signal]:
        whole = self.load(recording)
        n = max(1, max_bytes // (4 * whole.data.shape[1]))
        for first in range(0, len(whole.data), n):
            part = slice(first, first + n)
            sensors = Sensors.of_kind(whole.sensors.names[part], Kind.EEG)
            self.sizes.append(whole.data[part].nbytes)
            yield replace(whole, data=whole.data[part], sensors=sensors)


@dataclass(frozen=True)
class GainByChannel(Gain):
    by_channel: ClassVar[bool] = True


GainByChannel.__module__ = "toy"


def test_slabs_give_the_bytes_of_the_whole_within_the_memory(toy, tmp_path):
    steps = [GainByChannel(2.0)]
    whole = prepare_corpus(toy, steps, tmp_path / "whole", progress=False)
    corpus = InSlabs(toy.root)
    folder = prepare_corpus(corpus, steps, tmp_path / "slabs", progress=False, memory=500_000)
    assert len(corpus.sizes) == 3 * 2
    assert max(corpus.sizes) <= 500_000 / 6
    assert contents(folder) == contents(whole)
    assert Store(folder).entries[0].fingerprint != ""


def test_steps_over_channels_take_the_whole_recording(toy, tmp_path):
    corpus = InSlabs(toy.root)
    steps = [GainByChannel(2.0), Gain(1.0)]
    prepare_corpus(corpus, steps, tmp_path / "store", progress=False, memory=500_000)
    assert corpus.sizes == []


def test_a_source_that_changes_between_slabs_is_not_stored(toy, tmp_path):
    class Changing(InSlabs):
        def slabs(self, recording: Recording, *, max_bytes: int) -> Iterator[Signal]:
            yield from super().slabs(recording, max_bytes=max_bytes)
            os.utime(recording.path, ns=(1, 1))

    steps = [GainByChannel(2.0)]
    with pytest.raises(ValueError, match="changed while it was read"):
        prepare_corpus(
            Changing(toy.root), steps, tmp_path, progress=False, memory=500_000, strict=True
        )
    assert not list(tmp_path.rglob("*.bin"))
    assert not list(tmp_path.rglob("*.slabs*"))


def test_the_fingerprint_is_of_the_recording_as_it_was_read(toy, tmp_path):
    folders = [run(toy, tmp_path, factor) for factor in (1.0, -3.0)]
    marks = [[entry.fingerprint for entry in Store(folder).entries] for folder in folders]
    assert marks[0] == marks[1]
    assert len(set(marks[0])) == 3


def test_strict_readers_refuse_what_they_would_repair(toy, tmp_path):
    class Repairing(Toy):
        def load(self, recording: Recording) -> Signal:
            report(Problem("warning", "One channel was repaired.", "Look at it.", "repaired"), "x")
            return super().load(recording)

    corpus = Repairing(toy.root)
    with pytest.raises(ValueError, match="One channel was repaired"):
        run(corpus, tmp_path, strict=True)
    assert len(subjects_in(run(corpus, tmp_path))) == 3


def test_what_a_key_is_made_of_is_kept_apart(toy, tmp_path):
    first = Store(run(toy, tmp_path)).entries[1].provenance
    assert first["code_version"] == CODE_VERSION
    assert list(first["sources"]) == ["2.npy"]
    write_source(toy.root, "2", seed=1)
    second = Store(run(toy, tmp_path)).entries[1].provenance
    changed = {key for key in first if first[key] != second[key]}
    assert changed == {"sources", "source_sha256"}
    ruled = replace(toy, card={**toy.card, "events": [{"a": "b"}]})
    third = Store(run(ruled, tmp_path)).entries[1].provenance
    assert {key for key in second if second[key] != third[key]} == {"rules_sha256"}
    fourth = Store(run(ruled, tmp_path, 3.0)).entries[1].provenance
    assert {key for key in third if third[key] != fourth[key]} == {"steps_sha256"}
