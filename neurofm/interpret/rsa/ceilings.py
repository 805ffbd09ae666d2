"""How similar to people's RDMs could any model's be?

The upper bound pools everybody, oneself included, which no model can know: it is too high. The
lower bound pools the others, which is fewer data than there are: it is too low. The best model lies
between, for the method that the pooled RDM is made for.

Source: Nili et al. 2014.
Axes: rdm = one of a subject's, pair = upper triangle by rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm.interpret.rsa.comparators import compare
from neurofm.interpret.rsa.pooling import pool, pooled_others
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class NoiseCeiling:
    """Similarity of people's RDMs with a pooled one.

    Args:
        lower: Mean over subjects, with the pool of the others.
        upper: Mean over subjects, with the pool of all; NaN of runs of one subject.
        lower_by: Of each subject.
        upper_by: Of each subject.
        subjects: Names.
        method: Of `compare`.
        unit: What was left out: "subject" or "run".
    """

    lower: float
    upper: float
    lower_by: Float[np.ndarray, " subject"]
    upper_by: Float[np.ndarray, " subject"]
    subjects: tuple[str, ...]
    method: str
    unit: str = "subject"

    @property
    def caveats(self) -> tuple[str, ...]:
        """What to say beside the numbers."""
        said = ["the upper bound includes the subject itself and is too high"]
        if self.unit == "run":
            said = ["runs of one subject are not independent of its idiosyncrasies: no upper bound"]
        if self.method in ("tau-a", "tau-b"):
            said.append("mean ranks only come near the RDM of largest tau")
        if len(self.subjects) < 2:
            said = [f"one {self.unit} has no ceiling"]
        return tuple(said)

    def ratios(self, score: float) -> tuple[float, float]:
        """A score over the lower and over the upper bound, which may exceed 1; NaN below 0."""
        return (
            score / self.lower if self.lower > 0 else float("nan"),
            score / self.upper if self.upper > 0 else float("nan"),
        )

    def plot(self) -> Figure:
        """Each subject's similarity with the others, in the band of both bounds."""
        from neurofm.figures import plot_bars

        band = (self.lower, self.upper) if np.isfinite(self.upper) else None
        names = dict(zip(self.subjects, map(float, self.lower_by), strict=True))
        title = f"With the pooled RDM of the others, {len(names)} {self.unit}s"
        return plot_bars(names, title=title, unit=self.method, ceiling=band)

    def __str__(self) -> str:
        numbers = f"{self.lower:.3f} to {self.upper:.3f} ({self.method}, {len(self.subjects)} "
        return f"noise ceiling {numbers}{self.unit}s; {'; '.join(self.caveats)})"


def noise_ceiling(
    rdms: Float[np.ndarray, "rdm pair"],
    method: str = "rho-a",
    *,
    subjects: Sequence[Hashable] | None = None,
    sigma_k: np.ndarray | None = None,
    unit: str = "subject",
) -> NoiseCeiling:
    """Lower and upper bound from RDMs of several people.

    Args:
        subjects: Of each RDM; those of one subject (sessions) are left out together, and count
            as their mean. One each if not given.
        sigma_k: As for `compare`.
        unit: "run" if the RDMs are those of one subject's runs, which take the place of subjects;
            there is no upper bound then.

    Returns:
        Bounds are NaN with one subject.
    """
    if unit not in ("subject", "run"):
        raise ValueError(f"noise_ceiling: unit {unit!r} is neither 'subject' nor 'run'.")
    x = np.asarray(rdms, dtype=np.float64)
    owners = list(range(len(x)) if subjects is None else subjects)
    if len(owners) != len(x):
        raise ValueError(f"noise_ceiling: {len(owners)} subjects for {len(x)} RDMs.")
    names = tuple(dict.fromkeys(owners))
    group = np.array([names.index(owner) for owner in owners])
    nothing = np.full(len(names), np.nan)
    lower_by, upper_by = nothing, nothing.copy()
    if len(names) > 1:
        others, everybody = pooled_others(x, group, method), pool(x, method)
        lower = [_similar(others[g], one, method, sigma_k) for g, one in zip(group, x, strict=True)]
        lower_by = _means(np.array(lower), group)
        if unit == "subject":
            upper = [_similar(everybody, one, method, sigma_k) for one in x]
            upper_by = _means(np.array(upper), group)
    return NoiseCeiling(
        lower=float(lower_by.mean()),
        upper=float(upper_by.mean()),
        lower_by=lower_by,
        upper_by=upper_by,
        subjects=tuple(map(str, names)),
        method=method,
        unit=unit,
    )


def _similar(a: np.ndarray, b: np.ndarray, method: str, sigma_k: np.ndarray | None) -> float:
    return float(compare(a[None], b[None], method, sigma_k=sigma_k)[0, 0])


def _means(values: np.ndarray, group: np.ndarray) -> Float[np.ndarray, " subject"]:
    return np.bincount(group, values) / np.bincount(group)
