"""Noise-corrected predictivity: planted noise is corrected for, maps, missing trials."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.interpret import (
    inter_animal_consistency,
    neural_predictivity,
    one_to_one_map,
    pls_map,
    ridge_map,
    rsa_predictivity,
    stimulus_splits,
)

N, TRIALS = 60, 12


def animal(seed: int, noise: float, units: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features that animals share, and noisy trials of units that are linear in them."""
    features = np.random.default_rng(99).normal(size=(N, 5))
    rng = np.random.default_rng(seed)
    clean = features @ rng.normal(size=(5, units))
    return features, clean + noise * rng.normal(size=(TRIALS, N, units))


def test_noise_is_corrected_for():
    features, trials = animal(0, noise=8.0)
    found = neural_predictivity(features, trials, mapping=ridge_map(1.0), n_bootstraps=30)
    raw = np.median(found.r_xy.mean((0, 1)))
    assert raw < 0.75
    assert found.score() == pytest.approx(1, abs=0.12)
    assert found.r_xy.shape == (30, 5, 6)


def test_a_model_that_knows_half_scores_as_without_noise():
    features, trials = animal(1, noise=4.0)
    _, clean = animal(1, noise=0.0)
    half = features[:, :2]
    truth = neural_predictivity(half, clean[:2], n_bootstraps=1).by_unit()
    noisy = neural_predictivity(half, trials, n_bootstraps=30).by_unit()
    assert np.nanmedian(noisy) == pytest.approx(np.nanmedian(truth), abs=0.15)
    assert np.nanmedian(truth) < 0.9


@pytest.mark.parametrize("mapping", [ridge_map(0.1), pls_map(3)])
def test_unrelated_features_score_nothing(mapping):
    _, trials = animal(2, noise=1.0)
    features = np.random.default_rng(7).normal(size=(N, 3))
    found = neural_predictivity(features, trials, mapping=mapping, n_bootstraps=5)
    assert np.abs(np.nanmean(found.r_xy)) < 0.3


def test_units_fitted_together_are_units_fitted_alone():
    features, trials = animal(3, noise=2.0)
    together = neural_predictivity(features, trials, n_bootstraps=3)
    alone = neural_predictivity(features, trials[:, :, 2:3], n_bootstraps=3)
    np.testing.assert_allclose(together.r_xy_n_sb[..., 2:3], alone.r_xy_n_sb)


def test_one_to_one_finds_the_same_unit_in_another_animal():
    _, trials = animal(4, noise=0.5)
    order = [3, 1, 5, 0, 2, 4]
    found = neural_predictivity(
        trials[:, :, order].mean(0), trials, mapping=one_to_one_map(), n_bootstraps=2
    )
    assert found.r_xy.min() > 0.99


def test_animals_that_share_a_code_predict_each_other():
    animals = [animal(seed, noise=2.0, units=8)[1] for seed in (5, 6, 7)]
    pooled = inter_animal_consistency(animals, n_bootstraps=5)
    assert all(found.score() > 0.85 for found in pooled)
    shorter = [animals[0], animals[1][:9]]
    pair = inter_animal_consistency(shorter, n_bootstraps=5, pairwise=True)
    assert all(found.score() > 0.8 for found in pair)
    with pytest.raises(ValueError, match="nobody to be consistent with"):
        inter_animal_consistency(animals[:1])


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_geometries_are_compared_with_the_same_correction(method):
    _, trials = animal(8, noise=8.0, units=40)
    clean = animal(8, noise=0.0, units=40)[1].mean(0)
    plain = rsa_predictivity(clean, trials, method=method, n_bootstraps=10)
    assert plain.r_xy.mean() < 0.9
    assert plain.score() == pytest.approx(1, abs=0.1)
    assert plain.score() > plain.r_xy.mean()


def test_missing_trials_are_left_out_and_undefined_units_counted():
    features, trials = animal(9, noise=1.0)
    trials[:3, :10] = np.nan
    trials[:, :, 5] = 1.5
    found = neural_predictivity(features, trials, n_bootstraps=10)
    assert found.skipped < 10
    assert found.n_undefined() == 1
    assert np.isfinite(found.score())
    strict = found.n_undefined(reliable=1.1)
    assert strict == 6
    assert np.isnan(found.score(reliable=1.1))
    trials[:11, 3] = np.nan
    with pytest.raises(ValueError, match="in none of 4 halvings"):
        neural_predictivity(features, trials, n_bootstraps=4)


def test_what_does_not_fit_is_refused():
    features, trials = animal(10, noise=1.0)
    with pytest.raises(ValueError, match=r"\(59, 5\) and target"):
        neural_predictivity(features[1:], trials)
    with pytest.raises(ValueError, match="one trial has no halves"):
        neural_predictivity(features, trials[:1])
    features[0, 0] = np.nan
    with pytest.raises(ValueError, match="stimuli hold NaN"):
        neural_predictivity(features, trials)
    with pytest.raises(ValueError, match="'kendall' is not"):
        rsa_predictivity(trials, trials, method="kendall")
    with pytest.raises(ValueError, match="3 of 4 stimuli for training"):
        stimulus_splits(4, train_fraction=0.7)
