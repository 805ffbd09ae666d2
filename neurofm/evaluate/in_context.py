"""How well encoding models read from a context predict, by the size of the context.

For each size, disjoint consecutive slices of one list of stimuli are contexts; all voxels of a
person are predicted on the same held-out stimuli. Beside it on the same contexts: ridge, which has
seen no other person; above it: weights that were fitted to everything.

Source: leomqyu/BraInCoRL (Apache-2.0), arXiv 2505.15813.
Axes: slice = one context; stimulus; feature; voxel; weight = one per feature, then the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurofm.linear import in_context_ridge
from neurofm.metrics import explained_variance
from neurofm.models import BraInCoRL
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval
from neurofm.types import Result


@dataclass(frozen=True)
class ContextScore:
    """Scores of all voxels with contexts of one size.

    Args:
        size: Stimuli of a context.
        in_context: Explained variance of responses to held-out stimuli: not clipped, and not
            divided by a noise ceiling.
        ridge: Of the baseline on the same contexts; NaN where it needs a larger one.
        cosine: Of the weights read and those known, without the bias; None where none are known.
    """

    size: int
    in_context: Float[np.ndarray, "slice voxel"]
    ridge: Float[np.ndarray, "slice voxel"]
    cosine: Float[np.ndarray, "slice voxel"] | None

    def results(self, *, seed: int = 0) -> tuple[Result, Result]:
        """Means over voxels of both, with 95 % intervals over voxels of one person."""
        pair = (("in context", self.in_context), ("ridge", self.ridge))
        inner, outer = (_result(f"{name}, {self.size}", values, seed) for name, values in pair)
        return inner, outer


def _result(name: str, values: np.ndarray, seed: int) -> Result:
    mean = values.mean(0)
    low, high = (float("nan"),) * 2
    if np.isfinite(mean).all():
        low, high = bootstrap_interval(mean, method="percentile", n_resamples=1000, seed=seed)
    return Result(name=name, value=float(mean.mean()), low=low, high=high, n=len(mean), chance=0.0)


def score_weights(
    weights: Float[np.ndarray, "voxel feature"],
    bias: Float[np.ndarray, " voxel"],
    held_features: Float[np.ndarray, "held feature"],
    held_responses: Float[np.ndarray, "held voxel"],
    *,
    name: str,
    seed: int = 0,
) -> Result:
    """Explained variance of given linear models: mean over voxels and its 95 % interval."""
    predicted = held_features @ np.asarray(weights).T + bias
    return _result(name, explained_variance(held_responses, predicted)[None], seed)


def context_curve(
    model: BraInCoRL,
    features: Float[np.ndarray, "stimulus feature"],
    responses: Float[np.ndarray, "stimulus voxel"],
    held_features: Float[np.ndarray, "held feature"],
    held_responses: Float[np.ndarray, "held voxel"],
    *,
    sizes: Sequence[int] = (100,),
    n_slices: int = 5,
    known: Float[np.ndarray, "voxel weight"] | None = None,
    seed: int = 0,
    max_bytes: int = 256_000_000,
) -> list[ContextScore]:
    """Score a trained encoder on a person it was not trained on.

    Args:
        model: In evaluation mode.
        features: Of the stimuli that contexts are taken from, shuffled once by `seed`.
        responses: z-scored.
        held_features: Of other stimuli.
        held_responses: To those.
        sizes: Of contexts.
        n_slices: Contexts of each size; without common stimuli.
        known: Weights that the voxels were made by or that were fitted to all data.
        max_bytes: See `BraInCoRL.read_voxels`.

    Returns:
        One entry per size.

    Raises:
        ValueError: Too few stimuli for the slices, a stimulus on both sides, or whatever the model
            refuses.
    """
    sizes = list(sizes)
    if not sizes or min(sizes) < 1 or n_slices * max(sizes) > len(features):
        raise ValueError(
            f"context_curve: {n_slices} disjoint contexts of {max(sizes, default=0)} stimuli need "
            f"{n_slices * max(sizes, default=0)}, there are {len(features)}. Use smaller sizes or "
            "fewer slices."
        )
    both = np.concatenate([features, held_features])
    if len(np.unique(both[len(features) :], axis=0)) + len(np.unique(features, axis=0)) > len(
        np.unique(both, axis=0)
    ):
        raise ValueError(
            "context_curve: stimuli that are predicted are in the contexts too. Split stimuli "
            "before contexts are taken."
        )
    order = np.random.default_rng(seed).permutation(len(features))
    scores = []
    for size in sizes:
        rows = [
            _one(
                model,
                (features[part], responses[part]),
                (held_features, held_responses),
                known,
                max_bytes,
            )
            for part in np.split(order[: n_slices * size], n_slices)
        ]
        inner, outer, cosine = (np.stack(column) for column in zip(*rows, strict=True))
        scores.append(ContextScore(size, inner, outer, None if known is None else cosine))
    return scores


def _one(
    model: BraInCoRL,
    context: tuple[np.ndarray, np.ndarray],
    held: tuple[np.ndarray, np.ndarray],
    known: np.ndarray | None,
    max_bytes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    where: Any = next(model.parameters())
    given = (torch.as_tensor(part, dtype=where.dtype, device=where.device) for part in context)
    read = model.read_voxels(*given, max_bytes=max_bytes)
    weights = read.weights.float().cpu().numpy()
    predicted = held[0] @ weights.T + read.bias.float().cpu().numpy()
    inner = explained_variance(held[1], predicted)
    outer = np.full_like(inner, np.nan)
    if len(context[0]) >= 10:  # five folds of two
        outer = explained_variance(held[1], in_context_ridge(*context).predict(held[0]))
    cosine = np.full_like(inner, np.nan)
    if known is not None:
        lengths = np.linalg.norm(weights, axis=1) * np.linalg.norm(known[:, :-1], axis=1)
        cosine = (weights * known[:, :-1]).sum(1) / lengths
    return inner, outer, cosine
