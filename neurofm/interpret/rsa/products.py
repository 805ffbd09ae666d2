"""Gram matrices of patterns and the pairs read from them.

Axes: condition, pair = upper triangle by rows.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from neurofm.shapes import Float, Int

BLOCK = 4096  # columns per product: bounds the copy of the patterns


def squares(x: np.ndarray, centre: Float[np.ndarray, " condition"]) -> np.ndarray:
    """Squared norm of each pattern about its centre."""
    total = np.zeros(len(x))
    for start in range(0, x.shape[1], BLOCK):
        block = x[:, start : start + BLOCK] - centre[:, None]
        total += np.einsum("ij,ij->i", block, block)
    return total


def gram_matrix(x: np.ndarray, centre: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Upper triangle of z zᵀ with z = (x - centre) / norm, by rank-k updates over blocks."""
    gram = np.zeros((len(x), len(x)), order="F")
    for start in range(0, x.shape[1], BLOCK):
        z = (x[:, start : start + BLOCK] - centre[:, None]) / norm[:, None]
        gram = linalg.blas.dsyrk(1.0, z.T, beta=1.0, c=gram, trans=1, overwrite_c=1)
    return gram


def upper(gram: np.ndarray) -> Float[np.ndarray, " pair"]:
    """Entries above the diagonal."""
    n = len(gram)
    return np.concatenate([gram[i, i + 1 :] for i in range(n - 1)])


def distances(gram: np.ndarray) -> Float[np.ndarray, " pair"]:
    """Squared distances of all pairs."""
    own = np.diag(gram)
    n = len(gram)
    return np.concatenate([own[i] + own[i + 1 :] - 2 * gram[i, i + 1 :] for i in range(n - 1)])


def touching(missing: np.ndarray) -> Int[np.ndarray, " pair"]:
    """Pairs that involve a missing condition."""
    if not missing.any():
        return np.zeros(0, dtype=int)
    rows, columns = np.triu_indices(len(missing), 1)
    return np.flatnonzero(missing[rows] | missing[columns])
