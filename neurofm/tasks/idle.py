"""Parameters that a task does not train although they ask for a gradient.

A model has parts that one task uses and another does not: fine-tuning leaves the mask token and the
heads of pretraining alone. One process does not mind; several wait for every gradient that was
announced (DistributedDataParallel), so such parameters are found by one step on a copy of the task
and frozen for the run. Looking for them in every step is the alternative, and costs time in each.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from neurofm.batch import Batch
from neurofm.data.module import BatchLoader

WINDOWS = 2  # batch statistics and contrasts need more than one


def idle_parameters(task: Any, loader: Any) -> list[str]:
    """Names of parameters that a training step leaves without gradient.

    Args:
        task: A `Task` before its first step; not changed, and neither are the random numbers.
        loader: Of the training side, not yet used.
    """
    trainer, task._trainer = task._trainer, None
    try:
        probe = copy.deepcopy(task)
    finally:
        task._trainer = trainer
    probe.log = probe.log_dict = _nothing
    probe.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe.step(_few(loader), "train").backward()
    return [
        name
        for name, parameter in probe.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]


def _few(loader: Any) -> Batch:
    if isinstance(loader, BatchLoader):
        return loader.windows.batch(loader.plan(0)[0][:WINDOWS])
    return next(iter(loader))


def _nothing(*_: Any, **__: Any) -> None:
    """A copy logs nothing."""
