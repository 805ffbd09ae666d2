from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neurofm.data.steps.fast_filter as fast_filter
from neurofm.cards import build, spec_of
from neurofm.data import Bandpass, Chain, Clip, Notch, Resample, build_steps
from neurofm.data.steps.fast_filter import exact_ratio, filter_resample
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


def brownian(channels: int = 3, seconds: float = 120.0, sfreq: float = 1000.0) -> Signal:
    """Like EEG: strong slow waves, an offset, and noise."""
    rng = np.random.default_rng(5)
    shape = (channels, round(seconds * sfreq))
    data = np.cumsum(rng.standard_normal(shape), axis=1) + 5 * rng.standard_normal(shape) + 400
    return Signal(
        data=data.astype(np.float32),
        sfreq=sfreq,
        sensors=Sensors.of_kind([f"E{i}" for i in range(channels)], Kind.EEG),
        events=(),
        recording=Recording("toy", "01"),
    )


def chain(engine: str, new: float = 256.0) -> list:
    return build_steps(
        [
            {"class_path": "neurofm.data.Notch", "init_args": {"engine": engine}},
            {
                "class_path": "neurofm.data.Bandpass",
                "init_args": {"low": 0.5, "high": 90.0, "engine": engine},
            },
            {"class_path": "neurofm.data.Resample", "init_args": {"sfreq": new, "engine": engine}},
        ],
        line_freq=50.0,
    )


def run(steps: list, signal: Signal) -> Signal:
    for step in steps:
        signal = step(signal)
    return signal


@pytest.mark.parametrize(("old", "new"), [(1000.0, 256.0), (1000.0, 250.0), (256.0, 512.0)])
def test_one_pass_equals_the_steps_of_mne_away_from_the_ends(old: float, new: float):
    original = brownian(sfreq=old)
    one, other = run(chain("fft", new), original), run(chain("mne", new), original)
    assert one.data.shape == other.data.shape and one.sfreq == other.sfreq == new
    assert one.history == other.history
    inside = slice(round(10 * new), -round(10 * new))
    difference = one.data[:, inside] - other.data[:, inside]
    assert difference.std() < 1e-5 * other.data[:, inside].std()


@settings(max_examples=30)
@given(
    n=st.integers(1, 3000),
    half=st.lists(st.integers(0, 200), max_size=3),
    channels=st.integers(1, 10),
    size=st.sampled_from([256, 1024, 4096]),
)
def test_filtering_is_the_convolution_with_reflected_ends(
    n: int, half: list[int], channels: int, size: int
):
    rng = np.random.default_rng(n)
    data = (rng.standard_normal((channels, n)) + 1000).astype(np.float32)
    taps = []
    for length in half:
        side = rng.standard_normal(length) / (length + 1)
        taps.append(np.concatenate([side[::-1], [1.0], side]))
    reach = sum(half)
    inner = min(reach, n - 1)
    expected = data.astype(np.float64)
    offset = data[:, :: max(n // 4096, 1)].mean(axis=1, keepdims=True).astype(np.float64)
    left = 2 * expected[:, :1] - expected[:, 1 : inner + 1][:, ::-1]
    right = 2 * expected[:, -1:] - expected[:, ::-1][:, 1 : inner + 1]
    fill = np.broadcast_to(offset, (channels, reach - inner))
    expected = np.concatenate([fill, left, expected, right, fill], axis=1)
    kernel = np.ones(1)
    for item in taps:
        kernel = np.convolve(kernel, item)
    expected = np.stack([np.convolve(row, kernel, mode="valid") for row in expected])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_filter, "_TARGETS", (size,))
        result = filter_resample(data, taps)
    scale = np.abs(kernel).sum()
    np.testing.assert_allclose(result, expected, atol=2e-5 * scale * 5, rtol=2e-6)


def test_the_length_of_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    original = brownian(seconds=300.0)
    results = []
    for targets in ((2**15,), (2**17,), (2**20,)):
        monkeypatch.setattr(fast_filter, "_TARGETS", targets)
        results.append(run(chain("fft"), original).data)
    assert len({fast_filter._blocks(300_000, 4000, Fraction(1), [])[0]}) == 1
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=2e-5 * results[0].std())


def test_channels_do_not_touch_each_other():
    original = brownian(channels=11, seconds=30.0)
    whole = run(chain("fft"), original).data
    for i in (0, 7, 8, 10):
        alone = run(chain("fft"), original.pick([i])).data
        np.testing.assert_allclose(alone[0], whole[i], atol=1e-4)


def test_a_chain_keeps_the_clock_over_an_hour():
    old, new = 1017.25, 256.0
    n = round(3600 * old)
    data = np.sin(2 * np.pi * 31.0 * np.arange(n) / old)[None]
    original = Signal(
        data.astype(np.float32), old, Sensors.of_kind(["A"], Kind.EEG), (), Recording("toy", "01")
    )
    result = run(chain("fft"), original)
    last = np.arange(result.data.shape[1])[-round(60 * new) : -round(20 * new)]
    expected = np.sin(2 * np.pi * 31.0 * last / new)
    assert np.abs(result.data[0, last] - expected).max() < 5e-3  # the filter's ripple


@pytest.mark.parametrize("engine", ["fft", "mne"])
def test_filters_stop_at_joins(engine: str):
    original = brownian(seconds=60.0, sfreq=256.0)
    joined = replace(original, events=(Event(20.0, 0.0, "EDGE boundary"),))
    step = Bandpass(0.5, 40.0, engine=engine)
    cut = round(20.0 * 256)
    first = step(replace(original, data=original.data[:, :cut]))
    second = step(replace(original, data=original.data[:, cut:]))
    np.testing.assert_array_equal(
        step(joined).data, np.concatenate([first.data, second.data], axis=1)
    )
    slower = run(chain(engine, 128.0), joined)
    assert slower.data.shape[1] == original.data.shape[1] // 2


def test_neighbouring_filters_share_a_pass_and_others_do_not():
    specs = [
        Notch([50.0]),
        Bandpass(0.5, 90.0),
        Resample(256.0),
        Bandpass(1.0, 40.0),
        Clip(500.0),
        Notch([50.0], engine="mne"),
        Bandpass(0.5, 40.0),
        Bandpass(None, 30.0),
    ]
    steps = build_steps(specs, line_freq=None)
    names = [type(step).__name__ for step in steps]
    assert names == ["Chain", "Bandpass", "Clip", "Notch", "Chain"]
    assert [type(step).__name__ for step in steps[0].steps] == ["Notch", "Bandpass", "Resample"]


def test_a_chain_is_written_down_and_built_again():
    original = Chain((Notch([50.0]), Resample(256.0)))
    assert build(spec_of(original)) == Chain([Notch([50.0]), Resample(256.0)])


def test_a_change_of_rate_inside_a_chain_is_refused():
    with pytest.raises(ValueError, match="Resample must be the last"):
        Chain((Resample(256.0), Bandpass(1.0, 40.0)))


def test_ratio_of_odd_rates_is_exact_enough_at_the_end():
    n = 4_000_000
    ratio = exact_ratio(999.41, 256.0, n)
    assert abs(float(ratio) - 256.0 / 999.41) * n < 1e-4
