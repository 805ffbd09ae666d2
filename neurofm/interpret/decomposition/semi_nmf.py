"""Semi-NMF: activations as features of any sign, combined with weights that are not negative.

`A (dim, sample) ≈ F Gᵀ` with `G ≥ 0`. A column of F is a group of units that act together, a column
of G says for which samples. Winner-take-all keeps few units of each feature.

Source: Ding, Li & Jordan 2010 (updates); Shafran et al. 2025 (of MLP activations).
Axes: dim sample feature. float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.cluster import KMeans

from neurofm.interpret.arrays import require_finite, takes_either
from neurofm.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RIDGE = _TINY = 1e-6


@dataclass(frozen=True)
class SemiNMF:
    """A factorisation.

    Args:
        features: Groups of units.
        weights: How much each sample has of each, not negative.
        loss: Squared error after every iteration.
        sparsity: Share of units kept in each feature; None for all.
    """

    features: Float[np.ndarray, "dim feature"]
    weights: Float[np.ndarray, "sample feature"]
    loss: Float[np.ndarray, " iteration"]
    sparsity: float | None

    def top_samples(self, n: int = 10) -> Int[np.ndarray, "feature sample"]:
        """Samples that have most of each feature."""
        return np.argsort(-self.weights, axis=0, kind="stable")[:n].T

    def written(self, out: Float[np.ndarray, "out dim"]) -> Float[np.ndarray, "out feature"]:
        """What each feature writes to what follows the layer, by the layer's output weights."""
        return out @ self.features

    def plot(self) -> Figure:
        """The squared error over iterations."""
        from neurofm.figures import plot_curves

        steps = np.arange(1, len(self.loss) + 1)
        return plot_curves(
            {"squared error": (steps, self.loss)},
            title=f"Semi-NMF, {self.features.shape[1]} features",
            ylabel="squared error",
            xlabel="iteration",
        )


@takes_either
def update_features(
    a: Float[np.ndarray, "dim sample"], weights: Float[np.ndarray, "sample feature"]
) -> Float[np.ndarray, "dim feature"]:
    """Least squares with weights fixed (a ridge of 1e-6 keeps unused features solvable)."""
    gram = weights.T @ weights + _RIDGE * np.eye(weights.shape[1])
    return cho_solve(cho_factor(gram), (a @ weights).T).T


@takes_either
def update_weights(
    a: Float[np.ndarray, "dim sample"],
    features: Float[np.ndarray, "dim feature"],
    weights: Float[np.ndarray, "sample feature"],
) -> Float[np.ndarray, "sample feature"]:
    """One multiplicative step, which never makes the error larger."""
    p, q = a.T @ features, features.T @ features
    above = np.maximum(p, 0) + weights @ np.maximum(-q, 0)
    below = np.maximum(-p, 0) + weights @ np.maximum(q, 0)
    return weights * np.sqrt(above / (below + _TINY))


def semi_nmf(
    a: Float[np.ndarray, "dim sample"],
    n_features: int,
    *,
    start: Literal["random", "svd", "kmeans"] | np.ndarray = "random",
    sparsity: float | None = 0.01,
    unit_weights: bool = True,
    n_iter: int = 500,
    patience: int = 100,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> SemiNMF:
    """Factorise activations.

    Args:
        a: Units by samples, such as the hidden activations of an MLP.
        n_features: 100 to 400 for a layer of a network; at most the number of samples.
        start: Of the weights, or the weights themselves.
        sparsity: Share of units that keep a place in each feature (the largest); None keeps all,
            and the error then falls with every iteration.
        unit_weights: Bring the columns of the weights to norm 1 in every iteration.
        patience: Iterations without an improvement of more than `tolerance` (of the error's share
            of the total) after which to stop. The best iteration is kept.

    Raises:
        ValueError: More features than samples, or values that are not finite.
    """
    a = np.asarray(a, dtype=np.float64)
    if a.ndim != 2:
        raise ValueError(f"semi_nmf: activations of shape {a.shape}; expected dim sample.")
    dim, n = a.shape
    if not 1 <= n_features <= n:
        raise ValueError(
            f"semi_nmf: {n_features} features of {n} samples; use at most as many features as "
            "samples, or more samples."
        )
    require_finite("semi_nmf", a.T, "samples")
    if sparsity is not None and not 0 < sparsity <= 1:
        raise ValueError(f"semi_nmf: sparsity is {sparsity}, expected above 0, at most 1, or None.")
    weights = _start(a, n_features, start, np.random.default_rng(seed))
    kept = dim if sparsity is None else max(1, round(sparsity * dim))
    total = float(np.square(a).sum())
    best, losses, since, reference = None, [], 0, np.inf
    for _ in range(n_iter):
        features = _winners(update_features(a, weights), kept)
        if unit_weights:
            norm = np.maximum(np.linalg.norm(weights, axis=0), _TINY)
            weights, features = weights / norm, features * norm
        weights = update_weights(a, features, weights)
        losses.append(float(np.square(a - features @ weights.T).sum()))
        if losses[-1] <= min(losses):
            best = features, weights
        since = since + 1 if losses[-1] > reference - tolerance * total else 0
        reference = min(reference, losses[-1]) if since == 0 else reference
        if since >= patience:
            break
    if best is None:
        raise ValueError(f"semi_nmf: n_iter is {n_iter}, expected at least 1.")
    return SemiNMF(*best, np.array(losses), sparsity)


def _winners(features: np.ndarray, kept: int) -> np.ndarray:
    if kept >= len(features):
        return features
    order = np.argsort(-np.abs(features), axis=0, kind="stable")[:kept]
    sparse = np.zeros_like(features)
    np.put_along_axis(sparse, order, np.take_along_axis(features, order, 0), 0)
    return sparse


def _start(a: np.ndarray, k: int, start: str | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = a.shape[1]
    if isinstance(start, np.ndarray):
        if start.shape != (n, k) or (start < 0).any():
            raise ValueError(
                f"semi_nmf: start has shape {start.shape} and a least value of {start.min():g}; "
                f"expected {(n, k)}, not negative."
            )
        return start.astype(np.float64)
    if start == "random":
        return np.maximum(rng.random((n, k)), _TINY)
    if start == "svd":
        if k > min(a.shape):
            raise ValueError(f"semi_nmf: start='svd' gives {min(a.shape)} features at most.")
        return np.maximum(np.abs(np.linalg.svd(a, full_matrices=False)[2][:k].T), _TINY)
    if start == "kmeans":
        labels = KMeans(k, n_init=4, random_state=int(rng.integers(2**31))).fit_predict(a.T)
        return np.eye(k)[labels] + 0.2
    raise ValueError(f"semi_nmf: start={start!r} is not 'random', 'svd', 'kmeans' or an array.")


def hierarchy(found: SemiNMF, n_features: Sequence[int], *, seed: int = 0) -> list[SemiNMF]:
    """Features of features: the same factorisation again on the features of the level before.

    Args:
        n_features: Of every further level, each at most the one before.
    """
    levels: list[SemiNMF] = []
    for k in n_features:
        below = (levels[-1] if levels else found).features
        levels.append(semi_nmf(below, k, sparsity=None, seed=seed))
    return levels
