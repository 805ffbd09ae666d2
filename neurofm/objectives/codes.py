"""Objectives over codes: those of hidden tokens, and those that come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.cards import configured
from neurofm.nn.processes import batch_mean
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
    # No choice of rows: how many are hidden is not known to the host of an accelerator.
    chosen = hidden.unsqueeze(-1)
    scores, labels = logits.float(), codes.masked_fill(~chosen, -100)
    n = hidden.sum() * codes.shape[-1]
    correct = (scores.argmax(-1) == codes) & chosen
    entropy = F.cross_entropy(scores.flatten(0, -2), labels.flatten(), reduction="sum")
    results = {
        "loss": batch_mean(entropy / n.clamp(min=1), n),
        "accuracy": correct.sum() / n.clamp(min=1),
    }
    for level, right in enumerate(correct.unbind(-1)):
        results[f"accuracy_{level}"] = right.sum() * codes.shape[-1] / n.clamp(min=1)
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


@runtime_checkable
class _NextPrediction(Protocol):
    logits: Tensor
    codes: Tensor
    mask: Tensor


@runtime_checkable
class PredictsNext(Protocol):
    """A model that predicts each code from those before it."""

    def predict_next(self, batch: Batch) -> _NextPrediction:
        """Scores, the codes that came, and which of them count."""
        ...


@configured
class NextCodes(nn.Module):
    """Predict the codes that come next.

    Args:
        top_k: Also log how often the code was among this many likeliest.
        label_smoothing: Share of the target spread over all codes, in training mode.
    """

    def __init__(self, *, top_k: Sequence[int] = (1, 5), label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.top_k, self.label_smoothing = tuple(top_k), label_smoothing

    def forward(self, model: PredictsNext, batch: Batch) -> dict[str, Tensor]:
        """Loss (nats per code) and "top_1", "top_5", ... accuracies."""
        found = model.predict_next(batch)
        smoothing = self.label_smoothing if self.training else 0.0
        return next_code_losses(
            found.logits, found.codes, found.mask, top_k=self.top_k, label_smoothing=smoothing
        )


def next_code_losses(
    logits: Float[Tensor, "batch token code"],
    codes: Int[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"],
    *,
    top_k: Sequence[int] = (1,),
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Mean cross-entropy where `mask` is True, and how often the code is among the likeliest."""
    scores, labels = logits[mask].float(), codes[mask]
    n = max(labels.numel(), 1)
    entropy = F.cross_entropy(scores, labels, reduction="sum", label_smoothing=label_smoothing)
    loss = batch_mean(entropy / n, labels.numel())
    most = min(max(top_k, default=1), scores.shape[-1])
    right = scores.topk(most, -1).indices == labels.unsqueeze(-1)
    return {"loss": loss} | {f"top_{k}": right[:, :k].any(-1).sum() / n for k in top_k}
