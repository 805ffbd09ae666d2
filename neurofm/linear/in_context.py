"""Ridge from a handful of stimuli, as the baseline of in-context voxel encoders.

It differs from `VoxelwiseRidge` in three ways, kept because results are compared with the published
ones: the bias is penalised like any other weight, folds are consecutive and a remainder is never
tested, and the weights are the mean of the solutions of the folds instead of a fit to everything.

Source: Yu et al. 2025 (BraInCoRL).
Axes: stimulus = row of the context; feature; voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.shapes import Float

PENALTIES = tuple(10.0**i for i in range(-3, 6))


@dataclass(frozen=True)
class InContextRidge:
    """Weights of every voxel.

    Args:
        coef: Per feature and voxel.
        intercept: Per voxel.
        penalty: The chosen one.
        score: Mean explained variance over the folds at that penalty; NaN for constant voxels.
    """

    coef: Float[np.ndarray, "feature voxel"]
    intercept: Float[np.ndarray, " voxel"]
    penalty: Float[np.ndarray, " voxel"]
    score: Float[np.ndarray, " voxel"]

    @property
    def weights(self) -> Float[np.ndarray, "voxel weight"]:
        """Features, then the bias: the order of the encoder's predicted weights."""
        return np.concatenate([self.coef, self.intercept[None]]).T

    def predict(self, x: Float[np.ndarray, "stimulus feature"]) -> np.ndarray:
        """Responses, `stimulus voxel`."""
        return np.asarray(x, dtype=np.float64) @ self.coef + self.intercept


def in_context_ridge(
    x: Float[np.ndarray, "stimulus feature"],
    y: Float[np.ndarray, "_ voxel"],
    *,
    penalties: Sequence[float | int] = PENALTIES,
    folds: int = 5,
) -> InContextRidge:
    """Fit every voxel to a small context, float64.

    Args:
        x: Embeddings of the stimuli, of unit length where the encoder's are.
        y: Responses.
        penalties: One of them is chosen for each voxel.
        folds: Consecutive blocks of floor(stimuli / folds) rows, each tested once.

    Raises:
        ValueError: Shapes that do not fit, NaN, fewer than two rows per fold, or a penalty that is
            not positive.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    grid = np.asarray(penalties, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"in_context_ridge: x has shape {x.shape} and y {y.shape}; expected the same stimuli "
            "in the rows of both."
        )
    for name, values in (("x", x), ("y", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"in_context_ridge: {name} holds NaN or infinite values.")
    if grid.ndim != 1 or not len(grid) or (grid <= 0).any():
        raise ValueError(f"in_context_ridge: penalties {grid}; expected positive numbers.")
    size = len(x) // folds if folds > 1 else 0
    if size < 2:
        raise ValueError(
            f"in_context_ridge: {len(x)} stimuli in {folds} folds; expected two folds or more of "
            "two stimuli or more. Use fewer folds or a larger context."
        )
    x = np.column_stack([x, np.ones(len(x))])
    score = np.zeros((len(grid), y.shape[1]))
    parts = []
    for fold in range(folds):
        test = np.arange(fold * size, (fold + 1) * size)
        train = np.delete(np.arange(len(x)), test)
        u, s, v = np.linalg.svd(x[train], full_matrices=False)
        projected, seen = u.T @ y[train], x[test] @ v.T
        parts.append((s, v, projected))
        variance = np.where(np.ptp(y[test], axis=0) > 0, y[test].var(0), np.nan)
        for i, penalty in enumerate(grid):
            error = y[test] - (seen * (s / (s**2 + penalty))) @ projected
            score[i] += (1 - error.var(0) / variance) / folds
    # A voxel that is constant in a fold has no score, and gets the strongest penalty.
    undefined = np.isnan(score).any(0)
    chosen = np.where(undefined, grid.argmax(), np.nan_to_num(score, nan=-np.inf).argmax(0))
    weights = (
        sum(
            v.T @ (projected * (s[:, None] / (s[:, None] ** 2 + grid[chosen])))
            for s, v, projected in parts
        )
        / folds
    )
    return InContextRidge(
        coef=weights[:-1],
        intercept=weights[-1],
        penalty=grid[chosen],
        score=np.where(undefined, np.nan, score[chosen, np.arange(y.shape[1])]),
    )
