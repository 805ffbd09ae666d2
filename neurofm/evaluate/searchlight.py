"""Searchlight: how well the voxels around each place tell categories apart, and where by chance.

    found = searchlight(patterns, labels, runs, sensors.position, radius_mm=9)
    found.value, found.p_max, found.significant(0.05)

A sphere moves over all voxels. Discriminants and cross-validated distances are scored in closed
form, many spheres at once (`sphere_scores`); any other decoder takes its turn sphere by sphere.
Labels are shuffled inside runs; the largest value of each shuffled map, or its largest cluster,
corrects for the number of places.

Source: Kriegeskorte et al. 2006; Nichols & Holmes 2002 (largest values); Stelzer et al. 2013
(clusters of searchlight accuracies).
Axes: trial voxel; centre = middle of a sphere. Positions in metres.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import binom

from neurofm import stats
from neurofm.evaluate.patterns.decode import checked_patterns, decode_patterns, run_folds
from neurofm.evaluate.sphere_scores import (
    cluster_sizes,
    crossnobis_scores,
    lda_evidence,
    null_accuracies,
    products,
    touching,
)
from neurofm.interpret.rsa.neighbourhoods import point_spheres
from neurofm.shapes import Bool, Float, Int
from neurofm.types import Result

_BYTES = 64 << 20  # of products worked on at a time
_FORMING = 0.001  # p of one place by luck, where clusters begin


@dataclass(frozen=True)
class SearchlightMap:
    """A value for each sphere.

    Args:
        value: Accuracy, or crossnobis distance per voxel.
        position: Of the centres, metres.
        centre: Voxel of each centre.
        n_voxels: Of each sphere.
        metric: "accuracy" or "crossnobis".
        chance: Of a guess; 0 for distances.
        radius_mm: Of the spheres.
        n_runs: Tested.
        per_run: Accuracy in each test run; None for distances.
        p: Of each place by itself, from shuffled labels; None without them.
        p_max: Corrected for all places by the largest value of each shuffled map.
        p_fdr: Corrected by Benjamini and Hochberg.
        cluster: Number of the cluster of each centre, -1 outside.
        p_cluster: Of each cluster, by its size against the largest of each shuffled map.
    """

    value: Float[np.ndarray, " centre"]
    position: Float[np.ndarray, "centre 3"]
    centre: Int[np.ndarray, " centre"]
    n_voxels: Int[np.ndarray, " centre"]
    metric: str
    chance: float
    radius_mm: float
    n_runs: int
    per_run: Float[np.ndarray, "run centre"] | None = None
    p: Float[np.ndarray, " centre"] | None = None
    p_max: Float[np.ndarray, " centre"] | None = None
    p_fdr: Float[np.ndarray, " centre"] | None = None
    cluster: Int[np.ndarray, " centre"] | None = None
    p_cluster: Float[np.ndarray, " cluster"] | None = None

    def significant(
        self, level: float = 0.05, *, correction: str = "max"
    ) -> Bool[np.ndarray, " centre"]:
        """Where the map exceeds chance.

        Args:
            correction: "max", "fdr", "cluster" or "none".

        Raises:
            ValueError: Another word, or a map without shuffles.
        """
        known = {"max": self.p_max, "fdr": self.p_fdr, "none": self.p}
        if correction not in (*known, "cluster"):
            raise ValueError(f"correction {correction!r}: expected max, fdr, cluster or none.")
        if self.p is None or self.cluster is None or self.p_cluster is None:
            raise ValueError("this map was made without shuffles; set `n_permutations`.")
        if correction == "cluster":
            alive = np.append(self.p_cluster <= level, False)
            return alive[self.cluster]
        return np.asarray(known[correction]) <= level

    def peak(self) -> Result:
        """The best sphere. Chosen for being the best: its value flatters, its `p` does not."""
        at = int(self.value.argmax())
        low = high = None
        if self.per_run is not None and len(self.per_run) > 2:
            low, high = stats.bootstrap_interval(self.per_run[:, at])
        where = [round(float(1000 * v), 1) for v in self.position[at]]
        detail = {"position_mm": where, "n_voxels": int(self.n_voxels[at])}
        if self.p_max is not None:
            detail["p"] = float(self.p_max[at])
        return Result(
            name=f"best sphere of {len(self.value)}",
            value=float(self.value[at]),
            unit=self.metric,
            low=low,
            high=high,
            n=self.n_runs,
            chance=self.chance,
            detail=detail,
        )


def find_spheres(
    position: Float[np.ndarray, "voxel 3"],
    *,
    radius_mm: float | int,
    centres: Sequence[int] | np.ndarray | None = None,
    min_voxels: int = 1,
) -> tuple[list[np.ndarray], Int[np.ndarray, " centre"]]:
    """The voxels of the sphere around each centre.

    Args:
        position: Metres.
        centres: Voxels to put spheres around; all with a position if not given.
        min_voxels: Centres whose sphere has fewer are left out.

    Returns:
        Numbers of the voxels of each sphere, and the voxel in its middle.

    Raises:
        ValueError: No position, a radius that is not positive, centres without a position, or no
            sphere of `min_voxels`.
    """
    position = np.asarray(position, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(position).all(1))
    if not len(known):
        raise ValueError(
            "searchlight: no voxel has a position. Read images with an affine, or give positions "
            "in metres."
        )
    wanted = known if centres is None else np.asarray(centres, dtype=int)
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(position)):
        raise ValueError(
            f"searchlight: centres {wanted.min()} to {wanted.max()} of {len(position)} voxels. "
            "Centres are numbers of voxels of these patterns; a mask of another space has others."
        )
    if not np.isfinite(position[wanted]).all():
        raise ValueError("searchlight: some centres have no position.")
    found = point_spheres(
        position[known],
        radius=radius_mm / 1000,
        centres=None if centres is None else np.searchsorted(known, wanted),
        min_places=min_voxels,
    )
    spheres = np.split(known[found.incidence.indices], found.incidence.indptr[1:-1])
    return spheres, known[found.centre]


def searchlight(
    patterns: Float[np.ndarray, "trial voxel"],
    labels: Sequence[Any] | np.ndarray,
    runs: Sequence[Any] | np.ndarray,
    position: Float[np.ndarray, "place 3"],
    *,
    radius_mm: float | int = 8.0,
    score: Any = "lda",
    centres: Sequence[int] | np.ndarray | None = None,
    min_voxels: int = 2,
    folds: int | None = None,
    n_permutations: int = 0,
    refit: bool = False,
    seed: int = 0,
) -> SearchlightMap:
    """Decode every sphere, whole runs left out.

    Args:
        patterns: Voxels on one scale, as z-scores per run are.
        labels: Category of each trial.
        runs: Of each trial.
        position: Metres, as in `Sensors.position`; one for each voxel.
        radius_mm: Of the spheres.
        score: "lda" (shrunk discriminants), "crossnobis" (mean distance of the categories, white),
            or an estimator with `fit` and `predict`, which takes its turn sphere by sphere.
        centres: Voxels to put spheres around; all if not given.
        min_voxels: Smaller spheres are left out.
        folds: Groups of runs; each run by itself if not given.
        n_permutations: Shuffles of labels inside runs. 1000 for p below 0.05 after correction.
        refit: Train again on every shuffle, which takes as many times longer; else, for accuracy,
            the predictions stay and the true labels are shuffled. That is somewhat liberal, because
            folds share training trials: of 40 simulated maps without signal 5 had a significant
            sphere at 0.05 corrected, against 1 with `refit`. Distances are always made again.
        seed: Of the shuffles.

    Raises:
        ValueError: What `decode_patterns` and `find_spheres` refuse; positions of another set of
            voxels; a category missing from a run, for distances.
    """
    x, y, run, classes = checked_patterns(patterns, labels, runs)
    if x.ndim != 2:
        raise ValueError("searchlight: average patterns over their volumes first.")
    if len(position) != x.shape[1]:
        raise ValueError(
            f"searchlight: positions of {len(position)} voxels for patterns of {x.shape[1]}. Take "
            "both from one mask (`Responses.values` and `Responses.sensors.position`)."
        )
    spheres, centre = find_spheres(
        position, radius_mm=radius_mm, centres=centres, min_voxels=min_voxels
    )
    names = list(dict.fromkeys(run.tolist()))
    code = np.array([names.index(name) for name in run])
    held = run_folds(run, folds=folds)
    _require_classes(y, run, held, classes, distances=isinstance(score, str) and score != "lda")
    x = x.astype(np.float64)
    if n_permutations:
        shuffled = stats.shuffled_within(y, code, n_permutations=n_permutations, seed=seed)
    else:
        shuffled = np.zeros((0, len(y)), dtype=int)
    where = np.asarray(position, dtype=np.float64)[centre]
    about: dict[str, Any] = {
        "position": where,
        "centre": centre,
        "n_voxels": np.array([len(sphere) for sphere in spheres]),
        "radius_mm": float(radius_mm),
        "n_runs": len(names),
    }
    if isinstance(score, str) and score == "crossnobis":
        value, null = _distances(x, spheres, y, held, shuffled)
        return SearchlightMap(
            value=value, metric="crossnobis", chance=0.0, **about, **_judged(value, null, where)
        )
    if isinstance(score, str) and score != "lda":
        raise ValueError(f"searchlight: score {score!r}; expected lda, crossnobis or an estimator.")
    given = shuffled if refit else shuffled[:0]
    predicted, null = _predicted(x, spheres, y, held, given, score, run)
    right = predicted == y
    value = right.mean(1)
    per_run = np.stack([right[:, code == i].mean(1) for i in range(len(names))])
    if not refit:
        null = null_accuracies(predicted, shuffled, len(classes))
    chance = stats.chance_level(y)[0]
    forming = float(binom.isf(_FORMING, len(y), chance) / len(y))
    return SearchlightMap(
        value=value,
        metric="accuracy",
        chance=chance,
        per_run=per_run,
        **about,
        **_judged(value, null, where, forming),
    )


def _require_classes(
    y: np.ndarray, run: np.ndarray, held: list[np.ndarray], classes: Any, *, distances: bool
) -> None:
    every = set(range(len(classes)))
    sides = [run == name for name in np.unique(run)] if distances else [~out for out in held]
    for side in sides:
        missing = every - set(y[side].tolist())
        if missing:
            raise ValueError(
                f"searchlight: the runs {sorted(set(run[side].tolist()))} hold no trial of "
                f"{', '.join(classes[i] for i in sorted(missing))}. Leave the category out, or "
                "these runs."
            )


def _batches(spheres: list[np.ndarray], n_trials: int) -> list[slice]:
    largest = max(map(len, spheres))
    step = max(1, _BYTES // (8 * n_trials * (3 * n_trials + largest)))
    return [slice(i, i + step) for i in range(0, len(spheres), step)]


def _predicted(
    x: np.ndarray,
    spheres: list[np.ndarray],
    y: np.ndarray,
    held: list[np.ndarray],
    shuffled: np.ndarray,
    score: Any,
    run: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Class of every trial by every sphere, and accuracies after training on shuffled labels."""
    predicted = np.zeros((len(spheres), len(y)), dtype=int)
    null = np.zeros((len(shuffled), len(spheres)))
    if not isinstance(score, str):
        for i, sphere in enumerate(spheres):
            one = x[:, sphere]
            about: dict[str, Any] = {"decoder": score, "n_permutations": 0, "folds": len(held)}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores = decode_patterns(one, y, run, **about).scores
                predicted[i, scores.window] = np.array(scores.classes, dtype=int)[scores.y_pred]
                for k, labels in enumerate(shuffled):
                    null[k, i] = decode_patterns(one, labels, run, **about).result.value
        return predicted, null
    sides = [(np.flatnonzero(~out), np.flatnonzero(out)) for out in held]
    n_classes = int(y.max()) + 1
    for part in _batches(spheres, len(y)):
        gram, sizes = products(x, spheres[part])
        for train, test in sides:
            said = lda_evidence(gram, sizes, np.eye(n_classes)[y[train]], train, test)
            predicted[part, test] = said.argmax(2)
            for k, labels in enumerate(shuffled):
                said = lda_evidence(gram, sizes, np.eye(n_classes)[labels[train]], train, test)
                null[k, part] += (said.argmax(2) == labels[test]).sum(1) / len(y)
    return predicted, null


def _distances(
    x: np.ndarray,
    spheres: list[np.ndarray],
    y: np.ndarray,
    held: list[np.ndarray],
    shuffled: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    value, null = np.zeros(len(spheres)), np.zeros((len(shuffled), len(spheres)))
    sides = [(np.flatnonzero(~out), np.flatnonzero(out)) for out in held]
    for part in _batches(spheres, len(y)):
        gram, sizes = products(x, spheres[part])
        value[part] = crossnobis_scores(gram, sizes, y, sides)
        for k, labels in enumerate(shuffled):
            null[k, part] = crossnobis_scores(gram, sizes, labels, sides)
    return value, null


def _judged(
    value: np.ndarray, null: np.ndarray, position: np.ndarray, forming: float | None = None
) -> dict[str, Any]:
    """p values by place, by largest value, by share of false discoveries, and by cluster."""
    n = len(null)
    if not n:
        return {}
    tolerance = 1e-12
    p = ((null >= value - tolerance).sum(0) + 1) / (n + 1)
    largest = np.sort(null.max(1))
    p_max = (n - np.searchsorted(largest, value - tolerance) + 1) / (n + 1)
    level = float(np.quantile(null, 1 - _FORMING)) if forming is None else forming
    near = cKDTree(position).query(position, k=2)[0][:, 1] if len(position) > 1 else np.ones(1)
    # Neighbours share a face or an edge, whatever the voxels' three sides are.
    pairs = touching(position, float(np.median(near)) * 1.5)
    number, sizes = cluster_sizes(value > level, pairs)
    reached = [cluster_sizes(one > level, pairs)[1].max(initial=0) for one in null]
    p_cluster = ((np.array(reached)[:, None] >= sizes).sum(0) + 1) / (n + 1)
    return {
        "p": p,
        "p_max": p_max,
        "p_fdr": stats.fdr(p)[1],
        "cluster": number,
        "p_cluster": p_cluster,
    }
