"""Where in a network a concept becomes readable.

Layers are compared by relative depth, 0 the first and 1 the last, so that networks of different
size share an axis. A concept is there when the score first reaches a share of its maximum.

Source: Jin et al. 2024 (concept depth); the thresholds are this project's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = 0.95


@dataclass(frozen=True)
class ConceptDepth:
    """A score over layers.

    Args:
        scores: Of each layer, in order.
        reached: First layer at `share` of the maximum above chance.
        depth: The same as relative depth, interpolated between layers.
        converged: First layer from which on no score falls below that share.
        best: Layer of the maximum.
    """

    scores: Float[np.ndarray, " layer"]
    reached: int
    depth: float
    converged: int
    best: int
    chance: float
    share: float

    def at(self, relative: Sequence[float] | np.ndarray) -> Float[np.ndarray, " place"]:
        """Scores at relative depths, 0 to 1, interpolated."""
        places = np.linspace(0.0, 1.0, len(self.scores))
        return np.interp(np.asarray(relative, dtype=np.float64), places, self.scores)

    def plot(self) -> Figure:
        """Score over relative depth."""
        return plot_depths({"score": self})


def concept_depth(
    scores: Sequence[float] | np.ndarray, *, chance: float | int = 0.0, share: float | int = SHARE
) -> ConceptDepth:
    """Depth at which a score first reaches a share of its maximum.

    Args:
        scores: One per layer, first layer first.
        chance: Score of a guess: shares are of what lies above it.

    Raises:
        ValueError: Fewer than two layers, NaN, or no layer above chance.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"concept_depth: scores {values}; expected two layers or more, all known.")
    if not 0 < share <= 1:
        raise ValueError(f"concept_depth: share is {share}; expected above 0, at most 1.")
    above = values - chance
    if above.max() <= 0:
        raise ValueError(
            f"concept_depth: the best score, {values.max():.3f}, is not above chance "
            f"({chance:.3f}): the concept is nowhere."
        )
    limit = share * above.max()
    reached = int(np.argmax(above >= limit))
    below = np.flatnonzero(above < limit)
    place = float(reached)
    if reached:
        before, after = above[reached - 1 : reached + 1]
        place = reached - 1 + (limit - before) / (after - before)
    return ConceptDepth(
        scores=values,
        reached=reached,
        depth=float(place / (len(values) - 1)),
        converged=min(int(below[-1]) + 1, len(values)) if len(below) else 0,
        best=int(values.argmax()),
        chance=float(chance),
        share=float(share),
    )


def depth_under(
    layers: Mapping[str, np.ndarray],
    score: Callable[[np.ndarray], float],
    changes: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    *,
    chance: float | int = 0.0,
) -> dict[str, ConceptDepth]:
    """Depth with the layers as they are ("intact"), and after each change of them.

    Args:
        layers: `window feature` in the order of depth.
        score: Of a layer, such as `lambda x: linear_probe(x, y, groups=subject).score`.
        changes: Such as `{"8 bits": lambda x: quantised(x, bits=8)}`.
    """
    every = {"intact": lambda x: x, **changes}
    return {
        name: concept_depth([score(change(x)) for x in layers.values()], chance=chance)
        for name, change in every.items()
    }


def noisy(
    x: Float[np.ndarray, "window feature"], *, share: float | int, rng: np.random.Generator
) -> Float[np.ndarray, "window feature"]:
    """With Gaussian noise, `share` times the standard deviation of each feature."""
    return x + share * x.std(0) * rng.standard_normal(x.shape)


def quantised(
    x: Float[np.ndarray, "window feature"], *, bits: int
) -> Float[np.ndarray, "window feature"]:
    """Rounded to 2**bits levels over the range of the whole layer, as quantised networks are."""
    if bits < 1:
        raise ValueError(f"quantised: {bits} bits; expected at least one.")
    low, high = float(x.min()), float(x.max())
    step = (high - low) / (2**bits - 1)
    return x.copy() if step == 0 else low + np.round((x - low) / step) * step


def plot_depths(depths: Mapping[str, ConceptDepth]) -> Figure:
    """Scores of several concepts or conditions over relative depth, with where each is reached."""
    from neurofm.interpret.probing.drawings import draw_depths

    return draw_depths(depths)
