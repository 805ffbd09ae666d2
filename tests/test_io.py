"""Reading recordings: every format gives the same microvolts, names, positions and events."""

from __future__ import annotations

import subprocess
import sys

import mne
import numpy as np
import pytest
from mne.io.constants import FIFF

from neurofm.io import (
    BIDSReader,
    FolderReader,
    RecordingWarning,
    TableReader,
    open_path,
    read_raw_signal,
    signal_from_raw,
    signal_to_raw,
)
from neurofm.io.electrodes import positions_of, standard_name
from neurofm.types import Event, Recording
from neurofm.units import Kind

WHO = Recording("tiny", "1")
FORMATS = {
    "edf": ("a.edf", 0.01),
    "bdf": ("a.bdf", 0.01),
    "gdf": ("a.gdf", 0.01),
    "brainvision": ("a.vhdr", 1e-3),
    "eeglab": ("a.set", 1e-3),
    "fif": ("a_raw.fif", 1e-3),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_microvolts_that_were_written(name, tiny, tmp_path):
    file, tolerance = FORMATS[name]
    signal = read_raw_signal(getattr(tiny, name)(tmp_path / file), WHO)
    assert signal.data.dtype == np.float32
    assert signal.sfreq == tiny.sfreq
    np.testing.assert_allclose(signal.data[:, : tiny.data.shape[1]], tiny.data, atol=tolerance)
    assert signal.sensors.names == tuple(tiny.names)
    assert set(signal.sensors.kind) == {int(Kind.EEG)}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_events_in_seconds_from_the_first_sample(name, tiny, tmp_path):
    signal = read_raw_signal(getattr(tiny, name)(tmp_path / FORMATS[name][0]), WHO)
    found = [event for event in signal.events if "New Segment" not in event.label]
    assert [event.onset for event in found] == pytest.approx([0.5, 2.25], abs=1e-6)
    labels = [event.label.removeprefix("Comment/") for event in found]
    assert labels == (["769", "770"] if name == "gdf" else ["T1", "T2"])


@pytest.mark.parametrize("dated", [True, False])
def test_events_survive_a_recording_that_starts_before_its_first_stored_sample(
    dated, tiny, tmp_path
):
    raw = tiny.raw()
    if dated:
        raw.set_meas_date(1_000_000.5)
    raw.crop(tmin=0.25)
    raw.save(tmp_path / "b_raw.fif", verbose="error")
    signal = read_raw_signal(tmp_path / "b_raw.fif", WHO)
    assert [event.onset for event in signal.events] == pytest.approx([0.25, 2.0], abs=1e-6)
    np.testing.assert_allclose(signal.data, tiny.data[:, 32:], atol=1e-3)


def test_a_stimulus_channel_becomes_events_and_not_a_channel(tiny, tmp_path):
    tiny.events = ()
    tiny.names[-1] = "STI 014"
    raw = tiny.raw(["eeg"] * 5 + ["stim"])
    steps = np.zeros(512)
    steps[64:70], steps[256:260] = 4, 16
    raw._data[-1] = steps
    signal = signal_from_raw(raw, WHO, event_channel="auto")
    assert signal.events == (Event(0.5, 0.0, "4"), Event(2.0, 0.0, "16"))
    assert "STI 014" not in signal.sensors.names
    assert signal_from_raw(raw, WHO).events == ()


def test_an_unknown_event_channel_names_those_there_are(tiny):
    with pytest.raises(ValueError, match=r"'STI101' is not in the file.*Fp1"):
        signal_from_raw(tiny.raw(), WHO, event_channel="STI101")


def meg_raw(transform: np.ndarray | None) -> mne.io.RawArray:
    """One sensor of each MEG type and an electrode, at a known place in the helmet."""
    names = ["mag", "planar", "axial", "ref", "Cz"]
    info = mne.create_info(names, 100.0, ["mag", "grad", "mag", "ref_meg", "eeg"])
    coils = [
        FIFF.FIFFV_COIL_VV_MAG_T3,
        FIFF.FIFFV_COIL_VV_PLANAR_T1,
        FIFF.FIFFV_COIL_CTF_GRAD,
        FIFF.FIFFV_COIL_CTF_REF_MAG,
    ]
    with info._unlock():
        for channel, coil in zip(info["chs"], coils, strict=False):
            channel["coil_type"] = coil
            channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
            channel["loc"][:] = [0.1, 0, 0.02, 1, 0, 0, 0, 1, 0, 0, 0, 1]
        info["chs"][4]["loc"][:3] = [0, 0, 0.1]
        if transform is not None:
            info["dev_head_t"] = mne.Transform("meg", "head", transform)
    data = np.ones((5, 50)) * np.array([1e-13, 1e-12, 2e-13, 1e-12, 1e-5])[:, None]
    return mne.io.RawArray(data, info, verbose="error")


TURN = np.array([[0.0, -1, 0, 0.01], [1, 0, 0, 0.02], [0, 0, 1, 0.03], [0, 0, 0, 1]])


def test_meg_positions_and_directions_go_through_the_head_transform():
    sensors = signal_from_raw(meg_raw(TURN), WHO).sensors
    np.testing.assert_allclose(sensors.position[:4], [[0.01, 0.12, 0.05]] * 4, atol=1e-7)
    np.testing.assert_allclose(sensors.position[4], [0, 0, 0.1], atol=1e-7)
    # planar: the direction of the derivative (device x becomes head y); others: the coil's normal
    np.testing.assert_allclose(
        sensors.orientation[:3], [[0, 0, 1], [0, 1, 0], [0, 0, 1]], atol=1e-7
    )
    np.testing.assert_array_equal(sensors.orientation[4], 0)
    assert sensors.frame == "head"


def test_meg_kinds_and_units_are_told_apart_by_the_coil():
    signal = signal_from_raw(meg_raw(TURN), WHO)
    kinds = [Kind(int(k)) for k in signal.sensors.kind]
    assert kinds == [Kind.MAG, Kind.GRAD, Kind.AXIAL, Kind.MEG_REF, Kind.EEG]
    # fT, fT/cm, fT, fT, µV
    np.testing.assert_allclose(signal.data[:, 0], [100, 10, 200, 1000, 10], rtol=1e-5)


@pytest.mark.parametrize("transform", [None, np.eye(4)])
def test_meg_without_head_position_keeps_the_helmet_frame_and_says_so(transform):
    with pytest.warns(RecordingWarning, match="head's position in the helmet"):
        sensors = signal_from_raw(meg_raw(transform), WHO).sensors
    assert sensors.frame == "unknown"
    np.testing.assert_allclose(sensors.position[0], [0.1, 0, 0.02], atol=1e-7)


def test_a_signal_survives_the_way_to_mne_and_back():
    signal = signal_from_raw(meg_raw(TURN), WHO)
    again = signal_from_raw(signal_to_raw(signal), WHO)
    np.testing.assert_allclose(again.data, signal.data, rtol=1e-5)
    np.testing.assert_array_equal(again.sensors.kind, signal.sensors.kind)
    np.testing.assert_allclose(again.sensors.position, signal.sensors.position, atol=1e-6)
    np.testing.assert_allclose(again.sensors.orientation, signal.sensors.orientation, atol=1e-6)


def test_events_survive_the_way_to_mne_and_back(tiny):
    signal = signal_from_raw(tiny.raw(), WHO)
    assert signal_from_raw(signal_to_raw(signal), WHO).events == signal.events


@pytest.mark.parametrize(
    ("written", "standard"),
    [
        ("Fc5.", "FC5"),
        ("C3..", "C3"),
        ("EEG Fp1", "Fp1"),
        ("EEG FP1-REF", "Fp1"),
        ("FPZ", "Fpz"),
        ("EEG A2-A1", "EEG A2-A1"),
        ("Nonsense", "Nonsense"),
    ],
)
def test_electrode_names_are_spelled_as_the_montage_does(written, standard):
    assert standard_name(written) == standard


def test_template_positions_have_the_geometry_of_a_head():
    left, right, top, back = positions_of(["C3", "C4", "Cz", "Oz"], "standard_1005")
    assert left[0] < -0.05 < 0.05 < right[0]  # metres; x points to the right ear
    assert top[2] > 0.1
    assert back[1] < -0.07
    assert np.isnan(positions_of(["E1"], "standard_1005")).all()


def test_positions_of_the_file_are_not_replaced_by_the_template(tiny):
    raw = tiny.raw()
    with raw.info._unlock():
        raw.info["chs"][1]["loc"][:3] = [0.01, 0.02, 0.09]
    position = signal_from_raw(raw, WHO, montage="standard_1005").sensors.position
    np.testing.assert_allclose(position[1], [0.01, 0.02, 0.09], atol=1e-7)
    assert np.isfinite(position).all()


def test_an_unknown_montage_names_the_known(tiny):
    with pytest.raises(ValueError, match=r"'10-10' is not one of MNE's montages: .*1005"):
        signal_from_raw(tiny.raw(), WHO, montage="10-10")


def test_kinds_come_from_names_and_from_the_card(tiny):
    tiny.names = ["EOG left", "EKG1", "L'1", "L'2", "DC03", "Cz"]
    signal = signal_from_raw(tiny.raw(), WHO, kinds={"L'*": "seeg"})
    names = [Kind(int(k)).name for k in signal.sensors.kind]
    assert names == ["EOG", "ECG", "SEEG", "SEEG", "OTHER", "EEG"]
    with pytest.raises(ValueError, match=r"'brain'.*is not one of eeg, mag"):
        signal_from_raw(tiny.raw(), WHO, kinds={"Cz": "brain"})


def test_channels_are_renamed_and_left_out_and_the_history_says_so(tiny):
    signal = signal_from_raw(
        tiny.raw(), WHO, rename={"Fp1": "FCz"}, exclude=["O*"], montage="standard_1005"
    )
    assert signal.sensors.names == ("FCz", "C3", "Cz", "C4")
    assert signal.sensors.has_position.all()
    assert "left out 2 channels: O1, O2" in signal.history


def test_a_wrongly_declared_unit_can_be_corrected(tiny, tmp_path):
    # microvolts stored, volts declared
    tiny.edf(tmp_path / "a.edf", unit="V")
    assert read_raw_signal(tmp_path / "a.edf", WHO).data.std() > 1e6
    for unit in ("uV", 1e-6, {"eeg": "uV"}):
        signal = read_raw_signal(tmp_path / "a.edf", WHO, unit=unit)
        np.testing.assert_allclose(signal.data, tiny.data, atol=0.01)
    with pytest.raises(ValueError, match="unit 'microvolt' is not one of V, mV, uV"):
        read_raw_signal(tmp_path / "a.edf", WHO, unit="microvolt")


def test_reading_in_blocks_gives_the_same_numbers(tiny, tmp_path, monkeypatch):
    path = tiny.fif(tmp_path / "a_raw.fif")
    whole = read_raw_signal(path, WHO).data
    monkeypatch.setattr("neurofm.io.meeg.BLOCK_VALUES", 100)
    np.testing.assert_array_equal(read_raw_signal(path, WHO).data, whole)


def test_a_pattern_takes_the_entities_out_of_the_path(tiny, tmp_path):
    for name in ("S001/S001R04.edf", "S002/S002R10.edf", "S002/S003R11.edf", "S002/notes.edf"):
        tiny.edf(tmp_path / name)
    reader = FolderReader("S{subject}/S{subject}R{run}.edf", dataset="d", root=tmp_path)
    assert [item.id for item in reader.recordings()] == ["d_sub-001_run-04", "d_sub-002_run-10"]


def test_a_pattern_with_an_unknown_field_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\{person\} is not one of \{subject\}"):
        FolderReader("{person}.edf", dataset="d", root=tmp_path)


def test_a_table_of_samples_is_read_with_its_markers(tiny, tmp_path):
    marks = np.zeros(512)
    marks[[64, 128]] = [1, 2]
    stamps = 1000 + np.arange(512) / 128
    table = np.c_[stamps, tiny.data[:2].T, marks]
    np.savetxt(
        tmp_path / "1.csv.gz", table, delimiter=",", header="time,TP9,AF7,Marker0", comments=""
    )
    reader = TableReader(
        "{subject}.csv.gz",
        dataset="d",
        root=tmp_path,
        sfreq=128.0,
        channels=["TP9", "AF7"],
        montage="standard_1005",
        time="time",
        markers=["Marker", "Marker0"],
    )
    (recording,) = reader.recordings()
    signal = reader.load(recording)
    np.testing.assert_allclose(signal.data, tiny.data[:2], rtol=1e-5)
    assert signal.events == (Event(0.5, 0.0, "1"), Event(1.0, 0.0, "2"))
    assert signal.sensors.has_position.all()
    gap = table.copy()
    gap[100:, 0] += 0.15
    gap[7, 1] = np.nan
    np.savetxt(
        tmp_path / "1.csv.gz", gap, delimiter=",", header="time,TP9,AF7,Marker0", comments=""
    )
    with pytest.warns(RecordingWarning, match=r"jump by more than 0\.1 s 1 times"):
        assert np.isnan(reader.load(recording).data[0, 7])
    reader.sfreq = 256.0
    with pytest.raises(ValueError, match=r"12.\.. Hz, the card says 256 Hz"):
        reader.load(recording)


@pytest.mark.parametrize(
    "head", ["\ufefftime,TP9,AF7", '"time","TP9","AF7"', "time, TP9 , AF7\r"], ids=ascii
)
def test_names_of_columns_may_be_quoted_or_follow_a_byte_order_mark(head, tmp_path):
    rows = [f"{i / 128},{i % 7},{i % 5}" for i in range(256)]
    (tmp_path / "1.csv").write_text("\n".join([head, *rows]), encoding="utf-8")
    options = {"root": tmp_path, "sfreq": 128.0, "channels": ["TP9", "AF7"], "time": "time"}
    reader = TableReader("{subject}.csv", dataset="d", **options)
    assert reader.load(reader.recordings()[0]).data[:, 8].tolist() == [1.0, 3.0]
    reader.time = "stamp"
    with pytest.raises(ValueError, match="columns stamp are missing"):
        reader.load(reader.recordings()[0])


def test_a_bids_tree_gives_entities_kinds_and_events(tiny, tmp_path):
    import mne_bids

    path = tiny.edf(tmp_path / "a.edf")
    raw = mne.io.read_raw_edf(path, verbose="error")
    raw.info["line_freq"] = 50
    target = mne_bids.BIDSPath(
        root=tmp_path / "bids", subject="01", session="2", task="rest", run="1", datatype="eeg"
    )
    mne_bids.write_raw_bids(raw, target, verbose="error")
    reader = BIDSReader(dataset="d", root=tmp_path / "bids", montage="standard_1005")
    (recording,) = reader.recordings()
    assert (recording.subject, recording.session, recording.task) == ("01", "2", "rest")
    signal = reader.load(recording)
    np.testing.assert_allclose(signal.data, tiny.data, atol=0.01)
    assert [event.label for event in signal.events] == ["T1", "T2"]
    assert signal.sensors.has_position.all()


def test_a_path_without_a_card_gets_template_positions_only_if_most_names_are_scalp_sites(
    tiny, tmp_path
):
    tiny.edf(tmp_path / "scalp.edf")
    tiny.names = ["C1", "BT2", "BT3", "BT4", "BT5", "BT6"]  # a grid that happens to have a C1
    tiny.edf(tmp_path / "grid.edf")
    corpus = open_path(tmp_path)
    placed = {
        r.subject: int(corpus.reader.load(r).sensors.has_position.sum())
        for r in corpus.recordings()
    }
    assert placed == {"scalp": 6, "grid": 0}


def test_reading_needs_no_deep_learning_library():
    code = (
        "import sys; import neurofm.io.corpus, neurofm.io.readers; "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
