"""Losses of estimates of vectors, which should be found by them among candidates.

Source: Defossez et al. 2023 (arXiv 2208.12266; candidates normalised, no temperature); Radford et
al. 2021 (CLIP: both normalised, a learned temperature, both directions); Zhai et al. 2023 (SigLIP).
Axes: batch = estimate; candidate, of which the first `batch` are the targets of the estimates;
feature and, of sequences, time are compared all at once.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.nn.processes import batch_mean, count_rows, gather_rows
from neurofm.shapes import Float

Norm = Literal["x", "y", "xy", "none"]
_SAME = 0.999  # cosine from which on two targets are one


class _Scores(nn.Module):
    """Products of estimates and candidates."""

    def __init__(self, norm: Norm, temperature: float, learned: bool, eps: float) -> None:
        super().__init__()
        name = type(self).__name__
        if norm not in ("x", "y", "xy", "none"):
            raise ValueError(f"{name}: norm {norm!r} is not one of 'x', 'y', 'xy', 'none'.")
        if not temperature > 0:
            raise ValueError(f"{name}: temperature is {temperature}, expected above 0.")
        self.norm, self.eps = norm, eps
        self.learned = learned
        scale = torch.tensor(-math.log(temperature))
        self.log_scale: Tensor
        if learned:
            self.log_scale = nn.Parameter(scale)
        else:
            self.register_buffer("log_scale", scale, persistent=False)

    def no_decay(self) -> list[Tensor]:
        """Parameters without weight decay."""
        return list(self.parameters())

    def scores(
        self,
        estimate: Float[Tensor, "batch feature *time"],
        candidate: Float[Tensor, "candidate dim *more"],
    ) -> Float[Tensor, "batch candidate"]:
        """Products, of what is normalised, times the scale."""
        if estimate.shape[1:] != candidate.shape[1:]:
            raise ValueError(
                f"{type(self).__name__}: estimates of shape {list(estimate.shape[1:])}, candidates "
                f"of {list(candidate.shape[1:])}. Build the model with as many outputs as the "
                "embeddings have features."
            )
        x, y = estimate.float().flatten(1), candidate.float().flatten(1)
        if "x" in self.norm:
            x = x / (self.eps + x.norm(dim=1, keepdim=True))
        if "y" in self.norm:
            y = y / (self.eps + y.norm(dim=1, keepdim=True))
        return self.log_scale.exp() * (x @ y.T)


@configured
class ClipLoss(_Scores):
    """Find the target of each estimate among those of the batch, of all processes; nats.

    Args:
        norm: What is brought to length 1: estimates ("x"), candidates ("y"), both or "none".
        temperature: Scores are divided by it; where it is learned, its start.
        learned: Learn the temperature.
        symmetric: Also find the estimate of each target, and take the mean of both.

    Defaults: the published loss of the brain module. For CLIP's own: `norm: xy`,
    `temperature: 0.07`, `learned: true`, `symmetric: true`.
    """

    def __init__(
        self,
        *,
        norm: Norm = "y",
        temperature: float = 1.0,
        learned: bool = False,
        symmetric: bool = False,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(norm, temperature, learned, eps)
        self.symmetric = symmetric

    def forward(self, estimate: Tensor, candidate: Tensor) -> Tensor:
        """Cross-entropy, one number.

        Args:
            estimate: batch feature [time]
            candidate: candidate feature [time]; targets in the order of the estimates, then further
                negatives, if any.
        """
        n = _enough(estimate, candidate, type(self).__name__)
        before, _ = count_rows(estimate)
        target = before + torch.arange(n, device=estimate.device)
        everything = torch.cat([gather_rows(candidate[:n]), candidate[n:]])
        loss = F.cross_entropy(self.scores(estimate, everything), target)
        if self.symmetric:
            back = self.scores(gather_rows(estimate), candidate[:n]).T
            loss = (loss + F.cross_entropy(back, target)) / 2
        return batch_mean(loss, n)


@configured
class SigLipLoss(_Scores):
    """Say of each pair whether it belongs together; the sum of binary cross-entropies, nats.

    Candidates that are as good as the target (cosine of 0.999 or more) are positives too: the same
    stimulus may come twice in a batch.

    Args:
        norm: As in `ClipLoss`.
        temperature: Start; it is learned.
        bias: Start of what is added to the scores; it is learned.
    """

    def __init__(
        self,
        *,
        norm: Norm = "xy",
        temperature: float = 0.1,
        bias: float = -10.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(norm, temperature, True, eps)
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, estimate: Tensor, candidate: Tensor) -> Tensor:
        """One number; see `ClipLoss` for the arguments."""
        n = _enough(estimate, candidate, type(self).__name__)
        before, total = count_rows(estimate)
        own = before + torch.arange(n, device=estimate.device)
        everything = torch.cat([gather_rows(candidate[:n]), candidate[n:]])
        unit = F.normalize(everything.float().flatten(1), dim=1)
        together = unit[own] @ unit.T >= _SAME
        together[torch.arange(n, device=own.device), own] = True  # a target of zeros has no cosine
        logits = self.scores(estimate, everything) + self.bias
        each = F.binary_cross_entropy_with_logits(
            logits, together.to(logits.dtype), reduction="none"
        )
        return batch_mean(each.sum() / n, n) * total


def _enough(estimate: Tensor, candidate: Tensor, name: str) -> int:
    n = len(estimate)
    if not n or len(candidate) < n:
        raise ValueError(
            f"{name}: {n} estimates and {len(candidate)} candidates; expected at least one "
            "estimate, and the target of each among the first candidates."
        )
    return n
