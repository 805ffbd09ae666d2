"""Decoders of patterns in closed form: linear discriminants with shrinkage, and correlation.

There are seldom more than a few hundred trials and often tens of thousands of voxels. A covariance
of residuals that is shrunk towards its diagonal is a diagonal plus as many directions as there are
trials, so discriminants are found among trials (Woodbury's identity) and never need a matrix of
voxels by voxels.

Source: Ledoit & Wolf 2004 (shrinkage); Friedman 1989 (regularized discriminants); Haxby et al. 2001
(correlation of halves).
Axes: trial voxel; output = class. float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from neurofm.shapes import Float

_LEAST = 1e-6  # shrinkage: below it, what trials do not span would count for everything


class PatternDecoder(ClassifierMixin, BaseEstimator, ABC):
    """What our decoders share: probabilities from one number for each trial and class."""

    classes_: np.ndarray

    @abstractmethod
    def scores(self, x: Float[np.ndarray, " trial *voxel"]) -> Float[np.ndarray, "trial output"]:
        """Evidence for each class; differences within a trial count."""

    def predict_log_proba(
        self, x: Float[np.ndarray, " trial *voxel"]
    ) -> Float[np.ndarray, "trial output"]:
        """Logarithm of the probability of each class, in the order of `classes_`."""
        return log_softmax(self.scores(x), axis=1)

    def predict_proba(
        self, x: Float[np.ndarray, " trial *voxel"]
    ) -> Float[np.ndarray, "trial output"]:
        """Probability of each class; with few trials and many voxels far too sure of itself."""
        return np.exp(self.predict_log_proba(x))

    def predict(self, x: Float[np.ndarray, " trial *voxel"]) -> np.ndarray:
        """The most probable class of each trial."""
        return self.classes_[self.scores(x).argmax(1)]


class LinearDecoder(PatternDecoder):
    """A decoder whose evidence is linear in the voxels.

    After `fit`: `coef_` (class voxel) and `intercept_` (class).
    """

    coef_: Float[np.ndarray, "output voxel"]
    intercept_: Float[np.ndarray, " output"]

    def scores(self, x: Float[np.ndarray, "trial voxel"]) -> Float[np.ndarray, "trial output"]:
        """Evidence for each class."""
        x = as_patterns(x)
        if x.shape[1] != self.coef_.shape[1]:
            raise ValueError(
                f"patterns of {x.shape[1]} voxels for a decoder of {self.coef_.shape[1]}. Use the "
                "mask it was trained with."
            )
        return x @ self.coef_.T + self.intercept_


class ShrinkageLDA(LinearDecoder):
    """Linear discriminants; the covariance of residuals is shrunk towards its diagonal.

    Args:
        shrinkage: "pooled" (one analytic estimate from the residuals of all classes), "by_class"
            (an estimate for each class, averaged, which is scikit-learn's
            `LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`), or a share from 0 to 1.
        priors: "equal", or "empirical" for the shares of the training trials.
    """

    def __init__(self, shrinkage: str | float | int = "pooled", priors: str = "equal") -> None:
        self.shrinkage = shrinkage
        self.priors = priors

    def fit(self, x: Float[np.ndarray, "trial voxel"], y: Any) -> ShrinkageLDA:
        """Class means and the inverse covariance applied to them.

        Raises:
            ValueError: One class, NaN, no voxel that varies within classes, or fewer than two
                trials of a class with shrinkage "by_class".
        """
        x, code, self.classes_ = checked_training(x, y)
        means = class_means(x, code)
        residual = x - means[code]
        diagonal, low, self.shrinkage_ = self._covariance(x, residual, code)
        weights = solve_diagonal_plus(diagonal, low, means)
        share = np.bincount(code) / len(code)
        prior = np.zeros(len(means)) if self.priors == "equal" else np.log(share)
        self.coef_ = weights
        self.intercept_ = prior - 0.5 * np.einsum("cv,cv->c", weights, means)
        return self

    def _covariance(
        self, x: np.ndarray, residual: np.ndarray, code: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Diagonal, and rows whose outer products add up to the rest."""
        n_classes = len(self.classes_)
        if self.shrinkage == "by_class":
            return _by_class(x, code)
        if self.shrinkage != "pooled" and not (
            isinstance(self.shrinkage, (int, float, np.floating)) and 0 <= self.shrinkage <= 1
        ):
            raise ValueError(
                f"ShrinkageLDA: shrinkage {self.shrinkage!r}, expected 'pooled', 'by_class' or a "
                "share from 0 to 1."
            )
        freedom = max(len(x) - n_classes, 1)
        variance = np.square(residual).sum(0) / freedom
        z = residual / np.sqrt(np.where(variance > 0, variance, 1.0))
        share = ledoit_wolf_share(z) if self.shrinkage == "pooled" else float(self.shrinkage)
        share = float(np.clip(share, _LEAST, 1.0))
        return share * variance, np.sqrt((1 - share) / freedom) * residual, share


def ledoit_wolf_share(x: Float[np.ndarray, "trial voxel"]) -> float:
    """Analytic shrinkage towards a multiple of the identity, found among trials.

    Args:
        x: Each column of mean zero.
    """
    n, p = x.shape
    if p == 1:
        return 0.0
    gram = x @ x.T
    total = float(np.trace(gram)) / n
    square = float(np.square(gram).sum()) / n**2
    spread = (float(np.square(np.diag(gram)).sum()) / n - square) / (p * n)
    distance = (square - total**2 / p) / p
    return 0.0 if distance <= 0 else float(min(max(spread, 0.0), distance) / distance)


def _by_class(x: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    counts = np.bincount(code)
    if counts.min() < 2:
        raise ValueError(
            f"ShrinkageLDA: a class has {counts.min()} training trial; shrinkage 'by_class' needs "
            "two. Use 'pooled'."
        )
    diagonal, rows, shares = np.zeros(x.shape[1]), [], []
    for i, count in enumerate(counts):
        own = x[code == i]
        centred = own - own.mean(0)
        scale = np.sqrt(np.square(centred).mean(0))
        scale[scale <= 10 * np.finfo(float).eps * np.abs(own).max()] = 1.0
        z = centred / scale
        share = ledoit_wolf_share(z)
        prior = count / len(x)
        diagonal += prior * share * float(np.square(z).mean()) * scale**2
        rows.append(np.sqrt(prior * (1 - share) / count) * centred)
        shares.append(share)
    return diagonal, np.concatenate(rows), float(np.mean(shares))


def solve_diagonal_plus(
    diagonal: Float[np.ndarray, " voxel"],
    low: Float[np.ndarray, "row voxel"],
    right: Float[np.ndarray, "output voxel"],
) -> Float[np.ndarray, "output voxel"]:
    """Solve (diag + lowᵀ low) w = right, by rows or by voxels, whichever are fewer.

    Voxels whose diagonal is zero (constant ones) get no weight.
    """
    alive = diagonal > _LEAST * 1e-6 * diagonal.max(initial=0.0)
    if not alive.any():
        raise ValueError(
            "no voxel varies within the classes, so there is no noise to weigh voxels by. Check "
            "the mask and the preparation of the patterns."
        )
    d, u, b = diagonal[alive], low[:, alive], right[:, alive]
    weights = np.zeros_like(right)
    if len(u) < len(d):
        scaled = u / d
        inner = np.eye(len(u)) + scaled @ u.T
        weights[:, alive] = b / d - np.linalg.solve(inner, u @ (b / d).T).T @ scaled
    else:
        weights[:, alive] = np.linalg.solve(np.diag(d) + u.T @ u, b.T).T
    return weights


class CorrelationClassifier(PatternDecoder):
    """The class whose mean pattern correlates best with the trial.

    The mean of all training trials is taken away from both, as Haxby and colleagues took away the
    mean over categories.
    """

    def fit(self, x: Float[np.ndarray, "trial voxel"], y: Any) -> CorrelationClassifier:
        """Mean patterns.

        Raises:
            ValueError: One class, or NaN.
        """
        x, code, self.classes_ = checked_training(x, y)
        means = class_means(x, code)
        self.mean_ = means.mean(0)
        self.templates_ = _unit(means - self.mean_)
        return self

    def scores(self, x: Float[np.ndarray, "trial voxel"]) -> Float[np.ndarray, "trial output"]:
        """Fisher's z of the correlation with each class, times the root of the voxels."""
        r = _unit(as_patterns(x) - self.mean_) @ self.templates_.T
        return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)) * np.sqrt(max(x.shape[1] - 3, 1))


def _unit(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(1, keepdims=True)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1.0)


def class_means(x: np.ndarray, code: np.ndarray) -> Float[np.ndarray, "output voxel"]:
    """Mean pattern of each class."""
    member = np.eye(code.max() + 1)[code]
    return (member / member.sum(0)).T @ x


def as_patterns(x: Any) -> Float[np.ndarray, "trial voxel"]:
    """float64, two axes, finite.

    Raises:
        ValueError: Something else.
    """
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"patterns have shape {array.shape}, expected trial voxel.")
    if not np.isfinite(array).all():
        wrong = int((~np.isfinite(array)).any(0).sum())
        raise ValueError(
            f"{wrong} of {array.shape[1]} voxels hold NaN or infinity. Leave them out of the mask."
        )
    return array


def checked_training(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patterns, number of each trial's class, names of the classes."""
    array = as_patterns(x)
    labels = np.asarray(y)
    if labels.shape != array.shape[:1]:
        raise ValueError(
            f"{len(array)} patterns, labels of shape {labels.shape}; expected one each."
        )
    classes, code = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"all {len(array)} training trials are {classes.tolist()}; expected two or more "
            "classes. Train on more runs, or name more labels."
        )
    return array, code.reshape(-1), classes
