"""Probes that may use only k units: is a concept in a few neurons, or spread over all?

The comparison is the same layer after a random rotation, which leaves everything that is linearly
readable and takes away that single units mean something. Units are ranked on one part of the
training windows and the probe is fitted on another, so that the choice does not flatter it.

Source: Gurnee et al. 2023 (sparse probing).
Axes: window unit; k = units that the probe sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.feature_selection import f_classif, mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.svm import l1_min_c

from neurofm.interpret.arrays import require_finite, takes_either
from neurofm.interpret.similarity.shape import random_rotation
from neurofm.linear import make_folds
from neurofm.metrics import balanced_accuracy
from neurofm.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Ranking = Literal["mean_difference", "f", "mutual_information", "l1"]
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PATH = 30  # penalties along which units enter


@takes_either
def mean_difference(
    x: Float[np.ndarray, "window unit"], y: Sequence[Any] | np.ndarray
) -> Float[np.ndarray, " unit"]:
    """Mean of the second class minus mean of the first, in the units of the activations."""
    x, y = _two_classes("mean_difference", x, y)
    return x[y].mean(0) - x[~y].mean(0)


@takes_either
def f_statistic(
    x: Float[np.ndarray, "window unit"], y: Sequence[Any] | np.ndarray
) -> tuple[Float[np.ndarray, " unit"], Float[np.ndarray, " unit"]]:
    """F of an analysis of variance for each unit, and its p; NaN for constant units."""
    x, y = _two_classes("f_statistic", x, y)
    varies = np.ptp(x, axis=0) > 0
    f, p = np.full(x.shape[1], np.nan), np.full(x.shape[1], np.nan)
    if varies.any():
        f[varies], p[varies] = f_classif(x[:, varies], y)
    return f, p


@takes_either
def rank_units(
    x: Float[np.ndarray, "window unit"],
    y: Sequence[Any] | np.ndarray,
    *,
    by: Ranking = "mean_difference",
    seed: int = 0,
) -> Int[np.ndarray, " unit"]:
    """Units in the order in which they tell two classes apart, best first.

    Args:
        by: Magnitude of the mean difference, F, mutual information (nearest neighbours), or the
            order in which units enter a logistic regression as its L1 penalty falls.
        seed: Of the noise that mutual information adds against ties.
    """
    if by == "mean_difference":
        value = np.abs(mean_difference(x, y))
    elif by == "f":
        value = np.nan_to_num(f_statistic(x, y)[0], nan=-1.0)
    elif by == "mutual_information":
        value = mutual_info_classif(*_two_classes("rank_units", x, y), random_state=seed)
    elif by == "l1":
        value = _entered(*_two_classes("rank_units", x, y))
    else:
        raise ValueError(
            f"rank_units: by={by!r}; expected mean_difference, f, mutual_information or l1."
        )
    return np.argsort(-value, kind="stable")


@dataclass(frozen=True)
class SparseFit:
    """A logistic regression on a few units."""

    units: Int[np.ndarray, " k"]
    coef: Float[np.ndarray, " k"]
    intercept: float
    classes: np.ndarray

    def predict(self, x: Float[np.ndarray, "window unit"]) -> np.ndarray:
        """The more probable class of each window."""
        logit = np.asarray(x, dtype=np.float64)[:, self.units] @ self.coef + self.intercept
        return self.classes[(logit > 0).astype(int)]


def fit_sparse(
    x: Float[np.ndarray, "window unit"],
    y: Sequence[Any] | np.ndarray,
    units: Sequence[int] | np.ndarray,
    *,
    c: float | int = 1.0,
    class_weight: str | None = None,
) -> SparseFit:
    """Fit on the units given.

    Args:
        c: Inverse strength of the L2 penalty.
    """
    values, second = _two_classes("fit_sparse", x, y)
    chosen = np.asarray(units, dtype=int)
    model = LogisticRegression(C=c, class_weight=class_weight, tol=1e-10, max_iter=5000)
    model.fit(values[:, chosen], second)
    return SparseFit(chosen, model.coef_[0], float(model.intercept_[0]), np.unique(np.asarray(y)))


@dataclass(frozen=True)
class SparseProbe:
    """Balanced accuracy over the number of units.

    Args:
        score: Of the layer; classes one against the rest, their mean.
        rotated: The same after random rotations of the layer, mean over them.
        units: Best units of each class on all windows, to look at; not those of any fold.
    """

    ks: tuple[int, ...]
    score: Float[np.ndarray, "k fold"]
    rotated: Float[np.ndarray, "k fold"]
    units: dict[Any, np.ndarray]
    chance: float = 0.5

    @property
    def advantage(self) -> Float[np.ndarray, " k"]:
        """Score minus that of rotated layers; positive where single units carry the concept."""
        return np.nanmean(self.score, 1) - np.nanmean(self.rotated, 1)

    def plot(self) -> Figure:
        """Both curves over k, and chance."""
        from neurofm.interpret.probing.drawings import draw_sparse

        return draw_sparse(self)


def sparse_probe(
    x: Float[np.ndarray, "window unit"],
    y: Sequence[Any] | np.ndarray,
    *,
    groups: Sequence[Any] | np.ndarray,
    ks: Sequence[int] = KS,
    by: Ranking = "mean_difference",
    folds: int | None = None,
    rotations: int = 1,
    separate: bool = True,
    c: float | int = 1.0,
    rng: np.random.Generator | None = None,
) -> SparseProbe:
    """Score of probes that use the best k units, beside rotated layers.

    Units are standardised by the training windows. More than two classes are probed one against
    the rest.

    Args:
        groups: Subject or recording of each window, never divided.
        ks: Values above the number of units are left out.
        folds: How many; as many as groups if not given.
        rotations: Random rotations of the layer to average; 0 for none.
        separate: Rank on one half of the training groups and fit on the other. False uses all
            for both, which flatters single units.
        rng: Draws the rotations.
    """
    values, target, own = np.asarray(x, dtype=np.float64), np.asarray(y), np.asarray(groups)
    if values.ndim != 2:
        raise ValueError(f"sparse_probe: activations {values.shape}; expected window unit.")
    require_finite("sparse_probe", values)
    classes = np.unique(target)
    if len(classes) < 2:
        raise ValueError(f"sparse_probe: every label is {target[0]!r}; expected two classes.")
    if any(k < 1 for k in ks):
        raise ValueError(f"sparse_probe: ks {tuple(ks)}; expected numbers of units from 1.")
    used = tuple(k for k in ks if k <= values.shape[1])
    if not used:
        raise ValueError(f"sparse_probe: ks {tuple(ks)} all exceed {values.shape[1]} units.")
    rng = np.random.default_rng(0) if rng is None else rng
    outer = make_folds(len(target), folds, groups=own)
    concepts = classes[1:] if len(classes) == 2 else classes
    score = np.full((len(used), len(outer)), np.nan)
    rotated = np.full((rotations, *score.shape), np.nan)
    turns = [random_rotation(values.shape[1], rng) for _ in range(rotations)]
    for j, (train, test) in enumerate(outer):
        mean, spread = values[train].mean(0), values[train].std(0)
        z = (values - mean) / np.where(spread > 0, spread, 1.0)
        first, second = _halves(train, own[train]) if separate else (train, train)
        parts = (first, second, test)
        score[:, j] = _curve(z, target, concepts, parts, used, by, c)
        for r, turn in enumerate(turns):
            rotated[r, :, j] = _curve(z @ turn, target, concepts, parts, used, by, c)
    if np.isnan(score).all():
        raise ValueError(
            "sparse_probe: no fold has both classes in every part. Use fewer folds, or "
            "separate=False with few groups."
        )
    best = {k: rank_units(values, target == k, by=by)[: max(used)] for k in concepts.tolist()}
    mean_rotated = rotated.mean(0) if rotations else np.full_like(score, np.nan)
    return SparseProbe(used, score, mean_rotated, best)


def _curve(
    z: np.ndarray,
    target: np.ndarray,
    concepts: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    ks: tuple[int, ...],
    by: Ranking,
    c: float | int,
) -> np.ndarray:
    """Mean over classes of the score at every k; NaN if a part lacks a class."""
    first, second, test = parts
    total = np.zeros(len(ks))
    for concept in concepts:
        one = target == concept
        if any(len(np.unique(one[part])) < 2 for part in parts):
            return np.full(len(ks), np.nan)
        order = rank_units(z[first], one[first], by=by)
        for i, k in enumerate(ks):
            fit = fit_sparse(z[second], one[second], order[:k], c=c, class_weight="balanced")
            total[i] += balanced_accuracy(one[test], fit.predict(z[test]))
    return total / len(concepts)


def _halves(rows: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By group; by time where there is one group."""
    many = len(np.unique(groups)) > 1
    first, second = make_folds(len(rows), 2, groups=groups if many else None)[0]
    return rows[first], rows[second]


def _entered(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How early each unit enters as the penalty falls; later ones by their weight in the end."""
    scale = x.std(0)
    z = (x - x.mean(0)) / np.where(scale > 0, scale, 1.0)
    start = l1_min_c(z, y, loss="log")
    early = np.zeros(x.shape[1])
    model = LogisticRegression(l1_ratio=1.0, solver="liblinear", random_state=0, max_iter=500)
    coef = early
    for step, c in enumerate(start * np.geomspace(1.05, 1e3, _PATH)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a fit of the path is not fully converged
            coef = np.abs(model.set_params(C=c).fit(z, y).coef_[0])
        early = np.where((early == 0) & (coef > 0), _PATH - step, early)
    return early + coef / (coef.max() + 1.0)


def _two_classes(name: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Activations in float64, and which windows are of the second class."""
    values, target = np.asarray(x, dtype=np.float64), np.asarray(y)
    if values.ndim != 2 or len(values) != len(target):
        raise ValueError(f"{name}: activations {values.shape} for {len(target)} labels.")
    require_finite(name, values)
    classes = np.unique(target)
    if len(classes) != 2:
        raise ValueError(
            f"{name}: {len(classes)} classes; expected two. Compare one with the rest: y == label."
        )
    return values, target == classes[1]
