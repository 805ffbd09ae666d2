"""Scores of many spheres at once, in closed form, from products of trials.

All that linear discriminants with a covariance shrunk towards a multiple of the identity, and
cross-validated distances need of a sphere's voxels is the product of every two trials over these
voxels. It is made once for all folds; what follows works on matrices of trials by trials, hundreds
of spheres at a time.

Source: Kriegeskorte et al. 2006 (searchlight); Ledoit & Wolf 2004 (shrinkage); Walther et al. 2016
(cross-validated distances).
Axes: sphere; trial voxel; fold; output = class. float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from neurofm.shapes import Bool, Float, Int

_LEAST = 1e-3  # shrinkage: spheres of a few voxels hardly need any, and must stay invertible


def products(
    patterns: Float[np.ndarray, "trial voxel"],
    spheres: Sequence[np.ndarray],
) -> tuple[Float[np.ndarray, "sphere trial trial"], Float[np.ndarray, " sphere"]]:
    """Products of trials over the voxels of each sphere, and the number of voxels.

    Args:
        spheres: Numbers of the voxels of each.
    """
    n = len(patterns)
    sizes = np.array([len(sphere) for sphere in spheres])
    # A last voxel of zeros fills up small spheres, so that all go into one batched product.
    padded = np.concatenate([patterns, np.zeros((n, 1))], axis=1).T
    index = np.full((len(spheres), sizes.max()), patterns.shape[1])
    for row, sphere in zip(index, spheres, strict=True):
        row[: len(sphere)] = sphere
    gathered = padded[index]  # sphere voxel trial
    return gathered.transpose(0, 2, 1) @ gathered, sizes.astype(np.float64)


def shrinkage_of(
    residual: Float[np.ndarray, "sphere trial trial"], sizes: Float[np.ndarray, " sphere"], n: int
) -> tuple[Float[np.ndarray, " sphere"], Float[np.ndarray, " sphere"]]:
    """Ledoit and Wolf's share, and the mean variance, from products of residuals."""
    diagonal = np.diagonal(residual, axis1=1, axis2=2)
    total = diagonal.sum(1) / n
    square = np.square(residual).sum((1, 2)) / n**2
    spread = (np.square(diagonal).sum(1) / n - square) / (sizes * n)
    distance = (square - total**2 / sizes) / sizes
    share = np.divide(
        np.clip(spread, 0, distance), distance, out=np.zeros_like(total), where=distance > 0
    )
    return np.clip(share, _LEAST, 1.0), total / sizes


def _whitened(
    gram: np.ndarray, sizes: np.ndarray, member: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Products of class means of the training trials with themselves and with test trials, white.

    White by the inverse of (floor I + (1 - share) / freedom RᵀR), R the residuals of training
    trials, by Woodbury's identity.
    """
    mean = member / member.sum(0)  # averages trials into class means
    project = np.eye(len(train)) - member @ mean.T  # leaves residuals
    own = gram[:, train[:, None], train]
    cross = gram[:, train[:, None], test]
    residual = project @ own @ project
    n_classes = member.shape[1]
    freedom = max(len(train) - n_classes, 1)
    share, variance = shrinkage_of(residual, sizes, len(train))
    floor = np.maximum(share * variance * len(train) / freedom, np.finfo(float).tiny)
    ridge = floor * freedom / np.maximum(1 - share, 1e-9)
    left = project @ own @ mean
    inner = residual + ridge[:, None, None] * np.eye(len(train))
    solved = np.linalg.solve(inner, np.concatenate([left, project @ cross], axis=2))
    back = left.transpose(0, 2, 1)
    between = mean.T @ own @ mean - back @ solved[..., :n_classes]
    towards = mean.T @ cross - back @ solved[..., n_classes:]
    return between / floor[:, None, None], towards / floor[:, None, None]


def lda_evidence(
    gram: Float[np.ndarray, "sphere trial trial"],
    sizes: Float[np.ndarray, " sphere"],
    member: Float[np.ndarray, "train output"],
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
) -> Float[np.ndarray, "sphere test output"]:
    """Evidence of shrunk discriminants, trained on some trials, for others.

    Args:
        gram: Of `products`.
        member: 1 for the class of every training trial, 0 elsewhere.
    """
    between, towards = _whitened(gram, sizes, member, train, test)
    evidence = towards - 0.5 * np.diagonal(between, axis1=1, axis2=2)[..., None]
    return evidence.transpose(0, 2, 1)


def crossnobis_scores(
    gram: Float[np.ndarray, "sphere trial trial"],
    sizes: Float[np.ndarray, " sphere"],
    y: Int[np.ndarray, " trial"],
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    whiten: bool = True,
) -> Float[np.ndarray, " sphere"]:
    """Mean cross-validated squared distance of all pairs of classes, per voxel; mean over folds.

    The noise is that of the training side alone: residuals of all runs know how the runs' means
    differ, and white by them distances are too large where there is nothing.

    Args:
        y: Class of each trial; each on both sides of every fold.
        sides: Training and test trials of every fold, whole runs.
        whiten: Divide by the shrunk covariance of training trials around their class means.
    """
    n_classes = int(y.max()) + 1
    total = np.zeros(len(gram))
    for train, test in sides:
        member, judged = np.eye(n_classes)[y[train]], np.eye(n_classes)[y[test]]
        if whiten:
            towards = _whitened(gram, sizes, member, train, test)[1]
        else:
            towards = (member / member.sum(0)).T @ gram[:, train[:, None], test]
        products_ = towards @ (judged / judged.sum(0))
        trace = np.trace(products_, axis1=1, axis2=2)
        # Over ordered pairs: each class meets all others twice.
        total += 2 * (n_classes * trace - products_.sum((1, 2)))
    return total / (n_classes * (n_classes - 1)) / len(sides) / sizes


def null_accuracies(
    y_pred: Int[np.ndarray, "centre trial"], shuffled: Int[np.ndarray, "permutation trial"], n: int
) -> Float[np.ndarray, "permutation centre"]:
    """Accuracy of predictions against shuffled labels, all centres and shuffles at once."""
    width = n * y_pred.shape[1]
    said = np.eye(n, dtype=np.float32)[y_pred].reshape(len(y_pred), width)
    true = np.eye(n, dtype=np.float32)[shuffled].reshape(len(shuffled), width)
    return (true @ said.T).astype(np.float64) / y_pred.shape[1]


def touching(
    position: Float[np.ndarray, "centre 3"], distance: float
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Pairs of centres that lie next to each other."""
    pairs = cKDTree(position).query_pairs(distance, output_type="ndarray")
    return pairs[:, 0], pairs[:, 1]


def cluster_sizes(
    inside: Bool[np.ndarray, " centre"], pairs: tuple[np.ndarray, np.ndarray]
) -> tuple[Int[np.ndarray, " centre"], Int[np.ndarray, " cluster"]]:
    """Number of each centre's cluster (-1 outside) and the centres of each cluster."""
    at = np.flatnonzero(inside)
    if not len(at):
        return np.full(len(inside), -1), np.zeros(0, dtype=int)
    place = np.full(len(inside), -1)
    place[at] = np.arange(len(at))
    a, b = place[pairs[0]], place[pairs[1]]
    keep = (a >= 0) & (b >= 0)
    graph = coo_matrix((np.ones(keep.sum()), (a[keep], b[keep])), shape=(len(at), len(at)))
    count, label = connected_components(graph, directed=False)
    number = np.full(len(inside), -1)
    number[at] = label
    return number, np.bincount(label, minlength=count)
