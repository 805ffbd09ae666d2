"""`neurofm fit | validate | test | predict --config RECIPE`: LightningCLI with our tasks and data.

A recipe is a LightningCLI config. `--config NAME` finds a shipped recipe, `--config FILE.yaml`
takes your own, and every key can be overridden behind it: `--trainer.max_epochs 3`.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger

from neurofm import cards
from neurofm.data.module import BrainData
from neurofm.tasks import Task

PACKAGES = ("neurofm", "torch", "lightning", "mne", "numpy", "scipy", "braindecode")


def versions() -> dict[str, str]:
    """Versions of what a run depends on, and the git commit if the package runs from a checkout."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found


class RunRecord(Callback):
    """Write `run.json`: versions, seed, split lists, and the final metrics when the run ends."""

    def __init__(self, seed: int | None) -> None:
        self.seed = seed

    def _write(self, trainer: lightning.Trainer, **more: Any) -> None:
        if not trainer.is_global_zero or trainer.log_dir is None:
            return
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "run.json"
        record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        record |= {"versions": versions(), "seed": self.seed, "threads": torch.get_num_threads()}
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, BrainData) and data.split is not None:
            rows = data.rows
            record["split"] = {
                "name": data.split.name,
                **{
                    side: sorted({rows[i].recording for i in getattr(data.split, side)})
                    for side in ("train", "validate", "test")
                },
            }
            record["datasets"] = data.datasets
        record |= more
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1))
        temporary.replace(file)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Before the first step."""
        self._write(trainer)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """With the final metrics."""
        self._write(trainer, metrics=_numbers(trainer))

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """With the test metrics."""
        self._write(trainer, test=_numbers(trainer))


def _numbers(trainer: lightning.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


class Cli(LightningCLI):
    """LightningCLI that records the run."""

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """The recipe's trainer, with the run record added."""
        seed = self._get(self.config_init, "seed_everything")
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.append(RunRecord(seed if isinstance(seed, int) else None))  # type: ignore[attr-defined]
        return trainer


def resolve(argv: list[str]) -> tuple[list[str], str]:
    """Replace the name of a shipped recipe by its file; also the name for the run's folder."""
    resolved, name = list(argv), "run"
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag not in {"--config", "-c"}:
            continue
        if equals:
            file = cards.path("recipes", value)
            resolved[i] = f"--config={file}"
        elif i + 1 < len(argv):
            file = cards.path("recipes", argv[i + 1])
            resolved[i + 1] = str(file)
        else:
            raise ValueError("--config needs the name of a recipe: `neurofm list recipes`.")
        if file.suffix != ".yaml":
            raise ValueError(f"{file.name} is a notebook: `neurofm copy {file.stem}` and open it.")
        name = file.stem
    return resolved, name


def main(argv: list[str]) -> int:
    """Run one LightningCLI subcommand."""
    resolved, name = resolve(argv)
    # A frozen tokenizer stays in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message="Found .* module.* in eval mode")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    Cli(
        Task,
        BrainData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": name},
            },
            "callbacks": [
                RichProgressBar(),
                ModelCheckpoint(
                    filename="best",
                    monitor="validate/loss",
                    save_last=True,
                    enable_version_counter=False,
                ),
            ],
            "log_every_n_steps": 1,
        },
        parser_kwargs={"prog": "neurofm"},
        args=resolved,
    )
    return 0


__all__ = ["CSVLogger", "Cli", "RunRecord", "main", "versions"]
