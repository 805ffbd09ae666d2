"""What all classical decoders are: a scikit-learn pipeline behind checks of its windows.

Axes: window channel time; output = class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import Pipeline

from neurofm.shapes import Float

_FLAT = 1e-10  # of the median power of channels, or of windows


class WindowPipeline(ClassifierMixin, BaseEstimator):
    """A scikit-learn pipeline whose first step takes windows.

    After `fit`, `pipeline_` is the fitted pipeline. The one given stays as it is.

    Args:
        pipeline: Unfitted. Its steps with a parameter `sfreq` are told the rate.
        sfreq: Hz; only for pipelines that look at frequencies, and `fit` may be told instead.
        min_samples: Shortest window that makes sense.
        min_windows: Fewest windows of a class.
        n_components: Spatial filters that are asked for, which channels and windows must allow.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        sfreq: float | None = None,
        min_samples: int = 8,
        min_windows: int = 2,
        n_components: int = 1,
    ) -> None:
        self.pipeline = pipeline
        self.sfreq = sfreq
        self.min_samples = min_samples
        self.min_windows = min_windows
        self.n_components = n_components

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        sfreq: float | None = None,
        names: Sequence[str] | None = None,
    ) -> WindowPipeline:
        """Fit on training windows.

        Args:
            x: Microvolts.
            y: Class of each window.
            sfreq: Hz, if the constructor was not told.
            names: Of the channels, for messages.

        Raises:
            ValueError: NaN, a flat channel or window, windows too short, one class or too few
                windows of a class, no rate where one is needed, or more components than channels
                or windows.
        """
        x, y = self._checked(x), np.asarray(y)
        self.classes_, counts = np.unique(y, return_counts=True)
        found = dict(zip(self.classes_.tolist(), counts.tolist(), strict=True))
        if len(y) != len(x):
            raise ValueError(f"{len(x)} windows, {len(y)} labels; expected one for each.")
        if len(counts) < 2 or counts.min() < self.min_windows:
            raise ValueError(
                f"training windows by class: {found}; expected two or more classes with at least "
                f"{self.min_windows} windows each. Train on more runs, or leave the class out."
            )
        _refuse_flat(x, names)
        self.power_ = float(np.median(x.var(axis=2).max(axis=1)))
        _refuse_dead(x, self.power_)
        limit = min(x.shape[:2])
        if not 1 <= self.n_components <= limit:
            raise ValueError(
                f"n_components is {self.n_components}, with {x.shape[1]} channels and {len(x)} "
                f"training windows; expected 1 to {limit}."
            )
        self.shape_ = x.shape[1:]
        self.pipeline_ = clone(self.pipeline)
        needing = [k for k in self.pipeline_.get_params() if k.endswith("__sfreq")]
        rate = self.sfreq if sfreq is None else sfreq
        self.pipeline_.set_params(**dict.fromkeys(needing, rate)).fit(x, y)
        return self

    def predict_proba(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class, in the order of `classes_`.

        Raises:
            ValueError: NaN, a flat window, or windows of another shape than those of `fit`.
        """
        if not hasattr(self, "pipeline_"):
            raise ValueError("WindowPipeline: call fit before predict_proba.")
        x = self._checked(x)
        if x.shape[1:] != self.shape_:
            raise ValueError(
                f"windows of {x.shape[1]} channels and {x.shape[2]} samples; fitted on "
                f"{self.shape_[0]} channels and {self.shape_[1]} samples."
            )
        _refuse_dead(x, self.power_)
        return self.pipeline_.predict_proba(x)

    def predict(self, x: Float[np.ndarray, "window channel time"]) -> np.ndarray:
        """The most probable class of each window."""
        return self.classes_[self.predict_proba(x).argmax(1)]

    def _checked(self, x: np.ndarray) -> Float[np.ndarray, "window channel time"]:
        x = np.asarray(x)
        if x.ndim != 3 or 0 in x.shape:
            raise ValueError(
                f"windows of shape {x.shape}; expected (window, channel, time), none of them 0."
            )
        if x.shape[2] < self.min_samples:
            raise ValueError(
                f"windows of {x.shape[2]} samples; this pipeline needs {self.min_samples} or more. "
                "Use a longer window_s, or a higher rate."
            )
        if not np.isfinite(x).all():
            window, channel, _ = np.argwhere(~np.isfinite(x))[0].tolist()
            raise ValueError(
                f"window {window} holds NaN or infinity in channel {channel}. Leave it out, or "
                "repair the recording first (InterpolateBads)."
            )
        return x.astype(np.float64)


def _refuse_flat(x: np.ndarray, names: Sequence[str] | None) -> None:
    power = x.var(axis=2).mean(axis=0)
    flat = np.flatnonzero(power <= _FLAT * np.median(power))
    if len(flat):
        which = ", ".join(str(i) if names is None else names[i] for i in flat[:8])
        raise ValueError(
            f"{len(flat)} of {len(power)} channels are flat in all training windows: {which}. "
            "Leave them out (PickChannels) or repair them (InterpolateBads)."
        )


def _refuse_dead(x: np.ndarray, power: float) -> None:
    dead = np.flatnonzero(x.var(axis=2).max(axis=1) <= _FLAT * power)
    if len(dead):
        raise ValueError(
            f"{len(dead)} of {len(x)} windows are flat in all channels, first window {dead[0]}: "
            "there is nothing to decode in them. Leave them out."
        )
