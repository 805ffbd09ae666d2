"""Linear probes with a penalty chosen on their own training windows: logistic, and ridge.

Also what `neurofm.tasks.Probe` puts into a readout: the same map of raw features (`linear_map`).
Axes: window feature; output = class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from neurofm.cards import configured
from neurofm.shapes import Float


@configured
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
            ValueError: One class only, or features that are not finite.
        """
        self.classes_, target, counts = _classes(y, name="LinearProbe")
        x = _finite(x, name="LinearProbe")
        self.mean_, self.scale_ = _standard(x)
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

    def linear_map(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit; weight and bias from raw features to logits, whose softmax is `predict_proba`.

        Args:
            x: window feature.

        Returns:
            output feature; output.
        """
        return self.fit(x, y)._raw()

    def _raw(self) -> tuple[np.ndarray, np.ndarray]:
        weight = (self.rotation_ @ self.model_.coef_.T).T * self.scale_
        bias = self.model_.intercept_ - weight @ self.mean_
        if len(self.classes_) == 2:  # scikit-learn keeps the second class's logit alone
            weight = np.concatenate([np.zeros_like(weight), weight])
            bias = np.concatenate([np.zeros_like(bias), bias])
        return weight, bias


@configured
class RidgeProbe(ClassifierMixin, BaseEstimator):
    """Ridge regression of class indicators on standardised features, solved in closed form.

    Classes count alike however many windows they have. The penalty is the one with the least
    squared error in cross-validation. The scores of the held-out windows also give the one factor
    by which scores are multiplied before their softmax, so that probabilities are calibrated.

    Args:
        penalties: To choose from, beside features divided by the root of their number.
        folds: Of the inner cross-validation, stratified by class; fewer if a class is rare, and
            with a single window in a class the middle penalty is taken, and a factor of 4.
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

    def fit(self, x: Float[np.ndarray, "window feature"], y: np.ndarray) -> RidgeProbe:
        """Scale, choose the penalty, and solve for all windows.

        Raises:
            ValueError: One class only, or features that are not finite.
        """
        self.classes_, target, counts = _classes(y, name="RidgeProbe")
        x = _finite(x, name="RidgeProbe")
        self.mean_, self.scale_ = _standard(x)
        z = (x - self.mean_) * self.scale_
        self.penalty_, self.factor_ = self._choose(z, target, min(self.folds, int(counts.min())))
        ((self.coef_, self.intercept_),) = ridge(z, target, len(counts), [self.penalty_])
        return self

    def _choose(self, z: np.ndarray, target: np.ndarray, folds: int) -> tuple[float, float]:
        if folds < 2:
            return self.penalties[len(self.penalties) // 2], 4.0
        n = int(target.max()) + 1
        held = np.empty((len(self.penalties), len(z), n))
        inner = StratifiedKFold(folds, shuffle=True, random_state=self.seed)
        for train, test in inner.split(z, target):
            for scores, (weight, bias) in zip(
                held, ridge(z[train], target[train], n, self.penalties), strict=True
            ):
                scores[test] = z[test] @ weight.T + bias
        share = _balance(target)
        errors = (((held - np.eye(n)[target]) ** 2).sum(2) * share).sum(1)
        best = int(errors.argmin())

        def loss(log_factor: float) -> float:
            logits = np.exp(log_factor) * held[best]
            right = logits[np.arange(len(z)), target]
            return float((share * (_log_sum(logits) - right)).sum())

        factor = np.exp(minimize_scalar(loss, bounds=(-3.0, 5.0), method="bounded").x)
        return self.penalties[best], float(factor)

    def predict_proba(
        self, x: Float[np.ndarray, "window feature"]
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class, in the order of `classes_`."""
        weight, bias = self._raw()
        logits = np.asarray(x, dtype=np.float64) @ weight.T + bias
        return np.exp(logits - _log_sum(logits)[:, None])

    def predict(self, x: Float[np.ndarray, "window feature"]) -> np.ndarray:
        """The most probable class of each window."""
        return self.classes_[self.predict_proba(x).argmax(1)]

    def linear_map(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit; weight and bias from raw features to logits, whose softmax is `predict_proba`.

        Args:
            x: window feature.

        Returns:
            output feature; output.
        """
        return self.fit(x, y)._raw()

    def _raw(self) -> tuple[np.ndarray, np.ndarray]:
        weight = self.factor_ * self.coef_ * self.scale_
        return weight, self.factor_ * self.intercept_ - weight @ self.mean_


def ridge(
    z: Float[np.ndarray, "window feature"],
    target: np.ndarray,
    n_classes: int,
    penalties: Sequence[float],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight, output by feature, and bias for each penalty, from one decomposition.

    The error is the sum over windows, those of each class weighted to the same total; the bias is
    not penalized.

    Args:
        target: Position of each window's class.
    """
    share = _balance(target) * len(target)
    wanted = np.eye(n_classes)[target]
    centre, level = np.average(z, 0, share), np.average(wanted, 0, share)
    root = np.sqrt(share)[:, None]
    u, s, v = np.linalg.svd(root * (z - centre), full_matrices=False)
    seen = u.T @ (root * (wanted - level))
    found = []
    for penalty in penalties:
        weight = (v.T @ (s[:, None] / (s[:, None] ** 2 + penalty) * seen)).T
        found.append((weight, level - weight @ centre))
    return found


def _classes(y: np.ndarray, *, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, the position of each window's, and how many windows each has."""
    classes, target = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{name}: {len(y)} windows of the class {classes.tolist()}; expected two or more "
            "classes."
        )
    return classes, target, np.bincount(target)


def _finite(x: np.ndarray, *, name: str) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise ValueError(
            f"{name}: the features of {bad.sum()} of {len(x)} windows are NaN or infinite, the "
            f"first those of window {bad.argmax()}. Look at the recording with `neurofm check`, or "
            "at the model's weights."
        )
    return x


def _standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and what makes the variances of all features together 1; constant ones are left out."""
    mean, deviation = x.mean(0), x.std(0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
    return mean, scale / np.sqrt(max((deviation > 1e-9).sum(), 1))


def _balance(target: np.ndarray) -> np.ndarray:
    """Weight of each window: every class the same total, together 1."""
    counts = np.bincount(target)
    return 1.0 / ((counts > 0).sum() * counts[target])


def _log_sum(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of exponentials of each row."""
    top = logits.max(1)
    return top + np.log(np.exp(logits - top[:, None]).sum(1))
