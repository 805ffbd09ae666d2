"""Sorted units in MATLAB files, with a tracked position."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from neurofm.io import SpikeReader
from neurofm.io.quality import RecordingWarning, collect
from neurofm.io.spiking.trodes import read_position


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
