"""MEG and EEG as MEG systems store them: epochs, averages, compensation, head position, folders."""

from __future__ import annotations

import struct
from pathlib import Path

import mne
import numpy as np
import pytest
from mne.io.constants import FIFF

from neurofm.io import (
    FolderReader,
    RecordingWarning,
    open_corpus,
    open_path,
    read_raw_signal,
    signal_from_raw,
)
from neurofm.io.epochs import signal_from_evokeds
from neurofm.io.kit import head_files
from neurofm.io.quality import collect
from neurofm.types import Event, Recording, Signal
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


def test_a_fif_file_of_another_content_is_named(tmp_path):
    mne.make_ad_hoc_cov(info(), verbose="error").save(tmp_path / "a-cov.fif", verbose="error")
    with pytest.raises(ValueError, match=r"a FIF file that holds a covariance, not a recording"):
        read_raw_signal(tmp_path / "a-cov.fif", WHO)


def compensated(rng: np.random.Generator) -> tuple[mne.io.RawArray, np.ndarray]:
    """An axial gradiometer and two references whose fields leak into it with known weights."""
    made = mne.create_info(["MLC11", "BR1", "BR2"], 100.0, ["mag", "ref_meg", "ref_meg"])
    coils = [FIFF.FIFFV_COIL_CTF_GRAD, *[FIFF.FIFFV_COIL_CTF_REF_MAG] * 2]
    weights = np.array([[0.5, -2.0]])
    with made._unlock():
        for channel, coil in zip(made["chs"], coils, strict=True):
            channel["coil_type"] = coil
            channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
            channel["loc"][:] = [0.1, 0, 0.02, 1, 0, 0, 0, 1, 0, 0, 0, 1]
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
        table = {
            "nrow": 1,
            "ncol": 2,
            "row_names": ["MLC11"],
            "col_names": ["BR1", "BR2"],
            "data": weights,
        }
        made["comps"] = [
            {
                "kind": 1,
                "ctfkind": 1194410578,
                "save_calibrated": True,
                "rowcals": np.ones(1),
                "colcals": np.ones(2),
                "data": table,
            }
        ]
    brain = 1e-13 * rng.standard_normal((1, 300))
    far = 1e-12 * rng.standard_normal((2, 300))
    raw = mne.io.RawArray(np.r_[brain + weights @ far, far], made, verbose="error")
    return raw, brain[0] * 1e15


def test_compensation_is_kept_in_the_details_and_applied_on_request(rng, tmp_path):
    raw, brain = compensated(rng)
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    plain = read_raw_signal(tmp_path / "a_raw.fif", WHO)
    assert plain.details["compensation_grade"] == 0
    assert np.abs(plain.data[0] - brain).max() > 1000
    clean = read_raw_signal(tmp_path / "a_raw.fif", WHO, compensation=1)
    np.testing.assert_allclose(clean.data[0], brain, atol=0.05)
    assert clean.details["compensation_grade"] == 1
    assert clean.history[-1].endswith("brought from grade 0 to 1")
    assert [Kind(int(k)).name for k in clean.sensors.kind] == ["AXIAL", "MEG_REF", "MEG_REF"]
    with pytest.raises(
        ValueError, match="no compensation of grade 3 in the file, which offers 0, "
    ):
        read_raw_signal(tmp_path / "a_raw.fif", WHO, compensation=3)


CHPI = (293.0, 307.0, 314.0)


def with_chpi(
    rng: np.random.Generator, sfreq: float = 1000.0
) -> tuple[mne.io.RawArray, np.ndarray]:
    """Twelve magnetometers with a brain below 40 Hz and head position coils a hundred times it."""
    made = mne.create_info([f"MEG{i:04d}" for i in range(12)], sfreq, "mag")
    with made._unlock():
        for channel in made["chs"]:
            place = rng.standard_normal(3)
            place /= np.linalg.norm(place)
            channel["loc"][:] = [*0.12 * place, *np.eye(3).ravel()]
        made["line_freq"] = 50.0
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
        coils = [{"number": i + 1, "coil_freq": freq} for i, freq in enumerate(CHPI)]
        made["hpi_meas"] = [{"hpi_coils": coils}]
    time = np.arange(3000) / sfreq
    brain = np.zeros((12, len(time)))
    for freq in (3.0, 11.0, 27.0):
        phase = rng.uniform(0, 2 * np.pi, (12, 1))
        brain += 1e-13 * np.sin(2 * np.pi * freq * time + phase)
    coils_seen = sum(
        1e-11 * rng.standard_normal((12, 1)) * np.sin(2 * np.pi * freq * time + freq)
        for freq in CHPI
    )
    return mne.io.RawArray(brain + coils_seen, made, verbose="error"), brain * 1e15


def test_head_position_signals_are_removed_and_the_brain_stays(rng, tmp_path):
    raw, brain = with_chpi(rng)
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    before = read_raw_signal(tmp_path / "a_raw.fif", WHO)
    assert before.details["chpi_hz"] == list(CHPI)
    after = read_raw_signal(tmp_path / "a_raw.fif", WHO, remove_chpi=True)
    inside = slice(500, -500)
    left = np.std(after.data[:, inside] - brain[:, inside])
    assert np.std(before.data[:, inside] - brain[:, inside]) > 1000 * left
    assert left < 0.1 * np.std(brain)
    assert "293, 307, 314 Hz and mains at 50 Hz" in after.history[-1]


def test_removing_head_position_signals_that_are_not_there_is_an_error(rng, tiny, tmp_path):
    path = tiny.fif(tmp_path / "a_raw.fif")
    with pytest.raises(ValueError, match=r"a_raw\.fif: no continuous head position \(cHPI\) info"):
        read_raw_signal(path, WHO, remove_chpi=True)
    raw, _ = with_chpi(rng, sfreq=250.0)
    raw.save(tmp_path / "b_raw.fif", verbose="error")
    with pytest.raises(ValueError, match="293 to 314 Hz, which a rate of 250 Hz cannot hold"):
        read_raw_signal(tmp_path / "b_raw.fif", WHO, remove_chpi=True)


CTF_TRACK = [f"HLC00{coil}{axis}-1609" for coil in (1, 2, 3) for axis in (1, 2, 3)]
QUATERNIONS = [f"QUAT{i:03d}" for i in range(1, 7)]


@pytest.mark.parametrize(("names", "moving"), [(CTF_TRACK, 4), (QUATERNIONS, 4)])
def test_head_movement_is_the_largest_way_of_the_head(names, moving, rng):
    """Along two axes of a coil, or of the head as a whole, by 9 mm and 12 mm: 15 mm."""
    made = mne.create_info(["MEG", *names], 100.0, ["mag"] + ["misc"] * len(names))
    with made._unlock():
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
    data = np.full((1 + len(names), 1000), 0.05)
    data[0] = 1e-13 * rng.standard_normal(1000)
    data[moving, 400:] += 0.009
    data[moving + 1, 400:] += 0.012
    data[1:, 700:720] = 0  # the coils were off
    raw = mne.io.RawArray(data, made, verbose="error")
    with pytest.warns(RecordingWarning, match="The head moved by up to 15 mm"):
        details = signal_from_raw(raw, WHO).details
    assert details["head_movement_mm"] == pytest.approx(15.0)


def test_signal_space_separation_is_told(rng):
    made = info()
    with made._unlock():
        made["proc_history"] = [
            {
                "creator": "maxfilter 2.2",
                "max_info": {
                    "sss_info": {"nfree": 68, "in_order": 8, "out_order": 3},
                    "max_st": {"buflen": 10.0, "subspcorr": 0.98},
                },
            }
        ]
    details = signal_from_raw(
        mne.io.RawArray(SCALE * rng.standard_normal((3, 50)), made, verbose="error"), WHO
    ).details
    assert details["sss"] is True
    assert details["sss_info"] == {
        "by": "maxfilter 2.2",
        "components": 68,
        "orders": [8, 3],
        "tsss_buffer_s": 10.0,
        "tsss_correlation": 0.98,
    }


def test_bad_channels_and_projectors_are_told_and_not_applied(rng):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 50)), info(), verbose="error")
    raw.info["bads"] = ["MEG0112"]
    raw.set_eeg_reference(projection=True, verbose="error")
    signal = signal_from_raw(raw, WHO)
    assert signal.details["bads"] == ["MEG0112"]
    assert signal.details["projections"] == [{"name": "Average EEG reference", "active": False}]
    np.testing.assert_allclose(signal.data[2], raw.get_data()[2] * 1e6, rtol=1e-5)


def test_samples_lost_by_the_system_s_clock_become_a_boundary(rng):
    made = mne.create_info(["MLC11", "SCLK01-177"], 100.0, ["mag", "misc"])
    with made._unlock():
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
    clock = 500 + np.arange(300) / 100 + 0.001 * rng.uniform(size=300)
    raw = mne.io.RawArray(np.stack([1e-13 * clock, clock]), made, verbose="error")
    assert signal_from_raw(raw, WHO).events == ()
    raw._data[1, 120:] += 7.0
    with pytest.warns(RecordingWarning, match="clock jumps 1 times"):
        events = signal_from_raw(raw, WHO).events
    assert events == (Event(1.2, 0.0, "EDGE boundary"),)


def test_repeated_events_are_dropped_and_counted(rng):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 300)), info(), verbose="error")
    raw.set_annotations(mne.Annotations([1, 1, 1], [0, 0, 0.5], ["go", "go", "go"]))
    with pytest.warns(RecordingWarning, match="1 of 3 events are there twice"):
        events = signal_from_raw(raw, WHO).events
    assert events == (Event(1.0, 0.0, "go"), Event(1.0, 0.5, "go"))


def test_meg_names_are_spelled_alike_on_request(rng):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 50)), info(), verbose="error")
    raw.rename_channels({"MEG0112": "MLC11-2908"}, verbose="error")
    assert signal_from_raw(raw, WHO).sensors.names[:2] == ("MEG0111", "MLC11-2908")
    names = signal_from_raw(raw, WHO, standardize=True).sensors.names
    assert names[:2] == ("MEG 0111", "MLC11")


def test_a_name_to_be_changed_that_is_not_there_is_reported(rng):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 50)), info(), verbose="error")
    with pytest.warns(RecordingWarning, match="1 of 2 channels to rename are not in the file: C3"):
        names = signal_from_raw(raw, WHO, rename={"EEG001": "Cz", "C3": "FC3"}).sensors.names
    assert names[2] == "Cz"


def split_recording(tmp_path: Path, rng: np.random.Generator) -> Path:
    many = mne.create_info([f"E{i}" for i in range(64)], 500.0, "eeg")
    raw = mne.io.RawArray(1e-5 * rng.standard_normal((64, 16000)), many, verbose="error")
    raw.save(tmp_path / "a_raw.fif", split_size="2MB", buffer_size_sec=1.0, verbose="error")
    return tmp_path / "a_raw.fif"


def test_a_split_recording_is_one_recording_of_its_whole_length(rng, tmp_path):
    split_recording(tmp_path, rng)
    assert (tmp_path / "a_raw-1.fif").exists()
    reader = FolderReader("*.fif", dataset="d", root=tmp_path)
    (recording,) = reader.recordings()
    assert reader.load(recording).data.shape == (64, 16000)


def test_a_missing_part_of_a_split_recording_is_named(rng, tmp_path):
    path = split_recording(tmp_path, rng)
    (tmp_path / "a_raw-1.fif").unlink()
    with pytest.raises(FileNotFoundError, match=r"a_raw\.fif: a file .* missing .*a_raw-1\.fif"):
        read_raw_signal(path, WHO)


def test_active_shielding_is_read_with_a_warning(rng, tmp_path):
    made = info()
    with made._unlock():
        made["maxshield"] = True
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 200)), made, verbose="error")
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    with pytest.warns(RecordingWarning, match="active shielding"):
        signal = read_raw_signal(tmp_path / "a_raw.fif", WHO)
    assert signal.details["maxshield"] is True


def coil(pos: tuple[float, ...], normal: tuple[float, ...]) -> bytes:
    """One coil of a CTF channel: place in centimetres and normal."""
    return struct.pack(">3dd3ddhihd", *pos, 0.0, *normal, 0.0, 1, 0, 0, 1.0)


def ctf_channel(kind: int, gain: float, coils: list[bytes]) -> bytes:
    empty = coil((0, 0, 0), (0, 0, 0))
    device = b"".join([*coils, *[empty] * (8 - len(coils))])
    numbers = struct.pack(">hhidddd", kind, 0, 0, gain, 1.0, 1.0, 0.0)
    return numbers + struct.pack(">hhi", len(coils), 0, 0) + device + device


def ctf_folder(folder: Path, stored: np.ndarray, sfreq: float, *, trials: int) -> Path:
    """A CTF data set: axial gradiometer, reference, stimulus, clock; `trial channel time` ints."""
    folder.mkdir()
    names = ["MLC11-1609", "BG1-1609", "UPPT001", "SCLK01-177"]
    n_times = stored.shape[2]
    head = b"MEG41RS\0".ljust(8 + 3 * 256, b"\0") + struct.pack(">h", 0)
    head += b"10:30".ljust(255, b"\0") + b"01-Jan-2020".ljust(255, b"\0")
    head += struct.pack(">ih", n_times, len(names)) + b"\0\0"
    head += struct.pack(">ddh", sfreq, n_times * trials / sfreq, trials)
    head = head.ljust(1844, b"\0") + struct.pack(">h", 0)
    head += b"".join(name.encode().ljust(32, b"\0") for name in names)
    up = (0.0, 0.0, 1.0)
    head += ctf_channel(5, 1e12, [coil((0, 0, 5.0), up), coil((0, 0, 10.0), (0, 0, -1.0))])
    head += ctf_channel(0, 1e12, [coil((0, 0, 20.0), up)])
    head += ctf_channel(11, 1.0, [coil((0, 0, 0), up)])
    head += ctf_channel(17, 1.0, [coil((0, 0, 0), up)])
    # first-order compensation of the gradiometer by a quarter of the reference
    sensors = b"BG1-1609".ljust(31, b"\0").ljust(50 * 31, b"\0")
    head += struct.pack(">h", 1) + b"MLC11-1609".ljust(32, b"\0")
    head += struct.pack(">iih", 0x47314252, 0, 1) + sensors + struct.pack(">50d", 0.25, *[0.0] * 49)
    (folder / f"{folder.stem}.res4").write_bytes(head)
    (folder / f"{folder.stem}.meg4").write_bytes(b"MEG41CP\0" + stored.astype(">i4").tobytes())
    places = {"nasion": (8, 0, -25), "left ear": (0, 7, -25), "right ear": (0, -7, -25)}
    text = ""
    for frame, shift in (("dewar", 0), ("head", 25)):
        for name, (x, y, z) in places.items():
            values = f"\tx = {x}\n\ty = {y}\n\tz = {z + shift}\n"
            text += f"measured {name} coil position relative to {frame} (cm):\n{values}"
    (folder / f"{folder.stem}.hc").write_text(text)
    return folder


def ctf_counts(trials: int = 2, n_times: int = 100) -> np.ndarray:
    stored = np.zeros((trials, 4, n_times), dtype=int)
    stored[:, 0] = 300
    stored[:, 1] = -200
    stored[0, 2, 20:25] = 4
    stored[:, 3] = 1 + np.arange(trials * n_times).reshape(trials, n_times)
    return stored


def test_a_ctf_folder_gives_axial_gradiometers_references_events_and_head_positions(tmp_path):
    folder = ctf_folder(tmp_path / "a.ds", ctf_counts(), 100.0, trials=2)
    (recording,) = FolderReader("{subject}.ds", dataset="d", root=tmp_path).recordings()
    assert recording.subject == "a"
    signal = read_raw_signal(folder, recording, event_channel="auto", standardize=True)
    assert signal.sensors.names == ("MLC11", "BG1")
    assert [Kind(int(k)) for k in signal.sensors.kind] == [Kind.AXIAL, Kind.MEG_REF]
    np.testing.assert_allclose(np.abs(signal.data[:, 0]), [3e5, 2e5], rtol=1e-5)  # fT
    assert signal.events == (Event(0.2, 0.0, "4"),)
    # 30 cm above the coils on the ears, 5 cm above the helmet's origin
    assert np.linalg.norm(signal.sensors.position[0]) == pytest.approx(0.3, abs=1e-3)
    np.testing.assert_allclose(np.abs(signal.sensors.orientation[0]), [0, 0, 1], atol=1e-3)
    clean = read_raw_signal(folder, recording, compensation=1)
    assert signal.data[0, 0] - clean.data[0, 0] == pytest.approx(0.25 * signal.data[1, 0])
    assert (signal.details["compensation_grade"], clean.details["compensation_grade"]) == (0, 1)


def test_a_ctf_folder_is_found_by_its_path_and_by_the_path_above(tmp_path):
    folder = ctf_folder(tmp_path / "a.ds", ctf_counts(), 100.0, trials=2)
    for path in (folder, tmp_path):
        (recording,) = open_path(path).recordings()
        assert recording.path == folder


def test_a_ctf_folder_that_is_truncated_or_renamed_inside_is_refused(tmp_path):
    folder = ctf_folder(tmp_path / "a.ds", ctf_counts(), 100.0, trials=2)
    data = folder / "a.meg4"
    whole = data.read_bytes()
    data.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"a\.ds: truncated: .* not whole trials of 1600 bytes"):
        read_raw_signal(folder, WHO)
    data.write_bytes(whole[: 8 + 1600])
    with pytest.warns(RecordingWarning, match="1 of 2 trials are in the file"):
        read_raw_signal(folder, WHO)
    data.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.meg4 is missing in the CTF folder"):
        read_raw_signal(folder, WHO)
    moved = folder.rename(tmp_path / "b.ds")
    with pytest.raises(FileNotFoundError, match=r"b\.res4 is missing.*under its own name"):
        read_raw_signal(moved, WHO)


def aligned(content: bytes) -> bytes:
    """Filled up to a multiple of eight bytes, as 4D does between its records."""
    return content + b"\0" * (-len(content) % 8)


def bti_folder(folder: Path, stored: np.ndarray, sfreq: float) -> Path:
    """A native 4D recording: magnetometer, reference gradiometer, trigger; `time channel` ints.

    A bit is 1e-13 T, or T/m. The magnetometer is 10 cm above the origin and looks upwards.
    """
    folder.mkdir(parents=True)
    names, kinds = ["A1", "GxxA", "TRIGGER"], [1, 3, 5]
    unit_matrix = np.eye(4)
    unit_matrix[3] = 1  # the last row holds the scale of each axis
    config = struct.pack(">h32s16shihhffhhh", 1, b"x", b"x", 0, 0, 50, 3, 1.0, 1.0, 1, 2, 0)
    config += b"\0" * 2 + struct.pack(">I32s", 0, b"") + unit_matrix.astype(">f8").tobytes()
    table = struct.pack(">iii16si28s", 2, 0, 0, b"", 0, b"")
    weights = struct.pack(">iII32s80sII72s", 2, 0, 0, b"", b"", 0, 0, b"")
    for name, block in ((b"B_E_table_used", table), (b"B_weights_used", weights)):
        config += struct.pack(">I20si32sII32s", 0, name, 0, b"", 0, len(block), b"")
        config = aligned(aligned(config) + block)
    for number, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        config += struct.pack(">16shHhH", name.encode(), number, kind, 0, 0)
        scale = 1.0 if name == "TRIGGER" else 1e-13
        config = aligned(config + struct.pack(">ff16sdi32s", 1.0, scale, b"", 0.0, 0, b""))
        config += struct.pack(">ii32s", 0, 0, b"")
        if kind == 5:
            config += struct.pack(">i2x32s", 0, b"")
        else:
            place = unit_matrix.copy()
            place[2, 3] = 0.1
            config += struct.pack(">f4s", 1.0, b"") + place.astype(">f8").tobytes()
            config += struct.pack(">hh4x32s", 0, 0, b"")
        config = aligned(config)
    (folder / "config").write_bytes(config)

    data = aligned(stored.astype(">i2").tobytes())
    start = len(data)
    data += struct.pack(">h5sxhhiiii", 1, b"", 1, 0, 1, 1, 0, 0)
    data += struct.pack(">f16sih2x", 1 / sfreq, b"s", 1, len(names))
    data = aligned(data + struct.pack(">iihhi20x", 0, 0, 0, 0, 0))
    data += struct.pack(">ifffiii28x", len(stored), len(stored) / sfreq, 0, 0, 0, 0, 0)
    for number, name in enumerate(names):
        data += struct.pack(">16shhf16sh6x", name.encode(), number, 0, 1.0, b"", 0)
        data += struct.pack(">ddii4sf24x", 0.0, 0.0, number, 0, b"", 0.0)
    data = aligned(data + struct.pack(">i20si32si256si32x", 0, b"x", 0, b"", 1, b"", 0))
    (folder / "c,rfhp0.1Hz").write_bytes(data + struct.pack(">Q", start))
    return folder


def test_a_native_4d_recording_gives_units_events_and_the_head_frame(tmp_path, rng):
    stored = rng.integers(-1000, 1000, size=(400, 3))
    stored[:, 2] = 0
    stored[100:110, 2] = 8
    folder = bti_folder(tmp_path / "0" / "run1", stored, 100.0)
    reader = FolderReader(
        "{subject}/run{run}/c,rf*", dataset="d", root=tmp_path, event_channel="auto"
    )
    (recording,) = reader.recordings()
    assert (recording.subject, recording.run) == ("0", "1")
    with pytest.warns(RecordingWarning, match="head's position in the helmet is not in the file"):
        signal = reader.load(recording)
    assert signal.sfreq == pytest.approx(100.0)
    assert [Kind(int(k)) for k in signal.sensors.kind] == [Kind.MAG, Kind.MEG_REF]
    np.testing.assert_allclose(signal.data[0], 100.0 * stored[:, 0], rtol=1e-5)  # fT
    np.testing.assert_allclose(signal.data[1], stored[:, 1], rtol=1e-5)  # fT/cm
    assert signal.details["units"] == {signal.sensors.names[1]: "fT/cm"}
    assert signal.events == (Event(1.0, 0.0, "8"),)
    # ears 16 cm apart and a nose; 4D counts forwards, to the left and up
    index = np.array([[0, 0.08, 0], [0, -0.08, 0], [0.1, 0, 0], [0.05, 0.05, 0.05], [0, 0, 0.1]])
    points = np.r_[index, [[0, 0, 0.12]]]
    shape = b"\0" * 12 + struct.pack(">i", len(points))
    (folder / "hs_file").write_bytes(shape + np.r_[index, points].astype(">f8").tobytes())
    sensors = reader.load(recording).sensors
    assert sensors.frame == "head"
    np.testing.assert_allclose(sensors.position[0], [0, 0, 0.1], atol=1e-6)
    np.testing.assert_allclose(sensors.orientation[0], [0, 0, 1], atol=1e-6)


def test_a_4d_recording_without_its_configuration_says_which_file_is_missing(tmp_path, rng):
    folder = bti_folder(tmp_path / "run1", rng.integers(-9, 9, size=(50, 3)), 100.0)
    (folder / "config").unlink()
    with pytest.raises(FileNotFoundError, match=r"c,rfhp0\.1Hz: .*missing \(config beside"):
        read_raw_signal(folder / "c,rfhp0.1Hz", WHO)


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


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a_mrk.sqd", "a_elp.txt", "a_hsp.txt"], ["a_mrk.sqd", "a_elp.txt", "a_hsp.txt"]),
        (
            ["a_mrk_pre.sqd", "a_mrk_post.sqd", "x.elp", "x.hsp"],
            ["a_mrk_post.sqd", "a_mrk_pre.sqd"],
        ),
        (["a_mrk.sqd", "b_mrk.sqd", "x.elp", "x.hsp"], ["a_mrk.sqd", "x.elp", "x.hsp"]),
        (["a_mrk.sqd", "x.elp"], []),
        (["a_mrk.sqd", "x.elp", "y.elp", "x.hsp"], []),
        ([], []),
    ],
)
def test_files_of_the_head_are_found_beside_a_kit_recording(names, found, tmp_path):
    for name in ["a.sqd", *names]:
        (tmp_path / name).touch()
    files = [item.name for group in head_files(tmp_path / "a.sqd").values() for item in group]
    assert files[: len(found)] == found
    assert bool(files) == bool(found)
    reader = FolderReader("*.sqd", dataset="d", root=tmp_path)
    assert [recording.subject for recording in reader.recordings()] == ["a"]


SYSTEMS = {
    "elekta306_sample-ave": ({"GRAD": 204, "MAG": 102, "EEG": 60, "EOG": 1}, 600.615, 2.804),
    "elekta306_sss_raw": ({"GRAD": 204, "MAG": 102, "EEG": 60, "EOG": 1}, 300.307, 1.002),
    "elekta_3ch_raw": ({"GRAD": 2, "MAG": 1}, 1000.0, 80.0),
    "ctf275_comp_raw": ({"AXIAL": 274, "MEG_REF": 29}, 480.0, 0.502),
    "ctf275_discontinuous_raw": ({"AXIAL": 273, "MEG_REF": 28, "EEG": 8}, 1200.0, 2.002),
    "kit157": ({"AXIAL": 157, "MEG_REF": 3}, 1000.0, 2.0),
    "bti248_raw": ({"MAG": 248}, 1017.25, 0.3),
}


def real(corpora: Path, name: str) -> Signal:
    """A sample through its card, problems collected."""
    corpus = open_corpus("meg_samples", root=corpora / "meg_samples")
    with collect():
        return corpus.load(corpus.recordings(subjects=[name])[0])


@pytest.mark.corpus
def test_the_card_of_the_meg_samples_finds_all_files(corpora):
    corpus = open_corpus("meg_samples", root=corpora / "meg_samples")
    assert {recording.subject for recording in corpus.recordings()} == set(SYSTEMS)


@pytest.mark.corpus
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_meg_system_gives_its_kinds_rate_duration_units_and_geometry(corpora, name):
    counts, sfreq, duration = SYSTEMS[name]
    signal = real(corpora, name)
    kinds = [Kind(int(k)).name for k in signal.sensors.kind]
    assert {kind: kinds.count(kind) for kind in counts} == counts
    assert len(kinds) == sum(counts.values())
    assert signal.sfreq == pytest.approx(sfreq, abs=0.001)
    assert signal.duration == pytest.approx(duration, abs=0.003)
    meg = np.isin(signal.sensors.kind, [Kind.MAG, Kind.GRAD, Kind.AXIAL])
    radius = np.linalg.norm(signal.sensors.position[meg], axis=1)
    assert radius.min() > 0.03 and radius.max() < 0.3  # metres
    length = np.linalg.norm(signal.sensors.orientation[meg], axis=1)
    np.testing.assert_allclose(length, 1, atol=1e-3)
    assert not signal.sensors.orientation[signal.sensors.kind == Kind.EEG].any()
    # fT and fT/cm, of the size heads and magnetically shielded rooms make
    typical = np.median(signal.data[meg].std(axis=1))
    assert 10 < typical < 1e4
    assert signal.sensors.frame == ("unknown" if name in ("kit157", "elekta_3ch_raw") else "head")


@pytest.mark.corpus
def test_the_triggers_of_the_elekta_sample_are_all_there(corpora):
    signal = real(corpora, "elekta_3ch_raw")
    assert len(signal.events) == 162
    assert {event.label for event in signal.events} == {str(2**i) for i in range(8)}


@pytest.mark.corpus
def test_the_averages_of_the_elekta_sample_keep_their_names_and_counts(corpora):
    signal = real(corpora, "elekta306_sample-ave")
    about = signal.details["evoked"]
    assert [item["condition"] for item in about] == [
        "Left Auditory",
        "Right Auditory",
        "Left visual",
        "Right visual",
    ]
    assert [item["nave"] for item in about] == [3, 6, 6, 6]
    assert sum(event.label == "EDGE boundary" for event in signal.events) == 3
    # the auditory field 100 ms after the tone, in the average itself
    (onset,) = [event.onset for event in signal.events if event.label == "Left Auditory"]
    grad = signal.data[signal.sensors.kind == Kind.GRAD]
    at = round((onset + 0.1) * signal.sfreq)
    power = np.sqrt((grad**2).mean(axis=0))
    assert power[at - 12 : at + 12].max() > 1.5 * power[: round(onset * signal.sfreq)].mean()


@pytest.mark.corpus
def test_the_history_of_real_files_is_in_their_details(corpora):
    assert real(corpora, "ctf275_comp_raw").details["compensation_grade"] == 3
    discontinuous = real(corpora, "ctf275_discontinuous_raw")
    assert discontinuous.details["compensation_grade"] == 0
    assert discontinuous.details["head_movement_mm"] < 2
    (edge,) = [event for event in discontinuous.events if event.label == "EDGE boundary"]
    assert edge.onset == pytest.approx(1201 / 1200)
    separated = real(corpora, "elekta306_sss_raw").details
    assert separated["sss"] is True
    assert separated["sss_info"]["orders"] == [8, 3]


@pytest.mark.corpus
def test_real_compensation_can_be_undone_and_applied_again(corpora):
    path = corpora / "meg_samples" / "ctf275_comp_raw.fif"
    stored = read_raw_signal(path, WHO)
    raw = read_raw_signal(path, WHO, compensation=0)
    axial = stored.sensors.kind == Kind.AXIAL
    assert raw.data[axial].std() > 1.2 * stored.data[axial].std()
    np.testing.assert_allclose(raw.data[~axial], stored.data[~axial], atol=1e-6)
    assert raw.details["compensation_grade"] == 0


@pytest.mark.corpus
def test_a_kit_recording_with_markers_and_digitized_points_is_in_the_head_frame(corpora, tmp_path):
    (tmp_path / "kit157.sqd").symlink_to(corpora / "meg_samples" / "kit157.sqd")
    coils = np.array([[0, 0.1, 0.04], [-0.07, 0, 0.03], [0.07, 0, 0.03], [-0.04, 0.08, 0.06]])
    coils = np.r_[coils, [[0.04, 0.08, 0.06]]]  # metres, head frame
    fiducials = np.array([[0, 0.1, 0], [-0.08, 0, 0], [0.08, 0, 0]])
    surface = np.r_[fiducials, coils, [[0, 0, 0.13], [0, -0.09, 0.05]]]

    def digitized(points: np.ndarray) -> np.ndarray:
        return np.c_[points[:, 1], -points[:, 0], points[:, 2]]  # KIT: anterior, left, up

    np.savetxt(tmp_path / "kit157_elp.txt", 1000 * digitized(np.r_[fiducials, coils]))
    np.savetxt(tmp_path / "kit157_hsp.txt", 1000 * digitized(surface))
    to_device = np.linalg.inv(ROTATED)
    in_device = coils @ to_device[:3, :3].T + to_device[:3, 3]
    np.savetxt(tmp_path / "kit157_mrk.txt", digitized(in_device))
    with collect() as problems:
        placed = read_raw_signal(tmp_path / "kit157.sqd", WHO).sensors
        helmet = read_raw_signal(corpora / "meg_samples" / "kit157.sqd", WHO).sensors
    assert (placed.frame, helmet.frame) == ("head", "unknown")
    assert "kit_head_position" in [problem.code for problem in problems]
    axial = placed.kind == Kind.AXIAL
    expected = helmet.position[axial] @ ROTATED[:3, :3].T + ROTATED[:3, 3]
    np.testing.assert_allclose(placed.position[axial], expected, atol=1e-4)
    turned = helmet.orientation[axial] @ ROTATED[:3, :3].T
    np.testing.assert_allclose(placed.orientation[axial], turned, atol=1e-3)
