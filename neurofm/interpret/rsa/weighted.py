"""One model as a weighted sum of model RDMs, fitted on other stimuli and other people.

Weights are not negative: a sum of features can only add squared distances. More components always
fit better, so that the sum is judged on stimuli and people it was not fitted to.

Source: Khaligh-Razavi & Kriegeskorte 2014 (weighted model RDMs); Schuett et al. 2023 (folds over
stimuli and people).
Axes: model, subject, fold; pair = upper triangle by rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from neurofm import stats
from neurofm.interpret.rsa import resampled
from neurofm.interpret.rsa.bootstrap import n_conditions
from neurofm.interpret.rsa.comparators import same_conditions
from neurofm.shapes import Float, Int
from neurofm.types import RDM, Result

MIN_FOLD = 3  # stimuli


@dataclass(frozen=True)
class WeightedModel:
    """A weighted sum and its parts, scored on stimuli and people left out.

    Args:
        models: Names of the parts.
        subjects: Names.
        weights: Of each fold; of RDMs of root mean square 1, and summing to 1.
        scores: Of the weighted sum for each person, mean over folds of stimuli.
        alone: Of each part, in the same folds.
        ceiling: Mean of the other people, the same way: what is shared.
        method: Of the comparison.
        n_folds: Of stimuli, and of people.
        n_conditions: Stimuli.
    """

    models: tuple[str, ...]
    subjects: tuple[str, ...]
    weights: Float[np.ndarray, "fold model"]
    scores: Float[np.ndarray, " subject"]
    alone: Float[np.ndarray, "model subject"]
    ceiling: float
    method: str
    n_folds: tuple[int, int]
    n_conditions: int

    def results(self) -> list[Result]:
        """The sum first, then its parts; intervals are missing with fewer than three people."""
        rows = {"weighted sum": self.scores, **dict(zip(self.models, self.alone, strict=True))}
        found = []
        for name, values in rows.items():
            low, high = stats.bootstrap_interval(values) if len(values) > 2 else (None, None)
            detail: dict[str, Any] = {"values": values.tolist(), "folds": self.n_folds}
            if name in self.models:
                detail["weight"] = float(self.weights[:, self.models.index(name)].mean())
            found.append(
                Result(
                    name=name,
                    value=float(values.mean()),
                    unit=self.method,
                    low=low,
                    high=high,
                    n=len(values),
                    chance=0.0,
                    ceiling=self.ceiling if np.isfinite(self.ceiling) else None,
                    detail=detail,
                )
            )
        return found

    def plot(self) -> Any:
        """Bars of the sum and its parts under the ceiling."""
        from neurofm.figures import plot_bars

        found = self.results()
        figure = plot_bars(
            {one.name: one.value for one in found},
            intervals={one.name: (one.low, one.high) for one in found if one.low is not None},
            title=f"New stimuli, new people: {self.n_conditions} stimuli, {len(self.subjects)} "
            "people",
            unit=f"similarity of RDMs ({self.method})",
            chance=0.0,
        )
        if np.isfinite(self.ceiling):
            axes = figure.axes[0]
            axes.axhline(self.ceiling, color="0.5", linewidth=1.2)
            axes.annotate(" other people", (1, self.ceiling), xycoords=("axes fraction", "data"))
        return figure


def fit_weights(
    models: Float[np.ndarray, "model pair"],
    people: Float[np.ndarray, "subject pair"],
    method: str = "cosine",
    *,
    conditions: Int[np.ndarray, " condition"] | None = None,
) -> Float[np.ndarray, " model"]:
    """Weights, at least 0, whose sum of models is most similar to the pooled people.

    Args:
        method: "cosine" or "corr", whitened ("_cov") or not. Ranks have no weights of their own.
        conditions: Fit on the pairs among these; all if not given.

    Returns:
        Of the models as given; all 0 if none points the way of the people.
    """
    gram, scale = _products(models, people, method, conditions)
    k = len(models)
    size = np.where(scale[:k] > 0, scale[:k], 1.0)
    weights = _solve(gram[:k, :k] / np.outer(size, size), _pull(gram, scale, k) / size)
    return np.where(scale[:k] > 0, weights / size, 0.0)


def cross_validate_weights(
    models: Mapping[str, RDM],
    people: Mapping[str, RDM],
    *,
    generator: np.random.Generator,
    method: str = "cosine_cov",
    n_stimulus_folds: int | None = None,
    n_subject_folds: int | None = None,
) -> WeightedModel:
    """Fit on some stimuli of some people, judge on the other stimuli of the other people.

    Args:
        method: As in `fit_weights`.
        n_stimulus_folds: 2, 3, 4 or 5 if not given, for fewer than 12, 24, 40 stimuli or more.
        n_subject_folds: Each person by itself if not given, 5 folds beyond five people. With one
            person, the same person's other stimuli.

    Raises:
        ValueError: Folds of fewer than three stimuli.
    """
    first = next(iter(people.values()))
    for other in (*models.values(), *people.values()):
        same_conditions(first, other)
    n, s, k = len(first.labels), len(people), len(models)
    folds = default_folds(n) if n_stimulus_folds is None else n_stimulus_folds
    if folds < 2 or n // folds < MIN_FOLD:
        raise ValueError(
            f"cross_validate_weights: {folds} folds of {n} stimuli; expected two or more folds of "
            f"at least {MIN_FOLD} stimuli."
        )
    groups = min(s, n_subject_folds or 5)
    x = np.stack([one.values for one in models.values()])
    y = np.stack([one.values for one in people.values()])
    stimuli = np.array_split(generator.permutation(n), folds)
    persons = np.array_split(generator.permutation(s), groups)
    weights, scores, alone, shared = [], np.zeros((folds, s)), np.zeros((folds, k, s)), []
    for f, test in enumerate(stimuli):
        train = np.setdiff1d(np.arange(n), test)
        gram, _ = _products(x, y, method, test)
        own = np.sqrt(np.diag(gram))
        for out in persons:
            rest = np.setdiff1d(np.arange(s), out) if s > 1 else out
            fitted = fit_weights(x, y[rest], method, conditions=train)
            length = np.sqrt(fitted @ gram[:k, :k] @ fitted)
            with np.errstate(invalid="ignore", divide="ignore"):
                scores[f, out] = fitted @ gram[:k, k + out] / (length * own[k + out])
                alone[f, :, out] = (gram[:k, k + out] / np.outer(own[:k], own[k + out])).T
            unit = fitted * np.sqrt((x**2).mean(1))
            weights.append(unit / max(unit.sum(), 1e-300))
            if s > 1:
                mean = (y[rest] / np.sqrt((y[rest] ** 2).mean(1, keepdims=True))).mean(0)
                bound, _ = _products(mean[None], y[out], method, test)
                own_bound = np.sqrt(np.diag(bound))
                shared += (bound[0, 1:] / own_bound[0] / own_bound[1:]).tolist()
    return WeightedModel(
        models=tuple(models),
        subjects=tuple(people),
        weights=np.array(weights),
        scores=scores.mean(0),
        alone=alone.mean(0),
        ceiling=float(np.mean(shared)) if shared else float("nan"),
        method=method,
        n_folds=(folds, groups),
        n_conditions=n,
    )


def default_folds(n: int) -> int:
    """Folds over stimuli that leave enough of them in each."""
    return 2 + sum(n >= limit for limit in (12, 24, 40))


def _products(
    models: np.ndarray, people: np.ndarray, method: str, conditions: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if method not in resampled.SUMS:
        raise ValueError(
            f"weights: method {method!r} is not one of {resampled.SUMS}; the order of distances "
            "alone does not fix a weighted sum."
        )
    both = np.concatenate([models, people]).astype(np.float64)
    n = n_conditions(both.shape[1])
    counts = np.zeros((1, n))
    counts[0, slice(None) if conditions is None else conditions] = 1.0
    missing = np.asarray(np.isnan(both).any(axis=0))
    gram, scale = resampled.inner_products(
        np.where(missing, 0.0, both), counts, missing, method, n_first=0
    )
    return gram[0], scale[0]


def _pull(gram: np.ndarray, scale: np.ndarray, k: int) -> np.ndarray:
    """Products of the models with the pooled people."""
    return (gram[:k, k:] / scale[k:]).mean(1)


def _solve(gram: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """Least squares without negative weights, from products alone."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-12 * max(values[-1], 1e-300)
    root = np.sqrt(values[kept])
    return nnls((vectors[:, kept] * root).T, vectors[:, kept].T @ pull / root)[0]
