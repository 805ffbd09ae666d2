"""How a representation moves from layer to layer, or a brain from moment to moment.

In a network with a residual stream every layer adds a step; what is said here of layers is true of
moments of a recording, with time in the place of depth.

Axes: layer (or time), step = from one layer to the next, turn = between two steps, sample, unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.arrays import require_finite, takes_either
from neurofm.interpret.patching import Context, patched
from neurofm.interpret.recorder import record
from neurofm.interpret.similarity.checks import means_that_exist
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Trajectory:
    """Paths of samples through the layers; NaN where a vector or a step is zero.

    Args:
        cosine: Of a layer with the next one.
        velocity: Length of each step, in the unit of the activations.
        turning_angle: Radians between one step and the next; a random walk turns by pi / 2.
        unit_correlation: Pearson r over samples of each unit with itself one layer later.
        density: Share of units whose size exceeds `threshold`.
        projection: On the principal components of all layers and samples together.
        explained: Share of the variance that each component holds.
        names: Of the layers.
        threshold: Of `density`.
    """

    cosine: Float[np.ndarray, "step sample"]
    velocity: Float[np.ndarray, "step sample"]
    turning_angle: Float[np.ndarray, "turn sample"]
    unit_correlation: Float[np.ndarray, "step unit"]
    density: Float[np.ndarray, "layer sample"]
    projection: Float[np.ndarray, "layer sample component"]
    explained: Float[np.ndarray, " component"]
    names: tuple[str, ...]
    threshold: float

    def means(self) -> dict[str, np.ndarray]:
        """Over samples (over units for the unit-wise correlation), without what is NaN."""
        names = ("cosine", "velocity", "turning_angle", "unit_correlation", "density")
        return {name: means_that_exist(getattr(self, name)) for name in names}

    def plot(self) -> Figure:
        """The paths in two dimensions, and the steps along them."""
        from neurofm.interpret.similarity.drawings import draw_trajectory

        return draw_trajectory(self)


@takes_either
def describe_trajectory(
    h: Float[np.ndarray, "layer sample unit"],
    *,
    names: Sequence[str] | None = None,
    threshold: float | int = 1e-6,
    n_components: int = 2,
) -> Trajectory:
    """Cosines, steps, turns, unit-wise correlations and density of activations layer by layer.

    Args:
        h: Layers of one width (or moments) of the same samples.
        threshold: A unit larger than this is active.
        n_components: Of the projection.

    Raises:
        ValueError: Fewer than two layers, NaN, or names that do not fit.
    """
    h = _layers(h)
    if names is not None and len(names) != len(h):
        raise ValueError(f"describe_trajectory: {len(names)} names for {len(h)} layers.")
    steps = np.diff(h, axis=0)
    centred = h - h.mean(1, keepdims=True)
    projection, explained = _project(h, n_components)
    return Trajectory(
        cosine=_cosine(h[:-1], h[1:]),
        velocity=np.linalg.norm(steps, axis=-1),
        turning_angle=np.arccos(np.clip(_cosine(steps[:-1], steps[1:]), -1, 1)),
        unit_correlation=_cosine(centred[:-1].swapaxes(1, 2), centred[1:].swapaxes(1, 2)),
        density=(np.abs(h) > threshold).mean(-1),
        projection=projection,
        explained=explained,
        names=tuple(names) if names is not None else tuple(str(i) for i in range(len(h))),
        threshold=float(threshold),
    )


@dataclass(frozen=True)
class Return:
    """How far a push at one layer is from home at each later one.

    Args:
        distance: Between the pushed and the undisturbed path, over the length of the push: below 1
            the network pulls back (an attractor), above 1 it amplifies.
        names: Of the layers, from that of the push on.
    """

    distance: Float[np.ndarray, "layer sample"]
    names: tuple[str, ...]

    def plot(self) -> Figure:
        """Distance by layer, with the middle half of the samples."""
        from neurofm.interpret.similarity.drawings import draw_return

        return draw_return(self)


@takes_either
def distance_from_path(
    pushed: Float[np.ndarray, "layer sample unit"], path: Float[np.ndarray, "_ _ _"]
) -> Float[np.ndarray, "layer sample"]:
    """Distance of two paths, over their distance at the first layer given.

    For a network, `push` does the pushing too; for recordings, two moments may be compared.
    """
    if pushed.shape != path.shape:
        raise ValueError(
            f"distance_from_path: paths of shape {pushed.shape} and {path.shape}; expected the "
            "same layers, samples and units."
        )
    return _over_first(list(pushed), list(path))


def push(
    model: nn.Module,
    sites: Sequence[str],
    *,
    run: Callable[[], Any],
    size: float | int = 0.1,
    generator: torch.Generator | None = None,
) -> Return:
    """Add a random vector at the first site, and follow it: does the network pull back?

    Args:
        sites: Where to push, and then where to look, in the order of the forward pass; those of
            `record`.
        run: Does the forward pass, such as `lambda: model.encode(batch)`, the same at every call.
        size: Length of the push over that of the activation of each sample.
        generator: Of the direction.

    Raises:
        ValueError: Sites that do not exist (near misses are named) or are never reached, or no
            effect of the push.
    """
    if not size > 0:
        raise ValueError(f"push: size {size}; expected over 0.")

    def add(value: Tensor, _: Context) -> Tensor:
        noise = torch.randn(value.shape, generator=generator).to(value)
        over = value.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
        return value + size * noise * over.reshape(-1, *[1] * (value.ndim - 1))

    calm = record(model, sites, run=run)
    with patched(model, {sites[0]: add}):
        moved = record(model, sites, run=run)
    distance = _over_first([moved[name] for name in sites], [calm[name] for name in sites])
    return Return(distance, tuple(sites))


def _over_first(pushed: Sequence[np.ndarray], path: Sequence[np.ndarray]) -> np.ndarray:
    pairs = zip(pushed, path, strict=True)
    gaps = [(np.asarray(a, float) - np.asarray(b, float)).reshape(len(a), -1) for a, b in pairs]
    apart = np.stack([np.linalg.norm(gap, axis=1) for gap in gaps])
    if not (apart[0] > 0).all():
        raise ValueError("trajectory: no push at the first layer; nothing can come back.")
    return apart / apart[0]


def _layers(h: np.ndarray) -> np.ndarray:
    h = np.asarray(h, dtype=np.float64)
    if h.ndim != 3 or len(h) < 2 or h.shape[1] < 1:
        raise ValueError(
            f"describe_trajectory: activations of shape {h.shape}; expected two layers or more by "
            "sample by unit. Stack layers of one width, or moments of a recording."
        )
    require_finite("describe_trajectory", h.swapaxes(0, 1), "samples")
    return h


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, np.einsum("...i,...i->...", a, b) / lengths, np.nan)


def _project(h: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    rows = h.reshape(-1, h.shape[-1])
    rows = rows - rows.mean(0)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    k = min(n_components, len(values))
    axes = vectors[:, ::-1][:, :k]
    # The sign of a component is arbitrary: its largest weight is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(k)])
    total = values.sum()
    explained = values[::-1][:k] / total if total > 0 else np.full(k, np.nan)
    return (rows @ axes).reshape(*h.shape[:2], k), explained
