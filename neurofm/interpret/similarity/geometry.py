"""How a representation is laid out: how many dimensions, along what, and what can be read from it.

Source: Gao et al. 2017 (participation ratio); Facco et al. 2017 (dimension from two neighbours);
Alleman et al. 2024 (alignment with targets and with inputs).
Axes: sample; p = columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.similarity.checks import centred, pair
from neurofm.interpret.similarity.cka import linear_cka
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AT_ONCE = 4_000_000  # distances held together


@dataclass(frozen=True)
class Geometry:
    """Summary of one layer or area.

    Args:
        spectrum: Share of the variance of each principal component.
        participation_ratio: How many components carry the variance, 1 to as many as there are.
        intrinsic_dimension: Of the surface that samples lie on, from nearest neighbours.
        target_alignment: Centred linear CKA with the labels; NaN without labels.
        input_alignment: With the inputs; NaN without inputs.
        n: Samples. Both dimensions grow with it until there are many more than dimensions.
    """

    spectrum: Float[np.ndarray, " component"]
    participation_ratio: float
    intrinsic_dimension: float
    target_alignment: float
    input_alignment: float
    n: int

    @property
    def follows_labels(self) -> float:
        """Alignment with the targets over that with the inputs."""
        return self.target_alignment / self.input_alignment if self.input_alignment else np.nan

    def plot(self) -> Figure:
        """Variance by component."""
        from neurofm.interpret.similarity.drawings import draw_geometry

        return draw_geometry(self)


@takes_either
def describe_geometry(
    x: Float[np.ndarray, "sample p"],
    *,
    labels: Sequence[Any] | np.ndarray | None = None,
    inputs: Float[np.ndarray, "_ q"] | None = None,
) -> Geometry:
    """Dimensions of a representation, and whether it is laid out by labels or by inputs.

    Args:
        labels: Class of each sample.
        inputs: What the network saw, one row per sample.
    """
    x, _ = pair("describe_geometry", x, x, least=4)
    nan = float("nan")
    variance = np.linalg.svd(centred(x), compute_uv=False) ** 2
    total = variance.sum()
    return Geometry(
        spectrum=variance / total if total > 0 else np.full(len(variance), nan),
        participation_ratio=participation_ratio(x),
        intrinsic_dimension=intrinsic_dimension(x) if total > 0 else nan,
        target_alignment=nan if labels is None else target_alignment(x, labels),
        input_alignment=nan if inputs is None else linear_cka(x, inputs, debiased=False),
        n=len(x),
    )


@takes_either
def participation_ratio(x: Float[np.ndarray, "sample p"]) -> float:
    """(sum of eigenvalues)² / sum of their squares, of the covariance; NaN without variance."""
    x = centred(pair("participation_ratio", x, x)[0])
    product = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    total = float(np.trace(product))
    return total**2 / float(np.vdot(product, product)) if total > 0 else float("nan")


@takes_either
def intrinsic_dimension(x: Float[np.ndarray, "sample p"], *, discard: float | int = 0.1) -> float:
    """From the ratio of the distances to the second and the first neighbour ("two-NN").

    Samples are taken as drawn without noise: noise of the size of nearest distances adds its own
    dimensions. Copies of a sample have no first neighbour and are left out, with a warning.

    Args:
        discard: Share of the largest ratios, which curvature and edges distort most.
    """
    x = pair("intrinsic_dimension", x, x, least=4)[0]
    if not 0 <= discard < 1:
        raise ValueError(f"intrinsic_dimension: discard {discard}; expected a share below 1.")
    n = len(x)
    x = np.unique(x, axis=0)
    if len(x) < n:
        warnings.warn(
            f"intrinsic_dimension: {n - len(x)} of {n} samples are copies of others, left out.",
            stacklevel=3,  # through the decorator
        )
    if len(x) < 4:
        raise ValueError(f"intrinsic_dimension: {len(x)} distinct samples; at least 4 are needed.")
    first, second = np.empty(len(x)), np.empty(len(x))
    rows = max(1, _AT_ONCE // len(x))
    for start in range(0, len(x), rows):
        near = cdist(x[start : start + rows], x)
        near[np.arange(len(near)), np.arange(start, start + len(near))] = np.inf
        two = np.partition(near, 1, axis=1)[:, :2]
        first[start : start + rows], second[start : start + rows] = two.min(1), two.max(1)
    ratio = np.sort(np.log(second / first))
    kept = int(np.floor(len(ratio) * (1 - discard)))
    share = np.arange(1, kept + 1) / len(ratio)
    ratio, height = ratio[:kept], -np.log1p(-share.clip(max=1 - 0.5 / len(x)))
    return float(ratio @ height / (ratio @ ratio))


@takes_either
def target_alignment(x: Float[np.ndarray, "sample p"], labels: Sequence[Any] | np.ndarray) -> float:
    """Centred linear CKA with the labels: 1 if samples lie at their classes and nowhere else.

    Args:
        labels: Class of each sample, or a table with a column for each target.
    """
    targets = np.asarray(labels)
    if targets.ndim == 1:
        classes, code = np.unique(targets, return_inverse=True)
        if len(classes) < 2:
            raise ValueError("target_alignment: one class; alignment needs two or more.")
        targets = np.eye(len(classes))[code]
    return linear_cka(np.asarray(x, np.float64), targets.astype(np.float64), debiased=False)


@dataclass(frozen=True)
class Arrangement:
    """Points whose distances are as near to given ones as so few dimensions allow.

    Args:
        position: In the unit of the distances.
        names: Of the points.
        stress: Root of the squared error over the squared distances; above 0.2 do not read
            distances from the picture.
        negative: Share of the spectrum that no Euclidean space holds.
        groups: Of the points, for their colour.
    """

    position: Float[np.ndarray, "point dim"]
    names: tuple[str, ...]
    stress: float
    negative: float
    groups: tuple[str, ...] | None = None

    def plot(self) -> Figure:
        """The points in a plane."""
        from neurofm.interpret.similarity.drawings import draw_arrangement

        return draw_arrangement(self)


@takes_either
def arrange(
    distances: Float[np.ndarray, "point point"],
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    n_components: int = 2,
) -> Arrangement:
    """Classical multidimensional scaling of a table of distances."""
    d = np.asarray(distances, dtype=np.float64)
    if d.ndim != 2 or d.shape[0] != d.shape[1] or not np.allclose(d, d.T):
        raise ValueError(f"arrange: distances of shape {d.shape}; expected a symmetric table.")
    if not np.isfinite(d).all():
        bad = np.flatnonzero(~np.isfinite(d).all(1))
        raise ValueError(f"arrange: points {bad[:5].tolist()} have no distance; leave them out.")
    labels = tuple(names) if names is not None else tuple(str(i) for i in range(len(d)))
    if len(labels) != len(d) or (groups is not None and len(groups) != len(d)):
        raise ValueError(f"arrange: names or groups do not fit {len(d)} points.")
    squared = d**2
    rows = squared.mean(1)
    values, vectors = np.linalg.eigh(-(squared - rows - rows[:, None] + rows.mean()) / 2)
    order = np.argsort(-values)[:n_components]
    axes = vectors[:, order]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(len(order))])
    position = axes * np.sqrt(np.maximum(values[order], 0))
    upper = np.triu_indices(len(d), 1)
    error = cdist(position, position)[upper] - d[upper]
    size = float(np.vdot(d[upper], d[upper]))
    return Arrangement(
        position=position,
        names=labels,
        stress=float(np.sqrt(error @ error / size)) if size > 0 else 0.0,
        negative=float(-values[values < 0].sum() / max(np.abs(values).sum(), 1e-300)),
        groups=None if groups is None else tuple(groups),
    )
