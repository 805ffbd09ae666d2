"""Recordings aligned by their own windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from neurofm.cards import build, spec_of
from neurofm.data import AlignRecording, EuclideanAlignment
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


def recording(seed: int = 0, channels: int = 5) -> Signal:
    rng = np.random.default_rng(seed)
    mixing = np.eye(channels) + 0.4 * rng.standard_normal((channels, channels))
    data = (20 * mixing @ rng.standard_normal((channels, 4000))).astype(np.float32)
    kinds = np.full(channels, Kind.EEG, dtype=np.int8)
    sensors = Sensors.of_kind([f"E{i}" for i in range(channels)], Kind.EEG, np.zeros((channels, 3)))
    events = tuple(Event(2.0 + 3 * i, 0.0, "ab"[i % 2]) for i in range(5))
    return Signal(
        data, 200.0, replace(sensors, kind=kinds), events, Recording("toy", "01"), ("read toy",)
    )


def test_windows_of_an_aligned_recording_have_unit_mean_covariance() -> None:
    aligned = AlignRecording(labels=["a", "b"], window_s=2.0, offset_s=0.5)(recording())
    starts = [round((2.5 + 3 * i) * 200) for i in range(5)]
    covariances = [np.cov(aligned.data[:, s : s + 400].astype(np.float64)) for s in starts]
    np.testing.assert_allclose(np.mean(covariances, 0), np.eye(5), atol=1e-4)
    assert "5 EEG channels over 5 windows of 2 s" in aligned.history[-1]


def test_aligning_a_recording_and_aligning_its_windows_agree() -> None:
    signal = recording()
    windows = signal.data.reshape(5, 10, 400).transpose(1, 0, 2)
    aligned = AlignRecording(window_s=2.0)(signal).data.reshape(5, 10, 400).transpose(1, 0, 2)
    expected = EuclideanAlignment().fit_transform(windows)
    np.testing.assert_allclose(aligned, expected, atol=1e-5)


def test_alignment_leaves_other_kinds_and_its_input_alone() -> None:
    signal = recording()
    kind = signal.sensors.kind.copy()
    kind[2] = Kind.EOG
    signal = replace(signal, sensors=replace(signal.sensors, kind=kind))
    before = signal.data.copy()
    aligned = AlignRecording()(signal)
    np.testing.assert_array_equal(signal.data, before)
    np.testing.assert_array_equal(aligned.data[2], before[2])
    assert not np.allclose(aligned.data[3], before[3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ["c"]}, "no window of 4 s at events c"),
        ({"window_s": 60.0}, "no window of 60 s fits into 20 s"),
        ({"window_s": 0.001}, "0 samples"),
        ({"kinds": ("mag",)}, "no channel of the kinds mag"),
    ],
)
def test_alignment_without_windows_or_channels_is_refused(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AlignRecording(**arguments)(recording())


def test_alignment_is_a_step_that_a_recipe_can_write_down() -> None:
    step = AlignRecording(labels=["a"], window_s=2.0)
    assert spec_of(build(spec_of(step))) == spec_of(step)
    np.testing.assert_array_equal(build(spec_of(step))(recording()).data, step(recording()).data)


@pytest.mark.parametrize("causal", [False, True])
def test_a_recording_is_recentred_by_the_riemannian_mean_and_says_so(causal: bool) -> None:
    step = AlignRecording(window_s=2.0, metric="riemannian", causal=causal)
    euclidean = AlignRecording(window_s=2.0, causal=causal)
    aligned = step(recording())
    assert step.align == f"riemannian {'causal' if causal else 'offline'}"
    assert aligned.history[-1].startswith("Riemannian alignment of 5 EEG channels")
    last = aligned.data[:, -400:].astype(np.float64)
    np.testing.assert_allclose(np.cov(last), np.eye(5), atol=0.4)  # one window of ten
    assert not np.array_equal(aligned.data, euclidean(recording()).data)


@pytest.mark.parametrize("metric", ["euclidean", "riemannian"])
def test_an_amplifier_that_is_off_at_first_teaches_nothing(
    metric: Literal["euclidean", "riemannian"],
) -> None:
    step = AlignRecording(window_s=2.0, causal=True, metric=metric)
    later, signal = recording(), recording()
    signal.data[:, :800] = 0.1
    aligned = step(signal).data
    assert not aligned[:, 400:1200].any()
    cut = step(replace(later, data=later.data[:, 800:])).data
    np.testing.assert_allclose(aligned[:, 1200:], cut[:, 400:], atol=1e-5)


def test_unknown_means_are_refused() -> None:
    with pytest.raises(ValueError, match="'harmonic', expected euclidean or riemannian"):
        AlignRecording(metric="harmonic")  # type: ignore[arg-type]
