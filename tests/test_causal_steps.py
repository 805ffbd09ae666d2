"""Causal steps: in pieces as in one pass, nothing from the future, and what they do to a signal."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.cards import build, spec_of
from neurofm.data import AlignRecording, Bandpass, Notch, Resample, StandardizeRecording
from neurofm.data.history import band_of, unit_of
from neurofm.data.preparing.keys import step_specs
from neurofm.data.steps.causal import Causal
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

STEPS = (
    Notch([50.0], causal=True),
    Bandpass(8.0, 30.0, causal=True),
    Bandpass(0.1, None, causal=True),
    Resample(100.0, causal=True),
    Resample(250.0, causal=True),
    AlignRecording(window_s=0.7, causal=True),
    StandardizeRecording(causal=True, tile_s=0.7, clip=3.0),
)


def recording(n: int = 900, sfreq: float = 160.0, channels: int = 3, seed: int = 0) -> Signal:
    rng = np.random.default_rng(seed)
    data = 20 + 10 * rng.standard_normal((channels, n))
    names = [f"E{i}" for i in range(channels)]
    return Signal(
        data.astype(np.float32),
        sfreq,
        Sensors.of_kind(names, Kind.EEG),
        (),
        Recording("toy", "1"),
    )


def sine(freq: float, *, sfreq: float = 200.0, seconds: float = 20.0) -> Signal:
    t = np.arange(round(sfreq * seconds)) / sfreq
    return replace(recording(len(t), sfreq, 1), data=np.sin(2 * np.pi * freq * t)[None])


@settings(max_examples=25)
@given(
    step=st.sampled_from(STEPS),
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    join=st.booleans(),
)
def test_pieces_of_any_size_give_what_one_pass_gives(step, sizes, join):
    signal = recording()
    cut = 411 if join else signal.data.shape[1]
    events = (Event(cut / signal.sfreq, 0.0, "EDGE boundary"),) if join else ()
    whole = step(replace(signal, events=events)).data
    running, parts = step.running(signal), []
    for stretch, data in enumerate((signal.data[:, :cut], signal.data[:, cut:])):
        edges = [0, *np.minimum(np.cumsum(sizes), data.shape[1]), data.shape[1]]
        for number, (start, stop) in enumerate(pairwise(edges)):
            parts.append(running(data[:, start:stop], restart=stretch == 1 and number == 0))

    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_future_changes_nothing(step):
    signal = recording()
    other = signal.data.copy()
    other[:, 500:] += 100.0
    before, after = step(signal), step(replace(signal, data=other))
    known = int(500 * before.sfreq / signal.sfreq) - 1

    np.testing.assert_array_equal(before.data[:, :known], after.data[:, :known])
    assert not np.array_equal(before.data, after.data)


def level(data: np.ndarray) -> float:
    """Amplitude of the last third, which no start disturbs."""
    return float(data[0, -data.shape[1] // 3 :].std() * 2**0.5)


@pytest.mark.parametrize(
    ("freq", "expected"), [(2.0, 0.0), (15.0, 1.0), (60.0, 0.0), (8.0, 0.707), (30.0, 0.707)]
)
def test_a_causal_bandpass_passes_its_band(freq, expected):
    assert level(Bandpass(8.0, 30.0, causal=True)(sine(freq)).data) == pytest.approx(
        expected, abs=0.02
    )


def test_a_causal_notch_stops_its_frequency_and_little_else():
    step = Notch([50.0], harmonics=False, causal=True)

    assert level(step(sine(50.0)).data) < 0.01
    assert level(step(sine(46.0)).data) > 0.95


@pytest.mark.parametrize("sfreq", [100.0, 128.0, 250.0])
def test_a_causal_change_of_rate_keeps_sines_and_their_stated_delay(sfreq):
    step, original = Resample(sfreq, causal=True), sine(10.0)
    result = step(original)
    t = np.arange(result.data.shape[1]) / sfreq - step.running(original).delay(10.0)

    assert result.sfreq == sfreq
    assert result.data.shape[1] == (original.data.shape[1] - 1) * sfreq // 200 + 1
    late = result.data[0, -1000:] - np.sin(2 * np.pi * 10.0 * t)[-1000:]
    assert np.abs(late).max() < 0.03  # waves are late by the phase delay, 0.3 ms less


def test_a_causal_change_of_rate_stops_what_the_new_rate_cannot_hold():
    assert level(Resample(64.0, causal=True)(sine(45.0)).data) < 0.01


def test_a_causal_bandpass_delays_by_what_its_history_says():
    step, original = Bandpass(8.0, 30.0, causal=True), sine(15.492)
    result = step(original)
    stated = float(result.history[-1].split(" by ")[1].split()[0]) / 1000
    wave = original.data[0, -2000:]
    lags = np.arange(60)
    match = [float(wave[: 2000 - lag] @ result.data[0, -2000 + lag :]) for lag in lags]

    # The envelope is late by the group delay, the wave by the phase delay, within half a period.
    assert 0 < stated < 0.1
    assert abs(lags[int(np.argmax(match))] / 200 - stated) < 0.04


def test_a_constant_does_not_ring_at_the_start():
    flat = replace(recording(), data=np.full((3, 900), 500.0, np.float32))

    assert np.abs(Bandpass(8.0, 30.0, causal=True)(flat).data).max() < 1e-3
    np.testing.assert_allclose(Resample(100.0, causal=True)(flat).data, 500.0, rtol=1e-6)


def test_causal_alignment_whitens_and_marks_its_first_tile():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((3, 3)) @ rng.standard_normal((3, 6000)) * 30
    result = AlignRecording(window_s=2.0, causal=True)(replace(recording(), data=mixed))
    covariance = np.cov(result.data[:, 3000:])

    np.testing.assert_allclose(covariance, np.eye(3), atol=0.15)
    assert result.events[0] == Event(0.0, 2.0, "BAD warming up")
    assert not result.data[:, :320].any() and result.data[:, 320:].all()


def test_causal_standardization_uses_all_tiles_before():
    signal = recording(channels=2)
    result = StandardizeRecording(causal=True, tile_s=1.0)(signal)
    past = signal.data[:, :640].astype(np.float64)
    z = (signal.data[:, 640:800] - past.mean(1, keepdims=True)) / past.std(1, keepdims=True)

    np.testing.assert_allclose(result.data[:, 640:800], z, atol=1e-5)
    assert unit_of(result.history) == "z"


def test_what_has_no_causal_form_says_what_to_use():
    with pytest.raises(ValueError, match=r"robust has no causal form.*Use `robust: false`"):
        StandardizeRecording(robust=True, causal=True)
    with pytest.raises(ValueError, match=r"stream has no events. Leave `labels` out"):
        AlignRecording(labels=["left_hand"], causal=True)
    with pytest.raises(ValueError, match=r"160 -> 127.37\d* Hz has no ratio .* Use 127\.\d+ Hz"):
        Resample(127.3737373, causal=True)(recording())


def test_the_history_of_causal_filters_tells_the_band():
    signal = Resample(100.0, causal=True)(Bandpass(4.0, None, causal=True)(recording()))

    assert band_of(signal.history, sfreq=signal.sfreq) == (4.0, 50.0)


def test_causal_steps_come_back_from_a_recipe_and_leave_other_keys_alone():
    for step in STEPS:
        assert isinstance(step, Causal)
        assert spec_of(build(spec_of(step))) == spec_of(step)
        assert step_specs([step]) == [spec_of(step)]
    assert "causal" not in step_specs([Bandpass(8.0, 30.0)])[0]["init_args"]
