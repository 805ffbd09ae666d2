"""Stimulus-response pairs with a known answer, small enough for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lightning
import torch
from torch import Tensor

from neurofm.batch import Pairs


def pairs_of(
    stimulus: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None = None,
    subject: Tensor | None = None,
) -> Pairs:
    n = len(y)
    mask = torch.ones(y.shape[:2], dtype=torch.bool) if mask is None else mask
    return Pairs(
        stimulus=stimulus,
        y=y.masked_fill(~mask.view(*mask.shape, *[1] * (y.ndim - 2)), 0.0),
        mask=mask,
        subject=torch.zeros(n, dtype=torch.int64) if subject is None else subject,
        index=torch.arange(n),
    )


class Batches:
    """Batches in an order that depends on seed and epoch."""

    def __init__(self, pairs: Pairs, size: int, *, shuffle: bool) -> None:
        self.pairs, self.size, self.shuffle = pairs, size, shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.size)

    def __iter__(self) -> Iterator[Pairs]:
        generator = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        order = torch.arange(len(self.pairs))
        if self.shuffle:
            order = torch.randperm(len(self.pairs), generator=generator)
        for chosen in order.split(self.size):
            yield self.pairs._map(lambda tensor, chosen=chosen: tensor[chosen])


class PairsData(lightning.LightningDataModule):
    """The first part trains, the rest validates and tests."""

    def __init__(self, pairs: Pairs, *, n_train: int, batch_size: int = 32) -> None:
        super().__init__()
        self.train, self.held = (
            pairs._map(lambda tensor, part=part: tensor[part])
            for part in (slice(n_train), slice(n_train, None))
        )
        self.batch_size = batch_size
        self.n_channels = pairs.y.shape[1]
        self.regions: tuple[str, ...] = ()

    def train_dataloader(self) -> Batches:
        return Batches(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> Batches:
        return Batches(self.held, self.batch_size, shuffle=False)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader


def fitted(task: lightning.LightningModule, data: PairsData, **options: object) -> float:
    """Train without logs; the correlation on the held part."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(task, datamodule=data)
    return scored(task, data)


def scored(task: lightning.LightningModule, data: PairsData) -> float:
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.validate(task, datamodule=data, verbose=False)
    return float(trainer.callback_metrics["validate/r"])


def grids(
    n: int, *, dim: int, size: int, cue: Callable[[Tensor], Tensor] | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise grids with one marked patch each; where it is, as (row, column).

    The first feature marks the patch; `cue` may choose places from random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, size, size, generator=generator)
    x[:, 0] = 0
    at = torch.rand(n, 2, generator=generator)
    at = (at * size).long().clamp(max=size - 1) if cue is None else cue(at)
    x[torch.arange(n), 0, at[:, 0], at[:, 1]] = 4.0
    return x, at
