"""RDMs as vectors of pairs and as square matrices."""

from __future__ import annotations

import numpy as np

from neurofm.shapes import Float


def n_conditions(n_pairs: int) -> int:
    """Of an RDM with so many pairs."""
    n = int((1 + np.sqrt(1 + 8 * n_pairs)) / 2 + 1e-9)
    if n * (n - 1) // 2 != n_pairs:
        raise ValueError(
            f"compare: {n_pairs} pairs are not all pairs of some conditions. This method needs to "
            "know which is which: leave NaN in the place of missing pairs."
        )
    return n


def squares(x: Float[np.ndarray, "rdm pair"]) -> Float[np.ndarray, "rdm condition condition"]:
    """Symmetric matrices with a zero diagonal."""
    n = n_conditions(x.shape[1])
    out = np.zeros((len(x), n, n))
    start = 0
    for i in range(n - 1):
        row = x[:, start : start + n - 1 - i]
        out[:, i, i + 1 :] = row
        out[:, i + 1 :, i] = row
        start += n - 1 - i
    return out


def pairs_of(square: Float[np.ndarray, "rdm condition condition"]) -> Float[np.ndarray, "rdm pair"]:
    """Entries above the diagonals."""
    n = square.shape[1]
    return np.concatenate([square[:, i, i + 1 :] for i in range(n - 1)], axis=1)
