"""Patterns from RDMs, for measures that need responses where only distances were published.

Source: Torgerson 1952 (classical scaling); Gower 1968 (further points on given axes).
Axes: condition, axis = direction in the space that an RDM spans.
"""

from __future__ import annotations

import numpy as np

from neurofm.interpret.rsa.comparators import same_conditions
from neurofm.shapes import Float
from neurofm.types import RDM


def patterns_of(rdm: RDM, n_axes: int, *, like: RDM | None = None) -> Float[np.ndarray, "_ axis"]:
    """Coordinates whose squared distances come near the RDM's.

    They stand in for responses up to a rotation; what lies beyond the axes is lost, and an RDM that
    is no squared distance (negative, or of no Euclidean space) only comes near.

    Args:
        rdm: Squared distances, or 1 - correlation, which is proportional to one.
        n_axes: The largest ones.
        like: Axes of another RDM of the same conditions: those of other people or sessions, so that
            patterns of several have the same axes, and their noise does not choose them.

    Raises:
        ValueError: Missing distances, or fewer axes with variance than asked for.
    """
    other = rdm if like is None else like
    same_conditions(rdm, other)
    if not (np.isfinite(rdm.values).all() and np.isfinite(other.values).all()):
        raise ValueError("patterns_of: some distances are missing. Leave those conditions out.")
    values, vectors = np.linalg.eigh(_gram(other))
    order = np.argsort(-values)[:n_axes]
    if len(order) < n_axes or not values[order[-1]] > 1e-12 * values.max():
        known = int((values > 1e-12 * values.max()).sum())
        raise ValueError(f"patterns_of: {n_axes} axes of an RDM that spans {known}.")
    axes = vectors[:, order]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(n_axes)])
    return _gram(rdm) @ axes / np.sqrt(values[order])


def _gram(rdm: RDM) -> np.ndarray:
    square = rdm.square()
    centred = square - square.mean(0) - square.mean(1)[:, None] + square.mean()
    return -centred / 2
