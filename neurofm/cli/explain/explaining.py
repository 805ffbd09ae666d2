"""Explanations of a fine-tuned run, computed on held-out windows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from neurofm.batch import Batch, BrainModel
from neurofm.data import BrainData, Split
from neurofm.data.rows import Row
from neurofm.evaluate.over_time import decode_over_time
from neurofm.interpret import (
    BANDS,
    Attribution,
    DeletionCurve,
    attribution_similarity,
    deletion_curve,
    integrated_gradients,
    occlude_bands,
    randomized_copy,
)
from neurofm.interpret.spatial import Patterns, patterns, spatial_filters
from neurofm.live.decoder import RunDecoder
from neurofm.types import OverTime

_STEPS = 16  # points of the integral
_CHUNK = 16  # windows explained at once
_PERIODS = 2.0  # of the lowest frequency in a moment whose power is decoded


class Held:
    """The data of a run, and some windows it was not trained on.

    Args:
        folder: With the run's `config.yaml`.
        n: At most so many windows, as many of each class as there are, of all held-out people.

    Raises:
        ValueError: The run's data have no test side, or no labels.
    """

    def __init__(self, folder: Path, *, n: int, seed: int) -> None:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        arguments = config["data"].get("init_args", config["data"])
        self.data = BrainData(**arguments)
        self.data.setup("test")
        self.split = cast(Split, self.data.split)
        if not self.split.test or not self.data.labels:
            raise ValueError(
                f"{folder}: the run's data have {len(self.split.test)} test windows and the labels "
                f"{self.data.labels}; both are needed. Name a test side in its recipe."
            )
        self.labels = [str(label) for label in self.data.labels]
        self.rows: list[Row] = list(self.data.rows)
        self.windows = cast(Any, self.data.windows)
        self.broken: list[int] = []
        self.chosen = self.balanced(self.split.test, n, seed)
        if not self.chosen:
            raise ValueError(
                f"{folder}: none of {len(self.split.test)} test windows can be used; "
                f"{len(self.broken)} looked at hold NaN or infinite values."
            )
        self.sensors = self.windows.entries[0].sensors

    def balanced(self, members: Sequence[int], n: int, seed: int) -> list[int]:
        """At most n of some windows, as many of each class as there are.

        Windows that are not finite are left out and kept in `broken`.
        """
        draw = np.random.default_rng(seed)
        each = max(1, n // len(self.labels))
        found: list[int] = []
        for label in self.labels:
            own = [i for i in members if str(self.rows[i].label) == label]
            found += draw.permutation(own)[:each].tolist()
        wrong = [i for part in _parts(found) for i in self._not_finite(part)]
        self.broken += [i for i in wrong if i not in self.broken]
        return [i for i in found if i not in wrong]

    def _not_finite(self, members: list[int]) -> list[int]:
        batch = self.windows.batch(members)
        if not batch.has_signal:
            return []
        good = batch.x.isfinite().flatten(1).all(1).tolist()
        return [i for i, whole in zip(members, good, strict=True) if not whole]

    @property
    def present(self) -> list[str]:
        """Labels that the chosen windows have."""
        found = {str(self.rows[i].label) for i in self.chosen}
        return [label for label in self.labels if label in found]

    def batches(self, members: list[int]) -> list[tuple[Batch, Tensor]]:
        """Windows with their classes, a few at a time."""
        return [(self.windows.batch(part), self.classes(part)) for part in _parts(members)]

    def classes(self, members: list[int]) -> Tensor:
        """Position of each window's label."""
        return torch.tensor([self.labels.index(str(self.rows[i].label)) for i in members])

    def subjects(self) -> np.ndarray:
        """Of the chosen windows."""
        return np.array([self.rows[i].subject for i in self.chosen])

    @property
    def same_sensors(self) -> bool:
        """Whether all recordings have the same channels in the same order."""
        return self.same_sensors_of(self.chosen)

    def same_sensors_of(self, members: list[int]) -> bool:
        """The same, of other windows."""
        used = {self.rows[i].recording for i in members}
        names = {e.sensors.names for e in self.windows.entries if e.recording.id in used}
        return len(names) == 1


def _parts(members: list[int]) -> list[list[int]]:
    return [members[i : i + _CHUNK] for i in range(0, len(members), _CHUNK)]


@dataclass(frozen=True)
class Evidence:
    """Integrated gradients of the true class.

    Args:
        maps: Label to share of all evidence of each channel, percent.
        course: Label to share of all evidence at each sample, percent per second.
        completeness_error: Of the integral.
        similarity: Of its mean gradients with those of the same network with random weights,
            which should be near 0.
        deletion: The logit while channels are taken away.
    """

    maps: dict[str, np.ndarray]
    course: dict[str, np.ndarray]
    completeness_error: float
    similarity: float
    deletion: DeletionCurve


def function_of(decoder: RunDecoder) -> Callable[[Batch], Tensor]:
    """Logits of a batch."""

    def logits(batch: Batch) -> Tensor:
        return decoder.readout(cast(BrainModel, decoder.model).encode(batch))

    return logits


def evidence(decoder: RunDecoder, held: Held, *, seed: int) -> Evidence:
    """Attribution of the true class, with its checks.

    Raises:
        ValueError: No gradient reaches the signal, as behind codes, or the recordings differ in
            their channels.
    """
    if not held.same_sensors:
        raise ValueError("evidence: the recordings have different channels.")
    both = cast(nn.Module, nn.ModuleList([decoder.model, decoder.readout]))
    generator = torch.Generator().manual_seed(seed)
    other = cast(Any, randomized_copy(copy.deepcopy(both), generator=generator)).eval()
    chance = function_of(RunDecoder(other[0], other[1], decoder.facts))
    parts: list[Attribution] = []
    similar: list[float] = []
    curves: list[DeletionCurve] = []
    for batch, target in held.batches(held.chosen):
        found = integrated_gradients(function_of(decoder), batch, target, steps=_STEPS)
        random = integrated_gradients(chance, batch, target, steps=_STEPS)
        similar.append(attribution_similarity(_gradients(found, batch), _gradients(random, batch)))
        curves.append(deletion_curve(function_of(decoder), batch, found, generator=generator))
        parts.append(found)
    values = torch.cat([part.values for part in parts]).abs().double().numpy()
    classes = held.classes(held.chosen).numpy()
    seconds = 1 / held.windows.sfreq
    maps, course = {}, {}
    for label in held.present:
        own = values[classes == held.labels.index(label)].mean(0)
        maps[label] = 100 * own.sum(1) / own.sum()
        course[label] = 100 * own.sum(0) / own.sum() / seconds
    weights = [len(part.values) for part in parts]
    return Evidence(
        maps=maps,
        course=course,
        completeness_error=float(
            np.average([part.completeness_error or 0.0 for part in parts], weights=weights)
        ),
        similarity=float(np.average(similar, weights=weights)),
        deletion=DeletionCurve(
            fraction=curves[0].fraction,
            **{
                name: np.average([getattr(c, name) for c in curves], axis=0, weights=weights)
                for name in ("most", "least", "random")
            },
        ),
    )


def _gradients(found: Attribution, batch: Batch) -> Attribution:
    """Without the factor of the signal, which any network's map shares."""
    x = torch.where(batch.x.abs() > 1e-6 * batch.x.abs().amax(), batch.x, torch.inf)
    return replace(found, values=found.values / x)


def bands(decoder: RunDecoder, held: Held) -> dict[str, np.ndarray]:
    """Fall of the true class's logit without each band: band to one value for each person.

    Bands outside of what the recipe's filters left are not asked for.

    Raises:
        ValueError: There is none inside.
    """
    facts = next(iter(held.batches(held.chosen[:1])))[0]
    low, high = facts.band or (0.0, held.windows.sfreq / 2)
    kept = {name: edges for name, edges in BANDS.items() if edges[0] < high and edges[1] > low}
    if not kept:
        raise ValueError(
            f"bands: the signal holds {low:g} to {high:g} Hz, and no band of {', '.join(BANDS)}."
        )
    parts = [
        occlude_bands(function_of(decoder), batch, target, bands=kept).values
        for batch, target in held.batches(held.chosen)
    ]
    values = torch.cat(parts).double().numpy()
    subjects = held.subjects()
    people = list(dict.fromkeys(subjects.tolist()))
    return {
        name: np.array([values[subjects == person, i].mean() for person in people])
        for i, name in enumerate(kept)
    }


def filter_patterns(decoder: RunDecoder, held: Held) -> tuple[str, Patterns]:
    """Name of the first spatial layer, and what its filters pick up.

    Raises:
        ValueError: The model has none, or the recordings differ in their channels.
    """
    if not held.same_sensors:
        raise ValueError("filters: the recordings have different channels.")
    every = -(-len(held.chosen) // (4 * _CHUNK))  # chosen windows are in the order of classes
    batch = held.windows.batch(held.chosen[::every])
    model = cast(Any, decoder.model)
    found = spatial_filters(model, lambda x: model.encode(replace(batch, x=x)), batch.x)
    return found.site, patterns(found.weights, batch.x.numpy())


def moments(held: Held, *, seed: int) -> dict[str, OverTime]:
    """Linear decoding of the run's own split, over time: amplitude, and power in its band.

    Raises:
        ValueError: The recordings differ in their channels, or a person's test side in its classes.
    """
    if not held.same_sensors:
        raise ValueError("moments: the recordings have different channels.")
    order = list(range(len(held.rows)))
    parts = [held.windows.batch(order[i : i + 64]) for i in range(0, len(order), 64)]
    x = np.concatenate([part.x.numpy() for part in parts]).astype(np.float64)
    low = (parts[0].band or (1.0, 0.0))[0]
    length_s = x.shape[-1] / held.windows.sfreq
    slow = min(max(_PERIODS / max(low, 1.0), 0.2), length_s)
    options: dict[str, Any] = {
        "sfreq": held.windows.sfreq,
        "start_s": float(getattr(held.data, "offset_s", 0.0) or 0.0),
        "seed": seed,
        "generalize": True,
    }
    fast = min(0.1, length_s)
    common = (x, held.rows, [held.split])
    step = max(length_s / 40, 0.02)
    return {
        "amplitude": decode_over_time(*common, width_s=fast, step_s=step, **options),
        "power": decode_over_time(*common, width_s=slow, step_s=step, features="power", **options),
    }
