"""RSA at every place: an RDM from the voxels, vertices or sensors around it, against a model.

    around = volume_spheres(mask, radius_mm=8, affine=affine)
    found = searchlight_rsa(patterns, model, around, metric="correlation", method="spearman")
    found.scores                       # one for each centre

Products of patterns are taken for many centres at once, in blocks of centres, so that memory does
not grow with the volume; RDMs are only kept where they are asked for (`searchlight_rdms`).

For sensors, whiten within the neighbourhood (`residuals`): whitening over all sensors first mixes
far signals into every neighbourhood.

Source: Kriegeskorte et al. 2006 (searchlight); Walther et al. 2016 (crossnobis).
Axes: condition place = patterns; run condition place = patterns of runs; centre; pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm.interpret.rsa.bootstrap import n_conditions
from neurofm.interpret.rsa.comparators import compare
from neurofm.interpret.rsa.neighbourhoods import Neighbourhoods
from neurofm.shapes import Bool, Float, Int
from neurofm.types import Result

METRICS = ("euclidean", "correlation", "crossnobis")
_BLOCK = 2_000_000  # pattern values gathered at once: what stays near the processor
_LARGE = 120  # places beyond which a covariance for every centre is slow


@dataclass(frozen=True)
class SearchlightScores:
    """Similarity with a model at each centre.

    Args:
        scores: NaN where the RDM is not defined.
        centre: Place in the middle.
        n_places: Of each centre.
        n_total: Places altogether.
        metric: Of the RDMs.
        method: Of the comparison.
        n_conditions: Stimuli.
    """

    scores: Float[np.ndarray, " centre"]
    centre: Int[np.ndarray, " centre"]
    n_places: Int[np.ndarray, " centre"]
    n_total: int
    metric: str
    method: str
    n_conditions: int

    def spread(self) -> Float[np.ndarray, " place"]:
        """One value for each place, NaN where there is no centre."""
        whole = np.full(self.n_total, np.nan)
        whole[self.centre] = self.scores
        return whole

    def peak(self) -> Result:
        """The best centre. Chosen for being the best: its value flatters."""
        at = int(np.nanargmax(self.scores))
        detail = {"place": int(self.centre[at]), "n_places": int(self.n_places[at])}
        name = f"best of {len(self.scores)} centres"
        return Result(name=name, value=float(self.scores[at]), unit=self.method, detail=detail)

    def volume(self, mask: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
        """Scores in the volume that the places are the mask of, NaN elsewhere."""
        if int(mask.sum()) != self.n_total:
            raise ValueError(f"a mask of {int(mask.sum())} voxels for {self.n_total} places.")
        whole = np.full(mask.shape, np.nan)
        whole[mask] = self.spread()
        return whole

    def plot(self, mask: Bool[np.ndarray, "x y z"]) -> Any:
        """The largest score along the third axis of a volume, seen from above.

        For sensors draw `spread()` with `figures.plot_topography`, for surfaces with nilearn.
        """
        from neurofm.figures import plot_matrix

        return plot_matrix(
            np.fmax.reduce(self.volume(mask), axis=2).T[::-1],
            title=f"{len(self.scores)} centres, {self.n_conditions} conditions, largest over z",
            unit=f"similarity of RDMs ({self.method})",
            xlabel="x (voxel)",
            ylabel="y (voxel)",
            square=True,
        )


def searchlight_rdms(
    patterns: Float[np.ndarray, "*run condition place"],
    around: Neighbourhoods,
    *,
    metric: str = "correlation",
    residuals: Float[np.ndarray, "row place"] | None = None,
    diagonal: bool = False,
) -> Float[np.ndarray, "centre pair"]:
    """The RDM of every centre; 20,000 centres of 100 conditions take 800 MB.

    Args:
        patterns: With a first axis of runs for "crossnobis".
        metric: "correlation", "euclidean" (squared, per place) or "crossnobis".
        residuals: Noise, mean removed or not: squared distances are whitened within each
            neighbourhood by its covariance, shrunk towards the diagonal.
        diagonal: Take only the variances of the noise, which is much faster.
    """
    return np.concatenate(list(_rdms(patterns, around, metric, residuals, diagonal)))


def searchlight_rsa(
    patterns: Float[np.ndarray, "*run condition place"],
    model: Float[np.ndarray, " pair"],
    around: Neighbourhoods,
    *,
    metric: str = "correlation",
    method: str = "spearman",
    residuals: Float[np.ndarray, "row place"] | None = None,
    diagonal: bool = False,
) -> SearchlightScores:
    """Similarity of every centre's RDM with a model; see `searchlight_rdms`.

    For a group: scores of each person, in one space, as `subject place` to `rsa.cluster_test`.
    """
    scores = []
    for rdms in _rdms(patterns, around, metric, residuals, diagonal):
        # A centre without some distances must not take them from the others.
        whole = ~np.isnan(rdms).any(1)
        score = np.full(len(rdms), np.nan)
        if whole.any():
            score[whole] = compare(rdms[whole], model[None], method)[:, 0]
        for i in np.flatnonzero(~whole):
            score[i] = compare(rdms[i][None], model[None], method)[0, 0]
        scores.append(score)
    return SearchlightScores(
        scores=np.concatenate(scores),
        centre=around.centre,
        n_places=around.sizes,
        n_total=around.incidence.shape[1],
        metric=metric,
        method=method,
        n_conditions=n_conditions(len(model)),
    )


def _rdms(
    patterns: np.ndarray,
    around: Neighbourhoods,
    metric: str,
    residuals: np.ndarray | None,
    diagonal: bool,
) -> Iterator[np.ndarray]:
    x = _checked(patterns, around, metric, residuals)
    if residuals is not None:
        residuals = np.asarray(residuals, dtype=np.float64)
        residuals = residuals - residuals.mean(0)
        if diagonal:
            deviation = np.sqrt((residuals**2).sum(0) / (len(residuals) - 1))
            x = np.divide(x, deviation, out=np.zeros_like(x), where=deviation > 0)
            residuals = None
    # Shifts that distances do not see are taken out before products, not after.
    x = x - (x.mean(2, keepdims=True) if metric == "correlation" else x.mean((0, 1)))
    n_runs, n, n_places = x.shape
    # One more place, always zero, fills up the smaller neighbourhoods.
    by_place = np.zeros((n_places + 1, n_runs * n))
    by_place[:n_places] = x.reshape(n_runs * n, n_places).T
    noise = None
    if residuals is not None:
        noise = np.zeros((n_places + 1, len(residuals)))
        noise[:n_places] = residuals.T
    upper = np.triu_indices(n, 1)
    sizes, starts = around.sizes, around.incidence.indptr
    widest = int(sizes.max())
    step = max(1, _BLOCK // (widest * max(by_place.shape[1], 0 if noise is None else widest)))
    place = np.arange(widest)
    for start in range(0, len(sizes), step):
        size = sizes[start : start + step]
        inside = place < size[:, None]
        first = starts[:-1][start : start + step, None]
        at = np.minimum(first + place, starts[-1] - 1)
        index = np.where(inside, around.incidence.indices[at], n_places)
        z = by_place[index]  # centre place (run condition)
        gram = _gram(z, n_runs, n, size, None if noise is None else noise[index], inside)
        if metric == "correlation":
            squares = np.diagonal(gram, axis1=1, axis2=2).copy()
            total = z.sum(1)
            gram -= total[:, :, None] * total[:, None, :] / size[:, None, None]
            own = np.diagonal(gram, axis1=1, axis2=2)
            # What rounding leaves of a constant pattern is no pattern.
            constant = own <= 1e-13 * squares
            length = np.sqrt(np.where(constant, np.nan, own))
            yield 1 - gram[:, *upper] / (length[:, upper[0]] * length[:, upper[1]])
        else:
            own = np.diagonal(gram, axis1=1, axis2=2)
            found = own[:, upper[0]] + own[:, upper[1]] - 2 * gram[:, *upper]
            found /= size[:, None]
            yield np.maximum(found, 0.0) if metric == "euclidean" else found


def _gram(
    z: np.ndarray,
    n_runs: int,
    n: int,
    size: np.ndarray,
    noise: np.ndarray | None,
    inside: np.ndarray,
) -> np.ndarray:
    """Products of conditions, between different runs only if there are runs."""
    white = z if noise is None else np.linalg.solve(_covariances(noise, inside), z)
    if n_runs == 1:
        return np.matmul(z.swapaxes(1, 2), white)
    runs = [slice(r * n, (r + 1) * n) for r in range(n_runs)]
    total = z.reshape(*z.shape[:2], n_runs, n).sum(2)
    white_total = white.reshape(*z.shape[:2], n_runs, n).sum(2)
    gram = np.matmul(total.swapaxes(1, 2), white_total)
    for run in runs:
        gram -= np.matmul(z[:, :, run].swapaxes(1, 2), white[:, :, run])
    return gram / (n_runs * (n_runs - 1))


def _covariances(noise: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Of every neighbourhood, shrunk towards its diagonal (Schaefer & Strimmer 2005)."""
    n_rows, k = noise.shape[2], inside.shape[1]
    dof = n_rows - 1
    pair = inside[:, :, None] & inside[:, None, :] & ~np.eye(k, dtype=bool)
    covariance = np.matmul(noise, noise.swapaxes(1, 2)) / dof
    variance = np.diagonal(covariance, axis1=1, axis2=2).copy()
    # A still place says nothing and gets no weight: its patterns must not be divided by zero.
    variance[variance <= 0] = 1.0
    square = noise**2
    scale = variance[:, :, None] * variance[:, None, :]
    r2 = (covariance * dof / dof) ** 2 / scale
    spread = n_rows / dof**2 * (np.matmul(square, square.swapaxes(1, 2)) / scale / dof - r2)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip(
            np.where(pair, spread, 0).sum((1, 2)) / np.where(pair, r2, 0).sum((1, 2)), 0, 1
        )
    covariance *= np.where(pair, 1 - np.nan_to_num(share, nan=1.0)[:, None, None], 0.0)
    covariance[:, np.arange(k), np.arange(k)] = np.where(inside, variance, 1.0)
    return covariance


def _checked(
    patterns: np.ndarray, around: Neighbourhoods, metric: str, residuals: np.ndarray | None
) -> np.ndarray:
    x = np.asarray(patterns, dtype=np.float64)
    if metric not in METRICS:
        raise ValueError(f"searchlight: metric {metric!r}; expected one of {METRICS}.")
    wanted = 3 if metric == "crossnobis" else 2
    if x.ndim != wanted:
        axes = "(run, condition, place)" if wanted == 3 else "(condition, place)"
        raise ValueError(f"searchlight: patterns of shape {x.shape}; {metric} needs {axes}.")
    x = x[None] if wanted == 2 else x
    places = around.incidence.shape[1]
    if x.shape[2] != places or (residuals is not None and residuals.shape[1] != places):
        raise ValueError(
            f"searchlight: patterns of {x.shape[2]} places, neighbourhoods of {places}. Take both "
            "from one mask."
        )
    if wanted == 3 and len(x) < 2:
        raise ValueError("searchlight: crossnobis needs at least two runs.")
    if x.shape[1] < 3:
        raise ValueError(f"searchlight: {x.shape[1]} conditions; expected at least 3.")
    if np.isinf(x).any():
        raise ValueError(f"searchlight: {int(np.isinf(x).sum())} values are infinite.")
    if residuals is not None and metric == "correlation":
        raise ValueError("searchlight: correlation takes no `residuals`; use crossnobis.")
    return x
