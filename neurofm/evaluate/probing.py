"""A linear probe with a penalty chosen on its own training windows.

Axes: window feature; output = class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from neurofm.shapes import Float


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Logistic regression on standardised features, its penalty chosen by cross-validation.

    Features are rotated to as many directions as there are windows, which changes no prediction
    and makes thousands of features cheap.

    Args:
        penalties: Inverse strengths `C` to choose from. Features are divided by the root of their
            number besides, so that the same values suit few and many features.
        folds: Of the inner cross-validation, stratified by class; fewer if a class is rare, and
            with a single window in a class the middle penalty is taken.
        seed: Of the inner folds.
    """

    def __init__(
        self,
        *,
        penalties: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0),
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.penalties = penalties
        self.folds = folds
        self.seed = seed

    def fit(self, x: Float[np.ndarray, "window feature"], y: np.ndarray) -> LinearProbe:
        """Scale, choose the penalty, and fit on all windows.

        Raises:
            ValueError: One class only.
        """
        self.classes_, target = np.unique(y, return_inverse=True)
        counts = np.bincount(target)
        if len(counts) < 2:
            raise ValueError(
                f"LinearProbe: {len(y)} windows of the class {self.classes_.tolist()}; expected "
                "two or more classes."
            )
        x = np.asarray(x, dtype=np.float64)
        self.mean_, deviation = x.mean(0), x.std(0)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
        self.scale_ = scale / np.sqrt(max((deviation > 1e-9).sum(), 1))
        z = (x - self.mean_) * self.scale_
        self.rotation_ = np.linalg.svd(z, full_matrices=False)[2].T
        z = z @ self.rotation_
        self.penalty_ = self._choose(z, target, min(self.folds, int(counts.min())))
        self.model_ = self._model(self.penalty_).fit(z, target)
        return self

    def _model(self, c: float) -> LogisticRegression:
        return LogisticRegression(C=c, class_weight="balanced", max_iter=1000)

    def _choose(self, z: np.ndarray, target: np.ndarray, folds: int) -> float:
        if folds < 2:
            return self.penalties[len(self.penalties) // 2]
        inner = list(StratifiedKFold(folds, shuffle=True, random_state=self.seed).split(z, target))

        def loss(c: float) -> float:
            total = 0.0
            for train, held in inner:
                p = self._model(c).fit(z[train], target[train]).predict_proba(z[held])
                total -= float(np.log(p[np.arange(len(held)), target[held]] + 1e-12).sum())
            return total

        return min(self.penalties, key=loss)

    def predict_proba(
        self, x: Float[np.ndarray, "window feature"]
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class, in the order of `classes_`."""
        z = (np.asarray(x, dtype=np.float64) - self.mean_) * self.scale_
        return self.model_.predict_proba(z @ self.rotation_)

    def predict(self, x: Float[np.ndarray, "window feature"]) -> np.ndarray:
        """The most probable class of each window."""
        return self.classes_[self.predict_proba(x).argmax(1)]
