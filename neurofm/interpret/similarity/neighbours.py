"""Measures by distances and neighbours: what lies close to what, on both sides.

Correlations of dissimilarities are `interpret.rsa`, with inference.

Source: Székely et al. 2007 (distance correlation).
Axes: sample; p and q = columns of the two sides.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist, squareform

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.similarity.checks import pair
from neurofm.shapes import Float


@takes_either
def distance_correlation(x: Float[np.ndarray, "sample p"], y: Float[np.ndarray, "_ q"]) -> float:
    """0 only for independent sides (with endless data); NaN if a side has no variance.

    Like biased CKA it is above 0 for independent data of few samples.
    """
    x, y = pair("distance_correlation", x, y)
    a, b = (_double_centred(squareform(pdist(side))) for side in (x, y))
    own = np.sqrt(np.vdot(a, a) * np.vdot(b, b))
    if not own > 0:
        return float("nan")
    return float(np.sqrt(max(np.vdot(a, b) / own, 0)))


@takes_either
def neighbour_overlap(
    x: Float[np.ndarray, "sample p"], y: Float[np.ndarray, "_ q"], *, k: int = 10
) -> float:
    """Mean over samples of the Jaccard overlap of their nearest neighbours by cosine.

    Independent sides have about k / (2 n - 2 - k). Ties go to the lower index.

    Raises:
        ValueError: Not fewer neighbours than other samples, or a sample that is zero throughout.
    """
    x, y = pair("neighbour_overlap", x, y)
    if not 0 < k < len(x) - 1:
        raise ValueError(
            f"neighbour_overlap: {k} neighbours of {len(x)} samples; expected at least 1 and fewer "
            "than the other samples."
        )
    near = [_neighbours(side, k) for side in (x, y)]
    shared = (near[0] & near[1]).sum(1)
    return float((shared / (2 * k - shared)).mean())


def _double_centred(d: np.ndarray) -> np.ndarray:
    rows = d.mean(0)
    return d - rows - rows[:, None] + rows.mean()


def _neighbours(x: np.ndarray, k: int) -> np.ndarray:
    """bool, sample × sample."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError(
            f"neighbour_overlap: {int((lengths == 0).sum())} samples are zero throughout; cosine "
            "is not defined for them."
        )
    unit = x / lengths
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    found = np.zeros(cosine.shape, dtype=bool)
    np.put_along_axis(found, near, True, axis=1)
    return found
