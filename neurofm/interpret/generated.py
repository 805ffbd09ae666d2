"""Is what a model generates like the recordings it learned from? Spectra, bursts, covariance.

Each statistic is taken of real and of generated windows alike. A comparison means something beside
two others: real windows with other real windows (the best that can be expected) and with windows
made by a model that knows nothing of time.
Axes: window channel time. Hz, seconds; the unit of the signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, hilbert, sosfiltfilt, welch

from neurofm.shapes import Float


@dataclass(frozen=True)
class Bursts:
    """Episodes in which the amplitude of a rhythm is above a threshold.

    Args:
        rate: Per second of a channel.
        duration: Seconds, mean; 0 if there is none.
        amplitude: Mean of the largest amplitude of each, in the unit of the signal.
        threshold: Of each channel.
    """

    rate: float
    duration: float
    amplitude: float
    threshold: Float[np.ndarray, " channel"]


def spectrum(
    x: Float[np.ndarray, "window channel time"], sfreq: float, *, segment_s: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Power spectral density by Welch's method, mean over windows.

    Args:
        segment_s: Length of a segment; the resolution is its inverse.

    Returns:
        Frequencies in Hz, and channel x frequency in squared units per Hz.
    """
    n = min(round(segment_s * sfreq), x.shape[-1])
    frequency, power = welch(x.astype(np.float64), sfreq, nperseg=n, axis=-1)
    return frequency, power.mean(0)


def amplitude(
    x: Float[np.ndarray, "window channel time"], sfreq: float, band: tuple[float, float]
) -> Float[np.ndarray, "window channel time"]:
    """Envelope of a band: Butterworth of order 4, forwards and backwards, then Hilbert."""
    low, high = band
    if not 0 < low < high < sfreq / 2:
        raise ValueError(
            f"amplitude: band {low:g}-{high:g} Hz; expected 0 < low < high < {sfreq / 2:g} Hz, "
            "half the rate."
        )
    sos = butter(4, band, "bandpass", fs=sfreq, output="sos")
    return np.abs(hilbert(sosfiltfilt(sos, x.astype(np.float64), axis=-1), axis=-1))


def bursts(
    x: Float[np.ndarray, "window channel time"],
    sfreq: float,
    band: tuple[float, float],
    *,
    threshold: Float[np.ndarray, " channel"] | None = None,
    quantile: float = 0.75,
) -> Bursts:
    """Bursts of a rhythm; those cut off by the edge of a window count as they are.

    Args:
        band: Hz.
        threshold: Of each channel; that of real data when the data are generated.
        quantile: Without a threshold, this quantile of each channel's amplitude.
    """
    envelope = amplitude(x, sfreq, band)
    if threshold is None:
        threshold = np.quantile(envelope, quantile, axis=(0, 2))
    above = envelope > threshold[:, None]
    # A zero on both sides of every window, so that a burst never runs into the next one.
    edges = np.diff(np.pad(above, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=-1).ravel()
    width = x.shape[-1] + 1
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    seconds = envelope.size / sfreq
    if not len(starts):
        return Bursts(0.0, 0.0, 0.0, threshold)
    flat = np.pad(envelope, ((0, 0), (0, 0), (0, width - x.shape[-1]))).ravel()
    pairs = np.stack([starts, stops], 1).ravel()
    peaks = np.maximum.reduceat(flat, pairs)[::2]
    return Bursts(
        rate=len(starts) / seconds,
        duration=float((stops - starts).mean() / sfreq),
        amplitude=float(peaks.mean()),
        threshold=threshold,
    )


def covariance(
    x: Float[np.ndarray, "window channel time"], *, lags: Sequence[int] = (0,)
) -> Float[np.ndarray, "lag channel channel"]:
    """Covariance of channels with channels so many samples later, mean over windows."""
    x = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    n = x.shape[-1]
    if max(lags) >= n or min(lags) < 0:
        raise ValueError(f"covariance: lags {tuple(lags)} of windows of {n} samples.")
    return np.stack(
        [
            np.einsum("wct,wdt->cd", x[..., : n - lag], x[..., lag:]) / (len(x) * (n - lag))
            for lag in lags
        ]
    )


def compare_signals(
    real: Float[np.ndarray, "window channel time"],
    generated: Float[np.ndarray, "made channel_made time_made"],
    sfreq: float,
    *,
    band: tuple[float, float] = (8.0, 13.0),
    range_hz: tuple[float, float] = (1.0, 45.0),
) -> dict[str, float]:
    """How far generated windows are from real ones of the same channels.

    Args:
        sfreq: Hz.
        band: Of the bursts, Hz.
        range_hz: Of the spectra, Hz.

    Returns:
        "spectrum_db": mean absolute difference of the power spectra, dB. "spectrum_r": mean over
        channels of the correlation of their logarithms. "covariance_r": correlation of the
        covariances between different channels (NaN for fewer than three channels). "burst_rate",
        "burst_duration", "burst_amplitude": generated over real, with the threshold of real data.

    Raises:
        ValueError: Other channels.
    """
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"compare_signals: {real.shape[1]} real and {generated.shape[1]} generated channels."
        )
    n = min(real.shape[-1], generated.shape[-1])  # one resolution for both
    segment_s = min(1.0, n / sfreq)
    frequency, first = spectrum(real, sfreq, segment_s=segment_s)
    _, second = spectrum(generated, sfreq, segment_s=segment_s)
    inside = (frequency >= range_hz[0]) & (frequency <= range_hz[1])
    tiny = np.finfo(np.float64).tiny
    a, b = (10 * np.log10(np.maximum(p[:, inside], tiny)) for p in (first, second))
    pairs = np.triu_indices(real.shape[1], 1)
    here, there = (covariance(x)[0][pairs] for x in (real, generated))
    known = bursts(real, sfreq, band)
    made = bursts(generated, sfreq, band, threshold=known.threshold)
    return {
        "spectrum_db": float(np.abs(a - b).mean()),
        "spectrum_r": float(np.mean([_r(x, y) for x, y in zip(a, b, strict=True)])),
        "covariance_r": _r(here, there),
        "burst_rate": _ratio(made.rate, known.rate),
        "burst_duration": _ratio(made.duration, known.duration),
        "burst_amplitude": _ratio(made.amplitude, known.amplitude),
    }


def _r(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if len(x) > 1 and size > 0 else float("nan")


def _ratio(x: float, y: float) -> float:
    return x / y if y else float("nan")
