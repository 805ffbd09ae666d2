"""How well a signal agrees with another: correlation, and what is kept of each frequency band.

Axes: channel time = signals; the last axis is the one that is compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.signal import welch

from neurofm.shapes import Float

# Hz; the limits of MNE and of most clinical texts.
EEG_BANDS: dict[str, tuple[float, float]] = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 45.0),
}


def pearson_r(
    x: Float[np.ndarray, "*channel time"], y: Float[np.ndarray, "*channel time"]
) -> np.ndarray:
    """Correlation over the last axis, float64. NaN where either is constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim < 1 or a.shape[-1] < 2:
        raise ValueError(f"pearson_r: shapes {a.shape} and {b.shape}; expected equal, 2 or more.")
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (a * b).sum(-1) / scale, np.nan)


def limit_bands(
    bands: Mapping[str, tuple[float, float]] = EEG_BANDS,
    *,
    sfreq: float,
    band: tuple[float, float] | None = None,
) -> dict[str, tuple[float, float]]:
    """Bands cut to what a signal can hold; those that lose more than half their width are left out.

    Args:
        sfreq: Hz; nothing is above half of it.
        band: Hz, what filters left of the signal; None = all.
    """
    lowest, highest = band or (0.0, np.inf)
    cut = {
        name: (max(low, lowest), min(high, highest, sfreq / 2))
        for name, (low, high) in bands.items()
    }
    return {
        name: (low, high)
        for name, (low, high) in cut.items()
        if high - low >= (bands[name][1] - bands[name][0]) / 2
    }


def band_powers(
    x: Float[np.ndarray, "*channel time"],
    reconstruction: Float[np.ndarray, "*channel time"],
    sfreq: float,
    bands: Mapping[str, tuple[float, float]] = EEG_BANDS,
) -> Float[np.ndarray, "signal *channel band"]:
    """Power in each band of x, of the error (x - reconstruction), and of the reconstruction.

    The Welch estimate over at most two seconds at a time, in squared units of x up to one factor;
    0 for all three where a band holds no frequency bin.
    """
    a = np.asarray(x, dtype=np.float64)
    b = np.asarray(reconstruction, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"band_powers: x has shape {a.shape}, reconstruction {b.shape}.")
    n = min(a.shape[-1], round(2 * sfreq))
    freqs = np.fft.rfftfreq(n, 1 / sfreq)
    inside = np.stack([(freqs >= low) & (freqs < high) for low, high in bands.values()], -1)
    spectra = [welch(y, sfreq, nperseg=n, detrend="constant")[1] for y in (a, a - b, b)]
    return np.stack(spectra) @ inside.astype(np.float64)


def band_error(
    x: Float[np.ndarray, "*channel time"],
    reconstruction: Float[np.ndarray, "*channel time"],
    sfreq: float,
    bands: Mapping[str, tuple[float, float]] = EEG_BANDS,
) -> dict[str, dict[str, float]]:
    """What a reconstruction keeps of each frequency band, over all channels together.

    Power is the Welch estimate over at most two seconds at a time, summed over all leading axes.

    Args:
        sfreq: Hz.
        bands: Name to lower and upper limit, Hz, upper one excluded.

    Returns:
        For each band: `explained`, 1 minus the power of the error over the power of x (1 = exact, 0
        = no better than silence, negative = worse), and `power_ratio`, the reconstruction's power
        over that of x (1 = as strong, whatever its phase). NaN where x has no power, where the band
        holds no frequency bin or reaches past half of `sfreq`.
    """
    summed = band_powers(x, reconstruction, sfreq, bands)
    original, error, remade = summed.reshape(3, -1, len(bands)).sum(1)
    result = {}
    for i, (name, (_, high)) in enumerate(bands.items()):
        explained = ratio = float("nan")
        if original[i] > 0 and high <= sfreq / 2:
            explained = float(1 - error[i] / original[i])
            ratio = float(remade[i] / original[i])
        result[name] = {"explained": explained, "power_ratio": ratio}
    return result
