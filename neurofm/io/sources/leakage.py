"""Symmetric orthogonalization: source time courses without what volume conduction shares.

Neighbouring parcels see each other's sources at the same moment, because a few hundred sensors
cannot tell them apart. The closest set of mutually uncorrelated time courses removes all zero-lag
correlation, true one included, without singling out a parcel to start from. All of it needs only
the covariance, so it is a matrix that can be folded into the spatial filters.

Source: Colclough et al. 2015, NeuroImage 117:439.
Axes: parcel; time.
"""

from __future__ import annotations

import numpy as np

from neurofm.shapes import Float

_STEPS = 200
_TOLERANCE = 1e-10  # relative change of the distance at which the iteration has converged
_RANK = 1e-10  # smallest eigenvalue of the correlation matrix, relative to the largest


def orthogonal_mixing(
    covariance: Float[np.ndarray, "parcel parcel"],
) -> Float[np.ndarray, "parcel parcel"]:
    """The matrix that takes time courses of this covariance to the closest uncorrelated ones.

    Lengths are free: the orthogonal directions and the lengths along them are found in turn, each
    the best for the other.

    Returns:
        float64; `mixing @ data` has a diagonal covariance.

    Raises:
        ValueError: The time courses are linearly dependent: there are more of them than the
            recording has degrees of freedom.
    """
    gram = np.asarray(covariance, dtype=np.float64)
    n = len(gram)
    length = np.sqrt(np.diag(gram))
    if not (np.isfinite(length).all() and (length > 0).all()):
        flat = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
        raise ValueError(f"orthogonal_mixing: parcels {flat.tolist()} are flat or not finite.")
    correlation = gram / np.outer(length, length)
    eigenvalues = np.linalg.eigvalsh(correlation)
    rank = int((eigenvalues > _RANK * eigenvalues[-1]).sum())
    if rank < n:
        raise ValueError(
            f"orthogonal_mixing: {n} parcels have only {rank} independent time courses (signal-"
            "space separation and projectors take degrees of freedom). Use fewer parcels, or do "
            "without orthogonalization."
        )
    unit = float(np.mean(length**2))
    gram = gram / unit
    scale = length / np.sqrt(unit)
    before = np.inf
    for _ in range(_STEPS):
        directions = scale[:, None] * _inverse_root(gram * np.outer(scale, scale))
        scale = np.einsum("ij,ji->i", gram, directions)
        distance = float(np.trace(gram) - (scale**2).sum())
        if abs(before - distance) <= _TOLERANCE * n:
            break
        before = distance
    return scale[:, None] * directions.T


def orthogonalize(data: Float[np.ndarray, "parcel time"]) -> Float[np.ndarray, "parcel time"]:
    """The closest mutually uncorrelated time courses; means are removed.

    Raises:
        ValueError: As `orthogonal_mixing`.
    """
    centred = data.astype(np.float64) - data.mean(axis=1, keepdims=True, dtype=np.float64)
    mixed = orthogonal_mixing(centred @ centred.T) @ centred
    return mixed.astype(data.dtype)


def _inverse_root(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors / np.sqrt(values)) @ vectors.T
