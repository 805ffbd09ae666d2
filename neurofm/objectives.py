"""Reasons to train a model without labels. Each returns a dict with "loss" and what to log."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.cards import configured
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


@configured
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


@runtime_checkable
class PredictsViews(Protocol):
    """A model that hides a part of its tokens, then all others, and predicts what it lacks."""

    def predict_views(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> tuple[_Prediction, _Prediction]:
        """Scores, codes, and which tokens were hidden, of each view."""
        ...


@configured
class ComplementaryCodes(nn.Module):
    """Predict the codes of hidden tokens in two views, each of which sees what the other lacks."""

    def forward(
        self, model: PredictsViews, batch: Batch, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Mean cross-entropy of each view, added, as TFM-Tokenizer does.

        Returns:
            "loss" (the sum), "nats" (the mean of both, per code: what an entropy of codes is
            compared with) and "accuracy".
        """
        views = model.predict_views(batch, generator=generator)
        first, second = (masked_code_losses(v.logits, v.codes, v.hidden) for v in views)
        loss = first["loss"] + second["loss"]
        return {
            "loss": loss,
            "nats": loss.detach() / 2,
            "accuracy": (first["accuracy"] + second["accuracy"]) / 2,
        }
