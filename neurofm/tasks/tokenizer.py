"""TrainTokenizer: fit a tokenizer by reconstructing the signal from its codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Tokenizer
from neurofm.cards import configured
from neurofm.tasks.base import Task
from neurofm.tasks.code_use import CodeUse


@configured
class TrainTokenizer(Task):
    """Minimise the tokenizer's own reconstruction loss and watch its code book.

    Args:
        tokenizer: Has `loss(batch) -> dict` with "loss", its parts, and "codes" (... level).
        n_channels: Train on a random choice of this many channels of each batch: several times
            cheaper, and a tokenizer that takes any set of sensors meets more of them.

    Source of the defaults: stage 1 of BrainOmni (AdamW 0.5/0.9, eps 1e-5, weight decay 0.01).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        n_channels: int | None = None,
        lr: float = 2e-4,
        weight_decay: float = 1e-2,
        betas: Sequence[float] = (0.5, 0.9),
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
        if n_channels is not None and n_channels < 1:
            raise ValueError(f"TrainTokenizer: n_channels is {n_channels}, expected at least 1.")
        self.n_channels = n_channels
        self._use = CodeUse()

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Reconstruction loss and its parts."""
        if stage == "train" and self.n_channels is not None:
            batch = some_channels(batch, self.n_channels)
        losses = dict(cast(Any, self.tokenizer).loss(batch))
        codes = losses.pop("codes")
        self._use.add(stage, codes, cast(Tokenizer, self.tokenizer).n_codes)
        self.record(losses, stage=stage, size=len(batch), bar="loss")
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the scores of a validation batch.

        Not in Lightning's check before the first step: an untrained code book starts from the first
        batch it meets, which must be one of training.
        """
        if not self.trainer.sanity_checking:
            super().validation_step(batch, batch_idx)

    def _health(self, stage: str) -> None:
        for name, value in self._use.pop(stage).items():
            self.log(f"{stage}/codebook_{name}", value, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Use of the code book over the epoch."""
        super().on_train_epoch_end()
        self._health("train")

    def on_validation_epoch_end(self) -> None:
        """Use of the code book on the validation side."""
        self._health("validate")

    def on_test_epoch_end(self) -> None:
        """Use of the code book on the test side."""
        self._health("test")


def some_channels(batch: Batch, n: int) -> Batch:
    """The batch with `n` of the channels of each window, drawn at random; all if there are fewer.

    Windows without padding keep the same channels. Where windows of different sensors were padded
    (EEG beside MEG), each draws among its own.
    """
    count = batch.x.shape[1]
    if n >= count:
        return batch
    together = bool(batch.channel_mask.all())
    rank = torch.rand(1 if together else len(batch), count)
    # Padding comes last, so that no window is left without a real channel.
    chosen = (rank + (~batch.channel_mask).cpu()[: len(rank)]).argsort(1)[:, :n]
    chosen = chosen.to(batch.x.device)
    rows = torch.arange(len(batch), device=batch.x.device).unsqueeze(1)

    def pick(value: Tensor) -> Tensor:
        return value[:, chosen[0]] if together else value[rows, chosen]

    return replace(
        batch,
        x=pick(batch.x),
        channel_mask=pick(batch.channel_mask),
        kind=pick(batch.kind),
        position=pick(batch.position),
        orientation=pick(batch.orientation),
        has_position=pick(batch.has_position),
    )
