"""Spikes as counts in bins, with behaviour beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.io import SpikeTrains, Track, bin_spikes
from neurofm.io.quality import RecordingWarning, collect
from neurofm.types import Event, Recording
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
