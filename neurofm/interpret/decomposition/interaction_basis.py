"""Local interaction basis: coordinates of a layer that matter to the next, the rest removed.

Directions without variance are dropped, the others whitened and turned so that what they do to the
next layer's coordinates is uncorrelated; directions without such an effect are dropped as well.
Layers are treated from the last to the first. Experimental: the authors report no gain over
principal components for language models. For networks of at most 1024 features.

Source: Bushnaq et al. 2024, "The local interaction basis".
Axes: sample feature coordinate. float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret.arrays import require_finite, takes_either_by_torch
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE, WIDEST = 1e-5, 1024
Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Basis:
    """New coordinates of one layer: `activations @ into`.

    Args:
        into: C of the paper.
        back: Its pseudo-inverse: `coordinates @ back` are the activations again.
        importance: Of each coordinate for the next layer, largest first.
        gram_eigenvalues: Of the activations, largest first, before any was dropped.
        moment: What whitened activations do to the next layer's coordinates, squared.
        eigenvalues: Of `moment`, largest first, before any was dropped.
    """

    into: Float[Tensor, "feature coordinate"]
    back: Float[Tensor, "coordinate feature"]
    importance: Float[Tensor, " coordinate"]
    gram_eigenvalues: Float[Tensor, " feature"]
    moment: Float[Tensor, "kept kept"] | None = None
    eigenvalues: Float[Tensor, " kept"] | None = None

    def plot(self) -> Figure:
        """Importance of the coordinates."""
        from neurofm.figures import plot_curves

        values = self.importance.numpy()
        return plot_curves(
            {"importance": (np.arange(1, len(values) + 1), values)},
            title=f"{len(values)} of {len(self.gram_eigenvalues)} directions kept",
            ylabel="importance (squared units of the next layer)",
            xlabel="coordinate",
            log=True,
        )


def _descending(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)


@takes_either_by_torch
def pca_basis(activations: Float[Tensor, "sample feature"]) -> Basis:
    """Principal directions about zero: where the last layer begins."""
    f = _checked(activations)
    values, vectors = _descending(f.T @ f / len(f))
    kept = values > TOLERANCE
    into = vectors[:, kept]
    return Basis(into, into.T, values[kept], values)


@takes_either_by_torch
def jacobian_moment(
    jacobians: Float[Tensor, "sample out feature"], into: Float[Tensor, "out coordinate"]
) -> Float[Tensor, "feature feature"]:
    """Mean of `Jᵀ C Cᵀ J`: what activations do to the next layer's coordinates.

    Args:
        jacobians: Of the next layer's activations by this layer's, at each sample.
        into: The next layer's basis.
    """
    through = torch.einsum("sof,oc->scf", jacobians.double(), into.double()).flatten(0, 1)
    return through.T @ through / len(jacobians)


@takes_either_by_torch
def interaction_basis(
    activations: Float[Tensor, "sample feature"],
    moment: Float[Tensor, "feature feature"],
    *,
    tolerance: float = TOLERANCE,
) -> Basis:
    """Coordinates of one layer.

    Args:
        activations: Of the layer, with a last column of ones where the next one has a bias.
        moment: See `jacobian_moment`.
        tolerance: Eigenvalues at most this large are dropped, of variance and of importance.
    """
    f = _checked(activations)
    values, vectors = _descending(f.T @ f / len(f))
    kept = values > tolerance
    root, vectors = values[kept].sqrt(), vectors[:, kept]
    whiten, colour = vectors / root, root[:, None] * vectors.T
    inner = colour @ moment.double() @ colour.T
    size, turn = _descending((inner + inner.T) / 2)
    used = size > tolerance
    scale, turn = size[used].sqrt(), turn[:, used]
    into, back = whiten @ (turn * scale), (turn / scale).T @ colour
    return Basis(into, back, size[used], values, inner, size)


def _checked(activations: Tensor) -> Tensor:
    f = activations.double()
    if f.shape[1] > WIDEST:
        raise ValueError(
            f"local interaction basis: {f.shape[1]} features; it is meant for at most {WIDEST}."
        )
    require_finite("local interaction basis", f, "samples")
    return f


def with_one(f: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample more"]:
    """Activations with a last column of ones, into which biases fold."""
    return torch.cat([f, f.new_ones(len(f), 1)], 1)


@torch.no_grad()
def interaction_bases(
    layers: Sequence[Layer], x: Float[Tensor, "sample feature"], *, tolerance: float = TOLERANCE
) -> list[Basis]:
    """Bases of the activations before each layer, and of those after the last (its principal ones).

    All but the last have a coordinate space of activations with a one (`with_one`).

    Args:
        layers: Functions of one sample's features (modules in float64, such as a linear map and its
            nonlinearity); what one gives the next takes.
        x: What goes into the first.
    """
    steps = [x.double()]
    for layer in layers:
        steps.append(layer(steps[-1]))
    bases = [pca_basis(steps[-1])]
    for number in reversed(range(len(layers))):
        f = steps[number]
        jacobian = torch.func.vmap(torch.func.jacrev(layers[number]))(f)
        # The one is a feature on both sides; nothing but itself makes it one.
        jacobian = torch.cat([jacobian, _bias_part(layers[number], f, jacobian)], 2)
        if number < len(layers) - 1:
            one = torch.zeros(len(f), 1, jacobian.shape[2], dtype=f.dtype)
            one[:, :, -1] = 1
            jacobian = torch.cat([jacobian, one], 1)
        moment = jacobian_moment(jacobian, bases[0].into)
        bases.insert(0, interaction_basis(with_one(f), moment, tolerance=tolerance))
    return bases


def _bias_part(layer: Layer, f: Tensor, jacobian: Tensor) -> Tensor:
    """Of the output, what the features do not account for to first order belongs to the one."""
    return (layer(f) - torch.einsum("sof,sf->so", jacobian, f))[..., None]


def interaction_strengths(
    layer: Layer,
    before: Basis,
    after: Basis,
    f: Float[Tensor, "sample feature"],
    *,
    n_steps: int = 16,
) -> Float[Tensor, "coordinate next"]:
    """Squared integrated gradients between coordinates of adjacent layers, mean over samples.

    Args:
        layer: As in `interaction_bases`.
        before: Basis of what goes in, with a one.
        after: Basis of what comes out; with a one if it has one feature more than the layer.
        f: What goes in.
        n_steps: Gauss-Legendre points from zero to each sample.
    """
    f = f.double()
    start = with_one(f) @ before.into
    longer = after.into.shape[0] - layer(f[:1]).shape[1]

    def coordinates(c: Tensor) -> Tensor:
        y = layer((c @ before.back)[:-1])
        return torch.cat([y, y.new_ones(longer)]) @ after.into

    points, weights = np.polynomial.legendre.leggauss(n_steps)
    total = torch.zeros(len(f), after.into.shape[1], start.shape[1], dtype=torch.float64)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        total += float(weight) * torch.func.vmap(torch.func.jacrev(coordinates))(
            float(point) * start
        )
    return (total * start[:, None]).square().mean(0).T
