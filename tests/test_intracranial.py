"""Intracranial recordings: contacts from names, electrode tables, arrays; the real samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.data import Notch, Resample
from neurofm.io import ArrayReader, Corpus, open_corpus, open_path, read_electrodes
from neurofm.io.contacts import (
    Contact,
    depth_problem,
    frame_of_space,
    parse_contact,
    parse_pair,
    shafts_of,
)
from neurofm.io.quality import RecordingWarning, collect
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


@pytest.mark.parametrize(
    ("name", "shaft", "number", "hemisphere"),
    [
        ("LA1", "LA", 1, None),
        ("A'12", "A'", 12, "left"),
        ("A’3", "A'", 3, "left"),
        ("TI'2", "TI'", 2, "left"),  # Du-IN
        ("POL B3", "B", 3, None),  # Nihon Kohden
        ("POL A'01", "A'", 1, "left"),
        ("EEG LAm10-Ref", "LAm", 10, None),
        ("EEG A'1-REF", "A'", 1, "left"),
        ("SEEG A 1", "A", 1, None),
        ("LTG-12", "LTG", 12, None),
        ("LPM-Grid 3", "LPM-Grid", 3, None),
        ("G_12", "G", 12, None),
        ("LT2_3", "LT2", 3, None),
        ("G1 12", "G1", 12, None),
        ("BTM6", "BTM", 6, None),
        ("C64..", "C", 64, None),
        ("R0", "R", 0, None),
    ],
)
def test_a_contact_is_read_from_the_spellings_of_the_field(name, shaft, number, hemisphere):
    assert parse_contact(name) == Contact(shaft, number, hemisphere)


@pytest.mark.parametrize(
    "name",
    [
        *("EKG1", "ECG 2", "EOG1", "EMG3", "DC01", "SpO2", "STI 014", "CH12", "EEG 012", "POL"),
        *("POL E", "A1-A2", "A1-2", "EEG A'1-A'2", "12", "A'", "", "MISC1", "MEG 0113", "CSC5"),
    ],
)
def test_what_is_no_single_contact_is_none(name):
    assert parse_contact(name) is None


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("A1-A2", (Contact("A", 1), Contact("A", 2))),
        ("A10-11", (Contact("A", 10), Contact("A", 11))),
        ("POL A1-POL A2", (Contact("A", 1), Contact("A", 2))),
        ("EEG A'1-A'2", (Contact("A'", 1, "left"), Contact("A'", 2, "left"))),
        ("LTG-1-LTG-2", (Contact("LTG", 1), Contact("LTG", 2))),
        ("LTG-12", None),
        ("A1-Ref", None),
        ("A1-A1", None),
    ],
)
def test_a_bipolar_name_is_two_contacts(name, pair):
    assert parse_pair(name) == pair


NAMES = st.text(max_size=12) | st.from_regex(
    r"(EEG |POL |SEEG-)?[A-Za-z]{0,3}['’]?[ _-]?[0-9]{0,4}(-[A-Za-z]{0,3}'?[0-9]{0,3})?",
    fullmatch=True,
)


@given(NAMES)
def test_any_name_is_a_contact_a_pair_or_neither_and_a_plain_spelling_parses_back(name):
    contact, pair = parse_contact(name), parse_pair(name)
    assert contact is None or pair is None
    for found in [contact, *(pair or ())]:
        if found is not None:
            assert (found.hemisphere == "left") == found.shaft.endswith("'")
            again = parse_contact(found.name)
            assert again is None or again == found


def test_shafts_are_ordered_by_number_and_a_contact_that_comes_twice_is_refused():
    assert shafts_of(["B2", "A10", "A9", "B1", "EKG1"]) == {"B": {1: 3, 2: 0}, "A": {9: 2, 10: 1}}
    with pytest.raises(ValueError, match=r"'A1' and 'A01' are both contact 1 of A"):
        shafts_of(["A1", "A2", "A01"])


def named(names: list[str]) -> Signal:
    sensors = Sensors.of_kind(names, Kind.EEG)
    return Signal(np.zeros((len(names), 10)), 100.0, sensors, (), Recording("d", "1"))


def test_depth_contacts_typed_eeg_are_reported_and_scalp_electrodes_are_not():
    depth = [f"{shaft}{i}" for shaft in ("A'", "LH") for i in range(1, 9)]
    problem = depth_problem(named([*depth, "Fz"]))
    assert problem is not None and problem.what.startswith("16 of 17 channels typed EEG")
    scalp = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8", "A1", "A2"]
    assert depth_problem(named(scalp)) is None
    assert depth_problem(named([f"C{i}" for i in range(1, 7)])) is None
    caps = (
        [f"{letter}{i}" for letter in "AB" for i in range(1, 33)],
        [f"E{i}" for i in range(1, 129)],
    )
    assert depth_problem(named(caps[0])) is None and depth_problem(named(caps[1])) is None


def test_opening_a_file_never_takes_scalp_names_for_contacts_in_silence(tiny, tmp_path):
    tiny.names = ["A'1", "A'2", "A'3", "B'1", "B'2", "B'3"]
    tiny.edf(tmp_path / "one.edf")
    corpus = open_path(tmp_path / "one.edf")
    with collect() as problems:
        signal = corpus.load(corpus.recordings()[0])
    assert "depth_contacts" in {problem.code for problem in problems}
    assert (signal.sensors.kind == Kind.EEG).all()  # said, not changed


def test_arbitrary_amplitudes_are_not_judged_and_known_ones_are(tmp_path):
    arrays_file(tmp_path, Y=np.random.default_rng(0).standard_normal((600, 4)) * 1e-6)
    for unit in ("arbitrary", "uV"):
        reader = array_reader(tmp_path, unit=unit)
        corpus = Corpus("arrays", {}, tmp_path, reader)
        with collect() as problems:
            if unit == "uV":
                with pytest.raises(ValueError, match="typical amplitude"):
                    corpus.load(corpus.recordings()[0])
            else:
                corpus.load(corpus.recordings()[0])
                assert problems == []


TABLE = "name\tx\ty\tz\tsize\tregion\nA1\t10\t-20.5\t3\t5\thippocampus\nA2\tn/a\t0\t0\t5\tn/a\n"


def electrode_files(folder: Path, table: str, system: object) -> tuple[Path, Path]:
    paths = folder / "electrodes.tsv", folder / "coordsystem.json"
    paths[0].write_text(table, encoding="utf-8")
    paths[1].write_text(system if isinstance(system, str) else json.dumps(system))
    return paths


@pytest.mark.parametrize(("unit", "metres"), [("mm", 1e-3), ("cm", 1e-2), ("m", 1.0)])
def test_an_electrode_table_gives_metres_frame_and_regions(unit, metres, tmp_path):
    table = TABLE if unit == "mm" else TABLE.replace("10\t-20.5\t3", "0.1\t-0.2\t0.03")
    system = {"iEEGCoordinateSystem": "MNI152NLin2009cAsym", "iEEGCoordinateUnits": unit}
    found = read_electrodes(*electrode_files(tmp_path, table, system))
    assert found.names == ("A1", "A2") and found.frame == "mni"
    assert found.region == ("hippocampus", "")
    first = np.array([10, -20.5, 3] if unit == "mm" else [0.1, -0.2, 0.03]) * metres
    np.testing.assert_allclose(found.position[0], first)
    assert np.isnan(found.position[1]).all()  # one coordinate missing: the place is unknown


@pytest.mark.parametrize(
    ("space", "frame"),
    [
        *(("MNI152Lin", "mni"), ("fsaverage", "mni"), ("ICBM452AirSpace", "mni")),
        *(("ACPC", "unknown"), ("Talairach", "unknown"), ("ScanRAS", "scanner"), ("", "unknown")),
    ],
)
def test_spaces_of_bids_become_frames(space, frame):
    assert frame_of_space(space) == frame


@pytest.mark.parametrize(
    ("table", "system", "words"),
    [
        ("", {}, "empty"),
        ("name\tx\ty\nA1\t1\t2\n", {}, "columns z are missing"),
        ("name\tx\ty\tz\n", {}, "no electrodes"),
        (TABLE.replace("A2", "A1"), {}, "A1 come twice"),
        (TABLE.replace("A2", ""), {}, "without a name"),
        (TABLE.replace("-20.5", "left"), {}, "coordinate 'left' of electrode 1 is not a number"),
        (TABLE + "A3\t1\n", {}, "line 4 has another number of cells"),
        (TABLE, {"iEEGCoordinateSystem": "ACPC"}, "iEEGCoordinateUnits is None"),
        (TABLE, {"iEEGCoordinateUnits": "inch"}, "'inch' is not one of"),
        (TABLE, {"iEEGCoordinateUnits": "m"}, "20.5 m from the origin"),
        (TABLE, "[1]", "holds a list"),
        (TABLE, "{", "not JSON"),
        (TABLE, "<!DOCTYPE html>", "web page"),
    ],
)
def test_a_broken_electrode_table_is_refused_by_name(table, system, words, tmp_path):
    if system == {}:
        system = {"iEEGCoordinateUnits": "mm"}
    with pytest.raises(ValueError, match=words):
        read_electrodes(*electrode_files(tmp_path, table, system))


def test_without_a_unit_positions_are_unknown_and_that_is_said(tmp_path):
    table, system = electrode_files(tmp_path, TABLE, {"iEEGCoordinateUnits": "pixels"})
    for sidecar in (None, system):
        with pytest.warns(RecordingWarning, match="positions of the electrodes are not used"):
            assert np.isnan(read_electrodes(table, sidecar).position).all()


@given(st.binary(max_size=80), st.text(max_size=60))
def test_any_bytes_as_electrode_table_work_or_are_refused(tmp_path_factory, table, system):
    folder = tmp_path_factory.mktemp("electrodes")
    (folder / "e.tsv").write_bytes(b"name\tx\ty\tz\n" + table if len(table) % 2 else table)
    (folder / "c.json").write_text(system, encoding="utf-8")
    with collect():
        for sidecar in (None, folder / "c.json"):
            try:
                found = read_electrodes(folder / "e.tsv", sidecar)
            except ValueError as error:
                assert str(folder) in str(error)
            else:
                assert len(found.position) == len(found.names)


def arrays_file(folder: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "Y": (50 * rng.standard_normal((600, 4))).astype(np.float32),
        "rate": np.array([[256, 256, 256]], np.uint16),
        "session": np.repeat([2, 1, 2], 200).astype(np.uint8)[:, None],
        "R": np.array([[-58, -18, -11], [-58, -13, -20], [30, 2, 3], [31, 2, 3]], np.int16),
    } | changes
    np.savez(folder / "P01.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder / "P01.npz"


def array_reader(root: Path, **changes: object) -> ArrayReader:
    arguments = {
        "dataset": "arrays",
        "root": root,
        "data": "Y",
        "axes": "time channel",
        "rate": "rate",
        "session": "session",
        "kind": "seeg",
        "unit": "arbitrary",
        "positions": "R",
        "position_unit": "mm",
        "frame": "mni",
    } | changes
    return ArrayReader("P{subject}.npz", **arguments)


def test_sessions_of_an_array_become_recordings_and_their_joins_are_marked(tmp_path):
    path = arrays_file(tmp_path)
    reader = array_reader(tmp_path)
    second, first = reader.recordings()
    assert (second.id, first.id) == ("arrays_sub-01_ses-2", "arrays_sub-01_ses-1")
    stored = np.load(path)["Y"]
    loaded = reader.load(second)
    np.testing.assert_array_equal(loaded.data, np.r_[stored[:200], stored[400:]].T)
    assert loaded.events == (Event(200 / 256, 0.0, "EDGE boundary"),)
    assert reader.load(first).events == ()
    assert loaded.sfreq == 256 and (loaded.sensors.kind == Kind.SEEG).all()
    np.testing.assert_allclose(loaded.sensors.position[0], [-0.058, -0.018, -0.011])
    assert loaded.sensors.frame == "mni"


def test_an_arbitrary_unit_is_kept_and_said_and_a_known_one_is_converted(tmp_path):
    arrays_file(tmp_path)
    plain = array_reader(tmp_path)
    volts = array_reader(tmp_path, unit="mV")
    one = plain.load(plain.recordings()[0])
    other = volts.load(volts.recordings()[0])
    assert one.details == {"unit": "arbitrary"} and "unit unknown" in one.history[0]
    assert other.details == {}
    np.testing.assert_allclose(other.data, 1000 * one.data, rtol=1e-6)


def test_names_nobody_gave_are_no_contacts(tmp_path):
    arrays_file(tmp_path)
    reader = array_reader(tmp_path)
    names = reader.load(reader.recordings()[0]).sensors.names
    assert names == ("1", "2", "3", "4") and shafts_of(names) == {}


def test_rates_that_differ_belong_to_the_sessions_in_order(tmp_path):
    arrays_file(tmp_path, rate=np.array([100.0, 200.0]))
    reader = array_reader(tmp_path)
    rates = {item.session: reader.load(item).sfreq for item in reader.recordings()}
    assert rates == {"1": 100.0, "2": 200.0}


@pytest.mark.parametrize(
    ("arrays", "reader", "words"),
    [
        ({"Y": None}, {}, r"no array Y; there are rate, session, R"),
        ({"Y": np.zeros(600)}, {}, r"Y has shape \(600,\)"),
        ({"Y": np.zeros((0, 4))}, {}, r"Y has shape \(0, 4\)"),
        ({"Y": np.array([["a"] * 4] * 600)}, {}, "expected numbers"),
        ({"Y": np.zeros((600, 4), complex)}, {}, "complex"),
        ({"Y": np.array([[None] * 4] * 600)}, {}, "Python objects.*never unpickled"),
        ({}, {"axes": "channel time"}, r"session has 600 entries, Y has 4 samples"),
        ({"rate": np.array([0.0])}, {}, r"rate is \[0.0\] Hz, expected above 0"),
        ({"rate": np.array([np.nan])}, {}, "expected above 0"),
        ({"rate": np.array([1.0, 2.0, 3.0])}, {}, "3 different rates"),
        ({"rate": np.array(["fast"])}, {}, "expected a rate in Hz"),
        ({"R": np.zeros((3, 4))}, {}, r"R has shape \(3, 4\).*expected numbers of shape \(4, 3\)"),
        ({"label": np.array(list("abcc"))}, {"names": "label"}, "3 different names"),
        ({"session": np.zeros((300, 2))}, {}, "expected one axis"),
        ({"session": np.full(600, np.nan)}, {}, "NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(arrays, reader, words, tmp_path):
    arrays_file(tmp_path, **arrays)
    opened = array_reader(tmp_path, **reader)
    with pytest.raises(ValueError, match=rf"(?s)P01\.npz: .*{words}"):
        opened.load(opened.recordings()[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": "volt"}, "unit 'volt'"),
        ({"axes": "time"}, "axes are 'time'"),
        ({"frame": "talairach"}, "frame 'talairach'"),
        ({"kind": "depth"}, "kind 'depth'"),
        ({"position_unit": "inch"}, "'inch'"),
    ],
)
def test_a_card_that_says_nonsense_about_an_array_is_refused_when_opened(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        array_reader(tmp_path, **changes)


def test_unknown_and_equal_positions_are_said(tmp_path):
    places = np.array([[1, 2, 3], [1, 2, 3], [np.nan, 0, 0], [np.inf, 1, 1]], float)
    arrays_file(tmp_path, R=places)
    reader = array_reader(tmp_path)
    with pytest.warns(RecordingWarning, match="1 of 4 channels share the position"):
        loaded = reader.load(reader.recordings()[0])
    assert loaded.sensors.has_position.tolist() == [True, True, False, False]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"<html>gone</html>", b"numbers"])
def test_a_file_that_is_no_archive_is_one_recording_that_says_why(content, tmp_path):
    (tmp_path / "P01.npz").write_bytes(content)
    reader = array_reader(tmp_path)
    (recording,) = reader.recordings()
    with pytest.raises(ValueError, match=r"P01\.npz: .*etch"):
        reader.load(recording)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_archive_is_refused(share, tmp_path):
    path = arrays_file(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    reader = array_reader(tmp_path)
    with pytest.raises(ValueError, match=r"P01\.npz: .*etch it again"):
        reader.load(reader.recordings()[0])


def test_a_plain_npy_file_needs_no_keys(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 50), np.float32))
    reader = ArrayReader(
        "{subject}.npy", dataset="d", root=tmp_path, rate=100.0, kind="ecog", unit="uV"
    )
    loaded = reader.load(reader.recordings()[0])
    assert loaded.data.shape == (2, 50) and loaded.sfreq == 100


def test_a_rate_without_a_short_ratio_keeps_its_clock_through_the_pipeline():
    rate = 999.4121105232217
    times = np.arange(int(60 * rate)) / rate
    tone = 100 * np.sin(2 * np.pi * 7.3 * times)[None]
    sensors = Sensors.of_kind(["A1"], Kind.ECOG)
    signal = Signal(
        tone.astype(np.float32), rate, sensors, (Event(30.5, 0.0, "x"),), Recording("d", "1")
    )
    result = Resample(256.0)(Notch([60.0])(signal))
    assert abs(result.duration - signal.duration) < 1 / 256
    assert result.events == signal.events
    inner = slice(5 * 256, -5 * 256)
    now = np.arange(result.data.shape[1]) / 256
    expected = 100 * np.sin(2 * np.pi * 7.3 * now)
    assert np.abs(result.data[0] - expected)[inner].max() < 0.1  # a clock error of 3 µs at most


@pytest.mark.corpus
def test_the_seeg_sample_has_the_contacts_and_annotations_of_its_readme(corpora):
    corpus = open_corpus("ieeg_seeg_sample")
    (recording,) = corpus.recordings()
    with pytest.warns(RecordingWarning, match="no known position"):
        signal = corpus.load(recording)
    kinds = [Kind(int(kind)) for kind in signal.sensors.kind]
    assert len(kinds) == 98 and kinds.count(Kind.SEEG) == 88
    assert kinds.count(Kind.ECG) == 2 and kinds.count(Kind.OTHER) == 8
    assert signal.sfreq == 1000 and signal.duration == 20
    assert [event.onset for event in signal.events] == [5.0, 7.0, 10.0]
    contacts = [name for name, kind in zip(signal.sensors.names, kinds, strict=True) if kind == 5]
    shafts = shafts_of(contacts)
    assert {shaft: len(members) for shaft, members in shafts.items()} == {
        "L'": 14, "N'": 12, "F'": 14, "O'": 16, "G'": 16, "X'": 16
    }  # fmt: skip
    assert 3 < np.median(signal.data[np.array(kinds) == Kind.SEEG].std(axis=1)) < 100


@pytest.mark.corpus
def test_the_ecog_sample_keeps_its_exact_rate_and_the_seizure(corpora):
    corpus = open_corpus("ieeg_ecog_sample")
    (recording,) = corpus.recordings()
    with pytest.warns(RecordingWarning, match="no known position"):
        signal = corpus.load(recording)
    assert len(signal.sensors) == 78 and int((signal.sensors.kind == Kind.ECOG).sum()) == 76
    assert abs(signal.sfreq - 999.41) < 0.01 and abs(signal.duration - 21.67) < 0.01
    (event,) = signal.events
    assert event.label == "seizure_onset" and abs(event.onset - 10.22874) < 1e-5


@pytest.mark.corpus
def test_the_supereeg_samples_are_three_sessions_with_coordinates(corpora):
    corpus = open_corpus("ieeg_supereeg")
    recordings = corpus.recordings(subjects=["003", "012"])
    assert [(r.subject, r.session) for r in recordings] == [
        ("003", "1"),
        ("003", "2"),
        ("012", "1"),
    ]
    lengths = []
    for recording in recordings:
        signal = corpus.load(recording)
        assert signal.data.shape[0] == 64 and signal.sfreq == 256 and signal.events == ()
        assert signal.sensors.frame == "mni" and signal.sensors.has_position.all()
        reach = np.abs(signal.sensors.position).max()
        assert 0.03 < reach < 0.09  # metres: inside a head
        assert signal.details["unit"] == "arbitrary"
        lengths.append(signal.data.shape[1])
    assert lengths[0] + lengths[1] == 5000 and lengths[2] == 5000
