from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from neurofm.batch import Batch
from neurofm.data import Windows, collate
from neurofm.io import Store, seal, write_recording
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


def signal(
    subject: str = "01",
    *,
    names: tuple[str, ...] = ("C3", "Cz", "C4"),
    run: str = "04",
    dataset: str = "toy",
    seconds: float = 10.0,
    sfreq: float = 100.0,
    events: tuple[Event, ...] = (Event(1.0, 0.5, "left"), Event(5.0, 0.5, "right")),
) -> Signal:
    generator = np.random.default_rng([int(subject), len(names), int(run)])
    data = generator.normal(0, 30, (len(names), round(seconds * sfreq))).astype(np.float32)
    position = generator.normal(0, 0.05, (len(names), 3))
    position[-1] = np.nan
    sensors = Sensors.of_kind(names, Kind.EEG, position)
    return Signal(data, sfreq, sensors, events, Recording(dataset, subject, run=run))


def store_of(folder: Path, *signals: Signal) -> Store:
    for item in signals:
        write_recording(folder, item, key=item.recording.id, dtype="float32")
    seal(folder)
    return Store(folder)


def identity(batch: Batch) -> Batch:
    return batch


def equal(one: Batch, other: Batch) -> None:
    for name in ("x", "channel_mask", "kind", "position", "orientation", "has_position"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
    for name in ("onset", "subject", "recording"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
    assert (one.y is None) == (other.y is None)
    if one.y is not None and other.y is not None:
        torch.testing.assert_close(one.y, other.y)


def test_windows_tile_a_recording_up_to_its_last_sample(tmp_path):
    original = signal()
    windows = Windows(store_of(tmp_path, original), window_s=2.5)
    assert len(windows) == 4
    batch = windows.batch([3])
    assert batch.onset.tolist() == [7.5]
    np.testing.assert_array_equal(batch.x[0], original.data[:, 750:])
    assert batch.y is None


def test_overlapping_windows_start_every_stride(tmp_path):
    original = signal(sfreq=128.0)
    windows = Windows(store_of(tmp_path, original), window_s=2.0, stride_s=0.7)
    starts = np.rint(np.arange(12) * 0.7 * 128).astype(int)
    assert [round(row.start * 128) for row in windows.rows] == starts.tolist()
    batch = windows.batch(range(12))
    for x, start in zip(batch.x, starts, strict=True):
        np.testing.assert_array_equal(x, original.data[:, start : start + 256])


def test_a_stride_that_is_no_whole_number_of_samples_does_not_drift(tmp_path):
    windows = Windows(store_of(tmp_path, signal(seconds=60)), window_s=1.0, stride_s=0.333)
    starts = np.array([row.start for row in windows.rows])
    assert np.abs(starts - np.arange(len(starts)) * 0.333).max() <= 0.005 + 1e-9


def test_labelled_windows_start_at_their_events(tmp_path):
    original = signal()
    windows = Windows(
        store_of(tmp_path, original), window_s=2.0, labels=["right", "left"], offset_s=0.5
    )
    batch = windows.batch([0, 1])
    assert batch.y.tolist() == [1, 0]
    assert batch.onset.tolist() == [1.5, 5.5]
    np.testing.assert_array_equal(batch.x[1], original.data[:, 550:750])
    assert [row.label for row in windows.rows] == ["left", "right"]
    assert windows.n_outputs == 2


def test_a_window_may_start_before_its_event(tmp_path):
    original = signal()
    windows = Windows(store_of(tmp_path, original), window_s=1.0, labels=["right"], offset_s=-0.5)
    np.testing.assert_array_equal(windows.batch([0]).x[0], original.data[:, 450:550])


def test_a_window_that_ends_with_the_recording_is_kept_exactly(tmp_path):
    original = signal(events=(Event(8.0, 0.1, "a"), Event(8.01, 0.1, "a")))
    with pytest.warns(UserWarning, match="1 of 2 events are too close"):
        windows = Windows(store_of(tmp_path, original), window_s=2.0, labels=["a"])
    np.testing.assert_array_equal(windows.batch([0]).x[0], original.data[:, 800:])


def test_short_recordings_are_left_out_with_a_count(tmp_path):
    store = store_of(tmp_path, signal(), signal("02", seconds=1.0, events=()))
    with pytest.warns(UserWarning, match="1 of 2 recordings are shorter than 2.0 s"):
        windows = Windows(store, window_s=2.0)
    assert {row.subject for row in windows.rows} == {"01"}


def test_unknown_labels_are_an_error_that_lists_those_that_exist(tmp_path):
    store = store_of(tmp_path, signal(), signal("02"))
    with pytest.raises(ValueError, match=r"'feet'.*left \(2\), right \(2\)"):
        Windows(store, window_s=1.0, labels=["feet"])


def test_no_window_fits_is_an_error(tmp_path):
    store = store_of(tmp_path, signal())
    with (
        pytest.warns(UserWarning, match="shorter"),
        pytest.raises(ValueError, match=r"longest lasts 10\.000 s"),
    ):
        Windows(store, window_s=11.0)


@pytest.mark.parametrize("arguments", [{"window_s": 0.0}, {"window_s": 1.0, "stride_s": -1.0}])
def test_lengths_must_be_positive(tmp_path, arguments):
    store = store_of(tmp_path, signal())
    with pytest.raises(ValueError, match="above 0"):
        Windows(store, **arguments)


def test_a_batch_keeps_the_order_it_was_asked_for(tmp_path):
    windows = Windows(store_of(tmp_path, signal(), signal("02"), signal("03")), window_s=1.0)
    order = np.random.default_rng(0).permutation(len(windows)).tolist()
    batch = windows.__getitems__(order)
    for position, index in enumerate(order):
        torch.testing.assert_close(batch.x[position], windows[index].x[0], rtol=0, atol=0)
        assert batch.onset[position] == windows[index].onset[0]


def test_a_window_may_be_drawn_twice(tmp_path):
    batch = Windows(store_of(tmp_path, signal()), window_s=1.0).batch([3, 3])
    torch.testing.assert_close(batch.x[0], batch.x[1], rtol=0, atol=0)


def test_unknown_positions_are_zero_and_marked(tmp_path):
    batch = Windows(store_of(tmp_path, signal()), window_s=1.0).batch([0, 1])
    assert batch.has_position.tolist() == [[True, True, False]] * 2
    assert not batch.position[:, 2].any()
    assert batch.kind.dtype == torch.int64


def test_other_channel_sets_are_padded_and_masked(tmp_path):
    small, large = signal("01", names=("Fz", "Pz")), signal("02")
    windows = Windows(store_of(tmp_path, small, large), window_s=2.0)
    batch = windows.batch([0, 5])
    assert batch.channel_mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch.kind[0].tolist() == [0, 0, int(Kind.PAD)]
    assert not batch.x[0, 2].any()
    assert not batch.position[0, 2].any()
    np.testing.assert_array_equal(batch.x[0, :2], small.data[:, :200])
    np.testing.assert_array_equal(batch.x[1], large.data[:, :200])


def test_a_batch_is_no_wider_than_its_largest_recording(tmp_path):
    windows = Windows(
        store_of(tmp_path, signal("01", names=("Fz", "Pz")), signal("02")), window_s=2.0
    )
    assert windows.batch([0, 1]).x.shape == (2, 2, 200)


def test_channels_keep_the_order_of_their_recording(tmp_path):
    original = signal()
    turned = signal("02")
    turned = Signal(
        original.data[::-1].copy(),
        original.sfreq,
        original.sensors.pick([2, 1, 0]),
        original.events,
        turned.recording,
    )
    batch = Windows(store_of(tmp_path, original, turned), window_s=10.0).batch([0, 1])
    torch.testing.assert_close(batch.x[0], batch.x[1].flip(0), rtol=0, atol=0)
    torch.testing.assert_close(batch.position[0], batch.position[1].flip(0), rtol=0, atol=0)


def test_several_stores_are_one_data_set(tmp_path):
    first = store_of(tmp_path / "a", signal("01"))
    store_of(tmp_path / "b", signal("01", dataset="other", names=("Fz",)))
    windows = Windows([first, tmp_path / "b"], window_s=5.0)
    batch = windows.batch([0, 3])
    assert windows.subjects == ["other/01", "toy/01"]
    assert [windows.subjects[i] for i in batch.subject] == ["toy/01", "other/01"]
    assert [windows.entries[i].recording.dataset for i in batch.recording.tolist()] == [
        "toy",
        "other",
    ]
    assert windows.rows[3].subject == "other/01"
    assert batch.channel_mask.sum(1).tolist() == [3, 1]


def test_rates_are_not_mixed_in_a_batch(tmp_path):
    windows = Windows(store_of(tmp_path, signal(), signal("02", sfreq=128.0)), window_s=5.0)
    assert windows.batch([0]).sfreq == 100.0
    assert windows.batch([2]).sfreq == 128.0
    with pytest.raises(ValueError, match=r"100, 128 Hz.*Resample"):
        windows.batch([0, 2])
    with pytest.raises(ValueError, match="100, 128 Hz"):
        _ = windows.sfreq


def test_subjects_runs_and_recordings_can_be_chosen(tmp_path):
    store = store_of(tmp_path, signal("01"), signal("02"), signal("02", run="08"))
    by = [
        Windows(store, window_s=5.0, subjects=[2], runs=["8"]),
        Windows(store, window_s=5.0, recordings=[2]),
    ]
    for windows in by:
        assert {row.recording for row in windows.rows} == {"toy_sub-02_run-08"}
    with pytest.raises(ValueError, match="recording 3 does not exist"):
        Windows(store, window_s=5.0, recordings=[3])
    with pytest.raises(ValueError, match="no recordings"):
        Windows(store, window_s=5.0, subjects=["09"])


def test_rows_describe_the_windows(tmp_path):
    row = Windows(store_of(tmp_path, signal(run="07")), window_s=4.0).rows[1]
    assert (row.subject, row.run, row.recording) == ("01", "07", "toy_sub-01_run-07")
    assert (row.start, row.stop, row.label) == (4.0, 8.0, None)


def meg(subject: str, n: int) -> Signal:
    """Magnetometers and planar gradiometers in turn, channel k holding 1000 x k + sample."""
    data = 1000.0 * np.arange(n)[:, None] + np.arange(1000) % 500
    turn = np.arange(n, dtype=np.float64)
    sensors = Sensors(
        names=tuple(f"MEG{i}" for i in range(n)),
        kind=np.where(np.arange(n) % 2, int(Kind.GRAD), int(Kind.MAG)).astype(np.int8),
        position=np.stack([turn, turn + 0.25, turn + 0.5], 1) / 100,
        orientation=np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1),
    )
    return Signal(data.astype(np.float32), 100.0, sensors, (), Recording("field", subject))


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_eeg_and_meg_share_a_batch(tmp_path, dtype):
    recordings = [signal("01", dataset="field"), meg("02", 6), meg("03", 4)]
    for item in recordings:
        write_recording(tmp_path, item, key=item.recording.id, dtype=dtype)
    seal(tmp_path)
    windows = Windows(tmp_path, window_s=2.0)
    batch = windows.batch([11, 0, 5, 1, 14])
    assert batch.x.shape == (5, 6, 200)
    for i, (subject, start) in enumerate([(2, 200), (0, 0), (1, 0), (0, 200), (2, 800)]):
        original = recordings[subject]
        sensors, n = original.sensors, len(original.sensors)
        assert batch.channel_mask[i].tolist() == [True] * n + [False] * (6 - n)
        assert batch.kind[i].tolist() == [*sensors.kind.tolist(), *[int(Kind.PAD)] * (6 - n)]
        error = windows.entries[subject].max_error.max()
        found = batch.x[i, :n].numpy()
        assert np.abs(found - original.data[:, start : start + 200]).max() <= error * 1.001
        known = sensors.has_position
        assert batch.has_position[i].tolist() == [*known.tolist(), *[False] * (6 - n)]
        np.testing.assert_allclose(batch.position[i, :n][known], sensors.position[known], rtol=1e-6)
        np.testing.assert_allclose(batch.orientation[i, :n], sensors.orientation, atol=1e-7)
        for field in (batch.x, batch.position, batch.orientation):
            assert not field[i, n:].any()


def test_a_set_of_sensors_is_known_again_in_another_store(tmp_path):
    first = store_of(tmp_path / "a", meg("02", 4))
    second = store_of(tmp_path / "b", meg("03", 4), meg("04", 6))
    assert Windows([first, second], window_s=2.0).table.sensors.tolist() == [0, 0, 1]


LIGHT = """
import sys
from multiprocessing import get_context

def imported(line, windows):
    windows.batch([0, 1])
    line.send([name for name in ("mne", "nibabel", "lightning") if name in sys.modules])

if __name__ == "__main__":
    from neurofm.data import Windows
    context = get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=imported, args=(there, Windows(sys.argv[1], window_s=1.0)))
    worker.start()
    print(here.recv())
    worker.join()
"""


def test_a_worker_that_reads_windows_imports_no_mne(tmp_path):
    store_of(tmp_path / "store", signal(), meg("02", 4))
    script = tmp_path / "light.py"
    script.write_text(LIGHT)
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_worker_processes_give_the_same_batches(tmp_path):
    small = signal("02", names=("Fz", "Pz"))
    windows = Windows(store_of(tmp_path, signal(), small), window_s=1.0, labels=["left", "right"])

    def batches(workers: int) -> list[Batch]:
        loader = DataLoader(windows, batch_size=3, collate_fn=identity, num_workers=workers)
        return list(loader)

    here, there = batches(0), batches(2)
    assert len(here) == len(there) == 2
    for one, other in zip(here, there, strict=True):
        equal(one, other)


def test_windows_travel_by_pickle(tmp_path):
    windows = Windows(store_of(tmp_path, signal()), window_s=1.0)
    expected = windows.batch([1, 2])
    equal(pickle.loads(pickle.dumps(windows)).batch([1, 2]), expected)


def test_damage_reaches_the_caller_as_an_error(tmp_path):
    windows = Windows(store_of(tmp_path, signal()), window_s=1.0)
    path = next((tmp_path / "recordings").glob("*.bin"))
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"damaged.*neurofm prepare toy"):
        windows.batch(range(10))


def test_an_index_outside_is_an_index_error(tmp_path):
    windows = Windows(store_of(tmp_path, signal()), window_s=1.0)
    torch.testing.assert_close(windows[-1].x, windows[9].x)
    with pytest.raises(IndexError):
        windows[10]


def test_collate_equals_one_batch(tmp_path):
    small = signal("02", names=("Fz", "Pz"))
    windows = Windows(store_of(tmp_path, signal(), small), window_s=1.0, labels=["left", "right"])
    equal(collate([windows[i] for i in range(4)]), windows.batch(range(4)))


def test_collate_refuses_other_lengths(tmp_path):
    store = store_of(tmp_path, signal())
    one, other = Windows(store, window_s=1.0)[0], Windows(store, window_s=2.0)[0]
    with pytest.raises(ValueError, match=r"100 samples.*200 samples"):
        collate([one, other])
