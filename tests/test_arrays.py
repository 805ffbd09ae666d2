"""Recordings kept as numpy arrays, and the intracranial samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurofm.data import Notch, Resample
from neurofm.io import ArrayReader, Corpus, open_corpus
from neurofm.io.contacts import (
    shafts_of,
)
from neurofm.io.quality import RecordingWarning, collect
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


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
