"""Leakage between parcels goes, and planted signs are found: numbers alone, no head model."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.io import align_signs
from neurofm.io.sources.dipole_signs import (
    common_template,
    lagged_covariance,
    sign_flips,
    similarity,
)
from neurofm.io.sources.leakage import orthogonal_mixing, orthogonalize
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind


def smooth_noise(rng: np.random.Generator, n_times: int, widths: tuple[int, ...]) -> np.ndarray:
    made = [np.convolve(rng.standard_normal(n_times), np.hanning(w), "same") for w in widths]
    return np.array([row / row.std() for row in made])


def test_orthogonalized_time_courses_are_the_closest_uncorrelated_ones(rng):
    mixed = rng.standard_normal((5, 5)) @ rng.standard_normal((5, 800))
    mixed -= mixed.mean(axis=1, keepdims=True)
    mixed *= np.arange(1, 6)[:, None]
    found = orthogonalize(mixed)
    np.testing.assert_allclose(np.corrcoef(found), np.eye(5), atol=1e-8)
    # the published alternation on the time courses themselves
    lengths = np.linalg.norm(mixed, axis=1)
    for _ in range(300):
        left, _, right = np.linalg.svd(mixed.T * lengths, full_matrices=False)
        directions = left @ right
        lengths = np.einsum("ti,it->i", directions, mixed)
    np.testing.assert_allclose(found, (directions * lengths).T, atol=1e-2)
    # moving away from it in any direction that stays uncorrelated is no improvement
    best = np.linalg.norm(found - mixed)
    for _ in range(20):
        turn = np.linalg.qr(np.eye(5) + 0.05 * rng.standard_normal((5, 5)))[0]
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        other = turn @ unit
        other *= np.einsum("it,it->i", other, mixed)[:, None]
        assert np.linalg.norm(other - mixed) >= best - 1e-6


def test_uncorrelated_time_courses_are_left_alone():
    np.testing.assert_allclose(orthogonal_mixing(np.diag([1.0, 4.0, 9.0])), np.eye(3), atol=1e-9)


def test_more_parcels_than_degrees_of_freedom_are_refused(rng):
    few = rng.standard_normal((3, 500))
    dependent = np.concatenate([few, few[:1] + few[1:2]])
    with pytest.raises(ValueError, match="4 parcels have only 3 independent time courses"):
        orthogonalize(dependent)
    with pytest.raises(ValueError, match=r"parcels \[1\] are flat"):
        orthogonal_mixing(np.diag([1.0, 0.0]))


def people(rng: np.random.Generator, n: int, parcels: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Recordings of one network with lags, each with its own random signs, and those signs."""
    network = np.eye(parcels) + 0.3 * rng.standard_normal((parcels, parcels))
    signs = rng.choice([-1.0, 1.0], size=(n, parcels))
    made = []
    for own in signs:
        sources = smooth_noise(rng, 4000, (5,) * parcels)
        mixed = network @ sources
        mixed[1:] += 0.5 * np.roll(mixed[:-1], 3, axis=1)
        made.append(own[:, None] * mixed)
    return made, signs


def parcel_recording(data: np.ndarray, subject: str) -> Signal:
    names = [f"parcel-{i}" for i in range(len(data))]
    sensors = Sensors.of_kind(names, Kind.OTHER)
    return Signal(data.astype(np.float32), 250.0, sensors, (), Recording("tiny", subject))


def test_planted_sign_flips_are_recovered_exactly(rng):
    data, planted_signs = people(rng, 5, 12)
    signals = [parcel_recording(item, str(i)) for i, item in enumerate(data)]
    aligned = align_signs(signals)
    applied = np.array(
        [
            np.sign((new.data * old.data).sum(axis=1))
            for new, old in zip(aligned, signals, strict=True)
        ]
    )
    left = applied * planted_signs  # what remains of the planted signs: the same for everybody
    same = left * left[:1]
    assert (np.abs(same.sum(axis=1)) == 12).all()  # up to one sign for a whole recording
    assert aligned[0].history[-1].startswith("flipped the signs of")


def test_flips_raise_the_similarity_and_take_the_fewest(rng):
    data, _ = people(rng, 2, 10)
    covariances = [lagged_covariance(item, lags=8) for item in data]
    flips = sign_flips(covariances[0], covariances[1])
    assert flips.after > 0.8 > flips.before
    assert (flips.signs < 0).sum() <= 5
    again = sign_flips(covariances[0] * np.outer(flips.signs, flips.signs), covariances[1])
    np.testing.assert_array_equal(again.signs, 1)
    assert similarity(covariances[0], covariances[0]) == pytest.approx(1.0)


def test_unrelated_recordings_stay_dissimilar_whatever_is_flipped(rng):
    one, other = (lagged_covariance(rng.standard_normal((10, 4000)), lags=8) for _ in range(2))
    assert sign_flips(one, other).after < 0.5


def test_lagged_covariance_finds_the_lag_it_was_given(rng):
    noise = rng.standard_normal(5000)
    data = np.stack([noise, np.roll(noise, 3)])
    found = lagged_covariance(data, lags=6)
    assert found[:, 0, 1].argmax() == 3
    assert found[3, 0, 1] == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match="10 samples, expected at least 12"):
        lagged_covariance(data[:, :10], lags=6)
    data[0, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        lagged_covariance(data, lags=6)


def test_covariances_that_do_not_fit_are_refused(rng):
    data, _ = people(rng, 2, 4)
    short = lagged_covariance(data[0], lags=3)
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\) and a template of \(5, 4, 4\)"):
        sign_flips(short, lagged_covariance(data[1], lags=5))
    with pytest.raises(ValueError, match="2 has other parcels than"):
        align_signs([parcel_recording(data[0], "1"), parcel_recording(data[1][:3], "2")])


def test_a_template_of_one_recording_is_that_recording(rng):
    (data,), _ = people(rng, 1, 4)
    covariance = lagged_covariance(data)
    np.testing.assert_array_equal(common_template([covariance]), covariance)
