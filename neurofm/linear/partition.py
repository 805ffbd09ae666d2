"""How much of the explained variance each feature space explains alone, and what they share.

Models are nested: one for every combination of spaces, scored on held-out rows. What a space adds
to all others is its unique share; the rest follows by inclusion and exclusion. Shares are
differences of noisy scores: slightly negative ones mean zero, and a space with many features can
lose in combination what it explains alone.

Source: Lescroart et al. 2015; de Heer et al. 2017 (three feature spaces).
Axes: row; feature; voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from neurofm.linear.blocks import Sliceable
from neurofm.linear.cross_validation import cross_validated
from neurofm.linear.ridge import VoxelwiseRidge

Names = frozenset[str]
Estimate = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class VariancePartition:
    """Held-out R2 in parts; they add up to that of the full model.

    Args:
        scores: R2 of the model of each combination of spaces.
        unique: What only this space explains.
        shared: What exactly these spaces explain in common (of three: two without the third, and
            all three).
    """

    scores: dict[Names, np.ndarray]
    unique: dict[str, np.ndarray]
    shared: dict[Names, np.ndarray]

    @property
    def total(self) -> np.ndarray:
        """R2 of the model of all spaces."""
        return self.scores[max(self.scores, key=len)]


def variance_partition(
    spaces: Mapping[str, np.ndarray],
    y: Sliceable,
    groups: Sequence[Hashable] | np.ndarray | None = None,
    *,
    model: VoxelwiseRidge | None = None,
    folds: int | None = None,
    estimate: Estimate | None = None,
) -> VariancePartition:
    """Partition the variance explained by two or three feature spaces.

    Args:
        spaces: Name to features, `row feature`.
        y: Responses, `row voxel`.
        groups: Run of each row.
        model: Fitted to the features side by side, one penalty for all; with spaces of different
            size or scale give `estimate` with a banded ridge instead.
        folds: Outer folds, as in `cross_validated`.
        estimate: Held-out R2 per voxel from the spaces of one combination.
    """
    if len(spaces) not in (2, 3):
        raise ValueError(
            f"variance_partition: {len(spaces)} feature spaces; expected two or three. Shares of "
            "more are too many to tell apart: put some side by side."
        )
    ridge = model or VoxelwiseRidge()

    def plain(chosen: Mapping[str, np.ndarray]) -> np.ndarray:
        x = np.concatenate([np.asarray(v) for v in chosen.values()], axis=1)
        return cross_validated(ridge, x, y, groups, folds=folds).r2

    score = estimate or plain
    names = list(spaces)
    found = {
        frozenset(chosen): np.asarray(score({name: spaces[name] for name in chosen}))
        for size in range(1, len(names) + 1)
        for chosen in combinations(names, size)
    }
    return partition_scores(found)


def partition_scores(scores: Mapping[Names, np.ndarray]) -> VariancePartition:
    """The same from scores of all combinations of two or three spaces."""
    given = dict(scores)
    everything = max(given, key=len)
    expected = {
        frozenset(chosen)
        for size in range(1, len(everything) + 1)
        for chosen in combinations(sorted(everything), size)
    }
    if set(given) != expected or len(everything) not in (2, 3):
        raise ValueError(
            "partition_scores: expected a score for every combination of two or three spaces, got "
            f"{sorted(sorted(names) for names in given)}."
        )
    full = given[everything]
    parts: dict[Names, np.ndarray] = {}
    # What no other space explains; then, of pairs, what only these two explain together.
    for size in range(1, len(everything)):
        for chosen in map(frozenset, combinations(sorted(everything), size)):
            without = full - given[everything - chosen]
            inside = [part for names, part in parts.items() if names < chosen]
            parts[chosen] = without - sum(inside, np.zeros_like(full))
    parts[everything] = full - sum(parts.values(), np.zeros_like(full))
    return VariancePartition(
        scores=given,
        unique={name: parts[frozenset([name])] for name in sorted(everything)},
        shared={names: part for names, part in parts.items() if len(names) > 1},
    )
