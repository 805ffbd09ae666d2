"""scikit-learn's estimators for patterns, fitted in the space that the trials span.

L2-penalised linear models, kernels and networks with such penalties do not change when patterns are
rotated, so that of many voxels only as many directions as there are trials are given to
scikit-learn; linear weights are turned back.

Source: Hastie & Tibshirani 2004.
Axes: trial voxel; axis = direction among trials; output = class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone

from neurofm.evaluate.patterns.discriminants import (
    LinearDecoder,
    PatternDecoder,
    as_patterns,
    checked_training,
)
from neurofm.shapes import Float

RANK = 1e-12  # of the largest eigenvalue: directions that trials do not span


def _rotation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of centred patterns in the space they span, and its axes (`axis voxel`)."""
    if len(x) >= x.shape[1]:
        return x, np.eye(x.shape[1])
    values, vectors = np.linalg.eigh(x @ x.T)
    keep = values > RANK * max(float(values[-1]), np.finfo(float).tiny)
    size = np.sqrt(values[keep])
    return vectors[:, keep] * size, (vectors[:, keep] / size).T @ x


class RotatedLinear(LinearDecoder):
    """A linear estimator of scikit-learn, fitted in the space that the trials span.

    The same as fitting it to all voxels for every model whose penalty is the length of its weights.

    Args:
        estimator: With `coef_` and `intercept_` after `fit`; cloned.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, x: Float[np.ndarray, "trial voxel"], y: Any) -> RotatedLinear:
        """Weights of every class, also of two.

        Raises:
            ValueError: One class, or NaN.
        """
        x, code, self.classes_ = checked_training(x, y)
        mean = x.mean(0)
        low, axes = _rotation(x - mean)
        fitted = clone(self.estimator).fit(low, code)
        weights, offset = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
        if len(weights) == 1:
            weights, offset = (
                np.concatenate([-weights, weights]) / 2,
                np.array([-0.5, 0.5]) * offset,
            )
        self.coef_ = weights @ axes
        self.intercept_ = offset - self.coef_ @ mean
        return self


class Rotated(PatternDecoder):
    """A nonlinear estimator in the space that the training trials span, its scale made 1.

    Args:
        estimator: With `predict_log_proba` or `decision_function`; cloned.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, x: Float[np.ndarray, "trial voxel"], y: Any) -> Rotated:
        """Fit in few dimensions.

        Raises:
            ValueError: One class, or NaN.
        """
        x, code, self.classes_ = checked_training(x, y)
        self.mean_ = x.mean(0)
        low, axes = _rotation(x - self.mean_)
        scale = float(np.sqrt(np.square(low).mean())) or 1.0
        self.axes_ = axes.T / scale
        self.estimator_ = clone(self.estimator).fit(low / scale, code)
        return self

    def scores(self, x: Float[np.ndarray, "trial voxel"]) -> Float[np.ndarray, "trial output"]:
        """Of the estimator."""
        return evidence(self.estimator_, (as_patterns(x) - self.mean_) @ self.axes_)


def evidence(estimator: Any, x: np.ndarray) -> Float[np.ndarray, "trial output"]:
    """Log probabilities of an estimator, or its decisions where it has none.

    Raises:
        ValueError: It has neither.
    """
    if hasattr(estimator, "predict_log_proba"):
        return np.maximum(estimator.predict_log_proba(x), -1e6)
    if hasattr(estimator, "decision_function"):
        found = np.asarray(estimator.decision_function(x))
        return np.stack([-found / 2, found / 2], axis=1) if found.ndim == 1 else found
    if hasattr(estimator, "predict_proba"):
        return np.log(np.maximum(estimator.predict_proba(x), 1e-300))
    raise ValueError(
        f"{type(estimator).__name__} gives neither probabilities nor decisions; expected "
        "predict_proba or decision_function."
    )
