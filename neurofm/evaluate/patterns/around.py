"""What is put around a decoder of patterns: whitening, several together, volumes, inner choices.

Source: Walther et al. 2016 (noise normalization).
Axes: trial voxel; trial voxel time, time = volume; output = class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from neurofm.evaluate.patterns.discriminants import (
    PatternDecoder,
    as_patterns,
    checked_training,
    ledoit_wolf_share,
)
from neurofm.evaluate.patterns.rotated import RANK, evidence
from neurofm.shapes import Float


class NoiseWhitened(PatternDecoder):
    """Whiten patterns by the covariance of their residuals (multivariate noise normalization).

    The covariance is that of the training trials around their class means, shrunk towards the mean
    variance; test trials play no part in it.

    Args:
        estimator: Fitted to white patterns; cloned.
        shrinkage: "auto" for the analytic share, or a share from 0 to 1.
    """

    def __init__(self, estimator: Any, shrinkage: str | float | int = "auto") -> None:
        self.estimator = estimator
        self.shrinkage = shrinkage

    def fit(self, x: Float[np.ndarray, "trial voxel"], y: Any) -> NoiseWhitened:
        """The noise, then the estimator.

        Raises:
            ValueError: One class, NaN, or no trial beside its class mean.
        """
        x, code, self.classes_ = checked_training(x, y)
        member = np.eye(len(self.classes_))[code]
        residual = x - member @ ((member / member.sum(0)).T @ x)
        freedom = len(x) - len(self.classes_)
        if freedom < 1 or not residual.any():
            raise ValueError("NoiseWhitened: one trial of each class leaves no residuals.")
        auto = isinstance(self.shrinkage, str)
        share = ledoit_wolf_share(residual) if auto else float(self.shrinkage)
        share = float(np.clip(share, 1e-6, 1.0))
        gram = residual @ residual.T / freedom
        floor = share * float(np.trace(gram)) / x.shape[1]
        values, vectors = np.linalg.eigh(gram)
        keep = values > RANK * values[-1]
        values = values[keep]
        self.axes_ = (vectors[:, keep] / np.sqrt(values * freedom)).T @ residual
        self.floor_ = 1 / np.sqrt(floor)
        self.gain_ = 1 / np.sqrt((1 - share) * values + floor) - self.floor_
        self.estimator_ = clone(self.estimator).fit(self.transform(x), code)
        return self

    def transform(self, x: Float[np.ndarray, "trial voxel"]) -> Float[np.ndarray, "trial voxel"]:
        """White patterns, in units of the noise."""
        x = as_patterns(x)
        return self.floor_ * x + ((x @ self.axes_.T) * self.gain_) @ self.axes_

    def scores(self, x: Float[np.ndarray, "trial voxel"]) -> Float[np.ndarray, "trial output"]:
        """Of the estimator, for white patterns."""
        return evidence(self.estimator_, self.transform(x))


class Ensemble(PatternDecoder):
    """Several decoders of the same trials; each counts the same.

    Evidence is divided by its typical size in the training trials, because decoders of many voxels
    differ in how sure they are and not in how good they are.

    Args:
        estimators: Cloned.
    """

    def __init__(self, estimators: Sequence[Any]) -> None:
        self.estimators = estimators

    def fit(self, x: np.ndarray, y: Any) -> Ensemble:
        """All members on the same trials."""
        self.members_ = [clone(estimator).fit(x, y) for estimator in self.estimators]
        self.classes_ = np.unique(y)
        sizes = [evidence(member, x) for member in self.members_]
        self.sizes_ = [float(e.std(axis=1).mean()) or 1.0 for e in sizes]
        return self

    def scores(self, x: np.ndarray) -> Float[np.ndarray, "trial output"]:
        """Mean evidence."""
        found = [evidence(m, x) / s for m, s in zip(self.members_, self.sizes_, strict=True)]
        return np.mean([each - each.mean(1, keepdims=True) for each in found], axis=0)


class OverVolumes(PatternDecoder):
    """A decoder of patterns, for trials that last several volumes.

    Args:
        estimator: Of `trial voxel`; cloned.
        first: Volume of the trial to begin with.
        last: Volume to end before; None for all.
        learn: From the "mean" over these volumes, or from single "volumes" (as many more trials to
            estimate the noise from). Decisions are those of all volumes together.
    """

    def __init__(
        self, estimator: Any, first: int = 0, last: int | None = None, learn: str = "mean"
    ) -> None:
        self.estimator = estimator
        self.first = first
        self.last = last
        self.learn = learn

    def fit(self, x: Float[np.ndarray, "trial voxel time"], y: Any) -> OverVolumes:
        """Fit to means or volumes.

        Raises:
            ValueError: No volume in the range, or trials without volumes.
        """
        part = self._part(x)
        if self.learn not in ("mean", "volumes"):
            raise ValueError(f"OverVolumes: learn {self.learn!r}, expected 'mean' or 'volumes'.")
        labels = np.asarray(y)
        if self.learn == "volumes":
            labels = np.repeat(labels, part.shape[2])
            flat = np.moveaxis(part, 2, 1).reshape(-1, part.shape[1])
        else:
            flat = part.mean(2)
        self.estimator_ = clone(self.estimator).fit(flat, labels)
        self.classes_ = self.estimator_.classes_
        return self

    def _part(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, dtype=np.float64)
        part = x[:, :, self.first : self.last] if x.ndim == 3 else x[:0]
        if 0 in part.shape:
            raise ValueError(
                f"OverVolumes: volumes {self.first} to {self.last} of patterns of shape {x.shape}; "
                "expected trial voxel time with volumes in this range."
            )
        return part

    def scores(self, x: Float[np.ndarray, "trial voxel time"]) -> Float[np.ndarray, "trial output"]:
        """Mean evidence over the volumes, or that of their mean."""
        part = self._part(x)
        if self.learn == "mean":
            return evidence(self.estimator_, part.mean(2))
        flat = np.moveaxis(part, 2, 1).reshape(-1, part.shape[1])
        return evidence(self.estimator_, flat).reshape(len(part), part.shape[2], -1).mean(1)


class ChosenByRuns(PatternDecoder):
    """The decoder that is best in inner folds of the training runs, fitted to all of them.

    After `fit`: `chosen_` (name), `inner_` (accuracy of every option).

    Args:
        options: Name to decoder.
        folds: Inner folds at most; each leaves whole runs out.
    """

    def __init__(self, options: Mapping[str, Any], folds: int = 5) -> None:
        self.options = options
        self.folds = folds

    def fit(self, x: np.ndarray, y: Any, *, groups: Any) -> ChosenByRuns:
        """Compare by inner folds, then fit.

        Args:
            groups: Run of each trial.

        Raises:
            ValueError: Fewer than two runs.
        """
        labels, runs = np.asarray(y), np.asarray(groups)
        names = np.array(list(dict.fromkeys(runs.tolist())))
        if len(names) < 2:
            raise ValueError(
                f"ChosenByRuns: training trials are of the run {names.tolist()}; choosing needs "
                "two runs. Name one decoder, or use more runs."
            )
        held = [np.isin(runs, part) for part in np.array_split(names, min(self.folds, len(names)))]
        held = [out for out in held if set(labels[~out]) == set(labels)] or held[:1]
        self.inner_ = {
            name: float(np.mean([self._right(option, x, labels, out) for out in held]))
            for name, option in self.options.items()
        }
        self.chosen_ = max(self.inner_, key=self.inner_.__getitem__)
        self.estimator_ = clone(self.options[self.chosen_]).fit(x, labels)
        self.classes_ = self.estimator_.classes_
        return self

    @staticmethod
    def _right(option: Any, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> float:
        fitted = clone(option).fit(x[~out], y[~out])
        return float((fitted.predict(x[out]) == y[out]).mean())

    def scores(self, x: np.ndarray) -> Float[np.ndarray, "trial output"]:
        """Of the chosen decoder."""
        return evidence(self.estimator_, x)
