from __future__ import annotations

import itertools
import json
import os
import pickle
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurofm.io import Store, seal, write_recording
from neurofm.io.stores.blocks import Layout, int16_scale
from neurofm.io.stores.files import LocalFiles, read_document, remove_partial, write_document
from neurofm.io.stores.store import read_record
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

NAMES = ("C3", "Cz", "C4")


def signal(
    n_times: int = 1000,
    sfreq: float = 100.0,
    *,
    names: tuple[str, ...] = NAMES,
    subject: str = "01",
    run: str | None = None,
    seed: int = 0,
    data: np.ndarray | None = None,
) -> Signal:
    if data is None:
        generator = np.random.default_rng(seed)
        size = (len(names), n_times)
        data = generator.normal(0, np.arange(1, len(names) + 1)[:, None] * 10, size)
    position = np.full((len(names), 3), np.nan)
    position[0] = (0.01, -0.02, 0.1)
    sensors = Sensors.of_kind(names, Kind.EEG, position)
    recording = Recording("toy", subject, run=run)
    events = (Event(1.5, 0.25, "left"), Event(4.0, 0.25, "right"))
    return Signal(data.astype(np.float32), sfreq, sensors, events, recording, ("filtered",))


def stored(folder: Path, *signals: Signal, dtype: str = "int16") -> Store:
    for i, item in enumerate(signals):
        write_recording(folder, item, key=f"key-{i}", dtype=dtype)
    seal(folder)
    return Store(folder)


def damage(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)


def test_int16_error_stays_within_half_a_step_and_is_stated(tmp_path):
    original = signal()
    store = stored(tmp_path, original)
    entry = store.entries[0]
    error = np.abs(store.read(0, 0, entry.n_times).astype(np.float64) - original.data).max(axis=1)
    assert (error <= entry.max_error).all()
    np.testing.assert_array_equal(entry.max_error, entry.scale.astype(np.float64) / 2)
    assert (entry.max_error < np.abs(original.data).max(axis=1) / 65000).all()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=20),
    st.sampled_from([1.0, 1e-30, 1e-42]),
)
def test_int16_error_is_bounded_for_any_finite_numbers(values, factor):
    data = (np.array([values]) * factor).astype(np.float32)
    scale = int16_scale(data).astype(np.float64)
    sample = np.rint(data / scale[:, None])
    decoded = (sample.astype(np.float32) * scale[:, None].astype(np.float32)).astype(np.float64)
    assert np.abs(sample).max() <= 32767
    assert (np.abs(decoded - data) <= scale[:, None] / 2).all()


def test_float32_comes_back_exactly(tmp_path):
    original = signal()
    store = stored(tmp_path, original, dtype="float32")
    np.testing.assert_array_equal(store.read(0, 0, 1000), original.data)
    assert not store.entries[0].max_error.any()


@pytest.mark.parametrize("value", [0.0, 7.3, -1e4])
def test_a_constant_channel_survives(tmp_path, value):
    data = np.full((3, 250), value)
    store = stored(tmp_path, signal(data=data))
    np.testing.assert_allclose(store.read(0, 0, 250), data, rtol=2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_numbers_that_are_none_are_refused_by_channel_and_time(tmp_path, bad, dtype):
    data = np.ones((3, 300))
    data[1, 150] = bad
    with pytest.raises(ValueError, match=r"toy_sub-01.*1 of 3 channels.*Cz at 1\.500 s"):
        write_recording(tmp_path, signal(data=data), key="k", dtype=dtype)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "../outside"}, "key"),
        ({"key": "k", "dtype": "int8"}, "int8"),
    ],
)
def test_unusable_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_recording(tmp_path, signal(), **arguments)


def test_an_empty_recording_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no samples"):
        write_recording(tmp_path, signal(data=np.empty((3, 0))), key="k")


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory):
    """A rate that is no whole number, a last block that is not full."""
    original = signal(1234, 102.4)
    return stored(tmp_path_factory.mktemp("odd"), original, dtype="float32"), original.data


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_range_and_channels_equal_the_array(odd_store, data):
    store, array = odd_store
    start = data.draw(st.integers(0, 1233))
    stop = data.draw(st.integers(start + 1, 1234))
    channels = data.draw(st.none() | st.lists(st.integers(0, 2), min_size=1, max_size=5))
    expected = array[:, start:stop] if channels is None else array[channels, start:stop]
    np.testing.assert_array_equal(store.read(0, start, stop, channels=channels), expected)


def test_a_rate_that_is_no_whole_number_is_kept_exactly(odd_store):
    store, _ = odd_store
    assert store.entries[0].sfreq == 102.4
    assert store.entries[0].block == 102


@pytest.mark.parametrize(
    ("sfreq", "block"), [(0.4, 16), (2.0, 16), (16.0, 16), (30.0, 30), (102.4, 102), (1000.0, 1000)]
)
def test_blocks_last_a_second_unless_that_is_a_few_samples(tmp_path, sfreq, block):
    original = signal(50, sfreq)
    store = stored(tmp_path, original, dtype="float32")
    assert store.entries[0].block == block
    np.testing.assert_array_equal(store.read(0, 3, 17), original.data[:, 3:17])
    np.testing.assert_array_equal(store.read(0, 0, 50), original.data)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (990, 1001), (2000, 2010)])
def test_a_range_outside_the_recording_is_refused(tmp_path, start, stop):
    store = stored(tmp_path, signal())
    with pytest.raises(ValueError, match="1000 samples"):
        store.read(0, start, stop)


def test_reading_fills_the_array_it_is_given(tmp_path):
    store = stored(tmp_path, signal())
    out = np.empty((3, 50), dtype=np.float32)
    assert store.read(0, 80, 130, out=out) is out
    np.testing.assert_array_equal(out, store.read(0, 80, 130))
    with pytest.raises(ValueError, match="float64"):
        store.read(0, 80, 130, out=np.empty((3, 50)))


def test_what_is_known_about_a_recording_comes_back(tmp_path):
    original = signal(run="04")
    entry = stored(tmp_path, original).entries[0]
    assert entry.recording == original.recording
    assert entry.events == original.events
    assert entry.history == ("filtered",)
    assert entry.sensors.names == NAMES
    np.testing.assert_array_equal(entry.sensors.position, original.sensors.position)
    np.testing.assert_array_equal(entry.sensors.kind, original.sensors.kind)
    assert entry.duration == 10.0


def test_equal_sensor_sets_are_kept_once(tmp_path):
    other = signal(subject="03", names=("Fz",))
    store = stored(tmp_path, signal(), signal(subject="02"), other)
    assert len(store.sensor_sets) == len(set(store.sensor_sets.hashes)) == 2
    assert store.entries[0].sensors is store.entries[1].sensors


def test_a_recordings_document_states_units_error_and_hashes(tmp_path):
    stored(tmp_path, signal())
    record = json.loads((tmp_path / "recordings" / "key-0.json").read_text())
    assert record["units"] == {"EEG": "µV"}
    assert len(record["max_error"]) == 3
    assert len(record["sha256"]) == 64


def test_blocks_start_at_multiples_of_64_bytes():
    layout = Layout(n_channels=3, n_samples=101, dtype="int16", seed=0)
    assert layout.stride % 64 == 0
    assert layout.payload + 4 <= layout.stride < layout.payload + 4 + 64


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_flipped_bit_is_caught_and_named(tmp_path, dtype):
    store = stored(tmp_path, signal(), dtype=dtype)
    stride = Layout(3, 100, dtype, 0).stride
    damage(tmp_path / "recordings" / "key-0.bin", 4 * stride + 100)
    store.read(0, 0, 400)
    store.read(0, 500, 1000)
    for start, stop in [(350, 450), (499, 501), (0, 1000)]:
        with pytest.raises(
            OSError, match=r"key-0\.bin.*toy_sub-01.*block 4 \(second 4.*prepare toy"
        ):
            store.read(0, start, stop)


def test_every_byte_of_samples_and_checksum_is_protected(tmp_path):
    store = stored(tmp_path, signal(30, 30.0))
    path = tmp_path / "recordings" / "key-0.bin"
    for at in range(0, Layout(3, 30, "int16", 0).payload + 4, 7):
        damage(path, at)
        with pytest.raises(OSError, match="block 0"):
            store.read(0, 0, 1)
        damage(path, at)


def test_blocks_in_the_wrong_place_are_caught(tmp_path):
    store = stored(tmp_path, signal())
    path = tmp_path / "recordings" / "key-0.bin"
    stride = Layout(3, 100, "int16", 0).stride
    raw = path.read_bytes()
    path.write_bytes(raw[stride : 2 * stride] + raw[:stride] + raw[2 * stride :])
    with pytest.raises(OSError, match="block 0"):
        store.read(0, 0, 200)


def test_another_recordings_file_is_caught(tmp_path):
    store = stored(tmp_path, signal(), signal(subject="02", seed=1))
    folder = tmp_path / "recordings"
    (folder / "key-0.bin").write_bytes((folder / "key-1.bin").read_bytes())
    with pytest.raises(OSError, match="checksum"):
        store.read(0, 0, 100)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_file_is_an_error_before_and_after_it_was_opened(tmp_path, keep):
    store = stored(tmp_path, signal())
    path = tmp_path / "recordings" / "key-0.bin"
    opened = Store(tmp_path)
    opened.read(0, 900, 1000)
    os.truncate(path, keep)
    for reader in (store, opened):
        with pytest.raises(OSError, match=rf"{keep} bytes, the index says.*Rerun"):
            reader.read(0, 900, 1000)


def test_a_missing_file_is_an_error_with_a_remedy(tmp_path):
    store = stored(tmp_path, signal())
    (tmp_path / "recordings" / "key-0.bin").unlink()
    with pytest.raises(OSError, match=r"missing.*Rerun `neurofm prepare toy`"):
        store.read(0, 0, 10)


def test_a_folder_without_manifest_is_no_store(tmp_path):
    write_recording(tmp_path, signal(), key="k")
    with pytest.raises(FileNotFoundError, match="neurofm prepare"):
        Store(tmp_path)


def test_a_damaged_manifest_is_refused(tmp_path):
    stored(tmp_path, signal())
    damage(tmp_path / "manifest.json", 200)
    with pytest.raises(OSError, match=r"manifest\.json.*damaged"):
        Store(tmp_path)


def test_a_manifest_of_a_newer_format_is_refused(tmp_path):
    stored(tmp_path, signal())
    manifest = read_document(tmp_path / "manifest.json")
    write_document(tmp_path / "manifest.json", {**manifest, "format": 99})
    with pytest.raises(ValueError, match="format 99"):
        Store(tmp_path)


def test_sealing_adds_what_is_new_and_leaves_an_equal_manifest_alone(tmp_path):
    stored(tmp_path, signal())
    manifest = tmp_path / "manifest.json"
    before = manifest.stat().st_mtime_ns, manifest.stat().st_ino
    seal(tmp_path)
    assert (manifest.stat().st_mtime_ns, manifest.stat().st_ino) == before
    write_recording(tmp_path, signal(subject="02"), key="key-1")
    seal(tmp_path)
    assert [e.recording.subject for e in Store(tmp_path).entries] == ["01", "02"]


def test_of_two_versions_the_one_named_current_is_listed(tmp_path):
    for key in ("old", "new"):
        write_recording(tmp_path, signal(), key=key)
    for current in ("old", "new", "old"):
        seal(tmp_path, keys=[current])
        assert [e.key for e in Store(tmp_path).entries] == [current]
        seal(tmp_path)
        assert [e.key for e in Store(tmp_path).entries] == [current]


def test_a_whole_recording_is_recognised_and_a_damaged_one_is_not(tmp_path):
    record = write_recording(tmp_path, signal(), key="k")
    loaded = read_record(tmp_path, "k")
    assert loaded is not None
    assert loaded["sha256"] == record["sha256"]
    assert read_record(tmp_path, "absent") is None
    path = tmp_path / "recordings" / "k.bin"
    damage(path, 100)
    assert read_record(tmp_path, "k") is None
    damage(path, 100)
    path.write_bytes(path.read_bytes() + b"more")
    assert read_record(tmp_path, "k") is None


def test_a_store_travels_by_pickle(tmp_path):
    store = stored(tmp_path, signal(), signal(subject="02", seed=1))
    expected = store.read(1, 10, 220)
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.read(1, 10, 220), expected)


def test_open_files_are_bounded_and_all_recordings_stay_readable(tmp_path):
    store = stored(tmp_path, *(signal(subject=f"{i:02d}", seed=i) for i in range(12)))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    store.source = LocalFiles(tmp_path, limit=3)
    for i in itertools.chain(range(12), reversed(range(12))):
        store.read(i, 0, 150)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_threads_share_a_store(tmp_path):
    store = stored(tmp_path, *(signal(subject=f"{i:02d}", seed=i) for i in range(6)))
    store.source = LocalFiles(tmp_path, limit=1)
    expected = [store.read(i, 50, 350) for i in range(6)]
    wrong: list[int] = []

    def work() -> None:
        for i in list(range(6)) * 20:
            if not np.array_equal(store.read(i, 50, 350), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bytes_may_come_from_anywhere(tmp_path):
    expected = stored(tmp_path, signal()).read(0, 130, 470)
    calls = []

    class Elsewhere:
        def read_range(self, name: str, offset: int, n: int) -> bytes:
            calls.append((name, offset, n))
            return (tmp_path / name).read_bytes()[offset : offset + n]

        def size(self, name: str) -> int:
            return (tmp_path / name).stat().st_size

    got = Store(tmp_path, source=Elsewhere()).read(0, 130, 470)
    np.testing.assert_array_equal(got, expected)
    assert len(calls) == 1  # one ranged read for the whole window


def test_files_of_dead_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    dead = tmp_path / f".a.bin.{socket.gethostname()}-999999999.partial"
    alive = tmp_path / f".b.bin.{socket.gethostname()}-{os.getpid()}.partial"
    elsewhere = tmp_path / ".c.bin.another-host-1.partial"
    for path in (dead, alive, elsewhere):
        path.write_bytes(b"x")
    assert remove_partial(tmp_path) == 1
    assert not dead.exists()
    assert alive.exists()
    assert elsewhere.exists()
