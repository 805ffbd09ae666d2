"""What a training run leaves in its folder: `run.json`, predictions, and whole checkpoints."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from neurofm.batch import Batch
from neurofm.data.module import BrainData
from neurofm.data.response_data import ResponseData
from neurofm.tasks import trained_parameters

PACKAGES = ("neurofm", "torch", "lightning", "mne", "numpy", "scipy", "braindecode")


def versions() -> dict[str, str]:
    """Versions of what a run depends on, and the git commit if the package runs from a checkout."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    checkout = Path(__file__).parents[2]
    if (checkout / ".git").exists():
        # No git, or a checkout of somebody else: no commit.
        with suppress(OSError, subprocess.CalledProcessError):
            found["commit"] = subprocess.run(
                ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
    return found


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a killed run leaves the earlier one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """All or nothing."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class VersionFolders(CSVLogger):
    """Metrics in `version_N`, claimed at once, so that runs started together do not share one."""

    def _get_next_version(self) -> int:
        version = super()._get_next_version()
        while getattr(rank_zero_only, "rank", 0) == 0:
            try:
                (Path(self.root_dir) / f"version_{version}").mkdir(parents=True)
            except FileExistsError:
                version += 1
            else:
                break
        return version


class RunRecord(Callback):
    """Write `run.json`: versions, seed, split lists, and the metrics when the run ends.

    Args:
        question: What the recipe answers.
    """

    def __init__(self, seed: int | None, question: str = "") -> None:
        self.seed, self.question = seed, question
        self._start = time.monotonic()

    def _write(self, trainer: lightning.Trainer, **more: Any) -> None:
        if not trainer.is_global_zero or trainer.log_dir is None:
            return
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "run.json"
        record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        record |= {"versions": versions(), "seed": self.seed, "threads": torch.get_num_threads()}
        if self.question:
            record["question"] = self.question
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, BrainData) and data.split is not None:
            rows = data.rows
            record["split"] = {
                "name": data.split.name,
                **{
                    side: sorted({rows[i].recording for i in members})
                    for side, members in data.split.sides.items()
                },
            }
            record["datasets"] = data.datasets
        if isinstance(data, ResponseData) and data.tables:
            sides = {
                side: sorted({data.names[i] for i in table.stimulus.tolist()})
                for side, table in data.tables.items()
            }
            record["split"] = {"name": f"by {data.split_by}", **sides}
            record["datasets"] = [data.dataset]
        record |= more
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1))
        temporary.replace(file)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Before the first step."""
        self._start = time.monotonic()
        learn, whole = trained_parameters(pl_module)
        self._write(trainer, parameters={"trained": learn, "all": whole})

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """With the final metrics."""
        seconds = round(time.monotonic() - self._start, 1)
        self._write(trainer, metrics=_numbers(trainer), seconds=seconds)
        write_predictions(trainer, pl_module, "validate")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """With the metrics of a validation that is not part of a fit."""
        if trainer.state.fn == "validate":
            self._write(trainer, validate=_numbers(trainer))
            write_predictions(trainer, pl_module, "validate")

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """With the test metrics."""
        self._write(trainer, test=_numbers(trainer))
        write_predictions(trainer, pl_module, "test")


def write_predictions(trainer: lightning.Trainer, task: Any, stage: str) -> None:
    """What a decoder said of every window of a stage, as `predictions-STAGE.json`."""
    said, data = getattr(task, "predicted", None), getattr(trainer, "datamodule", None)
    if not said or not isinstance(data, BrainData) or data.windows is None:
        return
    if not trainer.is_global_zero or trainer.log_dir is None:
        return
    index = data.windows.recording
    names, places = np.unique(index, return_index=True)
    first = {int(r): data.rows[int(i)] for r, i in zip(names, places, strict=True)}
    rows = [first[r] for r in said["recording"].tolist()]
    content = {
        "stage": stage,
        "classes": list(data.labels or range(said["p"].shape[1])),
        "subject": [row.subject for row in rows],
        "recording": [row.recording for row in rows],
        "onset": said["onset"].tolist(),
        "y": said["y"].tolist(),
        "p": np.round(said["p"], 4).tolist(),
    }
    file = Path(trainer.log_dir) / f"predictions-{stage}.json"
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(file)


def _numbers(trainer: lightning.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


class Predictions(Callback):
    """Write `predictions.csv`: one row per window with its class probabilities."""

    def __init__(self) -> None:
        self._rows: list[list[Any]] = []

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the logits of a batch as probabilities."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(outputs, Tensor) or not isinstance(data, BrainData):
            return
        if data.windows is None or not data.labels:
            return
        probability = outputs.float().softmax(1).cpu()
        true = [""] * len(batch) if batch.y is None else [data.labels[k] for k in batch.y.tolist()]
        for i, (recording, onset) in enumerate(
            zip(batch.recording.tolist(), batch.onset.tolist(), strict=True)
        ):
            self._rows.append(
                [
                    data.windows.entries[recording].recording.id,
                    f"{onset:.6g}",
                    true[i],
                    data.labels[int(probability[i].argmax())],
                    *(f"{value:.6f}" for value in probability[i].tolist()),
                ]
            )

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the table; of several processes each its own."""
        if not self._rows or trainer.log_dir is None:
            return
        rank = trainer.global_rank
        file = Path(trainer.log_dir) / f"predictions{f'.{rank}' if rank else ''}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        labels = trainer.datamodule.labels  # type: ignore[attr-defined]
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(
                ["recording", "onset_s", "true", "predicted", *(f"p_{name}" for name in labels)]
            )
            writer.writerows(self._rows)
        self._rows = []
