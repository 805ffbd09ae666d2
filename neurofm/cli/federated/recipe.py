"""What server and clients take from one recipe: task, rounds, and a client's own data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neurofm import cards
from neurofm.data import BrainData
from neurofm.io import open_corpus
from neurofm.io.rules import same_entity
from neurofm.tasks import Federated

_BY_DATASET = ("preprocess", "subjects", "runs")
_OF_MIXTURES = ("weights", "temperature", "epoch_windows")


@dataclass(frozen=True)
class FederatedRecipe:
    """A recipe of the task `Federated`.

    Args:
        name: Of the recipe.
        task: With the networks of all clients, the same in every process that reads the recipe.
        data: Arguments of `BrainData` for all datasets.
        rounds: In the whole run.
        seed: Of weights and dropout.
    """

    name: str
    task: Federated
    data: dict[str, Any]
    rounds: int
    seed: int

    def data_of(self, client: str) -> BrainData:
        """The data of one client; nothing of another's is opened.

        Raises:
            ValueError: No dataset of this name in the recipe.
        """
        datasets = {Path(name).stem: name for name in self.data["datasets"]}
        if client not in datasets:
            raise ValueError(
                f"{self.name}: no client {client!r}; its datasets are {', '.join(datasets)}."
            )
        own = {key: value for key, value in self.data.items() if key not in _OF_MIXTURES}
        own["datasets"] = [datasets[client]]
        for option in _BY_DATASET:
            given = own.get(option)
            if isinstance(given, dict):
                own[option] = given.get(client)
        for side in ("validate", "test"):
            if isinstance(own.get(side), list):
                own[side] = self._present(own, client, own[side])
        return BrainData(**own)

    def _present(self, own: dict[str, Any], client: str, values: list[str]) -> list[str]:
        """Those of the named subjects, sessions or runs that are of this client."""
        by = own.get("split_by", "subject")
        corpus = open_corpus(own["datasets"][0], root=own.get("root"))
        there = {getattr(item, by, None) for item in corpus.recordings(runs=own.get("runs"))}
        found = []
        for value in map(str, values):
            dataset, slash, bare = value.rpartition("/")
            if slash and dataset != client:
                continue
            if any(same_entity(bare, item) for item in there):
                found.append(bare)
        return found


def read_recipe(name: str) -> FederatedRecipe:
    """A recipe by name or path.

    Raises:
        ValueError: Not one of the task `Federated`, or without a number of rounds.
    """
    card = cards.read("recipes", name)
    spec, data = card.get("model") or {}, card.get("data") or {}
    if spec.get("class_path") != "neurofm.tasks.Federated" or "init_args" not in data:
        raise ValueError(
            f"{name}: a recipe of {spec.get('class_path')}; expected neurofm.tasks.Federated with "
            "`data`, such as federated_fleeg."
        )
    seed = int(card.get("seed_everything") or 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task: Federated = cards.build(spec)
    epochs = (card.get("trainer") or {}).get("max_epochs")
    if not isinstance(epochs, int) or epochs < task.round_epochs:
        raise ValueError(
            f"{name}: trainer.max_epochs is {epochs!r}; a round takes {task.round_epochs} epochs."
        )
    return FederatedRecipe(name, task, data["init_args"], epochs // task.round_epochs, seed)
