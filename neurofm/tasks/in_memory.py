"""Train a task on windows that are all in memory: no logs, no checkpoints.

For the hundreds of short trainings of a comparison, and behind a scikit-learn estimator.
Axes: batch channel time.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.tasks.base import Task

_MANY = 128  # windows at once where no gradient is needed


class Shuffled:
    """Batches in a new order every time; none of a single window, which batch norms refuse.

    Args:
        batch: All windows, with their targets and, for a frozen tokenizer, their tokens.
        batch_size: About so many windows in each.
        seed: Of the orders.
    """

    def __init__(self, batch: Batch, batch_size: int, *, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self.parts = max(1, min(round(len(batch) / batch_size), len(batch) // 2))
        self._epoch = 0

    def __len__(self) -> int:
        return self.parts

    def __iter__(self) -> Iterator[Batch]:
        self._epoch += 1
        generator = torch.Generator().manual_seed(1000 * self.seed + self._epoch)
        order = torch.randperm(len(self.batch), generator=generator)
        for index in order.tensor_split(self.parts):
            yield self.batch._map(lambda tensor, index=index: tensor[index])


def fit_windows(
    task: Task,
    batch: Batch,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int,
    seed: int,
    held: Batch | None = None,
    patience: int | None = None,
    trainer: Mapping[str, Any] | None = None,
) -> int | None:
    """Train for a fixed time, or until held-out windows are at their best.

    The task is then in evaluation mode and by itself.

    Args:
        task: Is changed. Running statistics of its batch norms are made anew at the end (`settle`):
            those of training follow the last few batches, and weights that still changed.
        batch: All windows, with targets.
        steps: The same for any number of windows.
        epochs: Instead of steps.
        batch_size: Windows in a step.
        seed: Of the order of windows. Weights and dropout follow torch's own generator.
        held: Windows that are not trained on, with targets: the weights of the epoch with their
            least loss are kept.
        patience: Epochs without a lower loss of these after which training ends; None for never.
        trainer: Further arguments of Lightning's Trainer.

    Returns:
        Epochs of the weights that were kept; None without `held`.

    Raises:
        ValueError: Not exactly one of `steps` and `epochs`.
    """
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"fit_windows: steps is {steps} and epochs is {epochs}; expected one of both."
        )
    loader = Shuffled(batch, batch_size, seed=seed)
    limits = {"max_epochs": epochs}
    if steps is not None:
        limits = {"max_steps": steps, "max_epochs": math.ceil(steps / len(loader))}
    best = None if held is None else Best(held, patience=patience)
    settings = {**(trainer or {}), **limits}
    fit_quietly(task, settings, callbacks=best, train_dataloaders=loader)
    task.cpu()
    task.trainer = None  # it holds the windows
    kept = None if best is None else best.restore(task)
    settle(task, Shuffled(batch, _MANY, seed=seed))
    return kept


def fit_quietly(
    task: Task,
    settings: Mapping[str, Any],
    *,
    callbacks: lightning.Callback | None = None,
    **data: Any,
) -> None:
    """Lightning's training without logs, checkpoints, bars and remarks.

    Args:
        settings: Arguments of the Trainer; on the CPU if they do not say.
        data: Of `Trainer.fit`: `datamodule` or `train_dataloaders`.
    """
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
            lightning.Trainer(
                **{"accelerator": "cpu", **settings},
                logger=False,
                enable_progress_bar=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                callbacks=callbacks,
            ).fit(task, **data)
    finally:
        logger.setLevel(level)


class Best(lightning.Callback):
    """Keeps the weights with which held-out windows had the least loss.

    Args:
        held: These windows, with targets.
        patience: Epochs without a lower loss after which training stops; None for never.
    """

    def __init__(self, held: Batch, *, patience: int | None = None) -> None:
        self.held, self.patience = held, patience
        self.loss, self.epoch = float("inf"), 0
        self._weights: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge the weights of this epoch."""
        pl_module.eval()
        parts = torch.arange(len(self.held)).split(_MANY)
        with torch.no_grad():
            logits = torch.cat(
                [pl_module(self.held._map(lambda tensor, i=i: tensor[i])) for i in parts]
            )
        pl_module.train()
        loss = float(nn.functional.cross_entropy(logits, cast(Tensor, self.held.y)))
        epoch = trainer.current_epoch + 1
        if loss < self.loss:
            self.loss, self.epoch = loss, epoch
            self._weights = {k: v.clone() for k, v in pl_module.state_dict().items()}
        elif self.patience is not None and epoch - self.epoch >= self.patience:
            trainer.should_stop = True

    def restore(self, task: nn.Module) -> int:
        """Give the task these weights; after how many epochs they were reached."""
        if self._weights:
            task.load_state_dict(self._weights)
        return self.epoch


def settle(task: nn.Module, batches: Iterable[Batch]) -> None:
    """Running statistics of batch norms over these batches, with the weights as they are now.

    Args:
        task: Called with each batch; it is in evaluation mode afterwards. Batch norms that rest, in
            parts that do not learn, keep their statistics.
    """
    task.train()
    norms = [
        module
        for module in task.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.track_running_stats
        and module.training
    ]
    task.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    if norms:
        with torch.no_grad():
            for part in batches:
                task(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
