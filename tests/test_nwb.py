"""Units, areas and behaviour in NWB files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofm.io import SpikeReader
from neurofm.io.quality import RecordingWarning, collect
from neurofm.types import Event


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
