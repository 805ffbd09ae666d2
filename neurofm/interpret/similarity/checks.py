"""What the measures of this folder ask of two representations of the same samples."""

from __future__ import annotations

import warnings

import numpy as np

from neurofm.interpret.arrays import require_finite


def pair(
    name: str, x: np.ndarray, y: np.ndarray, *, least: int = 2, same_width: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as float64, one row per sample.

    Raises:
        ValueError: Different samples, fewer than `least`, or values that are not finite.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"{name}: representations of shape {x.shape} and {y.shape}; expected one row per "
            "sample on both sides, the same samples in the same order."
        )
    if len(x) < least:
        raise ValueError(f"{name}: {len(x)} samples; at least {least} are needed.")
    if same_width and x.shape[1] != y.shape[1]:
        raise ValueError(f"{name}: {x.shape[1]} and {y.shape[1]} units; expected as many.")
    for side in (x, y):
        require_finite(name, side, "samples")
    return x, y


def centred(x: np.ndarray) -> np.ndarray:
    """Minus the mean of each column; a constant column is exactly zero."""
    out = x - x.mean(0)
    # The rounding error of a constant column's mean would otherwise pass for a signal.
    out[:, x.max(0) == x.min(0)] = 0.0
    return out


def means_that_exist(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=-1)
