"""Every recipe is listed, builds, and trains on a simulation of its data.

Recipes that train the same network for the same reason, and differ in the corpus, the weights they
start from, the rates or what rests, share one fit of two steps. The others are built as the command
line builds them, and take one step by hand.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from stimulus_stand_ins import parcels_stand_in, stimulus_stand_in
from test_contracts import sample
from torch import nn

from neurofm import cards, cli
from neurofm.cli.train import Parser
from neurofm.data import BrainData
from neurofm.io import load_model, load_tokenizer
from neurofm.io.checkpoint import newest_checkpoint
from neurofm.tasks import Task
from neurofm.tasks.agreement import check_data, described

EVERY = [name for name in cards.names("recipes") if cards.path("recipes", name).suffix == ".yaml"]
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")


@functools.cache
def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load(cards.path("recipes", name).read_text(encoding="utf-8"))


def read(name: str) -> dict[str, Any]:
    """A copy of what the file says."""
    return copy.deepcopy(_read(name))


# Those of stimuli, responses and voxels run beside the tests of their tasks.
RECIPES = [n for n in EVERY if _read(n)["data"]["class_path"] == "neurofm.data.BrainData"]


def runs_named(value: Any) -> set[str]:
    """Folders of runs that a recipe starts from."""
    if isinstance(value, dict):
        return set().union(*(runs_named(item) for item in value.values()))
    return {value} if isinstance(value, str) and value.startswith("runs/") else set()


def network(spec: dict[str, Any]) -> str:
    """What a recipe trains: a card or a class, whichever run its weights come from."""
    arguments = spec["init_args"]
    if isinstance(arguments.get("model"), dict):  # a function of a model
        return f"{spec['class_path']}({network(arguments['model'])})"
    name = str(arguments.get("name", spec["class_path"]))
    if not name.startswith("runs/"):
        return name
    task = read(Path(name).name)["model"]["init_args"]
    return network(task.get("model") or task["tokenizer"])


def kind_of(name: str) -> tuple[Any, ...]:
    """What recipes that share a fit have in common: the code that they run."""
    recipe = read(name)
    task, data = recipe["model"]["init_args"], recipe["data"]["init_args"]
    parts = [task.get(role, {}).get("class_path") for role in ("objective", "readout")]
    trained = network(task.get("model") or task["tokenizer"])
    return (
        *(recipe["model"]["class_path"], trained, *parts),
        *("tokens" in data, len(data["datasets"]) > 1, data.get("split_by") == "time"),
    )


def fitted() -> list[str]:
    """One recipe of each kind: one that trains the network of a run before, where there is one."""
    kinds: dict[Any, str] = {}
    for name in sorted(RECIPES, key=lambda n: (not n.startswith("finetune"), n)):
        kinds.setdefault(kind_of(name), name)
    return sorted(kinds.values())


FITTED = fitted()


@pytest.mark.parametrize("name", EVERY)
def test_recipe_begins_with_a_question_and_is_listed(name: str) -> None:
    first = cards.path("recipes", name).read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ") and "?" in first
    recipe = read(name)
    assert set(recipe) == {"seed_everything", "trainer", "model", "data"}
    data = recipe["data"]["init_args"]
    if name not in RECIPES:
        return
    assert set(data["datasets"]) <= set(cards.names("datasets"))
    if data.get("split_by") == "time":  # fractions
        assert 0 < data["validate"] + data["test"] < 1
    elif isinstance(data.get("validate"), float):
        assert data["validate"] > 0 and data["test"] > 0 and data["validate"] + data["test"] < 1
    elif "first_per_class" not in data:
        assert {*data["validate"]}.isdisjoint(data["test"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_starts_from_runs_of_other_recipes(name: str) -> None:
    assert {Path(run).name for run in runs_named(read(name))} <= set(RECIPES) - {name}


# On a simulation


def started(recipe: str, role: str, folder: Path) -> nn.Module:
    """The network a recipe trains, with fresh weights and a code book that has started."""
    arguments = read(recipe)["model"]["init_args"][role]["init_args"]
    if "tokenizer" in arguments:
        arguments["tokenizer"] = folder / arguments["tokenizer"]
    torch.manual_seed(0)
    model: Any = (load_model if role == "model" else load_tokenizer)(**arguments)
    part = getattr(model, "tokenizer", None) if role == "model" else model
    if "card" in vars(model) and part is not None:  # the model of another run has started
        batch = sample(4, model.card["expects"])
        if part.contract.unit == "z":  # so says the run of its tokenizer
            batch = replace(batch, x=batch.x / 20, unit="z")
        with torch.no_grad():
            part(batch)
    return model


class Workplace:
    """A folder with a store, and a checkpoint of fresh weights for every run that was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, recipe: str) -> None:
        """Write the run of a recipe, and those that it starts from."""
        folder = self.folder / "runs" / recipe / "version_0" / "checkpoints"
        if folder.is_dir():
            return
        content = read(recipe)
        for before in runs_named(content):
            self.run(Path(before).name)
        role = "tokenizer" if "tokenizer" in content["model"]["init_args"] else "model"
        model = started(recipe, role, self.folder)
        folder.mkdir(parents=True)
        checkpoint = {
            "hyper_parameters": {role: cards.spec_of(model)},
            "state_dict": {f"{role}.{k}": v for k, v in model.state_dict().items()},
        }
        torch.save(checkpoint, folder / "best.ckpt")

    def simulated(self, name: str) -> dict[str, Any]:
        """A recipe with short runs of simulated people, and the runs that it starts from."""
        recipe = read(name)
        for run in runs_named(recipe):
            self.run(Path(run).name)
        recipe["trainer"] |= {
            "accelerator": "cpu",
            "limit_train_batches": 2,
            "max_epochs": 1,
            "limit_val_batches": 1,
            "num_sanity_val_steps": 0,
        }
        data = recipe["data"]["init_args"]
        data |= {"store": "store", "batch_size": 2}
        if "embeddings" in data:
            data |= stimulus_stand_in(recipe, self.folder)
            return recipe
        if len(data["datasets"]) > 1:
            recipe["data"] = mixture_of_stand_ins(recipe["data"], self.folder)
            return recipe
        shots = "first_per_class" in data
        by_run = shots or data.get("split_by") == "run"
        data |= {
            "datasets": [stand_in(recipe, self.folder)],
            "subjects": ["1"] if by_run else ["1", "2", "3"],
            "runs": ["1", "2", "3"] if by_run else ["1"],
        }
        if not shots and data.get("split_by") != "time":
            data |= {"validate": ["2"], "test": ["3"]}
        if "feet" in data.get("labels", ()):
            data["labels"] = ["left_hand", "right_hand"]  # simulated people move no feet
        return recipe


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("recipes"))


def stand_in(recipe: dict[str, Any], folder: Path) -> str:
    """A simulated corpus for a recipe: of images for images, with as many voxels and classes."""
    data = recipe["data"]["init_args"]
    cards_of = [cards.read("datasets", name) for name in data["datasets"]]
    if all(card["modality"] == "ieeg" for card in cards_of):
        return "simulated_seeg"
    if data["datasets"] == ["simulated_parcels"]:
        return parcels_stand_in(folder)
    if "target" in data.get("labels", ()):
        return "simulated_oddball"
    if any(card["modality"] != "fmri" for card in cards_of):
        return "simulated_motor_imagery"
    network = recipe["model"]["init_args"]["model"]["init_args"]
    labels = data["labels"]
    card = dict(cards.read("datasets", "synthetic_fmri"))
    card["reader"] = {
        "class_path": "neurofm.io.SyntheticFMRIReader",
        "init_args": {
            "n_voxels": network["n_channels"],
            "tr_s": 1 / network["sfreq"],
            "n_categories": len(labels),
            "n_stimuli": 2,
        },
    }
    card["events"] = [{f"category_{i}": label for i, label in enumerate(labels, 1)}]
    file = folder / f"{'_'.join(data['datasets'])}_stand_in.yaml"
    file.write_text(yaml.safe_dump(card), encoding="utf-8")
    return str(file)


def mixture_of_stand_ins(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The data of a recipe with several corpora: one run of each, real people simulated."""
    real = [n for n in data["init_args"]["datasets"] if cards.read("datasets", n)["folder"]]
    if "simulated_motor_imagery" in data["init_args"]["datasets"]:
        return simulated_under_their_names(data, real, folder)
    text = yaml.safe_dump(data)
    for name in real:
        text = text.replace(name, "simulated_motor_imagery")
    changed = yaml.safe_load(text)
    options = changed["init_args"]
    options["subjects"]["simulated_motor_imagery"] = ["1", "2", "3"]
    options["runs"] = {name: ["1"] for name in options["datasets"]}
    for side, subject in (("validate", 2), ("test", 3)):
        others = [n for n in options[side] if not n.startswith("simulated_motor_imagery/")]
        options[side] = [f"simulated_motor_imagery/{subject}", *others]
    return changed


def simulated_under_their_names(
    data: dict[str, Any], real: list[str], folder: Path
) -> dict[str, Any]:
    """The same where each corpus has a network of its own, known by its name; three runs."""
    options = data["init_args"]
    card = cards.read("datasets", "simulated_motor_imagery")
    for name in real:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    names = options["datasets"]
    files = [str(folder / f"{name}.yaml") if name in real else name for name in names]
    options |= {"datasets": files, "validate": ["2"], "test": ["3"]}
    options["subjects"] = {name: ["1"] for name in names}
    options["runs"] = {name: ["1", "2", "3"] for name in names}
    return data


@pytest.mark.parametrize("name", FITTED)
def test_recipe_runs_two_steps_on_the_simulation(
    name: str,
    workplace: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workplace.folder)
    recipe = workplace.simulated(name)
    file = workplace.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    if "tokens" in recipe["data"]["init_args"]:
        assert cli.main(["tokenize", "--config", str(file), "--quiet"]) == 0
    code = cli.main(["fit", "--config", str(file)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    run = newest_checkpoint(workplace.folder / "runs" / name)
    made = torch.load(run, weights_only=True)
    assert made["global_step"] == 2
    load = load_tokenizer if "tokenizer" in recipe["model"]["init_args"] else load_model
    assert load(run).dim > 0


@pytest.fixture(scope="module")
def parser() -> Parser:
    """What the command line reads recipes with."""
    parser = Parser(exit_on_error=False)
    parser.add_argument("--seed_everything", type=int)
    parser.add_lightning_class_args(lightning.Trainer, "trainer")
    parser.add_lightning_class_args(Task, "model", subclass_mode=True)
    parser.add_lightning_class_args(BrainData, "data", subclass_mode=True)
    return parser


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(FITTED)))
@pytest.mark.filterwarnings("ignore:You are trying to `self.log", "ignore:.*instantiate_classes")
def test_recipe_like_others_is_read_and_takes_a_step(
    name: str, workplace: Workplace, parser: Parser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace.folder)
    parser.parse_object(read(name))  # with its own people and runs
    recipe = workplace.simulated(name)
    asked = parser.parse_object({key: recipe[key] for key in ("model", "data")})
    del asked["trainer"]
    made = parser.instantiate_classes(asked)
    task, data = made["model"], made["data"]
    data.prepare_data()
    data.setup("fit")
    found = described(data, "fit")
    assert found is not None
    check_data(task._subject, found)
    loss = task.train().step(next(iter(data.train_dataloader())), "train")
    assert bool(loss.isfinite())
    loss.backward()
    # Edges of a quantizer are counted: its task has one number that rests.
    learning = [p for p in task.parameters() if p.requires_grad and p.ndim]
    assert any(p.grad is not None and bool(p.grad.any()) for p in learning) == bool(learning)
