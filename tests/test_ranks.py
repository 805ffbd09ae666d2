"""Tests over many methods against scipy, against published values, and under the null."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from neurofm import stats


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40])
def test_wilcoxon_without_ties_agrees_with_scipy(n):
    a, b = np.random.default_rng(n).normal(size=(2, n))
    expected = scipy.stats.wilcoxon(a, b, method="exact").pvalue
    assert stats.wilcoxon(a, b) == pytest.approx(expected)


def test_wilcoxon_with_ties_is_the_share_of_sign_patterns():
    rng = np.random.default_rng(1)
    difference = rng.integers(-3, 5, 11) / 10
    kept = difference[difference != 0]
    ranks = scipy.stats.rankdata(np.abs(kept))
    signs = np.array(np.meshgrid(*[[0, 1]] * len(kept))).reshape(len(kept), -1).T
    sums, observed = signs @ ranks, ranks[kept > 0].sum()
    expected = min(1, 2 * min(np.mean(sums <= observed), np.mean(sums >= observed)))
    assert stats.wilcoxon(difference, np.zeros(11)) == pytest.approx(expected)


def test_wilcoxon_of_two_equal_methods_is_one():
    assert stats.wilcoxon([0.1, 0.2], [0.1, 0.2]) == 1.0
    assert stats.wilcoxon([0.3], [0.1]) == 1.0  # one subject proves nothing


def test_wilcoxon_refuses_other_subjects_and_gaps():
    with pytest.raises(ValueError, match="same subjects"):
        stats.wilcoxon([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="not finite"):
        stats.wilcoxon([0.1, np.nan], [0.1, 0.2])


def test_holm_steps_by_hand():
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(stats.holm([0.9, 0.8]), [1.0, 1.0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.holm([1.2])


@pytest.mark.parametrize("decimals", [1, 8])  # with ties and without
def test_friedman_agrees_with_scipy(decimals):
    table = np.random.default_rng(2).random((9, 4)).round(decimals)
    expected = scipy.stats.friedmanchisquare(*table.T)
    assert stats.friedman(table) == pytest.approx((expected.statistic, expected.pvalue))


def test_friedman_of_equal_methods_finds_nothing():
    assert stats.friedman(np.ones((5, 3))) == (0.0, 1.0)
    with pytest.raises(ValueError, match="two or more"):
        stats.friedman(np.ones((5, 1)))


# Demšar 2006, table 5a: critical values of the two-tailed Nemenyi test at 0.05.
@pytest.mark.parametrize(
    ("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)]
)
def test_critical_difference_agrees_with_the_published_table(k, q):
    expected = q * np.sqrt(k * (k + 1) / (6 * 14))
    assert stats.critical_difference(k, 14) == pytest.approx(expected, rel=1e-3)


def test_critical_difference_needs_methods_and_rows():
    with pytest.raises(ValueError, match="two or more"):
        stats.critical_difference(1, 14)


def test_shuffling_keeps_the_labels_of_each_group_and_reaches_every_order():
    y, groups = np.array([0, 1, 1, 5, 5, 7]), ["b", "a", "b", "a", "c", "a"]
    shuffled = stats.shuffled_within(y, groups, n_permutations=600, seed=1)
    for group in "abc":
        own = np.array(groups) == group
        assert (np.sort(shuffled[:, own], 1) == np.sort(y[own])).all()
    orders, counts = np.unique(shuffled[:, [1, 3, 5]], axis=0, return_counts=True)
    assert len(orders) == 6
    assert scipy.stats.chisquare(counts).pvalue > 0.001
    with pytest.raises(ValueError, match="2 groups for 6 labels"):
        stats.shuffled_within(y, ["a", "b"])


def test_false_positives_stay_rare_when_all_methods_are_alike():
    # 4 methods, 12 subjects who differ among each other: the family-wise error of Friedman,
    # Nemenyi and Wilcoxon with Holm's correction must not exceed 5 % by more than chance does.
    rng = np.random.default_rng(7)
    difference = stats.critical_difference(4, 12)
    found = {"friedman": 0, "nemenyi": 0, "wilcoxon and holm": 0, "wilcoxon alone": 0}
    n = 400
    for _ in range(n):
        table = rng.normal(size=(12, 1)) + 0.5 * rng.normal(size=(12, 4))
        ranks = stats.average_ranks(table)
        p = [stats.wilcoxon(table[:, i], table[:, j]) for i, j in combinations(range(4), 2)]
        found["friedman"] += stats.friedman(table)[1] <= 0.05
        found["nemenyi"] += np.ptp(ranks) >= difference
        found["wilcoxon and holm"] += min(stats.holm(p)) <= 0.05
        found["wilcoxon alone"] += min(p) <= 0.05
    limit = scipy.stats.binom.ppf(0.999, n, 0.05)
    assert all(found[name] <= limit for name in list(found)[:3]), found
    assert found["friedman"] > 0 and found["wilcoxon and holm"] > 0
    assert found["wilcoxon alone"] > limit  # why the correction is there
