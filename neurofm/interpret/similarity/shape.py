"""Shape metrics: how far apart two representations are once one is turned onto the other.

They are metrics (symmetric, triangle inequality), so that networks and brain areas can be laid out
on a plane, grouped, and neighbours looked up. With partial whitening they go from Procrustes
(alpha 1) to canonical correlations (alpha 0).

Source: Williams et al. 2021 (generalised shape metrics, partial whitening, permutations);
Schönemann 1966 (orthogonal Procrustes).
Axes: sample; p and q = columns of the two sides, the narrower padded with zeros.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.similarity.checks import centred, pair
from neurofm.shapes import Float, Int

DISTANCES = ("angular", "euclidean")
_FLOOR = 1e-7  # of eigenvalues that are inverted


@takes_either
def shape_distance(
    x: Float[np.ndarray, "sample p"],
    y: Float[np.ndarray, "_ q"],
    *,
    distance: str = "angular",
    alpha: float | int = 1.0,
) -> float:
    """Smallest distance over rotations and reflections of one side, both centred.

    Args:
        distance: "angular" (radians; ignores the scale of either side) or "euclidean" (in the unit
            of the data).
        alpha: 1 compares as they are, 0 whitens both sides first, with the total variance kept.

    Returns:
        NaN for the angle with a side that has no variance.
    """
    _known(distance, alpha)
    x, y = (_reduced(centred(side)) for side in pair("shape_distance", x, y))
    x, y = x @ _whitening(x, alpha), y @ _whitening(y, alpha)
    overlap = np.linalg.svd(x.T @ y, compute_uv=False).sum()
    return _from_overlap(x, y, float(overlap), distance)


@takes_either
def align(
    x: Float[np.ndarray, "sample p"], y: Float[np.ndarray, "_ _"]
) -> Float[np.ndarray, "p p"]:
    """The rotation or reflection T for which `y @ T` comes closest to `x`, both centred."""
    x, y = pair("align", x, y, same_width=True)
    return rotation_onto(centred(x), centred(y))


def rotation_onto(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The orthogonal T with least |x - y T|; sides as they are."""
    return nearest_rotation(y.T @ x)


def nearest_rotation(cross: np.ndarray) -> np.ndarray:
    """The orthogonal T with the largest tr(Tᵀ cross), of one matrix or of each of several."""
    u, _, v = np.linalg.svd(cross)
    return u @ v


def random_rotation(dim: int, rng: np.random.Generator) -> np.ndarray:
    """A rotation or reflection, every one equally likely."""
    return ortho_group.rvs(dim, random_state=rng) if dim > 1 else np.ones((1, 1))


@takes_either
def permutation_distance(
    x: Float[np.ndarray, "sample p"],
    y: Float[np.ndarray, "_ q"],
    *,
    distance: str = "angular",
) -> float:
    """Smallest distance over orders of the units: rotations are not free, single units count."""
    _known(distance, 1.0)
    x, y = (centred(side) for side in pair("permutation_distance", x, y))
    width = max(x.shape[1], y.shape[1])
    x, y = _widened(x, width), _widened(y, width)
    overlap = x.T @ y
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return _from_overlap(x, y, float(overlap[rows, columns].sum()), distance)


@takes_either
def match_units(
    x: Float[np.ndarray, "sample p"], y: Float[np.ndarray, "_ _"]
) -> Int[np.ndarray, " p"]:
    """The unit of `y` that stands for each unit of `x` in `permutation_distance`."""
    x, y = pair("match_units", x, y, same_width=True)
    return linear_sum_assignment(centred(x).T @ centred(y), maximize=True)[1]


@takes_either
def held_out_shape_distance(
    x: Float[np.ndarray, "sample p"],
    y: Float[np.ndarray, "_ q"],
    *,
    folds: int = 5,
    distance: str = "angular",
    alpha: float | int = 1.0,
    generator: np.random.Generator | None = None,
) -> float:
    """The same with means, whitening and rotation from some samples and distance on others.

    With few samples the rotation fits their noise and `shape_distance` is too small; this one is
    rather too large, because a rotation of few samples does not turn new ones well.

    Args:
        folds: Parts of the samples, each left out once; the mean over them is returned.
        generator: Of the parts; in order of the samples if not given.
    """
    _known(distance, alpha)
    x, y = pair("held_out_shape_distance", x, y, least=2 * folds)
    if folds < 2:
        raise ValueError(f"held_out_shape_distance: {folds} folds; at least 2 are needed.")
    width = max(x.shape[1], y.shape[1])
    if alpha < 1 and width >= len(x) * (folds - 1) // folds - 1:
        raise ValueError(
            f"held_out_shape_distance: whitening {width} columns with {len(x)} samples in {folds} "
            "folds magnifies directions that training has not seen. Use alpha=1, or fewer columns."
        )
    order = np.arange(len(x)) if generator is None else generator.permutation(len(x))
    found = []
    for test in np.array_split(order, folds):
        train = np.setdiff1d(order, test)
        fitted = []
        for side in (x, y):
            mean, weights = side[train].mean(0), _whitening(centred(side[train]), alpha)
            fitted.append(
                [_widened((side[part] - mean) @ weights, width) for part in (train, test)]
            )
        (x_train, x_test), (y_train, y_test) = fitted
        turned = y_test @ rotation_onto(x_train, y_train)
        found.append(_from_overlap(x_test, turned, float(np.vdot(x_test, turned)), distance))
    return float(np.mean(found))


def _known(distance: str, alpha: float | int) -> None:
    if distance not in DISTANCES:
        raise ValueError(f"shape distance {distance!r}; known are {DISTANCES}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"shape distance: alpha {alpha}; expected 0 (whitened) to 1 (as it is).")


def _whitening(x: np.ndarray, alpha: float | int) -> np.ndarray:
    """Symmetric weights of the columns of a centred representation; its total variance is kept."""
    if alpha == 1:
        return np.eye(x.shape[1])
    values, vectors = np.linalg.eigh(x.T @ x)
    scale = alpha + (1 - alpha) / np.sqrt(np.maximum(values, _FLOOR))
    weights = (vectors * scale) @ vectors.T
    after = np.linalg.norm(x @ weights)
    return weights * (np.linalg.norm(x) / after if after > 0 else 1.0)


def _reduced(x: np.ndarray) -> np.ndarray:
    """In at most as many columns as samples, with the same products of samples."""
    if x.shape[1] <= len(x):
        return x
    return np.transpose(np.linalg.qr(x.T)[1])


def _widened(x: np.ndarray, width: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))


def _from_overlap(x: np.ndarray, y: np.ndarray, overlap: float, distance: str) -> float:
    own_x, own_y = float(np.vdot(x, x)), float(np.vdot(y, y))
    if distance == "euclidean":
        return float(np.sqrt(max(own_x + own_y - 2 * overlap, 0.0)))
    if not (own_x > 0 and own_y > 0):
        return float("nan")
    return float(np.arccos(np.clip(overlap / np.sqrt(own_x * own_y), -1, 1)))
