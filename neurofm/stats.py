"""Intervals, chance levels and tests for scores of brain decoders.

The unit of replication is the subject: bootstrap and paired tests take one value per subject, and
permutations move labels only inside a group (a run), so that what sets runs apart cannot pass for
an effect.

Source: Wilson 1927; Efron 1987 (bias-corrected and accelerated bootstrap); Phipson & Smyth 2010 (a
permutation p is never 0); Benjamini & Hochberg 1995, Benjamini & Yekutieli 2001 (false
discoveries); Combrisson & Jerbi 2015 (chance in small samples); Wilcoxon 1945; Holm 1979; Demšar
2006 (average ranks, Friedman's and Nemenyi's tests).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import binom, chi2, rankdata, studentized_range

from neurofm.shapes import Bool, Float

_EXACT_LIMIT = 13  # 2**13 sign patterns: as many as the random ones drawn above it


@dataclass(frozen=True)
class Permutation:
    """A test against the scores of shuffled data.

    Args:
        value: The observed statistic.
        null: The same statistic of each permutation.
        p: Share of permutations at least as extreme, the observed one counted in.
        exact: Every permutation was used, none was drawn.
    """

    value: float
    null: Float[np.ndarray, " permutation"]
    p: float
    exact: bool = False


def _finite(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name}: expected a vector of one value per subject, got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name}: {int((~np.isfinite(array)).sum())} of {len(array)} values are not finite. "
            "Leave those subjects out explicitly and say so beside the result."
        )
    return array


def wilson_interval(right: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion from independent yes-no trials.

    Windows of one subject are seldom independent: for a mean over subjects use
    `bootstrap_interval`.

    Returns:
        Low and high, 0 to 1.
    """
    if not 0 <= right <= total or total < 1:
        raise ValueError(f"wilson_interval: {right} right of {total}; expected 0 to total, over 0.")
    z = float(ndtri(0.5 + level / 2))
    share = right / total
    center = share + z**2 / (2 * total)
    half = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    scale = 1 + z**2 / total
    return float(max((center - half) / scale, 0.0)), float(min((center + half) / scale, 1.0))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    statistic: Callable[[np.ndarray], float] = np.mean,
    level: float = 0.95,
    n_resamples: int = 5000,
    method: Literal["bca", "percentile"] = "bca",
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a statistic over subjects, by drawing subjects with replacement.

    Args:
        values: One per subject.
        method: "bca" corrects bias and skew; "percentile" does not.

    Returns:
        Low and high. NaN, NaN for fewer than three subjects: they say nothing about a population.
        With fewer than about ten the interval is too narrow; treat it as a lower limit of doubt.
    """
    sample = _finite("bootstrap_interval", values)
    if method not in ("bca", "percentile"):
        raise ValueError(f"bootstrap_interval: method {method!r} is not 'bca' or 'percentile'.")
    n = len(sample)
    if n < 3:
        return float("nan"), float("nan")
    if np.ptp(sample) == 0:
        constant = float(statistic(sample))
        return constant, constant
    draws = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    if statistic is np.mean:  # the usual one, thousands of times faster at once
        replicates = sample[draws].mean(1)
    else:
        replicates = np.array([statistic(sample[draw]) for draw in draws])
    ends = np.array([0.5 - level / 2, 0.5 + level / 2])
    if method == "bca":
        observed = statistic(sample)
        # Half of the ties counted, and never 0 or 1, where the normal quantile is infinite.
        below = np.mean(replicates < observed) + np.mean(replicates == observed) / 2
        bias = ndtri(np.clip(below, 1 / n_resamples, 1 - 1 / n_resamples))
        jackknife = np.array([statistic(np.delete(sample, i)) for i in range(n)])
        away = jackknife.mean() - jackknife
        spread = (away**2).sum() ** 1.5
        acceleration = (away**3).sum() / (6 * spread) if spread > 0 else 0.0
        z = bias + ndtri(ends)
        ends = ndtr(bias + z / (1 - acceleration * z))
    low, high = np.quantile(replicates, ends)
    return float(low), float(high)


def paired_test(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    n_permutations: int = 9999,
    seed: int = 0,
) -> Permutation:
    """Do two methods differ on the same subjects? Two-sided test that flips signs of differences.

    Args:
        a: Score of one method, per subject.
        b: Score of the other, same subjects in the same order.
        n_permutations: Drawn when there are too many subjects to try all sign patterns.

    Returns:
        `value` is the mean of a - b. With n subjects p cannot be below 2 / 2**n.
    """
    first, second = _finite("paired_test", a), _finite("paired_test", b)
    if first.shape != second.shape:
        raise ValueError(
            f"paired_test: {len(first)} and {len(second)} values; expected the same subjects."
        )
    difference = first - second
    n = len(difference)
    exact = n <= _EXACT_LIMIT
    if exact:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), (n_permutations, n))
    null = signs @ difference / n
    observed = float(difference.mean())
    # A tolerance keeps equal sums equal although they were added in another order.
    extreme = np.abs(null) >= abs(observed) - 1e-12
    p = extreme.mean() if exact else (extreme.sum() + 1) / (n_permutations + 1)
    return Permutation(value=observed, null=null, p=float(p), exact=exact)


def wilcoxon(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of the signed-rank test on paired values; exact, also with tied differences.

    Differences of zero say nothing and are left out; if there is no other, p is 1.
    """
    first, second = _finite("wilcoxon", a), _finite("wilcoxon", b)
    if first.shape != second.shape:
        raise ValueError(
            f"wilcoxon: {len(first)} and {len(second)} values; expected the same subjects."
        )
    # Rounded, so that differences that are equal on paper tie although they were computed.
    difference = np.round(first - second, 12)
    difference = difference[difference != 0]
    doubled = np.round(2 * rankdata(np.abs(difference))).astype(int)  # ties give half ranks
    total = int(doubled.sum())
    chance = np.zeros(total + 1)  # of each sum of the positive ranks, over all sign patterns
    chance[0] = 1.0
    for rank in doubled:
        chance = 0.5 * chance + 0.5 * np.concatenate([np.zeros(rank), chance[:-rank]])
    positive = int(doubled[difference > 0].sum())
    return float(min(1.0, 2 * chance[: min(positive, total - positive) + 1].sum()))


def shuffled_within(
    y: Sequence | np.ndarray,
    groups: Sequence | np.ndarray,
    *,
    n_permutations: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Labels shuffled inside each group, `permutation window`, all permutations at once."""
    true = np.asarray(y)
    group = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if len(group) != len(true):
        raise ValueError(f"shuffled_within: {len(group)} groups for {len(true)} labels.")
    keys = np.random.default_rng(seed).random((n_permutations, len(true)))
    shuffled = np.empty((n_permutations, len(true)), dtype=true.dtype)
    shuffled[:, np.argsort(group, kind="stable")] = true[np.argsort(group + keys, axis=1)]
    return shuffled


def permutation_chance(
    y_true: Sequence | np.ndarray,
    y_pred: np.ndarray,
    *,
    metric: Callable[[np.ndarray, np.ndarray], float],
    groups: Sequence | np.ndarray | None = None,
    n_permutations: int = 1000,
    seed: int = 0,
) -> Permutation:
    """Are given predictions better than chance? Shuffle the true labels inside each group.

    Shuffling after prediction takes the classifier as fixed, which is right for predictions of
    held-out windows by cross-validation when labels may be exchanged inside a group.

    Args:
        y_pred: Labels or scores, whatever `metric` takes second; first axis is the window.
        metric: Larger is better, such as `neurofm.metrics.balanced_accuracy`.
        groups: Of each window, such as subject and run; all one group if not given.

    Raises:
        ValueError: No group holds two classes, so no shuffle changes anything.
    """
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if len(true) != len(predicted):
        raise ValueError(f"permutation_chance: {len(true)} labels, {len(predicted)} predictions.")
    group = np.zeros(len(true), dtype=int) if groups is None else np.asarray(groups)
    if len(group) != len(true):
        raise ValueError(f"permutation_chance: {len(group)} groups for {len(true)} labels.")
    if all(len(np.unique(true[group == value])) < 2 for value in np.unique(group)):
        raise ValueError(
            "permutation_chance: every group holds one class only, so shuffling inside groups "
            "changes nothing. The classes are confounded with the groups."
        )
    shuffled = shuffled_within(true, group, n_permutations=n_permutations, seed=seed)
    null = np.array([metric(labels, predicted) for labels in shuffled])
    observed = float(metric(true, predicted))
    p = (np.sum(null >= observed - 1e-12) + 1) / (n_permutations + 1)
    return Permutation(value=observed, null=null, p=float(p))


def chance_level(y: Sequence | np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Accuracy of always guessing the most frequent class, and what luck reaches on this many.

    Returns:
        The guess's expected accuracy, and the smallest accuracy that guessing exceeds less often
        than `1 - level` (binomial).
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"chance_level: expected a vector of labels, got shape {labels.shape}.")
    share = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    return share, float(binom.ppf(level, len(labels), share) / len(labels))


def fdr(
    p: Sequence[float] | np.ndarray, *, level: float = 0.05, dependent: bool = False
) -> tuple[Bool[np.ndarray, " test"], Float[np.ndarray, " test"]]:
    """Control the share of false discoveries among many tests (Benjamini-Hochberg).

    Args:
        dependent: Hold under any dependence between the tests, also a negative one, at a price of
            about log(n) (Benjamini-Yekutieli).

    Returns:
        Which tests pass at `level`, and the adjusted p values.
    """
    values = _finite("fdr", p)
    if (values < 0).any() or (values > 1).any():
        raise ValueError("fdr: p values must lie between 0 and 1.")
    n = len(values)
    order = np.argsort(values)
    scaled = values[order] * n / np.arange(1, n + 1)
    if dependent:
        scaled = scaled * (1 / np.arange(1, n + 1)).sum()
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted <= level, adjusted


def holm(p: Sequence[float] | np.ndarray) -> Float[np.ndarray, " test"]:
    """P values adjusted so that one false discovery among all tests stays rare (Holm's steps)."""
    values = _finite("holm", p)
    if (values < 0).any() or (values > 1).any():
        raise ValueError("holm: p values must lie between 0 and 1.")
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def average_ranks(scores: Float[np.ndarray, "subject method"]) -> Float[np.ndarray, " method"]:
    """Mean rank of each method over subjects or data sets; 1 = best, ties share their ranks."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(
            f"average_ranks: shape {table.shape}; expected subject method without gaps. Leave out "
            "subjects that some method did not score."
        )
    return rankdata(-table, axis=1).mean(0)


def friedman(scores: Float[np.ndarray, "subject method"]) -> tuple[float, float]:
    """Do methods differ in rank? Friedman's test with its correction for ties.

    Returns:
        The statistic, chi-squared with one degree less than there are methods, and p. All subjects
        scoring every method alike gives 0 and 1.
    """
    table = np.asarray(scores, dtype=np.float64)
    mean = average_ranks(table)
    n, k = table.shape
    if k < 2:
        raise ValueError(f"friedman: {k} method; expected two or more.")
    ranks = rankdata(-table, axis=1)
    spread = ((ranks - (k + 1) / 2) ** 2).sum()
    if spread == 0:
        return 0.0, 1.0
    statistic = float(n**2 * (k - 1) * ((mean - (k + 1) / 2) ** 2).sum() / spread)
    return statistic, float(chi2.sf(statistic, k - 1))


def critical_difference(n_methods: int, n_subjects: int, *, level: float = 0.95) -> float:
    """How far two average ranks must lie apart to differ, all pairs taken together (Nemenyi).

    Args:
        n_subjects: Rows of the table of ranks: subjects, or data sets.
    """
    if n_methods < 2 or n_subjects < 1:
        raise ValueError(
            f"critical_difference: {n_methods} methods on {n_subjects} rows; expected two or more "
            "methods and a row."
        )
    q = float(studentized_range.ppf(level, n_methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_subjects)))
