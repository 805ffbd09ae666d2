"""Means and covariances of sites in one pass over data of any length.

Enough for principal components, correlations of units and linear CKA between sites, without keeping
activations. Batches are merged by the update of Chan et al. 1983, in float64: means and deviations
apart, so that large means cost no digits.
Axes: a site's patterns are window x p (see `Activations.patterns`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurofm.interpret.activations import Activations, Reduce, near_misses
from neurofm.interpret.arrays import require_finite
from neurofm.shapes import Float


class RunningMoments:
    """Collects moments of sites, and of pairs of sites.

    Args:
        pairs: Pairs of sites whose covariance is kept too, for CKA.
        reduce: To patterns; "tokens" takes every real token as a row.
    """

    def __init__(
        self, *, pairs: Sequence[tuple[str, str]] = (), reduce: Reduce = "mean_tokens"
    ) -> None:
        self.pairs, self.reduce = tuple(pairs), reduce
        self.count: dict[str, int] = {}
        self._mean: dict[str, np.ndarray] = {}
        self._sum: dict[tuple[str, str], np.ndarray] = {}

    def update(self, part: Activations) -> None:
        """Add windows.

        Raises:
            ValueError: NaN or infinity, which would make every later number one.
        """
        rows = {name: self._rows(part, name) for name in part.names}
        means = {name: x.mean(0) for name, x in rows.items()}
        apart = {name: means[name] - self._mean.get(name, means[name]) for name in rows}
        for a, b in [*((name, name) for name in rows), *self.pairs]:
            if len(rows[a]) != len(rows[b]):
                raise ValueError(
                    f"RunningMoments: {a!r} has {len(rows[a])} rows and {b!r} {len(rows[b])}; a "
                    "covariance needs the same. Reduce to one row per window."
                )
            n, old = len(rows[a]), self.count.get(a, 0)
            own = (rows[a] - means[a]).T @ (rows[b] - means[b])
            own += np.outer(apart[a], apart[b]) * (n * old / (n + old))
            self._sum[a, b] = self._sum.get((a, b), 0.0) + own
        for name, x in rows.items():
            n, old = len(x), self.count.get(name, 0)
            self._mean[name] = self._mean.get(name, means[name]) + apart[name] * (n / (n + old))
            self.count[name] = old + n

    def mean(self, name: str) -> Float[np.ndarray, " p"]:
        """Of a site."""
        self._known(name)
        return self._mean[name].copy()

    def covariance(self, a: str, b: str | None = None) -> Float[np.ndarray, "p q"]:
        """Unbiased, of a site or between the sites of a pair."""
        b = a if b is None else b
        self._known(a)
        if (b, a) in self._sum and a != b:
            return self.covariance(b, a).T
        if (a, b) not in self._sum:
            raise KeyError(f"RunningMoments: the pair {a!r}, {b!r} was not asked for in `pairs`.")
        return self._sum[a, b] / max(self.count[a] - 1, 1)

    def correlation(self, a: str, b: str | None = None) -> Float[np.ndarray, "p q"]:
        """Between units; NaN for units that never change."""
        b = a if b is None else b
        one, two = (np.sqrt(np.diag(self.covariance(name))) for name in (a, b))
        one, two = np.where(one > 0, one, np.nan), np.where(two > 0, two, np.nan)
        return self.covariance(a, b) / one[:, None] / two

    def components(
        self, name: str
    ) -> tuple[Float[np.ndarray, " component"], Float[np.ndarray, "component p"]]:
        """Principal components: variance of each, largest first, and directions as rows."""
        values, vectors = np.linalg.eigh(self.covariance(name))
        return values[::-1].clip(min=0), vectors.T[::-1]

    def linear_cka(self, a: str, b: str) -> float:
        """Biased linear CKA of a pair; NaN if a site never changes."""
        size = np.linalg.norm(self.covariance(a)) * np.linalg.norm(self.covariance(b))
        return float(np.sum(self.covariance(a, b) ** 2) / size) if size > 0 else float("nan")

    def _rows(self, part: Activations, name: str) -> np.ndarray:
        if self.reduce == "tokens":
            value, mask = part[name], part.mask.get(name)
            rows = value.reshape(-1, value.shape[-1])
            rows = rows if mask is None or value.ndim != 3 else value[mask]
        else:
            rows = part.patterns(name, reduce=self.reduce)
        rows = np.asarray(rows, np.float64)
        require_finite(f"RunningMoments: {name!r}", rows, "rows")
        return rows

    def _known(self, name: str) -> None:
        if name not in self._mean:
            raise KeyError(f"RunningMoments: no {name!r}.{near_misses(name, list(self._mean))}")
