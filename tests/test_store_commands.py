"""`neurofm store du | gc | explain`: what is there, what can go and what must not, what changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofm import cli
from neurofm.cli.store import listed_stores, readable, usage
from neurofm.data.preparing import keys
from neurofm.data.preparing.lock import LOCK, only_driver
from neurofm.data.preparing.rebuilds import JOURNAL, NEW, differences
from neurofm.io import Store, seal, write_recording
from neurofm.io.stores import inventory
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

DAY = 86400.0


def signal(subject: str, n_times: int = 1000) -> Signal:
    data = np.random.default_rng(int(subject)).normal(0, 20, (3, n_times)).astype(np.float32)
    sensors = Sensors.of_kind(["C3", "Cz", "C4"], Kind.EEG)
    return Signal(data, 100.0, sensors, (), Recording("toy", subject))


def age(folder: Path, seconds: float = DAY) -> None:
    """As if everything had been written so long ago."""
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two recordings, prepared a day ago and again two days ago."""
    folder = tmp_path / "stores" / "toy-0123456789ab"
    for i in range(2):
        write_recording(folder, signal(f"{i}"), key=f"toy_sub-{i}-old")
    seal(folder)
    age(folder, 2 * DAY)
    for i in range(2):
        write_recording(folder, signal(f"{i}"), key=f"toy_sub-{i}-new")
    about = {"dataset": "toy", "dtype": "int16", "steps": [{"class_path": "x.Notch"}]}
    seal(folder, keys=["toy_sub-0-new", "toy_sub-1-new"], about=about)
    for file in (folder / "recordings").glob("*-old.*"):
        os.utime(file, (time.time() - 2 * DAY,) * 2)
    then = time.time() - DAY
    for path in (*folder.rglob("*-new.*"), *folder.glob("index*"), folder / "manifest.json"):
        os.utime(path, (then, then))
    return folder


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out + err


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_lock_has_one_name():
    assert inventory.LOCK == LOCK


def test_usage_adds_up(store):
    (store / "recordings" / "toy_sub-1-new.bin").write_bytes(b"short")
    found = usage(store)
    assert (found.recordings, found.dataset, found.dtype, found.steps) == (
        2,
        "toy",
        "int16",
        "Notch",
    )
    assert found.hours == pytest.approx(20 / 3600)
    assert found.n_bytes == 2 * 6400
    assert found.damaged == 1
    old = [path for path in (store / "recordings").glob("*-old.*")]
    assert found.removable == sum(path.stat().st_size for path in old)


def test_du_lists_every_store_of_a_folder(store, capsys, monkeypatch):
    write_recording(store.parent / "other-ab" / "", signal("7", 3600), key="k")
    seal(store.parent / "other-ab")
    monkeypatch.setenv("COLUMNS", "160")
    code, out = run("store", "du", store.parent, capsys=capsys)
    assert code == 0
    assert "toy-0123456789ab" in out and "other-ab" in out and "2 stores" in out
    assert "12.8 kB" in out and "Notch" in out
    code = cli.main(["store", "du", str(store.parent), "--json"])
    found = {item["store"]: item for item in json.loads(capsys.readouterr().out)}
    assert found["other-ab"]["recordings"] == 1 and found["toy-0123456789ab"]["recordings"] == 2


def test_du_says_what_is_wrong_with_a_store_it_cannot_open(store, capsys, monkeypatch):
    (store / "manifest.json").write_bytes(b'{"crc32c": "00000000", "format": 3}')
    monkeypatch.setenv("COLUMNS", "250")
    code, out = run("store", "du", store, capsys=capsys)
    assert code == 0 and "damaged, its checksum does not match" in out


def test_stores_are_found_by_folder_address_and_dataset(store, monkeypatch):
    monkeypatch.setenv("NEUROFM_STORE", str(store.parent))
    assert listed_stores(str(store)) == [str(store)]
    assert listed_stores(str(store.parent)) == [str(store)]
    assert listed_stores("toy") == [str(store)]
    assert listed_stores("https://127.0.0.1/s") == ["https://127.0.0.1/s"]
    with pytest.raises(FileNotFoundError, match=r"there are stores of toy\."):
        listed_stores("toys")


def test_gc_removes_nothing_unless_it_is_told_to(store, capsys):
    before = names(store)
    code, out = run("store", "gc", store, capsys=capsys)
    assert code == 0 and names(store) == before
    assert "toy_sub-0-old.bin: a version that was replaced" in out
    assert "--yes" in out and "can go" in out


def test_gc_removes_versions_that_were_replaced_and_nothing_else(store, capsys):
    before, digest = names(store), Store(store).digest
    code, out = run("store", "gc", store, "--yes", capsys=capsys)
    assert code == 0 and "removed" in out
    gone = {f"recordings/toy_sub-{i}-old.{end}" for i in range(2) for end in ("bin", "json")}
    assert before - names(store) == gone
    assert Store(store).digest == digest
    for i in range(2):
        Store(store).read(i, 0, 1000)
    assert run("store", "gc", store, capsys=capsys)[1].startswith("0 B can go")


def test_gc_removes_what_was_never_finished(store, capsys):
    recordings = store / "recordings"
    dead = f".k.bin.{inventory.socket.gethostname()}-999999999.partial"
    old, young = ".k.bin.elsewhere-1.partial", ".k.bin.elsewhere-2.partial"
    junk = [recordings / dead, recordings / old, recordings / "k8.bin", recordings / "k9.json"]
    junk.append(store / "index-0000000000000000.bin")
    kept = [recordings / young, recordings / "notes.txt", store / "README"]
    for file in (*junk, *kept):
        file.write_bytes(b"x")
    os.utime(recordings / old, (time.time() - 2 * DAY,) * 2)
    os.utime(recordings / young, (time.time() - DAY / 2,) * 2)
    (store / LOCK).write_text("")  # nobody holds it
    code, out = run("store", "gc", store, "--yes", capsys=capsys)
    assert code == 0
    assert not [file for file in junk if file.exists()]
    assert all(file.exists() for file in kept)
    assert "notes.txt: not a file of a store, 1 B (kept)" in out


def test_gc_keeps_what_is_complete_but_not_sealed(store, capsys):
    write_recording(store, signal("5"), key="toy_sub-5-x")
    write_recording(store, signal("0"), key="toy_sub-0-newest")
    (store / LOCK).write_text("")  # nobody holds it
    code, out = run("store", "gc", store, "--yes", capsys=capsys)
    assert code == 0 and out.count("to be sealed by `neurofm prepare`") == 2
    left = names(store)
    for key in ("toy_sub-5-x", "toy_sub-0-newest"):
        assert {f"recordings/{key}.bin", f"recordings/{key}.json"} <= left


def test_gc_removes_stores_without_recordings(store, capsys):
    empty = store.parent / "empty-0123456789ab"
    (empty / "recordings").mkdir(parents=True)
    (empty / LOCK).write_text("")
    (empty / JOURNAL).write_text("")
    code, out = run("store", "gc", store.parent, "--yes", capsys=capsys)
    assert code == 0 and "a store without recordings" in out
    assert not empty.exists() and store.exists()


def test_gc_leaves_other_peoples_folders_alone(tmp_path, capsys):
    """A folder of raw data that happens to have one called `recordings`."""
    (tmp_path / "lab" / "recordings").mkdir(parents=True)
    precious = tmp_path / "lab" / "recordings" / "session1.bin"
    precious.write_bytes(b"raw data")
    age(tmp_path)
    for where in (tmp_path, tmp_path / "lab"):
        run("store", "gc", where, "--yes", capsys=capsys)
    assert precious.exists()


def test_gc_keeps_a_store_that_holds_files_it_does_not_know(store, capsys):
    empty = store.parent / "mine-0123456789ab"
    (empty / "recordings").mkdir(parents=True)
    (empty / LOCK).write_text("")
    (empty / "thesis.tex").write_text("x")
    run("store", "gc", empty, "--yes", capsys=capsys)
    assert (empty / "thesis.tex").exists()


def test_gc_leaves_a_store_alone_that_is_written_to(store, capsys):
    before = names(store)
    living = store / "recordings" / f".k.bin.{inventory.socket.gethostname()}-{os.getpid()}.partial"
    living.write_bytes(b"x")
    assert "somebody writes to it" in run("store", "gc", store, "--yes", capsys=capsys)[1]
    living.unlink()
    (store / "recordings" / "k.bin").write_bytes(b"x")  # without a lock, recent changes count
    assert "somebody writes to it" in run("store", "gc", store, "--yes", capsys=capsys)[1]
    assert names(store) == before | {"recordings/k.bin"}


HOLD = """
import sys
from pathlib import Path
from neurofm.data.preparing.lock import only_driver
with only_driver(Path(sys.argv[1]), tell=print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_gc_leaves_a_store_alone_whose_driver_is_at_work(store, capsys):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "held\n"
        before = names(store)
        assert "somebody writes to it" in run("store", "gc", store, "--yes", capsys=capsys)[1]
        assert names(store) == before
        driver.communicate()
    assert "replaced" in run("store", "gc", store, "--yes", capsys=capsys)[1]
    with only_driver(store, tell=lambda text: pytest.fail(text)):
        pass


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (25_600, "25.6 kB"), (3 * 10**12, "3.0 TB")],
)
def test_bytes_are_readable(n_bytes, text):
    assert readable(n_bytes) == text


BEFORE = {
    "source": "a/x.edf",
    "sources": {"x.edf": "11", "x.tsv": "22"},
    "rules_sha256": "aa",
    "steps_sha256": "bb",
    "code_version": 2,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"sources": {"x.edf": "12", "x.tsv": "22"}}, ["x.edf changed"]),
        ({"sources": {"x.edf": "11", "y.tsv": "1"}}, ["x.tsv is gone", "y.tsv is new"]),
        ({"rules_sha256": "ac"}, ["the card's rules changed"]),
        ({"steps_sha256": "c"}, ["the steps changed"]),
        ({"code_version": 3}, ["the code changed (version 2 to 3)"]),
    ],
)
def test_what_changed_is_said_in_words(change, words):
    assert differences(BEFORE, {**BEFORE, **change}) == words


def test_older_provenance_says_what_it_did_not_keep():
    old = {"source": "a/x.edf", "source_sha256": "9", "code_version": 1}
    new = {**BEFORE, "source_sha256": "8"}
    assert differences(old, new) == [
        "the code changed (version 1 to 2)",
        "a source file changed (which one was not kept)",
    ]


@pytest.fixture
def prepared(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Path:
    """Run 4 of two people, prepared by the command; the recordings had been at rest."""
    monkeypatch.setenv("NEUROFM_STORE", str(tmp_path / "stores"))
    monkeypatch.setattr("neurofm.data.preparing.journal._REST_NS", 0)
    assert cli.main(["prepare", "eegmmidb", "--runs", "4", "--quiet"]) == 0
    capsys.readouterr()
    return next((tmp_path / "stores").iterdir())


def test_explain_says_how_a_store_was_prepared(prepared, capsys):
    code, out = run("store", "explain", "eegmmidb", capsys=capsys)
    assert code == 0
    assert "step Notch(freqs=[60.0]" in out and "step Resample(sfreq=256.0" in out
    assert "2 recordings of 2 subjects, 1 sensor sets, 2 at 256 Hz" in out
    assert "2 recordings would be kept" in out
    assert f"made anew: 4, such as eegmmidb_sub-001_run-03: {NEW}" in out


def test_explain_shows_one_recording(prepared, capsys):
    entry = Store(prepared).entries[1]
    code, out = run("store", "explain", prepared, "sub-002", capsys=capsys)
    assert code == 0
    assert f"{entry.recording.id}: 6 channels at 256 Hz" in out
    assert f"key {entry.key}" in out and "made from S002/S002R04.edf" in out
    assert "S002R04.edf  " in out and "would be kept" in out
    assert entry.fingerprint in out
    code, out = run("store", "explain", prepared, "sub-", capsys=capsys)
    assert code == 2 and "2 recordings match 'sub-'" in out
    code, out = run("store", "explain", prepared, "sub-9", capsys=capsys)
    assert code == 2 and "0 recordings match 'sub-9'" in out


def test_explain_names_the_source_that_changed(prepared, tiny_corpus, tiny, capsys):
    changed = tiny_corpus / "eegmmidb" / "S001" / "S001R04.edf"
    tiny.data = tiny.data * 0.5
    tiny.edf(changed)
    out = run("store", "explain", prepared, "sub-001", capsys=capsys)[1]
    assert "it would be made anew: S001R04.edf changed." in out
    out = run("store", "explain", prepared, capsys=capsys)[1]
    assert "1 recordings would be kept" in out and "they were not read" in out
    (tiny_corpus / "eegmmidb" / "S002" / "S002R04.edf").unlink()
    out = run("store", "explain", prepared, capsys=capsys)[1]
    assert "its source is not in the corpus any more" in out


def test_explain_tells_code_from_rules(prepared, capsys, monkeypatch):
    monkeypatch.setattr(keys, "CODE_VERSION", 99)
    out = run("store", "explain", prepared, capsys=capsys)[1]
    version = Store(prepared).entries[0].provenance["code_version"]
    assert f"the code changed (version {version} to 99)" in out
    assert "rules" not in out


def test_explain_says_why_a_version_was_replaced(prepared, tiny_corpus, tiny, capsys):
    first = Store(prepared).entries[0].key
    tiny.data = tiny.data * 0.5
    tiny.edf(tiny_corpus / "eegmmidb" / "S001" / "S001R04.edf")
    assert cli.main(["prepare", "eegmmidb", "--runs", "4", "--quiet"]) == 0
    out = run("store", "explain", prepared, "sub-001", capsys=capsys)[1]
    assert f"replaced {first}: S001R04.edf changed" in out


def test_explain_without_the_recordings_says_so(prepared, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "nowhere"))
    code, out = run("store", "explain", prepared, capsys=capsys)
    assert code == 0 and "cannot be said" in out and "2 recordings of 2 subjects" in out


@pytest.mark.parametrize("words", [["store", "du", "."], ["store", "gc", "."], ["verify", "STORE"]])
def test_these_commands_import_no_deep_learning(words, store):
    words = [str(store) if word in (".", "STORE") else word for word in words]
    code = (
        "import sys; from neurofm.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'braindecode'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
