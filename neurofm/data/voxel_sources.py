"""Where in-context voxel encoders get voxels from: made up, simulated, or measured in people.

Each draw gives every voxel stimuli of its own. The three kinds are the three stages of training:
random linear weights over embeddings of real stimuli; longer contexts of them; people.

Source: leomqyu/BraInCoRL (Apache-2.0), arXiv 2505.15813.
Axes: voxel; item = stimulus drawn for it; feature; weight = one per feature, then the bias.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from neurofm.cards import configured
from neurofm.data.stimulus_table import StimulusTable
from neurofm.io.simulated.tuning import TunedWorld
from neurofm.shapes import Bool, Float
from neurofm.types import Responses

_UNIT = 0.01  # deviation of a norm from 1 that half precision may leave


@dataclass(frozen=True)
class DrawnVoxels:
    """Voxels with stimuli of their own.

    Args:
        features: Unit norm.
        responses: z-scored, or of variance about 1.
        weights: That the voxels were made by, or that were fitted to all their data; or None.
    """

    features: Float[np.ndarray, "voxel item feature"]
    responses: Float[np.ndarray, "voxel item"]
    weights: Float[np.ndarray, "voxel weight"] | None = None


@runtime_checkable
class VoxelSource(Protocol):
    """Gives voxels. `stimuli` names what they may be shown, where names are known."""

    n_features: int
    n_stimuli: int
    stimuli: tuple[str, ...]

    def draw(self, n: int, n_items: int, *, rng: np.random.Generator) -> DrawnVoxels:
        """`n` voxels with `n_items` different stimuli each."""
        ...


def check_features(features: np.ndarray, *, what: str) -> np.ndarray:
    """Embeddings as float32, each of length 1.

    Raises:
        ValueError: Another shape, NaN, or other lengths.
    """
    features = np.asarray(features, dtype=np.float32)
    if features.ndim != 2 or not features.size:
        raise ValueError(
            f"{what}: embeddings of shape {features.shape}, expected stimulus x feature."
        )
    norms = np.linalg.norm(features, axis=1)
    if not (np.abs(norms - 1) <= _UNIT).all():
        raise ValueError(
            f"{what}: embeddings have lengths of {norms.min():.3g} to {norms.max():.3g}, expected "
            "1. Divide each by its length."
        )
    return features


def _stimuli_of_each(n: int, n_items: int, n_stimuli: int, rng: np.random.Generator) -> np.ndarray:
    """Different stimuli for each voxel, in random order."""
    if n_items > n_stimuli:
        raise ValueError(
            f"{n_items} stimuli are asked of each voxel, there are {n_stimuli}. Use a shorter "
            "context or fewer queries."
        )
    keys = rng.random((n, n_stimuli), dtype=np.float32)
    some = keys.argpartition(n_items - 1, axis=1)[:, :n_items]
    return rng.permuted(some, axis=1)


def _noisy(clean: np.ndarray, explainable: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(clean.shape)
    share = explainable[:, None]
    return (np.sqrt(share) * clean + np.sqrt(1 - share) * noise).astype(np.float32)


@configured
class SimulatedVoxels:
    """Voxels of a `TunedWorld`: new ones at every draw.

    Args:
        n_features: Of an embedding.
        n_stimuli: That voxels are shown.
        stimuli_seed: Of these stimuli: another one for validation.
        world: Seed of the world.
    """

    def __init__(
        self,
        n_features: int = 48,
        *,
        n_stimuli: int = 2000,
        stimuli_seed: int = 1,
        world: int = 0,
    ) -> None:
        self.world = TunedWorld(n_features, seed=world)
        self.n_features, self.n_stimuli = n_features, n_stimuli
        self.features = self.world.embed(n_stimuli, seed=stimuli_seed)
        self.stimuli = tuple(f"simulated-{world}-{stimuli_seed}-{i}" for i in range(n_stimuli))

    def draw(self, n: int, n_items: int, *, rng: np.random.Generator) -> DrawnVoxels:
        """New voxels of nobody in particular."""
        voxels = self.world.draw(n, seed=int(rng.integers(2**31)))
        features = self.features[_stimuli_of_each(n, n_items, self.n_stimuli, rng)]
        clean = np.einsum("vif,vf->vi", features, voxels.weights[:, :-1]) + voxels.weights[:, -1:]
        scaled = np.sqrt(voxels.explainable)[:, None] * voxels.weights
        return DrawnVoxels(
            features, _noisy(clean, voxels.explainable, rng), scaled.astype(np.float32)
        )


@configured
class SyntheticVoxels:
    """Random linear weights and noise over embeddings of real stimuli: the first stage.

    Args:
        features: File of embeddings, `.npz` or `.safetensors` with one array per stimulus
            (`StimulusTable`), or an array `stimulus feature`; made unit norm if not.
        n_axes: Weights lie in so many random directions that all voxels share; in all if None, as
            published.
        explainable: Share of a response that is no noise: each voxel's is between these.
        rows: Part of the stimuli, as fractions: (0, 0.9) for training, (0.9, 1) for validation.
        seed: Of the directions.
    """

    def __init__(
        self,
        features: str | Path | Float[np.ndarray, "stimulus feature"],
        *,
        n_axes: int | None = None,
        explainable: Sequence[float | int] = (0.1, 0.6),
        rows: Sequence[float | int] = (0.0, 1.0),
        seed: int = 0,
    ) -> None:
        if isinstance(features, np.ndarray):
            table = features
            names: tuple[str, ...] = ()
        else:
            path = Path(features)
            if not path.is_file() and not path.is_absolute() and "NEUROFM_DATA" in os.environ:
                path = Path(os.environ["NEUROFM_DATA"]) / path
            read = StimulusTable.read(path)
            table, names = read.vectors, read.names
        low, high = (round(float(end) * len(table)) for end in rows)
        if not 0 <= low < high <= len(table) or not 0 <= explainable[0] <= explainable[1] <= 1:
            raise ValueError(
                f"SyntheticVoxels: rows {list(rows)} and explainable {list(explainable)}, expected "
                "two growing fractions each."
            )
        table = np.asarray(table, dtype=np.float32)
        length = np.linalg.norm(table, axis=-1, keepdims=True)
        if not (length > 0).all():
            raise ValueError("SyntheticVoxels: an embedding is 0 throughout. Leave it out.")
        table = check_features(table / length, what="SyntheticVoxels")
        self.n_features, self.explainable = table.shape[1], explainable
        self._mean, self._cov = table.mean(0), np.cov(table.T)  # of all: no side has its own scale
        self.features, self.stimuli = table[low:high], tuple(names[low:high])
        self.n_stimuli = len(self.features)
        axes = np.eye(self.n_features)
        if n_axes is not None:
            axes = np.random.default_rng(seed).standard_normal((self.n_features, n_axes))
        self._axes = axes.T

    def draw(self, n: int, n_items: int, *, rng: np.random.Generator) -> DrawnVoxels:
        """New voxels."""
        weights = rng.standard_normal((n, len(self._axes))) @ self._axes
        weights /= np.sqrt(np.einsum("vf,fg,vg->v", weights, self._cov, weights))[:, None]
        bias = -weights @ self._mean
        features = self.features[_stimuli_of_each(n, n_items, self.n_stimuli, rng)]
        clean = np.einsum("vif,vf->vi", features, weights.astype(np.float32)) + bias[:, None]
        explainable = rng.uniform(self.explainable[0], self.explainable[1], n)
        scaled = np.sqrt(explainable)[:, None] * np.column_stack([weights, bias])
        return DrawnVoxels(features, _noisy(clean, explainable, rng), scaled.astype(np.float32))


class MeasuredVoxels:
    """Voxels of people: the last stage. All people's voxels count alike.

    Args:
        people: Responses of each person; those to the same stimulus are averaged, then each voxel
            is z-scored. Voxels with a missing or constant response are left out (`n_dropped`).
        features: Embedding of each stimulus, unit norm.

    Raises:
        ValueError: A stimulus without embedding, responses over time, nobody, or people none of
            whose voxels can be used.
    """

    def __init__(self, people: Sequence[Responses], features: Mapping[str, np.ndarray]) -> None:
        if not people:
            raise ValueError("MeasuredVoxels: responses of nobody; expected at least one person.")
        self.subjects = tuple(person.recording.subject for person in people)
        self.people = [shown(person, features) for person in people]
        self.n_dropped = sum(int((~known).sum()) for _, _, known in self.people)
        self.n_features = self.people[0][0].shape[1]
        self.n_stimuli = min(len(table) for table, _, _ in self.people)
        self.stimuli = tuple(sorted({name for person in people for name in person.stimulus}))
        self._voxel = np.concatenate(
            [
                np.column_stack([np.full(y.shape[1], i), np.arange(y.shape[1])])
                for i, (_, y, _) in enumerate(self.people)
            ]
        )

    def __len__(self) -> int:
        return len(self._voxel)

    def draw(self, n: int, n_items: int, *, rng: np.random.Generator) -> DrawnVoxels:
        """Voxels of anybody, each shown what its person saw."""
        chosen = self._voxel[rng.integers(len(self), size=n)]
        features = np.empty((n, n_items, self.n_features), dtype=np.float32)
        responses = np.empty((n, n_items), dtype=np.float32)
        for person in np.unique(chosen[:, 0]):
            mine = np.flatnonzero(chosen[:, 0] == person)
            table, values, _ = self.people[person]
            index = _stimuli_of_each(len(mine), n_items, len(table), rng)
            features[mine] = table[index]
            responses[mine] = values[index, chosen[mine, 1][:, None]]
        return DrawnVoxels(features, responses)


def shown(
    person: Responses, features: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One person as plain arrays: embeddings, z-scored mean responses, and which voxels were kept.

    Args:
        features: Embedding of each stimulus, unit norm.

    Returns:
        `stimulus feature`, `stimulus voxel` (float32, of the voxels that were kept), bool `voxel`.

    Raises:
        ValueError: A stimulus without embedding, responses over time, or no voxel to keep.
    """
    table, mean, known = _means(person, features)
    if not known.any():
        raise ValueError(
            f"{person.recording.id}: every voxel has a missing response, or is constant."
        )
    mean = mean[:, known]
    return table, ((mean - mean.mean(0)) / mean.std(0)).astype(np.float32), known


def _means(
    person: Responses, features: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, mean responses, and which voxels have all of them and are not constant."""
    where = person.recording.id
    if person.values.ndim != 2:
        raise ValueError(
            f"{where}: responses over time; an in-context encoder takes one number per trial. "
            "Average a window of them, or estimate single-trial betas."
        )
    repeats = person.repeats()
    missing = [name for name in repeats if name not in features]
    if missing:
        raise ValueError(
            f"{where}: {len(missing)} of {len(repeats)} stimuli have no embedding, such as "
            f"{missing[0]!r}. Compute embeddings of all, or leave their trials out (`pick`)."
        )
    table = check_features(np.stack([features[name] for name in repeats]), what=where)
    mean = np.stack([person.values[trials].mean(0) for trials in repeats.values()])
    return table, mean, np.isfinite(mean).all(0) & (mean.std(0) > 0)


@dataclass(frozen=True)
class TwoParts:
    """One person's stimuli in two parts; both z-scored by the first part alone.

    Args:
        features: Embeddings of the first part.
        responses: Mean responses to them.
        held_features: Of the second part.
        held_responses: To those.
        kept: True for the voxels of the person that are in both: measured, and not constant.
    """

    features: Float[np.ndarray, "stimulus feature"]
    responses: Float[np.ndarray, "stimulus voxel"]
    held_features: Float[np.ndarray, "held feature"]
    held_responses: Float[np.ndarray, "held voxel"]
    kept: Bool[np.ndarray, " all_voxels"]


def shown_apart(
    person: Responses, features: Mapping[str, np.ndarray], held: Collection[str]
) -> TwoParts:
    """One person's stimuli in two parts, to take contexts from one and predict the other.

    Args:
        features: Embedding of each stimulus, unit norm.
        held: Stimuli of the second part.

    Raises:
        ValueError: As `shown`, or a part without stimuli.
    """
    inside = np.array([name in held for name in person.stimulus])
    if inside.all() or not inside.any():
        raise ValueError(
            f"{person.recording.id}: {int(inside.sum())} of {len(inside)} trials are of held-out "
            "stimuli; expected some of both parts."
        )
    first, second = (_means(person.pick(part), features) for part in (~inside, inside))
    known = first[2] & second[2]
    if not known.any():
        raise ValueError(f"{person.recording.id}: no voxel was measured in both parts.")
    mean, spread = first[1][:, known].mean(0), first[1][:, known].std(0)
    scaled = [((part[1][:, known] - mean) / spread).astype(np.float32) for part in (first, second)]
    return TwoParts(first[0], scaled[0], second[0], scaled[1], known)
