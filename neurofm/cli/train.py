"""`neurofm fit | validate | test | predict --config RECIPE`: LightningCLI with our tasks and data.

A recipe is a LightningCLI config. `--config NAME` finds a shipped recipe, `--config FILE.yaml`
takes your own, and every key can be overridden behind it: `--trainer.max_epochs 3`.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console

from neurofm import cards
from neurofm.cli.cards import question
from neurofm.cli.run_folder import Predictions, RunRecord, WholeCheckpoints
from neurofm.io.tensors import read_checkpoint
from neurofm.tasks import Task

log = logging.getLogger(__name__)
# Lines of Lightning that tell a user nothing about the run.
_CHATTER = ("TPU available", "HPU available", "💡 Tip", "Loading `train_dataloader` to estimate")
_SILENT = (
    "Found .* module.* in eval mode",  # a frozen tokenizer stays in evaluation mode on purpose
    ".*isinstance.treespec, LeafSpec.*",
    ".*args parameter is intended to run from within Python",
    ".*does not have many workers",
    r"\s*(By default only one JsonargparseDeprecationWarning|.*was deprecated in v4)",
    "It is recommended to use .*sync_dist=True",  # training steps come averaged
    "The dirpath has changed",  # a resumed run writes to a folder of its own
)
# Parts of a jsonargparse message that say how it looked, not what is wrong.
_SCAFFOLD = re.compile(
    r"^(Does not validate against any|Subtypes:|Errors:|Given value|- Expected a .*'NoneType'>)"
)

_NO_FILE = re.compile(
    r"Expected a path but \S+ either not accessible or invalid; "
    r"(Does not validate against [^;]*; )?"
)
_UNKNOWN_CLASS = re.compile(
    r"Problem with given class_path '([\w.]+)': module \S+ has no attribute"
)
_BARE_CLASS = re.compile(r"Expected a dot import path string: \w+$")
_WHOLE = ". Write the whole path of a class, such as neurofm.tasks.LoRA."
_QUOTES = ". Write names that are numbers in quotes."


class Parser(LightningArgumentParser):
    """Says in one line what is wrong with a recipe, without the list of all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing."""
        raise ValueError(plain(message)) from ex


def plain(message: str) -> str:
    """The leaves of a nested jsonargparse message, on one line."""
    kept = [line.strip() for line in message.splitlines()]
    kept = [line.removeprefix("- ") for line in kept if line and not _SCAFFOLD.match(line)]
    text = ""
    for line in dict.fromkeys(kept):
        text += line if not text else f" {line}" if text.endswith(":") else f"; {line}"
    if "Expected a <class 'str'>. Got value:" in text and not text.endswith(_QUOTES):
        text += _QUOTES
    wrong = _UNKNOWN_CLASS.search(text)
    if wrong and not text.endswith((".", "?")):
        text = f"{_NO_FILE.sub('', text)}.{cards.near_classes(wrong.group(1))}"
    bare = _BARE_CLASS.search(text)
    if bare and not text.endswith(_WHOLE):
        text = f"{_NO_FILE.sub('', text)}{_WHOLE}"
    return text or message


_RUNS = "runs"
_LOGGER = {"class_path": "neurofm.cli.run_folder.VersionFolders"}


class Cli(LightningCLI):
    """LightningCLI that records the run."""

    def before_instantiate_classes(self) -> None:
        """`--trainer.default_root_dir` says where runs go, as without our logger."""
        trainer = self.config[self.subcommand].trainer
        own = getattr(trainer.logger, "class_path", None) == _LOGGER["class_path"]
        if trainer.default_root_dir and own and trainer.logger.init_args.save_dir == _RUNS:
            trainer.logger.init_args.save_dir = trainer.default_root_dir

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """The recipe's trainer, with the run record, predictions and whole checkpoints added."""
        seed = self._get(self.config_init, "seed_everything")
        asked = self._get(self.config_init, "trainer")
        self.trainer_defaults["callbacks"] = _callbacks(asked, self.model.best)
        trainer = super().instantiate_trainer(**kwargs)
        recipes = self.config[self.subcommand].get("config") or []
        asks = [text for recipe in recipes if "?" in (text := question(Path(str(recipe))))]
        record = RunRecord(seed if isinstance(seed, int) else None, "".join(asks[-1:]))
        trainer.callbacks.extend([record, Predictions()])  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        return trainer

    def _parse_ckpt_path(self) -> None:
        """The recipe says what is built; of the checkpoint only make sure that it can be read."""
        command = self.config["subcommand"]
        path = self.config[command].get("ckpt_path")
        if path is not None and path not in ("best", "last", "hpc", "registry"):
            read_checkpoint(path)
        elif path is None and command in ("test", "predict"):
            log.warning("no --ckpt_path: %s uses the weights that the recipe starts from", command)


class Bar(RichProgressBar):
    """Lightning's bar without the number of the version, which the folder's name has."""

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What is shown behind the bar."""
        found: dict[str, Any] = super().get_metrics(*args, **kwargs)
        return {name: value for name, value in found.items() if name != "v_num"}


def _callbacks(asked: Any, best: tuple[str, str]) -> list[Callback]:
    """Progress and checkpoints, unless the recipe switches them off or brings its own bar."""
    callbacks: list[Callback] = []
    bars = [item for item in asked.get("callbacks") or [] if isinstance(item, ProgressBar)]
    if asked.get("enable_progress_bar") is not False and not bars:
        callbacks.append(Bar())
    if asked.get("enable_checkpointing") is not False:
        callbacks.append(
            ModelCheckpoint(
                filename="best",
                monitor=best[0],
                mode=best[1],
                save_last=True,
                enable_version_counter=False,
            )
        )
    return callbacks


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


def quiet() -> None:
    """Keep Lightning's advertising and irrelevant warnings off the screen; show what matters."""
    for message in _SILENT:
        warnings.filterwarnings("ignore", message=message)

    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).addFilter(_worth_reading)
    for name in ("neurofm.data.module", "neurofm.tasks.decode"):
        said = logging.getLogger(name)
        said.handlers = [logging.StreamHandler()]
        said.setLevel(logging.INFO)


def _worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_CHATTER)


def main(argv: list[str]) -> int:
    """Run one LightningCLI subcommand."""
    resolved, name = resolve(argv)
    quiet()
    try:
        _run(resolved, name)
    except ValueError as error:
        if "Does not validate against" in str(error):
            raise ValueError(plain(str(error))) from error
        raise
    return 0


def _run(words: list[str], name: str) -> None:
    cli = Cli(
        Task,
        lightning.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=Parser,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "logger": {**_LOGGER, "init_args": {"save_dir": _RUNS, "name": name}},
            "log_every_n_steps": 1,
        },
        parser_kwargs={"prog": "neurofm"},
        args=words,
    )
    if cli.trainer.is_global_zero:
        _say_where(cli.trainer.log_dir, cli.subcommand)


def _say_where(folder: str | None, command: str | None) -> None:
    """Name what the run left, so that nobody has to look for it."""
    if folder is None or not Path(folder).is_dir():
        return
    console = Console()
    console.print(f"run: {folder}", highlight=False, soft_wrap=True, markup=False)
    if command == "fit":
        text = f"`neurofm report {folder}` draws it."
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    table = Path(folder) / "predictions.csv"
    if command == "predict" and table.is_file():
        console.print(f"predictions: {table}", highlight=False, soft_wrap=True, markup=False)
