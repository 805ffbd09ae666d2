"""Noise ceilings: planted signal and noise are recovered; without repeats there is none."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm import ceilings

SIGNAL = np.array([0.0, 0.2, 0.5, 0.8])  # share of the variance of a single presentation


def presentations(repeats: list[int], seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Responses in random order; stimulus i is shown repeats[i] times."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(len(repeats), 4)) * np.sqrt(SIGNAL)
    shown = rng.permutation(np.repeat(np.arange(len(repeats)), repeats))
    noise = rng.normal(size=(len(shown), 4)) * np.sqrt(1 - SIGNAL)
    return signal[shown] + noise, [f"image {i}" for i in shown]


@pytest.mark.parametrize("estimate", [ceilings.repeats, ceilings.split_half])
def test_planted_signal_is_recovered(estimate):
    found = estimate(*presentations([3] * 800))
    expected = SIGNAL / (SIGNAL + (1 - SIGNAL) / found.n_averaged)
    np.testing.assert_allclose(found.fraction, expected, atol=0.1)
    np.testing.assert_allclose(found.ncsnr[1:], np.sqrt(SIGNAL / (1 - SIGNAL))[1:], rtol=0.12)
    np.testing.assert_allclose(found.r, np.sqrt(found.fraction))


def test_the_ceiling_is_what_a_perfect_model_reaches():
    rng = np.random.default_rng(5)
    signal = rng.normal(size=(600, 4)) * np.sqrt(SIGNAL)
    trials = signal[:, None] + rng.normal(size=(600, 3, 4)) * np.sqrt(1 - SIGNAL)
    found = ceilings.repeats(trials.reshape(-1, 4), np.repeat(np.arange(600), 3).tolist())
    mean = trials.mean(1)
    best = [np.corrcoef(signal[:, v], mean[:, v])[0, 1] for v in (1, 2, 3)]
    np.testing.assert_allclose(found.r[1:], best, atol=0.05)


def test_mixed_repeats_count_by_the_mean_of_their_inverses():
    values, names = presentations([3] * 200 + [2] * 100 + [1] * 100)
    found = ceilings.repeats(values, names)
    share = (200 / 3 + 100 / 2 + 100) / 400
    assert found.n_averaged == pytest.approx(1 / share)
    assert (found.n_stimuli, found.n_single) == (300, 100)
    ratio = found.ncsnr**2
    np.testing.assert_allclose(found.fraction, ratio / (ratio + share))
    single = ceilings.repeats(values, names, n_averaged=1)
    np.testing.assert_allclose(single.fraction, ratio / (ratio + 1))


@pytest.mark.parametrize("estimate", [ceilings.repeats, ceilings.split_half])
def test_without_repeats_a_ceiling_is_refused_and_not_invented(estimate):
    values, names = presentations([1] * 40)
    with pytest.raises(ValueError, match=r"each of the 40 stimuli was shown once.*no ceiling"):
        estimate(values, names)


@pytest.mark.parametrize("estimate", [ceilings.repeats, ceilings.split_half])
def test_constant_channels_have_no_ceiling_and_nan_is_refused(estimate):
    values, names = presentations([2] * 30)
    values[:, 1] = 3.3
    found = estimate(values, names)
    assert np.isnan(found.fraction).tolist() == [False, True, False, False]
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 4 channels hold NaN"):
        estimate(values, names)
    with pytest.raises(ValueError, match="one stimulus per trial"):
        estimate(values, names[1:])


def test_split_half_needs_three_stimuli_and_repeats_by_seed():
    values, names = presentations([2, 2, 1, 1])
    with pytest.raises(ValueError, match="2 stimuli were shown twice"):
        ceilings.split_half(values, names)
    values, names = presentations([4] * 20)
    first, again = (ceilings.split_half(values, names, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.fraction, again.fraction)


def test_what_people_share_is_between_the_bounds():
    rng = np.random.default_rng(1)
    common = rng.normal(size=(200, 3)) * [0, 1, 3]
    people = common + rng.normal(size=(6, 200, 3))
    found = ceilings.leave_one_subject_out(people)
    r = [np.mean([np.corrcoef(common[:, v], p[:, v])[0, 1] for p in people]) for v in (1, 2)]
    assert (found.lower[1:] < r).all()
    assert (r < found.upper[1:]).all()
    assert abs(found.lower[0]) < 0.1
    assert found.upper[0] > 0.3  # each person is part of the mean of six
    assert found.by_subject.shape == (6, 3)


def test_one_person_has_no_ceiling_over_people():
    with pytest.raises(ValueError, match="One person has no ceiling"):
        ceilings.leave_one_subject_out(np.zeros((1, 10, 2)))


def test_spearman_brown_of_known_reliabilities():
    np.testing.assert_allclose(ceilings.spearman_brown(np.array([0, 1 / 3, 1])), [0, 0.5, 1])
    assert np.isnan(ceilings.spearman_brown(-1.0))
    np.testing.assert_allclose(ceilings.largest_r(np.array([1 / 7, 1.0])), [0.5, 1])
    assert np.isnan(ceilings.largest_r(np.array([0.0, -0.2]))).all()
