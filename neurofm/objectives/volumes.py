"""Objectives over parcels of the brain: the next volume, and the embedding of hidden blocks.

Source: Thomas et al. 2022 (learning from brains: the next volume, absolute error); Brain-JEPA (Dong
et al. 2024: embeddings of hidden blocks, smooth absolute error).
Axes: batch channel (parcel); batch token dim.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.cards import configured
from neurofm.nn.processes import batch_mean


@runtime_checkable
class _Volume(Protocol):
    prediction: Tensor
    target: Tensor
    before: Tensor


@runtime_checkable
class PredictsVolume(Protocol):
    """A model that predicts a volume from those before it."""

    def predict_volume(self, batch: Batch, *, generator: torch.Generator | None = None) -> _Volume:
        """The predicted volume, the true one, and the one before; batch channel."""
        ...


@configured
class NextVolume(nn.Module):
    """Predict a volume at a random moment from all before it; mean absolute error."""

    def forward(
        self, model: PredictsVolume, batch: Batch, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Returns:
            "loss"; what it would be if the volume were like the one before ("persistence"), or like
            the parcels' median over the batch ("median"). A model is worth something below both.
        """
        found = model.predict_volume(batch, generator=generator)
        target = found.target.float()
        error = F.l1_loss(found.prediction.float(), target)
        centre = target.median(0, keepdim=True).values
        return {
            "loss": batch_mean(error, len(target)),
            "persistence": (found.before.float() - target).abs().mean(),
            "median": (centre - target).abs().mean(),
        }


@runtime_checkable
class _Latents(Protocol):
    prediction: Tensor
    target: Tensor
    hidden: Tensor


@runtime_checkable
class PredictsLatents(Protocol):
    """A model that predicts what a slow copy of itself makes of hidden tokens."""

    def predict_latents(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> _Latents:
        """Predicted and true embeddings, batch token dim, and which tokens count."""
        ...


@configured
class HiddenLatents(nn.Module):
    """Predict the embedding of hidden tokens; smooth absolute error.

    Args:
        beta: Below this the error is squared.
    """

    def __init__(self, *, beta: float = 1.0) -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"HiddenLatents: beta is {beta}, expected above 0.")
        self.beta = beta

    def forward(
        self, model: PredictsLatents, batch: Batch, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Returns:
            "loss"; "explained", the share of the variance of the hidden embeddings accounted for (0
            is as good as their mean); "spread", their standard deviation, which goes to 0 if the
            embeddings collapse.
        """
        found = model.predict_latents(batch, generator=generator)
        given, true = found.prediction[found.hidden].float(), found.target[found.hidden].float()
        loss = F.smooth_l1_loss(given, true, beta=self.beta)
        spread = true.var(0, correction=0).mean()
        error = (given.detach() - true).square().mean()
        return {
            "loss": batch_mean(loss, len(true)),
            "explained": 1 - error / spread.clamp(min=1e-12),
            "spread": spread.sqrt(),
        }
