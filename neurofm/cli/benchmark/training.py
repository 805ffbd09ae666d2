"""Pretraining of a suite's models: recipes, with the people of the other group put in.

The weights of every stage are kept under a hash of what they came from, so that a run that was
killed goes on with them.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import lightning

from neurofm import cards
from neurofm.data import BrainData
from neurofm.data.preparing.lock import only_driver
from neurofm.evaluate.records import write_text
from neurofm.evaluate.suites import CODE_VERSION, digest
from neurofm.io import save_model
from neurofm.tasks import Task

log = logging.getLogger(__name__)
WEIGHTS = "weights.safetensors"


def quiet() -> None:
    """Silence what nobody can act on: there are hundreds of short trainings."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


def fit(task: Task, trainer: Mapping[str, Any], data: BrainData) -> dict[str, Any]:
    """Train a task without logs and checkpoints.

    Returns:
        "cpu_s" of this process, and the last logged numbers.
    """
    quiet()
    began = time.process_time()
    made = lightning.Trainer(
        **trainer,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    made.fit(task, datamodule=data)
    numbers = {
        name.removesuffix("_epoch"): round(float(value), 5)
        for name, value in made.callback_metrics.items()
        if not name.endswith("_step")
    }
    return {"cpu_s": round(time.process_time() - began, 2), "metrics": numbers}


def stage_recipes(
    method: Mapping[str, Any], *, dataset: str, people: Sequence[str], seed: int
) -> list[tuple[str, dict[str, Any]]]:
    """The recipes of a method's stages by name, with the changes that its card makes.

    Args:
        dataset: The one that is decoded; of it only `people` are used, of others everybody.

    Raises:
        ValueError: Nobody is left to pretrain on.
    """
    if not people:
        raise ValueError(
            "its pretraining needs people who are not decoded, and none are left. Take more "
            "people, or leave the method out."
        )
    found = []
    for stage in method["stages"]:
        name, recipe = _recipe(stage)
        recipe["trainer"] = recipe["trainer"] | stage.get("trainer", {})
        recipe["trainer"].pop("limit_val_batches", None)
        recipe["model"]["init_args"] |= stage.get("task", {})
        data = recipe["data"]["init_args"]
        data |= {"preprocess": method["data"]["preprocess"]} | stage.get("data", {})
        data |= {"split_by": "subject", "validate": [], "test": [], "seed": seed}
        one = data["datasets"] == [dataset]
        data["subjects"] = list(people) if one else {dataset: list(people)}
        found.append((name, recipe))
    return found


def _recipe(stage: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and content of a stage's recipe: a shipped one, or its `model` (the task) alone."""
    if "recipe" in stage:
        shipped = cards.read("recipes", stage["recipe"])
        return stage["recipe"], {key: shipped[key] for key in ("trainer", "model", "data")}
    data = {"class_path": "neurofm.data.BrainData", "init_args": {}}
    return stage["name"], {"trainer": {}, "model": deepcopy(stage["model"]), "data": data}


def stage_data(recipe: Mapping[str, Any]) -> BrainData:
    """The data module of a stage."""
    return BrainData(**recipe["data"]["init_args"])


def pretrain(
    stages: Sequence[tuple[str, dict[str, Any]]], work: Path, *, seed: int
) -> tuple[Path, dict[str, Any]]:
    """Weights after the last stage, trained now or found.

    Returns:
        The file, and what all stages cost: "cpu_s", and "stages" with their last numbers.
    """
    made: dict[str, Path] = {}
    costs: list[dict[str, Any]] = []
    chain = ""
    for name, recipe in stages:
        chain = digest([CODE_VERSION, chain, recipe, seed])
        folder = work / "weights" / f"{name}-{chain}"
        folder.mkdir(parents=True, exist_ok=True)
        # Another worker may train the same stage for another method: wait and take its weights.
        with only_driver(folder, tell=log.info):
            if not (folder / "cost.json").is_file():
                lightning.seed_everything(seed, verbose=False)
                task = cast(Task, cards.build(_with_weights(recipe["model"], made)))
                cost = fit(task, recipe["trainer"], stage_data(recipe))
                part = getattr(task, "tokenizer", None) or cast(Any, task).model
                save_model(part, folder / WEIGHTS)
                write_text(folder / "cost.json", json.dumps({"stage": name} | cost))
        made[name] = folder / WEIGHTS
        costs.append(json.loads((folder / "cost.json").read_text(encoding="utf-8")))
    total = round(sum(cost["cpu_s"] for cost in costs), 2)
    return made[stages[-1][0]], {"cpu_s": total, "stages": costs}


def _with_weights(spec: Any, made: Mapping[str, Path]) -> Any:
    """The spec with `runs/RECIPE` replaced by the weights that this recipe gave.

    Raises:
        ValueError: It starts from a recipe that is no earlier stage.
    """
    if isinstance(spec, dict):
        return {key: _with_weights(value, made) for key, value in spec.items()}
    if isinstance(spec, list):
        return [_with_weights(value, made) for value in spec]
    if isinstance(spec, str) and spec.startswith("runs/"):
        name = spec.removeprefix("runs/")
        if name not in made:
            raise ValueError(f"a stage starts from {spec}, but {name} is no earlier stage.")
        return str(made[name])
    return spec
