"""Epochs and averages of FIF and EEGLAB files become one recording with marked joins."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest
from mne.io.constants import FIFF

from neurofm.io import RecordingWarning, read_raw_signal
from neurofm.io.epochs import signal_from_evokeds
from neurofm.types import Event, Recording
from neurofm.units import Kind

WHO = Recording("tiny", "1")
NAMES = ["MEG0111", "MEG0112", "EEG001"]
SCALE = np.array([1e-13, 1e-12, 1e-5])[:, None]  # SI numbers that are 100 fT, 10 fT/cm and 10 µV
ROTATED = np.array([[0.0, -1, 0, 0.01], [1, 0, 0, 0.02], [0, 0, 1, 0.03], [0, 0, 0, 1]])


def info(sfreq: float = 100.0) -> mne.Info:
    """A magnetometer and a planar gradiometer in a turned helmet, and an electrode."""
    made = mne.create_info(NAMES, sfreq, ["mag", "grad", "eeg"])
    coils = [FIFF.FIFFV_COIL_VV_MAG_T3, FIFF.FIFFV_COIL_VV_PLANAR_T1]
    with made._unlock():
        for channel, coil in zip(made["chs"], coils, strict=False):
            channel["coil_type"] = coil
            channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
            channel["loc"][:] = [0.1, 0, 0.02, 1, 0, 0, 0, 1, 0, 0, 0, 1]
        made["chs"][2]["loc"][:3] = [0, 0, 0.1]
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
    return made


def epochs_of(rng: np.random.Generator, *, tmin: float = -0.2) -> mne.EpochsArray:
    events = np.array([[100, 0, 1], [300, 0, 2], [500, 0, 1]])
    data = SCALE * rng.standard_normal((3, 3, 50))
    return mne.EpochsArray(
        data, info(), events, tmin, {"face": 1, "house/big": 2}, baseline=None, verbose="error"
    )


def saved(item: mne.BaseEpochs, path: Path) -> Path:
    item.save(path, overwrite=True, verbose="error")
    return path


def test_epochs_are_joined_with_an_event_at_each_time_zero_and_an_edge_at_each_join(rng, tmp_path):
    epochs = epochs_of(rng)
    signal = read_raw_signal(saved(epochs, tmp_path / "a-epo.fif"), WHO)
    expected = np.concatenate(list(epochs.get_data()), axis=1) * [[1e15], [1e13], [1e6]]
    np.testing.assert_allclose(signal.data, expected, rtol=1e-4)
    assert [(event.onset, event.label) for event in signal.events] == [
        (0.2, "face"),
        (0.5, "EDGE boundary"),
        (0.7, "house/big"),
        (1.0, "EDGE boundary"),
        (1.2, "face"),
    ]
    assert [Kind(int(k)) for k in signal.sensors.kind] == [Kind.MAG, Kind.GRAD, Kind.EEG]
    np.testing.assert_allclose(signal.sensors.position[0], [0.01, 0.12, 0.05], atol=1e-6)
    about = signal.details["epochs"]
    assert (about["n"], about["baseline"]) == (3, None)
    assert about["conditions"] == {"face": 2, "house/big": 1}
    assert about["tmin"] == pytest.approx(-0.2)
    assert about["tmax"] == pytest.approx(0.29)


def test_a_file_name_does_not_decide_what_a_fif_file_holds(rng, tmp_path):
    path = saved(epochs_of(rng), tmp_path / "a-epo.fif").rename(tmp_path / "renamed_raw.fif")
    assert read_raw_signal(path, WHO).details["epochs"]["n"] == 3


def test_epochs_that_do_not_hold_their_time_zero_are_marked_at_the_nearest_sample(rng, tmp_path):
    signal = read_raw_signal(saved(epochs_of(rng, tmin=0.3), tmp_path / "a-epo.fif"), WHO)
    assert [event.onset for event in signal.events if event.label == "face"] == [0.0, 1.0]


def test_annotations_of_epochs_stay_inside_their_epoch(rng, tmp_path):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 700)), info(), verbose="error")
    raw.set_annotations(mne.Annotations([1.1, 3.2], [0.1, 3.0], ["blink", "BAD_jump"]))
    events = np.array([[100, 0, 1], [300, 0, 1]])
    epochs = mne.Epochs(
        raw,
        events,
        tmin=-0.2,
        tmax=0.29,
        baseline=(None, 0),
        reject_by_annotation=False,
        verbose="error",
    )
    signal = read_raw_signal(saved(epochs, tmp_path / "a-epo.fif"), WHO)
    found = {event.label: event for event in signal.events}
    assert found["blink"].onset == pytest.approx(0.2 + 0.1)
    assert found["BAD_jump"].onset == pytest.approx(0.5 + 0.2 + 0.2)
    assert found["BAD_jump"].onset + found["BAD_jump"].duration == pytest.approx(1.0)
    assert signal.details["epochs"]["baseline"] == pytest.approx([-0.2, 0.0])


def evoked(rng, comment: str, nave: int, *, n: int = 40, sfreq: float = 100.0, **changes):
    return mne.EvokedArray(
        SCALE * rng.standard_normal((3, n)),
        info(sfreq),
        tmin=-0.1,
        comment=comment,
        nave=nave,
        **changes,
    )


def test_averages_become_stretches_with_their_names_and_counts(rng, tmp_path):
    averages = [evoked(rng, "left", 12), evoked(rng, "right", 7, n=60)]
    mne.write_evokeds(tmp_path / "a-ave.fif.gz", averages, verbose="error")
    signal = read_raw_signal(tmp_path / "a-ave.fif.gz", WHO)
    expected = np.concatenate([item.data for item in averages], axis=1)
    np.testing.assert_allclose(signal.data, expected * [[1e15], [1e13], [1e6]], rtol=1e-4)
    assert signal.events == (
        Event(0.1, 0.0, "left"),
        Event(0.4, 0.0, "EDGE boundary"),
        Event(0.5, 0.0, "right"),
    )
    assert [item["nave"] for item in signal.details["evoked"]] == [12, 7]
    assert [item["condition"] for item in signal.details["evoked"]] == ["left", "right"]


def test_standard_errors_beside_averages_are_left_out_and_counted(rng, tmp_path):
    items = [evoked(rng, "left", 12), evoked(rng, "left", 12, kind="standard_error")]
    mne.write_evokeds(tmp_path / "a-ave.fif", items, verbose="error")
    with pytest.warns(RecordingWarning, match="1 of 2 evoked data sets are standard errors"):
        signal = read_raw_signal(tmp_path / "a-ave.fif", WHO)
    np.testing.assert_allclose(signal.data[2], items[0].data[2] * 1e6, rtol=1e-4)
    assert len(signal.details["evoked"]) == 1


def test_averages_of_other_rates_or_channels_are_refused_by_name(rng):
    mixed = [evoked(rng, "slow", 1), evoked(rng, "fast", 1, sfreq=200.0)]
    with pytest.raises(ValueError, match=r"tiny_sub-1: .*'slow' at 100 Hz, 'fast' at 200 Hz"):
        signal_from_evokeds(mixed, WHO)
    few = [evoked(rng, "all", 1), evoked(rng, "few", 1).pick(["MEG0111", "EEG001"])]
    with pytest.raises(ValueError, match=r"'all' has 3, 'few' 2 \(only one has MEG0112\)"):
        signal_from_evokeds(few, WHO)


@pytest.mark.parametrize(
    "wish", [{"event_channel": "STI101"}, {"compensation": 0}, {"remove_chpi": True}]
)
def test_what_needs_a_continuous_recording_is_refused_for_epochs(wish, rng, tmp_path):
    path = saved(epochs_of(rng), tmp_path / "a-epo.fif")
    with pytest.raises(ValueError, match=f"holds epochs, and `{next(iter(wish))}` works on cont"):
        read_raw_signal(path, WHO, **wish)


def eeglab_epochs(tiny, path: Path) -> np.ndarray:
    """An EEGLAB file of four one-second epochs; their data, `epoch channel time`."""
    import scipy.io

    epochs = tiny.data.reshape(6, 4, 128).swapaxes(0, 1)
    tiny.eeglab(path)
    eeg = scipy.io.loadmat(path, simplify_cells=True)["EEG"]
    events = np.array(
        [(1.0 + 128 * i, 0.0, f"S{i % 2}", i + 1) for i in range(4)],
        dtype=[("latency", object), ("duration", object), ("type", object), ("epoch", object)],
    )
    marks = np.array(
        [(i + 1, 0.0, f"S{i % 2}") for i in range(4)],
        dtype=[("event", object), ("eventlatency", object), ("eventtype", object)],
    )
    channels = np.array([(name,) for name in tiny.names], dtype=[("labels", object)])
    eeg |= {
        "trials": 4,
        "pnts": 128,
        "xmin": 0.0,
        "xmax": 127 / 128,
        "data": epochs.transpose(1, 2, 0).astype(np.float32),
        "event": events,
        "epoch": marks,
        "chanlocs": channels,
    }
    scipy.io.savemat(path, {"EEG": eeg})
    return epochs


def test_epochs_of_eeglab_are_read_like_those_of_fif(tiny, tmp_path):
    epochs = eeglab_epochs(tiny, tmp_path / "a.set")
    signal = read_raw_signal(tmp_path / "a.set", WHO)
    np.testing.assert_allclose(signal.data, np.concatenate(list(epochs), axis=1), atol=1e-3)
    labels = [event.label for event in signal.events]
    assert labels == ["S0", "EDGE boundary", "S1", "EDGE boundary", "S0", "EDGE boundary", "S1"]
    assert signal.details["epochs"]["conditions"] == {"S0": 2, "S1": 2}


def test_reading_epochs_prints_nothing(rng, tmp_path, capfd):
    path = saved(epochs_of(rng), tmp_path / "a-epo.fif")
    capfd.readouterr()
    read_raw_signal(path, WHO)
    assert capfd.readouterr() == ("", "")
