"""Frequency bands of a window: their power, and the window without them.

Both use the Fourier transform of the whole window, so phase is untouched and a window is treated as
periodic: within about one period of the band's lower edge from either end, values are less sure.
Axes: batch channel time; band in the order given.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from neurofm.shapes import Float

BANDS: dict[str, tuple[float, float]] = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "mu": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 45.0),
}


def band_power(
    x: Float[np.ndarray, "window channel time"],
    sfreq: float,
    bands: Mapping[str, tuple[float, float]] = BANDS,
) -> Float[np.ndarray, "window channel band"]:
    """Power of each band, in 10 log10 of the squared unit of `x` (dB).

    Args:
        sfreq: Hz.
        bands: Name to lower (included) and upper (excluded) edge, Hz.

    Raises:
        ValueError: A band holds no frequency of the window.
    """
    n = x.shape[-1]
    window = np.hanning(n)
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    # Parseval: the sum over all one-sided bins is the variance.
    power = 2 * np.abs(np.fft.rfft(centred * window)) ** 2 / (n * np.square(window).sum())
    frequencies = np.fft.rfftfreq(n, 1 / sfreq)
    tiny = np.finfo(np.float64).tiny
    columns = [
        10 * np.log10(np.maximum(power[..., inside].sum(-1), tiny))
        for inside in (_bins(frequencies, name, edges) for name, edges in bands.items())
    ]
    return np.stack(columns, axis=-1)


def remove_band(
    x: Float[Tensor, "batch channel time"], sfreq: float, low: float, high: float
) -> Float[Tensor, "batch channel time"]:
    """The windows with frequencies from `low` (included) to `high` (excluded), Hz, set to zero."""
    n = x.shape[-1]
    inside = _bins(np.fft.rfftfreq(n, 1 / sfreq), f"{low:g}-{high:g} Hz", (low, high))
    spectrum = torch.fft.rfft(x)
    spectrum[..., torch.as_tensor(inside, device=x.device)] = 0
    return torch.fft.irfft(spectrum, n=n)


def _bins(frequencies: np.ndarray, name: str, edges: tuple[float, float]) -> np.ndarray:
    low, high = edges
    inside = (frequencies >= low) & (frequencies < high)
    if not low < high or not inside.any():
        raise ValueError(
            f"Band {name!r} of {low:g} to {high:g} Hz holds no frequency of this window, which has "
            f"steps of {frequencies[1]:.3g} Hz up to {frequencies[-1]:.4g} Hz. Use longer windows "
            "or another band."
        )
    return inside
