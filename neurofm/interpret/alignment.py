"""Alignment of two representations of the same windows: linear centred kernel alignment (CKA).

Invariant to rotation and to a common scale of either side. Biased CKA goes to 1 when there are more
columns than windows, even for random data: use the debiased form unless there are many windows.

Source: Kornblith et al. 2019 (CKA); Song et al. 2012 (unbiased HSIC); Murphy et al. 2024 (why it
matters for neural data).
Axes: window, p and q = columns of the two sides.
"""

from __future__ import annotations

import numpy as np

from neurofm.shapes import Float


def linear_cka(
    x: Float[np.ndarray, "window p"],
    y: Float[np.ndarray, "_ q"],
    *,
    debiased: bool = True,
) -> float:
    """Linear CKA of two representations.

    Args:
        x: One row per window.
        y: The same windows in the same order (checked here, with a message, not by its annotation).
        debiased: Leave out products of a window with itself; the result can be negative.

    Returns:
        NaN if a side has no variance (or, debiased, a non-positive one) or contains NaN.

    Raises:
        ValueError: Different numbers of windows, or fewer than four when debiased.
    """
    x, y = _check(x, y, debiased)
    n, p, q = len(x), x.shape[1], y.shape[1]
    if n * (p + q) < p * p + p * q + q * q:
        k, l = x @ x.T, y @ y.T
        traces = [float(np.vdot(*pair)) for pair in ((k, l), (k, k), (l, l))]
    else:
        traces = [float(np.square(a.T @ b).sum()) for a, b in ((x, y), (x, x), (y, y))]
    cross, own_x, own_y = (
        _hsic(trace, a, b, debiased)
        for trace, (a, b) in zip(traces, ((x, y), (x, x), (y, y)), strict=True)
    )
    if not (own_x > 0 and own_y > 0):
        return float("nan")
    return float(cross / np.sqrt(own_x * own_y))


def hsic(
    x: Float[np.ndarray, "window p"],
    y: Float[np.ndarray, "_ q"],
    *,
    debiased: bool = True,
) -> float:
    """Hilbert-Schmidt independence criterion with linear kernels, float64.

    Works on p × q or window × window products, whichever is smaller.
    """
    x, y = _check(x, y, debiased)
    if len(x) ** 2 < x.shape[1] * y.shape[1]:
        trace = float(np.vdot(x @ x.T, y @ y.T))
    else:
        trace = float(np.square(x.T @ y).sum())
    return _hsic(trace, x, y, debiased)


def _hsic(trace: float, x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """From tr(K L) of centred data, whose kernels have rows that sum to zero."""
    n = len(x)
    if not debiased:
        return trace / (n - 1) ** 2
    own_x = np.einsum("ij,ij->i", x, x)
    own_y = np.einsum("ij,ij->i", y, y)
    # Without its diagonal, a row of a kernel sums to minus that diagonal entry.
    both = float(own_x @ own_y)
    total = float(own_x.sum() * own_y.sum()) / ((n - 1) * (n - 2))
    return (trace - both + total - 2 / (n - 2) * both) / (n * (n - 3))


def _check(x: np.ndarray, y: np.ndarray, debiased: bool) -> tuple[np.ndarray, np.ndarray]:
    if len(y) != len(x):
        raise ValueError(f"CKA: {len(x)} and {len(y)} windows; both sides need the same ones.")
    least = 4 if debiased else 2
    if len(x) < least:
        raise ValueError(f"CKA: {len(x)} windows; at least {least} are needed.")
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return _centred(x), _centred(y)


def _centred(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(0)
    # A constant column would leave the rounding error of its mean, and an alignment made of it.
    centred[:, x.max(0) == x.min(0)] = 0.0
    return centred
