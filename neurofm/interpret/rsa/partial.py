"""Similarity of RDMs beyond what simpler RDMs explain.

Source: partial correlation (Fisher 1924), as RSA uses it for low-level features.
Axes: model, subject, control; pair = upper triangle by rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm.interpret.rsa import resampled
from neurofm.interpret.rsa.comparators import same_conditions
from neurofm.interpret.rsa.permutations import draw_permutations, p_of
from neurofm.shapes import Float, Int
from neurofm.types import RDM, Result


@dataclass(frozen=True)
class PartialComparison:
    """Correlation of RDMs with and without the controls.

    Args:
        models: Names.
        controls: Names of what was regressed out of both sides.
        plain: Correlation of each model with each person.
        partial: After the controls.
        p: Of the mean partial correlation against relabelled conditions, one-sided.
        null_mean: Mean of those.
        method: "corr" or "spearman".
        n_conditions: Stimuli.
    """

    models: tuple[str, ...]
    controls: tuple[str, ...]
    plain: Float[np.ndarray, "model subject"]
    partial: Float[np.ndarray, "model subject"]
    p: Float[np.ndarray, " model"]
    null_mean: Float[np.ndarray, " model"]
    method: str
    n_conditions: int

    def results(self) -> list[Result]:
        """A line for each model."""
        return [
            Result(
                name=name,
                value=float(self.partial[i].mean()),
                unit=f"partial {self.method}",
                n=self.partial.shape[1],
                chance=float(self.null_mean[i]),
                detail={
                    "plain": float(self.plain[i].mean()),
                    "p": float(self.p[i]),
                    "controls": self.controls,
                    "values": self.partial[i].tolist(),
                },
            )
            for i, name in enumerate(self.models)
        ]

    def plot(self) -> Any:
        """Bars with and without the controls."""
        from neurofm.figures import plot_bars

        return plot_bars(
            {
                "plain": dict(zip(self.models, self.plain.mean(1).tolist(), strict=True)),
                "partial": dict(zip(self.models, self.partial.mean(1).tolist(), strict=True)),
            },
            title=f"{self.n_conditions} stimuli, {self.plain.shape[1]} people; without "
            + ", ".join(self.controls),
            unit=f"correlation of RDMs ({self.method})",
            chance=0.0,
        )


def partial_similarity(
    models: Float[np.ndarray, "model pair"],
    people: Float[np.ndarray, "subject pair"],
    controls: Float[np.ndarray, "control pair"],
    method: str = "spearman",
) -> Float[np.ndarray, "model subject"]:
    """Correlation of what of models and people the controls do not explain linearly.

    Args:
        method: "corr", or "spearman": all RDMs are ranked first.

    Returns:
        NaN where the controls explain a side entirely.
    """
    x, y, z = _ready(models, people, controls, method)
    return _correlated(_without(x, z), _without(y, z))


def compare_beyond(
    models: Mapping[str, RDM],
    people: Mapping[str, RDM],
    controls: Mapping[str, RDM],
    *,
    generator: np.random.Generator,
    method: str = "spearman",
    n_permutations: int = 1000,
) -> PartialComparison:
    """How similar is each model to people beyond the controls, such as pixels or silhouettes?

    Relabelling takes what is left of the model, so that the controls keep their conditions.
    """
    if not controls:
        raise ValueError("compare_beyond: no controls; use `compare_models`.")
    first = next(iter(people.values()))
    for other in (*models.values(), *people.values(), *controls.values()):
        same_conditions(first, other)
    stacks = [np.stack([m.values for m in group.values()]) for group in (models, people, controls)]
    x, y, z = _ready(stacks[0], stacks[1], stacks[2], method)
    left, right = _without(x, z), _without(y, z)
    n = len(first.labels)
    orders = draw_permutations(n, n_permutations, generator=generator)
    partial = _correlated(left, right)
    null = _relabelled(left, right, orders) if left.shape[1] == n * (n - 1) // 2 else None
    if null is None:
        raise ValueError("compare_beyond: RDMs with missing pairs cannot be relabelled.")
    return PartialComparison(
        models=tuple(models),
        controls=tuple(controls),
        plain=_correlated(x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)),
        partial=partial,
        p=p_of(null, partial.mean(1)),
        null_mean=null.mean(0),
        method=method,
        n_conditions=n,
    )


def _relabelled(
    left: np.ndarray, right: np.ndarray, orders: Int[np.ndarray, "permutation condition"]
) -> np.ndarray:
    n = orders.shape[1]
    rows, columns = np.triu_indices(n, 1)
    null = np.empty((len(orders), len(left)))
    for k, square in enumerate(resampled.squares_of(left, n)):
        for start in range(0, len(orders), 400):
            some = orders[start : start + 400]
            moved = square[some[:, rows], some[:, columns]]
            null[start : start + 400, k] = _correlated(moved, right).mean(1)
    return null


def _ready(
    models: np.ndarray, people: np.ndarray, controls: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if method not in ("corr", "spearman"):
        raise ValueError(f"partial similarity: method {method!r}; expected 'corr' or 'spearman'.")
    groups = [np.asarray(one, dtype=np.float64) for one in (models, people, controls)]
    known = ~np.concatenate([np.isnan(one) for one in groups]).any(0)
    groups = [one[:, known] for one in groups]
    if method == "spearman":
        groups = [resampled.weighted_ranks(one, np.ones(one.shape[1])) for one in groups]
    return groups[0], groups[1], groups[2]


def _without(x: np.ndarray, controls: np.ndarray) -> np.ndarray:
    base = np.concatenate([np.ones((1, x.shape[1])), controls]).T
    rest = x - (base @ np.linalg.lstsq(base, x.T, rcond=None)[0]).T
    # Rounding left over by a control that explains everything is no similarity.
    small = (rest**2).sum(1) <= 1e-16 * ((x - x.mean(1, keepdims=True)) ** 2).sum(1)
    rest[small] = np.nan
    return rest


def _correlated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    product = x @ y.T
    return np.divide(product, size, out=np.full_like(product, np.nan), where=size > 0)
