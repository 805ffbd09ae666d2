"""Train a task on windows that are all in memory: no logs, no checkpoints, no validation.

For the hundreds of short trainings of a comparison, and behind a scikit-learn estimator.
Axes: batch channel time.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import lightning
import torch
from torch import nn

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
    steps: int,
    batch_size: int,
    seed: int,
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """Train for a fixed number of steps; the task is then in evaluation mode and by itself.

    Args:
        task: Is changed. Running statistics of its batch norms are made anew at the end (`settle`):
            those of training follow the last few batches, and weights that still changed.
        batch: All windows, with targets.
        steps: The same for any number of windows.
        batch_size: Windows in a step.
        seed: Of the order of windows. Weights and dropout follow torch's own generator.
        trainer: Further arguments of Lightning's Trainer.
    """
    loader = Shuffled(batch, batch_size, seed=seed)
    limits = {"max_steps": steps, "max_epochs": math.ceil(steps / len(loader))}
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
            lightning.Trainer(
                **{"accelerator": "cpu", **(trainer or {}), **limits},
                logger=False,
                enable_progress_bar=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            ).fit(task, train_dataloaders=loader)
    finally:
        logger.setLevel(level)
    task.cpu()
    task.trainer = None  # type: ignore[assignment]  # it holds the windows
    settle(task, Shuffled(batch, _MANY, seed=seed))


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
