"""When is the category there: decoding volume by volume, and from volume to volume.

The same as `neurofm.evaluate.over_time`, for tens of thousands of voxels and a handful of runs: a
discriminant for every volume after the beginning of a trial, tested at the same or every other
volume of the runs left out. What is repeated is the run.

Source: King & Dehaene 2014.
Axes: trial voxel time, time = volume; moment = volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurofm.evaluate.over_time import clusters_above
from neurofm.evaluate.patterns.decode import checked_patterns, run_folds
from neurofm.evaluate.patterns.discriminants import ShrinkageLDA
from neurofm.shapes import Float
from neurofm.types import OverTime


def decode_volumes(
    patterns: Float[np.ndarray, "trial voxel time"],
    labels: Sequence[Any] | np.ndarray,
    runs: Sequence[Any] | np.ndarray,
    *,
    sfreq: float,
    start_s: float | int = 0.0,
    generalize: bool = False,
    seed: int = 0,
) -> OverTime:
    """Balanced accuracy at every volume after the beginning of a trial.

    Args:
        patterns: From `trial_patterns(..., average=False)`.
        sfreq: Hz, 1 / TR.
        start_s: Of the first volume after the beginning of the trial, seconds.
        generalize: Test every decoder at every volume.
        seed: Of the sign flips over runs.

    Returns:
        A row of scores for each run (`subjects` are the names of runs). Times are the beginning of
        volumes.

    Raises:
        ValueError: What `decode_patterns` refuses, or patterns without time.
    """
    x, y, run, classes = checked_patterns(patterns, labels, runs)
    if x.ndim != 3:
        raise ValueError(
            f"decode_volumes: patterns of shape {x.shape}; make them with `average=False`."
        )
    names = list(dict.fromkeys(run.tolist()))
    n = x.shape[2]
    scores = np.zeros((len(names), n, n) if generalize else (len(names), n))
    for i, out in enumerate(run_folds(run)):
        if set(y[~out].tolist()) != set(range(len(classes))):
            raise ValueError(f"decode_volumes: without run {names[i]} a category is missing.")
        test = x[out].astype(np.float64)
        for k in range(n):
            fitted = ShrinkageLDA().fit(x[~out, :, k], y[~out])
            for j in range(n) if generalize else [k]:
                right = fitted.predict(test[:, :, j]) == y[out]
                value = np.mean([right[y[out] == c].mean() for c in np.unique(y[out])])
                scores[(i, k, j) if generalize else (i, k)] = value
    chance = 1 / len(classes)
    return OverTime(
        scores=scores,
        times=start_s + np.arange(n) / sfreq,
        subjects=tuple(names),
        metric="balanced_accuracy",
        chance=chance,
        features="amplitude",
        clusters=clusters_above(scores, chance, seed=seed),
    )
