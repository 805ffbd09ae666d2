"""Recipes of encoding models are read by the command line, and run on the simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml

from neurofm import cards, cli
from neurofm.cli.train import Parser
from neurofm.io import load_response_model
from neurofm.tasks import Task


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load(cards.path("recipes", name).read_text(encoding="utf-8"))


RECIPES = [
    name
    for name in cards.names("recipes")
    if cards.path("recipes", name).suffix == ".yaml"
    if read(name)["model"]["class_path"] == "neurofm.tasks.Encode"
]
SIMULATED = [name for name in RECIPES if name.endswith("_simulated")]
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")


@pytest.fixture(scope="module")
def parser() -> Parser:
    parser = Parser(exit_on_error=False)
    parser.add_argument("--seed_everything", type=int)
    parser.add_lightning_class_args(lightning.Trainer, "trainer")
    parser.add_lightning_class_args(Task, "model", subclass_mode=True)
    parser.add_lightning_class_args(lightning.LightningDataModule, "data", subclass_mode=True)
    return parser


def test_there_are_recipes_for_the_simulation_and_for_nsd() -> None:
    assert len(SIMULATED) >= 4 and len(RECIPES) - len(SIMULATED) >= 3


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_read_and_listed(name: str, parser: Parser) -> None:
    parser.parse_object(read(name))
    listed = (cards.root("recipes") / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in listed


def shortened(name: str) -> dict[str, Any]:
    recipe = read(name)
    recipe["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2, "accelerator": "cpu"}
    recipe["trainer"] |= {"num_sanity_val_steps": 0, "enable_progress_bar": False}
    data = recipe["data"]["init_args"]
    pictures = {"n_train": 40, "n_test": 8, "runs": 2, "repeats": 2, "categories": 4}
    data["reader"] = {"segments": 2} if data["dataset"] == "simulated_films" else pictures
    return recipe | {"data": recipe["data"] | {"init_args": data | {"batch_size": 8}}}


def run(recipe: dict[str, Any], name: str, folder: Path) -> Path:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert cli.main(["fit", "--config", str(folder / f"{name}.yaml")]) == 0
    return folder / "runs" / name / "version_0"


def test_a_recipe_leaves_a_run_with_its_split_and_its_best_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run(shortened("encode_routing_simulated"), "routing", tmp_path)
    record = json.loads((folder / "run.json").read_text())
    assert set(record["split"]["train"]).isdisjoint(record["split"]["test"])
    assert record["datasets"] == ["simulated_picture_fmri"]
    assert "validate/r" in record["metrics"]
    made = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    monitor = next(v for k, v in made["callbacks"].items() if k.startswith("ModelCheckpoint"))
    assert monitor["monitor"] == "validate/r"
    assert made["global_step"] == 2
    model: Any = load_response_model(folder)
    assert not model.needs_regions and model.rois == ("V1", "V4", "LO", "none")
    assert model.attention(torch.rand(1, 3, 64, 64)).shape == (1, 1, 4, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATED)
def test_every_simulated_recipe_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (run(shortened(name), name, tmp_path) / "checkpoints" / "last.ckpt").is_file()
