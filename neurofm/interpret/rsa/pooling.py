"""The RDM that is most similar to several: their mean, each in the form that a method compares.

Source: Nili et al. 2014; Schuett et al. 2023.
Axes: rdm, pair = upper triangle by rows.
"""

from __future__ import annotations

import numpy as np

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.rsa.comparators import METHODS
from neurofm.interpret.rsa.ranks import mid_ranks
from neurofm.shapes import Float


@takes_either
def pool(rdms: Float[np.ndarray, "rdm pair"], method: str) -> Float[np.ndarray, " pair"]:
    """Mean RDM.

    Args:
        method: What it will be compared by (see `compare`). Ranks are averaged as mid-ranks, which
            for Kendall's tau only comes near the most similar RDM. Methods that whiten or compare
            Gram matrices take the plain mean of "cosine" or "corr".

    Returns:
        In the unit of the form: root mean square 1, z-scores from a minimum of 0 on, or ranks.
        Pairs are averaged over those RDMs that know them.
    """
    total, count = _sums(normalized(rdms, method))
    return _shifted(_divided(total, count), method)


def normalized(rdms: Float[np.ndarray, "rdm pair"], method: str) -> Float[np.ndarray, "rdm pair"]:
    """RDMs in the form whose mean is pooled: none outweighs the others."""
    if method not in METHODS:
        raise ValueError(f"pool: method {method!r} is not one of {METHODS}.")
    x = np.asarray(rdms, dtype=np.float64)
    if method in ("spearman", "rho-a", "tau-a", "tau-b"):
        return mid_ranks(x)
    count = np.maximum((~np.isnan(x)).sum(1, keepdims=True), 1)
    if method in ("corr", "corr_cov"):
        x = x - np.nansum(x, axis=1, keepdims=True) / count
    scale = np.sqrt(np.nansum(x**2, axis=1, keepdims=True) / count)
    return x / np.where(scale > 0, scale, 1.0)


def pooled_others(
    rdms: Float[np.ndarray, "rdm pair"], groups: np.ndarray, method: str
) -> Float[np.ndarray, "group pair"]:
    """For every group, 0 to the last, the pooled RDM of all others."""
    ready = normalized(rdms, method)
    total, count = _sums(ready)
    out = []
    for group in range(int(groups.max()) + 1):
        own, known = _sums(ready[groups == group])
        out.append(_shifted(_divided(total - own, count - known), method))
    return np.stack(out)


def _sums(ready: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.nansum(ready, axis=0), (~np.isnan(ready)).sum(0)


def _divided(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _shifted(mean: np.ndarray, method: str) -> np.ndarray:
    if method in ("corr", "corr_cov") and not np.isnan(mean).all():
        return mean - np.nanmin(mean)
    return mean
