"""Published weights of braindecode's networks: files and folders, whole and faulty."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
from safetensors.torch import save_file

from neurofm import cards, cli
from neurofm.batch import BrainModel
from neurofm.io import load_braindecode, load_model, read_card, save_model
from neurofm.models import BraindecodeModel
from neurofm.models.braindecode import networks

NAMES = ["C3", "Cz", "C4", "Pz"]
FEW = {"num_layers": 1, "num_heads": 2}  # of LaBraM, so that a file is small


def labram(**others: Any) -> torch.nn.Module:
    """LaBraM of braindecode itself, as its authors would save it: 15 patches, with a head."""
    torch.manual_seed(3)
    arguments = {"n_chans": 128, "n_times": 3000, "n_outputs": 5, "sfreq": 200}
    return networks()["Labram"](**(arguments | FEW | others)).eval()


@pytest.fixture
def small_card(tmp_path: Path) -> str:
    """The card of LaBraM with one layer."""
    import yaml

    card = cards.read("models", "labram")
    card["init_args"] |= {"arguments": dict(FEW), "n_times": 600}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(card), encoding="utf-8")
    return str(file)


def same_encoder(model: Any, upstream: torch.nn.Module) -> bool:
    own = model.network.state_dict()
    return all(
        torch.equal(own[key], value[:, : own[key].shape[1]] if "temporal_emb" in key else value)
        for key, value in upstream.state_dict().items()
        if not key.startswith("final_layer")
    )


@pytest.mark.parametrize("how", ["safetensors", "pth", "folder", "prefixed"])
def test_published_weights_are_taken_over_without_their_head(how, tmp_path, small_card):
    upstream = labram()
    state = upstream.state_dict()
    if how == "safetensors":
        weights = tmp_path / "labram.safetensors"
        save_file(state, weights)
    elif how == "folder":
        weights = tmp_path / "hub"
        weights.mkdir()
        save_file(state, weights / "model.safetensors")
        config = {"sfreq": 200, "n_chans": 128, "n_outputs": 5, "activation": "torch.nn.GELU"}
        (weights / "config.json").write_text(json.dumps(config | FEW))
    else:
        weights = tmp_path / "labram.pth"
        prefix = "module." if how == "prefixed" else ""
        torch.save({"state_dict": {prefix + key: value for key, value in state.items()}}, weights)
    model = load_braindecode(small_card, weights=weights, channels=NAMES, n_times=400)
    assert isinstance(model, BrainModel)
    assert not model.training
    assert model.n_outputs is None
    assert same_encoder(model, upstream)
    assert model.card["weights_from"] == str(weights)
    x = 20 * torch.randn(2, 4, 400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        upstream.temporal_embedding.data = upstream.temporal_embedding[:, :3]
        upstream.patch_embed[0].n_patchs = 2
        expected = upstream(x / 100, return_features=True, ch_names=NAMES)
        tokens, summary = model._features(x, NAMES, None)
    torch.testing.assert_close(tokens, expected["features"])
    torch.testing.assert_close(summary, expected["cls_token"])


def test_a_head_is_loaded_strictly_unless_a_new_one_is_asked_for(tmp_path, small_card):
    weights = tmp_path / "labram.safetensors"
    save_file(labram().state_dict(), weights)
    five = load_braindecode(small_card, weights=weights, n_outputs=5)
    assert torch.equal(five.network.final_layer.weight, labram().final_layer.weight)
    with pytest.raises(ValueError, match=r"final_layer.weight \(5, 200\) instead of \(2, 200\)"):
        load_braindecode(small_card, weights=weights, n_outputs=2)
    two = load_braindecode(small_card, weights=weights, n_outputs=2, new_head=True)
    assert two.network.final_layer.weight.shape == (2, 200)
    assert same_encoder(two, labram())


def test_sizes_in_a_config_decide_over_those_of_the_card(tmp_path, small_card):
    upstream = labram(num_layers=2)
    save_file(upstream.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**FEW, "num_layers": 2, "sfreq": 200.0}))
    model = load_braindecode(small_card, weights=tmp_path)
    assert len(model.network.blocks) == 2
    assert same_encoder(model, upstream)
    (tmp_path / "config.json").write_text(json.dumps({"sfreq": 256}))
    with pytest.raises(ValueError, match=r"config\.json says 256 Hz, the card 200 Hz"):
        load_braindecode(small_card, weights=tmp_path)
    (tmp_path / "config.json").write_text('{"sfreq": 2')
    with pytest.raises(ValueError, match="not a complete JSON file"):
        load_braindecode(small_card, weights=tmp_path)


def test_braindecodes_own_renaming_is_applied():
    """LUNA's published file has other names for two of its parts, and parts of the pretraining."""
    torch.manual_seed(0)
    spec = {"n_channels": 4, "n_times": 160, "sfreq": 256.0, "n_outputs": None}
    model = BraindecodeModel("LUNA", **spec, arguments={"depth": 1})
    published = {
        key.removeprefix("network.")
        .replace("channel_location_embedder.", "channel_location_embedder.0.")
        .replace("cross_attn.temperature", "cross_attn.temparature"): value + 1
        for key, value in model.state_dict().items()
    }
    extra = {
        "decoder_head.norm.weight": torch.ones(3),
        "channel_emb.embeddings.weight": torch.ones(2),
    }
    renamed = model.rename_keys(published | extra)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert set(renamed) == set(before)
    for key, value in renamed.items():
        torch.testing.assert_close(value, before[key] + 1)  # and nothing was loaded on the way


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "cls_token"},
            "Missing 1: network.cls_token",
        ),
        (lambda s: s | {"blocks.9.gamma_1": torch.ones(2)}, "Unknown 1: network.blocks.9.gamma_1"),
        (lambda s: s | {"cls_token": torch.ones(1, 1, 7)}, r"cls_token \(1, 1, 7\) instead of"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(change, message, tmp_path, small_card):
    weights = tmp_path / "labram.pt"
    torch.save(change(dict(labram().state_dict())), weights)
    with pytest.raises(ValueError, match=message):
        load_braindecode(small_card, weights=weights)


def test_faulty_files_are_named(tmp_path, small_card):
    weights = tmp_path / "labram.safetensors"
    save_file(labram().state_dict(), weights)
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_braindecode(small_card, weights=weights)
    other = networks()["EEGNet"](n_chans=4, n_times=200, n_outputs=2)
    torch.save(other.state_dict(), tmp_path / "eegnet.pt")
    with pytest.raises(ValueError, match="belongs to another model or size"):
        load_braindecode(small_card, weights=tmp_path / "eegnet.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"could run code \(torch\.nn.*Linear\)"):
        load_braindecode(small_card, weights=tmp_path / "whole.pt")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_braindecode(small_card, weights="nowhere/labram.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"holds no model.safetensors or .* there is nothing"
    ):
        load_braindecode(small_card, weights=tmp_path / "empty")
    with pytest.raises(ValueError, match=r"holds a neurofm.models.BrainOmni. Use load_model"):
        load_braindecode("brainomni_demo")


def test_the_hub_is_reached_through_its_client(tmp_path, small_card, monkeypatch):
    save_file(labram().state_dict(), tmp_path / "model.safetensors")
    asked = {}

    def download(repository, *, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    client = types.ModuleType("huggingface_hub")
    client.snapshot_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    model = load_braindecode(small_card, weights="hub", revision="abc")
    assert same_encoder(model, labram())
    assert asked["repository"] == "braindecode/labram-pretrained"
    assert asked["revision"] == "abc"
    assert set(asked["patterns"]) == {"config.json", "model.safetensors", "pytorch_model.bin"}

    def offline(*_, **__):
        raise OSError("Name or service not known")

    client.snapshot_download = offline  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError, match=r"someone/labram: not reached.*Name or service"):
        load_braindecode(small_card, weights="someone/labram")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"neurofm\[hub\]"):
        load_braindecode(small_card, weights="hub")


def test_our_own_files_hold_the_whole_description(tmp_path, small_card):
    model = load_braindecode(small_card, channels=NAMES, n_times=400, n_outputs=3)
    file = save_model(model, tmp_path / "mine.safetensors")
    said = read_card(file)
    assert said["init_args"]["channels"] == NAMES
    assert said["source"]["hub"] == "braindecode/labram-pretrained"
    assert said["expects"]["band"] == [0.1, 75]
    again = load_model(file)
    x = torch.randn(1, 4, 400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.logits(x), model.logits(x), rtol=0, atol=0)
    assert again.contract.kinds == ("eeg",)


def test_convert_reports_what_became_of_every_tensor(tmp_path, small_card, capsys):
    weights = tmp_path / "upstream.pth"
    torch.save(labram().state_dict(), weights)
    out = tmp_path / "labram.safetensors"
    assert cli.main(["convert", str(weights), "--model", small_card, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "final_layer.weight" in printed  # not used: the card has no head
    assert same_encoder(load_model(out), labram())


def test_a_recipe_may_name_the_function():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=BrainModel)
    spec = {
        "class_path": "neurofm.io.load_braindecode",
        "init_args": {"name": "labram", "channels": NAMES, "n_times": 400},
    }
    assert parser.parse_object({"model": spec}).model.init_args.channels == NAMES


def test_places_of_other_channels_come_from_the_template(tmp_path):
    import yaml

    card = cards.read("models", "zuna")
    card["init_args"]["arguments"] = {"n_layers": 1, "dim": 64}
    file = tmp_path / "zuna.yaml"
    file.write_text(yaml.safe_dump(card), encoding="utf-8")
    model = load_braindecode(str(file), channels=["C3", "Oz"], n_times=128)
    left, back = model._positions
    assert left[0] < -0.05
    assert back[1] < -0.05
    with pytest.raises(ValueError, match="E7: not in the standard_1005 montage"):
        load_braindecode(str(file), channels=["C3", "E7"], n_times=128)
