"""Every model card obeys its contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neurofm import cards
from neurofm.batch import BrainModel, Tokenizer
from neurofm.units import Kind

MODELS = cards.names("models")
GOLDEN = Path(__file__).parent / "golden"
# Published sizes: parameters of the whole model, and the original's list of tensors.
UPSTREAM = {
    "brainomni_tiny": (8_424_704 + 5_050_338, "brainomni/upstream_keys_tiny.json"),
    "brainomni_base": (32_707_328 + 5_050_338, "brainomni/upstream_keys_base.json"),
    "braintokenizer": (5_050_338, "brainomni/upstream_keys_tokenizer.json"),
}


def skeleton(card: dict[str, Any]) -> nn.Module:
    """The model without memory for its tensors."""
    with torch.device("meta"):
        return cards.build({key: card[key] for key in ("class_path", "init_args")})


@pytest.mark.parametrize("name", MODELS)
def test_model_card_builds_and_says_what_it_expects(name: str) -> None:
    card = cards.read("models", name)
    model = skeleton(card)
    assert isinstance(model, BrainModel | Tokenizer)
    assert model.dim > 0
    expects = card["expects"]
    assert {kind.upper() for kind in expects["kinds"]} <= {kind.name for kind in Kind}
    assert expects["sfreq"] > 0
    assert cards.spec_of(model)["class_path"] == card["class_path"]
    assert card["citation"]


def test_readme_lists_every_model_card() -> None:
    readme = (cards.root("models") / "README.md").read_text(encoding="utf-8")
    assert [name for name in MODELS if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", list(UPSTREAM))
def test_published_size_holds_every_tensor_of_the_original(name: str) -> None:
    n_parameters, file = UPSTREAM[name]
    model = skeleton(cards.read("models", name))
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    listed = json.loads((GOLDEN / file).read_text())["keys"]
    upstream = {key: torch.empty(entry["shape"], device="meta") for key, entry in listed.items()}
    renamed = {key: tuple(value.shape) for key, value in model.rename_keys(upstream).items()}
    assert renamed == {key: tuple(value.shape) for key, value in model.state_dict().items()}
