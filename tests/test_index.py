"""The index of a store: what comes back, what opening costs, and that no damage is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from neurofm.io.stores.files import write_document
from neurofm.io.stores.index import Index, IndexRow, build, load
from neurofm.io.stores.packed import Pool, Texts, pack, unpack
from neurofm.types import Recording, Sensors
from neurofm.units import Kind


def row(i: int, digest: str, *, n_channels: int = 3, dtype: str = "int16", events: int = 2) -> Any:
    generator = np.random.default_rng(i)
    labels = ("left", "right", "Füße")
    return IndexRow(
        key=f"key-{i}",
        recording=Recording("toy", f"{i // 2:02d}", run=None if i % 3 else f"{i}", task="rest"),
        sensors_hash=digest,
        n_times=1000 + i,
        sfreq=102.4,
        block=102,
        dtype=dtype,
        scale=generator.random(n_channels).astype(np.float32) if dtype == "int16" else None,
        onset=np.sort(generator.uniform(0, 9, events)),
        duration=generator.random(events),
        labels=tuple(labels[k % 3] for k in range(events)),
        history=json.dumps(["notch", f"resample {i % 2}"]),
        details=json.dumps({"line": 50}),
        provenance=json.dumps({"source": f"{i}.edf"}),
        fingerprint=f"mark-{i}" if i % 2 else "",
        n_bytes=6400,
        sha256=f"{i:064x}",
        document_crc32c=i,
        document_bytes=500,
    )


def sensor_sets() -> dict[str, Sensors]:
    position = np.full((3, 3), np.nan)
    position[1] = (0.01, 0.02, 0.03)
    first = Sensors.of_kind(["C3", "Cz", "C4"], Kind.EEG, position)
    second = Sensors.of_kind(["A'1", "A'2"], Kind.SEEG, frame="mni")
    return {"00" * 8: first, "ab" * 8: replace(second, region=("left hippocampus", ""))}


def small_index() -> Index:
    first, second = sensor_sets()
    rows = [row(0, first), row(1, second, n_channels=2, events=0), row(2, first, dtype="float32")]
    return build(rows, sensor_sets(), {"dataset": "toy", "steps": []})


def packed(index: Index) -> bytes:
    return b"".join(pack(index.about, index.arrays))


RAW = packed(small_index())


def loaded(raw: bytes) -> Index:
    return load(np.frombuffer(raw, dtype=np.uint8), "store/index.bin")


def assert_same(a: IndexRow, b: IndexRow) -> None:
    for name in a.__dataclass_fields__:
        mine, its = getattr(a, name), getattr(b, name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, its)
            assert mine.dtype == its.dtype
        else:
            assert mine == its, name


def test_rows_come_back_as_they_were_given():
    index = loaded(RAW)
    first, second = sensor_sets()
    given = [row(0, first), row(1, second, n_channels=2, events=0), row(2, first, dtype="float32")]
    assert len(index) == 3
    for i, expected in enumerate(given):
        assert_same(index.row(i), expected)


def test_sensors_come_back_as_they_were_given():
    index = loaded(RAW)
    for number, expected in enumerate(sensor_sets().values()):
        found = index.sensors(number)
        assert found is index.sensors(number)
        assert (found.names, found.frame, found.region) == (
            expected.names,
            expected.frame,
            expected.region,
        )
        for name in ("kind", "position", "orientation"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_columns_say_what_the_rows_say():
    columns = loaded(RAW).columns
    assert len(columns) == 3
    assert columns.n_times.tolist() == [1000, 1001, 1002]
    assert columns.n_channels.tolist() == [3, 2, 3]
    assert columns.is_int16.tolist() == [True, True, False]
    assert [columns.tables["subject"][i] for i in columns.subject] == ["00", "00", "01"]
    assert columns.session.tolist() == [-1, -1, -1]
    assert columns.run.tolist() == [0, -1, -1]
    assert np.diff(columns.scale_at).tolist() == [3, 2, 0]
    assert np.diff(columns.event_at).tolist() == [2, 0, 2]
    assert [columns.tables["label"][i] for i in columns.event_label] == ["left", "right"] * 2
    for name in ("scale", "event_onset"):
        assert getattr(columns, name).flags.aligned


def test_an_index_is_the_same_bytes_for_the_same_recordings():
    assert packed(small_index()) == RAW
    assert packed(loaded(RAW)) == RAW


def test_an_empty_index_is_one():
    index = loaded(packed(build([], {}, {"dataset": "toy"})))
    assert len(index) == len(index.columns) == index.n_sets == 0


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_no_flipped_byte_is_loaded(at, flip):
    raw = bytearray(RAW)
    raw[at] ^= flip
    with pytest.raises((OSError, ValueError), match=r"store/index\.bin.*neurofm prepare"):
        loaded(bytes(raw))


@given(st.integers(0, len(RAW) - 1))
def test_no_truncated_index_is_loaded(keep):
    with pytest.raises((OSError, ValueError), match=r"store/index\.bin.*neurofm prepare"):
        loaded(RAW[:keep])


@given(st.binary(max_size=200))
def test_nothing_else_is_an_index(raw):
    for given_bytes in (raw, RAW[:16] + raw, RAW + raw if raw else raw):
        with pytest.raises((OSError, ValueError), match="neurofm prepare"):
            loaded(given_bytes)


def sealed(raw: bytes) -> bytes:
    """With the checksum that belongs to it: as if written by somebody else."""
    return raw[:16] + crc32c(raw[20:]).to_bytes(4, "little") + raw[20:]


@given(st.data())
def test_an_index_with_a_right_checksum_and_wrong_contents_is_refused_or_read_without_a_crash(data):
    raw = bytearray(RAW)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(20, len(RAW) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        index = loaded(sealed(bytes(raw)))
        for i in range(len(index)):
            index.row(i)
            index.sensors(int(index.columns.sensors[i]))
    except (OSError, ValueError):
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"n_times": np.array([1, 2], "<i8")},
        {"n_times": np.array([1, 2, 0], "<i8")},
        {"sfreq": np.array([1, 2, 3], "<f4")},
        {"sfreq": np.array([1, 2, np.nan])},
        {"subject": np.array([0, 0, 5], "<i4")},
        {"subject": np.array([0, 0, -1], "<i4")},
        {"sensors": np.array([0, 1, 2], "<i4")},
        {"scale_at": np.array([0, 3, 2, 5], "<i8")},
        {"scale_at": np.array([0, 3, 3, 5], "<i8")},
        {"event_at": np.array([0, 2, 2, 9], "<i8")},
        {"event_label": np.array([0, 1, 7, 0], "<i4")},
        {"frame": np.array([0, 9], "|u1")},
        {"key_at_text": np.array([0, 1], "<i8")},
        {"dtype": np.array([0, 1, 2], "|u1")},
        {"text_text": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_columns_that_point_nowhere_are_refused(change):
    arrays = {k: v for k, v in {**small_index().arrays, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=r"not the index of a store.*neurofm prepare"):
        loaded(b"".join(pack({}, arrays)))


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "{}",
        '{"about": 1, "arrays": {}, "n_bytes": 0}',
        '{"about": {}, "arrays": {"a": ["<i8", [1], 0]}, "n_bytes": 0}',
        '{"about": {}, "arrays": {"a": ["|O", [0], 0]}, "n_bytes": 0}',
        '{"about": {}, "arrays": {"a": ["<i8", [-1], 0]}, "n_bytes": 0}',
        '{"about": {}, "arrays": {"a": ["<i8", ["1"], 0]}, "n_bytes": 0}',
        '{"about": {}, "arrays": {"a": ["<i8", 5, 0]}, "n_bytes": 0}',
        '{"about": {}, "arrays": {"a": [1]}, "n_bytes": 0}',
        '{"about": {}, "arrays": {"a": ["<i8", [99999999999999999999], 0]}, "n_bytes": 0}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_headers_that_make_no_sense_are_refused(header):
    text = header.encode("latin-1")
    raw = sealed(RAW[:20] + len(text).to_bytes(4, "little") + text)
    with pytest.raises(ValueError, match="makes no sense"):
        unpack(np.frombuffer(raw, dtype=np.uint8), "index")


def test_an_index_of_another_format_is_named():
    raw = sealed(b"neurofm index 9\n" + RAW[16:])
    with pytest.raises(ValueError, match=r"neurofm index 9.*Update neurofm"):
        loaded(raw)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=10))
def test_texts_come_back_and_equal_ones_are_kept_once(texts):
    pool = Pool()
    numbers = [pool(text) for text in texts]
    assert pool(None) == -1
    kept = Texts(*pool.arrays())
    assert [kept[number] for number in numbers] == texts
    assert len(kept) == len(set(texts))
    assert kept[:] == list(dict.fromkeys(texts))
    with pytest.raises(IndexError):
        kept[len(kept)]


def test_keys_that_lead_out_of_the_store_are_refused():
    index = build([replace(row(0, "00" * 8), key="../../k")], sensor_sets(), {})
    with pytest.raises(ValueError, match=r"not the index of a store \(keys\)"):
        loaded(packed(index))


OPEN = """
import os, sys
from neurofm.io import Store
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
store = Store(sys.argv[1])
print(resident() - before, len(store), store.entries[99_999].key)
"""


def repeated(index: Index, times: int) -> Index:
    """The same recordings many times, each with its own copy of the texts."""
    a, n_texts = index.arrays, len(index.pools["text"])
    fixed = {"set_hash", "frame", "kind", "position", "orientation", "channel_at"}
    fixed |= {"channel_name", "channel_region"}
    pools = {name for name in a if name.endswith("_text")} - {"key_at_text", "key_text"}
    pools -= {"text_at_text", "text_text"}
    arrays = {}
    for name, array in a.items():
        if name in fixed | pools:
            arrays[name] = array
        elif name in ("scale_at", "event_at", "key_at_text", "text_at_text"):
            lengths = np.tile(np.diff(array), times)
            arrays[name] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        else:
            arrays[name] = np.tile(array, (times, *[1] * (array.ndim - 1)))
            if name in ("history", "details", "provenance", "fingerprint"):
                shift = np.repeat(np.arange(times, dtype=np.int32) * n_texts, len(array))
                arrays[name] = arrays[name] + shift
    return Index(index.about, arrays)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_hundred_thousand_recordings_open_in_300_megabytes(tmp_path):
    """64 channels and 30 events each, 20 sensor sets, a source of its own for each recording."""
    n, n_channels, n_events = 1000, 64, 30
    generator = np.random.default_rng(0)
    names = [f"E{i}" for i in range(n_channels)]
    sets = {
        f"{k:016x}": Sensors.of_kind(names, Kind.EEG, generator.normal(size=(n_channels, 3)))
        for k in range(20)
    }
    first = row(0, f"{0:016x}", n_channels=n_channels, events=n_events)
    rows = [
        replace(
            first,
            key=f"big_sub-{i // 10:05d}_ses-1_task-rest_run-{i % 10}-{i:016x}",
            recording=Recording("big", f"{i // 10:05d}", "1", f"{i % 10}", "rest"),
            sensors_hash=f"{i % 20:016x}",
            provenance=f'{{"source": "sub-{i:05d}/eeg/{i}.edf", "source_sha256": "{i:064x}"}}',
            fingerprint=f"{i:040x}",
        )
        for i in range(n)
    ]
    index = repeated(build(rows, sets, {"dataset": "big"}), 100)
    assert_same(index.row(99_999), rows[-1])
    raw = packed(index)
    assert len(raw) > 120e6
    (tmp_path / "index-0.bin").write_bytes(raw)
    crc = int.from_bytes(raw[16:20], "little")
    named = {"file": "index-0.bin", "n_bytes": len(raw), "crc32c": crc, "sha256": ""}
    write_document(tmp_path / "manifest.json", {"format": 3, "about": {}, "index": named})
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, check=True
    )
    grown, length, key = done.stdout.split()
    assert int(length) == 100 * n and key == rows[-1].key
    assert float(grown) < 300e6
