"""Entries, manifests and sealing: what readers see, and when they see something new."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.io import Store, seal, write_recording
from neurofm.io.stores import manifest
from neurofm.io.stores.files import read_document, write_document
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


def signal(subject: str, *, sensors: Sensors | None = None) -> Signal:
    sensors = Sensors.of_kind(["C3", "C4"], Kind.EEG) if sensors is None else sensors
    data = np.random.default_rng(int(subject)).normal(size=(len(sensors), 300)).astype(np.float32)
    events = (Event(0.5, 0.1, f"label {subject}"), Event(1.0, 0.0, "EDGE boundary"))
    return Signal(data, 100.0, sensors, events, Recording("toy", subject), ("a",), {"tr_s": 2})


def test_entries_are_a_sequence_made_when_asked_for(tmp_path):
    for i in range(5):
        write_recording(tmp_path, signal(f"{i}"), key=f"k{i}", fingerprint=f"mark {i}")
    seal(tmp_path)
    store = Store(tmp_path)
    assert len(store.entries) == 5
    assert [entry.recording.subject for entry in store.entries] == ["0", "1", "2", "3", "4"]
    assert store.entries[-1].recording.subject == "4"
    assert [entry.key for entry in store.entries[1:3]] == ["k1", "k2"]
    assert [entry.fingerprint for entry in store.entries] == [f"mark {i}" for i in range(5)]
    assert store.entries[0].events == signal("0").events
    assert store.entries[0].details == {"tr_s": 2}
    assert list(store.keys) == ["k0", "k1", "k2", "k3", "k4"]
    for outside in (5, -6):
        with pytest.raises(IndexError):
            store.entries[outside]
    assert len(store.sensor_sets) == 1
    assert store.entries[0].sensors is store.entries[4].sensors is store.sensor_sets[0]


def test_changing_an_entrys_scale_does_not_change_the_store(tmp_path):
    write_recording(tmp_path, signal("0"), key="k")
    seal(tmp_path)
    store = Store(tmp_path)
    store.entries[0].scale[:] = 0
    assert (store.columns.scale > 0).all()


def test_a_store_that_was_sealed_again_meanwhile_keeps_what_it_opened(tmp_path):
    write_recording(tmp_path, signal("1"), key="k1")
    seal(tmp_path)
    store = Store(tmp_path)
    write_recording(tmp_path, signal("0"), key="k0")
    seal(tmp_path)
    copy = pickle.loads(pickle.dumps(store))
    for opened in (store, copy):
        assert [entry.key for entry in opened.entries] == ["k1"]
        assert opened.read(0, 0, 10).shape == (2, 10)
    again = Store(tmp_path)
    assert again.digest != store.digest == copy.digest
    assert [entry.key for entry in again.entries] == ["k0", "k1"]


def test_sealing_while_a_store_is_opened_never_fails_the_reader(tmp_path):
    """The index that a manifest names may be gone when it is looked for: then look again."""
    write_recording(tmp_path, signal("0"), key="k0")
    seal(tmp_path)
    original, calls = manifest.read_whole, []

    def late(source: Any, name: str) -> np.ndarray:
        calls.append(name)
        if len(calls) == 2:
            write_recording(tmp_path, signal("1"), key="k1")
            seal(tmp_path)
        return original(source, name)

    manifest.read_whole = late
    try:
        store = Store(tmp_path)
    finally:
        manifest.read_whole = original
    assert [entry.key for entry in store.entries] == ["k0", "k1"]


def test_a_missing_index_is_named_with_a_remedy(tmp_path):
    write_recording(tmp_path, signal("0"), key="k0")
    seal(tmp_path)
    next(tmp_path.glob("index-*.bin")).unlink()
    with pytest.raises(OSError, match=r"index-.*missing.*neurofm prepare"):
        Store(tmp_path)


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flipped")
    write_recording(folder, signal("0"), key="k0")
    seal(folder)
    return folder, (folder / "manifest.json").read_bytes()


@given(st.data())
def test_no_flipped_byte_of_a_manifest_is_believed(flipped, data):
    folder, whole = flipped
    raw = bytearray(whole)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "manifest.json").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with pytest.raises(OSError, match=r"manifest\.json: damaged"):
        Store(folder)


@pytest.mark.parametrize(
    "document",
    [{}, {"format": 3}, {"format": 3, "index": 5}, {"format": 3, "index": {}}]
    + [{"format": 3, "index": {"file": name}} for name in (7, "../index-0.bin", "/etc/passwd")],
)
def test_manifests_of_something_else_are_refused(tmp_path, document):
    write_document(tmp_path / "manifest.json", document)
    with pytest.raises((OSError, ValueError), match=r"manifest\.json.*neurofm prepare"):
        Store(tmp_path)


def test_another_stores_index_is_not_taken(tmp_path):
    for name in ("a", "b"):
        write_recording(tmp_path / name, signal("0" if name == "a" else "1"), key="k")
        seal(tmp_path / name)
    mine, other = (next((tmp_path / name).glob("index-*.bin")) for name in ("a", "b"))
    mine.write_bytes(other.read_bytes())
    with pytest.raises(OSError, match=r"not the index that manifest\.json names"):
        Store(tmp_path / "a")


@pytest.mark.parametrize("what", ["index", "manifest", "both"])
def test_sealing_again_makes_damaged_files_anew(tmp_path, what):
    write_recording(tmp_path, signal("0"), key="k0")
    expected = seal(tmp_path, about={"dataset": "toy"})
    if what in ("index", "both"):
        next(tmp_path.glob("index-*.bin")).write_bytes(b"neurofm index 3\nrest")
    if what in ("manifest", "both"):
        (tmp_path / "manifest.json").write_bytes(b"{}")
    with pytest.raises((OSError, ValueError)):
        Store(tmp_path)
    seal(tmp_path)
    store = Store(tmp_path)
    assert [entry.key for entry in store.entries] == ["k0"]
    assert store.about == ({} if what == "both" else expected["about"])


def test_only_new_documents_are_read_when_sealing_again(tmp_path, monkeypatch):
    for i in range(4):
        write_recording(tmp_path, signal(f"{i}"), key=f"k{i}")
    seal(tmp_path)
    whole = Store(tmp_path).digest
    (tmp_path / "recordings" / "k3.json").rename(tmp_path / "aside")
    seal(tmp_path)
    (tmp_path / "aside").rename(tmp_path / "recordings" / "k3.json")
    read = []

    def counted(path: Path) -> dict[str, Any]:
        read.append(path.name)
        return read_document(path)

    monkeypatch.setattr(manifest, "read_document", counted)
    seal(tmp_path)
    assert [name for name in read if name != "manifest.json"] == ["k3.json"]
    assert Store(tmp_path).digest == whole


def test_a_document_that_changed_under_its_key_is_read_again(tmp_path):
    write_recording(tmp_path, signal("0"), key="k", fingerprint="one")
    seal(tmp_path)
    write_recording(tmp_path, signal("0"), key="k", fingerprint="two")
    seal(tmp_path)
    assert Store(tmp_path).entries[0].fingerprint == "two"


def test_documents_that_cannot_be_understood_are_left_out(tmp_path):
    for i in range(3):
        write_recording(tmp_path, signal(f"{i}"), key=f"k{i}")
    folder = tmp_path / "recordings"
    record = read_document(folder / "k0.json")
    del record["sensors"]
    write_document(folder / "k0.json", record)
    (folder / "k1.json").write_bytes(b"")
    seal(tmp_path)
    assert [entry.key for entry in Store(tmp_path).entries] == ["k2"]


def test_a_store_of_an_older_format_is_named_and_sealed_anew(tmp_path):
    write_recording(tmp_path, signal("0"), key="k")
    document = tmp_path / "recordings" / "k.json"
    record = read_document(document)
    del record["fingerprint"]  # as format 2 had it
    write_document(document, record)
    old = {"format": 2, "about": {"dataset": "toy"}, "sensors": {}, "recordings": [record]}
    write_document(tmp_path / "manifest.json", old)
    with pytest.raises(ValueError, match=r"format 2, this version reads 3.*neurofm prepare"):
        Store(tmp_path)
    seal(tmp_path)
    assert Store(tmp_path).about == {"dataset": "toy"}
    assert Store(tmp_path).entries[0].fingerprint == ""
