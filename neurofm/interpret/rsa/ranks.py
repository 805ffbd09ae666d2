"""Rank correlations."""

from __future__ import annotations

import numpy as np
from scipy import stats

from neurofm.shapes import Float


def kendall(a: Float[np.ndarray, " pair"], b: Float[np.ndarray, " pair"], method: str) -> float:
    """Kendall's tau-b, or tau-a: concordant minus discordant over all comparisons."""
    tau = float(stats.kendalltau(a, b).statistic)
    if method == "tau-b":
        return tau
    total = len(a) * (len(a) - 1) / 2
    untied = [total - (c * (c - 1) / 2).sum() for c in map(_tie_counts, (a, b))]
    return tau * float(np.sqrt(untied[0] * untied[1])) / total if min(untied) > 0 else 0.0


def _tie_counts(x: np.ndarray) -> np.ndarray:
    return np.unique(x, return_counts=True)[1].astype(np.float64)
