"""Similarity of RDMs against relabelled conditions: the shuffled control.

A relabelling moves rows and columns of one RDM together.

Source: Kriegeskorte et al. 2008; Phipson & Smyth 2010 (a permutation p is never 0).
Axes: permutation; condition; pair = upper triangle by rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.interpret.rsa import resampled
from neurofm.interpret.rsa.bootstrap import n_conditions
from neurofm.interpret.rsa.comparators import compare, compare_rdms, same_conditions
from neurofm.shapes import Float, Int
from neurofm.types import RDM

_CHUNK = 2_000_000  # permuted values held at once


@dataclass(frozen=True)
class PermutationTest:
    """A similarity beside those of relabelled conditions.

    Args:
        value: Of the data.
        null: Of each permutation.
        p: One-sided, the identity counted once: never zero.
    """

    value: float
    null: Float[np.ndarray, " permutation"]
    p: float

    @property
    def band(self) -> tuple[float, float]:
        """2.5th and 97.5th percentile of the null."""
        return percentiles(self.null)


def draw_permutations(
    n_conditions: int,
    n: int,
    *,
    generator: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
) -> Int[np.ndarray, "permutation condition"]:
    """Orders of the conditions, shuffled within each group if groups are given.

    Groups say which conditions are exchangeable: with pseudo-trials of several subjects, the
    subject, or differences between persons count as chance.
    """
    orders = np.tile(np.arange(n_conditions), (n, 1))
    codes = np.zeros(n_conditions, dtype=int)
    if groups is not None:
        codes = np.unique([str(group) for group in groups], return_inverse=True)[1]
        if len(codes) != n_conditions:
            raise ValueError(f"permutations: {len(codes)} groups for {n_conditions} conditions.")
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        orders[:, members] = generator.permuted(orders[:, members], axis=1)
    return orders


def permutation_test(
    a: RDM,
    b: RDM,
    *,
    orders: Int[np.ndarray, "permutation condition"],
    method: str = "rho-a",
) -> PermutationTest:
    """Is `a` more similar to `b` than with its conditions relabelled?

    Args:
        orders: From `draw_permutations`; the same for several RDMs makes their nulls comparable.
    """
    same_conditions(a, b)
    value = compare_rdms(a, b, method)
    null = permuted(a.values[None], b.values[None], orders, method)[:, 0]
    return PermutationTest(value, null, float(p_of(null, np.array(value))))


def p_of(
    null: Float[np.ndarray, " permutation *test"],
    value: Float[np.ndarray, "*test"],
    *,
    counted: bool = False,
) -> Float[np.ndarray, "*test"]:
    """Share of the null at least as large; the data are counted once.

    Args:
        counted: The order that changes nothing is among the permutations.
    """
    # Rounding must not make a relabelling that changes nothing count as smaller.
    above = (null >= value - 1e-12).sum(0)
    total = np.isfinite(null).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = above / total if counted else (1 + above) / (1 + total)
    return np.where(np.isfinite(value), p, np.nan)


def permuted(
    models: Float[np.ndarray, "model pair"],
    people: Float[np.ndarray, "subject pair"],
    orders: Int[np.ndarray, "permutation condition"],
    method: str = "rho-a",
) -> Float[np.ndarray, "permutation model"]:
    """Mean similarity over people with each model's conditions relabelled."""
    n = n_conditions(models.shape[1])
    rows, columns = np.triu_indices(n, 1)
    missing = np.isnan(models).any(0) | np.isnan(people).any(0)
    # Ranks move with their pairs: one sorting does for all permutations.
    ranked = method in resampled.RANKS and not missing.any()
    ones = np.ones(models.shape[1])
    if ranked:
        models, people = (resampled.weighted_ranks(x, ones) for x in (models, people))
    null = np.empty((len(orders), len(models)))
    chunk = max(1, _CHUNK // len(rows))
    for k, square in enumerate(resampled.squares_of(models, n)):
        for start in range(0, len(orders), chunk):
            some = orders[start : start + chunk]
            moved = square[some[:, rows], some[:, columns]]
            if ranked:
                found = resampled.rank_similarity(moved, people, ones, method)
            elif missing.any() and not (np.isnan(moved) <= missing).all():
                # Relabelling moves missing pairs about.
                found = np.stack([compare(one[None], people, method)[0] for one in moved])
            else:
                found = compare(moved, people, method)
            null[start : start + chunk, k] = found.mean(1)
    return null


def percentiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Ends of the middle `level` of what is finite."""
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [50 - 50 * level, 50 + 50 * level])
    return float(low), float(high)
