"""Losses between predicted and measured responses, of which some may be missing.

All entries that were measured count alike, over the whole batch and over all processes.
Axes: batch channel [time]; mask is True where a response was measured.
Source: Visual-Stream-Modeling (arXiv 2410.14031); Lin 1989 (concordance).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.nn.processes import batch_mean, gather_rows
from neurofm.shapes import Bool, Float


def _measured(
    prediction: Tensor, y: Tensor, mask: Tensor, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Both with 0 where nothing was measured, and the mask in their shape."""
    if prediction.shape != y.shape:
        raise ValueError(
            f"{name}: predictions of shape {list(prediction.shape)} for responses of "
            f"{list(y.shape)}. Do the model's n_channels agree with the data's?"
        )
    mask = mask.view(*mask.shape, *[1] * (y.ndim - mask.ndim)).expand_as(y)
    # A missing response may be anything, NaN too, and 0 * NaN is NaN.
    return prediction.masked_fill(~mask, 0.0), y.masked_fill(~mask, 0.0), mask


def masked_mse(
    prediction: Float[Tensor, "batch channel *time"],
    y: Float[Tensor, "batch channel *time"],
    mask: Bool[Tensor, "batch channel *time"] | Bool[Tensor, "batch channel"],
) -> Float[Tensor, ""]:
    """Mean squared error over what was measured; 0 if nothing was."""
    prediction, y, mask = _measured(prediction, y, mask, "masked_mse")
    count = mask.sum()
    total = (prediction - y).square().sum()
    return batch_mean(total / count.clamp(min=1), count)


def masked_huber(
    prediction: Float[Tensor, "batch channel *time"],
    y: Float[Tensor, "batch channel *time"],
    mask: Bool[Tensor, "batch channel *time"] | Bool[Tensor, "batch channel"],
    *,
    delta: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean Huber loss over what was measured; 0 if nothing was.

    Args:
        delta: Errors beyond it count linearly; in the unit of the responses.
    """
    prediction, y, mask = _measured(prediction, y, mask, "masked_huber")
    count = mask.sum()
    total = F.huber_loss(prediction, y, reduction="sum", delta=delta)
    return batch_mean(total / count.clamp(min=1), count)


def masked_concordance(
    prediction: Float[Tensor, "batch channel *time"],
    y: Float[Tensor, "batch channel *time"],
    mask: Bool[Tensor, "batch channel *time"] | Bool[Tensor, "batch channel"],
) -> Float[Tensor, ""]:
    """1 - concordance correlation over what was measured, all entries pooled; 0 = they agree.

    The covariance is a mean of products and the variances divide by one less than the count, as in
    the original; with few entries the least loss is therefore a little above 0.

    Returns:
        1 if fewer than two responses were measured.
    """
    prediction, y, mask = _measured(prediction, y, mask, "masked_concordance")
    weight = gather_rows(mask.to(y.dtype))
    prediction, y = gather_rows(prediction), gather_rows(y)
    n = weight.sum()
    few = n < 2
    mean_p, mean_y = prediction.sum() / n.clamp(min=1), y.sum() / n.clamp(min=1)
    off_p, off_y = (prediction - mean_p) * weight, (y - mean_y) * weight
    covariance = (off_p * off_y).sum() / n.clamp(min=1)
    variance = (off_p.square().sum() + off_y.square().sum()) / (n - 1).clamp(min=1)
    below = variance + (mean_p - mean_y).square()
    same = 2 * covariance / torch.where(below > 0, below, torch.ones_like(below))
    return 1 - torch.where(few, torch.zeros_like(same), same)
