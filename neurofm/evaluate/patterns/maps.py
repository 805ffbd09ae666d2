"""Where a linear decoder of patterns gets its evidence: weights, and the patterns they pick up.

A weight says how a voxel is used, not whether it carries anything: voxels that hold only noise get
weights because they cancel the noise of others. The pattern of a decoder (its evidence's covariance
with every voxel) is where the signal is.

Source: Haufe et al. 2014; Quenouille 1956 (jackknife).
Axes: trial voxel; output = class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from neurofm.evaluate.patterns.around import ChosenByRuns
from neurofm.evaluate.patterns.decode import checked_patterns
from neurofm.evaluate.patterns.named import make_decoder
from neurofm.shapes import Float


@dataclass(frozen=True)
class WeightMap:
    """Of each class against the others.

    Args:
        classes: Names.
        weights: Of the decoder, evidence per unit of the voxel.
        patterns: In the unit of the voxels, for one standard deviation of the evidence.
        error: Standard error of `patterns`, by leaving out each run in turn.
    """

    classes: tuple[str, ...]
    weights: Float[np.ndarray, "output voxel"]
    patterns: Float[np.ndarray, "output voxel"]
    error: Float[np.ndarray, "output voxel"]

    @property
    def z(self) -> Float[np.ndarray, "output voxel"]:
        """Patterns over their standard error; 0 where it is 0."""
        safe = np.where(self.error > 0, self.error, np.inf)
        return self.patterns / safe

    def of(self, label: str) -> Float[np.ndarray, " voxel"]:
        """Pattern of one class.

        Raises:
            ValueError: No such class.
        """
        if label not in self.classes:
            raise ValueError(f"class {label!r} is not one of {', '.join(self.classes)}.")
        return self.patterns[self.classes.index(label)]


def haufe_patterns(
    weights: Float[np.ndarray, "output voxel"], x: Float[np.ndarray, "trial voxel"]
) -> Float[np.ndarray, "output voxel"]:
    """Covariance of each output's evidence with every voxel, per standard deviation of evidence.

    As `neurofm.interpret` has it for filters, without a matrix of voxels by voxels.

    Raises:
        ValueError: Evidence that does not vary.
    """
    centred = np.asarray(x, dtype=np.float64) - np.mean(x, axis=0)
    evidence = centred @ np.asarray(weights, dtype=np.float64).T
    size = evidence.std(0)
    if not (size > 0).all():
        raise ValueError("haufe_patterns: the evidence of some class does not vary over trials.")
    return (evidence / size).T @ centred / len(centred)


def weight_map(
    patterns: Float[np.ndarray, "trial voxel"],
    labels: Sequence[Any] | np.ndarray,
    runs: Sequence[Any] | np.ndarray,
    *,
    decoder: Any = "lda",
) -> WeightMap:
    """Train a linear decoder on all runs and look at it; on all runs but one for the error.

    It says where evidence is, and nothing of how well it decodes: see `decode_patterns`.

    Args:
        decoder: A name of `make_decoder` that is linear, or an estimator with `coef_`.

    Raises:
        ValueError: A decoder without weights, one category, or a single run.
    """
    x, y, run, classes = checked_patterns(patterns, labels, runs)
    estimator = make_decoder(decoder) if isinstance(decoder, str) else decoder
    names = list(dict.fromkeys(run.tolist()))
    if x.ndim != 2 or len(names) < 2:
        raise ValueError(
            f"weight_map: patterns of shape {x.shape} from {len(names)} run; expected trial voxel "
            "and two runs or more."
        )
    x = x.astype(np.float64)
    weights = _weights(estimator, x, y, run)
    whole = haufe_patterns(weights, x)
    left = []
    for name in names:
        keep = run != name
        if set(y[keep].tolist()) == set(y.tolist()):
            left.append(haufe_patterns(_weights(estimator, x[keep], y[keep], run[keep]), x[keep]))
    n = len(left)
    spread = np.square(np.stack(left) - np.mean(left, axis=0)).sum(0) if n > 1 else 0 * whole
    return WeightMap(classes, weights, whole, np.sqrt((n - 1) / max(n, 1) * spread))


def _weights(estimator: Any, x: np.ndarray, y: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Of each class against the mean of all."""
    made: Any = clone(estimator)
    if isinstance(made, ChosenByRuns):
        made = made.fit(x, y, groups=run).estimator_
    else:
        made = made.fit(x, y)
    coef = getattr(made, "coef_", None)
    if coef is None:
        raise ValueError(
            f"weight_map: {type(made).__name__} has no weights. Use lda, logistic, svm or ridge."
        )
    coef = np.atleast_2d(np.asarray(coef, dtype=np.float64))
    coef = np.concatenate([-coef, coef]) if len(coef) == 1 else coef
    return coef - coef.mean(0)
