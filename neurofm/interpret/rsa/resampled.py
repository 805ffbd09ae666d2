"""Similarities of RDMs over drawn conditions, without drawing any pair.

A condition drawn w times takes part in pairs with weight w; a pair (i, j) has weight w_i w_j, and a
pair of two copies of one condition, zero by construction, has none. Sums over drawn pairs are then
products of the weights with products of RDMs: a few matrix products for all samples, models and
people. Ranks are mid-ranks of the weighted values. Whitened similarities need only the weighted
row sums besides, because the inverse of the pairs' covariance has a closed form.

Source: Schuett et al. 2023 (bootstraps of RSA, whitened comparison).
Axes: sample = one draw; rdm; pair = upper triangle by rows; condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurofm.shapes import Float

SUMS = ("cosine", "corr", "cosine_cov", "corr_cov")
RANKS = ("spearman", "rho-a")
_CHUNK = 4_000_000  # weights held at once


def pair_weights(counts: Float[np.ndarray, "sample condition"]) -> Float[np.ndarray, "sample pair"]:
    """How often each pair of different conditions was drawn."""
    n = counts.shape[1]
    return np.concatenate(
        [counts[:, i, None] * counts[:, i + 1 :] for i in range(n - 1)], axis=1, dtype=np.float64
    )


def squares_of(x: Float[np.ndarray, "rdm pair"], n: int) -> Float[np.ndarray, "rdm a b"]:
    """Symmetric matrices with a zero diagonal."""
    full = np.zeros((len(x), n, n))
    rows, columns = np.triu_indices(n, 1)
    full[:, rows, columns] = x
    full[:, columns, rows] = x
    return full


def inner_products(
    x: Float[np.ndarray, "rdm pair"],
    counts: Float[np.ndarray, "sample condition"],
    missing: np.ndarray,
    method: str,
    *,
    n_first: int,
) -> tuple[Float[np.ndarray, "sample rdm other"], Float[np.ndarray, "sample rdm"]]:
    """Inner products in the geometry of a method, and the scale by which RDMs are pooled.

    Args:
        x: Models first, then people; missing pairs hold zeros.
        counts: How often each condition was drawn.
        missing: Pairs to leave out.
        method: One of `SUMS`.
        n_first: How many are models; products among models are not made (zero off the diagonal).

    Returns:
        The products, and the root mean square (after the mean is gone, for "corr") of each RDM.
    """
    k, (total, n) = len(x), (len(counts), counts.shape[1])
    left, right = np.triu_indices(k)
    wanted = (right >= n_first) | (left == right)
    left, right = left[wanted], right[wanted]
    columns = np.concatenate([x[left] * x[right], x])
    white = method.endswith("_cov")
    full = squares_of(x, n) if white else np.zeros((0, n, n))
    grams = np.zeros((total, k, k))
    scales = np.zeros((total, k))
    step = max(1, _CHUNK // x.shape[1])
    for start in range(0, total, step):
        part = slice(start, start + step)
        weights = pair_weights(counts[part])
        weights[:, missing] = 0.0
        sums = weights @ columns.T
        gram = np.zeros((len(sums), k, k))
        gram[:, left, right] = gram[:, right, left] = sums[:, : len(left)]
        mass = weights.sum(1)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = sums[:, len(left) :] / mass
            if method.startswith("corr"):
                gram -= mass[:, :, None] * mean[:, :, None] * mean[:, None, :]
            else:
                mean = np.zeros_like(mean)
            scales[part] = np.sqrt(np.diagonal(gram, axis1=1, axis2=2) / mass)
        if white:
            gram = _white(gram, full, x, mean, counts[part], missing)
        grams[part] = gram
    if n_first:
        # What was not asked for must not look like a product.
        away = ~np.eye(n_first, dtype=bool)
        grams[:, :n_first, :n_first][:, away] = 0.0
    return grams, scales


def _white(
    gram: np.ndarray,
    full: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    counts: np.ndarray,
    missing: np.ndarray,
) -> np.ndarray:
    """Products in the metric of the inverse covariance of the drawn pairs.

    With row sums r = B w and D = 1 + sum(w) / 2 - w the inverse acts as
    w_i w_j / 2 (B_ij - h_i - h_j), h = (r - s) / (2 D), so that a product is
    (<A, B>_w - sum_i w_i r^A_i h^B_i) / 2.
    """
    w = counts[:, None, :]
    mass = counts.sum(1)[:, None]
    rows = np.einsum("kij,sj->ski", full, counts, optimize=True)
    rows = rows - mean[:, :, None] * (mass - counts)[:, None, :]
    d = (1 + mass / 2 - counts)[:, None, :]
    dense = np.full(len(counts), bool(missing.any())) | (d == 0).any((1, 2))
    safe = np.where(d == 0, 1.0, d)
    shared = 0.5 * (w * rows / safe).sum(2) / (1 + 0.5 * (w / safe).sum(2))
    h = 0.5 * (rows - shared[:, :, None]) / safe
    white = 0.5 * (gram - np.matmul(w * rows, h.swapaxes(1, 2)))
    for s in np.flatnonzero(dense):
        white[s] = _white_dense(x, mean[s], counts[s], missing)
    return white


def _white_dense(
    x: np.ndarray, mean: np.ndarray, count: np.ndarray, missing: np.ndarray
) -> np.ndarray:
    """The same by solving, where pairs are missing or the closed form divides by zero."""
    i, j = np.triu_indices(len(count), 1)
    kept = (count[i] * count[j] > 0) & ~missing
    i, j = i[kept], j[kept]
    if not len(i):
        return np.full((len(x), len(x)), np.nan)
    share = 1.0 / np.where(count > 0, count, 1.0)
    # Pairs that share a condition drawn w times covary with 1 / w.
    v = sum(
        (one[:, None] == other[None, :]) * share[one][:, None] for one in (i, j) for other in (i, j)
    )
    at = np.arange(len(i))
    v[at, at] = (2 + count[i] + count[j]) * share[i] * share[j]
    y = x[:, kept] - mean[:, None]
    return y @ np.linalg.solve(v, y.T)


def similarities(
    gram: Float[np.ndarray, "sample rdm other"], n_first: int
) -> Float[np.ndarray, "sample model subject"]:
    """Normalised products of models with people."""
    length = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0.0))
    product = length[:, :n_first, None] * length[:, None, n_first:]
    cross = gram[:, :n_first, n_first:]
    return np.divide(cross, product, out=np.full_like(cross, np.nan), where=product > 0)


def ceilings(
    gram: Float[np.ndarray, "_ subject other"],
    scale: Float[np.ndarray, "_ subject"],
    people: Float[np.ndarray, "_ subject"],
) -> Float[np.ndarray, "sample bound"]:
    """Lower and upper noise ceiling of each sample.

    People drawn several times weigh more in the pooled RDM; every person drawn counts once in the
    mean, and all copies of a person are left out together.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        gram = gram / scale[:, :, None] / scale[:, None, :]
        own = np.diagonal(gram, axis1=1, axis2=2)
        to_pool = np.einsum("sj,sij->si", people, gram, optimize=True)
        pool = (people * to_pool).sum(1)[:, None]
        upper = to_pool / np.sqrt(pool * own)
        rest = pool - 2 * people * to_pool + people**2 * own
        lower = (to_pool - people * own) / np.sqrt(np.maximum(rest, 0.0) * own)
        drawn = people > 0
        count = drawn.sum(1)
        bounds = [np.where(drawn, bound, 0.0).sum(1) / count for bound in (lower, upper)]
    return np.where(count[:, None] > 1, np.stack(bounds, 1), np.nan)


def weighted_ranks(
    values: Float[np.ndarray, "rdm pair"], weights: Float[np.ndarray, " pair"]
) -> Float[np.ndarray, "rdm pair"]:
    """Mid-ranks of values that stand for as many equal ones as their weight says."""
    return rank_plan(values).ranks(weights)


@dataclass(frozen=True)
class RankPlan:
    """RDMs sorted once: ranks for any weights then need no sorting.

    Args:
        order: Sorting each RDM.
        first, last: Ends of the group of equal values around each place of the order.
    """

    order: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def ranks(self, weights: Float[np.ndarray, " pair"]) -> Float[np.ndarray, "rdm pair"]:
        """As `weighted_ranks`; values without weight take the rank between their neighbours."""
        ranks = np.empty(self.order.shape)
        tied = _tied(self.first, self.last, weights[self.order])
        np.put_along_axis(ranks, self.order, tied, 1)
        return ranks


def rank_plan(values: Float[np.ndarray, "rdm pair"]) -> RankPlan:
    """Sort RDMs once."""
    order = np.argsort(values, axis=1, kind="stable")
    return RankPlan(order, *tie_groups(np.take_along_axis(values, order, 1)))


def tie_groups(ordered: Float[np.ndarray, "rdm pair"]) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of the values equal to each of sorted values."""
    place = np.arange(ordered.shape[1])
    new = np.ones(ordered.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    end = np.ones_like(new)
    end[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(end, place, len(place))[:, ::-1], axis=1)[:, ::-1]
    return first, last


def _tied(first: np.ndarray, last: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = np.cumsum(weights, axis=1)
    before = np.take_along_axis(total - weights, first, 1)
    return (before + np.take_along_axis(total, last, 1) + 1) / 2


def rank_products(
    x: Float[np.ndarray, "rdm pair"], y: Float[np.ndarray, "other pair"], weights: np.ndarray
) -> Float[np.ndarray, "rdm other"]:
    """Weighted products of ranks about their mean."""
    middle = (weights.sum() + 1) / 2
    return (x - middle) * weights @ (y - middle).T


def rank_similarity(
    x: Float[np.ndarray, "rdm pair"],
    y: Float[np.ndarray, "other pair"],
    weights: Float[np.ndarray, " pair"],
    method: str,
) -> Float[np.ndarray, "rdm other"]:
    """Spearman's rho or rho-a of ranks that `weighted_ranks` made."""
    product = rank_products(x, y, weights)
    if method == "rho-a":
        total = weights.sum()
        return 12 * product / (total**3 - total)
    middle = (weights.sum() + 1) / 2
    own = [np.sqrt(((one - middle) ** 2) @ weights) for one in (x, y)]
    size = own[0][:, None] * own[1]
    return np.divide(product, size, out=np.full_like(product, np.nan), where=size > 0)
