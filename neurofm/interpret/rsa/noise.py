"""Covariance of the noise and patterns whitened by it."""

from __future__ import annotations

import numpy as np
from scipy import linalg


def whiten(x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Patterns whose noise is white; Euclidean distances are then Mahalanobis's."""
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
