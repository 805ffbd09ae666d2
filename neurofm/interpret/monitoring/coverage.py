"""Neuron activation coverage: has the network been in this state before?

The state of a unit joins its activation with how much it matters to the output: a score between 0
and 1 whose histogram over familiar recordings says which states are covered. A sample whose units
are in states that were seldom seen is out of distribution: a new headset, a bad recording.

Source: Liu et al. 2024 (neuron activation coverage); the mean over places of a map, and the
objective for networks without classes, are this project's choice.
Axes: sample unit; edge = edges of equal bins on [0, 1], one more than bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from neurofm.interpret.activations import near_misses
from neurofm.interpret.arrays import takes_either
from neurofm.metrics import auroc
from neurofm.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Published are alpha 0.005 to 100, edges 50 to 1000, saturation 5 to 500, for much data. The best
# differ between networks and layers, alpha with the size of gradients: here relative to it.
STEEPNESSES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
EDGES = (10, 20, 50, 200, 1000)
SATURATIONS = (2, 5, 20, 50, 500)


@takes_either
def neuron_states(
    activation: Float[np.ndarray, "sample unit"],
    gradient: Float[np.ndarray, "sample unit"],
    *,
    alpha: float | int = 1.0,
) -> Float[np.ndarray, "sample unit"]:
    """Sigmoid of alpha times activation times gradient, 0.5 for a unit without any effect.

    Args:
        gradient: Of the objective with respect to the activation, see `influences`.
        alpha: Steepness, positive; chosen by `choose_coverage`.
    """
    if not alpha > 0:
        raise ValueError(f"neuron_states: alpha is {alpha}; expected a positive number.")
    if np.shape(activation) != np.shape(gradient):
        raise ValueError(
            f"neuron_states: activation has shape {np.shape(activation)} and gradient "
            f"{np.shape(gradient)}; expected the same samples and units."
        )
    product = np.asarray(activation, dtype=np.float64) * np.asarray(gradient, dtype=np.float64)
    return expit(alpha * product)


@dataclass(frozen=True)
class Coverage:
    """Which states the units of one layer were in, over familiar samples.

    Args:
        counts: Samples by bin and unit. Bins are half-open, the last one contains 1.
        saturation: So many samples in a bin cover it fully.
    """

    counts: Int[np.ndarray, "bin unit"]
    saturation: float | int

    @property
    def n_edges(self) -> int:
        """Edges of the bins, M."""
        return len(self.counts) + 1

    @property
    def values(self) -> Float[np.ndarray, "bin unit"]:
        """Coverage, 0 (never seen) to 1."""
        return np.minimum(self.counts / self.saturation, 1.0)

    @property
    def generalisation(self) -> float:
        """Share of states that are covered, mean over units; larger was seen to generalise better.

        Compare it between checkpoints of one network on the same samples, not between networks.
        """
        return float((self.values.sum(0) / self.n_edges).mean())

    def extended(self, states: Float[np.ndarray, "sample unit"]) -> Coverage:
        """With more samples, for layers that do not fit into memory."""
        return replace(self, counts=self.counts + _counted(self._checked(states), self.n_edges))

    def score(self, states: Float[np.ndarray, "sample unit"]) -> Float[np.ndarray, " sample"]:
        """Mean over units of the coverage of the state they are in; low is out of distribution.

        A sample with NaN scores NaN.
        """
        values = self._checked(states)
        known = ~np.isnan(values).any(1)
        place = _bins(np.where(known[:, None], values, 0.0), self.n_edges)
        found = np.take_along_axis(self.values, place, axis=0).mean(1)
        return np.where(known, found, np.nan)

    def plot(self) -> Figure:
        """Coverage of every state of every unit, most covered units first."""
        from neurofm.interpret.monitoring.drawings import draw_coverage

        return draw_coverage(self)

    def _checked(self, states: np.ndarray) -> np.ndarray:
        values = _states(states)
        if values.shape[1] != self.counts.shape[1]:
            raise ValueError(
                f"Coverage: states of {values.shape[1]} units, but it was counted on "
                f"{self.counts.shape[1]}. Record the same site, reduced in the same way."
            )
        return values


def coverage(
    states: Float[np.ndarray, "sample unit"],
    *,
    n_edges: int = 50,
    saturation: float | int = 5,
) -> Coverage:
    """Count the states of familiar samples.

    Time and memory grow with samples times units, not with bins.

    Args:
        states: From `neuron_states`.
        n_edges: Edges of the bins, M in the paper (50 to 1000).
        saturation: Samples that cover a bin fully, r in the paper (5 to 500).
    """
    if n_edges < 2:
        raise ValueError(f"coverage: {n_edges} edges make no bin; expected two or more.")
    if not saturation > 0:
        raise ValueError(f"coverage: saturation is {saturation}; expected a positive number.")
    values = _states(states)
    return Coverage(_counted(values, n_edges), saturation)


@dataclass(frozen=True)
class CoverageDetector:
    """Coverage of one or several layers, their scores averaged.

    Args:
        alpha: Of each layer.
        layers: Name to its coverage.
        validation: AUROC on the samples by which the settings were chosen; None if they were given.
    """

    alpha: Mapping[str, float]
    layers: Mapping[str, Coverage]
    validation: Mapping[str, float] | None = None

    def score(self, influences: Mapping[str, Influence]) -> Float[np.ndarray, " sample"]:
        """Familiarity of samples, 0 to 1; low is out of distribution."""
        for name in self.layers:
            if name not in influences:
                known = list(influences)
                raise KeyError(f"CoverageDetector: no {name!r}.{near_misses(name, known)}")
        scores = [
            layer.score(influences[name].states(alpha=self.alpha[name]))
            for name, layer in self.layers.items()
        ]
        return np.mean(scores, axis=0)


@dataclass(frozen=True)
class Influence:
    """Activations of one layer, and the gradient of an objective with respect to them."""

    activation: Float[np.ndarray, "sample unit"]
    gradient: Float[np.ndarray, "sample unit"]

    def __post_init__(self) -> None:
        if self.activation.shape != self.gradient.shape:
            raise ValueError(
                f"Influence: activation {self.activation.shape}, gradient {self.gradient.shape}."
            )

    def __len__(self) -> int:
        return len(self.activation)

    def states(self, *, alpha: float | int) -> Float[np.ndarray, "sample unit"]:
        """See `neuron_states`."""
        return neuron_states(self.activation, self.gradient, alpha=alpha)

    def select(self, index: np.ndarray) -> Influence:
        """The samples at `index`."""
        return Influence(self.activation[index], self.gradient[index])


def choose_coverage(
    train: Mapping[str, Influence],
    inside: Mapping[str, Influence],
    outside: Mapping[str, Influence],
    *,
    steepnesses: tuple[float, ...] = STEEPNESSES,
    edges: tuple[int, ...] = EDGES,
    saturations: tuple[float | int, ...] = SATURATIONS,
) -> CoverageDetector:
    """Steepness, bins and saturation of each layer that tell validation samples apart best.

    The samples to validate on must be others than those that are judged later, also the outside
    ones: without real ones, distort the inside ones (channels silent, noise, another gain).

    Args:
        train: Familiar samples to count, by layer.
        inside: Other familiar samples.
        outside: Samples known to be out of distribution.
        steepnesses: Values of alpha, relative to one over the root mean square of activation times
            gradient in `train`.
        edges: More than there are samples in `train` are not tried: the best of many settings
            would be luck.
    """
    if not train or set(train) != set(inside) or set(train) != set(outside):
        raise ValueError(
            f"choose_coverage: layers {sorted(train)}, {sorted(inside)}, {sorted(outside)}; "
            "expected the same ones, at least one."
        )
    chosen: dict[str, Coverage] = {}
    alphas: dict[str, float] = {}
    reached: dict[str, float] = {}
    for name in train:
        reached[name] = -1.0
        truth = np.repeat([1, 0], [len(inside[name]), len(outside[name])])
        product = train[name].activation * train[name].gradient
        size = float(np.sqrt(np.square(product, dtype=np.float64).mean()))
        if not size > 0:
            raise ValueError(
                f"choose_coverage: {name!r} has no influence on any familiar sample (all products "
                "of activation and gradient are 0). Choose another layer or objective."
            )
        for alpha in (steepness / size for steepness in steepnesses):
            seen, *others = (one[name].states(alpha=alpha) for one in (train, inside, outside))
            judged = np.concatenate(others)
            for n_edges in [m for m in edges if m <= len(train[name])] or [min(edges)]:
                counted = coverage(seen, n_edges=n_edges)
                for saturation in saturations:
                    layer = replace(counted, saturation=saturation)
                    found = auroc(truth, layer.score(judged))
                    if found > reached[name]:
                        chosen[name], alphas[name], reached[name] = layer, alpha, found
    return CoverageDetector(alphas, chosen, reached)


def _states(states: np.ndarray) -> np.ndarray:
    values = np.asarray(states, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"coverage: states of shape {values.shape}; expected sample unit.")
    if (values < 0).any() or (values > 1).any():
        raise ValueError(
            f"coverage: states from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}; expected 0 "
            "to 1. Make them with neuron_states."
        )
    return values


def _bins(values: np.ndarray, n_edges: int) -> np.ndarray:
    # Compared with the edges themselves: a product with their number rounds at the edges.
    place = np.searchsorted(np.linspace(0.0, 1.0, n_edges), values.ravel(), side="right") - 1
    return np.minimum(place, n_edges - 2).reshape(values.shape)


def _counted(values: np.ndarray, n_edges: int) -> np.ndarray:
    if np.isnan(values).any():
        raise ValueError(
            f"coverage: {int(np.isnan(values).any(1).sum())} of {len(values)} samples hold NaN; "
            "familiar samples must be sound. Leave them out."
        )
    n_bins, n_units = n_edges - 1, values.shape[1]
    place = _bins(values, n_edges) * n_units + np.arange(n_units)
    return np.bincount(place.ravel(), minlength=n_bins * n_units).reshape(n_bins, n_units)
