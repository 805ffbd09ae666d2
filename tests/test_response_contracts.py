"""Every card of a response model answers stimuli, can be named in a recipe, and can be saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
from torch import Tensor, nn

from neurofm import cards
from neurofm.batch import ResponseModel
from neurofm.io import load_response_model, save_model

MODELS = [
    name
    for name in cards.names("models")
    if hasattr(cards.load_class(cards.read("models", name)["class_path"]), "respond")
]
LARGE = 2_000_000  # parameters above which shapes are looked at, without numbers
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")


def spec(name: str) -> dict[str, Any]:
    card = cards.read("models", name)
    return {key: card[key] for key in ("class_path", "init_args")}


def skeleton(name: str) -> nn.Module:
    with torch.device("meta"):
        return cards.build(spec(name))


def size(name: str) -> int:
    return sum(p.numel() for p in skeleton(name).parameters())


SMALL = [name for name in MODELS if size(name) <= LARGE]


def ready(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = cards.build(spec(name)).eval()
    if getattr(model, "needs_regions", False):
        model.take_regions(tuple(model.rois[i % len(model.rois)] for i in range(model.n_channels)))
    return model


def stimuli(name: str, n: int) -> Tensor:
    shape = cards.read("models", name)["stimulus"]
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_card_says_what_it_sees_and_gives_a_response_of_every_channel(name: str) -> None:
    model = skeleton(name).eval()
    assert isinstance(model, ResponseModel)
    shape = cards.read("models", name)["stimulus"]
    if name in SMALL:
        found = ready(name).respond(stimuli(name, 2))
        assert found.shape[:2] == (2, model.n_channels)
    elif hasattr(model, "route"):
        routed = model.route(torch.empty(2, *shape, device="meta"))
        assert routed.left.shape[:2] == (2, model.n_left)
    else:
        found = model.respond(torch.empty(2, *shape, device="meta"))
        assert found.shape[:2] == (2, model.n_channels)


@pytest.mark.parametrize("name", SMALL)
def test_a_stimulus_by_itself_gets_the_same_response(name: str) -> None:
    model, given = ready(name), stimuli(name, 3)
    with torch.no_grad():
        whole = model.respond(given)
        one = [model.respond(given[i : i + 1]) for i in range(3)]
    assert bool(whole.isfinite().all())
    assert float(whole.std(0).max()) > 0  # what is seen makes a difference
    torch.testing.assert_close(torch.cat(one), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_changes_no_parameter(name: str) -> None:
    model = ready(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.respond(stimuli(name, 2))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_answers_alike(name: str, tmp_path: Path) -> None:
    model = ready(name)
    loaded: Any = load_response_model(save_model(model, tmp_path / "model.safetensors"))
    given = stimuli(name, 2)
    torch.testing.assert_close(loaded.respond(given), model.respond(given), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_may_name_it_by_class_path(name: str) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--role", type=ResponseModel)
    given = spec(name)
    assert parser.parse_object({"role": given}).role.class_path == given["class_path"]
    by_card = {"class_path": "neurofm.load_response_model", "init_args": {"name": name}}
    assert parser.parse_object({"role": by_card}).role.class_path.endswith("load_response_model")


def test_a_brain_model_is_no_response_model() -> None:
    with pytest.raises(ValueError, match="FLEEG, which is no response model"):
        load_response_model("fleeg_demo")
