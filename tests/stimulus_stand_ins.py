"""Small simulations in place of the corpora of recipes with stimuli, and of parcels at rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from neurofm import cards
from neurofm.data import StimulusTable
from neurofm.io import SyntheticParcelReader, SyntheticPictureMEGReader


def parcels_stand_in(folder: Path) -> str:
    """A card of three people, six minutes each."""
    card = dict(cards.read("datasets", "simulated_parcels"))
    arguments = {"subjects": 3, "runs": 1, "minutes": 6.0}
    card["reader"] = {"class_path": card["reader"]["class_path"], "init_args": arguments}
    file = folder / "parcels_stand_in.yaml"
    file.write_text(yaml.safe_dump(card), encoding="utf-8")
    return str(file)


def stimulus_stand_in(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments of the data: a corpus whose events are pictures, and vectors of the right size."""
    data = recipe["data"]["init_args"]
    if data["datasets"] == ["simulated_parcel_pictures"]:
        card = dict(cards.read("datasets", "simulated_parcel_pictures"))
        arguments = {"subjects": 1, "runs": 6, "pictures": 4}
        card["reader"] = {"class_path": card["reader"]["class_path"], "init_args": arguments}
        return {"datasets": [_written(card, folder, "pictures")]}
    if data["datasets"] == ["bold5000_parcels"]:
        card = dict(cards.read("datasets", "simulated_parcel_pictures"))
        arguments = {"subjects": 1, "runs": 2, "pictures": 10}
        card["reader"] = {"class_path": card["reader"]["class_path"], "init_args": arguments}
        network = recipe["model"]["init_args"]["model"]["init_args"]
        network |= {"n_parcels": 70, "width": 64, "depth": 1}
        reader = SyntheticParcelReader(**arguments)
        events = (e.label for r in reader.recordings() for e in reader.load(r).events)
        names = tuple(dict.fromkeys(events))
        drawn = np.random.default_rng(0).standard_normal((len(names), network["n_estimates"]))
        table = folder / "bold5000_parcels.safetensors"
        StimulusTable(names, drawn.astype(np.float32)).write(table)
        return {"datasets": [_written(card, folder, "parcels")], "embeddings": str(table)}
    card = dict(cards.read("datasets", "simulated_picture_meg"))
    window = data["offset_s"] + data["window_s"]
    arguments = {
        "subjects": 1,
        "runs": 1,
        "n_train": 8,
        "n_test": 4,
        "categories": 4,
        "test_categories": 2,
        "dim": 4,
        "size": 16,
        "start_s": min(data["offset_s"], -0.2),
        "stop_s": window,
    }
    name = str(data["datasets"][0])
    network = recipe["model"]["init_args"]["model"]
    # Small, to be quick; the published sizes are tested as cards.
    if network["class_path"].endswith("ImageBrainModule"):
        network["init_args"] |= {"code": 128, "hidden": 16, "width": 16, "head_width": 16}
    elif network["init_args"].get("name") == "brain_module":
        sizes = {"code": 128, "merged": 16, "mixed": 16, "hidden": 16, "depth": 2}
        network |= {"class_path": "neurofm.models.BrainModule", "init_args": sizes}
    card["reader"] = {"class_path": card["reader"]["class_path"], "init_args": arguments}
    reader = SyntheticPictureMEGReader(**arguments)
    names = (*reader.train, *reader.shared())
    rng = np.random.default_rng(0)
    speech = window > 3
    n = recipe["model"]["init_args"]["n_outputs"]
    shape = (len(names), n, round(120 * data["window_s"])) if speech else (len(names), n)
    table = folder / f"{name}.safetensors"
    StimulusTable(names, rng.standard_normal(shape).astype(np.float32)).write(table)
    return {
        "datasets": [_written(card, folder, name)],
        "embeddings": str(table),
        "preprocess": data["preprocess"][-1:],
        "validate": ["category-03_*"],
        "test": ["category-04_*", "category-05_*"],
    }


def _written(card: dict[str, Any], folder: Path, name: str) -> str:
    file = folder / f"{name}_stand_in.yaml"
    file.write_text(yaml.safe_dump(card), encoding="utf-8")
    return str(file)
