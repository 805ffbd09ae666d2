"""How much of one representation is a linear function of the other.

In sample this is as generous as canonical correlations: with as many columns as samples everything
is predicted. Held-out prediction of measured responses, corrected for the noise of both sides, is
`neural_predictivity`, which is used here.

Source: Kornblith et al. 2019 (linear regression beside CKA); Spearman 1910, Schoppe et al. 2016
(what noise allows).
Axes: sample = stimulus; p and q = columns of the two sides; unit = measured channel.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.predictivity import (
    Mapping,
    neural_predictivity,
    ridge_map,
    stimulus_splits,
)
from neurofm.interpret.similarity.checks import centred, means_that_exist, pair
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RegressionSimilarity:
    """Correlation of held-out responses with their prediction, for every unit.

    Args:
        raw: Of prediction and measured mean response.
        ceiling: The largest correlation that the noise of the responses allows, from halves of the
            trials; NaN where halves do not agree.
        corrected: Raw over what noise allows; luck may put it above 1, and it is not clipped.
        chance: Raw, with stimuli of the features shuffled.
        n: Stimuli.
    """

    raw: Float[np.ndarray, " unit"]
    ceiling: Float[np.ndarray, " unit"]
    corrected: Float[np.ndarray, " unit"]
    chance: Float[np.ndarray, " unit"]
    n: int

    @property
    def score(self) -> float:
        """Median of the corrected correlations of units that have one."""
        return float(np.nanmedian(self.corrected)) if np.isfinite(self.corrected).any() else np.nan

    def plot(self) -> Figure:
        """Units in order of their ceiling, with prediction and chance."""
        from neurofm.interpret.similarity.drawings import draw_regression

        return draw_regression(self)


@takes_either
def regression_r2(x: Float[np.ndarray, "sample p"], y: Float[np.ndarray, "_ q"]) -> float:
    """Share of the variance of `y` in the column space of `x`; not symmetric, in sample.

    Warns where `x` has as many columns as samples, from which anything is predicted.

    Raises:
        ValueError: `y` has no variance.
    """
    x, y = (centred(side) for side in pair("regression_r2", x, y, least=3))
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    rank = int((s > s[0] * max(x.shape) * np.finfo(float).eps).sum()) if s[0] > 0 else 0
    if rank >= len(x) - 1:
        warnings.warn(
            f"regression_r2: {rank} directions of {len(x)} samples predict anything in sample. "
            "Use noise_corrected_regression, which predicts samples left out, or fewer columns.",
            stacklevel=3,  # through the decorator
        )
    total = float(np.vdot(y, y))
    if not total > 0:
        raise ValueError("regression_r2: y has no variance; there is nothing to predict.")
    explained = u[:, :rank].T @ y
    return float(np.vdot(explained, explained)) / total


@takes_either
def noise_corrected_regression(
    x: Float[np.ndarray, "stimulus p"],
    trials: Float[np.ndarray, "trial _ unit"],
    *,
    mapping: Mapping | None = None,
    splits: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    n_bootstraps: int = 100,
    seed: int = 0,
) -> RegressionSimilarity:
    """Predict measured responses to stimuli left out, and judge that by the noise of the responses.

    Args:
        x: Features of the stimuli, such as a layer.
        trials: Responses, NaN where a trial is missing.
        mapping: `ridge_map(1.0)` if not given.
        splits: Training and test stimuli; five random ones if not given.
        n_bootstraps: Halvings of the trials.
        seed: Of the halvings and of the shuffle.
    """
    how = mapping or ridge_map()
    folds = splits if splits is not None else stimulus_splits(len(x))
    found = neural_predictivity(
        x, trials, mapping=how, splits=folds, n_bootstraps=n_bootstraps, start_seed=seed
    )
    shuffled = np.asarray(x)[np.random.default_rng(seed).permutation(len(x))]
    guess = neural_predictivity(
        shuffled, trials, mapping=how, splits=folds, n_bootstraps=1, start_seed=seed
    )
    reliability = _mean(found.r_yy_sb)
    with np.errstate(invalid="ignore"):
        ceiling = np.where(reliability > 0, np.sqrt(reliability), np.nan)
    return RegressionSimilarity(
        raw=_mean(found.r_xy),
        ceiling=ceiling,
        corrected=found.by_unit(),
        chance=_mean(guess.r_xy),
        n=len(x),
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """Over bootstraps and splits, without what is not defined."""
    return means_that_exist(np.moveaxis(values, 2, 0).reshape(values.shape[2], -1))
