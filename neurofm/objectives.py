"""Reasons to train a model without labels. Each returns a dict with "loss" and what to log."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.shapes import Bool, Float, Int


@runtime_checkable
class _Prediction(Protocol):
    logits: Tensor
    codes: Tensor
    hidden: Tensor


@runtime_checkable
class PredictsCodes(Protocol):
    """A model that hides a part of its tokens and predicts their codes."""

    def predict_hidden(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> _Prediction:
        """Scores, codes, and which tokens were hidden."""
        ...


class MaskedCodes(nn.Module):
    """Predict the codes of hidden tokens. The model owns its masking scheme."""

    def forward(
        self, model: PredictsCodes, batch: Batch, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss and accuracy over hidden tokens.

        Returns:
            "loss" (nats per code, mean over levels), "accuracy", and "accuracy_0", ... per level.
        """
        found = model.predict_hidden(batch, generator=generator)
        return masked_code_losses(found.logits, found.codes, found.hidden)


def masked_code_losses(
    logits: Float[Tensor, "batch token level code"],
    codes: Int[Tensor, "batch token level"],
    hidden: Bool[Tensor, "batch token"],
) -> dict[str, Tensor]:
    """Mean cross-entropy and accuracies over hidden tokens; zeros if nothing is hidden."""
    scores, labels = logits[hidden].float(), codes[hidden]
    n = max(labels.numel(), 1)
    correct = scores.argmax(-1) == labels
    results = {
        "loss": F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum") / n,
        "accuracy": correct.sum() / n,
    }
    for level, right in enumerate(correct.unbind(-1)):
        results[f"accuracy_{level}"] = right.sum() / max(len(right), 1)
    return results
