"""Transformers of windows that scikit-learn, MNE and pyriemann lack.

Bands are cut out in the frequency domain: a window is tapered (Hann) and the products of its
Fourier coefficients inside a band are summed. That is the covariance of the band-passed window
without a filter that would ring into both ends of it: sharp 4 Hz bands need filters of about a
second, and a bank of filters through the recordings would store each of them many times.

Source: Ang et al. 2012 (filter bank, mutual information); Blankertz et al. 2008 (common spatial
patterns); Duan et al. 2013 (differential entropy).
Axes: window band channel time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pyriemann.spatialfilters import CSP
from scipy.signal import welch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.feature_selection import SelectKBest, mutual_info_classif

from neurofm.data.covariance import covariances, oas_covariances, oas_share, shrunk
from neurofm.shapes import Float

Bands = Sequence[Sequence[float]]


def band_coefficients(
    x: Float[np.ndarray, "window channel time"], *, sfreq: float, low: float, high: float
) -> np.ndarray:
    """Fourier coefficients of tapered windows inside a band.

    The sum of their squared magnitudes is the variance in the band.

    Raises:
        ValueError: The band has no frequency of a window of this length and rate.
    """
    n = x.shape[2]
    frequency = np.fft.rfftfreq(n, 1 / sfreq)
    inside = np.flatnonzero((frequency >= low) & (frequency < high) & (frequency > 0))
    if not len(inside) or high > sfreq / 2 + 1e-9:
        raise ValueError(
            f"band {low:g}-{high:g} Hz: windows of {n / sfreq:g} s at {sfreq:g} Hz hold "
            f"{len(inside)} of its frequencies, in steps of {sfreq / n:.3g} Hz up to "
            f"{sfreq / 2:g}. Use longer windows or other bands."
        )
    taper = np.hanning(n + 1)[:-1]
    centred = (x - x.mean(axis=2, keepdims=True)) * taper
    return np.fft.rfft(centred, axis=2)[..., inside] * np.sqrt(2 / (n * (taper**2).sum()))


class Covariances(TransformerMixin, BaseEstimator):
    """Covariance of each window.

    Args:
        shrink: "window": each by itself (OAS). "class": all by what the samples of a whole class
            need (Ledoit-Wolf, mean over classes), which is little: for filters that are made of
            the mean covariance of each class.
    """

    def __init__(self, shrink: Literal["window", "class"] = "window") -> None:
        self.shrink = shrink

    def fit(self, x: np.ndarray, y: np.ndarray | None = None) -> Covariances:
        """Find the share that is common to all windows."""
        if self.shrink not in ("window", "class"):
            raise ValueError(f"shrink is {self.shrink!r}, expected window or class.")
        self.share_ = 0.0
        if self.shrink == "class":
            y = np.asarray(y)
            samples = [
                x[y == label].swapaxes(1, 2).reshape(-1, x.shape[1]) for label in np.unique(y)
            ]
            self.share_ = float(np.mean([ledoit_wolf_shrinkage(part) for part in samples]))
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window channel channel"]:
        """Positive definite for windows that are not constant."""
        if self.shrink == "window":
            return oas_covariances(x)
        return shrunk(covariances(x), self.share_)


class BandCovariances(TransformerMixin, BaseEstimator):
    """Covariance of each window in each band.

    Args:
        bands: Lower and upper edges, Hz.
        sfreq: Hz.
    """

    def __init__(self, bands: Bands, *, sfreq: float | None = None) -> None:
        self.bands = bands
        self.sfreq = sfreq

    def fit(self, x: np.ndarray, y: np.ndarray | None = None) -> BandCovariances:
        """The share of the identity in each band, by what the windows together need."""
        found, counts = self._of(x)
        n = [len(x) * 2 * count for count in counts]
        mean = found.mean(axis=0)
        self.share_ = [float(oas_share(c[None], k)[0]) for c, k in zip(mean, n, strict=True)]
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window band channel channel"]:
        """Positive definite for windows that are not constant."""
        found, _ = self._of(x)
        parts = [shrunk(found[:, i], share) for i, share in enumerate(self.share_)]
        return np.stack(parts, axis=1)

    def _of(self, x: np.ndarray) -> tuple[np.ndarray, list[int]]:
        sfreq = _rate(self.sfreq)
        parts, counts = [], []
        for low, high in self.bands:
            at = band_coefficients(x, sfreq=sfreq, low=low, high=high)
            parts.append(at.real @ at.real.swapaxes(1, 2) + at.imag @ at.imag.swapaxes(1, 2))
            counts.append(at.shape[2])
        return np.stack(parts, axis=1), counts


class CommonSpatialPatterns(TransformerMixin, BaseEstimator):
    """Log power behind the spatial filters that tell classes apart best, band by band.

    After `fit`, `patterns_` and `filters_` are `component channel`, all components of the first
    band first, each band's most informative ones first.

    Args:
        n_components: For each band.
    """

    def __init__(self, n_components: int = 6) -> None:
        self.n_components = n_components

    def fit(self, c: np.ndarray, y: np.ndarray) -> CommonSpatialPatterns:
        """Filters of these covariances, `window channel channel` or with bands in between."""
        self.bands_ = [CSP(self.n_components).fit(part, y) for part in _by_band(c)]
        self.filters_ = np.concatenate([csp.filters_ for csp in self.bands_])
        self.patterns_ = np.concatenate([csp.patterns_ for csp in self.bands_])
        return self

    def transform(self, c: np.ndarray) -> Float[np.ndarray, "window feature"]:
        """Log power of the components of each band."""
        parts = zip(self.bands_, _by_band(c), strict=True)
        return np.concatenate([csp.transform(part) for csp, part in parts], axis=1)


def _by_band(c: np.ndarray) -> list[np.ndarray]:
    return [c] if c.ndim == 3 else list(c.swapaxes(0, 1))


class BandPower(TransformerMixin, BaseEstimator):
    """Power of each channel in each band, as features.

    Args:
        bands: Lower and upper edges, Hz.
        measure: "log_power", or "entropy": the differential entropy of a Gaussian of that
            variance, nats.
        sfreq: Hz.
    """

    def __init__(
        self,
        bands: Bands,
        *,
        measure: Literal["log_power", "entropy"] = "log_power",
        sfreq: float | None = None,
    ) -> None:
        self.bands = bands
        self.measure = measure
        self.sfreq = sfreq

    def fit(self, x: np.ndarray, y: np.ndarray | None = None) -> BandPower:
        """Nothing is learned."""
        if self.measure not in ("log_power", "entropy"):
            raise ValueError(f"measure is {self.measure!r}, expected log_power or entropy.")
        self.fitted_ = True
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window feature"]:
        """Bands of the first channel, then of the next."""
        sfreq = _rate(self.sfreq)
        power = np.stack(
            [
                (np.abs(band_coefficients(x, sfreq=sfreq, low=a, high=b)) ** 2).sum(axis=2)
                for a, b in self.bands
            ],
            axis=2,
        )
        log = _log(power)
        if self.measure == "entropy":
            log = 0.5 * (np.log(2 * np.pi * np.e) + log)
        return log.reshape(len(x), -1)


class Spectrum(TransformerMixin, BaseEstimator):
    """Log power spectral density of each channel (Welch, Hann, half overlapping), as features.

    Args:
        low: Hz.
        high: Hz.
        segment_s: Length of the averaged pieces, seconds; the resolution is its inverse.
        sfreq: Hz.
    """

    def __init__(
        self, low: float, high: float, *, segment_s: float = 1.0, sfreq: float | None = None
    ) -> None:
        self.low = low
        self.high = high
        self.segment_s = segment_s
        self.sfreq = sfreq

    def fit(self, x: np.ndarray, y: np.ndarray | None = None) -> Spectrum:
        """Nothing is learned."""
        self.fitted_ = True
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window feature"]:
        """Frequencies of the first channel, then of the next.

        Raises:
            ValueError: Segments longer than the windows, or no frequency between the edges.
        """
        sfreq = _rate(self.sfreq)
        n = round(self.segment_s * sfreq)
        if n > x.shape[2]:
            raise ValueError(
                f"segment_s {self.segment_s:g} is {n} samples, windows have {x.shape[2]}. Use "
                f"{x.shape[2] / sfreq:g} or less."
            )
        frequency, power = welch(x, sfreq, nperseg=n, axis=2)
        inside = (frequency >= self.low) & (frequency <= self.high)
        if not inside.any():
            raise ValueError(
                f"no frequency between {self.low:g} and {self.high:g} Hz in steps of "
                f"{sfreq / n:.3g} Hz. Use longer segments or other edges."
            )
        return _log(power[..., inside]).reshape(len(x), -1)


class SpectralSNR(TransformerMixin, BaseEstimator):
    """How far the power at given frequencies stands out of its neighbours, as features.

    Args:
        frequencies: Of the stimuli, Hz.
        harmonics: Multiples of each, 1 = the frequency alone.
        neighbours: Frequencies on each side that are averaged; the ones next to it, into which the
            taper leaks, are left out.
        log: Logarithm of the ratio.
        sfreq: Hz.
    """

    def __init__(
        self,
        frequencies: Sequence[float],
        *,
        harmonics: int = 1,
        neighbours: int = 4,
        log: bool = True,
        sfreq: float | None = None,
    ) -> None:
        self.frequencies = frequencies
        self.harmonics = harmonics
        self.neighbours = neighbours
        self.log = log
        self.sfreq = sfreq

    def fit(self, x: np.ndarray, y: np.ndarray | None = None) -> SpectralSNR:
        """Nothing is learned."""
        self.fitted_ = True
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window feature"]:
        """Stimuli and harmonics of the first channel, then of the next.

        Raises:
            ValueError: A frequency whose neighbours do not fit below half the rate.
        """
        sfreq = _rate(self.sfreq)
        n = x.shape[2]
        power = np.abs(np.fft.rfft((x - x.mean(2, keepdims=True)) * np.hanning(n + 1)[:-1])) ** 2
        wanted = [f * k for f in self.frequencies for k in range(1, self.harmonics + 1)]
        parts = []
        for f in wanted:
            at = round(f * n / sfreq)
            beside = [
                at + side * step for side in (-1, 1) for step in range(2, self.neighbours + 2)
            ]
            if min(beside) < 1 or max(beside) >= power.shape[2]:
                raise ValueError(
                    f"{f:g} Hz and {self.neighbours} neighbours on each side do not fit into the "
                    f"spectrum of windows of {n / sfreq:g} s at {sfreq:g} Hz. Use fewer "
                    "harmonics, longer windows or another frequency."
                )
            parts.append(_log(power[..., at]) - _log(power[..., beside].mean(axis=2)))
        ratio = np.stack(parts, axis=2).reshape(len(x), -1)
        return ratio if self.log else np.exp(ratio)


class EveryKth(TransformerMixin, BaseEstimator):
    """Every k-th sample of all channels, one after the other, as features.

    Args:
        every: Samples.
    """

    def __init__(self, every: int = 4) -> None:
        self.every = every

    def fit(self, x: np.ndarray, y: np.ndarray | None = None) -> EveryKth:
        """Nothing is learned."""
        if self.every < 1:
            raise ValueError(f"every is {self.every}, expected 1 or more samples.")
        self.fitted_ = True
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window feature"]:
        """Samples of the first channel, then of the next."""
        return x[..., :: self.every].reshape(len(x), -1)


def most_informative(k: int) -> Any:
    """Select the k features that say most about the class by themselves (mutual information)."""
    return SelectKBest(partial(mutual_info_classif, random_state=0), k=k)


def _rate(sfreq: float | None) -> float:
    if sfreq is None or not sfreq > 0:
        raise ValueError(f"sfreq is {sfreq}; expected the rate of the windows in Hz.")
    return sfreq


def _log(power: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(power, np.finfo(np.float64).tiny))
