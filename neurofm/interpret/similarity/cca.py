"""Canonical correlations (CCA): which directions of one representation the other has too.

Invariant to any invertible linear map of either side, so that directions of little variance count
as much as strong ones: with as many columns as samples the correlations are 1 whatever the data.
SVCCA keeps the strong principal components first; PWCCA weighs directions by how much of `x` they
carry.

Source: Raghu et al. 2017 (SVCCA); Morcos et al. 2018 (PWCCA).
Axes: sample; p and q = columns of the two sides; direction = canonical pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.similarity.checks import centred, pair
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Canonical:
    """Canonical correlations, strongest first.

    Args:
        correlations: Of each pair of directions.
        weights: Share of `x` along each direction, sum 1 (PWCCA).
        dims: Columns of the two sides that were compared.
        n: Samples.
    """

    correlations: Float[np.ndarray, " direction"]
    weights: Float[np.ndarray, " direction"]
    dims: tuple[int, int]
    n: int

    @property
    def mean(self) -> float:
        """Mean correlation."""
        return float(self.correlations.mean())

    @property
    def mean_squared(self) -> float:
        """Mean squared correlation, R² of CCA."""
        return float((self.correlations**2).mean())

    @property
    def weighted(self) -> float:
        """PWCCA: directions count as `x` uses them; not symmetric."""
        return float(self.weights @ self.correlations)

    @property
    def forced(self) -> int:
        """How many correlations are 1 because so many directions share so few samples."""
        return max(0, sum(self.dims) - (self.n - 1))

    @property
    def chance(self) -> float:
        """Mean squared correlation that independent Gaussian data would have."""
        return min(max(self.dims) / (self.n - 1), 1.0)

    def plot(self) -> Figure:
        """The correlations in order, with the level of independent data."""
        from neurofm.interpret.similarity.drawings import draw_canonical

        return draw_canonical(self)


@takes_either
def cca(
    x: Float[np.ndarray, "sample p"],
    y: Float[np.ndarray, "_ q"],
    *,
    variance: float | int | None = None,
) -> Canonical:
    """Canonical correlations of two representations of the same samples.

    Args:
        variance: Share of each side's variance that its leading principal components keep (SVCCA
            with 0.99); all directions if not given.

    Raises:
        ValueError: A side with so many directions that every correlation is 1, NaN, or a side
            without variance.
    """
    x, y = (centred(side) for side in pair("CCA", x, y, least=3))
    a, b = _basis(x, variance), _basis(y, variance)
    if max(a.shape[1], b.shape[1]) >= len(x) - 1:
        raise ValueError(
            f"CCA: {a.shape[1]} and {b.shape[1]} directions of {len(x)} samples; with "
            f"{len(x) - 1} or more all are correlated by 1 whatever the data. Keep fewer with "
            "variance=0.99 or less, or use more samples."
        )
    left, correlations, _ = np.linalg.svd(a.T @ b)
    k = len(correlations)
    weights = np.abs((a @ left[:, :k]).T @ x).sum(1)
    return Canonical(
        correlations=np.clip(correlations, 0, 1),
        weights=weights / weights.sum(),
        dims=(a.shape[1], b.shape[1]),
        n=len(x),
    )


def _basis(x: np.ndarray, variance: float | int | None) -> np.ndarray:
    """Orthonormal columns that span a centred representation, or most of its variance."""
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    if not s[0] > 0:
        raise ValueError("CCA: a side has no variance; there is nothing to correlate.")
    rank = int((s > s[0] * max(x.shape) * np.finfo(float).eps).sum())
    if variance is None:
        return u[:, :rank]
    if not 0 < variance <= 1:
        raise ValueError(f"CCA: variance {variance}; expected a share over 0, at most 1.")
    share = np.cumsum(s**2) / (s**2).sum()
    return u[:, : min(int(np.searchsorted(share, variance)) + 1, rank)]
