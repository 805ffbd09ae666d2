"""Contrast between two descriptions of the same things.

Source: NT-Xent of SimCLR (Chen et al. 2020); between views and between networks as in MVCNet (arXiv
2502.17482).
Axes: row = one window; feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.nn.processes import batch_mean, count_rows, gather_rows
from neurofm.shapes import Float


def nt_xent(
    first: Float[Tensor, "row feature"],
    second: Float[Tensor, "row feature"],
    *,
    temperature: float = 0.2,
) -> Float[Tensor, ""]:
    """Find a row's partner among all other rows of both, by cosine similarity; nats.

    With several processes the other rows are those of all of them.
    """
    if first.shape != second.shape or not len(first):
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"nt_xent: rows of shapes {shapes}, expected two equal, not empty ones.")
    if not temperature > 0:
        raise ValueError(f"nt_xent: temperature is {temperature}, expected above 0.")
    first, second = (F.normalize(part.float(), dim=-1) for part in (first, second))
    before, total = count_rows(first)
    own = before + torch.arange(len(first), device=first.device)
    keys = torch.cat([gather_rows(first), gather_rows(second)])
    scores = torch.cat([first, second]) @ keys.T / temperature
    itself = torch.cat([own, own + total])
    scores = scores.scatter(1, itself.unsqueeze(1), -torch.inf)
    target = torch.cat([own + total, own])
    return batch_mean(F.cross_entropy(scores, target), len(target))


def between_views(
    features: Sequence[Float[Tensor, "batch feature"]],
    projections: Sequence[Float[Tensor, "batch feature"]],
    *,
    temperature: float = 0.2,
) -> Float[Tensor, " view"]:
    """Contrast of the first view with each other one, both networks' descriptions stacked.

    What one network says of a window counts as a negative for what the other says of it, against
    `between_networks`, as published.
    """
    whole = [torch.cat(pair) for pair in zip(features, projections, strict=True)]
    return torch.stack([nt_xent(whole[0], other, temperature=temperature) for other in whole[1:]])


def between_networks(
    features: Sequence[Float[Tensor, "batch feature"]],
    projections: Sequence[Float[Tensor, "batch feature"]],
    *,
    temperature: float = 0.2,
) -> Float[Tensor, ""]:
    """Contrast of what two networks say of the windows of all views."""
    return nt_xent(torch.cat(list(features)), torch.cat(list(projections)), temperature=temperature)
