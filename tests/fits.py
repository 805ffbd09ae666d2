"""Short trainings of the small model, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from neurofm.readouts import LatentMLP
from neurofm.tasks import Decode, Pretrain, Task, TrainTokenizer

LABELS = ["left_hand", "right_hand"]


class Losses(Callback):
    """Losses of training steps, and which windows they saw."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.windows: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))
        self.windows += zip(batch.recording.tolist(), batch.onset.tolist(), strict=True)


def trainer(folder: Path, *callbacks: Callback, **changes: Any) -> lightning.Trainer:
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "default_root_dir": folder,
    }
    return lightning.Trainer(callbacks=list(callbacks), **arguments | changes)


def fit(task: Task, data: Any, folder: Path, *callbacks: Callback, **changes: Any) -> Losses:
    seen = Losses()
    resume = changes.pop("ckpt_path", None)
    runner = trainer(folder, seen, *callbacks, **changes)
    lightning.seed_everything(5, verbose=False)
    runner.fit(task, datamodule=data, ckpt_path=resume)
    return seen


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {
        key for key, value in module.state_dict().items() if not torch.equal(value, before[key])
    }


def decode_data(small, **changes: Any) -> Any:
    return small.data(**{"labels": LABELS, "window_s": 2.0, "offset_s": 0.5} | changes)


def task_and_data(kind: str, small, model: Any) -> tuple[Task, Any]:
    torch.manual_seed(1)
    if kind == "pretrain":
        return Pretrain(model, lr=3e-3), small.data()
    if kind == "decode":
        readout = LatentMLP(model.dim, 2, n_sources=model.n_sources, dropout=0.3)
        return Decode(model, n_outputs=2, readout=readout, lr=3e-3), decode_data(small)
    return TrainTokenizer(small.tokenizer(), lr=2e-3, n_channels=4), small.data()
