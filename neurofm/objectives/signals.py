"""Objectives over signals: hidden tokens, hidden samples, and views of one window."""

from __future__ import annotations

import warnings
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.cards import configured
from neurofm.nn.processes import batch_mean, count_rows, gather_rows
from neurofm.shapes import Int


@runtime_checkable
class _Reconstruction(Protocol):
    target: Tensor
    reconstruction: Tensor
    hidden: Tensor
    logits: Tensor


@runtime_checkable
class ReconstructsTokens(Protocol):
    """A model that hides a part of its tokens, gives them back and classifies the window."""

    def reconstruct_hidden(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> _Reconstruction:
        """Tokens, what was given back, which were hidden, and scores of the classes."""
        ...


@configured
class MaskedTokensAndClasses(nn.Module):
    """Give back hidden tokens and name the class of the window, both at once.

    Args:
        reconstruction: Weight of the squared error.
        classification: Weight of the cross-entropy; 0 trains on windows without labels.
        detach_target: Keep the gradient of the squared error from the tokens to be given back. It
            would pull all tokens towards each other, which are easy to give back.

    Source: MIRepNet (arXiv 2507.20254), equal weights; whether targets are detached is not stated.
    """

    def __init__(
        self,
        *,
        reconstruction: float = 1.0,
        classification: float = 1.0,
        detach_target: bool = True,
    ) -> None:
        super().__init__()
        self.reconstruction, self.classification = reconstruction, classification
        self.detach_target = detach_target

    def forward(
        self,
        model: ReconstructsTokens,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Returns:
            "loss", "reconstruction" (mean square over hidden tokens), "spread" (variance of the
            tokens, which the reconstruction must stay below to be worth something), and, with
            labels, "classification" (nats) and "accuracy".

        Raises:
            ValueError: No labels, or one beyond the model's classes.
        """
        y = batch.y if self.classification else None
        if self.classification and y is None:
            raise ValueError(
                "MaskedTokensAndClasses: the batch has no labels. Set `labels` in the recipe's "
                "data, or `classification: 0` to train on the tokens alone."
            )
        return self.losses(model.reconstruct_hidden(batch, generator=generator), y)

    def losses(self, found: _Reconstruction, y: Int[Tensor, " batch"] | None) -> dict[str, Tensor]:
        """Losses from what a model gave back; without `y` those of the tokens alone."""
        target = found.target.detach() if self.detach_target else found.target
        target, hidden = target.float(), found.hidden
        error = (found.reconstruction.float() - target).square().mean(-1)
        mean_error = (error * hidden).sum() / hidden.sum().clamp(min=1)
        values = found.target.detach().float().flatten(0, 1)
        results = {
            "loss": self.reconstruction * mean_error,
            "reconstruction": mean_error,
            "spread": values.var(0, correction=0).mean(),
        }
        if y is None:
            return results
        classes = found.logits.shape[1]
        if y.is_floating_point() or int(y.max()) >= classes or int(y.min()) < 0:
            raise ValueError(
                f"MaskedTokensAndClasses: labels must be classes 0 to {classes - 1}, the model's "
                f"n_classes, but reach {y.max().item():g}. Make `labels` and n_classes agree."
            )
        entropy = F.cross_entropy(found.logits.float(), y)
        results["loss"] = results["loss"] + self.classification * entropy
        results["classification"] = entropy
        results["accuracy"] = (found.logits.argmax(1) == y).float().mean()
        return results


@runtime_checkable
class _SignalPrediction(Protocol):
    signal: Tensor
    true_signal: Tensor
    spectrum: Tensor
    true_spectrum: Tensor
    hidden: Tensor


@runtime_checkable
class ReconstructsSignal(Protocol):
    """A model that hides a part of its tokens and gives their signal back."""

    def reconstruct_signal(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> _SignalPrediction:
        """Signal and spectrum of every token, as they were and as predicted, and which count."""
        ...


@configured
class MaskedSignal(nn.Module):
    """Give back the signal of hidden tokens: its samples, and the logarithm of its spectrum.

    A rhythm's phase cannot be foreseen a second ahead, but its strength can.

    Args:
        samples: Weight of the squared error of the standardized samples.
        spectrum: Weight of that of the log spectrum.
    """

    def __init__(self, *, samples: float = 1.0, spectrum: float = 1.0) -> None:
        super().__init__()
        if min(samples, spectrum) < 0 or samples + spectrum == 0:
            weights = f"samples {samples}, spectrum {spectrum}"
            raise ValueError(f"MaskedSignal: weights {weights}; expected none below 0, one above.")
        self.samples, self.spectrum = samples, spectrum

    def forward(
        self,
        model: ReconstructsSignal,
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses over hidden tokens.

        Returns:
            "loss"; "samples" and "spectrum" (mean squares); each also as "..._explained", the share
            of the variance over hidden tokens accounted for: 0 is as good as their mean.
        """
        found = model.reconstruct_signal(batch, generator=generator)
        results = {"loss": found.signal.new_zeros(())}
        pairs = {
            "samples": (self.samples, found.signal, found.true_signal),
            "spectrum": (self.spectrum, found.spectrum, found.true_spectrum),
        }
        for name, (weight, *both) in pairs.items():
            if not weight or not both[0].shape[-1]:
                continue
            given, true = (part[found.hidden].float() for part in both)
            error = (given - true).square().mean()
            spread = true.var(0, correction=0).mean()
            results[name] = batch_mean(error, len(true))
            results[f"{name}_explained"] = 1 - error.detach() / spread.clamp(min=1e-12)
            results["loss"] = results["loss"] + weight * results[name]
        return results


@runtime_checkable
class HasViews(Protocol):
    """A model that looks at every window twice, changed at random."""

    def views(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Unit vectors of both views, batch x feature."""
        ...


@configured
class Contrastive(nn.Module):
    """Find the other view of the same window among other windows, of all processes.

    A window that overlaps with the one in question is no negative: it is the same signal.

    Args:
        negatives: "all", or those of the same "subject" or "recording", which cannot be told apart
            by who was recorded how. Those need larger batches.

    Source: NT-Xent of SimCLR (Chen et al. 2020), for EEG by Mohsenvand et al. 2020; negatives of
    the same person after Cheng et al. 2020 (arXiv 2007.04871).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        negatives: Literal["all", "subject", "recording"] = "all",
    ) -> None:
        super().__init__()
        if not temperature > 0 or negatives not in ("all", "subject", "recording"):
            raise ValueError(
                f"Contrastive: temperature {temperature} must be above 0, and negatives "
                f"{negatives!r} one of 'all', 'subject', 'recording'."
            )
        self.temperature, self.negatives = temperature, negatives

    def forward(
        self, model: HasViews, batch: Batch, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Returns:
            "loss" (nats), "top_1" (how often the other view is the most similar) and "chance".
        """
        first, second = model.views(batch, generator=generator)
        before, total = count_rows(first)
        own = torch.arange(total, device=first.device)
        recording, subject, onset = map(gather_rows, (batch.recording, batch.subject, batch.onset))
        here = slice(before, before + len(first))
        near = (onset[here, None] - onset).abs() < (batch.x.shape[-1] - 0.5) / batch.sfreq
        other = ~(near & (recording[here, None] == recording))
        if self.negatives != "all":
            group = recording if self.negatives == "recording" else subject
            other = other & (group[here, None] == group)
        if not bool(other.any()):
            found = f"none of {len(first)} windows has a negative (negatives: {self.negatives})"
            warnings.warn(f"Contrastive: {found}. Use larger batches.", stacklevel=2)
        same = own[here, None] == own
        keys = torch.cat([gather_rows(first), gather_rows(second)])
        queries = torch.cat([first, second])
        allowed = torch.cat(
            [torch.cat([other, other | same], 1), torch.cat([other | same, other], 1)]
        )
        scores = (queries @ keys.T / self.temperature).masked_fill(~allowed, -torch.inf)
        target = torch.cat([own[here] + total, own[here]])
        return {
            "loss": batch_mean(F.cross_entropy(scores, target), len(target)),
            "top_1": (scores.argmax(1) == target).float().mean(),
            "chance": (1 / allowed.sum(1)).mean(),
        }
