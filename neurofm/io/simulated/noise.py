"""Random ingredients of simulated recordings: generators by name, noise of a given spectrum.

Axes: series time. Hz.
"""

from __future__ import annotations

import zlib

import numpy as np
from scipy.fft import irfft, next_fast_len, rfftfreq
from scipy.special import expit

from neurofm.shapes import Float


def seeded(*key: int | str) -> np.random.Generator:
    """Random numbers that are always the same for the same words and numbers."""
    return np.random.default_rng(
        [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    )


def unit(vector: np.ndarray) -> np.ndarray:
    """Vectors of length 1 along the last axis."""
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def noise(
    rng: np.random.Generator, n_series: int, n_times: int, sfreq: float, *, band: str, **at: float
) -> Float[np.ndarray, "series time"]:
    """Gaussian noise of unit root mean square.

    Args:
        band: "power" (1/f to the power `exponent` above 0.4 Hz), "peak" (a bump at `freq` Hz, a
            standard deviation of `width` Hz), "high" (above `low` Hz) or "drift" (below 0.4 Hz).
    """
    n = next_fast_len(n_times, real=True)
    freqs = rfftfreq(n, 1 / sfreq)
    if band == "power":
        shape = np.maximum(freqs, 0.4) ** (-at["exponent"] / 2)
    elif band == "peak":
        shape = np.exp(-0.5 * ((freqs - at["freq"]) / at["width"]) ** 2)
    elif band == "high":
        shape = expit(freqs - at["low"])
    else:
        shape = np.where(freqs < 0.4, 1.0 / np.maximum(freqs, 0.03), 0.0)
    shape[0] = 0.0
    pair = rng.standard_normal((2, n_series, len(freqs)), dtype=np.float32)
    series = irfft((pair[0] + 1j * pair[1]) * shape.astype(np.float32), n, axis=-1)[:, :n_times]
    return series / series.std(axis=-1, keepdims=True)
