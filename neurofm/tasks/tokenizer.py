"""TrainTokenizer: fit a tokenizer by reconstructing the signal from its codes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Tokenizer
from neurofm.cards import configured
from neurofm.nn import codebook_health
from neurofm.tasks.base import Task


@configured
class TrainTokenizer(Task):
    """Minimise the tokenizer's own reconstruction loss and watch its code book.

    Args:
        tokenizer: Has `loss(batch) -> dict` with "loss", its parts, and "codes" (... level).

    Source of the defaults: stage 1 of BrainOmni (AdamW 0.5/0.9, eps 1e-5, weight decay 0.01).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        lr: float = 2e-4,
        weight_decay: float = 1e-2,
        betas: tuple[float, float] = (0.5, 0.9),
        eps: float = 1e-5,
        warmup: float = 0.1,
        final_lr: float = 0.05,
    ) -> None:
        super().__init__(
            lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, warmup=warmup, final_lr=final_lr
        )
        if not hasattr(tokenizer, "loss"):
            raise ValueError(f"{type(tokenizer).__name__} has no `loss`: it is not trained.")
        self.tokenizer = cast(nn.Module, tokenizer)
        self._codes: dict[str, list[Tensor]] = {}

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Reconstruction loss and its parts."""
        losses = dict(cast(Any, self.tokenizer).loss(batch))
        codes = losses.pop("codes")
        self._codes.setdefault(stage, []).append(codes.detach().flatten(0, -2).cpu())
        self.record(losses, stage=stage, size=len(batch), bar="loss")
        return losses["loss"]

    def _health(self, stage: str) -> None:
        codes = torch.cat(self._codes.pop(stage))
        health = codebook_health(codes, cast(Tokenizer, self.tokenizer).n_codes)
        for name, levels in health.items():
            self.log(f"{stage}/codebook_{name}", sum(levels) / len(levels), sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Use of the code book over the epoch."""
        self._health("train")

    def on_validation_epoch_end(self) -> None:
        """Use of the code book on the validation side."""
        self._health("validate")

    def on_test_epoch_end(self) -> None:
        """Use of the code book on the test side."""
        self._health("test")
