"""Models against people: scores, noise ceilings, and how both vary over stimuli and people.

    found = resample(models, people, "corr", conditions=draws, subjects=others)
    found.scores, found.ceiling
Stimuli and people are both samples of what one wants to know about. The dual bootstrap draws both,
and each by itself, and combines the three variances to that of generalising to new stimuli and new
people.

Source: Schuett et al. 2023 (dual bootstrap, tests); Nili et al. 2014 (ceilings).
Axes: model, subject, sample; pair = upper triangle by rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neurofm.interpret.rsa import resampled
from neurofm.interpret.rsa.comparators import compare
from neurofm.shapes import Float, Int

METHODS = (*resampled.SUMS, *resampled.RANKS, "tau-a", "tau-b")
MIN_CONDITIONS = 3  # different ones, or a sample is left out


@dataclass(frozen=True)
class Resampled:
    """Scores of models over samples.

    Args:
        by_subject: Similarity of each model with each person.
        scores: Its mean over the people drawn.
        ceiling: Lower and upper noise ceiling; NaN with fewer than two different people.
        skipped: Samples with fewer than three different conditions, which are NaN.
    """

    by_subject: Float[np.ndarray, "_ model subject"]
    scores: Float[np.ndarray, "sample model"]
    ceiling: Float[np.ndarray, "sample 2"]
    skipped: int

    def covariance(self) -> Float[np.ndarray, "value value"]:
        """Of the models' scores, then of the two ceilings, over samples.

        What concerns ceilings is from the samples with two or more different people, NaN without.
        """
        both = np.concatenate([self.scores, self.ceiling], axis=1)
        k = self.scores.shape[1]
        whole, bounded = (both[np.isfinite(part).all(1)] for part in (self.scores, both))
        covariance = np.full((k + 2, k + 2), np.nan)
        if len(bounded) > 1:
            covariance = np.cov(bounded, rowvar=False)
        if len(whole) > 1:
            covariance[:k, :k] = np.cov(whole[:, :k], rowvar=False)
        return covariance


def resample(
    models: Float[np.ndarray, "model pair"],
    people: Float[np.ndarray, "subject _"],
    method: str = "corr",
    *,
    conditions: Int[np.ndarray, "sample condition"] | None = None,
    subjects: Int[np.ndarray, "sample drawn"] | None = None,
) -> Resampled:
    """Similarity of every model with every person, and noise ceilings, for each sample.

    Args:
        method: One of `METHODS`; "corr" and "cosine", whitened or not, and ranks need no loop over
            pairs. Ceilings of "tau-a" are approximate: the mean rank does not maximise it.
        conditions: Drawn with replacement; all, once, if not given. Pairs of two copies of one
            condition are left out.
        subjects: Drawn with replacement; all if not given.
    """
    models, people, n, missing = _checked(models, people, method)
    total = max(1 if one is None else len(one) for one in (conditions, subjects))
    for name, one in (("conditions", conditions), ("subjects", subjects)):
        if one is not None and len(one) != total:
            raise ValueError(f"resample: {len(one)} samples of {name}, expected {total}.")
    counts = _counts(conditions, n, "conditions")
    drawn = _counts(subjects, len(people), "subjects")
    usable = (counts > 0).sum(1) >= MIN_CONDITIONS
    k = len(models)
    both = np.where(missing, 0.0, np.concatenate([models, people]))
    if method in resampled.SUMS:
        gram, scale = resampled.inner_products(both, counts, missing, method, n_first=k)
        by_subject = resampled.similarities(gram, k)
        ceiling = resampled.ceilings(gram[:, k:, k:], scale[:, k:], drawn)
    else:
        by_subject = np.full((len(counts), k, len(people)), np.nan)
        ceiling = np.full((total, 2), np.nan)
        plan = resampled.rank_plan(both) if method in resampled.RANKS else None
        for c in np.flatnonzero(usable):
            weights = resampled.pair_weights(counts[c : c + 1])[0] * ~missing
            drew = weights > 0
            if plan is not None:
                own = plan.ranks(weights)[:, drew]
                by_subject[c], bounds = _by_ranks(own, k, weights[drew], method)
            else:
                by_subject[c], bounds = _by_loop(both[:, drew], k, weights[drew], method)
            for i in range(total) if len(counts) == 1 else (c,):
                ceiling[i] = bounds(drawn[min(i, len(drawn) - 1)])
    by_subject[~usable] = np.nan
    ceiling[np.broadcast_to(~usable, len(ceiling))] = np.nan
    scores = (by_subject * drawn[:, None, :]).sum(2) / drawn.sum(1)[:, None]
    return Resampled(by_subject, scores, ceiling, int((~usable).sum()))


Bounds = Callable[[np.ndarray], tuple[float, float]]


def _by_ranks(
    ranks: np.ndarray, k: int, weights: np.ndarray, method: str
) -> tuple[np.ndarray, Bounds]:
    models, people = ranks[:k], ranks[k:]

    def bounds(counts: np.ndarray) -> tuple[float, float]:
        who = np.flatnonzero(counts)
        if len(who) < 2:
            return float("nan"), float("nan")
        # Sums, not means, of ranks keep ties exact.
        pool = counts @ people
        pools = np.stack([pool, *(pool - counts[i] * people[i] for i in who)])
        pools = resampled.weighted_ranks(pools, weights)
        found = resampled.rank_similarity(pools, people[who], weights, method)
        return float(np.diagonal(found[1:]).mean()), float(found[0].mean())

    return resampled.rank_similarity(models, people, weights, method), bounds


def _by_loop(x: np.ndarray, k: int, weights: np.ndarray, method: str) -> tuple[np.ndarray, Bounds]:
    drawn = np.repeat(x, weights.astype(int), axis=1)
    people = resampled.weighted_ranks(drawn[k:], np.ones(drawn.shape[1]))

    def bounds(counts: np.ndarray) -> tuple[float, float]:
        return _left_out(people, counts, lambda pool, person: compare(pool, person, method))

    return compare(drawn[:k], drawn[k:], method), bounds


def _left_out(
    people: np.ndarray, counts: np.ndarray, similarity: Callable[..., np.ndarray]
) -> tuple[float, float]:
    """Lower and upper bound."""
    who = np.flatnonzero(counts)
    if len(who) < 2:
        return float("nan"), float("nan")
    pool = counts @ people
    upper = similarity(pool[None], people[who])
    lower = [similarity((pool - counts[i] * people[i])[None], people[i][None]) for i in who]
    return float(np.mean(lower)), float(upper.mean())


def _counts(samples: np.ndarray | None, n: int, what: str) -> np.ndarray:
    if samples is None:
        return np.ones((1, n))
    samples = np.asarray(samples)
    if samples.ndim != 2 or samples.min() < 0 or samples.max() >= n:
        raise ValueError(
            f"resample: {what} are indices from 0 to {n - 1}, a row for each sample; got shape "
            f"{samples.shape}, {samples.min()} to {samples.max()}."
        )
    counts = np.zeros((len(samples), n))
    np.add.at(counts, (np.arange(len(samples))[:, None], samples), 1.0)
    return counts


def _checked(
    models: np.ndarray, people: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    if method not in METHODS:
        raise ValueError(f"resample: method {method!r} is not one of {METHODS}.")
    models, people = (np.asarray(one, dtype=np.float64) for one in (models, people))
    if models.ndim != 2 or people.ndim != 2 or models.shape[1] != people.shape[1]:
        raise ValueError(
            f"resample: models of shape {models.shape}, people of shape {people.shape}; expected "
            "(model, pair) and (subject, pair) over the same conditions."
        )
    n = n_conditions(people.shape[1])
    if n < MIN_CONDITIONS:
        raise ValueError(f"resample: {n} conditions; expected at least {MIN_CONDITIONS}.")
    return models, people, n, np.asarray(np.isnan([*models, *people]).any(axis=0))


def n_conditions(n_pairs: int) -> int:
    """Conditions of an RDM with so many pairs."""
    n = round((1 + np.sqrt(1 + 8 * n_pairs)) / 2)
    if n * (n - 1) // 2 != n_pairs:
        raise ValueError(
            f"{n_pairs} pairs are not the upper triangle of a square matrix; {n} conditions have "
            f"{n * (n - 1) // 2}."
        )
    return n


def dual_variance(
    both: Float[np.ndarray, "value value"],
    subjects: Float[np.ndarray, "value value"],
    conditions: Float[np.ndarray, "value value"],
    *,
    n_subjects: int,
    n_conditions: int,
    contrasts: Float[np.ndarray, "contrast value"] | None = None,
) -> Float[np.ndarray, " contrast"]:
    """Variance over new people and new stimuli, from three bootstraps.

    Drawing both counts the noise of single measurements more than once; the combination takes that
    out, and stays between the larger of the single variances and that of drawing both.

    Args:
        both, subjects, conditions: Covariances (`Resampled.covariance`) of the three bootstraps.
        contrasts: Rows of weights, such as (1, -1, 0) for a difference; each value if not given.
    """
    if min(n_subjects, n_conditions) < 2:
        raise ValueError(
            f"dual_variance: {n_subjects} people and {n_conditions} conditions; expected two or "
            "more of each. With one person draw conditions alone (`single_variance`)."
        )
    rows = np.eye(len(both)) if contrasts is None else np.asarray(contrasts, dtype=np.float64)
    v_both, v_people, v_stimuli = (_along(rows, one) for one in (both, subjects, conditions))
    s, n = n_subjects / (n_subjects - 1), n_conditions / (n_conditions - 1)
    variance = s * v_people + n * v_stimuli - n * s * (v_both - v_people - v_stimuli)
    variance = np.maximum(variance, np.maximum(s * v_people, n * v_stimuli))
    return np.minimum(variance, v_both)


def single_variance(
    covariance: Float[np.ndarray, "value value"],
    n: int,
    *,
    contrasts: Float[np.ndarray, "contrast value"] | None = None,
) -> Float[np.ndarray, " contrast"]:
    """Variance over new people, or new stimuli, from drawing those `n` alone."""
    rows = np.eye(len(covariance)) if contrasts is None else np.asarray(contrasts, dtype=np.float64)
    return n / (n - 1) * _along(rows, covariance)


def _along(rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Variance of weighted sums; entries without weight may be NaN."""
    used = [np.flatnonzero(row) for row in rows]
    return np.array(
        [row[u] @ covariance[np.ix_(u, u)] @ row[u] for row, u in zip(rows, used, strict=True)]
    )
