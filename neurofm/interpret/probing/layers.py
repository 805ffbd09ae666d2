"""Probe every layer of a network, beside the same network untrained and features of the signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.interpret.activations import Activations, Reduce
from neurofm.interpret.bands import BANDS, band_power
from neurofm.interpret.probing.depth import ConceptDepth, concept_depth
from neurofm.interpret.probing.linear import PENALTIES, Metric, Probe, linear_probe
from neurofm.linear.folds import Fold
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNTRAINED = "untrained network"


@dataclass(frozen=True)
class LayerProbes:
    """Probes of layers in order, and of features of the signal."""

    layers: Mapping[str, Probe]
    signal: Mapping[str, Probe] = field(default_factory=dict)

    def depth(self, **settings: Any) -> ConceptDepth:
        """Where the concept becomes readable; see `concept_depth`."""
        probes = list(self.layers.values())
        return concept_depth([one.score for one in probes], chance=probes[0].chance, **settings)

    def summary(self) -> str:
        """A line per layer and per feature of the signal."""
        every = [*self.layers.items(), *self.signal.items()]
        return "\n".join(f"{name}: {one.summary()}" for name, one in every)

    def plot(self) -> Figure:
        """Scores over layers with intervals, control, baselines and chance."""
        from neurofm.interpret.probing.drawings import draw_layers

        return draw_layers(self)


def probe_layers(
    activations: Activations,
    y: Sequence[Any] | np.ndarray,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    untrained: Activations | None = None,
    signal: Mapping[str, np.ndarray] | None = None,
    reduce: Reduce = "mean_tokens",
    metric: Metric = "balanced_accuracy",
    penalties: Sequence[float] = PENALTIES,
    folds: int | Sequence[Fold] | None = None,
    controls: int = 1,
    seed: int = 0,
) -> LayerProbes:
    """A probe per recorded layer; all with the same folds and control labels.

    Args:
        groups: The activations' subjects if not given.
        untrained: The same sites of `randomized_copy(model, ...)`, for the same windows.
        signal: Features by name, from `signal_baselines`.
        reduce: How a layer becomes one row per window.
        folds: See `linear_probe`.

    Raises:
        ValueError: No groups at all, or sites that the untrained network lacks.
    """
    own = activations.subject if groups is None else groups
    if own is None:
        raise ValueError(
            "probe_layers: the activations have no subjects and no groups were given. Windows of "
            "one person on both sides of a split would be recognised by the person."
        )
    missing = [n for n in activations.names if untrained is not None and n not in untrained.data]
    if missing:
        raise ValueError(f"probe_layers: the untrained network has no {missing[0]!r} recorded.")

    def probe(x: np.ndarray, baselines: Mapping[str, np.ndarray] | None = None) -> Probe:
        return linear_probe(
            x,
            y,
            groups=own,
            metric=metric,
            penalties=penalties,
            folds=folds,
            controls=controls,
            baselines=baselines,
            rng=np.random.default_rng(seed),
        )

    layers = {}
    for name in activations.names:
        other = None
        if untrained is not None:
            other = {UNTRAINED: untrained.patterns(name, reduce=reduce)}
        layers[name] = probe(activations.patterns(name, reduce=reduce), other)
    return LayerProbes(layers, {name: probe(x) for name, x in (signal or {}).items()})


def signal_baselines(
    x: Float[np.ndarray, "window channel time"],
    sfreq: float | int,
    *,
    bands: Mapping[str, tuple[float, float]] = BANDS,
) -> dict[str, Float[np.ndarray, "window feature"]]:
    """What is read off the signal without a network: power of bands, and covariance of channels.

    Args:
        sfreq: Hz.

    Returns:
        "band power", dB, channel by band; "covariance", logarithms of variances and correlations
        of pairs of channels.
    """
    power = band_power(x, float(sfreq), bands)
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    covariance = centred @ centred.swapaxes(1, 2) / x.shape[-1]
    variance = np.maximum(np.einsum("...ii->...i", covariance), np.finfo(np.float64).tiny)
    scale = np.sqrt(variance)
    correlation = covariance / (scale[:, :, None] * scale[:, None, :])
    row, column = np.triu_indices(x.shape[1], 1)
    return {
        "band power": power.reshape(len(x), -1),
        "covariance": np.concatenate([np.log(variance), correlation[:, row, column]], axis=1),
    }
