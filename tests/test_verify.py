"""`neurofm verify`: each kind of damage found and named, and only what is damaged made anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofm import cli
from neurofm.data.preparing import preparation, repair
from neurofm.io import Store, seal, write_recording
from neurofm.io.stores.damage import Damage, damage_of, find_damage
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind


def signal(subject: str, seed: int | None = None) -> Signal:
    generator = np.random.default_rng(int(subject) if seed is None else seed)
    data = generator.normal(0, 20, (3, 1000)).astype(np.float32)
    sensors = Sensors.of_kind(["C3", "Cz", "C4"], Kind.EEG)
    return Signal(data, 100.0, sensors, (), Recording("toy", subject))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        write_recording(tmp_path / "toy", signal(f"{i}"), key=f"k{i}")
    seal(tmp_path / "toy", about={"dataset": "toy"})
    return tmp_path / "toy"


def flip(file: Path, at: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 4
    file.write_bytes(raw)


def one(folder: Path) -> Damage:
    found = list(find_damage(Store(folder)))
    assert len(found) == 1
    return found[0]


def test_nothing_is_found_in_a_whole_store(folder):
    assert list(find_damage(Store(folder))) == []


@pytest.mark.parametrize("at", [0, 640, 643, 3199, -1, -30])
def test_any_flipped_bit_is_found_and_its_second_named(folder, at):
    """Samples, checksums, and the zeros that fill up blocks."""
    file = folder / "recordings" / "k2.bin"
    flip(file, at)
    found = one(folder)
    assert (found.key, found.recording, found.what) == ("k2", "toy_sub-2", "flipped")
    second = (at % file.stat().st_size) // (file.stat().st_size // 10)
    assert found.detail == f"1 of 10 blocks, the first at second {second}.000"


def test_every_damaged_block_is_counted(folder):
    file = folder / "recordings" / "k2.bin"
    stride = file.stat().st_size // 10
    for block in (3, 4, 9):
        flip(file, block * stride + 5)
    assert one(folder).detail == "3 of 10 blocks, the first at second 3.000"


def _truncate(folder: Path) -> None:
    os.truncate(folder / "recordings" / "k1.bin", 1000)


def _lengthen(folder: Path) -> None:
    with open(folder / "recordings" / "k1.bin", "ab") as file:
        file.write(b"more")


def _remove(folder: Path) -> None:
    (folder / "recordings" / "k1.bin").unlink()


def _exchange(folder: Path) -> None:
    write_recording(folder, signal("1", seed=99), key="k1")


def _lose_document(folder: Path) -> None:
    (folder / "recordings" / "k1.json").unlink()


def _damage_document(folder: Path) -> None:
    flip(folder / "recordings" / "k1.json", 100)


def _other_document(folder: Path) -> None:
    write_recording(folder, signal("1"), key="k1", fingerprint="another")


@pytest.mark.parametrize(
    ("act", "what", "detail"),
    [
        (_truncate, "truncated", "1000 bytes instead of 6400"),
        (_lengthen, "other content", "6404 bytes instead of 6400"),
        (_remove, "missing", "k1.bin"),
        (_exchange, "other content", "the blocks are whole, but they are not those that were"),
        (_lose_document, "missing", "k1.json"),
        (_damage_document, "document", "its checksum does not match"),
        (_other_document, "document", "it is not the one that was sealed"),
    ],
)
def test_each_kind_of_damage_is_named(folder, act, what, detail):
    act(folder)
    found = one(folder)
    assert (found.place, found.key, found.what) == (1, "k1", what)
    assert found.detail.startswith(detail)


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    """The superuser may read everything: the refusal is simulated."""
    original = os.open

    def refusing(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("k1.bin"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, flags, *args, **kwargs)

    store = Store(folder)
    monkeypatch.setattr("neurofm.io.stores.files.os.open", refusing)
    found = list(find_damage(store))
    assert [(item.key, item.what) for item in found] == [("k1", "unreadable")]
    assert "Permission denied" in found[0].detail
    with pytest.raises(OSError, match=r"k1\.bin: no permission to read it\. Ask its owner"):
        store.read(1, 0, 10)
    assert store.read(0, 0, 10).shape == (3, 10)


def test_progress_counts_all_bytes_once(folder):
    _truncate(folder)
    store = Store(folder)
    for i in range(len(store)):
        counts: list[int] = []
        damage_of(store, i, advance=counts.append)
        assert sum(counts) == store.entries[i].n_bytes


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out + err


def test_the_command_says_that_a_store_is_whole(folder, capsys):
    code, out = run("verify", folder, capsys=capsys)
    assert code == 0
    assert "4 of 4 recordings are whole, 25.6 kB read" in out


def test_the_command_lists_damage_and_how_to_repair_it(folder, capsys):
    flip(folder / "recordings" / "k2.bin", 1300)
    _remove(folder)
    code, out = run("verify", folder, capsys=capsys)
    assert code == 1
    assert "toy_sub-1" in out and "missing" in out and "k1.bin" in out
    assert "toy_sub-2" in out and "flipped" in out and "second 2.000" in out
    assert f"neurofm verify {folder} --repair" in out
    assert "2 of 4 recordings are whole" in out


def test_the_command_tells_machines(folder, capsys):
    _remove(folder)
    (folder / "recordings" / "k9.bin").write_bytes(b"never finished")
    code = cli.main(["verify", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert found[0]["ok"] is False and found[0]["recordings"] == 4
    assert [(item["key"], item["what"]) for item in found[0]["damaged"]] == [("k1", "missing")]
    left = [Path(file).name for item in found[0]["leftovers"] for file in item["files"]]
    assert left == ["k9.bin"]


def test_what_nobody_needs_is_no_damage(folder, capsys):
    (folder / "recordings" / "k9.bin").write_bytes(b"never finished")
    code, out = run("verify", folder, capsys=capsys)
    assert code == 0
    assert "1 things that the index does not name" in out and "neurofm store gc" in out


@pytest.mark.parametrize("file", ["index", "manifest"])
def test_a_damaged_index_is_found_and_made_anew(folder, capsys, file):
    path = folder / "manifest.json" if file == "manifest" else next(folder.glob("index-*"))
    whole = Store(folder).digest
    flip(path, 60)
    code, out = run("verify", folder, capsys=capsys)
    assert code == 1 and "the index cannot be used" in out and "--repair" in out
    code, out = run("verify", folder, "--repair", capsys=capsys)
    assert code == 0 and "4 of 4 recordings are whole" in out
    assert Store(folder).digest == whole


def test_a_folder_that_is_no_store_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NEUROFM_STORE", str(tmp_path / "none"))
    code, out = run("verify", tmp_path, capsys=capsys)
    assert code == 2 and "no prepared store" in out and "neurofm prepare DATASET" in out


@pytest.fixture
def prepared(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Path:
    """Runs 4 of two people, prepared by the command."""
    monkeypatch.setenv("NEUROFM_STORE", str(tmp_path / "stores"))
    assert cli.main(["prepare", "eegmmidb", "--runs", "4", "6", "--quiet"]) == 0
    capsys.readouterr()
    return next((tmp_path / "stores").iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("recordings/*"), *folder.glob("*.bin"), folder / "manifest.json"]
    return {file.name: file.read_bytes() for file in files}


def test_only_what_is_damaged_is_prepared_again(prepared, capsys, monkeypatch):
    before = contents(prepared)
    files = sorted(prepared.glob("recordings/*.bin"))
    flip(files[0], 2000)
    files[2].unlink()
    flip(prepared / "recordings" / f"{files[3].stem}.json", 300)
    made = []
    original = preparation.prepare_recording

    def counted(corpus: Any, recording: Recording, *args: Any, **kwargs: Any) -> Any:
        made.append(recording.id)
        return original(corpus, recording, *args, **kwargs)

    monkeypatch.setattr(repair, "prepare_recording", counted)
    code, out = run("verify", "eegmmidb", "--repair", "--quiet", capsys=capsys)
    assert code == 0
    assert "3 of 3 damaged recordings were made anew" in out
    assert [name.rpartition("_")[0] for name in made] == [
        "eegmmidb_sub-001",
        "eegmmidb_sub-002",
        "eegmmidb_sub-002",
    ]
    assert contents(prepared) == before
    assert not (prepared / "damaged").exists()
    code, out = run("verify", "eegmmidb", capsys=capsys)
    assert code == 0 and "4 of 4 recordings are whole" in out


def test_what_cannot_be_made_anew_is_put_back(prepared, tiny_corpus, capsys):
    files = sorted(prepared.glob("recordings/*.bin"))
    flip(files[0], 2000)
    flip(files[3], 2000)
    before = contents(prepared)
    first, last = Store(prepared).entries[0], Store(prepared).entries[3]
    (tiny_corpus / "eegmmidb" / "S001" / "S001R04.edf").write_bytes(b"<html>not an EDF</html>")
    (tiny_corpus / "eegmmidb" / "S002" / "S002R06.edf").unlink()
    code, out = run("verify", prepared, "--repair", "--json", capsys=capsys)
    found = json.loads(out[: out.rindex("]") + 1])[0]
    assert code == 1
    reasons = {item["recording"]: item["not_repaired"] for item in found["damaged"]}
    assert "HTML" in reasons[first.recording.id] or "html" in reasons[first.recording.id]
    assert "not in" in reasons[last.recording.id]
    assert contents(prepared) == before
    assert Store(prepared).read(0, 500, 600).shape == (6, 100)


def test_an_interrupted_repair_puts_back_what_it_had_moved(prepared, capsys, monkeypatch):
    flip(sorted(prepared.glob("recordings/*.bin"))[0], 2000)
    before = contents(prepared)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(repair, "prepare_recording", interrupted)
    assert cli.main(["verify", str(prepared), "--repair", "--quiet"]) == 130
    assert contents(prepared) == before


def test_what_a_killed_repair_had_moved_is_put_back_by_the_next(prepared, tiny_corpus, capsys):
    files = sorted(prepared.glob("recordings/*.bin"))
    flip(files[0], 2000)
    before = contents(prepared)
    (prepared / "damaged").mkdir()
    for file in (files[0], files[0].with_suffix(".json")):
        file.rename(prepared / "damaged" / file.name)
    (tiny_corpus / "eegmmidb" / "S001" / "S001R04.edf").unlink()
    out = run("store", "gc", prepared, "--yes", capsys=capsys)[1]
    assert "puts it back" in out and "(kept)" in out
    code, out = run("verify", prepared, "--repair", capsys=capsys)
    assert code == 1 and "missing" in out
    assert contents(prepared) == before
    assert not (prepared / "damaged").exists()


def test_a_renamed_store_is_not_filled_with_what_belongs_elsewhere(prepared, capsys):
    moved = prepared.rename(prepared.with_name("eegmmidb-000000000000"))
    flip(sorted(moved.glob("recordings/*.bin"))[0], 2000)
    code, out = run("verify", moved, "--repair", capsys=capsys)
    assert code == 2 and "was renamed" in out


def test_a_store_without_known_origin_cannot_be_repaired(folder, capsys):
    seal(folder, about={})
    _remove(folder)
    code, out = run("verify", folder, "--repair", capsys=capsys)
    assert code == 2 and "does not say of which dataset" in out
