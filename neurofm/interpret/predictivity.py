"""How much of neural responses a model predicts, corrected for the noise of both sides.

A map from model features (or from another animal's neurons) to neurons is fitted on some stimuli
and judged on others. The correlation of prediction and response is divided by the reliabilities of
both, each estimated from halves of the trials, so that 1 is what noise allows (and luck exceeds).
Predictions have noise of their own: the maps of two halves of the trials differ.

    r_xy_n_sb = corr(P, Y) / sqrt(SB(corr(P1, P2)) SB(corr(Y1, Y2))),  SB(r) = 2 r / (1 + r)

Source: Nayebi et al. 2023 and Chung et al. 2025 (their metric, with NumPy's legacy random numbers,
so that halves and splits are the same ones); Schoppe et al. 2016 (normalised correlation).
Axes: trial; stimulus; unit; feature; bootstrap = one halving of the trials; split = train and test
stimuli.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.ceilings import spearman_brown
from neurofm.interpret.arrays import require_finite
from neurofm.interpret.rsa import compare_rdms, rdm
from neurofm.metrics import pearson_r
from neurofm.shapes import Float, Int

Predict = Callable[[np.ndarray], np.ndarray]
Split = tuple[np.ndarray, np.ndarray]
_AT_ONCE = 50  # bootstraps whose columns are fitted together


@dataclass(frozen=True)
class Mapping:
    """A way to fit: training features and responses to a function of new features.

    Args:
        fit: `stimulus feature`, `stimulus unit` to a function.
        by_unit: Units do not influence each other, so that many halvings are fitted at once.
    """

    fit: Callable[[np.ndarray, np.ndarray], Predict]
    by_unit: bool = True


@dataclass(frozen=True)
class Predictivity:
    """Scores on test stimuli, `bootstrap split unit`; NaN where a quantity is not defined.

    Args:
        r_xy: Correlation of prediction and response, from all trials; equal for all bootstraps.
        r_xx_sb: Reliability of the prediction, corrected to all trials.
        r_yy: Correlation of the halves of the response.
        r_yy_sb: Its reliability, corrected.
        r_xy_n_sb: The noise-corrected score; negative under the root is NaN.
        skipped: Halvings left out because a half had no trial of some stimulus.
    """

    r_xy: Float[np.ndarray, "bootstrap split unit"]
    r_xx_sb: Float[np.ndarray, "bootstrap split unit"]
    r_yy: Float[np.ndarray, "bootstrap split unit"]
    r_yy_sb: Float[np.ndarray, "bootstrap split unit"]
    r_xy_n_sb: Float[np.ndarray, "bootstrap split unit"]
    skipped: int = 0

    def by_unit(self, *, reliable: float | int | None = None) -> Float[np.ndarray, " unit"]:
        """Mean over bootstraps and splits together, without what is NaN.

        Args:
            reliable: Leave out entries whose `r_yy` is below this (0.5 in the tactile study).
        """
        values = self.r_xy_n_sb
        if reliable is not None:
            values = np.where(self.r_yy < reliable, np.nan, values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a unit without any value is NaN
            return np.nanmean(values, axis=(0, 1))

    def score(self, *, reliable: float | int | None = None) -> float:
        """Median over units that have a value; report `n_undefined` beside it."""
        units = self.by_unit(reliable=reliable)
        return float(np.nanmedian(units)) if np.isfinite(units).any() else float("nan")

    def n_undefined(self, *, reliable: float | int | None = None) -> int:
        """Units without any value."""
        return int(np.isnan(self.by_unit(reliable=reliable)).sum())


def ridge_map(penalty: float | int = 1.0) -> Mapping:
    """Ridge with an intercept that is not penalised (5e7 in the tactile study)."""

    def fit(x: np.ndarray, y: np.ndarray) -> Predict:
        mean, level = x.mean(0), y.mean(0)
        centred = x - mean
        if x.shape[1] <= len(x):
            inner = centred.T @ centred + penalty * np.eye(x.shape[1])
            weights = np.linalg.solve(inner, centred.T @ (y - level))
        else:
            inner = centred @ centred.T + penalty * np.eye(len(x))
            weights = centred.T @ np.linalg.solve(inner, y - level)
        return lambda new: (new - mean) @ weights + level

    return Mapping(fit)


def pls_map(n_components: int = 25) -> Mapping:
    """Partial least squares without scaling; all units share the components."""

    def fit(x: np.ndarray, y: np.ndarray) -> Predict:
        from sklearn.cross_decomposition import PLSRegression

        return PLSRegression(n_components=n_components, scale=False).fit(x, y).predict

    return Mapping(fit, by_unit=False)


def one_to_one_map() -> Mapping:
    """Copy, for each unit, the source unit that correlates best in training (100th percentile)."""

    def fit(x: np.ndarray, y: np.ndarray) -> Predict:
        a, b = _z(x), _z(y)
        best = np.nan_to_num(a.T @ b, nan=-np.inf).argmax(0)
        return lambda new: new[:, best]

    return Mapping(fit)


def stimulus_splits(
    n_stimuli: int, *, n_splits: int = 5, train_fraction: float | int = 0.8
) -> list[Split]:
    """Random splits of stimuli: split s permutes with NumPy's legacy generator, seed s."""
    n_train = int(np.ceil(train_fraction * n_stimuli))
    if not 1 < n_train < n_stimuli - 1:
        raise ValueError(
            f"stimulus_splits: {n_train} of {n_stimuli} stimuli for training; a correlation needs "
            "two or more for testing, a map two or more for training."
        )
    orders = [np.random.RandomState(s).permutation(n_stimuli) for s in range(n_splits)]
    return [(order[:n_train], order[n_train:]) for order in orders]


def trial_halves(n_trials: int, seed: int) -> Int[np.ndarray, " trial"]:
    """Order of the trials; the first half (rounded down) against the rest. Legacy generator."""
    order = np.arange(n_trials)
    np.random.RandomState(seed).shuffle(order)
    return order


def neural_predictivity(
    source: np.ndarray,
    target: Float[np.ndarray, "trial stimulus unit"],
    *,
    mapping: Mapping | None = None,
    splits: Sequence[Split] | None = None,
    n_bootstraps: int = 1000,
    start_seed: int = 1234,
) -> Predictivity:
    """Noise-corrected correlation of predicted and measured responses to test stimuli.

    Args:
        source: Model features, `stimulus feature`, without noise; or an animal, `trial stimulus
            unit`, whose trials are halved like the target's.
        target: NaN where a trial is missing.
        mapping: `ridge_map(1.0)` if not given; `pls_map`, `one_to_one_map`, or your own.
        splits: Train and test stimuli; five random ones of 80 % if not given.
        n_bootstraps: Halvings of the trials.

    Raises:
        ValueError: Shapes that do not fit, fewer than two trials, NaN features, or no halving with
            a trial of every stimulus in both halves.
    """
    x, y = _checked(source, target)
    folds = splits if splits is not None else stimulus_splits(y.shape[1])
    how = mapping or ridge_map()
    halves, skipped = _halves(x, y, n_bootstraps, start_seed)
    whole_x, whole_y = _mean(x) if x.ndim == 3 else x, _mean(y)
    shape = (len(halves), len(folds), y.shape[2])
    r_xy, r_xx, r_yy = (np.empty(shape) for _ in range(3))
    for s, (train, test) in enumerate(folds):
        full = how.fit(whole_x[train], whole_y[train])(whole_x[test])
        r_xy[:, s] = pearson_r(full.T, whole_y[test].T)
        for start in range(0, len(halves), _AT_ONCE):
            part = halves[start : start + _AT_ONCE]
            made = _predicted(how, x, part, train, test)
            for b, (one, two) in enumerate(made, start):
                r_xx[b, s] = pearson_r(one.T, two.T)
                r_yy[b, s] = pearson_r(part[b - start][2][test].T, part[b - start][3][test].T)
    return _corrected(r_xy, r_xx, r_yy, skipped)


def rsa_predictivity(
    source: np.ndarray,
    target: Float[np.ndarray, "trial stimulus unit"],
    *,
    method: str = "pearson",
    splits: Sequence[Split] | None = None,
    n_bootstraps: int = 1000,
    start_seed: int = 1234,
) -> Predictivity:
    """The same with dissimilarities in the place of a map: nothing is fitted.

    The dissimilarity of two stimuli is 1 - Pearson r over units or features.

    Args:
        method: "pearson" or "spearman" correlation of the dissimilarities.
        splits: Only their test stimuli are compared; all stimuli if not given.

    Returns:
        With one "unit".
    """
    if method not in ("pearson", "spearman"):
        raise ValueError(f"rsa_predictivity: method {method!r} is not 'pearson' or 'spearman'.")
    x, y = _checked(source, target)
    stimuli = np.arange(y.shape[1])
    folds = splits if splits is not None else [(stimuli, stimuli)]
    halves, skipped = _halves(x, y, n_bootstraps, start_seed)
    whole_x, whole_y = _mean(x) if x.ndim == 3 else x, _mean(y)
    shape = (len(halves), len(folds), 1)
    r_xy, r_xx, r_yy = (np.empty(shape) for _ in range(3))
    for s, (_, test) in enumerate(folds):
        r_xy[:, s] = rdm_correlation(whole_x[test], whole_y[test], method=method)
        for b, (x1, x2, y1, y2) in enumerate(halves):
            r_xx[b, s] = 1.0 if x.ndim == 2 else rdm_correlation(x1[test], x2[test], method=method)
            r_yy[b, s] = rdm_correlation(y1[test], y2[test], method=method)
    return _corrected(r_xy, r_xx, r_yy, skipped)


def rdm_correlation(
    x: Float[np.ndarray, "stimulus p"],
    y: Float[np.ndarray, "_ q"],
    *,
    method: str = "pearson",
) -> float:
    """Correlation of the correlation distances of two representations, upper triangles."""
    kind = {"pearson": "corr", "spearman": "spearman"}[method]
    return compare_rdms(rdm(x), rdm(y), kind)


def inter_animal_consistency(
    animals: Sequence[np.ndarray],
    *,
    mapping: Mapping | None = None,
    pairwise: bool = False,
    splits: Sequence[Split] | None = None,
    n_bootstraps: int = 1000,
    start_seed: int = 1234,
) -> list[Predictivity]:
    """How well animals predict each other: the score a model should reach.

    Args:
        animals: `trial stimulus unit` each; same stimuli in the same order, trials and units may
            differ in number.
        pairwise: One source at a time, and of these the best by median; otherwise the units of all
            others together.

    Returns:
        One result per animal as target; pool their units for one number.
    """
    if len(animals) < 2:
        raise ValueError("inter_animal_consistency: one animal has nobody to be consistent with.")
    found = []
    for i, target in enumerate(animals):
        others = [animal for j, animal in enumerate(animals) if j != i]
        sources = others if pairwise else [_together(others)]
        results = [
            neural_predictivity(
                source,
                target,
                mapping=mapping,
                splits=splits,
                n_bootstraps=n_bootstraps,
                start_seed=start_seed,
            )
            for source in sources
        ]
        found.append(max(results, key=lambda r: np.nan_to_num(r.score(), nan=-np.inf)))
    return found


def _predicted(
    how: Mapping, x: np.ndarray, part: list, train: np.ndarray, test: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predictions of both halves, for each halving; all at once where the source has no noise."""
    if x.ndim == 2 and how.by_unit:
        columns = np.concatenate([half[train] for _, _, *ys in part for half in ys], 1)
        made = how.fit(x[train], columns)(x[test])
        blocks = np.split(made, 2 * len(part), 1)
        return list(zip(blocks[::2], blocks[1::2], strict=True))
    return [
        (how.fit(x1[train], y1[train])(x1[test]), how.fit(x2[train], y2[train])(x2[test]))
        for x1, x2, y1, y2 in part
    ]


def _halves(x: np.ndarray, y: np.ndarray, n: int, start_seed: int) -> tuple[list, int]:
    """Averages of both halves of both sides, for each halving that leaves no gap."""
    kept = []
    for seed in range(start_seed, start_seed + n):
        sides = []
        for values in (x, y):
            if values.ndim == 2:
                sides += [values, values]
                continue
            order = trial_halves(len(values), seed)
            half = len(values) // 2
            sides += [_mean(values[order[:half]]), _mean(values[order[half:]])]
        if not any(np.isnan(side).any() for side in sides):
            kept.append(tuple(sides))
    if not kept:
        raise ValueError(
            f"neural_predictivity: in none of {n} halvings had both halves a trial of every "
            "stimulus and unit. Leave out stimuli or units with few trials."
        )
    return kept, n - len(kept)


def _corrected(r_xy: np.ndarray, r_xx: np.ndarray, r_yy: np.ndarray, skipped: int) -> Predictivity:
    r_xx_sb, r_yy_sb = spearman_brown(r_xx), spearman_brown(r_yy)
    with np.errstate(invalid="ignore", divide="ignore"):
        corrected = r_xy / np.sqrt(r_xx_sb * r_yy_sb)
    return Predictivity(r_xy, r_xx_sb, r_yy, r_yy_sb, corrected, skipped)


def _checked(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if y.ndim != 3 or x.ndim not in (2, 3) or x.shape[-2] != y.shape[1]:
        raise ValueError(
            f"neural_predictivity: source has shape {x.shape} and target {y.shape}; expected "
            "stimulus feature (or trial stimulus unit) and trial stimulus unit, same stimuli."
        )
    if len(y) < 2 or (x.ndim == 3 and len(x) < 2):
        raise ValueError("neural_predictivity: one trial has no halves; two or more are needed.")
    if x.ndim == 2:
        require_finite("neural_predictivity", x, "stimuli")
    return x, y


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no trial at all is NaN
        return np.nanmean(values, axis=0)


def _z(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return centred / np.sqrt((centred**2).sum(0))


def _together(animals: Sequence[np.ndarray]) -> np.ndarray:
    """Units side by side; trials that one has more than another are missing there."""
    most = max(len(animal) for animal in animals)
    padded = [
        np.pad(np.asarray(a, float), ((0, most - len(a)), (0, 0), (0, 0)), constant_values=np.nan)
        for a in animals
    ]
    return np.concatenate(padded, 2)
