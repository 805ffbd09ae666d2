"""Classical decoders of spectra: power of channels, without filters in space.

Source: the classical methods of arXiv 2601.17883; Duan et al. 2013 (differential entropy).
Axes: window channel time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from neurofm.cards import callable_from_cards
from neurofm.evaluate.classical.features import BandPower, SpectralSNR, Spectrum
from neurofm.evaluate.classical.motor import shrinkage_lda
from neurofm.evaluate.classical.pipeline import WindowPipeline
from neurofm.shapes import Float

_MOTOR = ((8.0, 12.0), (12.0, 16.0), (16.0, 20.0), (20.0, 25.0), (25.0, 30.0))
_EEG = ((1.0, 4.0), (4.0, 8.0), (8.0, 14.0), (14.0, 31.0), (31.0, 50.0))  # delta to gamma


@callable_from_cards
def band_power_svm(
    *, bands: Sequence[Sequence[float]] = _MOTOR, c: float = 1.0, sfreq: float | None = None
) -> WindowPipeline:
    """Log power of each channel in each band, z-score, support vectors with a Gaussian kernel.

    Args:
        bands: Lower and upper edges, Hz.
        c: Cost of a training window on the wrong side.
        sfreq: Hz, if `fit` is not told.
    """
    svm = FromDecision(SVC(C=c, class_weight="balanced"))
    steps = [("power", BandPower(bands)), ("scale", StandardScaler()), ("svm", svm)]
    return WindowPipeline(Pipeline(steps), sfreq=sfreq)


@callable_from_cards
def spectrum_lda(
    *, low: float = 4.0, high: float = 40.0, segment_s: float = 1.0, sfreq: float | None = None
) -> WindowPipeline:
    """Log power spectral density of each channel, linear discriminant with shrinkage.

    Args:
        low: Hz.
        high: Hz.
        segment_s: Length of the pieces whose spectra are averaged, seconds.
        sfreq: Hz, if `fit` is not told.
    """
    steps = [("spectrum", Spectrum(low, high, segment_s=segment_s)), ("lda", shrinkage_lda())]
    return WindowPipeline(Pipeline(steps), sfreq=sfreq)


@callable_from_cards
def spectrum_ridge(
    *,
    low: float = 4.0,
    high: float = 40.0,
    segment_s: float = 1.0,
    alpha: float = 1000.0,
    sfreq: float | None = None,
) -> WindowPipeline:
    """Log power spectral density of each channel, z-score, ridge regression onto the class.

    Args:
        low: Hz.
        high: Hz.
        segment_s: Length of the pieces whose spectra are averaged, seconds.
        alpha: Strength of the penalty.
        sfreq: Hz, if `fit` is not told.
    """
    steps = [
        ("spectrum", Spectrum(low, high, segment_s=segment_s)),
        ("scale", StandardScaler()),
        ("ridge", FromDecision(RidgeClassifier(alpha, class_weight="balanced"), link="linear")),
    ]
    return WindowPipeline(Pipeline(steps), sfreq=sfreq)


@callable_from_cards
def entropy_lda(
    *, bands: Sequence[Sequence[float]] = _EEG, sfreq: float | None = None
) -> WindowPipeline:
    """Differential entropy of each channel in each band, linear discriminant with shrinkage.

    Of a Gaussian it is half the logarithm of the variance and a constant: the same classes as log
    band power gives.

    Args:
        bands: Lower and upper edges, Hz.
        sfreq: Hz, if `fit` is not told.
    """
    steps = [("entropy", BandPower(bands, measure="entropy")), ("lda", shrinkage_lda())]
    return WindowPipeline(Pipeline(steps), sfreq=sfreq)


@callable_from_cards
def snr_lda(
    *,
    frequencies: Sequence[float],
    harmonics: int = 1,
    neighbours: int = 4,
    log: bool = True,
    sfreq: float | None = None,
) -> WindowPipeline:
    """Power at the frequencies of flickering stimuli against neighbours, linear discriminant.

    Args:
        frequencies: Hz.
        harmonics: Multiples of each frequency, 1 = itself alone.
        neighbours: Frequencies on each side that are averaged.
        log: Logarithm of the ratio.
        sfreq: Hz, if `fit` is not told.
    """
    snr = SpectralSNR(frequencies, harmonics=harmonics, neighbours=neighbours, log=log)
    return WindowPipeline(Pipeline([("snr", snr), ("lda", shrinkage_lda())]), sfreq=sfreq)


class FromDecision(ClassifierMixin, BaseEstimator):
    """Probabilities from the decision values of a classifier that has no probabilities.

    Their order is that of the values; they are not calibrated. Calibrating them on held-out parts
    of the training windows (Platt) turns weak decoders of few windows upside down: what a class has
    too little in a part it has too much in the rest.

    Args:
        estimator: With `decision_function`.
        link: "logistic"; or "linear" for least squares onto -1 and 1, which estimate 2 p - 1.
    """

    def __init__(
        self, estimator: BaseEstimator, *, link: Literal["logistic", "linear"] = "logistic"
    ) -> None:
        self.estimator = estimator
        self.link = link

    def fit(self, x: Float[np.ndarray, "window feature"], y: np.ndarray) -> FromDecision:
        """Fit on features."""
        self.estimator_ = clone(self.estimator).fit(x, y)
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(
        self, x: Float[np.ndarray, "window feature"]
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class."""
        score = self.estimator_.decision_function(x)
        if score.ndim == 1:
            score = np.stack([-score, score], axis=1)
        p = np.clip((1 + score) / 2, 1e-3, 1) if self.link == "linear" else expit(score)
        return p / p.sum(axis=1, keepdims=True)

    def predict(self, x: Float[np.ndarray, "window feature"]) -> np.ndarray:
        """The most probable class."""
        return self.estimator_.predict(x)
