"""Preparing: what is made, remade, and reported."""

from __future__ import annotations

import logging
import os
import signal as signals
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepare_toys import Gain, Toy, contents, run, subjects_in, times, write_source

from neurofm.data import prepare_corpus, store_folder
from neurofm.data.preparing.journal import Finished, Journal, stamps_of_recording
from neurofm.data.preparing.keys import file_hash
from neurofm.data.preparing.prepare import JOURNAL
from neurofm.data.preparing.problems import read_problems
from neurofm.io import Store
from neurofm.io.stores import blocks as store_blocks
from neurofm.io.stores.blocks import Layout
from neurofm.types import Recording, Signal


@pytest.fixture
def toy(tmp_path):
    for subject in ("1", "2", "3"):
        write_source(tmp_path / "raw", subject)
    return Toy(tmp_path / "raw")


@pytest.fixture(params=[False, True], ids=["sources just written", "sources at rest"])
def at_rest(request, monkeypatch):
    """Whether the journal may believe the times of files that were written a moment ago."""
    if request.param:
        monkeypatch.setattr(sys.modules["neurofm.data.preparing.journal"], "_REST_NS", -(10**18))
    return request.param


def test_every_recording_is_loaded_processed_and_stored(toy, tmp_path):
    store = Store(run(toy, tmp_path / "store"))
    for i, entry in enumerate(store.entries):
        source = np.load(toy.root / f"{entry.recording.subject}.npy")
        error = np.abs(store.read(i, 0, 10_000) - 2 * source).max(axis=1)
        assert (error <= entry.max_error).all()
        assert entry.history == ("gain 2.0",)
        assert entry.provenance["source"] == f"{entry.recording.subject}.npy"
    assert subjects_in(store.path) == ["1", "2", "3"]
    assert store.about["steps"][0]["init_args"] == {"factor": 2.0}


def test_a_second_run_does_nothing(toy, tmp_path, at_rest):
    folder = run(toy, tmp_path / "store")
    before = times(folder)
    toy.loaded.clear()
    assert run(toy, tmp_path / "store") == folder
    assert toy.loaded == []
    assert times(folder) == before


def test_a_rerun_reads_no_file_that_it_knows_unless_told_to(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["neurofm.data.preparing.journal"], "_REST_NS", -(10**18))
    folder = run(toy, tmp_path / "store")
    before, read = times(folder), []

    def counted(path: Path) -> str:
        read.append(Path(path).name)
        return file_hash(path)

    monkeypatch.setattr(sys.modules["neurofm.data.preparing.journal"], "file_hash", counted)
    monkeypatch.setattr(sys.modules["neurofm.data.preparing.running"], "open_executor", None)
    run(toy, tmp_path / "store")
    assert read == []
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules["neurofm.data.preparing.journal"], "file_hash", counted)
    run(toy, tmp_path / "store", rehash=True)
    assert read == ["1.npy", "2.npy", "3.npy"]
    assert times(folder) == before


def test_bits_that_flip_without_a_write_are_found_by_rehash(toy, tmp_path, monkeypatch):
    """A disk that returns other bytes with the same times: as if the stamp had been taken later."""
    folder = run(toy, tmp_path / "store")
    expected = contents(folder)
    path = sorted((folder / "recordings").glob("*.bin"))[1]
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    journal = Journal(folder / JOURNAL)
    key = path.stem
    finished = Finished(key, stamps_of_recording(folder, key), 100.0, 0)
    with closing(journal):
        journal.note([], finished)
    run(toy, tmp_path / "store", rehash=True)
    assert contents(folder) == expected


@pytest.mark.parametrize("damage", ["half a line", "noise", "another type", "removed"])
def test_a_damaged_journal_costs_reading_and_nothing_else(toy, tmp_path, at_rest, damage):
    folder = run(toy, tmp_path / "store")
    expected, path = contents(folder), folder / JOURNAL
    raw = path.read_bytes()
    if damage == "half a line":
        path.write_bytes(raw[:-20])
    elif damage == "noise":
        path.write_bytes(raw[:50] + b"\xff\x00{]" + raw[80:])
    elif damage == "another type":
        path.write_bytes(b'[1]\n{"source": 3}\n{"finished": "x", "stamps": 1, "s": 0}\n' + raw)
    else:
        path.unlink()
    toy.loaded.clear()
    run(toy, tmp_path / "store")
    assert toy.loaded == []
    assert contents(folder) == expected
    run(toy, tmp_path / "store", 3.0)


def test_the_manifest_names_no_folder_of_this_machine(toy, tmp_path):
    folder = run(toy, tmp_path / "store")
    assert str(tmp_path) not in (folder / "manifest.json").read_text()


def test_a_rewritten_source_rebuilds_that_recording_only(toy, tmp_path, at_rest):
    folder = run(toy, tmp_path / "store")
    path = toy.root / "2.npy"
    stat = path.stat()
    time.sleep(0.02)
    write_source(toy.root, "2", seed=1)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    assert path.stat().st_size == stat.st_size
    toy.loaded.clear()
    run(toy, tmp_path / "store")
    assert toy.loaded == ["2"]
    assert subjects_in(folder) == ["1", "2", "3"]
    expected = 2 * np.load(path)
    assert np.abs(Store(folder).read(1, 0, 10_000) - expected).max() < 0.01


def test_a_source_that_returns_to_its_old_contents_needs_no_work(toy, tmp_path, at_rest):
    folder = run(toy, tmp_path / "store")
    first = [entry.key for entry in Store(folder).entries]
    write_source(toy.root, "2", seed=1)
    run(toy, tmp_path / "store")
    write_source(toy.root, "2", seed=0)
    toy.loaded.clear()
    run(toy, tmp_path / "store")
    assert toy.loaded == []
    run(toy, tmp_path / "store", subjects=["1"])
    assert [entry.key for entry in Store(folder).entries] == first


def test_changed_parameters_and_types_make_other_stores(toy, tmp_path):
    folders = {
        run(toy, tmp_path / "store"),
        run(toy, tmp_path / "store", 3.0),
        run(toy, tmp_path / "store", dtype="float32"),
    }
    assert len(folders) == 3
    assert len(toy.loaded) == 9
    assert store_folder("toy", [Gain(3.0)], tmp_path / "store") in folders


def test_changed_event_rules_rebuild_but_a_reworded_description_does_not(toy, tmp_path):
    folder = run(toy, tmp_path / "store")
    reworded = replace(toy, card={**toy.card, "description": "Better words."})
    run(reworded, tmp_path / "store")
    assert len(toy.loaded) == 3
    ruled = replace(toy, card={**toy.card, "events": [{"a": "b"}]})
    assert run(ruled, tmp_path / "store") == folder
    assert len(toy.loaded) == 6
    assert subjects_in(folder) == ["1", "2", "3"]


def test_preparing_more_later_adds_to_the_manifest(toy, tmp_path):
    folder = run(toy, tmp_path / "store", subjects=["3"])
    assert subjects_in(folder) == ["3"]
    run(toy, tmp_path / "store", subjects=["1"])
    assert subjects_in(folder) == ["1", "3"]
    assert toy.loaded == ["3", "1"]


@pytest.mark.parametrize("what", ["flip", "truncate", "remove", "remove document"])
def test_a_damaged_recording_is_remade_by_the_same_command(toy, tmp_path, what):
    folder = run(toy, tmp_path / "store")
    expected = contents(folder)
    path = sorted((folder / "recordings").glob("*.bin"))[1]
    time.sleep(0.02)  # a tick of the clock of files, after which every write is seen
    if what == "flip":
        raw = bytearray(path.read_bytes())
        raw[1000] ^= 1
        path.write_bytes(raw)
    elif what == "truncate":
        os.truncate(path, 4000)
    elif what == "remove":
        path.unlink()
    else:
        path.with_suffix(".json").unlink()
    toy.loaded.clear()
    run(toy, tmp_path / "store")
    assert toy.loaded == ["2"]
    assert contents(folder) == expected


def test_one_bad_recording_is_reported_and_the_others_go_on(toy, tmp_path, caplog):
    (toy.root / "2.npy").write_bytes(b"this is no array")
    with caplog.at_level(logging.WARNING):
        folder = run(toy, tmp_path / "store")
    assert subjects_in(folder) == ["1", "3"]
    problems = read_problems(folder)
    assert list(problems) == ["toy_sub-2"]
    found = problems["toy_sub-2"]
    assert found.type == "ValueError"
    assert str(found.message) in str(found)
    assert "np.load" in found.traceback
    assert found.file == str(toy.root / "2.npy")
    assert found.attempts == 1
    assert found.when.endswith("Z")
    assert "1 of 3 recordings could not be prepared: toy_sub-2" in caplog.text


def test_a_repaired_recording_leaves_the_list_of_problems(toy, tmp_path):
    (toy.root / "2.npy").write_bytes(b"")
    (toy.root / "3.npy").write_bytes(b"")
    folder = run(toy, tmp_path / "store")
    write_source(toy.root, "3")
    run(toy, tmp_path / "store", subjects=["3"])
    assert list(read_problems(folder)) == ["toy_sub-2"]
    write_source(toy.root, "2")
    run(toy, tmp_path / "store")
    assert not (folder / "problems.json").exists()


def test_strict_stops_at_the_first_bad_recording(toy, tmp_path):
    (toy.root / "2.npy").write_bytes(b"")
    with pytest.raises(EOFError):
        run(toy, tmp_path / "store", strict=True)
    assert subjects_in(store_folder("toy", [Gain(2.0)], tmp_path / "store")) == ["1"]


def test_nothing_prepared_is_an_error_with_the_reason(toy, tmp_path):
    with pytest.raises(ValueError, match=r"none of 3 recordings.*NaN or infinite"):
        run(toy, tmp_path / "store", float("nan"))


def test_no_recordings_is_an_error(toy, tmp_path):
    with pytest.raises(ValueError, match="no recordings for subjects"):
        run(toy, tmp_path / "store", subjects=["9"])


def test_an_unknown_type_is_an_error_before_anything_is_read(toy, tmp_path):
    with pytest.raises(ValueError, match="int8"):
        run(toy, tmp_path / "store", dtype="int8")
    assert toy.loaded == []


def test_a_step_that_cannot_be_written_down_is_refused(toy, tmp_path):
    with pytest.raises(TypeError, match="frozen dataclass"):
        prepare_corpus(toy, [lambda signal: signal], tmp_path / "store", progress=False)


def test_a_source_that_changes_while_it_is_read_is_not_stored(toy, tmp_path):
    class Changing(Toy):
        def load(self, recording: Recording) -> Signal:
            found = super().load(recording)
            write_source(self.root, recording.subject, seed=5)
            os.utime(self.root / f"{recording.subject}.npy", ns=(1, 1))
            return found

    with pytest.raises(ValueError, match="changed while it was read"):
        run(Changing(toy.root), tmp_path / "store", strict=True)


def test_large_offsets_are_reported_for_int16(toy, tmp_path):
    np.save(toy.root / "1.npy", np.load(toy.root / "1.npy") + np.float32(1e7))
    with pytest.warns(UserWarning, match="in 1 of 3 recordings, 4 channels"):
        run(toy, tmp_path / "store")


def prepare_and_hang(root: str, store: str) -> None:
    """Stop for ever in the middle of the second recording's file."""
    encode = Layout.encode
    calls = []

    def hanging(self: Layout, data: np.ndarray, scale: np.ndarray | None) -> Any:
        calls.append(1)
        for piece in encode(self, data, scale):
            yield piece
            if len(calls) == 2:
                print("hanging", flush=True)
                time.sleep(600)

    store_blocks.Layout.encode = hanging  # type: ignore[method-assign]
    run(Toy(Path(root)), Path(store))


def test_a_killed_run_leaves_nothing_that_loads_and_the_next_completes_it(toy, tmp_path):
    whole = run(toy, tmp_path / "whole")
    script = (
        "import os, runpy, sys; sys.path.insert(0, os.path.dirname(sys.argv[1])); "
        "hang = runpy.run_path(sys.argv[1])['prepare_and_hang']; "
        "hang(*sys.argv[2:])"
    )
    arguments = [sys.executable, "-c", script, __file__, str(toy.root), str(tmp_path / "store")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "hanging\n"
    process.send_signal(signals.SIGKILL)
    process.wait()
    process.stdout.close()
    folder = store_folder("toy", [Gain(2.0)], tmp_path / "store")
    assert len(list((folder / "recordings").glob("*.partial"))) == 1
    with pytest.raises(FileNotFoundError, match="neurofm prepare"):
        Store(folder)
    toy.loaded.clear()
    run(toy, tmp_path / "store")
    assert toy.loaded == ["2", "3"]
    assert contents(folder) == contents(whole)
