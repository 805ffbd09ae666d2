"""Decide as if all classes were equally frequent, without weighing windows in training.

A decoder that learned from five standards for each target seldom says "target": its probabilities
contain how frequent the classes were. Divided by those shares they say what the window says.
Within a fold the order of windows stays as it was, and with it, for two classes, the area under the
curve; balanced accuracy gets the threshold it asks for.

Source: Bayes' rule; Saerens et al. 2002 (adjusting outputs to new priors).
Axes: window channel time; output = class.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from neurofm.shapes import Float


class EqualPriors(ClassifierMixin, BaseEstimator):
    """An estimator whose probabilities are made those of equally frequent classes.

    Args:
        estimator: With `predict_proba`; it is cloned.
        seed: Passed on to an estimator that has one.
    """

    def __init__(self, estimator: Any, *, seed: int = 0) -> None:
        self.estimator = estimator
        self.seed = seed

    def fit(
        self,
        x: Float[np.ndarray, "window channel time"],
        y: np.ndarray,
        *,
        sfreq: float | None = None,
        names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> EqualPriors:
        """Train the estimator; it is told what its own `fit` names of the last three.

        Args:
            sfreq: Hz, of the windows.
            names: Of the channels.
            groups: Subject of each window.

        Raises:
            ValueError: One class only.
        """
        self.classes_, counts = np.unique(y, return_counts=True)
        if len(counts) < 2:
            raise ValueError(
                f"EqualPriors: {len(y)} windows of the class {self.classes_.tolist()}; expected "
                "two or more classes."
            )
        self.shares_ = counts / counts.sum()
        self.estimator_ = clone(self.estimator)
        if "seed" in self.estimator_.get_params(deep=False):
            self.estimator_.set_params(seed=self.seed)
        extra = {"sfreq": sfreq, "names": names, "groups": groups}
        taken = set(inspect.signature(self.estimator_.fit).parameters) & set(extra)
        self.estimator_.fit(x, y, **{key: extra[key] for key in sorted(taken)})
        return self

    def predict_proba(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class, in the order of `classes_`."""
        p = self.estimator_.predict_proba(x) / self.shares_
        return p / p.sum(1, keepdims=True)

    def predict(self, x: Float[np.ndarray, "window channel time"]) -> np.ndarray:
        """The most probable class of each window."""
        return self.classes_[self.predict_proba(x).argmax(1)]
