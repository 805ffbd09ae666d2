"""Steps of the demo that train: a recipe, with the demo's people and folder put in."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from neurofm import cards
from neurofm.cli.demo.source import Source
from neurofm.cli.run_folder import WholeCheckpoints
from neurofm.data import BrainData
from neurofm.report.runs import Metrics, read_metrics
from neurofm.tasks import Task

Curves = dict[str, tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Trained:
    """What a training step leaves.

    Args:
        task: With its weights at the end.
        data: It was trained on.
        folder: With metrics, checkpoints and the task's configuration.
        metrics: Logged curves.
        seconds: It took.
    """

    task: Task
    data: BrainData
    folder: Path
    metrics: Metrics
    seconds: float

    def last(self, name: str) -> float:
        """Last logged value of a metric."""
        return self.metrics.curves[name][1][-1]


def quiet() -> None:
    """Silence what the demo's reader cannot act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


def read_recipe(source: Source, step: str, *, model: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a step with `model` arguments replaced, as data."""
    recipe = cards.read("recipes", f"{step}_{source.recipes}")
    recipe["model"]["init_args"] |= model
    return recipe


def brain_data(recipe: dict[str, Any], source: Source, **changes: Any) -> BrainData:
    """The recipe's data for the people of the demo."""
    arguments = {**recipe["data"]["init_args"], "root": source.corpus.root, **changes}
    return BrainData(**arguments)


def fit(recipe: dict[str, Any], data: BrainData, folder: Path, *, title: str, seed: int) -> Trained:
    """Train the recipe's task on `data`, with a progress bar and checkpoints in `folder`."""
    start = time.monotonic()
    lightning.seed_everything(seed, verbose=False)
    task = cast(Task, cards.build(recipe["model"]))
    keep = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="last", enable_version_counter=False
    )
    trainer = lightning.Trainer(
        **recipe["trainer"],
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[keep, _Bar(title)],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[WholeCheckpoints()],
        log_every_n_steps=1,
    )
    trainer.fit(task, datamodule=data)
    metrics = read_metrics(folder / "metrics.csv")
    return Trained(task.eval(), data, folder, metrics, time.monotonic() - start)


def predict(task: nn.Module, data: BrainData, side: str) -> torch.Tensor:
    """Probabilities of the classes for the windows on one side of the split."""
    loader = data.test_dataloader() if side == "test" else data.val_dataloader()
    with torch.no_grad():
        return torch.cat([torch.softmax(task(batch), 1) for batch in loader])


class _Bar(RichProgressBar):
    """Lightning's bar with the name of the step in front."""

    def __init__(self, title: str) -> None:
        super().__init__(leave=False)
        self.title = title

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.title}, epoch {current_epoch + 1}"
