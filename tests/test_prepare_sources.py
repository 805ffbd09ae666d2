from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from neurofm.data import source_files
from neurofm.data.preparing.journal import Hashed, Journal, hash_of
from neurofm.data.preparing.keys import Folders, file_hash, key_parts
from neurofm.data.preparing.prepare import JOURNAL
from neurofm.types import Recording


def test_the_journal_stays_short(tmp_path):
    path = tmp_path / JOURNAL
    with closing(Journal(path)) as journal:
        for i in range(1500):
            stamp = (1, 2, i, 4)
            journal.note([Hashed("a", stamp, f"{i}", True)], None)
    assert len(path.read_text().splitlines()) == 1
    assert Journal(path).known([]) == {}


def test_a_changed_file_is_not_taken_for_the_one_that_was_known(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    (old,) = [hash_of(file, {})]
    assert not old.settled
    known = {str(file): replace(old, sha256="believed")}
    assert hash_of(file, known).sha256 == "believed"
    time.sleep(0.02)
    file.write_bytes(b"two")
    os.utime(file, ns=(old.stamp[1], old.stamp[1]))
    assert hash_of(file, known).sha256 == file_hash(file)


def test_sidecars_and_parts_belong_to_the_recording(tmp_path):
    for name in (
        "sub-01_task-rest_run-1_eeg.vhdr",
        "sub-01_task-rest_run-1_eeg.eeg",
        "sub-01_task-rest_run-1_events.tsv",
        "sub-01_electrodes.tsv",
        "sub-01_task-rest_run-10_eeg.vhdr",
        "sub-02_task-rest_run-1_eeg.vhdr",
        "README",
    ):
        (tmp_path / name).write_text(name)
    path = tmp_path / "sub-01_task-rest_run-1_eeg.vhdr"
    names = [file.name for file in source_files(Recording("toy", "01", path=path))]
    assert names == [
        "sub-01_electrodes.tsv",
        "sub-01_task-rest_run-1_eeg.eeg",
        "sub-01_task-rest_run-1_eeg.vhdr",
        "sub-01_task-rest_run-1_events.tsv",
    ]


def test_a_folder_is_a_recording_with_all_its_files(tmp_path):
    folder = tmp_path / "run.ds"
    (folder / "inner").mkdir(parents=True)
    for name in ("run.meg4", "inner/marks"):
        (folder / name).write_text(name)
    assert len(source_files(Recording("toy", "01", path=folder))) == 2


def test_inherited_sidecars_and_split_parts_belong_to_the_recording(tmp_path):
    folder = tmp_path / "sub-01" / "meg"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text("{}")
    names = ("sub-01_task-a_split-01_meg.fif", "sub-01_task-a_split-02_meg.fif")
    for path in (
        *(folder / name for name in names),
        tmp_path / "task-a_meg.json",
        tmp_path / "task-b_meg.json",
        folder / "sub-01_coordsystem.json",
    ):
        path.write_text("{}")
    found = source_files(Recording("toy", "01", path=folder / names[0]))
    assert [file.relative_to(tmp_path).as_posix() for file in found] == [
        "sub-01/meg/sub-01_coordsystem.json",
        *(f"sub-01/meg/{name}" for name in names),
        "task-a_meg.json",
    ]
    before = key_of(found, folder / names[0])
    (tmp_path / "task-a_meg.json").write_text('{"PowerLineFrequency": 60}')
    assert key_of(found, folder / names[0]) != before


def key_of(files: list[Path], path: Path) -> str:
    recording = Recording("toy", "01", path=path)
    hashes = {str(file): file_hash(file) for file in files}
    parts = key_parts(recording, hashes, rules="", steps="", dtype="int16")
    return parts.key(recording)


def test_a_folder_is_listed_once_for_all_its_recordings(tmp_path, monkeypatch):
    for i in range(30):
        (tmp_path / f"{i}_eeg.edf").write_text("x")
        (tmp_path / f"{i}_events.tsv").write_text("x")
    listed, listdir = [], os.listdir

    def counted(path: Any) -> list[str]:
        listed.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", counted)
    folders = Folders()
    for i in range(30):
        recording = Recording("toy", str(i), path=tmp_path / f"{i}_eeg.edf")
        names = [file.name for file in source_files(recording, folders=folders)]
        assert names == [f"{i}_eeg.edf", f"{i}_events.tsv"]
    assert len(listed) == 1
