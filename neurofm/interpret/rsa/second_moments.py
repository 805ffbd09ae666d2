"""Similarities of the Gram matrices that RDMs stand for.

An RDM of squared distances fixes its patterns' Gram matrix up to a shift: G = -H D H / 2, with H
the centring. Both similarities compare such matrices as wholes, not entry by entry.

Source: Harvey et al. 2024 (Bures); Shahbazi et al. 2021 (Riemannian distance).
Axes: pair = upper triangle by rows, condition.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg, optimize

from neurofm.interpret.rsa.pairs import squares
from neurofm.shapes import Bool, Float


def bures(
    a: Float[np.ndarray, "first pair"], b: Float[np.ndarray, "second pair"], *, metric: bool = False
) -> Float[np.ndarray, "first second"]:
    """Nuclear norm of the product of roots over the geometric mean of traces: 1 if proportional.

    Args:
        metric: The squared distance in place of the similarity: sum of traces less twice the norm.

    Returns:
        Negative eigenvalues (of distances that are not squared Euclidean) count as zero in roots;
        NaN where a trace is not positive.
    """
    left, right = _grams(a), _grams(b)
    traces = [np.trace(x, axis1=1, axis2=2) for x in (left, right)]
    roots = [_roots(x) for x in (left, right)]
    norm = np.stack([np.linalg.svd(one.T @ roots[1], compute_uv=False).sum(1) for one in roots[0]])
    if metric:
        return traces[0][:, None] + traces[1] - 2 * norm
    product = traces[0][:, None] * traces[1]
    good = (traces[0][:, None] > 0) & (traces[1] > 0)
    return np.divide(norm, np.sqrt(np.abs(product)), out=np.full_like(norm, np.nan), where=good)


def riemannian(
    a: Float[np.ndarray, "first pair"],
    b: Float[np.ndarray, "second pair"],
    sigma_k: Float[np.ndarray, " condition"] | Float[np.ndarray, "condition condition"] | None,
) -> Float[np.ndarray, "first second"]:
    """Minus the distance between matrices of contrasts, the first scaled and with noise added.

    Scale and amount of noise are those of the smallest distance, so that it is not symmetric.

    Returns:
        NaN where the second matrix is not positive definite (fewer columns than conditions).
    """
    left, right = _grams(a), _grams(b)
    n = left.shape[-1]
    sigma = np.eye(n) if sigma_k is None else np.asarray(sigma_k, dtype=np.float64)
    sigma = np.diag(sigma) if sigma.ndim == 1 else sigma
    contrast = np.concatenate([-np.ones((n - 1, 1)), np.eye(n - 1)], 1)
    noise = contrast @ sigma @ contrast.T
    out = np.full((len(a), len(b)), np.nan)
    for j, two in enumerate(right):
        try:
            factor = linalg.cholesky(contrast @ two @ contrast.T, lower=True)
        except linalg.LinAlgError:
            continue
        flat_noise = _between(factor, noise)
        for i, one in enumerate(left):
            out[i, j] = -_nearest(_between(factor, contrast @ one @ contrast.T), flat_noise)
    return out


def without_missing(
    a: np.ndarray, b: np.ndarray, keep: Bool[np.ndarray, " pair"], method: str
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, " condition"]]:
    """RDMs without the conditions all of whose pairs are missing; stops if others are."""
    whole = squares(keep[None].astype(np.float64))[0] > 0
    there = whole.any(1)
    rows, columns = np.triu_indices(len(there), 1)
    wanted = there[rows] & there[columns]
    if (wanted & ~keep).any():
        raise ValueError(
            f"compare: {int((wanted & ~keep).sum())} single pairs are missing (NaN); {method!r} "
            "needs all pairs of a condition. Leave those conditions out, or take 'cosine_cov'."
        )
    return a[:, wanted], b[:, wanted], there


def _grams(x: np.ndarray) -> Float[np.ndarray, "rdm condition condition"]:
    square = squares(x)
    mean = square.mean(1)
    square -= mean[:, :, None] + mean[:, None, :] - mean.mean(1)[:, None, None]
    return square * -0.5


def _roots(grams: np.ndarray) -> Float[np.ndarray, "rdm condition factor"]:
    values, vectors = np.linalg.eigh(grams)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]


def _between(factor: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    half = linalg.solve_triangular(factor, matrix, lower=True)
    return linalg.solve_triangular(factor, half.T, lower=True)


def _nearest(signal: np.ndarray, noise: np.ndarray) -> float:
    def distance(amounts: np.ndarray) -> float:
        scale, added = np.exp(amounts)
        values = np.linalg.eigvalsh(scale * signal + added * noise)
        return float(np.sqrt((np.log(np.maximum(values, 1e-300)) ** 2).sum()))

    options = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 2000}
    found = optimize.minimize(distance, np.zeros(2), method="Nelder-Mead", options=options)
    return float(found.fun)
