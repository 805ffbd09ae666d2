"""Two plain scores of familiarity beside coverage: distance to classes, distance to neighbours.

Both look at activations alone and score high what is near to familiar samples.

Source: Lee et al. 2018 (Mahalanobis with shared covariance); Sun et al. 2022 (k-th neighbour of
normalised activations).
Axes: sample unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors

from neurofm.interpret.arrays import require_finite, takes_either
from neurofm.shapes import Float


@takes_either
def mahalanobis_familiarity(
    train: Float[np.ndarray, "sample unit"],
    test: Float[np.ndarray, "other unit"],
    *,
    labels: Sequence[Any] | np.ndarray | None = None,
) -> Float[np.ndarray, " other"]:
    """Minus the squared Mahalanobis distance to the nearest class of familiar samples.

    One covariance within classes, shrunk (Ledoit-Wolf) so that it has an inverse with fewer samples
    than units.

    Args:
        labels: Class of each familiar sample; all one class if not given.

    Returns:
        NaN for samples with NaN.
    """
    train, test = checked("mahalanobis_familiarity", train, test)
    classes, of = np.zeros(1), np.zeros(len(train), dtype=int)
    if labels is not None:
        if len(labels) != len(train):
            raise ValueError(
                f"mahalanobis_familiarity: {len(labels)} labels for {len(train)} samples."
            )
        classes, of = np.unique(np.asarray(labels), return_inverse=True)
    means = np.stack([train[of == k].mean(0) for k in range(len(classes))])
    rest = train - means[of]
    scale = rest.std(0)
    varies = scale > 0
    if not varies.any():
        raise ValueError("mahalanobis_familiarity: no unit varies within a class.")
    # Units of equal spread first: what is shrunk then is their correlation.
    rest, scale = rest[:, varies] / scale[varies], scale[varies]
    root = np.linalg.cholesky(ledoit_wolf(rest, assume_centered=True)[0])
    rows = np.concatenate([test, means])[:, varies] / scale
    white = np.linalg.solve(root, rows.T).T
    found = [np.square(white[: len(test)] - mean).sum(1) for mean in white[len(test) :]]
    return -np.min(found, axis=0)


@takes_either
def neighbour_familiarity(
    train: Float[np.ndarray, "sample unit"],
    test: Float[np.ndarray, "other unit"],
    *,
    k: int = 10,
    normalise: bool = True,
) -> Float[np.ndarray, " other"]:
    """Minus the distance to the k-th nearest familiar sample.

    Args:
        k: Published values are 1 to 1000; more with more samples.
        normalise: Divide each sample by its norm first.

    Returns:
        NaN for samples with NaN.
    """
    train, test = checked("neighbour_familiarity", train, test)
    if not 1 <= k <= len(train):
        raise ValueError(
            f"neighbour_familiarity: k is {k} with {len(train)} familiar samples; expected 1 to "
            f"{len(train)}."
        )
    if normalise:
        train, test = (
            x / np.maximum(np.linalg.norm(x, axis=1)[:, None], 1e-12) for x in (train, test)
        )
    known = ~np.isnan(test).any(1)
    score = np.full(len(test), np.nan)
    if known.any():
        near = NearestNeighbors(n_neighbors=k).fit(train).kneighbors(test[known])[0]
        score[known] = -near[:, -1]
    return score


def checked(name: str, train: Any, test: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64, if they can be compared."""
    first, second = np.asarray(train, dtype=np.float64), np.asarray(test, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{name}: familiar samples of shape {first.shape}, others {second.shape}; expected "
            "sample unit with the same units."
        )
    if len(first) < 2:
        raise ValueError(f"{name}: {len(first)} familiar sample; at least two are needed.")
    require_finite(name, first, "familiar samples")
    return first, second


__all__ = ["mahalanobis_familiarity", "neighbour_familiarity"]
