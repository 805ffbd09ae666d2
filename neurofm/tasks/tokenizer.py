"""TrainTokenizer: fit a tokenizer by reconstructing the signal from its codes.

Beside the loss it logs what tells a good code book from a bad one: how evenly the codes are used
(`codebook_*`, by level where there are several) and what share of each frequency band's power the
reconstruction keeps (`explained_*`, with an interval over windows). A code book that collapses is
said so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Tokenizer
from neurofm.cards import configured
from neurofm.nn.draw import draw, draw_windows
from neurofm.tasks.band_share import BandShare
from neurofm.tasks.base import Task
from neurofm.tasks.code_use import CodeUse

# Every so many batches of a stage are reconstructed for `explained_*`: a training step costs three
# times a reconstruction, so that this adds about 2 % to training and a quarter to validation.
JUDGED = {"train": 16, "validate": 4, "test": 1}
REMEDY = (
    "Codes nobody uses are wasted, and what they could say is lost. Let unused codes start again "
    "(`restart_below: 1.0` of ResidualVQ or EMAQuantizer), let them follow faster (a smaller "
    "`decay`), start from data (`start: spread` or `start: data`), lower the learning rate, use "
    "fewer codes, or use neurofm.nn.FSQ, which has no code book to collapse."
)


@configured
class TrainTokenizer(Task):
    """Minimise the tokenizer's own reconstruction loss and watch its code book.

    Args:
        tokenizer: Has `loss(batch) -> dict` with "loss", its parts, and, if it has codes, "codes"
            (... level). One that is fitted rather than trained counts the batch in its `loss`. If
            it has `reconstruct(batch)` (signal and what its codes make of it, both batch channel
            ... time), the share of each frequency band is logged.
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
        # Lightning counts steps, and decides when to save, by an optimizer. A tokenizer without
        # weights to learn gets it a number, which stays 0.
        learns = any(parameter.requires_grad for parameter in self.tokenizer.parameters())
        self.idle = None if learns else nn.Parameter(torch.zeros(()))
        self._use, self._bands, self._warned = CodeUse(), BandShare(), False
        self._count = dict.fromkeys(JUDGED, 0)

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Reconstruction loss and its parts."""
        if stage == "train" and self.n_channels is not None:
            batch = some_channels(batch, self.n_channels)
        losses = dict(cast(Any, self.tokenizer).loss(batch))
        codes = losses.pop("codes", None)
        if codes is not None:
            self._use.add(stage, codes, cast(Tokenizer, self.tokenizer).n_codes)
        self._reconstruct(batch, stage)
        self.record(losses, stage=stage, size=len(batch), bar="loss")
        return losses["loss"] if self.idle is None else losses["loss"] + 0 * self.idle

    @torch.no_grad()
    def _reconstruct(self, batch: Batch, stage: str) -> None:
        """Count what some of the batches keep of each band, as the tokenizer will be used."""
        self._count[stage] += 1
        if (self._count[stage] - 1) % JUDGED[stage] or not hasattr(self.tokenizer, "reconstruct"):
            return
        training = self.tokenizer.training
        x, made = cast(Any, self.tokenizer.eval()).reconstruct(batch)
        self.tokenizer.train(training)
        card = getattr(self.tokenizer, "card", None) or {}
        expected = card.get("expects", {}).get("band")
        band = batch.band or (tuple(expected) if expected else None)
        self._bands.add(stage, x, made, sfreq=batch.sfreq, band=band)

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
        for name, value in self._bands.pop(stage, device=self.device).items():
            self.log(f"{stage}/{name}", value, sync_dist=True)
        self._count[stage] = 0
        if self._use.problem and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self.tokenizer).__name__}, epoch {self.current_epoch}, {stage} side: "
                f"{self._use.problem}. {REMEDY}",
                stacklevel=3,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Which batch is reconstructed next: a code book may count in that too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["reconstructed"] = dict(self._count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting batches."""
        super().on_load_checkpoint(checkpoint)
        self._count |= checkpoint.get("reconstructed", {})

    def _remember(self) -> None:
        """A tokenizer that is fitted without a gradient has seen the data too."""
        super()._remember()
        self.tokenizer.seen = self.seen  # type: ignore[assignment]

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
    cpu = torch.device("cpu")
    if together:
        rank = draw(torch.rand, (1, count), None, cpu)
    else:
        rank = draw_windows(torch.rand, (len(batch), count), None, cpu)
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
        names=None,  # those of a few channels drawn at random say nothing
    )
