"""MNE's filters and Fourier resampling on blocks of channels, and the filters it designs.

Axes: channel time.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import mne.filter
import numpy as np
from scipy.fft import next_fast_len

from neurofm.data.steps.step import stretches
from neurofm.shapes import Float
from neurofm.types import Signal

# float64 values MNE works on at a time: 64 MB, whatever the length and number of channels.
_BLOCK = 8_000_000


def by_stretch(
    signal: Signal, function: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "channel time"]:
    """Filter what lies between two joins by itself."""
    data = [signal.data[:, at] for at in stretches(signal)]
    return np.concatenate([by_channel(x, function, x.shape[1]) for x in data], axis=1)


def by_channel(
    data: Float[np.ndarray, "channel time"],
    function: Callable[[np.ndarray], np.ndarray],
    n_out: int,
) -> Float[np.ndarray, "channel new_time"]:
    """Apply a function to blocks of channels in float64, so that memory stays bounded."""
    result = np.empty((data.shape[0], n_out), dtype=np.float32)
    size = max(1, _BLOCK // max(data.shape[1], n_out, 1))
    for first in range(0, data.shape[0], size):
        result[first : first + size] = function(data[first : first + size].astype(np.float64))
    return result


def resampled(block: np.ndarray, ratio: Fraction) -> np.ndarray:
    """At another rate; the ends are continued by a reflection that fades out."""
    n, unit = block.shape[1], ratio.denominator
    margin = -(-max(min(n, 1000), 1) // unit)  # padding before, in units
    units = next_fast_len(margin + -(-n // unit) + margin)
    before, after = margin * unit, units * unit - margin * unit - n
    mean = block.mean(axis=1, keepdims=True)
    padded = np.pad(block - mean, ((0, 0), (before, after)), mode="edge")
    for length, at, step in ((before, before, 1), (after, before + n - 1, -1)):
        reach = min(length, n - 1)
        fade = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, reach + 1) / (reach + 1))
        inner = at + step * np.arange(1, reach + 1)
        outer = at - step * np.arange(1, length + 1)
        padded[:, outer[reach:]] = 0.0
        padded[:, outer[:reach]] = (2 * padded[:, [at]] - padded[:, inner]) * fade
    new = mne.filter.resample(
        padded, ratio.numerator, ratio.denominator, npad=0, method="fft", verbose="ERROR"
    )
    first = margin * ratio.numerator
    return new[:, first : first + round(n * ratio)] + mean


@lru_cache(maxsize=16)
def design(
    sfreq: float,
    low: float | tuple[float, ...] | None,
    high: float | tuple[float, ...] | None,
    transition: float | Literal["auto"],
) -> Float[np.ndarray, " tap"]:
    """The FIR that MNE designs for these edges."""
    taps = mne.filter.create_filter(
        None,
        sfreq,
        np.array(low) if isinstance(low, tuple) else low,
        np.array(high) if isinstance(high, tuple) else high,
        l_trans_bandwidth=transition,
        h_trans_bandwidth=transition,
        verbose="ERROR",
    )
    taps.flags.writeable = False  # shared by everybody who asks
    return taps
