"""A decoder in front of which every person's windows are aligned, test people included.

Source: He & Wu 2020 (Euclidean alignment); Zanini et al. 2018 (Riemannian).
Axes: window channel time; output = class.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from neurofm.data.align import EuclideanAlignment, RiemannianAlignment
from neurofm.shapes import Float

_METRICS = {"euclidean": EuclideanAlignment, "riemannian": RiemannianAlignment}
_MODES = ("offline", "causal", "train")


class Aligned(ClassifierMixin, BaseEstimator):
    """Align the windows of each person without labels, then classify.

    Training windows are aligned by all training windows of the same person. For test windows:

    - "offline": all test windows of the person that are predicted together. Uses unlabelled test
      data of the future.
    - "causal": the person's training windows, if any, and the test windows up to the one in
      question, in the order in which they are given, which must be that of time. What a running
      decoder can do.
    - "train": the person's training windows alone; a person without any is refused.

    The attribute `align` says which, for records.

    Args:
        estimator: With `fit` and `predict_proba`.
        metric: Of the mean covariance: "euclidean" or "riemannian".
        mode: "offline", "causal" or "train".
    """

    def __init__(
        self,
        estimator: Any,
        *,
        metric: Literal["euclidean", "riemannian"] = "euclidean",
        mode: str = "offline",
    ) -> None:
        self.estimator = estimator
        self.metric = metric
        self.mode = mode

    @property
    def align(self) -> str:
        """Metric and mode."""
        return f"{self.metric} {self.mode}"

    def fit(
        self,
        x: Float[np.ndarray, "window channel time"],
        y: np.ndarray,
        *,
        groups: Sequence[str] | None = None,
        sfreq: float | None = None,
        names: Sequence[str] | None = None,
    ) -> Aligned:
        """Align the training windows and fit the estimator on them.

        Args:
            groups: Person of each window; one person if not given.
            sfreq: Hz, handed on to an estimator that takes it.
            names: Of the channels, likewise.

        Raises:
            ValueError: An unknown metric or mode, or windows that cannot be aligned.
        """
        if self.metric not in _METRICS or self.mode not in _MODES:
            raise ValueError(
                f"Aligned: metric {self.metric!r} and mode {self.mode!r}; expected "
                f"{' or '.join(_METRICS)}, and {', '.join(_MODES)}."
            )
        self.alignment_ = _METRICS[self.metric]().fit(x, groups)
        self.estimator_ = clone(self.estimator)
        taken = inspect.signature(self.estimator_.fit).parameters
        given = {"sfreq": sfreq, "names": names, "groups": groups}
        extra = {key: value for key, value in given.items() if key in taken}
        self.estimator_.fit(self.alignment_.transform(x, groups), y, **extra)
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(
        self,
        x: Float[np.ndarray, "window channel time"],
        *,
        groups: Sequence[str] | None = None,
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class.

        Args:
            groups: Person of each window; one person if not given.

        Raises:
            ValueError: In the mode "train", a person who has no training windows.
        """
        if self.mode == "train":
            aligned = self.alignment_.transform(x, groups)
        elif self.mode == "offline":
            aligned = _METRICS[self.metric]().fit_transform(x, groups)
        else:
            running = _METRICS[self.metric](mode="causal")
            running.means = self.alignment_.means
            aligned = running.transform(x, groups)
        return self.estimator_.predict_proba(aligned)

    def predict(
        self,
        x: Float[np.ndarray, "window channel time"],
        *,
        groups: Sequence[str] | None = None,
    ) -> np.ndarray:
        """The most probable class of each window."""
        return self.classes_[self.predict_proba(x, groups=groups).argmax(1)]
