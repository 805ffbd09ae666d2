"""Intervals and tests against scipy, against published values, and in coverage."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from neurofm import stats
from neurofm.metrics import accuracy, balanced_accuracy


def test_wilson_interval_agrees_with_scipy():
    expected = scipy.stats.binomtest(29, 45).proportion_ci(method="wilson")
    assert stats.wilson_interval(29, 45) == pytest.approx((expected.low, expected.high))


def test_wilson_interval_of_a_perfect_score_is_not_a_point():
    low, high = stats.wilson_interval(10, 10)
    assert low == pytest.approx(0.722, abs=1e-3)
    assert high == pytest.approx(1.0)


@pytest.mark.parametrize(("right", "total"), [(3, 2), (-1, 4), (0, 0)])
def test_impossible_counts_are_refused(right, total):
    with pytest.raises(ValueError, match="expected 0 to total"):
        stats.wilson_interval(right, total)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_bootstrap_interval_agrees_with_scipy(method):
    values = np.random.default_rng(0).gamma(2.0, size=25)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method=method, n_resamples=20_000, rng=1
    ).confidence_interval
    low, high = stats.bootstrap_interval(values, method=method, n_resamples=20_000)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_bootstrap_interval_of_identical_subjects_is_that_value():
    assert stats.bootstrap_interval([0.5] * 6) == (0.5, 0.5)


def test_two_subjects_have_no_interval():
    assert np.isnan(stats.bootstrap_interval([0.4, 0.9])).all()


def test_a_subject_without_a_score_is_refused():
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        stats.bootstrap_interval([0.5, np.nan, 0.7])


def test_paired_test_of_few_subjects_tries_every_sign():
    # All eight differences positive: only the pattern itself and its mirror are as extreme.
    result = stats.paired_test(np.arange(1, 9) / 10 + 0.1, np.arange(1, 9) / 10)
    assert result.exact
    assert len(result.null) == 2**8
    assert result.p == pytest.approx(2 / 2**8)
    assert result.value == pytest.approx(0.1)


def test_paired_test_agrees_with_scipy_when_drawn():
    rng = np.random.default_rng(2)
    a = rng.normal(0.3, 1, 20)
    expected = scipy.stats.permutation_test(
        (a,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0
    ).pvalue
    result = stats.paired_test(a, np.zeros(20), n_permutations=20_000)
    assert not result.exact
    assert result.p == pytest.approx(expected, abs=0.02)


def test_paired_test_refuses_unequal_lists_of_subjects():
    with pytest.raises(ValueError, match="the same subjects"):
        stats.paired_test([1.0, 2.0], [1.0])


def test_permutation_chance_is_centred_on_chance_and_finds_a_good_prediction():
    y = np.tile([0, 1], 30)
    good = np.where(np.arange(60) % 6 == 0, 1 - y, y)
    result = stats.permutation_chance(y, good, metric=accuracy, n_permutations=500)
    assert result.null.mean() == pytest.approx(0.5, abs=0.02)
    assert result.p == pytest.approx(1 / 501)


def test_permutation_inside_runs_is_not_fooled_by_runs_of_unequal_classes():
    # Predicting the run's majority scores above one half, but knows nothing about windows.
    runs = np.repeat([0, 1], 20)
    y = np.r_[np.ones(15), np.zeros(5), np.zeros(15), np.ones(5)].astype(int)
    by_run = np.r_[np.ones(20), np.zeros(20)].astype(int)
    free = stats.permutation_chance(y, by_run, metric=balanced_accuracy, n_permutations=300)
    inside = stats.permutation_chance(
        y, by_run, metric=balanced_accuracy, groups=runs, n_permutations=300
    )
    assert free.p < 0.01
    assert inside.p == 1.0


def test_classes_confounded_with_groups_cannot_be_tested():
    with pytest.raises(ValueError, match="confounded"):
        stats.permutation_chance(
            [0, 0, 1, 1], np.array([0, 0, 1, 1]), metric=accuracy, groups=[0, 0, 1, 1]
        )


def test_permutation_p_is_uniform_without_an_effect():
    rng = np.random.default_rng(3)
    p = [
        stats.permutation_chance(
            rng.permutation(np.tile([0, 1], 15)),
            rng.integers(0, 2, 30),
            metric=accuracy,
            n_permutations=99,
            seed=i,
        ).p
        for i in range(150)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.1
    assert 0.35 < np.mean(p) < 0.7


def test_chance_level_grows_as_windows_get_fewer():
    share, luck = stats.chance_level([0, 1] * 20)
    assert share == 0.5
    # 40 trials, two classes: 62.5 % is the published 5 % threshold (Combrisson & Jerbi 2015).
    assert luck == pytest.approx(0.625, abs=0.01)
    assert stats.chance_level([0, 1] * 200)[1] < 0.55


def test_fdr_agrees_with_scipy():
    p = np.random.default_rng(4).uniform(0, 0.3, 12)
    passed, adjusted = stats.fdr(p)
    np.testing.assert_allclose(adjusted, scipy.stats.false_discovery_control(p))
    np.testing.assert_array_equal(passed, adjusted <= 0.05)


def test_average_ranks_share_ties():
    ranks = stats.average_ranks(np.array([[0.9, 0.5, 0.5], [0.8, 0.7, 0.6]]))
    np.testing.assert_allclose(ranks, [1.0, 2.25, 2.75])


def test_a_gap_in_a_table_of_ranks_is_refused():
    with pytest.raises(ValueError, match="without gaps"):
        stats.average_ranks(np.array([[0.9, np.nan]]))
