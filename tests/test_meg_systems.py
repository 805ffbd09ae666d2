"""Files of each MEG system: split FIF, CTF and 4D folders, KIT and what lies beside it, samples."""

from __future__ import annotations

import struct
from pathlib import Path

import mne
import numpy as np
import pytest

from neurofm.io import FolderReader, RecordingWarning, open_corpus, open_path, read_raw_signal
from neurofm.io.kit import head_files
from neurofm.io.quality import collect
from neurofm.types import Event, Recording, Signal
from neurofm.units import Kind

WHO = Recording("tiny", "1")
ROTATED = np.array([[0.0, -1, 0, 0.01], [1, 0, 0, 0.02], [0, 0, 1, 0.03], [0, 0, 0, 1]])


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
