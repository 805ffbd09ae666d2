from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.cards import build, spec_of
from neurofm.data import (
    Bandpass,
    Clip,
    Notch,
    PickChannels,
    PickKinds,
    Rereference,
    Resample,
    build_steps,
    default_steps,
)
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


def signal(data: np.ndarray, sfreq: float = 160.0, names: list[str] | None = None) -> Signal:
    names = names or [f"E{i}" for i in range(len(data))]
    return Signal(
        data=data.astype(np.float32),
        sfreq=sfreq,
        sensors=Sensors.of_kind(names, Kind.EEG),
        events=(Event(1.25, 0.5, "left_hand"), Event(3.0, 0.5, "right_hand")),
        recording=Recording("toy", "01", run="4"),
    )


def noise(channels: int = 4, seconds: float = 20.0, sfreq: float = 160.0) -> Signal:
    rng = np.random.default_rng(1)
    return signal(10 * rng.standard_normal((channels, round(seconds * sfreq))), sfreq)


def sines(freqs: list[float], seconds: float = 60.0, sfreq: float = 400.0) -> Signal:
    t = np.arange(round(seconds * sfreq)) / sfreq
    return signal(sum(np.sin(2 * np.pi * f * t) for f in freqs)[None], sfreq)


def amplitude(result: Signal, freq: float) -> float:
    """Of a sine, from the middle of the recording."""
    n = result.data.shape[1]
    part = result.data[0, n // 4 : 3 * n // 4].astype(np.float64)
    t = np.arange(len(part)) / result.sfreq
    basis = np.stack([np.sin(2 * np.pi * freq * t), np.cos(2 * np.pi * freq * t)])
    return float(np.linalg.norm(np.linalg.lstsq(basis.T, part, rcond=None)[0]))


def test_bandpass_equals_mne():
    original = noise()
    result = Bandpass(1.0, 40.0)(original)
    expected = mne.filter.filter_data(
        original.data.astype(np.float64), 160.0, 1.0, 40.0, verbose="ERROR"
    )
    assert result.data.dtype == np.float32
    np.testing.assert_allclose(result.data, expected, atol=1e-5)


def test_bandpass_passes_the_band_and_stops_the_rest():
    original = sines([2.0, 12.0, 60.0])
    result = Bandpass(8.0, 30.0)(original)
    assert amplitude(result, 12.0) == pytest.approx(1.0, abs=5e-3)
    assert amplitude(result, 2.0) < 3e-3  # a Hamming window stops 50 dB
    assert amplitude(result, 60.0) < 3e-3


def test_notch_removes_the_line_and_its_harmonics_and_nothing_else():
    original = sines([10.0, 50.0, 55.0, 100.0, 150.0], sfreq=500.0)
    result = Notch([50.0])(original)
    for freq in (50.0, 100.0, 150.0):
        assert amplitude(result, freq) < 3e-3
    for freq in (10.0, 55.0):
        assert amplitude(result, freq) == pytest.approx(1.0, abs=5e-3)
    assert "notch 50, 100, 150, 200 Hz" in result.history[0]
    kept = Notch([50.0], harmonics=False)(original)
    assert amplitude(kept, 100.0) == pytest.approx(1.0, abs=5e-3)


def test_filters_have_zero_phase():
    original = sines([12.0])
    result = Bandpass(8.0, 30.0)(Notch([60.0])(original))
    middle = slice(8000, 16000)
    np.testing.assert_allclose(result.data[0, middle], original.data[0, middle], atol=5e-3)


def test_notch_leaves_a_slow_recording_alone():
    original = noise(sfreq=100.0)
    result = Notch([60.0])(original)
    np.testing.assert_array_equal(result.data, original.data)
    assert result.history == ("notch: no line frequency below 50 Hz",)


@pytest.mark.parametrize(
    ("old", "new"), [(160.0, 256.0), (1000.0, 256.0), (512.0, 200.0), (1017.25, 256.0)]
)
def test_clock_is_exact_over_ten_minutes(old: float, new: float):
    rng = np.random.default_rng(0)
    n = round(600 * old) + int(rng.integers(1, 300))  # not a multiple of anything
    t = np.arange(n) / old
    result = Resample(new)(signal(np.sin(2 * np.pi * 31.0 * t)[None], old))
    assert result.sfreq == new
    assert result.data.shape[1] == round(n * new / old)
    expected = np.sin(2 * np.pi * 31.0 * np.arange(result.data.shape[1]) / new)
    edge = round(2 * new)
    error = np.abs(result.data[0] - expected)[edge:-edge]
    assert error.max() < 2e-4
    # 2e-4 of amplitude at 31 Hz is one microsecond; MNE's default padding drifts by milliseconds.


def test_resampling_agrees_with_mne_without_padding():
    original = noise(2, 40.0, 1000.0)
    taper = np.hanning(original.data.shape[1])
    original = Bandpass(1.0, 60.0)(replace(original, data=(original.data * taper).astype("f4")))
    result = Resample(256.0)(original)
    expected = mne.filter.resample(
        original.data.astype(np.float64), 256, 1000, npad=0, verbose="ERROR"
    )
    middle = slice(1000, -1000)
    difference = (result.data - expected)[:, middle]
    assert difference.std() < 1e-5 * expected.std()


def test_resampling_filters_before_it_drops_samples():
    original = sines([40.0, 180.0], sfreq=500.0)
    result = Resample(200.0)(original)
    assert amplitude(result, 40.0) == pytest.approx(1.0, abs=1e-3)
    assert amplitude(result, 20.0) < 1e-3  # where 180 Hz would fold to


def test_resampling_there_and_back_returns_the_signal():
    original = Bandpass(1.0, 40.0)(noise(2, 30.0, 160.0))
    back = Resample(160.0)(Resample(256.0)(original))
    assert back.data.shape == original.data.shape
    middle = slice(320, -320)
    np.testing.assert_allclose(back.data[:, middle], original.data[:, middle], atol=2e-3)


def test_resampling_keeps_a_large_offset_without_ringing():
    original = signal(np.full((1, 1600), 20_000.0) + np.linspace(0, 50, 1600))
    result = Resample(256.0)(original)
    expected = 20_000.0 + np.arange(2560) / 256 * 160 * 50 / 1599
    np.testing.assert_allclose(result.data[0], expected, atol=0.5)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 900),
    old=st.sampled_from([100.0, 128.0, 160.0, 250.0, 1000.0, 678.17, 2034.5101]),
    new=st.sampled_from([64.0, 200.0, 256.0]),
)
def test_resampled_length_is_the_rounded_one(n: int, old: float, new: float):
    original = signal(np.ones((1, n)), old)
    if round(n * new / old) < 1:
        with pytest.raises(ValueError, match="leave none"):
            Resample(new)(original)
        return
    result = Resample(new)(original)
    assert abs(result.data.shape[1] - n * new / old) <= 0.5
    np.testing.assert_allclose(result.data, 1.0, atol=1e-6)


def test_long_blocks_give_the_same_as_one_channel_at_a_time():
    original = noise(5)
    whole = Resample(256.0)(Bandpass(1.0, 40.0)(original))
    for i in range(5):
        alone = Resample(256.0)(Bandpass(1.0, 40.0)(original.pick([i])))
        np.testing.assert_allclose(alone.data[0], whole.data[i], atol=1e-5)


def test_events_sensors_and_input_are_unchanged():
    original = noise(seconds=40.0)
    before = original.data.copy()
    result = original
    for step in build_steps(None, line_freq=60.0):
        result = step(result)
    np.testing.assert_array_equal(original.data, before)
    assert result.events == original.events
    assert result.sensors.names == original.sensors.names
    assert result.recording == original.recording
    assert len(result.history) == 3


def test_history_states_type_order_phase_and_edges():
    (line,) = Bandpass(1.0, 40.0)(noise()).history
    for word in ("bandpass 1-40 Hz", "FIR", "order 528", "zero phase", "edges"):
        assert word in line


def test_default_chain_lowers_its_upper_edge_to_the_rate():
    result = noise(seconds=40.0)
    for step in build_steps(default_steps(), line_freq=60.0):
        result = step(result)
    assert result.sfreq == 256.0
    assert "bandpass 0.1-72 Hz" in result.history[1]


def test_band_above_nyquist_names_the_edge_to_use():
    with pytest.raises(ValueError, match=r"toy_sub-01_run-4.*Nyquist 80 Hz.*high=72"):
        Bandpass(0.5, 96.0)(noise())


def test_a_filter_longer_than_the_recording_is_announced_by_name():
    with pytest.warns(UserWarning, match=r"toy_sub-01_run-4: bandpass 0.1-40 Hz.* 5 s"):
        Bandpass(0.1, 40.0)(noise(seconds=5.0))


@pytest.mark.parametrize(
    "step", [Bandpass(1.0, 40.0), Notch([60.0]), Resample(256.0), Rereference(), Clip(1.0)]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_samples_are_refused_by_name(step: object, value: float):
    original = noise()
    original.data[2, 320] = value
    with pytest.raises(ValueError, match=r"toy_sub-01_run-4: .*E2 at 2 s"):
        step(original)


def test_recording_without_samples_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        Bandpass(1.0, 40.0)(signal(np.zeros((2, 0))))


def test_average_reference_sums_to_zero_within_each_kind():
    original = noise(6)
    kinds = np.array([Kind.EEG] * 3 + [Kind.MAG] * 2 + [Kind.SEEG], dtype=np.int8)
    original = replace(original, sensors=replace(original.sensors, kind=kinds))
    result = Rereference()(original)
    np.testing.assert_allclose(result.data[:3].mean(0), 0, atol=1e-5)
    np.testing.assert_array_equal(result.data[3:], original.data[3:])  # one SEEG channel is kept


def test_named_reference_is_subtracted_and_becomes_zero():
    original = noise(4)
    result = Rereference(["E1"])(original)
    np.testing.assert_array_equal(result.data[1], 0)
    np.testing.assert_allclose(result.data[0], original.data[0] - original.data[1], atol=1e-5)


def test_unknown_channel_names_give_near_misses():
    original = signal(np.zeros((3, 10)), names=["Fc5.", "C3..", "Cz"])
    with pytest.raises(ValueError, match=r"'C3'.*Did you mean C3\.\."):
        PickChannels(["C3"])(original)
    picked = PickChannels(["Cz", "Fc5."])(original)
    assert picked.sensors.names == ("Cz", "Fc5.")


def test_kind_that_is_absent_or_unknown_is_refused():
    with pytest.raises(ValueError, match=r"no channel of kind mag; it has 4 EEG"):
        PickKinds(["mag"])(noise())
    with pytest.raises(ValueError, match="'meg' is not known"):
        PickKinds(["meg"])(noise())
    assert len(PickKinds([Kind.EEG])(noise()).sensors) == 4


def test_clip_limits_and_reports_the_share():
    result = Clip(5.0)(signal(np.array([[-10.0, 0.0, 3.0, 20.0]])))
    np.testing.assert_array_equal(result.data, [[-5, 0, 3, 5]])
    assert result.history == ("clip at 5 µV: 50.00% of samples changed",)


def test_clip_refuses_to_mix_units():
    original = noise(2)
    kinds = np.array([Kind.EEG, Kind.MAG], dtype=np.int8)
    mixed = replace(original, sensors=replace(original.sensors, kind=kinds))
    with pytest.raises(ValueError, match="fT and µV"):
        Clip(100.0)(mixed)
    Clip(100.0, kinds=["eeg"])(mixed)


def test_steps_are_built_from_specs_and_written_back():
    specs = [
        {"class_path": "neurofm.data.Notch"},
        {"class_path": "neurofm.data.Bandpass", "init_args": {"low": 8.0, "high": 30.0}},
        {"class_path": "neurofm.data.PickKinds", "init_args": {"kinds": ["eeg"]}},
    ]
    steps = build_steps(specs, line_freq=50.0)
    assert steps[0].steps == (Notch([50.0]), Bandpass(8.0, 30.0))
    assert [build(spec_of(step)) for step in steps] == steps


def test_notch_without_any_frequency_says_where_to_set_it():
    with pytest.raises(ValueError, match="line_freq: 50"):
        build_steps([{"class_path": "neurofm.data.Notch"}], line_freq=None)
    with pytest.raises(ValueError, match="line_freq"):
        Notch()(noise())


def test_a_misspelt_argument_is_refused():
    spec = {"class_path": "neurofm.data.Bandpass", "init_args": {"lo": 1.0, "high": 30.0}}
    with pytest.raises(ValueError, match="lo"):
        build_steps([spec], line_freq=50.0)


@pytest.mark.corpus
def test_real_eeg_loses_line_noise_and_drift_and_keeps_its_rhythm():
    root = os.environ.get("NEUROFM_DATA")
    path = Path(root or "") / "eegmmidb/S001/S001R04.edf"
    if not root or not path.is_file():
        pytest.skip("needs eegmmidb/S001/S001R04.edf under $NEUROFM_DATA")
    raw = mne.io.read_raw_edf(path, verbose="ERROR")
    original = signal(raw.get_data() * 1e6, raw.info["sfreq"], raw.ch_names)
    result = original
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in build_steps(None, line_freq=60.0):
            result = step(result)

    def power(recording: Signal, low: float, high: float) -> float:
        psd, freqs = mne.time_frequency.psd_array_welch(
            recording.data.astype(np.float64),
            recording.sfreq,
            n_fft=round(4 * recording.sfreq),
            verbose="ERROR",
        )
        return float(psd[:, (freqs >= low) & (freqs <= high)].mean())

    assert result.sfreq == 256.0
    assert result.duration == pytest.approx(original.duration, abs=1 / 256)
    assert power(result, 59.9, 60.1) < 0.01 * power(original, 59.9, 60.1)
    assert power(result, 8, 13) == pytest.approx(power(original, 8, 13), rel=0.01)
    assert abs(result.data.mean()) < 0.1
