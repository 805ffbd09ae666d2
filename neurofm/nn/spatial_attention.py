"""Channels merged by where they are, and a matrix for each person.

A fixed number of outputs, each a weighted mean of the channels. The weights are a softmax over
channels of a learned function of their place, a sum of sines and cosines, so that any number of
channels in any order gives the same outputs.

Source: Defossez et al. 2023 (arXiv 2208.12266); facebookresearch/brainmagick.
Axes: batch channel time; place = two coordinates, 0 to 1; merged = output.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neurofm.nn.draw import draw
from neurofm.nn.processes import broadcast
from neurofm.shapes import Bool, Float, Int

_MARGIN = 0.2  # sensors lie between 0 and 1; the period is longer, so that opposite ends differ


def fourier_code(
    place: Float[Tensor, "batch channel 2"], dim: int
) -> Float[Tensor, "batch channel code"]:
    """Cosines, then sines, of all sums of whole frequencies along both axes.

    Args:
        dim: Length of the code, twice a square number.
    """
    n = math.isqrt(dim // 2)
    if 2 * n * n != dim:
        raise ValueError(f"fourier_code: dim is {dim}, expected twice a square, such as 2048.")
    step = 2 * math.pi / (1 + 2 * _MARGIN)
    frequency = step * torch.arange(n, device=place.device, dtype=torch.float32)
    x, y = (place.float() + _MARGIN).unbind(-1)
    phase = (x[..., None] * frequency)[..., :, None] + (y[..., None] * frequency)[..., None, :]
    phase = phase.flatten(-2)  # first axis slow
    return torch.cat([phase.cos(), phase.sin()], -1)


class SpatialAttention(nn.Module):
    """Merge channels by their places.

    Args:
        merged: Outputs.
        code: Length of the Fourier code of a place.
        dropout_radius: In training, channels within this distance of a random point, one for all
            windows, are left out; 0 for none.
    """

    def __init__(self, merged: int = 270, *, code: int = 2048, dropout_radius: float = 0.2) -> None:
        super().__init__()
        if dropout_radius < 0:
            raise ValueError(
                f"SpatialAttention: dropout_radius is {dropout_radius}, expected 0 or more."
            )
        fourier_code(torch.zeros(1, 1, 2), code)
        self.code, self.dropout_radius = code, dropout_radius
        self.heads = nn.Parameter(torch.randn(merged, code) / math.sqrt(code))

    def weights(
        self,
        place: Float[Tensor, "batch channel 2"],
        present: Bool[Tensor, "batch channel"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch merged channel"]:
        """Share of each channel in each output; all zero in windows without a channel."""
        if self.training and self.dropout_radius:
            point = draw(torch.rand, (2,), generator, place.device)
            broadcast(point)
            present = present & ((place - point).norm(dim=-1) > self.dropout_radius)
        scores = torch.einsum("bcp,mp->bmc", fourier_code(place, self.code), self.heads.float())
        some = present.any(1, keepdim=True)
        hidden = ~present & some  # a softmax over nothing would be NaN, and so its gradient
        weights = scores.masked_fill(hidden.unsqueeze(1), -torch.inf).softmax(-1)
        return weights * present.unsqueeze(1)

    def forward(
        self,
        x: Float[Tensor, "batch channel time"],
        place: Float[Tensor, "few channel 2"],
        present: Bool[Tensor, "few channel"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch merged time"]:
        """Outputs over time.

        Args:
            place: Of each channel, between 0 and 1; of every window, or one for all of them.
            present: True = attended to; others may hold anything finite.
        """
        weights = self.weights(place, present, generator=generator)
        return weights.to(x.dtype) @ x


class SubjectLinear(nn.Module):
    """A linear map for each person, without bias."""

    def __init__(self, n_subjects: int, dim: int) -> None:
        super().__init__()
        if n_subjects < 1:
            raise ValueError(f"SubjectLinear: {n_subjects} subjects, expected at least 1.")
        self.weight = nn.Parameter(torch.randn(n_subjects, dim, dim) / math.sqrt(dim))

    def forward(
        self, x: Float[Tensor, "batch dim time"], subject: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim time"]:
        """Each window through the map of its person."""
        return self.weight[subject].transpose(1, 2).to(x.dtype) @ x
