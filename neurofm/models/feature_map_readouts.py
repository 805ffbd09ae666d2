"""Readouts from feature maps to channels: linear, factorised, Gaussian, global, attention.

Each maps `batch dim height width`, what a core makes of a stimulus, to `batch channel`; the one
that moves with the image is in `semantic_readout.py`. Where a published parameter is kept inside
its range by editing it in place, so it is here in training mode; in evaluation mode the same
numbers come from a clamped copy, and the parameter stays as it is.

Source: Visual-Stream-Modeling (arXiv 2410.14031); neuralpredictors (factorised: Klindt et al.
2017; Gaussian: Lurz et al. 2021).
Axes: batch dim height width; channel = voxel, vertex or neuron. Coordinates are (x, y) = (column,
row), -1 to 1 from the centre of the first pixel to that of the last one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.nn.draw import draw_windows
from neurofm.nn.linear import Linear
from neurofm.shapes import Float

_SIGMA = {"full": (2, 2), "uncorrelated": (1, 2), "isotropic": (1, 1)}
EPSILON = 1e-6  # added to the norm of a mask
_CHUNK = 2048  # channels at a time, so that memory does not grow with them


def map_shape(in_shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """(dim, height, width) as given to a readout.

    Raises:
        ValueError: Not three positive numbers.
    """
    if len(in_shape) != 3 or min(in_shape) < 1:
        raise ValueError(
            f"{name}: in_shape is {list(in_shape)}, expected the features, rows and columns of the "
            "maps it reads, such as [384, 28, 28]."
        )
    return in_shape[0], in_shape[1], in_shape[2]


def check_map(x: Tensor, in_shape: Sequence[int], name: str) -> None:
    """Stop at maps of another size.

    Raises:
        ValueError: With both shapes.
    """
    if tuple(x.shape[1:]) != tuple(in_shape):
        raise ValueError(
            f"{name}: feature maps of shape {list(x.shape[1:])}, expected {list(in_shape)} "
            "(features, rows, columns). Are the images of another size, or is it another core? "
            "Resize the images or build the readout with this in_shape."
        )


def within(parameter: nn.Parameter, *, low: float, high: float | None = None, edit: bool) -> Tensor:
    """A parameter inside its range.

    Args:
        edit: As published: the parameter itself is moved to the border, without gradient, so that
            the next gradient may take it back. Otherwise it stays and a clamped copy is used.
    """
    if edit:
        parameter.data.clamp_(low, high)
    return parameter.clamp(low, high)


@configured
class LinearReadout(nn.Module):
    """One weight for each feature at each place: ridge regression by gradient descent.

    Args:
        in_shape: Features, rows and columns of the maps.
        alpha: Factor of the penalty, the norms (not squared) of weights and biases.
    """

    def __init__(self, in_shape: Sequence[int], n_channels: int, *, alpha: float = 1.0) -> None:
        super().__init__()
        self.in_shape = map_shape(in_shape, "LinearReadout")
        self.n_channels, self.alpha = n_channels, alpha
        self.linear = Linear(self.in_shape[0] * self.in_shape[1] * self.in_shape[2], n_channels)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch channel"]:
        """Responses."""
        check_map(x, self.in_shape, "LinearReadout")
        return self.linear(x.flatten(1))

    def penalty(self) -> Float[Tensor, ""]:
        """What is added to the loss."""
        return self.alpha * (self.linear.weight.norm() + self.linear.bias.norm())


@configured
class FactorisedReadout(nn.Module):
    """Where a channel looks, times what it looks for.

    Args:
        in_shape: Features, rows and columns of the maps.
        positive: Keep masks at or above zero; the published default lets them change sign.
        l1: Factor of the penalty `sum_channel |mask|_1 |features|_1`; 0 as published.
        start: Standard deviation of masks and features in the beginning.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        n_channels: int,
        *,
        positive: bool = False,
        l1: float = 0.0,
        start: float = 1e-3,
    ) -> None:
        super().__init__()
        self.in_shape = map_shape(in_shape, "FactorisedReadout")
        self.n_channels, self.positive, self.l1 = n_channels, positive, l1
        dim, height, width = self.in_shape
        self.spatial = nn.Parameter(start * torch.randn(n_channels, height, width))
        self.features = nn.Parameter(start * torch.randn(n_channels, dim))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def masks(self) -> Float[Tensor, "channel height width"]:
        """Where each channel looks, of norm 1."""
        mask: Tensor = self.spatial
        if self.positive:
            mask = within(self.spatial, low=0.0, edit=self.training)
        return mask / (mask.flatten(1).norm(dim=1)[:, None, None] + EPSILON)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch channel"]:
        """Responses."""
        check_map(x, self.in_shape, "FactorisedReadout")
        seen = torch.matmul(x.flatten(2), self.masks().flatten(1).T)  # batch dim channel
        return (seen * self.features.T).sum(1) + self.bias

    def penalty(self) -> Float[Tensor, ""]:
        """What is added to the loss."""
        masks = self.masks().flatten(1).abs().sum(1)
        return self.l1 * (masks * self.features.abs().sum(1)).sum()

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of neuralpredictors as ours."""
        return {key.removeprefix("_"): value for key, value in state_dict.items()}


@configured
class GaussianReadout(nn.Module):
    """Each channel looks at one point, which wavers in training and rests in evaluation.

    Args:
        in_shape: Features, rows and columns of the maps.
        spread: How the point wavers: "uncorrelated" (x and y by themselves), "isotropic", or "full"
            (any 2 x 2 factor of a covariance).
        mu_range: Points begin at random within plus and minus this.
        sigma_range: Spreads begin at random within plus and minus this; what is negative becomes 0
            in the first training step (not for "full").
        l1: Factor of the penalty, the sum of absolute features; 0 as published.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        n_channels: int,
        *,
        spread: str = "uncorrelated",
        mu_range: float = 0.5,
        sigma_range: float = 0.5,
        l1: float = 0.0,
    ) -> None:
        super().__init__()
        if spread not in _SIGMA:
            raise ValueError(f"GaussianReadout: spread {spread!r}, expected one of {[*_SIGMA]}.")
        self.in_shape = map_shape(in_shape, "GaussianReadout")
        self.n_channels, self.spread, self.l1 = n_channels, spread, l1
        mu = torch.empty(1, n_channels, 1, 2).uniform_(-mu_range, mu_range)
        sigma = torch.empty(1, n_channels, *_SIGMA[spread]).uniform_(-sigma_range, sigma_range)
        self.mu, self.sigma = nn.Parameter(mu), nn.Parameter(sigma)
        dim = self.in_shape[0]
        self.features = nn.Parameter(torch.full((1, dim, 1, n_channels), 1 / dim))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def centres(self) -> Float[Tensor, "channel 2"]:
        """(x, y) of the point each channel looks at."""
        return within(self.mu, low=-1.0, high=1.0, edit=self.training)[0, :, 0]

    def points(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch channel 2"]:
        """(x, y) for `n` items, drawn for each by itself in training mode."""
        centre = self.centres()
        if not self.training:
            return centre.expand(n, -1, -1)
        shape = (n, self.n_channels, 2)
        noise = draw_windows(torch.randn, shape, generator, centre.device).to(centre.dtype)
        if self.spread == "full":
            moved = torch.einsum("cij,bcj->bci", self.sigma[0], noise)
        else:
            moved = noise * within(self.sigma, low=0.0, edit=True)[0, :, 0]
        return (centre + moved).clamp(-1, 1)

    def forward(
        self,
        x: Float[Tensor, "batch dim height width"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Responses."""
        check_map(x, self.in_shape, "GaussianReadout")
        parts = []
        points = self.points(len(x), generator=generator).split(_CHUNK, 1)
        weights = self.features[0, :, 0].split(_CHUNK, 1)
        for point, weight in zip(points, weights, strict=True):
            found = F.grid_sample(x, point.unsqueeze(2), align_corners=True)[..., 0]
            parts.append((found * weight).sum(1))  # batch dim channel -> batch channel
        return torch.cat(parts, 1) + self.bias

    def penalty(self) -> Float[Tensor, ""]:
        """What is added to the loss."""
        return self.l1 * self.features.abs().sum()

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of neuralpredictors as ours."""
        return {key.removeprefix("_"): value for key, value in state_dict.items()}


@configured
class GlobalLinearReadout(nn.Module):
    """The mean over space, then one weight for each feature: what is there, not where.

    Args:
        in_shape: Features, rows and columns; any size of map is taken.
    """

    def __init__(self, in_shape: Sequence[int], n_channels: int) -> None:
        super().__init__()
        self.in_shape = map_shape(in_shape, "GlobalLinearReadout")
        self.n_channels = n_channels
        self.features = nn.Parameter(1e-3 * torch.randn(n_channels, self.in_shape[0]))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch channel"]:
        """Responses."""
        check_map(x[..., :1, :1], (self.in_shape[0], 1, 1), "GlobalLinearReadout")
        return F.linear(x.mean((2, 3)), self.features, self.bias)


@configured
class AttentionLinearReadout(nn.Module):
    """One map of attention for all channels, made from the features; then a weight for each.

    The map is a 3 x 3 convolution to one number (padded: the source does not say), smoothed by a
    5 x 5 Gaussian of width 1 without padding, so four rows and columns smaller; features are
    averaged down to its size.

    Args:
        in_shape: Features, rows and columns of the maps, at least 5 x 5.
    """

    kernel: Tensor

    def __init__(self, in_shape: Sequence[int], n_channels: int) -> None:
        super().__init__()
        self.in_shape = map_shape(in_shape, "AttentionLinearReadout")
        if min(self.in_shape[1:]) < 5:
            raise ValueError(
                f"AttentionLinearReadout: maps of {self.in_shape[1]} x {self.in_shape[2]}, "
                "expected at least 5 x 5, the size of its smoothing. Use GlobalLinearReadout."
            )
        self.n_channels = n_channels
        self.attention = nn.Conv2d(self.in_shape[0], 1, 3, padding=1)
        line = torch.exp(-0.5 * torch.arange(-2.0, 3.0).square())
        self.register_buffer("kernel", torch.outer(line, line) / line.sum() ** 2, persistent=False)
        self.features = nn.Parameter(1e-3 * torch.randn(n_channels, self.in_shape[0]))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def weights(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch row column"]:
        """The map of attention, which adds up to 1."""
        smooth = F.conv2d(self.attention(x), self.kernel[None, None])[:, 0]
        return smooth.flatten(1).softmax(1).view_as(smooth)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch channel"]:
        """Responses."""
        check_map(x, self.in_shape, "AttentionLinearReadout")
        weights = self.weights(x)
        pooled = F.adaptive_avg_pool2d(x, (weights.shape[1], weights.shape[2]))
        seen = torch.einsum("bdhw,bhw->bd", pooled, weights)
        return F.linear(seen, self.features, self.bias)
