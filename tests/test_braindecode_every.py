"""Every network of braindecode: logits, features, a step of training, a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from braindecode_sizes import CANNOT, NAMES, REFUSED, SMALL, arguments, table
from noise_batches import noise
from torch.nn import functional as F

from neurofm import load_model, save_model
from neurofm.batch import Batch
from neurofm.models import BraindecodeModel
from neurofm.models.braindecode import networks

# What their authors think of short windows, of layers of torch, of montages.
pytestmark = pytest.mark.filterwarnings("ignore")


def windows(own: dict[str, Any]) -> Batch:
    batch = noise(2, own["n_channels"], own["n_times"], own["sfreq"])
    places = torch.tensor(own["positions"]).expand(2, -1, -1)
    has = torch.ones(2, own["n_channels"], dtype=torch.bool)
    return replace(batch, position=places, has_position=has, names=tuple(own["channels"]))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SMALL else [pytest.mark.slow])
        for name in NAMES
        if name not in REFUSED
    ],
)
def test_a_network_decodes_learns_and_is_saved(name: str, tmp_path: Path) -> None:
    own = arguments(name)
    torch.manual_seed(0)
    model, batch = BraindecodeModel(name, **own), windows(own)
    model.check(batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    if model.n_outputs is None:
        loss = model.encode(batch).pooled().square().mean()
    else:
        loss = F.cross_entropy(model(batch), torch.tensor([0, 1]))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    loss.backward()
    optimizer.step()
    assert any(not torch.equal(before[key], value) for key, value in model.named_parameters())
    model.eval()
    again: Any = load_model(save_model(model, tmp_path / "model.safetensors"))
    with torch.no_grad():
        if model.n_outputs is not None:
            assert model(batch).shape == (2, 4)
            assert torch.equal(again(batch), model(batch))
        if name == "ATCNet":
            assert model.dim == 0
        else:
            features = model.encode(batch)
            assert features.tokens.shape[2] == model.dim
            assert features.tokens.isfinite().all()
            assert torch.equal(again.encode(batch).tokens, features.tokens)


def test_every_network_of_braindecode_is_tried_or_has_a_reason() -> None:
    assert sorted(networks()) == NAMES
    assert set(CANNOT) <= set(NAMES)
    for name in REFUSED:
        with pytest.raises(ValueError, match="does not work for 8 channels"):
            BraindecodeModel(name, **arguments(name))


def test_the_table_says_what_is_tried() -> None:
    text = (Path(__file__).parents[1] / "models" / "README.md").read_text(encoding="utf-8")
    assert table() in text, "run `python tests/braindecode_sizes.py` and put it into the README"
