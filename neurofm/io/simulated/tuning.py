"""Voxels tuned to a few directions that people share, on a sheet of cortex that they do not.

Embeddings of stimuli are power-law noise and, of some concepts, more or less; a voxel follows few
of the concepts, as neighbours do. What a person's voxels follow is theirs, the directions are
everybody's: what an in-context encoder can learn from other people.

Source: Luo et al. 2024 and Yu et al. 2025 for what is being simulated; the numbers are ours.
Axes: stimulus; feature; voxel; concept; weight = one per feature, then the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from neurofm.io.simulated.noise import seeded, unit
from neurofm.shapes import Float

CONCEPTS = ("face", "body", "place", "word", "food", "tool")


@dataclass(frozen=True)
class TunedVoxels:
    """Voxels of one person.

    Args:
        weights: Of the features of a stimulus, the bias last; their noiseless answers to the
            stimuli of the world have mean 0 and variance 1.
        explainable: Share of the variance of the responses that is no noise, 0 to 1.
        preference: How much of each concept is in the weights.
        position: Column and row on the sheet; NaN for voxels without a place.
    """

    weights: Float[np.ndarray, "voxel weight"]
    explainable: Float[np.ndarray, " voxel"]
    preference: Float[np.ndarray, "voxel concept"]
    position: Float[np.ndarray, "voxel 2"]

    def respond(
        self, features: Float[np.ndarray, "stimulus feature"], *, seed: int
    ) -> Float[np.ndarray, "stimulus voxel"]:
        """Noisy answers of variance about 1: z-scored single-trial betas."""
        clean = features @ self.weights[:, :-1].T + self.weights[:, -1]
        noise = seeded(seed, "responses").standard_normal(clean.shape)
        return np.sqrt(self.explainable) * clean + np.sqrt(1 - self.explainable) * noise


class TunedWorld:
    """Stimuli, concepts, and people whose voxels follow them.

    Args:
        n_features: Of an embedding.
        seed: Of the world: directions of the concepts, and what is common among stimuli.
    """

    def __init__(self, n_features: int = 48, *, seed: int = 0) -> None:
        if n_features < 2 * len(CONCEPTS):
            raise ValueError(
                f"TunedWorld: {n_features} features, expected at least {2 * len(CONCEPTS)}."
            )
        self.n_features, self.seed = n_features, seed
        rng = seeded(seed, "world")
        turn = np.linalg.qr(rng.standard_normal((n_features, n_features)))[0]
        self._common = np.arange(1, n_features + 1)[:, None] ** -0.5 * turn
        self.concepts = np.linalg.qr(rng.standard_normal((n_features, len(CONCEPTS))))[0].T
        sample = self.embed(4000, seed=seed)
        self._mean, self._cov = sample.mean(0), np.cov(sample.T)

    def embed(self, n: int, *, seed: int) -> Float[np.ndarray, "stimulus feature"]:
        """Unit-norm embeddings of `n` stimuli; others with another seed."""
        rng = seeded(self.seed, "stimuli", seed)
        common = rng.standard_normal((n, self.n_features)) @ self._common
        content = 0.6 * rng.standard_normal((n, len(CONCEPTS))) @ self.concepts
        return unit(common + content).astype(np.float32)

    def phrases(self) -> Float[np.ndarray, "concept feature"]:
        """Unit-norm embeddings of the names of the concepts: near them, not on them."""
        rng = seeded(self.seed, "phrases")
        off = rng.standard_normal(self.concepts.shape) / np.sqrt(self.n_features)
        return unit(self.concepts + 0.5 * off).astype(np.float32)

    def draw(self, n: int, *, seed: int) -> TunedVoxels:
        """Voxels without a place, each independent of the others."""
        rng = seeded(self.seed, "voxels", seed)
        shape = (n, len(CONCEPTS))
        preference = rng.standard_normal(shape) * np.exp(0.7 * rng.standard_normal(shape))
        return self._voxels(preference, rng.uniform(0.1, 0.6, n), np.full((n, 2), np.nan))

    def person(self, side: int = 24, *, seed: int) -> TunedVoxels:
        """A sheet of `side` x `side` voxels whose neighbours prefer the same."""
        rng = seeded(self.seed, "person", seed)

        def smooth() -> np.ndarray:
            field = ndimage.gaussian_filter(rng.standard_normal((side, side)), 2.5, mode="wrap")
            return ((field - field.mean()) / field.std()).ravel()

        fields = [smooth() * np.exp(0.7 * smooth()) for _ in CONCEPTS]
        low, high = np.percentile(field := smooth(), [2, 98])
        explainable = 0.1 + 0.5 * np.clip((field - low) / (high - low), 0, 1)
        row, column = np.divmod(np.arange(side * side), side)
        position = np.stack([column, row], 1).astype(float)
        return self._voxels(np.stack(fields, 1), explainable, position)

    def _voxels(
        self, preference: np.ndarray, explainable: np.ndarray, position: np.ndarray
    ) -> TunedVoxels:
        weights = preference @ self.concepts
        weights /= np.sqrt(np.einsum("vf,fg,vg->v", weights, self._cov, weights))[:, None]
        bias = -weights @ self._mean
        whole = np.column_stack([weights, bias])
        return TunedVoxels(whole, explainable, preference, position)
