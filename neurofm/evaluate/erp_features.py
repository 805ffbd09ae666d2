"""Manual features of windows, as a scikit-learn transformer, and one linear layer on them.

31 features of each channel for EEG in general (10 statistical, 7 spectral, 3 entropies, 11 of band
power) and 91 for event-related potentials (a temporal pyramid of 1 + 2 + 4 + 8 segments with 5
features each, 4 of the peaks, 8 spectral, 1 entropy, 3 of Hjorth).

Source: the counts, the pyramid, the peaks and the spectral features of the ERP set are those of
"Benchmarking ERP Analysis" (arXiv 2601.00573). It does not spell out the members of the EEG set,
the edges of bands and the estimate of the spectrum; those are chosen here and told in `UNITS` and
`WindowFeatures`.
Axes: window channel time; bin = frequency above 0 Hz; segment of the pyramid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin

from neurofm.evaluate.probing import LinearProbe
from neurofm.shapes import Float

# Hz, from and below; gamma ends where these recordings are low-passed.
BANDS = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 40.0),
}
LEVELS = (1, 2, 4, 8)
AMPLITUDE_BINS = 10
FLOOR = 1e-4  # of the mean power of the bins: the least that a bin counts for in flatness
_SEGMENT = ("mean", "std", "rms", "line_length", "peak_to_peak")
_BLOCK = 2_000_000  # samples worked on at a time

_EEG_UNITS = {
    # statistical
    **dict.fromkeys(("mean", "median", "std", "minimum", "maximum", "peak_to_peak", "rms"), "µV"),
    "skewness": "",
    "kurtosis": "",
    "mean_step": "µV",
    # spectral
    "total_power": "µV²",
    **dict.fromkeys(("centroid", "bandwidth", "median_freq", "edge_freq_95", "peak_freq"), "Hz"),
    "flatness": "",
    # entropies
    "spectral_entropy": "",
    "amplitude_entropy": "",
    "permutation_entropy": "",
    # band power
    **{f"{band}_power": "µV²" for band in BANDS},
    **{f"{band}_share": "" for band in BANDS},
    "theta_beta_ratio": "",
}
_ERP_UNITS = {
    **{
        f"level{level}_segment{k}_{name}": "µV"
        for level in LEVELS
        for k in range(level)
        for name in _SEGMENT
    },
    **{"positive_peak": "µV", "positive_latency": "", "negative_peak": "µV"},
    "negative_latency": "",
    **{f"erp_{band}_share": "" for band in ("delta", "theta", "alpha", "beta")},
    **{"erp_total_power": "µV²", "erp_centroid": "Hz", "erp_flatness": "", "erp_median_freq": "Hz"},
    "erp_spectral_entropy": "",
    **{"activity": "µV²", "mobility": "1/s", "complexity": ""},
}
UNITS: dict[str, dict[str, str]] = {"eeg": _EEG_UNITS, "erp": _ERP_UNITS}


class WindowFeatures(TransformerMixin, BaseEstimator):
    """Manual features of every channel, side by side. Nothing is learned from the windows.

    The spectrum is one Hann-windowed periodogram of the window without its mean; the bin at 0 Hz
    counts nowhere. In its terms, with P the power of a bin and f its frequency:

    * total_power: sum of P. A sine of amplitude A has A²/2.
    * NAME_power, NAME_share: sum of P in a band, and its share of total_power. Bands: delta 0.5-4,
      theta 4-8, alpha 8-13, beta 13-30, gamma 30-40 Hz, the upper edge excluded.
    * centroid: mean of f weighted by P; bandwidth: the standard deviation of f about it.
    * median_freq, edge_freq_95: lowest f up to which 50 % and 95 % of the power lie.
    * peak_freq: f of the largest P. flatness: geometric over arithmetic mean of P (0 to 1), where
      no P counts for less than a ten-thousandth of the mean.
    * spectral_entropy: Shannon entropy of P / total_power over the logarithm of the number of bins.

    In time:

    * std is biased; skewness and kurtosis are standardized moments, kurtosis without 3 (a normal
      distribution has 0); mean_step is the mean of |x[i+1] - x[i]|, line_length their sum.
    * amplitude_entropy: Shannon entropy of ten equal bins from minimum to maximum, over log 10.
    * permutation_entropy: of the order of three neighbouring samples, over log 6; equal samples
      count as rising.
    * Segments of the pyramid: segment k of n covers samples floor(kT/n) to floor((k+1)T/n), at
      least one. Latencies of the largest and smallest sample: 0 at the first sample, 1 at the last.
    * activity: variance; mobility: root of variance(x') / variance(x), x' the step per second;
      complexity: mobility(x') / mobility(x).

    What is undefined for a flat channel, or for too few samples, is 0.

    Args:
        features: "eeg" (31 for each channel), "erp" (91), or "all" (122).
        sfreq: Hz.
        channels: Names, for `get_feature_names_out`; numbered if not given.

    Source: arXiv 2601.00573; Hjorth 1970; Bandt & Pompe 2002 (permutation entropy).
    """

    def __init__(
        self,
        features: str = "all",
        *,
        sfreq: float | int = 256.0,
        channels: Sequence[str] | None = None,
    ) -> None:
        self.features = features
        self.sfreq = sfreq
        self.channels = channels

    def fit(self, x: Float[np.ndarray, "window channel time"], y: object = None) -> WindowFeatures:
        """Remember the number of channels.

        Raises:
            ValueError: As in `transform`.
        """
        if self.features not in ("eeg", "erp", "all"):
            raise ValueError(
                f"WindowFeatures: features is {self.features!r}, expected 'eeg', 'erp' or 'all'."
            )
        if not self.sfreq > 0:
            raise ValueError(f"WindowFeatures: sfreq is {self.sfreq} Hz, expected above 0.")
        self.n_channels_ = _checked(x).shape[1]
        if self.channels is not None and len(self.channels) != self.n_channels_:
            raise ValueError(
                f"WindowFeatures: {len(self.channels)} names for {self.n_channels_} channels."
            )
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window feature"]:
        """All features of the first channel, then of the second, and so on.

        Args:
            x: Microvolts.

        Raises:
            ValueError: Other channels than in `fit`, fewer than two samples, NaN or infinity.
        """
        x = _checked(x)
        if x.shape[1] != self.n_channels_:
            raise ValueError(
                f"WindowFeatures: windows of {x.shape[1]} channels, fitted on {self.n_channels_}."
            )
        size = max(1, _BLOCK // (x.shape[1] * x.shape[2]))
        parts = [self._block(x[i : i + size]) for i in range(0, len(x), size)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.get_feature_names_out())))

    def _block(self, x: np.ndarray) -> np.ndarray:
        spectrum = Spectrum(x, self.sfreq)
        found = []
        if self.features in ("eeg", "all"):
            found += [_statistics(x), spectrum.shape(), _entropies(x, spectrum), spectrum.bands()]
        if self.features in ("erp", "all"):
            found += [_pyramid(x), _peaks(x), spectrum.erp(), _hjorth(x, self.sfreq)]
        return np.concatenate(found, -1).reshape(len(x), -1)

    def _names(self) -> list[tuple[str, str]]:
        sets = ("eeg", "erp") if self.features == "all" else (self.features,)
        return [item for name in sets for item in UNITS[name].items()]

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """CHANNEL_FEATURE, in the order of the columns."""
        channels = self.channels or [f"channel{i}" for i in range(self.n_channels_)]
        return np.array([f"{c}_{name}" for c in channels for name, _ in self._names()], object)

    def units(self) -> list[str]:
        """Unit of each column; empty where it has none."""
        return [unit for _, unit in self._names()] * self.n_channels_


def _checked(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 3 or x.shape[2] < 2:
        raise ValueError(
            f"WindowFeatures: windows of shape {x.shape}, expected window channel time with at "
            "least two samples."
        )
    if not np.isfinite(x).all():
        window, channel, _ = np.argwhere(~np.isfinite(x))[0].tolist()
        raise ValueError(
            f"WindowFeatures: window {window}, channel {channel} has NaN or infinity. Put "
            "InterpolateBads into the preprocessing, or leave the window out."
        )
    return x


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient, 0 where the divisor is 0 or next to it."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.zeros(below.shape), where=below > 1e-24)


def _deviation(x: np.ndarray) -> np.ndarray:
    """Biased standard deviation over the last axis; a constant has exactly 0."""
    return x.std(-1) * (np.ptp(x, -1) > 0)


def _statistics(x: np.ndarray) -> Float[np.ndarray, "window channel 10"]:
    mean, std = x.mean(-1), _deviation(x)
    low, high = x.min(-1), x.max(-1)
    z = _ratio(x - mean[..., None], std[..., None])
    step = np.abs(np.diff(x)).mean(-1)
    fourth = (z**4).mean(-1) - 3.0 * (std > 0)
    rms = np.sqrt((x**2).mean(-1))
    parts = [mean, np.median(x, -1), std, low, high, high - low, rms, (z**3).mean(-1), fourth, step]
    return np.stack(parts, -1)


class Spectrum:
    """Power of windows in each bin above 0 Hz, and what follows from it.

    Args:
        x: Microvolts.
        sfreq: Hz.
    """

    def __init__(self, x: Float[np.ndarray, "window channel time"], sfreq: float | int) -> None:
        n = x.shape[-1]
        taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
        centred = (x - x.mean(-1, keepdims=True)) * (np.ptp(x, -1, keepdims=True) > 0)
        power = np.abs(np.fft.rfft(centred * taper)[..., 1:]) ** 2 / (n * (taper**2).sum())
        power[..., : (n - 1) // 2] *= 2  # all but the Nyquist frequency stand for two
        self.power = power
        self.freqs = np.fft.rfftfreq(n, 1 / sfreq)[1:]
        self.total = power.sum(-1)
        self.share = _ratio(power, self.total[..., None])
        self.centroid = self.share @ self.freqs

    def band(self, name: str) -> Float[np.ndarray, "window channel"]:
        """Power in a band, µV²."""
        low, high = BANDS[name]
        return self.power[..., (self.freqs >= low) & (self.freqs < high)].sum(-1)

    def edge(self, share: float) -> Float[np.ndarray, "window channel"]:
        """Lowest frequency up to which this share of the power lies, Hz; 0 without power."""
        reached = np.cumsum(self.share, -1) >= share - 1e-12
        return self.freqs[reached.argmax(-1)] * reached.any(-1)

    def flatness(self) -> Float[np.ndarray, "window channel"]:
        """Geometric over arithmetic mean of the power of the bins, 0 to 1."""
        n = len(self.freqs)
        # Behind a low-pass lies what rounding left, by which recordings differ.
        geometric = np.exp(np.log(np.maximum(self.share * n, FLOOR)).mean(-1))
        return geometric * (self.total > 0)

    def entropy(self) -> Float[np.ndarray, "window channel"]:
        """Of the shares of the bins, 0 (one bin) to 1 (all alike)."""
        return _entropy(self.share, len(self.freqs))

    def shape(self) -> Float[np.ndarray, "window channel 7"]:
        """Seven spectral features."""
        apart = (self.freqs - self.centroid[..., None]) ** 2
        bandwidth = np.sqrt((self.share * apart).sum(-1))
        peak = self.freqs[self.power.argmax(-1)] * (self.total > 0)
        parts = [self.total, self.centroid, bandwidth, self.edge(0.5), self.edge(0.95), peak]
        return np.stack([*parts, self.flatness()], -1)

    def bands(self) -> Float[np.ndarray, "window channel 11"]:
        """Power of five bands, their shares, and theta over beta."""
        power = np.stack([self.band(name) for name in BANDS], -1)
        ratio = _ratio(self.band("theta"), self.band("beta"))
        return np.concatenate([power, _ratio(power, self.total[..., None]), ratio[..., None]], -1)

    def erp(self) -> Float[np.ndarray, "window channel 9"]:
        """Eight spectral features of the ERP set and the entropy."""
        shares = [_ratio(self.band(name), self.total) for name in tuple(BANDS)[:4]]
        parts = [*shares, self.total, self.centroid, self.flatness(), self.edge(0.5)]
        return np.stack([*parts, self.entropy()], -1)


def _entropy(share: np.ndarray, n: int) -> np.ndarray:
    """Shannon entropy over the last axis, over its largest value."""
    if n < 2:
        return np.zeros(share.shape[:-1])
    return -(share * np.log(np.maximum(share, 1e-300))).sum(-1) / np.log(n)


def _entropies(x: np.ndarray, spectrum: Spectrum) -> Float[np.ndarray, "window channel 3"]:
    low, spread = x.min(-1, keepdims=True), np.ptp(x, -1, keepdims=True)
    place = np.minimum(_ratio(x - low, spread) * AMPLITUDE_BINS, AMPLITUDE_BINS - 1).astype(np.int8)
    amplitude = np.stack([(place == k).mean(-1) for k in range(AMPLITUDE_BINS)], -1)
    first, second, third = x[..., :-2], x[..., 1:-1], x[..., 2:]
    # Three comparisons name the order; two of their eight combinations cannot occur.
    order = 4 * (first > second) + 2 * (second > third) + 1 * (first > third)
    pattern = np.zeros((*x.shape[:-1], 8))
    if x.shape[-1] > 2:
        pattern = np.stack([(order == k).mean(-1) for k in range(8)], -1)
    parts = [spectrum.entropy(), _entropy(amplitude, AMPLITUDE_BINS), _entropy(pattern, 6)]
    return np.stack(parts, -1)


def _pyramid(x: np.ndarray) -> Float[np.ndarray, "window channel 75"]:
    n = x.shape[-1]
    found = []
    for level in LEVELS:
        for k in range(level):
            start = min(k * n // level, n - 1)
            part = x[..., start : max((k + 1) * n // level, start + 1)]
            length = np.abs(np.diff(part)).sum(-1)
            rms = np.sqrt((part**2).mean(-1))
            found += [part.mean(-1), _deviation(part), rms, length, np.ptp(part, -1)]
    return np.stack(found, -1)


def _peaks(x: np.ndarray) -> Float[np.ndarray, "window channel 4"]:
    last = x.shape[-1] - 1
    late, early = x.argmax(-1) / last, x.argmin(-1) / last
    return np.stack([x.max(-1), late, x.min(-1), early], -1)


def _hjorth(x: np.ndarray, sfreq: float | int) -> Float[np.ndarray, "window channel 3"]:
    slope = np.diff(x) * sfreq
    bend = np.diff(slope) * sfreq if x.shape[-1] > 2 else np.zeros_like(slope)
    spread, steps, bends = (_deviation(part) for part in (x, slope, bend))
    # A ramp's steps differ by rounding alone.
    steps = steps * (steps > 1e-9 * np.abs(slope).max(-1))
    mobility = _ratio(steps, spread)
    return np.stack([spread**2, mobility, _ratio(_ratio(bends, steps), mobility)], -1)


class FeatureClassifier(ClassifierMixin, BaseEstimator):
    """Manual features and one linear layer: `WindowFeatures`, then `LinearProbe`.

    Features are standardized on the training windows, classes weigh equally, and the penalty of the
    layer is chosen inside them.

    Args:
        features: "eeg", "erp" or "all".
        sfreq: Hz; what `fit` is told goes first.
        seed: Of the folds that choose the penalty.

    Source: arXiv 2601.00573, where the layer is trained by gradient descent without a penalty.
    """

    def __init__(self, features: str = "erp", *, sfreq: float | int = 256.0, seed: int = 0) -> None:
        self.features = features
        self.sfreq = sfreq
        self.seed = seed

    def fit(
        self,
        x: Float[np.ndarray, "window channel time"],
        y: np.ndarray,
        *,
        sfreq: float | None = None,
        names: Sequence[str] | None = None,
    ) -> FeatureClassifier:
        """Learn from these windows.

        Args:
            x: Microvolts.
            sfreq: Hz, of the windows.
            names: Of the channels.

        Raises:
            ValueError: One class only, or windows that `WindowFeatures` refuses.
        """
        rate = self.sfreq if sfreq is None else sfreq
        self.transform_ = WindowFeatures(self.features, sfreq=rate, channels=names)
        self.probe_ = LinearProbe(seed=self.seed).fit(self.transform_.fit_transform(x), y)
        self.classes_ = self.probe_.classes_
        return self

    def predict_proba(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class, in the order of `classes_`."""
        return self.probe_.predict_proba(self.transform_.transform(x))

    def predict(self, x: Float[np.ndarray, "window channel time"]) -> np.ndarray:
        """The most probable class of each window."""
        return self.classes_[self.predict_proba(x).argmax(1)]
