"""Single units and heads: does a unit of one network have a counterpart in the other?

Measures of whole layers (CKA, CCA) do not see whether single units agree, because they ignore
rotations; studies of speech models found agreement of layers without agreement of units. A unit's
best counterpart among many is good by luck: what counts is the excess over the best one after a
random rotation of the other network, which keeps the layer and destroys its units.

Source: Gurnee et al. 2024 (universal neurons, rotation baseline; the threshold is this project's);
Chan et al. 1983 (moments of batches).
Axes: sample; p and q = units of the two sides; seed = another network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.similarity.checks import pair
from neurofm.interpret.similarity.cka import linear_cka
from neurofm.interpret.similarity.shape import random_rotation
from neurofm.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class UnitSimilarity:
    """Counterparts of the units of `x` among those of `y`.

    Args:
        correlation: Pearson r of every pair; NaN for constant units.
        best: Of each unit with its best counterpart.
        baseline: The same after a random rotation of `y`: what luck and shared directions give.
        partner: The unit of `y` that is matched one to one, -1 where none is left.
        matched: Correlation with it.
        cka: Debiased linear CKA of the layers, the distributed measure.
        n: Samples.
    """

    correlation: Float[np.ndarray, "p q"]
    best: Float[np.ndarray, " p"]
    baseline: Float[np.ndarray, " p"]
    partner: Int[np.ndarray, " p"]
    matched: Float[np.ndarray, " p"]
    cka: float
    n: int

    @property
    def localised(self) -> float:
        """Mean correlation of a unit with its best counterpart; compare it with `chance`."""
        return float(np.nanmean(self.best))

    @property
    def chance(self) -> float:
        """Mean of the same after rotation."""
        return float(np.nanmean(self.baseline))

    def plot(self) -> Figure:
        """Best counterparts beside those after a rotation."""
        from neurofm.interpret.similarity.drawings import draw_units

        return draw_units(self)


@dataclass(frozen=True)
class UniversalNeurons:
    """Units that every other network has too.

    Args:
        best: Correlation with the best counterpart in each other network.
        baseline: Mean over random rotations of that network.
        partner: Which unit it is.
        threshold: A unit is universal whose excess is above it in every network.
        n: Samples.
    """

    best: Float[np.ndarray, "seed p"]
    baseline: Float[np.ndarray, "seed p"]
    partner: Int[np.ndarray, "seed p"]
    threshold: float
    n: int

    @property
    def excess(self) -> Float[np.ndarray, "seed p"]:
        """Correlation over that of rotated units."""
        return self.best - self.baseline

    @property
    def universal(self) -> Bool[np.ndarray, " p"]:
        """Above the threshold in every network."""
        return np.all(self.excess > self.threshold, axis=0)

    def plot(self) -> Figure:
        """Least excess over networks of every unit, with the threshold."""
        from neurofm.interpret.similarity.drawings import draw_universal

        return draw_universal(self)


@dataclass
class PairMoments:
    """Means and products of two networks' units over batches, float64, for any number of samples.

    Batches may be of any size; the result does not depend on it.
    """

    n: int = 0
    _state: dict[str, np.ndarray] = field(default_factory=dict)

    @takes_either
    def update(self, x: Float[np.ndarray, "sample p"], y: Float[np.ndarray, "_ q"]) -> PairMoments:
        """Add samples; both sides answered to the same ones."""
        x, y = pair("PairMoments", x, y, least=1)
        m = len(x)
        mean = {"x": x.mean(0), "y": y.mean(0)}
        a, b = x - mean["x"], y - mean["y"]
        new = {"xy": a.T @ b, "yy": b.T @ b, "xx": np.einsum("ij,ij->j", a, a)}
        if not self.n:
            self.n, self._state = m, {**mean, **new}
            return self
        old = self._state
        if old["x"].shape != mean["x"].shape or old["y"].shape != mean["y"].shape:
            raise ValueError(
                f"PairMoments: {x.shape[1]} and {y.shape[1]} units after batches of "
                f"{len(old['x'])} and {len(old['y'])}."
            )
        dx, dy = mean["x"] - old["x"], mean["y"] - old["y"]
        share = self.n * m / (self.n + m)
        self._state = {
            "x": old["x"] + dx * m / (self.n + m),
            "y": old["y"] + dy * m / (self.n + m),
            "xy": old["xy"] + new["xy"] + share * np.outer(dx, dy),
            "yy": old["yy"] + new["yy"] + share * np.outer(dy, dy),
            "xx": old["xx"] + new["xx"] + share * dx**2,
        }
        self.n += m
        return self

    def correlation(self, rotation: np.ndarray | None = None) -> Float[np.ndarray, "p q"]:
        """Pearson r of every pair of units, after `y @ rotation` if one is given."""
        if self.n < 2:
            raise ValueError(f"PairMoments: {self.n} samples; a correlation needs two or more.")
        xy, xx = self._state["xy"], self._state["xx"]
        yy = np.diag(self._state["yy"])
        if rotation is not None:
            xy = xy @ rotation
            yy = np.einsum("ij,ij->j", rotation, self._state["yy"] @ rotation)
        own = np.sqrt(np.outer(xx, yy))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(own > 0, np.clip(xy / own, -1, 1), np.nan)


@takes_either
def correlate_units(
    x: Float[np.ndarray, "sample p"], y: Float[np.ndarray, "_ q"]
) -> Float[np.ndarray, "p q"]:
    """Pearson r over samples of every pair of units; NaN for constant ones."""
    pair("correlate_units", x, y)
    return PairMoments().update(x, y).correlation()


@takes_either
def best_correlation(
    correlation: Float[np.ndarray, "p q"], *, absolute: bool = True
) -> Float[np.ndarray, " p"]:
    """Of each unit of `x` with its best counterpart, NaN left out.

    Args:
        absolute: A counterpart with the opposite sign is one too.
    """
    values = np.abs(correlation) if absolute else correlation
    best = np.nan_to_num(values, nan=-np.inf).max(1)
    return np.where(np.isfinite(best), best, np.nan)


@takes_either
def compare_units(
    x: Float[np.ndarray, "sample p"],
    y: Float[np.ndarray, "_ q"],
    *,
    absolute: bool = True,
    generator: np.random.Generator | None = None,
) -> UnitSimilarity:
    """Best and one-to-one counterparts of every unit, with what a rotation leaves of them.

    Args:
        absolute: See `best_correlation`.
        generator: Of the rotation; a fixed one if not given.
    """
    pair("compare_units", x, y, least=4)
    moments = PairMoments().update(x, y)
    correlation = moments.correlation()
    turned = moments.correlation(random_rotation(y.shape[1], generator or np.random.default_rng(0)))
    values = np.nan_to_num(np.abs(correlation) if absolute else correlation, nan=-2.0)
    rows, columns = linear_sum_assignment(values, maximize=True)
    partner, matched = np.full(len(values), -1), np.full(len(values), np.nan)
    partner[rows], matched[rows] = columns, values[rows, columns]
    matched[matched < -1] = np.nan
    return UnitSimilarity(
        correlation=correlation,
        best=best_correlation(correlation, absolute=absolute),
        baseline=best_correlation(turned, absolute=absolute),
        partner=partner,
        matched=matched,
        cka=linear_cka(np.asarray(x), np.asarray(y)),
        n=len(x),
    )


def universal_neurons(
    moments: Sequence[PairMoments],
    *,
    threshold: float | int = 0.5,
    n_rotations: int = 5,
    generator: np.random.Generator | None = None,
) -> UniversalNeurons:
    """Which units of a network have a counterpart in every other network.

    Args:
        moments: Of the network with each of the others, gathered batch by batch.
        threshold: Of the excess; 0.5 was not checked for brain networks, look at the histogram.
        n_rotations: Of each other network, whose mean is the baseline.
        generator: Of the rotations; a fixed one if not given.

    Raises:
        ValueError: No other network, or sides that do not fit.
    """
    if not moments:
        raise ValueError("universal_neurons: no other network; universality needs two or more.")
    if len({m.n for m in moments}) != 1 or len({m.correlation().shape[0] for m in moments}) != 1:
        raise ValueError(
            f"universal_neurons: moments of {[m.n for m in moments]} samples; expected the same "
            "samples and the same first network in all."
        )
    rng = generator or np.random.default_rng(0)
    best, baseline, partner = [], [], []
    for one in moments:
        correlation = one.correlation()
        best.append(best_correlation(correlation, absolute=False))
        partner.append(np.nan_to_num(correlation, nan=-2.0).argmax(1))
        turned = [
            best_correlation(
                one.correlation(random_rotation(correlation.shape[1], rng)), absolute=False
            )
            for _ in range(n_rotations)
        ]
        baseline.append(np.mean(turned, axis=0))
    return UniversalNeurons(
        best=np.stack(best),
        baseline=np.stack(baseline),
        partner=np.stack(partner),
        threshold=float(threshold),
        n=moments[0].n,
    )


@takes_either
def compare_attention(
    a: Float[np.ndarray, "layer head query key"],
    b: Float[np.ndarray, "_ _ query key"],
    *,
    method: str = "js",
) -> Float[np.ndarray, "layer head other other_head"]:
    """Similarity of every two heads by their attention maps, averaged over inputs beforehand.

    Args:
        a: Rows are shares over keys, sum 1.
        b: Of another network (or the same) with the same tokens.
        method: "js", 1 minus the Jensen-Shannon divergence in bits, mean over queries; or
            "correlation", Pearson r of the maps.
    """
    if method not in ("js", "correlation"):
        raise ValueError(f"compare_attention: method {method!r} is not 'js' or 'correlation'.")
    if a.shape[2:] != b.shape[2:]:
        raise ValueError(f"compare_attention: maps of {a.shape[2:]} and {b.shape[2:]} tokens.")
    shape = (*a.shape[:2], *b.shape[:2])
    x, y = (np.asarray(m, np.float64).reshape(-1, *m.shape[2:]) for m in (a, b))
    if method == "correlation":
        flat = [m.reshape(len(m), -1).T for m in (x, y)]
        return correlate_units(*flat).reshape(shape)
    for maps in (x, y):
        if maps.min() < 0 or not np.allclose(maps.sum(-1), 1, atol=1e-4):
            raise ValueError("compare_attention: rows are not shares that sum to 1.")
    entropies = [_bits(m) for m in (x, y)]
    found = np.empty((len(x), len(y)))
    for i, one in enumerate(x):
        middle = _bits((one + y) / 2)
        found[i] = 1 - (middle - (entropies[0][i] + entropies[1]) / 2).mean(-1)
    return found.reshape(shape)


def _bits(maps: np.ndarray) -> np.ndarray:
    return -(maps * np.log2(np.where(maps > 0, maps, 1))).sum(-1)
