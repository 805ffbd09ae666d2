"""Representational dissimilarity matrices (RDMs) and their comparison.

Conditions are rows, channels or units are columns; squared distances are divided by the number of
columns, so that layers of different width compare. Everything is float64 and runs as matrix
products. A NaN in a pattern makes that condition's row and column of the RDM NaN; comparisons leave
such pairs out.

Source: Kriegeskorte et al. 2008 (RSA); Walther et al. 2016 (crossnobis); Schuett et al. 2023
(comparison; Spearman's rho-a because category models, which have ties, are favoured by plain
Spearman or tau-b).
Axes: condition, p = column of a pattern, pair = upper triangle by rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy import linalg, stats

from neurofm.shapes import Float, Int
from neurofm.types import RDM

METRICS = ("correlation", "euclidean", "cosine", "mahalanobis")
METHODS = ("cosine", "corr", "spearman", "rho-a", "tau-a", "tau-b")
BLOCK = 4096  # columns per product: bounds the copy of the patterns


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
    x, labels = _check(patterns, labels)
    if (noise is None) == (metric == "mahalanobis"):
        raise ValueError("rdm: metric 'mahalanobis' needs `noise`, the others do not take it.")
    if noise is not None:
        x = _whiten(x, noise)
    missing = np.isnan(x).any(1)
    x = np.where(missing[:, None], 0.0, x) if missing.any() else x
    if metric in ("correlation", "cosine"):
        centre = x.mean(1) if metric == "correlation" else np.zeros(len(x))
        raw = np.sqrt(np.einsum("ij,ij->i", x, x))
        norm = np.sqrt(_squares(x, centre))
        # Exactly constant rows leave rounding errors of the mean behind.
        flat = (norm <= 16 * np.finfo(float).eps * raw) & ~missing
        if flat.any():
            what = "constant" if metric == "correlation" else "zero"
            warnings.warn(
                f"rdm: {int(flat.sum())} of {len(x)} patterns are {what}; their {metric} distances "
                "are undefined (NaN).",
                stacklevel=2,
            )
        gram = _gram(x, centre, np.where(norm > 0, norm, 1.0))
        missing = missing | flat
        values = 1 - _upper(gram)
    else:
        ok = x[~missing]
        mean = ok.mean(0) if len(ok) else np.zeros(x.shape[1])
        gram = _gram(x - mean, np.zeros(len(x)), np.ones(len(x)))
        values = np.maximum(_distances(gram), 0.0) / x.shape[1]
    values[_touching(missing)] = np.nan
    return RDM(values=values, labels=labels, metric=metric)


def crossnobis(
    patterns: Float[np.ndarray, "window p"],
    conditions: Sequence[Hashable],
    runs: Sequence[Hashable],
    *,
    noise: Float[np.ndarray, "p p"] | None = None,
) -> RDM:
    """Cross-validated squared distances: zero on average where two conditions do not differ.

    Products are taken between runs only, so noise does not add up; negative values are valid and
    must be kept. Equal to leaving one run out, averaged over runs.

    Args:
        conditions: Of each window.
        runs: Of each window; every condition must occur in every run.
        noise: Covariance of the noise; identity if not given.

    Raises:
        ValueError: One run only, or a condition missing from a run (it is named).
    """
    names, folds = tuple(dict.fromkeys(conditions)), tuple(dict.fromkeys(runs))
    if len(folds) < 2:
        raise ValueError(f"crossnobis: needs at least two runs, got {list(folds)}.")
    cells, order = condition_means(patterns, list(zip(conditions, runs, strict=True)))
    place = {cell: i for i, cell in enumerate(order)}
    gone = [(c, r) for c in names for r in folds if (c, r) not in place]
    if gone:
        raise ValueError(
            f"crossnobis: condition {gone[0][0]!r} does not occur in run {gone[0][1]!r} "
            f"({len(gone)} such cells). Leave the condition or the run out."
        )
    x, _ = _check(cells, None)
    x = x if noise is None else _whiten(x, noise)
    by_run = x[[place[c, r] for r in folds for c in names]].reshape(len(folds), len(names), -1)
    missing = np.isnan(by_run).any((0, 2))
    by_run = np.where(np.isnan(by_run), 0.0, by_run)
    by_run = by_run - by_run.mean((0, 1))
    total = by_run.sum(0)
    gram = total @ total.T
    for one in by_run:
        gram -= one @ one.T
    values = _distances(gram) / (len(folds) * (len(folds) - 1) * by_run.shape[2])
    values[_touching(missing)] = np.nan
    return RDM(values=values, labels=tuple(map(str, names)), metric="crossnobis")


def class_rdm(labels: Sequence[Hashable], *, names: Sequence[Any] | None = None) -> RDM:
    """The model RDM of a class structure: 0 within a class, 1 between.

    Args:
        labels: Class of each condition.
        names: Of the conditions, to match other RDMs; the class if not given.
    """
    code = np.unique([str(label) for label in labels], return_inverse=True)[1]
    rows, columns = np.triu_indices(len(code), 1)
    return RDM(
        values=(code[rows] != code[columns]).astype(np.float64),
        labels=tuple(map(str, labels if names is None else names)),
        metric="class",
    )


def within(model: RDM, groups: Sequence[Hashable]) -> RDM:
    """The same RDM with NaN for pairs across groups, so that comparisons leave them out.

    With subjects as groups it asks whether two trials of one person differ, free of the much larger
    differences between persons.
    """
    code = np.unique([str(group) for group in groups], return_inverse=True)[1]
    rows, columns = np.triu_indices(len(code), 1)
    values = np.where(code[rows] == code[columns], model.values, np.nan)
    return RDM(values=values, labels=model.labels, metric=model.metric)


def compare(
    a: Float[np.ndarray, "first pair"],
    b: Float[np.ndarray, "second pair"],
    method: str = "rho-a",
    *,
    strict: bool = False,
) -> Float[np.ndarray, "first second"]:
    """Similarity of every RDM of one stack with every RDM of another.

    Args:
        method: "cosine"; "corr" (Pearson); "spearman"; "rho-a" (expected Spearman when ties are
            broken at random); "tau-a"; "tau-b".
        strict: Raise on NaN instead of leaving out pairs that are NaN in any RDM.

    Returns:
        NaN where fewer than three pairs remain, or where one side is constant and the method needs
        its variance; a cosine with zeros is 0.
    """
    if method not in METHODS:
        raise ValueError(f"compare: method {method!r} is not one of {METHODS}.")
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"compare: RDMs of {a.shape[1]} and {b.shape[1]} pairs.")
    drop = np.isnan(a).any(0) | np.isnan(b).any(0)
    if strict and drop.any():
        raise ValueError(f"compare: {int(drop.sum())} of {len(drop)} pairs are NaN.")
    a, b = a[:, ~drop], b[:, ~drop]
    if a.shape[1] < 3:
        return np.full((len(a), len(b)), np.nan)
    if method in ("tau-a", "tau-b"):
        return np.array([[kendall(one, two, method) for two in b] for one in a])
    a, b, scale = prepare(a, method), prepare(b, method), _scale(a.shape[1], method)
    return np.clip(a @ b.T * scale, -1.0, 1.0)


def compare_rdms(a: RDM, b: RDM, method: str = "rho-a", *, strict: bool = False) -> float:
    """Similarity of two RDMs over the same conditions in the same order; see `compare`."""
    same_conditions(a, b)
    return float(compare(a.values[None], b.values[None], method, strict=strict)[0, 0])


def same_conditions(a: RDM, b: RDM) -> None:
    """Stop unless two RDMs are about the same conditions in the same order."""
    if a.labels == b.labels:
        return
    if len(a.labels) != len(b.labels):
        what = f"{len(a.labels)} and {len(b.labels)} conditions"
    else:
        i = next(i for i, (x, y) in enumerate(zip(a.labels, b.labels, strict=True)) if x != y)
        what = f"condition {i} is {a.labels[i]!r} in one and {b.labels[i]!r} in the other"
    raise ValueError(
        f"RDMs cannot be compared: {what}. Build both from the same conditions in the same order."
    )


def prepare(x: Float[np.ndarray, "rdm pair"], method: str) -> Float[np.ndarray, "rdm pair"]:
    """RDMs in the form in which a dot product is the similarity (times `_scale`)."""
    if method in ("spearman", "rho-a"):
        x = stats.rankdata(x, axis=1)
    if method != "cosine":
        x = x - x.mean(1, keepdims=True)
    if method == "rho-a":
        return x
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    if method == "cosine":
        return x / np.where(norm > 0, norm, 1.0)
    return np.divide(x, norm, out=np.full_like(x, np.nan), where=norm > 0)


def _scale(n_pairs: int, method: str) -> float:
    return 12.0 / (float(n_pairs) ** 3 - n_pairs) if method == "rho-a" else 1.0


def kendall(a: Float[np.ndarray, " pair"], b: Float[np.ndarray, " pair"], method: str) -> float:
    """Kendall's tau-b, or tau-a: concordant minus discordant over all comparisons."""
    tau = float(stats.kendalltau(a, b).statistic)
    if method == "tau-b":
        return tau
    total = len(a) * (len(a) - 1) / 2
    untied = [total - (c * (c - 1) / 2).sum() for c in map(_tie_counts, (a, b))]
    return tau * float(np.sqrt(untied[0] * untied[1])) / total if min(untied) > 0 else 0.0


def _tie_counts(x: np.ndarray) -> np.ndarray:
    return np.unique(x, return_counts=True)[1].astype(np.float64)


def _check(
    patterns: np.ndarray, labels: Sequence[Any] | None
) -> tuple[Float[np.ndarray, "condition p"], tuple[str, ...]]:
    x = np.asarray(patterns, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1:
        raise ValueError(f"rdm: patterns of shape {x.shape}; expected (condition >= 2, p >= 1).")
    if np.isinf(x).any():
        raise ValueError(f"rdm: {int(np.isinf(x).any(1).sum())} patterns hold infinite values.")
    names = tuple(map(str, range(len(x)) if labels is None else labels))
    if len(names) != len(x):
        raise ValueError(f"rdm: {len(names)} labels for {len(x)} patterns.")
    return x, names


def _whiten(x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    if noise.shape != (x.shape[1], x.shape[1]):
        raise ValueError(
            f"rdm: noise has shape {noise.shape} for patterns of {x.shape[1]} columns."
        )
    try:
        factor = linalg.cholesky(np.asarray(noise, dtype=np.float64), lower=True)
    except linalg.LinAlgError as error:
        raise ValueError(
            "rdm: the noise covariance is singular. Estimate it with shrinkage or from more data."
        ) from error
    # NaN rows would spread through a blocked solve: they are put back afterwards.
    missing = np.isnan(x).any(1)
    clean = np.where(missing[:, None], 0.0, x)
    white = linalg.solve_triangular(factor, clean.T, lower=True).T
    white[missing] = np.nan
    return white


def _squares(x: np.ndarray, centre: Float[np.ndarray, " condition"]) -> np.ndarray:
    total = np.zeros(len(x))
    for start in range(0, x.shape[1], BLOCK):
        block = x[:, start : start + BLOCK] - centre[:, None]
        total += np.einsum("ij,ij->i", block, block)
    return total


def _gram(x: np.ndarray, centre: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Upper triangle of z zᵀ with z = (x - centre) / norm, by rank-k updates over blocks."""
    gram = np.zeros((len(x), len(x)), order="F")
    for start in range(0, x.shape[1], BLOCK):
        z = (x[:, start : start + BLOCK] - centre[:, None]) / norm[:, None]
        gram = linalg.blas.dsyrk(1.0, z.T, beta=1.0, c=gram, trans=1, overwrite_c=1)
    return gram


def _upper(gram: np.ndarray) -> Float[np.ndarray, " pair"]:
    n = len(gram)
    return np.concatenate([gram[i, i + 1 :] for i in range(n - 1)])


def _distances(gram: np.ndarray) -> Float[np.ndarray, " pair"]:
    own = np.diag(gram)
    n = len(gram)
    return np.concatenate([own[i] + own[i + 1 :] - 2 * gram[i, i + 1 :] for i in range(n - 1)])


def _touching(missing: np.ndarray) -> Int[np.ndarray, " pair"]:
    """Pairs that involve a missing condition."""
    if not missing.any():
        return np.zeros(0, dtype=int)
    rows, columns = np.triu_indices(len(missing), 1)
    return np.flatnonzero(missing[rows] | missing[columns])
