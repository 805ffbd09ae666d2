"""Units: event lists, counts in bins, NWB, MATLAB, video tracks, calcium; the real samples."""

from __future__ import annotations

import gzip
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from neurofm.data import DeltaF
from neurofm.io import CalciumReader, SpikeReader, SpikeTrains, Track, bin_spikes, open_corpus
from neurofm.io.quality import RecordingWarning, collect
from neurofm.io.spiking.trodes import read_position
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

HERE = Recording("toy", "01")


def trains(*times: list[float], stop: float = 1.0, **changes: Any) -> SpikeTrains:
    arguments: dict[str, Any] = {
        "times": tuple(np.array(own, dtype=np.float64) for own in times),
        "names": tuple(f"u{i}" for i in range(len(times))),
        "start": 0.0,
        "stop": stop,
        "recording": HERE,
    }
    return SpikeTrains(**arguments | changes)


def test_spikes_are_counted_in_the_bin_that_begins_at_their_time():
    signal = bin_spikes(trains([0.0, 0.05, 0.1, 0.3, 1.0], [], [0.95, 0.99]), 0.1)
    assert signal.sfreq == 10 and signal.data.shape == (3, 10)
    assert signal.data[0].tolist() == [2, 1, 0, 1, 0, 0, 0, 0, 0, 1]
    assert signal.data[1].sum() == 0 and signal.data[2, 9] == 2
    assert (signal.sensors.kind == Kind.UNIT).all()


@given(
    st.lists(st.floats(0, 100, allow_nan=False), max_size=60),
    st.floats(0.001, 10),
    st.floats(-1e4, 1e4),
)
def test_no_spike_is_lost_or_made_whatever_bins_and_clock(times, bin_s, start):
    own = np.sort(np.array([0.0, *times])) + start
    stop = float(own[-1]) + 10.0
    signal = bin_spikes(trains(own.tolist(), start=start, stop=stop), bin_s)
    assert signal.data.sum() == len(own)
    middle = (np.repeat(np.arange(signal.data.shape[1]), signal.data[0].astype(int)) + 0.5) * bin_s
    assert np.abs(middle - (own - start)).max() <= bin_s * (0.5 + 1e-3)


def test_events_count_from_the_recordings_first_moment():
    spikes = trains([5.0, 6.0], start=5.0, stop=7.0, events=(Event(6.5, 0.2, "go"),))
    signal = bin_spikes(spikes, 0.5)
    assert signal.events == (Event(1.5, 0.2, "go"),)
    assert signal.details["clock_start_s"] == 5.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: trains([0.5, 0.2]), "unit u0 go back from 0.5 to 0.2"),
        (lambda: trains([0.5, np.nan]), "u0 has spike times that are NaN"),
        (lambda: trains([-0.5, 0.2]), r"u0 has spikes from -0.5 to 0.2 s, outside"),
        (lambda: trains([0.5, 2.0]), "outside the recording"),
        (lambda: trains([0.5], stop=0.0), "expected a stop after the start"),
        (lambda: trains([0.5], stop=np.nan), "expected a stop after the start"),
        (lambda: trains([0.5], stop=1e9), "microseconds"),
        (lambda: trains(), "0 lists of spike times"),
        (lambda: trains([0.5], names=("a", "b")), "1 lists of spike times for 2 units"),
        (lambda: bin_spikes(trains([0.5]), 0.0), "bins of 0.0 s"),
        (lambda: bin_spikes(trains([0.5]), 3.0), "at most 1 s"),
        (lambda: bin_spikes(trains([0.5], [0.1], names=("a", "a")), 0.1), "appear twice"),
        (lambda: Track("x", np.array([0.0, 1.0]), np.zeros(3)), r"\(3,\) values at \(2,\)"),
        (lambda: Track("x", np.array([1.0, 0.0]), np.zeros(2)), "ascending"),
    ],
)
def test_spike_lists_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_behaviour_is_averaged_interpolated_and_its_gaps_marked():
    times = np.concatenate([np.arange(0, 2, 0.05), np.arange(4, 6.01, 0.05)])
    track = Track("x", times, 10 * times, "pixel")
    spikes = trains([0.5], stop=6.0, behaviour=(track,))
    with pytest.warns(RecordingWarning, match=r"not measured for 2\.\d s \(1 gaps"):
        signal = bin_spikes(spikes, 0.1)
    assert signal.sensors.kind.tolist() == [Kind.UNIT, Kind.OTHER]
    middle = (np.arange(60) + 0.5) * 0.1
    np.testing.assert_allclose(signal.data[1], 10 * middle, atol=0.6)
    (gap,) = signal.events
    assert gap.label == "BAD behaviour"
    assert abs(gap.onset - 1.95) < 1e-6 and abs(gap.duration - 2.05) < 1e-6
    assert signal.details["behaviour_units"] == {"x": "pixel"}


def test_behaviour_that_ends_early_or_never_was_is_marked_to_the_end():
    short = Track("x", np.array([0.0, 0.1, 0.2]), np.ones(3))
    never = Track("y", np.array([0.0, 0.1]), np.full(2, np.nan))
    with collect() as problems:
        signal = bin_spikes(trains([0.5], stop=2.0, behaviour=(short,)), 0.1)
        empty = bin_spikes(trains([0.5], stop=2.0, behaviour=(never,)), 0.1)
    assert len(problems) == 2
    assert [(round(e.onset, 6), round(e.duration, 6)) for e in signal.events] == [(0.2, 1.8)]
    assert [(e.onset, e.duration) for e in empty.events] == [(0.0, 2.0)]
    assert np.isfinite(empty.data).all()


# --- MATLAB -------------------------------------------------------------------------------------


def cells(items: list[Any]) -> np.ndarray:
    box = np.empty((1, len(items)), dtype=object)
    for i, item in enumerate(items):
        box[0, i] = item
    return box


def unit(times: list[float], span: tuple[float, float] = (10.0, 20.0)) -> dict[str, Any]:
    return {"time": np.array(times, float)[:, None], "timerange": np.array([span])}


HEADER = (
    b"<Start settings>\nthreshold: 199\nclockrate: 30000\npixel scale: 0 pix/cm\n"
    b"Fields: <time uint32><xloc uint16><yloc uint16><xloc2 uint16><yloc2 uint16>\n<End settings>\n"
)
FRAME = np.dtype([("t", "<u4"), ("x", "<u2"), ("y", "<u2"), ("x2", "<u2"), ("y2", "<u2")])


def frames(times: np.ndarray) -> bytes:
    table = np.zeros(len(times), FRAME)
    table["t"] = np.round(times * 30_000)
    table["x"], table["y"] = np.arange(len(times)) % 640, 240
    return table.tobytes()


@pytest.fixture
def linear_track(tmp_path: Path) -> Path:
    """Two tetrodes, three units of which one is silent, ten seconds of video with a gap."""
    first = cells([unit([10.5, 11.0, 19.9]), np.zeros((1, 0)), unit([])])
    tree = cells([first, np.zeros((1, 0)), cells([unit([12.0])])])
    scipy.io.savemat(tmp_path / "spikes.mat", {"spikes": cells([cells([tree])])})
    times = np.concatenate([np.arange(10, 14, 1 / 60), np.arange(16, 20, 1 / 60)])
    with gzip.open(tmp_path / "walk.videoPositionTracking.gz", "wb") as file:
        file.write(HEADER + frames(times))
    return tmp_path


def track_reader(root: Path, **changes: Any) -> SpikeReader:
    arguments = {"dataset": "toy", "root": root, "bin_s": 0.1} | changes
    return SpikeReader("*.mat", **arguments)


def test_cells_of_units_are_read_with_the_video_beside_them(linear_track):
    reader = track_reader(linear_track, behaviour=["*.videoPositionTracking*"])
    (recording,) = reader.recordings()
    assert len(reader.files(recording)) == 2
    with collect() as problems:
        signal = reader.load(recording)
    assert {problem.code for problem in problems} == {"silent_units", "behaviour_gaps"}
    assert signal.sensors.names == ("1-1", "3", "x", "y")
    assert signal.data[:2].sum(axis=1).tolist() == [3, 1] and signal.data[0, 5] == 1
    assert signal.duration == pytest.approx(10.0)
    np.testing.assert_allclose(signal.data[3], 240)
    (gap,) = signal.events
    assert gap.onset == pytest.approx(4.0, abs=0.02) and gap.duration == pytest.approx(2, abs=0.04)


def test_silent_units_can_be_kept_as_rows_of_zeros(linear_track):
    reader = track_reader(linear_track, keep_silent=True)
    with collect():
        signal = reader.load(reader.recordings()[0])
    assert signal.sensors.names == ("1-1", "1-3", "3") and signal.data[1].sum() == 0


def test_plain_vectors_in_cells_are_units_too_and_disorder_is_repaired_aloud(tmp_path):
    scipy.io.savemat(tmp_path / "s.mat", {"units": cells([np.array([3.0, 1.0, 2.0]), [4.0, 5.0]])})
    reader = track_reader(tmp_path)
    with pytest.warns(RecordingWarning, match="unit 1 are not ascending"):
        found = reader.trains(reader.recordings()[0])
    assert found.times[0].tolist() == [1, 2, 3] and (found.start, found.stop) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": np.zeros((1, 0))}, "no units"),
        ({"x": cells([{"rate": 3.0}])}, "no units"),
        ({"x": cells([{"time": "soon"}, unit([1.0])])}, "expected numbers"),
        ({"x": cells([unit([]), unit([])])}, "none of its 2 units has a spike"),
        ({"x": cells([unit([1e9, 5e9])])}, "microseconds"),
        ({"x": cells([unit([1.0, np.nan])])}, "NaN"),
    ],
)
def test_a_matlab_file_without_usable_units_is_refused(content, words, tmp_path):
    scipy.io.savemat(tmp_path / "s.mat", content)
    reader = track_reader(tmp_path)
    with collect(), pytest.raises(ValueError, match=words):
        reader.load(reader.recordings()[0])


def test_a_named_position_file_that_is_missing_is_asked_for(linear_track):
    reader = track_reader(linear_track, behaviour=["gone.videoPositionTracking"])
    with collect(), pytest.raises(FileNotFoundError, match=r"gone\.videoPositionTracking"):
        reader.load(reader.recordings()[0])


# --- video --------------------------------------------------------------------------------------


def test_a_scale_gives_centimetres_and_frames_out_of_order_are_left_out(tmp_path):
    content = HEADER.replace(b"scale: 0 ", b"scale: 5 ") + frames(np.array([1, 2, 2, 1.5, 3.0]))
    (tmp_path / "a.videoPositionTracking").write_bytes(content)
    with pytest.warns(RecordingWarning, match="2 of 5 video frames"):
        x, y = read_position(tmp_path / "a.videoPositionTracking")
    assert x.times.tolist() == [1, 2, 3] and x.unit == "cm"
    np.testing.assert_allclose(x.values, np.array([0, 1, 4]) / 5)
    np.testing.assert_allclose(y.values, 48)


GOOD = HEADER + frames(np.arange(5.0))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD[:-5], "truncated"),
        (HEADER, "truncated"),
        (gzip.compress(GOOD)[:-9], "incomplete gzip"),
        (GOOD[:60], "not a position file"),
        (b"\x00" * 100, "not a position file"),
        (b"<!DOCTYPE html>", "web page"),
        (b"", "empty"),
        (GOOD.replace(b"clockrate: 30000", b"clockrate: fast"), "no number"),
        (GOOD.replace(b"clockrate: 30000", b"clockrate: 0"), "expected numbers above 0"),
        (GOOD.replace(b"clockrate", b"rate"), "clockrate"),
        (GOOD.replace(b"xloc uint16", b"left uint16"), "expected time, xloc, yloc"),
    ],
)
def test_a_broken_position_file_is_refused(content, words, tmp_path):
    (tmp_path / "a.videoPositionTracking").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_position(tmp_path / "a.videoPositionTracking")


@given(st.binary(max_size=120))
def test_any_header_and_records_are_read_or_refused(tmp_path_factory, noise):
    file = tmp_path_factory.mktemp("track") / "a.videoPositionTracking"
    for content in (b"<Start settings>\n" + noise + b"<End settings>\n" + noise, HEADER + noise):
        file.write_bytes(content)
        with collect():
            try:
                tracks = read_position(file)
            except ValueError as error:
                assert str(file) in str(error)
            else:
                assert all(np.diff(track.times).min(initial=1) > 0 for track in tracks)


# --- NWB ----------------------------------------------------------------------------------------


def nwb_file(folder: Path, **changes: Any) -> Path:
    """Three units, one of them silent, on two electrodes; codes, trials, a running speed."""
    import h5py

    content: dict[str, Any] = {
        "units/id": np.array([7, 8, 9]),
        "units/spike_times": np.array([1.0, 2.0, 3.0, 1.5, 9.0]),
        "units/spike_times_index": np.array([3, 3, 5], np.uint32),
        "units/electrodes": np.array([0, 1, 1]),
        "general/extracellular_ephys/electrodes/id": np.array([0, 1]),
        "general/extracellular_ephys/electrodes/location": np.array([b"CA1", b"unknown"]),
        "general/extracellular_ephys/electrodes/x": np.array([20.0, np.nan]),
        "general/extracellular_ephys/electrodes/y": np.array([-10.0, 0.0]),
        "general/extracellular_ephys/electrodes/z": np.array([5.0, 0.0]),
        "general/subject/subject_id": b"S7",
        "acquisition/events/data": np.array([1.0, 2.0, 1.0]),
        "acquisition/events/timestamps": np.array([0.5, 4.0, 9.5]),
        "intervals/trials/start_time": np.array([2.0, 5.0]),
        "intervals/trials/stop_time": np.array([3.0, 6.5]),
        "processing/behavior/speed/data": np.arange(101.0),
        "processing/behavior/speed/starting_time": 0.0,
    } | changes
    path = folder / "sub-S7_ses-1_ecephys.nwb"
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            if value is not None:
                file[name] = value
        if "processing" in file:
            file["processing/behavior/speed/starting_time"].attrs["rate"] = 10.0
            file["processing/behavior/speed/data"].attrs.update(conversion=0.01, unit="m/s")
    return path


def nwb_reader(root: Path, **changes: Any) -> SpikeReader:
    arguments: dict[str, Any] = {
        "dataset": "toy",
        "root": root,
        "bin_s": 0.5,
        "events": ["acquisition/events", "intervals/trials"],
        "behaviour": ["processing/behavior/speed"],
        "position_unit": "mm",
        "frame": "mni",
    } | changes
    return SpikeReader("sub-{subject}_ses-{session}_*.nwb", **arguments)


def test_an_nwb_file_gives_units_areas_places_events_and_behaviour(tmp_path):
    nwb_file(tmp_path)
    reader = nwb_reader(tmp_path)
    (recording,) = reader.recordings()
    assert recording.id == "toy_sub-S7_ses-1"
    with pytest.warns(RecordingWarning, match="1 of 3 units have no spikes and are left out: 8"):
        signal = reader.load(recording)
    assert signal.sensors.names == ("7", "9", "speed")
    assert signal.sensors.region == ("CA1", "", "")
    np.testing.assert_allclose(signal.sensors.position[0], [0.02, -0.01, 0.005])
    assert not signal.sensors.has_position[1] and signal.sensors.frame == "mni"
    assert signal.data[:2].sum(axis=1).tolist() == [3, 2]
    assert signal.duration == 9.0  # from the first event to the last
    assert Counter(event.label for event in signal.events) == {"1": 2, "2": 1, "trials": 2}
    assert Event(1.5, 1.0, "trials") in signal.events
    assert signal.data[2, 0] == pytest.approx(0.01 * np.arange(5, 10).mean(), abs=1e-6)
    assert signal.details["participant"] == {"subject_id": "S7"}
    assert signal.details["behaviour_units"] == {"speed": "m/s"}


def test_an_event_far_from_the_spikes_does_not_stretch_the_recording(tmp_path):
    stamps = np.array([-1.5e9, 4.0, 9.5])
    nwb_file(tmp_path, **{"acquisition/events/timestamps": stamps})
    reader = nwb_reader(tmp_path, behaviour=())
    with collect() as problems:
        signal = reader.load(reader.recordings()[0])
    assert signal.duration == 8.5 and len(signal.events) == 5
    assert "events_off_clock" in {problem.code for problem in problems}


def test_observed_intervals_and_negative_times_decide_the_span(tmp_path):
    nwb_file(tmp_path, **{"units/obs_intervals": np.array([[-2.0, 12.0]])})
    reader = nwb_reader(tmp_path, behaviour=())
    with collect() as problems:
        signal = reader.load(reader.recordings()[0])
    assert signal.duration == 14.0 and signal.details["clock_start_s"] == -2.0
    assert "negative_times" in {problem.code for problem in problems}


def test_a_unit_on_several_electrodes_lies_between_them(tmp_path):
    changes = {
        "units/electrodes": np.array([0, 1, 1, 0, 1]),
        "units/electrodes_index": np.array([2, 3, 5]),
        "general/extracellular_ephys/electrodes/x": np.array([20.0, 40.0]),
        "general/extracellular_ephys/electrodes/location": np.array([b"CA1", b"CA3"]),
    }
    nwb_file(tmp_path, **changes)
    reader = nwb_reader(tmp_path)
    with collect():
        found = reader.trains(reader.recordings()[0])
    assert found.position is not None and found.position[0, 0] == pytest.approx(0.03)
    assert found.region == ()  # no unit lies in one area alone
    with collect():
        unknown = nwb_reader(tmp_path, position_unit=None).trains(reader.recordings()[0])
    assert unknown.position is not None and np.isnan(unknown.position).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"units/spike_times": None}, "no table of units with spike times"),
        ({"units/spike_times_index": np.array([3, 2, 5])}, "goes back"),
        ({"units/spike_times_index": np.array([3, 3, 50])}, "reaches 50 of 5"),
        ({"units/id": np.array([7, 8])}, "2 ids for 3 units"),
        ({"units/id": np.array([7, 8, 7])}, "twice"),
        ({"units/electrodes": np.array([0, 1, 9])}, "beyond the 2 electrodes"),
        ({"units/spike_times": np.array([1, 2, np.nan, 1, 9])}, "NaN"),
        ({"units/spike_times": 1e6 * np.array([1, 2, 3, 1.5, 9])}, "microseconds"),
        ({"acquisition/events/data": None}, "neither a time series nor"),
        ({"acquisition/events/data": np.array([1, 2])}, "2 values at 3 times"),
        ({"processing/behavior/speed/data": np.array([b"a"] * 101)}, "expected numbers"),
        (
            {
                "units/spike_times": np.zeros(0),
                "units/spike_times_index": np.zeros(0, int),
                "units/id": np.zeros(0, int),
                "units/electrodes": np.zeros(0, int),
            },
            "table of units is empty",
        ),
        (
            {"units/spike_times": np.zeros(0), "units/spike_times_index": np.zeros(3, int)},
            "none of 3 units has spikes",
        ),
    ],
)
def test_an_nwb_file_that_contradicts_itself_is_refused(changes, words, tmp_path):
    nwb_file(tmp_path, **changes)
    reader = nwb_reader(tmp_path)
    with collect(), pytest.raises(ValueError, match=words):
        reader.load(reader.recordings()[0])


def test_a_path_that_is_not_in_the_file_is_named_with_those_that_are(tmp_path):
    nwb_file(tmp_path)
    reader = nwb_reader(tmp_path, events=["acquisition/codes"])
    with collect(), pytest.raises(ValueError, match=r"'acquisition/codes'; there are events"):
        reader.load(reader.recordings()[0])


@pytest.mark.parametrize("content", [b"", b"<html>no</html>", b"not HDF5", b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_no_nwb_is_refused(content, tmp_path):
    (tmp_path / "sub-1_ses-1_x.nwb").write_bytes(content)
    reader = nwb_reader(tmp_path)
    with pytest.raises(ValueError, match=r"sub-1_ses-1_x\.nwb: .*"):
        reader.load(reader.recordings()[0])


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_a_truncated_nwb_is_refused(share, tmp_path):
    path = nwb_file(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    reader = nwb_reader(tmp_path)
    with pytest.raises(ValueError, match=r"\.nwb: .*"):
        reader.load(reader.recordings()[0])


# --- calcium ------------------------------------------------------------------------------------


def suite2p(folder: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "F": (100 + rng.standard_normal((12, 300))).astype(np.float32),
        "spks": rng.random((12, 300)).astype(np.float32),
        "iscell": np.stack([np.arange(12) % 3 == 0, np.linspace(0, 1, 12)], 1),
    } | changes
    for name, value in arrays.items():
        if value is not None:
            np.save(folder / f"{name}.npy", value)
    return folder


def calcium(root: Path, **changes: Any) -> CalciumReader:
    return CalciumReader(**{"dataset": "toy", "root": root, "sfreq": 30.0} | changes)


def test_fluorescence_is_read_with_its_cells_and_unit(tmp_path):
    reader = calcium(suite2p(tmp_path))
    signal = reader.load(reader.recordings()[0])
    np.testing.assert_array_equal(signal.data, np.load(tmp_path / "F.npy"))
    assert signal.sfreq == 30 and (signal.sensors.kind == Kind.UNIT).all()
    assert signal.details == {"unit": "arbitrary", "cells": ["roi00", "roi03", "roi06", "roi09"]}
    cells_only = calcium(tmp_path, cells_only=True, signal="spks")
    picked = cells_only.load(cells_only.recordings()[0])
    assert picked.sensors.names == ("roi00", "roi03", "roi06", "roi09")
    np.testing.assert_array_equal(picked.data, np.load(tmp_path / "spks.npy")[::3])


@pytest.mark.parametrize("sfreq", [None, 0.0, -1.0, "fast"])
def test_a_frame_rate_is_never_guessed(sfreq, tmp_path):
    with pytest.raises(ValueError, match="The files do not say their frame rate: set `sfreq`"):
        calcium(tmp_path, sfreq=sfreq)


def test_an_unknown_rate_counts_frames_and_says_so(tmp_path):
    reader = calcium(suite2p(tmp_path), sfreq="frames")
    with pytest.warns(RecordingWarning, match="frame rate is not known"):
        signal = reader.load(reader.recordings()[0])
    assert signal.sfreq == 1 and signal.details["sfreq"] == "unknown"


def test_neuropil_is_subtracted_if_asked(tmp_path):
    reader = calcium(suite2p(tmp_path, Fneu=np.full((12, 300), 10, np.float32)), neuropil=0.7)
    signal = reader.load(reader.recordings()[0])
    np.testing.assert_allclose(signal.data, np.load(tmp_path / "F.npy") - 7, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "arguments", "words"),
    [
        ({"F": np.zeros(5)}, {}, r"shape \(5,\)"),
        ({"F": np.zeros((2, 0))}, {}, r"shape \(2, 0\)"),
        ({"F": np.array([[None]])}, {}, "Python objects"),
        ({"iscell": np.ones((3, 2))}, {}, "a row for each of 12 ROIs"),
        ({"iscell": np.zeros((12, 2))}, {"cells_only": True}, "none of 12 ROIs is a cell"),
        ({"Fneu": np.zeros((3, 3))}, {"neuropil": 0.7}, r"Fneu.npy has shape \(3, 3\)"),
    ],
)
def test_suite2p_files_that_do_not_fit_are_refused(arrays, arguments, words, tmp_path):
    reader = calcium(suite2p(tmp_path, **arrays), **arguments)
    with pytest.raises(ValueError, match=words):
        reader.load(reader.recordings()[0])


def test_cells_that_are_asked_for_need_their_file(tmp_path):
    reader = calcium(suite2p(tmp_path, iscell=None), cells_only=True)
    with pytest.raises(FileNotFoundError, match="iscell"):
        reader.load(reader.recordings()[0])


def fluorescence(rows: np.ndarray, sfreq: float = 10.0) -> Signal:
    names = [f"roi{i}" for i in range(len(rows))]
    sensors = Sensors.of_kind(names, Kind.UNIT, frame="unknown")
    return Signal(
        rows.astype(np.float32), sfreq, sensors, (), HERE, (), {"unit": "arbitrary", "cells": []}
    )


def test_a_planted_transient_is_recovered_in_percent_over_bleaching():
    time = np.arange(3000) / 10
    bleaching = 200 * np.exp(-time / 600)
    transient = np.where((time > 100) & (time < 103), 0.5, 0.0)
    signal = fluorescence((bleaching * (1 + transient))[None])
    result = DeltaF()(signal)
    assert result.details["unit"] == "%"
    np.testing.assert_allclose(result.data[0, (time > 100.5) & (time < 102.5)], 50, atol=6)
    assert np.abs(result.data[0, (time > 110) & (time < 290)]).max() < 6


def test_regions_without_a_baseline_are_left_out_and_counted():
    rows = np.stack([np.full(600, 100.0), np.zeros(600), np.full(600, -5.0)])
    with pytest.warns(UserWarning, match=r"2 of 3 regions have no baseline .*roi1, roi2"):
        result = DeltaF()(fluorescence(rows))
    assert result.sensors.names == ("roi0",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="none of 2 regions"):
            DeltaF()(fluorescence(rows[1:]))
    with pytest.raises(ValueError, match="no channel of kind UNIT"):
        eeg = Sensors.of_kind(["Cz"], Kind.EEG)
        DeltaF()(replace(fluorescence(rows[:1]), sensors=eeg))
    with pytest.raises(ValueError, match="window of 0 s"):
        DeltaF(window_s=0)


# --- the real samples ---------------------------------------------------------------------------


@pytest.mark.corpus
def test_the_linear_track_has_the_units_and_video_of_its_readme(corpora):
    corpus = open_corpus("spikes_linear_track")
    (recording,) = corpus.recordings()
    reader = corpus.reader
    assert isinstance(reader, SpikeReader)
    with collect() as problems:
        spikes, signal = reader.trains(recording), corpus.load(recording)
    kinds = Counter(int(kind) for kind in signal.sensors.kind)
    assert kinds == {Kind.UNIT: 31, Kind.OTHER: 2}
    assert signal.data[:31].sum() == spikes.counts.sum() and spikes.counts.min() > 0
    x, y = spikes.behaviour
    assert x.times[-1] - x.times[0] == pytest.approx(1982, abs=1)
    assert signal.duration == pytest.approx(1968.3, abs=0.1)
    assert x.unit == "pixel" and x.values.max() < 640 and y.values.max() < 480
    assert np.median(np.diff(x.times)) == pytest.approx(1 / 60, rel=0.05)
    assert "silent_units" in {problem.code for problem in problems}
    assert not any(event.label == "BAD behaviour" for event in signal.events)


@pytest.mark.corpus
def test_the_human_units_have_the_codes_and_areas_of_their_file(corpora):
    corpus = open_corpus("human_single_units")
    (recording,) = corpus.recordings(subjects=["4"])
    with collect() as problems:
        signal = corpus.load(recording)
    assert len(signal.sensors) == 35 and signal.data.sum() == 214_278
    assert len(signal.events) == 1717
    count = Counter(event.label for event in signal.events)
    assert count["stimulus_on"] == 450 and count["response"] == 360
    assert set(signal.sensors.region) == {"hippocampus_right", "amygdala_right"}
    assert (signal.sensors.position[:, 0] > 0.02).all()  # right, metres
    assert signal.duration == pytest.approx(2821.07, abs=0.1)
    assert {"events_off_clock", "events_beyond_end"} <= {problem.code for problem in problems}


@pytest.mark.corpus
def test_the_calcium_sample_has_the_regions_and_frames_of_its_readme(corpora):
    corpus = open_corpus("calcium_suite2p")
    (recording,) = corpus.recordings()
    with collect() as problems:
        signal = corpus.load(recording)
    assert signal.data.shape == (219, 2000) and len(signal.details["cells"]) == 20
    assert {"unknown_rate", "flat_channels"} <= {problem.code for problem in problems}
    with pytest.warns(UserWarning, match="regions have no baseline"):
        relative = DeltaF()(signal)
    assert 0 < np.median(relative.data.max(axis=1)) < 1000
