"""Statistics of generated signal recover what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.interpret import bursts, compare_signals, covariance, spectrum

SFREQ = 100.0


def rhythm(rng: np.random.Generator, *, hz: float = 10.0, n: int = 6) -> np.ndarray:
    """Bursts of 1 s every 4 s at three channels that share a part, in weak noise."""
    time = np.arange(1200) / SFREQ
    on = (time % 4 >= 1) & (time % 4 < 2)
    source = np.sin(2 * np.pi * (hz * time + rng.random((n, 1, 1)))) * on
    mixing = np.array([1.0, 0.5, 0.8])[:, None]
    x = mixing * source + 0.05 * rng.standard_normal((n, 3, 1200))
    return (10 * x).astype(np.float32)


def test_spectrum_has_its_peak_at_the_rhythm_and_the_power_of_the_signal(
    rng: np.random.Generator,
) -> None:
    x = rhythm(rng)
    frequency, power = spectrum(x, SFREQ)
    assert (frequency[power.argmax(1)] == 10).all()
    total = power.sum(1) * (frequency[1] - frequency[0])
    np.testing.assert_allclose(total, x.var(axis=2).mean(0), rtol=0.15)


def test_planted_bursts_are_found(rng: np.random.Generator) -> None:
    found = bursts(rhythm(rng), SFREQ, (8.0, 13.0), threshold=np.array([5.0, 2.5, 4.0]))
    assert found.rate == pytest.approx(1 / 4, rel=0.02)
    assert found.duration == pytest.approx(1.0, abs=0.1)
    assert found.amplitude == pytest.approx(10 * np.mean([1, 0.5, 0.8]), rel=0.2)


def test_a_burst_does_not_run_into_the_next_window() -> None:
    x = np.sin(2 * np.pi * 10 * np.arange(200) / SFREQ) * np.ones((5, 2, 1))
    found = bursts(x, SFREQ, (8.0, 13.0), threshold=np.zeros(2))
    assert found.rate == pytest.approx(1 / 2) and found.duration == pytest.approx(2.0)


def test_without_bursts_everything_is_zero(rng: np.random.Generator) -> None:
    found = bursts(rhythm(rng), SFREQ, (8.0, 13.0), threshold=np.full(3, 1e3))
    assert (found.rate, found.duration, found.amplitude) == (0, 0, 0)


def test_covariance_finds_a_delay(rng: np.random.Generator) -> None:
    noise = rng.standard_normal((20, 1, 500))
    x = np.concatenate([noise, np.roll(noise, 3, axis=-1)], axis=1)
    found = covariance(x, lags=(0, 3))
    assert abs(found[0, 0, 1]) < 0.05 and found[1, 0, 1] == pytest.approx(1, abs=0.05)


def test_more_of_the_same_is_close_and_noise_is_not(rng: np.random.Generator) -> None:
    real, same = rhythm(rng), rhythm(rng)
    other = (real.std() * rng.standard_normal(real.shape)).astype(np.float32)
    close, far = compare_signals(real, same, SFREQ), compare_signals(real, other, SFREQ)
    assert close["spectrum_db"] < 1 < 5 < far["spectrum_db"]
    assert close["spectrum_r"] > 0.95 > 0.5 > far["spectrum_r"]
    assert close["covariance_r"] > 0.99
    for name in ("burst_rate", "burst_duration", "burst_amplitude"):
        assert close[name] == pytest.approx(1, abs=0.15)
    assert abs(far["burst_duration"] - 1) > 0.3


def test_other_channels_and_bands_are_refused(rng: np.random.Generator) -> None:
    x = rhythm(rng, n=2)
    with pytest.raises(ValueError, match="3 real and 2 generated"):
        compare_signals(x, x[:, :2], SFREQ)
    with pytest.raises(ValueError, match="half the rate"):
        bursts(x, SFREQ, (8.0, 60.0))
