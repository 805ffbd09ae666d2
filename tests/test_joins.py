"""Joins of pieces that did not follow each other: nothing crosses them, and the clock goes on."""

from __future__ import annotations

from dataclasses import replace

import mne
import numpy as np
import pytest

from neurofm.data import Bandpass, Resample, Windows, build_steps
from neurofm.data.preparing.prepare import prepare_corpus
from neurofm.io import open_path
from neurofm.io.stores.store import Store, write_recording
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

ENGINES = ("fft", "mne")


def noise(rng, n: int, sfreq: float, *joins: int) -> Signal:
    data = np.cumsum(rng.standard_normal((2, n)), axis=1).astype(np.float32)
    events = tuple(Event(at / sfreq, 0.0, "EDGE boundary") for at in joins)
    sensors = Sensors.of_kind(["C3", "C4"], Kind.EEG)
    return Signal(data, sfreq, sensors, events, Recording("toy", "1"))


def run(signal: Signal, engine: str, new: float, *, filtered: bool) -> Signal:
    steps = [Resample(new, engine)]
    if filtered:
        steps.insert(0, Bandpass(1.0, 0.3 * new, engine=engine))
    for step in build_steps(steps, line_freq=50.0):
        signal = step(signal)
    return signal


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(
    ("sfreq", "new", "joins"),
    [
        (1200.0, 100.0, (1201, 5003)),
        (1017.25, 100.0, (3001, 3007, 6500)),
        (160.0, 256.0, (481,)),
        (250.0, 250.0, (700,)),
    ],
)
def test_what_lies_behind_a_join_changes_nothing_before_it(
    engine, filtered, sfreq, new, joins, rng
):
    signal = noise(rng, 9000, sfreq, *joins)
    for join in joins:
        for side in (slice(0, join), slice(join, None)):
            other = signal.data.copy()
            other[:, side] = 1000.0 + 50 * rng.standard_normal(other[:, side].shape)
            one = run(signal, engine, new, filtered=filtered)
            two = run(replace(signal, data=other), engine, new, filtered=filtered)
            assert one.data.shape == two.data.shape == (2, round(9000 * new / sfreq))
            at = int(np.ceil(join * new / sfreq - 1e-9))
            same = slice(at, None) if side.start == 0 else slice(0, at)
            np.testing.assert_array_equal(one.data[:, same], two.data[:, same])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("sfreq", "new"), [(1200.0, 100.0), (1017.25, 128.0), (160.0, 256.0)])
def test_the_clock_goes_on_through_joins(engine, sfreq, new, rng):
    """A slow sine is where it belongs in every stretch, whatever the phase of the join."""
    signal = noise(rng, 12_000, sfreq, 4001, 4003, 8111)
    sine = 50 * np.sin(2 * np.pi * 3.0 * np.arange(12_000) / sfreq)
    signal = replace(signal, data=np.stack([sine, -sine]).astype(np.float32))
    result = run(signal, engine, new, filtered=False)
    assert [event.onset for event in result.events] == [event.onset for event in signal.events]
    k = np.arange(result.data.shape[1])
    expected = 50 * np.sin(2 * np.pi * 3.0 * k / new)
    near = np.zeros(len(k), dtype=bool)
    for join in (0, 4001, 8111, 12_000):
        near |= np.abs(k / new - join / sfreq) < 0.15
    assert np.abs(result.data[0] - expected)[~near].max() < 0.5


def test_a_join_between_two_samples_belongs_to_the_later_one(rng):
    """The join at sample 1201 of 1200 Hz lies between samples 100 and 101 of 100 Hz."""
    slow = run(noise(rng, 6000, 1200.0, 1201), "fft", 100.0, filtered=False)
    other = slow.data.copy()
    other[:, 101:] += 500.0
    one, two = (Bandpass(1.0, 30.0)(item) for item in (slow, replace(slow, data=other)))
    np.testing.assert_array_equal(one.data[:, :101], two.data[:, :101])


def test_no_window_of_prepared_epochs_holds_two_of_them(rng, tmp_path):
    """Each epoch is a level of its own: a window that held two would show both."""
    info = mne.create_info(["C3", "Cz", "C4"], 240.0, "eeg")
    level = np.arange(8)[:, None, None] * 20e-6
    data = level + 1e-6 * rng.standard_normal((8, 3, 301))
    events = np.stack([np.arange(8) * 400, np.zeros(8, int), np.ones(8, int)], axis=1)
    epochs = mne.EpochsArray(data, info, events, tmin=-0.25, event_id={"go": 1}, verbose="ERROR")
    epochs.save(tmp_path / "a-epo.fif", verbose="ERROR")
    steps = build_steps([Resample(100.0)], line_freq=50.0)
    corpus = open_path(tmp_path / "a-epo.fif")
    store = Store(prepare_corpus(corpus, steps, tmp_path / "stores", progress=False))
    with pytest.warns(UserWarning, match="EDGE"):
        windows = Windows(store, window_s=0.5, stride_s=0.1)
    assert len(windows) > 40
    for at in windows.start.tolist():
        piece = store.read(0, at, at + 50)[0]
        assert np.ptp(piece) < 15.0
    onsets = [event.onset for event in store.entries[0].events if event.label == "go"]
    np.testing.assert_allclose(onsets, np.arange(8) * 301 / 240 + 60 / 240, atol=1e-9)


def test_windows_leave_out_the_sample_a_join_falls_on(rng, tmp_path):
    signal = run(noise(rng, 12_000, 1200.0, 6001), "fft", 100.0, filtered=False)
    write_recording(tmp_path, signal, key="a")
    from neurofm.io import seal

    seal(tmp_path)
    with pytest.warns(UserWarning, match="EDGE"):
        windows = Windows(tmp_path, window_s=0.5, stride_s=0.01)
    start = windows.start
    assert ((start + 50 <= 500) | (start >= 501)).all()
