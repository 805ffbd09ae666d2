"""Representational dissimilarity matrices (RDMs).

Conditions are rows, channels or units are columns; squared distances are divided by the number of
columns, so that layers of different width compare. Everything is float64 and runs as matrix
products. A NaN in a pattern makes that condition's row and column of the RDM NaN; comparisons leave
such pairs out.

Source: Kriegeskorte et al. 2008 (RSA).
Axes: condition, window = row before averaging, p = column of a pattern.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from neurofm.interpret.rsa.noise import whiten
from neurofm.interpret.rsa.products import distances, gram_matrix, squares, touching, upper
from neurofm.shapes import Float
from neurofm.types import RDM

METRICS = ("correlation", "euclidean", "cosine", "mahalanobis")


def condition_means(
    patterns: Float[np.ndarray, "window p"], conditions: Sequence[Hashable]
) -> tuple[Float[np.ndarray, "condition p"], tuple[Hashable, ...]]:
    """Average the windows of each condition.

    Args:
        patterns: One row per window.
        conditions: Of each window: a label, or a tuple such as (class, subject, run), which gives
            pseudo-trials that are less noisy than windows and still replicate.

    Returns:
        float64 means and the conditions, in order of first appearance.
    """
    if len(conditions) != len(patterns):
        raise ValueError(
            f"condition_means: {len(conditions)} conditions for {len(patterns)} windows."
        )
    names = tuple(dict.fromkeys(conditions))
    place = {name: i for i, name in enumerate(names)}
    index = np.array([place[c] for c in conditions], dtype=int)
    total = np.zeros((len(names), patterns.shape[1]))
    np.add.at(total, index, patterns.astype(np.float64))
    return total / np.bincount(index, minlength=len(names))[:, None], names


def rdm(
    patterns: Float[np.ndarray, "condition p"],
    metric: str = "correlation",
    *,
    labels: Sequence[Any] | None = None,
    noise: Float[np.ndarray, "p p"] | None = None,
) -> RDM:
    """Dissimilarity of every pair of patterns.

    Args:
        metric: "correlation" (1 - Pearson), "cosine" (1 - cosine), "euclidean" (squared, per
            column) or "mahalanobis" (squared, per column, needs `noise`).
        labels: Of the conditions; numbers if not given.
        noise: Covariance of the noise, positive definite.

    Raises:
        ValueError: Fewer than two conditions, infinite values, or a singular `noise`.
    """
    if metric not in METRICS:
        raise ValueError(f"rdm: metric {metric!r} is not one of {METRICS} (or use `crossnobis`).")
    x, labels = check_patterns(patterns, labels)
    if (noise is None) == (metric == "mahalanobis"):
        raise ValueError("rdm: metric 'mahalanobis' needs `noise`, the others do not take it.")
    if noise is not None:
        x = whiten(x, noise)
    missing = np.isnan(x).any(1)
    x = np.where(missing[:, None], 0.0, x) if missing.any() else x
    if metric in ("correlation", "cosine"):
        centre = x.mean(1) if metric == "correlation" else np.zeros(len(x))
        raw = np.sqrt(np.einsum("ij,ij->i", x, x))
        norm = np.sqrt(squares(x, centre))
        # Exactly constant rows leave rounding errors of the mean behind.
        flat = (norm <= 16 * np.finfo(float).eps * raw) & ~missing
        if flat.any():
            what = "constant" if metric == "correlation" else "zero"
            warnings.warn(
                f"rdm: {int(flat.sum())} of {len(x)} patterns are {what}; their {metric} distances "
                "are undefined (NaN).",
                stacklevel=2,
            )
        gram = gram_matrix(x, centre, np.where(norm > 0, norm, 1.0))
        missing = missing | flat
        values = 1 - upper(gram)
    else:
        ok = x[~missing]
        mean = ok.mean(0) if len(ok) else np.zeros(x.shape[1])
        gram = gram_matrix(x - mean, np.zeros(len(x)), np.ones(len(x)))
        values = np.maximum(distances(gram), 0.0) / x.shape[1]
    values[touching(missing)] = np.nan
    return RDM(values=values, labels=labels, metric=metric)


def check_patterns(
    patterns: np.ndarray, labels: Sequence[Any] | None
) -> tuple[Float[np.ndarray, "condition p"], tuple[str, ...]]:
    """Patterns as float64 and labels as words; stops at what no RDM can be made of."""
    x = np.asarray(patterns, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1:
        raise ValueError(f"rdm: patterns of shape {x.shape}; expected (condition >= 2, p >= 1).")
    if np.isinf(x).any():
        raise ValueError(f"rdm: {int(np.isinf(x).any(1).sum())} patterns hold infinite values.")
    names = tuple(map(str, range(len(x)) if labels is None else labels))
    if len(names) != len(x):
        raise ValueError(f"rdm: {len(names)} labels for {len(x)} patterns.")
    return x, names
